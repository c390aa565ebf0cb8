"""What is watched, in words that need no statistics: one phrase per channel.

    scene = Scene(assessed, history.windows, sensitive=frozenset({"tailnum"}))
    phrase(Channel("nulls", "dep_delay"), scene).clause          # "11% of dep_delay is missing (before: 2.4%)"

Names of columns and values come from data and stand here as they are; whoever shows them escapes them. Of sensitive columns there are
shares and counts only, no value and no name of a category, and no count below `LEAST_SHOWN`.
"""

# pyarrow brings no types of its own, so what comes out of it is unknown to a type checker.
# pyright: reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, NamedTuple

import numpy as np

from mlsec_dagster.stability.assessment import Assessment
from mlsec_dagster.stability.channels import REFERENCE_WINDOWS, Channel, rows_counted, unseen, unseen_patterns
from mlsec_dagster.stability.labels import FEW
from mlsec_dagster.stability.profiles import ColumnFrame, ColumnProfile, Window

LEAST_SHOWN: Final = 10
"""Rows below which nothing exact is said of a sensitive column: a smaller group may be a person."""

_PLAIN_NAME: Final = re.compile(r"[^\W\d][\w.\-]{0,63}")
_NAME: Final = 60
_CHARACTERS: Final = ("letters", "digits", "white space", "other signs")


class Phrase(NamedTuple):
    """A channel for people.

    Attributes:
        what: What is looked at, a noun phrase.
        before: How it was in the windows before.
        now: How it is.
        clause: All of it as a clause, without a full stop.
    """

    what: str
    before: str
    now: str
    clause: str


@dataclass(frozen=True, slots=True)
class Scene:
    """What the phrases are taken from.

    Attributes:
        assessed: The window and what was found.
        earlier: All windows before it, oldest first.
        sensitive: Columns of which only aggregates are told.
    """

    assessed: Assessment
    earlier: Sequence[Window] = ()
    sensitive: frozenset[str] = field(default_factory=frozenset[str])

    @property
    def recent(self) -> list[Window]:
        """The windows that this one is compared with."""
        return [window for window in self.earlier if window.profile.rows][-REFERENCE_WINDOWS:]

    @property
    def rows(self) -> int:
        """Rows of the window."""
        return self.assessed.window.profile.rows

    def column(self, name: str) -> tuple[ColumnFrame, ColumnProfile, ColumnProfile | None] | None:
        """How a column is counted, the column now, and in the pooled samples of the windows before."""
        frame, now = self.assessed.frame.column(name), self.assessed.window.profile.column(name)
        reference = self.assessed.reference
        return None if frame is None or now is None else (frame, now, None if reference is None else reference.column(name))

    def both(self, name: str) -> tuple[ColumnFrame, ColumnProfile, ColumnProfile] | None:
        """The same, if it was there before and both were counted in the same cells."""
        found = self.column(name)
        if found is None or found[2] is None or len(found[1].counts) != len(found[2].counts):
            return None
        return found[0], found[1], found[2]

    def past(self, name: str) -> list[tuple[int, ColumnProfile]]:
        """Rows and profile of a column in each of the recent windows that has it."""
        found = [(window.profile.rows, window.profile.column(name)) for window in self.recent]
        return [(rows, column) for rows, column in found if column is not None]


def phrase(channel: Channel, scene: Scene) -> Phrase:
    """A channel in words; the window's value of it, and how it was before."""
    words = _WORDS.get(channel.test)
    return words(channel, scene) if words is not None else _plainly(channel.test, named(channel.column))


def _plainly(what: str, of: str = "") -> Phrase:
    subject = f"{what} of {of}" if of else what
    return Phrase(subject, "", "", f"{subject} is not as before")


# --- one function per test


def _volume(_: Channel, scene: Scene) -> Phrase:
    recent = [window.profile.rows for window in scene.recent]
    usual = about(sum(recent) / max(len(recent), 1))
    windows = "the window before it" if len(recent) == 1 else f"the {len(recent)} windows before it"
    return Phrase("number of rows", f"about {usual}", f"{scene.rows:,}", f"it has {rows_said(scene.rows)}, and {windows} about {usual}")


def _nulls(channel: Channel, scene: Scene) -> Phrase:
    name, secret = named(channel.column), channel.column in scene.sensitive
    found = scene.column(channel.column)
    missing = 0 if found is None else found[1].nulls + found[1].nans
    past = scene.past(channel.column)
    before, rows = sum(column.nulls + column.nans for _, column in past), sum(rows for rows, _ in past)
    shares = _shares((before, rows), (missing, scene.rows), secret=secret)
    return Phrase(f"missing values of {name}", *shares, f"{shares[1]} of {name} is missing (before: {shares[0]})")


