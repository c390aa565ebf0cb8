"""The wrapper sees all and changes nothing."""

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlsec_dagster.audit.artifact_map import ArtifactMap
from mlsec_dagster.audit.artifacts import Artifact
from mlsec_dagster.audit.events import AuditEvent
from mlsec_dagster.audit.knowledge import Knowledge
from mlsec_dagster.audit.sources.mlflow import Record
from mlsec_dagster.mlflow_app.access import CURRENT, Message
from mlsec_dagster.mlflow_app.lines import line
from mlsec_dagster.mlflow_app.wrapper import App, AuditedApp
from tests.mlflow_app.asgi import Client, answering, log_in, records, rows, scope, serve

ARTIFACT = "/api/2.0/mlflow-artifacts/artifacts/7/0a1b/artifacts/model/model.pkl"


def only(directory: Path) -> Record:
    (record,) = records(directory)
    return record


def test_every_byte_is_counted_and_none_is_changed(tmp_path: Path) -> None:
    client = Client([b"a" * 1000, b"b" * 24])
    serve(answering(b"x" * 70_000, b"y" * 5, user="alice"), log_in(tmp_path / "log"), scope("PUT", ARTIFACT), client)
    record = only(tmp_path / "log")
    assert (record.bytes_in, record.bytes_out, record.status, record.unfinished) == (1024, 70_005, 200, False)
    assert (record.user, record.auth, record.experiment, record.run, record.artifact) == ("alice", "basic", "7", "0a1b", "model/model.pkl")
    assert (record.address, record.port) == ("192.0.2.7", 40123)
    assert b"".join(message.get("body", b"") for message in client.sent) == b"x" * 70_000 + b"y" * 5


def test_a_stream_stays_a_stream(tmp_path: Path) -> None:
    async def echo(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            await send({"type": "http.response.body", "body": message["body"], "more_body": more})

    client = Client([b"1", b"2", b"3"])
    serve(echo, log_in(tmp_path / "log"), scope("PUT", ARTIFACT, headers=[(b"transfer-encoding", b"chunked")]), client)
    assert client.log_of_calls == ["send", "receive", "send", "receive", "send", "receive", "send"]  # Nothing waits for the whole.
    assert only(tmp_path / "log").bytes_in == 3


@pytest.mark.parametrize("status", [401, 403])
def test_whoever_is_refused_is_nobody(tmp_path: Path, status: int) -> None:
    authorization = (b"authorization", b"Basic YWxpY2U6d3Jvbmc=")  # alice:wrong
    user = "alice" if status == 403 else None
    serve(answering(b"no", status=status, user=user), log_in(tmp_path / "log"), scope(headers=[authorization]), Client())
    record = only(tmp_path / "log")
    assert (record.status, record.user, record.auth) == (status, None, None)
    assert record.denied == user  # The server knew who it was that lacked the right.
    assert b"YWxpY2U6d3Jvbmc" not in next((tmp_path / "log").glob("*.jsonl")).read_bytes()


def test_without_authentication_everybody_is_anonymous(tmp_path: Path) -> None:
    serve(answering(b"", user="made up"), log_in(tmp_path / "log"), scope(), Client(), authentication=None)
    record = only(tmp_path / "log")
    assert (record.user, record.auth) == (None, "anonymous")


def test_a_user_that_a_thread_found_out_is_known(tmp_path: Path) -> None:
    def authenticate() -> None:
        access = CURRENT.get()
        assert access is not None
        access.user = "bob"

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.to_thread(authenticate)
        await answering(b"")(scope, receive, send)

    serve(app, log_in(tmp_path / "log"), scope(), Client())
    assert only(tmp_path / "log").user == "bob"
    assert CURRENT.get() is None


def test_a_client_that_left_before_the_answer_has_no_status(tmp_path: Path) -> None:
    serve(answering(b"x" * 100), log_in(tmp_path / "log"), scope(path=ARTIFACT), Client(leaves_after=0))
    record = only(tmp_path / "log")
    assert (record.status, record.bytes_out, record.unfinished) == (None, 0, True)
    (event,) = rows(tmp_path / "log")
    assert isinstance(event, AuditEvent)
    assert event.outcome == "unknown"


def test_bytes_that_nobody_took_are_not_counted(tmp_path: Path) -> None:
    client = Client(leaves_after=3_000)
    serve(answering(*[b"x" * 1000] * 50), log_in(tmp_path / "log"), scope(path=ARTIFACT), client)
    record = only(tmp_path / "log")
    assert len(client.sent) == 52, "the app is not stopped"
    assert (record.status, record.bytes_out, record.unfinished) == (200, client.got, True)
    assert client.got == 3_000


def test_a_server_that_never_waits_is_given_time_to_tell_that_the_client_has_left(tmp_path: Path) -> None:
    class Hasty(Client):
        """As uvicorn is while nothing that it writes has to wait: it knows in the loop's next round what it learned in this one."""

        async def send(self, message: Message) -> None:
            self.sent.append(message)
            self.got += len(message.get("body", b""))
            if self.got >= 3_000:
                asyncio.get_running_loop().call_soon(self._gone.set)

    client = Hasty(leaves_after=3_000)
    serve(answering(*[b"x" * 1000] * 50), log_in(tmp_path / "log"), scope(path=ARTIFACT), client)
    record = only(tmp_path / "log")
    assert len(client.sent) == 52, "the app is not stopped"
    assert record.unfinished
    assert 3_000 <= (record.bytes_out or 0) <= 6_000


def test_a_client_that_leaves_with_all_that_was_announced_has_it_all(tmp_path: Path) -> None:
    serve(answering(b"x" * 100, announce=True), log_in(tmp_path / "log"), scope(path=ARTIFACT), Client(leaves_after=100))
    record = only(tmp_path / "log")
    assert (record.bytes_out, record.unfinished) == (100, False)


def test_an_app_that_asks_whether_its_client_is_there_is_told(tmp_path: Path) -> None:
    told: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * 10, "more_body": True})
        for _ in range(3):
            told.append((await receive())["type"])

    serve(app, log_in(tmp_path / "log"), scope(path=ARTIFACT), Client(leaves_after=10))
    assert told == ["http.request", "http.disconnect", "http.disconnect"]


