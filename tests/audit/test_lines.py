import json

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from mlsec_dagster.audit.events import AuditEvent, Quarantined
from mlsec_dagster.audit.sources.lines import WholeLines
from tests.audit.documented import AZURE, GCP, KUBERNETES, MLFLOW, S3_ACCESS, WANDB, Log


def only(log: Log, line: bytes) -> AuditEvent:
    (row,) = log.read(line)
    assert isinstance(row, AuditEvent), row
    return row


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 1 << 30), max_size=6), st.integers(1, 4000))
def test_a_growing_log_read_in_any_steps_gives_every_record_once(cuts: list[int], piece: int) -> None:
    data = AZURE.data() * 2
    offset = 0
    rows = []
    for seen in [*sorted(cut % len(data) for cut in cuts), len(data)]:
        whole = WholeLines(data[at : min(at + piece, seen)] for at in range(offset, seen, piece))
        rows += AZURE.read(whole)
        assert data[: offset + whole.consumed].endswith(b"\n") or offset + whole.consumed == 0
        offset += whole.consumed
    assert offset == len(data)
    assert rows == [*AZURE.read(data)]


def test_an_unfinished_last_line_is_left_for_the_next_time() -> None:
    whole = WholeLines([AZURE.data() + b'{"time":"2019'])
    assert len([*AZURE.read(whole)]) == 3
    assert whole.consumed == len(AZURE.data())


def test_records_wrapped_for_an_event_hub_are_the_same_events() -> None:
    wrapped = b'{"records":[' + b",".join(AZURE.lines) + b"]}"
    assert [*AZURE.read(wrapped)] == [*AZURE.read(AZURE.data())]


def test_blob_storage_tells_who_read_how_many_bytes_and_not_with_what_signature() -> None:
    event = only(AZURE, AZURE.lines[0])
    assert (event.address, event.port, event.container, event.object) == ("192.168.0.1", 11111, "testaccount1/cont1", "models/model.pkl")
    assert (event.bytes_out, event.principal, event.principal_name) == (2018, "fde5ba15-4355-4223-b811-cccccccccccc", "alice@contoso.com")
    assert event.request is not None
    assert "sig=REDACTED&se=2019" in event.request


def test_a_version_of_a_blob_that_is_asked_for_is_told() -> None:
    for query, expected in {
        "?versionid=2026-01-02T03%3A04%3A05.6789012Z&sig=x": "2026-01-02T03:04:05.6789012Z",
        "?snapshot=2025-01-02T03:04:05.6789012Z": "2025-01-02T03:04:05.6789012Z",
        "?comp=block&blockid=versionid": None,
    }.items():
        record = json.loads(AZURE.lines[0])
        record["uri"] = record["uri"].partition("?")[0] + query
        assert only(AZURE, json.dumps(record).encode()).object_version == expected


def test_a_copy_within_blob_storage_is_a_read_of_what_is_copied() -> None:
    told = {"CopyBlob": "create", "CopyBlobSource": "read", "CopyBlobDestination": "create"}
    records = [json.loads(AZURE.lines[0]) | {"operationName": operation} for operation in told]
    events = [only(AZURE, json.dumps(record).encode()) for record in records]
    assert [(event.action, event.plane) for event in events] == [(action, "data") for action in told.values()]
    assert len({event.id for event in events}) == 3


def test_a_wrapped_log_of_a_cluster_is_nobodys_read() -> None:
    record = json.loads(AZURE.lines[1]) | {
        "category": "kube-audit",
        "operationName": "Microsoft.ContainerService/managedClusters/diagnosticLogs/Read",
        "properties": {"log": KUBERNETES.lines[0].decode(), "pod": "kube-apiserver-1"},
    }
    event = only(AZURE, json.dumps(record).encode())
    assert (event.action, event.plane) == ("other", "control")


def test_blob_records_without_an_object_key_are_placed_by_their_uri() -> None:
    record = json.loads(AZURE.lines[0])
    del record["properties"]["objectKey"]
    event = only(AZURE, json.dumps(record).encode())
    assert (event.container, event.object) == ("testaccount1/cont1", "models/model.pkl")


def test_azure_machine_learning_names_model_and_outcome() -> None:
    read, changed = (only(AZURE, line) for line in AZURE.lines[1:])
    assert (read.action, read.plane, read.object, read.object_version, read.principal_name) == ("read", "data", "churn", "4", "Alice")
    assert (changed.action, changed.plane, changed.outcome, changed.model, changed.principal) == (
        "write",
        "control",
        "denied",
        "churn",
        "fde5",
    )


