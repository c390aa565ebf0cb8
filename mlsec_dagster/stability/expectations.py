"""A learned baseline as a Great Expectations suite: what earlier windows have in common, in words that other tools understand.

    suite = expectation_suite(frame, profiles, name="raw_flights", sensitive=["tailnum"])
    json.dumps(suite.to_json_dict())

The windows that it was made from satisfy it. It is a simpler thing than a calibrated test: every expectation is on its own, its bounds are
ranges with a margin, and nobody has measured how often they alarm.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from mlsec_dagster.errors import ConfigurationError
from mlsec_dagster.stability.profiles import ColumnFrame, ColumnProfile, Frame, Profile
from mlsec_dagster.stability.suites import great_expectations

MARGIN: Final = 0.5
"""How far a bound lies outside of what was seen, as a share of the range that earlier windows span."""

LEAST_MARGIN: Final = 0.01
"""The same as a share of the value itself, for what hardly varied."""

_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "Int8", "Int16", "Int32", "Int64", "int")
_FLOATS = ("float16", "float32", "float64", "float", "Float32", "Float64")
_TIMES = ("datetime64[s]", "datetime64[ms]", "datetime64[us]", "datetime64[ns]")
_TEXTS = ("str", "string", "StringDtype")


def expectation_suite(
    frame: Frame, profiles: Sequence[Profile], *, name: str, sensitive: Iterable[str] = (), ignore: Iterable[str] = ()
) -> Any:
    """What earlier windows have in common, as a GX suite that they themselves satisfy.

    It states which columns there are and of which types, how many rows, the largest share of nulls, the values of categories, the range of
    numbers, and between what their mean and standard deviation lie. Of clocks, running numbers and identifiers it states types and nulls
    only.

    Args:
        frame: How the dataset is counted.
        profiles: Earlier windows, two or more.
        name: The suite's name.
        sensitive: Columns of which no value may appear: neither categories nor the smallest and largest number.
        ignore: Columns that may change freely; only that they are there is stated.

    Returns:
        A great_expectations.ExpectationSuite; `to_json_dict()` is what `build_expectation_checks` takes as a file.

    Raises:
        ConfigurationError: Fewer than two windows, or windows without a column in common.
        MissingExtraError: Great Expectations is not installed.
    """
    gx = great_expectations()
    if len(profiles) < 2:
        raise ConfigurationError(f"A suite is learnt from two windows or more, as one has no variation; there are {len(profiles)}.")
    in_all = [column.name for column in profiles[0].columns if all(profile.column(column.name) for profile in profiles)]
    if not in_all:
        raise ConfigurationError("The windows have no column in common, so there is nothing that a suite could state.")
    same = all({column.name for column in profile.columns} == set(in_all) for profile in profiles)
    smallest, largest = _widened([profile.rows for profile in profiles])
    expectations = [
        gx.expectations.ExpectTableColumnsToMatchSet(column_set=in_all, exact_match=same),
        gx.expectations.ExpectTableRowCountToBeBetween(min_value=max(0, math.floor(smallest)), max_value=math.ceil(largest)),
    ]
    hidden, free = set(sensitive), set(ignore)
    for column in in_all:
        if column in free:
            continue
        windows = [(profile, found) for profile in profiles if (found := profile.column(column)) is not None]
        known = frame.column(column)
        expectations += _of_type(gx, column, [found for _, found in windows])
        expectations += _of_nulls(gx, column, windows)
        if known is None or known.monotone:
            continue
        if known.kind in ("category", "boolean", "constant") and column not in hidden:
            expectations += _of_values(gx, known, windows)
        if known.kind == "number":
            expectations += _of_numbers(gx, column, windows, sensitive=column in hidden)
    return gx.ExpectationSuite(name=name, expectations=expectations)


def _widened(values: Sequence[float]) -> tuple[float, float]:
    """A range around values that has room for the next one."""
    low, high = min(values), max(values)
    margin = max(MARGIN * (high - low), LEAST_MARGIN * max(abs(low), abs(high)), 1e-9)
    return low - margin, high + margin


def _of_type(gx: Any, column: str, windows: Sequence[ColumnProfile]) -> Iterator[Any]:
    names: set[str] = set()
    for window in windows:
        found = _pandas_types(window.type, nulls=window.nulls > 0)
        if not found:
            return
        names.update(found)
    yield gx.expectations.ExpectColumnValuesToBeInTypeList(column=column, type_list=sorted(names))


def _pandas_types(arrow: str, *, nulls: bool) -> tuple[str, ...]:
    """What GX calls the type of a pandas column that was made of an Arrow one; nothing where no name of it is known to GX.

    That is so for lists and the like, for times with a zone and for dictionaries: GX compares names of NumPy and pandas types, and these
    are made with an argument.
    """
    if arrow.startswith(("int", "uint")) and not arrow.startswith("interval"):
        return (*_INTEGERS, *_FLOATS) if nulls else _INTEGERS  # pandas has no integers beside nulls
    if arrow.startswith(("float", "double", "halffloat")):
        return _FLOATS
    if arrow.startswith("bool"):
        return ("bool", "bool_", "boolean")
    if _is_text(arrow):
        return () if arrow.startswith("dictionary") else _TEXTS
    return _TIMES if arrow.startswith("timestamp") and "," not in arrow else ()


def _of_nulls(gx: Any, column: str, windows: Sequence[tuple[Profile, ColumnProfile]]) -> Iterator[Any]:
    """The largest share of nulls. NaN counts, because pandas knows no difference."""
    shares = [(found.nulls + found.nans) / profile.rows for profile, found in windows if profile.rows]
    if not shares:
        return
    most = 0.0 if max(shares) == 0 else _widened(shares)[1]
    if most < 1:
        yield gx.expectations.ExpectColumnValuesToNotBeNull(column=column, mostly=_down(1 - most))


def _of_values(gx: Any, known: ColumnFrame, windows: Sequence[tuple[Profile, ColumnProfile]]) -> Iterator[Any]:
    """The values of a category, and how many rows must have one of them if some windows had more than were counted by name."""
    names = {*known.categories, *(value for _, found in windows for value, _ in found.unlisted)}
    values = [_typed(text, known.type) for text in sorted(names)]
    if not values or None in values:
        return
    least = 1.0
    for _, found in windows:
        total = sum(found.counts)
        unnamed = sum(found.counts[len(known.categories) :]) - sum(rows for _, rows in found.unlisted)
        if total and unnamed > 0:
            least = min(least, 1 - unnamed / total)
    if least > 0:
        mostly = 1.0 if least == 1.0 else _down(least)
        yield gx.expectations.ExpectColumnValuesToBeInSet(column=known.name, value_set=values, mostly=mostly)


def _typed(text: str, arrow: str) -> Any:
    """A category's value as pandas holds it; None if its type has no plain form in a suite."""
    try:
        if arrow.startswith("bool"):
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if arrow.startswith(("int", "uint")):
            return int(text)
        if arrow.startswith(("float", "double", "halffloat")):
            return float(text)
    except (KeyError, ValueError):
        return None
    return text if _is_text(arrow) else None


