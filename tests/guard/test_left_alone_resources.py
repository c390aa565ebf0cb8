"""Resources of every make are configured, nested, started and stopped as before the guard."""

import asyncio
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import dagster as dg
import pandas as pd
import pytest
from upath import UPath

from tests.guard.projects import ParquetIOManager, flights
from tests.guard.sameness import CHECKS, Run, Twins, at_home

pytestmark = pytest.mark.slow

LIFE: list[str] = []
"""What resources did, in order."""


def raw_and_features(**settings: Any) -> list[dg.AssetsDefinition]:
    @dg.asset(**settings)
    def raw() -> pd.DataFrame:
        return flights(20)

    @dg.asset(**settings)
    def features(raw: pd.DataFrame) -> pd.DataFrame:
        return raw.assign(speed=raw["distance"] / raw["air_time"])

    return [raw, features]


class Client(dg.ConfigurableResource):
    """Something that an IO manager needs."""

    folder: str

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        LIFE.append("client up")

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        LIFE.append("client down")


class NestedIOManager(dg.ConfigurableIOManager):
    """Stores below the folder of a client that other resources share; reports its path."""

    client: dg.ResourceDependency[Client]
    suffix: str = ".pkl"

    def _path(self, context: Any) -> Path:
        return Path(self.client.folder) / (context.asset_key.path[-1] + self.suffix)

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        self._path(context).write_bytes(pickle.dumps(obj))
        context.add_output_metadata({"path": str(self._path(context)), "suffix": self.suffix})

    def load_input(self, context: dg.InputContext) -> Any:
        context.add_input_metadata({"from": self.suffix})
        return pickle.loads(self._path(context).read_bytes())


def test_nested_resources_that_are_configured_at_launch(tmp_path: Path, home_template: Path) -> None:
    def build(base: Path) -> dg.Definitions:
        client = Client.configure_at_launch()

        @dg.asset
        def uses_it(client: Client, raw: pd.DataFrame) -> str:
            return type(client).__name__

        return dg.Definitions(
            assets=[*raw_and_features(), uses_it],
            resources={"client": client, "io_manager": NestedIOManager(client=client), "spare": NestedIOManager.configure_at_launch()},
        )

    project = Twins(tmp_path, build, ["raw", "features"], home_template)
    project.assert_defined_alike()
    lives = []
    for side in project.sides.values():
        LIFE.clear()
        run = Run(config={"resources": {"client": {"config": {"folder": str(side.home)}}}})
        project._events(side, run)
        lives.append(sorted(LIFE))
    assert lives[0]
    assert set(lives[1]) == set(lives[0])
    project.assert_every_check_passed(2)


class CsvIOManager(dg.ConfigurableIOManager):
    """Stores another table than it is given (an index more, types lost), beside a file of its own; says where under a capital."""

    base_dir: str | None = None

    def _path(self, context: Any) -> Path:
        base = self.base_dir or self.get_resource_context().instance.storage_directory()
        return Path(base).joinpath(*context.asset_key.path).with_suffix(".csv")

    def handle_output(self, context: dg.OutputContext, obj: pd.DataFrame) -> None:
        path = self._path(context)
        path.parent.mkdir(parents=True, exist_ok=True)
        obj.to_csv(path)
        path.with_suffix(".version").write_text("1")
        context.add_output_metadata({"Rows": len(obj), "Path": dg.MetadataValue.path(str(path)), "Sample": dg.MetadataValue.md("| a |")})

    def load_input(self, context: dg.InputContext) -> pd.DataFrame:
        return pd.read_csv(self._path(context))


def test_an_io_manager_that_stores_another_table_and_knows_its_resource_context(tmp_path: Path, home_template: Path) -> None:
    project = Twins(
        tmp_path,
        lambda base: dg.Definitions(assets=raw_and_features(), resources={"io_manager": CsvIOManager()}),
        ["raw", "features"],
        home_template,
    )
    project.assert_defined_alike()
    project.assert_run_alike()
    project.assert_load_alike("features")
    project.assert_every_check_passed(2)


