"""Where logs lie, in real storages: the window finds what is recent and what is to come, and nothing is taken for a log that is none."""

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlsec_dagster.audit.events import SOURCES
from mlsec_dagster.audit.layouts import (
    LAYOUTS,
    AzureLayout,
    CloudTrailLayout,
    GCPLayout,
    KubernetesLayout,
    Layout,
    MLflowLayout,
    S3AccessLayout,
    WandBLayout,
)
from mlsec_dagster.audit.objects import Place
from mlsec_dagster.audit.places import AzureBlobs
from mlsec_dagster.audit.times import since_epoch
from mlsec_dagster.audit.windows import beginnings_since, first_day
from tests.audit.places.storages import Disk, Storage, blob_client

TODAY = datetime(2026, 5, 2, 23, 59, 30, tzinfo=UTC)
NOW = since_epoch(TODAY)
ACCOUNT, OTHER = "123456789012", "210987654321"
RESOURCE = "resourceId=/SUBSCRIPTIONS/S/RESOURCEGROUPS/R/PROVIDERS/MICROSOFT.STORAGE/STORAGEACCOUNTS/A/BLOBSERVICES/DEFAULT"


def found(layout: Layout, place: Place, days: int = 2, now: int = NOW) -> list[str]:
    """Keys that ingestion would read, each as often as it is listed."""
    prefixes = [*layout.window(place, now, days)]
    return sorted(
        each.key for prefix in prefixes for each in place.list(prefix) if layout.belongs(each.key) and layout.recent(each, now, days)
    )


def trail(account: str, day: str, region: str = "eu-west-1", kind: str = "CloudTrail") -> str:
    flat = day.replace("/", "")
    return f"{account}/{kind}/{region}/{day}/{account}_{kind}_{region}_{flat}T0210Z_Mu0KsOhtH1ar15ZZ.json.gz"


@pytest.mark.parametrize("root", ["AWSLogs/", "AWSLogs/o-exampleorgid/", "some/prefix/AWSLogs/", "a/AWSLogs/o-exampleorgid/"])
def test_cloudtrail_is_found_wherever_the_place_begins(storage: Storage, root: str) -> None:
    recent = [trail(ACCOUNT, "2026/05/01"), trail(ACCOUNT, "2026/04/30", "us-east-1"), trail(OTHER, "2026/05/03")]
    for key in (*recent, trail(ACCOUNT, "2026/04/29"), trail(ACCOUNT, "2025/12/31")):
        storage.put(root + key, b"x")
    for kind in ("CloudTrail-Digest", "CloudTrail-Insight", "Config", "elasticloadbalancing"):
        storage.put(root + trail(ACCOUNT, "2026/05/01", kind=kind), b"x")
    folders = root.split("/")[:-1]
    for depth in range(len(folders) + 1):
        place = storage.place("/".join(folders[:depth]))
        rest = "".join(f"{folder}/" for folder in folders[depth:])
        assert found(CloudTrailLayout(), place) == sorted(rest + key for key in recent)
        assert found(CloudTrailLayout(accounts=frozenset({OTHER})), place) == [rest + recent[2]]
        assert found(CloudTrailLayout(accounts=frozenset({"000000000000"})), place) == []
        for listed in (each.key for each in place.list()):
            assert CloudTrailLayout().belongs(listed) == ("/CloudTrail/" in listed)
    for depth in (f"{root}{ACCOUNT}", f"{root}{ACCOUNT}/CloudTrail", f"{root}{ACCOUNT}/CloudTrail/eu-west-1"):
        assert f"{ACCOUNT}_CloudTrail_eu-west-1_20260501T0210Z_Mu0KsOhtH1ar15ZZ.json.gz" in {
            key.rpartition("/")[2] for key in found(CloudTrailLayout(), storage.place(depth))
        }


