"""Logical column types: what a column is, whichever container it comes in.

`string`, `large_string`, `string_view`, a dictionary of strings and a run-end encoding of them are one logical type, `string`.
The text of a type is part of every leaf and of the manifest; `parse_type(type_text(t))` gives the canonical Arrow type back.
"""

# pyarrow brings no types of its own, so what comes out of it is unknown to a type checker.
# pyright: reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

import json
import re
from typing import TYPE_CHECKING

from mlsec_dagster.errors import UnverifiableError

if TYPE_CHECKING:
    import pyarrow as pa

_UNITS = ("s", "ms", "us", "ns")
_MAX_NESTING = 64


def canonical_type(kind: "pa.DataType", column: str = "", *, depth: int = 0) -> "pa.DataType":
    """Returns the one Arrow type that stands for all types with the same logical meaning.

    Raises:
        UnverifiableError: The type has no canonical form (a union, an interval, or nested deeper than 64 levels).
    """
    import pyarrow as pa
    import pyarrow.types as t

    def inner(part: "pa.DataType") -> "pa.DataType":
        return canonical_type(part, column, depth=depth + 1)

    if depth > _MAX_NESTING:
        raise UnverifiableError(f"column {column!r} is nested more than {_MAX_NESTING} levels deep; flatten it")
    if isinstance(kind, pa.BaseExtensionType):
        return inner(kind.storage_type)
    if t.is_dictionary(kind) or t.is_run_end_encoded(kind):
        return inner(kind.value_type)
    if t.is_string(kind) or t.is_large_string(kind) or t.is_string_view(kind):
        return pa.string()
    if t.is_binary(kind) or t.is_large_binary(kind) or t.is_binary_view(kind):
        return pa.binary()
    if t.is_decimal(kind):
        return (pa.decimal128 if kind.precision <= 38 else pa.decimal256)(kind.precision, kind.scale)
    if t.is_map(kind):
        return pa.map_(inner(kind.key_type), inner(kind.item_type))
    if t.is_fixed_size_list(kind):
        return pa.list_(inner(kind.value_type), kind.list_size)
    if t.is_list(kind) or t.is_large_list(kind) or t.is_list_view(kind) or t.is_large_list_view(kind):
        return pa.list_(inner(kind.value_type))
    if t.is_struct(kind):
        return pa.struct([pa.field(field.name, inner(field.type)) for field in kind])
    if t.is_null(kind) or t.is_boolean(kind) or t.is_fixed_size_binary(kind) or (t.is_primitive(kind) and not t.is_interval(kind)):
        return kind
    raise UnverifiableError(f"column {column!r} has the type {kind}, which has no canonical form; convert it to a plain or nested type")


def type_text(kind: "pa.DataType") -> str:
    """Returns the text of a canonical type, for example `int64`, `timestamp[us, UTC]` or `list<struct<"a": string>>`."""
    import pyarrow.types as t

    if t.is_timestamp(kind):
        return f"timestamp[{kind.unit}, {kind.tz}]" if kind.tz else f"timestamp[{kind.unit}]"
    if t.is_duration(kind) or t.is_time(kind):
        return f"{'duration' if t.is_duration(kind) else 'time'}[{_unit(kind)}]"
    if t.is_decimal(kind):
        return f"decimal({kind.precision}, {kind.scale})"
    if t.is_fixed_size_binary(kind):
        return f"binary[{kind.byte_width}]"
    if t.is_map(kind):
        return f"map<{type_text(kind.key_type)}, {type_text(kind.item_type)}>"
    if t.is_fixed_size_list(kind):
        return f"list[{kind.list_size}]<{type_text(kind.value_type)}>"
    if t.is_list(kind):
        return f"list<{type_text(kind.value_type)}>"
    if t.is_struct(kind):
        return f"struct<{', '.join(f'{json.dumps(field.name)}: {type_text(field.type)}' for field in kind)}>"
    return {"halffloat": "float16", "float": "float32", "double": "float64", "date32[day]": "date", "date64[ms]": "date64"}.get(
        str(kind), str(kind)
    )


def _unit(kind: "pa.DataType") -> str:
    found = re.search(r"\[(\w+)]", str(kind))
    return found[1] if found else ""


def parse_type(text: str) -> "pa.DataType":
    """Returns the canonical Arrow type with this text.

    Raises:
        UnverifiableError: The text is not the text of a canonical type.
    """
    kind, rest = _parse(text, text, 0)
    if rest or type_text(kind) != text:
        raise _bad(text)
    return kind


def _bad(text: str) -> UnverifiableError:
    return UnverifiableError(f"{text[:200]!r} is not the text of a column type; the manifest is damaged or was written by a newer version")


