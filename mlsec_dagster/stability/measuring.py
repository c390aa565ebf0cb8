"""One window as a profile: what is counted about it, and a small sample.

    frame = learn_frame(path, roles)
    profile, sample = measure(path, frame, roles, key)

What is small is held in memory and counted there (`counting`); of what is not, an engine is asked (`querying`). Both say the same, but for
distinct counts of texts and identifiers, which engines estimate.
"""

# Ibis and pyarrow bring no types of their own, so what comes out of them is unknown to a type checker.
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from mlsec_dagster.errors import ConfigurationError, UnverifiableError
from mlsec_dagster.integrity.limits import DEFAULT_LIMITS, Limits
from mlsec_dagster.stability.columns import Column, columns_of
from mlsec_dagster.stability.conversion import Family, family_of, shown
from mlsec_dagster.stability.counting import NAMED, WORD, counted, patterns
from mlsec_dagster.stability.profiles import ColumnFrame, ColumnProfile, Frame, Profile, Roles
from mlsec_dagster.stability.querying import count_cells, patterns_of, profile_of
from mlsec_dagster.stability.sampling import draw, hashed_in_memory, held_sample
from mlsec_dagster.stability.scalars import scalars_of
from mlsec_dagster.stability.sources import Held, Window, opened

if TYPE_CHECKING:
    import pyarrow as pa

Slice = tuple[float, float]