def test_digest_files_are_found_beside_the_logs_and_are_not_logs(storage: Storage) -> None:
    def digest(account: str, day: str) -> str:
        return trail(account, day, kind="CloudTrail-Digest")

    keys = [f"AWSLogs/{digest(ACCOUNT, '2026/05/01')}", f"AWSLogs/o-exampleorgid/{digest(OTHER, '2026/05/02')}"]
    for key in (*keys, f"AWSLogs/{digest(ACCOUNT, '2026/04/01')}", f"AWSLogs/{trail(ACCOUNT, '2026/05/01')}"):
        storage.put(key, b"x")
    for layout, expected in ((CloudTrailLayout(), keys), (CloudTrailLayout(accounts=frozenset({OTHER})), keys[1:])):
        place = storage.place()
        listed = [each.key for prefix in layout.digest_window(place, NOW, 2) for each in place.list(prefix)]
        assert sorted(listed) == sorted(expected)
        assert all(layout.is_digest(key) and not layout.belongs(key) for key in listed)
    assert not CloudTrailLayout().is_digest(f"AWSLogs/{trail(ACCOUNT, '2026/05/01')}")


def test_an_organization_and_an_account_of_its_own_share_a_bucket(disk: Disk) -> None:
    keys = [f"AWSLogs/o-exampleorgid/{trail(ACCOUNT, '2026/05/01')}", f"AWSLogs/{trail(OTHER, '2026/05/01')}"]
    for key in keys:
        disk.put(key, b"x")
    assert found(CloudTrailLayout(), disk.place()) == sorted(keys)


PLANTED = ["CloudTrail", "CloudTrail-Digest", "o-aaaaaaaaaaaa", "000000000000", "eu-west-9", "2026", "a/2026"]


@pytest.mark.parametrize(
    ("root", "planted"),
    [(root, each) for root in ("AWSLogs/", "o-exampleorgid/AWSLogs/o-exampleorgid/", "") for each in PLANTED]
    # Where the prefix of one trail is known, others of prefixes that are not are found when everything is listed.
    + [("some/prefix/AWSLogs/", each) for each in PLANTED[4:]],
)
def test_no_folder_beside_it_hides_a_trail(disk: Disk, root: str, planted: str) -> None:
    keys = [root + trail(ACCOUNT, "2026/05/01"), root + trail(ACCOUNT, "2026/05/01", kind="CloudTrail-Digest")]
    for key in (*keys, f"{planted}/x/y"):
        disk.put(key, b"x")
    place = disk.place("")
    assert set(keys[:1]) <= set(found(CloudTrailLayout(), place))
    digests = {each.key for prefix in CloudTrailLayout().digest_window(place, NOW, 2) for each in place.list(prefix)}
    assert keys[1] in digests


@pytest.mark.parametrize(
    ("layout", "key", "planted"),
    [
        (GCPLayout(), "cloudaudit.googleapis.com/data_access/2026/05/01/00:00:00_00:59:59_S0.json", "2026"),
        (GCPLayout(), "sink/cloudaudit.googleapis.com/data_access/2026/05/01/00:00:00_00:59:59_S0.json", "2026"),
        (GCPLayout(), "sink/cloudaudit.googleapis.com/data_access/2026/05/01/00:00:00_00:59:59_S0.json", "sink/2026"),
        (AzureLayout(), f"insights-logs-storageread/{RESOURCE}/y=2026/m=05/d=01/h=00/m=00/PT1H.json", "insights-logs-storageread/y=2026"),
        (AzureLayout(), f"{RESOURCE}/y=2026/m=05/d=01/h=00/m=00/PT1H.json", "y=2026"),
    ],
)
def test_no_folder_of_a_year_hides_those_beside_it(disk: Disk, layout: Layout, key: str, planted: str) -> None:
    disk.put(key, b"x")
    disk.put(f"{planted}/m=05/d=01/x", b"x")
    assert found(layout, disk.place("")) == [key]


def test_an_organisations_trail_and_an_accounts_own_share_a_bucket_at_its_root(disk: Disk) -> None:
    keys = [f"AWSLogs/{trail(OTHER, '2026/05/01')}", f"o-exampleorgid/AWSLogs/o-exampleorgid/{trail(ACCOUNT, '2026/05/01')}"]
    for key in keys:
        disk.put(key, b"x")
    assert found(CloudTrailLayout(), disk.place("")) == keys


def test_copies_of_cloudtrail_files_without_folders_are_found(disk: Disk) -> None:
    name = trail(ACCOUNT, "2023/07/10").rpartition("/")[2]
    for key in (name, "notes.txt", name.replace("CloudTrail", "CloudTrail-Digest")):
        disk.put(key, b"x")
    assert found(CloudTrailLayout(), disk.place()) == [name]
    assert found(CloudTrailLayout(accounts=frozenset({OTHER})), disk.place()) == []


