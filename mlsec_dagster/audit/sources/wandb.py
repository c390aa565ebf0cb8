"""The audit log of Weights & Biases: a JSON object to a line, as synced to the instance's bucket or got from its API.

A line has no identity of its own, so the hash of the line is it: two accesses that agree in every member are one.

https://docs.wandb.ai/platform/hosting/monitoring-usage/audit-logging
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from mlsec_dagster.audit.events import Action, AuditEvent, Quarantined
from mlsec_dagster.audit.limits import DEFAULT_LIMITS, Limits
from mlsec_dagster.audit.sources import http
from mlsec_dagster.audit.sources.lines import read_lines
from mlsec_dagster.audit.sources.streams import digest
from mlsec_dagster.audit.times import microseconds


def read(data: bytes | Iterable[bytes], *, limits: Limits = DEFAULT_LIMITS) -> Iterator[AuditEvent | Quarantined]:
    """One row for each line of a log; see `mlsec_dagster.audit.sources`."""
    return read_lines(data, "wandb.audit", _parse, limits)


class _Record(msgspec.Struct):
    timestamp: str
    action: str
    actor_user_id: str | int | None = None
    actor_email: str | None = None
    actor_ip: str | None = None
    response_code: int | None = None
    artifact_asset: str | None = None
    artifact_digest: str | None = None
    artifact_qualified_name: str | None = None
    cli_version: str | None = None
    entity_name: str | None = None
    entity_asset: str | None = None
    project_name: str | None = None
    project_asset: str | None = None
    run_asset: str | None = None
    report_asset: str | None = None
    user_asset: str | int | None = None


_DECODER: Final = msgspec.json.Decoder(_Record)


def _parse(line: bytes) -> list[AuditEvent]:
    record = _DECODER.decode(line)
    kind, _, verb = record.action.strip().partition(":")
    artifact, version = _artifact(record.artifact_qualified_name)
    project = (record.entity_name or record.entity_asset, record.project_name or record.project_asset)
    others: tuple[Any, ...] = (record.run_asset, record.report_asset, record.user_asset)
    other = next((str(each) for each in others if each is not None), None)
    address, port = http.address_and_port(record.actor_ip)
    return [
        AuditEvent(
            source="wandb.audit",
            id=digest(line),
            time=microseconds(record.timestamp),
            operation=record.action.strip(),
            action=_action(verb),
            plane="data" if kind == "artifact" else "control",
            outcome=http.outcome(record.response_code),
            service="wandb",
            status=None if record.response_code is None else str(record.response_code),
            principal=str(record.actor_user_id) if record.actor_user_id is not None else record.actor_email,
            principal_name=record.actor_email,
            address=address,
            port=port,
            user_agent=f"wandb/{record.cli_version}" if record.cli_version else None,
            container="/".join(filter(None, project)) or None,
            object=artifact or other,
            object_version=version,
            resource=record.artifact_asset or other,
            resource_type=kind,
            digest=record.artifact_digest,
        )
    ]


def _artifact(name: str | None) -> tuple[str | None, str | None]:
    """Name and version of "entity/project/name:version". Whether it is a model or a dataset, the log does not tell."""
    if not name:
        return None, None
    bare, _, version = name.rpartition(":")
    return (bare or version), (version if bare else None)


def _action(verb: str) -> Action:
    if verb.startswith(("delete", "permanently_delete", "uninvite", "deactivate")):
        return "delete"
    if verb.startswith(("create", "invite")):
        return "create"
    if verb == "read":
        return "read"
    if verb.startswith(("update", "stop", "undelete", "reactivate")):
        return "update"
    return "connect" if "log" in verb else "other"
