"""What is wrong with a log, until somebody has looked at it: what verifying digest files has found, and objects that are gone or rewritten.

    for sentence in watermark.problems: print(sentence)
    acknowledge(database, "s3://org-trail/", watermark.problems)

A finding stays when the window has moved on, when the file is put back, and over restarts. Of each kind only the first are kept and the
others counted, so that whoever plants a thousand files hides no deleted one behind them.
"""

import time
from collections.abc import Collection, Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import msgspec

from mlsec_dagster.audit.completeness import about_objects
from mlsec_dagster.audit.digest_files import DigestFinding
from mlsec_dagster.audit.places.failures import printable
from mlsec_dagster.audit.state import LocationState
from mlsec_dagster.audit.times import rfc3339
from mlsec_dagster.errors import ConfigurationError
from mlsec_dagster.storage import log_digests, log_positions
from mlsec_dagster.storage.log_digests import Chain

if TYPE_CHECKING:
    from mlsec_dagster.storage.database import Database

SILENT: Final = timedelta(hours=3)
"""Digest files come every hour even if nothing has happened. A chain of which none came for so long is told."""

_KEPT: Final = 10
_NAME_CHARACTERS: Final = 400


def sentence(finding: DigestFinding) -> str:
    """A finding as it is told: its kind, where, and what it may mean."""
    where = printable(f"s3://{finding.bucket}/{finding.key}")[:_NAME_CHARACTERS]
    return f"{finding.kind}: {where}: {printable(finding.sentence)}"


def with_findings(state: LocationState, found: Iterable[DigestFinding]) -> LocationState:
    """The state with these findings, each once: the first of each kind as sentences, the others counted."""
    kept, more = [*state.findings], dict(state.more_findings)
    for finding in found:
        told = sentence(finding)
        if told in kept:
            continue
        if sum(each.startswith(f"{finding.kind}: ") for each in kept) < _KEPT:
            kept.append(told)
        else:
            more[finding.kind] = more.get(finding.kind, 0) + 1
    return msgspec.structs.replace(state, findings=kept, more_findings=more)


def silence(chain: Chain, now: int, stopped: str | None = None) -> str | None:
    """What to say of a chain that was verified and goes on no more; None if it does, or is backfill, which comes when it is needed.

    Args:
        chain: Where it stands.
        now: Microseconds since the epoch.
        stopped: Why digest files that are there are not verified; None if there are none.
    """
    if chain.chain.endswith("_backfill") or chain.end > now - SILENT // timedelta(microseconds=1):
        return None
    name, since = printable(chain.chain)[:_NAME_CHARACTERS], rfc3339(chain.end)[:19]
    if stopped is not None:
        return f"silent: {name}: Digest files are verified up to {since}Z only, and those behind wait{f': {stopped}' if stopped else ''}."
    return (
        f"silent: {name}: Digest files come every hour even if nothing happens; the last one ends at {since}Z. They were deleted, or the "
        "trail or its log file validation was switched off."
    )


def acknowledge(database: "Database", uri: str, seen: Collection[str]) -> list[str]:
    """Take findings off a location's state once somebody has looked at them; what was not seen stays.

    A log object that is missing and was seen to be is not expected any more: should it come back, it is read again.

    When no finding of digest files is left, chains that they were about count as proven again from their last digest file on. A chain that
    is silent, and was seen to be, is not expected any more.

    Args:
        database: Where positions are.
        uri: Of the location.
        seen: Sentences as `Watermark.problems` has them.

    Returns:
        What was taken off.

    Raises:
        ConfigurationError: Nothing was ever read there.
        StoreError: The database cannot be written.
    """
    now = time.time_ns() // 1000
    with database.write() as connection:
        known = log_positions.known_location(connection, uri)
        if known is None:
            raise ConfigurationError(f"No log was ever read at {uri}. Name a location as the audit trail's check shows it.")
        location, state = known[0], LocationState.read(known[1])
        objects = {name: told for name, told in about_objects(state).items() if told in seen}
        gone = [*objects.values(), *(each for each in (*state.findings, *state.silent) if each in seen)]
        if "missing" in objects:
            log_positions.forget_objects(connection, location, state.missing)
        state = msgspec.structs.replace(state, **{name: list[str]() for name in objects})
        left = [each for each in state.findings if each not in seen]
        chains = log_digests.all_chains(connection, location)
        for chain in chains.values():
            if silence(chain, now) in seen:
                log_digests.forget_chain(connection, location, chain.chain)
            elif chain.broken and not left:
                log_digests.replace_chain(connection, location, chain, chain._replace(proven=chain.end, broken=False))
        after = msgspec.structs.replace(
            state,
            findings=left,
            more_findings=state.more_findings if left else {},
            silent=[each for each in state.silent if each not in seen],
        )
        log_positions.write_state(connection, location, after.written())
    return gone
