"""One window of a dataset, seen against the windows before it.

observed = observe(profile, sample, frame=frame, reference=pooled, earlier=windows_before, samples=eight_samples, roles=roles)
observed.channels            # Channel -> value; `decision.judge` holds them against those of earlier windows
"""

# pyarrow's tables bring no types of their own, so what comes out of them is unknown to a type checker.
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlsec_dagster.stability.channels import REFERENCE_WINDOWS, Channel, counted, distances
from mlsec_dagster.stability.joint import Together, together
from mlsec_dagster.stability.labels import Disagreement, disagreement
from mlsec_dagster.stability.profiles import Frame, Profile, Roles, Window
from mlsec_dagster.stability.samples import pair

if TYPE_CHECKING:
    import pyarrow as pa

SEED = 20130101
"""Of the trees. They decide nothing that an attacker could aim at: their forests are refitted on other windows every time."""


@dataclass(frozen=True, slots=True)
class Observation:
    """A window's value in every channel, and the evidence that goes with it.

    Attributes:
        channels: Empty while there are fewer than `REFERENCE_WINDOWS` windows before it.
        together: What columns show together.
        labels: What labels show given features; None if no label is declared.
        stale: Rows that are older than the newest row of the windows before.
    """

    channels: dict[Channel, float]
    together: Together = field(default_factory=lambda: Together({}))
    labels: Disagreement | None = None
    stale: int = 0


def observe(
    profile: Profile,
    sample: "pa.Table",
    *,
    frame: Frame,
    reference: Profile,
    earlier: Sequence[Window],
    samples: Sequence["pa.Table"],
    roles: Roles,
) -> Observation:
    """Look at a window.

    Args:
        profile: The window, counted by `frame`.
        sample: Its sample.
        frame: Learnt from `samples`.
        reference: `samples`, pooled and counted by the same frame.
        earlier: All windows before it, oldest first.
        samples: The samples of the last `REFERENCE_WINDOWS` of them, oldest first.
        roles: Declared columns.
    """
    if len(earlier) < REFERENCE_WINDOWS:
        return Observation({})
    channels = distances(profile, frame, reference=reference, earlier=earlier)
    stale = stale_rows(profile, sample, earlier, roles.time or _only_time(frame))
    if stale is not None:
        channels[Channel("stale")] = counted(stale, profile.rows)
    paired = pair(samples, sample, frame)
    joint = together(paired, seed=SEED)
    channels.update(joint.channels)
    labels = None
    if roles.label:
        labels = disagreement(paired, label=roles.label, seed=SEED)
        channels.update(labels.channels)
    return Observation(channels, joint, labels, stale or 0)


def schema_changes(profile: Profile, earlier: Sequence[Window]) -> tuple[str, ...]:
    """How the columns of a window differ from those of the one before, one clause each.

    Types are those of the last window with rows in it: many formats and libraries know of no type where there is no value.

    Args:
        profile: The window.
        earlier: Those before it, oldest first.
    """
    if not earlier:
        return ()
    before = filled(earlier)[-1].profile
    last = earlier[-1].profile
    then = {column.name: column.type for column in before.columns}
    now = {column.name: column.type for column in profile.columns}
    changes = [f"there are no rows (before: {last.rows:,})"] if not profile.rows and last.rows else []
    changes += [f"column {name!r} is gone" for name in then if name not in now]
    changes += [f"column {name!r} is new ({kind})" for name, kind in now.items() if name not in then]
    if profile.rows:
        changes += [f"column {name!r} was {then[name]} and is {kind}" for name, kind in now.items() if then.get(name, kind) != kind]
    counts, counted_before = (Counter(column.name for column in each.columns) for each in (profile, before))
    changes += [
        f"column {name!r} is there {_times(count)} (before: {_times(counted_before[name])})"
        for name, count in counts.items()
        if name in then and count != counted_before[name]
    ]
    return tuple(changes)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def filled(windows: Sequence[Window]) -> Sequence[Window]:
    """The windows that have rows; all of them, if none has."""
    return [window for window in windows if window.profile.rows] or windows


def stale_rows(profile: Profile, sample: "pa.Table", earlier: Sequence[Window], time: str | None) -> int | None:
    """Rows that are not newer than the newest row of the windows before, estimated on the sample; None where that cannot be said."""
    from mlsec_dagster.stability.samples import seconds_of

    known = [past.profile.window[1] for past in earlier if past.profile.window is not None]
    if time is None or not known or sample.column_names.count(time) != 1 or not sample.num_rows:
        return None
    values = seconds_of(sample.column(time))
    if values is None:
        return None
    return round(float((values <= max(known)).sum()) / sample.num_rows * profile.rows)


def _only_time(frame: Frame) -> str | None:
    """The time column of a dataset that has just one."""
    times = [column.name for column in frame.columns if column.kind == "time"]
    return times[0] if len(times) == 1 else None
