"""`mlsec baseline`: windows as they were signed, two side by side, and forgetting them on the record."""

import dataclasses
import zlib

import numpy as np
import pyarrow as pa
import pytest

from mlsec_dagster.errors import LedgerError
from mlsec_dagster.stability.baselines import Baseline
from mlsec_dagster.stability.channels import Channel
from mlsec_dagster.stability.subject import SUBJECT, has_begun
from tests.cli.ledgers import Place, document, mlsec
from tests.stability.scenes import assessed, profile

ASSET = "raw/flights"
WEEKS = [f"2013-06-{day:02d}" for day in (4, 11, 18, 25)]
SECRET = "N-SECRET-TAIL"


def sample(seed: int, *, shift: float = 0.0) -> pa.Table:
    random = np.random.default_rng(seed)
    return pa.table(
        {
            "distance": random.normal(1000 + shift, 300, 2_000),
            "carrier": random.choice(["AA", "B6", "UA" if not shift else SECRET], 2_000),
        }
    )


def keep(place: Place, partition: str | None, seed: int, *, asset: str = ASSET, storage_id: int | None = None, **settings) -> None:
    shift = settings.pop("shift", 0.0)
    found = dataclasses.replace(assessed({Channel("volume"): 9.0 if shift else 1.0}, **settings), sample=sample(seed, shift=shift))
    ledger = place.ledger()
    Baseline(ledger, asset).keep(partition, found, {"run_id": "r", "storage_id": storage_id, "timestamp": 1_371_000_000.0 + seed})
    ledger.close()


@pytest.fixture
def kept(place: Place) -> Place:
    """Four weeks, of which the last alarmed."""
    for number, week in enumerate(WEEKS[:-1]):
        keep(place, week, number, outcome="stable")
    keep(place, WEEKS[-1], 3, shift=400.0, now=profile(6_400, dep_delay={"nulls": 700}, distance={"mean": 1400.0}))
    return place


def test_windows_are_shown_with_what_was_found_about_them(kept: Place) -> None:
    result = mlsec("baseline", "show", ASSET)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == WEEKS
    assert lines[1].split()[1:] == ["6,500", "stable", "1", "5", "12"]
    assert lines[4].split()[1:] == ["6,400", "alarm", "9", "5", "15", "ALARMED"]
    shown = document(mlsec("baseline", "show", ASSET, "--limit", 1, "--json"))
    assert shown["count"] == 4
    assert [(each["window"], each["alarmed"], each["statistic"]) for each in shown["windows"]] == [(WEEKS[-1], True, 9.0)]


def test_only_the_newest_window_of_a_partition_is_shown_and_each_materialization_of_what_has_none(kept: Place) -> None:
    keep(kept, WEEKS[0], 9, outcome="stable", now=profile(1_234))
    windows = document(mlsec("baseline", "show", ASSET, "--json"))["windows"]
    assert [(each["partition"], each["rows"]) for each in windows][-1] == (WEEKS[0], 1_234)
    assert len(windows) == 4
    for storage_id in (7, 8, 8):
        keep(kept, None, storage_id, asset="plain", storage_id=storage_id, outcome="stable")
    assert [each["window"] for each in document(mlsec("baseline", "show", "plain", "--json"))["windows"]] == [
        "2013-06-12 01:20:07 UTC",
        "2013-06-12 01:20:08 UTC",
    ]


def test_the_columns_of_a_window_are_shown_without_any_value_of_the_data(kept: Place) -> None:
    result = mlsec("baseline", "show", ASSET, "--partition", WEEKS[-1])
    assert result.exit_code == 0
    delay = next(line for line in result.stdout.splitlines() if line.startswith("dep_delay"))
    assert delay.split() == ["dep_delay", "double", "10.94%", "300", "12", "-"]
    assert "UA" not in result.stdout
    columns = document(mlsec("baseline", "show", ASSET, "--columns", "--json"))["columns"]
    assert next(each for each in columns if each["column"] == "distance")["mean"] == 1400.0


def test_two_windows_are_compared_the_most_different_column_first(kept: Place) -> None:
    result = mlsec("baseline", "diff", ASSET, WEEKS[0], WEEKS[-1])
    assert result.exit_code == 0
    assert SECRET not in result.output
    first, second, *rest = result.stdout.splitlines()[2:]
    assert first.split()[0] == "carrier"
    assert second.split()[0] == "distance"
    assert "1.04e+03 -> 1.4e+03" in second
    assert any(line.startswith("dep_delay") and "2.40% -> 10.94%" in line for line in rest)
    alike = document(mlsec("baseline", "diff", ASSET, WEEKS[0], WEEKS[1], "--json"))["columns"]
    apart = document(mlsec("baseline", "diff", ASSET, WEEKS[0], WEEKS[-1], "--json", "--values"))["columns"]
    near, far = ({each["column"]: each["distance"] for each in columns} for columns in (alike, apart))
    assert near["distance"] < 0.15 < 0.4 < far["distance"]
    assert near["carrier"] < 0.1
    assert apart[0]["changed"]["value"] in ("UA", SECRET)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("show", "raw/flihgts"), "Did you mean 'raw/flights'?"),
        (("show", ASSET, "--partition", "2013-06-4"), "Did you mean '2013-06-04'?"),
        (("diff", ASSET, WEEKS[0], "2013-06-255"), "Did you mean '2013-06-25'?"),
        (("forget", "raw/flihgts", "--reason", "x", "--yes"), "Did you mean 'raw/flights'?"),
        (("forget", ASSET, "--reason", " ", "--yes"), "say why"),
        (("forget", ASSET, "--reason", "x", "--json"), "give --yes"),
    ],
)
def test_what_is_not_there_is_a_usage_error_with_a_hint(kept: Place, arguments: tuple[str, ...], hint: str) -> None:
    result = mlsec("baseline", *arguments)
    assert result.exit_code == 2
    assert hint in result.stderr


