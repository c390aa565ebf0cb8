"""Files that are missing, damaged, of another kind or swapped at the worst moment: what was not sealed is never used."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

import mlsec_dagster as mlsec
from tests.faults.claims import (
    RAW,
    assert_blocked_between_write_and_check,
    assert_check_fails,
    assert_clean,
    assert_refused_at_read,
    evaluation_of,
    said,
)
from tests.guard.projects import RAN, ParquetIOManager, Project, flights, parquet_project

pytestmark = pytest.mark.timeout(60)


def _symlink_to_itself_elsewhere(path: Path) -> None:
    """The very same bytes, but from now on somebody else decides what they are."""
    path.rename(path.with_suffix(".elsewhere"))
    path.symlink_to(path.with_suffix(".elsewhere"))


def _dangling_symlink(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_suffix(".nowhere"))


def _symlink_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _directory_with_the_file_in_it(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    path.mkdir()
    (path / path.name).write_bytes(data)


def _empty_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        for child in path.iterdir():
            child.unlink()
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


ATTACKS: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (lambda path: path.unlink(), "nothing is stored for it"),
    "empty": (lambda path: path.write_bytes(b""), "raw is not what"),
    "truncated": (lambda path: os.truncate(path, path.stat().st_size // 2), "raw is not what"),
    "another kind": (lambda path: path.write_bytes(b"carrier,distance\nUA,1\n"), "raw is not what"),
    "no rows left": (lambda path: flights(0).to_parquet(path), "raw is not what"),
    "symlink to the same bytes": (_symlink_to_itself_elsewhere, "a symbolic link"),
    "dangling symlink": (_dangling_symlink, "a symbolic link"),
    "symlink loop": (_symlink_loop, "a symbolic link"),
    "fifo": (_fifo, "a FIFO"),
    "directory with the file in it": (_directory_with_the_file_in_it, "raw is not what"),
    "empty directory": (_empty_directory, "raw is not what"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_what_stands_in_place_of_a_sealed_file_is_refused_everywhere_and_heals(
    instance: dg.DagsterInstance, tmp_path: Path, name: str
) -> None:
    attack, says = ATTACKS[name]
    path = tmp_path / "raw.parquet"
    project = parquet_project(tmp_path, instance)
    assert_clean(project)

    attack(path)
    assert_refused_at_read(project, says)
    assert_check_fails(project, says)
    _clear(path)
    assert_blocked_between_write_and_check(project, lambda: attack(path), says)
    _clear(path)
    assert_clean(project)


# Files that are legitimate, though there is little in them


def _project_of(instance: dg.DagsterInstance, base: Path, frame: Callable[[], pd.DataFrame]) -> Project:
    @dg.asset(io_manager_key="parquet")
    def raw() -> pd.DataFrame:
        return frame()

    @dg.asset(io_manager_key="parquet")
    def features(raw: pd.DataFrame) -> pd.DataFrame:
        assert list(raw.columns) == list(frame().columns)
        RAN.append("features")
        return raw

    return parquet_project(base, instance, assets=[raw, features])


SPARSE: dict[str, tuple[Callable[[], pd.DataFrame], Callable[[pd.DataFrame], pd.DataFrame], str]] = {
    "zero rows": (lambda: flights(0), lambda _: flights(1), "'carrier'"),
    "zero columns": (lambda: pd.DataFrame(index=pd.RangeIndex(3)), lambda frame: frame.assign(a=1), "'a'"),
    "all null": (
        lambda: pd.DataFrame({"a": pd.array([None] * 5, "Int64"), "b": pd.array([None] * 5, "string")}),
        lambda frame: frame.assign(a=pd.array([None, None, 1, None, None], "Int64")),
        "'a'",
    ),
}


@pytest.mark.parametrize("name", SPARSE)
def test_a_table_with_little_in_it_passes_and_is_held_to_all_the_same(instance: dg.DagsterInstance, tmp_path: Path, name: str) -> None:
    frame, change, says = SPARSE[name]
    project = _project_of(instance, tmp_path, frame)
    path = tmp_path / "raw.parquet"

    def attack() -> None:
        change(pd.read_parquet(path)).to_parquet(path)

    assert_clean(project)
    attack()
    assert_refused_at_read(project, "raw is not what")
    assert_blocked_between_write_and_check(project, attack, says)
    assert_clean(project)


def test_an_empty_file_that_was_written_so_passes(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    @dg.asset
    def raw() -> dg.MaterializeResult:
        (tmp_path / "done").touch()
        return dg.MaterializeResult(metadata={"path": str(tmp_path / "done")})

    @dg.asset(deps=[raw])
    def features() -> None:
        RAN.append("features")

    project = Project(dg.Definitions(assets=[raw, features]), instance, ["raw"])
    assert_clean(project)
    (tmp_path / "done").write_bytes(b"x")
    assert_check_fails(project, "raw is not what")


# Files of assets that write for themselves


@pytest.mark.parametrize("kind", ["empty", "truncated", "missing"])
def test_a_damaged_table_is_refused_at_its_first_sight(instance: dg.DagsterInstance, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "own.parquet"
    whole = [False]

    @dg.asset
    def raw() -> dg.MaterializeResult:
        flights(100).to_parquet(path)
        if not whole[0]:
            path.unlink() if kind == "missing" else os.truncate(path, 0 if kind == "empty" else 500)
        return dg.MaterializeResult(metadata={"path": str(path)})

    @dg.asset(deps=[raw])
    def features() -> None:
        RAN.append("features")

    project = Project(dg.Definitions(assets=[raw, features]), instance, ["raw"])
    result = project.run()
    assert not result.success
    assert RAN == []
    assert not evaluation_of(result).passed
    assert {"missing": "nothing is stored", "empty": "empty", "truncated": "cut short"}[kind] in said(evaluation_of(result))
    whole[0] = True
    assert_clean(project)


def test_a_table_that_its_own_writer_cut_short_does_not_pass(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    full = [True]

    class Disk(ParquetIOManager):
        def dump_to_path(self, context: dg.OutputContext, obj: pd.DataFrame, path: Any) -> None:
            super().dump_to_path(context, obj, path)
            if full[0]:
                os.truncate(str(path), 1000)

    @dg.asset(io_manager_key="parquet")
    def raw() -> pd.DataFrame:
        return flights(100)

    @dg.asset(deps=[raw])
    def features() -> None:
        RAN.append("features")

    project = Project(dg.Definitions(assets=[raw, features], resources={"parquet": Disk(base_dir=str(tmp_path))}), instance, ["raw"])
    result = project.run()
    assert not result.success
    assert RAN == []
    assert "cut short" in said(evaluation_of(result))
    full[0] = False
    assert_clean(project)


def test_a_directory_is_sealed_file_by_file_and_the_changed_one_is_named(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    model = tmp_path / "model"

    @dg.asset
    def raw() -> dg.MaterializeResult:
        (model / "weights").mkdir(parents=True, exist_ok=True)
        (model / "weights" / "0.bin").write_bytes(b"\0" * 1000)
        (model / "config.json").write_text("{}")
        return dg.MaterializeResult(metadata={"path": str(model)})

    @dg.asset(deps=[raw])
    def features() -> None:
        RAN.append("features")

    project = Project(dg.Definitions(assets=[raw, features]), instance, ["raw"])
    assert_clean(project)
    (model / "weights" / "0.bin").write_bytes(b"\1" * 1000)
    assert_check_fails(project, "weights/0.bin")
    (model / "weights" / "0.bin").write_bytes(b"\0" * 1000)
    assert evaluation_of(project.check("raw")).passed
    (model / "planted.py").write_text("import os")
    assert_check_fails(project, "planted.py")


def test_a_directory_of_parts_may_grow_by_parts_where_it_is_append_only(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    parts = {"m.parquet": 1}

    @dg.asset
    def raw() -> dg.MaterializeResult:
        for name, seed in parts.items():
            (tmp_path / "parts").mkdir(exist_ok=True)
            flights(50, seed).to_parquet(tmp_path / "parts" / name)
        return dg.MaterializeResult(metadata={"path": str(tmp_path / "parts")})

    @dg.asset(deps=[raw])
    def features() -> None:
        RAN.append("features")

    project = Project(dg.Definitions(assets=[raw, features]), instance, [mlsec.Dataset(key="raw", policy="append_only")])
    assert_clean(project)
    parts["a.parquet"] = 2  # its rows come before the others', and the others are unchanged
    assert_clean(project)
    parts["m.parquet"] = 3
    assert not project.run().success
    assert RAN == []


# Pickles


class Bomb:
    """Whoever unpickles it has run the attacker's code."""

    def __init__(self, crater: Path) -> None:
        self.crater = crater

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.crater,))


