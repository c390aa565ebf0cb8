"""`mlsec verify` holds what Dagster materialized against the ledger: taking the guard or its check off does not go unnoticed."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg
import pytest

from mlsec_dagster import reconciliation
from mlsec_dagster.integrity.verification import Problem
from tests.cli import shop
from tests.cli.ledgers import document, mlsec


@pytest.fixture(autouse=True)
def _nothing_meanwhile() -> Iterator[None]:
    shop.during.clear()
    yield
    shop.during.clear()


@pytest.fixture
def run(instance: dg.DagsterInstance) -> Callable[..., dg.ExecuteInProcessResult]:
    def execute(job: str, day: str | None = None, *, guarded: bool = True) -> dg.ExecuteInProcessResult:
        definitions = shop.defs if guarded else shop.plain
        return definitions.resolve_job_def(job).execute_in_process(
            instance=instance, partition_key=day, raise_on_error=False, run_config=shop.QUIET
        )

    return execute


Run = Callable[..., Any]


def gaps(*arguments: object) -> list[tuple[str, str, str | None]]:
    """Kind, asset and partition of everything that is not what it should be; the exit code must agree."""
    result = mlsec("verify", "--json", *arguments)
    found = document(result)["materializations"]
    assert found["compared"], found["reason"]
    assert result.exit_code == (1 if found["gaps"] else 3)
    assert sum(found["counts"].values()) == len(found["gaps"])
    return [(gap["kind"], gap["asset"], gap["partition"]) for gap in found["gaps"]]


def test_guarded_runs_leave_nothing_to_report(run: Run) -> None:
    assert run("publish").success
    assert all(run("daily", day).success for day in shop.DAYS)
    assert gaps() == []
    result = mlsec("verify")
    assert "materializations: 4, of 3 assets, compared with the ledger: all sealed and checked" in result.stdout


def test_a_materialization_without_the_guard_is_named_with_run_and_partition(run: Run) -> None:
    run("daily", "monday")
    unguarded = run("daily", "tuesday", guarded=False)
    assert unguarded.success
    assert gaps() == [("unsealed", "sales", "tuesday")]
    result = mlsec("verify")
    assert result.exit_code == 1
    assert f"UNSEALED: sales[tuesday] was materialized by run {unguarded.run_id}" in result.stdout


def test_an_unsealed_materialization_is_not_forgotten_because_a_sealed_one_replaced_it(run: Run) -> None:
    run("publish")
    run("publish", guarded=False)
    run("publish")
    assert gaps() == [("unsealed", "prices", None), ("unsealed", "report", None)]
    assert mlsec("adopt", "prices", "--reason", "a colleague tried something, see ticket 12", "--yes").exit_code == 0
    assert gaps() == [("unsealed", "report", None)]


def test_a_check_that_was_left_out_is_a_warning_of_its_own_until_it_has_run(run: Run) -> None:
    run("publish")
    assert run("publish_unchecked").success
    assert gaps() == [("unchecked", "prices", None), ("unchecked", "report", None)]
    result = mlsec("verify", "--json")
    assert {gap["level"] for gap in document(result)["materializations"]["gaps"]} == {"warning"}
    assert "UNCHECKED: prices was sealed" in mlsec("verify").stdout

    assert run("check_prices").success
    assert gaps() == [("unchecked", "report", None)]


def test_an_unchecked_materialization_that_was_replaced_is_a_note(run: Run) -> None:
    run("publish_unchecked")
    run("publish")
    assert gaps() == []
    assert "note: prices: 1 earlier materializations were unchecked and have been replaced since." in mlsec("verify").stdout


def test_a_failed_check_is_reported_until_the_data_is_written_anew(run: Run) -> None:
    run("daily", "monday")
    file = shop.tables() / "sales" / "monday.parquet"
    file.write_bytes(file.read_bytes()[::-1])
    definitions = shop.defs.resolve_implicit_global_asset_job_def()
    check = dg.AssetCheckKey(dg.AssetKey("sales"), "dataset_hash")
    with dg.DagsterInstance.get() as instance:
        definitions.get_subset(asset_selection=set(), asset_check_selection={check}).execute_in_process(
            instance=instance, partition_key="monday", raise_on_error=False
        )
    assert gaps() == [("failed", "sales", "monday")]
    assert "FAILED: sales[monday] failed its last dataset_hash check" in mlsec("verify").stdout
    run("daily", "monday")
    assert gaps() == []


def test_a_run_that_is_still_going_on_is_not_accused(run: Run) -> None:
    seen: list[Any] = []
    shop.during.append(lambda: seen.append(mlsec("verify", "--json")))
    run("publish_unchecked")
    (result,) = seen
    found = document(result)["materializations"]
    assert found["gaps"] == []
    assert any("still going on" in note for note in found["notes"])
    assert ("unchecked", "prices", None) in gaps()


def test_an_event_log_that_was_wiped_is_told(run: Run, instance: dg.DagsterInstance) -> None:
    wiped = run("publish")
    instance.delete_run(wiped.run_id)
    run("daily", "monday")
    assert gaps() == []
    notes = document(mlsec("verify", "--json"))["materializations"]["notes"]
    assert any(note.startswith("prices: 1 sealed writes are of runs that Dagster does not know") for note in notes)


def test_ids_of_a_new_event_log_are_not_mistaken_for_those_of_the_old_one(run: Run, instance: dg.DagsterInstance) -> None:
    """After a wipe storage ids start again; an old seal must not cover a new materialization that happens to get its id."""
    with pytest.MonkeyPatch.context() as patch:
        run("publish")
        with pytest.raises(StopIteration):
            next(row for row in _uncovered(instance, patch, storage_id_shift=0) if row == "prices")
        assert "prices" in _uncovered(instance, patch, run_id="another")


def _uncovered(
    instance: dg.DagsterInstance, patch: pytest.MonkeyPatch, *, storage_id_shift: int = 0, run_id: str | None = None
) -> list[str]:
    """Assets with gaps when the event log says other runs under the same ids."""
    from mlsec_dagster.resources import open_store

    original = reconciliation._materializations

    def changed(*arguments: Any) -> Iterator[list[tuple[Any, ...]]]:
        for page in original(*arguments):
            yield [(row[0] + storage_id_shift, row[1], run_id or row[2], row[3]) for row in page]

    patch.setattr(reconciliation, "_materializations", changed)
    found = reconciliation.reconcile(open_store(instance), instance)
    patch.setattr(reconciliation, "_materializations", original)
    return [gap.asset for gap in found.gaps]


def test_a_long_history_is_read_in_pages_and_counted_whole(run: Run, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    run("publish")
    for number in range(25):
        instance.report_runless_asset_event(dg.AssetMaterialization("prices", metadata={"number": number}))
    monkeypatch.setattr(reconciliation, "_PAGE", 4)
    monkeypatch.setattr(reconciliation, "_RUNS", 3)
    monkeypatch.setattr(reconciliation, "MAX_GAPS", 10)
    found = document(mlsec("verify", "--json"))["materializations"]
    assert found["count"] == 27
    assert found["counts"] == {"unsealed": 25}
    assert len(found["gaps"]) == 10


def test_every_entry_is_authenticated_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlsec_dagster.integrity import entries, knowledge, walk

    run("publish")
    run("daily", "monday")
    examined: list[int] = []

    def examine(row: Any, *arguments: Any) -> Any:
        examined.append(row.position)
        return entries.examine(row, *arguments)

    monkeypatch.setattr(walk, "examine", examine)
    monkeypatch.setattr(knowledge, "examine", examine)
    result = document(mlsec("verify", "--json"))
    assert result["materializations"]["count"] == 3
    assert examined == list(range(result["ledger"]["entries"]))


def test_what_is_sealed_after_the_verification_is_compared_all_the_same(run: Run, instance: dg.DagsterInstance) -> None:
    from mlsec_dagster.integrity.verification import verify_ledger
    from mlsec_dagster.resources import open_store

    run("publish")
    ledger = open_store(instance)
    with reconciliation.Verified() as verified:
        assert verified.complete(verify_ledger(ledger, each=verified.add))
        run("publish")
        run("daily", "monday")
        run("daily", "tuesday", guarded=False)
        found = reconciliation.reconcile(ledger, instance, verified=verified)
    alone = reconciliation.reconcile(ledger, instance)
    assert found == alone
    assert [(gap.kind, gap.asset, gap.partition) for gap in found.gaps] == [("unsealed", "sales", "tuesday")]


def test_a_ledger_that_was_exchanged_after_its_verification_is_not_compared(run: Run, instance: dg.DagsterInstance) -> None:
    from mlsec_dagster.errors import LedgerError
    from mlsec_dagster.integrity.verification import verify_ledger
    from mlsec_dagster.resources import open_store

    run("publish")
    ledger = open_store(instance)
    with reconciliation.Verified() as verified:
        verification = verify_ledger(ledger, each=verified.add)
        assert verified.complete(dataclasses.replace(verification, root=bytes(32)))
        with pytest.raises(LedgerError, match="forked"):
            reconciliation.reconcile(ledger, instance, verified=verified)


def test_what_a_verification_did_not_find_intact_counts_for_nothing(run: Run, instance: dg.DagsterInstance) -> None:
    from mlsec_dagster.integrity.verification import verify_ledger
    from mlsec_dagster.resources import open_store

    run("publish")
    ledger = open_store(instance)
    with reconciliation.Verified() as verified:
        verification = verify_ledger(ledger, each=verified.add)
        assert not verified.complete(dataclasses.replace(verification, checked=verification.checked - 1))
        problem = Problem(0, "altered", "Entry 0 was altered.")
        assert not verified.complete(dataclasses.replace(verification, problems=(problem,)))


def test_a_tampered_ledger_and_an_unsealed_materialization_are_both_told(run: Run, instance: dg.DagsterInstance) -> None:
    import sqlite3

    run("publish")
    run("publish", guarded=False)
    database = shop.tables().parent / "mlsec" / "ledger.db"
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE mlsec_entries SET payload = x'00' WHERE position = 1")
    result = mlsec("verify")
    assert result.exit_code == 1
    assert "ALTERED: Entry 1" in result.stdout
    assert "materializations: not compared, Entry 1" in result.stdout


def test_an_instance_that_cannot_be_opened_does_not_hide_the_verdict_on_the_ledger(run: Run) -> None:
    run("publish")
    (shop.tables().parent / "dagster.yaml").write_text("storage: [nonsense]\n")
    result = mlsec("verify")
    assert result.exit_code == 4
    assert "4 of 4 entries verified" in result.stdout
    assert "materializations: not compared, The Dagster instance in" in result.stdout
