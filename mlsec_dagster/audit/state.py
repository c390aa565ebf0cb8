"""What is known of one location: how much came from it, how late, and what could not be seen. Kept as JSON beside its positions."""

from collections import Counter
from collections.abc import Iterable
from typing import Final

import msgspec

from mlsec_dagster.audit.batches import Tally

_SAMPLE: Final = 50
_KEPT: Final = 50


def with_more(known: list[str], more: Iterable[str]) -> list[str]:
    """Both, each once, the newest of them."""
    return [*dict.fromkeys((*known, *more))][-_KEPT:]


class LocationState(msgspec.Struct, frozen=True, omit_defaults=True):
    """All of it is counted when a batch is done, in the same transaction.

    Attributes:
        source: The log.
        events: Accesses in the trail.
        duplicates: Records of accesses that were known.
        quarantined: Rows that are no event.
        unresolved: Accesses of which nothing tells what they are about.
        data_events: Accesses to contents.
        unresolved_sample: Where the unresolved ones were, with how many; not all of them.
        first: Time of the earliest event, microseconds since the epoch.
        last: Time of the latest; those of the future aside.
        last_data: Time of the latest access to contents, about: that of its batch.
        incomplete: Log objects that end in the middle, the newest of them.
        translator_error: The newest error that the translator raised.
        listed_at: When the window was last listed and read to its end, microseconds since the epoch.
        newest_object: When the newest log object was written, microseconds since the epoch; those of the future aside.
        reconciled_at: When everything was last listed and compared, microseconds since the epoch.
        proven_to: Up to when digest files prove that nothing is missing, microseconds since the epoch.
        missing: Log objects that were read and are not there any more, the newest of them.
        rewritten: Log objects that were other than they had been when they were read, the newest of them.
        findings: What verifying digest files has found, a sentence each, until somebody has looked at them: see
            `mlsec_dagster.audit.findings`.
        more_findings: How many more there were than are kept, by their kind.
        digests: Digest files that can be verified are here, so log files are hashed when they are read.
        proved_at: When all digest files that were there had been verified, microseconds since the epoch.
        verified_at: The same, and none of them had to wait for anything.
        silent: Chains of digest files of which nothing has come for hours, a sentence each, as of now.
        unproven: Why digest files prove less than they could, a clause each, as of now.
        behind: Log objects that were listed and not read yet.
    """

    source: str = ""
    events: int = 0
    duplicates: int = 0
    quarantined: int = 0
    unresolved: int = 0
    data_events: int = 0
    unresolved_sample: dict[str, int] = {}
    first: int | None = None
    last: int | None = None
    last_data: int | None = None
    incomplete: list[str] = []
    translator_error: str | None = None
    listed_at: int | None = None
    newest_object: int | None = None
    reconciled_at: int | None = None
    proven_to: int | None = None
    missing: list[str] = []
    rewritten: list[str] = []
    findings: list[str] = []
    more_findings: dict[str, int] = {}
    digests: bool = False
    proved_at: int | None = None
    verified_at: int | None = None
    silent: list[str] = []
    unproven: list[str] = []
    behind: int = 0

    @staticmethod
    def read(text: str) -> "LocationState":
        """The state that `written` wrote."""
        return msgspec.json.decode(text, type=LocationState)

    def written(self) -> str:
        """As JSON."""
        return msgspec.json.encode(self).decode()

    def with_batch(self, tally: Tally, incomplete: list[str]) -> "LocationState":
        """With what one batch brought."""
        sample = Counter(self.unresolved_sample)
        sample.update(tally.unresolved_sample)
        firsts = [each for each in (self.first, tally.first) if each is not None]
        lasts = [each for each in (self.last, tally.last) if each is not None]
        return msgspec.structs.replace(
            self,
            events=self.events + tally.events,
            duplicates=self.duplicates + tally.duplicates,
            quarantined=self.quarantined + tally.quarantined,
            unresolved=self.unresolved + tally.unresolved,
            data_events=self.data_events + tally.data_events,
            unresolved_sample=dict(sample.most_common(_SAMPLE)),
            first=min(firsts, default=None),
            last=max(lasts, default=None),
            last_data=tally.last if tally.data_events else self.last_data,
            incomplete=with_more(self.incomplete, incomplete),
            translator_error=tally.translator_error or self.translator_error,
        )
