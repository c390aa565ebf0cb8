"""How far one profile is from those before it: one number per channel.

    distances(profile, frame, reference=eight_before_pooled, earlier=all_before)
    # {Channel("distribution", "carrier"): -6.1, Channel("location", "distance"): 1.4, Channel("volume"): -0.3, …}

Two kinds. A *signed* channel says in which direction something moved, in units of what sampling alone does at these sizes (and of what
nobody would care about, in windows so large that sampling does nothing). A *distance* is a logarithm, because the distances between
ordinary windows are spread over orders of magnitude and their logarithms are nearly symmetric; to each is added a part of what sampling
gives, so that the logarithm of a distance that happens to be nil is no outlier.
"""

import math
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlsec_dagster.stability.profiles import ColumnFrame, ColumnProfile, Frame, Profile, Window

Floats = NDArray[np.float64]

REFERENCE_WINDOWS: Final = 8
"""Windows before the judged one that it is compared with, pooled."""


class Channel(NamedTuple):
    """One thing that is watched.

    Attributes:
        test: `volume`, `nulls`, `location`, `share` (signed), `distribution`, `distinct`, `characters` (distances) from profiles;
            `relation` (signed), `correlation`, `two samples`, `label` from samples; `unseen`, `pattern`, `duplicates`, `contradiction`,
            `stale` count what was never there.
        column: The column, or empty where it is about the whole.
        other: A category of the column, or a class of the label.
    """

    test: str
    column: str = ""
    other: str = ""


SIGNED: Final = frozenset({"volume", "nulls", "location", "share", "relation"})
"""Tests whose values have a direction, in units of what sampling alone does."""

NOVELTY: Final = frozenset({"unseen", "pattern", "duplicates", "contradiction", "stale"})
"""Tests that count rows which are like none before; see `decision.judge`."""

SHARES: Final = 12
"""Categories of a column whose share is watched by itself: the commonest ones, and none below one per cent."""

# What nobody would care about, however many rows make it certain.
_LEAST_LOCATION, _LEAST_LOGIT, _LEAST_VOLUME = 0.003, 0.03, 0.02


def distances(profile: Profile, frame: Frame, *, reference: Profile, earlier: Sequence[Window]) -> dict[Channel, float]:
    """The channels that profiles alone can tell.

    Args:
        profile: The window.
        frame: By which it was counted.
        reference: The samples of the windows right before it, pooled and counted by the same frame.
        earlier: All windows before it, oldest first.

    Returns:
        Channel values. A channel that has no value here (a column without values) is left out.
    """
    found: dict[Channel, float] = {}
    before = [window for window in earlier if window.profile.rows]
    if not profile.rows or not reference.rows or not before:
        return found
    recent = [window for window, used in zip(before[-REFERENCE_WINDOWS:], compared_with(before), strict=True) if used]
    rows = sum(window.profile.rows for window in recent)
    found[Channel("volume")] = math.log(profile.rows / (rows / len(recent))) / math.hypot(
        _LEAST_VOLUME, math.sqrt(1 / profile.rows + 1 / rows)
    )
    for column in frame.columns:
        now, then = profile.column(column.name), reference.column(column.name)
        if column.kind == "other" or now is None or then is None:
            continue
        found[Channel("nulls", column.name)] = log_odds(now.nulls + now.nans, profile.rows, then.nulls + then.nans, reference.rows)
        if column.monotone:
            continue
        found.update(_distribution(column, now, then))
        if column.kind == "identifier":
            found.update(
                _distinct(column, now, profile.rows, [(window.profile.rows, window.profile.column(column.name)) for window in recent])
            )
        if column.kind in ("category", "boolean", "constant"):
            seen = {name for window in before for name in window.values.get(column.name, ())}
            found[Channel("unseen", column.name)] = counted(sum(unseen(column, now, seen).values()), profile.rows)
        if column.kind == "text" and now.characters and then.characters:
            moved = float(np.abs(np.subtract(now.characters, then.characters)).sum())
            found[Channel("characters", column.name)] = math.log(moved + 0.002)
    found[Channel("pattern")] = counted(sum(unseen_patterns(profile, before).values()), profile.rows)
    found[Channel("duplicates")] = counted(round(profile.duplicates / profile.hashed * profile.rows) if profile.hashed else 0, profile.rows)
    return found


def compared_with(windows: Sequence[Window]) -> list[bool]:
    """Which of the last `REFERENCE_WINDOWS` windows the next one is compared with.

    Those that did not alarm, for an odd window among them would make the next ordinary one look odd; but all of them once most alarmed: a
    change that is kept up is what is usual now. What the windows that are left out differed by still counts as variation, see
    `decision.winsorised`.
    """
    recent = windows[-REFERENCE_WINDOWS:]
    calm = [not window.alarmed and window.profile.rows > 0 for window in recent]
    if 2 * sum(calm) >= len(recent):
        return calm
    filled = [window.profile.rows > 0 for window in recent]
    return filled if any(filled) else [True] * len(recent)


def counted(rows: float, of: int) -> float:
    """A count that is nil as a rule, as twice its root: chance gives that a deviation of 1 whatever the count is (Bartlett, 1936).

    In windows of more than ten thousand rows it is the count among so many.
    """
    return 2 * math.sqrt(rows / max(of, 1) * max(min(of, 10_000), 1))


def rows_counted(value: float, of: int) -> float:
    """`counted`, reversed."""
    return (value / 2) ** 2 * max(of, 1) / max(min(of, 10_000), 1)


