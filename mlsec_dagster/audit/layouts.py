"""Where the objects of each log lie, which of them a sliding window covers, and how late the platform may deliver.

    layout = CloudTrailLayout(accounts=frozenset({"123456789012"}))
    for prefix in layout.window(place, now, days=3):
        for found in place.list(prefix):
            if layout.belongs(found.key) and layout.recent(found, now, days=3):
                rows = layout.read(place.read(found))

A window begins `days` before today and has no end: dates in names are times of delivery by somebody else's clock, and ours may go
back. What lies before it (a redelivery, an addendum, a file that was copied with its old time) is found by listing everything, the
prefix "".
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar, Final

from mlsec_dagster.audit.events import AuditEvent, Quarantined, Source
from mlsec_dagster.audit.objects import LogObject, Place
from mlsec_dagster.audit.sources import azure, cloudtrail, gcp, kubernetes, mlflow, s3_access, wandb
from mlsec_dagster.audit.times import EPOCH
from mlsec_dagster.audit.windows import beginnings_since, dated_folders, day_folders, first_day

Read = Callable[..., Iterator[AuditEvent | Quarantined]]

_YEAR: Final = re.compile(r"\d{4}")
_DEPTH: Final = 32  # Folders within folders that are looked through; Azure's resource ids have about a dozen.


@dataclass(frozen=True)
class Layout:
    """What is the same for every log. Each of the others is one.

    Attributes:
        source: The log.
        page: The vendor's page on where its objects lie and when they come.
        late: How long after an access its record usually is there.
        latest: How long after an access its record may still come. No promise on any vendor's side.
        quiet: Silence after which the log is reported as quiet rather than trusted.
        read: Its reader, `read(data, *, limits)`.
    """

    source: ClassVar[Source]
    page: ClassVar[str]
    late: ClassVar[timedelta]
    latest: ClassVar[timedelta]
    quiet: ClassVar[timedelta]
    read: ClassVar[Read]

    def window(self, place: Place, now: int, days: int) -> Iterator[str]:
        """Prefixes to list for what was delivered since `days` before today; disjoint.

        Args:
            place: Where the log lies; asked for folders only.
            now: Microseconds since the epoch, UTC.
            days: Days before today, 0 or more.

        Raises:
            StoreError: The place cannot be listed.
        """
        raise NotImplementedError

    def belongs(self, key: str) -> bool:
        """Whether an object is one of this log. All others are to be counted as ignored."""
        raise NotImplementedError

    def recent(self, found: LogObject, now: int, days: int) -> bool:  # noqa: ARG002
        """Whether an object that was listed is within the window; says more than its prefix where no dates are in names."""
        return True

    def grows(self, key: str) -> bool:  # noqa: ARG002
        """Whether records are appended to this object, so that reading goes on where it ended, as long as `LogObject.origin` stays."""
        return False


@dataclass(frozen=True)
class CloudTrailLayout(Layout):
    """`[prefix/]AWSLogs/[o-ID/]ACCOUNT/CloudTrail/REGION/YYYY/MM/DD/ACCOUNT_CloudTrail_REGION_YYYYMMDDTHHmmZ_….json.gz`.

    The place may begin anywhere in that path. Delivered about every 5 minutes; to a bucket that could not be written to, again for 30
    days. https://docs.aws.amazon.com/awscloudtrail/latest/userguide/how-cloudtrail-works.html

    Attributes:
        accounts: Account numbers to read; empty for all.
    """

    source = "aws.cloudtrail"
    page = "https://docs.aws.amazon.com/awscloudtrail/latest/userguide/get-and-view-cloudtrail-log-files.html"
    late = timedelta(minutes=15)
    latest = timedelta(days=30)
    quiet = timedelta(hours=6)
    read = staticmethod(cloudtrail.read)

    accounts: frozenset[str] = frozenset()

    _ACCOUNT: ClassVar[re.Pattern[str]] = re.compile(r"\d{12}")
    _ORGANIZATION: ClassVar[re.Pattern[str]] = re.compile(r"o-[a-z0-9]{10,32}")
    _REGION: ClassVar[re.Pattern[str]] = re.compile(r"[a-z]{2}(?:-[a-z]+)+-\d+")
    _NAME: ClassVar[re.Pattern[str]] = re.compile(r"(?P<account>\d{12})_(?P<kind>CloudTrail[A-Za-z-]*)_")

    def window(self, place: Place, now: int, days: int) -> Iterator[str]:
        """See `Layout.window`. Where no such folders are, everything: somebody's copy of the files."""
        known = False
        for region in self._regions(place, "CloudTrail", "", 6):
            known = True
            if self._wanted(region):
                yield from day_folders(place, region, first_day(now, days))
        if not known:
            yield ""

    def digest_window(self, place: Place, now: int, days: int) -> Iterator[str]:
        """As `window`, of the digest files (`mlsec_dagster.audit.digest_files`), beside: `…/ACCOUNT/CloudTrail-Digest/REGION/…`."""
        for region in self._regions(place, "CloudTrail-Digest", "", 6):
            if self._wanted(region):
                yield from day_folders(place, region, first_day(now, days))

    def is_digest(self, key: str) -> bool:
        """Whether an object is a digest file, which is no log but not to be ignored either."""
        told = self._NAME.match(key.rpartition("/")[2])
        wanted = told is not None and told["kind"] == "CloudTrail-Digest" and (not self.accounts or told["account"] in self.accounts)
        return wanted and key.endswith(".json.gz")

    def belongs(self, key: str) -> bool:
        """Log files; neither digest files nor Insights nor what other services deliver below AWSLogs."""
        *folders, name = key.split("/")
        for index, folder in enumerate(folders[:-1]):
            if self._ACCOUNT.fullmatch(folder) and not _YEAR.fullmatch(folders[index + 1]) and folders[index + 1] != "CloudTrail":
                return False
        told = self._NAME.match(name)
        if (told is not None and told["kind"] != "CloudTrail") or any(folder.startswith("CloudTrail-") for folder in folders):
            return False
        if self.accounts and told is not None and told["account"] not in self.accounts:
            return False
        return name.endswith((".json.gz", ".json")) and self._wanted(key)

    def _wanted(self, path: str) -> bool:
        accounts = {folder for folder in path.split("/")[:-1] if self._ACCOUNT.fullmatch(folder)}
        return not self.accounts or not accounts or bool(accounts & self.accounts)

    def _regions(self, place: Place, service: str, prefix: str, depth: int) -> Iterator[str]:
        """Folders of regions, with what precedes them."""
        names = sorted(place.folders(prefix))
        # One bucket may hold trails of several prefixes, and whoever may write to it any folder beside them: none hides another.
        if service in names:
            yield from (f"{prefix}{service}/{region}/" for region in sorted(place.folders(f"{prefix}{service}/")))
        for name in names:
            if name == "AWSLogs" or self._ORGANIZATION.fullmatch(name):
                yield from self._regions(place, service, f"{prefix}{name}/", depth)
            elif self._ACCOUNT.fullmatch(name) and (not self.accounts or name in self.accounts):
                below = f"{prefix}{name}/{service}/"
                yield from (f"{below}{region}/" for region in sorted(place.folders(below)))
            elif self._ACCOUNT.fullmatch(name):
                yield f"{prefix}{name}/"  # There, but not wanted: so the layout is known.
        if service in names or any(self._known(name) for name in names):
            return
        if any(_YEAR.fullmatch(name) for name in names):
            yield prefix
        for name in names:
            if self._REGION.fullmatch(name):
                yield f"{prefix}{name}/"
            elif depth and not _YEAR.fullmatch(name):
                yield from self._regions(place, service, f"{prefix}{name}/", depth - 1)

    def _known(self, name: str) -> bool:
        return name == "AWSLogs" or self._ACCOUNT.fullmatch(name) is not None or self._ORGANIZATION.fullmatch(name) is not None


