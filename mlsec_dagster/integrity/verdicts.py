"""How a verdict is reached: pure decisions over what was sealed, what Dagster says was written, and what lies in storage.

Nothing here reads storage or a database; `docs/verdicts.md` tells the same rules in prose.

    standing = stand(entry, materialization, guarded_since=since, external=False)
    if standing.refused: ...            # fail closed, with standing.sentence
    verdict = judge(policy="append_only", sealed=sealed, stored=stored, previous=earlier)
"""

import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from mlsec_dagster.integrity.comparison import Difference
from mlsec_dagster.integrity.manifest import Manifest
from mlsec_dagster.integrity.statements import ADOPTION, SEAL, WRITE, Statement

Policy = Literal["tracked", "append_only", "immutable"]
POLICIES: tuple[Policy, ...] = ("tracked", "append_only", "immutable")


@dataclass(frozen=True, slots=True)
class Materialization:
    """What Dagster's event log says about the latest write of a subject.

    Attributes:
        run_id: Run that wrote it.
        storage_id: Id of the event in the event log.
        timestamp: Seconds since the epoch.
    """

    run_id: str
    storage_id: int
    timestamp: float


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether there is something to hold stored bytes against.

    `sealed`: the ledger's newest statement speaks for the latest materialization. `adoptable`: the data was there before its asset
    was guarded, so it may be adopted, visibly. `refused`: neither; it must not be used.
    """

    kind: Literal["sealed", "adoptable", "refused"]
    sentence: str = ""

    @property
    def refused(self) -> bool:
        return self.kind == "refused"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of one verification.

    Attributes:
        passed: False unless everything that was due was verified and agreed.
        sentence: What happened and what to do, in one sentence or two.
        cause: A stable word for machines: `ok`, `altered`, `missing`, `unsealed`, `policy`, `input`, `unverifiable`, `adopted`.
        difference: Where the bytes or values differ, when they do.
        warnings: True things that a person should know about a verdict that passed.
    """

    passed: bool
    sentence: str
    cause: str = "ok"
    difference: Difference | None = None
    warnings: tuple[str, ...] = field(default=())


def visible(text: str) -> str:
    """Text whose control, formatting, bidirectional and line separating characters are replaced by a sign that can be seen."""
    return "".join("\ufffd" if unicodedata.category(c)[0] == "C" or unicodedata.category(c) in {"Zl", "Zp"} else c for c in text)


def as_sentence(text: object, limit: int = 600) -> str:
    """An error's or a difference's text as one sentence, so that another can follow it.

    It names columns and files, and those names may have been chosen to hurt: nothing in it is invisible, and it is at most `limit` long.
    """
    said = visible(str(text)).rstrip()
    if len(said) > limit:
        said = said[: limit - 1] + "…"
    return said if said.endswith((".", "!", "?")) else f"{said}."


def when(timestamp: float) -> str:
    """A point in time as people read it, UTC to the second."""
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def speaks_for(statement: Statement, recorded_at: float, materialization: Materialization) -> bool:
    """Whether a statement is about this materialization. An adoption names none: it is about what was stored when it was made."""
    if statement.predicate_type == ADOPTION:
        return recorded_at >= materialization.timestamp
    if statement.predicate_type == SEAL:
        return statement.predicate.get("storage_id") == materialization.storage_id
    return statement.predicate_type == WRITE and statement.predicate.get("run_id") == materialization.run_id


def stand(
    statement_type: str | None,
    predicate: Mapping[str, Any] | None,
    recorded_at: float | None,
    materialization: Materialization | None,
    *,
    subject: str,
    guarded_since: float | None,
    external: bool,
) -> Standing:
    """Decide whether the newest statement about a subject speaks for what Dagster says was written last.

    Args:
        statement_type: Predicate type of the newest WRITE, SEAL or ADOPTION statement, or None if there is none.
        predicate: That statement's predicate.
        recorded_at: When it was appended, in seconds since the epoch.
        materialization: The latest materialization that Dagster knows, or None.
        subject: Name for the sentences, e.g. `raw_flights[2013-01-07]`.
        guarded_since: When the first statement about this asset (any partition) was appended, or None if there is none.
        external: True if Dagster never materializes this asset.
    """
    if predicate is None or recorded_at is None:
        if materialization is None and not external:
            return Standing(
                "refused",
                f"{subject} was never materialized by Dagster and never sealed, yet something is stored for it: "
                f"find out who wrote it, then materialize it, or trust it as it is with `mlsec adopt`.",
            )
        if materialization is not None and guarded_since is not None and materialization.timestamp > guarded_since:
            return Standing("refused", unsealed(subject, materialization))
        return Standing("adoptable")
    if statement_type == SEAL and predicate.get("verdict") == "failed" and not _only_told(predicate):
        return Standing(
            "refused",
            f"{subject} failed its last dataset_hash check: {as_sentence(predicate.get('reason', 'no reason recorded'))} "
            f"Materialize it again, or restore the data and run the check.",
        )
    if materialization is None or materialization.timestamp <= recorded_at:
        return Standing("sealed")
    if statement_type != ADOPTION and predicate.get("run_id") == materialization.run_id:
        return Standing("sealed")
    return Standing("refused", unsealed(subject, materialization))


