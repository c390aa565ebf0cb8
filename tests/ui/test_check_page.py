"""What a person sees in the Dagster UI when stored data was altered: one sentence, a table, and nothing that an attacker put there."""

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pandas as pd
import pytest

from tests.guard.projects import Project

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

ROOT = Path(__file__).resolve().parents[2]


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

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "dagster_webserver", "-h", "127.0.0.1", "-p", str(port), "-m", "tests.ui.project"]
    with (tmp_path / "webserver.log").open("wb") as log:
        server = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    try:
        _wait_until_it_answers(f"http://127.0.0.1:{port}/server_info", server)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


def _wait_until_it_answers(url: str, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=2).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise AssertionError("the Dagster webserver did not start")


def _until(condition: Any, what: str) -> Any:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError(f"the page never showed {what}")


@pytest.mark.chromium
def test_the_page_of_a_failed_check_says_what_happened_and_shows_hostile_names_as_text(webserver: str, browser: "Chrome") -> None:
    browser.get(f"{webserver}/assets/raw_flights?view=checks&checkDetail=dataset_hash")

    def body() -> str:
        return browser.find_element("tag name", "body").text

    _until(lambda: "raw_flights is not what was written" in body(), "the sentence")
    page = body()
    assert "Storage changed while Dagster did not write it" in page
    assert "65,536 to 131,071" in page  # the row block that holds the edited cell
    assert "<img src=http://tracker.invalid/x.png>" in page  # as text, in the table
    assert "not verifiable: no witness is configured" in page
    assert browser.find_elements("css selector", 'img[src*="tracker.invalid"], a[href*="tracker.invalid"]') == []