def test_addresses_are_told_apart_from_ports() -> None:
    for text, expected in {
        "[2001:db8::1]:443": ("2001:db8::1", 443),
        "2001:db8::1": ("2001:db8::1", None),
        "10.1.2.3": ("10.1.2.3", None),
    }.items():
        record = json.loads(AZURE.lines[0]) | {"callerIpAddress": text}
        event = only(AZURE, json.dumps(record).encode())
        assert (event.address, event.port) == expected


def test_lines_of_s3_tell_anonymous_requests_bytes_and_names_with_blanks() -> None:
    configured, put, expired = (only(S3_ACCESS, line) for line in S3_ACCESS.lines)
    assert (configured.action, configured.plane, configured.bytes_out) == ("read", "control", 113)
    assert (put.action, put.plane, put.object, put.bytes_in) == ("write", "data", "models/s3 dg.pdf", 4406583)
    assert (expired.action, expired.principal, expired.outcome, expired.object_version) == (
        "delete",
        None,
        "unknown",
        "3HL4kqtJlcpXroDTDmJ",
    )


def test_a_quote_within_a_user_agent_does_not_shift_the_fields() -> None:
    line = S3_ACCESS.lines[1].replace(b'"S3Console/0.4"', b'"a "quoted"x" - "')
    event = only(S3_ACCESS, S3_ACCESS.lines[1].replace(b'"S3Console/0.4"', b'"a"b"'))
    assert event.user_agent == 'a"b'
    for row in S3_ACCESS.read(line):
        assert isinstance(row, (AuditEvent, Quarantined))


def test_operations_of_s3_are_told_by_what_they_do() -> None:
    told = {
        b"REST.SELECT.OBJECT": ("read", "data"),
        b"REST.COPY.OBJECT_GET": ("read", "data"),
        b"REST.COPY.OBJECT": ("create", "data"),
        b"REST.POST.MULTI_OBJECT_DELETE": ("delete", "control"),
        b"BATCH.DELETE.OBJECT": ("delete", "data"),
        b"REST.GET.BUCKET": ("list", "control"),
    }
    for operation, expected in told.items():
        event = only(S3_ACCESS, S3_ACCESS.lines[1].replace(b"REST.PUT.OBJECT", operation))
        assert (event.action, event.plane) == expected, operation


def test_calls_of_a_model_in_vertex_ai_are_told_however_they_stream() -> None:
    told = {
        "PredictionService.StreamGenerateContent": "invoke",
        "PredictionService.ServerStreamingPredict": "invoke",
        "PredictionService.StreamRawPredict": "invoke",
        "PredictionService.Predict": "invoke",
        "FeaturestoreOnlineServingService.StreamingReadFeatureValues": "read",
    }
    for method, action in told.items():
        entry = json.loads(GCP.lines[0])
        entry["protoPayload"]["methodName"] = f"google.cloud.aiplatform.v1.{method}"
        event = only(GCP, json.dumps(entry).encode())
        assert (event.action, event.plane) == (action, "data"), method


def test_a_quote_within_a_uri_hides_no_access() -> None:
    plain = only(S3_ACCESS, S3_ACCESS.lines[1])
    for uri in (b'models/s3%20dg.pdf?x="', b'models/s3%20dg.pdf?x="y"', b'"'):
        event = only(S3_ACCESS, S3_ACCESS.lines[1].replace(b"bucket1/models/s3%20dg.pdf HTTP", b"bucket1/" + uri + b" HTTP"))
        assert event.request == f"PUT /amzn-s3-demo-bucket1/{uri.decode()} HTTP/1.1"
        assert (event.object, event.status, event.user_agent, event.bytes_in) == (plain.object, "200", plain.user_agent, plain.bytes_in)


def test_a_name_that_is_no_utf8_is_kept_as_it_stands() -> None:
    event = only(S3_ACCESS, S3_ACCESS.lines[1].replace(b"models/s3%20dg.pdf ", b"m%FF%20x "))
    assert event.object == "m%FF%20x"


def test_google_tells_object_model_and_who_is_behind_a_service_account() -> None:
    got, exported = (only(GCP, line) for line in GCP.lines)
    assert (got.action, got.plane, got.container, got.object) == ("read", "data", "my-bucket", "models/churn/model.pkl")
    assert got.logged is not None
    assert got.logged > got.time
    assert (exported.action, exported.plane) == ("read", "data")
    assert (exported.model, exported.model_version, exported.outcome, exported.invoked_by) == ("456", "2", "denied", "user@example.com")


