"""What becomes of a value on its way in: the types that DuckDB knows, and the plainer ones in which rows are counted in memory."""

# pyarrow brings no types of its own, so what comes out of it is unknown to a type checker.
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

from typing import TYPE_CHECKING, Any, Final, Literal

from mlsec_dagster.errors import MlsecError, UnverifiableError
from mlsec_dagster.integrity.canonical import plain
from mlsec_dagster.integrity.logical import canonical_type, item_type

if TYPE_CHECKING:
    import pyarrow as pa

Family = Literal["number", "boolean", "time", "text", "binary", "nested", "other"]
"""What can be asked of a column."""

TEXT: Final = 256
"""Characters that the sample keeps of a text."""


def known(kind: "pa.DataType") -> "pa.DataType":
    """The type in which a column is handed to DuckDB; a boolean, true for each value, where it has none."""
    import pyarrow as pa
    import pyarrow.types as t

    try:
        found = canonical_type(kind)
    except UnverifiableError:
        return pa.bool_()
    if t.is_float16(found):
        return pa.float32()
    if t.is_duration(found):
        return pa.int64()
    if t.is_decimal256(found):
        return pa.float64()
    if t.is_nested(found):
        # What DuckDB does not know within it, it cannot be handed; then only its length is.
        inner = list(found) if t.is_struct(found) else [pa.field("item", item_type(found))]
        # Nor a map, whose keys it wants to differ.
        return found if inner and not t.is_map(found) and all(known(field.type).equals(field.type) for field in inner) else pa.int64()
    if t.is_null(found):
        return pa.bool_()
    return pa.binary() if t.is_fixed_size_binary(found) else found


def converted(values: "pa.Array[Any]", wanted: "pa.DataType") -> "pa.Array[Any]":
    """The same values in a type that DuckDB knows."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as t

    if values.type.equals(wanted):
        return values
    try:
        dense = plain(values, "")
        if t.is_nested(dense.type) and t.is_integer(wanted):
            return lengths(dense)
        return dense.cast(wanted)
    except (pa.ArrowException, MlsecError):
        present = pc.is_valid(values)
        return pc.if_else(present, present, None).cast(wanted)


def lengths(values: "pa.Array[Any]") -> "pa.Array[Any]":
    """Returns the length (int64) of each list or map, and of each struct how many of its fields have a value; null stays null."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as t

    if t.is_map(values.type):
        values = values.cast(pa.list_(pa.struct([pa.field("key", values.type.key_type), pa.field("value", values.type.item_type)])))
    if not t.is_struct(values.type):
        return pc.list_value_length(values).cast(pa.int64())
    total = pa.array([0] * len(values), pa.int64())
    for child in values.flatten():
        total = pc.add(total, pc.is_valid(child).cast(pa.int64()))
    return pc.if_else(pc.is_valid(values), total, None)


def family_of(kind: "pa.DataType", stored: str) -> Family:
    """Returns what can be asked of a column.

    Args:
        kind: Its type, as `known` has it.
        stored: Its type in storage, as text.
    """
    import pyarrow.types as t

    if t.is_boolean(kind):
        return "boolean" if stored == "bool" else "other"
    if t.is_nested(kind) or stored.startswith(("list", "map", "struct")):
        return "nested"
    if t.is_integer(kind) or t.is_floating(kind) or t.is_decimal(kind):
        return "number"
    if t.is_temporal(kind):
        return "time"
    return "text" if t.is_string(kind) else "binary" if t.is_binary(kind) else "other"


def shown(values: "pa.ChunkedArray[Any]", family: Family) -> "pa.ChunkedArray[Any]":
    """A column in the form of samples: numbers, booleans, texts, microseconds and days.

    Decimals are float64; of binary and nested values it is the length (float64), of times of day the seconds (float64), and of what is none
    of these whether there is a value.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as t

    if family == "other":
        return pc.is_valid(values)
    if family == "binary":
        return pc.binary_length(values).cast(pa.float64())
    if family == "nested" and t.is_nested(values.type):
        return pa.chunked_array([lengths(chunk) for chunk in values.chunks], pa.int64()).cast(pa.float64())
    if family == "nested" and not t.is_decimal(values.type):
        return values.cast(pa.float64())
    if t.is_time(values.type):
        return _of_day(values)
    return settled(values)


def _of_day(values: "pa.ChunkedArray[Any]") -> "pa.ChunkedArray[Any]":
    import pyarrow as pa
    import pyarrow.compute as pc

    ticks = values.cast(pa.int32() if values.type.bit_width == 32 else pa.int64()).cast(pa.int64())
    unit = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}[values.type.unit]
    return pc.divide(ticks, unit).cast(pa.float64())  # whole seconds


def settled(values: "pa.ChunkedArray[Any]") -> "pa.ChunkedArray[Any]":
    """A column of a sample in the one type that stands for all of its kind, so that samples from anywhere go together."""
    import pyarrow as pa
    import pyarrow.types as t

    kind = values.type
    if t.is_timestamp(kind):
        return values.cast(pa.timestamp("us", "UTC" if kind.tz else None), safe=False)
    if t.is_date(kind):
        return values.cast(pa.date32(), safe=False)
    if t.is_large_string(kind) or t.is_string_view(kind) or t.is_dictionary(kind):
        return values.cast(pa.string())
    if t.is_decimal(kind):
        # By way of its digits it becomes the nearest float, as in engines; Arrow's own cast may yield a neighbour.
        return values.cast(pa.string()).cast(pa.float64())
    return values


def cut(values: "pa.ChunkedArray[Any]") -> "pa.ChunkedArray[Any]":
    """Texts as the sample keeps them."""
    import pyarrow.compute as pc
    import pyarrow.types as t

    return pc.utf8_slice_codeunits(values, 0, TEXT) if t.is_string(values.type) else values
