"""Where something lies, in the terms in which logs tell it: the store, the container, and the components of the path below.

    locate("s3a://lake/raw/flights/")                                # Location("s3", "lake", ("raw", "flights"))
    locate("https://acme.blob.core.windows.net/lake/raw%20data")     # Location("azure", "acme/lake", ("raw data",))
    accessed(Access("aws.cloudtrail", container="lake", object="raw/flights/a.parquet", …))

Each store has its own idea of when two names are one thing:

| store | names | case | `%41` in a URI | `//` | `.` and `..` |
|---|---|---|---|---|---|
| s3, gs | opaque text | of the bucket ignored | stands for itself; in `https://` for "A" | a name that is empty | doubtful |
| azure | account/container, blob | of the first two ignored | stands for itself; in `https://` for "A" | doubtful | doubtful |
| file | absolute paths | matters | in `file://` for "A" | one slash | resolved, without a look at links |
| mlflow | runs, logged models | matters | stands for itself | doubtful | doubtful |

What is doubtful lies nowhere that can be told: as the location of an asset it is refused, in a log it is "unresolved". Names are compared
by code point, never after Unicode normalisation: stores tell two spellings of one letter apart.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html
https://learn.microsoft.com/rest/api/storageservices/naming-and-referencing-containers--blobs--and-metadata
"""

import posixpath
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

from mlsec_dagster.audit.events import Action, Plane, Source
from mlsec_dagster.audit.redaction import REDACTED


class Location(NamedTuple):
    """A place in a store.

    Attributes:
        store: "s3", "gs", "azure", "file", "mlflow", or "wandb", "azureml", "kubernetes", "aws", "gcp" for what is no file.
        container: Bucket, "account/container", "entity/project", registry, namespace or service; empty for a store that has none.
        parts: Components of the path below; none for the container itself.
    """

    store: str
    container: str
    parts: tuple[str, ...]


class Access(NamedTuple):
    """The members of an `AuditEvent`, under their own names, that decide which artifact it is about."""

    source: Source
    service: str | None = None
    operation: str = ""
    action: Action = "other"
    plane: Plane = "data"
    container: str | None = None
    object: str | None = None
    object_version: str | None = None
    resource: str | None = None
    resource_type: str | None = None
    model: str | None = None
    model_version: str | None = None
    digest: str | None = None


_LONGEST: Final = 8192  # No store has longer names; whoever reports one fills the memory with it.
_SCHEMES: Final = {"s3": "s3", "s3a": "s3", "s3n": "s3", "gs": "gs", "gcs": "gs"}
_AZURE: Final = frozenset({"abfs", "abfss", "wasb", "wasbs", "az"})
_NAMED: Final = frozenset({"azureml", "kubernetes", "aws", "gcp"})
_LITERAL: Final = frozenset({"s3", "gs"})  # An empty name is a name there.


def locate(uri: str) -> Location | None:
    """Where a URI or an absolute path leads; None if it leads nowhere that can be told, as a relative path does.

    Schemes are s3, s3a, s3n, gs, gcs, abfs, abfss, wasb, wasbs and az (with "container@account"), file, https (of S3, Google Cloud Storage
    and Azure storage), MLflow's runs, models and mlflow-artifacts; and of ours `wandb://entity/project/artifact`, `azureml://registry/asset`,
    `kubernetes://namespace/resource/name`, `aws://sagemaker/name` and `gcp://aiplatform/projects/…` for what events name otherwise.
    """
    if len(uri) > _LONGEST:
        return None
    if uri.startswith("/"):
        return _file(uri)
    scheme, separator, rest = uri.partition(":")
    scheme = scheme.lower()
    if not separator or "\0" in uri:
        return None
    if scheme in {"runs", "models", "mlflow-artifacts"}:
        return _mlflow_uri(scheme, rest)
    if not rest.startswith("//"):
        return _file(unquote(rest)) if scheme == "file" and rest.startswith("/") else None
    authority, _, path = rest[2:].partition("/")
    if scheme == "file":
        return _file(unquote("/" + path)) if authority.lower() in {"", "localhost"} else None
    if scheme in _SCHEMES:
        return _sound(_SCHEMES[scheme], authority.lower(), path)
    if scheme in _AZURE:
        container, separator, host = authority.lower().rpartition("@")
        account = host.partition(".")[0]
        return _sound("azure", f"{account}/{container}", path) if container and account else None
    if scheme in {"https", "http"}:
        return _https(uri)
    if scheme == "wandb":
        project, _, path = path.partition("/")
        return _sound("wandb", f"{authority}/{project}", path) if project else None
    if scheme in _NAMED:
        return _sound(scheme, authority.lower() if scheme == "azureml" else authority, path)
    return None


