"""An assessment for people: one sentence, what deviates most, and what a picture of it needs.

    evidence = evidence_of(assessed, history, roles, subject="raw_flights[2013-06-04]")
    evidence.sentence      # "raw_flights[2013-06-04] does not look like the 8 windows before it: 11% of dep_delay is missing …"
    evidence.ranked        # what, column, before, now, deviation, threshold; the strongest evidence first

Names of columns and values come from data and stand here as they are; whoever shows them escapes them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from mlsec_dagster.stability.assessment import WINDOWS_NEEDED, Assessment, History
from mlsec_dagster.stability.channels import NOVELTY, REFERENCE_WINDOWS, Channel, Floats
from mlsec_dagster.stability.decision import Judgement
from mlsec_dagster.stability.profiles import ColumnFrame, Roles
from mlsec_dagster.stability.wording import LEAST_SHOWN, Phrase, Scene, cell_name, named, phrase

MOST_RANKED: Final = 50
"""Rows of the ranking that are kept; the others deviate less."""

MOST_PAST: Final = 52
"""Windows of the history that are shown: a year of weeks."""

MOST_CLAUSES: Final = 3
"""Deviations that the sentence tells; the table has the others."""

MOST_COMPARED: Final = 3
"""Columns of which there is a picture."""

_BARS: Final = 17
_NAMED_BARS: Final = 9
_NEW_BARS: Final = 2

# Tests that say that something changed, and not what: told after those that name it.
_VAGUE: Final = {"distribution": 1, "correlation": 2, "two samples": 3}


@dataclass(frozen=True, slots=True)
class Ranked:
    """One thing that was watched.

    Attributes:
        what: In words.
        column: The column, or empty where it is about the whole.
        before: How it was in the windows before; `now`: how it is.
        score: How many ordinary deviations it lies off; NaN where that is not a number (a column that is gone).
        threshold: From which score on there is an alarm.
        out_of_line: Whether it lies beyond.
    """

    what: str
    column: str
    before: str
    now: str
    score: float
    threshold: float
    out_of_line: bool


@dataclass(frozen=True, slots=True)
class Past:
    """The statistic of one window, the threshold that it was held against, and whether the window alarmed, for whatever reason."""

    statistic: float
    threshold: float
    alarmed: bool


@dataclass(frozen=True, slots=True)
class Compared:
    """A column before and now.

    Attributes:
        column: Its name.
        by_name: Whether the bars are categories, each with a name, and not the bins of a range.
        labels: Of each bar, what it holds; empty for a sensitive column.
        before: Share of the rows before in each bar; `now`: of the window's rows.
    """

    column: str
    by_name: bool
    labels: tuple[str, ...]
    before: tuple[float, ...]
    now: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was found about a window, for people.

    Attributes:
        sentence: What changed, how rare that is, and what to do.
        ranked: The strongest evidence first, at most `MOST_RANKED`.
        watched: How many there are in all.
        history: The statistics of the last windows, this one the last; empty while learning.
        compared: The columns that deviate most, at most `MOST_COMPARED`.
    """

    sentence: str
    ranked: tuple[Ranked, ...] = ()
    watched: int = 0
    history: tuple[Past, ...] = ()
    compared: tuple[Compared, ...] = ()


@dataclass(frozen=True, slots=True)
class _Deviation:
    channel: Channel
    phrase: Phrase
    score: float
    threshold: float

    @property
    def ratio(self) -> float:
        """1 where there is an alarm; comparable between channels with different thresholds."""
        return self.score / self.threshold if self.threshold > 0 and math.isfinite(self.threshold) else 0.0


def evidence_of(assessed: Assessment, history: History, roles: Roles, *, subject: str = "this window") -> Evidence:
    """An assessment for people.

    Args:
        assessed: What was found.
        history: The windows before, as the assessment was made with them.
        roles: Declared columns; of `sensitive` ones only aggregates are told.
        subject: The name with which the sentence begins.
    """
    scene = Scene(assessed, history.windows, frozenset(roles.sensitive))
    deviations = _deviations(assessed, scene)
    changes = [Ranked(change, "", "", "", math.nan, math.nan, True) for change in assessed.changes]
    ranked = [
        Ranked(each.phrase.what, each.channel.column, each.phrase.before, each.phrase.now, each.score, each.threshold, each.ratio >= 1)
        for each in deviations
    ]
    sentence = _sentence(assessed, deviations, scene, subject)
    hidden = _not_noticed(assessed)
    return Evidence(
        f"{sentence} {hidden}" if hidden else sentence,
        (*changes, *ranked)[:MOST_RANKED],
        len(changes) + len(ranked),
        _history(assessed, history),
        _compared(deviations, scene) if assessed.outcome != "learning" else (),
    )


