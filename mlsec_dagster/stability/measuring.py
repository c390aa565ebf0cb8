"""One window as a profile: what is counted about it, and a small sample.

    frame = learn_frame(path, roles)
    profile, sample = measure(path, frame, roles, key)

The same expressions run on DuckDB and on every other engine that Ibis knows. Approximate figures (distinct counts, and the quantiles that a
frame learns) differ by engine by a few per cent; which cells of the hash buckets are filled, and which rows are chosen for the sample,
depend on the engine altogether, so profiles are comparable only if the same engine made them. Everything else is exact.

A window is gone over a few times, each time in as few queries as the engine takes: single figures; cells per column, each read by itself;
the sample; and, if anything is null, what is null together. Nothing is ever grouped by values of which there may be any number.
"""

# Ibis, numpy and pyarrow compute functions bring no types that a checker knows.
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, cast

from mlsec_dagster.errors import ConfigurationError, UnverifiableError
from mlsec_dagster.integrity.limits import DEFAULT_LIMITS, Limits
from mlsec_dagster.stability.columns import Column, bucket, cell, columns_of, secret_number
from mlsec_dagster.stability.profiles import CATEGORIES, ColumnFrame, ColumnProfile, Frame, Profile, Roles
from mlsec_dagster.stability.sampling import Sample, draw
from mlsec_dagster.stability.scalars import Scalars, chunked, narrow, scalars_of
from mlsec_dagster.stability.sources import Window, opened

if TYPE_CHECKING:
    import pyarrow as pa

_BY_VALUE: Final = 4096
"""A column with about so many values, none of them long, may be grouped by them."""

_UNLISTED: Final = 20
"""Values that the frame does not name which a profile names, at most."""

_LONGEST: Final = 256
_PATTERNS: Final = 100_000
_QUERIES: Final = 64


