"""Connections to the security store: SQLite or PostgreSQL, one writer at a time, nothing shared over a fork.

    database = Database("sqlite:////var/lib/mlsec/ledger.db", read_only=False)
    with database.write() as connection:      # serialised with all other writers, committed durably at the end
        ...

SQLite runs in WAL mode with synchronous=FULL: a commit is on disk when it returns, and a verification that reads for
minutes neither blocks writers nor sees their half. PostgreSQL writers take an advisory lock for their transaction.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, quote_plus

from sqlalchemy import URL, Connection, Engine, Text, column, create_engine, event, func, inspect, make_url, select, table, text
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, SQLAlchemyError

from mlsec_dagster.errors import ConfigurationError, MissingExtraError, StoreError
from mlsec_dagster.storage.tables import KNOWN_VERSIONS, SCHEMA_VERSION, VERSION_TABLE

WAIT_SECONDS: Final = 60
"""How long a writer waits for others before it gives up."""

_LOCK: Final = 0x6D6C736563  # "mlsec": the advisory lock of all writers of one PostgreSQL database.

INTEGRITY_ERRORS: Final = (IntegrityError, sqlite3.IntegrityError)
"""What an insertion raises when its place is taken: by way of SQLAlchemy, or by SQLite's driver itself (see `sqlite_driver`)."""

_inherited: list[object] = []
"""Engines and connections of a parent process. Kept for ever: collecting one would close the parent's connections from the child."""


