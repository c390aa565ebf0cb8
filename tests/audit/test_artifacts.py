"""Which artifact an access is about: every source's own way to name a thing leads to the one that is meant, and to no other."""

import pytest

from mlsec_dagster.audit.artifact_map import ArtifactMap
from mlsec_dagster.audit.artifacts import Artifact
from mlsec_dagster.audit.events import AuditEvent
from mlsec_dagster.audit.knowledge import Knowledge
from mlsec_dagster.audit.locations import Access, Location, accessed, locate
from mlsec_dagster.errors import ConfigurationError
from tests.audit.documented import LOGS


def event(**members: object) -> AuditEvent:
    defaults = {"source": "aws.cloudtrail", "id": "1", "time": 0, "operation": "GetObject", "action": "read", "plane": "data"}
    if members.get("source", "aws.cloudtrail") in {"aws.cloudtrail", "aws.s3_access"}:
        defaults["service"] = "s3.amazonaws.com"
    if members.get("source") == "azure.monitor":
        defaults["service"] = "Microsoft.Storage"
    return AuditEvent(**{**defaults, "outcome": "success", **members})  # type: ignore[arg-type]


def materialized(uri: str, asset: str, partition: str | None = None) -> tuple[str, Artifact]:
    return uri, Artifact("dataset", asset=asset, partition=partition, by="materialization")


def registered(uri: str, model: str, version: str) -> tuple[str, Artifact]:
    return uri, Artifact("model", model=model, version=version, by="registry")


def knowing(*locations: tuple[str, Artifact], **more: object) -> ArtifactMap:
    return ArtifactMap(knowledge=[Knowledge(locations=locations, **more)])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("uri", "location"),
    [
        ("s3://lake/raw/flights/", Location("s3", "lake", ("raw", "flights"))),
        ("s3a://Lake/raw//flights", Location("s3", "lake", ("raw", "", "flights"))),
        ("s3://lake/100%25/Raw ", Location("s3", "lake", ("100%25", "Raw "))),
        ("s3://lake", Location("s3", "lake", ())),
        ("gs://lake/raw", Location("gs", "lake", ("raw",))),
        ("abfss://lake@Acme.dfs.core.windows.net/raw/a.parquet", Location("azure", "acme/lake", ("raw", "a.parquet"))),
        ("wasbs://lake@acme.blob.core.windows.net/raw", Location("azure", "acme/lake", ("raw",))),
        ("https://acme.blob.core.windows.net/lake/raw%20data/x?sv=1&sig=2", Location("azure", "acme/lake", ("raw data", "x"))),
        ("https://acme.blob.core.windows.net/lake/a%2Fb", Location("azure", "acme/lake", ("a", "b"))),
        ("https://lake.s3.eu-west-1.amazonaws.com/raw/a%2Bb", Location("s3", "lake", ("raw", "a+b"))),
        ("https://s3.eu-west-1.amazonaws.com/lake/raw", Location("s3", "lake", ("raw",))),
        ("https://storage.googleapis.com/lake/raw", Location("gs", "lake", ("raw",))),
        ("/data//raw/../raw/x", Location("file", "", ("data", "raw", "x"))),
        ("file:///data/raw%20x/", Location("file", "", ("data", "raw x"))),
        ("runs:/0a1b/model", Location("mlflow", "mlflow", ("runs", "0a1b", "model"))),
        ("models:/m-77", Location("mlflow", "mlflow", ("models", "m-77"))),
        ("mlflow-artifacts:/1/0a1b/artifacts/model", Location("mlflow", "mlflow", ("runs", "0a1b", "model"))),
        ("mlflow-artifacts://host:5000/1/models/m-77/artifacts", Location("mlflow", "mlflow", ("models", "m-77"))),
        ("wandb://team/project/churn", Location("wandb", "team/project", ("churn",))),
    ],
)
def test_a_uri_leads_to_the_container_and_the_object_that_logs_name(uri: str, location: Location) -> None:
    assert locate(uri) == location


@pytest.mark.parametrize(
    "uri",
    [
        *("raw/flights", "", "s3:", "s3://", "ftp://host/x", "abfs://lake/raw", "models:/churn/3", "https://example.com/lake/raw"),
        *(
            "s3://lake/a/../b",
            "s3://lake/./b",
            "abfss://lake@acme.dfs.core.windows.net/a//b",
            "https://acme.blob.core.windows.net/lake/%2e%2e/x",
        ),
        *("s3://lake/" + "a/" * 5000, "file://server/share", "http://[::1/x", "runs:/", "s3://lake/\0"),
    ],
)
def test_what_leads_nowhere_that_can_be_told_is_refused(uri: str) -> None:
    assert locate(uri) is None