def _location(channel: Channel, scene: Scene) -> Phrase:
    name, found = named(channel.column), scene.column(channel.column)
    if found is None:
        return _plainly("values", name)
    frame, now, then = found
    up = scene.assessed.observation.channels.get(channel, 0.0) >= 0
    subject, higher, lower, unit = {
        "time": (f"{name} is", "later", "earlier", ""),
        "text": (f"texts in {name} are", "longer", "shorter", " characters"),
        "nested": (f"lists in {name} are", "longer", "shorter", " elements"),
    }.get(frame.kind, (f"{name} is", "higher", "lower", ""))
    direction = higher if up else lower
    mean = _mean_before(scene, channel.column)
    if mean is not None and now.mean is not None and channel.column not in scene.sensitive and (now.mean > mean) == up:
        show = moment if frame.kind == "time" else number
        before, after = show(mean) + unit, show(now.mean) + unit
        if before != after:
            what = f"mean of {name}" if not unit else f"mean length of {name}"
            return Phrase(what, before, after, f"{subject} {direction} than before (mean {after}, before {before})")
    # The mean says nothing, or may not be told: how often does a value of now exceed one of before?
    exceeds = _exceeding(now, then)
    if exceeds is None:
        return Phrase(f"values of {name}", "", direction, f"{subject} {direction} than before")
    share = percent(exceeds if up else 1 - exceeds)
    return Phrase(
        f"a value of {name} is {direction} than an earlier one",
        "50%",
        share,
        f"{subject} {direction} than before (in {share} of cases a value is {direction} than an earlier one, not in half of them)",
    )


def _share(channel: Channel, scene: Scene) -> Phrase:
    name, secret = named(channel.column), channel.column in scene.sensitive
    found = scene.both(channel.column)
    if found is None or channel.other not in found[0].categories:
        return _plainly("shares of values", name)
    frame, now, then = found
    place = frame.categories.index(channel.other)
    shares = _shares((_at(then.counts, place), sum(then.counts)), (_at(now.counts, place), sum(now.counts)), secret=secret)
    if secret:
        return Phrase(
            f"share of a common value of {name}", *shares, f"a common value of {name} is in {shares[1]} of rows (before: {shares[0]})"
        )
    value = quoted(channel.other)
    return Phrase(f"rows where {name} is {value}", *shares, f"{name} is {value} in {shares[1]} of rows (before: {shares[0]})")


def _distribution(channel: Channel, scene: Scene) -> Phrase:
    name = named(channel.column)
    clause = f"the values of {name} are spread differently than before"
    what = f"how the values of {name} are spread"
    found = scene.both(channel.column)
    if found is None or found[0].kind == "identifier" or channel.column in scene.sensitive:
        return Phrase(what, "", "", clause)
    frame, now, then = found
    if not sum(now.counts) or not sum(then.counts):
        return Phrase(what, "", "", clause)
    change = np.asarray(now.counts) / sum(now.counts) - np.asarray(then.counts) / sum(then.counts)
    place = int(np.argmax(np.abs(change)))
    before, after = _shares((then.counts[place], sum(then.counts)), (now.counts[place], sum(now.counts)))
    cell = cell_name(frame, place)
    return Phrase(what, f"{cell}: {before}", f"{cell}: {after}", f"{clause} ({cell}: {after} of rows, before {before})")


def _distinct(channel: Channel, scene: Scene) -> Phrase:
    name, found = named(channel.column), scene.column(channel.column)
    past = [(rows, column.distinct) for rows, column in scene.past(channel.column) if rows and column.distinct]
    if found is None or not past:
        return _plainly("different values", name)
    # HyperLogLog is right to a per cent or two, so no more digits are told.
    secret = channel.column in scene.sensitive
    usual = float(np.mean([distinct / rows for rows, distinct in past])) * scene.rows
    before, now = (
        f"fewer than {LEAST_SHOWN}" if secret and count < LEAST_SHOWN else f"about {about(count)}" for count in (usual, found[1].distinct)
    )
    return Phrase(
        f"different values of {name}",
        f"{before} in as many rows",
        now,
        f"{name} has {now} different values in {rows_said(scene.rows)} (before: {before} in as many)",
    )