class Database:
    """The store behind one SQLAlchemy URL.

    Args:
        url: SQLAlchemy URL of a SQLite file or a PostgreSQL database.
        read_only: Never create, migrate or write.

    Raises:
        ConfigurationError: Not such a URL.
        StoreError: Cannot be reached, does not exist (read-only), or was written by a newer version.
    """

    def __init__(self, url: str | URL, *, read_only: bool) -> None:
        try:
            self._url = make_url(url)
        except (ArgumentError, ValueError):
            raise ConfigurationError(
                "The store's URL cannot be read; expected for example sqlite:////path/ledger.db or postgresql://user:password@host/database."
            ) from None
        self.kind = self._url.get_backend_name()
        if self.kind not in ("sqlite", "postgresql"):
            raise ConfigurationError(f"The store can be SQLite or PostgreSQL, not {self.kind!r}.")
        if self.kind == "sqlite" and self._url.database in (None, "", ":memory:"):
            raise ConfigurationError("A SQLite store in memory would be lost with the process; name a file: sqlite:////path/ledger.db.")
        self.read_only = read_only
        self.write_lock = threading.RLock()
        self._writer: Connection | None = None
        self._process = os.getpid()
        if self.kind == "sqlite":
            file = Path(self._url.database or "")
            if read_only and not file.is_file():
                raise StoreError(
                    f"There is no security store at {file}. Check the path; it is created by the first run that seals something, and by "
                    "the first tick of an audit log sensor."
                )
            if not read_only:
                try:
                    file.parent.mkdir(parents=True, exist_ok=True)
                except OSError as error:
                    raise StoreError(f"The directory of the security store {file} cannot be created: {error.strerror}.") from error
        self._engine = self._connect()
        self._check_version()

    def __repr__(self) -> str:
        return f"Database({self.name!r})"

    @property
    def name(self) -> str:
        """The store's address without password and without options."""
        return self._url.set(query={}).render_as_string(hide_password=True)

    @property
    def engine(self) -> Engine:
        """The engine of this process; a forked child gets one of its own."""
        if self._process != os.getpid():
            _inherited.extend((self._engine, self._writer))
            self._writer = None
            self._engine.dispose(close=False)
            self.write_lock = threading.RLock()
            self._engine = self._connect()
            self._process = os.getpid()
        return self._engine

    @contextmanager
    def read(self) -> Generator[Connection]:
        """A transaction that sees one state of the store throughout.

        Raises:
            StoreError: The store cannot be reached or read.
        """
        with self._translated(), self.engine.connect() as connection:
            if self.kind == "postgresql":
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield connection

    @contextmanager
    def write(self) -> Generator[Connection]:
        """The one write transaction: committed durably when the block ends, rolled back when it raises.

        Raises:
            StoreError: The store cannot be reached, is full, or stayed locked for `WAIT_SECONDS`.
        """
        if self.read_only:
            raise StoreError(f"The store {self.name} was opened for reading only.")
        engine = self.engine
        with self._translated(), self.write_lock:
            if self.kind == "sqlite":
                connection = self._kept_writer(engine)
                driver = sqlite_driver(connection)
                try:
                    driver.execute("BEGIN IMMEDIATE")
                    yield connection
                    connection.commit()  # For SQLAlchemy, if it was used, ...
                    driver.commit()  # ... and for SQLite, if it was not.
                except BaseException:
                    self._forget_writer()  # Which rolls back. The next transaction finds nothing of this one on its connection.
                    raise
            else:
                with engine.connect() as connection, connection.begin():
                    connection.execute(
                        text("SELECT set_config('lock_timeout', :wait, true), set_config('synchronous_commit', 'on', true)"),
                        {"wait": f"{WAIT_SECONDS}s"},
                    )
                    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
                    yield connection

    def overwrite_log(self) -> bool:
        """Have SQLite move its write-ahead log to its place and empty it, so that what was deleted is nowhere any more.

        Returns:
            Whether it could: somebody who reads meanwhile holds the log, and the next to write empties it.
        """
        if self.kind != "sqlite" or self.read_only:
            return True
        engine = self.engine
        with self._translated(), self.write_lock:
            busy, *_ = sqlite_driver(self._kept_writer(engine)).execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            return not busy

    def close(self) -> None:
        """Close the connections of this process. The next use opens them again."""
        if self._process == os.getpid():
            self._engine.dispose()

    def _kept_writer(self, engine: Engine) -> Connection:
        """The connection of all SQLite writes; only whoever holds `write_lock` may use it.

        Taking one out of the pool and giving it back costs as much as signing an entry, and SQLAlchemy's own begin and commit half of
        that: hence both are said to the driver. Between transactions it holds no lock.
        """
        if self._writer is None:
            self._writer = engine.connect()
        return self._writer

    def _forget_writer(self, *_: object) -> None:
        """Close the kept connection, unless another thread is writing with it: then it goes when that thread is done."""
        writer, self._writer = self._writer, None
        if writer is not None and self.write_lock.acquire(blocking=False):
            try:
                writer.invalidate()  # Really closed: a pool that was disposed of would keep it.
                writer.close()
            finally:
                self.write_lock.release()

    def _connect(self) -> Engine:
        arguments: dict[str, Any] = {"timeout": WAIT_SECONDS, "check_same_thread": False} if self.kind == "sqlite" else {}
        try:
            engine = create_engine(
                self._url, connect_args=arguments, pool_size=2, max_overflow=16, pool_pre_ping=self.kind != "sqlite", hide_parameters=True
            )
        except (ModuleNotFoundError, NoSuchModuleError) as error:
            raise MissingExtraError(f"The driver for {self.name} is not installed ({error}). Install mlsec-dagster[postgres].") from None
        if self.kind == "sqlite":
            event.listen(engine, "connect", self._prepare_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
            event.listen(engine, "engine_disposed", self._forget_writer)
        return engine

    def _prepare_sqlite(self, connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # We say BEGIN ourselves; the module would begin too late and not IMMEDIATE.
        if self.read_only:
            connection.execute("PRAGMA query_only=ON")
            return
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA cache_size=-32768")  # KiB: a batch does not write the same index page again and again.
        connection.execute("PRAGMA wal_autocheckpoint=4000")  # Pages: 16 MB of log before its content moves to its place.
        deadline = time.monotonic() + WAIT_SECONDS
        while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            try:
                connection.execute("PRAGMA journal_mode=WAL")
            except sqlite3.OperationalError:  # SQLite does not wait here for another process that does the same.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def _check_version(self) -> None:
        found = self._version()
        if found not in KNOWN_VERSIONS and found is not None:
            raise StoreError(
                f"The store {self.name} was written by a newer version of mlsec-dagster (schema {found}; "
                f"this version knows up to {SCHEMA_VERSION}). Upgrade mlsec-dagster."
            )
        if found == SCHEMA_VERSION:
            return
        if self.read_only:
            raise StoreError(
                f"The store {self.name} holds no ledger of this version (schema {found or 'none'}, "
                f"expected {SCHEMA_VERSION}). Open it once for writing, which creates or migrates it."
            )
        self._migrate()

    def _version(self) -> str | None:
        with self.read() as connection:
            if not inspect(connection).has_table(VERSION_TABLE):
                return None
            return connection.execute(select(func.max(column("version_num", Text))).select_from(table(VERSION_TABLE))).scalar()

    def _migrate(self) -> None:
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
        with self.write() as connection:
            if not connection.in_transaction():
                connection.begin()  # Alembic commits what it finds no transaction around.
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    @contextmanager
    def _translated(self) -> Generator[None]:
        try:
            yield
        except INTEGRITY_ERRORS:
            raise
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise StoreError(self._sentence(error)) from None  # The original may carry the URL.

    def _sentence(self, error: SQLAlchemyError | sqlite3.Error) -> str:
        reason = " ".join(self._without_secrets(str(getattr(error, "orig", None) or error)).split())
        lowered = reason.lower()
        if "full" in lowered or "no space left" in lowered or "disk i/o" in lowered:
            return (
                f"The security store {self.name} cannot be written, its disk is full or failing ({reason}). "
                "Nothing was recorded and nothing was lost; make room and run again."
            )
        if "locked" in lowered or "lock timeout" in lowered:
            return (
                f"The security store {self.name} stayed locked by another writer for {WAIT_SECONDS} s ({reason}). "
                "Nothing was recorded; find the process that holds it and run again."
            )
        if "not a database" in lowered or "malformed" in lowered:
            return f"The security store {self.name} is damaged ({reason}). Restore it from a backup, then run `mlsec verify`."
        return (
            f"The security store {self.name} cannot be used ({reason}). "
            "Nothing was recorded; check that it is there, reachable and writable, and run again."
        )

    def _without_secrets(self, message: str) -> str:
        secrets = [self._url.password, *(value for name, value in self._url.query.items() if "pass" in name.lower())]
        for secret in secrets:
            for form in {str(secret), quote(str(secret)), quote_plus(str(secret)), quote(str(secret), safe="")} if secret else ():
                message = message.replace(form, "***")
        return message


def sqlite_driver(connection: Connection) -> sqlite3.Connection:
    """The connection of SQLite's own driver: for the few commands of every append, where SQLAlchemy's wrapping is most of the time.

    What it raises is `sqlite3.Error`, which `Database.read` and `Database.write` translate like SQLAlchemy's errors.
    """
    driver: Any = connection.connection.dbapi_connection
    return driver


def _begin_sqlite(connection: Connection) -> None:
    driver = sqlite_driver(connection)
    if not driver.in_transaction:  # `Database.write` has begun already.
        driver.execute("BEGIN")