def test_an_empty_bucket_is_listed_and_empty(storage: Storage) -> None:
    for layout in LAYOUTS.values():
        assert found(layout(), storage.place()) == []


@pytest.mark.parametrize("ahead", [0, 1, 40, 400])
def test_what_was_delivered_by_a_clock_ahead_of_ours_is_found(disk: Disk, ahead: int) -> None:
    """Ours went back by as many days: what was delivered meanwhile has dates in what is the future now."""
    later = (TODAY + timedelta(days=ahead)).strftime("%Y/%m/%d")
    dashed = later.replace("/", "-")
    keys: dict[Layout, str] = {
        CloudTrailLayout(): f"AWSLogs/{trail(ACCOUNT, later)}",
        S3AccessLayout(prefix="logs/access-"): f"logs/access-{dashed}-02-10-00-0123456789ABCDEF",
        GCPLayout(): f"cloudaudit.googleapis.com/data_access/{later}/08:00:00_08:59:59_S0.json",
        AzureLayout(): f"insights-logs-storageread/{RESOURCE}/y={later[:4]}/m={later[5:7]}/d={later[8:]}/h=00/m=00/PT1H.json",
    }
    for key in keys.values():
        disk.put(key, b"x")
    for layout, key in keys.items():
        assert found(layout, disk.place()) == [key]


PARTITIONED = f"{ACCOUNT}/us-west-2/amzn-s3-demo-bucket/"


@pytest.mark.parametrize("prefix", ["", "logs/", "access-", "logs/access-"])
def test_access_logs_of_both_layouts_are_found(storage: Storage, prefix: str) -> None:
    recent = [
        f"{prefix}2026-04-30-00-00-00-0123456789ABCDEF",
        f"{prefix}2026-05-02-02-10-00-0123456789ABCDEF",
        f"{prefix}2026-05-03-00-00-00-0123456789ABCDEF",
        f"{prefix}{PARTITIONED}2026/05/01/2026-05-01-00-00-00-0123456789ABCDEF",
    ]
    old = [f"{prefix}2026-04-29-23-59-59-0123456789ABCDEF", f"{prefix}{PARTITIONED}2026/04/29/2026-04-29-00-00-00-0123456789ABCDEF"]
    others = [f"{prefix}report.csv", f"{prefix}2026-05-01", "elsewhere/2026-05-01-00-00-00-0123456789ABCDEF"]
    for key in (*recent, *old, *others):
        storage.put(key, b"x")
    layout = S3AccessLayout(prefix=prefix)
    assert found(layout, storage.place()) == sorted(recent)
    assert sorted(each.key for each in storage.place().list() if layout.belongs(each.key)) == sorted(recent + old)


def test_audit_logs_of_a_sink_are_found_with_their_addenda(storage: Storage) -> None:
    root = "cloudaudit.googleapis.com"
    recent = [
        f"{root}/activity/2026/05/01/08:00:00_08:59:59_S0.json",
        f"{root}/data_access/2026/05/01/08:00:00_08:59:59_S1.json",
        f"{root}/data_access/2026/05/01/08:00:00_08:59:59_A0:1777622700.json",
    ]
    others = [f"{root}/data_access/2026/04/01/08:00:00_08:59:59_S0.json", "syslog/2026/05/01/08:00:00_08:59:59_S0.json"]
    for key in (*recent, *others):
        storage.put(key, b"x")
    assert found(GCPLayout(), storage.place()) == sorted(recent)
    assert not GCPLayout().belongs(others[1])
    assert GCPLayout().belongs(others[0])
    assert found(GCPLayout(), storage.place(f"{root}/activity")) == ["2026/05/01/08:00:00_08:59:59_S0.json"]


def test_hourly_blobs_of_a_category_are_found(storage: Storage) -> None:
    recent = [f"{RESOURCE}/y=2026/m=05/d=0{day}/h=02/m=00/PT1H.json" for day in (1, 2, 3)]
    for key in (*recent, f"{RESOURCE}/y=2026/m=04/d=29/h=02/m=00/PT1H.json", f"{RESOURCE}/y=2026/m=05/d=01/h=02/m=00/other.txt"):
        storage.put(key, b"x")
    assert found(AzureLayout(), storage.place()) == recent