def _characters(channel: Channel, scene: Scene) -> Phrase:
    name, found = named(channel.column), scene.column(channel.column)
    then = None if found is None else found[2]
    if found is None or then is None or not found[1].characters or len(then.characters) != len(found[1].characters):
        return _plainly("characters", name)
    change = np.subtract(found[1].characters, then.characters)
    place = int(np.argmax(np.abs(change)))
    which = _CHARACTERS[place] if place < len(_CHARACTERS) else "some signs"
    before, after = percent(then.characters[place]), percent(found[1].characters[place])
    return Phrase(
        f"{which} among the characters of {name}",
        before,
        after,
        f"the texts in {name} are made of other characters than before ({which}: {after}, before {before})",
    )


def _relation(channel: Channel, scene: Scene) -> Phrase:
    name = named(channel.column)
    direction = "higher" if scene.assessed.observation.channels.get(channel, 0.0) >= 0 else "lower"
    return Phrase(
        f"{name} as it follows from the other columns",
        "as they suggest",
        f"{direction} than they suggest",
        f"{name} no longer follows from the other columns as it did (it is {direction} than they suggest)",
    )


def _correlation(_: Channel, __: Scene) -> Phrase:
    return Phrase("how the number columns move together", "", "", "the number columns no longer go up and down together as they did")


def _two_samples(_: Channel, scene: Scene) -> Phrase:
    together = scene.assessed.observation.together
    telling = [named(name) for name in together.telling]
    by = f", mostly by {' and '.join(telling[:2])}" if telling else ""
    now = "" if together.auc is None else f"right in {together.auc:.0%} of cases"
    # Of two rows, one of now and one of before, the later one is picked: that is the area under the ROC curve.
    return Phrase("telling its rows from earlier ones", "", now, f"its rows can be told from earlier ones{by}")


def _label(channel: Channel, scene: Scene) -> Phrase:
    name, labels = named(channel.column), scene.assessed.observation.labels
    sure, differing = (labels.classes.get(channel.other) if labels is not None else None) or (0, 0)
    secret = channel.column in scene.sensitive
    is_what = "what it is" if secret else f"that {name} is {quoted(channel.other)}"
    # A channel's value is the logarithm of (differing + FEW) / (sure + FEW), see `labels`.
    before = [max(round(math.exp(value) * (sure + FEW)) - FEW, 0) for value in _values_before(channel, scene)]
    usual = _range(before, secret=secret)
    now = count_said(differing, secret=secret)
    more = bool(before) and differing > max(before)
    return Phrase(
        f"labels {name} that differ where a model is sure" + ("" if secret else f" of {quoted(channel.other)}"),
        f"{usual} of {sure:,}",
        f"{now} of {sure:,}",
        f"in {now} of {rows_said(sure)} of which a model is sure {is_what}, the label says otherwise (before: {usual} of as many)"
        + (": labels may have been flipped" if more else ""),
    )


def _unseen(channel: Channel, scene: Scene) -> Phrase:
    name, found = named(channel.column), scene.column(channel.column)
    if found is None:
        return _plainly("new values", name)
    seen = {value for window in scene.earlier if window.profile.rows for value in window.values.get(channel.column, ())}
    new = unseen(found[0], found[1], seen)
    total, secret = sum(new.values()), channel.column in scene.sensitive
    rows = count_said(total, secret=secret) + (" row" if total == 1 and not secret else " rows")
    values = sorted((value for value in new if value), key=lambda value: -new[value])
    what, several = f"values of {name} that were never there", len(new) > 1
    if secret or not values:
        return Phrase(what, "none", rows, f"{name} has {'values that were' if several else 'a value that was'} never there, in {rows}")
    listed = ", ".join(quoted(value) for value in values[:3]) + (", …" if len(new) > 3 else "")
    has = f"{'values that were' if several else 'a value that was'} never there"
    return Phrase(what, "none", f"{listed}: {rows}", f"{name} has {has}: {listed} in {rows}")


