"""The files of the trail as a table of DuckDB.

    files = listed(trail)
    with connected(trail) as (connection, table), table(files) as (source, bound, numbered):
        for batch in batches(trail, connection, f"SELECT kind, count(*) FROM {source} GROUP BY kind", bound):
            ...

Read are exactly the files that the Delta table lists, as they were written and sealed: nothing that is said about single rows elsewhere (a
deletion vector) hides any. DuckDB is shut in: it can open nothing but the trail, and what is asked for is given to it as parameters.
"""

# pyarrow and DuckDB bring no types of their own for much of this.
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

import re
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pyarrow as pa

from mlsec_dagster.audit.files import TrailFile
from mlsec_dagster.audit.schema import PARTITIONS, SCHEMA
from mlsec_dagster.audit.trail import Trail
from mlsec_dagster.errors import StoreError, UnverifiableError

if TYPE_CHECKING:
    import duckdb

BATCH_ROWS: Final = 4096
"""Rows of one batch, at most."""

_MEMORY: Final = "512MB"
_FIRST_ROWS: Final = 250_000
_MOST_ROWS: Final = 4_000_000
_MOST_ROWS_OF_ARROW: Final = 1_000_000  # Which holds parts of several files at once, beyond what DuckDB may use.
# What our writers make. Anything else could mean another file than it says: "..", or a pattern.
_PATH: Final = re.compile(r"source=([a-z0-9_.]+)/day=(\d{4}-\d{2}-\d{2})/[A-Za-z0-9_-]+\.parquet", re.ASCII)
# Where DuckDB takes a path for nothing but a path: no pattern, and no "name=value" that would be a partition.
_PLAIN: Final = re.compile(r"[^*?\[\]{}=\\]*")

Source = tuple[str, dict[str, Any], bool]
"""What stands behind FROM, the values that it needs, and whether it has the columns `filename` and `file_row_number`."""

MakeTable = Callable[[Sequence[TrailFile]], AbstractContextManager[Source]]


def listed(trail: Trail) -> list[TrailFile]:
    """The table's files, with source and day as their paths tell: the table's log tells them a second time, and may tell otherwise."""
    found: dict[str, TrailFile] = {}
    for file in trail.open().files():
        told = _PATH.fullmatch(file.path)
        if told is None:
            raise UnverifiableError(
                f"The audit trail {trail.uri} lists a file {file.path!r}, which no writer of this package made, so it was not read; "
                "`mlsec verify` tells what was put into it."
            )
        found[file.path] = msgspec.structs.replace(file, source=told[1], day=told[2])  # A file that is listed twice is there once.
    return list(found.values())


def chunks(trail: Trail, files: Sequence[TrailFile]) -> Iterator[list[TrailFile]]:
    """Files of whole days, newest day first: few rows at the beginning, for whoever wants only those, and more from then on."""
    largest = _MOST_ROWS if _opened_by_duckdb(trail) else _MOST_ROWS_OF_ARROW
    by_day: dict[str, list[TrailFile]] = {}
    for file in files:
        by_day.setdefault(file.day, []).append(file)
    chunk: list[TrailFile] = []
    count, most = 0, _FIRST_ROWS
    for day in sorted(by_day, reverse=True):
        of_day = sum(file.rows for file in by_day[day])
        if chunk and count + of_day > most:
            yield chunk
            chunk, count, most = [], 0, min(most * 4, largest)
        chunk += by_day[day]
        count += of_day
    if chunk:
        yield chunk


def _opened_by_duckdb(trail: Trail) -> bool:
    root = trail.storage.root
    return root is not None and _PLAIN.fullmatch(str(root)) is not None


@contextmanager
def connected(trail: Trail) -> Generator[tuple["duckdb.DuckDBPyConnection", MakeTable]]:
    """A DuckDB that can open nothing but the trail, and a way to make files a table of it."""
    import duckdb

    # Where memory does not do, it sorts on the disk, in a folder that nobody else may read.
    with tempfile.TemporaryDirectory(prefix="mlsec-") as folder:
        connection = duckdb.connect(
            ":memory:",
            config={
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
                "memory_limit": _MEMORY,
                "temp_directory": folder,
                "preserve_insertion_order": "false",
            },
        )
        try:
            root = trail.storage.root
            plain = _opened_by_duckdb(trail)
            if plain:
                connection.execute("SET allowed_directories = $root", {"root": [str(root)]})
            connection.execute("SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")

            @contextmanager
            def table(files: Sequence[TrailFile]) -> Generator[Source]:
                if plain:
                    yield _FILES, {"files": [f"{root}/{file.path}" for file in files]}, True
                    return
                connection.register("trail_files", _dataset(trail, files))
                try:
                    yield "trail_files", {}, False
                finally:
                    connection.unregister("trail_files")

            yield connection, table
        finally:
            connection.close()


_FILES: Final = (
    "read_parquet($files, hive_partitioning = true, hive_types = {'source': VARCHAR, 'day': DATE}, filename = true, file_row_number = true)"
)


def _dataset(trail: Trail, files: Sequence[TrailFile]) -> Any:
    """Files that DuckDB cannot open by itself, read with the trail's own credentials."""
    import pyarrow.dataset as ds

    hive = ds.partitioning(pa.schema([SCHEMA.field(name) for name in PARTITIONS]), flavor="hive")
    return ds.dataset(
        [file.path for file in files], schema=SCHEMA, format="parquet", filesystem=trail.storage.filesystem(), partitioning=hive
    )


def batches(trail: Trail, connection: "duckdb.DuckDBPyConnection", query: str, values: dict[str, Any]) -> Iterator[pa.RecordBatch]:
    """What a query answers, as it comes; rows of the trail have the types of `SCHEMA`.

    Raises:
        StoreError: A file cannot be read, or is no file of a trail.
    """
    import duckdb

    try:
        # Until DuckDB 2 the second was the only one.
        relation: Any = connection.sql(query, params=values)
        reader = relation.to_arrow_reader(BATCH_ROWS) if hasattr(relation, "to_arrow_reader") else relation.fetch_arrow_reader(BATCH_ROWS)
        for batch in reader:
            if batch.num_rows:
                yield batch.cast(SCHEMA) if batch.schema.names == SCHEMA.names else batch
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        reason = str(error).strip().partition("\n")[0][:300]
        raise StoreError(
            f"The files of the audit trail {trail.uri} cannot be read ({reason}); `mlsec verify` tells what is wrong."
        ) from error
