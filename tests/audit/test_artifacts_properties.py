"""Whatever a log holds: no path is taken for one that it does not lie in, nothing raises, and no model goes out of sight."""

from urllib.parse import quote, unquote

from hypothesis import given
from hypothesis import strategies as st

from mlsec_dagster.audit.artifact_map import ArtifactMap
from mlsec_dagster.audit.artifacts import Artifact
from mlsec_dagster.audit.events import ACTIONS, SOURCES, AuditEvent
from mlsec_dagster.audit.knowledge import Knowledge
from mlsec_dagster.audit.locations import locate
from mlsec_dagster.audit.templates import Templates

# Few letters, so that paths meet; and what could make one path pass for another.
NAMES = st.sampled_from(
    ["a", "b", "ab", "A", "a ", "a%2Fb", "%2e%2e", "..", ".", "", "caf\u00e9", "cafe\u0301", "a?b", "a#b", "a\\b", "REDACTED"]
)
PATHS = st.lists(NAMES, min_size=1, max_size=5).map("/".join)
BUCKETS = st.sampled_from(["lake", "lakes"])


def read(container: str, name: str, source: str = "aws.cloudtrail", **members: object) -> AuditEvent:
    return AuditEvent(source, "1", 0, "GetObject", "read", "data", "success", container=container, object=name, **members)  # type: ignore[arg-type]


@given(st.lists(st.tuples(BUCKETS, PATHS), max_size=8), BUCKETS, PATHS, st.sampled_from(["aws.cloudtrail", "gcp.audit"]))
def test_a_path_never_resolves_to_a_location_that_is_no_prefix_of_it(
    places: list[tuple[str, str]], bucket: str, path: str, source: str
) -> None:
    scheme = "s3" if source == "aws.cloudtrail" else "gs"
    uris = [f"{scheme}://{container}/{name}" for container, name in places if name]
    artifacts = ArtifactMap(
        knowledge=[Knowledge(locations=tuple((uri, Artifact("dataset", asset=uri, by="materialization")) for uri in uris if locate(uri)))]
    )
    found = artifacts.artifact(read(bucket, path, source))
    whole = f"{scheme}://{bucket}/{path}"
    doubtful = {".", ".."} & set(path.split("/")) or "REDACTED" in path
    lies_in = [uri for uri in uris if locate(uri) and (whole + "/").startswith(uri.removesuffix("/") + "/")]
    if found.kind == "unresolved":
        assert doubtful or not lies_in
    else:
        assert not doubtful
        longest = max(lies_in, key=lambda uri: len(uri.removesuffix("/").split("/")))
        assert found.asset is not None
        assert locate(found.asset) == locate(longest)


@given(PATHS, st.lists(st.booleans(), min_size=40, max_size=40))
def test_escapes_that_azure_may_log_hide_no_model(path: str, escaped: list[bool]) -> None:
    model = locate(uri := f"abfss://lake@acme.dfs.core.windows.net/models/{path}")
    artifacts = ArtifactMap(
        locations={"abfss://lake@acme.dfs.core.windows.net/": "everything"} | ({uri: Artifact("model", model="secret")} if model else {})
    )
    plain = f"models/{path}/weights"
    logged = "".join(quote(letter, safe="") if escape else letter for letter, escape in zip(plain, escaped * 3, strict=False))
    found = artifacts.artifact(read("acme/lake", logged, "azure.monitor", service="Microsoft.Storage"))
    if model is not None and unquote(logged) == plain:
        assert found.kind == "unresolved" or found.model == "secret"
    assert found.kind != "none"


@given(st.lists(st.sampled_from(["{model}", "{version}", "v{version}", "a", "b"]), min_size=1, max_size=4), PATHS)
def test_what_a_template_reads_is_what_the_path_says(parts: list[str], path: str) -> None:
    if sum("{model}" in part for part in parts) > 1 or sum("{version}" in part for part in parts) > 1:
        return
    location = locate(f"s3://lake/{path}")
    if location is None:
        return
    found, depth = Templates({"s3://lake/" + "/".join(parts): "model"}).match(location)
    if found is not None:
        for field in (found.model, found.version):
            assert field is None or (field and "/" not in field)
        filled = "/".join(parts).replace("{model}", found.model or "").replace("{version}", found.version or "")
        assert tuple(filled.split("/")) == location.parts[:depth]


TEXTS = st.none() | st.text(max_size=20) | PATHS
EVENTS = st.builds(
    AuditEvent,
    source=st.sampled_from(SOURCES),
    id=st.just("1"),
    time=st.just(0),
    operation=st.text(max_size=10),
    action=st.sampled_from(ACTIONS),
    plane=st.sampled_from(["data", "control"]),
    outcome=st.just("success"),
    service=TEXTS | st.sampled_from(["s3.amazonaws.com", "Microsoft.Storage"]),
    container=TEXTS | st.sampled_from(["lake", "1/run", "mlflow-artifacts"]),
    object=TEXTS,
    object_version=TEXTS,
    resource=TEXTS,
    resource_type=TEXTS | st.sampled_from(["artifact", "model-versions", "mlflow-artifacts"]),
    model=TEXTS,
    model_version=TEXTS,
    digest=TEXTS,
)
MAP = ArtifactMap(
    templates={"s3://lake/{model}/{version}/": "model", "gs://lake/{asset}/": "dataset"},
    locations={"runs:/run/a": Artifact("model", model="a", version="1")},
    knowledge=[Knowledge(registered=frozenset({"a", "A", "b"}), aliases={("a", "b"): "7"})],
)


@given(EVENTS)
def test_every_event_has_an_answer_and_contents_are_never_none(event: AuditEvent) -> None:
    found = MAP.artifact(event)
    assert found.kind in {"dataset", "model", "unresolved", "none"}
    if event.plane == "data" or event.model:
        assert found.kind != "none"
    if found.kind == "model":
        assert found.model
    assert MAP.artifact(event) == found
