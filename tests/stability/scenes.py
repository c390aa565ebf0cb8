"""Assessments as the measuring part makes them, put together by hand, so that the words are tested and not the measuring."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from mlsec_dagster.stability.assessment import Assessment, History, Outcome
from mlsec_dagster.stability.channels import Channel
from mlsec_dagster.stability.decision import Judgement
from mlsec_dagster.stability.joint import Together
from mlsec_dagster.stability.labels import FEW, Disagreement
from mlsec_dagster.stability.profiles import ColumnFrame, ColumnProfile, Frame, Profile, Window
from mlsec_dagster.stability.windows import Observation

ROWS = 6_500
CARRIERS = ("AA", "B6", "UA")
DISTANCE = ColumnFrame("distance", "int64", "number", edges=(500.0, 1000.0, 1500.0))
CARRIER = ColumnFrame("carrier", "string", "category", categories=CARRIERS)
DELAY = ColumnFrame("dep_delay", "double", "number", edges=(0.0, 10.0))
TIME = ColumnFrame("dep_time", "double", "number", edges=(600.0, 1800.0))
TAIL = ColumnFrame("tailnum", "string", "identifier")
LATE = ColumnFrame("arr_late", "bool", "boolean", categories=("False", "True"))
FRAME = Frame((DISTANCE, CARRIER, DELAY, TIME, TAIL, LATE))


def counted(*named: int) -> tuple[int, ...]:
    """Counts of categories, with no other value."""
    return (*named, 0)


BEFORE: dict[str, ColumnProfile] = {
    "distance": ColumnProfile("distance", "int64", distinct=180, mean=1041.0, counts=(1500, 2000, 1500, 1500)),
    "carrier": ColumnProfile("carrier", "string", distinct=3, counts=counted(2400, 3000, 1100)),
    "dep_delay": ColumnProfile("dep_delay", "double", nulls=156, distinct=300, mean=12.0, counts=(4000, 1344, 1000)),
    "dep_time": ColumnProfile("dep_time", "double", nulls=156, distinct=900, mean=1300.0, counts=(1000, 4000, 1344)),
    "tailnum": ColumnProfile("tailnum", "string", distinct=3_100),
    "arr_late": ColumnProfile("arr_late", "bool", distinct=2, counts=counted(5000, 1500)),
}


def profile(rows: int = ROWS, **changed: Mapping[str, Any]) -> Profile:
    """A window like those before it but for what is given: fields of a column by the column's name."""
    columns = [msgspec.structs.replace(BEFORE[column.name], **changed.get(column.name, {})) for column in FRAME.columns]
    return Profile(rows, tuple(columns), patterns={"000000": rows - 156, "001100": 156}, hashed=rows)


def window(values: Mapping[Channel, float], *, alarmed: bool = False, statistic: tuple[float, float] | None = (2.0, 5.0)) -> Window:
    channels = tuple((*channel, value) for channel, value in values.items())
    return Window(profile(), {"carrier": CARRIERS}, channels, alarmed, statistic)


def history(count: int = 24, values: Mapping[Channel, float] | None = None) -> History:
    return History([window(values or {}) for _ in range(count)])


def assessed(
    scores: Mapping[Channel, float],
    *,
    outcome: Outcome = "alarm",
    values: Mapping[Channel, float] | None = None,
    now: Profile | None = None,
    observation: Mapping[str, Any] | None = None,
    p_value: float = 0.0008,
    changes: Sequence[str] = (),
    frame: Frame = FRAME,
    reference: Profile | None = None,
) -> Assessment:
    """What was found: how far each channel lies off, where 5 is the threshold."""
    found = now or profile()
    seen = dict.fromkeys(scores, 9.0) | dict(values or {})
    alarm = outcome == "alarm"
    judgement = Judgement(
        alarm,
        p_value,
        "rank",
        120,
        np.array(list(scores.values()), float),
        np.zeros(len(scores)),
        np.ones(len(scores)),
        statistic=max(scores.values(), default=0.0),
        novelty=0.0,
        threshold=5.0,
        novelty_threshold=5.0,
    )
    kept = Window(found, {}, (), alarm, (judgement.statistic, 5.0))
    facts = {"together": Together({}), **(observation or {})}
    return Assessment(
        outcome,
        kept,
        pa.table({"distance": [1]}),
        frame,
        reference or profile(),
        Observation(seen, **facts),
        tuple(scores),
        judgement,
        tuple(changes),
    )


def labels(sure: int, differing: int) -> Disagreement:
    channel = Channel("label", "arr_late", "False")
    return Disagreement({channel: math.log((differing + FEW) / (sure + FEW))}, {"False": (sure, differing)})
