"""Log files as digest files name them: whether each is there and unaltered, and whether one is there that none names.

checked = check_logs(digest, location, budget)          # None: the budget was spent; what was hashed is kept
strangers = unnamed(connection, location, chains, …)    # planted
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from mlsec_dagster.audit.digest_files import DigestFile, DigestFinding, LogFileDigest, check_content, check_log
from mlsec_dagster.audit.findings import SILENT
from mlsec_dagster.audit.objects import LogObject, Place
from mlsec_dagster.storage.log_digests import Chain
from mlsec_dagster.storage.log_positions import Position

_HOUR: Final = timedelta(hours=1) // timedelta(microseconds=1)
_NAMED_BY_HOUR: Final = re.compile(r"(.*/[^/]+_\d{8}T\d\d)\d\dZ_[^/]+")


@dataclass(slots=True)
class CheckedLogs:
    """What became of the log files of a digest file.

    Attributes:
        findings: What is wrong with them.
        present: Those that are there.
        missing: Keys below the place of those that are not.
        contents: Hashes that were computed for it, by (key, version).
        read: Log files that had to be read for it.
        whole: All of them were looked at.
    """

    findings: list[DigestFinding] = field(default_factory=list[DigestFinding])
    present: list[LogObject] = field(default_factory=list[LogObject])
    missing: list[str] = field(default_factory=list[str])
    contents: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])
    read: int = 0
    whole: bool = True


def check_logs(
    digest: DigestFile,
    place: Place,
    bucket: str,
    prefix: str,
    known: Callable[[list[str]], Mapping[str, Position]],
    spent: Callable[[], bool],
) -> CheckedLogs:
    """Look at every log file that a digest file names, whose signature was checked.

    What was hashed when it was read into the trail, in the version that lies there now, is not read again.

    Args:
        digest: The digest file.
        place: Where it lies.
        bucket: The place's bucket.
        prefix: What precedes the place's keys there.
        known: Gives the positions of log files.
        spent: Whether it is time to stop.

    Raises:
        StoreError: The place cannot be listed or read, or a log file changes while it is read.
    """
    checked = CheckedLogs()
    named: dict[str, LogFileDigest] = {}
    for log in digest.logs:
        if log.bucket == bucket and log.key.startswith(prefix):
            named[log.key[len(prefix) :]] = log
        else:
            sentence = f"{digest.key} names this log file, which lies outside of what is read here, so nothing was verified of it."
            checked.findings.append(DigestFinding("unverifiable", log.bucket, log.key, sentence))
    listed = {found.key: found for each in _prefixes(named) for found in place.list(each) if found.key in named}
    positions = known([*named])
    for key, log in named.items():
        found, position = listed.get(key), positions.get(key)
        if found is None:
            checked.findings += check_log(log, None)
            checked.missing.append(key)
            continue
        checked.present.append(found)
        if position is not None and position.content is not None and (position.version, position.size) == (found.version, found.size):
            checked.findings += check_content(log, position.content)
            continue
        if checked.read and spent():
            checked.whole = False
            return checked
        wrong = [*check_log(log, place.read(found))]
        checked.read += 1
        checked.findings += wrong
        if not wrong:
            checked.contents[key, found.version] = log.sha256.lower()
    return checked


def _prefixes(keys: Iterable[str]) -> list[str]:
    """What to list to see these log files, and few others: their names tell the hour."""
    found = dict.fromkeys(match[1] if (match := _NAMED_BY_HOUR.fullmatch(key)) else key for key in keys)
    return [each for each in found if not any(other != each and each.startswith(other) for other in found)]


@dataclass(frozen=True, slots=True)
class Covered:
    """When log files must have been written that digest files should name by now, in microseconds since the epoch.

    Attributes:
        folders: From and to, for the folder of each region.
        elsewhere: The same, where no digest file reaches.
    """

    folders: Mapping[str, tuple[int, int]]
    elsewhere: tuple[int, int]

    @staticmethod
    def by(chains: Iterable[Chain], now: int) -> "Covered":
        """What chains cover. Written, not named: whoever plants a file can choose its name, but not when the store says it was written."""
        regions: defaultdict[str, list[Chain]] = defaultdict(list)
        for chain in chains:
            if not chain.chain.endswith("_backfill"):
                regions[region_folder(chain.object).replace("CloudTrail-Digest/", "CloudTrail/")].append(chain)
        folders: dict[str, tuple[int, int]] = {}
        silent = now - SILENT // timedelta(microseconds=1)
        for folder, found in regions.items():
            ends = [chain.end for chain in found if chain.end > silent] or [max(chain.end for chain in found)]
            # What was written when a chain begins or ends may be named by the digest file before or behind.
            folders[folder] = min(chain.since for chain in found) + _HOUR, min(ends) - _HOUR
        if not folders:
            return Covered({}, (0, 0))
        # A region that is new has its first digest file after an hour or so.
        return Covered(folders, (min(since for since, _ in folders.values()), min(until for _, until in folders.values()) - 2 * _HOUR))

    @property
    def span(self) -> tuple[int, int]:
        """From the first to the last."""
        every = [*self.folders.values(), self.elsewhere]
        return min(since for since, _ in every), max(until for _, until in every)

    def should_be_named(self, key: str, modified: int) -> bool:
        """Whether a digest file that was verified should name this log file."""
        since, until = self.folders.get(region_folder(key), self.elsewhere)
        return since <= modified < until


def region_folder(key: str) -> str:
    """The folder of a region, of a log file or digest file in the folder of a day."""
    return "".join(f"{each}/" for each in key.split("/")[:-4])