def test_a_copy_in_vertex_ai_names_the_model_that_is_copied() -> None:
    entry = json.loads(GCP.lines[1])
    entry["protoPayload"] |= {
        "methodName": "google.cloud.aiplatform.v1.ModelService.CopyModel",
        "resourceName": "projects/123/locations/europe-west4",
    }
    for asked, model in {
        '{"parent": "projects/123/locations/europe-west4", "sourceModel": "projects/123/locations/us-central1/models/456"}': "456",
        '{"sourceModel": 7}': None,
        "[7]": None,
        "null": None,
    }.items():
        entry["protoPayload"]["request"] = json.loads(asked)
        event = only(GCP, json.dumps(entry).encode())
        assert (event.action, event.plane, event.model) == ("create", "data", model)


def test_only_the_end_of_a_request_is_an_access_and_only_the_last_address_is_believed() -> None:
    event = only(KUBERNETES, KUBERNETES.lines[0])
    assert (event.address, event.acting_as, event.credential) == ("192.168.49.1", "alice@example.com", "JTI=7ee5")
    for stage in (b"RequestReceived", b"ResponseStarted"):
        assert [*KUBERNETES.read(KUBERNETES.lines[0].replace(b"ResponseComplete", stage))] == []
    assert only(KUBERNETES, KUBERNETES.lines[0].replace(b"ResponseComplete", b"Panic")).outcome == "failure"
    (row,) = KUBERNETES.read(KUBERNETES.lines[0].replace(b"ResponseComplete", b"Newer"))
    assert isinstance(row, Quarantined)


def test_a_webhooks_list_gives_each_event() -> None:
    batch = b'{"kind":"EventList","apiVersion":"audit.k8s.io/v1","items":[' + b",".join(KUBERNETES.lines) + b"]}"
    assert [*KUBERNETES.read(batch)] == [*KUBERNETES.read(KUBERNETES.data())]


def test_a_bad_record_of_a_batch_costs_nobody_but_itself() -> None:
    for log, head in ((KUBERNETES, b'{"kind":"EventList","items":['), (AZURE, b'{ "records" : [')):
        for bad in (log.lines[0][:-1] + b',"time":1,"stage":1}', b"7"):
            batch = head + log.lines[0] + b", " + bad + b", " + log.lines[1] + b"]}"
            first, refused, last = log.read(b"\n" + batch)
            assert [first, last] == [*log.read(log.lines[0] + b"\n" + log.lines[1])]
            assert isinstance(refused, Quarantined)
            assert (refused.offset, refused.size, refused.rest) == (1 + batch.index(bad, len(head) + len(log.lines[0])), len(bad), False)


def test_a_batch_that_ends_in_the_middle_is_kept_whole() -> None:
    (row,) = KUBERNETES.read(b'{"kind":"EventList","items":[' + KUBERNETES.lines[0])
    assert isinstance(row, Quarantined)


def test_weights_and_biases_tells_artifact_version_and_digest() -> None:
    event = only(WANDB, WANDB.lines[0])
    assert (event.action, event.plane, event.object, event.object_version) == ("read", "data", "team/project/churn", "v3")
    assert (event.digest, event.principal, event.principal_name, event.user_agent) == (
        "ad2b0f3c",
        "VXNlcjox",
        "alice@example.com",
        "wandb/0.17.0",
    )


def test_mlflow_tells_downloads_promotions_and_refusals() -> None:
    read, refused = (only(MLFLOW, line) for line in MLFLOW.lines)
    assert (read.action, read.plane, read.bytes_out, read.container, read.object) == ("read", "data", 48211, "1/0a1b", "model/model.pkl")
    assert (refused.action, refused.outcome, refused.principal, refused.model_version) == ("promote", "denied", None, "champion")


def test_what_the_mlflow_server_had_to_drop_is_a_row_of_its_own() -> None:
    line = msgspec.json.encode({"v": 1, "id": "x", "time": "2026-01-02T03:04:06Z", "server": "mlflow-0:17", "dropped": 1200})
    (row,) = MLFLOW.read(line)
    assert isinstance(row, Quarantined)
    assert "dropped 1,200 accesses" in row.reason


def test_another_version_of_the_mlflow_format_is_not_guessed_at() -> None:
    (row,) = MLFLOW.read(MLFLOW.lines[0].replace(b'"v":1', b'"v":2'))
    assert isinstance(row, Quarantined)


def mlflow_event(method: str, path: str, **members: object) -> AuditEvent:
    return only(
        MLFLOW,
        msgspec.json.encode({"v": 1, "id": "1", "time": "2026-01-02T03:04:06Z", "server": "s", "method": method, "path": path, **members}),
    )


