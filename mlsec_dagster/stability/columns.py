"""Expressions over one column: its value as a number, its text, its bin. Written in Ibis, so that each engine runs the same ones."""

# Ibis brings no types of its own, so what comes out of it is unknown to a type checker.
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

import hashlib
import hmac
import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from mlsec_dagster.stability.conversion import Family
from mlsec_dagster.stability.sources import Window

GRID: Final = 250
"""Bins are counted on a grid of so many equal cells where the edges lie on one: one multiplication instead of a search, and one byte to
group by."""


@dataclass(frozen=True)
class Column:
    """One column of a window, and what the engine calls it.

    Attributes:
        place: Its number.
        name: Its name.
        type: Its Arrow type as text.
        family: What can be asked of it.
        dtype: Its Ibis type.
        engine: Ibis' name of the backend.
    """

    place: int
    name: str
    type: str
    family: Family
    dtype: Any
    engine: str

    @property
    def id(self) -> str:
        return f"c{self.place}"

    @property
    def floating(self) -> bool:
        """Whether it can hold NaN and infinities."""
        return self.family == "number" and bool(self.dtype.is_floating())

    def number(self, table: Any) -> Any:
        """Returns the value as float64: itself, seconds since the epoch (UTC), or a length."""
        value = table[self.id]
        if self.family == "number" or self.dtype.is_integer():  # lengths may have been taken when it was read; see `sources`
            return value.cast("float64")
        if self.family == "boolean":
            return value.cast("int8").cast("float64")
        if self.family == "time":
            return self._seconds(value)
        return self._length(value).cast("float64")

    def _seconds(self, value: Any) -> Any:
        if self.dtype.is_time():
            return (value.hour() * 3600 + value.minute() * 60 + value.second()).cast("float64")
        if self.engine == "duckdb":
            return builtin("epoch", [self.dtype], "float64")(value)
        if self.engine == "pyspark":
            if self.dtype.is_date():
                return builtin("unix_date", [self.dtype], "int32")(value).cast("float64") * 86_400.0
            return builtin("unix_micros", [self.dtype], "int64")(value).cast("float64") / 1e6
        return value.cast("timestamp").epoch_seconds().cast("float64")

    def _length(self, value: Any) -> Any:
        import ibis

        if self.family == "text":
            return self.text(value).length()
        if self.family == "binary":
            return builtin("octet_length", [self.dtype], "int64")(value)
        if self.dtype.is_map():
            return value.length()
        if self.dtype.is_struct():
            present = [value[field].notnull().cast("int64") for field in self.dtype.names]
            return ibis.ifelse(value.isnull(), ibis.null("int64"), sum(present[1:], present[0]))
        return value.length()

    def text(self, value: Any) -> Any:
        return value if self.dtype.is_string() and not self.dtype.is_json() else value.cast("string")


def columns_of(window: Window) -> list[Column]:
    """Returns the columns of a window."""
    found: list[Column] = []
    for place, (name, kind) in enumerate(zip(window.names, window.types, strict=True)):
        dtype = window.table.schema()[f"c{place}"]
        found.append(Column(place, name, kind, _family(dtype, kind), dtype, window.engine))
    return found


def _family(dtype: Any, kind: str) -> Family:
    if kind.startswith(("list", "map", "struct")) and dtype.is_integer():
        return "nested"
    if dtype.is_boolean():
        return "boolean" if kind == "bool" else "other"
    if dtype.is_numeric():
        return "number"
    if dtype.is_timestamp() or dtype.is_date() or dtype.is_time():
        return "time"
    if dtype.is_string() or dtype.is_json() or dtype.is_uuid():
        return "text"
    if dtype.is_binary():
        return "binary"
    if dtype.is_array() or dtype.is_map() or (dtype.is_struct() and len(dtype.names)):
        return "nested"
    return "other"


def builtin(name: str, arguments: Sequence[Any], result: Any, *, aggregate: bool = False) -> Any:
    """Returns a function of the engine's own as Ibis calls it; `arguments` and `result` are Ibis types."""
    from ibis.expr.datatypes import dtype
    from ibis.expr.operations.udf import agg, scalar

    def body(*_: Any) -> Any:  # a signature for Ibis, never called
        ...

    kinds = tuple(dtype(each) for each in arguments)
    body.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(f"argument{place}", inspect.Parameter.POSITIONAL_OR_KEYWORD) for place in range(len(kinds))]
    )
    make: Any = agg.builtin if aggregate else scalar.builtin
    return make(body, name=name, signature=(kinds, dtype(result)))


