"""The drill: each attack is caught where it happened, and nothing is trained on what it left."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from mlsec_dagster.demo import attacks, drill, pipeline, scenarios
from mlsec_dagster.demo.definitions import guarded
from mlsec_dagster.demo.project import DrillError, Project, Run, new_project
from mlsec_dagster.demo.scenarios import Outcome
from mlsec_dagster.errors import ConfigurationError


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A guarded project with two weeks, whose training set is a single block of rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenarios, "CLEAN_WEEKS", 2)
        patch.setattr(scenarios, "BLOCK_ROWS", 2_000)
        yield from _project(tmp_path_factory)


def _project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with new_project(tmp_path_factory.mktemp("guarded") / "demo", lambda witness: guarded(str(witness)), pipeline.defs) as project:
        scenarios.ingest_clean_weeks(project, lambda what, run: None)
        found = project.verify()
        assert (found.problems, found.gaps, found.rollback) == ((), (), "verified")
        yield project


# The scenarios in their order; each leaves the project as it was, except for what stays on record.


def test_flipped_labels_are_caught_by_the_reader_with_column_block_and_rows(project: Project) -> None:
    outcome = scenarios.flip_labels_in_storage(project)
    assert outcome.caught
    assert outcome.where.startswith("storage/training_set.parquet: column late, block 0 (rows 0 to ")
    assert not project.verify().problems


def test_a_swap_after_the_write_is_caught_by_the_check_and_keeps_the_week_from_the_next_step(project: Project) -> None:
    outcome = scenarios.swap_between_write_and_check(project)
    assert outcome.caught
    assert outcome.where.startswith("raw_flights/2013-01-15.parquet: column arr_delay, block 0 (rows 0 to ")


def test_an_edited_row_of_the_ledger_is_named_and_stays_visible_in_the_evidence(project: Project) -> None:
    outcome = scenarios.edit_the_ledger(project)
    assert outcome.caught
    assert outcome.where.endswith(": altered")
    found = project.verify(ledger=project.evidence / "edited-ledger.db")
    assert [f"ledger entry {problem.index}: {problem.kind}" for problem in found.problems] == [outcome.where]
    assert not project.verify().problems


def test_a_rollback_is_seen_by_the_witness_and_called_not_verifiable_without_one(project: Project) -> None:
    outcome = scenarios.roll_the_ledger_back(project)
    assert outcome.caught
    assert "rolled back" in outcome.where
    assert "not verifiable" in outcome.remark
    assert project.verify().rollback == "verified"


def test_a_week_that_went_past_the_guard_is_reported_and_not_read(project: Project) -> None:
    outcome = scenarios.switch_the_check_off(project)
    assert outcome.caught
    assert "raw_flights[2013-01-22]" in outcome.where
    assert "flight_features[2013-01-22]" in outcome.where
    assert {gap.kind for gap in project.verify().gaps} == {"unsealed"}  # it stays on record


def test_clean_runs_succeed_again_after_all_of_it(project: Project) -> None:
    before = project.model()
    scenarios.train(project, lambda what, run: None)
    assert project.model() != before


def test_a_clean_run_that_fails_stops_the_drill_instead_of_counting_as_an_attack_caught(project: Project) -> None:
    with attacks.restored_afterwards(project.table("training_set")):
        attacks.flip_labels(project.table("training_set"), "late", carrier="UA", first_row=0)
        refused = project.run("train_model")
    with pytest.raises(DrillError, match="though nobody had touched its data: training_set is not what run"):
        scenarios.require_success(refused)


def _put_a_model(project: Project) -> None:
    storage = Path(project.instance.storage_directory())
    storage.mkdir(exist_ok=True)
    (storage / "delay_model").write_bytes(b"a model" * 10_000)


@pytest.mark.slow  # A real MLflow server starts.
def test_a_missed_attack_is_the_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missed = Outcome("a quiet one", "nothing that anybody saw", "", "", True, ("/runs",))
    monkeypatch.setattr(drill, "ATTACKS", (lambda project: missed,))
    monkeypatch.setattr(drill, "ingest_clean_weeks", lambda project, progress: None)
    monkeypatch.setattr(drill, "train", lambda project, progress: _put_a_model(project))
    console = Console(record=True, width=100, quiet=False)
    assert drill.run_drill(tmp_path / "demo", console) == 1
    said = console.export_text()
    assert "Missed: a quiet one." in said
    assert said.count(": in the trail,") == 2
    assert "YES" in said


def test_a_directory_that_no_demo_made_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with (
        pytest.raises(ConfigurationError, match=r"was not made by `mlsec demo`"),
        new_project(tmp_path, lambda witness: pipeline.defs, pipeline.defs),
    ):
        pass
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_second_demo_starts_without_the_history_of_the_first(tmp_path: Path) -> None:
    for _ in range(2):
        with new_project(tmp_path / "demo", lambda witness: pipeline.defs, pipeline.defs) as project:
            assert project.instance.get_runs_count() == 0
            run: Run = project.run("weekly_ingest", "2013-01-01")
            assert run.success


def test_the_ui_is_not_opened_on_a_demo_that_was_never_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="run `mlsec demo` first"):
        drill.main(["--ui", "--home", str(tmp_path)])
