"""What differs between two manifests, where, and what kind of change that is."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mlsec_dagster.integrity.files import FileEntry
from mlsec_dagster.integrity.tables import Column, TableGrid

Kind = Literal["identical", "append", "rewrite", "schema", "insertion", "deletion", "truncation", "files", "reorder?"]


@dataclass(frozen=True, slots=True)
class FileChange:
    """A file that was added, removed or changed; `before` and `after` are its entries, None where there is none."""

    path: str
    kind: Literal["added", "removed", "changed"]
    before: FileEntry | None = None
    after: FileEntry | None = None


@dataclass(frozen=True, slots=True)
class BlockChange:
    """One column's values in one row block that differ; rows are numbered from 0, both ends included.

    `column` is "" for whole rows of a table without columns. Added and changed blocks are numbered as in the later table, removed ones
    as in the earlier.
    """

    column: str
    block: int
    first_row: int
    last_row: int
    kind: Literal["added", "removed", "changed"]


@dataclass(frozen=True, slots=True)
class Difference:
    """How a later manifest differs from an earlier one; true if it does.

    Attributes:
        kind: "identical"; "append", all earlier rows proved unchanged and rows added at the end; "rewrite", values changed in place;
            "schema", other columns; "insertion", "deletion", rows added or removed somewhere from a block on (everything behind them
            has moved, so it cannot be said whether values changed too); "truncation", rows removed at the end; "files", only the files
            are known, or differ although the table does not; "reorder?", the same blocks in another order, which is only a hint.
        sentence: The change in one sentence.
        files: The files that changed.
        blocks: The column blocks that changed.
        is_append: Whether every earlier row (for files: every earlier file) is proved unchanged and something was added behind.
    """

    kind: Kind
    sentence: str
    files: tuple[FileChange, ...] = ()
    blocks: tuple[BlockChange, ...] = ()
    is_append: bool = False

    def __bool__(self) -> bool:
        return self.kind != "identical"


def compare_files(before: Sequence[FileEntry], after: Sequence[FileEntry]) -> tuple[FileChange, ...]:
    """Returns the files that differ in size or digest, by path."""
    old: Mapping[str, FileEntry] = {entry.path: entry for entry in before}
    new: Mapping[str, FileEntry] = {entry.path: entry for entry in after}
    changes: list[FileChange] = []
    for path in sorted({*old, *new}):
        ours, theirs = old.get(path), new.get(path)
        if ours is None:
            changes.append(FileChange(path, "added", None, theirs))
        elif theirs is None:
            changes.append(FileChange(path, "removed", ours, None))
        elif (ours.size, ours.digest) != (theirs.size, theirs.digest):
            changes.append(FileChange(path, "changed", ours, theirs))
    return tuple(changes)


def describe_files(changes: Sequence[FileChange]) -> str:
    """Returns the file changes in one sentence."""
    parts: list[str] = []
    for kind in ("changed", "added", "removed"):
        paths = [change.path or "the file" for change in changes if change.kind == kind]
        if paths:
            parts.append(f"{_some(paths)} {kind}")
    return "; ".join(parts) if parts else "all files are the same"


def compare_tables(before: TableGrid, after: TableGrid) -> Difference:
    """Compares two grids; where one ended within a block, exactly if the later was made with `previous=` the earlier."""
    if before.columns != after.columns:
        return Difference("schema", _schema_sentence(before.columns, after.columns), blocks=_common_changes(before, after))
    same = _leading_blocks(before, after)
    if same == len(before.block_rows) == len(after.block_rows):
        return Difference("identical", f"all {after.rows:,} rows are the same")
    blocks = _block_changes(before, after)
    added = after.rows - before.rows
    if _appended(before, after, same):
        new = tuple(
            BlockChange(change.column, change.block, max(change.first_row, before.rows), change.last_row, "added") for change in blocks
        )
        return Difference("append", f"{added:,} rows appended to {before.rows:,}, which are unchanged", blocks=new, is_append=True)
    return _classified(before, after, same, blocks)


def _classified(before: TableGrid, after: TableGrid, same: int, blocks: tuple[BlockChange, ...]) -> Difference:
    first = sum(before.block_rows[:same])
    where = _where(blocks)
    if after.block_rows == before.block_rows:
        if _rows_as_blocks(before) == _rows_as_blocks(after):
            return Difference("reorder?", f"the row blocks are the same but in another order, from row {first:,} on", blocks=blocks)
        return Difference("rewrite", f"values changed in place: {where}", blocks=blocks)
    if after.rows == before.rows:
        return Difference("rewrite", f"values changed, and with them the block boundaries: {where}", blocks=blocks)
    count, unit = abs(after.rows - before.rows), f"block {same} (row {first:,})"
    moved = not _stayed(before, after, same)
    if after.rows > before.rows:
        if after.prefix is None and same == len(before.block_rows) - 1 and after.block_rows[same] > before.block_rows[same]:
            unsure = f"whether the last {before.rows - first:,} earlier rows changed shows only a grid made with previous="
            return Difference("insertion", f"{count:,} rows more; {unsure}", blocks=blocks)
        if moved:
            what = f"inserted in or behind {unit}, or rows there changed and others appended; everything behind it differs"
            return Difference("insertion", f"{count:,} rows more: {what}", blocks=blocks)
        earlier = _where(_earlier_changes(before, after, blocks))
        return Difference("rewrite", f"{count:,} rows appended, and earlier values changed: {earlier}", blocks=blocks)
    if same >= len(after.block_rows) - 1:
        left = after.rows - first
        unsure = f", or removed and changed within the last {left:,} rows that are left" if left else ""
        return Difference("truncation", f"{count:,} rows removed at the end{unsure}", blocks=blocks)
    if moved:
        what = f"removed in or behind {unit}, or rows there changed and the last removed; everything behind it differs"
        return Difference("deletion", f"{count:,} rows fewer: {what}", blocks=blocks)
    return Difference("rewrite", f"{count:,} rows removed at the end, and earlier values changed: {where}", blocks=blocks)


def _earlier_changes(before: TableGrid, after: TableGrid, blocks: Sequence[BlockChange]) -> list[BlockChange]:
    """Leaves out what was only added, also in the block in which the earlier table ended."""
    last, first = len(before.block_rows) - 1, before.rows
    grown = {column.name for place, column in enumerate(before.columns) if _prefix_kept(before, after, place)}
    return [change for change in blocks if change.first_row < first and not (change.block == last and change.column in grown)]


def _leading_blocks(before: TableGrid, after: TableGrid) -> int:
    """Returns how many blocks are the same from the start."""
    count = 0
    for ours, theirs in zip(before.block_rows, after.block_rows, strict=False):
        if ours != theirs or any(old[count] != new[count] for old, new in zip(before.leaves, after.leaves, strict=True)):
            break
        count += 1
    return count


def _appended(before: TableGrid, after: TableGrid, same: int) -> bool:
    """Says whether there are more rows and all earlier ones are proved unchanged."""
    if after.rows <= before.rows:
        return False
    last = len(before.block_rows) - 1
    kept = same == last and all(_prefix_kept(before, after, place) for place in range(len(before.columns)))
    return same == last + 1 or kept


def _prefix_kept(before: TableGrid, after: TableGrid, column: int) -> bool:
    """Says whether the later grid's prefix proves a column's values in the earlier table's last block unchanged."""
    prefix = after.prefix
    return prefix is not None and prefix.rows == before.rows and prefix.leaves[column] == before.leaves[column][-1]


