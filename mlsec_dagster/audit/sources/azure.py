"""Azure Monitor resource logs of Blob storage and Azure Machine Learning: a record to a line of PT1H.json, which grows in place.

Read a growing blob through `lines.WholeLines`, which stops at the last newline and tells where to go on. Records wrapped in
`{"records": […]}`, as event hubs deliver them, are read too.

https://learn.microsoft.com/azure/storage/blobs/monitor-blob-storage-reference
https://learn.microsoft.com/azure/azure-monitor/reference/tables/amlmodelsevent
https://learn.microsoft.com/azure/azure-monitor/reference/tables/amlregistryreadeventslog
"""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, Final, cast
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from mlsec_dagster.audit.events import Action, AuditEvent, Outcome, Plane, Quarantined
from mlsec_dagster.audit.limits import DEFAULT_LIMITS, Limits
from mlsec_dagster.audit.sources import http
from mlsec_dagster.audit.sources.lines import read_lines
from mlsec_dagster.audit.sources.streams import digest
from mlsec_dagster.audit.times import microseconds


def read(data: bytes | Iterable[bytes], *, limits: Limits = DEFAULT_LIMITS) -> Iterator[AuditEvent | Quarantined]:
    """One row for each record of a log; see `mlsec_dagster.audit.sources`."""
    return read_lines(data, "azure.monitor", _parse, limits, split=_records)


class _Requester(msgspec.Struct, rename="camel"):
    object_id: str | None = None
    upn: str | None = None
    app_id: str | None = None
    tenant_id: str | None = None


class _Identity(msgspec.Struct, rename="camel"):
    type: str | None = None
    token_hash: str | None = None
    requester: _Requester | None = None


class _Record(msgspec.Struct, rename="camel"):
    time: str
    operation_name: str
    category: str = ""
    resource_id: str | None = None
    status_code: int | str | None = None
    status_text: str | None = None
    caller_ip_address: str | None = None
    correlation_id: str | None = None
    identity: msgspec.Raw = msgspec.Raw(b"null")
    location: str | None = None
    uri: str | None = None
    result_type: str | None = None
    result_signature: str | int | None = None
    properties: msgspec.Raw = msgspec.Raw(b"null")


class _Blob(msgspec.Struct, rename="camel"):
    account_name: str | None = None
    user_agent_header: str | None = None
    client_request_id: str | None = None
    object_key: str | None = None
    response_body_size: int | None = None
    request_body_size: int | None = None


class _Envelope(msgspec.Struct):
    records: list[msgspec.Raw]


_WRAPPED: Final = re.compile(rb"\s*\{\s*\"records\"\s*:")
_ENVELOPE: Final = msgspec.json.Decoder(_Envelope)
_RECORD: Final = msgspec.json.Decoder(_Record)
_IDENTITY: Final = msgspec.json.Decoder(_Identity | None)
_BLOB: Final = msgspec.json.Decoder(_Blob | None)
_MEMBERS: Final = msgspec.json.Decoder(dict[str, Any])


def _records(line: bytes) -> list[msgspec.Raw] | None:
    return _ENVELOPE.decode(line).records if _WRAPPED.match(line) is not None else None


def _parse(raw: bytes) -> list[AuditEvent]:
    record = _RECORD.decode(raw)
    return [_stored(record, raw) if record.category.startswith("Storage") else _learned(record, raw)]


def _id(record: _Record, raw: bytes, *more: str | None) -> str:
    """A correlation id may cover several operations; what was delivered twice is the same in all of these."""
    if not record.correlation_id:
        return digest(raw)
    return "|".join((record.correlation_id, record.operation_name, record.time, *(each or "" for each in more)))


