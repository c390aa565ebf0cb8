"""What commands print: data escaped for terminals, JSON alone on stdout, progress on stderr when something takes long."""

import json
import re
import sys
import time
import unicodedata
from typing import Any, Final

import click

SLOW_SECONDS: Final = 2.0
"""Work that is over by then shows no progress."""

_LINE_SECONDS: Final = 10.0
_PASSWORD: Final = re.compile(r"(://[^:/@\s]*):[^@/\s]*@")


def visible(text: object, limit: int = 2_000) -> str:
    """Text from data as one line for a terminal: no control, escape, bidirectional or line separating characters, no passwords in URLs."""
    safe = "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(sign)[0] == "C" or unicodedata.category(sign) in ("Zl", "Zp") else sign
        for sign in str(text)
    )
    safe = _PASSWORD.sub(r"\1:***@", safe)
    return safe if len(safe) <= limit else safe[: limit - 1] + "…"


def say(text: object = "", *, error: bool = False, style: str | None = None) -> None:
    """Print one line, escaped."""
    line = visible(text)
    click.echo(click.style(line, fg=style, bold=style == "red") if style else line, err=error)


def say_json(document: Any) -> None:
    """Print one JSON document on stdout."""
    click.echo(_PASSWORD.sub(r"\1:***@", json.dumps(document, indent=2, ensure_ascii=True, default=str)))


def counted(number: int, one: str, several: str | None = None) -> str:
    """A number and what it counts: "1 file", "1,200 files"."""
    return f"1 {one}" if number == 1 else f"{number:,} {several or f'{one}s'}"


class Progress:
    """Says on stderr what is going on, once it has gone on for `SLOW_SECONDS`.

    On a terminal one line is written over and over; elsewhere a line every ten seconds.
    """

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._said = 0.0
        self._width = 0
        self._terminal = sys.stderr.isatty()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._width:
            click.echo("\r" + " " * self._width + "\r", err=True, nl=False)

    def __call__(self, what: str, done: int | None = None, total: int | None = None) -> None:
        """Tell how far it is; call it as often as you like."""
        now = time.monotonic()
        every = 0.1 if self._terminal else _LINE_SECONDS
        if now - self._started < SLOW_SECONDS or now - self._said < every:
            return
        self._said = now
        count = "" if done is None else f" {done:,}" if total is None else f" {done:,} of {total:,} ({done / max(total, 1):.0%})"
        line = visible(f"{what}{count}, {now - self._started:.0f} s", 120)
        if self._terminal:
            click.echo("\r" + line.ljust(self._width), err=True, nl=False)
            self._width = max(self._width, len(line))
        else:
            click.echo(line, err=True)