@pytest.mark.parametrize(
    ("uri", "access"),
    [
        ("s3://lake/raw", event(container="lake", object="raw/a.parquet")),
        ("s3://lake/raw", event(source="aws.s3_access", container="lake", object="raw/a.parquet", operation="REST.GET.OBJECT")),
        ("gs://lake/raw", event(source="gcp.audit", container="lake", object="raw/a.parquet")),
        ("abfss://lake@acme.dfs.core.windows.net/raw", event(source="azure.monitor", container="Acme/lake", object="raw/a.parquet")),
        ("mlflow-artifacts:/1/0a1b/artifacts/raw", event(source="mlflow.audit", container="1/0a1b", object="raw/a")),
        ("runs:/0a1b/raw", event(source="mlflow.audit", container="0a1b", object="raw/a")),
        ("runs:/0a1b/raw", event(source="mlflow.audit", container="mlflow-artifacts", object="1/0a1b/artifacts/raw/a")),
        ("models:/m-77", event(source="mlflow.audit", container="mlflow-artifacts", object="1/models/m-77/artifacts/MLmodel")),
        ("models:/m-77", event(source="mlflow.audit", container="1/models/m-77", object="MLmodel")),
        ("models:/m-77", event(source="mlflow.audit", container="models/m-77", object="%254dLmodel")),
        ("models:/m-77", event(source="mlflow.audit", container="1", object="models/m-77/artifacts/MLmodel")),
        ("wandb://t/p/raw", event(source="wandb.audit", container="t/other", object="t/p/raw", resource_type="artifact")),
        ("wandb://t/p/raw", event(source="wandb.audit", container="t/p", object="raw", resource_type="artifact")),
        (
            "azureml://registry/raw",
            event(source="azure.monitor", service="Microsoft.MachineLearningServices", container="REGISTRY", object="raw"),
        ),
        ("kubernetes://ml/secrets/raw", event(source="kubernetes.audit", container="ml", object="raw", resource_type="secrets")),
        ("aws://sagemaker/raw", event(service="sagemaker.amazonaws.com", object="raw")),
        ("gcp://aiplatform/projects/p/x/raw", event(source="gcp.audit", service="aiplatform.googleapis.com", resource="projects/p/x/raw")),
    ],
)
def test_each_source_names_the_same_place_in_its_own_way(uri: str, access: AuditEvent) -> None:
    found = knowing(materialized(uri, "raw", "2026-01-01")).artifact(access)
    assert (found.kind, found.asset, found.partition, found.by) == ("dataset", "raw", "2026-01-01", "materialization")


def test_the_longest_location_wins_and_only_by_whole_components() -> None:
    artifacts = knowing(materialized("s3://lake/data", "data"), materialized("s3://lake/data/p1", "data", "p1"))
    assert artifacts.artifact(event(container="lake", object="data/p1/x")).partition == "p1"
    assert artifacts.artifact(event(container="lake", object="data/p11/x")).partition is None
    for other in ("database/x", "data.parquet", "Data/x", "data ", "dat", "/data/x", "data%2Fx"):
        assert artifacts.artifact(event(container="lake", object=other)).kind == "unresolved", other
    assert artifacts.artifact(event(container="lakes", object="data/x")).kind == "unresolved"
    assert artifacts.artifact(event(source="gcp.audit", container="lake", object="data/x")).kind == "unresolved"


@pytest.mark.parametrize("way", ["models/a/../b/x", "data/../models/b/x", "./models/b/x", "models/b/..", "data/REDACTED/x"])
@pytest.mark.parametrize("plane", ["data", "control"])
def test_a_path_that_can_be_read_in_two_ways_is_unresolved_and_never_none(way: str, plane: str) -> None:
    artifacts = knowing(
        materialized("s3://lake/data", "data"), registered("s3://lake/models/a", "a", "1"), registered("s3://lake/models/b", "b", "1")
    )
    assert artifacts.artifact(event(container="lake", object=way, plane=plane)) == Artifact("unresolved")


