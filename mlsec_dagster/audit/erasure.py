"""Erasure: a person's rows lose everything that tells of the person, and stay as rows.

    found = find(upkeep, person)                          # how many, which days, does a hold stop it?
    erased = erase(upkeep, person, reason="DSR-2026-118") # a reference; never the name

Of an erased row there remain its log and day, `time`, `key`, `log_object` and `ingested`, and `kind` is "erased": so a delivery that comes
again is still known, and counts stay right. All else is null, the identity (`id`) too. The key is a hash over identity, time, operation and
principal: with the identity in the row anybody could test a guess of the principal against it, and without it nobody can who does not have
the log's own record, in which it stands anyway. (A log whose identities can be guessed, as the hash of a line that somebody knows all of,
still lets such guesses be tested. Pseudonyms end that: their keys are keyed.)

The files without the rows are put into the table in one commit, and that is sealed: the ledger says when, which files and on whose
reference, and knows no person. Then the old files are deleted at once, without grace: those that the table's older versions refer to, of
earlier compactions too. Queries that have them open fail, and older versions of the table cannot be read any more; that is meant.
"""

# pyarrow brings no types of its own and makes its compute functions when it is imported, so a type checker does not know them.
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlsec_dagster.audit.compaction import tables_of
from mlsec_dagster.audit.files import TrailFile
from mlsec_dagster.audit.known import Keys, key_numbers
from mlsec_dagster.audit.persons import COLUMNS, Person
from mlsec_dagster.audit.rewriting import Rewriting
from mlsec_dagster.audit.rows import FILE_SCHEMA
from mlsec_dagster.audit.upkeep import Change, Upkeep, View, new_attempt
from mlsec_dagster.audit.verified import verified_copy
from mlsec_dagster.errors import ConfigurationError, StoreError, VerificationError

KEPT: Final = ("kind", "key", "time", "log_object", "ingested")
"""Columns of an erased row that are not null."""

_PASSES: Final = 10


@dataclass(slots=True)
class Found:
    """A person's rows.

    Attributes:
        own: The person's accesses.
        quarantined: Records that could not be read and have the person in their text.
        mentions: Others' accesses that have the person in some text, or in the name of their log object.
        days: How many are to be erased, by source and day.
        holds: What stops it: sentences.
        left_behind: Files that were taken out of the trail before and still lie in the storage: an erasure deletes them, whosever rows
            they have.
    """

    own: int = 0
    quarantined: int = 0
    mentions: int = 0
    days: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    holds: list[str] = field(default_factory=list[str])
    left_behind: int = 0

    @property
    def rows(self) -> int:
        """How many are to be erased."""
        return sum(self.days.values())


@dataclass(slots=True)
class Erased:
    """What an erasure did.

    Attributes:
        found: What there was.
        commits: Commits to the table: one, unless rows came in meanwhile.
        deleted: Files that were deleted from the storage.
        orphans: Files in the storage that are no part of the table and that nobody took out of it: left by processes that were killed, or
            being written. `vacuum` deletes them after its grace; until then they may hold rows of the person.
        kept: Files that were taken out of the table before and stay because of a hold.
    """

    found: Found = field(default_factory=Found)
    commits: int = 0
    deleted: int = 0
    orphans: int = 0
    kept: int = 0


Progress = Callable[[str, int, int], None]


def find(upkeep: Upkeep, person: Person, *, mentions: bool = False, progress: Progress | None = None) -> Found:
    """Say what an erasure would do. Every row is looked at, and every file is held against its seal.

    Args:
        upkeep: Of the trail.
        person: Who.
        mentions: Whether others' accesses that have the person in some text are to be erased too.
        progress: Called with what, files done, files in total.

    Raises:
        VerificationError: A file, or the table as a whole, is not what was sealed.
        StoreError: A store cannot be reached.
    """
    with upkeep.turn():
        view = upkeep.look()
        _require_sealed(view)
        found = _search(upkeep, view, list(view.sealed.values()), person, mentions, progress)[0]
        found.left_behind = len(upkeep.left_behind(view))
        return found


