"""A sensor that tails one log into the audit trail.

    trail = mlsec.build_audit_log_sensor(
        source=mlsec.CloudTrail(bucket="org-trail", prefix="AWSLogs/o-1/", accounts=["123456789012"]),
    )
    defs = dg.Definitions(sensors=[trail], resources={"s3": S3Resource()})

Where it stands is in the security store, not in the sensor's cursor: resetting a cursor reads nothing twice, and losing one loses nothing.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Collection, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

import dagster as dg
import msgspec

from mlsec_dagster.assets.audit_trail import KEY, build_audit_trail_definitions, evaluation, has_audit_trail
from mlsec_dagster.assets.trail_page import day_metadata
from mlsec_dagster.audit.artifact_map import ArtifactMap
from mlsec_dagster.audit.artifacts import Translator
from mlsec_dagster.audit.completeness import Watermark, watermarks
from mlsec_dagster.audit.ingestion import Ingestion
from mlsec_dagster.audit.proving import prove
from mlsec_dagster.audit.public_keys import PublicKeys
from mlsec_dagster.audit.querying import DaySummary, summary
from mlsec_dagster.audit.registry import MlflowRegistry, RegistryState
from mlsec_dagster.audit.ticks import Budget, Report
from mlsec_dagster.errors import ConfigurationError
from mlsec_dagster.presentation import plain
from mlsec_dagster.resources import AuditTrail, SecurityStore, Signer, open_pseudonyms, open_store, open_trail
from mlsec_dagster.sensors.artifact_locations import ProjectArtifacts, ProjectState
from mlsec_dagster.sensors.log_sources import AuditLog, CloudTrail

if TYPE_CHECKING:
    from mlsec_dagster.integrity.ledger import Ledger

TICK_SECONDS = 35.0
"""A tick may take 60 s, and what it has begun it has to end."""

RECONCILE_EVERY = 6 * 3600.0
"""Seconds after which everything is listed again, not only the window."""

PROVE_EVERY = 600.0
"""Seconds after which digest files are looked for again, which come every hour."""

_EVALUATE_EVERY = 3600.0
_DAYS = 31
_PAGES = 3
"""Days of a tick, the newest, that are looked through for their page."""


class Cursor(msgspec.Struct, frozen=True):
    """What a sensor keeps in Dagster: when it last said how far the logs can be relied on, and what it said.

    Attributes:
        v: Version of this form.
        evaluated: Seconds since the epoch.
        said: Digest of the problems.
    """

    v: int = 1
    evaluated: float = 0.0
    said: str = ""

    @staticmethod
    def read(text: str | None) -> Cursor:
        """A cursor as Dagster gives it back; a new one if it is none of this version."""
        try:
            found = msgspec.json.decode(text or "{}", type=Cursor)
        except msgspec.MsgspecError:
            return Cursor()
        return found if found.v == 1 else Cursor()


def build_audit_log_sensor(
    *,
    source: AuditLog,
    artifacts: ArtifactMap | Translator | None = None,
    registry: str | MlflowRegistry | None = None,
    name: str | None = None,
    minimum_interval_seconds: int = 60,
    default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.RUNNING,
    trail: AuditTrail | None = None,
    store: SecurityStore | None = None,
    signer: Signer | None = None,
) -> dg.SensorDefinition:
    """A sensor that reads a log into the audit trail, each access once, and materializes the days of the `audit_trail` asset that grew.

    It reads with the credentials of the project's resource (`source.resource_key`). A tick stops after 35 seconds, and the next one goes
    on there. What a record is about is told by where materializations lie, by the MLflow registry, and by `artifacts`.

    Args:
        source: Which log, and where it lies.
        artifacts: Templates, environments and locations that the project does not tell by itself, or a translator of your own.
        registry: Tracking URI of an MLflow registry. Default: MLFLOW_TRACKING_URI, if it is set.
        name: The sensor's name. Default: "<kind>_audit_log".
        minimum_interval_seconds: Seconds between ticks.
        default_status: Whether it runs from the start. Defaults to RUNNING: a log that nobody reads looks like one in which
            nothing happens.
        trail: Where the trail lies. Default: $DAGSTER_HOME/mlsec/trail.
        store: Where the ledger is, and how far each log was read. Default: SQLite under $DAGSTER_HOME/mlsec/.
        signer: What signs the trail's commits.

    Returns:
        dg.SensorDefinition: Its ticks fail with a sentence when a log, the trail or the store cannot be reached.

    Raises:
        ConfigurationError: `source` is no log, or `artifacts` is no translator.
    """
    if artifacts is not None and not callable(getattr(artifacts, "artifact", None)):
        raise ConfigurationError(
            f"A {type(artifacts).__name__} was given as artifacts; expected an mlsec.ArtifactMap(templates={{…}}), or a translator of "
            "your own."
        )
    name = name or default_name(source)
    tail = _Tail(source, artifacts, registry, trail, store, signer)

    @dg.sensor(
        name=name,
        minimum_interval_seconds=minimum_interval_seconds,
        default_status=default_status,
        required_resource_keys=source.required_resource_keys,
        description=f"Reads {type(source).__name__} at {plain(source.bucket or str(source.directory))} into the audit trail.",
        tags={"mlsec/audit_log": source.kind},
    )
    def audit_log(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        return tail.tick(context)

    return audit_log


def build_audit_definitions(
    audit: Sequence[AuditLog | dg.SensorDefinition],
    *,
    beside: dg.Definitions | None = None,
    artifacts: ArtifactMap | Translator | None = None,
    registry: str | MlflowRegistry | None = None,
    trail: AuditTrail | None = None,
    store: SecurityStore | None = None,
    signer: Signer | None = None,
) -> dg.Definitions:
    """A sensor for each log, the `audit_trail` asset, and its check.

    Args:
        audit: Logs, or sensors that `build_audit_log_sensor` has made.
        beside: What these are to be merged with. If that has an audit trail, it is given no second one.
        artifacts: As for `build_audit_log_sensor`.
        registry: The same.
        trail: Where the trail lies.
        store: Where the ledger is.
        signer: What signs.

    Raises:
        ConfigurationError: It is no list, something is neither a log nor a sensor, two logs are one place, or what is beside them has an
            audit trail with another store.
    """
    if isinstance(audit, AuditLog | dg.SensorDefinition):
        raise ConfigurationError(f"audit= takes a list of logs and was given a single {type(audit).__name__}: put it into brackets.")
    beside = beside or dg.Definitions()
    logs = [each for each in audit if not isinstance(each, dg.SensorDefinition)]
    taken = [each.name for each in (*(beside.sensors or []), *audit) if isinstance(each, dg.SensorDefinition)]
    names = iter(sensor_names(logs, taken))
    require_own_places(logs)
    sensors = [
        each
        if isinstance(each, dg.SensorDefinition)
        else build_audit_log_sensor(
            source=each, artifacts=artifacts, registry=registry, name=next(names), trail=trail, store=store, signer=signer
        )
        for each in audit
    ]
    known = has_audit_trail(beside, store, signer)
    asset = dg.Definitions() if known else build_audit_trail_definitions(trail=trail, store=store, signer=signer)
    return dg.Definitions.merge(dg.Definitions(sensors=sensors), asset)


def sensor_names(logs: Sequence[AuditLog], taken: Collection[str] = ()) -> list[str]:
    """A name for the sensor of each log: "<kind>_audit_log", with a number where there are several of a kind or that name is taken.

    Raises:
        ConfigurationError: Something is no log.
    """
    defaults = [default_name(each) for each in logs]
    several = {name for name, times in Counter(defaults).items() if times > 1}
    names: list[str] = []
    for name in defaults:
        tried = (f"{name}_{number}" for number in count(1)) if name in several or name in taken else iter([name])
        names.append(next(each for each in tried if each not in taken and each not in names))
    return names


def require_own_places(logs: Sequence[AuditLog]) -> None:
    """Refuse two logs of one place: how far a log was read, and whether it has gone quiet, is known of a place.

    Raises:
        ConfigurationError: Two lie at one place.
    """
    found: dict[tuple[str, ...], AuditLog] = {}
    for log in logs:
        other = found.get(log.lies_at)
        if other is not None:
            raise ConfigurationError(
                f"{plain(log.bucket or str(log.directory))} is given twice, as {type(other).__name__} and as {type(log).__name__} of one "
                "folder: name each place once, or give each log a folder of its own."
            )
        found[log.lies_at] = log


def default_name(source: AuditLog) -> str:
    """The name of a log's sensor.

    Raises:
        ConfigurationError: It is no log.
    """
    if not isinstance(source, AuditLog):
        raise ConfigurationError(
            f"A {type(source).__name__} was given as an audit log; expected a log such as mlsec.CloudTrail(bucket='…') or "
            "mlsec.MLflow(directory='…')."
        )
    return f"{source.kind}_audit_log"


class _Tail:
    """What a sensor remembers in its process between ticks. All of it can be had again."""

    def __init__(
        self,
        source: AuditLog,
        artifacts: ArtifactMap | Translator | None,
        registry: str | MlflowRegistry | None,
        trail: AuditTrail | None,
        store: SecurityStore | None,
        signer: Signer | None,
    ) -> None:
        self._source = source
        self._artifacts = artifacts if artifacts is not None else ArtifactMap()
        self._registry = registry
        self._settings = trail, store, signer
        self._public_keys = PublicKeys(source.public_keys) if isinstance(source, CloudTrail) else None
        self._ingestion: Ingestion | None = None
        self._project: ProjectArtifacts | None = None
        self._known: ProjectState | None = None
        self._registered: RegistryState | None = None

    def tick(self, context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        budget = Budget(seconds=TICK_SECONDS)
        trail, store, signer = self._settings
        ledger = open_store(context.instance, store, signer)
        source = self._source.open(context.resources)
        if self._ingestion is None:
            self._ingestion = Ingestion(
                ledger.database,
                open_trail(context.instance, trail, store),
                source,
                self._artifacts,
                ledger=ledger,
                pseudonyms=open_pseudonyms(trail),
            )
        ingestion = self._ingestion
        ingestion.ledger, ingestion.source = ledger, source  # Their clients may have been made anew.
        unseen = self._learn(context, ledger)
        report = ingestion.tick(budget)
        if report.held_elsewhere:
            return dg.SkipReason(f"Another process reads {source.place.uri} at the moment.")
        # One that lies in the future is of a clock that was wrong.
        compared = time.time() - (ingestion.state().reconciled_at or 0) / 1e6
        if not report.behind and not budget.spent and not 0 <= compared <= RECONCILE_EVERY:
            report = _both(report, ingestion.reconcile(budget))
        if self._public_keys is not None and not budget.spent:
            since = time.time() - (ingestion.state().proved_at or 0) / 1e6
            if not 0 <= since < PROVE_EVERY:
                prove(ledger.database, source, self._public_keys, budget)
        if (problem := ledger.witness_if_due()) is not None:
            context.log.warning(problem)
        marks = watermarks(ledger.database, time.time_ns() // 1000)
        cursor, evaluations = self._evaluated(context.cursor, marks)
        newest = sorted(report.days.items())[-_DAYS:]
        pages = {day for day, _ in newest[-_PAGES:]} if not budget.spent else set[str]()
        materializations = [
            _materialization(day, rows, unseen, summary(ingestion.trail, day) if day in pages else None) for day, rows in newest
        ]
        told = next((mark.sentence for mark in marks if mark.uri == source.place.uri), "")
        did = f"{report.read:,} log objects read, {report.tally.events:,} new events, {report.behind:,} log objects wait. {told}"
        context.log.info(did)
        return dg.SensorResult(
            # Where no run is asked for, Dagster says "empty result" of any tick that does not say better.
            skip_reason=did if report.read or report.behind or materializations else f"Nothing new. {told}",
            asset_events=[*materializations, *evaluations],
            cursor=msgspec.json.encode(cursor).decode(),
        )

    def _learn(self, context: dg.SensorEvaluationContext, ledger: Ledger) -> list[str]:
        """Have the map know what was materialized and registered since. Returns what it could not see."""
        if not isinstance(self._artifacts, ArtifactMap) or self._ingestion is None:
            return []
        if self._project is None:
            self._project = ProjectArtifacts(context.repository_def)
        self._known = self._project.read(context.instance, self._known, ledger=ledger)
        knowledge = [self._known.knowledge]
        uri = self._registry or os.environ.get("MLFLOW_TRACKING_URI")
        if uri:
            self._registry = uri if isinstance(uri, MlflowRegistry) else MlflowRegistry(uri)
            self._registered = self._registry.read(self._registered)
            knowledge.insert(0, self._registered.knowledge)  # What is registered is a model, whoever materialized it.
        self._artifacts = self._ingestion.translator = self._artifacts.knowing(*knowledge)
        return [sentence for each in knowledge for sentence in each.unseen]

    def _evaluated(self, text: str | None, marks: list[Watermark]) -> tuple[Cursor, list[Any]]:
        """The check's evaluation, if it says something else than before, or for an hour nothing was said."""
        before, now = Cursor.read(text), time.time()
        said = hashlib.sha256(repr([(mark.uri, mark.problems, mark.not_observable) for mark in marks]).encode()).hexdigest()[:16]
        if said == before.said and 0 <= now - before.evaluated < _EVALUATE_EVERY:
            return before, []
        return Cursor(evaluated=now, said=said), [evaluation(marks)]


def _both(first: Report, second: Report) -> Report:
    """What two passes did together."""
    second.read += first.read
    second.behind += first.behind
    second.tally.add(first.tally)
    for day, rows in first.days.items():
        second.days[day] = second.days.get(day, 0) + rows
    return second


def _materialization(day: str, rows: int, unseen: list[str], page: DaySummary | None) -> dg.AssetMaterialization:
    metadata: dict[str, Any] = {"new rows": rows, **(day_metadata(page) if page is not None else {})}
    if unseen:
        metadata["not known of artifacts"] = dg.MetadataValue.md("\n".join(f"- {plain(each, 500)}" for each in unseen))
    return dg.AssetMaterialization(KEY, partition=day, metadata=metadata)
