"""What checks are given to look at: the bytes that were hashed, and only if they are those that were sealed."""

import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pyarrow.parquet as pq
import pytest

import mlsec_dagster as mlsec
from mlsec_dagster.asset_checks.building import build_check, evaluation
from mlsec_dagster.asset_checks.stored import StoredAsset, VerifiedData
from mlsec_dagster.errors import UnverifiableError, VerificationError
from tests.guard.projects import ParquetIOManager, flights

LOADED: list[str] = []


class Bomb:
    """A pickle that tells when it is loaded."""

    def __reduce__(self) -> Any:
        return (LOADED.append, ("loaded",))


@pytest.fixture(autouse=True)
def _nothing_loaded() -> Iterator[None]:
    LOADED.clear()
    yield
    assert LOADED == []


class Shop:
    """One asset with a check that looks at it, and hands what it saw to the test."""

    def __init__(self, instance: dg.DagsterInstance, make: Callable[[], Any], *, manager: Any = None, guarded: bool = True, **look: Any):
        self.instance = instance
        self.use: Callable[[VerifiedData], Any] = lambda data: data
        self.seen: Any = None
        resolver = look.pop("resolver", None)

        @dg.asset
        def raw() -> Any:
            return make()

        def evaluate(context: Any) -> Iterator[Any]:
            asset = StoredAsset.of_check(context, raw.key, raw, resolver=resolver)
            try:
                with asset.verified(None, **look) as data:
                    self.seen = self.use(data)
                passed, sentence, materialization = True, "seen", data.materialization
            except Exception as error:
                self.seen, passed, sentence, materialization = error, False, asset.could_not(None, error), None
            yield evaluation(
                raw.key,
                "look",
                passed=passed,
                sentence=sentence,
                severity=dg.AssetCheckSeverity.ERROR,
                blocking=True,
                partition=None,
                materialization=materialization,
                metadata={},
            )

        check = build_check(raw.key, raw, evaluate, name="look", description="Looks.", blocking=True)
        self.plain = dg.Definitions(assets=[raw], asset_checks=[check], resources={"io_manager": manager} if manager else None)
        self.defs = mlsec.guard(self.plain, datasets=["raw"], resolver=resolver) if guarded else self.plain

    def materialize(self, defs: dg.Definitions | None = None) -> None:
        job = (defs or self.defs).resolve_implicit_global_asset_job_def()
        job.get_subset(asset_selection={dg.AssetKey("raw")}, asset_check_selection=set()).execute_in_process(instance=self.instance)

    def look(self, use: Callable[[VerifiedData], Any] = lambda data: data) -> Any:
        """What `use` makes of the data, or the error that kept it from it."""
        self.use, self.seen = use, None
        job = self.defs.resolve_implicit_global_asset_job_def()
        chosen = job.get_subset(asset_selection=set(), asset_check_selection={dg.AssetCheckKey(dg.AssetKey("raw"), "look")})
        assert chosen.execute_in_process(instance=self.instance, raise_on_error=False).get_asset_check_evaluations()
        return self.seen

    @property
    def pickle(self) -> Path:
        return Path(self.instance.storage_directory()) / "raw"