def _pattern(_: Channel, scene: Scene) -> Phrase:
    what = "combinations of missing columns that were never there"
    names = [column.name for column in scene.assessed.window.profile.columns]
    new = unseen_patterns(scene.assessed.window.profile, [window for window in scene.earlier if window.profile.rows])
    if not new:
        return Phrase(what, "none", "none", "no combination of missing columns is new")
    pattern, rows = max(new.items(), key=lambda item: item[1])
    missing = _nulls_of(pattern, names)
    known = [
        _nulls_of(other, [column.name for column in window.profile.columns]).intersection(names)
        for window in scene.earlier
        for other in window.profile.patterns
    ]
    around = [other for other in known if missing <= other]
    # What has always been missing along with these columns, and is there now, is what a reader wonders at.
    companions = (
        frozenset(name for name in around[0] if all(name in other for other in around)) - missing
        if missing and around
        else frozenset[str]()
    )
    listed = _listed(missing, names) if missing else ""
    secret = bool((missing | companions) & scene.sensitive)
    said = count_said(rows, secret=secret) + (" row" if rows == 1 and not secret else " rows")
    total = count_said(sum(new.values()), secret=secret) + " rows"
    if not missing:
        clause = f"in {said} every column has a value, which never happened before"
    elif companions:
        other = _listed(companions, names)
        clause = f"{listed} {_is(missing)} missing in {said} where {other} {_is(companions)} there, which never happened before"
    else:
        alone = " and nothing else" if len(missing) == 1 else " together"
        clause = f"{listed} {_is(missing)} missing{alone} in {said}, which never happened before"
    return Phrase(what, "none", total, clause)


def _duplicates(channel: Channel, scene: Scene) -> Phrase:
    profile = scene.assessed.window.profile
    rows = round(profile.duplicates / profile.hashed * profile.rows) if profile.hashed else 0
    before = _range(_rows_before(channel, scene, profile.rows))
    verb = "is a copy" if rows == 1 else "are copies"
    return Phrase(
        "copies of other rows", before, f"{rows:,}", f"{rows_said(rows)} {verb} of another one (before: {before} in as many rows)"
    )


def _contradiction(channel: Channel, scene: Scene) -> Phrase:
    found = scene.assessed.observation.together.contradictions
    total, sampled = sum(found.values()), int(scene.assessed.sample.num_rows)
    secret = bool({name for pair in found for name in pair} & scene.sensitive)
    before, now = _range(_rows_before(channel, scene, sampled), secret=secret), count_said(total, secret=secret)
    what = "rows that contradict what one column has always said of another"
    if not found:
        return Phrase(what, before, now, "no row contradicts what one column has always said of another")
    (by, of), rows = max(found.items(), key=lambda item: item[1])
    among = "" if sampled >= scene.rows else f" of {sampled:,} sampled"
    said = count_said(rows, secret=secret)
    # A time comes once; what follows from it (month, hour) is held against the rows right before and after.
    if by == scene.assessed.observation.together.clock:
        what = "rows out of step with time"
        return Phrase(
            what, before, now, f"in {said}{among} rows {named(of)} is not what it is in the rows right before and after by {named(by)}"
        )
    return Phrase(what, before, now, f"in {said}{among} rows {named(of)} is not what {named(by)} always came with")


def _stale(channel: Channel, scene: Scene) -> Phrase:
    rows = scene.assessed.observation.stale
    secret = any(column.kind == "time" and column.name in scene.sensitive for column in scene.assessed.frame.columns)
    before, now = _range(_rows_before(channel, scene, scene.rows), secret=secret), count_said(rows, secret=secret)
    said = f"{now} rows are" if secret or rows != 1 else "1 row is"
    clause = f"{said} older than rows of earlier windows (before: {before} in as many)"
    return Phrase("rows that are older than rows of earlier windows", before, now, clause)


_WORDS: Final[dict[str, Callable[[Channel, Scene], Phrase]]] = {
    "volume": _volume,
    "nulls": _nulls,
    "location": _location,
    "share": _share,
    "distribution": _distribution,
    "distinct": _distinct,
    "characters": _characters,
    "relation": _relation,
    "correlation": _correlation,
    "two samples": _two_samples,
    "label": _label,
    "unseen": _unseen,
    "pattern": _pattern,
    "duplicates": _duplicates,
    "contradiction": _contradiction,
    "stale": _stale,
}


# --- numbers and names


def named(column: str) -> str:
    """A column in a sentence: in quotes where it would read like more than a name."""
    return column if _PLAIN_NAME.fullmatch(column) else quoted(column)


def quoted(value: str) -> str:
    """A value in a sentence, cut where it is long."""
    return f"'{value if len(value) <= _NAME else value[: _NAME - 1] + '…'}'"


def percent(share: float) -> str:
    """0.189 -> "18.9%", 0.024 -> "2.4%", 0.11 -> "11%"; two digits at least, as far as they are not noughts."""
    value = 100 * share
    if value and abs(value) < 0.01:
        return "below 0.01%"
    return f"{value:.1f}".removesuffix(".0") + "%" if abs(value) >= 1 else f"{value:.2g}%"


