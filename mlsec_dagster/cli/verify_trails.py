"""The trails in `mlsec verify`: is what lies in them what was sealed?"""

import os
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from mlsec_dagster.cli.output import Progress, say
from mlsec_dagster.cli.settings import Settings, trail_storage_options
from mlsec_dagster.errors import LedgerError, MlsecError

if TYPE_CHECKING:
    from mlsec_dagster.audit.seals import TrailProblem
    from mlsec_dagster.integrity.ledger import Ledger

_TIMES: Final = 3


@dataclass(slots=True)
class TrailOutcome:
    """What the verification of one trail came to.

    Attributes:
        uri: Where it lies.
        files: Files that were sealed and have to be there.
        problems: What nobody signed for, and what is not signed for yet.
        reason: Why it could not be verified, if it could not.
        differs: Whether it is not what it should be.
    """

    uri: str
    files: int = 0
    problems: "list[TrailProblem]" = field(default_factory=list)  # pyright: ignore[reportUnknownVariableType]
    reason: str | None = None
    differs: bool = False

    @property
    def unverified(self) -> bool:
        """Whether not all of it was verified, and what was is as it should be."""
        return not self.differs and (self.reason is not None or bool(self.problems))


def verify_trails(ledger: "Ledger", sealed: Collection[str], settings: Settings, progress: Progress) -> list[TrailOutcome]:
    """Verify every trail that the ledger speaks of, and the one that the settings name.

    Args:
        ledger: The ledger, verified already.
        sealed: URIs of the trails that its entries are about.
        settings: Where a trail lies that nobody may have sealed anything of.
        progress: Is told how far it is.
    """
    return [_verify(ledger, uri, uri in sealed, progress) for uri in sorted({*sealed, *_named(settings)})]


def _named(settings: Settings) -> list[str]:
    """The trail that `mlsec trail` would show: if nothing of it was sealed, that must not look as if all were well."""
    if not os.environ.get("MLSEC_TRAIL") and settings.home is None:
        return []
    trail = settings.trail(os.environ.get("MLSEC_TRAIL"))
    try:
        return [trail.uri] if trail.exists() and trail.open().files() else []
    except Exception:  # Then why is told when it is verified.
        return [trail.uri]


def _verify(ledger: "Ledger", uri: str, sealed: bool, progress: Progress) -> TrailOutcome:
    from mlsec_dagster.audit.due import due_files
    from mlsec_dagster.audit.seals import verify_trail
    from mlsec_dagster.audit.trail import Trail

    outcome = TrailOutcome(uri)

    def tell(done: int, total: int) -> None:
        outcome.files = total
        progress(f"verifying the trail {uri}: files", done, total)

    try:
        trail = Trail(uri, trail_storage_options())
        if sealed and not trail.exists():
            outcome.reason = "There is no trail any more where the ledger has sealed one: it was deleted or moved. Put it back there."
            return outcome
        for _ in range(_TIMES):
            before = ledger.checkpoint()
            due = due_files(ledger.database)
            outcome.problems = verify_trail(ledger, trail, due=due.added, leaving=due.leaving, progress=tell)
            # What was committed and sealed in between is in one and not in the other. Then look again; else it is what it looks like.
            if not outcome.problems or ledger.checkpoint() == before:
                break
        outcome.differs = any(problem.kind != "unsealed" for problem in outcome.problems)
    except LedgerError as error:
        outcome.reason, outcome.differs = str(error), True
    except MlsecError as error:
        outcome.reason = str(error)
    except Exception as error:  # Of Delta Lake or of a storage; the verdict on the ledger must not be lost with it.
        outcome.reason = f"The trail cannot be read ({type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]})."
    return outcome


def tell_trails(outcomes: list[TrailOutcome] | None, shown: int) -> None:
    """Say it for people.

    Args:
        outcomes: What came of each; None if they were not looked at.
        shown: Problems of each that are listed.
    """
    if outcomes is None:
        say("trail: not verified, --no-trail was given")
    elif not outcomes:
        say("trail: the ledger speaks of none")
    for each in outcomes or ():
        if each.reason is not None:
            say(f"trail: {each.uri}, could not be verified: {each.reason}", style="red" if each.differs else "yellow")
            continue
        counts: dict[str, int] = {}
        for problem in each.problems:
            counts[problem.kind] = counts.get(problem.kind, 0) + 1
        found = ", ".join(f"{count:,} {kind}" for kind, count in counts.items()) or "all as sealed"
        say(f"trail: {each.uri}, {each.files:,} files: {found}")
        for problem in sorted(each.problems, key=lambda problem: problem.kind == "unsealed")[:shown]:
            say(f"{problem.kind.upper()}: {problem.sentence}", style="yellow" if problem.kind == "unsealed" else "red")
        if len(each.problems) > shown:
            say(f"… and {len(each.problems) - shown:,} more; --json lists them")


def trails_document(outcomes: list[TrailOutcome] | None) -> dict[str, Any]:
    """The same for JSON."""
    return {
        "verified": outcomes is not None,
        "reason": "--no-trail was given" if outcomes is None else None,
        "trails": [
            {
                "uri": each.uri,
                "files": each.files,
                "verdict": "not what it should be" if each.differs else "could not be verified" if each.unverified else "verified",
                "reason": each.reason,
                "problems": [{"kind": problem.kind, "path": problem.path, "sentence": problem.sentence} for problem in each.problems],
            }
            for each in outcomes or ()
        ],
    }
