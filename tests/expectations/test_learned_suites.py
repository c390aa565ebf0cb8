"""A learned baseline as a GX suite: earlier windows satisfy it, and what changed since does not."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from mlsec_dagster.errors import ConfigurationError
from mlsec_dagster.stability.expectations import expectation_suite
from mlsec_dagster.stability.profiles import ColumnFrame, ColumnProfile, Frame, Profile
from mlsec_dagster.stability.suites import hold_against, read_suite

pytest.importorskip("great_expectations", reason="needs great-expectations: install mlsec-dagster[gx]")

FRAME = Frame(
    columns=(
        ColumnFrame("carrier", "string", "category", categories=("AA", "B6", "UA")),
        ColumnFrame("late", "bool", "boolean", categories=("false", "true")),
        ColumnFrame("engines", "int64", "category", categories=("1", "2")),
        ColumnFrame("distance", "int64", "number", edges=(500.0, 1500.0)),
        ColumnFrame("delay", "float64", "number", edges=(0.0, 30.0)),
        ColumnFrame("tailnum", "string", "identifier"),
        ColumnFrame("time_hour", "timestamp[us, UTC]", "time", edges=(0.0,), monotone=True),
    )
)


def window(seed: int, rows: int = 400) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    delay = random.normal(12, 40, rows)
    delay[random.random(rows) < 0.03] = np.nan
    return pd.DataFrame(
        {
            "carrier": random.choice(["UA", "AA", "B6"], rows),
            "late": random.random(rows) < 0.2,
            "engines": random.choice([1, 2], rows),
            "distance": random.integers(100, 3000, rows),
            "delay": delay,
            "tailnum": [f"N{number}" for number in random.integers(0, 10**6, rows)],
            "time_hour": pd.Timestamp("2013-01-01", tz="UTC") + pd.to_timedelta(np.arange(rows) + seed * rows, unit="h"),
        }
    )


def measured(frame: pd.DataFrame) -> Profile:
    """What a profile says of a window, counted here by other means than the package's own."""
    columns = []
    for known in FRAME.columns:
        if known.name not in frame:
            continue
        values = frame[known.name]
        numbers = values.dropna().astype(float) if known.kind == "number" else pd.Series(dtype=float)
        texts = values.dropna().astype(str).map(lambda text: text.lower() if known.kind == "boolean" else text)  # noqa: B023
        counts = tuple(int((texts == name).sum()) for name in known.categories)
        unlisted = texts[~texts.isin(known.categories)].value_counts() if known.categories else pd.Series(dtype=int)
        other = (int(unlisted.sum()),)
        columns.append(
            ColumnProfile(
                name=known.name,
                type=known.type,
                nulls=int(values.isna().sum()),
                minimum=float(numbers.min()) if len(numbers) else None,
                maximum=float(numbers.max()) if len(numbers) else None,
                mean=float(numbers.mean()) if len(numbers) else None,
                deviation=float(numbers.std(ddof=0)) if len(numbers) else None,
                counts=(*counts, *other) if known.categories else (),
                unlisted=tuple((str(name), int(rows)) for name, rows in unlisted.items()),
            )
        )
    return Profile(rows=len(frame), columns=tuple(columns))


WINDOWS = [window(seed) for seed in range(8)]


def suite_of(windows: Sequence[pd.DataFrame] = WINDOWS, **options: Any) -> dict[str, Any]:
    learned = expectation_suite(FRAME, [measured(each) for each in windows], name="flights", **options)
    return read_suite(learned)


def broken(suite: dict[str, Any], frame: pd.DataFrame) -> set[tuple[str, tuple[str, ...]]]:
    return {(outcome.claim, outcome.columns) for outcome in hold_against(suite, frame) if not outcome.held}


def test_the_windows_that_it_was_learnt_from_satisfy_it() -> None:
    suite = suite_of()
    assert len(suite["expectations"]) > 20
    for each in WINDOWS:
        assert broken(suite, each) == set()
        assert broken(suite, pa.Table.from_pandas(each).to_pandas()) == set()


def test_most_clean_windows_that_come_after_satisfy_it_too() -> None:
    suite = suite_of()
    alarms = [broken(suite, window(seed)) for seed in range(100, 120)]
    assert sum(bool(each) for each in alarms) <= 4, alarms


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda frame: frame.drop(columns="distance"), ("table columns to match set", ())),
        (lambda frame: frame.assign(new=1), ("table columns to match set", ())),
        (lambda frame: frame.assign(carrier=["ZZ", *frame["carrier"][1:]]), ("column values to be in set", ("carrier",))),
        (lambda frame: frame.assign(engines=[4, *frame["engines"][1:]]), ("column values to be in set", ("engines",))),
        (lambda frame: frame.assign(delay=frame["delay"] + 20), ("column mean to be between", ("delay",))),
        (lambda frame: frame.assign(delay=frame["delay"] * 2), ("column stdev to be between", ("delay",))),
        (lambda frame: frame.assign(distance=[90_000, *frame["distance"][1:]]), ("column max to be between", ("distance",))),
        (lambda frame: frame.assign(distance=frame["distance"].astype(str)), ("column values to be in type list", ("distance",))),
        (lambda frame: frame.assign(carrier=[None, *frame["carrier"][1:]]), ("column values to not be null", ("carrier",))),
        (lambda frame: frame.assign(delay=[None] * 60 + list(frame["delay"][60:])), ("column values to not be null", ("delay",))),
        (lambda frame: frame.head(200), ("table row count to be between", ())),
    ],
)
def test_what_changed_since_is_found(change: Callable[[pd.DataFrame], pd.DataFrame], found: tuple[str, tuple[str, ...]]) -> None:
    assert found in broken(suite_of(), change(window(3)))


def test_values_of_sensitive_columns_are_not_in_the_suite() -> None:
    text = json.dumps(suite_of(sensitive=["carrier", "distance"]))
    assert "B6" not in text
    assert {"expect_column_min_to_be_between", "expect_column_max_to_be_between"} & {
        each["type"] for each in json.loads(text)["expectations"] if each["kwargs"].get("column") == "distance"
    } == set()
    assert not any(name in text for name in WINDOWS[0]["tailnum"])


def test_of_what_may_change_freely_only_that_it_is_there_is_stated() -> None:
    suite = suite_of(ignore=["delay"])
    assert broken(suite, window(3).assign(delay="late")) == set()
    assert ("table columns to match set", ()) in broken(suite, window(3).drop(columns="delay"))


def test_windows_that_differ_are_still_satisfied_by_what_they_share() -> None:
    odd = [window(0), window(1).drop(columns="engines"), window(2, rows=5).assign(carrier="XX"), window(3).assign(delay=np.nan)]
    suite = suite_of(odd)
    for each in odd:
        assert broken(suite, each) == set()


def test_one_window_has_no_variation_to_learn_from() -> None:
    with pytest.raises(ConfigurationError, match="two windows or more"):
        suite_of(WINDOWS[:1])
