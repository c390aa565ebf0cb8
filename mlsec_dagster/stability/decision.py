"""Is this window further from the ones before it than they are from each other?

    judged = judge(values, phases=phases, alarmed=alarmed, false_alarms=0.01)
    judged.alarm, judged.p_value, judged.method        # True, 0.0004, "extrapolated"

Every window has a value per channel (`channels.py`): how far it is from the windows before it. One decision is made
over all of them, so that a user has one false-alarm rate to choose, however many columns there are:

1. Each channel of each window, the judged one among them, is studentised by all *other* windows (leave one out). The treatment is the
   same for all windows, so under exchangeability the judged one is no different from the rest. Variances are moderated towards what
   is usual among the channels (Smyth, "Linear models and empirical Bayes methods", SAGMB 2004, with a fixed prior weight), for a
   variance of twelve values is itself uncertain.
2. The statistic of a window is its largest studentised value.
3. Its p-value is the rank among the earlier windows' statistics (conformal prediction; Vovk, Gammerman and Shafer, "Algorithmic
   Learning in a Random World", 2005), which holds whatever the distribution. A rank cannot be smaller than 1/(n+1), so until there are
   enough windows (99 at 1%) a Gumbel distribution, the limit law of maxima, is fitted to them, and the p-value is that of a *further*
   draw from it, which is wider than the fit by what n values leave unknown. Such a p-value is called "extrapolated".

Channels that count what has never been there (unseen categories, duplicate rows, unseen missingness patterns, stale rows) have a
statistic and a share of the false-alarm budget of their own: they are silent in most histories, so their maxima say little of the others.
"""

# scipy's functions bring no types of their own, so what comes out of them is unknown to a type checker.
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from mlsec_dagster.stability.channels import NOVELTY, SIGNED, Channel

LEAST_WINDOWS: Final = 12
"""Earlier windows that must have values before a verdict is given."""

MOST_WINDOWS: Final = 200
"""Earlier windows that are looked at: data from years ago says little of today's variation."""

NOVELTY_SHARE: Final = 0.2
"""Share of the false-alarm budget that goes to channels which count what was never there."""

_LEAST_SPREAD: Final = 0.4
"""Deviation of the statistics over their mean, at least: a history that was calm by chance must not turn the next season into an alarm."""
_PHASE_PRIOR: Final = 2.0

