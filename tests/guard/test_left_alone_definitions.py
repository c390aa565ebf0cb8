"""Whatever a project's definitions are made of, guarding them is one line, once; the digest is the data version where there was none."""

import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

import mlsec_dagster as mlsec
from mlsec_dagster.errors import ConfigurationError
from tests.guard.projects import Project, flights
from tests.guard.sameness import CHECKS, Run, Twins, at_home


def raw_and_features() -> list[Any]:
    @dg.asset
    def raw() -> pd.DataFrame:
        return flights(20)

    @dg.asset
    def features(raw: pd.DataFrame) -> pd.DataFrame:
        return raw

    return [raw, features]


def test_merged_definitions_are_guarded_as_a_whole(tmp_path: Path, home_template: Path) -> None:
    def build(base: Path) -> dg.Definitions:
        @dg.asset
        def elsewhere(features: pd.DataFrame) -> int:
            return len(features)

        files = dg.FilesystemIOManager(base_dir=str(base))
        assets = raw_and_features()
        # An asset may be listed twice, as happens where modules list each other's.
        return dg.Definitions.merge(
            dg.Definitions(assets=[*assets, assets[0]], resources={"io_manager": files}, metadata={"team": "one"}),
            dg.Definitions(assets=[elsewhere], resources={"io_manager": files}, jobs=[dg.define_asset_job("all_of_it")]),
            dg.Definitions(loggers={"console": dg.colored_console_logger}, executor=dg.in_process_executor),
        )

    project = Twins(tmp_path, build, ["raw", "elsewhere"], home_template)
    project.assert_defined_alike()
    project.assert_run_alike(Run(job="all_of_it"))
    project.assert_every_check_passed(2)


def test_guarded_definitions_verify_reads_of_what_is_merged_with_them(instance: dg.DagsterInstance) -> None:
    @dg.asset
    def elsewhere(features: pd.DataFrame) -> int:
        return len(features)

    guarded = mlsec.guard(dg.Definitions(assets=raw_and_features()), datasets=["raw", "features"])
    merged = dg.Definitions.merge(guarded, dg.Definitions(assets=[elsewhere]))
    assert merged.resolve_implicit_global_asset_job_def().execute_in_process(instance=instance).success
    (Path(instance.storage_directory()) / "features").write_bytes(b"\x80\x04K\x02.")
    job = merged.resolve_implicit_global_asset_job_def().get_subset(asset_selection={dg.AssetKey("elsewhere")})
    assert not job.execute_in_process(instance=instance, raise_on_error=False).success


def test_what_would_take_the_guards_place_is_an_error_and_never_silent() -> None:
    guarded = mlsec.guard(dg.Definitions(assets=raw_and_features()), datasets=["raw"])
    with pytest.raises(Exception, match="different resources with same key 'io_manager'"):
        dg.Definitions.merge(guarded, dg.Definitions(resources={"io_manager": dg.fs_io_manager}))


def test_guarding_twice_is_an_error_that_says_how_to_do_it_once() -> None:
    guarded = mlsec.guard(dg.Definitions(assets=raw_and_features()), datasets=["raw"])
    with pytest.raises(ConfigurationError, match=r"guarded already: name all datasets in one guard\(\)"):
        mlsec.guard(guarded, datasets=["features"])
    with pytest.raises(ConfigurationError, match="guarded already"):
        mlsec.guard(dg.Definitions.merge(guarded, dg.Definitions(jobs=[])), datasets=["raw"])


def test_repositories_and_lazy_definitions_are_refused_with_what_to_do() -> None:
    @dg.repository
    def legacy() -> list[Any]:
        return raw_and_features()

    @dg.definitions
    def lazy() -> dg.Definitions:
        return dg.Definitions(assets=raw_and_features())

    for given in (legacy, lazy):
        with pytest.raises(ConfigurationError, match="guard what a function under @definitions returns; put what a @repository lists"):
            mlsec.guard(given, datasets=["raw"])  # type: ignore[arg-type]