def _only_told(predicate: Mapping[str, Any]) -> bool:
    """Whether a failed check blocks nobody: its asset's owner wants it told only, and the bytes themselves are those that were sealed."""
    return not predicate.get("blocking", True) and predicate.get("cause") in ("policy", "input")


def unsealed(subject: str, materialization: Materialization) -> str:
    """The sentence about a materialization that went past the guard."""
    return (
        f"{subject} was materialized by run {materialization.run_id} at {when(materialization.timestamp)} without being sealed, as "
        f"happens when the guard is switched off: find out why, then materialize it again, or trust it as it is with `mlsec adopt`."
    )


def judge(
    *,
    subject: str,
    policy: Policy,
    sealed: Manifest | None,
    stored: Manifest,
    previous: Manifest | None = None,
    pinned: Collection[str] = (),
) -> Verdict:
    """Hold what is stored against its seal, its policy and its pin.

    Args:
        subject: Name for the sentences.
        policy: `tracked`, `append_only` or `immutable`.
        sealed: What was sealed when this materialization was written; None if this is the first sight of it.
        stored: What lies in storage now.
        previous: What was sealed for the materialization before this one, for `append_only` and an `immutable` without a pin.
        pinned: Digests (`sha256:…`, `blake3:…`) of which one must equal the digest of the file, for `immutable`.
    """
    if sealed is not None:
        difference = sealed.compare(stored)
        if difference:
            return Verdict(
                False,
                f"{subject} is not what was written: {as_sentence(difference.sentence)} Storage changed while Dagster did not write it. "
                f"Keep the stored files as evidence, look up who wrote to them, and materialize it again.",
                "altered",
                difference,
            )
    # The same rows in other files (another compression, say) are the same data to a policy, though not to a seal.
    changed = previous is not None and not (previous.content_root and previous.content_root == stored.content_root)
    if policy == "append_only" and previous is not None and changed:
        difference = previous.compare(stored)
        if difference and not difference.is_append and not _only_new_parts(difference):
            return Verdict(
                False,
                f"{subject} is append-only, but earlier rows changed: {as_sentence(difference.sentence)} "
                f"Restore the earlier rows, or change its policy to `tracked` if rewriting is meant.",
                "policy",
                difference,
            )
    if policy == "immutable":
        if pinned:
            return _judge_pin(subject, stored, pinned)
        if previous is not None and changed:
            difference = previous.compare(stored)
            if difference:
                return Verdict(
                    False,
                    f"{subject} is immutable, but it differs from its first seal: {as_sentence(difference.sentence)} Restore it.",
                    "policy",
                    difference,
                )
    return Verdict(True, f"{subject} is what was sealed.")


def _only_new_parts(difference: Difference) -> bool:
    """Whether files came beside the earlier ones, which are unchanged. A name with `_` or `.` may be a log that takes earlier files out."""
    return bool(difference.files) and all(
        change.kind == "added" and change.path and not any(part.startswith(("_", ".")) for part in change.path.split("/"))
        for change in difference.files
    )


def _judge_pin(subject: str, stored: Manifest, pinned: Collection[str]) -> Verdict:
    found = {entry.digest for entry in stored.files} | {root for root in (stored.files_root, stored.content_root) if root}
    unpinned = [entry for entry in stored.files if entry.digest not in pinned]
    if (stored.files and not unpinned) or (found & set(pinned)):
        return Verdict(True, f"{subject} equals its pinned digest.")
    names = ", ".join(f"{entry.path or subject} is {entry.digest}" for entry in unpinned[:3]) or f"content is {stored.content_root}"
    return Verdict(
        False,
        f"{subject} is immutable and pinned to {', '.join(sorted(pinned)[:3])}, but {names}. "
        f"Restore the pinned data, or pin the new digest after reviewing it.",
        "policy",
    )
