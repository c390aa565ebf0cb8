"""Tables that are hard to hash, and names that are chosen to hurt: a changed cell is found, and a name stays a name."""

import datetime
import decimal
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.faults.claims import (
    assert_blocked_between_write_and_check,
    assert_check_fails,
    assert_clean,
    assert_refused_at_read,
    evaluation_of,
    said,
)
from tests.guard.projects import RAN, ParquetIOManager, Project

HOSTILE = (
    "![x](https://evil.example/p.png) <img src=x onerror=alert(1)> [click](javascript:alert(1)) `rm` "
    "\x1b[31mred\x1b[0m\x07 \u202egnp.exe\u202c \u200bzero\r\nSecond line"
)


class ArrowIOManager(ParquetIOManager):
    """Arrow tables as Parquet, with whatever types they have."""

    extension: ClassVar[str] = ".parquet"

    def dump_to_path(self, context: dg.OutputContext, obj: Any, path: Any) -> None:
        pq.write_table(obj, str(path))

    def load_from_path(self, context: dg.InputContext, path: Any) -> Any:
        return pq.read_table(str(path))


def arrow_project(instance: dg.DagsterInstance, base: Path, make: Callable[[], pa.Table], **options: Any) -> Project:
    """An Arrow table stored as Parquet, and a consumer that reads it."""

    @dg.asset(io_manager_key="parquet")
    def raw() -> Any:
        return make()

    @dg.asset
    def features(raw: Any) -> None:
        assert raw.num_rows == make().num_rows
        RAN.append("features")

    defs = dg.Definitions(assets=[raw, features], resources={"parquet": ArrowIOManager(base_dir=str(base))})
    return Project(defs, instance, ["raw"], options)


def with_cell(table: pa.Table, column: int, row: int, value: Any) -> pa.Table:
    """A copy of a table with one other value."""
    field = table.schema.field(column)
    values = table.column(column).to_pylist()
    values[row] = value
    return table.set_column(column, field, pa.array(values, field.type))


def hard_table() -> pa.Table:
    """Types that canonical forms are easily wrong about."""
    utc, paris = datetime.UTC, "Europe/Paris"
    moments = [datetime.datetime(2013, 3, 31, hour, 30, tzinfo=utc) for hour in range(3)]
    return pa.table(
        {
            "nested": pa.array([{"a": [1, None], "b": "x"}, None, {"a": [], "b": None}]),
            "list of struct": pa.array([[{"k": 1}], [], None]),
            "map": pa.array([[("a", 1)], [], None], pa.map_(pa.string(), pa.int64())),
            "decimal": pa.array([decimal.Decimal("1.10"), decimal.Decimal("-0.05"), None], pa.decimal128(38, 2)),
            "utc": pa.array(moments, pa.timestamp("us", "UTC")),
            "paris": pa.array(moments, pa.timestamp("ns", paris)),
            "naive": pa.array([datetime.datetime(2013, 1, 1), None, datetime.datetime(1, 1, 1)], pa.timestamp("us")),
            "float": pa.array([float("nan"), float("inf"), -0.0]),
            "nulls and NaN": pa.array([None, float("nan"), float("-inf")], pa.float32()),
            "binary": pa.array([b"\0", b"", None]),
            "category": pa.array(["a", "b", "a"]).dictionary_encode(),
            "time": pa.array([datetime.time(1), None, datetime.time(23, 59)], pa.time64("us")),
            "date": pa.array([datetime.date(2013, 1, 1), None, datetime.date(1, 1, 1)]),
            "nothing": pa.nulls(3),
        }
    )


OTHER: dict[str, Any] = {
    "nested": {"a": [1, 0], "b": "x"},
    "list of struct": [{"k": 2}],
    "map": [("a", 2)],
    "decimal": decimal.Decimal("1.11"),
    "utc": datetime.datetime(2013, 3, 31, 0, 30, 0, 1, tzinfo=datetime.UTC),
    "paris": datetime.datetime(2013, 3, 31, 1, 30, tzinfo=datetime.UTC),
    "naive": None,
    "float": None,  # NaN is not null
    "nulls and NaN": float("nan"),  # and null is not NaN
    "binary": b"\1",
    "category": "b",
    "time": datetime.time(1, 0, 0, 1),
    "date": datetime.date(2013, 1, 2),
}