def _sound(store: str, container: str, path: str) -> Location | None:
    """A location, unless it is doubtful. One slash at the end tells a folder and is no name."""
    parts = tuple(path.split("/")) if path else ()
    if parts and not parts[-1]:
        parts = parts[:-1]
    return None if not container or _doubtful(store, parts) else Location(store, container, parts)


def _doubtful(store: str, parts: tuple[str, ...]) -> bool:
    return "." in parts or ".." in parts or (store not in _LITERAL and "" in parts)


def _file(path: str) -> Location:
    return Location("file", "", tuple(part for part in posixpath.normpath(path).split("/") if part))


def _https(uri: str) -> Location | None:
    """Addresses of objects as the stores' own documentation writes them; what stands behind "?" is no part of them."""
    try:
        split = urlsplit(uri)
        host = (split.hostname or "").lower()
    except ValueError:
        return None
    path = unquote(split.path).removeprefix("/")
    first, _, below = path.partition("/")
    if host in {"storage.googleapis.com", "storage.cloud.google.com"}:
        return _sound("gs", first.lower(), below)
    if host.endswith(".storage.googleapis.com"):
        return _sound("gs", host.removesuffix(".storage.googleapis.com"), path)
    if host.endswith((".amazonaws.com", ".amazonaws.com.cn")):
        if host.startswith(("s3.", "s3-")):
            return _sound("s3", first.lower(), below)
        bucket, separator, _ = host.rpartition(".s3.")
        if not separator:
            bucket, separator, _ = host.rpartition(".s3-")
        return _sound("s3", bucket, path) if separator else None
    labels = host.split(".")
    if len(labels) > 3 and ({"blob", "dfs"} & set(labels[1:3])) and first:
        return _sound("azure", f"{labels[0]}/{first.lower()}", below)
    return None


def _mlflow_uri(scheme: str, rest: str) -> Location | None:
    path = rest.lstrip("/")
    if scheme == "mlflow-artifacts":
        if rest.startswith("//"):  # With the server's host; which server it is, no event tells.
            path = path.partition("/")[2]
        return _sound_mlflow(_below_root(tuple(path.split("/"))))
    if scheme == "runs":
        return _sound_mlflow(("runs", *path.split("/")))
    # "models:/name/version" names a version, not a place; "models:/m-…" is a logged model.
    return _sound_mlflow(("models", path)) if path.startswith("m-") and "/" not in path else None


def _sound_mlflow(parts: tuple[str, ...]) -> Location | None:
    return _sound("mlflow", "mlflow", "/".join(parts)) if len(parts) > 1 and parts[1] else None


