"""Whatever is wrong within a log file costs no other record, and is told."""

import gzip
import json
import subprocess
import sys
import time
import tracemalloc
from collections import Counter

import pytest

from mlsec_dagster.audit.places import Directory
from tests.audit.trail.made import delivery, ids, line, rows
from tests.audit.trail.naive import ByKey, ids_of_delivery, ids_of_good_lines, ids_of_lines


def once(numbers, name="event") -> dict[str, int]:
    return {f"{name}-{number}": 1 for number in numbers}


def kinds(trail) -> Counter[str]:
    return Counter(row["kind"] for row in rows(trail, "kind"))


@pytest.mark.parametrize("keep", [1, 12, 0.5, -9, -1])
def test_truncated_gzip_stops_a_naive_reader_and_costs_ours_only_what_is_not_there(keep, logs, tick, trail):
    whole = delivery(range(1000))
    (logs / "a.json.gz").write_bytes(whole[: int(len(whole) * keep)] if isinstance(keep, float) else whole[:keep])
    (logs / "b.json.gz").write_bytes(delivery(range(1000, 1010)))
    naive = ByKey(Directory(logs), ids_of_delivery)
    with pytest.raises((EOFError, gzip.BadGzipFile)):
        naive.tick()
    assert not naive.found  # Not even of what lies behind it, at this tick and at every other.
    report = tick("cloudtrail")
    assert report.incomplete == ["a.json.gz"]
    found = ids(trail)
    assert found.items() >= once(range(1000, 1010)).items()
    assert found.items() <= once(range(1010)).items()
    assert ("event-499" in found) == (keep not in {1, 12, 0.5})
    (logs / "a.json.gz").write_bytes(whole)
    tick("cloudtrail")
    assert ids(trail) == once(range(1010))


