"""Events as OCSF 1.8, which security tools read; and back, without loss.

    record = to_ocsf(event)        # JSON values; 6005 Datastore Activity or 6003 API Activity
    assert from_ocsf(record) == event

Data that was touched within a container is Datastore Activity, everything else API Activity. Where a model is named, the
profile `ai_operation` applies. OCSF has a place for most of our fields; those that it has none for are members of `unmapped`,
under our own names. Where OCSF demands what the log does not tell, "unknown" is written, and `unmapped.absent` says so.

https://schema.ocsf.io/1.8.0/classes/api_activity
https://schema.ocsf.io/1.8.0/classes/datastore_activity
"""

import re
from collections.abc import Mapping
from typing import Any, Final, cast

import msgspec

from mlsec_dagster.audit.events import Action, AuditEvent, Outcome, Plane, Source
from mlsec_dagster.audit.sources.http import is_address
from mlsec_dagster.audit.times import microseconds, rfc3339
from mlsec_dagster.errors import ConfigurationError

VERSION: Final = "1.8.0"
API_ACTIVITY: Final = 6003
DATASTORE_ACTIVITY: Final = 6005

_NAMES: Final = {API_ACTIVITY: "API Activity", DATASTORE_ACTIVITY: "Datastore Activity"}
_PLANES: Final[dict[int, Plane]] = {API_ACTIVITY: "control", DATASTORE_ACTIVITY: "data"}
_OTHER: Final = 99
# Activities of a class: its caption, and which of our actions it stands for if nothing else is said.
_ACTIVITIES: Final[dict[int, dict[int, tuple[str, Action]]]] = {
    API_ACTIVITY: {
        1: ("Create", "create"),
        2: ("Read", "read"),
        3: ("Update", "update"),
        4: ("Delete", "delete"),
        _OTHER: ("Other", "other"),
    },
    DATASTORE_ACTIVITY: {
        1: ("Read", "read"),
        2: ("Update", "update"),
        3: ("Connect", "connect"),
        4: ("Query", "invoke"),
        5: ("Write", "write"),
        6: ("Create", "create"),
        7: ("Delete", "delete"),
        8: ("List", "list"),
        _OTHER: ("Other", "other"),
    },
}
# Actions that a class has no activity of its own for.
_NEAREST: Final[dict[int, dict[Action, int]]] = {API_ACTIVITY: {"list": 2, "write": 3, "promote": 3}, DATASTORE_ACTIVITY: {"promote": 2}}
_OUTCOMES: Final[dict[int, tuple[str, Outcome]]] = {0: ("Unknown", "unknown"), 1: ("Success", "success"), 2: ("Failure", "failure")}
_STATUS: Final[dict[Outcome, int]] = {"unknown": 0, "success": 1, "failure": 2, "denied": 2}
# Cloud provider, vendor, product.
_ORIGINS: Final[dict[Source, tuple[str, str, str]]] = {
    "aws.cloudtrail": ("AWS", "AWS", "CloudTrail"),
    "aws.s3_access": ("AWS", "AWS", "S3 server access logs"),
    "gcp.audit": ("GCP", "Google", "Cloud Audit Logs"),
    "azure.monitor": ("Azure", "Microsoft", "Azure Monitor"),
    "kubernetes.audit": ("self-hosted", "Kubernetes", "Kubernetes audit logs"),
    "wandb.audit": ("Weights & Biases", "Weights & Biases", "Audit logs"),
    "mlflow.audit": ("self-hosted", "MLflow", "mlsec-audit"),
}
_BUCKETS: Final = {"s3.amazonaws.com": (1, "S3"), "Microsoft.Storage": (2, "Azure Blob"), "storage.googleapis.com": (3, "GCP Bucket")}
# Where a field stands, in either class.
_PLACES: Final[dict[str, str]] = {
    "source": "metadata.log_name",
    "id": "metadata.uid",
    "corrects": "metadata.original_event_uid",
    "correlation": "metadata.correlation_uid",
    "operation": "api.operation",
    "service": "api.service.name",
    "request_id": "api.request.uid",
    "status": "status_code",
    "error": "status_detail",
    "principal": "actor.user.uid",
    "principal_name": "actor.user.name",
    "principal_type": "actor.user.type",
    "principal_account": "actor.user.account.uid",
    "credential": "actor.user.credential_uid",
    "role": "actor.session.issuer",
    "invoked_by": "actor.invoked_by",
    "address": "src_endpoint.name",
    "user_agent": "http_request.user_agent",
    "request": "http_request.url.url_string",
    "bytes_in": "http_request.body_length",
    "account": "cloud.account.uid",
    "region": "cloud.region",
    "model": "ai_model.name",
}
# Where it stands in one of them.
_OWN_PLACES: Final[dict[int, dict[str, str]]] = {
    API_ACTIVITY: {
        "container": "resource.namespace",
        "object": "resource.name",
        "object_version": "resource.version",
        "resource": "resource.uid",
        "resource_type": "resource.type",
    },
    DATASTORE_ACTIVITY: {"container": "databucket.name", "object": "databucket.file.path", "resource": "databucket.uid"},
}
_FIELDS: Final = tuple(field.name for field in msgspec.structs.fields(AuditEvent))
_IP_LENGTH: Final = 40
_HTTP_STATUS: Final = re.compile(r"[1-5][0-9]{2}\Z", re.ASCII)


