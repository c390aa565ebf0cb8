"""One digest file behind another: whether it follows where its chain stands, and where the chain stands then.

    findings, whole = follows(digest, chain, previous, prefix="", since=window_start)
    chain = behind(chain, digest, key, whole=whole and not findings)

What `digest_chains` says of digest files that are all at hand, said of one at a time: of those before it only the last is known, and
that as the database has it.
"""

import msgspec

from mlsec_dagster.audit.digest_chains import check_chain
from mlsec_dagster.audit.digest_files import DigestFile, DigestFinding
from mlsec_dagster.storage.log_digests import Chain
from mlsec_dagster.storage.log_positions import Position


def follows(
    digest: DigestFile, chain: Chain | None, previous: Position | None, *, prefix: str, since: int
) -> tuple[list[DigestFinding], bool]:
    """What is wrong with what a digest file follows, and whether nothing is, told now or before.

    Args:
        digest: The digest file; its signature was checked.
        chain: Where its chain stands; None if it was never seen.
        previous: Position of the digest file that it names as the one before it, if that was looked at.
        prefix: What precedes the place's keys.
        since: Microseconds since the epoch. If the chain was never seen, one that it follows should be there if it ends later.
    """
    if chain is not None and digest.end <= chain.end:
        return [], True  # It came late, or was verified before positions were forgotten: what follows it has told what there was.
    if chain is not None:
        findings = [*check_chain([_last(chain, digest, prefix), digest], since=0)]
    elif previous is not None and previous.content == (digest.previous_sha256 or "").lower():
        return [], True  # The chain was forgotten, and is there again.
    else:
        findings = [*check_chain([digest], since=since)]
    if findings and previous is not None and previous.content is None:
        return [], False  # That digest file is there, and what is wrong with it was told.
    return findings, not findings


def behind(chain: Chain | None, digest: DigestFile, key: str, *, whole: bool) -> Chain:
    """Where a chain stands behind a digest file.

    Args:
        chain: Where it stood; None if it was never seen.
        digest: The digest file, verified.
        key: Its key below the place.
        whole: Nothing was found, neither with it nor with its log files nor with what it follows.
    """
    if chain is not None and digest.end <= chain.end:
        return chain if whole else chain._replace(broken=True, proven=min(chain.proven, digest.start))
    broken = not whole or (chain is not None and chain.broken)
    proven = digest.start if chain is None else chain.proven
    return Chain(
        chain=digest.chain,
        object=key,
        sha256=digest.sha256,
        signature=digest.signature or "",
        since=digest.start if chain is None else chain.since,
        start=digest.start,
        end=digest.end,
        proven=proven if broken else digest.end,
        broken=broken,
    )


def _last(chain: Chain, digest: DigestFile, prefix: str) -> DigestFile:
    """The last digest file of a chain, as far as one that follows it has to know."""
    return msgspec.structs.replace(
        digest,
        key=prefix + chain.object,
        start=chain.start,
        end=chain.end,
        sha256=chain.sha256,
        signature=chain.signature,
        previous_bucket=None,
        previous_key=None,
        logs=(),
    )
