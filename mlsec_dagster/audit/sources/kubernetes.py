"""Kubernetes audit logs (audit.k8s.io/v1): an Event to a line, or the EventList of a webhook. Kubeflow and KServe are resources there.

A request has an event for each stage. Only its end is an access (`ResponseComplete`, or `Panic`); the other stages are passed
over, so that no access counts twice. A watch is therefore seen when it ends.

https://kubernetes.io/docs/reference/config-api/apiserver-audit.v1/
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from mlsec_dagster.audit.events import Action, AuditEvent, Plane, Quarantined
from mlsec_dagster.audit.limits import DEFAULT_LIMITS, Limits
from mlsec_dagster.audit.sources import http
from mlsec_dagster.audit.sources.lines import read_lines
from mlsec_dagster.audit.times import microseconds


def read(data: bytes | Iterable[bytes], *, limits: Limits = DEFAULT_LIMITS) -> Iterator[AuditEvent | Quarantined]:
    """One row for each finished request of a log; see `mlsec_dagster.audit.sources`."""
    return read_lines(data, "kubernetes.audit", _parse, limits, split=_items)


class _User(msgspec.Struct):
    username: str | None = None
    extra: dict[str, list[str]] = {}


class _Object(msgspec.Struct, rename="camel"):
    resource: str | None = None
    namespace: str | None = None
    name: str | None = None
    uid: str | None = None
    api_group: str | None = None
    resource_version: str | None = None
    subresource: str | None = None


class _Status(msgspec.Struct):
    code: int | None = None
    message: str | None = None


class _Event(msgspec.Struct):
    audit_id: str = msgspec.field(name="auditID")
    stage: str
    verb: str
    request_uri: str | None = msgspec.field(default=None, name="requestURI")
    user: _User | None = None
    impersonated: _User | None = msgspec.field(default=None, name="impersonatedUser")
    addresses: list[str] = msgspec.field(default_factory=list[str], name="sourceIPs")
    user_agent: str | None = msgspec.field(default=None, name="userAgent")
    target: _Object | None = msgspec.field(default=None, name="objectRef")
    status: _Status | None = msgspec.field(default=None, name="responseStatus")
    received: str | None = msgspec.field(default=None, name="requestReceivedTimestamp")
    finished: str | None = msgspec.field(default=None, name="stageTimestamp")
    annotations: dict[str, Any] = {}


class _List(msgspec.Struct):
    items: list[msgspec.Raw] = []


class _Kind(msgspec.Struct):
    kind: str


_KIND: Final = msgspec.json.Decoder(_Kind)
_EVENT: Final = msgspec.json.Decoder(_Event)
_LIST: Final = msgspec.json.Decoder(_List)
_LAST_STAGES: Final = frozenset({"ResponseComplete", "Panic"})
_EARLIER_STAGES: Final = frozenset({"RequestReceived", "ResponseStarted"})
_CREDENTIAL: Final = "authentication.kubernetes.io/credential-id"

_VERBS: Final[dict[str, Action]] = {
    "get": "read",
    "list": "list",
    "watch": "list",
    "create": "create",
    "update": "update",
    "patch": "update",
    "delete": "delete",
    "deletecollection": "delete",
}
_CONNECTIONS: Final = frozenset({"exec", "attach", "portforward", "proxy"})
_CONTENTS: Final = frozenset({"secrets", "configmaps"})
_MODELS: Final = frozenset({"inferenceservices", "trainedmodels", "llminferenceservices", "servingruntimes"})


def _items(line: bytes) -> list[msgspec.Raw] | None:
    return _LIST.decode(line).items if _KIND.decode(line).kind == "EventList" else None


def _parse(line: bytes) -> Iterator[AuditEvent]:
    event = _EVENT.decode(line)
    if event.stage in _LAST_STAGES:
        yield _one(event)
    elif event.stage not in _EARLIER_STAGES:
        raise ValueError(f"its stage {event.stage[:40]!r} is none of audit.k8s.io/v1")


def _one(event: _Event) -> AuditEvent:
    user, target, status = event.user or _User(), event.target or _Object(), event.status or _Status()
    when = event.received or event.finished
    if when is None:
        raise ValueError("it has neither requestReceivedTimestamp nor stageTimestamp")
    kind = "/".join(filter(None, (".".join(filter(None, (target.resource, target.api_group))), target.subresource)))
    action, plane = _action(event.verb, target)
    denied = event.annotations.get("authorization.k8s.io/decision") == "forbid"
    credentials = user.extra.get(_CREDENTIAL)
    return AuditEvent(
        source="kubernetes.audit",
        id=f"{event.audit_id}|{event.stage}",
        time=microseconds(when),
        operation=f"{event.verb} {kind}".strip(),
        action=action,
        plane=plane,
        outcome="denied" if denied else "failure" if event.stage == "Panic" else http.outcome(status.code),
        logged=microseconds(event.finished) if event.finished is not None else None,
        service=target.api_group or "core",
        status=None if status.code is None else str(status.code),
        error=status.message,
        principal=user.username,
        principal_type="ServiceAccount" if (user.username or "").startswith("system:serviceaccount:") else None,
        credential=credentials[0] if credentials else None,
        acting_as=event.impersonated.username if event.impersonated is not None else None,
        # All but the last address are what the client claims.
        address=event.addresses[-1] if event.addresses else None,
        user_agent=event.user_agent,
        request=event.request_uri,
        request_id=event.audit_id,
        container=target.namespace,
        object=target.name,
        object_version=target.resource_version,
        resource=target.uid,
        resource_type=kind or None,
        model=target.name if target.resource in _MODELS else None,
    )


def _action(verb: str, target: _Object) -> tuple[Action, Plane]:
    if target.subresource in _CONNECTIONS:
        return "connect", "data"
    plane: Plane = "data" if target.resource in _CONTENTS or target.subresource == "log" else "control"
    return _VERBS.get(verb) or http.action(verb), plane