def measure(
    source: Any,
    frame: Frame,
    roles: Roles,
    key: bytes,
    *,
    between: Slice | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> "tuple[Profile, pa.Table]":
    """Measures one window of a dataset.

    Args:
        source: The window: a path (Parquet, CSV, Feather, or a directory of such parts), a table in memory, a DuckDB relation, or an Ibis
            table of any backend, which is measured where it lies.
        frame: How to count.
        roles: What columns were declared to be.
        key: At least 16 secret bytes, which decide the rows that are looked at for duplicates; see `sampling` for what that is worth.
        between: Start and end, in seconds since the epoch; only rows whose declared time is at or after the start and before the end.
        limits: Bounds for files.

    Returns:
        The profile, and the sample: at most `SAMPLE_ROWS` rows in random order, all of them if the window has no more, of all columns but
        ignored ones.
        Texts are cut to 256 characters; decimals are float64; of lists, maps, structs and binary values it has the length (float64);
        of types that the engine cannot read, whether there is a value.

    Raises:
        UnverifiableError: The window cannot be read, the engine failed or lacks memory, or `between` is given without a time column.
        LimitExceededError: It asks for more than the limits allow.
        ConfigurationError: The key is too short.
    """
    if len(key) < 16:
        raise ConfigurationError(f"the key of a profile has {len(key)} bytes; expected 16 or more random ones")
    with opened(source, limits, {each.name: each.type for each in frame.columns}) as window:
        if isinstance(window, Held):
            return _in_memory(window, frame, roles, key, between)
        return _in_an_engine(window, frame, roles, key, between)


def _in_memory(window: Held, frame: Frame, roles: Roles, key: bytes, between: Slice | None) -> "tuple[Profile, pa.Table]":
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    types: list[Family] = [family_of(field.type, kind) for field, kind in zip(window.table.schema, window.types, strict=True)]
    table = window.table if between is None else _cut(window, types, roles, between)
    known = _known(window.names, window.types, frame)
    asked = [place for place, name in enumerate(window.names) if name not in roles.ignore]
    whole = pa.table({f"c{place}": shown(table.column(place), types[place]) for place in asked})
    sample = held_sample(whole)
    profiles: dict[int, ColumnProfile] = {}
    missing: dict[int, Any] = {}
    for place in asked:
        values = whole.column(f"c{place}")
        profiles[place] = counted(window.names[place], window.types[place], values, known.get(place), sample.column(f"c{place}"))
        if 0 < profiles[place].nulls < table.num_rows:
            missing[place] = np.asarray(pc.invert(values) if types[place] == "other" else pc.is_null(values))
    hashed, duplicates = hashed_in_memory(table.select(_keyed(asked, types, known)), key)
    found = patterns(list(missing.values()), table.num_rows) if missing else []
    empty = {place for place, profile in profiles.items() if profile.nulls == table.num_rows}
    clock = next((profiles[place] for place in asked if window.names[place] == roles.time), None)
    profile = Profile(
        rows=table.num_rows,
        columns=tuple(
            profiles.get(place) or ColumnProfile(name, kind)
            for place, (name, kind) in enumerate(zip(window.names, window.types, strict=True))
        ),
        patterns=_patterns(found, list(missing), empty, len(window.names), table.num_rows, 1.0),
        pattern_rows=table.num_rows,
        hashed=hashed,
        duplicates=duplicates,
        window=between or _span(clock),
    )
    return profile, sample.rename_columns([window.names[place] for place in asked])


def _in_an_engine(window: Window, frame: Frame, roles: Roles, key: bytes, between: Slice | None) -> "tuple[Profile, pa.Table]":
    columns = columns_of(window)
    asked = [column for column in columns if column.name not in roles.ignore]
    known = _known(window.names, window.types, frame)
    table = window.table if between is None else _slice(window, columns, roles, between)
    centers = {place: each.edges[len(each.edges) // 2] for place, each in known.items() if each.edges}
    found = scalars_of(window, table, asked, centers, {place for place, each in known.items() if each.kind in NAMED})
    rows = found[asked[0].place].rows if asked else int(window.rows(table.aggregate(rows=table.count()))[0]["rows"])
    cells, others = count_cells(
        window, table, [column for column in asked if column.place in known and known[column.place].cells], known, found
    )
    chosen = set(_keyed([column.place for column in asked], [column.family for column in columns], known))
    keyed = [column for column in asked if column.id in chosen]
    sample = draw(window, table, keyed, asked, rows, key)
    profiles = {column.place: profile_of(column, known.get(column.place), found[column.place], cells, others, sample) for column in asked}
    missing = [column for column in asked if 0 < found[column.place].filled < rows]
    pairs, exact = patterns_of(window, table, missing, keyed, rows, key) if missing else ([], True)
    empty = {place for place, scalars in found.items() if not scalars.filled}
    names = [column.name for column in asked]
    clock = next((profiles[column.place] for column in asked if column.name == roles.time), None)
    profile = Profile(
        rows=rows,
        columns=tuple(profiles.get(column.place) or ColumnProfile(column.name, column.type) for column in columns),
        patterns=_patterns(pairs, [column.place for column in missing], empty, len(columns), rows, 1.0 if exact else sample.hashed / rows),
        pattern_rows=rows if exact else sample.hashed,
        hashed=sample.hashed,
        duplicates=sample.duplicates,
        window=between or _span(clock),
    )
    return profile, sample.rows.rename_columns(names)


def _keyed(asked: Sequence[int], families: Sequence[Family], known: Mapping[int, ColumnFrame]) -> list[str]:
    """Columns whose values make rows equal: those that are neither identifiers nor unreadable; all, if there are none."""
    identifiers = {place for place, each in known.items() if each.kind == "identifier"}
    return [f"c{place}" for place in asked if place not in identifiers and families[place] != "other"] or [f"c{place}" for place in asked]


def _patterns(
    found: Sequence[tuple[tuple[int, ...], int]],
    missing: Sequence[int],
    empty: set[int],
    columns: int,
    rows: int,
    scale: float,
) -> dict[str, int]:
    """Says by columns which of them are null together.

    Args:
        found: Words of nulls and rows, see `counting.patterns`.
        missing: The columns that its bits stand for.
        empty: Columns without any value.
        columns: How many the window has; one that was not looked at counts as never null.
        rows: Of the window.
        scale: The share of them that was looked at.
    """
    if not rows:
        return {}
    always = ["1" if place in empty else "0" for place in range(columns)]
    named: dict[str, int] = {}
    for words, count in found or [((0,) * (len(missing) // WORD + 1), rows)]:
        flags = list(always)
        for bit, place in enumerate(missing):
            flags[place] = "01"[words[bit // WORD] >> bit % WORD & 1]
        pattern = "".join(flags)
        named[pattern] = named.get(pattern, 0) + count
    return {pattern: round(count / scale) for pattern, count in named.items()}


def _span(clock: ColumnProfile | None) -> Slice | None:
    return None if clock is None or clock.minimum is None or clock.maximum is None else (clock.minimum, clock.maximum)


def _known(names: Sequence[str], types: Sequence[str], frame: Frame) -> dict[int, ColumnFrame]:
    """The frames of columns that are what they were, by place. Of columns with one name, the first meets the first."""
    left: dict[str, list[ColumnFrame]] = {}
    for each in frame.columns:
        left.setdefault(each.name, []).append(each)
    found: dict[int, ColumnFrame] = {}
    for place, (name, kind) in enumerate(zip(names, types, strict=True)):
        if left.get(name):
            each = left[name].pop(0)
            if each.type == kind:
                found[place] = each
    return found


def _no_times(name: str, time: str | None) -> UnverifiableError:
    what = "no time column is declared" if time is None else f"its time column {time!r} is missing or holds no times"
    return UnverifiableError(f"{name} cannot be cut into time slices: {what}; declare a column of timestamps, dates or seconds")


def _cut(window: Held, families: Sequence[Family], roles: Roles, between: Slice) -> "pa.Table":
    """The rows of a slice of time; compared as they are stored."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as t

    place = next((place for place, name in enumerate(window.names) if name == roles.time), None)
    if place is None or families[place] not in ("time", "number"):
        raise _no_times(window.name, roles.time)
    values = window.table.column(place)
    if t.is_timestamp(values.type):
        # Ticks of its own unit; rounded to microseconds first, as engines have them.
        unit = {"s": 10**-6, "ms": 10**-3, "us": 1, "ns": 10**3}[values.type.unit]
        start, end = (math.ceil(math.ceil(seconds * 1e6) * unit) for seconds in between)
        values = values.cast(pa.int64())
    elif t.is_date(values.type):
        start, end = (math.ceil(seconds / 86_400) for seconds in between)
        values = values.cast(pa.date32()).cast(pa.int32())
    else:
        values = shown(values, families[place])
        start, end = between
    return window.table.filter(pc.and_(pc.greater_equal(values, start), pc.less(values, end)))


def _slice(window: Window, columns: Sequence[Column], roles: Roles, between: Slice) -> Any:
    import ibis

    clock = next((column for column in columns if column.name == roles.time), None)
    if clock is None or clock.family not in ("time", "number"):
        raise _no_times(window.name, roles.time)
    value = window.table[clock.id]
    if clock.dtype.is_timestamp():
        # Compared as it is stored, so that files can be skipped by their statistics.
        zoned = clock.dtype.timezone is not None
        start, end = (ibis.literal(_moment(seconds, zoned), clock.dtype.copy(timezone="UTC" if zoned else None)) for seconds in between)
    elif clock.dtype.is_date():
        start, end = (ibis.literal(_day(seconds), "date") for seconds in between)
    else:
        value = clock.number(window.table)
        start, end = (ibis.literal(float(seconds), "float64") for seconds in between)
    return window.table.filter(value >= start, value < end)


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def _moment(seconds: float, zoned: bool) -> datetime:
    moment = _EPOCH + timedelta(microseconds=math.ceil(seconds * 1e6))
    return moment if zoned else moment.replace(tzinfo=None)


def _day(seconds: float) -> date:
    return date(1970, 1, 1) + timedelta(days=math.ceil(seconds / 86_400))