@dataclass(frozen=True)
class S3AccessLayout(Layout):
    """`PrefixYYYY-MM-DD-HH-MM-SS-Unique`, or `[Prefix]ACCOUNT/REGION/BUCKET/YYYY/MM/DD/YYYY-MM-DD-HH-MM-SS-Unique`.

    Best effort: most records come within a few hours, some never. Partitions by event time are of the day of the access, so that a late
    record lies in an old folder. https://docs.aws.amazon.com/AmazonS3/latest/userguide/ServerLogs.html

    Attributes:
        prefix: The destination prefix below the place, as configured, with or without a "/" at its end.
    """

    source = "aws.s3_access"
    page = "https://docs.aws.amazon.com/AmazonS3/latest/API/API_PartitionedPrefix.html"
    late = timedelta(hours=3)
    latest = timedelta(days=7)
    quiet = timedelta(hours=24)
    read = staticmethod(s3_access.read)

    prefix: str = ""

    _NAME: ClassVar[re.Pattern[str]] = re.compile(r"\d{4}-\d\d-\d\d-\d\d-\d\d-\d\d-[0-9A-Za-z]+")
    _PARTS: ClassVar[re.Pattern[str]] = re.compile(r"\d{12}/[a-z0-9-]+/[a-z0-9.-]+/\d{4}/\d\d/\d\d/")

    def window(self, place: Place, now: int, days: int) -> Iterator[str]:
        """See `Layout.window`."""
        start = first_day(now, days)
        yield from (self.prefix + beginning for beginning in beginnings_since(start))
        folder, _, beginning = self.prefix.rpartition("/")
        folder = f"{folder}/" if folder else ""
        for name in place.folders(folder):
            account = name.removeprefix(beginning)
            if name.startswith(beginning) and re.fullmatch(r"\d{12}", account):
                for region in place.folders(f"{folder}{name}/"):
                    for bucket in place.folders(f"{folder}{name}/{region}/"):
                        yield from day_folders(place, f"{folder}{name}/{region}/{bucket}/", start)

    def belongs(self, key: str) -> bool:
        """Objects that are named by a time behind the prefix."""
        rest = key[len(self.prefix) :]
        parts = self._PARTS.match(rest)
        return key.startswith(self.prefix) and self._NAME.fullmatch(rest[parts.end() :] if parts else rest) is not None


