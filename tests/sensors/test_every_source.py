"""Every source's records, from the vendors' documented examples in a directory each, through ticks into one trail and out again."""

import json
import shutil
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
import pytest

import mlsec_dagster as mlsec
from mlsec_dagster.audit.events import SOURCES, AuditEvent, Source
from mlsec_dagster.audit.ocsf import from_ocsf
from mlsec_dagster.audit.querying import Filter
from mlsec_dagster.audit.querying import rows as asked
from mlsec_dagster.audit.rows import events_of
from mlsec_dagster.sensors.log_sources import AuditLog
from tests.audit.documented import LOGS
from tests.audit.ocsf_schema import problems
from tests.cli.ledgers import mlsec as command
from tests.sensors.test_audit_log import tick, trail_of

HOUR = datetime.now(UTC) - timedelta(hours=3)


class Delivered(NamedTuple):
    """A log, and what its vendor would call the object that it delivers."""

    kind: type[AuditLog]
    key: str


_S3 = f"AWSLogs/111122223333/CloudTrail/us-west-2/{HOUR:%Y/%m/%d}/111122223333_CloudTrail_us-west-2_{HOUR:%Y%m%dT%H%M}Z_0123456789abcdef"
_GCS = f"cloudaudit.googleapis.com/data_access/{HOUR:%Y/%m/%d}/{HOUR:%H}:00:00_{HOUR:%H}:59:59_S0.json"
_BLOB = f"insights-logs-storageread/resourceId=/subscriptions/1/y={HOUR:%Y}/m={HOUR:%m}/d={HOUR:%d}/h={HOUR:%H}/m=00/PT1H.json"

DELIVERED: dict[Source, Delivered] = {
    "aws.cloudtrail": Delivered(mlsec.CloudTrail, f"{_S3}.json"),
    "aws.s3_access": Delivered(mlsec.S3AccessLogs, f"{HOUR:%Y-%m-%d-%H-%M-%S}-0123456789ABCDEF"),
    "gcp.audit": Delivered(mlsec.GCPAuditLogs, _GCS),
    "azure.monitor": Delivered(mlsec.AzureMonitor, _BLOB),
    "kubernetes.audit": Delivered(mlsec.Kubernetes, "audit.log"),
    "wandb.audit": Delivered(mlsec.WeightsAndBiases, f"wandb-audit-logs/{HOUR:%Y-%m-%d}.jsonl"),
    "mlflow.audit": Delivered(mlsec.MLflow, "mlflow-0-17.jsonl"),
}
READ = {log.source: [*log.read(log.data())] for log in LOGS}
"""What each reader yields."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, migrated_home: Path) -> Iterator[Path]:
    """A Dagster home whose trail all of them were read into, by a sensor each, which looked twice."""
    place = tmp_path_factory.mktemp("every")
    home = place / "dagster_home"
    shutil.copytree(migrated_home, home)
    logs = []
    for log in LOGS:
        kind, key = DELIVERED[log.source]
        file = place / log.source / key
        file.parent.mkdir(parents=True)
        file.write_bytes(log.data())
        logs.append(kind(directory=str(place / log.source)))
    with pytest.MonkeyPatch.context() as patched:
        for name in ("MLSEC_STORE_URL", "MLSEC_WITNESS", "MLSEC_TRUSTED_KEYS", "MLSEC_SIGNER", "MLSEC_TRAIL", "MLSEC_TRAIL_OPTIONS"):
            patched.delenv(name, raising=False)
        patched.setenv("DAGSTER_HOME", str(home))
        with dg.DagsterInstance.get() as instance:
            for _ in range(2):
                for sensor in mlsec.guard(dg.Definitions(), audit=logs).sensors or []:
                    assert isinstance(sensor, dg.SensorDefinition)
                    tick(sensor, instance)
        yield home


def test_each_source_is_here_with_records_that_its_reader_takes() -> None:
    assert {*READ} == {*DELIVERED} == {*SOURCES}
    assert all(events and all(isinstance(event, AuditEvent) for event in events) for events in READ.values())


@pytest.mark.parametrize("source", SOURCES)
def test_what_comes_back_from_the_trail_is_what_the_reader_yielded(home: Path, source: Source) -> None:
    found = [event for batch in asked(trail_of(home), Filter(source=source)) for event in events_of(batch)]
    assert in_order(found) == in_order(READ[source])


def test_all_of_the_trail_is_valid_ocsf_and_the_same_events(home: Path) -> None:
    result = command("trail", "--ocsf")
    assert result.exit_code == 0
    assert result.stderr == ""
    records = [json.loads(line) for line in result.stdout.splitlines()]
    for record in records:
        assert problems(record) == [], record
        assert record["metadata"]["version"] == "1.8.0"
    assert in_order(from_ocsf(record) for record in records) == in_order(event for events in READ.values() for event in events)


def in_order(events: Iterable[Any]) -> list[Any]:
    return sorted(events, key=lambda event: (event.source, event.id))