def class_of(event: AuditEvent) -> int:
    """`DATASTORE_ACTIVITY` or `API_ACTIVITY`."""
    return DATASTORE_ACTIVITY if event.plane == "data" and event.container is not None else API_ACTIVITY


def to_ocsf(event: AuditEvent) -> dict[str, Any]:
    """One OCSF 1.8 event as JSON values; times are milliseconds, and with all digits in the members `…_dt`.

    Raises:
        OverflowError: A time is not between the years 1 and 9999.
    """
    kind = class_of(event)
    record = _frame(event, kind)
    unmapped: dict[str, Any] = {}
    places = _places(event, kind)
    for name in _FIELDS:
        value: Any = getattr(event, name)
        if value is None or name in {"time", "logged", "action", "plane", "outcome"}:
            continue
        if name in places:
            _put(record, places[name], value)
        else:
            unmapped[name] = value
    if event.action != _ACTIVITIES[kind][record["activity_id"]][1]:
        unmapped["action"] = event.action
    if event.plane != _PLANES[kind]:
        unmapped["plane"] = event.plane
    if event.outcome != _OUTCOMES[record["status_id"]][1]:
        unmapped["outcome"] = event.outcome
    absent = _complete(record, event)
    if absent:
        unmapped["absent"] = absent
    if unmapped:
        record["unmapped"] = unmapped
    return record


def from_ocsf(record: Mapping[str, Any]) -> AuditEvent:
    """The event that `to_ocsf` was given.

    Raises:
        ConfigurationError: This is no record of `to_ocsf`.
    """
    try:
        kind: int = record["class_uid"]
        metadata = record["metadata"]
        unmapped = dict(cast("Mapping[str, Any]", record.get("unmapped", {})))
        absent = unmapped.pop("absent", ())
        values: dict[str, Any] = {
            "time": microseconds(record["time_dt"]),
            "logged": microseconds(metadata["logged_time_dt"]) if "logged_time_dt" in metadata else None,
            "action": _ACTIVITIES[kind][record["activity_id"]][1],
            "plane": _PLANES[kind],
            "outcome": _OUTCOMES[record["status_id"]][1],
        }
        every = _SOMETIMES | _PLACES | _OWN_PLACES[kind]
        for name, path in every.items():
            found = _get(record, path)
            if found is not None and name not in absent:
                values[name] = found
        return msgspec.convert(msgspec.structs.astuple(AuditEvent(**(values | unmapped))), AuditEvent)
    except (KeyError, TypeError, AttributeError, ValueError, msgspec.ValidationError) as error:
        raise ConfigurationError(f"This is no OCSF record of an audit event ({error!r}); expected one that to_ocsf wrote.") from error


# Places that exist only along with something else.
_SOMETIMES: Final = {
    "port": "src_endpoint.port",
    "bytes_out": "http_response.body_length",
    "model_version": "ai_model.version",
    "object_version": "databucket.file.version",
}


