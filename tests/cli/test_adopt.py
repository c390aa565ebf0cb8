"""`mlsec adopt`: data is trusted as it is, on purpose, after it was shown; what was refused is read again, and the ledger says by whom."""

import getpass
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from mlsec_dagster.integrity.statements import ADOPTION
from mlsec_dagster.resources import open_store
from tests.cli import shop
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
