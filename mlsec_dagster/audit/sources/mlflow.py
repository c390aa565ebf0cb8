r"""Accesses to an MLflow tracking server, which has no audit log of its own: the format of a server plugin's.

One JSON object to a line (ASCII, "\n" at its end, no line longer than 64 KiB), one line for each HTTP request, written when
the response has ended. A file belongs to one server process; files rotate, and only the newest grows. `mlsec_dagster.mlflow_app`
writes it, with the same `Record`.

| member | type | what it is |
| --- | --- | --- |
| `v` | 1 | version of this format; a reader refuses others |
| `id` | text | identity of the request, unique among all servers: UUID or ULID |
| `time` | text | when the request came, RFC 3339 with an offset |
| `method`, `path` | text | as requested, the path without its query and percent-encoded |
| `prefix` | text, null | the server's `--static-prefix`, where the path begins with it |
| `query` | text, null | the query; secrets are removed by the writer, and by this reader again |
| `status` | integer, null | of the response; null if the client left before there was one |
| `unfinished` | true | the client left, or the server failed, before the response had ended |
| `bytes_in`, `bytes_out` | integer | bytes of the bodies as they passed |
| `user` | text, null | whom the server authenticated; null if nobody, also where a Basic header was refused (401, 403) |
| `denied` | text, null | whom the server had authenticated before it denied the request (403): knew the password, lacked the permission |
| `auth` | text, null | by what: "basic", the authorization function, or "anonymous" where the server authenticates nobody |
| `address`, `port` | text, integer, null | the peer of the connection; without a port, what a trusted proxy named |
| `forwarded` | text, null | X-Forwarded-For, a claim |
| `user_agent` | text, null | |
| `workspace` | text, null | X-MLFLOW-WORKSPACE: the workspace that is asked for; null asks for the default one, or there are none |
| `server` | text | host and process id |
| `experiment`, `run` | text, null | what the request names, in path, query or body |
| `logged_model` | text, null | the logged model ("m-…"), which MLflow 3 keeps beside runs |
| `artifact` | text, null | path of the artifact, below the run, the logged model or the artifact root |
| `model`, `model_version` | text, null | the registered model and its version |
| `alias` | text, null | alias that is asked for, set or deleted |
| `stage` | text, null | stage that is asked for, or target of a stage change |
| `new_name` | text, null | what the registered model is to be called from now on |
| `source` | text, null | what a new model version is made from |
| `unread` | true | the body was too long or no JSON: what it names is not known |
| `shortened` | true | texts were cut so that the line fits |

A line with `dropped` in place of `method` tells how many requests the writer had to drop (its queue was full) since its last line.
It comes out quarantined: those accesses cannot be known.
"""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Final, Literal
from urllib.parse import unquote

import msgspec

from mlsec_dagster.audit.events import Action, AuditEvent, Plane, Quarantined
from mlsec_dagster.audit.limits import DEFAULT_LIMITS, Limits
from mlsec_dagster.audit.sources import http
from mlsec_dagster.audit.sources.lines import read_lines
from mlsec_dagster.audit.times import microseconds


def read(data: bytes | Iterable[bytes], *, limits: Limits = DEFAULT_LIMITS) -> Iterator[AuditEvent | Quarantined]:
    """One row for each line of a log; see `mlsec_dagster.audit.sources`."""
    return read_lines(data, "mlflow.audit", _parse, limits)


