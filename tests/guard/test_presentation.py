"""Names that an attacker chose stay text wherever a person reads them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from mlsec_dagster.presentation import plain, visible


@pytest.mark.parametrize(
    "hostile",
    [
        "![x](http://example.com/x.png)",
        "<img src=http://example.com/x.png>",
        "[click](javascript:alert(1))",
        "http://example.com",
        "www.example.com",
        "mail@example.com",
        "**bold** _emphasis_ `code` ~~gone~~",
    ],
)
def test_markdown_from_data_is_escaped(hostile: str) -> None:
    tokens = MarkdownIt("commonmark", {"html": True}).enable("strikethrough").parse(plain(hostile))
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    assert {child.type for child in tokens[1].children or ()} <= {"text", "text_special"}
    shown = "".join(child.content for child in tokens[1].children or ())
    assert shown.replace("[:]", ":").replace("[.]", ".").replace("[@]", "@") == hostile


@pytest.mark.parametrize("link", ["http://example.com", "HTTPS://example.com", "www.example.com", "mail@example.com"])
def test_a_bare_link_from_data_is_broken(link: str) -> None:
    (inline,) = (token for token in MarkdownIt("commonmark").parse(plain(link)) if token.type == "inline")
    shown = "".join(child.content for child in inline.children or ())
    assert re.search(r"https?://|www\.|\w@\w", shown, re.IGNORECASE) is None


def test_ordinary_names_stay_readable() -> None:
    assert plain("raw_flights_2013 is what was sealed.") == "raw_flights_2013 is what was sealed."


@given(st.text(max_size=300))
def test_nothing_invisible_and_nothing_endless_is_shown(text: str) -> None:
    shown = visible(plain(text, limit=100))
    assert shown == plain(text, limit=100)
    assert "\n" not in shown
    assert len(shown) <= 400


def test_text_that_reverses_itself_is_shown_as_it_is() -> None:
    assert "\u202e" not in plain("safe\u202egnp.exe")
