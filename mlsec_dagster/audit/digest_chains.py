"""Digest files of CloudTrail as chains: whether one is missing, and whether a log file is there that none of them names.

    findings = [*check_chain(digests, since=start, until=now), *check_unnamed(place.list(prefix), digests, bucket="org-trail")]

Give it digest files whose signatures were checked (`mlsec_dagster.audit.digest_files`); of others nothing is to be believed.
A chain of which nothing is left cannot be missed here: compare `DigestFile.chain` with the chains that were there before.

https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-log-file-validation-digest-file-structure.html
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from mlsec_dagster.audit.digest_files import DigestFile, DigestFinding
from mlsec_dagster.audit.objects import LogObject
from mlsec_dagster.audit.times import rfc3339, since_epoch

_HOUR: Final = 3_600_000_000
_LOG: Final = re.compile(r"(?:.*/)?\d{12}_CloudTrail_[^/]+_(?P<time>\d{8}T\d{4}Z)_[^/]+\.json\.gz")


def check_chain(digests: Iterable[DigestFile], *, since: int, until: int | None = None) -> Iterator[DigestFinding]:
    """Nothing if no digest file is missing between the first and the last of each chain, and each follows the one that it names.

    Args:
        digests: Digest files whose signatures were checked, of any number of chains, in any order.
        since: Microseconds since the epoch, UTC: what a digest file of an earlier start follows is not asked for.
        until: The same: each chain, but for backfill, must reach to two hours before it. None does not ask, and then digest files that are
            missing at the end are not seen.
    """
    chains: defaultdict[str, list[DigestFile]] = defaultdict(list)
    for digest in digests:
        chains[digest.chain].append(digest)
    for chain in chains.values():
        chain.sort(key=lambda digest: (digest.end, digest.key))
        yield from _links(chain, since)
        last = chain[-1]
        if until is not None and not last.key.endswith("_backfill.json.gz") and last.end < until - 2 * _HOUR:
            yield DigestFinding(
                "missing",
                last.bucket,
                last.key,
                f"This is the last digest file, and ends at {rfc3339(last.end)}; expected was one for every hour up to {rfc3339(until)}. "
                "They were deleted, or the trail or its validation was switched off.",
            )


def _links(chain: Sequence[DigestFile], since: int) -> Iterator[DigestFinding]:
    by_key = {(digest.bucket, digest.key): digest for digest in chain}
    followers: dict[tuple[str, str], DigestFile] = {}
    for digest in chain:
        if digest.previous_bucket is None or digest.previous_key is None:
            if digest is not chain[0]:
                yield DigestFinding(
                    "broken chain",
                    digest.bucket,
                    digest.key,
                    f"A new chain begins at {rfc3339(digest.start)}, though there are digest files of before. Validation was switched off "
                    "and on between them, or what lay between was removed; nothing proves which.",
                )
            continue
        named = (digest.previous_bucket, digest.previous_key)
        other = followers.setdefault(named, digest)
        if other is not digest:
            sentence = f"Both this digest file and {other.key} follow {digest.previous_key}. One of them is not of this chain."
            yield DigestFinding("broken chain", digest.bucket, digest.key, sentence)
        previous = by_key.get(named)
        if previous is not None:
            yield from _link(digest, previous)
        elif digest.start > since:
            sentence = f"There is no such digest file, though {digest.key} follows it. It was deleted, and nothing proves what it named."
            yield DigestFinding("missing", *named, sentence)


def _link(digest: DigestFile, previous: DigestFile) -> Iterator[DigestFinding]:
    if previous.sha256 != (digest.previous_sha256 or "").lower():
        sentence = f"The digest file has the SHA-256 {previous.sha256}; {digest.key}, which follows it, says {digest.previous_sha256}."
        yield DigestFinding("altered", previous.bucket, previous.key, sentence)
    elif (previous.signature or "").lower() != (digest.previous_signature or "").lower():
        sentence = f"This digest file names another signature for {previous.key} than that one has."
        yield DigestFinding("broken chain", digest.bucket, digest.key, sentence)
    elif previous.end > digest.end:
        sentence = f"This digest file ends at {rfc3339(digest.end)}, before {previous.key} does, which it follows."
        yield DigestFinding("broken chain", digest.bucket, digest.key, sentence)


def check_unnamed(logs: Iterable[LogObject], digests: Iterable[DigestFile], *, bucket: str, prefix: str = "") -> Iterator[DigestFinding]:
    """Log files within the time of the digest files that none of them names: whoever can write to the bucket can plant events.

    A log file's time is that in its name. Of the account and region of a file, the digest files must have been verified.

    Args:
        logs: Log files of CloudTrail.
        digests: Digest files whose signatures were checked, all that there are of a time without a gap.
        bucket: Where they lie.
        prefix: What precedes their keys there: the place's own prefix.
    """
    named: set[tuple[str, str]] = set()
    covered: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for digest in digests:
        named.update((log.bucket, log.key) for log in digest.logs)
        covered[_region(digest.key).replace("/CloudTrail-Digest/", "/CloudTrail/")].append((digest.start, digest.end))
    for log in logs:
        key = prefix + log.key
        match = _LOG.fullmatch(key)
        if match is None or (bucket, key) in named:
            continue
        delivered = since_epoch(datetime.strptime(match["time"], "%Y%m%dT%H%MZ").replace(tzinfo=UTC))
        # A name tells the minute; a file of the last minutes may be named by the digest file of the next hour.
        spans = covered.get(_region(key), ())
        if any(start <= delivered < end for start, end in spans) and delivered + _HOUR <= max(end for _, end in spans):
            yield DigestFinding(
                "unverifiable",
                bucket,
                key,
                "No digest file names this log file, though those of its time are there. CloudTrail did not deliver it, or a digest file "
                "that names it later (backfill) is still to come.",
            )


def _region(key: str) -> str:
    """The folder of a region."""
    return "/".join(key.split("/")[:-4]) + "/"
