"""What is known of one request while it is served.

https://asgi.readthedocs.io/en/latest/specs/www.html
"""

from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any

from mlsec_dagster.mlflow_app import naming
from mlsec_dagster.mlflow_app.lines import now

Message = MutableMapping[str, Any]


class Access:
    """What is known of a request so far. One object for all tasks and threads that work on it.

    Attributes:
        user: Whom the server authenticated.
    """

    __slots__ = (
        *("_answer", "_announced", "_body", "answering", "bytes_in", "bytes_out", "ended", "left", "status", "tapped", "time", "unread"),
        "user",
    )

    def __init__(self, *, tapped: bool, answering: bool = False) -> None:
        self.user: str | None = None
        self.time = now()
        self.status: int | None = None
        self.bytes_in = 0
        self.bytes_out = 0
        self.ended = False
        self.left = False
        self.tapped = tapped
        self.unread = False
        self.answering = answering
        self._body: list[bytes] = []
        self._answer: list[bytes] = []
        self._announced: int | None = None

    def came(self, message: Message) -> None:
        """A message of the client."""
        kind = message["type"]
        if kind in ("http.disconnect", "websocket.disconnect"):
            self.left = True
            return
        body = _bytes(message)
        self.bytes_in += len(body)
        if self.tapped and body:
            if self.bytes_in > naming.BODY_BYTES:
                self.tapped, self.unread = False, True
                self._body.clear()
            else:
                self._body.append(bytes(body))

    def went(self, message: Message) -> None:
        """A message to the client, who is still there."""
        kind = message["type"]
        if kind in ("http.response.start", "websocket.http.response.start"):
            self.status = message["status"]
            self._announced = _length(message)
        elif kind == "websocket.accept":
            self.status = 101
        elif kind == "websocket.close":
            self.status, self.ended = self.status or 403, True
        elif kind in ("http.response.body", "websocket.http.response.body"):
            body = _bytes(message)
            self.bytes_out += len(body)
            # A client that has all that was announced may leave before it is told that there is no more.
            self.ended = not message.get("more_body", False) or self.bytes_out == self._announced
            if self.answering and body:
                if self.bytes_out > naming.BODY_BYTES:
                    self.answering = False
                    self._answer.clear()
                else:
                    self._answer.append(bytes(body))
        elif kind == "websocket.send":
            self.bytes_out += len(_bytes(message))

    @property
    def body(self) -> bytes | None:
        """The body, if it was small and could name something."""
        return b"".join(self._body) if self.tapped else None

    @property
    def answer(self) -> bytes | None:
        """The answer's body, if it was small, tells what was made, and all went well."""
        return b"".join(self._answer) if self.answering and self.status == 200 else None


CURRENT: ContextVar[Access | None] = ContextVar("mlsec_access", default=None)
"""The request that is worked on; threads that a request is handed to see it too."""


def _length(message: Message) -> int | None:
    for name, value in message.get("headers", ()):
        if name.lower() == b"content-length" and value.isdigit():
            return int(value)
    return None


def _bytes(message: Message) -> bytes:
    return message.get("body") or message.get("bytes") or (message.get("text") or "").encode()