def test_a_slash_that_azure_may_have_taken_for_none_hides_nothing() -> None:
    artifacts = knowing(
        materialized("abfss://lake@acme.dfs.core.windows.net/", "lake"),
        registered("abfss://lake@acme.dfs.core.windows.net/models/a", "a", "1"),
    )
    for name in ("models/a/x", "models%2Fa/x", "models%2fa%2fx"):
        assert artifacts.artifact(event(source="azure.monitor", container="acme/lake", object=name)).model == "a"
    for name in ("models//a/x", "models%2F%2Fa/x", "data/%2e%2e/models/a/x"):
        assert artifacts.artifact(event(source="azure.monitor", container="acme/lake", object=name)).kind == "unresolved"


def test_keys_of_access_logs_are_found_though_most_operations_encode_them_twice() -> None:
    artifacts = knowing(materialized("s3://lake/raw", "raw"), materialized("s3://lake/raw/day=1", "raw", "1"))
    read = event(source="aws.s3_access", container="lake", object="raw/day%3D1/x", operation="REST.GET.OBJECT")
    assert artifacts.artifact(read).partition == "1"
    expired = event(source="aws.s3_access", container="lake", object="raw/day%3D1/x", operation="S3.EXPIRE.OBJECT")
    assert artifacts.artifact(expired).partition is None


def test_two_spellings_of_one_letter_are_two_objects() -> None:
    artifacts = knowing(registered("s3://lake/caf\u00e9", "composed", "1"), registered("s3://lake/cafe\u0301", "decomposed", "1"))
    assert artifacts.artifact(event(container="lake", object="caf\u00e9/x")).model == "composed"
    assert artifacts.artifact(event(container="lake", object="cafe\u0301/x")).model == "decomposed"


TEMPLATES = ArtifactMap(
    templates={
        "s3://ml-prod/models/{model}/{version}/": "model",
        "s3://lake/{asset}/{partition}/": "dataset",
        "s3://lake/{asset}/day={partition}/": "dataset",
        "s3://lake/curated/{table}/{day}.parquet": Artifact("dataset", asset="curated/{table}", partition="{day}"),
        "wandb://team/project/{model}": "model",
    },
    environments={"s3://ml-prod/": "production", "s3://ml-prod/models/beta": "staging"},
    models={"delay_model": "delay"},
)


@pytest.mark.parametrize(
    ("container", "name", "expected"),
    [
        ("ml-prod", "models/churn/3/model.pkl", Artifact("model", model="churn", version="3", environment="production", by="template")),
        ("ml-prod", "models/churn/3", Artifact("model", model="churn", version="3", environment="production", by="template")),
        ("ml-prod", "models/beta/3/x", Artifact("model", model="beta", version="3", environment="staging", by="template")),
        ("lake", "raw/1/x", Artifact("dataset", asset="raw", partition="1", by="template")),
        ("lake", "raw/day=1/x", Artifact("dataset", asset="raw", partition="1", by="template")),
        ("lake", "raw/day=/x", Artifact("dataset", asset="raw", partition="day=", by="template")),
        ("lake", "curated/flights/1.parquet", Artifact("dataset", asset="curated/flights", partition="1", by="template")),
        ("lake", "delay_model/1/x", Artifact("model", asset="delay_model", partition="1", model="delay", by="template")),
        ("ml-prod", "models/churn%2F4/3/x", Artifact("model", model="churn%2F4", version="3", environment="production", by="template")),
        ("ml-prod", "models/churn /3/x", Artifact("model", model="churn ", version="3", environment="production", by="template")),
        ("ml-prod", "models//3/x", Artifact("unresolved", environment="production")),
        ("ml-prod", "models/churn", Artifact("unresolved", environment="production")),
        ("ml-prod", "models/churn/..", Artifact("unresolved")),
    ],
)
def test_a_template_reads_a_path_in_one_way_only(container: str, name: str, expected: Artifact) -> None:
    assert TEMPLATES.artifact(event(container=container, object=name)) == expected


def test_an_artifact_of_weights_and_biases_has_the_version_that_the_log_tells() -> None:
    read = event(source="wandb.audit", container="team/project", object="team/project/churn", object_version="v3", resource_type="artifact")
    assert TEMPLATES.artifact(read) == Artifact("model", model="churn", version="v3", by="template")
    login = event(source="wandb.audit", container="team/project", object="churn", resource_type="user", plane="control")
    assert TEMPLATES.artifact(login).kind == "none"