def test_environment_variables_and_run_configuration(tmp_path: Path, home_template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_BELOW", str(tmp_path))

    class Settings(dg.Config):
        rows: int = 3

    def build(base: Path) -> dg.Definitions:
        @dg.asset(config_schema={"rows": int})
        def raw(context: dg.AssetExecutionContext) -> pd.DataFrame:
            return flights(context.op_config["rows"])

        @dg.asset(io_manager_key="launched")
        def features(raw: pd.DataFrame, config: Settings) -> pd.DataFrame:
            return raw.head(config.rows)

        @dg.asset(io_manager_key="legacy")
        def report(features: pd.DataFrame) -> int:
            return len(features)

        return dg.Definitions(
            assets=[raw, features, report],
            resources={
                "io_manager": ParquetIOManager(base_dir=dg.EnvVar("DATA_BELOW")),
                "launched": ParquetIOManager.configure_at_launch(),
                "legacy": dg.fs_io_manager,
            },
            jobs=[
                dg.define_asset_job(
                    "preset",
                    config=dg.RunConfig(
                        ops={"raw": {"config": {"rows": 9}}},
                        resources={
                            "launched": {"config": {"base_dir": str(base)}},
                            "legacy": {"config": {"base_dir": str(base / "legacy")}},
                        },
                    ),
                )
            ],
        )

    project = Twins(tmp_path, build, ["raw", "features", "report"], home_template)
    project.assert_defined_alike()
    project.assert_run_alike(Run(job="preset"))
    project.assert_every_check_passed(3)
    assert {path.name for path in (project.guarded.home / "data").rglob("*") if path.is_file()} == {"features.parquet", "report"}


def test_the_default_io_manager_takes_its_base_dir_from_the_run(tmp_path: Path, home_template: Path) -> None:
    project = Twins(tmp_path, lambda base: dg.Definitions(assets=raw_and_features()), ["raw"], home_template)
    elsewhere = tmp_path / "elsewhere"
    project.assert_run_alike(Run(config={"resources": {"io_manager": {"config": {"base_dir": str(elsewhere)}}}}))
    assert (elsewhere / "raw").exists()
    project.assert_every_check_passed(1)


def test_the_default_io_manager_that_the_environment_names(tmp_path: Path, home_template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("named_by_the_environment")

    module.elsewhere = dg.io_manager(lambda context: ParquetFiles(Path(context.instance.root_directory) / "elsewhere"))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "named_by_the_environment", module)
    monkeypatch.setenv("DAGSTER_DEFAULT_IO_MANAGER_MODULE", "named_by_the_environment")
    monkeypatch.setenv("DAGSTER_DEFAULT_IO_MANAGER_ATTRIBUTE", "elsewhere")
    project = Twins(tmp_path, lambda base: dg.Definitions(assets=raw_and_features()), ["raw", "features"], home_template)
    project.assert_defined_alike()
    project.assert_run_alike()
    project.assert_load_alike("features")
    assert (project.guarded.home / "elsewhere" / "raw.parquet").exists()
    project.assert_every_check_passed(2)


class ParquetFiles(dg.UPathIOManager):
    extension: ClassVar[str] = ".parquet"

    def __init__(self, base: Path) -> None:
        super().__init__(base_path=UPath(base))

    def dump_to_path(self, context: dg.OutputContext, obj: pd.DataFrame, path: UPath) -> None:
        obj.to_parquet(str(path))

    def load_from_path(self, context: dg.InputContext, path: UPath) -> pd.DataFrame:
        return pd.read_parquet(str(path))

    def get_metadata(self, context: dg.OutputContext, obj: pd.DataFrame) -> dict[str, Any]:
        return {"rows": len(obj)}

    def get_loading_input_log_message(self, path: UPath) -> str:
        return f"reading {path.name}"


class AsyncFiles(ParquetFiles):
    async def load_from_path(self, context: dg.InputContext, path: UPath) -> pd.DataFrame:
        await asyncio.sleep(0)
        return pd.read_parquet(str(path))


def test_an_upath_io_manager_that_loads_asynchronously(tmp_path: Path, home_template: Path) -> None:
    parts = dg.StaticPartitionsDefinition(["a", "b", "c"])

    def build(base: Path) -> dg.Definitions:
        @dg.asset(partitions_def=parts)
        def raw(context: dg.AssetExecutionContext) -> pd.DataFrame:
            return flights(10, seed=ord(context.partition_key))

        @dg.asset
        def whole(raw: dict[str, pd.DataFrame]) -> pd.DataFrame:
            return pd.concat([raw[key] for key in sorted(raw)], ignore_index=True)

        return dg.Definitions(assets=[raw, whole], resources={"io_manager": dg.io_manager(lambda: AsyncFiles(base))})

    project = Twins(tmp_path, build, ["raw", "whole"], home_template)
    project.assert_defined_alike()
    project.assert_run_alike(*(Run(select=["raw"], partition=key) for key in "abc"), Run(select=["whole"]))
    project.assert_load_alike("whole")
    project.assert_load_alike("raw", partition_key="b")
    project.assert_every_check_passed(4)


def test_resources_that_are_generators_end_when_the_run_ends(tmp_path: Path, home_template: Path) -> None:
    def build(base: Path) -> dg.Definitions:
        @dg.io_manager(config_schema={"name": dg.Field(str, default_value="x")}, required_resource_keys={"client"})
        def generated(context: dg.InitResourceContext) -> Iterator[Any]:
            LIFE.append("manager up")
            try:
                yield ParquetFiles(base)
            finally:
                LIFE.append("manager down")

        @dg.io_manager
        @contextmanager
        def managed() -> Iterator[Any]:
            LIFE.append("other up")
            yield ParquetFiles(base / "other")
            LIFE.append("other down")

        class Yielding(dg.ConfigurableIOManagerFactory):
            @contextmanager
            def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[Any]:
                LIFE.append("factory up")
                yield self.create_io_manager(context)
                LIFE.append("factory down")

            def create_io_manager(self, context: dg.InitResourceContext) -> Any:
                return ParquetFiles(base / "factory")

        @dg.asset(io_manager_key="managed")
        def other(features: pd.DataFrame) -> pd.DataFrame:
            return features

        @dg.asset(io_manager_key="yielding")
        def another(other: pd.DataFrame) -> pd.DataFrame:
            return other

        resources = {"io_manager": generated, "managed": managed, "yielding": Yielding(), "client": Client(folder=str(base))}
        return dg.Definitions(assets=[*raw_and_features(), other, another], resources=resources)

    project = Twins(tmp_path, build, ["raw", "features", "other", "another"], home_template)
    project.assert_defined_alike()
    lives = []
    for side in project.sides.values():
        LIFE.clear()
        project._events(side, Run())
        lives.append(list(LIFE))
    assert sorted(set(lives[0])) == sorted(set(lives[1]))
    assert all(
        life.count(f"{name} up") == life.count(f"{name} down") for life in lives for name in ("manager", "other", "factory", "client")
    )
    project.assert_every_check_passed(4)


def test_values_that_never_leave_memory(tmp_path: Path, home_template: Path) -> None:
    def build(base: Path) -> dg.Definitions:
        @dg.asset(io_manager_key="memory")
        def raw() -> dict[str, int]:
            return {"a": 1}

        @dg.asset
        def features(raw: dict[str, int]) -> int:
            return raw["a"]

        return dg.Definitions(assets=[raw, features], resources={"memory": dg.mem_io_manager})

    project = Twins(tmp_path, build, ["features"], home_template)
    project.assert_defined_alike()
    project.assert_run_alike()
    project.assert_every_check_passed(1)
    # Nothing is stored, so nothing could be verified, and saying otherwise would be a lie.
    guarded = Twins(tmp_path / "too", build, ["raw"], home_template).guarded
    with at_home(guarded.home):
        result = guarded.defs.resolve_implicit_global_asset_job_def().execute_in_process(instance=guarded.instance, raise_on_error=False)
    said = {each.check_name: (each.passed, str(each.description)) for each in result.get_asset_check_evaluations()}
    assert set(said) == set(CHECKS)
    for passed, description in said.values():
        assert not passed
        assert "it is not known where raw is stored" in description
