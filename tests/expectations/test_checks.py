"""`expectations` checks in real runs: what they stop, what they are shown, and what they say."""

import json
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

import mlsec_dagster as mlsec
from mlsec_dagster.errors import ConfigurationError
from tests.guard.projects import ParquetIOManager, flights

gx = pytest.importorskip("great_expectations", reason="needs great-expectations: install mlsec-dagster[gx]")

RAN: list[str] = []
LOADED: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_ran() -> Iterator[None]:
    RAN.clear()
    LOADED.clear()
    yield
    assert LOADED == []


class Bomb:
    """A pickle that tells when it is loaded."""

    def __reduce__(self) -> Any:
        return (LOADED.append, ("loaded",))


def suite_of(*expectations: Any) -> Any:
    return gx.ExpectationSuite(name="flights", expectations=list(expectations))


def sound() -> Any:
    return suite_of(
        gx.expectations.ExpectColumnValuesToBeInSet(column="carrier", value_set=["UA", "AA", "B6"]),
        gx.expectations.ExpectColumnValuesToBeBetween(column="distance", min_value=0, max_value=5000),
        gx.expectations.ExpectTableRowCountToBeBetween(min_value=1),
    )


class Shop:
    """Raw data with an `expectations` check, and what is made of them."""

    def __init__(
        self,
        instance: dg.DagsterInstance,
        suite: Any,
        *,
        manager: Any = None,
        guarded: bool = True,
        partitions: dg.PartitionsDefinition | None = None,
        guard: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.instance = instance
        self.value: Any = flights(100)

        @dg.asset(partitions_def=partitions)
        def raw() -> Any:
            return self.value

        @dg.asset(deps=[raw], partitions_def=partitions)
        def features() -> None:
            RAN.append("features")

        checks = mlsec.build_expectation_checks(assets=[raw], suite=suite, **options)
        self.plain = dg.Definitions(
            assets=[raw, features], asset_checks=list(checks), resources={"io_manager": manager} if manager else None
        )
        self.defs = mlsec.guard(self.plain, datasets=["raw"], **(guard or {})) if guarded else self.plain

    def run(self, partition: str | None = None) -> dg.ExecuteInProcessResult:
        job = self.defs.resolve_implicit_global_asset_job_def()
        tags = {"dagster/partition": partition} if partition else {}
        return job.execute_in_process(instance=self.instance, raise_on_error=False, tags=tags)

    def check(self) -> Any:
        """The evaluation of the check alone."""
        key = dg.AssetCheckKey(dg.AssetKey("raw"), "expectations")
        job = self.defs.resolve_implicit_global_asset_job_def().get_subset(asset_selection=set(), asset_check_selection={key})
        return evaluation_of(job.execute_in_process(instance=self.instance, raise_on_error=False))


def evaluation_of(result: dg.ExecuteInProcessResult) -> Any:
    (evaluation,) = [each for each in result.get_asset_check_evaluations() if each.check_name == "expectations"]
    return evaluation


def rows_of(evaluation: Any) -> list[dict[str, Any]]:
    return [record.data for record in evaluation.metadata["expectations"].records]


def test_clean_data_pass_and_what_comes_after_them_runs(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    shop = Shop(instance, sound(), manager=ParquetIOManager(base_dir=str(tmp_path)), blocking=True)
    result = shop.run()
    assert result.success
    assert RAN == ["features"]
    evaluation = evaluation_of(result)
    assert evaluation.passed
    assert evaluation.description == "All 3 expectations of 'flights' hold for raw."
    record = instance.fetch_materializations(dg.AssetKey("raw"), limit=1).records[0]
    assert evaluation.target_materialization_data.storage_id == record.storage_id
    assert "ledger entry" in evaluation.metadata
    assert "to know" not in evaluation.metadata


def test_what_breaks_a_blocking_suite_goes_no_further(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    shop = Shop(instance, sound(), manager=ParquetIOManager(base_dir=str(tmp_path)), blocking=True)
    shop.value = flights(100).assign(carrier=["ZZ"] * 20 + ["UA"] * 80)
    result = shop.run()
    assert not result.success
    assert RAN == []
    evaluation = evaluation_of(result)
    assert not evaluation.passed
    assert evaluation.blocking
    assert evaluation.severity == dg.AssetCheckSeverity.ERROR
    assert evaluation.description.startswith(
        "1 of 3 expectations does not hold for raw: 'carrier': column values to be in set (20.0% unexpected). Find out what changed"
    )
    first = rows_of(evaluation)[0]
    assert first["result"] == "does not hold"
    assert first["observed"] == "ZZ, ZZ, ZZ"
    assert first["expected"] == "value set UA, AA, B6"
    assert first["unexpected"] == "20.0%"


def test_by_default_a_broken_suite_warns_and_stops_nothing(instance: dg.DagsterInstance) -> None:
    shop = Shop(instance, sound(), guarded=True)
    shop.value = flights(100).assign(carrier="ZZ")
    result = shop.run()
    assert result.success
    assert RAN == ["features"]
    assert evaluation_of(result).severity == dg.AssetCheckSeverity.WARN


def test_bytes_swapped_after_the_seal_are_not_shown_to_the_suite(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(instance, sound(), manager=ParquetIOManager(base_dir=str(tmp_path)), blocking=True)
    assert shop.run().success
    flights(100, seed=2).to_parquet(tmp_path / "raw.parquet")  # which the suite would find nothing wrong with
    monkeypatch.setattr("mlsec_dagster.asset_checks.expectations.hold_against", lambda *_: pytest.fail("the suite was asked"))
    evaluation = shop.check()
    assert not evaluation.passed
    assert evaluation.description.startswith("raw could not be verified: raw is not what was written")
    assert "does not hold" not in evaluation.description
    assert "do not hold" not in evaluation.description


def test_a_swapped_pickle_is_never_loaded_and_a_sealed_one_is_read(instance: dg.DagsterInstance) -> None:
    shop = Shop(instance, sound(), blocking=True)
    assert shop.run().success
    (Path(instance.storage_directory()) / "raw").write_bytes(pickle.dumps(Bomb()))
    evaluation = shop.check()
    assert not evaluation.passed
    assert "could not be verified" in evaluation.description


def test_without_a_guard_files_are_read_with_a_note_and_pickles_are_not(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    files = Shop(instance, sound(), manager=ParquetIOManager(base_dir=str(tmp_path)), guarded=False)
    evaluation = evaluation_of(files.run())
    assert evaluation.passed
    assert "cannot be known" in evaluation.metadata["to know"].value
    pickles = Shop(instance, sound(), guarded=False)
    pickles.value = Bomb()
    evaluation = evaluation_of(pickles.run())
    assert not evaluation.passed
    assert "a pickle without a seal" in evaluation.description


@pytest.mark.parametrize("damage", ["missing", "no table", "engine"])
def test_what_could_not_be_looked_at_is_no_violation_and_blocks(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    file = tmp_path / "raw.parquet"
    shop = Shop(instance, sound(), manager=ParquetIOManager(base_dir=str(tmp_path)), guarded=False, blocking=True)
    assert shop.run().success
    if damage == "missing":
        file.unlink()
    if damage == "no table":
        file.write_bytes(file.read_bytes()[:100])
    if damage == "engine":

        def stop(*_: Any) -> Any:
            raise MemoryError("row: secret-value")

        monkeypatch.setattr("mlsec_dagster.asset_checks.expectations.hold_against", stop)
    evaluation = shop.check()
    assert not evaluation.passed
    assert evaluation.blocking
    assert "raw could not be verified" in evaluation.description
    assert "not hold" not in evaluation.description
    assert "secret-value" not in evaluation.description


def test_an_expectation_that_raises_is_not_told_as_a_violation(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    suite = suite_of(
        gx.expectations.ExpectColumnMeanToBeBetween(column="carrier", min_value=0, max_value=1),
        gx.expectations.ExpectColumnToExist(column="distance"),
        gx.expectations.ExpectColumnValuesToNotBeNull(column="tailnum"),
    )
    shop = Shop(instance, suite, manager=ParquetIOManager(base_dir=str(tmp_path)), blocking=True)
    result = shop.run()
    assert RAN == []
    said = evaluation_of(result).description
    assert said.startswith("raw could not be verified: 2 of 3 expectations could not be evaluated")
    assert "column 'tailnum' is not in the data" in said
    assert "not hold" not in said


def test_values_of_sensitive_columns_are_shown_nowhere(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    suite = suite_of(
        gx.expectations.ExpectColumnValuesToBeInSet(column="carrier", value_set=["UA"]),
        gx.expectations.ExpectColumnMaxToBeBetween(column="distance", max_value=5),
    )
    shop = Shop(
        instance,
        suite,
        manager=ParquetIOManager(base_dir=str(tmp_path)),
        sensitive=["carrier"],
        guard={"sensitive": ["distance"]},
    )
    shop.value = flights(100).assign(carrier="Mrs Smith", distance=987_654)
    whole, alone = evaluation_of(shop.run()), shop.check()
    for evaluation in (whole, alone):
        told = evaluation.description + str(evaluation.metadata)
        assert "Smith" not in told
        assert "UA" not in told
        assert "100.0%" in told
        assert "987654" not in told, "shown by the check alone" if evaluation is alone else "shown in a whole run"


def test_names_from_data_cannot_dress_up_as_markdown(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    name = "![x](http://evil.example)"
    suite = suite_of(gx.expectations.ExpectColumnValuesToBeInSet(column=name, value_set=["a"]))
    shop = Shop(instance, suite, manager=ParquetIOManager(base_dir=str(tmp_path)))
    shop.value = pd.DataFrame({name: ["b\x1b[31m\u202e"]})
    evaluation = evaluation_of(shop.run())
    assert "![x](http://" not in evaluation.description
    assert re.search(r"[\x00-\x1f\u202e]", rows_of(evaluation)[0]["observed"]) is None


def test_each_partition_is_held_on_its_own(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    shop = Shop(
        instance,
        sound(),
        manager=ParquetIOManager(base_dir=str(tmp_path)),
        blocking=True,
        partitions=dg.StaticPartitionsDefinition(["a", "b"]),
    )
    assert shop.run("a").success
    shop.value = flights(100).assign(carrier="ZZ")
    result = shop.run("b")
    assert not result.success
    assert RAN == ["features"]
    evaluation = evaluation_of(result)
    assert evaluation.partition == "b"
    assert "for raw\\[b\\]:" in evaluation.description


def test_a_table_in_duckdb_is_read_where_it_lies(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    from dagster_duckdb_pandas import DuckDBPandasIOManager

    shop = Shop(instance, sound(), manager=DuckDBPandasIOManager(database=str(tmp_path / "shop.duckdb")), blocking=True)
    assert evaluation_of(shop.run()).passed
    shop.value = flights(100).assign(carrier="ZZ")
    assert "1 of 3" in evaluation_of(shop.run()).description


@pytest.mark.parametrize("kind", ["csv", "parts", "feather"])
def test_an_asset_that_writes_for_itself_is_read_where_it_says(instance: dg.DagsterInstance, tmp_path: Path, kind: str) -> None:
    place = tmp_path / ("parts" if kind == "parts" else f"raw.{kind}")

    @dg.asset
    def raw() -> dg.MaterializeResult:
        if kind == "parts":
            place.mkdir(exist_ok=True)
            flights(50).to_parquet(place / "0.parquet")
            flights(50, seed=2).to_parquet(place / "1.parquet")
        elif kind == "csv":
            flights(100).to_csv(place, index=False)
        else:
            flights(100).to_feather(place)
        return dg.MaterializeResult(metadata={"path": str(place)})

    suite = sound()
    suite.expectations.append(gx.expectations.ExpectTableRowCountToEqual(value=100))
    checks = mlsec.build_expectation_checks(assets=[raw], suite=suite)
    result = dg.materialize([raw, *checks], instance=instance, raise_on_error=False)
    evaluation = evaluation_of(result)
    assert evaluation.passed, evaluation.description


def test_mistakes_are_refused_when_definitions_load(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="WARN blocks nothing"):
        mlsec.build_expectation_checks(assets=["raw"], suite=sound(), severity=dg.AssetCheckSeverity.WARN, blocking=True)

    schema = dg.TableSchema(columns=[dg.TableColumn("carrier"), dg.TableColumn("dist")])

    @dg.asset(metadata={"dagster/column_schema": schema})
    def raw() -> None: ...

    with pytest.raises(ConfigurationError, match="column 'distance'"):
        mlsec.build_expectation_checks(assets=[raw], suite=sound())
    path = tmp_path / "flights.json"
    path.write_text(json.dumps(sound().to_json_dict()))
    (check,) = mlsec.build_expectation_checks(assets=["lake/raw"], suite=path)
    (spec,) = check.check_specs
    assert (spec.name, spec.asset_key, spec.blocking) == ("expectations", dg.AssetKey(["lake", "raw"]), False)