def _places(event: AuditEvent, kind: int) -> dict[str, str]:
    places = _PLACES | _OWN_PLACES[kind]
    if event.port is not None and 0 <= event.port < 65536:
        places["port"] = _SOMETIMES["port"]
    if event.status is not None and _HTTP_STATUS.match(event.status):
        places["bytes_out"] = _SOMETIMES["bytes_out"]
    if event.model is not None:
        places["model_version"] = _SOMETIMES["model_version"]
    if kind == DATASTORE_ACTIVITY and event.object is not None:
        places["object_version"] = _SOMETIMES["object_version"]
    return places


def _frame(event: AuditEvent, kind: int) -> dict[str, Any]:
    """What OCSF demands of any event, and the ids that stand for ours."""
    provider, vendor, product = _ORIGINS[event.source]
    nearest = _NEAREST[kind].get(event.action)
    activity = nearest or next((each for each, (_, action) in _ACTIVITIES[kind].items() if action == event.action), _OTHER)
    caption = _ACTIVITIES[kind][activity][0]
    status = _STATUS[event.outcome]
    metadata: dict[str, Any] = {
        "version": VERSION,
        "profiles": ["cloud", "datetime", "host", *(["ai_operation"] if event.model is not None else [])],
        "product": {"name": product, "vendor_name": vendor},
    }
    if event.logged is not None:
        metadata |= {"logged_time": event.logged // 1000, "logged_time_dt": rfc3339(event.logged)}
    return {
        "category_uid": 6,
        "category_name": "Application Activity",
        "class_uid": kind,
        "class_name": _NAMES[kind],
        "activity_id": activity,
        "activity_name": caption,
        "type_uid": kind * 100 + activity,
        "type_name": f"{_NAMES[kind]}: {caption}",
        "severity_id": 1,
        "severity": "Informational",
        "status_id": status,
        "status": _OUTCOMES[status][0],
        "time": event.time // 1000,
        "time_dt": rfc3339(event.time),
        "metadata": metadata,
        "cloud": {"provider": provider},
        "actor": {"user": {}},
        "src_endpoint": {},
    }


def _complete(record: dict[str, Any], event: AuditEvent) -> list[str]:
    """Adds what OCSF demands along with what is there; returns our names of what is there only because OCSF demands it."""
    absent: list[str] = []

    def demand(place: dict[str, Any], name: str, either: tuple[str, ...]) -> None:
        if not any(each in place for each in either):
            place[either[0]] = "unknown"
            absent.append(name)

    demand(record["actor"]["user"], "principal_name", ("name", "uid"))
    demand(record["src_endpoint"], "address", ("name",))
    if event.principal_type is not None:
        record["actor"]["user"]["type_id"] = _OTHER
    if event.address is not None and len(event.address) <= _IP_LENGTH and is_address(event.address):
        record["src_endpoint"]["ip"] = event.address
    if event.status is not None and _HTTP_STATUS.match(event.status):
        _put(record, "http_response.code", int(event.status))
    if event.model is not None:
        record["ai_model"]["ai_provider"] = event.service or record["cloud"]["provider"]
    if "resource" in record:
        demand(record["resource"], "object", ("name", "uid"))
        record["resources"] = [record.pop("resource")]
    if "databucket" in record:
        record["type_id"], record["type"] = 2, "Databucket"
        record["databucket"]["type_id"], record["databucket"]["type"] = _BUCKETS.get(event.service or "", (_OTHER, "Other"))
        if event.object is not None:
            record["databucket"]["file"] |= {"name": event.object.rpartition("/")[2] or event.object, "type_id": 1}
    return absent


def _put(record: dict[str, Any], path: str, value: Any) -> None:
    *parents, name = path.split(".")
    for parent in parents:
        record = record.setdefault(parent, {})
    record[name] = value


def _get(record: Mapping[str, Any], path: str) -> Any:
    found: Any = record
    for name in path.split("."):
        found = next(iter(found.get("resources", ())), None) if name == "resource" else found.get(name)
        if found is None:
            return None
    return found