def test_each_hard_type_passes_as_it_is_and_one_changed_cell_is_named(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    project = arrow_project(instance, tmp_path, hard_table)
    assert_clean(project)
    path, table = tmp_path / "raw.parquet", hard_table()
    assert set(OTHER) == set(table.column_names) - {"nothing"}
    original = path.read_bytes()
    for name, value in OTHER.items():
        pq.write_table(with_cell(table, table.column_names.index(name), 0, value), path)
        evaluation = assert_check_fails(project, name)
        assert {record.data["name"] for record in evaluation.metadata["changes"].value.records if record.data["what"] == "column"} == {name}
    assert_refused_at_read(project, "raw is not what", name)
    path.write_bytes(original)
    assert evaluation_of(project.check("raw")).passed
    assert_clean(project)


@pytest.mark.slow
def test_one_changed_cell_in_2000_columns_is_named(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    def wide() -> pa.Table:
        return pa.table({f"c{i:04}": pa.array([i, i + 1, None], pa.int32()) for i in range(2000)})

    project = arrow_project(instance, tmp_path, wide)
    assert_clean(project)

    def attack() -> None:
        pq.write_table(with_cell(wide(), 1234, 1, -1), tmp_path / "raw.parquet")

    evaluation = assert_blocked_between_write_and_check(project, attack, "c1234")
    records = evaluation.metadata["changes"].value.records
    assert [record.data["name"] for record in records if record.data["what"] == "column"] == ["c1234"]
    assert_refused_at_read(project)
    assert_clean(project)


def test_columns_of_one_name_are_told_apart(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    def twins() -> pa.Table:
        return pa.table([pa.array([1, 2]), pa.array([3, 4])], names=["a", "a"])

    class Positional(ArrowIOManager):
        def load_from_path(self, context: dg.InputContext, path: Any) -> Any:
            return pq.ParquetFile(str(path)).read()

    @dg.asset(io_manager_key="parquet")
    def raw() -> Any:
        return twins()

    @dg.asset
    def features(raw: Any) -> None:
        RAN.append("features")

    defs = dg.Definitions(assets=[raw, features], resources={"parquet": Positional(base_dir=str(tmp_path))})
    project = Project(defs, instance, ["raw"])
    assert_clean(project)
    swapped = pa.table([twins().column(1), twins().column(0)], names=["a", "a"])
    assert_blocked_between_write_and_check(project, lambda: pq.write_table(swapped, tmp_path / "raw.parquet"), "'a'")
    assert_refused_at_read(project)
    assert_clean(project)


def test_column_names_of_every_script_are_shown_as_they_are(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    names = ["flygplats_å", "空港", "مطار", "é", "e\u0301", "🛫", ""]

    def table() -> pa.Table:
        return pa.table({name: pa.array([1, 2]) for name in names})

    project = arrow_project(instance, tmp_path, table)
    assert_clean(project)
    for place in (0, 1, 4, 6):
        pq.write_table(with_cell(table(), place, 0, 9), tmp_path / "raw.parquet")
        evaluation = assert_check_fails(project)
        shown = [record.data["name"] for record in evaluation.metadata["changes"].value.records if record.data["what"] == "column"]
        assert shown == [names[place]]


# Names chosen to hurt


def assert_harmless(text: str, *, markdown: bool) -> None:
    """Nothing in it is invisible, moves the reading direction or a terminal's cursor; and nothing is Markdown, where Markdown is read."""
    assert not re.search(r"[\x00-\x1f\x7f\u202a-\u202e\u2066-\u2069\u200b-\u200f\u2028\u2029]", text), repr(text)
    if markdown:
        assert not re.search(r"(?<!\\)[`<>\[\]!|]", text), text
        assert not re.search(r"(?<!\\)\]\(", text), text


def all_texts(evaluation: Any) -> list[tuple[str, bool]]:
    """Every text of an evaluation, and whether the UI may read it as Markdown."""
    texts = [(str(evaluation.description), True)]
    for name, value in evaluation.metadata.items():
        texts.append((name, False))
        if isinstance(value, dg.TableMetadataValue):
            texts += [(str(cell), False) for record in value.records for cell in record.data.values()]
        else:
            texts.append((str(value.value), isinstance(value, dg.MarkdownMetadataValue)))
    return texts


def assert_evaluation_is_harmless(evaluation: Any) -> None:
    for text, markdown in all_texts(evaluation):
        assert_harmless(text, markdown=markdown)
        assert len(text) < 5_000


def test_hostile_column_names_do_nothing_in_what_is_shown(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    def table() -> pa.Table:
        return pa.table({HOSTILE: pa.array([1, 2]), "x" * 100_000: pa.array([1, 2])})

    project = arrow_project(instance, tmp_path, table)
    assert_clean(project)
    for place in (0, 1):
        pq.write_table(with_cell(table(), place, 0, 9), tmp_path / "raw.parquet")
        assert_evaluation_is_harmless(assert_check_fails(project))
    planted = table().append_column("\x1b]0;title\x07" + HOSTILE, pa.array(["\x1b[2J", None]))
    evaluation = assert_blocked_between_write_and_check(project, lambda: pq.write_table(planted, tmp_path / "raw.parquet"))
    assert_evaluation_is_harmless(evaluation)
    message = assert_refused_at_read(project, "raw failed its last dataset_hash check")
    assert_harmless(message.replace("\n", " "), markdown=False)
    assert_clean(project)
    pq.write_table(planted, tmp_path / "raw.parquet")
    message = assert_refused_at_read(project, "raw is not what")
    assert_harmless(message.replace("\n", " "), markdown=False)


def test_hostile_file_names_do_nothing_in_what_is_shown(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()

    @dg.asset
    def raw() -> dg.MaterializeResult:
        (folder / "a.bin").write_bytes(b"1")
        return dg.MaterializeResult(metadata={"path": str(folder)})

    @dg.asset(deps=[raw])
    def features() -> None:
        RAN.append("features")

    project = Project(dg.Definitions(assets=[raw, features]), instance, ["raw"])
    assert_clean(project)
    for name in (HOSTILE.replace("/", "\u2044")[:80].encode(), b"\xff\xfe\x1b[31m.bin", "\u202egnp".encode()):
        (folder / name.decode(errors="surrogateescape")).write_bytes(b"2")
    assert_evaluation_is_harmless(assert_check_fails(project, "added"))


def test_hostile_partition_names_do_nothing_in_what_is_shown(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    hostile = "![x](https:evil.example) <b>bold</b> `x` \u202egnp"
    parts = dg.DynamicPartitionsDefinition(name="files")

    @dg.asset(partitions_def=parts)
    def raw(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        (tmp_path / "one.bin").write_bytes(b"1")
        return dg.MaterializeResult(metadata={"path": str(tmp_path / "one.bin")})

    @dg.asset(deps=[raw], partitions_def=parts)
    def features() -> None:
        RAN.append("features")

    instance.add_dynamic_partitions("files", [hostile])
    project = Project(dg.Definitions(assets=[raw, features]), instance, ["raw"])
    project.after_write = None
    result = project.run(partition=hostile)
    assert result.success
    assert_evaluation_is_harmless(evaluation_of(result))
    (tmp_path / "one.bin").unlink()
    (tmp_path / "one.bin").symlink_to(tmp_path / "nowhere")

    evaluation = evaluation_of(project.check("raw", partition=hostile))
    assert not evaluation.passed
    assert evaluation.partition == hostile
    assert_evaluation_is_harmless(evaluation)


# More than it looks


def peak_since(start: bool = False) -> int:
    """Peak resident memory in bytes since the last call with start=True."""
    if start:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]


def bomb(path: Path, *, rows: int = 60_000, size: int = 1 << 20) -> None:
    """A Parquet file of some kilobytes that decodes to rows * size bytes (60 GB): one long value, and references to it."""
    values = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["A" * size]))
    pq.write_table(pa.table({"carrier": values}), path, compression="zstd", store_schema=False)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures memory as Linux tells it")
@pytest.mark.timeout(120)
def test_a_small_parquet_that_decodes_to_very_much_is_stopped_in_bounded_memory_and_time(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    own = tmp_path / "own.parquet"
    armed = [True]

    @dg.asset
    def raw() -> dg.MaterializeResult:
        bomb(own) if armed[0] else pq.write_table(hard_table(), own)
        return dg.MaterializeResult(metadata={"path": str(own)})

    @dg.asset(deps=[raw])
    def features() -> None:
        RAN.append("features")

    project = Project(dg.Definitions(assets=[raw, features]), instance, ["raw"])
    started, before = time.monotonic(), peak_since(start=True)
    result = project.run()
    assert peak_since() - before < 1_500_000_000
    assert time.monotonic() - started < 60
    assert own.stat().st_size < 5_000_000
    assert not result.success
    assert RAN == []
    assert not evaluation_of(result).passed
    assert "the limit is ratio=" in said(evaluation_of(result))
    armed[0] = False
    assert_clean(project)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_bomb_in_place_of_a_sealed_table_is_refused_everywhere(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    project = arrow_project(instance, tmp_path, hard_table)
    assert_clean(project)
    bomb(tmp_path / "raw.parquet")
    before = peak_since(start=True)
    assert_refused_at_read(project, "raw is not what")
    assert_check_fails(project, "raw is not what")
    assert_blocked_between_write_and_check(project, lambda: bomb(tmp_path / "raw.parquet"), "raw is not what")
    assert peak_since() - before < 1_500_000_000
    assert_clean(project)


def test_rows_that_a_file_only_claims_to_have_are_not_waited_for(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    """A constant column of billions of rows takes a few hundred bytes; the announced size alone is over the limit."""
    own = tmp_path / "own.parquet"

    @dg.asset
    def raw() -> dg.MaterializeResult:
        with pq.ParquetWriter(own, pa.schema({"a": pa.int64()}), compression="zstd") as writer:
            block = pa.table({"a": pa.array([7] * 1_000_000, pa.int64())})
            for _ in range(6):
                writer.write_table(block, row_group_size=1_000_000)
        _claim_more(own, by=1000)
        return dg.MaterializeResult(metadata={"path": str(own)})

    @dg.asset(deps=[raw])
    def features() -> None:
        RAN.append("features")

    project = Project(dg.Definitions(assets=[raw, features]), instance, ["raw"])
    started = time.monotonic()
    result = project.run()
    assert time.monotonic() - started < 30
    assert not result.success
    assert RAN == []
    assert not evaluation_of(result).passed
    assert "the limit is ratio=" in said(evaluation_of(result))


def _claim_more(path: Path, *, by: int) -> None:
    """Make a Parquet footer announce more rows than there are: each Thrift number of 1,000,000 values becomes one of `by` times that."""

    def varint(number: int) -> bytes:
        number, out = number << 1, b""
        while number > 127:
            out += bytes([number & 127 | 128])
            number >>= 7
        return out + bytes([number])

    data = path.read_bytes()
    length = int.from_bytes(data[-8:-4], "little")
    footer = data[-8 - length : -8]
    footer = footer.replace(varint(1_000_000), varint(1_000_000 * by)).replace(varint(6_000_000), varint(6_000_000 * by))
    path.write_bytes(data[: -8 - length] + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    assert pq.read_metadata(path).num_rows == 6_000_000 * by