BAD = {
    "half a record": b'{"v":1,"id":"request-',
    "no JSON": b"Segmentation fault (core dumped)",
    "invalid UTF-8": b'{"v":1,"id":"request-\xff\xfe","time":"2026-05-01T00:00:00Z"}',
    "a missing field": b'{"v":1,"id":"request-x","server":"host:1","method":"GET","path":"/"}',
    "NULs of a crash": b"\0" * 5000,
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_a_bad_line_in_the_middle_stops_a_naive_reader_and_costs_ours_nothing(bad, logs, tick, trail):
    (logs / "a.jsonl").write_bytes(line(0) + line(1) + bad + b"\n" + line(2) + line(3))
    (logs / "b.jsonl").write_bytes(line(4))
    naive = ByKey(Directory(logs), lambda data: [(record := json.loads(text), record["time"])[0]["id"] for text in data.splitlines()])
    with pytest.raises((ValueError, KeyError)):
        naive.tick()
    assert not naive.found
    for _ in range(2):
        tick()
        assert ids(trail) == once(range(5), "request")
        (aside,) = (row for row in rows(trail, "kind", "raw", "reason", "offset") if row["kind"] == "quarantined")
        assert aside["raw"] == bad.decode("utf-8", "backslashreplace")
        assert aside["reason"]
        assert aside["offset"] == len(line(0) + line(1))


def test_a_reader_that_skips_bad_lines_does_not_tell_of_them(logs, tick, trail):
    attack = line(1, user="mallory").replace(b'"v"', b'"\xff"')  # An access that somebody has made unreadable.
    (logs / "a.jsonl").write_bytes(line(0) + attack + line(2))
    naive = ByKey(Directory(logs), ids_of_good_lines)
    naive.tick()
    assert naive.found == once((0, 2), "request")  # As if it had been all.
    tick()
    assert kinds(trail) == {"event": 2, "quarantined": 1}
    assert any("mallory" in (row["raw"] or "") for row in rows(trail, "raw"))


def test_a_field_that_is_not_known_yet_costs_nothing(logs, tick, trail):
    (logs / "a.jsonl").write_bytes(line(0) + line(1, next_year={"deep": [1, 2, {"x": None}]}) + line(2))

    def strict(data: bytes) -> list[str]:
        known = set(json.loads(line(0)))
        records = [json.loads(text) for text in data.splitlines()]
        if any(set(record) - known for record in records):
            raise TypeError("got an unexpected keyword argument")
        return [record["id"] for record in records]

    naive = ByKey(Directory(logs), strict)
    with pytest.raises(TypeError):
        naive.tick()
    tick()
    assert ids(trail) == once(range(3), "request")
    assert kinds(trail) == {"event": 3}


@pytest.mark.parametrize("compressed", [False, True])
def test_an_event_of_two_megabytes_is_kept_whole(compressed, logs, tick, trail):
    long = line(1, user_agent="x" * (2 << 20))
    data = line(0) + long + line(2)
    (logs / f"a.jsonl{'.gz' * compressed}").write_bytes(gzip.compress(data) if compressed else data)
    # As a reader of streams with a buffer of a megabyte has it.
    pieces = [data[start : start + (1 << 20)] for start in range(0, len(data), 1 << 20)]
    naive = [each for piece in pieces for each in ids_of_good_lines(piece)]
    assert "request-1" not in naive
    tick()
    assert ids(trail) == once(range(3), "request")
    assert max(len(row["user_agent"] or "") for row in rows(trail, "user_agent")) == 2 << 20


def bomb(head: bytes) -> bytes:
    """A gigabyte of blanks behind a log, in a megabyte."""
    return gzip.compress(head) + gzip.compress(b" " * (16 << 20)) * 64


NAIVE = """
import gzip, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (512 << 20, 512 << 20))
gzip.decompress(open(sys.argv[1], "rb").read())
"""


@pytest.mark.parametrize("kind", ["cloudtrail", "mlflow"])
def test_a_zip_bomb_is_told_as_incomplete_in_bounded_time_and_memory(kind, logs, tick, trail):
    if kind == "cloudtrail":
        name, head, more = "event", gzip.decompress(delivery(range(10))).removesuffix(b"]}"), delivery(range(10, 20))
        first, second = logs / "a.json.gz", logs / "b.json.gz"
    else:
        name, head, more = "request", b"".join(map(line, range(10))), b"".join(map(line, range(10, 20)))
        first, second = logs / "a.jsonl.gz", logs / "b.jsonl"
    first.write_bytes(bomb(head))
    second.write_bytes(more)
    assert first.stat().st_size < 2 << 20
    naive = subprocess.run([sys.executable, "-c", NAIVE, str(first)], capture_output=True, text=True, check=False)
    assert "MemoryError" in naive.stderr
    before = time.process_time()
    tracemalloc.start()
    try:
        report = tick(kind)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert time.process_time() - before < 15
    assert peak < 200 << 20
    assert report.incomplete == [first.name]
    asides = [row for row in rows(trail, "kind", "reason", "rest", "raw") if row["kind"] == "quarantined"]
    (last,) = (row for row in asides if row["rest"])
    assert "ratio=400" in last["reason"]
    # The record that the blanks follow may be too long with them; then it is kept as text.
    kept = {f"event-{number}" for number in range(10) if any(f'"event-{number}"' in row["raw"] for row in asides)}
    assert len(kept) <= 1
    assert ids(trail) == {each: 1 for each in once(range(20), name) if each not in kept}
    assert max(len(row["raw"]) for row in asides) <= 256 << 10
    assert tick(kind).read == 0  # It is not inflated again at every tick.


def test_lines_that_end_in_carriage_returns_and_no_newline_at_the_end_are_lines(logs, tick, trail):
    (logs / "a.jsonl.gz").write_bytes(gzip.compress(line(0).replace(b"\n", b"\r\n") + b"\r\n" + line(1).rstrip(b"\n")))
    tick()
    assert ids(trail) == once(range(2), "request")
    assert ids_of_lines(line(0)) == ["request-0"]