def test_an_app_that_raises_is_logged_as_what_the_server_answers(tmp_path: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        serve(app, log_in(tmp_path / "log"), scope(path=ARTIFACT), Client())
    record = only(tmp_path / "log")
    assert (record.status, record.unfinished) == (500, True)


def test_a_body_is_sent_through_us_and_not_past_us(tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope["extensions"])
        await answering(b"")(scope, receive, send)

    serve(app, log_in(tmp_path / "log"), scope(extensions={"http.response.pathsend": {}, "tls": {}}), Client())
    assert seen == {"tls": {}}


def test_an_upload_is_not_remembered_and_a_long_body_is_told_as_unread(tmp_path: Path) -> None:
    long = json.dumps({"name": "churn", "pad": "x" * 100_000}).encode()
    asked = scope("POST", "/api/2.0/mlflow/registered-models/alias", query="name=innocent")
    serve(answering(b""), log_in(tmp_path / "log"), asked, Client([long[:50_000], long[50_000:]]))
    record = only(tmp_path / "log")
    assert (record.unread, record.model, record.bytes_in) == (True, None, len(long))


def test_the_number_of_a_new_version_is_in_the_answer(tmp_path: Path) -> None:
    asked = scope("POST", "/api/2.0/mlflow/model-versions/create")
    body = json.dumps({"name": "churn", "source": "mlflow-artifacts:/7/0a1b/artifacts/model", "runId": "0a1b"}).encode()
    answer = json.dumps({"model_version": {"name": "churn", "version": "12"}}).encode()
    serve(answering(answer), log_in(tmp_path / "log"), asked, Client([body]))
    record = only(tmp_path / "log")
    assert (record.model, record.model_version, record.run) == ("churn", "12", "0a1b")
    assert record.source == "mlflow-artifacts:/7/0a1b/artifacts/model"


def test_probes_and_files_of_the_user_interface_are_not_told_unless_refused(tmp_path: Path) -> None:
    for path in ("/health", "/version", "/static-files/main.js", "/ui/health"):
        serve(answering(b"OK"), log_in(tmp_path / "log"), scope(path=path), Client(), prefix="/ui")
    assert rows(tmp_path / "log") == []
    serve(answering(b"", status=403), log_in(tmp_path / "log"), scope(path="/health"), Client())
    serve(answering(b""), log_in(tmp_path / "log"), scope("POST", "/health"), Client())
    assert len(records(tmp_path / "log")) == 2


def test_a_static_prefix_hides_nothing(tmp_path: Path) -> None:
    serve(answering(b"x"), log_in(tmp_path / "log"), scope(path="/ui" + ARTIFACT), Client(), prefix="/ui")
    (event,) = rows(tmp_path / "log")
    assert isinstance(event, AuditEvent)
    assert (event.action, event.plane, event.container, event.object) == ("read", "data", "7/0a1b", "model/model.pkl")


@pytest.mark.parametrize("what", ["presigned", "artifacts"])
def test_a_path_within_a_workspace_is_told_with_the_workspace_and_leads_to_its_run(tmp_path: Path, what: str) -> None:
    asked = scope(
        path=f"/api/2.0/mlflow-artifacts/{what}/workspaces/team/7/0a1b/artifacts/model/model.pkl",
        headers=[(b"x-mlflow-workspace", b"team")],
    )
    serve(answering(b"x"), log_in(tmp_path / "log"), asked, Client())
    (event,) = rows(tmp_path / "log")
    assert isinstance(event, AuditEvent)
    assert event.account == "team"
    known = Knowledge(locations=(("runs:/0a1b/model", Artifact("model", model="churn", version="3", by="registry")),))
    resolved = ArtifactMap(knowledge=[known]).artifact(event)
    assert (resolved.model, resolved.version) == ("churn", "3")


TEXTS = st.text(st.characters(), max_size=200)


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.binary(max_size=200), st.text(max_size=100), st.integers(1, 5000))
def test_whatever_is_asked_makes_one_line_that_the_reader_reads(
    tmp_path_factory: pytest.TempPathFactory, name: str, agent: bytes, query: str, times: int
) -> None:
    directory = tmp_path_factory.mktemp("log")
    body = json.dumps({"name": name, "alias": "x" * times}).encode()
    asked = scope("POST", "/api/2.0/mlflow/registered-models/alias", query=query, headers=[(b"user-agent", agent * times)])
    serve(answering(b"", user="eve\n\x1b[2J\x9b"), log_in(directory), asked, Client([body]))
    (path,) = directory.glob("*.jsonl")
    data = path.read_bytes()
    assert data.count(b"\n") == 1
    assert data.endswith(b"\n")
    assert all(0x20 <= byte < 0x7F for byte in data[:-1])
    assert len(data) <= 64 << 10
    (event,) = rows(directory)
    assert isinstance(event, AuditEvent), event