def values_of(profile: Profile, frame: Frame) -> dict[str, tuple[str, ...]]:
    """The categories that a window has, by column; what later windows are asked against."""
    found: dict[str, tuple[str, ...]] = {}
    for column in frame.columns:
        values = profile.column(column.name)
        if values is not None and column.kind in ("category", "boolean", "constant"):
            listed = [name for name, count in zip(column.categories, values.counts, strict=False) if count]
            found[column.name] = (*listed, *(name for name, _ in values.unlisted))
    return found


def unseen(column: ColumnFrame, now: ColumnProfile, seen: Collection[str]) -> dict[str, int]:
    """Categories that no earlier window had -> rows. Rows whose value is not named stand under an empty name."""
    if not now.counts or not seen:
        return {}
    listed = len(column.categories)
    found = {name: count for name, count in zip(column.categories, now.counts, strict=False) if count and name not in seen}
    found.update({name: count for name, count in now.unlisted if name not in seen})
    unnamed = sum(now.counts[listed:]) - sum(count for _, count in now.unlisted)
    return {**found, "": unnamed} if unnamed > 0 else found


def unseen_patterns(profile: Profile, before: Sequence[Window]) -> dict[str, int]:
    """Sets of columns that are null together and never were -> rows. Of columns that an earlier window did not have it says nothing."""
    names = [column.name for column in profile.columns]
    new, others = dict(profile.patterns), list[tuple[list[str], Window]]()
    for window in before:
        theirs = [column.name for column in window.profile.columns]
        if theirs == names:
            new = {pattern: rows for pattern, rows in new.items() if pattern not in window.profile.patterns}
        else:
            others.append((theirs, window))
    for theirs, window in others:
        places = [(names.index(name), theirs.index(name)) for name in dict.fromkeys(names) if name in theirs]
        known = {"".join(pattern[place] for _, place in places) for pattern in window.profile.patterns}
        new = {pattern: rows for pattern, rows in new.items() if "".join(pattern[place] for place, _ in places) not in known}
    return new


def divergence(now: Floats, then: Floats) -> float:
    """Jensen-Shannon divergence of two vectors of counts, in nats (0 to ln 2). Lin, IEEE Trans. Inf. Theory 37 (1991)."""
    p, q = now / now.sum(), then / then.sum()
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        left = np.where(p > 0, p * np.log(p / middle), 0.0).sum()
        right = np.where(q > 0, q * np.log(q / middle), 0.0).sum()
    return float(max(left + right, 0.0) / 2)


def log_divergence(now: Floats, then: Floats) -> float:
    """Logarithm of the divergence, with a part of what sampling gives: (cells - 1) (1/n + 1/m) / 8 on average (a chi-squared law)."""
    cells = int(((now + then) > 0).sum())
    noise = max(cells - 1, 1) / 8 * (1 / now.sum() + 1 / then.sum())
    return math.log(divergence(now, then) + 0.2 * noise)


def location(now: Floats, then: Floats) -> float:
    """How far values moved up, as the mean rank of the window's among the baseline's (0 where they are alike), in units of its deviation.

    Ranks come from the bins, so no single value has a say, however large. It is the Mann-Whitney statistic.
    """
    p, q = now / now.sum(), then / then.sum()
    moved = float((p * (np.cumsum(q) - q / 2)).sum()) - 0.5
    return moved / math.hypot(_LEAST_LOCATION, math.sqrt((1 / now.sum() + 1 / then.sum()) / 12))


def log_odds(now: float, rows: float, then: float, rows_then: float) -> float:
    """How far the odds of something rose, as a logarithm, in units of its deviation (half a row is added to each cell: Haldane, 1956)."""
    cells = (now + 0.5, rows - now + 0.5, then + 0.5, rows_then - then + 0.5)
    change = math.log(cells[0] / cells[1]) - math.log(cells[2] / cells[3])
    return change / math.hypot(_LEAST_LOGIT, math.sqrt(sum(1 / cell for cell in cells)))


def _distribution(column: ColumnFrame, now: ColumnProfile, then: ColumnProfile) -> dict[Channel, float]:
    counts, usual = np.asarray(now.counts, float), np.asarray(then.counts, float)
    if len(counts) != column.cells or len(usual) != column.cells or not counts.sum() or not usual.sum() or column.cells < 2:
        return {}
    found = {Channel("distribution", column.name): log_divergence(counts, usual)}
    if column.kind in ("number", "time", "text", "nested"):
        found[Channel("location", column.name)] = location(counts, usual)
    else:
        listed = usual[: len(column.categories)]
        for place in np.argsort(-listed, kind="stable")[:SHARES]:
            if 0.01 <= listed[place] / usual.sum() <= 0.99:
                change = log_odds(float(counts[place]), float(counts.sum()), float(listed[place]), float(usual.sum()))
                found[Channel("share", column.name, column.categories[place])] = change
    return found


def _distinct(column: ColumnFrame, now: ColumnProfile, rows: int, then: Sequence[tuple[int, ColumnProfile | None]]) -> dict[Channel, float]:
    usual = [values.distinct / count for count, values in then if values is not None and count and values.distinct]
    if not usual or not now.distinct:
        return {}
    # HyperLogLog is right to one or two per cent.
    return {Channel("distinct", column.name): math.log(abs(math.log(now.distinct / rows / float(np.mean(usual)))) + 0.02)}
