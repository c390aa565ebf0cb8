"""The windows of a dataset that were looked at before: signed in the ledger, their contents beside it.

    baseline = Baseline(ledger, "raw_flights")
    history = baseline.before("2013-06-04", series)          # verified; refused where anything was altered
    baseline.keep(partition, assessment, facts)              # a statement, the window and its sample

A statement of type `BASELINE` holds digests only. The window (counts, names of categories) and the sample (rows, as Parquet) are values of
the data: they lie in the store under their digests, and `forget` erases them; the statements stay. That they were erased is itself a
signed statement, so that windows which somebody else deleted are noticed, and not taken for forgotten.
"""

# pyarrow brings no types of its own, so what comes out of it is unknown to a type checker.
# pyright: reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mlsec_dagster.errors import UnverifiableError
from mlsec_dagster.integrity.digests import hash_bytes, parse_digest
from mlsec_dagster.integrity.entries import Entry, Receipt
from mlsec_dagster.integrity.statements import Statement
from mlsec_dagster.stability.assessment import Assessment, History
from mlsec_dagster.stability.channels import REFERENCE_WINDOWS
from mlsec_dagster.stability.decision import MOST_WINDOWS
from mlsec_dagster.stability.profiles import Window
from mlsec_dagster.stability.subject import SUBJECT, subject_of

if TYPE_CHECKING:
    import pyarrow as pa

    from mlsec_dagster.integrity.ledger import Ledger

BASELINE: Final = "urn:mlsec:baseline-window:v1"

FORGOTTEN: Final = "forgotten"
"""Outcome in a statement that is about no window, and says that those before it were erased."""

KEPT: Final = MOST_WINDOWS + REFERENCE_WINDOWS
"""Windows that a verdict looks back on, at most."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A window in the ledger.

    Attributes:
        entry: The statement about it, authenticated.
        window: What was counted.
    """

    entry: Entry
    window: Window

    @property
    def name(self) -> str:
        """The partition; of an unpartitioned asset, when it was materialized."""
        if self.entry.statement.partition is not None:
            return self.entry.statement.partition
        from mlsec_dagster.integrity.verdicts import when

        return when(float(self.entry.statement.predicate.get("timestamp") or self.entry.recorded_at))


