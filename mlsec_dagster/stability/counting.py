"""Counting what lies in memory: small windows, and samples. In numpy and Arrow, column by column.

`querying` says the same of a window that an engine holds.
"""

# pyarrow brings no types of its own, so what comes out of it is unknown to a type checker.
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final
from unicodedata import category

import numpy as np
from numpy.typing import NDArray

from mlsec_dagster.stability.profiles import CATEGORIES, ColumnFrame, ColumnProfile
from mlsec_dagster.stability.samples import numbers_of

if TYPE_CHECKING:
    import pyarrow as pa

UNLISTED: Final = 20
"""Values that the frame does not name which a profile names, at most."""

LONGEST: Final = 256
"""Characters of a category's longest value."""

_FEW_TEXTS: Final = 32
"""Different texts up to which their characters are looked at one by one: compiling Unicode's classes takes longer, for each column."""

NAMED: Final = ("category", "constant", "identifier")
"""Kinds of which texts are values, and not as long as they are."""


def counted(
    name: str, stored: str, values: "pa.ChunkedArray[Any]", each: ColumnFrame | None, chosen: "pa.ChunkedArray[Any] | None" = None
) -> ColumnProfile:
    """Counts one column.

    Args:
        name: Its name.
        stored: Its type in storage, as text.
        values: In the form of samples (`conversion.shown`), but for texts, which are whole.
        each: How to count; None if that is not known.
        chosen: The column in the sample, for figures that are taken from there; they are left out without it.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as t

    if t.is_boolean(values.type) and stored != "bool":
        return ColumnProfile(name, stored, nulls=len(values) - int(pc.sum(values).as_py() or 0))
    facts: dict[str, Any] = {"nulls": values.null_count}
    if chosen is not None and not t.is_string(values.type):
        whole = each is not None and each.kind in NAMED
        facts["distinct"] = pc.count_distinct(values if whole else chosen).as_py()
    if t.is_boolean(values.type):
        if each is not None and each.cells:
            true = int(pc.sum(values).as_py() or 0)
            facts["counts"] = (len(values) - values.null_count - true, true, 0)
        return ColumnProfile(name, stored, **facts)
    if t.is_string(values.type):
        if chosen is not None:
            facts["characters"] = characters(chosen)
        if each is not None and each.kind in NAMED:
            return ColumnProfile(name, stored, **facts, **_named(values, each))
        facts["distinct"] = pc.count_distinct(values).as_py()
        values = pc.utf8_length(values).cast(pa.float64())
    return ColumnProfile(name, stored, **facts, **_numbers(numbers_of(values), values.null_count, each))


def _named(values: "pa.ChunkedArray[Any]", each: ColumnFrame) -> dict[str, Any]:
    import pyarrow.compute as pc

    if each.kind == "identifier":
        return {"distinct": pc.count_distinct(values).as_py()}
    found = pc.value_counts(values)
    pairs = zip(found.field(0).to_pylist(), found.field(1).to_pylist(), strict=True)
    seen = {value: rows for value, rows in pairs if value is not None}
    distinct = len(seen)
    named = tuple(seen.pop(value, 0) for value in each.categories)
    return {"distinct": distinct, "counts": (*named, sum(seen.values())), "unlisted": commonest(seen)}


def commonest(rows: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    """The values with most rows, cut to `LONGEST` characters."""
    return tuple((text[:LONGEST], count) for text, count in sorted(rows.items(), key=lambda pair: (-pair[1], pair[0]))[:UNLISTED])


def _numbers(numbers: NDArray[np.float64], nulls: int, each: ColumnFrame | None) -> dict[str, Any]:
    present = numbers[~np.isnan(numbers)]
    finite = present[np.isfinite(present)]
    facts: dict[str, Any] = {"nans": len(numbers) - nulls - len(present), "infinities": len(present) - len(finite)}
    if len(finite):
        facts |= {"minimum": float(finite.min()), "maximum": float(finite.max())}
        # Squares of what is larger are not to be had.
        largest = max(abs(facts["minimum"]), abs(facts["maximum"]))
        scale = largest if largest > 1e150 else 1.0
        facts |= {"mean": float((finite / scale).mean()) * scale, "deviation": float((finite / scale).std()) * scale}
    if each is None:
        return facts
    if each.kind == "constant":
        values = Counter(present.tolist())
        named = tuple(values.pop(float(value), 0) for value in each.categories)
        facts["counts"] = (*named, sum(values.values()))
        facts["unlisted"] = commonest({repr(value): rows for value, rows in values.items()})
    elif each.edges:
        cells = np.bincount(np.searchsorted(each.edges, present, side="right"), minlength=len(each.edges) + 1)
        facts["counts"] = tuple(cells.tolist())
    return facts


def characters(texts: "pa.ChunkedArray[Any]") -> tuple[float, ...]:
    """Shares of letters, digits, white space and everything else among the characters of texts, in that order."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = texts.cast(pa.string())
    total = pc.sum(pc.utf8_length(texts)).as_py() or 0
    if not total:
        return ()
    values = pc.value_counts(texts)
    if len(values) <= _FEW_TEXTS:
        letters = digits = spaces = 0
        for text, rows in zip(values.field(0).to_pylist(), values.field(1).to_pylist(), strict=True):
            for sign in text or "":
                letters += rows * sign.isalpha()
                digits += rows * sign.isdecimal()
                spaces += rows * (sign in "\t\n\f\r" or category(sign)[0] == "Z")
    else:
        letters, digits, spaces = (
            pc.sum(pc.count_substring_regex(texts, pattern=pattern)).as_py() or 0 for pattern in (r"\pL", r"\p{Nd}", r"[\s\pZ]")
        )
    return letters / total, digits / total, spaces / total, max(total - letters - digits - spaces, 0) / total


def patterns(missing: "Sequence[NDArray[np.bool_]]", rows: int) -> "list[tuple[tuple[int, ...], int]]":
    """Which columns are null together, commonest first, `CATEGORIES` of them at most.

    Args:
        missing: Of each column, which rows have no value.
        rows: How many there are.

    Returns:
        Pairs of words (60 columns each, the first in the lowest bit) and rows.
    """
    words = np.zeros((rows, -(-len(missing) // WORD)), np.int64)
    for place, column in enumerate(missing):
        words[:, place // WORD] |= column.astype(np.int64) << (place % WORD)
    found, counts = np.unique(words, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:CATEGORIES]
    return [(tuple(found[place].tolist()), int(counts[place])) for place in order]


WORD: Final = 60
"""Columns whose nulls are noted in one integer."""