def _deviations(assessed: Assessment, scene: Scene) -> list[_Deviation]:
    judgement = assessed.judgement
    if judgement is None or judgement.method == "learning":
        return []
    found: list[_Deviation] = []
    for channel, score in zip(assessed.channels, judgement.scores, strict=True):
        # A channel that this window does not have is NaN; a distance that is smaller than usual is below nought, and no evidence.
        if not math.isnan(score):
            limit = judgement.novelty_threshold if channel.test in NOVELTY else judgement.threshold
            found.append(_Deviation(channel, phrase(channel, scene), float(max(score, 0.0)), limit))
    return sorted(found, key=lambda each: (-each.ratio, each.channel))


# --- the sentence


def _sentence(assessed: Assessment, deviations: Sequence[_Deviation], scene: Scene, subject: str) -> str:
    judgement, others = assessed.judgement, _windows_said(len(scene.recent))
    if assessed.outcome == "learning":
        return _learning(assessed, scene, subject)
    if assessed.outcome == "schema":
        clauses = "; ".join(assessed.changes[:MOST_CLAUSES]) + _further(len(assessed.changes))
        besides = ""
        if judgement is not None and judgement.alarm:
            besides = f" Besides, it does not look like {others}: {_told(deviations)}."
        return (
            f"{subject} is not made like the window before it: {clauses}.{besides} Find out what changed where it comes "
            "from; if that was intended, the next windows are held against the new columns."
        )
    if judgement is None or assessed.outcome == "stable":
        return f"{subject} looks like {others}{_largest(deviations)}."
    return (
        f"{subject} does not look like {others}: {_told(deviations)}. {_rarity(judgement)} Find out what changed where it comes from "
        "before you use it; if the change was intended, it stops alarming as the next windows look alike."
    )


def _learning(assessed: Assessment, scene: Scene, subject: str) -> str:
    compared = assessed.judgement.windows if assessed.judgement is not None else 0
    known = min(min(len(scene.earlier), REFERENCE_WINDOWS) + compared + 1, WINDOWS_NEEDED)
    missing = WINDOWS_NEEDED - known
    ahead = "the next window is the first to be judged" if not missing else f"{missing} more are needed before the first verdict"
    return f"Learning: {known} of {WINDOWS_NEEDED} windows. Nothing is compared yet, so this says nothing about {subject}; {ahead}."


def _told(deviations: Sequence[_Deviation]) -> str:
    """The strongest clauses, one for each column."""
    beyond = [each for each in deviations if each.ratio >= 1] or list(deviations[:1])
    about: dict[tuple[str, str], list[_Deviation]] = {}
    for each in beyond:
        # Clauses about the whole are about different things; those about a column mostly tell one thing in several ways.
        about.setdefault((each.channel.column, "" if each.channel.column else each.channel.test), []).append(each)
    chosen = [min(several, key=lambda each: (_VAGUE.get(each.channel.test, 0), -each.ratio)) for several in about.values()]
    chosen.sort(key=lambda each: (_VAGUE.get(each.channel.test, 0), -each.ratio))
    return "; ".join(each.phrase.clause for each in chosen[:MOST_CLAUSES]) + _further(len(chosen))


def _further(count: int) -> str:
    more = count - MOST_CLAUSES
    return "" if more <= 0 else f"; and {more} more {'deviation' if more == 1 else 'deviations'}"


def _rarity(judgement: Judgement) -> str:
    """How often that would happen if nothing had changed, roughly: such a probability has no second digit."""
    p_value = judgement.p_value if judgement.p_value is not None else 1.0
    basis = "" if judgement.method == "rank" else f", as far as {judgement.windows} earlier windows can tell"
    # What is extrapolated from few windows is not told beyond one in a thousand.
    for one_in in (1000, 500, 200, 100, 50, 20):
        if p_value < 1 / one_in:
            return f"Fewer than 1 in {one_in:,} ordinary windows look so unusual{basis}."
    return f"About 1 in {max(round(1 / p_value), 1):,} ordinary windows looks so unusual{basis}."


def _largest(deviations: Sequence[_Deviation]) -> str:
    if not deviations or not deviations[0].ratio:
        return ""
    top = deviations[0]
    return f" (largest deviation: {top.phrase.what}, at {min(top.ratio, 0.99):.0%} of what would raise an alarm)"


def _not_noticed(assessed: Assessment) -> str:
    labels = assessed.observation.labels
    return f"Flipped labels would not be noticed: {labels.reason}." if labels is not None and labels.reason else ""


def _windows_said(count: int) -> str:
    return "the window before it" if count == 1 else f"the {count} windows before it"


# --- the history of the statistic