def erase(upkeep: Upkeep, person: Person, *, reason: str, mentions: bool = False, progress: Progress | None = None) -> Erased:
    """Erase a person's rows, in one commit, and delete the files that held them.

    Args:
        upkeep: Of the trail.
        person: Who.
        reason: A reference for the ledger, as of the request; it is kept for ever and must not name the person.
        mentions: Whether others' accesses that have the person in some text are erased too.
        progress: Called with what, files done, files in total.

    Raises:
        ConfigurationError: The reason is empty or names the person.
        VerificationError: A file, or the table as a whole, is not what was sealed, or a legal hold covers some of it. Nothing was erased.
        TrailConflictError: Somebody else took out some of the files meanwhile. Nothing was erased.
        StoreError: A store cannot be reached or written; if the commit happened, the next turn of the upkeep finishes it.
    """
    if not reason.strip():
        raise ConfigurationError("Give a reference for the erasure, such as the number of the request: the ledger keeps it.")
    if person.in_text(reason):
        raise ConfigurationError("The reference names the person, and the ledger would keep that for ever. Give a number instead.")
    report, searched = Erased(), set[str]()
    with upkeep.turn():
        before = {path for path, _, _ in upkeep.trail.storage.listed()}
        for _ in range(_PASSES):
            view = upkeep.look()
            _require_sealed(view)
            new = [file for path, file in view.sealed.items() if path not in searched]
            if not new:
                break
            upkeep.renew()
            found, files = _search(upkeep, view, new, person, mentions, progress)
            if found.holds:
                raise VerificationError(f"{found.holds[0]} Nothing was erased{' of what came in meanwhile' if report.commits else ''}.")
            _add(report.found, found)
            searched |= {file.path for file in new}
            if files:
                searched |= {file.path for file in _rewrite(upkeep, files, person, reason, mentions, progress)}
                report.commits += 1
        else:
            raise StoreError("New rows come in faster than they can be searched. What was found is erased; run it again.")
        # Those of expiries and compactions before may hold rows of the person too.
        upkeep.destroy_removed()
        view = upkeep.look()
        left = {path for path, _, _ in upkeep.trail.storage.listed()}
        report.deleted = len(before - left)
        outside = left - view.files.keys() - view.pending
        report.kept = sum(path in view.removed for path in outside)
        report.orphans = sum(path not in view.removed and path not in view.sealed for path in outside)
    return report


def _require_sealed(view: View) -> None:
    for path in view.files:
        if path in view.pending:
            raise StoreError(f"The file {path} is being put into the trail or taken out just now. Nothing was erased; run it again.")
        if (sentence := view.difference(path)) is not None:
            raise VerificationError(f"{sentence} It cannot be told whose rows it has; see `mlsec verify`. Nothing was erased.")
    missing = view.sealed.keys() - view.files.keys()
    if missing:
        raise VerificationError(f"The file {min(missing)} was taken out of the trail, and no statement says why. Nothing was erased.")


def _search(
    upkeep: Upkeep, view: View, files: list[TrailFile], person: Person, mentions: bool, progress: Progress | None
) -> tuple[Found, list[TrailFile]]:
    found, matching = Found(), list[TrailFile]()
    for done, file in enumerate(sorted(files, key=lambda file: file.path)):
        if progress is not None:
            progress("searching files:", done, len(files))
        count = 0
        with verified_copy(upkeep.trail, file) as opened:
            for table in tables_of(opened, COLUMNS):
                matches = person.matches(table)
                others = pc.or_(matches.mentions, matches.elsewhere)
                own, raw, mentioned = (int(pc.sum(mask).as_py() or 0) for mask in (matches.own, matches.quarantined, others))
                found.own, found.quarantined, found.mentions = found.own + own, found.quarantined + raw, found.mentions + mentioned
                count += own + raw + (mentioned if mentions else 0)
        if count:
            matching.append(file)
            place = (file.source, file.day)
            found.days[place] = found.days.get(place, 0) + count
            if (hold := view.held(*place)) is not None:
                found.holds.append(f"{count:,} rows of {file.source} on {file.day} are under the legal hold {hold.name}.")
    return found, matching


def _rewrite(
    upkeep: Upkeep, files: list[TrailFile], person: Person, reason: str, mentions: bool, progress: Progress | None
) -> list[TrailFile]:
    attempt = new_attempt()
    with Rewriting(upkeep.trail, attempt) as rewriting:
        written: list[TrailFile] = []
        for done, file in enumerate(files):
            if progress is not None:
                progress("rewriting files:", done, len(files))
            keys: list[Keys] = []
            part = rewriting.begin(file.source, file.day)
            try:
                with verified_copy(upkeep.trail, file) as opened:
                    for table in tables_of(opened):
                        keys.append(key_numbers(table.column("key")))
                        part.write(_without(table, person, mentions))
            except OSError as error:
                raise StoreError(f"The trail's file {part.path} cannot be written ({error}). Nothing was erased; make room.") from error
            written.append(rewriting.finish(part, file.source, keys))
        change = Change(why="erased", files=written, removed=files, reason=reason)
        rewriting.keep()
        upkeep.put(change, attempt)
    return written


def _without(table: pa.Table, person: Person, mentions: bool) -> pa.Table:
    matches = person.matches(table)
    mask: Any = pc.or_(matches.own, matches.quarantined)
    mask = pc.or_(mask, matches.mentions) if mentions else mask
    # Of a row that only lies in a log object of the person's name nothing else tells of the person.
    unplaced = pc.or_(pc.and_(mask, matches.placed), pc.and_(matches.elsewhere, mentions))
    if not np.any(pc.or_(mask, unplaced).to_numpy()):
        return table
    columns: list[Any] = []
    for member in FILE_SCHEMA:
        column = table.column(member.name)
        if member.name == "kind":
            column = pc.if_else(mask, "erased", column)
        elif member.name == "log_object":
            column = pc.if_else(unplaced, pa.scalar(None, member.type), column)
        elif member.name not in KEPT:
            column = pc.if_else(mask, pa.scalar(None, member.type), column)
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=FILE_SCHEMA)


def _add(total: Found, more: Found) -> None:
    total.own += more.own
    total.quarantined += more.quarantined
    total.mentions += more.mentions
    for place, count in more.days.items():
        total.days[place] = total.days.get(place, 0) + count
