"""The windows right before, pooled: how to count the next one, and what they themselves count up to.

    frame, reference = learn_reference(samples, before=last_profile, roles=roles)

Bins and categories are learnt anew from these windows' samples each time, so that they fit whatever the data has drifted to, and nothing
that was learnt on the first day stays for ever. All of it is in memory and small: it is done in numpy and Arrow, not in an engine.
"""

# pyarrow's functions bring no types of their own, so what comes out of them is unknown to a type checker.
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mlsec_dagster.stability.frames import FEW, between, kind_of, on_a_grid
from mlsec_dagster.stability.measuring import characters
from mlsec_dagster.stability.profiles import BINS, BUCKETS, CATEGORIES, ColumnFrame, ColumnProfile, Frame, Kind, Profile, Roles
from mlsec_dagster.stability.samples import REFERENCE_ROWS, numbers_of
from mlsec_dagster.stability.sampling import TEXT
from mlsec_dagster.stability.scalars import Scalars

if TYPE_CHECKING:
    import pyarrow as pa


def learn_reference(
    samples: "Sequence[pa.Table]", *, before: Profile, roles: Roles, partition_columns: Sequence[str] = ()
) -> tuple[Frame, Profile]:
    """Learns a frame from the samples of the windows right before, and counts them by it.

    Args:
        samples: Of these windows, oldest first; the same number of rows is taken of each that has the columns of the newest one.
        before: The profile of the newest of them, for the types that columns have in storage.
        roles: Declared columns.
        partition_columns: Columns that tell partitions apart.

    Returns:
        The frame, for windows as they are stored, and the profile of the pooled samples by it.
    """
    import pyarrow as pa

    alike = [table for table in samples if table.schema.equals(samples[-1].schema)]
    each = max(REFERENCE_ROWS // len(alike), 1)
    # A sample lies in the order of a keyed hash, so its first rows are a sample too.
    pooled = pa.concat_tables([table.slice(0, each) for table in alike])
    frames: list[ColumnFrame] = []
    profiles: list[ColumnProfile] = []
    for column in before.columns:
        if column.name in roles.ignore or column.name not in pooled.column_names or pooled.column_names.count(column.name) > 1:
            frames.append(ColumnFrame(column.name, column.type, "other"))
            profiles.append(ColumnProfile(column.name, column.type))
            continue
        frame, profile = _column(pooled.column(column.name), column, roles, pooled.num_rows, clock=column.name in partition_columns)
        frames.append(frame)
        profiles.append(profile)
    return Frame(tuple(frames)), Profile(pooled.num_rows, tuple(profiles))


def _column(
    values: "pa.ChunkedArray[Any]", column: ColumnProfile, roles: Roles, rows: int, *, clock: bool
) -> tuple[ColumnFrame, ColumnProfile]:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as t

    name, stored = column.name, column.type
    counted = ColumnProfile(name, stored, nulls=values.null_count)
    if t.is_boolean(values.type):
        if stored != "bool":  # of what an engine cannot read, a sample says whether it is there
            return ColumnFrame(name, stored, "other"), ColumnProfile(name, stored, nulls=rows - (pc.sum(values).as_py() or 0))
        true = int(pc.sum(values).as_py() or 0)
        counts = (rows - values.null_count - true, true, *(0,) * BUCKETS)
        return ColumnFrame(name, stored, "boolean", (), ("false", "true")), _with(counted, counts=counts)
    text = t.is_string(values.type) or t.is_large_string(values.type)
    numbers = numbers_of(values) if not text else None
    kind = _kind(values, stored, numbers, label=name == roles.label)
    monotone = clock or name == roles.time
    if text and kind in ("category", "constant", "identifier"):
        return _categories(values, counted, kind)
    if kind == "constant" and numbers is not None:
        return _constant(numbers, counted, rows)
    if kind == "other":
        return ColumnFrame(name, stored, "other"), counted
    if text:
        counted = _with(counted, characters=characters(values))
        lengths = pc.utf8_length(values).cast(pa.float64())
        numbers = np.asarray(lengths.to_numpy(), float)
    if numbers is None:
        return ColumnFrame(name, stored, "other"), counted
    if kind == "identifier":
        return ColumnFrame(name, stored, kind), _with(counted, distinct=len(np.unique(numbers[~np.isnan(numbers)])))
    nans = int(np.isnan(numbers).sum()) - values.null_count
    finite = numbers[np.isfinite(numbers)]
    present = numbers[~np.isnan(numbers)]
    edges = _edges(finite)
    cells = np.bincount(np.searchsorted(edges, present, side="right"), minlength=len(edges) + 1) if edges else []
    counted = _with(
        counted,
        nans=nans,
        infinities=len(present) - len(finite),
        minimum=float(finite.min()) if len(finite) else None,
        maximum=float(finite.max()) if len(finite) else None,
        mean=float(finite.mean()) if len(finite) else None,
        deviation=float(finite.std()) if len(finite) else None,
        counts=tuple(int(count) for count in cells),
    )
    return ColumnFrame(name, stored, kind, edges, (), monotone), counted


def _kind(values: "pa.ChunkedArray[Any]", stored: str, numbers: NDArray[np.float64] | None, *, label: bool) -> Kind:
    """As of a stored column, told by its type there and the figures of the sample."""
    import pyarrow.compute as pc
    import pyarrow.types as t

    filled = len(values) - values.null_count
    if numbers is None:
        lengths = pc.utf8_length(values)
        longest, mean = pc.max(lengths).as_py() or 0, pc.mean(lengths).as_py()
        found = Scalars(len(values), filled, distinct=pc.count_distinct(values).as_py(), longest=longest, mean=mean)
        # A text that was cut is as long as the sample lets it be.
        return "text" if longest >= TEXT else kind_of("text", found, integer=False, label=label)
    finite = numbers[np.isfinite(numbers)]
    found = Scalars(
        len(values),
        filled,
        distinct=len(np.unique(numbers[~np.isnan(numbers)])),
        minimum=float(finite.min()) if len(finite) else None,
        maximum=float(finite.max()) if len(finite) else None,
    )
    if stored.startswith(("list", "map", "struct", "large_list", "fixed_size_list")):
        family = "nested"
    elif "binary" in stored:
        family = "binary"
    else:
        family = "time" if t.is_temporal(values.type) else "number"
    return kind_of(family, found, integer=t.is_integer(values.type), label=label)


def _edges(finite: NDArray[np.float64]) -> tuple[float, ...]:
    values = np.unique(finite)
    if not len(values):
        return ()
    if len(values) <= FEW:
        return between([float(value) for value in values])
    quantiles = np.quantile(finite, np.arange(1, BINS) / BINS, method="inverted_cdf")
    return on_a_grid(tuple(sorted({float(edge) + 0.0 for edge in quantiles})))


def _categories(values: "pa.ChunkedArray[Any]", counted: ColumnProfile, kind: Kind) -> tuple[ColumnFrame, ColumnProfile]:
    """Texts by value; identifiers by how many different ones there are."""
    found: list[dict[str, Any]] = values.value_counts().to_pylist()
    rows: list[tuple[int, str]] = [(pair["counts"], pair["values"]) for pair in found if pair["values"] is not None]
    pairs = sorted(rows, key=_commonest_first)
    counted = _with(counted, distinct=len(pairs))
    if kind == "identifier":
        return ColumnFrame(counted.name, counted.type, kind), counted
    listed = {value: count for count, value in pairs[:CATEGORIES]}
    names = tuple(sorted(listed))
    rest = sum(count for count, _ in pairs[CATEGORIES:])
    counts = (*(listed[name] for name in names), rest, *(0,) * (BUCKETS - 1))
    return ColumnFrame(counted.name, counted.type, kind, (), names), _with(counted, counts=counts)


def _commonest_first(pair: tuple[int, str]) -> tuple[int, str]:
    return -pair[0], pair[1]


def _constant(numbers: NDArray[np.float64], counted: ColumnProfile, rows: int) -> tuple[ColumnFrame, ColumnProfile]:
    values = np.unique(numbers[~np.isnan(numbers)])
    names = tuple(sorted(repr(float(value)) for value in values[:1]))
    counts = (*((int((~np.isnan(numbers)).sum()),) if names else ()), *(0,) * BUCKETS)
    return ColumnFrame(counted.name, counted.type, "constant", (), names), _with(counted, counts=counts, nulls=rows - sum(counts))


def _with(profile: ColumnProfile, **changed: Any) -> ColumnProfile:
    import msgspec

    return msgspec.structs.replace(profile, **changed)
