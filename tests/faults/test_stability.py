"""What `distribution_stability` does when something is wrong, or only odd: it never alarms for an error, and never passes for one."""

import base64
import dataclasses
import importlib
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import msgspec
import numpy as np
import pandas as pd
import pytest

import mlsec_dagster as mlsec
from mlsec_dagster.errors import ConfigurationError
from mlsec_dagster.resources import open_store
from mlsec_dagster.stability.baselines import Baseline
from mlsec_dagster.stability.subject import has_begun
from tests.cli.ledgers import document
from tests.cli.ledgers import mlsec as mlsec_command
from tests.faults.baselines import NEXT, NOW, PAST, WEEKS, Shop, Verdict, ordinary, past, remember
from tests.faults.claims import as_a_new_process, assert_clear
from tests.faults.projects import ledger_file, verified
from tests.guard.projects import RAN, Result
from tests.stability.test_unfolding import bomb


@pytest.fixture
def shop(instance: dg.DagsterInstance, tmp_path: Path) -> Shop:
    """A blocking check whose twenty windows before are there."""
    remember(instance, past())
    return Shop(instance, tmp_path / "data")


def test_an_ordinary_window_passes_an_alarm_blocks_and_each_is_kept_once(shop: Shop) -> None:
    shop.run(ordinary(1000)).passed_on("stable")
    changed = ordinary(1001)
    changed["cost"] += 6
    sentence = shop.run(changed, NEXT).blocked("alarm")
    assert "cost" in sentence
    assert_clear(sentence)
    # The check alone, of a materialization that it has seen.
    again = shop.run(None, NEXT, only_check=True)
    assert (again.outcome, again.passed) == ("alarm", False)
    assert [each.name for each in shop.kept()] == [*PAST, NOW, NEXT]


def test_a_check_that_could_not_block_is_refused_when_it_is_built() -> None:
    with pytest.raises(ConfigurationError, match="severity WARN blocks nothing"):
        mlsec.build_distribution_stability_checks(assets=["raw"], blocking=True, severity=dg.AssetCheckSeverity.WARN)


# --- windows


