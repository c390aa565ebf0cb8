"""The samples of several windows as numbers, in one coding.

paired = pair(eight_before, now, frame)
paired.numbers, paired.then.numbers, paired.now.numbers          # names, (rows x numbers), (rows x numbers)
paired.categories, paired.then.codes, paired.now.codes           # names, (rows x categories), -1 for null
"""

# pyarrow's functions bring no types of their own, so what comes out of them is unknown to a type checker.
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from mlsec_dagster.stability.channels import divergence
from mlsec_dagster.stability.profiles import ColumnFrame, Frame

if TYPE_CHECKING:
    import pyarrow as pa

REFERENCE_ROWS: Final = 20_000
"""Rows of the windows before that are looked at together, the same number from each."""

MOST_NAMED: Final = 1_000
"""Different values of a category beyond which it is no feature, and its values are not kept by name."""

MOVING: Final = 0.1
"""Median Jensen-Shannon divergence (nats, at most 0.69) of a window from those around it, beyond which a column says when, and not what."""

MOST_COLUMNS: Final = 200
"""Columns that are looked at together; the first ones, where there are more. Each of them is watched by itself all the same."""


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one side.

    Attributes:
        numbers: (rows x number columns), NaN where there is no finite value.
        codes: (rows x category columns), -1 where there is no value.
    """

    numbers: NDArray[np.float64]
    codes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.numbers)


@dataclass(frozen=True, slots=True)
class Paired:
    """A window and those before it, in one coding.

    Attributes:
        numbers: Names of number columns: numbers, times (seconds), lengths of texts and nested values. Columns whose values are others in
            nearly every window (month, batch number) are left out: of them together with others nothing can be said.
        categories: Names of category columns: categories, booleans, identifiers.
        identifiers: Those of `categories` whose codes are too many to be features.
        then: The windows before, the same number of rows from each.
        now: The window.
        levels: Per category column, how many codes there are.
        named: Per category column, its values as text in the order of their codes; empty where they are many.
        clock: The time column and its seconds, those before and now; None if there is none.
        steps: Whole numbers of few values by name, before and now; among them those left out of `numbers`.
    """

    numbers: tuple[str, ...]
    categories: tuple[str, ...]
    identifiers: frozenset[str]
    then: Part
    now: Part
    levels: tuple[int, ...]
    named: tuple[tuple[str, ...], ...]
    clock: tuple[str, NDArray[np.float64], NDArray[np.float64]] | None = None
    steps: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = field(
        default_factory=dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
    )

    def features(self, leave_out: Collection[str] = ()) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64]]:
        """Names, and both sides as one matrix each: categories by code, commonest first, nulls as NaN; without identifiers."""
        numbers = [place for place, name in enumerate(self.numbers) if name not in leave_out]
        codes = [place for place, name in enumerate(self.categories) if name not in leave_out and name not in self.identifiers]
        names = [self.numbers[place] for place in numbers] + [self.categories[place] for place in codes]

        def matrix(part: Part) -> NDArray[np.float64]:
            coded = part.codes[:, codes].astype(float)
            coded[coded < 0] = np.nan
            return np.hstack([part.numbers[:, numbers], coded])

        return names, matrix(self.then), matrix(self.now)


def pair(before: "Sequence[pa.Table]", now: "pa.Table", frame: Frame, *, rows: int = REFERENCE_ROWS) -> Paired:
    """Bring samples into one coding.

    Args:
        before: Samples of the windows before, oldest first.
        now: The sample of the window.
        frame: Says what the columns are.
        rows: Rows of all windows before together, at most.
    """
    each = max(rows // max(len(before), 1), 1)
    # A sample lies in random order, so its first rows are a sample too.
    tables = [table.slice(0, each) for table in before]
    ends = np.cumsum([table.num_rows for table in tables])
    total = int(ends[-1]) if len(ends) else 0
    there = [Counter(table.column_names) for table in [*tables, now]]
    numbers: list[tuple[str, NDArray[np.float64]]] = []
    codes: list[tuple[str, NDArray[np.int64], int, tuple[str, ...]]] = []
    identifiers: set[str] = set()
    steps: dict[str, NDArray[np.float64]] = {}
    for column in [column for column in frame.columns if column.kind not in ("other", "constant") and not column.monotone][:MOST_COLUMNS]:
        if any(names[column.name] != 1 for names in there):
            continue
        pieces = [table.column(column.name) for table in [*tables, now]]
        if any(piece.type != pieces[-1].type for piece in pieces):
            continue
        if column.kind in ("category", "boolean", "identifier"):
            coded, count, values = _coded(pieces)
            if column.kind == "identifier" or count > MOST_NAMED:
                identifiers.add(column.name)
            elif _moves(coded.astype(float), ends):
                continue
            codes.append((column.name, coded, count, values))
        else:
            flat = np.concatenate([_numbers(piece, column) for piece in pieces])
            if column.kind == "number" and _few_whole(flat[:total]):
                steps[column.name] = flat
            if not _moves(_binned(flat, total), ends):
                numbers.append((column.name, flat))
    size = total + now.num_rows
    clock = _clock(tables, now, frame)
    all_numbers = np.column_stack([values for _, values in numbers]) if numbers else np.empty((size, 0))
    all_codes = np.column_stack([coded for _, coded, _, _ in codes]) if codes else np.empty((size, 0), np.int64)
    return Paired(
        tuple(name for name, _ in numbers),
        tuple(name for name, _, _, _ in codes),
        frozenset(identifiers),
        Part(all_numbers[:total], all_codes[:total]),
        Part(all_numbers[total:], all_codes[total:]),
        tuple(count for _, _, count, _ in codes),
        tuple(values for _, _, _, values in codes),
        None if clock is None else (clock[0], clock[1][:total], clock[1][total:]),
        {name: (values[:total], values[total:]) for name, values in steps.items()},
    )


def _few_whole(values: NDArray[np.float64]) -> bool:
    known = values[~np.isnan(values)]
    return len(known) > 0 and len(np.unique(known)) <= MOST_NAMED and bool((known == np.trunc(known)).all())


def _clock(before: "Sequence[pa.Table]", now: "pa.Table", frame: Frame) -> tuple[str, NDArray[np.float64]] | None:
    """The declared time column, or the only one; and its seconds."""
    times = [column for column in frame.columns if column.kind == "time"]
    chosen = [column.name for column in times if column.monotone] or ([times[0].name] if len(times) == 1 else [])
    if not chosen or any(table.column_names.count(chosen[0]) != 1 for table in (*before, now)):
        return None
    pieces = [seconds_of(table.column(chosen[0])) for table in (*before, now)]
    known = [piece for piece in pieces if piece is not None]
    return (chosen[0], np.concatenate(known)) if len(known) == len(pieces) else None


def _binned(values: NDArray[np.float64], total: int) -> NDArray[np.float64]:
    """Values by sixteenth of the windows before; NaN stays."""
    known = values[:total][~np.isnan(values[:total])]
    if not len(known):
        return np.full(len(values), np.nan)
    edges = np.unique(np.quantile(known, np.linspace(0, 1, 17)[1:-1]))
    return np.where(np.isnan(values), np.nan, np.searchsorted(edges, values, side="right"))


def _moves(cells: NDArray[np.float64], ends: NDArray[np.int64]) -> bool:
    """Whether windows have little in common with those around them; asked of the windows before only."""
    if len(ends) < 3:
        return False
    counts = [
        np.bincount(part[part >= 0].astype(int), minlength=int(np.nanmax(cells, initial=0.0)) + 1).astype(float)
        for part in (cells[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True))
    ]
    whole = np.sum(counts, axis=0)
    apart = [divergence(each, whole - each) for each in counts if each.sum() and (whole - each).sum()]
    return bool(apart) and float(np.median(apart)) > MOVING


def _coded(pieces: "Sequence[pa.ChunkedArray[Any]]") -> tuple[NDArray[np.int64], int, tuple[str, ...]]:
    """Codes of all pieces together, the commonest value 0, -1 for null; how many there are; and what they stand for, if they are few."""
    import pyarrow as pa

    chunks = [chunk for piece in pieces for chunk in piece.chunks]
    if not chunks:
        return np.empty(0, np.int64), 0, ()
    encoded = pa.chunked_array(chunks).combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = pa.concat_arrays(encoded.chunks)
    if not pa.types.is_dictionary(encoded.type):
        encoded = encoded.dictionary_encode()
    codes = np.asarray(encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)
    count = len(encoded.dictionary)
    order = np.argsort(-np.bincount(codes[codes >= 0], minlength=count), kind="stable")
    rank = np.empty(count + 1, np.int64)
    rank[order] = np.arange(count)
    rank[count] = -1
    values = tuple(str(encoded.dictionary[int(place)].as_py()) for place in order) if count <= MOST_NAMED else ()
    return rank[codes], count, values


def _numbers(piece: "pa.ChunkedArray[Any]", column: ColumnFrame) -> NDArray[np.float64]:
    """Values as the profile counts them: numbers, seconds, lengths; NaN where there is none or it is not finite."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values = piece
    if pa.types.is_string(piece.type) or pa.types.is_large_string(piece.type):
        if column.kind != "text":
            return np.full(len(piece), np.nan)
        values = pc.utf8_length(values.cast(pa.large_string()))
    flat = numbers_of(values).copy()
    flat[~np.isfinite(flat)] = np.nan
    # Squares of what is larger are not to be had, and beyond this all are far away alike.
    return np.clip(flat, -1e150, 1e150)


def numbers_of(values: "pa.ChunkedArray[Any]") -> NDArray[np.float64]:
    """A column of numbers or times as numbers (seconds since the epoch), NaN for null."""
    import pyarrow as pa

    if pa.types.is_temporal(values.type):
        values = _seconds(values)
    return np.asarray(values.cast(pa.float64(), safe=False).to_numpy(), float)


def _seconds(values: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_date(values.type):
        values = values.cast(pa.timestamp("s"))
    if pa.types.is_timestamp(values.type):
        unit = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}[values.type.unit]
        # Nanoseconds since 1970 are beyond 2**53, where Arrow's cast would refuse them; what is lost of them is below a microsecond.
        return pc.divide(values.cast(pa.int64()).cast(pa.float64(), safe=False), float(unit))
    return pa.chunked_array([pa.nulls(len(values), pa.float64())])


def seconds_of(values: "pa.ChunkedArray[Any]") -> NDArray[np.float64] | None:
    """A column of times as seconds since the epoch, NaN for null; None if it holds no times."""
    import pyarrow as pa

    if not (pa.types.is_timestamp(values.type) or pa.types.is_date(values.type)):
        return None
    return np.asarray(_seconds(values).to_numpy(), float)
