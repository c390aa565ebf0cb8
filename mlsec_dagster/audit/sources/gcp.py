"""Google Cloud Audit Logs of Cloud Storage and Vertex AI: a LogEntry to a line, as a sink writes them to a bucket.

https://cloud.google.com/logging/docs/reference/v2/rest/v2/LogEntry
https://cloud.google.com/logging/docs/reference/audit/auditlog/rest/Shared.Types/AuditLog
"""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, Final

import msgspec

from mlsec_dagster.audit.events import Action, AuditEvent, Outcome, Quarantined
from mlsec_dagster.audit.limits import DEFAULT_LIMITS, Limits
from mlsec_dagster.audit.sources.lines import read_lines
from mlsec_dagster.audit.times import microseconds


def read(data: bytes | Iterable[bytes], *, limits: Limits = DEFAULT_LIMITS) -> Iterator[AuditEvent | Quarantined]:
    """One row for each line of an exported log; see `mlsec_dagster.audit.sources`."""
    return read_lines(data, "gcp.audit", _parse, limits)


class _Delegation(msgspec.Struct, rename="camel"):
    principal_subject: str | None = None
    first_party_principal: dict[str, Any] | None = None


class _Authentication(msgspec.Struct, rename="camel"):
    principal_email: str | None = None
    principal_subject: str | None = None
    service_account_key_name: str | None = None
    service_account_delegation_info: list[_Delegation] = []


class _Request(msgspec.Struct, rename="camel"):
    caller_ip: str | None = None
    caller_supplied_user_agent: str | None = None


class _Asked(msgspec.Struct, rename="camel"):
    """Of the request's own message. Services use the same name for values of different types, so each may be anything."""

    source_model: Any = None


class _Status(msgspec.Struct):
    code: int = 0
    message: str | None = None


class _Payload(msgspec.Struct, rename="camel"):
    method_name: str
    service_name: str | None = None
    resource_name: str | None = None
    authentication_info: _Authentication | None = None
    request_metadata: _Request | None = None
    request: msgspec.Raw = msgspec.Raw(b"null")
    status: _Status | None = None


class _Resource(msgspec.Struct):
    type: str | None = None
    labels: dict[str, str] = {}


class _Operation(msgspec.Struct):
    id: str | None = None


class _Entry(msgspec.Struct, rename="camel"):
    proto_payload: _Payload
    insert_id: str
    log_name: str
    timestamp: str
    receive_timestamp: str | None = None
    resource: _Resource | None = None
    operation: _Operation | None = None
    trace: str | None = None


_DECODER: Final = msgspec.json.Decoder(_Entry)
_ASKED: Final = msgspec.json.Decoder(_Asked)
_OBJECT: Final = re.compile(r"projects/[^/]*/buckets/(?P<bucket>[^/]+)(?:/objects/(?P<object>.*))?\Z", re.DOTALL)
_MODEL: Final = re.compile(r"/models/(?P<model>[^/@]+)(?:@(?P<version>[^/]+)|/versions/(?P<old>[^/]+))?\Z")


def _parse(line: bytes) -> list[AuditEvent]:
    entry = _DECODER.decode(line)
    payload = entry.proto_payload
    who = payload.authentication_info or _Authentication()
    asked = payload.request_metadata or _Request()
    resource = entry.resource or _Resource()
    status = payload.status or _Status()
    name = payload.resource_name or ""
    stored = _OBJECT.match(name)
    model = _MODEL.search(name) or _MODEL.search(_copied(payload))
    bucket = (stored["bucket"] if stored is not None else None) or resource.labels.get("bucket_name")
    address = asked.caller_ip
    return [
        AuditEvent(
            source="gcp.audit",
            id=f"{entry.log_name}|{entry.timestamp}|{entry.insert_id}",
            time=microseconds(entry.timestamp),
            operation=payload.method_name,
            action=_action(payload.method_name[-128:]),
            plane="data" if _touches_data(entry.log_name, payload.method_name) else "control",
            outcome=_outcome(status.code),
            logged=microseconds(entry.receive_timestamp) if entry.receive_timestamp is not None else None,
            service=payload.service_name,
            status=str(status.code),
            error=status.message,
            principal=who.principal_email or who.principal_subject,
            principal_name=who.principal_subject if who.principal_email else None,
            credential=who.service_account_key_name,
            invoked_by=_delegate(who),
            address=address,
            user_agent=asked.caller_supplied_user_agent,
            correlation=(entry.operation.id if entry.operation is not None else None) or entry.trace,
            account=resource.labels.get("project_id"),
            region=resource.labels.get("location"),
            container=bucket,
            object=stored["object"] if stored is not None else None,
            resource=payload.resource_name,
            resource_type=resource.type,
            model=model["model"] if model is not None else None,
            model_version=model["version"] or model["old"] if model is not None else None,
        )
    ]


def _copied(payload: _Payload) -> str:
    """The model that a copy is made of: a copy itself is of a location, so that only its message names a model.

    https://cloud.google.com/vertex-ai/docs/reference/rest/v1/projects.locations.models/copy
    """
    if not payload.method_name.endswith("CopyModel") or not bytes(payload.request).startswith(b"{"):
        return ""
    source = _ASKED.decode(payload.request).source_model
    return source if isinstance(source, str) else ""


def _delegate(who: _Authentication) -> str | None:
    """Who stands at the start of a chain of impersonated service accounts."""
    if not who.service_account_delegation_info:
        return None
    first = who.service_account_delegation_info[0]
    email = (first.first_party_principal or {}).get("principalEmail")
    return email if isinstance(email, str) else first.principal_subject


def _outcome(code: int) -> Outcome:
    """Of a code of google.rpc: 7 is PERMISSION_DENIED, 16 UNAUTHENTICATED."""
    if code == 0:
        return "success"
    return "denied" if code in {7, 16} else "failure"


def _touches_data(log: str, method: str) -> bool:
    """Whether objects' contents or calls of a model are meant; reading configuration is logged as data access, too."""
    if method.endswith(("ExportModel", "CopyModel")):  # Whatever log they are in, the files of a model go elsewhere.
        return True
    if not log.endswith(("%2Fdata_access", "/data_access")):
        return False
    return method.startswith("storage.objects.") or ".PredictionService." in method or method.endswith("ReadFeatureValues")


_WORDS: Final[tuple[tuple[str, Action], ...]] = (
    ("list", "list"),
    ("search", "list"),
    ("predict", "invoke"),
    ("explain", "invoke"),
    ("generatecontent", "invoke"),
    ("rawpredict", "invoke"),
    ("mergeversionaliases", "promote"),
    ("deploymodel", "promote"),
    ("undeploymodel", "update"),
    ("get", "read"),
    ("export", "read"),
    ("read", "read"),
    ("batchread", "read"),
    ("create", "create"),
    ("upload", "create"),
    ("copy", "create"),
    ("compose", "create"),
    ("import", "write"),
    ("write", "write"),
    ("update", "update"),
    ("patch", "update"),
    ("set", "update"),
    ("delete", "delete"),
    ("purge", "delete"),
)


@lru_cache(maxsize=1024)
def _action(method: str) -> Action:
    """Of the last word of a method: "storage.objects.get", "google.cloud.aiplatform.v1.ModelService.UploadModel"."""
    if ".PredictionService." in method:  # However it streams.
        return "invoke"
    verb = method.rpartition(".")[2].lower().removeprefix("streaming")
    for word, action in _WORDS:
        if verb.startswith(word):
            return action
    return "other"
