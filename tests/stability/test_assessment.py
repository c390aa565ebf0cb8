"""A window against the windows before it, from the table to the verdict."""

from functools import cache

import numpy as np
import pyarrow as pa
import pytest

from mlsec_dagster.stability.assessment import WINDOWS_NEEDED, Assessment, History, assess
from mlsec_dagster.stability.profiles import Roles
from mlsec_dagster.stability.slices import slices_of

KEY = b"a key of thirty-two bytes, or so"
ROLES = Roles(label="bought")
ROWS = 800


def columns(seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    price = random.normal(100, 20, ROWS)
    region = random.choice(["north", "south", "west"], ROWS, p=[0.5, 0.3, 0.2])
    return {
        "price": price,
        "cost": 0.5 * price + random.normal(0, 2, ROWS),
        "region": region,
        "bought": np.where(price > 100, "yes", "no"),
    }


@cache
def history() -> History:
    """Twenty ordinary windows."""
    windows, samples = [], []
    for seed in range(WINDOWS_NEEDED):
        found = assess(pa.table(columns(seed)), History(windows, samples[-8:]), roles=ROLES, key=KEY)
        assert found.outcome == "learning"
        windows.append(found.window)
        samples.append(found.sample)
    return History(windows, samples[-8:])


def assessed(table: pa.Table) -> Assessment:
    return assess(table, history(), roles=ROLES, key=KEY)


def worst(found: Assessment) -> str:
    assert found.judgement is not None
    return found.channels[int(np.nanargmax(found.judgement.scores))].test


def test_an_ordinary_window_is_stable() -> None:
    assert assessed(pa.table(columns(1001))).outcome == "stable"


def test_flipped_labels_are_seen_in_the_labels() -> None:
    data = columns(1002)
    data["bought"][:40] = np.where(data["bought"][:40] == "yes", "no", "yes")
    found = assessed(pa.table(data))
    assert (found.outcome, worst(found)) == ("alarm", "label")


def test_repeated_rows_are_seen() -> None:
    table = pa.table(columns(1003))
    found = assessed(pa.concat_tables([table, table.slice(0, 40)]))
    assert (found.outcome, worst(found)) == ("alarm", "duplicates")


def test_a_category_that_was_never_there_is_seen() -> None:
    data = columns(1004)
    data["region"] = np.where(np.arange(ROWS) < 20, "east", data["region"])
    found = assessed(pa.table(data))
    assert (found.outcome, worst(found)) == ("alarm", "unseen")


def test_a_column_that_moves_by_itself_is_seen_in_its_relation_to_the_others() -> None:
    data = columns(1005)
    data["cost"] = data["cost"] + 3.0  # 0.3 of its own deviation, 1.5 of what is left when the price is known
    found = assessed(pa.table(data))
    assert (found.outcome, worst(found)) == ("alarm", "relation")


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.drop_columns(["cost"]),
        lambda table: table.append_column("more", table.column("price")),
        lambda table: table.set_column(0, "price", table.column("price").cast(pa.string())),
        lambda table: table.slice(0, 0),
    ],
    ids=["a column gone", "a column more", "another type", "no rows"],
)
def test_another_make_is_told_at_once(change) -> None:
    found = assessed(change(pa.table(columns(1006))))
    assert found.outcome == "schema"
    assert found.changes
    assert found.window.alarmed


def test_slices_are_the_longest_of_which_there_are_enough_and_complete() -> None:
    day = 86_400.0
    year = slices_of((0.0, 365 * day))
    assert {end - start for start, end in year} == {7 * day}
    assert year[0][0] > 0.0
    assert year[-1][1] <= 365 * day
    assert {end - start for start, end in slices_of((0.0, 40 * day))} == {day}
    assert slices_of((0.0, 10 * 3600.0)) == []
