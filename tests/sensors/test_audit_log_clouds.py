"""The sensor on Google Cloud Storage and on Azure: the project's own resource, a server that answers, and what is delivered there.

Of Azure Data Lake Storage, Azurite has the Blob service and no DFS endpoint. The sensor asks for none: of the two clients that
`ADLS2Resource` has it reads with the one of the Blob service, and that is what really runs here, over TLS and under the names that the
resource itself makes.
"""

import json
import socket
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import dagster as dg
import pytest

import mlsec_dagster as mlsec
from tests.audit.documented import AZURE, GCP
from tests.audit.places.storages import AZURITE_ACCOUNT, AZURITE_KEY, azurite, azurite_executable, cloud_storage
from tests.audit.trail.made import ids, rows
from tests.sensors.test_audit_log import tick, trail_of

DAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
"""Of what is delivered: yesterday, which no tick's window leaves out."""


def told(result: Any) -> dict[str, int]:
    """What the materializations of a tick say: new rows by day."""
    return {
        event.partition: event.metadata["new rows"].value for event in result.asset_events if isinstance(event, dg.AssetMaterialization)
    }


def check(result: Any) -> Any:
    (only,) = [event for event in result.asset_events if isinstance(event, dg.AssetCheckEvaluation)]
    return only


def day(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d")


# --- Google Cloud Storage


@pytest.fixture
def gcs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The bucket of a sink; the environment leads every client of Google Cloud Storage there."""
    with cloud_storage(monkeypatch.setitem) as client:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", client.api_endpoint)
        yield client.create_bucket(f"sink-{uuid4().hex}")


def entry(number: int, moment: datetime) -> bytes:
    """A log entry as the documentation has it, with a time and an identity of its own."""
    when = moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return json.dumps({**json.loads(GCP.lines[0]), "insertId": f"insert-{number}", "timestamp": when}).encode() + b"\n"


def entries(home: Path) -> Counter[str]:
    """How often each entry is in the trail, by its `insertId`."""
    return Counter(identity.rpartition("|")[2] for identity in ids(trail_of(home)).elements())


def shard(moment: datetime, name: str) -> str:
    """Where a sink puts the entries of an hour: https://cloud.google.com/logging/docs/export/storage"""
    return f"cloudaudit.googleapis.com/data_access/{moment:%Y/%m/%d}/{moment:%H}:00:00_{moment:%H}:59:59_{name}.json"


def test_what_a_sink_delivers_to_google_cloud_storage_is_in_the_trail_once(
    gcs: Any, instance: dg.DagsterInstance, dagster_home: Path
) -> None:
    from dagster_gcp import GCSResource

    resource = GCSResource(project="test")
    first, last = DAY + timedelta(hours=10), DAY + timedelta(hours=23)
    # Two sinks over one another deliver an entry twice, and an entry belongs to the day of its own time.
    gcs.blob(shard(first, "S0")).upload_from_string(b"".join(entry(number, first + timedelta(seconds=number)) for number in range(3)))
    gcs.blob(shard(first, "S1")).upload_from_string(entry(2, first + timedelta(seconds=2)) + entry(3, first + timedelta(seconds=3)))
    gcs.blob(shard(last, "S0")).upload_from_string(entry(4, last + timedelta(hours=1)))
    gcs.blob("export/2026/table.json").upload_from_string(b"of somebody else")
    sensor = mlsec.build_audit_log_sensor(source=mlsec.GCPAuditLogs(bucket=gcs.name))
    result = tick(sensor, instance, gcs=resource)
    assert told(result) == {day(DAY): 4, day(DAY + timedelta(days=1)): 1}
    assert entries(dagster_home) == {f"insert-{number}": 1 for number in range(5)}
    assert {row["log_object"].partition(":00:00")[0] for row in rows(trail_of(dagster_home), "log_object")} == {
        f"gs://{gcs.name}/cloudaudit.googleapis.com/data_access/{moment:%Y/%m/%d/%H}" for moment in (first, last)
    }
    assert check(result).passed

    again = tick(sensor, instance, result.cursor, gcs=resource)
    assert not again.asset_events
    assert "Nothing new" in again.skip_message

    # What comes late comes as an addendum, into the folder of its hour; the bucket is the same for a sensor that has started anew.
    gcs.blob(shard(first, f"A0:{int(last.timestamp())}")).upload_from_string(
        entry(3, first + timedelta(seconds=3)) + entry(5, first + timedelta(seconds=5))
    )
    anew = mlsec.build_audit_log_sensor(source=mlsec.GCPAuditLogs(bucket=gcs.name))
    assert told(tick(anew, instance, again.cursor, gcs=resource)) == {day(DAY): 1}
    assert entries(dagster_home) == {f"insert-{number}": 1 for number in range(6)}


# --- Azure

SUFFIX = "core.localhost"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for the account's host, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "azurite")])
    hosts = x509.SubjectAlternativeName([x509.DNSName(f"*.blob.{SUFFIX}"), x509.IPAddress(ip_address("127.0.0.1"))])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(hosts, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    home = tmp_path_factory.mktemp("certificate")
    (home / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (home / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return home / "cert.pem", home / "key.pem"


@pytest.fixture(scope="module")
def azurite_port(tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path]) -> Iterator[int]:
    executable = azurite_executable()
    if executable is None:
        pytest.skip("needs Azurite: `npm install azurite`, and name its azurite-blob in MLSEC_AZURITE if it is not found")
    with azurite(executable, tmp_path_factory.mktemp("azurite"), certificate=certificate) as url:
        yield int(urlsplit(url).port or 0)


@pytest.fixture
def endpoint_suffix(azurite_port: int, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> str:
    """The suffix of an `ADLS2Resource` whose account is Azurite's.

    Names below "localhost" are this machine's (RFC 6761, 6.3), which not every resolver knows.
    """
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))
    ask = socket.getaddrinfo

    def resolved(host: Any, *rest: Any, **more: Any) -> Any:
        return ask("127.0.0.1" if isinstance(host, str) and host.endswith(".localhost") else host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    return f"{SUFFIX}:{azurite_port}"


@pytest.fixture(params=["key", "signature"])
def adls2(request: pytest.FixtureRequest, endpoint_suffix: str) -> Any:
    """The project's resource, with the account's key or with a shared access signature that may only read and list."""
    from azure.storage.blob import AccountSasPermissions, ResourceTypes, generate_account_sas
    from dagster_azure.adls2 import ADLS2Key, ADLS2Resource, ADLS2SASToken

    if request.param == "key":
        credential: Any = ADLS2Key(key=AZURITE_KEY)
    else:
        token = generate_account_sas(
            AZURITE_ACCOUNT,
            AZURITE_KEY,
            ResourceTypes(service=True, container=True, object=True),
            AccountSasPermissions(read=True, list=True),
            datetime.now(UTC) + timedelta(hours=1),
        )
        credential = ADLS2SASToken(token=token)
    return ADLS2Resource(storage_account=AZURITE_ACCOUNT, credential=credential, endpoint_suffix=endpoint_suffix)


@pytest.fixture
def account(endpoint_suffix: str) -> Iterator[Any]:
    """The account of the logs as Azure Monitor writes into it, without any container."""
    from dagster_azure.adls2 import ADLS2Key, ADLS2Resource

    client = ADLS2Resource(
        storage_account=AZURITE_ACCOUNT, credential=ADLS2Key(key=AZURITE_KEY), endpoint_suffix=endpoint_suffix
    ).blob_client
    yield client
    for container in client.list_containers():
        client.delete_container(container.name)


def record(number: int, moment: datetime, **more: Any) -> bytes:
    """A resource log as the documentation has it, with a time and an identity of its own."""
    when = moment.strftime("%Y-%m-%dT%H:%M:%S.%f0Z")
    return json.dumps({**json.loads(AZURE.lines[0]), "correlationId": f"request-{number}", "time": when, **more}).encode() + b"\n"


def hourly(moment: datetime) -> str:
    """Where Azure Monitor puts what it received within an hour: https://learn.microsoft.com/azure/azure-monitor/platform/resource-logs"""
    resource = json.loads(AZURE.lines[0])["resourceId"]
    return f"resourceId={resource}/y={moment:%Y}/m={moment:%m}/d={moment:%d}/h={moment:%H}/m=00/PT1H.json"


def accesses(home: Path) -> Counter[str]:
    """How often each access is in the trail, by the correlation id that the log gave it."""
    return Counter(row["correlation"] for row in rows(trail_of(home), "correlation"))


def test_an_append_blob_that_grows_between_two_ticks_is_in_the_trail_once(
    account: Any, adls2: Any, instance: dg.DagsterInstance, dagster_home: Path
) -> None:
    container = account.create_container("insights-logs-storageread")
    moment = DAY + timedelta(hours=23)
    blob = container.get_blob_client(hourly(moment))
    blob.create_append_blob()
    begun = record(3, moment + timedelta(hours=1))
    # A block ends where it ends: here in the middle of a record.
    blob.append_block(b"".join(record(number, moment + timedelta(seconds=number)) for number in range(3)) + begun[:100])
    sensor = mlsec.build_audit_log_sensor(source=mlsec.AzureMonitor(bucket="insights-logs-storageread"))
    result = tick(sensor, instance, adls2=adls2)
    assert told(result) == {day(DAY): 3}
    assert check(result).passed

    again = tick(sensor, instance, result.cursor, adls2=adls2)
    assert not again.asset_events
    assert "Nothing new" in again.skip_message

    # The rest of it, one more, and one that is delivered a second time.
    blob.append_block(begun[100:] + record(4, moment) + record(1, moment + timedelta(seconds=1)))
    grown = tick(sensor, instance, again.cursor, adls2=adls2)
    assert told(grown) == {day(DAY): 1, day(DAY + timedelta(days=1)): 1}
    assert accesses(dagster_home) == {f"request-{number}": 1 for number in range(5)}
    assert not told(tick(sensor, instance, grown.cursor, adls2=adls2))
    assert {(row["log_object"], row["kind"]) for row in rows(trail_of(dagster_home), "log_object", "kind")} == {
        (f"abfss://insights-logs-storageread@{AZURITE_ACCOUNT}/{hourly(moment)}", "event")
    }
    stored = b"".join(file.read_bytes() for file in (dagster_home / "mlsec" / "trail").rglob("*.parquet"))
    assert b"c2VjcmV0" not in stored  # The signature within the documented address.


def test_one_sensor_reads_all_logs_of_an_account_and_no_other_container(
    account: Any, adls2: Any, instance: dg.DagsterInstance, dagster_home: Path
) -> None:
    moment = DAY + timedelta(hours=9)
    for number, category in enumerate(("storageread", "storagewrite", "amlmodelsevent")):
        container = account.create_container(f"insights-logs-{category}")
        container.get_blob_client(hourly(moment)).create_append_blob()
        container.get_blob_client(hourly(moment)).append_block(record(number, moment, category=category))
    account.create_container("lake").upload_blob(hourly(moment), record(9, moment))
    source = mlsec.AzureMonitor(bucket="*", categories=["storageread", "storagewrite"])
    sensor = mlsec.build_audit_log_sensor(source=source)
    result = tick(sensor, instance, adls2=adls2)
    assert told(result) == {day(DAY): 2}
    assert accesses(dagster_home) == {"request-0": 1, "request-1": 1}
    assert not told(tick(sensor, instance, result.cursor, adls2=adls2))
