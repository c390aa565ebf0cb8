"""Pictures are well-formed, small, and hold names from data as text only."""

import base64
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsec_dagster.asset_checks.pictures import bars, course, image, spoken
from mlsec_dagster.stability.evidence import Compared, Past

HOSTILE = '\u202e"/></text><script>alert(1)</script><image href="http://tracker.invalid/x"/>&' * 20
MOST_BYTES = 30_000


def shares(count: int) -> tuple[float, ...]:
    return tuple((place + 1) / sum(range(count + 1)) for place in range(count))


@pytest.mark.parametrize("by_name", [True, False])
@pytest.mark.parametrize("named", [True, False])
def test_names_from_data_are_text_in_a_picture_that_loads_nothing(by_name: bool, named: bool) -> None:
    compared = Compared(HOSTILE, by_name, (HOSTILE,) * 18 if named else (), shares(18), shares(18)[::-1])
    svg = bars(compared)
    root = ElementTree.fromstring(svg)
    assert {element.tag.partition("}")[2] for element in root.iter()} <= {"svg", "text", "rect", "path"}
    assert not [name for element in root.iter() for name in element.attrib if "href" in name or name.startswith("on")]
    assert "\u202e" not in svg
    written = image(svg, spoken(compared))
    assert len(written) < MOST_BYTES
    assert "](data:image/svg+xml;base64," in written
    assert "<script" not in written.replace("\\<", "")
    assert base64.b64decode(written.rpartition(",")[2][:-1]).decode() == svg


def test_what_was_before_is_an_outline_and_what_is_now_is_solid() -> None:
    root = ElementTree.fromstring(bars(Compared("x", False, ("low", "high"), (0.5, 0.5), (0.25, 0.75))))
    boxes = [element.attrib for element in root.iter() if element.tag.endswith("rect")][2:]  # behind the key
    solid = [float(box["height"]) for box in boxes if box["fill"] != "none"]
    outlines = [float(box["height"]) for box in boxes if box["fill"] == "none"]
    assert solid[1] == pytest.approx(3 * solid[0], rel=0.01)
    assert outlines[0] == outlines[1]
    assert all("stroke" in box for box in boxes if box["fill"] == "none")


@pytest.mark.parametrize("count", [1, 2, 52])
def test_the_course_marks_windows_that_alarmed_and_stays_small(count: int) -> None:
    history = [Past(1e6 * place + 0.123456, 5.0 + place / 7, place % 3 == 0) for place in range(count)]
    svg = course(history)
    root = ElementTree.fromstring(svg)
    assert len([element for element in root.iter() if element.tag.endswith("rect")]) == sum(each.alarmed for each in history)
    assert len(image(svg, "x")) < MOST_BYTES


@given(st.floats(0.0, 1.0))
def test_whatever_share_the_highest_bar_has_its_axis_has_round_values(highest: float) -> None:
    root = ElementTree.fromstring(bars(Compared("x", False, (), (highest, 1 - highest), (highest, 0.0))))
    ticks = [element.text for element in root.iter() if element.tag.endswith("text") and (element.text or "").endswith("%")]
    assert ticks[0] in ("0%", "0.0%")
    assert 2 <= len(ticks) <= 5


def test_nothing_that_is_all_nought_breaks_a_picture() -> None:
    assert bars(Compared("x", True, ("a",), (0.0,), (0.0,)))
    assert bars(Compared("x", False, ("a",), (0.0,), (0.0,)))
    assert course([Past(0.0, 0.0, False)])