def _pickle_project(instance: dg.DagsterInstance, manager: Any = None) -> Project:
    @dg.asset
    def raw() -> dict[str, int]:
        return {"weights": 1}

    @dg.asset
    def features(raw: dict[str, int]) -> int:
        assert raw == {"weights": 1}
        RAN.append("features")
        return raw["weights"]

    resources = {"io_manager": manager} if manager else {}
    return Project(dg.Definitions(assets=[raw, features], resources=resources), instance, ["raw"])


def test_a_pickle_swapped_between_write_and_check_is_never_loaded(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    project = _pickle_project(instance)
    path, crater = Path(instance.storage_directory()) / "raw", tmp_path / "exploded"

    # The first seal of this asset: its digest comes from the writer, so the swap does not become what is sealed.
    assert_blocked_between_write_and_check(project, lambda: path.write_bytes(pickle.dumps(Bomb(crater))), "raw is not what was written")

    assert_refused_at_read(project)
    assert not crater.exists()
    assert_clean(project)


def test_a_pickle_swapped_while_it_is_read_is_never_loaded(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    crater = tmp_path / "exploded"

    from dagster._core.storage.fs_io_manager import PickledObjectFilesystemIOManager

    class RacedManager(PickledObjectFilesystemIOManager):
        def load_from_path(self, context: dg.InputContext, path: Any) -> Any:
            (tmp_path / "store" / "raw").write_bytes(pickle.dumps(Bomb(crater)))  # after our hash, before the read
            return super().load_from_path(context, path)

    @dg.io_manager
    def raced(_: Any) -> RacedManager:
        return RacedManager(base_dir=str(tmp_path / "store"))

    project = _pickle_project(instance, raced)
    assert_clean(project)  # the bytes that were verified are the bytes that were read
    assert not crater.exists()
    assert_refused_at_read(project, "raw is not what")  # and the swap is noticed by the next reader
    assert not crater.exists()


# Replaced while being read


def test_a_table_replaced_while_it_is_read_is_read_as_it_was_verified(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    path = tmp_path / "raw.parquet"
    swaps: list[int] = []

    class Raced(ParquetIOManager):
        def load_from_path(self, context: dg.InputContext, path: Any) -> pd.DataFrame:
            flights(1000, seed=666).to_parquet(tmp_path / "other")
            (tmp_path / "other").replace(tmp_path / "raw.parquet")
            swaps.append(1)
            return super().load_from_path(context, path)

    @dg.asset(io_manager_key="parquet")
    def raw() -> pd.DataFrame:
        return flights(1000)

    @dg.asset
    def features(raw: pd.DataFrame) -> None:
        pd.testing.assert_frame_equal(raw, flights(1000))
        RAN.append("features")

    project = Project(dg.Definitions(assets=[raw, features], resources={"parquet": Raced(base_dir=str(tmp_path))}), instance, ["raw"])
    assert_clean(project)
    assert swaps == [1]
    assert path.exists()
    assert_refused_at_read(project, "raw is not what")
    assert_check_fails(project, "raw is not what")


def test_a_manager_that_reads_by_itself_is_caught_when_its_file_is_swapped_while_it_reads(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    path = tmp_path / "raw.csv"
    swap = [False]

    class Own(dg.ConfigurableIOManager):
        def handle_output(self, context: dg.OutputContext, obj: pd.DataFrame) -> None:
            obj.to_csv(path, index=False)
            context.add_output_metadata({"path": str(path)})

        def load_input(self, context: dg.InputContext) -> pd.DataFrame:
            if swap[0]:
                flights(20, seed=666).to_csv(path, index=False)
            return pd.read_csv(path)

    @dg.asset
    def raw() -> pd.DataFrame:
        return flights(20)

    @dg.asset
    def features(raw: pd.DataFrame) -> None:
        RAN.append("features")

    project = Project(dg.Definitions(assets=[raw, features], resources={"io_manager": Own()}), instance, ["raw"])
    assert_clean(project)
    swap[0] = True
    assert_refused_at_read(project, "raw is not what")
    swap[0] = False
    assert_clean(project)


def test_a_table_swapped_before_its_writer_returned_is_caught_by_the_value_in_memory(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    attacks = [True]

    class Raced(ParquetIOManager):
        def dump_to_path(self, context: dg.OutputContext, obj: pd.DataFrame, path: Any) -> None:
            super().dump_to_path(context, obj, path)
            if attacks[0] and context.asset_key == RAW:
                obj.assign(delayed=~obj["delayed"]).to_parquet(str(path))

    @dg.asset(io_manager_key="parquet")
    def raw() -> pd.DataFrame:
        return flights(100)

    @dg.asset(io_manager_key="parquet")
    def features(raw: pd.DataFrame) -> pd.DataFrame:
        RAN.append("features")
        return raw

    project = Project(dg.Definitions(assets=[raw, features], resources={"parquet": Raced(base_dir=str(tmp_path))}), instance, ["raw"])
    result = project.run()
    assert not result.success
    assert RAN == []
    assert "delayed" in said(evaluation_of(result))
    assert_refused_at_read(project, "failed its last dataset_hash check")
    attacks[0] = False
    assert_clean(project)


def test_a_declared_policy_does_not_excuse_an_altered_file(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    """Rows appended in storage are not an append: only a materialization appends."""
    project = parquet_project(tmp_path, instance, datasets=[mlsec.Dataset(key="raw", policy="append_only")])
    assert_clean(project)
    pd.concat([flights(1000), flights(5, seed=9)], ignore_index=True).to_parquet(tmp_path / "raw.parquet")
    assert_refused_at_read(project, "raw is not what")
    assert_check_fails(project, "raw is not what")