def test_an_escape_or_a_prefix_in_an_mlflow_path_hides_nothing() -> None:
    for path in (
        "/api/2.0/mlflow/registered-models/alias",
        "/api/2.0/mlflow/registered%2Dmodels/%61lias",
        "/ajax-api/2.0/mlflow/registered-models/alias",
    ):
        assert mlflow_event("POST", path).action == "promote"
        assert mlflow_event("POST", "/team" + path, prefix="/team").action == "promote"
    assert mlflow_event("POST", "/team/api/2.0/mlflow/registered-models/alias").action == "create"  # Nobody said that this is a prefix.


def test_an_mlflow_promotion_tells_both_the_version_and_what_it_became() -> None:
    alias = mlflow_event("POST", "/api/2.0/mlflow/registered-models/alias", model="churn", model_version="3", alias="champion")
    assert (alias.model, alias.model_version, alias.resource) == ("churn", "3", "models:/churn@champion")
    stage = mlflow_event("POST", "/api/2.0/mlflow/model-versions/transition-stage", model="churn", model_version="3", stage="Production")
    assert (stage.action, stage.model_version, stage.resource) == ("promote", "3", "models:/churn/Production")
    asked = mlflow_event("GET", "/api/2.0/mlflow/registered-models/alias", model="churn", alias="champion")
    assert asked.model_version == "champion"
    renamed = mlflow_event("POST", "/api/2.0/mlflow/registered-models/rename", model="toy", new_name="churn")
    assert (renamed.action, renamed.model, renamed.resource) == ("update", "toy", "models:/churn")


def test_whom_mlflow_denied_is_named_but_is_no_principal() -> None:
    event = mlflow_event("DELETE", "/api/2.0/mlflow/registered-models/delete", status=403, denied="bob")
    assert (event.outcome, event.principal, event.principal_name) == ("denied", None, "bob")


def test_a_logged_model_of_mlflow_is_a_place_like_a_run() -> None:
    event = mlflow_event(
        "GET", "/api/2.0/mlflow-artifacts/artifacts/1/models/m-1/artifacts/f", experiment="1", logged_model="m-1", artifact="f"
    )
    assert (event.container, event.object) == ("1/models/m-1", "f")


def test_mlflow_endpoints_are_told_by_what_they_do() -> None:
    told = {
        ("GET", "/api/2.0/mlflow-artifacts/artifacts"): ("list", "control"),
        ("GET", "/api/2.0/mlflow-artifacts/artifacts/1/a/artifacts/m"): ("read", "data"),
        ("GET", "/ajax-api/2.0/mlflow/logged-models/m-1/artifacts/directories"): ("list", "control"),
        ("GET", "/ajax-api/2.0/mlflow/artifacts/list"): ("list", "control"),
        ("PUT", "/api/2.0/mlflow-artifacts/artifacts/1/a/artifacts/m"): ("write", "data"),
        ("DELETE", "/api/2.0/mlflow-artifacts/artifacts/1/a/artifacts/m"): ("delete", "data"),
        ("POST", "/api/2.0/mlflow-artifacts/mpu/create/1/a"): ("write", "data"),
        ("GET", "/get-artifact"): ("read", "data"),
        ("GET", "/model-versions/get-artifact"): ("read", "data"),
        ("POST", "/ajax-api/2.0/mlflow/upload-artifact"): ("write", "data"),
        ("GET", "/ajax-api/2.0/mlflow/logged-models/m-1/artifacts/files"): ("read", "data"),
        ("DELETE", "/api/2.0/mlflow/logged-models/m-1"): ("delete", "control"),
        ("POST", "/api/2.0/mlflow/logged-models/search"): ("list", "control"),
        ("POST", "/api/2.0/mlflow/artifacts/presigned-download-url"): ("read", "control"),
        ("POST", "/api/2.0/mlflow/artifacts/presigned-upload-url"): ("write", "control"),
        ("GET", "/api/2.0/mlflow-artifacts/presigned/1/a/artifacts/m"): ("read", "control"),
        ("GET", "/api/2.0/mlflow/model-versions/get-download-uri"): ("read", "control"),
        ("POST", "/api/2.0/mlflow/model-versions/transition-stage"): ("promote", "control"),
        ("DELETE", "/api/2.0/mlflow/registered-models/alias"): ("update", "control"),
        ("DELETE", "/api/2.0/mlflow/registered-models/delete"): ("delete", "control"),
        ("POST", "/api/2.0/mlflow/registered-models/search"): ("list", "control"),
        ("POST", "/api/2.0/mlflow/runs/log-metric"): ("write", "control"),
        ("POST", "/api/2.0/mlflow/model-versions/set-tag"): ("update", "control"),
    }
    for (method, path), expected in told.items():
        record = {"v": 1, "id": "1", "time": "2026-01-02T03:04:06Z", "server": "s", "method": method, "path": path}
        event = only(MLFLOW, msgspec.json.encode(record))
        assert (event.action, event.plane) == expected, path