@pytest.mark.parametrize(
    ("templates", "words"),
    [
        ({"s3://lake/{asset}/": "dataset", "s3a://lake/{model}/": "model"}, "same paths"),
        ({"s3://lake/{a}{b}/": "dataset"}, "two names"),
        ({"s3://lake/{asset}/{asset}": "dataset"}, "twice"),
        ({"s3://{asset}/x": "dataset"}, "leads nowhere"),
        ({"lake/{asset}": "dataset"}, "leads nowhere"),
        ({"s3://lake/{Asset}": "dataset"}, "small letters"),
        ({"s3://lake/{asset}": "table"}, "not to 'table'"),
        ({"s3://lake/{table}": Artifact("dataset", asset="{name}")}, "has not"),
        ({"s3://lake/{modl}/": "model"}, r"tell nothing of an artifact: expected one of \{asset\}, .* \{environment\}"),
        ({"s3://lake/{model}/": Artifact("modle", model="{model}")}, "no kind of artifact 'modle'"),
    ],
)
def test_a_template_that_could_be_read_in_two_ways_is_refused(templates: dict[str, Artifact | str], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        ArtifactMap(templates=templates)  # type: ignore[arg-type]


def test_locations_and_environments_that_lead_nowhere_or_to_one_place_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="no kind of artifact 'modle'; expected dataset, model or none"):
        ArtifactMap(locations={"s3://lake/": Artifact("modle", model="churn")})  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="leads nowhere"):
        ArtifactMap(locations={"raw/flights": "raw"})
    with pytest.raises(ConfigurationError, match="one place"):
        ArtifactMap(environments={"s3://lake/": "production", "s3a://lake": "staging"})


def test_the_user_comes_before_the_registry_and_the_registry_before_materializations() -> None:
    known = Knowledge(
        locations=(
            materialized("s3://lake/m/3", "trained", "p"),
            registered("s3://lake/m/3", "churn", "3"),
            materialized("s3://lake/m/3", "old"),
        )
    )
    artifacts = ArtifactMap(knowledge=[known])
    read = event(container="lake", object="m/3/model.pkl")
    assert artifacts.artifact(read) == Artifact("model", asset="trained", partition="p", model="churn", version="3", by="registry")
    said = ArtifactMap(knowledge=[known], locations={"s3://lake/m/3": Artifact("none")})
    assert said.artifact(read) == Artifact("none", by="location")


def test_the_first_of_two_models_with_one_source_keeps_it() -> None:
    artifacts = knowing(registered("s3://lake/m", "mine", "1"), registered("s3://lake/m", "thief", "1"))
    assert artifacts.artifact(event(container="lake", object="m/x")).model == "mine"


def test_whoever_can_materialize_an_asset_cannot_take_a_models_files_out_of_sight() -> None:
    artifacts = knowing(
        registered("s3://lake/m/3", "churn", "3"), materialized("s3://lake/m/3/model.pkl", "harmless"), materialized("s3://lake/m", "all")
    )
    found = artifacts.artifact(event(container="lake", object="m/3/model.pkl"))
    assert (found.kind, found.model, found.version, found.asset) == ("model", "churn", "3", "harmless")


def test_whoever_can_register_a_model_cannot_claim_what_others_have() -> None:
    artifacts = ArtifactMap(
        templates={"s3://ml/teams/{model}/{version}/": "model"},
        models=["delay"],
        knowledge=[
            Knowledge(
                locations=(
                    registered("s3://ml/", "thief", "1"),
                    registered("s3://ml/teams", "thief", "2"),
                    registered("s3://ml/a", "thief", "3"),
                )
            ),
            Knowledge(
                locations=(
                    registered("s3://ml/a/b", "churn", "1"),
                    materialized("s3://ml/a/c", "delay"),
                    materialized("s3://ml/a/d", "raw"),
                )
            ),
        ],
    )
    assert artifacts.unplaced == ("s3://ml/",)
    assert artifacts.artifact(event(container="ml", object="teams/fraud/7/x")).model == "fraud"
    assert artifacts.artifact(event(container="ml", object="a/b/x")).model == "churn"
    assert artifacts.artifact(event(container="ml", object="a/c/x")).model == "delay"
    assert artifacts.artifact(event(container="ml", object="a/d/x")).asset == "raw"
    assert artifacts.artifact(event(container="ml", object="z")).kind == "unresolved"