def grid_of(edges: Sequence[float]) -> tuple[float, int, int] | None:
    """Finds the coarsest grid of steps of a power of two on which all edges lie.

    Returns:
        (step, lowest cell, highest cell), cells being multiples of the step; None if it would have more than `GRID` cells.
    """
    step = min((_granularity(edge) for edge in edges if edge), default=1.0)
    if not 2.0**-500 < step < 2.0**500:
        return None
    low, high = edges[0] / step - 1, edges[-1] / step
    if high - low > GRID or max(abs(low), abs(high)) >= 2.0**52:
        return None
    return step, int(low), int(high)


def _granularity(value: float) -> float:
    """The largest power of two of which a number is a multiple."""
    mantissa, exponent = math.frexp(value)
    digits = int(abs(mantissa) * 2**53)
    return math.ldexp(digits & -digits, exponent - 53)


def cell(column: Column, value: Any, edges: Sequence[float]) -> tuple[Any, list[int]]:
    """Says which cell a value falls into.

    Args:
        column: Whose values they are.
        value: A float64 expression.
        edges: At least one.

    Returns:
        An integer expression, and the bin (an index into counts) of each of its values. Null and NaN fall into the last one, from which
        the caller takes them away: to single them out here costs a third more time.
    """
    import ibis

    grid = grid_of(edges) if column.engine == "duckdb" else None
    if grid is None:
        searched = _search(ibis, value, edges, 0, len(edges)).cast("uint8" if column.engine == "duckdb" else "int32")
        return searched, list(range(len(edges) + 1))
    step, low, high = grid
    # A product with a power of two, a minimum, a floor and a difference of such integers are exact, so this is the same as comparing with
    # the edges.
    clamped = ibis.greatest(ibis.least(value * (1.0 / step), float(high)), float(low))
    number = (builtin("floor", ["float64"], "float64")(clamped) - float(low)).cast("uint8")
    place, bins = 0, list[int]()
    for position in range(low, high + 1):
        while place < len(edges) and edges[place] <= position * step:
            place += 1
        bins.append(place)
    return number, bins


def _search(ibis: Any, value: Any, edges: Sequence[float], low: int, high: int) -> Any:
    if low == high:
        return ibis.literal(low, "int16")
    middle = (low + high) // 2
    return ibis.ifelse(
        value < float(edges[middle]), _search(ibis, value, edges, low, middle), _search(ibis, value, edges, middle + 1, high)
    )


def secret_number(key: bytes, purpose: str) -> int:
    """Derives a secret 64-bit number."""
    return int.from_bytes(hmac.digest(key, b"mlsec:stability:v1:" + purpose.encode(), hashlib.sha256)[:8], "big")


def keyed_hash(engine: str, values: Sequence[tuple[Any, Any]], secret: int) -> tuple[Any, int]:
    """Hashes values with the engine's own 64-bit hash, XORed with a secret number and hashed again.

    Args:
        engine: Ibis' name of the backend.
        values: Expressions with their Ibis types.
        secret: 64 bits.

    Returns:
        The expression, and its lowest possible value: 0, or -2^63 where the hash is signed.
    """
    import ibis

    kinds = [kind for _, kind in values]
    given = [value for value, _ in values]
    if engine == "duckdb":
        inner = builtin("hash", kinds, "uint64")(*given)
        return builtin("hash", ["uint64"], "uint64")(inner ^ ibis.literal(secret, "uint64")), 0
    signed = secret - 2**64 if secret >= 2**63 else secret
    if engine == "pyspark":
        inner = builtin("xxhash64", kinds, "int64")(*given)
        return builtin("xxhash64", ["int64"], "int64")(inner ^ ibis.literal(signed, "int64")), -(2**63)
    # Elsewhere Ibis' own hash of the values as one text.
    inner = ibis.literal("|").join([ibis.coalesce(value.cast("string"), ibis.literal("")) for value in given]).hash()
    return (inner ^ ibis.literal(signed, "int64")).hash(), -(2**63)
