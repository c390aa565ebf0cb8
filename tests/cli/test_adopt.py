"""`mlsec adopt`: data is trusted as it is, on purpose, after it was shown; what was refused is read again, and the ledger says by whom."""

import getpass
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pandas as pd
import pytest

from mlsec_dagster.integrity.statements import ADOPTION
from mlsec_dagster.resources import open_store
from tests.cli import exports, shop
from tests.cli.ledgers import document, mlsec

SHOP = Path(shop.__file__)
Run = Callable[..., Any]


@pytest.fixture
def run(instance: dg.DagsterInstance) -> Run:
    def execute(job: str, day: str | None = None) -> dg.ExecuteInProcessResult:
        return shop.defs.resolve_job_def(job).execute_in_process(
            instance=instance, partition_key=day, raise_on_error=False, run_config=shop.QUIET
        )

    return execute


@pytest.fixture
def replaced(run: Run) -> Path:
    """A sealed pickle that somebody replaced: the consumer refuses it."""
    assert run("publish").success
    file = shop.tables().parent / "storage" / "prices"
    import pickle

    file.write_bytes(pickle.dumps({"tea": 4.0}))
    assert not run("report_only").success
    return file


def adoptions(instance: dg.DagsterInstance, asset: str) -> list[Any]:
    return list(open_store(instance).history(asset, types=(ADOPTION,)))


@pytest.mark.parametrize("definitions", [(), ("-m", "tests.cli.shop"), ("-f", str(SHOP))])
def test_what_was_replaced_on_purpose_is_read_again_after_its_adoption(
    replaced: Path, run: Run, instance: dg.DagsterInstance, definitions: tuple[str, ...]
) -> None:
    result = mlsec("adopt", "prices", "--reason", "corrected by hand", "--yes", *definitions)
    assert result.exit_code == 0, result.output
    assert run("report_only").success
    assert run("check_prices").success
    (entry,) = adoptions(instance, "prices")
    said = entry.statement.predicate
    assert said["reason"] == "corrected by hand"
    assert said["adopted_by"].startswith(f"{getpass.getuser()}@")


def test_what_would_be_trusted_is_shown_and_asked_for_first(replaced: Path, run: Run, instance: dg.DagsterInstance) -> None:
    declined = mlsec("adopt", "prices", "--reason", "x", stdin="n\n")
    assert declined.exit_code == 2
    assert str(replaced) in declined.stdout
    assert f"{replaced.stat().st_size} bytes" in declined.stdout
    assert "blake3:" in declined.stdout
    assert "differs from ledger entry" in declined.stdout
    assert adoptions(instance, "prices") == []
    assert not run("report_only").success

    assert mlsec("adopt", "prices", "--reason", "x", stdin="y\n").exit_code == 0
    assert run("report_only").success


def test_an_adopted_table_that_changes_afterwards_is_located(run: Run, instance: dg.DagsterInstance) -> None:
    assert run("daily", "monday").success
    file = shop.tables() / "sales" / "monday.parquet"
    frame = pd.DataFrame({"item": ["tea"] * 10, "amount": [1.0] * 10})
    frame.to_parquet(file)
    assert mlsec("adopt", "sales", "--partition", "monday", "--reason", "from the archive", "--yes", "-m", "tests.cli.shop").exit_code == 0
    frame.loc[3, "amount"] = 99.0
    frame.to_parquet(file)
    check = dg.AssetCheckKey(dg.AssetKey("sales"), "dataset_hash")
    job = shop.defs.resolve_implicit_global_asset_job_def().get_subset(asset_selection=set(), asset_check_selection={check})
    (evaluation,) = job.execute_in_process(instance=instance, partition_key="monday", raise_on_error=False).get_asset_check_evaluations()
    assert not evaluation.passed
    assert "amount" in str(evaluation.description)


def test_all_partitions_are_adopted_in_one_transaction_and_told_as_json(run: Run, instance: dg.DagsterInstance) -> None:
    for day in shop.DAYS:
        assert run("daily", day).success
    (shop.tables() / "sales" / "tuesday.parquet").unlink()
    result = mlsec("adopt", "sales", "--all-partitions", "--reason", "x", "--yes", "--json", "-m", "tests.cli.shop")
    assert result.exit_code == 0
    told = document(result)
    assert set(told) == {"asset", "adopted", "absent", "adopted_by", "reason"}
    assert [each["partition"] for each in told["adopted"]] == ["monday"]
    assert told["absent"] == ["tuesday"]
    assert set(told["adopted"][0]) == {"partition", "location", "size", "digest", "entry"}
    assert [entry.statement.partition for entry in adoptions(instance, "sales")] == ["monday"]


def test_a_workspace_file_leads_to_the_definitions_too(run: Run, tmp_path: Path) -> None:
    assert run("daily", "monday").success
    workspace = tmp_path / "workspace.yaml"
    workspace.write_text("load_from:\n  - python_module: tests.cli.shop\n")
    assert mlsec("adopt", "sales", "--all-partitions", "--reason", "x", "--yes", "-w", workspace).exit_code == 0


