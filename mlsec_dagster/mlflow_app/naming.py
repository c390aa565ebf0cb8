"""What a request is about: which run, which model, which version, in the words of the log.

    named("GET", "model-versions/get-artifact", "name=churn&version=3&path=model.pkl", None)
    # {"model": "churn", "model_version": "3", "artifact": "model.pkl"}

A request is read as MLflow reads it (`mlflow.server.handlers._get_request_message`): of a GET the query counts if there is one,
of everything else and of GraphQL the body, in which members have names_like_this or, as protobuf has it, namesLikeThis. Otherwise an
innocent name in the query could stand in the log for the real one in the body.

https://mlflow.org/docs/latest/api_reference/rest-api.html
"""

import json
import re
from collections.abc import Container
from posixpath import normpath
from typing import Any, Final, cast
from urllib.parse import parse_qsl, unquote, urlparse, urlunparse

BODY_BYTES: Final = 64 << 10
"""Bodies that are longer are not looked into."""

# Where the server looks, the first that is there; and what the log calls it.
_MEMBERS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("experiment", ("experiment_id", "experiment_ids")),
    ("run", ("run_id", "run_uuid")),
    ("logged_model", ("model_id",)),
    ("artifact", ("path", "artifact_path", "artifact_file_path")),
    ("model_version", ("version",)),
    ("alias", ("alias",)),
    ("stage", ("stage", "stages")),
    ("source", ("source",)),
)
_REGISTRY: Final = ("mlflow/registered-models/", "mlflow/model-versions/", "model-versions/")
_RUN: Final = re.compile(r"(?P<experiment>\d+)/(?P<run>[^/]+)/artifacts(?:/(?P<artifact>.*))?\Z", re.DOTALL)
_LOGGED: Final = re.compile(r"(?P<experiment>\d+)/models/(?P<logged_model>[^/]+)/artifacts(?:/(?P<artifact>.*))?\Z", re.DOTALL)
_PROXIED: Final = re.compile(r"mlflow-artifacts/(?:artifacts|presigned|mpu/\w+)(?:/(?P<path>.*))?\Z", re.DOTALL)
_LOGGED_ROUTE: Final = re.compile(r"mlflow/logged-models/(?!search\Z)(?P<logged_model>[^/]+)", re.DOTALL)
_CAMEL: Final = re.compile(r"(?<=[a-z])([A-Z])")


def has_body(route: str) -> bool:
    """Whether the body of such a request may name something: it is JSON, never a file."""
    return route.startswith(("mlflow/", "mlflow-artifacts/mpu/", "graphql")) and not route.startswith("mlflow/upload-artifact")


_MADE: Final = frozenset(
    {
        *(("POST", "mlflow/model-versions/create"), ("GET", "mlflow/registered-models/alias")),
        *(("POST", "mlflow/runs/create"), ("POST", "mlflow/experiments/create"), ("POST", "mlflow/logged-models")),
    }
)


def is_answered(method: str, route: str) -> bool:
    """Whether only the answer tells what the request was about: the number of a new version, or the one behind an alias."""
    return (method, route) in _MADE


def answered(body: bytes) -> dict[str, str]:
    """What the answer to such a request names; nothing if it is not understood."""
    try:
        answer = _object(body)
    except (ValueError, RecursionError):
        return {}
    inner: Any = answer.get("model_version") or answer.get("run") or answer.get("model") or answer
    if isinstance(inner, dict):
        inner = cast("dict[str, Any]", inner)
        inner = inner.get("info", inner)
    return (
        {} if not isinstance(inner, dict) else _names(cast("dict[str, Any]", inner), ("experiment", "run", "logged_model", "model_version"))
    )


def named(method: str, route: str, query: str, body: bytes | None) -> dict[str, str]:
    """What a request names, as members of a `Record`.

    Args:
        method: "GET", …
        route: As `mlsec_dagster.audit.sources.mlflow.route` gives it.
        query: As requested.
        body: The whole body, or None if it was not looked at or has no place here (`has_body`).

    Raises:
        ValueError: The body is no JSON object.
    """
    members: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        members.setdefault(name, value)
    if body and (route.startswith("graphql") or not (method in ("GET", "HEAD") and members)):
        members = _object(body)
    if route.startswith("graphql"):
        members = _variables(members)
    names = _names(members)
    name = members.get("name")
    if route.startswith(_REGISTRY) and isinstance(name, str) and name:
        names["model"] = name
        new = members.get("new_name")
        if route == "mlflow/registered-models/rename" and isinstance(new, str) and new:
            names["new_name"] = new
    if (logged := _LOGGED_ROUTE.match(route)) is not None:
        names["logged_model"] = logged["logged_model"]
    if (proxied := _PROXIED.match(route)) is not None:
        below = names.pop("artifact", None)
        # A multipart upload names the file in its body, a listing the directory in its query. Nothing else of them does the server look
        # at here, so that a run in the query would stand in the log for the one in the path.
        return _place("/".join(filter(None, (proxied["path"], below))))
    return names


def _place(path: str) -> dict[str, str]:
    """Where a path below the artifact root lies, by MLflow's own layout of the root."""
    path = _plain(path)
    found = _LOGGED.match(path) or _RUN.match(path)
    if found is None:
        return {"artifact": path} if path else {}
    return {name: text for name, text in found.groupdict().items() if text}


def _plain(path: str) -> str:
    """The path that the server opens: it decodes a path until nothing changes, and loses line breaks in it (`mlflow.utils.uri._decode`).

    Of dots and double slashes the storage makes nothing either.
    """
    for _ in range(10):
        try:
            decoded = urlunparse(urlparse(unquote(path)))
        except ValueError:
            break
        if decoded == path:
            break
        path = decoded
    return normpath(path).lstrip("/") if path else ""


def _object(body: bytes) -> dict[str, Any]:
    """The body as MLflow reads it: by the standard library, and once more where an old client encoded it twice."""
    value: Any = json.loads(body)
    if isinstance(value, str):
        value = json.loads(value)
    if not isinstance(value, dict):
        raise ValueError("the body is no JSON object")
    return {_CAMEL.sub(lambda letter: "_" + letter[1].lower(), name): value for name, value in cast("dict[str, Any]", value).items()}


def _variables(members: dict[str, Any]) -> dict[str, Any]:
    """Variables of a GraphQL request, and members of those; what the text of the query holds is not looked for."""
    variables = members.get("variables")
    if not isinstance(variables, dict):
        return {}
    found = dict(cast("dict[str, Any]", variables))
    for value in cast("dict[str, Any]", variables).values():
        if isinstance(value, dict):
            found |= cast("dict[str, Any]", value)
    return {_CAMEL.sub(lambda letter: "_" + letter[1].lower(), name): value for name, value in found.items()}


def _names(members: dict[str, Any], of: Container[str] | None = None) -> dict[str, str]:
    names: dict[str, str] = {}
    for name, keys in _MEMBERS:
        if of is not None and name not in of:
            continue
        for key in keys:
            text = _text(members.get(key))
            if text:
                names[name] = text
                break
    return names


def _text(value: Any) -> str | None:
    if isinstance(value, list):
        return ",".join(filter(None, map(_text, cast("list[Any]", value)))) or None
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return str(value)