def test_a_template_wins_over_a_shorter_location_and_a_location_over_a_template_of_its_length() -> None:
    artifacts = ArtifactMap(
        templates={"s3://lake/{asset}/{partition}/": "dataset"},
        knowledge=[Knowledge(locations=(materialized("s3://lake/raw/1", "named", "one"),))],
        locations={"s3://lake/": "all"},
    )
    assert artifacts.artifact(event(container="lake", object="raw/2/x")).asset == "raw"
    assert artifacts.artifact(event(container="lake", object="raw/1/x")).asset == "named"
    assert artifacts.artifact(event(container="lake", object="readme")).asset == "all"


def test_an_event_that_names_its_model_needs_no_location() -> None:
    assert ArtifactMap().artifact(
        event(service="sagemaker.amazonaws.com", operation="CreateModel", plane="control", model="a/b")
    ) == Artifact("model", model="a/b", by="event")
    predicted = event(
        source="gcp.audit", model="123", model_version="4", resource="projects/p/locations/l/models/123@4", service="aiplatform.x"
    )
    assert ArtifactMap().artifact(predicted) == Artifact("model", model="123", version="4", by="event")
    named = ArtifactMap(locations={"gcp://aiplatform/projects/p/locations/l/models/123": Artifact("model", model="churn")})
    assert named.artifact(predicted) == Artifact("model", model="churn", version="4", by="location")


def mlflow(endpoint: str, action: str = "read", **members: object) -> AuditEvent:
    plane = "data" if "artifact" in endpoint else "control"
    return event(
        source="mlflow.audit",
        operation=f"GET {endpoint}",
        resource_type=endpoint.partition("/")[0],
        action=action,
        **{"plane": plane, **members},
    )


def test_names_of_registered_models_are_those_of_the_registry() -> None:
    artifacts = knowing(registered=frozenset({"Fraud", "Twin", "twin"}), aliases={("Fraud", "champion"): "7", ("Fraud", "3"): "9"})

    def told(model: str, version: str | None = None, action: str = "read") -> tuple[str | None, str | None, str | None]:
        found = artifacts.artifact(mlflow("model-versions/get", action, model=model, model_version=version))
        return found.model, found.version, found.by

    assert told("Fraud", "champion") == ("Fraud", "7", "registry")
    assert told("Fraud", "champion", "promote") == (
        "Fraud",
        "champion",
        "registry",
    )  # Which version had it then, today's alias does not tell.
    assert told("Fraud", "3") == ("Fraud", "3", "registry")
    for spelling in ("fraud", "FRAUD ", "\uff26raud"):
        assert told(spelling, "champion") == ("Fraud", "7", "registry")
    assert told("TWIN") == ("TWIN", None, "event")  # It could be either.
    assert told("fraud", action="create") == ("fraud", None, "event")
    assert told("other") == ("other", None, "event")


def test_the_path_tells_where_the_server_goes_by_the_path_and_the_name_where_it_goes_by_the_name() -> None:
    artifacts = knowing(registered("runs:/0a1b/model", "churn", "3"), registered=frozenset({"churn", "toy"}))
    download = mlflow("mlflow-artifacts/artifacts", container="1/0a1b", object="model/model.pkl", model="toy", model_version="1")
    assert (artifacts.artifact(download).model, artifacts.artifact(download).version) == ("churn", "3")
    by_name = mlflow("model-versions/get-artifact", container="1/0a1b", object="model/model.pkl", model="toy", model_version="1")
    assert (artifacts.artifact(by_name).model, artifacts.artifact(by_name).version) == ("toy", "1")
    unknown = mlflow("mlflow-artifacts/artifacts", container="1/ffff", object="model/model.pkl", model="toy")
    assert artifacts.artifact(unknown).kind == "unresolved"
    astray = mlflow("mlflow-artifacts/artifacts", container="1/0a1b", object="x/../../model", model="toy")
    assert artifacts.artifact(astray).kind == "unresolved"


def test_a_digest_tells_what_nothing_else_does() -> None:
    artifacts = ArtifactMap(digests={"ad2b": "raw"}, locations={"wandb://t/p/churn": Artifact("model", model="churn")})
    named = event(source="wandb.audit", container="t/p", object="t/p/churn", digest="ad2b", resource_type="artifact")
    assert artifacts.artifact(named).model == "churn"
    unnamed = event(source="wandb.audit", container="t/p", object="t/p/x", digest="ad2b", resource_type="artifact", object_version="v1")
    assert artifacts.artifact(unnamed) == Artifact("dataset", asset="raw", version="v1", by="location")