def _below_root(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Of a path below the root of all artifacts: run or logged model, and the path below it. Their ids are unique without an experiment."""
    if len(parts) > 2 and parts[0] == "workspaces":
        parts = parts[2:]
    if len(parts) > 3 and parts[1] == "models" and parts[3] == "artifacts":
        return ("models", parts[2], *parts[4:])
    if len(parts) > 2 and parts[2] == "artifacts":
        return ("runs", parts[1], *parts[3:])
    return ("root", *parts)


def _in_mlflow(container: str, below: tuple[str, ...]) -> tuple[str, ...]:
    """Container is an experiment, a run or "models/m-…", the first before one of the others, or stands for the root of all artifacts."""
    if container == "mlflow-artifacts":
        return _below_root(below)
    before, separator, logged = container.rpartition("models/")
    if separator and logged and (not before or before.endswith("/")):
        return ("models", logged, *below)
    experiment, separator, run = container.partition("/")
    if below[:1] == ("models",) and len(below) > 2 and below[2] == "artifacts":
        return ("models", below[1], *below[3:])
    if run.startswith("m-") or (not separator and experiment.startswith("m-")):
        return ("models", run or experiment, *below)
    if separator:
        return ("runs", run, *below)
    if len(below) > 1 and below[1] == "artifacts" and experiment.isdecimal():
        return ("runs", below[0], *below[2:])
    return ("root" if experiment.isdecimal() and len(experiment) < 32 else "runs", experiment, *below)


_ONCE: Final = frozenset({"BATCH.DELETE.OBJECT", "S3.EXPIRE.OBJECT"})
"""Operations whose keys an S3 server access log encodes once. All others are encoded twice, and the reader decodes once."""


def accessed(access: Access) -> tuple[Location, ...] | None:
    """Where an access took place: nothing if it names no place, None if the place that it names is doubtful.

    Two readings are given, the text itself first, where a log may have percent-encoded a name and does not tell.
    """
    source, container, name = access.source, access.container, access.object
    if source in {"aws.cloudtrail", "aws.s3_access"}:
        if container is None:
            return _plain("aws", (access.service or "").partition(".")[0], (name,) if name else ())
        encoded = source == "aws.s3_access" and access.operation not in _ONCE
        return _readings("s3", container.lower(), name, encoded)
    if source == "gcp.audit":
        if container is None:
            return _plain("gcp", (access.service or "").partition(".")[0], tuple((access.resource or "").replace("@", "/").split("/")))
        return _readings("gs", container.lower(), name, False)
    if source == "azure.monitor":
        if access.service == "Microsoft.Storage":
            return _readings("azure", (container or "").lower(), name, True)
        return _plain("azureml", (container or "").lower(), (name,) if name else ())
    if source == "mlflow.audit":
        return _mlflow(container, name)
    if source == "wandb.audit":
        if access.resource_type != "artifact" or not name:
            return ()
        qualified = name.split("/", 2)
        if len(qualified) == 3:
            return _readings("wandb", "/".join(qualified[:2]), qualified[2], False)
        return _readings("wandb", container or "", name, False)
    if source == "kubernetes.audit" and container and name:
        return _plain("kubernetes", container, ((access.resource_type or "").partition("/")[0], name))
    return ()


def _plain(store: str, container: str, parts: tuple[str, ...]) -> tuple[Location, ...]:
    return (Location(store, container, parts),) if container and parts and all(parts) else ()


def _readings(store: str, container: str, name: str | None, encoded: bool) -> tuple[Location, ...] | None:
    if not container:
        return ()
    if name is not None and REDACTED in name:
        return None  # A part of the name was taken for a secret, so that two names may look alike.
    first = _components(store, name)
    if first is None:
        return None
    if not encoded or not name or "%" not in name:
        return (Location(store, container, first),)
    second = _components(store, unquote(name))
    return None if second is None else (Location(store, container, first), Location(store, container, second))


def _components(store: str, name: str | None) -> tuple[str, ...] | None:
    """Components of a name as a log tells it; None if it is doubtful. One slash at its end is no name."""
    if not name:
        return ()
    parts = tuple(name.split("/"))
    if not parts[-1]:
        parts = parts[:-1]
    return None if _doubtful(store, parts) else parts


def _mlflow(container: str | None, name: str | None) -> tuple[Location, ...] | None:
    if not container:
        return ()
    if name is not None and REDACTED in name:
        return None
    found: list[Location] = []
    for text in (name,) if name is None or "%" not in name else (name, _decoded(name)):
        below = _components("mlflow", text)
        if below is None:
            return None
        parts = _in_mlflow(container, below)
        if _doubtful("mlflow", parts):
            return None
        found.append(Location("mlflow", "mlflow", parts))
    return tuple(found)


def _decoded(name: str) -> str:
    """As MLflow's server reads a path before it uses it: decoded until nothing is left to decode. What takes too often is left as it is."""
    for _ in range(8):
        following = unquote(name)
        if following == name:
            break
        name = following
    return name