def _parse(text: str, whole: str, depth: int) -> "tuple[pa.DataType, str]":
    import pyarrow as pa

    def nested(rest: str) -> "tuple[pa.DataType, str]":
        return _parse(rest, whole, depth + 1)

    def close(rest: str) -> str:
        if not rest.startswith(">"):
            raise _bad(whole)
        return rest[1:]

    if depth > _MAX_NESTING + 1:
        raise _bad(whole)
    if found := re.match(r"list(?:\[(\d{1,9})])?<", text):
        kind, rest = nested(text[found.end() :])
        return pa.list_(kind, int(found[1]) if found[1] else -1), close(rest)
    if text.startswith("map<"):
        key, rest = nested(text[4:])
        if not rest.startswith(", "):
            raise _bad(whole)
        item, rest = nested(rest[2:])
        return pa.map_(key, item), close(rest)
    if text.startswith("struct<"):
        fields: list[pa.Field[pa.DataType]] = []
        rest = text[7:]
        while not rest.startswith(">"):
            try:
                name, end = json.JSONDecoder().raw_decode(rest)
            except ValueError:
                raise _bad(whole) from None
            if not isinstance(name, str) or rest[end : end + 2] != ": ":
                raise _bad(whole)
            kind, rest = nested(rest[end + 2 :])
            fields.append(pa.field(name, kind))
            rest = rest.removeprefix(", ")
        return pa.struct(fields), rest[1:]
    return _parse_plain(text, whole)


def _parse_plain(text: str, whole: str) -> "tuple[pa.DataType, str]":
    import pyarrow as pa

    found = re.match(r"(\w+)(?:\[([^\]]*)]|\((\d+), (-?\d+)\))?", text)
    if found is None:
        raise _bad(whole)
    name, argument, rest = found[1], found[2], text[found.end() :]
    unit, _, zone = (argument or "").partition(", ")
    plain = {
        "null": pa.null, "bool": pa.bool_, "string": pa.string, "binary": pa.binary, "date": pa.date32, "date64": pa.date64,
        "int8": pa.int8, "int16": pa.int16, "int32": pa.int32, "int64": pa.int64,
        "uint8": pa.uint8, "uint16": pa.uint16, "uint32": pa.uint32, "uint64": pa.uint64,
        "float16": pa.float16, "float32": pa.float32, "float64": pa.float64,
    }  # fmt: skip
    try:
        if name == "decimal" and found[3]:
            precision, scale = int(found[3]), int(found[4])
            return (pa.decimal128 if precision <= 38 else pa.decimal256)(precision, scale), rest
        if name == "binary" and argument:
            return pa.binary(int(argument)), rest
        if name == "timestamp" and unit in _UNITS:
            return pa.timestamp(unit, zone or None), rest
        if name == "duration" and unit in _UNITS:
            return pa.duration(unit), rest
        if name == "time" and unit in _UNITS:
            return (pa.time32 if unit in ("s", "ms") else pa.time64)(unit), rest
        return plain[name](), rest
    except (KeyError, ValueError, OverflowError):
        raise _bad(whole) from None


def same_family(found: "pa.DataType", wanted: "pa.DataType") -> bool:
    """Says whether values of one canonical type may be stated in another, each one exactly or not at all.

    Whether every single value really is exact is checked when it is converted (`canonical.leaf_digest`).
    """
    import pyarrow.types as t

    if found.equals(wanted) or t.is_null(found):
        return True
    number = t.is_integer(found) or t.is_floating(found), t.is_integer(wanted) or t.is_floating(wanted)
    if all(number):
        return True
    if t.is_decimal(wanted) and (t.is_decimal(found) or t.is_integer(found)):
        return True
    if t.is_timestamp(found) and t.is_timestamp(wanted):
        return (found.tz is None) == (wanted.tz is None)
    if _is_calendar(found) and _is_calendar(wanted):
        return True
    if (t.is_time(found) and t.is_time(wanted)) or (t.is_duration(found) and t.is_duration(wanted)):
        return True
    if (t.is_binary(found) or t.is_fixed_size_binary(found)) and (t.is_binary(wanted) or t.is_fixed_size_binary(wanted)):
        return True
    if _is_listed(found) and _is_listed(wanted):
        return same_family(item_type(found), item_type(wanted))
    if t.is_struct(found) and t.is_struct(wanted):
        # Maps become lists of structs in some containers, where the names of key and value are free.
        return found.num_fields == wanted.num_fields and all(
            ours.name == theirs.name and same_family(ours.type, theirs.type) for ours, theirs in zip(found, wanted, strict=True)
        )
    return False


def _is_calendar(kind: "pa.DataType") -> bool:
    import pyarrow.types as t

    return t.is_date(kind) or (t.is_timestamp(kind) and kind.tz is None)


def _is_listed(kind: "pa.DataType") -> bool:
    import pyarrow.types as t

    return t.is_list(kind) or t.is_fixed_size_list(kind) or t.is_map(kind)


def item_type(kind: "pa.DataType") -> "pa.DataType":
    """Returns the type of one item of a canonical list, fixed-size list or map (a struct of `key` and `value`)."""
    import pyarrow as pa
    import pyarrow.types as t

    if t.is_map(kind):
        return pa.struct([pa.field("key", kind.key_type), pa.field("value", kind.item_type)])
    return kind.value_type
