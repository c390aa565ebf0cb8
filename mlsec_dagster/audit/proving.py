"""CloudTrail's digest files, verified as they come, so that a log file that is missing, altered or planted is a finding.

    keys = PublicKeys()                                   # kept between ticks
    proof = prove(database, source, keys, Budget(seconds=10))
    watermark(uri, ingestion.state(), now).proven_to      # up to when every chain is whole

A digest file is verified once for each version of it: its signature, that it follows the one before it, and each log file that it names.
One transaction then writes down its position, where its chain stands, which log files it names, and what was found. So nobody who stops
in the middle passes one over, and of two at once one gives way. What was found stays until somebody has looked: see `findings`.

Where keys cannot be had, nothing is found and nothing is proven; the clause that says so is `LocationState.unproven`. The proof
begins with the window of the first tick, not with the trail.
"""

import re
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import msgspec

from mlsec_dagster.audit.digest_files import DigestFile, DigestFinding, chain_of, check_signature, parse, unreadable
from mlsec_dagster.audit.digest_links import behind, follows
from mlsec_dagster.audit.digest_logs import CheckedLogs, Covered, check_logs, region_folder
from mlsec_dagster.audit.findings import silence, with_findings
from mlsec_dagster.audit.layouts import CloudTrailLayout
from mlsec_dagster.audit.log_source import LogSource
from mlsec_dagster.audit.objects import LogObject
from mlsec_dagster.audit.places.failures import printable
from mlsec_dagster.audit.public_keys import KeysUnavailableError, PublicKeys
from mlsec_dagster.audit.state import LocationState
from mlsec_dagster.audit.times import since_epoch
from mlsec_dagster.audit.windows import first_day
from mlsec_dagster.errors import ConfigurationError, StoreError, UnverifiableError
from mlsec_dagster.storage import log_digests, log_positions
from mlsec_dagster.storage.log_digests import Chain
from mlsec_dagster.storage.log_positions import Position

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from mlsec_dagster.audit.ticks import Budget
    from mlsec_dagster.storage.database import Database

NOT_SWITCHED_ON: Final = (
    "whether log files were deleted, altered or planted: there are no digest files. Switch log file validation on (aws cloudtrail "
    "update-trail --name … --enable-log-file-validation), and let the prefix hold CloudTrail-Digest/ too"
)
COPIES: Final = (
    "whether log files were deleted, altered or planted: digest files in a directory are not verified, for their signatures are metadata "
    "that no disk keeps. Read the bucket itself"
)

_DAY: Final = timedelta(days=1) // timedelta(microseconds=1)
_GRACE: Final = timedelta(hours=1) // timedelta(microseconds=1)
"""A digest file that is named and not there may be on its way for so long, by the time that its follower was signed with."""

_HOLD_SECONDS: Final = 120.0
_EXPECTED_DAYS: Final = 7
"""The window reaches back to where each chain stands, unless nothing has come of it for so long though it was looked for."""

_SHOWN: Final = 10
_TIME: Final = re.compile(r"_(\d{8}T\d{6}Z)(?:_backfill)?\.json\.gz$")


@dataclass(slots=True)
class Proof:
    """What one tick did.

    Attributes:
        held_elsewhere: Somebody else is at it, and nothing or less was done.
        verified: Digest files that were verified.
        findings: What was found.
        read: Log files that were read for it, because nobody had hashed them before.
        waiting: Digest files that are still to be verified.
        stopped: Chains that could not be gone on with, and why, a clause each; an empty one where there is nothing to do but wait.
    """

    held_elsewhere: bool = False
    verified: int = 0
    findings: list[DigestFinding] = field(default_factory=list[DigestFinding])
    read: int = 0
    waiting: int = 0
    stopped: dict[str, str] = field(default_factory=dict[str, str])


class _OvertakenError(Exception):
    """Somebody else has verified this meanwhile."""


class _WaitError(Exception):
    """The digest file before this one may still come."""


