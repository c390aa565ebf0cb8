"""Compaction: the many small files of a day become few, and nothing else changes.

    report = compact(upkeep)

Every input is held against its sealed digest while it is copied, and only the copy is read, so that an edited file is never made
respectable by being written again: its day is left alone and the file is named. The rows come out by time, each exactly as often as it
went in. The files that were replaced stay until `vacuum`.
"""

# pyarrow brings no types of its own and makes its compute functions when it is imported, so a type checker does not know them.
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from mlsec_dagster.audit.files import TrailFile
from mlsec_dagster.audit.known import Keys, key_numbers
from mlsec_dagster.audit.merging import Merging
from mlsec_dagster.audit.rewriting import Rewriting
from mlsec_dagster.audit.trail import TrailConflictError
from mlsec_dagster.audit.upkeep import Change, Upkeep, View, new_attempt, seconds_now
from mlsec_dagster.audit.verified import NotAsSealedError, verified_copy
from mlsec_dagster.errors import StoreError

_ROW_GROUP_ROWS: Final = 32_768
_ROW_GROUP_BYTES: Final = 32 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What is small, and what becomes of it.

    Attributes:
        rows: Rows of a file, at most.
        bytes: Bytes of a file, about.
        files: A day that is not over is compacted if it has more files than this.
    """

    rows: int = 2_000_000
    bytes: int = 256 << 20
    files: int = 64


@dataclass(slots=True)
class Compacted:
    """What a compaction did, or would do.

    Attributes:
        days: Days of sources that were compacted, as ("aws.cloudtrail", "2026-05-01").
        before: Files that were replaced.
        after: Files that replace them.
        rows: Rows in these.
        refused: Sentences about files that are not as they were sealed; their days were left alone.
        later: Days that somebody else changed at the same time.
    """

    days: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    before: int = 0
    after: int = 0
    rows: int = 0
    refused: list[str] = field(default_factory=list[str])
    later: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])


def compact(
    upkeep: Upkeep,
    sizes: Sizes | None = None,
    *,
    now: float | None = None,
    dry_run: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Compacted:
    """Merge small files, day by day, each day in one commit.

    Args:
        upkeep: Of the trail.
        sizes: What is small.
        now: Seconds since the epoch; tells which days are over.
        dry_run: Only say what would be done.
        progress: Called with a day, days done, days in total.

    Raises:
        VerificationError: The table as a whole is not what was sealed.
        StoreError: A store cannot be reached or written, or somebody else is at the upkeep of this trail.
    """
    sizes, report = sizes or Sizes(), Compacted()
    today = datetime.fromtimestamp(seconds_now() if now is None else now, UTC).date().isoformat()
    with upkeep.turn():
        view = upkeep.look()
        plans = list(_plans(view, sizes, today, report))
        for done, groups in enumerate(plans):
            place = (groups[0][0].source, groups[0][0].day)
            if progress is not None:
                progress(f"{place[0]} {place[1]}", done, len(plans))
            if not dry_run:
                upkeep.renew()
                try:
                    _compact_day(upkeep, groups)
                except NotAsSealedError as error:
                    report.refused.append(str(error))
                    continue
                except TrailConflictError:
                    report.later.append(place)
                    continue
            report.days.append(place)
            report.before += sum(map(len, groups))
            report.after += len(groups)
            report.rows += sum(file.rows for group in groups for file in group)
    return report


def _plans(view: View, sizes: Sizes, today: str, report: Compacted) -> Iterator[list[list[TrailFile]]]:
    """For each day that is worth it, the groups of files that become one file each."""
    days: dict[tuple[str, str], list[TrailFile]] = {}
    for path, file in view.files.items():
        if path in view.sealed:
            days.setdefault((file.source, file.day), []).append(view.sealed[path])
        elif path not in view.pending:
            report.refused.append(f"{view.difference(path)} It was left alone.")
    for (_, day), files in sorted(days.items()):
        if day >= today and len(files) <= sizes.files:
            continue
        small = [file for file in files if file.rows < sizes.rows // 2 and file.size < sizes.bytes // 2]
        groups = [group for group in _groups(small, sizes) if len(group) > 1]
        wrong = [sentence for group in groups for file in group if (sentence := view.difference(file.path)) is not None]
        if wrong:
            report.refused += wrong
        elif groups:
            yield groups


def _groups(files: Sequence[TrailFile], sizes: Sizes) -> Iterator[list[TrailFile]]:
    group: list[TrailFile] = []
    rows = size = 0
    for file in sorted(files, key=lambda file: (file.first or 0, file.path)):
        if group and (rows + file.rows > sizes.rows or size + file.size > sizes.bytes):
            yield group
            group, rows, size = [], 0, 0
        group.append(file)
        rows, size = rows + file.rows, size + file.size
    if group:
        yield group


def _compact_day(upkeep: Upkeep, groups: list[list[TrailFile]]) -> None:
    attempt = new_attempt()
    with Rewriting(upkeep.trail, attempt) as rewriting:
        written = [_merge(upkeep, rewriting, group) for group in groups]
        change = Change(why="compacted", files=written, removed=[file for group in groups for file in group])
        rewriting.keep()
        upkeep.put(change, attempt)


def _merge(upkeep: Upkeep, rewriting: Rewriting, group: list[TrailFile]) -> TrailFile:
    keys: list[Keys] = []
    try:
        with Merging() as merging:
            for file in group:
                keys += _take_in(upkeep, file, merging)
            part = rewriting.begin(group[0].source, group[0].day)
            for table in _row_groups(merging.merged()):
                part.write(table)
            return rewriting.finish(part, group[0].source, keys)
    except OSError as error:
        raise StoreError(
            f"The files of {group[0].source} on {group[0].day} cannot be merged ({error}). Nothing was done: make room in the trail's "
            "storage and in TMPDIR, or mend the connection."
        ) from error


def _take_in(upkeep: Upkeep, file: TrailFile, merging: Merging) -> list[Keys]:
    """The rows of one file, as it was sealed. Returns their keys."""
    keys: list[Keys] = []
    with verified_copy(upkeep.trail, file) as opened:
        for table in tables_of(opened):
            keys.append(key_numbers(table.column("key")))
            merging.add(table)
    rows = sum(map(len, keys))
    if rows != file.rows:
        raise NotAsSealedError(f"The file {file.path} was sealed with {file.rows:,} rows and has {rows:,}. It was left alone.")
    return keys


def tables_of(opened: object, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The rows of a file of the trail, a row group at once: these are bounded in rows and bytes when they are written."""
    file = pq.ParquetFile(opened)
    for number in range(file.num_row_groups):
        yield file.read_row_group(number, columns=None if columns is None else list(columns))


def _row_groups(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    waiting: list[pa.Table] = []
    rows = size = 0
    for table in tables:
        waiting.append(table)
        rows, size = rows + table.num_rows, size + table.nbytes
        if rows >= _ROW_GROUP_ROWS or size >= _ROW_GROUP_BYTES:
            yield pa.concat_tables(waiting)
            waiting, rows, size = [], 0, 0
    if waiting:
        yield pa.concat_tables(waiting)