class Record(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One line. The module's docstring tells the members."""

    v: Literal[1]
    id: str
    time: str
    server: str
    method: str | None = None
    path: str | None = None
    prefix: str | None = None
    query: str | None = None
    status: int | None = None
    unfinished: bool = False
    bytes_in: int | None = None
    bytes_out: int | None = None
    user: str | None = None
    denied: str | None = None
    auth: str | None = None
    address: str | None = None
    port: int | None = None
    forwarded: str | None = None
    user_agent: str | None = None
    workspace: str | None = None
    experiment: str | None = None
    run: str | None = None
    logged_model: str | None = None
    artifact: str | None = None
    model: str | None = None
    model_version: str | None = None
    alias: str | None = None
    stage: str | None = None
    new_name: str | None = None
    source: str | None = None
    unread: bool = False
    shortened: bool = False
    dropped: int | None = None


_DECODER: Final = msgspec.json.Decoder(Record)
_API: Final = re.compile(r"/(?:ajax-)?api/\d+\.\d+/(?:preview/)?(?P<rest>mlflow(?:-artifacts)?/.*)\Z", re.DOTALL)


def route(path: str, prefix: str | None = None) -> str:
    """What a path asks for, in words that all of MLflow's spellings share.

    Args:
        path: Decoded path of the request.
        prefix: The server's `--static-prefix`.

    Returns:
        "mlflow/registered-models/alias", "mlflow-artifacts/artifacts/1/…" or, outside the API, "get-artifact".
    """
    if prefix and path.startswith(prefix + "/"):
        path = path[len(prefix) :]
    api = _API.match(path)
    return api["rest"] if api is not None else path.lstrip("/")


def _parse(line: bytes) -> list[AuditEvent]:
    record = _DECODER.decode(line)
    if record.dropped is not None:
        raise ValueError(f"the server {record.server[:80]!r} tells that it dropped {record.dropped:,} accesses")
    if record.method is None or record.path is None:
        raise ValueError("it has no method or no path")
    # Decoded, as the server does: an escape within a path must not hide what was asked for.
    asked = route(unquote(record.path), record.prefix)
    endpoint = _endpoint(asked)
    # Without a path it is the names of files that are told, as MLflow's own client asks for before each download.
    named = asked.rstrip("/") if endpoint == "mlflow-artifacts/artifacts" else endpoint
    action, plane = ("list", "control") if (record.method, named) in _LISTINGS else _action(record.method[:16], endpoint[:64])
    # The name of a file alone is one below the root of all artifacts, also where only its address or its neighbours are asked for.
    below_root = plane == "data" or endpoint.startswith("mlflow-artifacts/")
    request = record.path if record.query is None else f"{record.path}?{record.query}"
    within = record.run or (f"models/{record.logged_model}" if record.logged_model else None)
    return [
        AuditEvent(
            source="mlflow.audit",
            id=record.id,
            time=microseconds(record.time),
            operation=f"{record.method} {endpoint}",
            action=action,
            plane=plane,
            outcome=http.outcome(record.status),
            service="mlflow",
            status=None if record.status is None else str(record.status),
            principal=record.user,
            principal_name=record.denied,
            principal_type=record.auth,
            address=record.address,
            port=record.port,
            user_agent=record.user_agent,
            request=request,
            request_id=record.id,
            account=record.workspace,
            container="/".join(filter(None, (record.experiment, within))) or ("mlflow-artifacts" if below_root else None),
            object=record.artifact or record.source,
            resource=_uri(record),
            resource_type=endpoint.partition("/")[0],
            model=record.model,
            model_version=record.model_version or record.alias or record.stage,
            bytes_out=record.bytes_out,
            bytes_in=record.bytes_in,
        )
    ]


def _uri(record: Record) -> str | None:
    """MLflow's own name of the alias or stage, which is one of a model that changes what it means; and of a model that changes its name."""
    if record.new_name:
        return f"models:/{record.new_name}"
    if not record.model or not (record.alias or record.stage):
        return None
    return f"models:/{record.model}@{record.alias}" if record.alias else f"models:/{record.model}/{record.stage}"


def _endpoint(path: str) -> str:
    """The path without what varies: "model-versions/get", "mlflow-artifacts/artifacts", "logged-models/*/artifacts/files"."""
    if path.startswith("mlflow-artifacts/"):
        return "/".join(path.split("/")[: 3 if path.startswith("mlflow-artifacts/mpu/") else 2])
    return _LOGGED_MODEL.sub("logged-models/*", path.removeprefix("mlflow/"))


_LOGGED_MODEL: Final = re.compile(r"\Alogged-models/(?!search\Z)[^/]+")
_PROMOTIONS: Final = frozenset({("POST", "registered-models/alias"), ("POST", "model-versions/transition-stage")})
_LISTINGS: Final = frozenset({("GET", "mlflow-artifacts/artifacts"), ("GET", "logged-models/*/artifacts/directories")})
_CONTENTS: Final = (
    *("mlflow-artifacts/", "get-artifact", "model-versions/get-artifact", "upload-artifact", "get-trace-artifact"),
    "logged-models/*/artifacts/files",
)
# Contents that then go past the server, to or from the storage.
_PRESIGNED: Final[dict[str, Action]] = {
    "mlflow-artifacts/presigned": "read",
    "artifacts/presigned-download-url": "read",
    "artifacts/presigned-upload-url": "write",
}
_WORDS: Final[tuple[tuple[str, Action], ...]] = (
    ("delete-tag", "update"),
    ("set-", "update"),
    ("search", "list"),
    ("list", "list"),
    ("create", "create"),
    ("delete", "delete"),
    ("upload", "write"),
    ("log-", "write"),
    ("update", "update"),
    ("rename", "update"),
    ("restore", "update"),
    ("get", "read"),
)


@lru_cache(maxsize=1024)
def _action(method: str, endpoint: str) -> tuple[Action, Plane]:
    if endpoint in _PRESIGNED:
        return _PRESIGNED[endpoint], "control"
    plane: Plane = "data" if endpoint.startswith(_CONTENTS) else "control"
    if (method, endpoint) in _PROMOTIONS:
        return "promote", plane
    if endpoint.startswith("mlflow-artifacts/mpu/"):
        return "write", plane
    if endpoint == "registered-models/alias" and method == "DELETE":
        return "update", plane
    verb = endpoint.rpartition("/")[2]
    for word, action in _WORDS:
        if verb.startswith(word):
            return action, plane
    return http.action(method), plane
