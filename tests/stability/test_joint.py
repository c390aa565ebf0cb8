"""What columns say of each other, and what a time says of them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mlsec_dagster.stability.frames import learn_frame
from mlsec_dagster.stability.joint import dependencies
from mlsec_dagster.stability.measuring import measure
from mlsec_dagster.stability.profiles import Roles
from mlsec_dagster.stability.references import learn_reference
from mlsec_dagster.stability.samples import pair

FIRST = datetime(2024, 1, 1, tzinfo=UTC)
RARE = 5


def week(number: int, rows: int = 2_000) -> pa.Table:
    generator = np.random.default_rng(number)
    moments = [FIRST + timedelta(days=7 * number, minutes=int(minute)) for minute in generator.integers(0, 7 * 24 * 60, rows)]
    # A rare hour has one row as a rule, and that is in order.
    moments = [moment for moment in moments if moment.hour != RARE or generator.random() < 0.1]
    return pa.table(
        {
            "moment": pa.array(moments, pa.timestamp("us", "UTC")),
            "month": [moment.month for moment in moments],
            "day": [moment.day for moment in moments],
            "hour": [moment.hour for moment in moments],
            "value": generator.integers(0, 50, len(moments)),
        }
    )


def found(window: pa.Table) -> dict[tuple[str, str], int]:
    samples = [week(number) for number in range(8)]
    roles = Roles(time="moment")
    newest, _ = measure(samples[-1], learn_frame(samples[-1], roles), roles, b"a key of some thirty-two bytes..")
    frame, _ = learn_reference(samples, before=newest, roles=roles)
    return dependencies(pair(samples, window, frame)) or {}


def test_what_follows_from_the_time_is_known_without_being_declared() -> None:
    assert found(week(8)) == {("moment", "month"): 0, ("moment", "day"): 0, ("moment", "hour"): 0}


@pytest.mark.parametrize("name", ["month", "day", "hour"])
def test_rows_out_of_step_with_time_are_counted(name: str) -> None:
    window = week(8)
    values: Any = window[name].to_numpy().copy()
    chosen = np.random.default_rng(1).choice(len(values), len(values) // 50, replace=False)
    values[chosen] += 1
    window = window.set_column(window.schema.get_field_index(name), name, pa.array(values))
    out_of_step = found(window)
    # One in a few has a neighbour that begins another hour, or was chosen too.
    assert len(chosen) * 0.7 <= out_of_step.pop(("moment", name)) <= len(chosen)
    assert set(out_of_step.values()) == {0}
