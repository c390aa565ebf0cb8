"""The claims that every fault is held to: downstream did not run, a failed evaluation is there and says why, and nothing is lost."""

import re
from collections.abc import Callable
from typing import Any

import dagster as dg

from mlsec_dagster import resources
from tests.guard.projects import RAN, Project, Result

RAW = dg.AssetKey("raw")


def said(evaluation: Any) -> str:
    """What an evaluation says, without the escapes that keep it from being Markdown."""
    return re.sub(r"\\([^\w\s]|_)", r"\1", str(evaluation.description))


def evaluation_of(result: Result, asset: str = "raw") -> Any:
    """The one evaluation of an asset's dataset_hash in a run; fails if it is missing."""
    (evaluation,) = [e for e in result.get_asset_check_evaluations() if e.asset_key.to_user_string() == asset]
    return evaluation


def assert_clean(project: Project, body: str = "features") -> None:
    """The whole project runs, every check passes, and the body of the consumer ran."""
    RAN.clear()
    result = project.run()
    failed = [said(e) for e in result.get_asset_check_evaluations() if not e.passed]
    assert result.success, failed
    assert not failed
    assert [body] == RAN
    RAN.clear()


def assert_refused_at_read(project: Project, *says: str, consumer: str = "features") -> str:
    """A job that selects only the consumer fails before the consumer's body, and says why."""
    RAN.clear()
    result = project.run(consumer)
    assert not result.success
    assert RAN == []
    message = result.failure_message(consumer)
    for part in says:
        assert part in message, message
    return message


def assert_check_fails(project: Project, *says: str, asset: str = "raw") -> Any:
    """The check alone gives a failed evaluation with one clear sentence."""
    evaluation = evaluation_of(project.check(asset), asset)
    assert not evaluation.passed
    sentence = said(evaluation)
    for part in says:
        assert part in sentence, sentence
    assert_clear(sentence)
    return evaluation


def assert_blocked_between_write_and_check(project: Project, attack: Callable[[], None], *says: str) -> Any:
    """The attack comes after the write and before the check of the same run: the evaluation is failed and downstream did not run."""
    RAN.clear()
    project.after_write = lambda asset: attack() if asset == "raw" else None
    try:
        result = project.run()
    finally:
        project.after_write = None
    assert not result.success
    assert RAN == []
    evaluation = evaluation_of(result)
    assert not evaluation.passed
    for part in says:
        assert part in said(evaluation), said(evaluation)
    assert_clear(said(evaluation))
    return evaluation


def assert_clear(sentence: str) -> None:
    """One short paragraph for people: no traceback, nothing empty."""
    assert 20 < len(sentence) < 1200, sentence
    assert "Traceback" not in sentence
    assert "\n" not in sentence
    assert sentence.rstrip().endswith((".", "…", "`", ")")), sentence


def as_a_new_process() -> None:
    """Forget the ledgers that this process has open, as the next process would not know them."""
    for ledger, *_ in resources._OPEN.values():
        ledger.close()
    resources._OPEN.clear()