def prove(database: "Database", source: LogSource, keys: PublicKeys, budget: "Budget", *, now: int | None = None) -> Proof:
    """Verify the digest files of a CloudTrail location that were not verified yet, and write down what was found.

    Args:
        database: Where positions are.
        source: The location.
        keys: CloudTrail's public keys.
        budget: Time for it.
        now: Microseconds since the epoch; for tests.

    Raises:
        ConfigurationError: It is no CloudTrail.
        StoreError: The database cannot be used. What cannot be read of the place is told in the location's state.
    """
    if not isinstance(source.layout, CloudTrailLayout):
        raise ConfigurationError(f"Only CloudTrail has digest files; {source.place.uri} is read as {source.source}.")
    proof, holder = Proof(), uuid4().hex
    with database.write() as connection:
        location = log_positions.location_id(connection, source.place.uri)
        if not log_positions.take(connection, location, holder, _HOLD_SECONDS):
            proof.held_elsewhere = True
            return proof
    try:
        _Proving(database, source, source.layout, keys, budget, location, now or time.time_ns() // 1000, proof).run()
    except _OvertakenError:
        proof.held_elsewhere = True
    finally:
        with database.write() as connection:
            log_positions.give_back(connection, location, holder)
    return proof


class _Proving:
    """One tick at one location."""

    def __init__(
        self,
        database: "Database",
        source: LogSource,
        layout: CloudTrailLayout,
        keys: PublicKeys,
        budget: "Budget",
        location: int,
        now: int,
        proof: Proof,
    ) -> None:
        self.database = database
        self.source = source
        self.layout = layout
        self.place = source.place
        self.keys = keys
        self.budget = budget
        self.location = location
        self.now = now
        self.proof = proof
        self.bucket, _, self.prefix = self.place.uri.removeprefix("s3://").partition("/")
        with database.read() as connection:
            self.state = LocationState.read(log_positions.read_state(connection, location))
            self.chains = log_digests.all_chains(connection, location)
        self.first, self.reference = self._window()
        self.known: dict[str, Position] = {}

    def run(self) -> None:
        signed = self.place.uri.startswith("s3://")
        try:
            listed = self._listed()
        except StoreError as error:
            self._finish([f"whether log files were deleted, altered or planted: digest files cannot be listed ({error})"], done=False)
            return
        if not signed or (not listed and not self.chains):
            self._finish([COPIES if listed else NOT_SWITCHED_ON], done=True)
            return
        self._tell_gone({found.key for found in listed})
        with self.database.read() as connection:
            self.known = log_positions.positions_of(connection, self.location, [found.key for found in listed])
        fresh: defaultdict[str, list[LogObject]] = defaultdict(list)
        for found in listed:
            position = self.known.get(found.key)
            if position is None or (position.version, position.size) != (found.version, found.size):
                fresh[chain_of(self.prefix + found.key)].append(found)
        # Whichever is the farthest behind goes first.
        for name in sorted(fresh, key=lambda name: (self.chains[name].end if name in self.chains else 0, name)):
            self._go_on(name, sorted(fresh[name], key=lambda found: (_named_time(found.key), found.key)))
        self._tell_unnamed()
        reasons = [*dict.fromkeys(filter(None, self.proof.stopped.values()))]
        more = [f"and {len(reasons) - _SHOWN} more reasons"] if len(reasons) > _SHOWN else []
        self._finish([*reasons[:_SHOWN], *more], done=not self.budget.spent, digests=True)

    # --- what there is

    def _window(self) -> tuple[date, int]:
        """First day of the window, and the time that it is before."""
        oldest = (self.state.verified_at or 0) - _EXPECTED_DAYS * _DAY
        ends = [chain.end for chain in self.chains.values() if chain.end > oldest]
        reference = min((self.now, *filter(None, (self.state.newest_object,)), *ends))
        return first_day(reference, self.source.window_days), reference

    def _listed(self) -> list[LogObject]:
        prefixes = self.layout.digest_window(self.place, self.reference, self.source.window_days)
        return [found for prefix in prefixes for found in self.place.list(prefix) if self.layout.is_digest(found.key)]

    def _tell_gone(self, listed: set[str]) -> None:
        """The last digest file of a chain is not followed by any that would name it, so it is looked for."""
        for name, chain in [*self.chains.items()]:
            expected = chain.end >= self._first_moment and self.layout.is_digest(chain.object)
            if chain.object not in listed and expected and not chain.gone:
                sentence = "The digest file that was verified last is not there any more: it was deleted, and maybe those behind it."
                finding = DigestFinding("missing", self.bucket, self.prefix + chain.object, sentence)
                with self.database.write() as connection:
                    self._replace(connection, chain, chain._replace(gone=True, broken=True))
                    self._add(connection, [finding])
                self.chains[name] = chain._replace(gone=True, broken=True)
                self.proof.findings.append(finding)

    @property
    def _first_moment(self) -> int:
        return since_epoch(datetime(self.first.year, self.first.month, self.first.day, tzinfo=UTC))

    # --- one chain

    def _go_on(self, name: str, waiting: list[LogObject]) -> None:
        """Verify what has come of a chain, in its order, as far as it can be."""
        for index, found in enumerate(waiting):
            reason = "" if not self.budget.spent else None
            try:
                if reason is not None and self._verify(found):
                    continue
            except KeysUnavailableError as error:
                reason = str(error)
            except _WaitError:
                pass
            except StoreError as error:
                reason = f"digest files of {printable(name)} are not verified: {error}"
            self.proof.waiting += len(waiting) - index
            self.proof.stopped[name] = reason or ""
            return

    def _verify(self, found: LogObject) -> bool:
        """Verify one digest file and write down what came of it. Returns whether the budget has sufficed."""
        key = self.prefix + found.key
        before = self.known.get(found.key)
        metadata = self.place.metadata(found)
        try:
            digest = parse(self.place.read(found), metadata)
        except UnverifiableError as error:
            self._write(found, None, [unreadable(self.bucket, key, error)])
            return True
        wrong = self._wrong(digest, key)
        if not wrong and before is not None and before.content not in {None, digest.sha256}:
            sentence = "This is another digest file than the one that was verified under this name, though it is signed too."
            wrong = [DigestFinding("altered", self.bucket, key, sentence)]
        if wrong:
            self._write(found, None, wrong)
            return True
        chain = self.chains.get(digest.chain)
        here = digest.previous_bucket == self.bucket and (digest.previous_key or "").startswith(self.prefix)
        previous = self.known.get((digest.previous_key or "")[len(self.prefix) :]) if here else None
        findings, whole = follows(digest, chain, previous, prefix=self.prefix, since=self._first_moment)
        if any(finding.kind == "missing" for finding in findings) and self.now - digest.end < _GRACE:
            raise _WaitError
        checked = check_logs(digest, self.place, self.bucket, self.prefix, self._positions, lambda: self.budget.spent)
        self.proof.read += checked.read
        if not checked.whole:
            with self.database.write() as connection:
                log_digests.record_contents(connection, self.location, checked.contents)
            return False
        after = behind(chain, digest, found.key, whole=whole and not findings and not checked.findings)
        self._write(found, digest, [*findings, *checked.findings], chain=(chain, after), checked=checked)
        self.proof.verified += 1
        return True

    def _wrong(self, digest: DigestFile, key: str) -> list[DigestFinding]:
        """What is wrong with its place and its signature. Keys are asked for only where they can decide it."""
        wrong = [*check_signature(digest, self.keys.known, bucket=self.bucket, key=key)]
        if (digest.bucket, digest.key) != (self.bucket, key):
            return wrong[:1]
        if wrong and digest.signature is not None and digest.fingerprint not in self.keys.known:
            region = region_folder(key).split("/")[-2]
            self.keys.find(digest.fingerprint, region=region, start=digest.start, end=digest.end)
            return [*check_signature(digest, self.keys.known, bucket=self.bucket, key=key)]
        return wrong

    def _positions(self, keys: list[str]) -> dict[str, Position]:
        with self.database.read() as connection:
            return log_positions.positions_of(connection, self.location, keys)

    # --- writing it down

    def _write(
        self,
        found: LogObject,
        digest: DigestFile | None,
        findings: list[DigestFinding],
        *,
        chain: tuple[Chain | None, Chain] | None = None,
        checked: CheckedLogs | None = None,
    ) -> None:
        """All that one digest file has brought, or nothing."""
        position = _position(found, complete=True, content=None if digest is None else digest.sha256)
        with self.database.write() as connection:
            if log_positions.positions_of(connection, self.location, [found.key]).get(found.key) != self.known.get(found.key):
                raise _OvertakenError
            if chain is not None:
                self._replace(connection, *chain)
            new = [position]
            if checked is not None:
                # Those that nobody has read yet, and those that are missing, so that whoever puts one back plants none.
                named = [*checked.present, *(LogObject(each, log_positions.NEVER_SEEN, 0, 0) for each in checked.missing)]
                read = log_positions.positions_of(connection, self.location, [log.key for log in named])
                new += [_position(log, complete=False, content=None) for log in named if log.key not in read]
            log_positions.record_positions(connection, self.location, new)
            if checked is not None:
                log_digests.record_contents(connection, self.location, checked.contents)
                log_digests.name_objects(connection, self.location, [*checked.missing, *(log.key for log in checked.present)])
            log_digests.name_objects(connection, self.location, [found.key])
            self._add(connection, findings)
        self.known[found.key] = position
        if chain is not None:
            self.chains[chain[1].chain] = chain[1]
        self.proof.findings += findings

    def _replace(self, connection: "Connection", before: Chain | None, after: Chain) -> None:
        if before != after and not log_digests.replace_chain(connection, self.location, before, after):
            raise _OvertakenError

    def _add(self, connection: "Connection", findings: Iterable[DigestFinding]) -> None:
        before = log_positions.read_state(connection, self.location)
        after = with_findings(LocationState.read(before), findings).written()
        if after != before:
            log_positions.write_state(connection, self.location, after)

    def _tell_unnamed(self) -> None:
        """Tell of log files that no digest file names, where those of their time were verified."""
        if not self.chains:
            return
        covered = Covered.by(self.chains.values(), self.now)
        stopped = {name.rpartition("/")[0].removeprefix(self.prefix) for name in self.proof.stopped}
        uncertain = {f"{folder}/".replace("CloudTrail-Digest/", "CloudTrail/") for folder in stopped}
        with self.database.read() as connection:
            strangers = [
                key
                for key, modified in log_digests.unnamed_objects(connection, self.location, *covered.span)
                if covered.should_be_named(key, modified) and region_folder(key) not in uncertain
            ]
        if not strangers:
            return
        sentence = (
            "No digest file names this log file, though those of its time were verified. CloudTrail did not deliver it, or for a trail "
            "whose log file validation is off."
        )
        findings = [DigestFinding("unverifiable", self.bucket, self.prefix + key, sentence) for key in strangers]
        with self.database.write() as connection:
            log_digests.name_objects(connection, self.location, strangers, named=False)
            self._add(connection, findings)
        self.proof.findings += findings

    def _finish(self, unproven: list[str], *, done: bool, digests: bool = False) -> None:
        """Write down how far every chain is proven, and what keeps it from being proven."""
        silent = [*filter(None, (silence(chain, self.now, self.proof.stopped.get(name)) for name, chain in self.chains.items()))]
        more = [f"silent: {len(silent) - _SHOWN} more chains of digest files."] if len(silent) > _SHOWN else []
        unknown = [name for name in self.proof.stopped if name not in self.chains]
        proven = min((chain.proven for chain in self.chains.values()), default=None)
        with self.database.write() as connection:
            before = log_positions.read_state(connection, self.location)
            state = LocationState.read(before)
            after = msgspec.structs.replace(
                state,
                source=self.source.source,
                proven_to=None if unknown else proven,
                silent=[*silent[:_SHOWN], *more],
                unproven=unproven,
                digests=digests or state.digests,
                proved_at=self.now if done else state.proved_at,
                verified_at=self.now if done and not self.proof.stopped else state.verified_at,
            ).written()
            if after != before:
                log_positions.write_state(connection, self.location, after)


def _named_time(key: str) -> str:
    match = _TIME.search(key)
    return match[1] if match else ""


def _position(found: LogObject, *, complete: bool, content: str | None) -> Position:
    consumed = found.size if complete else 0
    return Position(found.key, found.version, found.size, found.modified, consumed, 0, complete, content=content, origin=found.origin)
