"""What a person sees of the audit trail in the Dagster UI: who read what, who did so first, who was refused, how far it is known."""

import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest

from tests.sensors.test_audit_log import tick
from tests.ui.webserver import serving, until

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

WIDTH = 1500
_TABLES = """
    return [...document.querySelectorAll('table')].filter(table => !table.querySelector('table')).map(table => ({
        right: Math.round(table.getBoundingClientRect().right),
        rows: [...table.rows].map(row => [...row.cells].map(cell => cell.innerText)),
    }))
"""


@pytest.fixture
def project(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The project's module, after a tick whose events were reported as Dagster's daemon reports them."""
    with tempfile.TemporaryDirectory(prefix="org-trail-") as logs:
        monkeypatch.setenv("UI_TEST_LOGS", logs)
        monkeypatch.delitem(sys.modules, "tests.ui.trail_project", raising=False)
        from tests.ui import trail_project as module

        module.deliver(Path(logs))
        assert dg.materialize([module.delay_model], instance=instance).success
        (sensor,) = module.defs.sensors or []
        assert isinstance(sensor, dg.SensorDefinition)
        for event in tick(sensor, instance).asset_events:
            instance.report_runless_asset_event(event)
        yield module


@pytest.fixture
def page(project: Any, browser: "Chrome", tmp_path: Path) -> Iterator["Page"]:
    before = browser.get_window_size()
    browser.set_window_size(WIDTH, 1200)
    with serving("tests.ui.trail_project", tmp_path / "webserver.log") as url:
        yield Page(browser, f"{url}/assets/audit_trail")
    browser.set_window_size(before["width"], before["height"])


class Page:
    """A page of the asset."""

    def __init__(self, browser: "Chrome", url: str) -> None:
        self._browser = browser
        self._url = url

    def open(self, view: str, awaited: str) -> None:
        self._browser.get(f"{self._url}?{view}")
        until(lambda: awaited in self.text, repr(awaited))

    @property
    def text(self) -> str:
        return self._browser.find_element("tag name", "body").text

    def table(self, *heading: str) -> list[list[str]]:
        """The rows of the table with these columns, which ends within the window."""
        found = [table for table in self._browser.execute_script(_TABLES) if table["rows"][0] == list(heading)]
        assert [table["right"] <= WIDTH for table in found] == [True], found
        return found[0]["rows"][1:]

    def alive(self) -> list[Any]:
        """What a name from a log has become that is more than text."""
        return self._browser.find_elements("css selector", '[src*="tracker.invalid"], [href*="tracker.invalid"]')


@pytest.mark.chromium
def test_the_page_of_a_day_names_who_read_who_did_so_first_and_who_was_refused(page: Page, project: Any) -> None:
    page.open(f"view=partitions&partition={project.TODAY:%Y-%m-%d}", "top readers")
    assert (
        "12 accesses by 4 principals, 5 denied, 200,002,007 bytes out; 2 times a principal reads something for the first time." in page.text
    )
    alice, carol, mallory = (f"arn:aws:iam::123456789012:user/{name}" for name in ("alice", "carol", "mallory"))
    firsts = page.table("principal", "artifact", "first (UTC)", "reads", "bytes")
    assert [(row[0], row[1], row[3], row[4]) for row in firsts] == [
        (carol, "delay_model", "4", "200000000"),
        (project.HOSTILE, "delay_model", "1", "7"),
    ]
    assert page.table("artifact", "principal", "accesses", "denied", "bytes") == [
        ["delay_model", mallory, "5", "5", "0"],
        ["delay_model", carol, "4", "0", "200000000"],
        ["delay_model", alice, "2", "0", "2000"],
        ["delay_model", project.HOSTILE, "1", "0", "7"],
    ]
    readers = page.table("principal", "reads", "bytes")
    assert readers == [[carol, "4", "200000000"], [alice, "2", "2000"], [project.HOSTILE, "1", "7"]]
    assert page.alive() == []

    page.open("view=checks&checkDetail=log_completeness", "1 log is complete but for the last 15 minutes.")
    assert "Passed" in page.text
    ((log, *times, late, events, quarantined, unresolved),) = page.table(
        "log", "complete up to", "newest event", "late by", "events", "quarantined", "unresolved"
    )
    assert log.startswith("aws.cloudtrail file:///")
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", time) for time in times)
    assert (late, events, quarantined, unresolved) == ("15 minutes", "15", "0", "0")
    ((_, unseen),) = page.table("log", "not observable")
    assert "there are no digest files" in unseen
