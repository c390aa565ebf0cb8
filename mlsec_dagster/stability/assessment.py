"""All of it, for one window: learn how to count, count, compare, decide.

    assessed = assess(path, History(windows, samples), roles=roles, key=key)
    assessed.outcome                              # "stable", "alarm", "learning" or "schema"
    windows.append(assessed.window)               # the next window is compared with this one
    samples.append(assessed.sample)

It needs no store and no Dagster; `asset_checks/distribution_stability.py` gives it verified data and keeps what it returns.
"""

# pyarrow brings no types of its own, so what comes out of it is unknown to a type checker.
# pyright: reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from mlsec_dagster.stability.channels import REFERENCE_WINDOWS, Channel, compared_with, values_of
from mlsec_dagster.stability.decision import LEAST_WINDOWS, MOST_WINDOWS, Judgement, judge, winsorised
from mlsec_dagster.stability.frames import learn_frame
from mlsec_dagster.stability.measuring import measure
from mlsec_dagster.stability.profiles import Frame, Profile, Roles, Window
from mlsec_dagster.stability.references import learn_reference
from mlsec_dagster.stability.windows import Observation, filled, observe, schema_changes

if TYPE_CHECKING:
    import pyarrow as pa

Outcome = Literal["stable", "alarm", "learning", "schema"]

WINDOWS_NEEDED = REFERENCE_WINDOWS + LEAST_WINDOWS
"""Windows before the first verdict: eight to compare with, and twelve that were themselves compared."""


@dataclass(frozen=True, slots=True)
class History:
    """The windows before the one that is assessed.

    Attributes:
        windows: Oldest first.
        samples: Those of the last `REFERENCE_WINDOWS` windows, oldest first.
        phases: The season (weekday, hour) of each window, and last of the one that is assessed; None where there is none.
    """

    windows: Sequence[Window] = ()
    samples: "Sequence[pa.Table]" = ()
    phases: Sequence[int] | None = None


@dataclass(frozen=True, slots=True)
class Assessment:
    """What was found.

    Attributes:
        outcome: `learning` where there are too few windows for a verdict; `schema` where the columns are not those of the window before.
        window: To be kept.
        sample: To be kept.
        frame: By which the window was counted.
        reference: The windows right before it, pooled; None for the first.
        observation: The values in every channel, with their evidence.
        channels: The channels in the order of `judgement.scores`.
        judgement: The decision; None where there was nothing to decide.
        changes: Clauses about the columns.
    """

    outcome: Outcome
    window: Window
    sample: "pa.Table"
    frame: Frame
    reference: Profile | None
    observation: Observation
    channels: tuple[Channel, ...] = ()
    judgement: Judgement | None = None
    changes: tuple[str, ...] = field(default=())


def assess(
    source: Any,
    history: History,
    *,
    roles: Roles,
    key: bytes,
    false_alarms: float = 0.01,
    between: tuple[float, float] | None = None,
    partition_columns: Sequence[str] = (),
) -> Assessment:
    """Assess one window.

    Args:
        source: The window, as `measuring.measure` takes it.
        history: The windows before it.
        roles: Declared columns.
        key: Secret bytes, the same for all windows of a dataset.
        false_alarms: How often a window in which nothing changed may alarm.
        between: Only the rows of this slice of time.
        partition_columns: Columns that tell partitions apart.

    Raises:
        UnverifiableError: The window could not be read or the engine failed.
    """
    windows = history.windows[-MOST_WINDOWS - REFERENCE_WINDOWS :]
    samples = history.samples[-REFERENCE_WINDOWS:]
    reference: Profile | None = None
    if windows and samples:
        used = compared_with(windows)[-len(samples) :]
        samples = [sample for sample, each in zip(samples[-len(used) :], used, strict=True) if each and sample.num_rows] or samples
        # A window without rows says nothing of types.
        frame, reference = learn_reference(samples, before=filled(windows)[-1].profile, roles=roles, partition_columns=partition_columns)
    else:
        frame = learn_frame(source, roles, partition_columns=partition_columns)
    profile, sample = measure(source, frame, roles, key, between=between)
    changes = schema_changes(profile, windows)
    window = Window(profile, values_of(profile, frame), sensitive=tuple(roles.sensitive))
    if reference is None or len(windows) < REFERENCE_WINDOWS:
        outcome: Outcome = "schema" if changes else "learning"
        return Assessment(outcome, _with(window, alarmed=bool(changes)), sample, frame, reference, Observation({}), changes=changes)
    observation = observe(profile, sample, frame=frame, reference=reference, earlier=windows, samples=samples, roles=roles)
    rows = [{Channel(test, column, other): value for test, column, other, value in past.channels} for past in windows]
    judged = [place for place, row in enumerate(rows) if row]
    order = tuple(sorted({channel for row in rows for channel in row} | set(observation.channels)))
    values = np.array(
        [[row.get(channel, np.nan) for channel in order] for row in [*(rows[place] for place in judged), observation.channels]]
    )
    phases = history.phases
    judgement = judge(
        values,
        channels=order,
        false_alarms=false_alarms,
        phases=None if phases is None else [*(phases[-len(windows) - 1 :][place] for place in judged), phases[-1]],
    )
    alarmed = judgement.alarm or bool(changes)
    if changes:
        outcome = "schema"
    elif judgement.method == "learning":
        outcome = "learning"
    else:
        outcome = "alarm" if judgement.alarm else "stable"
    kept = _with(
        window,
        alarmed=alarmed,
        channels=tuple(
            (*channel, float(value))
            for channel, value in zip(order, winsorised(judgement, values[-1], order), strict=True)
            if not np.isnan(value)
        ),
        statistic=None if judgement.method == "learning" else (judgement.statistic, judgement.threshold),
    )
    return Assessment(outcome, kept, sample, frame, reference, observation, order, judgement, changes)


def _with(window: Window, **changed: Any) -> Window:
    return msgspec.structs.replace(window, **changed)
