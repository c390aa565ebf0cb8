"""How much each row weighs in canonical bytes, found without decoding it.

Row blocks are bounded by weight, so a weight may depend on logical values only; and a bomb must be seen before it goes off,
so the weight of a dictionary's or a view's value is looked up, never built.
"""

# pyarrow brings no types of its own and makes its compute functions when it is imported, so a type checker does not know them.
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

from typing import TYPE_CHECKING, Any

from mlsec_dagster.integrity.buffers import numbers, valid

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

# A variable-length value (text, list) weighs its length prefix too.
PREFIX = 4


def row_weights(values: "pa.Array[Any]", kind: "pa.DataType") -> "int | np.ndarray[Any, np.dtype[np.int64]]":
    """Returns the weight of each row in bytes: one number where all rows weigh the same, else an int64 array.

    A fixed-width value weighs its width in `kind`, null or not (bool: 1, null type: 0); text and binary its length plus 4, a null
    only the 4; a list its items plus 4; a struct its fields.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.types as t

    fixed = fixed_weight(kind)
    if fixed is not None:
        return fixed
    if isinstance(values, pa.ExtensionArray):
        return row_weights(values.storage, kind)
    found = values.type
    empty = fixed_weight_of_null(kind)
    if t.is_null(found):
        return empty
    if isinstance(values, pa.DictionaryArray):
        weights = _spread(row_weights(values.dictionary, kind), len(values.dictionary))
        picked = np.full(len(values), empty, np.int64)
        picked[valid(values.indices)] = weights[numbers(values.indices.drop_null())]
        return picked
    if t.is_run_end_encoded(found):
        first, count = values.find_physical_offset(), values.find_physical_length()
        ends = np.minimum(numbers(values.run_ends)[first : first + count] - values.offset, len(values))
        return np.repeat(_spread(row_weights(values.values.slice(first, count), kind), count), np.diff(ends, prepend=0))
    if t.is_struct(found):
        total: int | np.ndarray[Any, np.dtype[np.int64]] = 0
        for child, field in zip(values.flatten(), kind, strict=True):
            total = total + row_weights(child, field.type)
        return total
    if t.is_nested(found):
        return _list_weights(values, kind)
    return _text_weights(values)


def fixed_weight(kind: "pa.DataType") -> int | None:
    """Returns the weight that every value of a canonical type has, or None where it depends on the value."""
    import pyarrow.types as t

    if t.is_null(kind):
        return 0
    if t.is_boolean(kind):
        return 1
    if t.is_struct(kind):
        parts = [fixed_weight(field.type) for field in kind]
        return None if None in parts else sum(part or 0 for part in parts)
    if t.is_nested(kind) or t.is_string(kind) or t.is_binary(kind):
        return None
    return kind.bit_width // 8


def fixed_weight_of_null(kind: "pa.DataType") -> int:
    """Returns what a null weighs."""
    import pyarrow.types as t

    if t.is_struct(kind):
        return sum(fixed_weight_of_null(field.type) for field in kind)
    fixed = fixed_weight(kind)
    return PREFIX if fixed is None else fixed


def _spread(weights: "int | np.ndarray[Any, np.dtype[np.int64]]", count: int) -> "np.ndarray[Any, np.dtype[np.int64]]":
    import numpy as np

    return np.full(count, weights, np.int64) if isinstance(weights, int) else weights


def _text_weights(values: "pa.Array[Any]") -> "np.ndarray[Any, np.dtype[np.int64]]":
    import numpy as np
    import pyarrow.compute as pc
    import pyarrow.types as t

    if t.is_string_view(values.type) or t.is_binary_view(values.type):
        # A view is 16 bytes, the first four of which are the length.
        lengths = np.frombuffer(values.buffers()[1], np.int32)[::4][values.offset : values.offset + len(values)].astype(np.int64)
        lengths[~valid(values)] = 0
        return lengths + PREFIX
    if t.is_fixed_size_binary(values.type):
        return np.where(valid(values), values.type.byte_width, 0).astype(np.int64) + PREFIX
    return numbers(pc.binary_length(values)) + PREFIX


def _list_weights(values: "pa.Array[Any]", kind: "pa.DataType") -> "np.ndarray[Any, np.dtype[np.int64]]":
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as t

    from mlsec_dagster.integrity.logical import item_type

    if isinstance(values, pa.MapArray):
        values = values.cast(pa.list_(pa.struct([pa.field("key", values.type.key_type), pa.field("value", values.type.item_type)])))
    lengths = numbers(pc.list_value_length(values))
    inner = item_type(kind)
    fixed = fixed_weight(inner)
    if fixed is not None:
        return lengths * fixed + PREFIX
    if t.is_list_view(values.type) or t.is_large_list_view(values.type):
        # Views may overlap: weigh the items once, and look each view's sum up.
        items = np.concatenate([[0], np.cumsum(_spread(row_weights(values.values, inner), len(values.values)))])
        starts = numbers(values.offsets)
        starts = np.where(lengths > 0, starts, 0)
        return items[starts + lengths] - items[starts] + PREFIX
    flat = values.flatten()
    items = np.concatenate([[0], np.cumsum(_spread(row_weights(flat, inner), len(flat)))])
    ends = np.cumsum(lengths)
    return items[ends] - items[ends - lengths] + PREFIX