def test_what_is_given_is_a_private_copy_of_what_was_sealed(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    shop = Shop(instance, lambda: flights(50), manager=ParquetIOManager(base_dir=str(tmp_path)))
    shop.materialize()
    original = tmp_path / "raw.parquet"

    def swap_and_read(data: VerifiedData) -> tuple[bool, int, str]:
        assert data.copy is not None
        assert data.seal is not None
        original.write_bytes(b"something else")
        return data.copy.samefile(original), pq.read_table(data.copy).num_rows, data.materialization.run_id  # type: ignore[union-attr]

    same, rows, run_id = shop.look(swap_and_read)
    assert not same
    assert rows == 50
    assert run_id == instance.fetch_materializations(dg.AssetKey("raw"), limit=1).records[0].run_id
    error = shop.look(lambda _: pytest.fail("altered data was handed out"))
    assert isinstance(error, VerificationError)
    assert "raw is not what was written" in str(error)


def test_a_sealed_pickle_is_loaded_and_a_swapped_one_never(instance: dg.DagsterInstance) -> None:
    shop = Shop(instance, lambda: flights(20))
    shop.materialize()
    assert shop.look(lambda data: len(data.value())) == 20

    shop.pickle.write_bytes(pickle.dumps(Bomb()))
    assert isinstance(shop.look(lambda data: data.value()), VerificationError)


def test_a_file_that_no_io_manager_pickled_is_never_loaded_as_a_pickle(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    """An asset may keep, and we seal, what it was sent from outside."""
    download = tmp_path / "download"
    download.write_bytes(pickle.dumps(Bomb()))
    shop = Shop(instance, lambda: None, resolver=lambda _key, _event: str(download), unsealed=True)
    shop.materialize()
    error = shop.look(lambda data: data.value())
    assert isinstance(error, UnverifiableError)
    assert "not loaded as a pickle" in str(error)


def test_without_a_seal_data_is_given_only_to_who_asks_and_pickles_to_nobody(instance: dg.DagsterInstance) -> None:
    asking = Shop(instance, lambda: flights(5), guarded=False, unsealed=True)
    asking.materialize()
    assert asking.look(lambda data: (data.seal, data.manifest.files_root is not None, data.pickled)) == (None, True, True)
    asking.pickle.write_bytes(pickle.dumps(Bomb()))
    error = asking.look(lambda data: data.value())
    assert isinstance(error, UnverifiableError)
    assert "without a seal" in str(error)
    error = Shop(instance, lambda: flights(5), guarded=False).look()
    assert isinstance(error, UnverifiableError)
    assert "no seal" in str(error)


def test_a_pickle_that_a_check_without_a_guard_has_sealed_is_loaded(instance: dg.DagsterInstance) -> None:
    shop = Shop(instance, lambda: flights(5), guarded=False)
    shop.materialize()
    hashed = mlsec.build_dataset_hash_checks(assets=list(shop.plain.assets or []))  # type: ignore[arg-type]
    check = dg.Definitions(assets=shop.plain.assets, asset_checks=hashed).resolve_implicit_global_asset_job_def()
    alone = check.get_subset(asset_selection=set(), asset_check_selection={dg.AssetCheckKey(dg.AssetKey("raw"), "dataset_hash")})
    alone.execute_in_process(instance=instance, raise_on_error=False)  # adopts
    assert shop.look(lambda data: len(data.value())) == 5
    shop.pickle.write_bytes(pickle.dumps(Bomb()))
    assert isinstance(shop.look(lambda data: data.value()), VerificationError)


def test_what_went_past_the_guard_is_given_to_nobody(instance: dg.DagsterInstance) -> None:
    shop = Shop(instance, lambda: flights(5), unsealed=True)
    shop.materialize()
    shop.materialize(shop.plain)
    error = shop.look()
    assert isinstance(error, VerificationError)
    assert "without being sealed" in str(error)


def test_nothing_materialized_and_nothing_stored_are_told_apart(instance: dg.DagsterInstance) -> None:
    shop = Shop(instance, lambda: flights(5), unsealed=True)
    assert "never materialized" in str(shop.look())
    shop.materialize()
    shop.pickle.unlink()
    assert "nothing is stored" in str(shop.look())


def test_a_table_in_duckdb_is_read_as_it_was_when_it_was_hashed(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    import duckdb
    from dagster_duckdb_pandas import DuckDBPandasIOManager

    file = str(tmp_path / "shop.duckdb")
    shop = Shop(instance, lambda: flights(30), manager=DuckDBPandasIOManager(database=file))
    shop.materialize()

    def delete_and_count(data: VerifiedData) -> tuple[int, Any]:
        with duckdb.connect(file, config={"custom_user_agent": "dagster"}) as other:
            other.execute("DELETE FROM public.raw")
        return len(data.relation.df()), data.copy

    assert shop.look(delete_and_count) == (30, None)
    assert isinstance(shop.look(), VerificationError)


def test_a_table_that_changes_under_the_reader_says_nothing(instance: dg.DagsterInstance) -> None:
    import duckdb

    connection = duckdb.connect()
    connection.execute("CREATE TABLE raw AS SELECT * FROM range(10) AS t(n)")
    shop = Shop(instance, lambda: None, resolver=lambda _key, _event: connection.table("raw"), unsealed=True)
    shop.materialize()
    assert shop.look(lambda data: len(data.relation.df())) == 10
    error = shop.look(lambda _: connection.execute("DELETE FROM raw WHERE n = 3"))
    assert isinstance(error, UnverifiableError)
    assert "changed while it was read" in str(error)


def test_a_seal_beside_a_sha256_pin_is_compared_in_its_own_digest(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    import hashlib

    file = tmp_path / "raw.parquet"
    flights(10).to_parquet(file)
    pin = "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest()

    @dg.asset
    def raw() -> dg.MaterializeResult:
        return dg.MaterializeResult(metadata={"path": str(file)})

    seen: list[Any] = []

    def evaluate(context: Any) -> Iterator[Any]:
        with StoredAsset.of_check(context, raw.key, raw).verified(None) as data:
            seen.append(data.seal)
        yield evaluation(
            raw.key, "look", passed=True, sentence="", severity=dg.AssetCheckSeverity.ERROR, blocking=True, partition=None,
            materialization=data.materialization, metadata={},
        )  # fmt: skip

    look = build_check(raw.key, raw, evaluate, name="look", description="Looks.", blocking=True)
    hashed = mlsec.build_dataset_hash_checks(assets=[raw], policy="immutable", pinned=pin)
    assert dg.materialize([raw, *hashed], instance=instance).success
    defs = dg.Definitions(assets=[raw], asset_checks=[look])
    job = defs.resolve_implicit_global_asset_job_def().get_subset(
        asset_selection=set(), asset_check_selection={dg.AssetCheckKey(raw.key, "look")}
    )
    assert job.execute_in_process(instance=instance).success
    assert seen[0] is not None
    file.write_bytes(os.urandom(100))
    assert not job.execute_in_process(instance=instance, raise_on_error=False).success


def test_a_frame_is_what_was_returned(instance: dg.DagsterInstance) -> None:
    shop = Shop(instance, lambda: flights(20, seed=7))
    shop.materialize()
    pd.testing.assert_frame_equal(shop.look(lambda data: data.value()), flights(20, seed=7))