def test_a_window_that_was_deleted_behind_the_ledgers_back_is_an_alteration(kept: Place) -> None:
    kept.attack("DELETE FROM mlsec_manifests")
    for command in (("show", ASSET), ("diff", ASSET, WEEKS[0], WEEKS[1])):
        result = mlsec("baseline", *command)
        assert result.exit_code == 1
        assert "was removed" in result.stderr
    with pytest.raises(LedgerError):
        Baseline(kept.ledger(), ASSET).of_partitions(WEEKS)


def test_forgetting_asks_and_a_no_changes_nothing(kept: Place) -> None:
    result = mlsec("baseline", "forget", ASSET, "--reason", "moved", stdin="n\n")
    assert result.exit_code == 2
    assert "until then a change of the data raises no alarm" in result.output
    assert len(Baseline(kept.ledger(), ASSET).of_partitions(WEEKS)) == 4


def test_forgotten_windows_are_erased_and_absent_and_the_ledger_says_who_forgot_them(kept: Place) -> None:
    baseline = Baseline(kept.ledger(), ASSET)
    contents = [
        kept.ledger().manifest(str(each.entry.statement.predicate[name])) for each in baseline.windows() for name in ("window", "sample")
    ]
    result = mlsec("baseline", "forget", ASSET, "--reason", "sensor replaced", "--yes", "--json")
    assert result.exit_code == 0
    assert document(result)["erased"] == len(set(contents)) == 6  # three of the windows were alike

    fresh = Baseline(kept.ledger(), ASSET)
    assert fresh.of_partitions(WEEKS) == fresh.windows() == []
    assert has_begun(kept.ledger(), ASSET)  # so that an empty baseline is not taken for one that somebody removed
    stored = b"".join(file.read_bytes() for file in kept.database.parent.glob("ledger.db*"))
    for content in contents:
        assert zlib.compress(content, 1)[:200] not in stored
    said = [entry.statement.predicate for entry in kept.ledger().history(SUBJECT + ASSET)]
    assert [each["outcome"] for each in said] == ["stable"] * 3 + ["alarm"] + ["forgotten"] * 4
    assert said[-1]["reason"] == "sensor replaced"
    assert mlsec("verify", "--no-dagster", "--witness", kept.witness).exit_code == 0
    assert "the next one starts learning" in mlsec("baseline", "show", ASSET).stdout
    assert mlsec("baseline", "diff", ASSET, WEEKS[0], WEEKS[1]).exit_code == 2


def test_windows_after_the_forgetting_count_and_other_assets_keep_theirs(kept: Place) -> None:
    keep(kept, WEEKS[0], 0, asset="twin", outcome="stable")  # the very contents of one that is forgotten
    assert mlsec("baseline", "forget", ASSET, "--reason", "x", "--yes").exit_code == 0
    keep(kept, WEEKS[1], 1, outcome="stable")
    assert [each.name for each in Baseline(kept.ledger(), ASSET).of_partitions(WEEKS)] == [WEEKS[1]]
    (other,) = Baseline(kept.ledger(), "twin").of_partitions(WEEKS)
    assert Baseline(kept.ledger(), "twin").sample(other).num_rows == 2_000
    kept.attack("DELETE FROM mlsec_manifests")
    with pytest.raises(LedgerError):  # forgetting once excuses nobody who deletes later
        Baseline(kept.ledger(), ASSET).of_partitions(WEEKS)


def test_materializations_before_the_forgetting_are_absent(place: Place) -> None:
    for storage_id in (1, 2):
        keep(place, None, storage_id, storage_id=storage_id, outcome="stable")
    assert len(Baseline(place.ledger(), ASSET).of_materializations(None, apart_from=None)) == 2
    mlsec("baseline", "forget", ASSET, "--reason", "x", "--yes")
    assert Baseline(place.ledger(), ASSET).of_materializations(None, apart_from=None) == []
    keep(place, None, 3, storage_id=3, outcome="stable")
    assert [each.entry.statement.predicate["storage_id"] for each in Baseline(place.ledger(), ASSET).windows()] == [3]
    assert len(Baseline(place.ledger(), ASSET).of_materializations(None, apart_from=None)) == 1


def test_a_forgetting_that_was_interrupted_is_completed_by_another(kept: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr("mlsec_dagster.storage.queries.erase_contents", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            Baseline(kept.ledger(), ASSET).forget({"reason": "x", "forgotten_by": "me"})
    assert Baseline(kept.ledger(), ASSET).forget({"reason": "x", "forgotten_by": "me"}) == 6
    assert [entry.statement.predicate["outcome"] for entry in kept.ledger().history(SUBJECT + ASSET)].count("forgotten") == 4


def test_names_from_data_cannot_steer_the_terminal(place: Place) -> None:
    keep(place, "\x1b[2Jweek\u202e", 1, outcome="stable")
    for command in (("show", ASSET), ("show", ASSET, "--columns"), ("show", ASSET, "--partition", "x")):
        assert not {"\x1b", "\u202e"} & set(mlsec("baseline", *command).output)
