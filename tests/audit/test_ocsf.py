import json
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlsec_dagster.audit.events import SOURCES, Action, AuditEvent, Outcome, Plane
from mlsec_dagster.audit.ocsf import API_ACTIVITY, DATASTORE_ACTIVITY, from_ocsf, to_ocsf
from mlsec_dagster.errors import ConfigurationError
from tests.audit.documented import LOGS, Log
from tests.audit.ocsf_schema import problems

BOUND = {
    "source": st.sampled_from(SOURCES),
    "action": st.sampled_from(get_args(Action)),
    "plane": st.sampled_from(get_args(Plane)),
    "outcome": st.sampled_from(get_args(Outcome)),
    "time": st.integers(-62135596800000000, 253402300799999999),
    "logged": st.none() | st.integers(-62135596800000000, 253402300799999999),
    "status": st.none() | st.sampled_from(["200", "403", "999", "AccessDenied", "0", "200\n", "٢٠٠"]),
    "address": st.none() | st.ip_addresses().map(str) | st.text(max_size=5),
    "service": st.none() | st.sampled_from(["s3.amazonaws.com", "Microsoft.Storage", "x", "unknown"]),
}
TEXT = st.text(st.characters(codec="utf-8"), max_size=8) | st.just("unknown")


def any_value(field: msgspec.structs.FieldInfo) -> st.SearchStrategy[Any]:
    if field.name in BOUND:
        return BOUND[field.name]
    if field.required:
        return TEXT
    return st.none() | (st.integers(0, 1 << 62) if "int" in str(field.type) else TEXT)


FIELDS = {field.name: any_value(field) for field in msgspec.structs.fields(AuditEvent)}


@settings(max_examples=300, deadline=None)
@given(st.fixed_dictionaries(FIELDS))
def test_any_event_comes_back_from_ocsf_without_loss(values: dict[str, Any]) -> None:
    event = AuditEvent(**values)
    record = json.loads(json.dumps(to_ocsf(event)))
    assert from_ocsf(record) == event


@settings(max_examples=60, deadline=None)
@given(st.fixed_dictionaries(FIELDS))
def test_any_event_is_valid_ocsf(values: dict[str, Any]) -> None:
    assert problems(to_ocsf(AuditEvent(**values))) == []


@pytest.mark.parametrize("log", LOGS, ids=lambda log: log.source)
def test_each_logs_records_are_valid_ocsf_and_come_back(log: Log) -> None:
    for event in log.read(log.data()):
        assert isinstance(event, AuditEvent)
        record = to_ocsf(event)
        assert problems(record) == []
        assert from_ocsf(record) == event
        assert record["class_uid"] == (DATASTORE_ACTIVITY if event.plane == "data" and event.container else API_ACTIVITY)
        assert ("ai_operation" in record["metadata"]["profiles"]) == (event.model is not None)


def test_the_validator_sees_what_is_wrong() -> None:
    event = next(iter(LOGS[0].read(LOGS[0].data())))
    assert isinstance(event, AuditEvent)
    for change in (
        {"severity_id": 7},
        {"nonsense": 1},
        {"time": "now"},
        {"databucket": {"name": "x"}},
        {"ai_model": {"name": "m", "ai_provider": "p"}},
        {"time_dt": "yesterday"},
        {"src_endpoint": {"ip": "x"}},
    ):
        assert problems(to_ocsf(event) | change) != [], change
    record = to_ocsf(event)
    del record["databucket"]
    assert any("at_least_one" in each for each in problems(record))


@pytest.mark.parametrize("record", [{}, {"class_uid": 6003}, {"class_uid": 1, "metadata": {}}, {"class_uid": 6003, "metadata": 3}])
def test_what_to_ocsf_did_not_write_is_refused(record: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="no OCSF record"):
        from_ocsf(record)
