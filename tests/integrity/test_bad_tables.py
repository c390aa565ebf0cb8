"""Damaged, hostile and impossible tables: one clear sentence and the right class of error each, in bounded memory."""

import contextlib
import io
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlsec_dagster.errors import LimitExceededError, MlsecError, UnverifiableError
from mlsec_dagster.integrity import parquet
from mlsec_dagster.integrity.containers import table_format
from mlsec_dagster.integrity.limits import Limits
from mlsec_dagster.integrity.readers import is_table
from mlsec_dagster.integrity.tables import table_grid

_TABLE = pa.table({"x": range(1000), "s": [f"v{number}" for number in range(1000)], "l": [[number, None] for number in range(1000)]})


def _written(folder: Path, kind: str) -> Path:
    path = folder / f"t.{kind}"
    if kind == "parquet":
        pq.write_table(_TABLE, path)
    elif kind == "feather":
        pyarrow.feather.write_feather(_TABLE, path, compression="lz4")
    else:
        path.write_text("x,s\n1,a\n2,b\n")
    return path


@pytest.mark.parametrize(
    ("content", "name", "sentence"),
    [
        (None, "t.parquet", "does not exist; materialize it again"),
        (b"", "t.parquet", "is empty, so it cannot be read as a table"),
        (b"", "t.bin", "is empty"),
        (b"PAR1" + bytes(100), "t.parquet", "does not begin and end as Parquet or Feather do"),
        (b"PAR1" + bytes(100) + b"PAR1", "t.parquet", "cannot be read as a table"),
        (b"ARROW1\0\0" + bytes(100) + b"ARROW1", "t.feather", "damaged"),
        (b"FEA1" + bytes(100) + b"FEA1", "t.feather", "does not begin and end"),
        (b"\x80\x04pickle", "t.pkl", "does not begin and end"),
        (b"", "t.csv", "cannot be read as a table"),
        (b"a,b\n1\n", "t.csv", "Expected 2 columns, got 1"),
        (b"a\n\xff\n", "t.csv", "cannot be read as a table"),
        (b"a\0b\n", "t.csv", "does not begin and end"),
    ],
)
def test_a_file_that_is_no_table_says_so(tmp_path: Path, content: bytes | None, name: str, sentence: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnverifiableError, match=sentence) as raised:
        table_grid(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["parquet", "feather"])
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_damaged_file_gives_an_error_or_another_root_but_never_a_crash_or_the_same_root(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    path = _written(folder, kind)
    whole = table_grid(path)
    raw = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw) - 1))]
    else:
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(raw)
    with contextlib.suppress(MlsecError):  # and no other exception
        if table_grid(path).root == whole.root:
            # Bytes that mean nothing (padding, statistics, the writer's name) may differ without changing the table.
            assert (pq.read_table(path) if kind == "parquet" else pyarrow.feather.read_table(path)).equals(_TABLE)


def test_a_cut_off_parquet_is_unverifiable(tmp_path: Path) -> None:
    path = _written(tmp_path, "parquet")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UnverifiableError, match="materialize it again"):
        table_grid(path)


