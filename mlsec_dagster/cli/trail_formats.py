"""Rows of the trail as a table for people, as JSON, OCSF and CSV on stdout, and as a Parquet file.

Every text of a row may have been chosen by an attacker. A terminal gets no control characters, a spreadsheet no
formulas, and JSON is ASCII.
"""

# pyarrow brings no types of its own.
# pyright: reportMissingTypeStubs=false

import csv
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from mlsec_dagster.cli.output import say, visible
from mlsec_dagster.errors import ConfigurationError

if TYPE_CHECKING:
    import pyarrow as pa

    Batches = Iterator[pa.RecordBatch]

_GROUP_ROWS: Final = 32_768

# OWASP's list, https://owasp.org/www-community/attacks/CSV_Injection, with the wide forms that it names too.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_TIMES: Final = frozenset({"time", "logged", "ingested"})

# Heading, width, alignment.
_TABLE: Final = (
    ("time (UTC)", 19, "<"),
    ("outcome", 7, "<"),
    ("operation", 24, "<"),
    ("principal", 44, "<"),
    ("artifact", 44, "<"),
    ("bytes", 13, ">"),
    ("from", 15, "<"),
)


def print_table(batches: "Batches", most: int) -> bool:
    """A line a row. Returns whether there were more than `most`."""
    count = 0
    for batch in batches:
        for row in _rows(batch):
            if count == most:
                return True
            if not count:
                _line([heading for heading, _, _ in _TABLE])
            count += 1
            _line(_cells(row))
    if not count:
        say("Nothing matches.", error=True)
    return False


def _line(cells: list[str]) -> None:
    shown = (f"{visible(cell, width):{align}{width}}" for cell, (_, width, align) in zip(cells, _TABLE, strict=True))
    click.echo("  ".join(shown).rstrip())


def _cells(row: dict[str, Any]) -> list[str]:
    when = str(row["time"] or "")[:19].replace("T", " ")
    if row["kind"] != "event":
        return [when, "", str(row["kind"]).upper(), "", row["reason"] or row["log_object"] or "", f"{row['size'] or 0:,}", ""]
    size = row["bytes_out"] if row["bytes_out"] is not None else row["bytes_in"]
    return [
        when,
        row["outcome"] or "",
        row["operation"] or "",
        row["principal"] or row["principal_name"] or row["role"] or "-",
        _artifact(row),
        "" if size is None else f"{size:,}",
        row["address"] or "",
    ]


def _artifact(row: dict[str, Any]) -> str:
    """What it was about; where nothing tells, where that lies."""
    if row["artifact_model"] is not None:
        return "/".join(part for part in (row["artifact_model"], row["artifact_version"]) if part is not None)
    if row["artifact_asset"] is not None:
        return row["artifact_asset"] if row["artifact_partition"] is None else f"{row['artifact_asset']}[{row['artifact_partition']}]"
    where = "/".join(part for part in (row["container"], row["object"]) if part)
    return row["model"] or where or row["resource"] or row["request"] or "-"


def print_json(batches: "Batches") -> None:
    """An object a line, with the columns that are not null."""
    for batch in batches:
        _write("".join(_json({name: value for name, value in row.items() if value is not None}) for row in _rows(batch)))


def print_ocsf(batches: "Batches") -> None:
    """An OCSF event a line, for each event; says on stderr how many rows have no such form."""
    from mlsec_dagster.audit.ocsf import to_ocsf
    from mlsec_dagster.audit.rows import events_of

    without = 0
    for batch in batches:
        events = events_of(batch)
        without += batch.num_rows - len(events)
        _write("".join(_json(to_ocsf(event)) for event in events))
    if without:
        say(f"{without:,} rows are no events (quarantined or erased) and have no OCSF form; --json shows them.", error=True)


def print_csv(batches: "Batches") -> None:
    """Every column, with a heading."""
    from mlsec_dagster.audit.schema import SCHEMA

    # To a file the texts go as they are; a terminal would obey them.
    terminal = sys.stdout.isatty()

    def cell(value: object) -> object:
        if not isinstance(value, str):
            return value
        harmless = f"'{value}" if value.startswith(_FORMULA) else value
        return visible(harmless) if terminal else harmless

    heading = [SCHEMA.names]  # Not before there is an answer: where there is none, nothing is written.
    for batch in batches:
        _write(_csv([*heading, *([cell(value) for value in row.values()] for row in _rows(batch))]))
        heading = []
    _write(_csv(heading))


def write_parquet(batches: "Batches", target: Path) -> int:
    """A new file, only for its owner to read. Returns how many rows it has.

    Raises:
        ConfigurationError: There is a file of that name, or no directory for it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from mlsec_dagster.audit.schema import SCHEMA

    try:
        number = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise ConfigurationError(f"{target} is there already and was not overwritten: remove it, or give another name.") from error
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"There is no directory {target.parent} to write {target.name} into: create it, or name another."
        ) from error
    count = 0
    try:
        with os.fdopen(number, "wb") as opened, pq.ParquetWriter(opened, SCHEMA, compression="zstd") as writer:
            waiting: list[pa.RecordBatch] = []
            for batch in batches:
                waiting.append(batch)
                count += batch.num_rows
                if sum(each.num_rows for each in waiting) >= _GROUP_ROWS:
                    writer.write_table(pa.Table.from_batches(waiting, SCHEMA))
                    waiting = []
            if waiting:
                writer.write_table(pa.Table.from_batches(waiting, SCHEMA))
    except BaseException:
        target.unlink(missing_ok=True)  # Half of an answer looks like an answer.
        raise
    return count


def _rows(batch: "pa.RecordBatch") -> Iterator[dict[str, Any]]:
    """Rows with values as JSON has them: times as RFC 3339, the key as hexadecimal digits."""
    import pyarrow as pa

    columns: list[list[Any]] = []
    for name in batch.schema.names:
        column = batch.column(name)
        if name in _TIMES:
            columns.append([None if value is None else _moment(value) for value in column.cast(pa.int64()).to_pylist()])
        elif name == "day":
            columns.append([None if value is None else str(value) for value in column.to_pylist()])
        elif name == "key":
            columns.append([None if value is None else value.hex() for value in column.to_pylist()])
        else:
            columns.append(column.to_pylist())
    for values in zip(*columns, strict=True):
        yield dict(zip(batch.schema.names, values, strict=True))


def _moment(value: int) -> str | int:
    from mlsec_dagster.audit.times import rfc3339

    try:
        return rfc3339(value)
    except OverflowError:  # Whatever a log claims, it is shown.
        return value


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=True).replace("\x7f", "\\u007f") + "\n"


def _csv(rows: list[list[Any]]) -> str:
    """RFC 4180."""
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _write(text: str) -> None:
    """To stdout, as UTF-8 whatever the terminal's language."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode())
    sys.stdout.buffer.flush()
