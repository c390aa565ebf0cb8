"""Whatever is wrong with a log: every good record comes out, everything else is kept and marked, and nothing raises."""

import gzip
import time
import tracemalloc
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlsec_dagster.audit.events import AuditEvent, Quarantined
from mlsec_dagster.audit.limits import DEFAULT_LIMITS, Limits
from mlsec_dagster.audit.sources.streams import PIECE, inflate
from tests.audit.documented import CLOUDTRAIL, LOGS, WANDB, Log, Row, lines_of

every_log = pytest.mark.parametrize("log", LOGS, ids=lambda log: log.source)
BAD = {
    "no JSON": b"{nonsense",
    "half a line": b'{"eventVersion":"1.08","time',
    "an unclosed string": b'{"a":"b',
    "no object": b"42",
    "invalid UTF-8": b'{"eventVersion":"\xff\xfe","timestamp":"\xc3\x28"}',
    "a lone surrogate": b'{"eventVersion":"\\ud800","action":"\\udfff","timestamp":"\\ud800"}',
    "deep nesting": b'{"eventVersion":' + b"[" * 20000 + b"]" * 20000 + b"}",
    "NUL": b"\x00" * 100,
    "an empty object": b"{}",
}


def events(rows: list[Row]) -> list[AuditEvent]:
    return [row for row in rows if isinstance(row, AuditEvent)]


@every_log
def test_documented_examples_are_events(log: Log) -> None:
    rows = [*log.read(log.data())]
    assert len(events(rows)) == len(rows) == len(log.lines)
    assert {row.source for row in rows} == {log.source}
    assert len({row.id for row in rows}) == len(rows)
    assert [*log.read(gzip.compress(log.data()))] == rows
    assert [*log.read(b"\xef\xbb\xbf" + log.data())] == rows


@every_log
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_a_bad_line_in_the_middle_costs_nobody_but_itself(log: Log, bad: bytes) -> None:
    good = events([*log.read(log.data())])
    rows = [*log.read(lines_of(log, [log.lines[0], bad, *log.lines[1:]]).data())]
    assert events(rows) == good
    (aside,) = [row for row in rows if isinstance(row, Quarantined)]
    assert rows.index(aside) == 1
    assert aside.size == len(bad)
    assert aside.raw == bad.decode("utf-8", "backslashreplace")
    assert aside.id.startswith("blake3:")
    assert aside.reason
    assert not aside.rest


@every_log
def test_any_bytes_at_all_are_rows(log: Log) -> None:
    @settings(max_examples=60, deadline=None)
    @given(
        st.binary(max_size=300) | st.lists(st.sampled_from([*log.lines, *BAD.values(), b'{"Records":[', b"]}", b",", b"\n"])).map(b"".join)
    )
    def check(data: bytes) -> None:
        for row in log.read(data):
            assert isinstance(row, (AuditEvent, Quarantined))

    check()