Floats = NDArray[np.float64]
Method = Literal["rank", "extrapolated", "learning"]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the decision is, and on what it rests.

    Attributes:
        alarm: Whether the p-value is at most the false-alarm rate.
        p_value: Probability of a window at least as unusual, had nothing changed; None while learning.
        method: `rank`, `extrapolated` or `learning`.
        windows: Earlier windows that it rests on.
        scores: Studentised value per channel, of the judged window.
        usual: Mean of the earlier windows per channel.
        deviation: By which the distance from it was divided, per channel.
        statistic: Largest of the scores outside of novelty; `novelty`: the largest of those within.
        threshold: The statistic from which on there is an alarm; `novelty_threshold` likewise.
        history: The earlier windows' statistics, oldest first.
    """

    alarm: bool
    p_value: float | None
    method: Method
    windows: int
    scores: Floats
    usual: Floats
    deviation: Floats
    statistic: float = math.nan
    novelty: float = math.nan
    threshold: float = math.nan
    novelty_threshold: float = math.nan
    history: tuple[float, ...] = ()


def judge(
    values: Floats,
    *,
    channels: Sequence[Channel],
    false_alarms: float,
    phases: Sequence[int] | None = None,
) -> Judgement:
    """Decide over the last of `values`.

    Args:
        values: (windows x channels), oldest first, the judged window last; NaN where a window has no value.
        channels: What each column of `values` is.
        false_alarms: How often a window from the same population may alarm, in (0, 1).
        phases: Season of each window (weekday, hour), whose usual effect is taken out; None where there is none.
    """
    values = values[-MOST_WINDOWS - 1 :]
    earlier = len(values) - 1
    if earlier < LEAST_WINDOWS:
        unknown = np.full(values.shape[1], math.nan)
        return Judgement(False, None, "learning", earlier, unknown, unknown, unknown)
    if phases is not None:
        values = _without_season(values, np.asarray(phases[-earlier - 1 :]))
    signed = np.array([channel.test in SIGNED for channel in channels], bool)
    novel = np.array([channel.test in NOVELTY for channel in channels], bool)
    scores, usual_values, deviations = (np.full(values.shape, math.nan) for _ in range(3))
    # Least deviation that is believed, and how many values the usual variance weighs. Signed values are in units of what sampling does, and
    # what is scheduled varies by less; counts of novelties by 1, see `channels.counted`; the logarithms of distances are alike, so they
    # share what is known of their variance.
    for group, least, prior in ((signed, 0.5, 0.0), (novel, 1.0, 0.0), (~signed & ~novel, 0.25, 6.0)):
        scores[:, group], usual_values[:, group], deviations[:, group] = studentised(values[:, group], least=least, prior=prior)
    scores[:, signed] = np.abs(scores[:, signed])
    usual, unseen = _largest(scores[:, ~novel]), _largest(scores[:, novel])
    share = false_alarms * (1 - NOVELTY_SHARE)
    p_usual, method, threshold = _p_value(usual, share)
    p_unseen, unseen_threshold = _novelty_p_value(unseen[-1], int(novel.sum()), earlier, false_alarms * NOVELTY_SHARE)
    p_value = min(1.0, p_usual / (1 - NOVELTY_SHARE), p_unseen / NOVELTY_SHARE)
    return Judgement(
        alarm=p_usual <= share or p_unseen <= false_alarms * NOVELTY_SHARE,
        p_value=p_value,
        method=method,
        windows=earlier,
        scores=scores[-1],
        usual=usual_values[-1],
        deviation=deviations[-1],
        statistic=float(usual[-1]),
        novelty=float(unseen[-1]),
        threshold=threshold,
        novelty_threshold=unseen_threshold,
        history=tuple(float(value) for value in usual[:-1]),
    )


def studentised(values: Floats, *, least: float, prior: float) -> tuple[Floats, Floats, Floats]:
    """Each value less the mean of the others in its column, over their moderated deviation; NaN where fewer than three others are known.

    Args:
        values: (windows x channels).
        least: The smallest deviation that is believed.
        prior: How many values the channels' usual variance weighs.

    Returns:
        The studentised values, and the means and deviations that they came from; all (windows x channels).
    """
    if not values.size:
        return values, values, values
    known = ~np.isnan(values)
    filled = np.where(known, values, 0.0)
    others = known.sum(0) - known
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (filled.sum(0) - filled) / others
        # Of values that are centred, so that no digits are lost to their size.
        centre = filled.sum(0) / np.maximum(known.sum(0), 1)
        deviations = np.where(known, values - centre, 0.0)
        squares = (deviations**2).sum(0) - deviations**2
        variance = np.maximum(squares / others - (mean - centre) ** 2, 0.0) * others / (others - 1)
        usual = np.nanmedian(np.where(others >= 3, variance, 0.0), axis=1, keepdims=True)
        degrees = np.maximum(others - 1, 1)
        moderated = (prior * np.nan_to_num(usual) + degrees * variance) / (prior + degrees)
        deviation = np.sqrt(np.maximum(moderated, least**2) * (1 + 1 / others))
        scores = (values - mean) / deviation
    return np.where(known & (others >= 3), scores, np.nan), mean, deviation


def _largest(scores: Floats) -> Floats:
    """Largest score of each window; 0 where there is none."""
    if not scores.shape[1]:
        return np.zeros(len(scores))
    return np.maximum(np.where(np.isnan(scores), 0.0, scores).max(1), 0.0)


def winsorised(judgement: Judgement, values: Floats, channels: Sequence[Channel]) -> Floats:
    """The values of a window as later windows are held against: what was beyond the threshold is put at the threshold.

    Were an alarming window left out, the variance would shrink, and the next ordinary one would alarm; were it left as it is, the next
    attack would hide behind this one.
    """
    kept = values.copy()
    if not judgement.alarm:
        return kept
    for place, channel in enumerate(channels):
        most = judgement.novelty_threshold if channel.test in NOVELTY else judgement.threshold
        if judgement.scores[place] > most:
            direction = 1.0 if values[place] >= judgement.usual[place] else -1.0
            kept[place] = judgement.usual[place] + direction * most * judgement.deviation[place]
    return kept


def _without_season(values: Floats, phases: NDArray[Any]) -> Floats:
    """Takes out, per channel, by how much a phase's *other* windows lie off the whole; little is taken where they are few."""
    adjusted = values.copy()
    whole = np.nanmedian(values, axis=0)
    for place, phase in enumerate(phases):
        same = phases == phase
        same[place] = False
        count = int(same.sum())
        if count >= 2:
            with np.errstate(all="ignore"):
                effect = np.nanmedian(values[same], axis=0) - whole
            adjusted[place] -= np.nan_to_num(effect) * count / (count + _PHASE_PRIOR)
    return adjusted


def _p_value(statistics: Floats, rate: float) -> tuple[float, Method, float]:
    """p-value of the last statistic among the others, how it was reached, and from which statistic on it is at most `rate`."""
    earlier, found = np.sort(statistics[:-1]), float(statistics[-1])
    count = len(earlier)
    if 1 / (count + 1) <= rate:
        at_least = count - int(np.searchsorted(earlier, found, side="left"))
        allowed = math.floor(rate * (count + 1)) - 1
        return (1 + at_least) / (count + 1), "rank", float(np.nextafter(earlier[count - 1 - allowed], math.inf))
    mean, deviation = float(earlier.mean()), max(float(earlier.std(ddof=1)), _LEAST_SPREAD * float(earlier.mean()), 1e-9)
    draws = _further_gumbel(count)
    place = int(np.searchsorted(draws, (found - mean) / deviation))
    threshold = float(draws[min(math.ceil(len(draws) * (1 - rate)), len(draws) - 1)])
    return max(1, len(draws) - place) / len(draws), "extrapolated", mean + deviation * threshold


@lru_cache(maxsize=256)
def _further_gumbel(count: int) -> Floats:
    """Sorted draws of how many deviations a further Gumbel value lies above the mean of `count` others: no parameter is left in it."""
    generator = np.random.default_rng(count)
    draws = generator.gumbel(size=(50_000, count + 1))
    others = draws[:, :-1]
    return np.sort((draws[:, -1] - others.mean(1)) / others.std(1, ddof=1))


def _novelty_p_value(found: float, channels: int, earlier: int, rate: float) -> tuple[float, float]:
    """Of the largest of several studentised counts, by Student's distribution and Šidák's correction; and the threshold for `rate`."""
    if not channels:
        return 1.0, math.inf
    from scipy import special

    degrees = earlier - 1
    single = float(special.stdtr(degrees, -found))
    threshold = float(-special.stdtrit(degrees, -math.expm1(math.log1p(-rate) / channels)))
    return -math.expm1(channels * math.log1p(-min(single, 1 - 1e-15))), threshold