def test_hourly_blobs_of_all_categories_are_found_in_their_containers(azurite_url: str) -> None:
    client = blob_client(azurite_url)
    key = f"{RESOURCE}/y=2026/m=05/d=01/h=02/m=00/PT1H.json"
    for container in ("insights-logs-storageread", "insights-logs-amlmodelsevent", "insights-metrics-pt1m", "data"):
        client.create_container(container).upload_blob(key, b"x")
    try:
        place = AzureBlobs(client)
        assert {f"insights-logs-amlmodelsevent/{key}", f"insights-logs-storageread/{key}"} <= {*found(AzureLayout(), place)}
        assert not [each for each in found(AzureLayout(), place) if not each.startswith("insights-logs-")]
        assert found(AzureLayout(categories=frozenset({"storageread"})), place) == [f"insights-logs-storageread/{key}"]
        assert not AzureLayout().belongs(f"insights-metrics-pt1m/{key}")
    finally:
        for container in ("insights-logs-storageread", "insights-logs-amlmodelsevent", "insights-metrics-pt1m", "data"):
            client.delete_container(container)


@pytest.mark.parametrize("layout", [MLflowLayout(), KubernetesLayout()])
def test_flat_logs_are_found_by_when_they_were_written(disk: Disk, layout: Layout) -> None:
    names = [
        "audit.log",
        "audit-2026-05-01T00-00-00.000.log",
        "audit-2026-05-01T00-00-00.000.log.gz",
        "server-1.jsonl",
        "server-1.jsonl.1",
        "x/audit.json",
    ]
    for name in (*names, "mlflow.db", "README", ".audit.log.swp", "x/.hidden.jsonl"):
        disk.put(name, b"x")
    now = since_epoch(datetime.now(UTC))
    assert found(layout, disk.place(), now=now) == sorted(names)
    assert found(layout, disk.place(), now=now + 4 * 86_400_000_000) == []
    assert found(layout, disk.place(), now=now - 400 * 86_400_000_000) == sorted(names)  # The clock went back.


def test_weights_and_biases_keeps_its_logs_beside_everything_else(storage: Storage) -> None:
    for key in ("wandb-audit-logs/2026-05-01.json", "wandb_artifacts/1/model.json", "file"):
        storage.put(key, b"x")
    now = since_epoch(datetime.now(UTC))
    assert found(WandBLayout(), storage.place(), now=now) == ["wandb-audit-logs/2026-05-01.json"]
    assert found(WandBLayout(), storage.place("wandb-audit-logs"), now=now) == ["2026-05-01.json"]


def test_only_what_is_appended_to_grows() -> None:
    assert AzureLayout().grows("resourceId=/y=2026/m=05/d=01/h=00/m=00/PT1H.json")
    assert MLflowLayout().grows("server-1.jsonl")
    assert KubernetesLayout().grows("audit.log")
    assert not KubernetesLayout().grows("audit-2026-05-01T00-00-00.000.log.gz")
    for layout in (CloudTrailLayout(), S3AccessLayout(), GCPLayout()):
        assert not layout.grows("x.json")


def test_every_log_has_a_layout_that_says_all_about_it() -> None:
    assert {*LAYOUTS} == {*SOURCES}
    for source, layout in LAYOUTS.items():
        assert layout.source == source
        assert timedelta(0) < layout.late <= layout.latest
        assert layout.quiet > timedelta(0)
        assert [*layout.read(b"")] == []
        assert layout() == layout()


@given(start=st.dates(date(1970, 1, 1), date(9000, 1, 1)), day=st.integers(-800, 360))
def test_beginnings_are_of_every_day_since_and_of_none_before(start: date, day: int) -> None:
    beginnings = [*beginnings_since(start)]
    assert len(beginnings) < 25
    moment = start + timedelta(days=day)
    assert sum(moment.isoformat().startswith(beginning) for beginning in beginnings) == (1 if moment >= start else 0)


@settings(max_examples=30)
@given(now=st.integers(-(10**15), 4 * 10**15), days=st.integers(0, 100_000))
def test_a_window_begins_at_the_epoch_at_the_earliest(now: int, days: int) -> None:
    first = first_day(now, days)
    assert date(1970, 1, 1) <= first
    if now >= 0:
        assert first <= (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=now)).date()
