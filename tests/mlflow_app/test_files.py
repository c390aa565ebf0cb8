"""The files of the log: nothing is lost silently, nothing waits for the disk, nobody writes to another's file."""

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mlsec_dagster.audit.events import AuditEvent, Quarantined
from mlsec_dagster.audit.sources.mlflow import Record
from mlsec_dagster.mlflow_app import files
from mlsec_dagster.mlflow_app.lines import line
from tests.mlflow_app.asgi import log_in, records, rows

ROOT = Path(__file__).parents[2]
PREAMBLE = """
import os, resource, sys, time
from pathlib import Path
from tests.mlflow_app.asgi import log_in
from tests.mlflow_app.test_files import access, until
directory = Path(sys.argv[1])
"""


def access(number: int, size: int = 0) -> bytes:
    record = Record(v=1, id=str(number), time="2026-01-02T03:04:05Z", server="s:1", method="GET", path="/x", user_agent="x" * size or None)
    return line(record)


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.005)


def ids(directory: Path) -> list[str]:
    return [record.id for record in records(directory) if record.dropped is None]


def dropped(directory: Path) -> int:
    return sum(record.dropped or 0 for record in records(directory))


def child(code: str, directory: Path) -> "subprocess.Popen[str]":
    directory.mkdir(exist_ok=True, mode=0o700)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + code, str(directory)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_lines_come_in_order_into_a_file_that_others_cannot_read(tmp_path: Path) -> None:
    log = log_in(tmp_path / "log")
    for number in range(2_000):
        log.put(access(number))
    assert log.close() == 0
    (path,) = (tmp_path / "log").iterdir()
    assert ids(tmp_path / "log") == [str(number) for number in range(2_000)]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert f"-{os.getpid()}-" in path.name


def test_a_file_is_followed_by_the_next_one_at_its_size_and_names_sort_by_time(tmp_path: Path) -> None:
    log = log_in(tmp_path / "log", rotate_bytes=10_000)
    for number in range(1_000):
        log.put(access(number))
    log.close()
    log.put(access(1_000))  # A log that was closed begins a new file.
    log.close()
    sizes = [path.stat().st_size for path in (tmp_path / "log").iterdir()]
    assert len(sizes) > 5
    assert max(sizes) <= 10_000
    assert ids(tmp_path / "log") == [str(number) for number in range(1_001)]


def test_an_old_file_ends_though_nobody_asks_for_anything(tmp_path: Path) -> None:
    log = log_in(tmp_path / "log", rotate_seconds=0.05)
    log.put(access(1))
    until(lambda: log._file is None and ids(tmp_path / "log") == ["1"])
    log.put(access(2))
    log.close()
    assert len([*(tmp_path / "log").iterdir()]) == 2


def test_a_request_does_not_wait_for_a_disk_that_hangs_and_what_was_dropped_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = threading.Event()
    write = files._write_some

    def hanging(file: int, data: bytes) -> int:
        disk.wait(60)
        return write(file, data)

    monkeypatch.setattr(files, "_write_some", hanging)
    log = log_in(tmp_path / "log", queue_lines=100)
    started = time.perf_counter()
    for number in range(1_000):
        log.put(access(number))
    assert time.perf_counter() - started < 5
    assert not disk.is_set()
    disk.set()
    until(lambda: dropped(tmp_path / "log") > 0)  # At once, not when somebody asks for something next.
    log.put(access(1_000))
    assert log.close() == 0
    kept = ids(tmp_path / "log")
    assert kept == [*map(str, range(100)), "1000"]
    assert len(kept) + dropped(tmp_path / "log") == 1_001
    assert any(isinstance(row, Quarantined) and "tells that it dropped" in row.reason for row in rows(tmp_path / "log"))


def test_the_queue_is_bounded_in_bytes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = threading.Event()
    write = files._write_some
    monkeypatch.setattr(files, "_write_some", lambda file, data: disk.wait(60) and write(file, data))
    log = log_in(tmp_path / "log", queue_bytes=10_000)
    for number in range(100):
        log.put(access(number, 1_000))
    disk.set()
    assert log.close() == 0
    assert len(ids(tmp_path / "log")) < 10
    assert len(ids(tmp_path / "log")) + dropped(tmp_path / "log") == 100


def test_a_line_that_is_too_long_is_counted_instead(tmp_path: Path) -> None:
    log = log_in(tmp_path / "log")
    log.put(b"x" * (64 << 10) + b"\n")
    log.close()
    assert (ids(tmp_path / "log"), dropped(tmp_path / "log")) == ([], 1)


