"""Functions that write for themselves and declare no return type: Dagster hands their None to an IO manager; their data is elsewhere."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from tests.guard.projects import RAN, Project, flights
from tests.guard.sameness import Run, Twins


def writes_for_itself(target: Path, *, says_so: bool) -> list[Any]:
    seeds = iter(range(1, 100))

    @dg.asset
    def raw(context):  # no return type, as in most tutorials
        flights(10, seed=next(seeds)).to_parquet(target)
        if says_so:
            context.add_output_metadata({"path": str(target)})

    @dg.asset
    def features(raw):  # takes None, to run after it
        assert raw is None
        RAN.append("features")

    return [raw, features]


def test_none_is_no_data_and_is_not_passed_off_as_such(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    project = Project(dg.Definitions(assets=writes_for_itself(tmp_path / "own.parquet", says_so=False)), instance, ["raw"])
    (evaluation,) = project.run().get_asset_check_evaluations()
    assert not evaluation.passed
    assert "its IO manager was handed None, and its materialization reports neither" in str(evaluation.description)


@pytest.mark.parametrize("says_so", [True, False], ids=["path", "resolver"])
def test_what_it_wrote_is_sealed_at_its_check(instance: dg.DagsterInstance, tmp_path: Path, says_so: bool) -> None:
    RAN.clear()
    own = tmp_path / "own.parquet"
    options = {} if says_so else {"resolver": lambda key, event: own}
    project = Project(dg.Definitions(assets=writes_for_itself(own, says_so=says_so)), instance, ["raw"], options)
    for _ in range(2):
        result = project.run()
        assert result.success
        (evaluation,) = result.get_asset_check_evaluations()
        assert evaluation.metadata["sealed"].value == "first seen at check"
    assert project.check("raw").get_asset_check_evaluations()[0].passed
    assert project.run("features").success
    assert RAN == ["features"] * 3

    flights(10, seed=99).to_parquet(own)
    (evaluation,) = project.check("raw").get_asset_check_evaluations()
    assert not evaluation.passed
    RAN.clear()
    assert not project.run("features").success
    assert RAN == []


def test_nobody_can_put_none_in_the_place_of_data(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    RAN.clear()

    @dg.asset
    def raw() -> int:
        return 1

    @dg.asset
    def features(raw: Any) -> None:
        RAN.append("features")

    project = Project(dg.Definitions(assets=[raw, features]), instance, ["raw"])
    assert project.run("raw").success
    (Path(instance.storage_directory()) / "raw").write_bytes(b"\x80\x04N.")
    assert not project.run("features").success
    assert RAN == []
    assert not project.check("raw").get_asset_check_evaluations()[0].passed


def test_its_data_version_stays_dagsters_own(tmp_path: Path, home_template: Path) -> None:
    def build(base: Path) -> dg.Definitions:
        return dg.Definitions(assets=writes_for_itself(base / "own.parquet", says_so=True))

    project = Twins(tmp_path, build, ["raw"], home_template)
    project.assert_defined_alike()
    versions = set()
    for _ in range(2):
        project.assert_run_alike(Run(select=["raw"]))
        record = project.guarded.instance.get_latest_data_version_record(dg.AssetKey("raw"))
        assert record is not None
        assert record.asset_materialization is not None
        versions.add((record.asset_materialization.tags or {})["dagster/data_version"])
    assert len(versions) == 2