def _stayed(before: TableGrid, after: TableGrid, same: int) -> bool:
    """Says whether some values behind the first change are where they were, so that rows cannot have moved.

    A block that looks like another of its column (a constant, say) would look the same after moving too, so it says nothing.
    """
    last = len(before.block_rows) - 1
    for place, (old, new) in enumerate(zip(before.leaves, after.leaves, strict=True)):
        often = Counter(old)
        if len(set(old[:-1])) < 2:
            continue
        if any(old[block] == new[block] and often[old[block]] == 1 for block in range(same, min(last, len(new) - 1))):
            return True
        if _prefix_kept(before, after, place):
            return True
    return False


def _rows_as_blocks(grid: TableGrid) -> Counter[tuple[bytes, ...]]:
    return Counter(zip(*grid.leaves, strict=True))


def _block_changes(before: TableGrid, after: TableGrid) -> tuple[BlockChange, ...]:
    pairs = zip([column.name for column in before.columns], before.leaves, after.leaves, strict=True)
    return tuple(change for name, old, new in pairs for change in _column_changes(name, before, after, old, new)) or _bare_changes(
        before, after
    )


def _column_changes(name: str, before: TableGrid, after: TableGrid, old: Sequence[bytes], new: Sequence[bytes]) -> list[BlockChange]:
    changes: list[BlockChange] = []
    old_first = new_first = 0
    for block in range(max(len(old), len(new))):
        old_rows = before.block_rows[block] if block < len(old) else 0
        new_rows = after.block_rows[block] if block < len(new) else 0
        if block >= len(new):
            changes.append(BlockChange(name, block, old_first, old_first + old_rows - 1, "removed"))
        elif block >= len(old):
            changes.append(BlockChange(name, block, new_first, new_first + new_rows - 1, "added"))
        elif old[block] != new[block]:
            changes.append(BlockChange(name, block, new_first, new_first + new_rows - 1, "changed"))
        old_first, new_first = old_first + old_rows, new_first + new_rows
    return changes