def test_a_full_disk_tears_no_line_and_loses_none_that_the_queue_can_hold(tmp_path: Path) -> None:
    # A real limit of the kernel: it takes part of a write, and refuses the rest.
    process = child(
        """
resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, resource.RLIM_INFINITY))
log = log_in(directory, queue_lines=200)
for number in range(150):
    log.put(access(number))
until(lambda: log._failing and len(log._lines) < 150)  # Some were taken.
for number in range(150, 1_000):
    log.put(access(number))
(path,) = directory.iterdir()
until(lambda: path.read_bytes().endswith(b"\\n"))
print(path.stat().st_size, flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
until(lambda: b"dropped" in path.read_bytes() and not log._lines)
log.put(access(1_000))
print(log.close())
""",
        tmp_path / "log",
    )
    said, told = process.communicate(timeout=60)
    assert process.returncode == 0, told
    size, lost = map(int, said.split())
    assert 0 < size <= 5_000
    assert lost == 0
    kept = ids(tmp_path / "log")
    assert kept[-1] == "1000"  # The one that came with the room.
    numbers = [int(each) for each in kept]
    assert numbers == sorted(set(numbers))  # In order, each once.
    assert numbers[:150] == [*range(150)]
    assert 200 <= len(kept) - 1 < 1_000
    assert len(kept) + dropped(tmp_path / "log") == 1_001
    assert told.count("cannot be written") == 1
    assert told.count("can be written again") == 1


def test_a_directory_that_is_gone_is_told_once_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = log_in(tmp_path / "log")
    (tmp_path / "log").rmdir()
    for number in range(10):
        log.put(access(number))
    until(lambda: log._failing)
    assert log.close() == 10
    assert caplog.text.count("cannot be written") == 1
    assert "ends without 10 accesses" in caplog.text


def test_a_file_that_somebody_removes_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = log_in(tmp_path / "log")
    log.put(access(1))
    until(lambda: ids(tmp_path / "log") == ["1"])
    next((tmp_path / "log").iterdir()).unlink()
    log.put(access(2))
    log.close()
    assert ids(tmp_path / "log") == ["2"]
    assert "Somebody removed" in caplog.text


def test_two_processes_and_a_fork_have_files_of_their_own(tmp_path: Path) -> None:
    code = """
log = log_in(directory)
log.put(access(1))
until(lambda: any(directory.glob(f"*-{os.getpid()}-*")))
with log._changed:  # A request is just being logged.
    forked = os.fork()
if forked == 0:
    log.put(access(2))
    os._exit(log.close())
assert os.waitpid(forked, 0)[1] == 0
log.put(access(3))
log.close()
print(os.getpid(), forked)
"""
    processes = [child(code, tmp_path / "log") for _ in range(2)]
    pids: list[str] = []
    for process in processes:
        said, told = process.communicate(timeout=60)
        assert process.returncode == 0, told
        pids += said.split()
    found = {path.name.split("-")[-3]: path.read_bytes().count(b"\n") for path in (tmp_path / "log").iterdir()}
    assert found == {pid: (2 if number % 2 == 0 else 1) for number, pid in enumerate(pids)}


def test_kill_9_leaves_lines_that_a_new_process_does_not_touch(tmp_path: Path) -> None:
    process = child(
        """
log = log_in(directory)
number = 0
while True:
    log.put(access(number, 500))
    number += 1
    if number % 50 == 0:
        time.sleep(0.001)
""",
        tmp_path / "log",
    )
    until(lambda: any(path.stat().st_size > 200_000 for path in (tmp_path / "log").iterdir()))
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    (path,) = (tmp_path / "log").iterdir()
    with path.open("ab") as file:  # A line that was torn, as a power cut leaves it.
        file.write(access(10**9)[:40])
    torn = path.read_bytes()
    log = log_in(tmp_path / "log")
    log.put(access(-1))
    log.close()
    assert path.read_bytes() == torn
    whole = [row.id for row in rows(tmp_path / "log") if isinstance(row, AuditEvent)]
    assert sorted(map(int, whole)) == [-1, *range(len(whole) - 1)]
    assert sum(isinstance(row, Quarantined) for row in rows(tmp_path / "log")) == 1


def test_what_waits_when_a_process_ends_is_written(tmp_path: Path) -> None:
    process = child("log = log_in(directory)\nfor number in range(5_000): log.put(access(number))\n", tmp_path / "log")
    _, told = process.communicate(timeout=60)
    assert process.returncode == 0, told
    assert ids(tmp_path / "log") == [str(number) for number in range(5_000)]