def measure(
    source: Any,
    frame: Frame,
    roles: Roles,
    key: bytes,
    *,
    between: tuple[float, float] | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> "tuple[Profile, pa.Table]":
    """Measures one window of a dataset.

    Args:
        source: The window: a path (Parquet, CSV, Feather, or a directory of such parts), a table in memory, a DuckDB relation, or an Ibis
            table of any backend, which is measured where it lies.
        frame: How to count.
        roles: What columns were declared to be.
        key: At least 16 secret bytes, which decide the hash buckets and the sample; see `sampling` for what that is worth.
        between: Start and end, in seconds since the epoch; only rows whose declared time is at or after the start and before the end.
        limits: Bounds for files.

    Returns:
        The profile, and the sample: at most `SAMPLE_ROWS` rows, all of them if the window has no more, of all columns but ignored ones.
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
        columns = columns_of(window)
        asked = [column for column in columns if column.name not in roles.ignore]
        known = _known(columns, frame)
        table = window.table if between is None else _slice(window, columns, roles, between)
        centers = {place: each.edges[len(each.edges) // 2] for place, each in known.items() if each.edges}
        found = scalars_of(window, table, asked, centers, {place for place, each in known.items() if each.kind == "category"})
        rows = _rows(window, table, found)
        counted = [column for column in asked if column.place in known and known[column.place].cells]
        counts, others = _counts(window, table, counted, known, found, key)
        # What is unlisted, and which characters there are, is looked up in the sample where it was not counted.
        identifiers = {place for place, each in known.items() if each.kind == "identifier"}
        keyed = [column for column in asked if column.place not in identifiers and column.family != "other"]
        sample = draw(window, table, keyed or asked, asked, rows, key)
        clock = next((column for column in asked if column.name == roles.time), None)
        profile = Profile(
            rows=rows,
            columns=tuple(_profile(column, known.get(column.place), found, counts, others, sample) for column in columns),
            patterns=_patterns(window, table, asked, frame, found, rows, sample.share),
            hashed=sample.hashed,
            duplicates=sample.duplicates,
            window=between or _span(clock, found),
        )
        names = [column.name for column in asked]
        return profile, sample.rows.rename_columns(names)


def _known(columns: Sequence[Column], frame: Frame) -> dict[int, ColumnFrame]:
    """The frames of columns that are what they were, by place. Of columns with one name, the first meets the first."""
    left: dict[str, list[ColumnFrame]] = {}
    for each in frame.columns:
        left.setdefault(each.name, []).append(each)
    found: dict[int, ColumnFrame] = {}
    for column in columns:
        if left.get(column.name):
            each = left[column.name].pop(0)
            if each.type == column.type:
                found[column.place] = each
    return found


def _slice(window: Window, columns: Sequence[Column], roles: Roles, between: tuple[float, float]) -> Any:
    import ibis

    clock = next((column for column in columns if column.name == roles.time), None)
    if clock is None or clock.family not in ("time", "number"):
        what = "no time column is declared" if roles.time is None else f"its time column {roles.time!r} is missing or holds no times"
        raise UnverifiableError(f"{window.name} cannot be cut into time slices: {what}; declare a column of timestamps, dates or seconds")
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


def _rows(window: Window, table: Any, found: Mapping[int, Scalars]) -> int:
    for each in found.values():
        return each.rows
    return int(window.rows(table.aggregate(rows=table.count()))[0]["rows"])


def _counts(
    window: Window, table: Any, columns: Sequence[Column], known: Mapping[int, ColumnFrame], found: Mapping[int, Scalars], key: bytes
) -> tuple[dict[int, list[int]], dict[int, Counter[str]]]:
    """Counts the cells of each column; and, of those that are grouped by value, the values that the frame does not name."""
    import ibis

    counts = {column.place: [0] * known[column.place].cells for column in columns}
    others: dict[int, Counter[str]] = {}
    bins: dict[int, list[int]] = {}
    secret = secret_number(key, "bucket")
    for some in chunked([column for column in columns if found[column.place].filled], _QUERIES):
        part = narrow(table, some)
        queries: list[Any] = []
        for column in some:
            each = known[column.place]
            if each.kind in ("number", "time", "text", "nested"):
                number, bins[column.place] = cell(column, column.number(part), each.edges)
                queries.append(_grouped(ibis, part, column.place, number))
            elif each.kind == "identifier":
                value, kind = _plain(column, part)
                queries.append(_grouped(ibis, part, column.place, bucket(window.engine, value, kind, secret)))
            else:
                others[column.place] = Counter()
                queries.append(_named(ibis, window, part, column, each, found[column.place], secret))
        for row in window.rows(cast("Any", ibis).union(*queries)):
            found_row: dict[str, Any] = row
            place, number, value, rows = found_row["place"], found_row["cell"], found_row["value"], found_row["rows"]
            if (number, value) == (None, None):
                continue  # null, which was counted already
            cells = counts[place]
            if place in bins:
                cells[bins[place][number]] += rows
            elif place not in others:
                cells[number] += rows
            else:
                listed = known[place].categories
                position = _position(listed, value)
                if position is not None:
                    cells[position] += rows
                    continue
                cells[len(listed) + number] += rows
                if value is not None:
                    others[place][value] += rows
    for column in columns:
        if column.place in bins:
            # Null and NaN were counted as larger than every edge.
            counts[column.place][-1] -= found[column.place].rows - found[column.place].filled + found[column.place].nans
    return counts, others


def _position(listed: Sequence[str], value: str | None) -> int | None:
    from bisect import bisect_left

    if value is None:
        return None
    place = bisect_left(listed, value)
    return place if place < len(listed) and listed[place] == value else None


def _plain(column: Column, table: Any) -> tuple[Any, Any]:
    """A value in the form in which it is hashed into a bucket, and that form's Ibis type."""
    if column.family == "text":
        return column.text(table[column.id]), "string"
    if column.family in ("number", "boolean") and not column.dtype.is_integer():
        return column.number(table), "float64"
    if column.family == "number":
        return table[column.id].cast("int64") if not column.dtype.is_unsigned_integer() else table[column.id], (
            "int64" if not column.dtype.is_unsigned_integer() else column.dtype
        )
    return column.number(table), "float64"


def _grouped(ibis: Any, table: Any, place: int, number: Any) -> Any:
    grouped = table.group_by(cell=number).aggregate(rows=ibis._.count())
    return grouped.select(
        place=ibis.literal(place, "int32"), cell=grouped.cell.cast("int32"), value=ibis.null("string"), rows=grouped.rows.cast("int64")
    )


def _named(ibis: Any, window: Window, table: Any, column: Column, each: ColumnFrame, scalars: Scalars, secret: int) -> Any:
    """Rows per value with the value's bucket: of all values where there are few, else of those that the frame names."""
    if column.family == "boolean":
        value, kind = ibis.ifelse(table[column.id], "true", "false"), "string"
        value = ibis.ifelse(table[column.id].isnull(), ibis.null("string"), value)
    elif column.family == "text":
        value, kind = column.text(table[column.id]), "string"
    else:
        value, kind = column.number(table), "float64"
    few = scalars.distinct <= _BY_VALUE and (column.family != "text" or scalars.longest <= _LONGEST)
    given = table.select(value=value)
    if few:
        counted = given.group_by("value").aggregate(rows=ibis._.count())
        counted = counted.mutate(cell=bucket(window.engine, counted.value, kind, secret))
    else:
        listed = given.value.isin([text if kind == "string" else float(text) for text in each.categories]) if each.categories else None
        named = ibis.null(kind) if listed is None else ibis.ifelse(listed, given.value, ibis.null(kind))
        hashed = bucket(window.engine, given.value, kind, secret)
        given = given.select(value=named, cell=hashed if listed is None else ibis.ifelse(listed, ibis.null(hashed.type()), hashed))
        counted = given.group_by("value", "cell").aggregate(rows=ibis._.count())
    if kind == "string":
        text = counted.value
    else:
        # A number has one text only if it is written here, so those that the frame names are told by their value.
        text = ibis.null("string")
        for category in each.categories:
            text = ibis.ifelse(counted.value == float(category), ibis.literal(category), text)
        text = ibis.coalesce(text, counted.value.cast("string"))
    return counted.select(
        place=ibis.literal(column.place, "int32"), cell=counted.cell.cast("int32"), value=text, rows=counted.rows.cast("int64")
    )


def _profile(
    column: Column,
    each: ColumnFrame | None,
    found: Mapping[int, Scalars],
    counts: Mapping[int, Sequence[int]],
    others: Mapping[int, Counter[str]],
    sample: Sample,
) -> ColumnProfile:
    scalars = found.get(column.place)
    if scalars is None:  # ignored
        return ColumnProfile(column.name, column.type)
    unlisted: list[tuple[str, int]] = []
    if each is not None and each.kind in ("category", "constant") and column.family in ("text", "number"):
        seen = others.get(column.place) or Counter[str]()
        if not seen and column.family == "text" and sum(counts[column.place][len(each.categories) :]):
            seen = Counter(text for text in sample.rows.column(column.id).to_pylist() if text is not None and text not in each.categories)
        unlisted = sorted(seen.items(), key=lambda pair: (-pair[1], pair[0]))[:_UNLISTED]
    return ColumnProfile(
        name=column.name,
        type=column.type,
        nulls=scalars.rows - scalars.filled,
        nans=scalars.nans,
        infinities=scalars.infinities,
        distinct=scalars.distinct,
        minimum=scalars.minimum,
        maximum=scalars.maximum,
        mean=scalars.mean,
        deviation=scalars.deviation,
        counts=tuple(counts.get(column.place, ())),
        unlisted=tuple((text[:_LONGEST], number) for text, number in unlisted),
        characters=characters(sample.rows.column(column.id)) if column.family == "text" else (),
    )


def characters(texts: "pa.ChunkedArray[Any]") -> tuple[float, ...]:
    """Shares of letters, digits, white space and everything else among the characters of the sample, in that order."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = texts.cast(pa.string())
    total = pc.sum(pc.utf8_length(texts)).as_py() or 0
    if not total:
        return ()
    letters, digits, spaces = (
        pc.sum(pc.count_substring_regex(texts, pattern=pattern)).as_py() or 0 for pattern in (r"\pL", r"\p{Nd}", r"[\s\pZ]")
    )
    return letters / total, digits / total, spaces / total, max(total - letters - digits - spaces, 0) / total


def _patterns(
    window: Window, table: Any, columns: Sequence[Column], frame: Frame, found: Mapping[int, Scalars], rows: int, share: float
) -> dict[str, int]:
    """Counts which columns are null together; the commonest combinations only.

    Where there are more than about `_PATTERNS` of them, they are counted among a random share of the rows and scaled up.
    """
    import ibis

    if not rows:
        return {}
    zero, random = ibis.literal(0, "int64"), ibis.random()
    places = {column.name: column for column in reversed(columns)}
    order = [places.get(each.name) for each in frame.columns]
    ignored_or_gone = "".join("0" if column is None else "1" if not found[column.place].filled else "0" for column in order)
    some = [
        (position, column)
        for position, column in enumerate(order)
        if column is not None and 0 < found[column.place].filled < found[column.place].rows
    ]
    if not some:
        return {ignored_or_gone: rows}
    words: dict[str, Any] = {}
    for number, part in enumerate(chunked(some, 60)):
        words[f"w{number}"] = sum(
            (table[column.id].isnull().cast("int64") * (1 << bit) for bit, (_, column) in enumerate(part)), cast("Any", zero)
        )
    packed = table.select(**words)
    scale = 1.0
    if len(some) > 16 and rows > _PATTERNS:
        several = ibis.literal("-").join([packed[name].cast("string") for name in words]).approx_nunique()
        if window.rows(packed.aggregate(several=several))[0]["several"] > _PATTERNS:
            packed, scale = packed.filter(cast("Any", random) < share), share
    counted = packed.group_by(list(words)).aggregate(rows=ibis._.count())
    counted = counted.order_by([ibis.desc("rows"), *words]).limit(CATEGORIES)
    patterns: dict[str, int] = {}
    for row in window.rows(counted):
        flags = list(ignored_or_gone)
        for bit, (position, _) in enumerate(some):
            flags[position] = "01"[row[f"w{bit // 60}"] >> bit % 60 & 1]
        patterns["".join(flags)] = round(row["rows"] / scale)
    return patterns


def _span(clock: Column | None, found: Mapping[int, Scalars]) -> tuple[float, float] | None:
    scalars = None if clock is None else found.get(clock.place)
    if scalars is None or scalars.minimum is None or scalars.maximum is None:
        return None
    return scalars.minimum, scalars.maximum
