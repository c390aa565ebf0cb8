"""`mlsec verify`: is the ledger what was signed, is each audit trail what was sealed, and was everything materialized sealed?"""

import json
import re
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from mlsec_dagster.cli.output import Progress, say, say_json
from mlsec_dagster.cli.settings import Settings, ledger_options
from mlsec_dagster.cli.verify_trails import TrailOutcome, tell_trails, trails_document, verify_trails
from mlsec_dagster.errors import ConfigurationError, LedgerError, MlsecError

if TYPE_CHECKING:
    from mlsec_dagster.integrity.entries import Entry
    from mlsec_dagster.integrity.ledger import Ledger
    from mlsec_dagster.integrity.verification import Verification
    from mlsec_dagster.reconciliation import Reconciliation, Verified

MAX_UNWITNESSED_SECONDS: Final = 24 * 3600.0
"""Entries that have waited longer for the witness mean that it does not get what it should."""

SHOWN: Final = 20
"""Problems that are listed for people; JSON has more."""

_UNITS: Final = {"m": 60.0, "h": 3600.0, "d": 86400.0}


class _Duration(click.ParamType):
    name = "DURATION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([mhd])", str(value).strip())
        if match is None:
            self.fail(f"{value!r} is not a duration: write minutes, hours or days, as in 90m, 24h or 7d.", param, ctx)
        return float(match[1]) * _UNITS[match[2]]


@dataclass(slots=True)
class _Outcome:
    """What one verification came to."""

    verification: "Verification"
    trust: str
    store: str
    witness: str | None
    rollback: str
    rollback_sentence: str
    sealed_trails: set[str] = field(default_factory=set[str])
    trails: list[TrailOutcome] | None = None
    compared: "Reconciliation | None" = None
    not_compared: str = ""
    unverified: bool = False
    differs: bool = False
    code: int = field(init=False, default=0)

    def conclude(self) -> "_Outcome":
        wrong = (
            not self.verification.intact
            or self.rollback == "rolled back"
            or self.differs
            or any(trail.differs for trail in self.trails or ())
            or (self.compared is not None and self.compared.counts)
        )
        unverified = self.unverified or any(trail.unverified for trail in self.trails or ())
        self.code = 1 if wrong else 4 if unverified else 3 if self.rollback != "verified" else 0
        return self

    @property
    def verdict(self) -> str:
        return {
            0: "verified",
            1: "not what it should be",
            3: "as sealed, but a rollback of the ledger cannot be excluded",
            4: "could not be verified",
        }[self.code]


@click.command()
@click.option("--no-dagster", is_flag=True, help="Verify the ledger only; compare no materializations.")
@click.option("--no-trail", is_flag=True, help="Verify no audit trail.")
@click.option("--max-witness-age", type=_Duration(), help="An older witness counts as none. [default: entries may wait 24h for it]")
@click.option(
    "--export",
    "exported",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False),
    help="Verify one exported entry instead, without the store.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@ledger_options
