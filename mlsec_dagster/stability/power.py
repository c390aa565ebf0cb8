"""What a verdict would have revealed: the smallest changes that would have raised an alarm with a probability of 90%.

    for change in revealed(assessed): print(change.what, change.column, change.amount, change.unit)

A window that passed says little without it. Each figure is about one kind of change, alone, in one channel; whoever changes several things
at once, or the same thing in a way that other channels see too, is seen earlier.
"""

# scipy's functions bring no types of their own, so what comes out of them is unknown to a type checker.
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from mlsec_dagster.stability.assessment import Assessment
from mlsec_dagster.stability.channels import Channel, rows_counted
from mlsec_dagster.stability.decision import Judgement
from mlsec_dagster.stability.labels import FEW
from mlsec_dagster.stability.profiles import Profile

POWER: Final = 0.9
_MARGIN: Final = 1.2816
"""Standard normal quantile of `POWER`: by so much a change must exceed the threshold, for chance may also work against it."""

Effect = Literal["nulls", "shift", "unseen value", "duplicate rows", "flipped labels", "rows"]


@dataclass(frozen=True, slots=True)
class Change:
    """The smallest change that would have been revealed.

    Attributes:
        what: The kind of change.
        column: The column, or empty; of labels, the class.
        amount: How large. None: no amount would, in this channel.
        unit: `of rows` (a share: added missing values, duplicates, flipped labels), `deviations` of the column, `times` (the number of
            rows).
    """

    what: Effect
    column: str
    amount: float | None
    unit: Literal["of rows", "deviations", "times"]


def revealed(assessment: Assessment) -> tuple[Change, ...]:
    """The smallest change of each kind that this window, at its size and with its history, would have shown.

    Returns:
        Per column the share of values gone missing and the shift; duplicates, unseen values, flipped labels per class, and the number
        of rows. Empty while learning.
    """
    judgement, reference = assessment.judgement, assessment.reference
    if judgement is None or judgement.method == "learning" or reference is None:
        return ()
    profile = assessment.window.profile
    found: list[Change] = []
    for place, channel in enumerate(assessment.channels):
        usual, deviation = float(judgement.usual[place]), float(judgement.deviation[place])
        if math.isnan(usual) or math.isnan(deviation):
            continue
        change = _change(channel, usual, deviation, judgement, profile, reference, assessment)
        if change is not None:
            found.append(change)
    return tuple(found)


def _change(
    channel: Channel, usual: float, deviation: float, judgement: Judgement, profile: Profile, reference: Profile, assessment: Assessment
) -> Change | None:
    needed = usual + deviation * (judgement.threshold + _MARGIN)
    match channel.test:
        case "nulls":
            return Change("nulls", channel.column, _nulls(channel.column, needed, profile, reference), "of rows")
        case "location":
            return Change("shift", channel.column, _shift(channel.column, needed, profile), "deviations")
        case "volume":
            scale = math.hypot(0.02, math.sqrt(1 / max(profile.rows, 1)))
            return Change("rows", "", math.exp(min(needed * scale, 50.0)), "times")
        case "label":
            return Change("flipped labels", channel.other, _flips(channel.other, needed, assessment), "of rows")
        case "unseen" | "duplicates":
            needed = usual + deviation * (judgement.novelty_threshold + _MARGIN)
            share = rows_counted(needed, profile.rows) / max(profile.rows, 1)
            return Change("unseen value" if channel.test == "unseen" else "duplicate rows", channel.column, _possible(share), "of rows")
        case _:
            return None


def _possible(share: float) -> float | None:
    return share if share < 1 else None


def _nulls(name: str, needed: float, profile: Profile, reference: Profile) -> float | None:
    """Share of rows that would have to go missing on top of what is usual: the inverse of `channels.log_odds`."""
    then = reference.column(name)
    if then is None or not profile.rows or not reference.rows:
        return None
    missing = then.nulls + then.nans
    odds = math.log((missing + 0.5) / (reference.rows - missing + 0.5))
    usual, rows = (missing + 0.5) / (reference.rows + 1), profile.rows

    def reached(share: float) -> bool:
        now = share * rows
        spread = math.sqrt(1 / (now + 0.5) + 1 / (rows - now + 0.5) + 1 / (missing + 0.5) + 1 / (reference.rows - missing + 0.5))
        return (math.log((now + 0.5) / (rows - now + 0.5)) - odds) / math.hypot(0.03, spread) >= needed

    shares = usual + (1 - usual) * np.logspace(-5, 0, 200)
    return next((float(share - usual) for share in shares if reached(float(share))), None)


def _shift(name: str, needed: float, profile: Profile) -> float | None:
    """Shift in deviations of a normal column that moves the mean rank by what is needed: rank = Phi(shift / sqrt 2)."""
    from scipy import special

    now = profile.column(name)
    if now is None or not sum(now.counts):
        return None
    rank = needed * math.hypot(0.003, math.sqrt(1 / sum(now.counts) / 12))
    return float(math.sqrt(2) * special.ndtri(0.5 + rank)) if 0 < rank < 0.499 else None


def _flips(name: str, needed: float, assessment: Assessment) -> float | None:
    """Share of a class whose labels would have to be flipped: the inverse of the channel in `labels.disagreement`."""
    labels = assessment.observation.labels
    if labels is None or name not in labels.classes:
        return None
    confident, differing = labels.classes[name]
    wanted = math.exp(min(needed, 0.0)) * (confident + FEW) - FEW
    return _possible(max(wanted - differing, 1.0) / confident)