@every_log
def test_a_truncated_gzip_gives_what_came_and_says_that_it_is_not_all(log: Log) -> None:
    whole = gzip.compress(log.data(), compresslevel=0)
    good = events([*log.read(log.data())])
    for keep in (5, 12, len(whole) // 2, len(whole) - 9, len(whole) - 1):
        *before, last = log.read(whole[:keep])
        assert before == good[: len(before)]
        assert isinstance(last, Quarantined)
        assert last.rest
        assert "gzip" in last.reason


@every_log
def test_damaged_gzip_is_told(log: Log) -> None:
    data = bytearray(gzip.compress(log.data() * 20))
    data[len(data) // 2] ^= 0xFF
    *_, last = log.read(bytes(data))
    assert isinstance(last, Quarantined)
    assert last.rest


def test_several_gzip_members_are_one_log() -> None:
    data = b"".join(gzip.compress(line + b"\n") for line in WANDB.lines) + b"\0" * 512
    assert [*WANDB.read(data)] == [*WANDB.read(WANDB.data())]


@pytest.mark.parametrize("log", [CLOUDTRAIL, WANDB], ids=lambda log: log.source)
def test_a_long_record_in_small_pieces_takes_no_more_than_its_length(log: Log) -> None:
    long = log.lines[0][:-1] + b',"more":"' + b"x" * (4 << 20) + b'"}'
    data = lines_of(log, [long, *log.lines[1:]]).data()
    before = time.process_time()
    rows = [*log.read(data[at : at + 500] for at in range(0, len(data), 500))]
    assert time.process_time() - before < 3
    assert len(events(rows)) == len(rows) == len(log.lines)


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, PIECE + 258, 3 * PIECE])
def test_whole_gzip_is_never_taken_for_truncated(size: int) -> None:
    for data in (b"a" * size, bytes(range(256)) * (size // 256)):
        pieces = [*inflate(gzip.compress(data), DEFAULT_LIMITS)]
        assert b"".join(pieces) == data
        assert max(map(len, pieces), default=0) < 2 * PIECE


@pytest.mark.parametrize(
    "unit",
    [
        b"{},",
        b'{"eventVersion":1},',
        b'{"eventVersion":',
        b"]",
        b"}",
        b'"',
        b'\\"',
        b"[",
        b'{"eventVersion":"1","eventTime":"x","eventSource":"","eventName":"","eventID":""},',
    ],
)
def test_a_hostile_array_takes_no_more_than_its_length(unit: bytes) -> None:
    data = b'{"Records":[' + CLOUDTRAIL.lines[0] + b"," + unit * (300_000 // len(unit)) + CLOUDTRAIL.lines[1] + b"]}"
    before = time.process_time()
    for row in CLOUDTRAIL.read(data):
        assert isinstance(row, (AuditEvent, Quarantined))
    assert time.process_time() - before < 5


def bomb(head: bytes) -> Iterator[bytes]:
    """Gigabytes of blanks in a few megabytes, made while they are read."""
    squeeze = zlib.compressobj(9, wbits=31)
    yield squeeze.compress(head)
    for _ in range(4096):
        yield squeeze.compress(b" " * (1 << 20))
    yield squeeze.flush()


@every_log
def test_a_bomb_is_refused_before_it_fills_memory(log: Log) -> None:
    tracemalloc.start()
    try:
        *before, last = log.read(bomb(log.data().removesuffix(b"]}")), limits=Limits(ratio_from=24 << 20))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(last, Quarantined)
    assert last.rest
    assert "ratio=400" in last.reason
    assert peak < 100 << 20
    assert len(events([*before, last])) >= len(log.lines) - 1


@every_log
def test_a_line_beyond_the_limit_is_kept_in_part_and_reading_goes_on(log: Log) -> None:
    if log is CLOUDTRAIL:
        pytest.skip("has no lines; tests/audit/test_cloudtrail.py has the same for its records")
    long = b"x" * (3 << 20)
    data = lines_of(log, [log.lines[0], long, *log.lines[1:]]).data()
    pieces = (data[at : at + 60_000] for at in range(0, len(data), 60_000))
    rows = [*log.read(pieces, limits=Limits(record_bytes=1 << 20, kept_bytes=500))]
    assert events(rows) == events([*log.read(log.data())])
    (aside,) = [row for row in rows if isinstance(row, Quarantined)]
    assert (aside.size, aside.raw, aside.offset, aside.rest) == (len(long), "x" * 500, len(log.lines[0]) + 1, False)


@every_log
def test_a_hostile_text_stays_data(log: Log) -> None:
    hostile = [
        "\x1b]0;owned\x07\x1b[31m",
        "../../etc/passwd",
        "=cmd|' /C calc'!A0",
        "<script>alert(1)</script>",
        "a\u202eb",
        "${jndi:ldap://x}",
    ]
    for text in hostile:
        escaped = text.encode("unicode_escape").replace(b"\\x", b"\\u00") if log.source != "aws.s3_access" else text.encode()
        for old in (b"model.pkl", b"alice", b"mlpipeline-minio-artifact", b"churn", b"intern"):
            lines = [line.replace(old, escaped) for line in log.lines]
            if lines == log.lines:
                continue
            for row, before in zip(log.read(lines_of(log, lines).data()), log.read(log.data()), strict=True):
                assert isinstance(before, AuditEvent)
                if isinstance(row, AuditEvent):
                    assert (row.time, row.action, row.plane, row.outcome) == (before.time, before.action, before.plane, before.outcome)
                else:
                    assert log.source == "aws.s3_access"  # A space or a quote within a bare field makes it another line.


def test_texts_come_out_as_they_were_written() -> None:
    text = "\x1b[2J=1+1\u202e../../x"
    line = WANDB.lines[0].replace(b"team/project/churn", text.encode("unicode_escape").replace(b"\\x", b"\\u00"))
    (row,) = WANDB.read(line)
    assert isinstance(row, AuditEvent)
    assert row.object == text
