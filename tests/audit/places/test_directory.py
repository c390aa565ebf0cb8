"""What only a disk does: links, FIFOs, devices, names that are no UTF-8, and writers who are not friends."""

import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlsec_dagster.audit.objects import LogObject, ObjectChangedError
from mlsec_dagster.audit.places import Directory
from mlsec_dagster.errors import ConfigurationError, StoreError
from tests.audit.places.storages import Disk


def content(place: Directory, found: LogObject) -> bytes:
    return b"".join(place.read(found))


def forged(key: str, file: Path) -> LogObject:
    """What a listing would say if it had found that file under this key."""
    status = file.stat()
    return LogObject(key, f"{status.st_ino}-{status.st_mtime_ns}", status.st_size, status.st_mtime_ns // 1000, str(status.st_ino))


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    secret = tmp_path / "outside" / "secret.json"
    secret.parent.mkdir()
    secret.write_text("secret")
    return secret


def test_symbolic_links_are_neither_listed_nor_followed(disk: Disk, outside: Path) -> None:
    disk.put("real/log.json", b"x")
    (disk.root / "file").symlink_to(outside)
    (disk.root / "folder").symlink_to(outside.parent)
    (disk.root / "inner").symlink_to(disk.root / "real")
    place = disk.place()
    assert [found.key for found in place.list()] == ["real/log.json"]
    assert place.skipped == 3
    assert [*place.folders()] == ["real"]
    assert [*place.list("folder/")] == []
    assert [*place.folders("folder/")] == []
    for key in (
        "file",
        "folder/secret.json",
        "../outside/secret.json",
        "real/../../outside/secret.json",
        str(outside),
        "\0",
        "a\0/b",
        "real",
    ):
        with pytest.raises(ObjectChangedError):
            content(place, forged(key, outside))


def test_a_file_that_a_link_took_the_place_of_is_not_read(disk: Disk, outside: Path) -> None:
    disk.put("logs/a.json", b"secret")
    place = disk.place()
    [found] = place.list()
    (disk.root / "logs").rename(disk.root / "moved")
    (disk.root / "logs").symlink_to(outside.parent)
    (outside.parent / "a.json").write_text("secret")
    with pytest.raises(ObjectChangedError):
        content(place, found)


def test_a_fifo_neither_blocks_nor_is_listed(disk: Disk) -> None:
    disk.put("log", b"x")
    os.mkfifo(disk.root / "pipe")
    place = disk.place()
    assert [found.key for found in place.list()] == ["log"]
    assert place.skipped == 1
    with pytest.raises(ObjectChangedError):
        content(place, forged("pipe", disk.root / "pipe"))


def test_a_file_that_was_rewritten_without_growing_is_not_read(disk: Disk) -> None:
    disk.append("log", b"12345")
    place = disk.place()
    [found] = place.list()
    until = time.time_ns()
    while time.time_ns() < until + 20_000_000:  # Until the file system's clock has moved on.
        pass
    (disk.root / "log").write_bytes(b"54321")
    with pytest.raises(ObjectChangedError, match="written to without growing"):
        content(place, found)


def test_a_file_that_was_cut_is_told_apart(disk: Disk) -> None:
    disk.append("log", b"12345")
    place = disk.place()
    [found] = place.list()
    os.truncate(disk.root / "log", 2)
    with pytest.raises(ObjectChangedError, match="was cut from 5 to 2 bytes"):
        content(place, found)


def test_a_file_that_is_cut_while_it_is_read_is_noticed(disk: Disk) -> None:
    disk.append("log", b"x" * (5 << 20))
    place = disk.place()
    [found] = place.list()
    pieces = place.read(found)
    next(pieces)
    os.truncate(disk.root / "log", 2 << 20)
    with pytest.raises(ObjectChangedError):
        b"".join(pieces)


def test_names_that_are_no_text_are_found_and_read(disk: Disk) -> None:
    raw = os.fsencode(disk.root)
    Path(os.fsdecode(raw + b"/caf\xe9")).mkdir()
    for name in (b"caf\xe9/log-\xff\xfe.json", b"log-\xff", b"log-\\xff"):
        with open(raw + b"/" + name, "wb") as file:
            file.write(name)
    place = disk.place()
    found = {each.key.encode(): content(place, each) for each in place.list()}  # A key that is no text would not encode.
    assert set(found) == {b"caf\\xe9/log-\\xff\\xfe.json", b"log-\\xff"}
    assert {content(place, each) for each in place.list()} == {b"caf\xe9/log-\xff\xfe.json", b"log-\xff", b"log-\\xff"}
    assert [*place.folders()] == ["caf\\xe9"]
    assert [each.key for each in place.list("caf\\xe9/")] == ["caf\\xe9/log-\\xff\\xfe.json"]


def test_a_directory_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    with pytest.raises(ConfigurationError, match=r"a\.jsonl is a file: name the directory"):
        Directory(tmp_path / "a.jsonl")
    with pytest.raises(ConfigurationError, match=r"There is no directory .*nowhere\. Create it"):
        Directory(tmp_path / "nowhere")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_told(disk: Disk) -> None:
    disk.put("closed/log", b"x")
    (disk.root / "closed").chmod(0)
    try:
        with pytest.raises(StoreError, match=r"may not read it.*EACCES"):
            [*disk.place().list()]
    finally:
        (disk.root / "closed").chmod(0o700)


def test_no_descriptor_is_left_open(disk: Disk) -> None:
    for number in range(5):
        disk.put(f"{number}/log", b"x" * (2 << 20))
    place = disk.place()
    before = len([*Path("/proc/self/fd").iterdir()])
    for found in place.list():
        next(place.read(found))
        content(place, found)
        place.metadata(found)
        with pytest.raises(ObjectChangedError):
            content(place, LogObject(found.key, "1-1", 1, 1, "1"))
    next(place.list())
    assert len([*Path("/proc/self/fd").iterdir()]) == before


NAMES = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda name: name not in {".", "..", ".new"} and len(name.encode()) < 200
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=st.dictionaries(st.tuples(NAMES, NAMES), st.binary(max_size=20), max_size=5))
def test_whatever_is_written_is_found_and_read(tmp_path_factory: pytest.TempPathFactory, files: dict[tuple[str, str], bytes]) -> None:
    disk = Disk(tmp_path_factory.mktemp("logs"))
    for (folder, name), data in files.items():
        disk.put(f"{folder}/{name}", data)
    place = disk.place()
    assert {found.key: content(place, found) for found in place.list()} == {"/".join(path): data for path, data in files.items()}
