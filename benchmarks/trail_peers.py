"""Reading CloudTrail with what Python brings: gzip and json, and the same event in the end."""

import gzip
import json
from collections.abc import Iterator
from typing import Any

from mlsec_dagster.audit.events import AuditEvent
from mlsec_dagster.audit.redaction import clean, clean_again
from mlsec_dagster.audit.sources import cloudtrail
from mlsec_dagster.audit.times import microseconds


def events_with_json(data: bytes) -> Iterator[AuditEvent]:
    """The events of a log file. What an event is, and what is secret in it, is asked of the same functions as ours asks."""
    for record in json.loads(gzip.decompress(data))["Records"]:
        yield _event(record)


def _event(record: dict[str, Any]) -> AuditEvent:
    user = record.get("userIdentity") or {}
    issuer = (user.get("sessionContext") or {}).get("sessionIssuer") or {}
    asked = record.get("requestParameters") or {}
    moved = record.get("additionalEventData") or {}
    resources = record.get("resources") or []
    resource = resources[0] if resources else {}
    service, name, category = record["eventSource"], record["eventName"], record.get("eventCategory")
    container = key = model = model_version = None
    if service == "s3.amazonaws.com":
        container, key = clean_again(asked.get("bucketName")), clean(asked.get("key"))
    elif service == "sagemaker.amazonaws.com" and asked.get("modelPackageName"):
        group, _, version = asked["modelPackageName"].rpartition("model-package/")[2].partition("/")
        model, model_version = clean(group), clean(version) or None
    principal = user.get("arn") or user.get("principalId") or user.get("invokedBy")
    return AuditEvent(
        source="aws.cloudtrail",
        id=record["eventID"],
        time=microseconds(record["eventTime"]),
        operation=name,
        action=cloudtrail._action(name[:64], record.get("readOnly"), False),
        plane="data" if category == "Data" or name.startswith("Invoke") else "control",
        outcome=cloudtrail._outcome(record.get("errorCode")),
        service=service,
        status=record.get("errorCode"),
        error=clean_again(record.get("errorMessage")),
        principal=clean_again(principal),
        principal_name=clean_again(user.get("userName")),
        principal_type=user.get("type"),
        principal_account=user.get("accountId"),
        credential=user.get("accessKeyId"),
        role=clean_again(issuer.get("arn")),
        invoked_by=user.get("invokedBy"),
        address=record.get("sourceIPAddress"),
        user_agent=clean_again(record.get("userAgent")),
        request_id=record.get("requestID"),
        correlation=record.get("sharedEventID"),
        corrects=(record.get("addendum") or {}).get("originalEventID"),
        account=resource.get("accountId") or record.get("recipientAccountId"),
        region=record.get("awsRegion"),
        container=container,
        object=key,
        object_version=clean(asked.get("versionId")),
        resource=clean_again(resource.get("ARN")),
        resource_type=resource.get("type"),
        model=model,
        model_version=model_version,
        bytes_out=_count(moved.get("bytesTransferredOut")),
        bytes_in=_count(moved.get("bytesTransferredIn")),
    )


def _count(value: Any) -> int | None:
    return int(value) if isinstance(value, (int, float)) and 0 <= value < 1 << 63 else None
