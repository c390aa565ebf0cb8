"""Logs that tests make, a place on a disk, and what is in a trail."""

import gzip
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mlsec_dagster.audit.artifacts import Artifact
from mlsec_dagster.audit.events import AuditEvent
from mlsec_dagster.audit.layouts import CloudTrailLayout, MLflowLayout
from mlsec_dagster.audit.log_source import LogSource
from mlsec_dagster.audit.places import Directory
from mlsec_dagster.audit.trail import Trail


class Nobody:
    """A translator that knows nothing."""

    def artifact(self, event: AuditEvent) -> Artifact:
        return Artifact("unresolved" if event.plane == "data" else "none")


def source_of(kind: str, root: Path) -> LogSource:
    """A log on a disk."""
    return LogSource(Directory(root), {"mlflow": MLflowLayout(), "cloudtrail": CloudTrailLayout()}[kind])


class Names:
    """A translator that takes the run for a model, and its digit for a version."""

    def artifact(self, event: AuditEvent) -> Artifact:
        run = (event.request or "").rpartition("/run")[2][:1]
        if event.plane != "data":
            return Artifact("none")
        return Artifact("model", model="fraud", version=run, by="template") if run in {"1", "2"} else Artifact("unresolved")


MIDNIGHT = datetime(2026, 5, 1, tzinfo=UTC)


def line(number: int, **more: Any) -> bytes:
    """One line of an MLflow log."""
    moment = MIDNIGHT + timedelta(seconds=number)
    record = {
        "v": 1,
        "id": f"request-{number}",
        "time": moment.isoformat().replace("+00:00", "Z"),
        "server": "host:1",
        "method": "GET",
        "path": f"/api/2.0/mlflow-artifacts/artifacts/1/run{number % 7}/model.pkl",
        "status": 200,
        "bytes_out": number,
        "user": "ann",
        **more,
    }
    return json.dumps(record).encode() + b"\n"


def delivery(numbers: Any) -> bytes:
    """A CloudTrail log file."""
    records = [
        {
            "eventID": f"event-{number}",
            "eventTime": (MIDNIGHT + timedelta(seconds=number)).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "eventSource": "s3.amazonaws.com",
            "eventName": "GetObject",
            "eventCategory": "Data",
            "userIdentity": {"type": "IAMUser", "arn": "arn:aws:iam::123456789012:user/ann"},
            "requestParameters": {"bucketName": "ml-models", "key": f"fraud/{number}.pkl"},
        }
        for number in numbers
    ]
    return gzip.compress(json.dumps({"Records": records}).encode(), mtime=0)


def ids(trail: Trail) -> Counter[str]:
    """How often each identity is in the trail."""
    found: Counter[str] = Counter()
    for row in rows(trail, "id", "kind"):
        if row["kind"] == "event":
            found[row["id"]] += 1
    return found


def rows(trail: Trail, *columns: str) -> list[dict[str, Any]]:
    """Rows of the trail as they lie in its files."""
    if not trail.exists():
        return []
    found: list[dict[str, Any]] = []
    for file in trail.open().files():
        with trail.storage.open(file.path) as opened:
            found += pq.ParquetFile(opened).read(columns=list(columns) or None).to_pylist()
    return found