@pytest.mark.parametrize("kind", ["parquet", "feather", "csv"])
def test_a_file_replaced_while_it_is_read_is_refused(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlsec_dagster.integrity import tables

    path = _written(tmp_path, kind)
    weigh = tables._Builder.weigh

    def meanwhile(self: tables._Builder, *arguments: object) -> object:
        (tmp_path / "new").write_bytes(path.read_bytes())
        (tmp_path / "new").replace(path)
        return weigh(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(tables._Builder, "weigh", meanwhile)
    with pytest.raises(UnverifiableError, match=r"changed while it was being read|was replaced by another file"):
        table_grid(path)


def test_the_container_is_told_by_its_content(tmp_path: Path) -> None:
    for kind in ("parquet", "feather", "csv"):
        path = _written(tmp_path, kind)
        assert table_format(path) == kind
    misnamed = tmp_path / "t.csv"
    pq.write_table(_TABLE, misnamed)
    assert table_format(misnamed) == "parquet"
    assert table_grid(misnamed).root == table_grid(_TABLE).root
    for content in (b"", b"PAR1", b"hello"):
        (tmp_path / "t.txt").write_bytes(content)
        assert table_format(tmp_path / "t.txt") is None


def test_directories_that_are_no_single_table_are_refused(tmp_path: Path) -> None:
    def refused(sentence: str) -> None:
        with pytest.raises(UnverifiableError, match=sentence):
            table_grid(tmp_path)

    refused("holds no table file")
    (tmp_path / "_SUCCESS").touch()
    refused("holds no table file")
    pq.write_table(_TABLE, tmp_path / "part-0.parquet")
    pq.write_table(_TABLE.rename_columns(["y", "s", "l"]), tmp_path / "part-1.parquet")
    refused(r"part-1.parquet has other columns \(y int64")
    (tmp_path / "part-1.parquet").unlink()
    (tmp_path / "month=1").mkdir()
    refused("partition column's values are in no file")
    (tmp_path / "month=1").rmdir()
    (tmp_path / "link.parquet").symlink_to("part-0.parquet")
    refused("link.parquet is neither a regular file nor a directory")
    (tmp_path / "link.parquet").unlink()
    os.mkfifo(tmp_path / "part-2.parquet")
    refused("part-2.parquet is neither a regular file")


def test_values_that_are_no_tables_are_refused() -> None:
    for value, sentence in ((1, "is no table"), ([], "no record batches"), ([1], "is no table"), ({"a": 1}, "is no table")):
        with pytest.raises(UnverifiableError, match=sentence):
            table_grid(value)
    batches = pa.table({"a": [1]}).to_batches() + pa.table({"b": [1]}).to_batches()
    with pytest.raises(UnverifiableError, match="other columns than the first"):
        table_grid(batches)


def test_is_table_knows_tables_without_importing_anything() -> None:
    assert all(
        is_table(value) for value in (_TABLE, pd.DataFrame(), pl.DataFrame(), pl.LazyFrame(), _TABLE.to_reader(), _TABLE.to_batches()[0])
    )
    assert not any(is_table(value) for value in (1, "t.parquet", {}, [], np.zeros(3), pd.Series([1]).array, None))
    script = (
        "import sys; import mlsec_dagster.integrity.manifest, mlsec_dagster.integrity.readers as r; assert not r.is_table(1);"
        "print([m for m in ('pyarrow', 'pandas', 'polars', 'duckdb', 'numpy', 'ibis', 'dagster') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_reading_a_table_file_imports_neither_pandas_nor_polars(tmp_path: Path) -> None:
    path = _written(tmp_path, "parquet")
    script = (
        "import sys; from mlsec_dagster.integrity.tables import table_grid; table_grid(sys.argv[1]);"
        "print([m for m in ('pandas', 'polars', 'duckdb', 'ibis', 'dagster') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    "column",
    [
        pa.UnionArray.from_sparse(pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array(["a", "b"])]),
        pa.array([None, None], pa.month_day_nano_interval()),
        pa.ListArray.from_arrays(
            pa.array([0, 1], pa.int32()), pa.RunEndEncodedArray.from_arrays(pa.array([1], pa.int32()), pa.array(["a"]))
        ),
        pa.array([[[1]]], pa.list_(pa.list_view(pa.int64()))),
    ],
    ids=["union", "interval", "run ends in a list", "views in a list"],
)
def test_types_without_canonical_form_are_refused(column: pa.Array) -> None:
    with pytest.raises(UnverifiableError, match=r"column 'x'.*convert"):
        table_grid(pa.table({"x": column}))


def _limited(source: object, sentence: str, **limits: int) -> None:
    with pytest.raises(LimitExceededError, match=sentence):
        table_grid(source, limits=Limits(**limits))


def test_each_limit_is_named_with_how_to_raise_it(tmp_path: Path) -> None:
    _limited(_TABLE, r"has 1,000 rows or more; the limit is rows=999. If the data is genuine, pass limits=Limits\(rows=1000\)", rows=999)
    _limited(_TABLE, "has 3 columns; the limit is columns=2", columns=2)
    _limited(_TABLE, "decodes to .* bytes or more; the limit is decoded_bytes=5,000", decoded_bytes=5000)
    _limited(pa.table({"a": ["x" * 1000]}), "has one row of 1,004 bytes; the limit is row_bytes=1,000", row_bytes=1000)
    for kind in ("parquet", "feather", "csv"):
        path = _written(tmp_path, kind)
        _limited(path, r"t\.\w+ has .* rows or more; the limit is rows=1", rows=1)
        _limited(path, "columns=1", columns=1)
    zeros = tmp_path / "zeros.parquet"
    pq.write_table(pa.table({"x": np.zeros(1_000_000, np.int64)}), zeros)
    _limited(zeros, "decodes to .* times its size; the limit is ratio=100", ratio=100, ratio_from=1 << 20)
    assert table_grid(zeros, limits=Limits(ratio=100)).rows == 1_000_000


def _bombs(folder: Path) -> list[Path]:
    value, rows = "x" * 1_000_000, 50_000
    indices = pa.array(np.zeros(rows, np.int32))
    dictionary = pa.DictionaryArray.from_arrays(indices, pa.array([value]))
    nested = pa.ListArray.from_arrays(pa.array(np.arange(0, rows + 1, 10, dtype=np.int32)), dictionary)
    deep = pa.StructArray.from_arrays([dictionary], ["a"])
    paths = []
    for name, array in (("flat", dictionary), ("list", nested), ("struct", deep)):
        paths.append(folder / f"{name}.parquet")
        pq.write_table(pa.table({"x": array}), paths[-1], store_schema=name == "flat")
    paths.append(folder / "feather.feather")
    pyarrow.feather.write_feather(pa.table({"x": dictionary}), paths[-1])
    ends = pa.RunEndEncodedArray.from_arrays(pa.array([rows], pa.int32()), pa.array([value]))
    with pa.ipc.new_file(str(folder / "runs.feather"), pa.schema([("x", ends.type)])) as writer:
        writer.write_batch(pa.record_batch([ends], ["x"]))
    paths.append(folder / "runs.feather")
    return paths


_MEASURED = """
import resource, sys
from mlsec_dagster.errors import LimitExceededError
from mlsec_dagster.integrity.limits import DEFAULT_LIMITS, Limits
from mlsec_dagster.integrity.tables import table_grid
import pyarrow.parquet, pyarrow.compute
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    table_grid(sys.argv[1], limits=Limits(ratio_from=int(sys.argv[2])) if len(sys.argv) > 2 else DEFAULT_LIMITS)
except LimitExceededError as error:
    print(error, file=sys.stderr)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
def test_a_small_file_that_decodes_to_50_gigabytes_is_stopped_in_bounded_memory(tmp_path: Path) -> None:
    for path in _bombs(tmp_path):
        assert path.stat().st_size < 6_000_000, path
        # The default limit for the first; for the others one that is reached sooner.
        limits = [] if path.name == "flat.parquet" else [str(1 << 30)]
        done = subprocess.run(
            [sys.executable, "-c", _MEASURED, str(path), *limits], capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, (path, done)
        assert "times its size; the limit is ratio=2,000" in done.stderr, (path, done)
        assert int(done.stdout) < 800, (path, "peak memory in MB", done.stdout)


def test_a_feather_buffer_that_claims_terabytes_is_stopped_before_it_is_allocated(tmp_path: Path) -> None:
    path = tmp_path / "t.feather"
    pyarrow.feather.write_feather(pa.table({"x": np.zeros(100_000, np.int64)}), path, compression="zstd")
    raw = bytearray(path.read_bytes())
    at = raw.index(struct.pack("<q", 65_536 * 8))
    raw[at : at + 8] = struct.pack("<q", 3 << 40)
    path.write_bytes(raw)
    with pytest.raises(LimitExceededError, match=r"row_bytes|ratio"):
        table_grid(path)


def test_a_feather_file_with_offsets_that_lead_nowhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.feather"
    pyarrow.feather.write_feather(pa.table({"s": ["abcdefgh", "ijklmnop"]}), path, compression="uncompressed")
    raw = path.read_bytes()
    offsets = struct.pack("<iii", 0, 8, 16)
    assert raw.count(offsets) == 1
    path.write_bytes(raw.replace(offsets, struct.pack("<iii", 0, 8, 1 << 30)))
    with pytest.raises(UnverifiableError, match="cannot be read as a table"):
        table_grid(path)


def test_the_longest_nested_dictionary_value_is_found_without_decoding(tmp_path: Path) -> None:
    for compression in ("none", "snappy", "zstd", "gzip", "lz4", "brotli"):
        path = tmp_path / f"{compression}.parquet"
        pq.write_table(pa.table({"x": [["a", "bb" * 500], None, ["ccc"]]}), path, compression=compression)
        with pa.OSFile(str(path)) as file:
            chunk = pq.ParquetFile(file).metadata.row_group(0).column(0)
            assert parquet.longest_in_dictionary(file, chunk) == 1000, compression
        pq.write_table(pa.table({"x": [["a"]]}), path, use_dictionary=False)
        with pa.OSFile(str(path)) as file:
            assert parquet.longest_in_dictionary(file, pq.ParquetFile(file).metadata.row_group(0).column(0)) == 0


def test_long_values_are_read_in_short_batches_with_the_same_root(tmp_path: Path) -> None:
    texts = [f"{number % 3}" * 20_000 for number in range(6000)]
    table = pa.table({"t": pa.array(texts).dictionary_encode(), "n": range(6000)})
    for options in ({}, {"use_dictionary": False}, {"use_dictionary": False, "column_encoding": {"t": "DELTA_BYTE_ARRAY"}}):
        path = tmp_path / "t.parquet"
        pq.write_table(table.set_column(0, "t", table["t"].cast(pa.string())) if options else table, path, row_group_size=3000, **options)
        assert table_grid(path).root == table_grid(table).root


@pytest.mark.slow
def test_memory_does_not_grow_with_rows(tmp_path: Path) -> None:
    peaks = []
    for rows in (1_000_000, 4_000_000):
        path = tmp_path / f"{rows}.parquet"
        with pq.ParquetWriter(path, pa.schema([("x", pa.int64()), ("y", pa.float64()), ("s", pa.string())])) as writer:
            for start in range(0, rows, 500_000):
                numbers = np.arange(start, start + 500_000)
                writer.write_table(pa.table({"x": numbers, "y": numbers / 7, "s": pa.array(numbers).cast(pa.string())}))
        done = subprocess.run([sys.executable, "-c", _MEASURED, str(path)], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout))
    assert peaks[1] < peaks[0] + 60, peaks


def test_a_broken_stream_is_unverifiable() -> None:
    def batches() -> object:
        yield pa.record_batch({"a": [1]})
        raise OSError("the network is gone")

    with pytest.raises(UnverifiableError, match="the network is gone"):
        table_grid(pa.RecordBatchReader.from_batches(pa.schema([("a", pa.int64())]), batches()))
    with pytest.raises(UnverifiableError, match="is no table"):
        table_grid(io.BytesIO(b"a line\n"))