def _is_text(arrow: str) -> bool:
    return arrow.removeprefix("dictionary<values=").startswith(("string", "large_string", "utf8", "large_utf8"))


def _of_numbers(gx: Any, column: str, windows: Sequence[tuple[Profile, ColumnProfile]], *, sensitive: bool) -> Iterator[Any]:
    """Range, mean and standard deviation; nothing where a window has no finite number, or infinite ones, which have no mean."""
    found = [window for _, window in windows]
    if any(window.infinities for window in found):
        return
    minima, maxima, means = ([getattr(window, what) for window in found] for what in ("minimum", "maximum", "mean"))
    if not sensitive and None not in minima and None not in maxima:
        low, high = _widened([*minima, *maxima])
        yield gx.expectations.ExpectColumnMinToBeBetween(column=column, min_value=low)
        yield gx.expectations.ExpectColumnMaxToBeBetween(column=column, max_value=high)
    if None not in means:
        low, high = _widened(means)
        yield gx.expectations.ExpectColumnMeanToBeBetween(column=column, min_value=low, max_value=high)
    either: list[float] = []
    for profile, window in windows:
        rows = profile.rows - window.nulls - window.nans
        if window.deviation is None or rows < 2:
            return
        # Of a sample or of all there is: whichever it was, the other lies this near.
        either += [window.deviation * math.sqrt((rows - 1) / rows), window.deviation * math.sqrt(rows / (rows - 1))]
    low, high = _widened(either)
    yield gx.expectations.ExpectColumnStdevToBeBetween(column=column, min_value=max(0.0, low), max_value=high)


def _down(share: float) -> float:
    """A share that loses nothing by being written with six digits."""
    return max(0.0, math.floor(share * 1e6) / 1e6)
