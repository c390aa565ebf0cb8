import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from mlsec_dagster.audit.events import AuditEvent, Quarantined
from mlsec_dagster.audit.limits import Limits
from mlsec_dagster.audit.ocsf import from_ocsf, to_ocsf
from mlsec_dagster.audit.sources import cloudtrail
from tests.audit.documented import CLOUDTRAIL
from tests.audit.ocsf_schema import problems
from tests.audit.shared import shared


def files(name: str, pattern: str) -> list[Path]:
    found = sorted(shared(f"cloudtrail/{name}").glob(pattern))
    assert found
    return found


def records(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes()
    found = json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
    return found["Records"] if isinstance(found, dict) else found


@pytest.mark.parametrize(("name", "pattern", "count"), [("invictus", "*.json.gz", 2900), ("stratus", "*.json", 310)])
def test_real_deliveries_come_out_exactly(name: str, pattern: str, count: int) -> None:
    paths = files(name, pattern)
    rows = [row for path in paths for row in cloudtrail.read(path.read_bytes())]
    events = [row for row in rows if isinstance(row, AuditEvent)]
    assert len(events) == len(rows) == count
    told = [record for path in paths for record in records(path)]
    assert [event.id for event in events] == [record["eventID"] for record in told]
    assert len({event.id for event in events}) == count
    for event, record in zip(events, told, strict=True):
        assert (event.operation, event.service, event.address) == (record["eventName"], record["eventSource"], record["sourceIPAddress"])
        assert (event.outcome == "success") == ("errorCode" not in record)
        assert to_ocsf(event)["time_dt"].replace(".000000", "") == record["eventTime"]


@pytest.mark.parametrize(("name", "pattern"), [("invictus", "*.json.gz"), ("stratus", "*.json")])
def test_real_events_are_valid_ocsf_and_come_back(name: str, pattern: str) -> None:
    for path in files(name, pattern)[::4]:
        for event in cloudtrail.read(path.read_bytes()):
            assert isinstance(event, AuditEvent)
            record = to_ocsf(event)
            assert problems(record) == []
            assert from_ocsf(json.loads(json.dumps(record))) == event


def test_pieces_of_any_size_give_the_same_rows() -> None:
    path = files("invictus", "*.json.gz")[0]
    data = path.read_bytes()
    whole = [*cloudtrail.read(data)]
    for size in (1, 7, 4096):
        assert [*cloudtrail.read(data[at : at + size] for at in range(0, len(data), size))] == whole


def test_a_large_log_is_read_window_by_window_as_if_it_were_decoded_whole() -> None:
    lines = [line.replace(b"EXAMPLE", b"%06d" % number) for number in range(2500) for line in CLOUDTRAIL.lines]
    data = b'{"Records":[' + b" ,\n ".join(lines) + b"]}\n"
    assert len(data) > 4 << 20
    rows = [*cloudtrail.read(data)]
    assert [row.id for row in rows] == [json.loads(line)["eventID"] for line in lines]
    assert {type(row) for row in rows} == {AuditEvent}


def test_what_was_done_is_told_in_our_words() -> None:
    got, created, promoted = cloudtrail.read(CLOUDTRAIL.data())
    assert isinstance(got, AuditEvent)
    assert isinstance(created, AuditEvent)
    assert isinstance(promoted, AuditEvent)
    assert (got.action, got.plane, got.container, got.object, got.object_version) == (
        "read",
        "data",
        "amzn-s3-demo-bucket1",
        "models/churn/model.pkl",
        "3/L4kqtJlcpXro",
    )
    assert (got.bytes_out, got.role, got.account) == (1048576, "arn:aws:iam::111122223333:role/RoleToBeAssumed", "111122223333")
    assert (created.action, created.plane, created.model, created.principal_name) == ("create", "control", "ExampleModel", "intern")
    assert (promoted.action, promoted.outcome, promoted.model, promoted.model_version) == ("promote", "denied", "churn", "7")
    assert (promoted.corrects, promoted.principal) == ("4711-EXAMPLE", "sagemaker.amazonaws.com")


def test_the_owner_of_an_object_is_told_of_its_bucket_and_not_taken_for_who_was_told_of_the_access() -> None:
    bucket = "arn:aws:s3:::amzn-s3-demo-bucket1"
    record = json.loads(CLOUDTRAIL.lines[0]) | {
        "recipientAccountId": "444455556666",
        "resources": [
            {"type": "AWS::S3::Object", "ARN": f"{bucket}/models/churn/model.pkl"},
            {"accountId": "111122223333", "type": "AWS::S3::Bucket", "ARN": bucket},
        ],
    }
    (event,) = cloudtrail.read(json.dumps([record]).encode())
    assert isinstance(event, AuditEvent)
    assert (event.account, event.resource, event.resource_type) == (
        "111122223333",
        f"{bucket}/models/churn/model.pkl",
        "AWS::S3::Object",
    )


COPIES = {
    "amzn-s3-demo-bucket1/models/churn/model.pkl": ("amzn-s3-demo-bucket1", "models/churn/model.pkl", None),
    "/amzn-s3-demo-bucket1/models/a%20b%2Bc.pkl?versionId=3%2FL4": ("amzn-s3-demo-bucket1", "models/a b+c.pkl", "3/L4"),
    "arn:aws:s3:us-west-2:111122223333:accesspoint/ap/object/models/x": (
        "arn:aws:s3:us-west-2:111122223333:accesspoint/ap",
        "models/x",
        None,
    ),
}


@pytest.mark.parametrize("source", COPIES)
@pytest.mark.parametrize("broken", [b"", b',{"eventVersion":1}', b",7"], ids=["alone", "beside no event", "beside no record"])
def test_a_copy_is_a_read_of_what_is_copied(source: str, broken: bytes) -> None:
    record = json.loads(CLOUDTRAIL.lines[0]) | {
        "eventName": "CopyObject",
        "requestParameters": {"bucketName": "elsewhere", "key": "stolen.pkl", "x-amz-copy-source": source},
    }
    lines = [CLOUDTRAIL.lines[1], json.dumps(record).encode(), CLOUDTRAIL.lines[0]]
    rows = [*cloudtrail.read(b"[" + b",".join(lines) + broken + b"]")]
    before, written, read, after = (row for row in rows if isinstance(row, AuditEvent))
    assert len(rows) == (5 if broken else 4)
    assert (written.action, written.container, written.object, written.id) == ("create", "elsewhere", "stolen.pkl", record["eventID"])
    assert (read.action, read.container, read.object, read.object_version) == ("read", *COPIES[source])
    assert (read.principal, read.time, read.operation, read.plane) == (written.principal, written.time, "CopyObject", "data")
    assert (read.id, read.correlation, read.bytes_out) == (f"{record['eventID']}|source", record["eventID"], None)
    assert [before, after] == [*cloudtrail.read(b"[" + lines[0] + b"," + lines[2] + b"]")]


@pytest.mark.parametrize("bad", [b"\xff", b'"},1e999,{"a":"', b"\\ud800"], ids=["no UTF-8", "no number", "half a character"])
def test_what_only_a_few_operations_name_costs_nobody_else_a_row_where_it_cannot_be_read(bad: bytes) -> None:
    deployed = json.loads(CLOUDTRAIL.lines[1]) | {
        "eventName": "CreateEndpointConfig",
        "requestParameters": {"endpointConfigName": "prod-7", "productionVariants": [{"modelName": "BAD"}]},
    }
    first, last = CLOUDTRAIL.lines[0], CLOUDTRAIL.lines[1]
    rows = [*cloudtrail.read(b"[" + b",".join([first, json.dumps(deployed).encode().replace(b"BAD", bad), last]) + b"]")]
    assert [rows[0], rows[2]] == [*cloudtrail.read(b"[" + first + b"," + last + b"]")]
    # Kept as an event without its parameters, or as text.
    told = rows[1]
    assert told.operation == "CreateEndpointConfig" if isinstance(told, AuditEvent) else "CreateEndpointConfig" in told.raw


def test_sagemaker_names_what_is_deployed_and_whose_notebook_an_address_opens() -> None:
    told = {
        "CreateEndpointConfig": ({"endpointConfigName": "prod-7", "productionVariants": [{"modelName": "churn-7"}]}, "prod-7", "churn-7"),
        "CreatePresignedDomainUrl": ({"domainId": "d-1", "userProfileName": "alice"}, "alice", None),
        "CreateTransformJob": ({"transformJobName": "scores", "modelName": "churn-7"}, "scores", "churn-7"),
    }
    for operation, (parameters, target, model) in told.items():
        record = json.loads(CLOUDTRAIL.lines[1]) | {"eventName": operation, "requestParameters": parameters}
        (event,) = cloudtrail.read(json.dumps([record]).encode())
        assert isinstance(event, AuditEvent)
        assert (event.object, event.model, event.action) == (target, model, "create")
    odd = json.loads(CLOUDTRAIL.lines[1]) | {"eventName": "CreateEndpointConfig", "requestParameters": {"productionVariants": [[7]]}}
    (event,) = cloudtrail.read(json.dumps([odd]).encode())
    assert isinstance(event, AuditEvent)
    assert event.model is None


def test_members_that_other_services_use_differently_are_let_go_and_unknown_ones_too() -> None:
    record = json.loads(CLOUDTRAIL.lines[0])
    odd = {
        "requestParameters": {"key": {"id": {"S": "1"}}, "bucketName": 7},
        "resources": "none",
        "additionalEventData": [1],
        "somethingNew": {"a": [1, {"b": None}]},
    }
    (event,) = cloudtrail.read(json.dumps([record | odd]).encode())
    assert isinstance(event, AuditEvent)
    assert (event.id, event.container, event.object, event.bytes_out) == (record["eventID"], None, None, None)


@pytest.mark.parametrize("missing", ["eventID", "eventTime", "eventName", "eventSource"])
def test_a_record_without_what_makes_an_event_is_kept_aside_and_its_neighbours_are_not(missing: str) -> None:
    record = json.loads(CLOUDTRAIL.lines[0])
    del record[missing]
    broken = json.dumps(record).encode()
    data = b'{"Records":[' + CLOUDTRAIL.lines[1] + b"," + broken + b"," + CLOUDTRAIL.lines[2] + b"]}"
    first, aside, last = cloudtrail.read(data)
    assert (first.id, last.id) == ("0f2b3e81-EXAMPLE", "5a9b-EXAMPLE")
    assert isinstance(aside, Quarantined)
    assert aside.raw == broken.decode()
    assert missing in aside.reason
    assert data[aside.offset : aside.offset + aside.size] == broken
    assert not aside.rest


@pytest.mark.parametrize(
    "time", ['"2024-07-02T00:22:11"', '"yesterday"', "1719879731", '"\\u001b[31m"', "null", '"9999-12-31T23:59:59-23:59x"']
)
def test_a_time_that_is_none_is_kept_aside(time: str) -> None:
    broken = CLOUDTRAIL.lines[0].replace(b'"2024-07-02T00:22:11Z"', time.encode())
    (aside, event) = cloudtrail.read(b"[" + broken + b"," + CLOUDTRAIL.lines[1] + b"]")
    assert isinstance(aside, Quarantined)
    assert isinstance(event, AuditEvent)


def test_an_event_of_two_megabytes_is_an_event() -> None:
    record = json.loads(CLOUDTRAIL.lines[0])
    record["responseElements"] = {"blob": "x" * (2 << 20)}
    data = b'{"Records":[' + CLOUDTRAIL.lines[1] + b"," + json.dumps(record).encode() + b"," + CLOUDTRAIL.lines[2] + b"]}"
    assert [row.id for row in cloudtrail.read(gzip.compress(data))] == ["0f2b3e81-EXAMPLE", record["eventID"], "5a9b-EXAMPLE"]


@pytest.mark.parametrize("last", [False, True])
def test_a_record_beyond_the_limit_is_let_go_and_reading_goes_on_behind_it(last: bool) -> None:
    record = json.loads(CLOUDTRAIL.lines[0])
    record["responseElements"] = {"blob": "x" * (6 << 20)}
    behind = [] if last else [CLOUDTRAIL.lines[2]]
    data = b'{"Records":[' + b",".join([CLOUDTRAIL.lines[1], json.dumps(record).encode(), *behind]) + b"]}"
    event, aside, *more = cloudtrail.read(data, limits=Limits(record_bytes=2 << 20, kept_bytes=1000))
    assert isinstance(event, AuditEvent)
    assert isinstance(aside, Quarantined)
    assert aside.size > 6 << 20
    assert len(aside.raw) == 1000
    assert aside.raw.startswith('{"eventVersion')
    assert [row.id for row in more] == [json.loads(line)["eventID"] for line in behind]


def test_records_that_begin_unlike_each_other_are_read_all_the_same() -> None:
    records = [json.loads(line) for line in CLOUDTRAIL.lines]
    turned = [dict(reversed(record.items())) if number % 2 else record for number, record in enumerate(records * 900)]
    data = json.dumps({"Records": turned}).encode()
    assert len(data) > 2 << 20
    assert [row.id for row in cloudtrail.read(data, limits=Limits(record_bytes=1 << 20))] == [record["eventID"] for record in turned]


@pytest.mark.parametrize("data", [b"", b" \n", b'{"Records":[]}', b"[]", b'{"Records": [ ] }\n'])
def test_an_empty_log_has_no_rows(data: bytes) -> None:
    assert [*cloudtrail.read(data)] == []


@pytest.mark.parametrize(
    "data", [b'{"Records":"x"}', b"[1]", b"\x00\x01", b"<xml/>", b'{"awsAccountId":"1","logFiles":[]}', b"PK\x03\x04zip", b"["]
)
def test_what_is_no_delivery_is_one_row_that_says_so(data: bytes) -> None:
    (row,) = cloudtrail.read(data)
    assert isinstance(row, Quarantined)
    assert row.rest


@pytest.mark.parametrize("keep", [1, 3, 10, 200, 900, 1700, 2300])
def test_a_log_that_was_cut_short_gives_what_is_whole_and_says_that_it_is_not_all(keep: int) -> None:
    data = CLOUDTRAIL.data()[:keep]
    *events, last = cloudtrail.read(data)
    assert isinstance(last, Quarantined)
    assert last.rest
    assert {type(event) for event in events} <= {AuditEvent}
    assert len(events) == sum(line in data for line in CLOUDTRAIL.lines)
    assert last.raw in data.decode()