def _bare_changes(before: TableGrid, after: TableGrid) -> tuple[BlockChange, ...]:
    if before.columns or before.rows == after.rows:
        return ()
    first, last = sorted((before.rows, after.rows))
    return (BlockChange("", 0, first, last - 1, "added" if after.rows > before.rows else "removed"),)


def _common_changes(before: TableGrid, after: TableGrid) -> tuple[BlockChange, ...]:
    old, new = dict(zip(before.columns, before.leaves, strict=True)), dict(zip(after.columns, after.leaves, strict=True))
    return tuple(
        change for column in old if column in new for change in _column_changes(column.name, before, after, old[column], new[column])
    )


def _where(blocks: Sequence[BlockChange]) -> str:
    columns = list(dict.fromkeys(repr(change.column) for change in blocks))
    numbers = sorted({change.block for change in blocks})
    if not blocks:
        return "no block"
    rows = f"rows {min(change.first_row for change in blocks):,} to {max(change.last_row for change in blocks):,}"
    named = f"{'columns' if len(columns) > 1 else 'column'} {_some(columns)}"
    where = f"block {numbers[0]}" if len(numbers) == 1 else f"{len(numbers):,} blocks from {numbers[0]} to {numbers[-1]}"
    return f"{named} in {where} ({rows})"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")


def _schema_sentence(before: Sequence[Column], after: Sequence[Column]) -> str:
    old, new = Counter(before), Counter(after)
    gone, come = list((old - new).elements()), list((new - old).elements())
    if not gone and not come:
        return "the columns are in another order"
    types = {column.name: column.type for column in gone}
    parts = [f"{column.name!r} was {types[column.name]} and is {column.type}" for column in come if column.name in types]
    names = {column.name for column in come} & set(types)
    parts += [f"{column.name!r} ({column.type}) was added" for column in come if column.name not in names]
    parts += [f"{column.name!r} ({column.type}) was removed" for column in gone if column.name not in names]
    return f"the columns differ: {'; '.join(parts[:5])}{f'; and {len(parts) - 5:,} more' if len(parts) > 5 else ''}"
