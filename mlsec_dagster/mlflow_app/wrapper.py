"""Sees every request and its answer pass, and touches neither.

    app = AuditedApp(fastapi_app, log, authentication="basic")

Pure ASGI: a message is looked at and passed on at once, whatever its size, so streams stay streams. Of bodies, only those of up to
64 KiB that can name something (`naming.has_body`, `naming.is_answered`) are remembered while they pass.

Bytes are counted when they are handed to the connection. Servers take what is sent to a client that has left without saying so;
to count what passed and not what was meant to, its leaving is listened for while the answer is sent.

https://asgi.readthedocs.io/en/latest/specs/www.html
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final
from urllib.parse import quote_from_bytes
from uuid import uuid4

from mlsec_dagster.audit.sources.mlflow import Record, route
from mlsec_dagster.mlflow_app import naming
from mlsec_dagster.mlflow_app.access import CURRENT, Access, Message
from mlsec_dagster.mlflow_app.files import AccessLog
from mlsec_dagster.mlflow_app.lines import line

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_logger = logging.getLogger(__name__)
_TEXT: Final = 32 << 10  # Characters of a path, a query or a header that are looked at.
_REFUSED: Final = frozenset({401, 403})
# Neither a model nor data, and asked for all the time: probes of load balancers, and the files of the user interface.
_UNTOLD: Final = ("health", "version", "favicon.ico")
_UNTOLD_BELOW: Final = "static-files/"
# With these an answer's body would not pass here.
_BYPASSES: Final = ("http.response.pathsend", "http.response.zerocopysend")
_TOLD: Final = (b"user-agent", b"x-forwarded-for", b"x-mlflow-workspace")
_PRINTABLE: Final = bytes(range(0x21, 0x7F)).decode()


class AuditedApp:
    """An ASGI app whose every access is logged.

    Attributes:
        app: The app within.
    """

    def __init__(self, app: App, log: AccessLog, *, authentication: str | None, prefix: str | None = None) -> None:
        """Wraps.

        Args:
            app: The app within. Where it authenticates, it puts the name of the user into `scope["state"]["username"]`
                (Starlette's `request.state`), or into `CURRENT`.
            log: Of this process.
            authentication: What `auth` says of a user; None if the app authenticates nobody.
            prefix: The server's `--static-prefix`.
        """
        self.app = app
        self._log = log
        self._authentication = authentication
        self._prefix = prefix or None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection, as ASGI has it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, self._flushing(send))
        elif scope["type"] in ("http", "websocket"):
            await self._access(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _flushing(self, send: Send) -> Send:
        async def flushed(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown."):
                await asyncio.to_thread(self._log.close)
            await send(message)

        return flushed

    async def _access(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = route(scope["path"], self._prefix)
        http = scope["type"] == "http"
        access = Access(tapped=http and naming.has_body(asked), answering=http and naming.is_answered(scope["method"], asked))
        scope["state"] = {**scope.get("state", {})}  # Ours, so that what is put in within is seen here.
        if extensions := scope.get("extensions"):
            scope["extensions"] = {name: extension for name, extension in extensions.items() if name not in _BYPASSES}
        client = _Client(access, receive, send, bodyless=_bodyless(scope))
        token = CURRENT.set(access)
        try:
            await self.app(scope, client.receive, client.send)
        except Exception:
            if access.status is None and not access.left:
                access.status = 500  # The server answers so for an app that raises.
            raise
        finally:
            CURRENT.reset(token)
            client.close()
            self._note(scope, asked, access)

    def _note(self, scope: Scope, asked: str, access: Access) -> None:
        """Never raises: a request is served, whatever the log does."""
        method: str = scope.get("method", "GET")  # A websocket begins with a GET.
        if _untold(method, asked, access):
            return
        try:
            self._log.put(line(self._record(scope, method, asked, access)))
        except Exception:
            _logger.exception("An access could not be put into words for the audit log, and is counted as dropped.")
            self._log.drop()

    def _record(self, scope: Scope, method: str, asked: str, access: Access) -> Record:
        user: str | None = None
        if self._authentication is not None:
            user = access.user or scope["state"].get("username")
        refused = access.status in _REFUSED
        headers = _headers(scope)
        address, port = scope.get("client") or (None, None)
        raw: bytes = scope.get("raw_path") or scope["path"].encode()
        path = quote_from_bytes(raw, safe=_PRINTABLE)
        query = scope["query_string"].decode("latin-1")
        names, unread = _named(method, asked[:_TEXT], query[:_TEXT], access)
        if access.answer:
            names |= naming.answered(access.answer)
        return Record(
            v=1,
            id=uuid4().hex,
            time=access.time,
            server=self._log.server,
            method=method[:64],
            path=path[:_TEXT],
            prefix=self._prefix if self._prefix and scope["path"].startswith(self._prefix + "/") else None,
            query=query[:_TEXT] or None,
            status=access.status,
            unfinished=not access.ended,
            bytes_in=access.bytes_in,
            bytes_out=access.bytes_out,
            user=None if refused else user,
            denied=user if access.status == 403 else None,
            auth=("anonymous" if self._authentication is None else self._authentication if user and not refused else None),
            address=address,
            port=port or None,
            forwarded=headers.get("x-forwarded-for"),
            user_agent=headers.get("user-agent"),
            workspace=headers.get("x-mlflow-workspace"),
            **{name: text[:_TEXT] for name, text in names.items()},  # pyright: ignore[reportArgumentType]
            unread=unread,
            shortened=max(len(path), len(query)) > _TEXT,
        )


class _Client:
    """Messages from and to the client, looked at while they pass.

    While an answer is sent, the client's next message is waited for, which can only say that it has left. It is kept for the app,
    if it asks. Only one asks the server at a time.
    """

    def __init__(self, access: Access, receive: Receive, send: Send, *, bodyless: bool) -> None:
        self._access = access
        self._receive = receive
        self._send = send
        self._asking = 0
        self._no_more_body = bodyless
        self._watch: asyncio.Task[None] | None = None
        self._kept: list[Message] = []
        self._last: Message | None = None
        self._news = asyncio.Event()

    async def receive(self) -> Message:
        """For the app."""
        if self._watch is None:
            self._asking += 1
            try:
                return await self._next()
            finally:
                self._asking -= 1
        while True:
            if self._kept:
                return self._kept.pop(0)
            if self._last is not None:
                return self._last
            self._news.clear()
            await self._news.wait()

    async def send(self, message: Message) -> None:
        """For the app."""
        if self._watch is None and not self._asking and self._no_more_body:
            self._watch = asyncio.create_task(self._until_it_leaves())
        if self._watch is not None and self._last is None:
            # A client that has left already is known behind this, also to an app and a server that otherwise never wait.
            await asyncio.sleep(0)
        if not self._access.left:
            self._access.went(message)
        await self._send(message)

    def close(self) -> None:
        """Nobody listens any more."""
        if self._watch is not None:
            self._watch.cancel()

    async def _next(self) -> Message:
        message = await self._receive()
        self._access.came(message)
        if message["type"] == "http.request" and not message.get("more_body", False):
            self._no_more_body = True
        return message

    async def _until_it_leaves(self) -> None:
        while self._last is None:
            try:
                message = await self._next()
            except Exception:
                message = {"type": "http.disconnect"}
            if message["type"] == "http.request":
                self._kept.append(message)
            else:
                self._last = message
            self._news.set()


def _named(method: str, asked: str, query: str, access: Access) -> tuple[dict[str, str], bool]:
    """What the request names, and whether there is a body that could not be looked into."""
    if not access.unread:
        try:
            return naming.named(method, asked, query, access.body), False
        except (ValueError, RecursionError):
            pass
    # The server does not look at the query where there is a body, so neither do we.
    return naming.named(method, asked, query if method in ("GET", "HEAD") else "", None), True


def _untold(method: str, asked: str, access: Access) -> bool:
    return (
        method in ("GET", "HEAD")
        and access.status is not None
        and access.status < 400
        and (asked in _UNTOLD or asked.startswith(_UNTOLD_BELOW))
    )


def _bodyless(scope: Scope) -> bool:
    """Whether the request announces no body (RFC 9112, section 6.3)."""
    return scope["type"] == "http" and not any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0") for name, value in scope["headers"]
    )


def _headers(scope: Scope) -> dict[str, str]:
    """Those that are told; several of a name as one (RFC 9110, section 5.3)."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        if name in _TOLD:
            text = value.decode("latin-1")[:_TEXT]
            key = name.decode()
            found[key] = f"{found[key]}, {text}"[:_TEXT] if key in found else text
    return found