@click.pass_context
def verify(
    ctx: click.Context,
    settings: Settings,
    no_dagster: bool,
    no_trail: bool,
    max_witness_age: float | None,
    exported: str | None,
    as_json: bool,
) -> None:
    """Verify the whole ledger, the audit trails that it speaks of, and compare Dagster's materializations with it.

    Names the first bad entry and what was done to it: altered, removed, inserted, reordered, truncated, rolled back, forked, signed by a
    wrong or revoked key. Names each file of an audit trail that was edited, dropped, replaced or put in, and a table that was rolled back
    or exchanged. Then reports what was materialized and never sealed, what was sealed and never checked, and what failed its last check.

    \b
      mlsec verify --key SHA256:5c9d… --witness s3://audit-bucket/mlsec
      mlsec verify --store postgresql+psycopg://reader@db/mlsec --key SHA256:5c9d… --no-dagster
      mlsec verify --export entry-41.json --key SHA256:5c9d…

    \b
    Exit codes:
      0  everything was verified
      1  the ledger, a trail or a materialization is not what it should be
      2  usage or configuration
      3  all that could be verified is fine, but a rollback cannot be excluded (no witness, or one too old)
      4  could not verify: store or trail unreachable, key missing, a commit to a trail not sealed yet, …
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    if exported is not None:
        _verify_export(Path(exported), settings, as_json)
        return
    ledger, trust = settings.open_reading()
    with Progress() as progress:
        if no_dagster or settings.home is None:
            outcome = _verify(ledger, trust, max_witness_age, progress)
            outcome.not_compared = "--no-dagster was given" if no_dagster else "DAGSTER_HOME is not set, and no --home was given"
        else:
            from mlsec_dagster.reconciliation import Verified

            with Verified() as verified:
                outcome = _verify(ledger, trust, max_witness_age, progress, verified)
                _compare(ledger, settings, outcome, progress, verified if verified.complete(outcome.verification) else None)
        if not no_trail:
            outcome.trails = verify_trails(ledger, outcome.sealed_trails, settings, progress)
    outcome.conclude()
    say_json(_document(outcome)) if as_json else _tell(outcome)
    ctx.exit(outcome.code)


def _verify(
    ledger: "Ledger", trust: str, max_witness_age: float | None, progress: Progress, verified: "Verified | None" = None
) -> _Outcome:
    from mlsec_dagster.audit.seals import TRAIL_ASSET
    from mlsec_dagster.integrity.verification import verify_ledger

    trails: set[str] = set()

    def each(entry: "Entry") -> None:
        if entry.statement.asset == TRAIL_ASSET and entry.statement.partition is not None:
            trails.add(entry.statement.partition)
        if verified is not None:
            verified.add(entry)

    done = verify_ledger(
        ledger,
        progress=lambda checked, size: progress("verifying the ledger: entries", checked, size),
        max_witness_age_seconds=max_witness_age,
        each=each,
    )
    rollback, sentence = str(done.rollback), done.rollback_sentence
    witnessed = done.witnessed_size
    if max_witness_age is None and rollback == "verified" and done.intact and witnessed is not None and witnessed < done.size:
        waited = time.time() - ledger.entry(witnessed).recorded_at
        if waited > MAX_UNWITNESSED_SECONDS:
            rollback = "not verifiable"
            sentence = (
                f"the witness is too old: {done.size - witnessed:,} entries have not reached it, the first of them for {duration(waited)}"
            )
    return _Outcome(done, trust, ledger.database.name, ledger.witness.name if ledger.witness else None, rollback, sentence, trails)


def _compare(ledger: "Ledger", settings: Settings, outcome: _Outcome, progress: Progress, verified: "Verified | None") -> None:
    settings.require_home("The comparison with Dagster's materializations")
    progress("opening Dagster's event log")
    try:
        with settings.dagster_instance() as instance:
            from mlsec_dagster.reconciliation import reconcile

            outcome.compared = reconcile(
                ledger, instance, verified=verified, progress=lambda what, done: progress(f"comparing with Dagster: {what}", done)
            )
    except LedgerError as error:
        outcome.not_compared, outcome.differs = str(error), True
    except MlsecError as error:
        outcome.not_compared, outcome.unverified = str(error), True
    except Exception as error:  # Dagster's storage has errors of its own; the verdict on the ledger must not be lost with it.
        reason = str(error).strip().partition("\n")[0]
        outcome.not_compared, outcome.unverified = f"Dagster's event log cannot be read ({type(error).__name__}: {reason})", True


def _tell(outcome: _Outcome) -> None:
    done = outcome.verification
    say(f"ledger: {outcome.store}, {done.checked:,} of {done.size:,} entries verified")
    say(f"trust: {outcome.trust}")
    for problem in done.problems[:SHOWN]:
        say(f"{problem.kind.upper()}: {problem.sentence}", style="red")
    if len(done.problems) > SHOWN:
        say(f"… and {len(done.problems) - SHOWN:,} more", style="red")
    age = "" if done.witness_age_seconds is None else f" (its newest checkpoint is {duration(done.witness_age_seconds)} old)"
    say(
        f"rollback: {outcome.rollback}, {'no witness' if outcome.witness is None else outcome.rollback_sentence + age}",
        style="red" if outcome.rollback == "rolled back" else None,
    )
    tell_trails(outcome.trails, SHOWN)
    found = outcome.compared
    if found is None:
        say(f"materializations: not compared, {outcome.not_compared}")
    else:
        counts = ", ".join(f"{count:,} {kind}" for kind, count in found.counts.items()) or "all sealed and checked"
        say(f"materializations: {found.materializations:,}, of {found.assets:,} assets, compared with the ledger: {counts}")
        for gap in sorted(found.gaps, key=lambda gap: gap.level != "problem")[:SHOWN]:
            say(f"{gap.kind.upper()}: {gap.sentence}", style="red" if gap.level == "problem" else "yellow")
        if (rest := sum(found.counts.values()) - SHOWN) > 0:
            say(f"… and {rest:,} more; --json lists them")
        for note in found.notes:
            say(f"note: {note}")
    say(f"verdict: {outcome.verdict}", style={0: "green", 1: "red"}.get(outcome.code, "yellow"))


def _document(outcome: _Outcome) -> dict[str, Any]:
    done, found = outcome.verification, outcome.compared
    return {
        "verdict": outcome.verdict,
        "exit_code": outcome.code,
        "ledger": {
            "store": outcome.store,
            "origin": done.origin,
            "entries": done.size,
            "checked": done.checked,
            "problems": [asdict(problem) for problem in done.problems],
        },
        "trust": outcome.trust,
        "rollback": {
            "verdict": outcome.rollback,
            "reason": outcome.rollback_sentence,
            "witness": outcome.witness,
            "witnessed_entries": done.witnessed_size,
            "witness_age_seconds": done.witness_age_seconds,
        },
        "trail": trails_document(outcome.trails),
        "materializations": {
            "compared": found is not None,
            "reason": outcome.not_compared or None,
            "assets": found.assets if found else None,
            "count": found.materializations if found else None,
            "counts": found.counts if found else {},
            "gaps": [asdict(gap) for gap in found.gaps] if found else [],
            "notes": found.notes if found else [],
        },
    }


def _verify_export(file: Path, settings: Settings, as_json: bool) -> None:
    from mlsec_dagster.cli.ledger import entry_document
    from mlsec_dagster.integrity.exports import verify_export
    from mlsec_dagster.integrity.verdicts import when

    trust, source = settings.trust()
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{file} is not JSON; expected what `mlsec ledger show INDEX --export FILE` writes.") from error
    entry = verify_export(document, trust)
    if as_json:
        say_json({"verdict": "verified", "exit_code": 0, "trust": source, "entry": entry_document(entry)})
        return
    subject = entry.statement.asset if entry.statement.partition is None else f"{entry.statement.asset}[{entry.statement.partition}]"
    say(f"trust: {source}")
    say(f"entry {entry.index}: {entry.statement.predicate_type} about {subject}, signed by {entry.key}, recorded {when(entry.recorded_at)}")
    for line in json.dumps(entry.statement.predicate, indent=2, sort_keys=True).splitlines():
        say(line)
    say("verdict: verified. It was in the ledger; what came after it, an export cannot tell.", style="green")


def duration(seconds: float) -> str:
    """A time span as people say it, in its largest unit."""
    for name, unit in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}s"
    return f"{max(seconds, 0):.0f} seconds"
