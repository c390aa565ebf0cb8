"""The example as somebody would run it: a home directory, a Dagster instance with history, jobs with and without the guard."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import dagster as dg

from mlsec_dagster.errors import ConfigurationError
from mlsec_dagster.integrity.keys import load_key_file
from mlsec_dagster.integrity.ledger import open_ledger
from mlsec_dagster.integrity.trust import Trust
from mlsec_dagster.integrity.verification import Problem, Rollback, verify_ledger
from mlsec_dagster.integrity.witness import Witness
from mlsec_dagster.reconciliation import Gap, Verified, reconcile

# The drill tells its own story; Dagster's goes to its event log and nowhere else.
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
MARKER = ".mlsec-demo"
"""The file that says that a directory is a demo's, and may be removed to build the next one."""


@dataclass(frozen=True, slots=True)
class Run:
    """What came of one run.

    Attributes:
        run_id: Dagster's id of the run.
        success: Whether all of its steps ended well and no blocking check failed.
        failed_step: Key of the first step that failed, or None.
        error: Class name of the error behind that failure, or "".
        reason: What that error said, or what the failed check said.
        check: Name of the first asset check that failed, as `asset:check`, or None.
        checks_passed: The asset checks that passed, likewise.
        seconds: How long it took.
        materialized: Keys of the assets that the run materialized.
    """

    run_id: str
    success: bool
    failed_step: str | None
    error: str
    reason: str
    check: str | None
    checks_passed: frozenset[str]
    seconds: float
    materialized: frozenset[str]


@dataclass(frozen=True, slots=True)
class ModelState:
    """Enough to tell whether a model was trained: the file's digest and time, and Dagster's last materialization of it."""

    digest: str
    modified_ns: int
    storage_id: int


@dataclass(frozen=True, slots=True)
class Findings:
    """What a verification of the ledger, and of Dagster's materializations against it, found.

    Attributes:
        problems: What is wrong with the ledger, the first bad entry first.
        rollback: Whether the ledger can have been rolled back.
        rollback_sentence: The same for people.
        gaps: Materializations that are not what they should be; empty if the ledger itself is not intact.
    """

    problems: tuple[Problem, ...]
    rollback: Rollback
    rollback_sentence: str
    gaps: tuple[Gap, ...]


class DrillError(Exception):
    """The drill itself cannot go on: something failed that no attacker had touched."""


class Project:
    """The example pipeline in a directory of its own."""

    def __init__(self, home: Path, instance: dg.DagsterInstance, guarded: dg.Definitions, unguarded: dg.Definitions) -> None:
        self.home = home
        self.instance = instance
        self.guarded = guarded
        self.unguarded = unguarded
        self.pinned: str | None = None

    @property
    def ledger(self) -> Path:
        """The ledger's database, where the embedded defaults put it."""
        return self.home / "mlsec" / "ledger.db"

    @property
    def witness(self) -> Path:
        """The place where checkpoints also go. In earnest it lies outside the reach of whoever can write to the rest."""
        return self.home / "witness"

    @property
    def evidence(self) -> Path:
        """Where ledgers are kept as the attacker left them, so that they can be looked at after the drill."""
        return self.home / "evidence"

    def table(self, asset: str, week: str | None = None) -> Path:
        """The Parquet file of an asset, or of one of its weeks."""
        storage = Path(self.instance.storage_directory())
        return storage / f"{asset}.parquet" if week is None else storage / asset / f"{week}.parquet"

    def run(
        self, job: str, week: str | None = None, *, guarded: bool = True, meanwhile: Callable[[dg.EventLogEntry], None] | None = None
    ) -> Run:
        """Run a job to its end.

        Args:
            job: Name of the job.
            week: Partition key, for a partitioned job.
            guarded: False to run the job as it was before the guard was put on it.
            meanwhile: Called with each event of the run as it happens, before the run goes on.
        """
        run_id = str(uuid.uuid4())
        if meanwhile is not None:
            self.instance.add_event_listener(run_id, meanwhile)
        started = perf_counter()
        result = (
            (self.guarded if guarded else self.unguarded)
            .resolve_job_def(job)
            .execute_in_process(instance=self.instance, partition_key=week, run_id=run_id, run_config=QUIET, raise_on_error=False)
        )
        return _outcome(run_id, result.success, result.all_events, perf_counter() - started)

    def run_in_new_process(self, job: str) -> Run:
        """Run a guarded job as a scheduler would: in a process that remembers nothing of the earlier runs."""
        settings = self.home / "in_process.yaml"
        settings.write_text(json.dumps({**QUIET, "execution": {"config": {"in_process": {}}}}))
        command = [
            sys.executable,
            "-m",
            "dagster",
            "job",
            "execute",
            "-m",
            "mlsec_dagster.demo.definitions",
            "-j",
            job,
            "-c",
            str(settings),
        ]
        environment = {**os.environ, "MLSEC_WITNESS": str(self.witness)}
        before = {record.dagster_run.run_id for record in self.instance.get_run_records(dg.RunsFilter(job_name=job))}
        started = perf_counter()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        runs = [record.dagster_run for record in self.instance.get_run_records(dg.RunsFilter(job_name=job))]
        run = next((run for run in runs if run.run_id not in before), None)
        if run is None:
            raise DrillError(f"Dagster did not start {job} in a new process: {done.stderr.strip()[-500:]}")
        events = [entry.dagster_event for entry in self.instance.all_logs(run.run_id)]
        return _outcome(run.run_id, run.is_success, [event for event in events if event is not None], perf_counter() - started)

    def verify(self, *, witness: bool = True, ledger: Path | None = None) -> Findings:
        """What `mlsec verify` finds: a ledger opened anew, for reading only, with trust in the key that was pinned on the first day.

        Args:
            witness: False to verify as if there were none.
            ledger: A ledger that was kept as evidence, in place of the present one.
        """
        self.pinned = self.pinned or load_key_file(self.home / "mlsec" / "keys" / "mlsec.pem").fingerprint
        url, remembered = f"sqlite:///{ledger or self.ledger}", Witness(self.witness) if witness else None
        opened = open_ledger(url, signer=None, trust=Trust({self.pinned}), witness=remembered)
        try:
            with Verified() as entries:
                verified = verify_ledger(opened, each=entries.add)
                gaps = tuple(reconcile(opened, self.instance, verified=entries).gaps) if entries.complete(verified) else ()
        finally:
            opened.close()
        return Findings(verified.problems, verified.rollback, verified.rollback_sentence, gaps)

    def verify_command(self, ledger: Path | None = None) -> str:
        """What to type to see what `verify` found, in the ledger as it is or in one that was kept as evidence."""
        store = f" --store sqlite:///{_short(ledger)}" if ledger else ""
        return f"{mlsec_command()} verify --home {_short(self.home)} --witness {_short(self.witness)}{store}"

    def model(self) -> ModelState:
        """The state of the model as it is now."""
        file = Path(self.instance.storage_directory()) / "delay_model"
        records = self.instance.fetch_materializations(dg.AssetKey("delay_model"), limit=1).records
        return ModelState(hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_mtime_ns, records[0].storage_id)