def _gone(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.drop(columns="cost")


def _more(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(discount=0.5)


def _other_type(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(price=frame["price"].map("{:.2f}".format))


@pytest.mark.parametrize(
    ("change", "outcome", "says"),
    [
        (lambda frame: frame.head(0), "schema", "the window before it: there are no rows (before: 400). Find out"),
        (lambda frame: frame.head(1), "alarm", "it has 1 row, and the 8 windows before it about 400"),
        (_gone, "schema", "column 'cost' is gone"),
        (_more, "schema", "column 'discount' is new (float64)"),
        (_other_type, "schema", "column 'price' was float64 and is string"),
        (lambda frame: frame.assign(region="north"), "alarm", "region"),
        (lambda frame: frame.assign(price=np.nan), "alarm", "100% of price is missing"),
        (lambda frame: frame.assign(price=np.inf), "alarm", "price"),
        (lambda frame: frame.assign(region=pd.Series([None] * len(frame), dtype="string")), "alarm", "100% of region is missing"),
    ],
    ids=["no rows", "one row", "gone", "new", "other type", "constant", "all null", "infinite", "text all null"],
)
def test_an_odd_window_is_told_in_one_sentence_and_blocks(
    shop: Shop, change: Callable[[pd.DataFrame], pd.DataFrame], outcome: str, says: str
) -> None:
    sentence = shop.run(change(ordinary(1000))).blocked(outcome)
    assert says in sentence
    assert "Find out what changed where it comes from" in sentence
    assert_clear(sentence)
    assert [each.name for each in shop.kept()] == [*PAST, NOW]
    # It is no obstacle to what comes after it.
    after = shop.run(ordinary(1002), NEXT)
    assert after.outcome in ("stable", "schema"), after.sentence
    assert len(shop.kept()) == 22


def test_a_partition_that_is_materialized_again_counts_once_and_is_not_compared_with_itself(shop: Shop) -> None:
    broken = ordinary(1000)
    broken["cost"] += 6
    shop.run(broken).blocked("alarm")
    shop.run(ordinary(1000)).passed_on("stable")
    # One of the past, so that fewer than twenty lie before it.
    assert shop.run(ordinary(3), PAST[3]).outcome == "learning"
    assert sorted(each.name for each in shop.kept()) == sorted([*PAST, NOW])
    assert next(each for each in shop.kept() if each.name == NOW).window.alarmed is False


def test_partitions_that_are_filled_in_from_the_last_to_the_first_are_compared_with_those_after(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    remember(instance, past(), WEEKS.get_partition_keys()[1:21])
    shop = Shop(instance, tmp_path)
    first = WEEKS.get_partition_keys()[0]
    shop.run(ordinary(1000), first).passed_on("stable")
    broken = ordinary(1001)
    broken["cost"] += 6
    shop.run(broken, first).blocked("alarm")


def test_a_partition_from_the_future_is_neither_compared_nor_kept(shop: Shop) -> None:
    future = "2099-01-04"
    broken = ordinary(1000)
    broken["cost"] += 600
    # Dagster itself knows no such partition; who writes it all the same has not its time.
    weeks = dg.WeeklyPartitionsDefinition(start_date="2013-01-06", end_offset=5_000)
    ahead = Shop(shop.instance, shop.base, weeks)
    assert future in weeks.get_partition_keys()
    sentence = ahead.run(broken, future).passed_on("not complete")
    assert "was materialized before its time was over" in sentence
    assert future not in [each.name for each in shop.kept()]


def test_the_weeks_in_which_clocks_change_are_windows_like_others(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    """23 and 25 hours long, and hourly partitions of which one is missing and two have the same hour."""
    berlin = dg.HourlyPartitionsDefinition("2013-10-26-04:00", timezone="Europe/Berlin", end_date="2013-10-28-00:00")
    keys = berlin.get_partition_keys()
    place = next(n for n, key in enumerate(keys) if key.startswith("2013-10-27-03"))
    assert place >= 21
    remember(instance, past(), keys[place - 20 : place])
    shop = Shop(instance, tmp_path, berlin)
    for seed, key in enumerate(keys[place : place + 2]):
        shop.run(ordinary(1000 + seed), key).passed_on("stable")
    assert [each.name for each in shop.kept()] == keys[place - 20 : place + 2]


# --- the baseline


def _other_bytes(database: sqlite3.Connection) -> None:
    names = [row[0] for row in database.execute("SELECT digest FROM mlsec_manifests ORDER BY digest")]
    contents = [row[0] for row in database.execute("SELECT content FROM mlsec_manifests ORDER BY digest")]
    for name, content in zip(names, contents[1:] + contents[:1], strict=True):
        database.execute("UPDATE mlsec_manifests SET content = ? WHERE digest = ?", (content, name))


def _contents_gone(database: sqlite3.Connection) -> None:
    database.execute("DELETE FROM mlsec_manifests")


def _all_gone(database: sqlite3.Connection) -> None:
    for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'mlsec_%'").fetchall():
        database.execute(f"DELETE FROM {table}")


def _entries_gone(database: sqlite3.Connection) -> None:
    database.execute("DELETE FROM mlsec_entries WHERE asset = 'mlsec:baseline:raw' AND partition > '2013-02'")


def attack(home: Path, act: Callable[[sqlite3.Connection], None]) -> None:
    """Somebody who may write to the ledger's database, but has no key."""
    as_a_new_process()
    with closing(sqlite3.connect(ledger_file(home))) as database:
        act(database)
        database.commit()


@pytest.mark.parametrize("act", [_other_bytes, _contents_gone, _entries_gone])
def test_a_baseline_that_was_altered_or_partly_removed_fails_closed(
    shop: Shop, dagster_home: Path, act: Callable[[sqlite3.Connection], None]
) -> None:
    attack(dagster_home, act)
    sentence = shop.run(ordinary(1000)).blocked("could not verify")
    assert_clear(sentence)
    assert "mlsec verify" in sentence


def test_a_baseline_that_is_gone_is_not_learnt_anew(shop: Shop, dagster_home: Path) -> None:
    shop.run(ordinary(1000)).passed_on("stable")
    attack(dagster_home, _all_gone)
    sentence = shop.run(ordinary(1001), NEXT).blocked("could not verify")
    assert_clear(sentence)


def test_a_window_of_another_version_is_not_guessed_at(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    newer = [dataclasses.replace(each, window=msgspec.structs.replace(each.window, format=2)) for each in past()]
    remember(instance, newer)
    sentence = Shop(instance, tmp_path).run(ordinary(1000)).blocked("could not verify")
    assert "a stored window has format 2, this version knows 1; use the version that wrote it" in sentence
    assert_clear(sentence)


# --- engines and libraries


def stopped(shop: Shop, verdict: Verdict, *says: str) -> None:
    """The check could not find anything out: no alarm, nothing learnt, and nothing lost."""
    sentence = verdict.blocked("could not verify")
    assert_clear(sentence)
    for part in says:
        assert part in sentence
    assert "does not look like" not in sentence
    assert [each.name for each in shop.kept()] == PAST


def test_an_engine_without_memory_is_no_alarm(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as small:
        small.setattr("mlsec_dagster.stability.connections._MEMORY", "2MB")
        small.setattr("mlsec_dagster.stability.sources.SMALL_CELLS", -1)
        stopped(shop, shop.run(ordinary(1000, 40_000)), "duckdb could not", "OutOfMemoryException", "memory")
    shop.run(ordinary(1000)).passed_on("stable")


def test_a_file_that_is_gone_is_no_alarm(shop: Shop) -> None:
    shop.run(ordinary(1000)).passed_on("stable")
    (shop.base / "raw" / f"{NOW}.parquet").unlink()
    verdict = shop.run(None, only_check=True)
    assert (verdict.outcome, verdict.passed) == ("could not verify", False)
    assert "nothing is stored for it: restore it or materialize it again" in verdict.sentence
    assert len(shop.kept()) == 21


def self_written(instance: dg.DagsterInstance, write: Callable[[], Any], path: Path | None, **options: Any) -> Result:
    """An asset that writes for itself, and a blocking check of it."""

    @dg.asset
    def raw() -> dg.MaterializeResult:
        write()
        return dg.MaterializeResult(metadata={"path": str(path)} if path else {})

    @dg.asset(deps=[raw])
    def features() -> None:
        RAN.append("features")

    checks = mlsec.build_distribution_stability_checks(assets=[raw], blocking=True, **options)
    job = dg.Definitions(assets=[raw, features], asset_checks=checks).resolve_implicit_global_asset_job_def()
    return Result(job.execute_in_process(instance=instance, raise_on_error=False))


def test_a_file_that_stands_for_terabytes_is_no_alarm_and_keeps_nothing(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    sentence = Verdict(self_written(instance, lambda: bomb(path, 5_000_000), path)).blocked("could not verify")
    assert "decodes to 5,000,000,000,000 bytes or more" in sentence
    assert_clear(sentence)
    assert not has_begun(open_store(instance), "raw")


def test_a_relation_whose_file_is_gone_is_no_alarm(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"

    def resolver(*_: Any) -> Any:
        relation = duckdb.connect().read_parquet(str(path))
        path.unlink()
        return relation

    result = self_written(instance, lambda: ordinary(1).to_parquet(path), None, resolver=resolver)
    assert_clear(Verdict(result).blocked("could not verify"))
    assert not has_begun(open_store(instance), "raw")


@pytest.mark.parametrize(("library", "extra"), [("pyspark", "spark"), ("polars", "polars")])
def test_a_library_that_is_not_installed_is_named_with_its_extra(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    result = self_written(instance, lambda: None, None, resolver=lambda *_: importlib.import_module(library))
    sentence = Verdict(result).blocked("could not verify")
    assert f"it takes {library}, which is not installed where the check runs; install mlsec-dagster[{extra}]" in sentence


@pytest.mark.slow
def test_runs_at_once_keep_each_materialization_once(disk_instance: dg.DagsterInstance, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.faults.workers", "windows", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1])["exits"] == [0, 0, 0]
    ledger = open_store(disk_instance)
    kept = Baseline(ledger, "raw").windows()
    materializations = [each.entry.statement.predicate["storage_id"] for each in kept]
    assert len(materializations) == len(set(materializations)) >= 3
    recorded = disk_instance.fetch_materializations(dg.AssetKey("raw"), limit=100).records
    assert set(materializations) <= {record.storage_id for record in recorded}
    assert len(recorded) == 6
    verified(disk_instance)


# --- declared columns


def test_a_declared_column_that_is_not_there_is_named_whatever_it_was_declared_as(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    """Of a misspelt sensitive column above all: the one that was meant is shown."""
    shop = Shop(instance, tmp_path, label="bougth", time="wen", ignore=["cod"], sensitive=["regoin", "price"])
    notes = str(shop.run(ordinary(1000)).evaluation.metadata["to know"].value)
    for role, name in (("label", "bougth"), ("time", "wen"), ("ignored", "cod"), ("sensitive", "regoin")):
        assert f"The declared {role} column {name} is not in the data." in notes
    assert "price" not in notes


# --- sensitive columns

SECRETS = re.compile(r"\b(north|south|west|SECRET\w*|K\d{6})\b|'(yes|no)'(?!})")


def shown(verdict: Verdict) -> list[str]:
    """All that a run of the check leaves for people to read: sentence, metadata, tables, pictures, and the messages of its events."""
    texts = [str(verdict.evaluation.description)]
    for name, value in verdict.evaluation.metadata.items():
        if isinstance(value, dg.TableMetadataValue):
            texts += [f"{name}: {record.data}" for record in value.records]
        else:
            texts.append(f"{name}: {value.value}")
    pictures = re.findall(r"base64,([A-Za-z0-9+/=]+)", "".join(texts))
    assert pictures
    texts = [re.sub(r"base64,[A-Za-z0-9+/=]+", "", text) for text in texts] + [base64.b64decode(each).decode() for each in pictures]
    return [*texts, *(str(event.message) for event in verdict.result.inner.all_events)]


def test_nothing_that_is_told_names_a_value_or_a_small_group_of_a_sensitive_column(
    instance: dg.DagsterInstance, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    remember(instance, past())
    columns = ["price", "region", "code", "bought"]
    shop = Shop(instance, tmp_path, sensitive=columns)
    table = ordinary(1000)
    table.loc[:6, "region"] = "SECRET_REGION"
    table.loc[7:13, "bought"] = np.where(table["price"][7:14] > 100, "no", "yes")
    table.loc[20:26, "code"] = None
    table.loc[30:33, "price"] = np.nan
    verdict = shop.run(table)
    verdict.blocked("alarm")
    told = [*shown(verdict), *capfd.readouterr()]
    for command in (("show",), ("show", "--columns"), ("show", "--columns", "--json"), ("show", "--partition", PAST[3])):
        told.append(mlsec_command("baseline", command[0], "raw", *command[1:]).output)
    for options in ((), ("--values",), ("--values", "--json")):
        told.append(mlsec_command("baseline", "diff", "raw", PAST[3], NOW, *options).output)
    assert "SECRET_REGION" in table.to_string()  # what is looked for is there to be found
    for text in told:
        assert not SECRETS.search(text), text
        assert not re.search(r"\b[1-9] (rows?|of)\b|\b[347]\b rows", text), text
        assert "mean of price" not in text
    columns_told = document(mlsec_command("baseline", "show", "raw", "--columns", "--json"))["columns"]
    of = {each["column"]: each for each in columns_told}
    assert (of["price"]["mean"], of["price"]["missing"], of["region"]["distinct"]) == (None, None, None)
    assert of["cost"]["mean"] is not None
    assert of["code"]["distinct"] > 300
