"""An S3 that answers over HTTP, for so many requests as it is told, and refuses from then on."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

_PAGE = 3


@dataclass
class Refusal:
    """What it answers when it has answered often enough."""

    status: int
    code: str


@dataclass
class Server:
    """One bucket.

    Attributes:
        objects: Contents and time of writing (seconds since the epoch) by key.
        left: Requests that are still answered; None for all.
        refusal: Then this.
        denied: Keys of objects that nobody may read.
        cut: The body of the last one that is answered ends in the middle.
        url: Where it listens.
    """

    objects: dict[str, tuple[bytes, int]] = field(default_factory=dict[str, tuple[bytes, int]])
    left: int | None = None
    refusal: Refusal = field(default_factory=lambda: Refusal(403, "ExpiredToken"))
    denied: set[str] = field(default_factory=set[str])
    cut: bool = False
    url: str = ""

    def client(self) -> Any:
        import boto3
        from botocore.config import Config

        settings = Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, connect_timeout=5, read_timeout=5)
        keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
        return boto3.client("s3", endpoint_url=self.url, region_name="us-east-1", config=settings, **keys)


@contextmanager
def storage_server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None: ...

        def do_GET(self) -> None:
            if state.left is not None:
                if state.left <= 0:
                    return self._refuse(state.refusal.status, state.refusal.code)
                state.left -= 1
            url = urlsplit(self.path)
            key = unquote(url.path).removeprefix("/logs").removeprefix("/")
            if not key:
                return self._list({name: values[0] for name, values in parse_qs(url.query).items()})
            if key in state.denied:
                return self._refuse(403, "AccessDenied")
            if key not in state.objects:
                return self._refuse(404, "NoSuchKey")
            return self._body(*state.objects[key])

        def _list(self, ask: dict[str, str]) -> None:
            """https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html"""
            token = bytes.fromhex(ask.get("continuation-token", "")).decode()
            behind, prefix = max(token, ask.get("start-after", "")), ask.get("prefix", "")
            keys = sorted(key for key in state.objects if key > behind and key.startswith(prefix))
            parts = ["<IsTruncated>false</IsTruncated>"]
            if "delimiter" not in ask:
                if len(keys) > _PAGE:
                    token = keys[_PAGE - 1].encode().hex()
                    parts = [f"<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>"]
                parts += [self._entry(key) for key in keys[:_PAGE]]
            self._answer(f"<ListBucketResult>{''.join(parts)}<EncodingType>url</EncodingType></ListBucketResult>".encode())

        def _entry(self, key: str) -> str:
            data, modified = state.objects[key]
            when = datetime.fromtimestamp(modified, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
            return (
                f"<Contents><Key>{quote(key)}</Key><LastModified>{when}</LastModified><ETag>&quot;{_tag(data)}&quot;</ETag>"
                f"<Size>{len(data)}</Size></Contents>"
            )

        def _body(self, data: bytes, modified: int) -> None:
            if self.headers.get("If-Match", "").strip('"') not in ("", _tag(data)):
                return self._refuse(412, "PreconditionFailed")
            first, _, last = self.headers.get("Range", f"bytes=0-{len(data) - 1}").removeprefix("bytes=").partition("-")
            data = data[int(first) : int(last) + 1]
            when = format_datetime(datetime.fromtimestamp(modified, UTC), usegmt=True)
            cut = state.cut and state.left == 0
            return self._answer(data, {"Last-Modified": when, "ETag": f'"{_tag(data)}"'}, cut=cut)

        def _answer(self, data: bytes, headers: dict[str, str] | None = None, *, status: int = 200, cut: bool = False) -> None:
            self.send_response(status)
            for name, value in {"Content-Type": "application/xml", "Content-Length": str(len(data)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if cut else data)
            self.close_connection = self.close_connection or cut

        def _refuse(self, status: int, code: str) -> None:
            self._answer(f"<Error><Code>{code}</Code><Message>{escape(self.path)}</Message></Error>".encode(), status=status)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _tag(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()
