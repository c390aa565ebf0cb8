"""Files: what is hashed is what is there, and what cannot be hashed safely is refused."""

import hashlib
import io
import multiprocessing
import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import blake3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsec_dagster.errors import ConfigurationError, UnverifiableError
from mlsec_dagster.integrity import files
from mlsec_dagster.integrity.digests import hash_bytes, hash_stream, merkle_root, parse_digest
from mlsec_dagster.integrity.files import copy_and_hash, entry_name, hash_file, hash_path, native_entry, read_sha256sums
from mlsec_dagster.integrity.manifest import Manifest


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, (9 << 20) + 17])
@pytest.mark.parametrize("algorithm", ["blake3", "sha256"])
def test_every_way_to_hash_agrees_with_the_plain_library(tmp_path: Path, size: int, algorithm: str) -> None:
    data = os.urandom(size)
    path = tmp_path / "data"
    path.write_bytes(data)
    plain = blake3.blake3(data).hexdigest() if algorithm == "blake3" else hashlib.sha256(data).hexdigest()
    expected = f"{algorithm}:{plain}"
    assert hash_bytes(data, algorithm) == expected
    assert hash_stream(io.BytesIO(data), algorithm) == (size, expected)
    assert hash_file(path, algorithm) == files.FileEntry("", size, expected)
    assert hash_path(path, algorithm) == (files.FileEntry("", size, expected),)
    assert copy_and_hash(path, tmp_path / "copy", algorithm) == hash_path(path, algorithm)
    assert (tmp_path / "copy").read_bytes() == data


def test_an_error_while_reading_reaches_the_caller() -> None:
    class Broken(io.RawIOBase):
        def read(self, _size: int = -1) -> bytes:
            raise OSError("the network is gone")

    with pytest.raises(OSError, match="the network is gone"):
        hash_stream(Broken())  # type: ignore[arg-type]


def test_an_unknown_algorithm_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'md5' is unknown; use one of blake3, sha256"):
        hash_bytes(b"", "md5")


@pytest.mark.parametrize("text", ["", "blake3:", "md5:" + "0" * 32, "blake3:" + "0" * 63, "blake3:" + "A" * 64, "blake3: " + "0" * 63])
def test_only_a_whole_digest_of_a_known_algorithm_is_parsed(text: str) -> None:
    with pytest.raises(UnverifiableError, match="is not a digest"):
        parse_digest(text)


def test_a_directory_is_listed_by_path_with_every_file(tmp_path: Path) -> None:
    for name in ("b/x", "a", "b-c", "b/y/z"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    entries = hash_path(tmp_path)
    assert [entry.path for entry in entries] == ["a", "b-c", "b/x", "b/y/z"]
    assert [entry.digest for entry in entries] == [hash_bytes(entry.path.encode()) for entry in entries]


def test_a_private_copy_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "inner").mkdir(parents=True)
    (source / "inner" / "x").write_text("x")
    (source / "inner" / "x").chmod(0o666)
    old = os.umask(0)
    try:
        assert copy_and_hash(source, tmp_path / "new" / "deep" / "copy") == hash_path(source)
    finally:
        os.umask(old)
    for path in (tmp_path / "new", tmp_path / "new/deep", tmp_path / "new/deep/copy", tmp_path / "new/deep/copy/inner"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "new/deep/copy/inner/x").stat().st_mode) == 0o600


