"""A request is named as MLflow understands it, whatever else it says."""

import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsec_dagster.mlflow_app.naming import answered, has_body, named

BODIES = {
    ("POST", "mlflow/registered-models/alias"): (
        {"name": "churn", "alias": "champion", "version": "3"},
        {"model": "churn", "alias": "champion", "model_version": "3"},
    ),
    ("POST", "mlflow/model-versions/transition-stage"): (
        {"name": "churn", "version": 3, "stage": "Production"},
        {"model": "churn", "model_version": "3", "stage": "Production"},
    ),
    ("POST", "mlflow/model-versions/set-tag"): ({"name": "churn", "version": "3", "key": "k"}, {"model": "churn", "model_version": "3"}),
    ("DELETE", "mlflow/registered-models/delete"): ({"name": "churn"}, {"model": "churn"}),
    ("PATCH", "mlflow/model-versions/update"): ({"name": "churn", "version": "3"}, {"model": "churn", "model_version": "3"}),
    ("POST", "mlflow/registered-models/rename"): ({"name": "toy", "newName": "churn"}, {"model": "toy", "new_name": "churn"}),
    ("POST", "mlflow/experiments/create"): ({"name": "not a model"}, {}),
    ("POST", "mlflow/runs/set-tag"): ({"run_id": "0a1b", "key": "k"}, {"run": "0a1b"}),
    ("POST", "mlflow/runs/search"): ({"experiment_ids": ["1", "2"]}, {"experiment": "1,2"}),
    ("POST", "mlflow-artifacts/mpu/create/7/0a1b/artifacts/model"): (
        {"path": "weights.bin", "num_parts": 4},
        {"experiment": "7", "run": "0a1b", "artifact": "model/weights.bin"},
    ),
    ("POST", "mlflow/artifacts/presigned-upload-url"): ({"run_id": "0a1b", "path": "m"}, {"run": "0a1b", "artifact": "m"}),
    ("DELETE", "mlflow/logged-models/m-12"): ({}, {"logged_model": "m-12"}),
    ("POST", "graphql"): ({"query": "…", "variables": {"data": {"runId": "0a1b"}}}, {"run": "0a1b"}),
}
QUERIES = {
    "mlflow-artifacts/artifacts/7/0a1b/artifacts/model/MLmodel": ("", {"experiment": "7", "run": "0a1b", "artifact": "model/MLmodel"}),
    "mlflow-artifacts/artifacts/7/models/m-12/artifacts/a/b": ("", {"experiment": "7", "logged_model": "m-12", "artifact": "a/b"}),
    "mlflow-artifacts/artifacts/elsewhere/f": ("", {"artifact": "elsewhere/f"}),
    "mlflow-artifacts/artifacts": ("path=7/0a1b/artifacts/model", {"experiment": "7", "run": "0a1b", "artifact": "model"}),
    "mlflow-artifacts/presigned/7/0a1b/artifacts/f": ("", {"experiment": "7", "run": "0a1b", "artifact": "f"}),
    "get-artifact": ("run_uuid=0a1b&path=model/MLmodel", {"run": "0a1b", "artifact": "model/MLmodel"}),
    "model-versions/get-artifact": ("name=churn&version=3&path=f", {"model": "churn", "model_version": "3", "artifact": "f"}),
    "mlflow/model-versions/get-download-uri": ("name=churn&version=3", {"model": "churn", "model_version": "3"}),
    "mlflow/registered-models/alias": ("name=churn&alias=champion", {"model": "churn", "alias": "champion"}),
    "mlflow/logged-models/m-12/artifacts/files": ("artifact_file_path=f", {"logged_model": "m-12", "artifact": "f"}),
    "mlflow/runs/get": ("run_id=0a1b", {"run": "0a1b"}),
}