def _stored(record: _Record, raw: bytes) -> AuditEvent:
    identity = _IDENTITY.decode(record.identity) or _Identity()
    blob = _BLOB.decode(record.properties) or _Blob()
    who = identity.requester or _Requester()
    address, port = http.address_and_port(record.caller_ip_address)
    account, container, name = _place(blob, record.uri)
    status = None if record.status_code is None else str(record.status_code)
    code = int(status) if status is not None and status.isascii() and status.isdigit() else None
    action, plane = _action(record.operation_name[:256], record.category[:64])
    return AuditEvent(
        source="azure.monitor",
        id=_id(record, raw, blob.object_key),
        time=microseconds(record.time),
        operation=record.operation_name,
        action=action,
        plane=plane,
        outcome=http.outcome(code),
        service="Microsoft.Storage",
        status=status,
        error=record.status_text if code is None or code >= 400 else None,
        principal=who.object_id or who.app_id or identity.token_hash,
        principal_name=who.upn or (who.app_id if who.object_id else None),
        principal_type=identity.type,
        principal_account=who.tenant_id,
        credential=identity.token_hash,
        address=address,
        port=port,
        user_agent=blob.user_agent_header,
        request=record.uri,
        request_id=blob.client_request_id or None,
        correlation=record.correlation_id,
        account=account,
        region=record.location,
        container="/".join(filter(None, (account, container))) or None,
        object=name,
        object_version=_version(record.uri),
        resource=record.resource_id,
        resource_type=record.category or None,
        bytes_out=blob.response_body_size,
        bytes_in=blob.request_body_size,
    )


def _place(blob: _Blob, uri: str | None) -> tuple[str | None, str | None, str | None]:
    """Account, container and blob: of the object key, which is "/account/container/blob", else of the URI."""
    if blob.object_key:
        parts = blob.object_key.strip('"').removeprefix("/").split("/", 2)
        return parts[0] or blob.account_name, parts[1] if len(parts) > 1 else None, parts[2] if len(parts) > 2 else None
    if not uri:
        return blob.account_name, None, None
    container, _, name = unquote(urlsplit(uri).path).removeprefix("/").partition("/")
    return blob.account_name or urlsplit(uri).netloc.partition(".")[0] or None, container or None, name or None


def _version(uri: str | None) -> str | None:
    """The version or the snapshot of a blob that a URI asks for; None is the current one.

    https://learn.microsoft.com/rest/api/storageservices/get-blob#uri-parameters
    """
    query = (uri or "").partition("?")[2]
    small = query.lower()
    if "versionid=" not in small and "snapshot=" not in small:
        return None
    asked = {name.lower(): value for name, value in parse_qsl(query)}
    return asked.get("versionid") or asked.get("snapshot")


def _learned(record: _Record, raw: bytes) -> AuditEvent:
    """Azure Machine Learning: models of a workspace, and assets of a registry.

    What kind of asset a registry's record is about it does not tell, so only a workspace's models are called models here.
    Exports name members as the documented tables do, or in camel case, so that case is not looked at.
    """
    members = {} if record.properties == b"null" else {name.lower(): value for name, value in _MEMBERS.decode(record.properties).items()}

    def member(*names: str) -> str | None:
        return next((value for name in names if isinstance(value := members.get(name), str) and value), None)

    who, name, kind = _caller(record.identity)
    model, asset = member("amlmodelname", "modelname"), member("assetname")
    version = member("amlmodelversion", "modelversion", "assetversion")
    place = member("registryresourceid") or record.resource_id
    result = record.result_signature if record.result_signature is not None else member("resultsignature")
    action, plane = _action(record.operation_name[:256], record.category[:64])
    address, port = http.address_and_port(record.caller_ip_address)
    return AuditEvent(
        source="azure.monitor",
        id=_id(record, raw, model or asset, version),
        time=microseconds(record.time),
        operation=record.operation_name,
        action=action,
        plane=plane,
        outcome=_result(record.result_type, str(result) if result is not None else None),
        service=_provider(record.resource_id),
        status=None if result is None else str(result),
        principal=member("userobjectid") or who,
        principal_name=member("username") or name,
        principal_type=kind,
        principal_account=member("registrytenantid", "tenantid", "amlworkspacetenantid"),
        address=address,
        port=port,
        correlation=record.correlation_id,
        region=record.location,
        container=place.rpartition("/")[2] or None if place else None,
        object=asset,
        object_version=version if asset else None,
        resource=place,
        resource_type=record.category or None,
        model=model,
        model_version=version if model else None,
    )


