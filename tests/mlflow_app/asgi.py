"""A tiny ASGI server for tests: says what the client says, remembers what the app answers."""

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mlsec_dagster.audit.events import AuditEvent, Quarantined
from mlsec_dagster.audit.sources.mlflow import Record, read
from mlsec_dagster.mlflow_app.access import Message
from mlsec_dagster.mlflow_app.files import AccessLog
from mlsec_dagster.mlflow_app.lines import dropped
from mlsec_dagster.mlflow_app.wrapper import App, AuditedApp


def log_in(directory: Path, **options: Any) -> AccessLog:
    """A log in a directory that may not exist yet."""
    directory.mkdir(exist_ok=True, mode=0o700)
    return AccessLog(directory, dropped, **options)


def records(directory: Path) -> list[Record]:
    """All lines, in the order of the files' names and within."""
    lines = [line for path in sorted(directory.glob("*.jsonl")) for line in path.read_bytes().splitlines()]
    return [msgspec.json.decode(line, type=Record) for line in lines]


def rows(directory: Path) -> list[AuditEvent | Quarantined]:
    """What the reader makes of them."""
    return [row for path in sorted(directory.glob("*.jsonl")) for row in read(path.read_bytes())]


def scope(
    method: str = "GET", path: str = "/", query: str = "", headers: Sequence[tuple[bytes, bytes]] = (), **more: Any
) -> dict[str, Any]:
    """A request, as a server tells an app of it."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "scheme": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [*headers],
        "client": ("192.0.2.7", 40123),
        "server": ("127.0.0.1", 5000),
        **more,
    }


class Client:
    """What the client sends; what it got. Behaves as uvicorn does: it takes what is sent to somebody who has left."""

    def __init__(self, pieces: Iterable[bytes] = (), *, leaves_after: int | None = None) -> None:
        """`leaves_after` bytes of the answer the client is gone; 0 is before there was any."""
        bodies = [*pieces] or [b""]
        self._messages: list[Message] = [
            {"type": "http.request", "body": body, "more_body": number < len(bodies) - 1} for number, body in enumerate(bodies)
        ]
        self._leaves_after = leaves_after
        self._gone = asyncio.Event()
        self.sent: list[Message] = []
        self.got = 0
        self.log_of_calls: list[str] = []
        if leaves_after == 0:
            self._gone.set()

    async def receive(self) -> Message:
        """As ASGI has it."""
        if self._messages:
            self.log_of_calls.append("receive")
            return self._messages.pop(0)
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """As ASGI has it."""
        self.log_of_calls.append("send")
        self.sent.append(message)
        await asyncio.sleep(0)  # The connection is written to.
        if not self._gone.is_set():
            self.got += len(message.get("body", b""))
        if self._leaves_after is not None and self.got >= self._leaves_after:
            self._gone.set()
        await asyncio.sleep(0)


def serve(
    app: App, log: AccessLog, asked: dict[str, Any], client: Client, *, authentication: str | None = "basic", prefix: str | None = None
) -> None:
    """One request through the wrapper; the log is closed behind it."""
    wrapped = AuditedApp(app, log, authentication=authentication, prefix=prefix)

    async def run() -> None:
        await asyncio.wait_for(wrapped(asked, client.receive, client.send), 30)

    try:
        asyncio.run(run())
    finally:
        log.close()


def answering(*pieces: bytes, status: int = 200, user: str | None = None, announce: bool = False) -> App:
    """An app that reads the request and answers with these pieces."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if user is not None:
            scope["state"]["username"] = user
        while (await receive()).get("more_body"):
            pass
        headers = [(b"content-length", str(sum(map(len, pieces))).encode())] if announce else []
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return app