def test_secrets_are_not_written() -> None:
    record = Record(v=1, id="1", time="2026-01-02T03:04:05Z", server="s", method="GET", path="/x", query="X-Amz-Signature=deadbeef&a=1")
    assert b"deadbeef" not in line(record)
    assert b"a=1" in line(record)


def test_what_cannot_be_put_into_words_is_counted_and_served(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    client = Client()
    serve(answering(b"x"), log_in(tmp_path / "log"), scope(headers=[], client=("a", "not a port", "three")), client)
    assert client.got == 1
    assert only(tmp_path / "log").dropped == 1
    assert "counted as dropped" in caplog.text


@contextmanager
def uvicorn_with(app: App) -> Iterator[int]:
    """A real server, in a thread; its port."""
    uvicorn = pytest.importorskip("uvicorn", reason="needs uvicorn: mlsec-dagster[mlflow] brings it")
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", lifespan="on"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until = time.monotonic() + 30
        while not server.started and time.monotonic() < until:
            time.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)


def with_lifespan(app: App) -> App:
    async def both(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        for _ in range(2):
            message = await receive()
            await send({"type": f"{message['type']}.complete"})

    return both


def test_behind_uvicorn_a_client_that_leaves_in_the_middle_of_a_model_took_what_it_took(tmp_path: Path) -> None:
    whole = 200 * (1 << 20)
    log = log_in(tmp_path / "log")
    app = with_lifespan(answering(*[b"x" * (1 << 20)] * 200, user="eve"))
    with uvicorn_with(AuditedApp(app, log, authentication="basic")) as port:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(f"GET {ARTIFACT} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            taken = 0
            while taken < 1 << 20:
                taken += len(connection.recv(65536))
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", ARTIFACT + "2")
        assert len(connection.getresponse().read()) == whole
        connection.close()
    # The server has shut down, and so the log is written.
    left, stayed = sorted(records(tmp_path / "log"), key=lambda record: record.bytes_out or 0)
    assert (left.status, left.unfinished, left.user) == (200, True, "eve")
    assert taken <= (left.bytes_out or 0) < whole // 2
    assert (stayed.bytes_out, stayed.unfinished) == (whole, False)


def test_what_a_trusted_proxy_names_has_no_port_and_the_claim_is_kept(tmp_path: Path) -> None:
    log = log_in(tmp_path / "log")
    with uvicorn_with(AuditedApp(with_lifespan(answering(b"")), log, authentication="basic")) as port:
        for headers in ({}, {"X-Forwarded-For": "203.0.113.9"}):
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.request("GET", "/", headers=headers)
            connection.getresponse().read()
            connection.close()
    direct, forwarded = records(tmp_path / "log")
    assert (direct.address, direct.forwarded) == ("127.0.0.1", None)
    assert direct.port
    assert (forwarded.address, forwarded.port, forwarded.forwarded) == ("203.0.113.9", None, "203.0.113.9")