@pytest.mark.parametrize("asked", BODIES, ids=" ".join)
def test_a_body_names(asked: tuple[str, str]) -> None:
    body, expected = BODIES[asked]
    assert has_body(asked[1])
    assert named(*asked, "", json.dumps(body).encode()) == expected


@pytest.mark.parametrize("route", QUERIES)
def test_a_query_names(route: str) -> None:
    query, expected = QUERIES[route]
    assert named("GET", route, query, None) == expected


@given(st.sampled_from(["POST", "PATCH", "DELETE", "GET"]), st.booleans(), st.booleans(), st.booleans(), st.text(max_size=9))
def test_an_innocent_name_does_not_stand_for_the_real_one(method: str, camel: bool, twice: bool, encoded: bool, pad: str) -> None:
    real = {"name": "secret", ("runId" if camel else "run_id"): "0a1b", "pad": pad}
    text = json.dumps(real, ensure_ascii=encoded)
    body = (json.dumps(text) if twice else text).encode()
    query = "" if method == "GET" else "name=innocent&run_id=ffff"  # Of a GET with a query, MLflow itself takes the query.
    assert named(method, "mlflow/model-versions/update", query, body) == {"model": "secret", "run": "0a1b"}


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_of_graphql_the_body_counts_whatever_the_query_says(method: str) -> None:
    body = json.dumps({"query": "…", "variables": {"data": {"runId": "0a1b"}}}).encode()
    assert named(method, "graphql", "variables=innocent&run_id=ffff", body) == {"run": "0a1b"}


@given(st.integers(0, 4))
def test_a_path_that_is_escaped_again_and_again_is_read_as_mlflow_reads_it(times: int) -> None:
    path = "7/0a1b/artifacts/model/a b.pkl"
    for _ in range(times):
        path = quote(path, safe="")
    assert named("GET", "mlflow-artifacts/artifacts/" + path, "", None)["artifact"] == "model/a b.pkl"


@pytest.mark.parametrize("path", ["7/./0a1b/artifacts//f", "/7/0a1b/artifacts/f", "7/0a1b/artifacts/f%0A", "7/0a1b/art%0aifacts/x/%2e./f"])
def test_a_path_that_the_storage_takes_for_another_is_told_as_that(path: str) -> None:
    assert named("GET", "mlflow-artifacts/artifacts/" + path, "", None) == {"experiment": "7", "run": "0a1b", "artifact": "f"}


@pytest.mark.parametrize("body", [b"{", b"[1]", b"\xff", b'"{"', b"1", b"[" * 50_000])
def test_a_body_that_is_no_object_is_not_taken_for_an_empty_one(body: bytes) -> None:
    with pytest.raises((ValueError, RecursionError)):
        named("POST", "mlflow/registered-models/alias", "name=innocent", body)


def test_what_is_made_is_named_by_the_answer() -> None:
    assert answered(b'{"model_version": {"version": "3", "run_id": "0a1b"}}') == {"model_version": "3", "run": "0a1b"}
    assert answered(b'{"run": {"info": {"run_id": "0a1b", "experiment_id": "7"}}}') == {"run": "0a1b", "experiment": "7"}
    assert answered(b'{"experiment_id": "7"}') == {"experiment": "7"}
    assert answered(b'{"model": {"info": {"model_id": "m-12"}}}') == {"logged_model": "m-12"}
    assert answered(b"no JSON") == answered(b'{"run": 3}') == {}


def test_uploads_are_no_bodies_that_name() -> None:
    assert not any(map(has_body, ("mlflow-artifacts/artifacts/1/a/artifacts/f", "mlflow/upload-artifact", "v1/traces")))


def test_what_a_query_names_does_not_stand_for_what_the_path_is():
    path = "mlflow-artifacts/artifacts/1/models/m-secret/artifacts/model.pkl"
    assert named("GET", path, "run_id=innocent&model_id=m-innocent&version=1", None) == {
        "experiment": "1",
        "logged_model": "m-secret",
        "artifact": "model.pkl",
    }
