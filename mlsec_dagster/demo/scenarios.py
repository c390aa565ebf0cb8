"""The seven attacks of the drill, each played through and judged.

    with new_project(Path(".demo"), protect, pipeline.defs) as project:
        ingest_clean_weeks(project, progress)
        outcomes = [attack(project) for attack in ATTACKS]

An attack counts as caught only if the product noticed it and said where, and if no model was trained on what the attacker left: the
model's file has the same bytes and the same time stamp as before, and Dagster knows no newer materialization of it. Each attack is
undone before the next one begins, so that none hides another.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pandas as pd

from mlsec_dagster.demo import attacks, pipeline
from mlsec_dagster.demo.project import DrillError, Project, Run
from mlsec_dagster.integrity.files import hash_path
from mlsec_dagster.integrity.manifest import Manifest

CLEAN_WEEKS = 20
"""As many as `distribution_stability` needs before its first verdict."""
CARRIER = "UA"
COPIED = 0.05
CALLED_PUNCTUAL = 0.05
BLOCK_ROWS = 65_536
"""Labels are flipped from here on: in the second block of rows, so that naming the block means something."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one attack.

    Attributes:
        name: The attack, in a few words.
        did: What the attacker did.
        caught_by: What noticed it; empty if nothing did.
        where: Where exactly, in the product's own words.
        trained: Whether a model was trained on what the attacker left.
        look: Where to look: pages of the UI, commands.
        remark: What else is worth knowing.
    """

    name: str
    did: str
    caught_by: str
    where: str
    trained: bool
    look: tuple[str, ...]
    remark: str = ""

    @property
    def caught(self) -> bool:
        """Noticed, located, and nothing was trained on it."""
        return bool(self.caught_by and self.where) and not self.trained


def flip_labels_in_storage(project: Project) -> Outcome:
    """Labels are flipped in the stored training set, and only the model's job is run: no check of that file is part of it."""
    file = project.table("training_set")
    with attacks.restored_afterwards(file):
        count = attacks.flip_labels(file, pipeline.LABEL, carrier=CARRIER, first_row=BLOCK_ROWS)
        run, trained = _attempt(project, "train_model")
    return Outcome(
        "labels flipped in a stored file",
        f"turned the label of {count:,} {CARRIER} flights in {file.name} around, schema and time stamp kept; "
        "then only train_model was run, which has no check of that file",
        _verified_at_load(run),
        _place(file, run),
        trained,
        (_failure_page(run),),
    )


def swap_between_write_and_check(project: Project) -> Outcome:
    """A file is replaced in the moment between its being written and its being checked."""
    week = pipeline.weeks.get_partition_keys()[CLEAN_WEEKS]
    file = project.table("raw_flights", week)
    changed: list[int] = []

    def swap(event: dg.EventLogEntry) -> None:
        # Dagster says that the file is written; its check is the next step to run. An attacker who watches the log knows it then too.
        happened = event.dagster_event
        if happened is not None and happened.is_handled_output and happened.step_key == "raw_flights":
            changed.append(attacks.hide_delays(file, carrier=CARRIER))

    with _untrained(project) as trained:
        run = project.run("weekly_ingest", week, meanwhile=swap)
    stopped = run.check == "raw_flights:dataset_hash" and "flight_features" not in run.materialized
    require_success(project.run("weekly_ingest", week))
    return Outcome(
        "a file swapped between write and check",
        f"made {sum(changed):,} late {CARRIER} flights punctual in raw_flights/{file.name}, after it was written and before it was checked",
        "the blocking check dataset_hash; flight_features did not run" if changed and stopped else "",
        _place(file, run),
        trained(),
        ("/assets/raw_flights?view=checks", f"/runs/{run.run_id}?logs=type:ASSET_CHECK_EVALUATION"),
    )


