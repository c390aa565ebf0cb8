"""What a person sees in the Dagster UI when stored data was altered: one sentence, a table, and nothing that an attacker put there."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pandas as pd
import pytest

from tests.guard.projects import Project
from tests.ui.webserver import serving, until

if TYPE_CHECKING:
    from selenium.webdriver import Chrome


@pytest.fixture
def webserver(instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The Dagster UI on the history of a clean run, an altered file, and the check that found it."""
    monkeypatch.setenv("UI_TEST_DATA", str(tmp_path))
    monkeypatch.delitem(sys.modules, "tests.ui.project", raising=False)
    from tests.ui import project as module

    project = Project.__new__(Project)
    project.plain = project.guarded = module.defs
    project.instance, project.after_write = instance, None
    assert project.run().success
    frame = pd.read_parquet(tmp_path / "raw_flights.parquet")
    frame.loc[100_000, module.HOSTILE] = "XX"
    frame.to_parquet(tmp_path / "raw_flights.parquet")
    assert not project.check("raw_flights").success

    with serving("tests.ui.project", tmp_path / "webserver.log") as url:
        yield url


@pytest.mark.chromium
def test_the_page_of_a_failed_check_says_what_happened_and_shows_hostile_names_as_text(webserver: str, browser: "Chrome") -> None:
    browser.get(f"{webserver}/assets/raw_flights?view=checks&checkDetail=dataset_hash")

    def body() -> str:
        return browser.find_element("tag name", "body").text

    until(lambda: "raw_flights is not what was written" in body(), "the sentence")
    page = body()
    assert "Storage changed while Dagster did not write it" in page
    assert "65,536 to 131,071" in page  # the row block that holds the edited cell
    assert "<img src=http://tracker.invalid/x.png>" in page  # as text, in the table
    assert "not verifiable: no witness is configured" in page
    assert browser.find_elements("css selector", 'img[src*="tracker.invalid"], a[href*="tracker.invalid"]') == []
