"""An own DuckDB, which reaches what it is to measure and nothing else."""

# Ibis and DuckDB bring no types of their own, so what comes out of them is unknown to a type checker.
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

_MEMORY: Final = "400MB"


def private_folder(stack: ExitStack) -> Path:
    """A folder of this process alone, which is gone when `stack` is left."""
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mlsec-")))


def connected(stack: ExitStack, files: Sequence[Path]) -> tuple[Any, list[str]]:
    """An own DuckDB that can reach these files and a private folder, and nothing else; and the links in the folder to read them by."""
    import duckdb

    folder = private_folder(stack)
    links = [str(folder / f"{number}.parquet") for number in range(len(files))]
    for file, link in zip(files, links, strict=True):
        Path(link).symlink_to(file.absolute())
    settings: dict[str, Any] = {
        "memory_limit": _MEMORY,
        "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "temp_directory": str(folder / "spill"),
        "preserve_insertion_order": False,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "allow_community_extensions": False,
        "perfect_ht_threshold": 14,
    }
    connection = stack.enter_context(duckdb.connect(":memory:", config=settings))
    connection.execute("SET TimeZone = 'UTC'")
    # It would be written to the output of the run.
    connection.execute("SET enable_progress_bar = false")
    # The names are ours: a temporary folder and numbers.
    connection.execute(f"SET allowed_directories = [{_quoted(str(folder) + os.sep)}]")
    connection.execute(f"SET allowed_paths = [{', '.join(map(_quoted, links))}]")
    connection.execute("SET enable_external_access = false")
    return connection, links


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def streamer(ibis: Any, connection: Any) -> Callable[[Any], Any]:
    """What runs an Ibis expression on this connection, and yields its rows as Arrow batches."""

    def stream(expression: Any) -> Any:
        return connection.sql(str(ibis.to_sql(expression, dialect="duckdb"))).to_arrow_reader(65_536)

    return stream
