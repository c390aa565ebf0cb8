"""Amazon S3 server access logs: a line of fields for each request, best effort on Amazon's side.

A line has no identity of its own (deletions in one request share its id), so the hash of the line is it.
A copy is two lines, one for each object.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/LogFormat.html
"""

import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import lru_cache
from typing import Final
from urllib.parse import unquote

from mlsec_dagster.audit.events import Action, AuditEvent, Plane, Quarantined
from mlsec_dagster.audit.limits import DEFAULT_LIMITS, Limits
from mlsec_dagster.audit.sources import http
from mlsec_dagster.audit.sources.lines import read_lines
from mlsec_dagster.audit.sources.streams import digest
from mlsec_dagster.audit.times import since_epoch


def read(data: bytes | Iterable[bytes], *, limits: Limits = DEFAULT_LIMITS) -> Iterator[AuditEvent | Quarantined]:
    """One row for each line of a log object; see `mlsec_dagster.audit.sources`."""
    return read_lines(data, "aws.s3_access", _parse, limits)


# A quote within a URI or a user agent is not escaped, so a quoted field ends at a quote before a space or the end of the line; and a
# request's first line where it does.
_FIELD: Final = re.compile(r'"(?P<quoted>[A-Z]+ [^ ]* HTTP/[\d.]+|.*?)"(?= |$)|\[(?P<time>[^\]]*)\]|(?P<bare>[^ ]+)')
_NEEDED: Final = 17  # Owner to user agent; what follows came later, and more may come.


def _parse(line: bytes) -> list[AuditEvent]:
    text = line.decode()
    fields = [next(filter(None, match.groups()), "") for match in _FIELD.finditer(text)]
    if len(fields) < _NEEDED:
        raise ValueError(f"it has {len(fields)} fields; a line of a server access log has {_NEEDED} or more")
    values = [None if field in {"-", ""} else field for field in fields] + [None] * 10
    _, bucket, _, address, requester, request_id, operation, key, request, status, error, sent, size = values[:13]
    agent, version, auth = values[16], values[17], values[21]
    if operation is None:
        raise ValueError("it names no operation")
    code = int(status) if status is not None else None
    action, plane = _action(operation[:64])
    return [
        AuditEvent(
            source="aws.s3_access",
            id=digest(line),
            time=_time(fields[2]),
            operation=operation,
            action=action,
            plane=plane,
            outcome=http.outcome(code),
            service="s3.amazonaws.com",
            status=status,
            error=error,
            principal=requester,
            principal_type=auth or ("Anonymous" if requester is None else None),
            address=address,
            user_agent=agent,
            request=request,
            request_id=request_id,
            container=bucket,
            object=_key(key),
            object_version=version,
            bytes_out=int(sent) if sent is not None else None,
            bytes_in=int(size) if size is not None and action == "write" else None,
        )
    ]


@lru_cache(maxsize=4096)
def _time(text: str) -> int:
    return since_epoch(datetime.strptime(text, "%d/%b/%Y:%H:%M:%S %z"))


def _key(encoded: str | None) -> str | None:
    """The object's key; as it stands in the log if its bytes are no UTF-8."""
    if encoded is None:
        return None
    try:
        return unquote(encoded, errors="strict")
    except UnicodeDecodeError:
        return encoded


_METHODS: Final[dict[str, Action]] = {"GET": "read", "HEAD": "read", "PUT": "write", "POST": "write", "SELECT": "read", "COPY": "create"}


@lru_cache(maxsize=1024)
def _action(operation: str) -> tuple[Action, Plane]:
    """Of "REST.GET.OBJECT", "BATCH.DELETE.OBJECT", "S3.EXPIRE.OBJECT", "REST.COPY.PART_GET" and the like."""
    parts = operation.split(".")
    method, kind = (parts[1], parts[-1]) if len(parts) > 2 else ("", parts[-1])
    plane: Plane = "data" if kind.startswith(("OBJECT", "PART", "UPLOAD")) and kind != "OBJECT_TAGGING" else "control"
    if kind.endswith("_GET"):
        return "read", plane
    if method == "GET" and kind in {"BUCKET", "BUCKETVERSIONS", "UPLOADS", "SERVICE"}:
        return "list", "control"
    if method in {"EXPIRE", "DELETE"} or kind == "MULTI_OBJECT_DELETE":
        return "delete", plane
    return _METHODS.get(method, "other"), plane
