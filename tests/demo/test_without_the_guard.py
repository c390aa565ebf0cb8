"""The same attacks on the pipeline as it was before: the drill must call them missed, or its "caught" would mean nothing."""

from collections.abc import Callable, Iterator

import pytest

from mlsec_dagster.demo import pipeline, scenarios
from mlsec_dagster.demo.project import Project, new_project
from mlsec_dagster.demo.scenarios import Outcome

WEEKS = 2


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenarios, "CLEAN_WEEKS", WEEKS)
        patch.setattr(scenarios, "BLOCK_ROWS", 2_000)
        with new_project(tmp_path_factory.mktemp("unguarded") / "demo", lambda witness: pipeline.defs, pipeline.defs) as project:
            for week in pipeline.weeks.get_partition_keys()[:WEEKS]:
                assert project.run("weekly_ingest", week).success
            scenarios.train(project, lambda what, run: None)
            yield project


def test_a_model_is_trained_on_flipped_labels(project: Project) -> None:
    outcome = scenarios.flip_labels_in_storage(project)
    assert outcome.trained
    assert not outcome.caught


def test_nobody_notices_a_swapped_file(project: Project) -> None:
    outcome = scenarios.swap_between_write_and_check(project)
    assert (outcome.caught_by, outcome.where) == ("", "")


@pytest.mark.slow
@pytest.mark.parametrize("attack", [scenarios.shift_the_feed, scenarios.flip_labels_upstream])
def test_a_model_is_trained_on_a_week_that_was_bad_when_it_came(project: Project, attack: Callable[[Project], Outcome]) -> None:
    outcome = attack(project)
    assert outcome.trained
    assert (outcome.caught_by, outcome.where) == ("", "")