def test_a_copy_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    with pytest.raises(UnverifiableError, match="File exists"):
        copy_and_hash(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "b"


def test_names_that_are_not_utf8_are_kept_apart(tmp_path: Path) -> None:
    for name in (b"\xff", b"\\xff", b"\xc3\xa9", b"e\xcc\x81"):
        (tmp_path / os.fsdecode(name)).write_bytes(name)
    entries = hash_path(tmp_path)
    assert {entry.path for entry in entries} == {"\\xff", "\\\\xff", "é", "e\u0301"}
    assert Manifest.from_bytes(Manifest(entries).to_bytes()).files == entries
    assert copy_and_hash(tmp_path, tmp_path.parent / f"{tmp_path.name}-copy") == entries


@given(st.lists(st.binary(min_size=1, max_size=4), min_size=2, max_size=2, unique=True))
def test_different_names_never_look_the_same(names: list[bytes]) -> None:
    assert entry_name(names[0]) != entry_name(names[1])


def test_what_is_no_regular_file_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "dir").mkdir()
    os.mkfifo(tmp_path / "dir" / "fifo")
    (tmp_path / "link").symlink_to("file")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    kinds = {
        "dir/fifo": "FIFO",
        "dir": "FIFO",
        "link": "symbolic link",
        "socket": "socket",
        "/dev/zero": "device",
        "none": "does not exist",
    }
    for path, kind in kinds.items():
        with pytest.raises(UnverifiableError, match=kind):
            hash_path(tmp_path / path)
        if path != "dir":
            with pytest.raises(UnverifiableError, match=f"{kind}|cannot be read"):
                hash_file(tmp_path / path)
    with pytest.raises(UnverifiableError, match="a directory where a file is expected"):
        hash_file(tmp_path / "dir")
    listener.close()


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data"

    def during(action: object) -> None:
        path.write_bytes(b"x" * 100)
        preadv = os.preadv

        def read(descriptor: int, buffers: list[memoryview], offset: int) -> int:
            monkeypatch.setattr(os, "preadv", preadv)
            action()  # type: ignore[operator]
            return preadv(descriptor, buffers, offset)

        monkeypatch.setattr(os, "preadv", read)

    def replace() -> None:
        (tmp_path / "new").write_bytes(b"y" * 100)
        (tmp_path / "new").replace(path)

    def same_size() -> None:
        status = path.stat()
        path.write_bytes(b"z" * 100)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    for action, sentence in (
        (lambda: os.truncate(path, 10), "changed while it was being read"),
        (lambda: path.write_bytes(b"x" * 200), "changed while it was being read"),
        (same_size, "changed while it was being read"),
        (replace, "was replaced by another file while it was being read|changed while it was being read"),
        (path.unlink, "changed while it was being read|does not exist"),
    ):
        during(action)
        with pytest.raises(UnverifiableError, match=sentence):
            hash_file(path)


