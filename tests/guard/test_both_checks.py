"""What `distribution_stability` says beside `dataset_hash` where there is no table, or nothing that could be looked at.

That it has an evaluation wherever `dataset_hash` has one, warns at most, and fails no step is asserted in every run of `Project`.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from mlsec_dagster.resources import open_store
from mlsec_dagster.stability.subject import has_begun
from tests.guard.projects import Project, Result, flights, parquet_project

ROOT = Path(__file__).parents[2]


class Model:
    """What a training asset returns."""

    def __init__(self) -> None:
        self.weights = [0.5, 0.25]


def said(result: Result) -> tuple[str, bool, str, bool, str]:
    """What the two checks of `raw` found: the verdict of the second one, and passed and description of both."""
    (hashed,) = result.get_asset_check_evaluations()
    (compared,) = result.get_asset_check_evaluations("distribution_stability")
    verdict = compared.metadata["verdict"].value
    return verdict, hashed.passed, str(hashed.description), compared.passed, str(compared.description)


def _model(_: Path) -> Any:
    @dg.asset
    def raw() -> Model:
        return Model()

    return raw


def _number(_: Path) -> Any:
    @dg.asset
    def raw() -> int:
        return 1

    return raw


def _self_written(name: str, data: bytes) -> Callable[[Path], Any]:
    def made(base: Path) -> Any:
        @dg.asset
        def raw() -> dg.MaterializeResult:
            (base / name).parent.mkdir(parents=True, exist_ok=True)
            (base / name).write_bytes(data)
            return dg.MaterializeResult(metadata={"path": str((base / name).parent if "/" in name else base / name)})

        return raw

    return made


@pytest.mark.parametrize(
    "made",
    [_model, _number, _self_written("model.bin", b"\x00weights"), _self_written("model/weights.bin", b"\x00weights")],
    ids=["model", "number", "self-written file", "self-written directory"],
)
def test_what_is_no_table_is_said_to_be_none_and_keeps_no_window(
    instance: dg.DagsterInstance, tmp_path: Path, made: Callable[[Path], Any]
) -> None:
    project = Project(dg.Definitions(assets=[made(tmp_path)]), instance, ["raw"])
    for _ in range(2):
        verdict, hashed, _, passed, description = said(project.run())
        assert (verdict, hashed, passed) == ("not applicable", True, True)
        assert description == "raw is no table, so there is no distribution to compare; its bytes are what dataset_hash verifies."
    assert not has_begun(open_store(instance), "raw")


def _without_a_place(_: Path) -> dg.Definitions:
    @dg.asset
    def raw() -> None: ...

    return dg.Definitions(assets=[raw])


def _handed_none(_: Path) -> dg.Definitions:
    @dg.asset
    def raw():  # no return type: its None goes to an IO manager
        return None

    return dg.Definitions(assets=[raw])


def _in_memory(_: Path) -> dg.Definitions:
    @dg.asset
    def raw() -> pd.DataFrame:
        return flights(10)

    return dg.Definitions(assets=[raw], resources={"io_manager": dg.mem_io_manager})


def _pointing_nowhere(base: Path) -> dg.Definitions:
    @dg.asset
    def raw() -> dg.MaterializeResult:
        return dg.MaterializeResult(metadata={"path": str(base / "nowhere.parquet")})

    return dg.Definitions(assets=[raw])


def _table_elsewhere(_: Path) -> dg.Definitions:
    @dg.asset
    def raw() -> dg.MaterializeResult:
        return dg.MaterializeResult(metadata={"dagster/table_name": "lake.raw"})

    return dg.Definitions(assets=[raw])


@pytest.mark.parametrize("made", [_without_a_place, _handed_none, _in_memory, _pointing_nowhere, _table_elsewhere])
def test_what_dataset_hash_cannot_look_at_is_not_looked_at_here_either(
    instance: dg.DagsterInstance, tmp_path: Path, made: Callable[[Path], dg.Definitions]
) -> None:
    project = Project(made(tmp_path), instance, ["raw"])
    verdict, hashed, why, passed, description = said(project.run())
    assert (verdict, hashed, passed) == ("could not verify", False, False)
    assert "raw could not be verified" in description
    # The same reason, in the words of the first.
    assert why.removeprefix("raw could not be verified: ") in description


def test_an_external_asset_of_which_nothing_is_known_is_not_looked_at(instance: dg.DagsterInstance) -> None:
    project = Project(dg.Definitions(assets=[dg.AssetSpec("raw")]), instance, ["raw"])
    checks = {dg.AssetCheckKey(dg.AssetKey("raw"), name) for name in ("dataset_hash", "distribution_stability")}
    job = project.guarded.resolve_implicit_global_asset_job_def().get_subset(asset_selection=set(), asset_check_selection=checks)
    verdict, hashed, why, passed, description = said(Result(job.execute_in_process(instance=instance, raise_on_error=False)))
    assert (verdict, hashed, passed) == ("could not verify", False, False)
    assert "it is external" in why
    assert "it is external" in description


def test_altered_data_is_no_window(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    """Else whoever alters data would have it learnt as ordinary."""
    project = parquet_project(tmp_path, instance, datasets=["raw"])
    project.after_write = lambda asset: flights(50, seed=9).to_parquet(tmp_path / "raw.parquet") if asset == "raw" else None
    verdict, hashed, _, passed, description = said(project.run("raw"))
    assert (verdict, hashed, passed) == ("could not verify", False, False)
    assert "raw is not what was written" in description
    assert not has_begun(open_store(instance), "raw")


@pytest.mark.parametrize("place", ["stability.assessment.assess", "stability.baselines.Baseline.keep", "stability.evidence.evidence_of"])
@pytest.mark.parametrize("error", [RuntimeError("Conversion failed for value SECRET"), MemoryError()], ids=["an engine's", "out of memory"])
def test_an_error_inside_is_a_failed_evaluation_that_stops_nobody(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, error: Exception
) -> None:
    import mlsec_dagster.stability.evidence  # noqa: F401 - so that there is something to replace

    def stopped(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(f"mlsec_dagster.{place}", stopped)
    project = parquet_project(tmp_path, instance, datasets=["raw"])
    result = project.run("raw")
    assert result.success
    verdict, hashed, _, passed, description = said(result)
    assert (verdict, hashed, passed) == ("could not verify", True, False)
    assert type(error).__name__ in description
    assert "no statement about the data" in description
    assert "SECRET" not in description


class Labelled(pd.DataFrame):
    """A frame of a project's own class."""

    @property
    def _constructor(self) -> Any:
        return Labelled


