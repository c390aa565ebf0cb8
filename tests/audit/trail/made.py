"""Logs that tests make, a place on a disk, and what is in a trail."""

import gzip
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mlsec_dagster.audit.artifacts import Artifact
from mlsec_dagster.audit.events import AuditEvent
from mlsec_dagster.audit.log_source import LogSource
from mlsec_dagster.audit.objects import LogObject, ObjectChangedError
from mlsec_dagster.audit.sources import cloudtrail, mlflow
from mlsec_dagster.audit.trail import Trail


class Nobody:
    """A translator that knows nothing."""

    def artifact(self, event: AuditEvent) -> Artifact:
        return Artifact("unresolved" if event.plane == "data" else "none")


class Folder:
    """The plainest place."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.uri = root.as_uri()

    def list(self, prefix: str = "", *, after: str | None = None) -> Iterator[LogObject]:
        for path in self.root.rglob("*"):
            key = path.relative_to(self.root).as_posix()
            if path.is_file() and key.startswith(prefix):
                yield self._object(key)

    def _object(self, key: str) -> LogObject:
        status = (self.root / key).stat()
        return LogObject(key, f"{status.st_ino}-{status.st_mtime_ns}", status.st_size, status.st_mtime_ns // 1000)

    def folders(self, prefix: str = "") -> Iterator[str]:
        yield from ()

    def read(self, found: LogObject, start: int = 0) -> Iterator[bytes]:
        with (self.root / found.key).open("rb") as opened:
            status = os.fstat(opened.fileno())
            if status.st_ino != int(found.version.split("-")[0]) or status.st_size < found.size:
                raise ObjectChangedError(f"{found.key} is not what was listed.")
            opened.seek(start)
            left = found.size - start
            while left and (piece := opened.read(min(left, 1 << 20))):
                left -= len(piece)
                yield piece

    def metadata(self, found: LogObject) -> Mapping[str, str]:
        return {}


def source_of(kind: str, root: Path) -> LogSource:
    """A log on a disk; everything there is part of it."""
    read = {"mlflow": mlflow.read, "cloudtrail": cloudtrail.read}[kind]
    return LogSource(
        source={"mlflow": "mlflow.audit", "cloudtrail": "aws.cloudtrail"}[kind],
        place=Folder(root),
        read=read,
        belongs=lambda key: True,
        grows=lambda key: kind == "mlflow" and not key.endswith(".gz"),
        window=lambda: [""],
    )


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
