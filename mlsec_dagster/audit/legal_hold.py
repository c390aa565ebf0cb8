"""Legal hold: what must not be deleted, whoever asks for it.

    set_hold(ledger, trail, Hold(name="case-2026-17", who="…", why="…", sources=["aws.cloudtrail"], first="2026-04-01"))
    for hold in active_holds(ledger, trail): ...
    lift_hold(ledger, trail, "case-2026-17", who="…", why="…")

Holds are statements in the ledger: who can write to the database or the storage cannot lift one without a key. Expiry, erasure and
vacuum ask for them each time. Compaction goes on, for it deletes nothing: the files that it replaced stay as long as the hold does.
"""

import re
from datetime import date
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from mlsec_dagster.audit.events import SOURCES
from mlsec_dagster.audit.seals import TRAIL_ASSET
from mlsec_dagster.audit.trail import Trail
from mlsec_dagster.errors import ConfigurationError, LedgerError
from mlsec_dagster.integrity.statements import Statement

if TYPE_CHECKING:
    from mlsec_dagster.integrity.ledger import Ledger

HOLD: Final = "urn:mlsec:trail-hold:v1"

_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,99}")


class Hold(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What must not be deleted. The ledger keeps all of it for ever: name a case, not a person.

    Attributes:
        name: What it is called.
        who: Who set it.
        why: On what grounds.
        sources: The logs that it covers; empty for all.
        first: First day that it covers, "2026-05-01"; None for from the beginning.
        last: Last day that it covers; None for whatever comes.
    """

    name: str
    who: str
    why: str
    sources: list[str] = []
    first: str | None = None
    last: str | None = None

    def covers(self, source: str, day: str) -> bool:
        """Whether rows of this log and day are held."""
        if self.sources and source not in self.sources:
            return False
        return (self.first is None or self.first <= day) and (self.last is None or day <= self.last)

    def __str__(self) -> str:
        sources = ", ".join(self.sources) or "all sources"
        days = f"{self.first or 'the beginning'} to {self.last or 'whatever comes'}"
        return f"{self.name} ({sources}, {days}; {self.who}: {self.why})"


class _Said(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    state: Literal["set", "lifted"]
    hold: Hold


def covering(holds: list[Hold], source: str, day: str) -> Hold | None:
    """The first hold that covers this log and day."""
    return next((hold for hold in holds if hold.covers(source, day)), None)


def set_hold(ledger: "Ledger", trail: Trail, hold: Hold) -> None:
    """Set a hold: from now on nothing that it covers is deleted.

    Raises:
        ConfigurationError: It has no proper name, days, reason, or there is one of this name.
    """
    if not _NAME.fullmatch(hold.name):
        raise ConfigurationError(f"{hold.name!r} cannot be the name of a hold: use letters, digits, points and hyphens, at most 100.")
    if not hold.who.strip() or not hold.why.strip():
        raise ConfigurationError(f"Say who sets the hold {hold.name} and why: both go into the ledger.")
    unknown = sorted(set(hold.sources) - set(SOURCES))
    if unknown:
        raise ConfigurationError(f"There is no source {unknown[0]!r}; expected some of {', '.join(SOURCES)}.")
    for day in (hold.first, hold.last):
        if day is not None and not _is_day(day):
            raise ConfigurationError(f"{day!r} is no day; expected one like 2026-05-01.")
    if hold.first is not None and hold.last is not None and hold.first > hold.last:
        raise ConfigurationError(f"The hold {hold.name} would end on {hold.last}, before it begins on {hold.first}.")
    if any(hold.name == each.name for each in active_holds(ledger, trail)):
        raise ConfigurationError(f"There is a hold {hold.name!r} already. Choose another name, or lift that one first.")
    _say(ledger, trail, _Said(state="set", hold=hold))


def lift_hold(ledger: "Ledger", trail: Trail, name: str, *, who: str, why: str) -> Hold:
    """Lift a hold. Returns it as it was set.

    Raises:
        ConfigurationError: There is none of this name, or no reason.
    """
    found = next((hold for hold in active_holds(ledger, trail) if hold.name == name), None)
    if found is None:
        raise ConfigurationError(f"There is no hold {name!r} on this trail; `hold list` tells which there are.")
    if not who.strip() or not why.strip():
        raise ConfigurationError(f"Say who lifts the hold {name} and why: both go into the ledger.")
    _say(ledger, trail, _Said(state="lifted", hold=msgspec.structs.replace(found, who=who, why=why)))
    return found


def active_holds(ledger: "Ledger", trail: Trail) -> list[Hold]:
    """The holds that are set and not lifted, in the order in which they were set.

    Raises:
        LedgerError: A statement is not what was signed, or cannot be read.
    """
    active: dict[str, Hold] = {}
    for entry in ledger.history(TRAIL_ASSET, trail.uri, {HOLD}):
        try:
            said = msgspec.convert(dict(entry.statement.predicate), _Said)
        except msgspec.ValidationError as error:
            raise LedgerError(f"Entry {entry.index} of the ledger is about a legal hold and cannot be read ({error}).") from error
        if said.state == "set":
            active[said.hold.name] = said.hold
        else:
            active.pop(said.hold.name, None)
    return list(active.values())


def _say(ledger: "Ledger", trail: Trail, said: _Said) -> None:
    predicate: dict[str, Any] = msgspec.to_builtins(said)
    ledger.append([Statement(TRAIL_ASSET, trail.uri, HOLD, {}, predicate)])


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