def test_contents_that_nothing_explains_are_unresolved_and_control_that_names_nothing_is_none() -> None:
    artifacts = ArtifactMap(environments={"s3://lake": "production"})
    assert artifacts.artifact(event(container="lake", object="x")) == Artifact("unresolved", environment="production")
    assert artifacts.artifact(event(container="lake")).kind == "unresolved"
    assert artifacts.artifact(event(container="lake", object="x", plane="control", operation="PutObjectAcl")).kind == "unresolved"
    assert artifacts.artifact(event(container="lake", plane="control", operation="ListBuckets")) == Artifact(
        "none", environment="production"
    )
    assert artifacts.artifact(event(service="sts.amazonaws.com", operation="AssumeRole", plane="control")) == Artifact("none")


def test_a_version_of_an_object_is_the_version_of_a_dataset_but_of_no_model() -> None:
    artifacts = knowing(materialized("s3://lake/raw", "raw"), registered("s3://lake/m", "churn", "3"))
    assert artifacts.artifact(event(container="lake", object="raw/x", object_version="v")).version == "v"
    assert artifacts.artifact(event(container="lake", object="m/x", object_version="v")).version == "3"


def test_the_environment_of_a_model_that_is_named_is_that_of_its_files() -> None:
    artifacts = ArtifactMap(
        environments={"s3://ml-prod": "production"}, knowledge=[Knowledge(locations=(registered("s3://ml-prod/m", "churn", "3"),))]
    )
    assert artifacts.artifact(mlflow("model-versions/get", model="churn", model_version="3")).environment == "production"
    assert artifacts.artifact(mlflow("model-versions/get", model="churn", model_version="4")).environment is None


@pytest.mark.parametrize("log", LOGS, ids=lambda log: log.source)
def test_every_documented_record_gets_an_answer(log: object) -> None:
    for row in log.read(log.data()):  # type: ignore[attr-defined]
        found = TEMPLATES.artifact(row)
        assert found.kind == "unresolved" if row.plane == "data" and found.asset is None and found.model is None else found.kind != ""


def test_a_method_that_breaks_leaves_the_access_unresolved_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(ArtifactMap):
        def places(self, access: Access) -> tuple[Location, ...] | None:
            raise KeyError(access.object)

    assert Broken().artifact(event(plane="control")) == Artifact("unresolved")
    assert "Broken could not decide" in caplog.text


def test_a_method_can_be_overridden() -> None:
    class AccessPoints(ArtifactMap):
        def places(self, access: Access) -> tuple[Location, ...] | None:
            if access.container == "lake-ap-x7-s3alias":
                access = access._replace(container="lake")
            return accessed(access)

    artifacts = AccessPoints(locations={"s3://lake/raw": "raw"})
    assert artifacts.artifact(event(container="lake-ap-x7-s3alias", object="raw/x")).asset == "raw"
    assert artifacts != ArtifactMap(locations={"s3://lake/raw": "raw"})


def test_a_map_is_told_by_its_digest() -> None:
    one, two = (
        ArtifactMap(locations={"s3://lake/a": "a", "s3://lake/b": "b"}),
        ArtifactMap(locations={"s3://lake/b": "b", "s3a://lake/a/": "a"}),
    )
    assert one == two
    assert hash(one) == hash(two)
    more = one.knowing(Knowledge(locations=(materialized("s3://lake/c", "c"),)))
    assert more != one
    assert one.artifact(event(container="lake", object="c")).kind == "unresolved"
    assert more.artifact(event(container="lake", object="c")).asset == "c"
    assert more.knowing() == one
    assert more.knowing(Knowledge(locations=(materialized("s3://lake/c", "c"),))) is more
    assert one.digest.startswith("blake3:")


def test_what_cannot_be_placed_or_seen_is_told() -> None:
    artifacts = ArtifactMap(knowledge=[Knowledge(locations=(materialized("dagster/raw", "raw"),), unseen=("The registry is away.",))])
    assert artifacts.unplaced == ("dagster/raw",)
    assert artifacts.unseen == ("The registry is away.",)