class Baseline:
    """The windows of one asset.

    Args:
        ledger: Where they are.
        asset: Asset key as text.
    """

    def __init__(self, ledger: "Ledger", asset: str) -> None:
        self._ledger = ledger
        self._subject = subject_of(asset)

    def of_partitions(self, partitions: Sequence[str]) -> list[Kept]:
        """The newest window of each partition that has one, in the order given; the last `KEPT` of them. Forgotten ones are absent.

        Raises:
            LedgerError: A statement or a window is not what was signed, or a window is gone and was not forgotten.
            UnverifiableError: A newer version wrote a window.
        """
        wanted = list(partitions)[-2 * KEPT :]
        found = self._ledger.latest_by_partition(self._subject, wanted, (BASELINE,))
        entries = [found[partition] for partition in wanted if partition in found]
        return [self._opened(entry) for entry in entries if not _forgets(entry)][-KEPT:]

    def of_materializations(self, partition: str | None, *, apart_from: int | None) -> list[Kept]:
        """The windows of one subject's successive materializations, oldest first; the last `KEPT` of them. Forgotten ones are absent.

        Args:
            partition: The partition, or None.
            apart_from: Storage id of a materialization to leave out: the one that is looked at now.
        """
        newest: dict[Any, Entry] = {}
        for entry in self._ledger.recent(self._subject, partition, 2 * KEPT):
            if _forgets(entry):
                break
            storage_id = entry.statement.predicate.get("storage_id")
            if storage_id is None or storage_id != apart_from:
                newest.setdefault(storage_id if storage_id is not None else entry.index, entry)
        return [self._opened(entry) for entry in sorted(newest.values(), key=lambda entry: entry.index)[-KEPT:]]

    def windows(self) -> list[Kept]:
        """The newest window of each materialization that was looked at and is not forgotten, in the order of the ledger.

        Of a partition only the newest materialization counts, as in `of_partitions`.

        Raises:
            LedgerError: A statement or a window is not what was signed, or a window is gone and was not forgotten.
        """
        found: dict[Any, Entry] = {}
        for entry in self._ledger.history(self._subject, types=(BASELINE,)):
            said = entry.statement
            if _forgets(entry):
                found = {key: other for key, other in found.items() if other.statement.partition != said.partition}
                continue
            storage_id = said.predicate.get("storage_id")
            key = (said.partition,) if said.partition is not None else (None, storage_id if storage_id is not None else -1 - entry.index)
            found.pop(key, None)
            found[key] = entry
        return [self._opened(entry) for entry in found.values()]

    def forget(self, facts: Mapping[str, Any]) -> int:
        """Erase the contents of all windows and samples of the asset, and say so in the ledger. The next window starts learning anew.

        It may be repeated: if it was interrupted, the contents that are still there go then.

        Args:
            facts: Who forgot, and why; for the statements.

        Returns:
            Contents that were erased: windows and samples.
        """
        from mlsec_dagster.storage.queries import erase_contents

        living: dict[str | None, int] = {}
        for entry in self._ledger.history(self._subject, types=(BASELINE,)):
            living[entry.statement.partition] = 0 if _forgets(entry) else living.get(entry.statement.partition, 0) + 1
        forgotten = [
            Statement(self._subject, partition, BASELINE, {}, {**facts, "outcome": FORGOTTEN, "windows": count})
            for partition, count in living.items()
            if count
        ]
        # First the statements: interrupted between the two, the contents are still there, and nothing looks as if it had been deleted.
        if forgotten:
            self._ledger.append(forgotten)
        with self._ledger.database.write() as connection:
            # Contents lie under their digests, so others may name the same: another asset's window, or one that was kept just now.
            mine, kept = self._contents(self._subject)
            others = [name for name in self._ledger.subjects(SUBJECT) if name != self._subject]
            erased = erase_contents(connection, mine - kept - {digest for name in others for digest in self._contents(name)[1]})
        self._ledger.database.overwrite_log()
        return erased

    def _contents(self, subject: str) -> tuple[set[str], set[str]]:
        """Digests of all contents that statements about a subject name, and of those that are not forgotten."""
        named: dict[str | None, set[str]] = {}
        kept: dict[str | None, set[str]] = {}
        for entry in self._ledger.history(subject, types=(BASELINE,)):
            said = entry.statement
            if _forgets(entry):
                kept[said.partition] = set()
                continue
            digests = {str(said.predicate["window"]), str(said.predicate["sample"])}
            named.setdefault(said.partition, set()).update(digests)
            kept.setdefault(said.partition, set()).update(digests)
        return set[str]().union(*named.values()), set[str]().union(*kept.values())

    def _opened(self, entry: Entry) -> Kept:
        window = Window.from_bytes(self._ledger.manifest(str(entry.statement.predicate["window"])))
        return Kept(entry, window)

    def history(self, kept: Sequence[Kept], phases: Sequence[int] | None = None) -> History:
        """What an assessment wants to know of windows, with the samples of the last of them."""
        samples = [self.sample(each) for each in kept[-REFERENCE_WINDOWS:]]
        return History([each.window for each in kept], samples, phases)

    def sample(self, kept: Kept) -> "pa.Table":
        """The sample of a window.

        Raises:
            LedgerError: It was altered or erased.
        """
        import pyarrow.parquet as pq

        content = self._ledger.manifest(str(kept.entry.statement.predicate["sample"]))
        return pq.read_table(io.BytesIO(content), use_threads=False)

    def keep(self, partition: str | None, assessment: Assessment, facts: Mapping[str, Any]) -> Receipt:
        """Record a window.

        Args:
            partition: The partition, or None.
            assessment: What was found about it.
            facts: Of the materialization: `run_id`, `storage_id`, `timestamp`, digests of the bytes that were counted.
        """
        window, sample = assessment.window.to_bytes(), parquet_bytes(assessment.sample)
        digest = hash_bytes(window)
        algorithm, value = parse_digest(digest)
        judgement = assessment.judgement
        predicate = {
            **facts,
            "window": digest,
            "sample": hash_bytes(sample),
            "rows": assessment.window.profile.rows,
            "outcome": assessment.outcome,
            "p_value": None if judgement is None else judgement.p_value,
            "method": None if judgement is None else judgement.method,
        }
        statement = Statement(self._subject, partition, BASELINE, {algorithm: value.hex()}, predicate)
        return self._ledger.append([statement], [window, sample])


def _forgets(entry: Entry) -> bool:
    """Whether the statement says that the windows before it were erased."""
    return entry.statement.predicate.get("outcome") == FORGOTTEN


def parquet_bytes(table: "pa.Table") -> bytes:
    """A table as the bytes of a Parquet file."""
    import pyarrow.parquet as pq

    file = io.BytesIO()
    try:
        pq.write_table(table, file, compression="zstd")
    except Exception as error:
        raise UnverifiableError(f"the sample could not be written as Parquet ({type(error).__name__})") from None
    return file.getvalue()
