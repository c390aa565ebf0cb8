"""One access, whatever log it comes from; and what could not be read as one.

Every text was written by somebody else, an attacker perhaps: it is data, and is escaped by whoever shows it.
"""

from typing import Final, Literal, get_args

import msgspec

Source = Literal["aws.cloudtrail", "aws.s3_access", "gcp.audit", "azure.monitor", "kubernetes.audit", "wandb.audit", "mlflow.audit"]
Action = Literal["read", "list", "invoke", "write", "create", "update", "delete", "promote", "connect", "other"]
Plane = Literal["control", "data"]
Outcome = Literal["success", "failure", "denied", "unknown"]

SOURCES: Final[tuple[Source, ...]] = get_args(Source)
ACTIONS: Final[tuple[Action, ...]] = get_args(Action)


class AuditEvent(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One access, normalised. None means that the log does not tell. Encoded it is an array of its members, in their order.

    Secrets were removed from every text (`mlsec_dagster.audit.redaction`); nothing else was changed.

    Attributes:
        source: The log that tells of it.
        id: The source's own identity of the record. Two records of one source with the same id are one access.
        time: When it happened, microseconds since the epoch, UTC.
        operation: What was done, in the source's own words ("GetObject").
        action: The same in ours.
        plane: "data" if contents were touched, "control" if configuration, names or rights were.
        outcome: "denied" if rights were lacking, "failure" for any other error, "unknown" if the log does not tell.
        logged: When the log service took the record in, microseconds since the epoch, UTC.
        service: Service that was asked ("s3.amazonaws.com").
        status: The source's status or error code ("200", "AccessDenied").
        error: The source's error message.
        principal: Who it was: ARN, e-mail address, object id or user name, whichever the source is surest of.
        principal_name: A name of the same principal for people.
        principal_type: The source's word for the kind of principal or of authentication ("AssumedRole", "SAS").
        principal_account: Account, tenant or project of the principal.
        credential: Identifier of the key or token that was used, or a hash of it by the source; never the secret.
        role: The role or service account whose rights a session used.
        invoked_by: Service that acted in the principal's name.
        acting_as: Identity that the principal took on for this request (impersonation).
        address: Where from: an IP address, or a service's name. As the source tells, trustworthy or not.
        port: Port there.
        user_agent: What the client called itself.
        request: URL or path that was asked for.
        request_id: The service's identity of the request.
        correlation: What several records of one access have in common.
        corrects: `id` of an earlier record that this one corrects.
        account: Account, subscription or project that owns what was accessed.
        region: Where that lies.
        container: Bucket, storage account and container ("account/container"), namespace, or project.
        object: Key, blob, path or name within it.
        object_version: Version or generation of the object.
        resource: The source's full name of what was accessed (ARN, resource id).
        resource_type: The source's word for its kind.
        model: Model that was named, if any.
        model_version: Version, stage or alias of the model.
        digest: The source's digest of the contents.
        bytes_out: Bytes of the answer's body, to the client.
        bytes_in: Bytes of the request's body, from the client.
    """

    source: Source
    id: str
    time: int
    operation: str
    action: Action
    plane: Plane
    outcome: Outcome
    logged: int | None = None
    service: str | None = None
    status: str | None = None
    error: str | None = None
    principal: str | None = None
    principal_name: str | None = None
    principal_type: str | None = None
    principal_account: str | None = None
    credential: str | None = None
    role: str | None = None
    invoked_by: str | None = None
    acting_as: str | None = None
    address: str | None = None
    port: int | None = None
    user_agent: str | None = None
    request: str | None = None
    request_id: str | None = None
    correlation: str | None = None
    corrects: str | None = None
    account: str | None = None
    region: str | None = None
    container: str | None = None
    object: str | None = None
    object_version: str | None = None
    resource: str | None = None
    resource_type: str | None = None
    model: str | None = None
    model_version: str | None = None
    digest: str | None = None
    bytes_out: int | None = None
    bytes_in: int | None = None


class Quarantined(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    r"""Bytes of a log that are no event: kept, marked, and counted.

    Attributes:
        source: The log that they come from.
        id: "blake3:<hex>" over the bytes as delivered, before redaction; the same bytes are the same record.
        reason: Why they could not be read, for people.
        raw: The bytes as text, secrets removed; what is not UTF-8 is written `\xNN`. Cut short after `Limits.kept_bytes` bytes.
        size: Bytes that this row stands for. With `rest` those at hand when reading ended; what was never decoded is not counted.
        offset: Where they begin, in bytes of the decompressed log object.
        rest: True if nothing behind them was read either, so that this log object is known to be incomplete.
    """

    source: Source
    id: str
    reason: str
    raw: str
    size: int
    offset: int
    rest: bool = False