@dataclass(frozen=True)
class GCPLayout(Layout):
    """`cloudaudit.googleapis.com/LOG/YYYY/MM/DD/HH:00:00_HH:59:59_S0.json`, and `…_A0:UNIXTIME.json` for what came later.

    Hourly; the first after 2 to 3 hours. An addendum lies in the folder of its entries' hour, however late it comes.
    """

    source = "gcp.audit"
    page = "https://cloud.google.com/logging/docs/export/storage"
    late = timedelta(hours=3)
    latest = timedelta(days=7)
    quiet = timedelta(hours=6)
    read = staticmethod(gcp.read)

    _KEY: ClassVar[re.Pattern[str]] = re.compile(
        r"(?:.*/)?(?:cloudaudit\.googleapis\.com/)?(?:activity|data_access|system_event|policy|access_transparency)"
        r"/\d{4}/\d\d/\d\d/[^/]+_[SA]\d+(?::\d+)?\.json(?:\.gz)?"
    )

    def window(self, place: Place, now: int, days: int) -> Iterator[str]:
        """See `Layout.window`. The place may begin at the sink's bucket or within the folder of a log."""
        names = [*place.folders()]
        if any(_YEAR.fullmatch(name) for name in names):
            yield from day_folders(place, "", first_day(now, days))
        if "cloudaudit.googleapis.com" in names:
            for log in place.folders("cloudaudit.googleapis.com/"):
                yield from day_folders(place, f"cloudaudit.googleapis.com/{log}/", first_day(now, days))
        else:
            for folder in (name for name in names if not _YEAR.fullmatch(name)):
                for log in dated_folders(place, f"{folder}/", _YEAR, 4):
                    yield from day_folders(place, log, first_day(now, days))

    def belongs(self, key: str) -> bool:
        """Shards of audit logs; a sink may deliver others into the same bucket."""
        return self._KEY.fullmatch(key) is not None or re.fullmatch(r"\d{4}/\d\d/\d\d/[^/]+_[SA]\d+(?::\d+)?\.json", key) is not None