def check(instance: dg.DagsterInstance, asset: str, partition: str | None = None) -> Any:
    """The evaluation of the check of one of the `exports`, run alone."""
    key = dg.AssetCheckKey(dg.AssetKey(asset), "dataset_hash")
    job = exports.defs.resolve_implicit_global_asset_job_def().get_subset(asset_selection=set(), asset_check_selection={key})
    run = job.execute_in_process(instance=instance, partition_key=partition, raise_on_error=False, run_config=shop.QUIET)
    (evaluation,) = run.get_asset_check_evaluations()
    return evaluation


def test_a_file_that_only_the_guards_resolver_finds_is_adopted(instance: dg.DagsterInstance) -> None:
    job = exports.defs.resolve_job_def("weekly")
    assert job.execute_in_process(instance=instance, partition_key="first", run_config=shop.QUIET).success
    exports.place("first.csv").write_text("item,amount\ntea,2\n")
    assert not check(instance, "export", "first").passed
    arguments = ("adopt", "export", "--partition", "first", "--reason", "corrected by hand", "--yes", "--json", "-m", "tests.cli.exports")
    result = mlsec(*arguments)
    assert result.exit_code == 0, result.output
    assert [each["location"] for each in document(result)["adopted"]] == [str(exports.place("first.csv"))]
    assert check(instance, "export", "first").passed
    exports.place("first.csv").write_text("item,amount\ntea,3\n")
    assert not check(instance, "export", "first").passed


def test_a_table_that_only_the_guards_resolver_finds_is_adopted_and_not_the_none_that_was_pickled(instance: dg.DagsterInstance) -> None:
    assert exports.defs.resolve_job_def("list").execute_in_process(instance=instance, run_config=shop.QUIET).success
    with duckdb.connect(str(exports.place("catalog.duckdb"))) as connection:
        connection.execute("update items set amount = 2")
    assert not check(instance, "catalog").passed
    unknown = mlsec("adopt", "catalog", "--reason", "x", "--yes")
    assert unknown.exit_code == 4
    assert "Point at its definitions" in unknown.stderr
    result = mlsec("adopt", "catalog", "--reason", "corrected by hand", "--yes", "-m", "tests.cli.exports")
    assert result.exit_code == 0, result.output
    assert "1 rows" in result.output
    assert check(instance, "catalog").passed


def test_a_resolver_that_fails_is_named_and_adopts_nothing(instance: dg.DagsterInstance) -> None:
    assert exports.defs.resolve_job_def("list").execute_in_process(instance=instance, run_config=shop.QUIET).success
    exports.place("catalog.duckdb").unlink()
    result = mlsec("adopt", "catalog", "--reason", "x", "--yes", "-m", "tests.cli.exports")
    assert result.exit_code == 4
    assert "The resolver of catalog stopped with" in result.stderr
    assert adoptions(instance, "catalog") == []


WRONG = [
    (("salse", "--all-partitions"), "Did you mean 'sales'?"),
    (("salse", "--all-partitions", "-m", "tests.cli.shop"), "in these definitions. Did you mean 'sales'?"),
    (("sales",), "sales is partitioned"),
    (("sales", "--partition", "mondy"), "Did you mean 'monday'?"),
    (("sales", "--partition", "monday", "--all-partitions"), "not both"),
    (("prices", "--all-partitions"), "prices has no partitions"),
    (("prices", "-m", "no.such.module"), "cannot be loaded"),
    (("prices", "-f", "no_such_file.py"), "There is no file no_such_file.py"),
    (("prices", "-w", "no_such_workspace.yaml"), "cannot be read"),
    (("prices", "-m", "tests.cli.shop", "-f", "x.py"), "Give one of -m, -f and -w"),
    (("prices", "--reason", " "), "--reason is empty"),
]


def test_wrong_input_is_one_sentence_and_adopts_nothing(run: Run, instance: dg.DagsterInstance) -> None:
    run("publish")
    run("daily", "monday")
    for arguments, sentence in WRONG:
        result = mlsec("adopt", "--reason", "x", "--yes", *arguments)
        assert result.exit_code == 2, (arguments, result.output)
        assert sentence in result.stderr, arguments
        assert result.stdout == "", arguments
    unasked = mlsec("adopt", "prices", "--reason", "x", "--json")
    assert unasked.exit_code == 2
    assert "--json cannot ask" in unasked.stderr
    assert adoptions(instance, "sales") == adoptions(instance, "prices") == []


def test_nothing_stored_is_nothing_to_adopt(run: Run) -> None:
    run("publish")
    (shop.tables().parent / "storage" / "prices").unlink()
    result = mlsec("adopt", "prices", "--reason", "x", "--yes")
    assert result.exit_code == 4
    assert "Nothing is stored for prices" in result.stderr


def test_without_a_signing_key_nothing_can_be_adopted(run: Run) -> None:
    run("publish")
    (shop.tables().parent / "mlsec" / "keys" / "mlsec.pem").unlink()
    result = mlsec("adopt", "prices", "--reason", "x", "--yes")
    assert result.exit_code == 4
    assert "There is no signing key" in result.stderr