def number(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e12 else f"{value:.3g}"


def about(value: float) -> str:
    """Two digits: 6,512 -> "6,500"."""
    if value < 100:
        return f"{value:.0f}"
    return f"{round(value, 1 - math.floor(math.log10(value))):,.0f}"


def moment(seconds: float) -> str:
    """Seconds since the epoch as a date and time of day, in UTC."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"
    except (ValueError, OverflowError, OSError):
        return f"{seconds:.3g} s"


def rows_said(rows: int) -> str:
    """A number of rows with its noun."""
    return "1 row" if rows == 1 else f"{rows:,} rows"


def count_said(rows: int, *, secret: bool = False) -> str:
    """A number of rows; of a sensitive column none that is small."""
    return f"fewer than {LEAST_SHOWN}" if secret and rows < LEAST_SHOWN else f"{rows:,}"


def cell_name(frame: ColumnFrame, place: int) -> str:
    """What a cell of a column's counts holds."""
    if not frame.edges:
        return quoted(frame.categories[place]) if place < len(frame.categories) else "any other value"
    show = moment if frame.kind == "time" else number
    unit = {"text": " characters", "nested": " elements"}.get(frame.kind, "")
    if place == 0:
        return f"below {show(frame.edges[0])}{unit}"
    if place >= len(frame.edges):
        return f"{show(frame.edges[-1])}{unit} or more"
    return f"{show(frame.edges[place - 1])} to {show(frame.edges[place])}{unit}"


def _shares(before: tuple[float, float], now: tuple[float, float], *, secret: bool = False) -> tuple[str, str]:
    """Two shares, with as many digits as it takes to tell them apart."""
    said = [_share_said(*part, secret=secret) for part in (before, now)]
    if said[0] == said[1] and not secret and before[1] and now[1] and before[0] / before[1] != now[0] / now[1]:
        said = [f"{100 * part[0] / part[1]:.3f}%" for part in (before, now)]
    return said[0], said[1]


def _share_said(part: float, whole: float, *, secret: bool) -> str:
    if not whole:
        return "unknown"
    if secret and part < LEAST_SHOWN:
        return f"fewer than {LEAST_SHOWN} rows"
    if secret and whole - part < LEAST_SHOWN:
        return f"all but fewer than {LEAST_SHOWN} rows"
    return percent(part / whole)


def _range(counts: Sequence[int], *, secret: bool = False) -> str:
    if not counts:
        return "unknown"
    if secret and max(counts) < LEAST_SHOWN:
        return count_said(max(counts), secret=True)
    if min(counts) == max(counts) or secret:
        return f"up to {max(counts):,}" if secret else f"{min(counts):,}"
    return f"{min(counts):,} to {max(counts):,}"


def _values_before(channel: Channel, scene: Scene) -> list[float]:
    """What the recent windows had in a channel when they were the newest."""
    return [value for window in scene.earlier[-REFERENCE_WINDOWS:] for *key, value in window.channels if Channel(*key) == channel]


def _rows_before(channel: Channel, scene: Scene, of: int) -> list[int]:
    """The same of a channel that counts rows, as rows in a window of `of`: see `channels.counted`."""
    return [round(rows_counted(value, of)) for value in _values_before(channel, scene)]


def _mean_before(scene: Scene, name: str) -> float | None:
    known = [(rows - column.nulls - column.nans, column.mean) for rows, column in scene.past(name)]
    weighed = [(rows, mean) for rows, mean in known if mean is not None and rows > 0]
    return sum(rows * mean for rows, mean in weighed) / sum(rows for rows, _ in weighed) if weighed else None


def _exceeding(now: ColumnProfile, then: ColumnProfile | None) -> float | None:
    """How often a value of now exceeds one of before, by the bins; ties count half."""
    if then is None or not sum(now.counts) or not sum(then.counts) or len(now.counts) != len(then.counts):
        return None
    p, q = np.asarray(now.counts) / sum(now.counts), np.asarray(then.counts) / sum(then.counts)
    return float((p * (np.cumsum(q) - q / 2)).sum())


def _at(counts: Sequence[int], place: int) -> int:
    return counts[place] if place < len(counts) else 0


def _nulls_of(pattern: str, names: Sequence[str]) -> frozenset[str]:
    return frozenset(name for name, flag in zip(names, pattern, strict=False) if flag == "1")


def _listed(columns: frozenset[str], order: Sequence[str]) -> str:
    ordered = [named(name) for name in order if name in columns]
    shown = ordered[:3] + ([f"{len(ordered) - 3} more"] if len(ordered) > 3 else [])
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _is(columns: frozenset[str]) -> str:
    return "is" if len(columns) == 1 else "are"
