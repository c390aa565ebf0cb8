"""Events become the same rows by both ways: as lines that Arrow reads, and member by member."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlsec_dagster.audit.artifacts import Artifact
from mlsec_dagster.audit.events import AuditEvent
from mlsec_dagster.audit.rows import event_lines, event_table, events_of

TRICKY = [
    "",
    "null",
    "null]",
    "]",
    '"',
    '""',
    "\\",
    "\\\\",
    '\\"',
    'a","b',
    ",",
    "[",
    "\n",
    "\r\n",
    "\t",
    "\0",
    "\x7f",
    "é",
    "\u2028",
    "💥",
    "1",
    "NaN",
]
TEXTS = st.none() | st.sampled_from(TRICKY) | st.lists(st.sampled_from(TRICKY)).map("".join) | st.text(max_size=20)
NUMBERS = st.none() | st.integers(0, 1 << 62)


@st.composite
def events(draw: st.DrawFn) -> AuditEvent:
    texts: dict[str, Any] = {name: draw(TEXTS) for name in ("principal", "error", "user_agent", "request", "object", "digest", "service")}
    return AuditEvent(
        "mlflow.audit",
        draw(st.text(max_size=9)),
        draw(st.integers(0, 1 << 50)),
        "op",
        "read",
        "data",
        "success",
        bytes_in=draw(NUMBERS),
        **texts,
    )


def made(listed: Any, count: int) -> Any:
    return event_table(listed, [Artifact("none")] * count, [b"k" * 16] * count, ["x"] * count, 0)


@settings(max_examples=300, deadline=None)
@given(st.lists(events(), min_size=1, max_size=5))
def test_any_text_is_the_same_text_in_the_row(listed: list[AuditEvent]) -> None:
    lines = event_lines(listed)
    assert isinstance(lines, bytes)
    table = made(lines, len(listed))
    assert table.equals(made(listed, len(listed)))
    read = table.append_column("source", [["mlflow.audit"] * len(listed)])
    assert events_of(read) == listed


@pytest.mark.parametrize("text", TRICKY)
@pytest.mark.parametrize("member", ["id", "principal", "digest"])
def test_each_tricky_text_is_kept(text: str, member: str) -> None:
    told: dict[str, Any] = {"id": "a", member: text}
    event = AuditEvent(source="mlflow.audit", time=0, operation="op", action="read", plane="data", outcome="success", **told)
    table = made(event_lines([event] * 2), 2)
    assert table.column(member).to_pylist() == [text, text]
    assert table.column("bytes_in").to_pylist() == [None, None]


@pytest.mark.parametrize("text", ["", "null", "null]", 'say "a, b"', "é💥", "]"])
def test_ordinary_texts_are_read_by_arrow_and_not_member_by_member(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlsec_dagster.audit.rows._columns_of", None)
    event = AuditEvent("mlflow.audit", "a", 0, "op", "read", "data", "success", principal=text, bytes_in=7)
    table = made(event_lines([event] * 3), 3)
    assert table.column("principal").to_pylist() == [text] * 3
    assert table.column("bytes_in").to_pylist() == [7] * 3


@pytest.mark.parametrize("number", [1 << 63, (1 << 64) - 1, 1 << 80])
def test_a_number_that_fits_no_column_is_the_largest_that_does(number: int) -> None:
    event = AuditEvent("mlflow.audit", "a", 0, "op", "read", "data", "success", port=number, bytes_out=number, bytes_in=number)
    table = made(event_lines([event]), 1)
    assert table.column("bytes_in").to_pylist() == table.column("bytes_out").to_pylist() == [(1 << 63) - 1]
    assert table.column("port").to_pylist() == [(1 << 31) - 1]


def test_a_text_larger_than_a_block_is_kept() -> None:
    large = "x" * (17 << 20)
    event = AuditEvent("mlflow.audit", "a", 0, "op", "read", "data", "success", error=large)
    assert made(event_lines([event]), 1).column("error").to_pylist() == [large]