class Streamed:
    """A table of another library, which tells by a method that it is one."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.rows = frame.drop(columns="time_hour").to_dict("list")

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        import pyarrow as pa

        return pa.table(self.rows).__arrow_c_stream__(requested_schema)


@pytest.mark.parametrize("kind", ["pandas", "of its own class", "of another library", "polars", "arrow"])
def test_a_pickled_table_is_compared(instance: dg.DagsterInstance, kind: str) -> None:
    def table() -> Any:
        frame = flights(60)
        if kind == "polars":
            return pytest.importorskip("polars").from_pandas(frame)
        if kind == "arrow":
            import pyarrow as pa

            return pa.Table.from_pandas(frame)
        return {"of its own class": Labelled, "of another library": Streamed}.get(kind, pd.DataFrame)(frame)

    @dg.asset
    def raw() -> Any:
        return table()

    verdict, hashed, _, passed, _ = said(Project(dg.Definitions(assets=[raw]), instance, ["raw"]).run())
    assert (verdict, hashed, passed) == ("learning", True, True)


def test_a_table_that_becomes_something_else_is_told(instance: dg.DagsterInstance) -> None:
    values: list[Any] = [flights(60), Model()]

    @dg.asset
    def raw() -> Any:
        return values.pop(0)

    project = Project(dg.Definitions(assets=[raw]), instance, ["raw"])
    assert said(project.run())[0] == "learning"
    verdict, _, _, passed, description = said(project.run())
    assert (verdict, passed) == ("schema", False)
    assert "is no table any more" in description


WITHOUT_TABLES = """\
import sys
import dagster as dg
import mlsec_dagster as mlsec

before = set(sys.modules)

@dg.asset
def raw() -> dict[str, int]:
    return {"rows": 1}

defs = mlsec.guard(dg.Definitions(assets=[raw]), datasets=["raw"])
with dg.DagsterInstance.get() as instance:
    result = defs.resolve_implicit_global_asset_job_def().execute_in_process(instance=instance)
print(*sorted(each.check_name for each in result.get_asset_check_evaluations() if each.passed))
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""


@pytest.mark.slow
def test_a_run_without_tables_imports_nothing_that_reads_or_compares_them(instance: dg.DagsterInstance) -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_TABLES], cwd=ROOT, check=True, capture_output=True, text=True)
    passed, imported = done.stdout.splitlines()[-2:]
    assert passed == "dataset_hash distribution_stability"
    assert not {"numpy", "pandas", "polars", "pyarrow", "duckdb", "ibis", "sklearn", "scipy"} & set(imported.split())


LOADED: list[int] = []


class Heavy:
    """A model that tells when it is loaded."""

    def __setstate__(self, state: dict[str, int]) -> None:
        LOADED.append(state["size"])

    def __getstate__(self) -> dict[str, int]:
        return {"size": 1}


def test_a_model_is_not_loaded_to_find_out_that_it_is_no_table(instance: dg.DagsterInstance) -> None:
    """Loading one imports its library and takes its memory, in each run."""

    @dg.asset
    def raw() -> Heavy:
        return Heavy()

    project = Project(dg.Definitions(assets=[raw]), instance, ["raw"])
    assert said(project.run())[0] == "not applicable"
    assert LOADED == []
    # It would have told.
    project.guarded.load_asset_value("raw", instance=instance)
    assert LOADED == [1]