@contextmanager
def new_project(home: Path, protect: Callable[[Path], dg.Definitions], unguarded: dg.Definitions) -> Iterator[Project]:
    """A project without history in `home`; what an earlier demo left there is removed first.

    Args:
        home: The directory; it becomes DAGSTER_HOME while the project is open.
        protect: Called with the witness's directory, returns the guarded definitions.
        unguarded: The definitions as they were before.

    Raises:
        ConfigurationError: If `home` holds something else than an earlier demo.
    """
    home = home.resolve()
    if home.exists() and any(home.iterdir()) and not (home / MARKER).exists():
        raise ConfigurationError(f"{home} is not empty and was not made by `mlsec demo`: name an empty or a new directory for the demo.")
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    (home / MARKER).touch()
    (home / "evidence").mkdir()
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\nnux:\n  enabled: false\n")
    with _environment(DAGSTER_HOME=str(home)), dg.DagsterInstance.from_config(str(home)) as instance:
        yield Project(home, instance, protect(home / "witness"), unguarded)


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _outcome(run_id: str, success: bool, events: Sequence[dg.DagsterEvent], seconds: float) -> Run:
    checks = [event.asset_check_evaluation_data for event in events if event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION]
    failed = [check for check in checks if not check.passed]
    failures = [event for event in events if event.is_step_failure]
    error = _innermost(failures[0].step_failure_data.error) if failures else None
    return Run(
        run_id=run_id,
        success=success and not failed,
        failed_step=failures[0].step_key if failures else None,
        error=(error.cls_name or "") if error else "",
        reason=re.sub(r"\\(.)", r"\1", failed[0].description or "")
        if failed
        else error.message.partition(": ")[2].strip()
        if error
        else "",
        check=_name(failed[0]) if failed else None,
        checks_passed=frozenset(_name(check) for check in checks if check.passed),
        seconds=seconds,
        materialized=frozenset(event.asset_key.to_user_string() for event in events if event.is_step_materialization and event.asset_key),
    )


def _name(check: Any) -> str:
    return f"{check.asset_key.to_user_string()}:{check.check_name}"


def _innermost(error: Any) -> Any:
    """Dagster wraps what an IO manager raises; the reason is at the bottom."""
    while error is not None and error.cause is not None:
        error = error.cause
    return error


def mlsec_command() -> str:
    """How `mlsec` is called from where the user is: by its name, or by its path in an environment that is not active."""
    beside = Path(sys.executable).with_name("mlsec")
    return "mlsec" if shutil.which("mlsec") or not beside.exists() else _short(beside)


def _short(path: Path) -> str:
    """A path as it is typed from where the user is."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