def _history(assessed: Assessment, history: History) -> tuple[Past, ...]:
    windows = [*history.windows, assessed.window]
    past = [Past(*window.statistic, window.alarmed) for window in windows if window.statistic is not None]
    return tuple(each for each in past if math.isfinite(each.statistic) and math.isfinite(each.threshold))[-MOST_PAST:]


# --- columns before and now


def _compared(deviations: Sequence[_Deviation], scene: Scene) -> tuple[Compared, ...]:
    found: dict[str, Compared] = {}
    for name in dict.fromkeys(each.channel.column for each in deviations if each.channel.column):
        comparison = compare(name, scene)
        if comparison is not None:
            found[name] = comparison
        if len(found) == MOST_COMPARED:
            break
    return tuple(found.values())


def compare(name: str, scene: Scene) -> Compared | None:
    """A column before and now, as few bars; None where its cells mean nothing to a person, or are too small to be shown."""
    found = scene.both(name)
    if found is None or found[0].kind in ("identifier", "other"):
        return None
    frame, column, reference = found
    now, before = np.asarray(column.counts, float), np.asarray(reference.counts, float)
    if not len(now):
        return None
    by_name = not frame.edges
    new = {value: rows for value, rows in column.unlisted if value not in dict(reference.unlisted)}
    bars = _bars_by_name(frame, now, before, new) if by_name else _bars_by_range(frame, now, before)
    missing, missing_before = column.nulls + column.nans, reference.nulls + reference.nans
    if missing or missing_before:
        bars.append(("missing", float(missing), float(missing_before)))
    secret = name in scene.sensitive
    if secret:
        bars = _merged(bars)
        if len(bars) < 2:
            return None
    all_now, all_before = sum(bar[1] for bar in bars), sum(bar[2] for bar in bars)
    if not all_now or not all_before:
        return None
    return Compared(
        named(name),
        by_name,
        () if secret else tuple(label for label, _, _ in bars),
        tuple(rows / all_before for _, _, rows in bars),
        tuple(rows / all_now for _, rows, _ in bars),
    )


_Bar = tuple[str, float, float]


def _bars_by_range(frame: ColumnFrame, now: Floats, before: Floats) -> list[_Bar]:
    """Neighbouring bins together, so that there are few enough to be looked at."""
    width = math.ceil(len(now) / _BARS)
    bars: list[_Bar] = []
    for start in range(0, len(now), width):
        end = min(start + width, len(now))
        bars.append((_span(frame, start, end - 1), float(now[start:end].sum()), float(before[start:end].sum())))
    return bars


def _span(frame: ColumnFrame, first: int, last: int) -> str:
    """The name of neighbouring cells together: that of the cell between their outer edges."""
    outer = ((frame.edges[first - 1],) if first else ()) + frame.edges[last : last + 1]
    if first == last or not outer:
        return cell_name(frame, first)
    return cell_name(msgspec.structs.replace(frame, edges=outer), min(first, 1))


def _bars_by_name(frame: ColumnFrame, now: Floats, before: Floats, new: Mapping[str, int]) -> list[_Bar]:
    """The categories that changed most or are commonest, the commonest of the new ones, and all others together."""
    known = len(frame.categories)
    share_now, share_before = now / max(now.sum(), 1), before / max(before.sum(), 1)
    weight = np.maximum(share_now, share_before)[:known] + 5 * np.abs(share_now - share_before)[:known]
    named_new = sorted(new.items(), key=lambda item: -item[1])[:_NEW_BARS]
    most = _NAMED_BARS - len(named_new)
    chosen = [int(place) for place in np.argsort(-weight, kind="stable")[:most] if now[place] or before[place]]
    chosen.sort(key=lambda place: -before[place])
    bars: list[_Bar] = [(frame.categories[place], float(now[place]), float(before[place])) for place in chosen]
    bars += [(value, float(rows), 0.0) for value, rows in named_new]
    others = (float(now.sum()) - sum(bar[1] for bar in bars), float(before.sum()) - sum(bar[2] for bar in bars))
    return [*bars, ("any other", max(others[0], 0.0), max(others[1], 0.0))] if max(others) > 0 else bars


def _merged(bars: Sequence[_Bar]) -> list[_Bar]:
    """Neighbours together until every bar is of `LEAST_SHOWN` rows at least, on both sides: a smaller one may be about one person."""
    merged: list[_Bar] = []
    now = before = 0.0
    for _, more, more_before in bars:
        now, before = now + more, before + more_before
        if min(now, before) >= LEAST_SHOWN:
            merged.append(("", now, before))
            now = before = 0.0
    if (now or before) and merged:
        _, last, last_before = merged.pop()
        merged.append(("", last + now, last_before + before))
    return merged
