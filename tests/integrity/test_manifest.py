"""A manifest has one binary form, and what is damaged or from the future is refused."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsec_dagster.errors import UnverifiableError
from mlsec_dagster.integrity.digests import hash_bytes
from mlsec_dagster.integrity.files import FileEntry, hash_path
from mlsec_dagster.integrity.manifest import Manifest
from mlsec_dagster.integrity.multiset import MultisetDigest
from mlsec_dagster.integrity.tables import Column, Prefix, TableGrid, table_grid

_LEAF = st.binary(min_size=32, max_size=32)
_NAMES = st.text(st.characters(exclude_categories=("Cs",)), max_size=5)
_FILES = st.lists(st.builds(FileEntry, _NAMES, st.integers(0, 2**63), st.binary().map(hash_bytes), st.none() | _NAMES), max_size=3).map(
    tuple
)
_MULTISETS = st.builds(
    MultisetDigest, st.integers(0, 2**40), st.tuples(*[st.integers(0, 2**72)] * 8), st.tuples(st.tuples(_NAMES, _NAMES)), _NAMES, _NAMES
)


@st.composite
def _grids(draw: st.DrawFn) -> TableGrid:
    columns = tuple(Column(name, "int64") for name in draw(st.lists(_NAMES, max_size=3)))
    blocks = tuple(draw(st.lists(st.integers(1, 65_536), max_size=4)))
    leaves = tuple(tuple(draw(st.lists(_LEAF, min_size=len(blocks), max_size=len(blocks)))) for _ in columns)
    prefix = draw(st.none() | st.builds(Prefix, st.integers(1, 9), st.tuples(*[_LEAF] * len(columns))))
    return TableGrid(columns, blocks, leaves, tuple(draw(st.lists(_NAMES, max_size=2))), prefix)


@given(st.builds(Manifest, _FILES, st.none() | _grids(), st.none() | _MULTISETS), st.data())
def test_a_manifest_is_read_back_as_it_was_and_never_as_another(manifest: Manifest, data: st.DataObject) -> None:
    raw = manifest.to_bytes()
    assert Manifest.from_bytes(raw) == manifest
    assert manifest.digest == hash_bytes(raw)
    at, bits = data.draw(st.integers(0, len(raw) - 1)), data.draw(st.integers(1, 255))
    for damaged in (raw[:at], raw + b"\0", raw[:at] + bytes([raw[at] ^ bits]) + raw[at + 1 :]):
        try:
            found = Manifest.from_bytes(damaged)
        except UnverifiableError:
            continue
        assert found != manifest


def test_a_manifest_of_a_newer_version_is_refused() -> None:
    with pytest.raises(UnverifiableError, match=r"no manifest of version 1.*a newer version may have written it"):
        Manifest.from_bytes(b"mlsec:manifest:v2\n" + bytes(20))


def test_a_manifest_is_small_and_holds_no_values() -> None:
    table = pa.table({"secret": [f"password {number}" for number in range(200_000)]})
    raw = Manifest(table=table_grid(table)).to_bytes()
    assert len(raw) < 400
    assert b"password" not in raw


def test_the_same_content_in_other_files_is_said_to_be_just_that(tmp_path: Path) -> None:
    table = pa.table({"x": range(10)})
    manifests = []
    for compression in ("snappy", "zstd"):
        path = tmp_path / "t.parquet"
        pq.write_table(table, path, compression=compression)
        manifests.append(Manifest(hash_path(path), table_grid(path)))
    difference = manifests[0].compare(manifests[1])
    assert difference
    assert (difference.kind, difference.sentence) == ("files", "the table's content is the same, its files are not: the file changed")
    assert manifests[0].content_root == manifests[1].content_root
    assert manifests[0].files_root != manifests[1].files_root
    assert not manifests[0].compare(manifests[0])


def test_files_that_were_added_removed_and_changed_are_named(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_text(name)
    before = Manifest(hash_path(tmp_path))
    (tmp_path / "d").write_text("d")
    added = before.compare(Manifest(hash_path(tmp_path)))
    assert (added.kind, added.sentence, added.is_append) == ("files", "d added", True)
    (tmp_path / "a").unlink()
    (tmp_path / "b").write_text("x")
    difference = before.compare(Manifest(hash_path(tmp_path)))
    assert difference.sentence == "b changed; d added; a removed"
    assert [(change.path, change.kind) for change in difference.files] == [("a", "removed"), ("b", "changed"), ("d", "added")]
    assert not difference.is_append


def test_a_manifest_that_lost_its_table_is_never_identical() -> None:
    table = Manifest(table=table_grid(pa.table({"x": [1]})))
    assert table.compare(Manifest())
    assert Manifest().compare(table)
    assert not Manifest().compare(Manifest())
