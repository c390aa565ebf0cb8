"""AWS CloudTrail: log files as a trail delivers them, `{"Records": […]}`, or a bare list of records.

A copy within S3 is one record and two accesses: what was written, and what was read. The id of the read has "|source" behind it.

https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-event-reference-record-contents.html
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, Final, cast
from urllib.parse import parse_qsl, unquote

import msgspec

from mlsec_dagster.audit.events import Action, AuditEvent, Outcome, Quarantined
from mlsec_dagster.audit.limits import DEFAULT_LIMITS, Limits
from mlsec_dagster.audit.redaction import clean, clean_again, redact
from mlsec_dagster.audit.sources.arrays import Format, read_array
from mlsec_dagster.audit.sources.streams import ContentHash
from mlsec_dagster.audit.times import microseconds


def read(
    data: bytes | Iterable[bytes], *, limits: Limits = DEFAULT_LIMITS, content: ContentHash | None = None
) -> Iterator[AuditEvent | Quarantined]:
    """One row for each record of a log file; see `mlsec_dagster.audit.sources`. `content` hashes what digest files have the hash of."""
    return read_array(data, _FORMAT, limits, content)


class _Issuer(msgspec.Struct, gc=False):
    arn: str | None = None


class _Session(msgspec.Struct, gc=False):
    issuer: _Issuer | None = msgspec.field(default=None, name="sessionIssuer")


class _Identity(msgspec.Struct, gc=False, rename="camel"):
    type: str | None = None
    principal_id: str | None = None
    arn: str | None = None
    account_id: str | None = None
    access_key_id: str | None = None
    user_name: str | None = None
    invoked_by: str | None = None
    session_context: _Session | None = None


class _Addendum(msgspec.Struct, gc=False):
    original: str | None = msgspec.field(default=None, name="originalEventID")


class _Core(msgspec.Struct, gc=False, rename="camel"):
    """What every record has, whatever the service."""

    event_time: str
    event_source: str
    event_name: str
    event_id: str = msgspec.field(name="eventID")
    user_identity: _Identity | None = None
    aws_region: str | None = None
    source_address: str | None = msgspec.field(default=None, name="sourceIPAddress")
    user_agent: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    request_id: str | None = msgspec.field(default=None, name="requestID")
    shared_event_id: str | None = msgspec.field(default=None, name="sharedEventID")
    recipient_account_id: str | None = None
    event_category: str | None = None
    read_only: bool | None = None
    addendum: _Addendum | None = None


class _Parameters(msgspec.Struct, gc=False, rename="camel"):
    """Names of what was asked for. Services use the same name for values of different types, so each may be anything."""

    bucket_name: Any = None
    key: Any = None
    version_id: Any = None
    model_name: Any = None
    model_id: Any = None
    model_package_name: Any = None
    model_package_arn: Any = None
    model_package_group_name: Any = None
    model_approval_status: Any = None
    endpoint_name: Any = None
    training_job_name: Any = None
    processing_job_name: Any = None
    notebook_instance_name: Any = None
    feature_group_name: Any = None
    role_arn: Any = None


class _MoreParameters(_Parameters, gc=False, rename="camel"):
    """And names that only `_SELDOM` have."""

    endpoint_config_name: Any = None
    transform_job_name: Any = None
    domain_id: Any = None
    user_profile_name: Any = None
    production_variants: Any = None
    copy_source: Any = msgspec.field(default=None, name="x-amz-copy-source")


class _Additional(msgspec.Struct, gc=False):
    out: Any = msgspec.field(default=None, name="bytesTransferredOut")
    into: Any = msgspec.field(default=None, name="bytesTransferredIn")


class _Resource(msgspec.Struct, gc=False):
    arn: Any = msgspec.field(default=None, name="ARN")
    account: Any = msgspec.field(default=None, name="accountId")
    type: Any = None


class _Lenient(_Core, gc=False):
    """A record whose other members are not of the types below: they are left out, by names that no member has."""

    request_parameters: None = msgspec.field(default=None, name=" parameters")
    additional_event_data: None = msgspec.field(default=None, name=" additional")
    resources: None = msgspec.field(default=None, name=" resources")


class _Record(_Core, gc=False, rename="camel"):
    request_parameters: _Parameters | None = None
    additional_event_data: _Additional | None = None
    resources: list[_Resource] | None = None


class _Whole(_Record, gc=False, rename="camel"):
    request_parameters: _MoreParameters | None = None  # pyright: ignore[reportIncompatibleVariableOverride] - it is read only


_NO_IDENTITY: Final = _Identity()
_STORAGE: Final = frozenset({"s3.amazonaws.com", "s3express.amazonaws.com", "s3-outposts.amazonaws.com"})
_MODELS: Final = frozenset({"sagemaker.amazonaws.com", "bedrock.amazonaws.com", "bedrock-runtime.amazonaws.com"})


def _event(record: _Record) -> AuditEvent:
    user = record.user_identity or _NO_IDENTITY
    session = user.session_context
    service, name, category = record.event_source, record.event_name, record.event_category
    container = key = named = version = target = model = model_version = acting_as = account = arn = kind = None
    approved = False
    asked = record.request_parameters
    if asked is not None:
        if service in _STORAGE:
            bucket, named = asked.bucket_name, asked.key
            container = clean_again(bucket) if isinstance(bucket, str) else None
            key = redact(named) if isinstance(named, str) else None
            version = None if asked.version_id is None else clean(_text(asked.version_id))
        elif service in _MODELS:
            target, (model, model_version) = _target(asked), _model(asked)
            approved = asked.model_approval_status == "Approved"
        elif service == "sts.amazonaws.com":
            acting_as = clean_again(_text(asked.role_arn))
    if record.resources:
        resource = record.resources[0]
        if resource.arn is None and len(record.resources) > 1:  # Of an object only the prefix of its ARN is told.
            resource = record.resources[1]
        account, arn, kind = resource.account, resource.arn, resource.type
        if account is None and len(record.resources) > 1:  # An object's owner is told of its bucket.
            account = record.resources[1].account
        # Of an object it repeats bucket and key, which are clean already.
        if key is None or named != key or arn != f"arn:aws:s3:::{container}/{key}":
            arn = clean_again(_text(arn))
    moved = record.additional_event_data
    # Calls of models are data, though Bedrock logs them as management events. Old records have no category.
    data = category == "Data" or name.startswith("Invoke") or (category is None and key is not None)
    # By position, which takes a quarter of the time: names would be the greater part of what the reader costs behind the decoder.
    return AuditEvent(
        "aws.cloudtrail",  # source
        record.event_id,  # id
        microseconds(record.event_time),  # time
        name,  # operation
        _action(name if len(name) < 64 else name[:64], record.read_only, approved),  # action
        "data" if data else "control",  # plane
        _outcome(record.error_code),  # outcome
        None,  # logged
        service,  # service
        record.error_code,  # status
        None if record.error_message is None else clean_again(record.error_message),  # error
        clean_again(user.arn or user.principal_id or user.invoked_by),  # principal
        None if user.user_name is None else clean_again(user.user_name),  # principal_name
        user.type,  # principal_type
        user.account_id,  # principal_account
        user.access_key_id,  # credential
        clean_again(session.issuer.arn) if session is not None and session.issuer is not None else None,  # role
        user.invoked_by,  # invoked_by
        acting_as,  # acting_as
        record.source_address,  # address
        None,  # port
        clean_again(record.user_agent),  # user_agent
        None,  # request
        record.request_id,  # request_id
        record.shared_event_id,  # correlation
        record.addendum.original if record.addendum is not None else None,  # corrects
        account if isinstance(account, str) and account else record.recipient_account_id,  # account
        record.aws_region,  # region
        container,  # container
        key or target,  # object
        version,  # object_version
        arn,  # resource
        kind if isinstance(kind, str) else None,  # resource_type
        model,  # model
        model_version,  # model_version
        None,  # digest
        _count(moved.out) if moved is not None else None,  # bytes_out
        _count(moved.into) if moved is not None else None,  # bytes_in
    )


def _copied(record: _Record, written: AuditEvent) -> AuditEvent | None:
    """The read that a copy is for what it copies: "bucket/key", percent-encoded, a slash before it or not, perhaps with a version.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_CopyObject.html#API_CopyObject_RequestSyntax
    """
    asked = record.request_parameters
    source = _text(asked.copy_source) if isinstance(asked, _MoreParameters) else None
    if not source or written.service not in _STORAGE:
        return None
    path, _, query = source.partition("?")
    if path.startswith("arn:"):  # Of an access point: "arn:aws:s3:region:account:accesspoint/name/object/key".
        bucket, _, key = path.partition("/object/")
    else:
        bucket, _, key = path.removeprefix("/").partition("/")
    return msgspec.structs.replace(
        written,
        id=f"{written.id}|source",
        action="read",
        correlation=written.correlation or written.id,
        account=None,
        container=clean_again(unquote(bucket)),
        object=clean(unquote(key)) or None,
        object_version=clean(dict(parse_qsl(query)).get("versionId")),
        resource=None,
        bytes_out=None,
        bytes_in=None,
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _count(value: Any) -> int | None:
    """Bytes, which CloudTrail writes as floats."""
    return int(value) if isinstance(value, (int, float)) and 0 <= value < 1 << 63 else None


def _model(asked: _Parameters) -> tuple[str | None, str | None]:
    """The model that is named and its version: model packages are `group/version`."""
    named = _text(asked.model_package_arn) or _text(asked.model_package_name)
    if named is not None:
        group, _, version = named.rpartition("model-package/")[2].partition("/")
        return clean(group), clean(version) or None
    named = _text(asked.model_package_group_name) or _text(asked.model_name) or _text(asked.model_id)
    if named is None and isinstance(asked, _MoreParameters):
        named = _text(_first(asked.production_variants).get("modelName"))  # Of a configuration of an endpoint: the model that is deployed.
    return clean(named), None


def _first(values: Any) -> dict[str, Any]:
    value = cast("list[Any]", values)[0] if isinstance(values, list) and values else None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _target(asked: _Parameters) -> str | None:
    more = isinstance(asked, _MoreParameters)
    names = (
        asked.endpoint_name,
        asked.training_job_name,
        asked.processing_job_name,
        asked.notebook_instance_name,
        asked.feature_group_name,
        *((asked.endpoint_config_name, asked.transform_job_name, asked.user_profile_name, asked.domain_id) if more else ()),
    )
    return clean(next((name for name in names if isinstance(name, str)), None))


_DENIED: Final = (
    "AccessDenied",
    "Unauthorized",
    "Forbidden",
    "AuthFailure",
    "InvalidClientTokenId",
    "SignatureDoesNotMatch",
    "NotAuthorized",
)


@lru_cache(maxsize=1024)
def _outcome(code: str | None) -> Outcome:
    if code is None:
        return "success"
    return "denied" if any(word in code for word in _DENIED) else "failure"


_PREFIXES: Final[tuple[tuple[str, Action], ...]] = (
    ("List", "list"),
    ("Invoke", "invoke"),
    ("Converse", "invoke"),
    ("Delete", "delete"),
    ("Remove", "delete"),
    ("Deregister", "delete"),
    ("Terminate", "delete"),
    ("Create", "create"),
    ("Register", "create"),
    ("Run", "create"),
    ("Copy", "create"),
    ("Put", "write"),
    ("Upload", "write"),
    ("CompleteMultipartUpload", "write"),
    ("Update", "update"),
    ("Modify", "update"),
    ("Attach", "update"),
    ("Detach", "update"),
    ("Set", "update"),
    ("Add", "update"),
    ("Assume", "connect"),
    ("GetSessionToken", "connect"),
    ("GetFederationToken", "connect"),
    ("ConsoleLogin", "connect"),
    ("Get", "read"),
    ("Head", "read"),
    ("Describe", "read"),
    ("BatchGet", "read"),
    ("Select", "read"),
)


@lru_cache(maxsize=4096)
def _action(name: str, read_only: bool | None, approved: bool) -> Action:
    if approved:
        return "promote"
    for prefix, action in _PREFIXES:
        if name.startswith(prefix):
            return action
    return "read" if read_only else "other"


_SELDOM: Final = frozenset(
    {
        *("CopyObject", "UploadPartCopy"),
        *("CreateEndpointConfig", "DescribeEndpointConfig", "DeleteEndpointConfig"),
        *("CreateTransformJob", "DescribeTransformJob", "StopTransformJob"),
        *("CreatePresignedDomainUrl", "CreateUserProfile", "UpdateUserProfile", "DescribeUserProfile", "DeleteUserProfile"),
        *("CreateDomain", "UpdateDomain", "DescribeDomain", "DeleteDomain"),
    }
)
_FORMAT: Final = Format("aws.cloudtrail", _Record, _event, lenient=_Lenient, whole=_Whole, operations=_SELDOM, further=_copied)
