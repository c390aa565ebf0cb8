"""A small file or table that stands for terabytes is refused before it is unfolded, and an ordinary one is not."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from mlsec_dagster.errors import LimitExceededError, UnverifiableError
from mlsec_dagster.integrity.canonical import plain
from mlsec_dagster.integrity.limits import Limits, Meter
from mlsec_dagster.stability.unfolding import PIECE_BYTES, pieces, unfolded
from tests.stability.windows import learnt, measured

LONG = "x" * 1_000_000

MEASURED = """\
import sys
from mlsec_dagster.errors import LimitExceededError
from mlsec_dagster.stability.assessment import History, assess
from mlsec_dagster.stability.profiles import Roles
try:
    assess(sys.argv[1], History(), roles=Roles(), key=b"k" * 32)
except LimitExceededError as error:
    print(error)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def bomb(path: Path, rows: int, group: int = 50_000) -> Path:
    """Row groups that each hold one long text, and as many references to it as they have rows."""
    schema = pa.schema([("number", pa.int64()), ("text", pa.dictionary(pa.int32(), pa.string()))])
    part = pa.table({"number": [1] * group, "text": pa.DictionaryArray.from_arrays(np.zeros(group, np.int32), [LONG])}, schema)
    with pq.ParquetWriter(path, schema, store_schema=False, compression="zstd") as writer:
        for _ in range(rows // group):
            writer.write_table(part, row_group_size=group)
    return path


@pytest.mark.parametrize("rows", [3_000_000, 200_000], ids=["by an engine", "in memory"])
def test_a_small_file_that_stands_for_terabytes_is_refused_in_little_memory_and_time(tmp_path: Path, rows: int) -> None:
    path = bomb(tmp_path / "rows.parquet", rows)
    assert path.stat().st_size < 100_000
    done = subprocess.run([sys.executable, "-c", MEASURED, str(path)], capture_output=True, text=True, check=True, timeout=60)
    said, peak = done.stdout.splitlines()
    assert f"rows.parquet ({path.stat().st_size:,} bytes) decodes to {rows * len(LONG):,} bytes or more" in said
    assert "the limit is ratio=2,000. If the data is genuine, pass limits=Limits(ratio=" in said
    assert int(peak) < 300_000, "peak memory in kB"


def folded(rows: int, text: str = LONG) -> dict[str, pa.Array]:
    """Arrays that are small as long as nobody unfolds them."""
    flat = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([text]))
    lists = pa.ListArray.from_arrays(pa.array(np.arange(0, rows + 1, 10, dtype=np.int32)), flat)
    # Every view is the same sixteen bytes: the length, the first four letters, and where the text lies.
    view = np.array([len(text), int.from_bytes(text[:4].encode(), "little"), 0, 0], np.int32)
    buffers = [None, pa.py_buffer(np.tile(view, rows)), pa.py_buffer(text.encode())]
    return {
        "dictionary": flat,
        "list": lists,
        "struct": pa.StructArray.from_arrays([flat], ["a"]),
        "runs": pa.RunEndEncodedArray.from_arrays(pa.array([rows], pa.int64()), pa.array([text])),
        "views": pa.Array.from_buffers(pa.string_view(), rows, buffers),
    }


@pytest.mark.parametrize("kind", sorted(folded(10)))
def test_a_table_in_memory_that_would_unfold_is_refused_before_it_does(tmp_path: Path, kind: str) -> None:
    table = pa.table({"x": folded(100_000)[kind]})
    peak = pa.default_memory_pool().max_memory()
    with pytest.raises(LimitExceededError, match="times its size; the limit is ratio=2,000"):
        measured(table, learnt(pa.table({"x": ["a"]})))
    assert pa.default_memory_pool().max_memory() < peak + (64 << 20)


@pytest.mark.parametrize("kind", ["dictionary", "runs"])
def test_so_is_a_feather_file(tmp_path: Path, kind: str) -> None:
    array = folded(100_000)[kind]
    with pa.ipc.new_file(str(tmp_path / "rows.feather"), pa.schema([("x", array.type)])) as writer:
        writer.write_batch(pa.record_batch([array], ["x"]))
    with pytest.raises(LimitExceededError, match="times its size"):
        learnt(tmp_path / "rows.feather")


def test_texts_within_lists_are_counted_too(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"x": folded(500_000)["list"]}), path, store_schema=False, row_group_size=10_000)
    with pytest.raises(LimitExceededError, match="times its size"):
        learnt(path)


def test_values_that_repeat_the_one_before_stop_the_engine_and_not_the_process(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(
        pa.table({"x": [LONG] * 600}),
        path,
        use_dictionary=False,
        column_encoding="DELTA_BYTE_ARRAY",
        data_page_size=1 << 30,
        write_batch_size=600,
    )
    with pytest.raises(UnverifiableError, match=r"could not tell how long the texts of .*rows\.parquet are"):
        measured(path, learnt(pa.table({"x": ["a"]})), limits=Limits(ratio_from=1 << 20))


@pytest.mark.parametrize("kind", sorted(folded(10)))
def test_what_an_array_unfolds_to_is_told_as_it_is(kind: str) -> None:
    for text in ("", "abc", "y" * 300):
        array = folded(2_000, text)[kind] if text or kind != "views" else pa.array([text] * 2_000, pa.string_view())
        for part in (array, array.slice(7, 100), array.slice(0, 0)):
            texts = len(part) * (10 if kind == "list" else 1)
            assert len(text) * texts <= unfolded(part) <= 2 * plain(part, "x").nbytes + 16 * texts + 64


def test_pieces_are_the_rows_in_their_order_and_each_is_small() -> None:
    names = [f"{n}" * 100_000 for n in range(3)]
    places = np.random.default_rng(1).integers(0, 3, 5_000)
    array = pa.DictionaryArray.from_arrays(pa.array(places, pa.int32()), names)
    found = list(pieces([array], len(array), Meter("x", Limits())))
    assert [size for _, size in found] == [len(arrays[0]) for arrays, _ in found]
    assert np.concatenate([arrays[0].indices.to_numpy() for arrays, _ in found]).tolist() == places.tolist()
    assert all(unfolded(arrays[0]) <= PIECE_BYTES for arrays, _ in found)
    assert len(found) == 8


@pytest.mark.parametrize("made", [lambda table: table, lambda table: table.to_pandas(), lambda table: table.to_reader()])
def test_ordinary_categories_are_measured(made: Callable[[pa.Table], object]) -> None:
    table = pa.table({"x": pa.array(["a", "b", "c", None] * 50_000).dictionary_encode()})
    profile = measured(made(table), learnt(table))
    assert (profile.rows, profile.columns[0].nulls, profile.columns[0].counts[:3]) == (200_000, 50_000, (50_000,) * 3)