@dataclass(frozen=True)
class AzureLayout(Layout):
    """`[insights-logs-CATEGORY/]resourceId=/SUBSCRIPTIONS/…/y=YYYY/m=MM/d=DD/h=HH/m=00/PT1H.json`.

    A container for each category. The hour is that in which records were received, so they may be of another; some services send what
    is up to 48 hours old. Around the full hour the old and the new blob are both written.

    Attributes:
        categories: Categories to read, in small letters ("storageread", "amlmodelsevent"); empty for all.
    """

    source = "azure.monitor"
    page = "https://learn.microsoft.com/azure/azure-monitor/platform/resource-logs"
    late = timedelta(minutes=15)
    latest = timedelta(hours=48)
    quiet = timedelta(hours=6)
    read = staticmethod(azure.read)

    categories: frozenset[str] = frozenset()

    _YEAR: ClassVar[re.Pattern[str]] = re.compile(r"y=\d{4}")

    def window(self, place: Place, now: int, days: int) -> Iterator[str]:
        """See `Layout.window`. Folders are nested deep: a request each, for each resource that is logged."""
        names = [*place.folders()]
        containers = [name for name in names if name.startswith("insights-logs-")]
        for folder in [f"{name}/" for name in containers if self._wanted(name)] if containers else [""]:
            for resource in dated_folders(place, folder, self._YEAR, _DEPTH):
                yield from day_folders(place, resource, first_day(now, days), ("y=", "m=", "d="))

    def belongs(self, key: str) -> bool:
        """Hourly blobs."""
        container, _, _ = key.partition("/")
        wanted = self._wanted(container) if container.startswith("insights-") else True
        return wanted and key.endswith("/PT1H.json")

    def grows(self, key: str) -> bool:  # noqa: ARG002
        """Always: they are append blobs."""
        return True

    def _wanted(self, container: str) -> bool:
        category = container.removeprefix("insights-logs-")
        return container.startswith("insights-logs-") and (not self.categories or category in self.categories)


@dataclass(frozen=True)
class _FlatLayout(Layout):
    """Files without dates in their names that can be relied on: all of them are listed, and the window is by when they were written."""

    _NAME: ClassVar[re.Pattern[str]] = re.compile(r"(?!\.).+\.(?:jsonl?|ndjson|log)(?:[.-][\w.:+-]*)?", re.DOTALL)

    def window(self, place: Place, now: int, days: int) -> Iterator[str]:  # noqa: ARG002
        """Everything."""
        yield ""

    def belongs(self, key: str) -> bool:
        """Files of lines, rotated and compressed ones among them."""
        return self._NAME.fullmatch(key.rpartition("/")[2]) is not None

    def recent(self, found: LogObject, now: int, days: int) -> bool:
        """Written within the window."""
        return found.modified >= (first_day(now, days) - EPOCH.date()) // timedelta(microseconds=1)

    def grows(self, key: str) -> bool:
        """Unless it is compressed."""
        return not key.endswith((".gz", ".gzip"))


class MLflowLayout(_FlatLayout):
    """JSON lines that the plugin of an MLflow server writes: files for each server process, never renamed."""

    source = "mlflow.audit"
    page = "docs/sources/mlflow.md"
    late = timedelta(minutes=1)
    latest = timedelta(minutes=5)
    quiet = timedelta(hours=24)
    read = staticmethod(mlflow.read)


class KubernetesLayout(_FlatLayout):
    """JSON lines that an API server's log backend writes, rotated by renaming. A cluster's own controllers are never silent."""

    source = "kubernetes.audit"
    page = "https://kubernetes.io/docs/tasks/debug/debug-cluster/audit/"
    late = timedelta(minutes=1)
    latest = timedelta(hours=1)
    quiet = timedelta(hours=1)
    read = staticmethod(kubernetes.read)


class WandBLayout(_FlatLayout):
    """`wandb-audit-logs/…`: a file of JSON lines for each day, written again every 10 minutes as a whole."""

    source = "wandb.audit"
    page = "https://docs.wandb.ai/platform/hosting/monitoring-usage/audit-logging"
    late = timedelta(minutes=20)
    latest = timedelta(days=1)
    quiet = timedelta(hours=24)
    read = staticmethod(wandb.read)

    _FOLDER: ClassVar[str] = "wandb-audit-logs"

    def window(self, place: Place, now: int, days: int) -> Iterator[str]:  # noqa: ARG002
        """The folder of audit logs, beside which an instance's bucket holds everything else; or the whole place if it is that folder."""
        yield f"{self._FOLDER}/" if self._FOLDER in place.folders() else ""

    def belongs(self, key: str) -> bool:
        """Files within that folder, whatever they are called, or of a place without folders."""
        folders, _, name = key.rpartition("/")
        return not name.startswith(".") and name != "" and (not folders or self._FOLDER in folders.split("/"))


LAYOUTS: Final[dict[Source, type[Layout]]] = {
    "aws.cloudtrail": CloudTrailLayout,
    "aws.s3_access": S3AccessLayout,
    "gcp.audit": GCPLayout,
    "azure.monitor": AzureLayout,
    "kubernetes.audit": KubernetesLayout,
    "wandb.audit": WandBLayout,
    "mlflow.audit": MLflowLayout,
}