def edit_the_ledger(project: Project) -> Outcome:
    """The labels are flipped again, and this time the ledger is made to agree, by a write into its database."""
    file, edited = project.table("training_set"), project.evidence / "edited-ledger.db"
    with _ledger_restored(project), attacks.restored_afterwards(file):
        before = Manifest(files=hash_path(file)).files_root
        count = attacks.flip_labels(file, pipeline.LABEL, carrier=CARRIER, first_row=BLOCK_ROWS)
        after = Manifest(files=hash_path(file)).files_root
        entry = attacks.rewrite_record(project.ledger, "training_set", str(before), str(after))
        run, trained = _attempt(project, "train_model")
        found = project.verify()
        attacks.copy_database(project.ledger, edited)
    first = found.problems[0] if found.problems else None
    caught = first is not None and (first.index, first.kind) == (entry, "altered") and run.error == "LedgerError"
    return Outcome(
        "a row of the ledger edited",
        f"flipped the same {count:,} labels, and in the newest row about them in ledger.db wrote the new file's digest over the old one",
        f"the reader: {run.failed_step} verified the signature of the row; and mlsec verify" if caught else "",
        f"ledger entry {first.index}: {first.kind}" if first else "",
        trained,
        (_failure_page(run), project.verify_command(edited)),
    )


def roll_the_ledger_back(project: Project) -> Outcome:
    """An earlier copy of the ledger, every byte of it properly signed, is put in the place of the present one."""
    file, earlier = project.table("training_set"), _earlier(project)
    with _ledger_restored(project), attacks.restored_afterwards(file):
        attacks.copy_database(earlier, project.ledger)
        count = attacks.flip_labels(file, pipeline.LABEL, carrier=CARRIER, first_row=BLOCK_ROWS)
        found, without = project.verify(), project.verify(witness=False)
        # The process that ran the earlier jobs remembers the longer ledger. One that starts now, as on the next day, does not.
        with _untrained(project) as trained:
            run = project.run_in_new_process("train_model")
        has_trained = trained()
    rolled_back = next((problem.sentence for problem in found.problems if problem.kind == "rolled back"), "")
    caught = rolled_back and without.rollback == "not verifiable" and run.error == "LedgerError"
    return Outcome(
        "the ledger rolled back",
        f"put back a copy of ledger.db from before the training set was first sealed, properly signed, and flipped {count:,} labels",
        f"the reader: {run.failed_step} asked the witness before it trusted data without a seal; and mlsec verify" if caught else "",
        rolled_back,
        has_trained,
        (_failure_page(run), project.verify_command(earlier)),
        f"Without a witness, mlsec verify could only say: {without.rollback_sentence}",
    )


def switch_the_check_off(project: Project) -> Outcome:
    """A week is materialized with the guard taken out of the code, so that nothing seals it and nothing checks it."""
    week = pipeline.weeks.get_partition_keys()[CLEAN_WEEKS + 1]
    with _untrained(project) as trained:
        dark = project.run("weekly_ingest", week, guarded=False)
        found = project.verify()
        build = project.run("build_training_set")
    unsealed = [gap for gap in found.gaps if gap.kind == "unsealed" and gap.run_id == dark.run_id]
    complete = {(gap.asset, gap.partition) for gap in unsealed} == {("raw_flights", week), ("flight_features", week)}
    require_success(project.run("weekly_ingest", week))
    return Outcome(
        "the check switched off",
        f"took the guard out of the code and materialized the week of {week}; Dagster shows a green run without a failed check",
        "mlsec verify, and build_training_set, which refused to read that week" if complete and not build.success else "",
        f"{' and '.join(f'{gap.asset}[{gap.partition}]' for gap in unsealed)}: materialized by run {dark.run_id}, never sealed"
        if unsealed
        else "",
        trained(),
        (f"/runs/{dark.run_id}", _failure_page(build), project.verify_command()),
    )


def shift_the_feed(project: Project) -> Outcome:
    """The source issues a week in which some flights are copies of one carrier's, before it is ingested, so that every digest agrees."""
    return _poison_the_feed(
        project,
        pipeline.weeks.get_partition_keys()[CLEAN_WEEKS + 2],
        lambda flights: attacks.crowd_with_copies(flights, carrier=CARRIER, share=COPIED),
        name="an upstream feed shifted",
        did=f"in the source's file of the week of {{week}}, put copies of {{count:,}} {CARRIER} flights in the place of other flights",
    )


def flip_labels_upstream(project: Project) -> Outcome:
    """The source issues a week in which late flights are labelled punctual, before it is ingested, so that every digest agrees."""
    return _poison_the_feed(
        project,
        pipeline.weeks.get_partition_keys()[CLEAN_WEEKS + 3],
        lambda flights: attacks.call_punctual(flights, pipeline.REPORTED, share=CALLED_PUNCTUAL),
        name="labels flipped before ingestion",
        did=f"in the source's file of the week of {{week}}, labelled {{count:,}} late flights punctual, {CALLED_PUNCTUAL:.0%} of all",
    )


