"""A project with an audit trail, as the webserver loads it, and the CloudTrail deliveries that its sensor reads."""

import gzip
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg

import mlsec_dagster as mlsec

NOW = datetime.now(UTC)
TODAY = NOW.replace(hour=0, minute=0, second=0, microsecond=0)
HOSTILE = "arn:aws:sts::123456789012:assumed-role/x/<img src=http://tracker.invalid/x.png>![x](http://tracker.invalid/y.png)"
_USER = "arn:aws:iam::123456789012:user/"


@dg.asset
def delay_model() -> dg.MaterializeResult:
    """Says where it lies; nothing is there."""
    return dg.MaterializeResult(metadata={"uri": "s3://ml-prod/models/delay/"})


defs = mlsec.guard(dg.Definitions(assets=[delay_model]), audit=[mlsec.CloudTrail(directory=os.environ.get("UI_TEST_LOGS", "."))])


def deliver(folder: Path) -> None:
    """Yesterday alice read the model; today she does again, carol and somebody hostile do for the first time, and mallory may not."""
    yesterday = [_read(number, TODAY - timedelta(hours=2), f"{_USER}alice", 1_000) for number in range(3)]
    today = [
        *(_read(10 + number, TODAY, f"{_USER}alice", 1_000) for number in range(2)),
        *(_read(20 + number, TODAY, f"{_USER}carol", 50_000_000) for number in range(4)),
        _read(30, TODAY, HOSTILE, 7),
        *(_read(40 + number, TODAY, f"{_USER}mallory", 0, errorCode="AccessDenied") for number in range(5)),
    ]
    for name, records in (("yesterday", yesterday), ("today", today)):
        (folder / f"{name}.json.gz").write_bytes(gzip.compress(json.dumps({"Records": records}).encode()))


def _read(number: int, moment: datetime, principal: str, size: int, **more: Any) -> dict[str, Any]:
    return {
        "eventID": f"event-{number}",
        "eventTime": min(moment + timedelta(seconds=number), NOW).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "eventSource": "s3.amazonaws.com",
        "eventName": "GetObject",
        "eventCategory": "Data",
        "userIdentity": {"type": "IAMUser", "arn": principal},
        "requestParameters": {"bucketName": "ml-prod", "key": "models/delay/model.pkl"},
        "additionalEventData": {"bytesTransferredOut": float(size)},
        **more,
    }