def test_a_large_file_truncated_halfway_is_an_error_and_not_the_end_of_the_process(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(bytes(64 << 20))
    script = (
        "import os, sys; from mlsec_dagster.integrity import files\n"
        "preadv = os.preadv\n"
        "def read(fd, buffers, at):\n    if at >> 20 == 32: os.truncate(sys.argv[1], 4096)\n    return preadv(fd, buffers, at)\n"
        "os.preadv = read\n"
        "try: files.hash_file(sys.argv[1])\nexcept files.UnverifiableError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, "changed while it was being read" in done.stdout) == (0, True), done


def test_a_directory_that_gains_a_file_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("a")
    write, opened = (tmp_path / "b").write_text, files._regular

    def meanwhile(descriptor: int, shown: object) -> object:
        write("b")
        return opened(descriptor, shown)

    monkeypatch.setattr(files, "_regular", meanwhile)
    with pytest.raises(UnverifiableError, match="files were added, removed or renamed"):
        hash_path(tmp_path)


def _hash_in_child(path: str, queue: "multiprocessing.Queue[str]") -> None:
    queue.put(hash_file(path).digest)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_does_not_wait_for_threads_that_it_does_not_have(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(os.urandom(8 << 20))
    here = hash_file(path).digest
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_hash_in_child, args=(str(path), queue))
    child.start()
    assert queue.get(timeout=60) == here
    child.join()


def test_files_root_depends_on_paths_sizes_and_digests_but_not_on_order_or_versions() -> None:
    one, two = files.FileEntry("a", 1, hash_bytes(b"1")), files.FileEntry("b", 1, hash_bytes(b"2"))
    root = Manifest((one, two)).files_root
    assert root == Manifest((two, one)).files_root
    assert root == Manifest((files.FileEntry("a", 1, one.digest, "v1"), two)).files_root
    for other in (files.FileEntry("c", 1, one.digest), files.FileEntry("a", 2, one.digest), files.FileEntry("a", 1, two.digest)):
        assert Manifest((other, two)).files_root != root
    assert Manifest().files_root is None


def test_merkle_root_is_that_of_rfc_9162_split_recursively() -> None:
    def split(leaves: list[bytes]) -> bytes:
        if len(leaves) == 1:
            return blake3.blake3(b"\0" + leaves[0]).digest()
        half = 1 << (len(leaves) - 1).bit_length() - 1
        return blake3.blake3(b"\1" + split(leaves[:half]) + split(leaves[half:])).digest()

    for count in range(1, 40):
        leaves = [bytes([number]) for number in range(count)]
        assert merkle_root(leaves) == split(leaves)
    assert merkle_root([]) == blake3.blake3(b"").digest()


def test_sha256sums_in_all_its_forms(tmp_path: Path) -> None:
    one, two = "0" * 64, "A" * 64
    sums = tmp_path / "SHA256SUMS"
    sums.write_text(f"# comment\n{one}  a b.csv\n{two} *./c\r\n\\{one}  new\\nline\nSHA256 (d) = {one}\n")
    assert read_sha256sums(sums) == {
        "a b.csv": f"sha256:{one}",
        "c": f"sha256:{two.lower()}",
        "new\nline": f"sha256:{one}",
        "d": f"sha256:{one}",
    }


def test_sha256sums_agree_with_the_system_tool(tmp_path: Path) -> None:
    (tmp_path / "x y").write_text("x")
    (tmp_path / "new\nline").write_text("y")
    text = subprocess.run(["sha256sum", "x y", "new\nline"], cwd=tmp_path, capture_output=True, check=True).stdout
    sums = tmp_path.parent / f"{tmp_path.name}.sums"
    sums.write_bytes(text)
    assert read_sha256sums(sums) == {entry.path: entry.digest for entry in hash_path(tmp_path, "sha256")}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "lists no file"),
        ("abc  x", "line 1: expected"),
        (f"{'0' * 64}  x\n{'1' * 64}  x", "line 2: 'x' is listed twice"),
        ("0" * 64, "line 1: expected"),
    ],
)
def test_a_sha256sums_that_is_not_one_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "sums").write_text(text)
    with pytest.raises(UnverifiableError, match=sentence):
        read_sha256sums(tmp_path / "sums")


def test_only_a_full_object_sha256_of_a_store_saves_the_download() -> None:
    import base64

    checksum = base64.b64encode(hashlib.sha256(b"x").digest()).decode()
    found = native_entry("a", {"ChecksumSHA256": checksum, "ContentLength": 1, "VersionId": "v7"})
    assert found == files.FileEntry("a", 1, hash_bytes(b"x", "sha256"), "v7")
    for info in (
        {"ETag": '"abc"', "ContentLength": 1},
        {"ChecksumCRC32C": "yZRlqg==", "ChecksumCRC64NVME": "AAAAAAAAAAA=", "ChecksumType": "FULL_OBJECT", "ContentLength": 1},
        {"ChecksumSHA256": f"{checksum}-3", "ContentLength": 1},
        {"ChecksumSHA256": checksum, "ChecksumType": "COMPOSITE", "ContentLength": 1},
        {"ChecksumSHA256": checksum},
    ):
        assert native_entry("a", info) is None


def test_hashing_leaves_no_thread_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data"
    path.write_bytes(bytes(10 << 20))
    before = threading.active_count()
    hash_file(path)
    assert threading.active_count() == before
    preadv = os.preadv

    def fails(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        if offset == 2 << 20:  # in a helper thread
            raise OSError(5, "Input/output error")
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", fails)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    with pytest.raises(UnverifiableError, match="Input/output error"):
        hash_file(path)
    assert threading.active_count() == before