def _poison_the_feed(project: Project, week: str, poison: Callable[[pd.DataFrame], int], *, name: str, did: str) -> Outcome:
    window = pipeline.weeks.time_window_for_partition_key(week)
    flights = pipeline.FlightArchive().between(window.start.date(), window.end.date())
    count = poison(flights)
    with attacks.issued_again(pipeline.feed_of(project.instance), week, flights), _untrained(project) as trained:
        run = project.run("weekly_ingest", week)
        # Whoever waits for a green run goes on when there is one.
        if run.success:
            for job in ("build_training_set", "train_model"):
                require_success(project.run(job))
        has_trained = trained()
    agreed = "raw_flights:dataset_hash" in run.checks_passed
    stopped = run.check == "raw_flights:distribution_stability" and "flight_features" not in run.materialized
    require_success(project.run("weekly_ingest", week))
    return Outcome(
        name,
        did.format(week=week, count=count),
        "the blocking check distribution_stability, while dataset_hash passed; flight_features did not run" if agreed and stopped else "",
        f"{run.reason.partition('. ')[0]}." if stopped else "",
        has_trained,
        ("/assets/raw_flights?view=checks", f"/runs/{run.run_id}?logs=type:ASSET_CHECK_EVALUATION"),
    )


ATTACKS: tuple[Callable[[Project], Outcome], ...] = (
    flip_labels_in_storage,
    swap_between_write_and_check,
    edit_the_ledger,
    roll_the_ledger_back,
    switch_the_check_off,
    shift_the_feed,
    flip_labels_upstream,
)


def ingest_clean_weeks(project: Project, progress: Callable[[str, Run], None]) -> None:
    """Materialize `CLEAN_WEEKS` weeks, the training set and the model, in runs that must all succeed.

    Args:
        project: Without history.
        progress: Called with what was done, and the run that did it.

    Raises:
        DrillError: A clean run did not succeed.
    """
    for number, week in enumerate(pipeline.weeks.get_partition_keys()[:CLEAN_WEEKS], 1):
        if number == CLEAN_WEEKS:
            attacks.copy_database(project.ledger, _earlier(project))
        progress(f"week of {week}", require_success(project.run("weekly_ingest", week)))
    train(project, progress)


def train(project: Project, progress: Callable[[str, Run], None]) -> None:
    """Build the training set and train the model, in runs that must succeed.

    Raises:
        DrillError: One did not.
    """
    progress("training set", require_success(project.run("build_training_set")))
    progress("model", require_success(project.run("train_model")))


def require_success(run: Run) -> Run:
    """Returns the run, which must have succeeded.

    Raises:
        DrillError: It did not.
    """
    if not run.success:
        raise DrillError(f"Run {run.run_id} failed though nobody had touched its data: {run.reason}")
    return run


def _attempt(project: Project, job: str) -> tuple[Run, bool]:
    with _untrained(project) as trained:
        run = project.run(job)
    return run, trained()


def _earlier(project: Project) -> Path:
    return project.evidence / "earlier-ledger.db"


@contextmanager
def _ledger_restored(project: Project) -> Iterator[None]:
    """Put the ledger back as it was when the block ends."""
    backup = project.evidence / "ledger.db"
    attacks.copy_database(project.ledger, backup)
    try:
        yield
    finally:
        attacks.copy_database(backup, project.ledger)
        backup.unlink()


@contextmanager
def _untrained(project: Project) -> Iterator[Callable[[], bool]]:
    """Gives a function that tells whether the model has been written or materialized since the block began."""
    before = project.model()
    yield lambda: project.model() != before


def _failure_page(run: Run) -> str:
    return f"/runs/{run.run_id}?logs=type:STEP_FAILURE"


def _verified_at_load(run: Run) -> str:
    refused = not run.success and run.error == "VerificationError"
    return f"the reader: {run.failed_step} verified the stored bytes before it deserialised them" if refused else ""


def _place(file: Path, run: Run) -> str:
    """Columns, blocks and rows that the run's failure names; empty if it names none."""
    places = re.findall(r"column '([^']+)' in (block \d+ \(rows [\d,]+ to [\d,]+\))", run.reason)
    return f"{file.parent.name}/{file.name}: " + ", ".join(f"column {column}, {block}" for column, block in places) if places else ""


def _refused(run: Run) -> str:
    return f"A new process refuses to train all the same: {run.reason}" if not run.success else ""