def test_guarded_definitions_serve_a_repository(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    guarded = mlsec.guard(dg.Definitions(assets=raw_and_features(), jobs=[dg.define_asset_job("every_asset")]), datasets=["raw"])
    repository = guarded.get_repository_def()
    assert repository.get_job("every_asset").execute_in_process(instance=instance).success
    assert repository.load_asset_value("raw", instance=instance).equals(flights(20))


def test_a_defs_folder_with_yaml_is_guarded_in_its_definitions(
    tmp_path: Path, home_template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "project" / "shop_of_the_test"
    (package / "defs" / "numbers").mkdir(parents=True)
    (tmp_path / "project" / "pyproject.toml").write_text(
        '[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "shop_of_the_test"\n'
    )
    (package / "__init__.py").touch()
    (package / "defs" / "__init__.py").touch()
    (package / "defs" / "assets.py").write_text(
        "import dagster as dg\n\n@dg.asset(kinds={'python'})\ndef raw() -> int:\n    return 1\n\n"
        "@dg.schedule(cron_schedule='@daily', target=raw)\ndef daily():\n    return {}\n"
    )
    (package / "defs" / "numbers" / "assets.py").write_text(
        "import dagster as dg\n\n@dg.asset\ndef more(raw: int) -> int:\n    return raw + 1\n"
    )
    (package / "defs" / "numbers" / "defs.yaml").write_text(
        "type: dagster.PythonScriptComponent\nattributes:\n  execution:\n    name: script\n    path: script.py\n"
        "  assets:\n    - key: written\n      deps: [raw]\n"
    )
    (package / "defs" / "numbers" / "script.py").write_text("print('ran')\n")
    (package / "defs" / "numbers" / "assets.py").rename(package / "defs" / "more.py")
    monkeypatch.syspath_prepend(str(tmp_path / "project"))

    def build(base: Path) -> dg.Definitions:
        for name in [name for name in sys.modules if name.startswith("shop_of_the_test")]:
            del sys.modules[name]
        return dg.load_from_defs_folder(path_within_project=package)

    project = Twins(tmp_path, build, ["raw", "more"], home_template)
    assert project.guarded.defs.component_tree is not None
    project.assert_defined_alike()
    project.assert_run_alike()
    project.assert_load_alike("more")
    project.assert_every_check_passed(2)


def test_materialize_takes_assets_and_resources_of_guarded_definitions(instance: dg.DagsterInstance) -> None:
    assets = raw_and_features()
    guarded = mlsec.guard(dg.Definitions(assets=assets), datasets=["raw"])
    result = dg.materialize([*assets, *(guarded.asset_checks or [])], resources=dict(guarded.resources or {}), instance=instance)
    assert {each.check_name: each.passed for each in result.get_asset_check_evaluations()} == dict.fromkeys(CHECKS, True)
    # The assets themselves are as they were: a unit test that materializes them alone knows nothing of the guard.
    with dg.DagsterInstance.ephemeral() as ephemeral:
        assert dg.materialize(assets, instance=ephemeral).success


# Data versions


def versions(instance: dg.DagsterInstance, *names: str) -> list[str | None]:
    found = []
    for name in names:
        record = instance.get_latest_data_version_record(dg.AssetKey(name))
        assert record is not None
        assert record.asset_materialization is not None
        found.append((record.asset_materialization.tags or {}).get("dagster/data_version"))
    return found


def test_the_digest_is_the_data_version_where_there_is_none(instance: dg.DagsterInstance) -> None:
    content = [1]

    @dg.asset
    def raw() -> pd.DataFrame:
        return pd.DataFrame({"a": content})

    @dg.asset
    def given() -> dg.Output[int]:
        return dg.Output(1, data_version=dg.DataVersion("mine"))

    @dg.multi_asset(outs={"left": dg.AssetOut(), "right": dg.AssetOut()})
    def both() -> Any:
        yield dg.Output(1, output_name="left", data_version=dg.DataVersion("left's"))
        yield dg.Output(2, output_name="right")

    @dg.asset
    def result() -> dg.MaterializeResult:
        return dg.MaterializeResult(value=3, data_version=dg.DataVersion("result's"))

    names = ["raw", "given", "left", "right", "result"]
    project = Project(dg.Definitions(assets=[raw, given, both, result]), instance, names)
    assert project.run().success
    raw_version, given_version, left, right, result_version = versions(instance, *names)
    assert (given_version, left, result_version) == ("mine", "left's", "result's")
    digests = {entry.statement.asset: entry.statement.predicate for entry in project.entries()}
    assert raw_version == digests["raw"]["content_root"]
    assert right == digests["right"]["files_root"]
    # The same content has the same version, other content another.
    assert project.run().success
    assert versions(instance, "raw", "right") == [raw_version, right]
    content.append(2)
    assert project.run().success
    assert versions(instance, "raw") != [raw_version]


def test_a_materialization_of_the_same_content_does_not_make_downstream_stale(tmp_path: Path, home_template: Path) -> None:
    from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
    from dagster._core.loader import LoadingContextForTest

    content = [1]

    def build(base: Path) -> dg.Definitions:
        @dg.asset(code_version="1")
        def raw() -> list[int]:
            return list(content)

        @dg.asset(code_version="1")
        def features(raw: list[int]) -> int:
            return sum(raw)

        return dg.Definitions(assets=[raw, features])

    side = Twins(tmp_path, build, ["raw", "features"], home_template).guarded

    def status() -> StaleStatus:
        graph = side.defs.resolve_asset_graph()
        return CachingStaleStatusResolver(side.instance, graph, LoadingContextForTest(side.instance)).get_status(dg.AssetKey("features"))

    with at_home(side.home):
        Run().execute(side.defs, side.instance)
        assert status() == StaleStatus.FRESH
        Run(select=["raw"]).execute(side.defs, side.instance)
        assert status() == StaleStatus.FRESH
        content.append(2)
        Run(select=["raw"]).execute(side.defs, side.instance)
        assert status() == StaleStatus.STALE