def _provider(resource: str | None) -> str | None:
    """The resource provider of a resource's id, as Azure spells that of Machine Learning."""
    name = (resource or "").upper().partition("/PROVIDERS/")[2].partition("/")[0]
    return "Microsoft.MachineLearningServices" if name in {"", "MICROSOFT.MACHINELEARNINGSERVICES"} else name


def _caller(identity: msgspec.Raw) -> tuple[str | None, str | None, str | None]:
    """Object id, name and kind, of the identity as a JSON object, as text that holds one, or as a bare name."""
    found: Any = msgspec.json.decode(identity)
    if isinstance(found, str):
        try:
            found = msgspec.json.decode(found)
        except msgspec.DecodeError:
            return found or None, None, None
    if not isinstance(found, dict):
        return None, None, None
    small = {name.lower(): value for name, value in cast("dict[str, Any]", found).items() if isinstance(value, str) and value}
    return small.get("userobjectid") or small.get("objectid"), small.get("username") or small.get("upn"), small.get("type")


def _result(kind: str | None, signature: str | None) -> Outcome:
    if signature is not None and signature.isascii() and signature.isdigit():
        return http.outcome(int(signature))
    word = (kind or signature or "").lower()
    if word in {"succeeded", "success", "ok"}:
        return "success"
    if word in {"unauthorized", "forbidden"}:
        return "denied"
    return "failure" if word in {"failed", "failure"} else "unknown"


_WORDS: Final[tuple[tuple[str, Action], ...]] = (
    ("copyblobsource", "read"),  # A copy is logged as three operations: CopyBlob, and one for each of its blobs.
    ("list", "list"),
    ("query", "read"),
    ("delete", "delete"),
    ("remove", "delete"),
    ("copy", "create"),
    ("create", "create"),
    ("register", "create"),
    ("set", "update"),
    ("update", "update"),
    ("patch", "update"),
    ("put", "write"),
    ("append", "write"),
    ("write", "write"),
    ("flush", "write"),
    ("rename", "write"),
    ("download", "read"),
    ("get", "read"),
    ("read", "read"),
)
_CATEGORIES: Final[tuple[tuple[str, Action], ...]] = (("read", "read"), ("write", "write"), ("delete", "delete"))
_CONTENTS: Final = (
    "GetBlob",
    "PutBlob",
    "PutBlock",
    "PutPage",
    "AppendBlock",
    "AppendFile",
    "FlushFile",
    "ReadFile",
    "CreateFile",
    "CopyBlob",
)
_DATA: Final = (*_CONTENTS, "DeleteBlob", "DeleteFile", "DeletePath", "QueryBlob", "RenameFile", "GetPage", "RegistryAsset")
_NAMES_ONLY: Final = (
    "GetBlobProperties",
    "GetBlobMetadata",
    "GetBlobTags",
    "GetBlobServiceProperties",
    "GetBlobServiceStats",
    "GetPageRanges",
)


@lru_cache(maxsize=1024)
def _action(operation: str, category: str) -> tuple[Action, Plane]:
    """Of "GetBlob", or of the last word of ".../models/read/action"."""
    data = operation.startswith(_DATA) and operation not in _NAMES_ONLY
    if operation.lower().endswith("/diagnosticlogs/read"):  # What a cluster has logged is within; the operation is the logging.
        return "other", "control"
    verb = operation.lower().removesuffix("/action").rpartition("/")[2]
    plane: Plane = "data" if data or category.startswith("RegistryAssetRead") else "control"
    for word, action in _WORDS:
        if verb.startswith(word):
            return action, plane
    for word, action in _CATEGORIES:
        if word in category.lower():
            return action, plane
    return "other", plane
