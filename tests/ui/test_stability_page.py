"""What a person sees of a stability check in the Dagster UI: a sentence, a ranking, pictures, and nothing that an attacker put there."""

from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from tests.ui.webserver import serving, until

if TYPE_CHECKING:
    from selenium.webdriver import Chrome


@pytest.mark.chromium
def test_the_page_shows_pictures_and_a_ranking_and_hostile_names_as_text(
    instance: dg.DagsterInstance, browser: "Chrome", tmp_path: Path
) -> None:
    from tests.ui import stability_project as project

    assert dg.materialize([project.raw_flights, project.check], instance=instance).success
    with serving("tests.ui.stability_project", tmp_path / "webserver.log") as url:
        browser.get(f"{url}/assets/raw_flights?view=checks&checkDetail=distribution_stability")

        def body() -> str:
            return browser.find_element("tag name", "body").text

        until(lambda: "raw_flights does not look like the 8 windows before it" in body(), "the sentence")
        assert "<img src=http" in body()  # as text
        assert "\u202e" not in browser.page_source
        (link,) = until(lambda: browser.find_elements("xpath", "//*[text()='[Show Markdown]']"), "the link to the pictures")
        browser.execute_script("arguments[0].click()", link)
        sizes = until(
            lambda: browser.execute_script(
                "const found = [...document.querySelectorAll('img[src^=\"data:image/svg\"]')];"
                "return found.length && found.every(each => each.complete) && found.map(each => [each.naturalWidth, each.clientWidth])"
            ),
            "the pictures",
        )
        assert len(sizes) == 3  # two columns and the history
        assert all(natural > 400 and shown > 400 for natural, shown in sizes)
        alternatives = [each.get_attribute("alt") for each in browser.find_elements("css selector", 'img[src^="data:image/svg"]')]
        assert all(alternatives)
        assert "alarm from 5.0" in str(alternatives[2])
        assert browser.find_elements("css selector", 'img[src*="tracker.invalid"], a[href*="tracker.invalid"]') == []
