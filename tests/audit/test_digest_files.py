"""Digest files made and signed as CloudTrail documents it, and then everything that somebody may do to them or to what they name."""

import gzip
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from botocore.stub import ANY, Stubber
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from hypothesis import given, settings
from hypothesis import strategies as st

from mlsec_dagster.audit.digest_chains import check_chain, check_unnamed
from mlsec_dagster.audit.digest_files import (
    DigestFile,
    DigestFinding,
    check_log,
    check_signature,
    parse,
    public_keys,
    signed_bytes,
    unreadable,
)
from mlsec_dagster.audit.limits import Limits
from mlsec_dagster.audit.objects import LogObject
from mlsec_dagster.audit.times import since_epoch
from mlsec_dagster.errors import UnverifiableError
from tests.audit.trail.deliveries import der, fingerprint, signed

BUCKET = "amzn-s3-demo-bucket"
ACCOUNT = "111122223333"
FIRST = datetime(2026, 5, 1, 14, 1, 31, tzinfo=UTC)
KEY = generate_private_key(65537, 2048)
OTHER = generate_private_key(65537, 2048)


KEYS = {fingerprint(KEY): der(KEY)}


def utc(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class Trail:
    """CloudTrail: it delivers log files and every hour a digest file into a bucket. Written from its documentation, not from our code."""

    region: str = "us-east-2"
    key: RSAPrivateKey = KEY
    objects: dict[str, tuple[bytes, dict[str, str]]] = field(default_factory=dict)
    digests: list[str] = field(default_factory=list)
    previous: tuple[str, bytes, str] | None = None

    def log(self, moment: datetime, name: str = "Mu0KsOhtH1ar15ZZ") -> dict[str, Any]:
        content = json.dumps({"Records": [{"eventID": f"{moment}{name}"}]}).encode()
        name = f"{ACCOUNT}_CloudTrail_{self.region}_{moment:%Y%m%dT%H%MZ}_{name}.json.gz"
        key = f"AWSLogs/{ACCOUNT}/CloudTrail/{self.region}/{moment:%Y/%m/%d}/{name}"
        self.objects[key] = (gzip.compress(content), {})
        return {
            "s3Bucket": BUCKET,
            "s3Object": key,
            "hashValue": hashlib.sha256(content).hexdigest(),
            "hashAlgorithm": "SHA-256",
            "newestEventTime": utc(moment),
            "oldestEventTime": utc(moment),
        }

    def deliver(self, hour: int, logs: int = 2) -> str:
        start = FIRST + timedelta(hours=hour)
        end = start + timedelta(hours=1)
        key = (
            f"AWSLogs/{ACCOUNT}/CloudTrail-Digest/{self.region}/{end:%Y/%m/%d}/"
            f"{ACCOUNT}_CloudTrail-Digest_{self.region}_trail_us-east-2_{end:%Y%m%dT%H%M%SZ}.json.gz"
        )
        previous_key, previous_content, previous_signature = self.previous or (None, None, None)
        content = json.dumps(
            {
                "awsAccountId": ACCOUNT,
                "digestStartTime": utc(start),
                "digestEndTime": utc(end),
                "digestS3Bucket": BUCKET,
                "digestS3Object": key,
                "digestPublicKeyFingerprint": fingerprint(self.key),
                "digestSignatureAlgorithm": "SHA256withRSA",
                "newestEventTime": None,
                "oldestEventTime": None,
                "previousDigestS3Bucket": BUCKET if previous_key else None,
                "previousDigestS3Object": previous_key,
                "previousDigestHashValue": hashlib.sha256(previous_content).hexdigest() if previous_content else None,
                "previousDigestHashAlgorithm": "SHA-256" if previous_key else None,
                "previousDigestSignature": previous_signature,
                "logFiles": [self.log(start + timedelta(minutes=10 * number + 5)) for number in range(logs)],
            }
        ).encode()
        signature = signed(self.key, content)
        self.objects[key] = (gzip.compress(content), {"signature": signature, "signature-algorithm": "SHA256withRSA"})
        self.digests.append(key)
        self.previous = (key, content, signature)
        return key

    def edit(self, key: str, change: Any, *, sign: bool = False) -> None:
        """Change a digest file, as somebody with write access to the bucket could."""
        data, metadata = self.objects[key]
        told = json.loads(gzip.decompress(data))
        change(told)
        content = json.dumps(told).encode()
        self.objects[key] = (gzip.compress(content), {**metadata, "signature": signed(self.key, content)} if sign else metadata)


def delivered(hours: int = 4) -> Trail:
    trail = Trail()
    for hour in range(hours):
        trail.deliver(hour)
    return trail


def at(hour: float) -> int:
    return since_epoch(FIRST + timedelta(hours=hour))


def audit(trail: Trail, *, keys: Mapping[str, bytes] = KEYS, since: int = 0, until: int | None = None) -> list[DigestFinding]:
    """All that can be said of a bucket."""

    def every() -> Iterator[DigestFinding]:
        verified: list[DigestFile] = []
        for key, (data, metadata) in trail.objects.items():
            if "/CloudTrail-Digest/" not in key:
                continue
            try:
                digest = parse(data, metadata)
            except UnverifiableError as error:
                yield unreadable(BUCKET, key, error)
                continue
            wrong = [*check_signature(digest, keys, bucket=BUCKET, key=key)]
            yield from wrong
            if not wrong:
                verified.append(digest)
        yield from check_chain(verified, since=since, until=until)
        for digest in verified:
            for log in digest.logs:
                yield from check_log(log, trail.objects.get(log.key, (None, {}))[0])
        listed = [LogObject(key, "1", 1, 1) for key in trail.objects]
        yield from check_unnamed(listed, verified, bucket=BUCKET)

    return [*every()]


def told(findings: list[DigestFinding]) -> set[tuple[str, str]]:
    return {(finding.kind, finding.key) for finding in findings}


def test_what_was_delivered_passes() -> None:
    trail = delivered()
    assert audit(trail, until=at(5)) == []
    assert len(trail.digests) == 4


def test_the_documented_string_is_what_is_signed() -> None:
    trail = delivered(1)
    digest = parse(*trail.objects[trail.digests[0]])
    assert signed_bytes(digest).decode().split("\n") == ["2026-05-01T15:01:31Z", f"{BUCKET}/{trail.digests[0]}", digest.sha256, "null"]


def test_a_deleted_log_file_is_named() -> None:
    trail = delivered()
    gone = next(key for key in trail.objects if "/CloudTrail/" in key)
    del trail.objects[gone]
    assert told(audit(trail)) == {("missing", gone)}


def test_an_altered_log_file_is_named() -> None:
    trail = delivered()
    changed = next(key for key in trail.objects if "/CloudTrail/" in key)
    trail.objects[changed] = (gzip.compress(b'{"Records": []}'), {})
    assert told(audit(trail)) == {("altered", changed)}
    trail.objects[changed] = (trail.objects[changed][0][:-9], {})
    assert told(audit(trail)) == {("altered", changed)}


def test_a_log_file_that_is_compressed_anew_is_the_same() -> None:
    trail = delivered()
    for key, (data, metadata) in [*trail.objects.items()]:
        trail.objects[key] = (gzip.compress(gzip.decompress(data), 1, mtime=1), metadata)
    assert audit(trail) == []


def test_two_log_files_that_changed_places_are_both_named() -> None:
    trail = delivered()
    one, other = [key for key in trail.objects if "/CloudTrail/" in key][:2]
    trail.objects[one], trail.objects[other] = trail.objects[other], trail.objects[one]
    assert told(audit(trail)) == {("altered", one), ("altered", other)}


def test_a_planted_log_file_is_named() -> None:
    trail = delivered()
    trail.log(FIRST + timedelta(minutes=20), "PlantedPlanted00")
    planted = [*trail.objects][-1]
    assert told(audit(trail)) == {("unverifiable", planted)}


def test_a_log_file_that_no_digest_file_can_name_yet_is_no_finding() -> None:
    trail = delivered()
    trail.log(FIRST + timedelta(hours=3, minutes=50), "NotYetNotYetNot0")
    trail.log(FIRST + timedelta(hours=9), "NotYetNotYetNot0")
    assert audit(trail) == []


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_deleted_digest_file_is_named(index: int) -> None:
    trail = delivered()
    gone = trail.digests[index]
    del trail.objects[gone]
    assert ("missing", gone) in told(audit(trail))


def test_a_digest_file_before_the_window_is_not_asked_for() -> None:
    trail = delivered()
    for gone in trail.digests[:2]:
        del trail.objects[gone]
    assert [finding for finding in audit(trail, since=at(2)) if finding.kind == "missing"] == []


def test_digest_files_that_are_missing_at_the_end_are_told() -> None:
    trail = delivered()
    del trail.objects[trail.digests[3]]
    assert told(audit(trail, until=at(4.5))) == set()  # The next one may still come.
    assert ("missing", trail.digests[2]) in told(audit(trail, until=at(5.5)))


@pytest.mark.parametrize(
    "change",
    [
        lambda told: told["logFiles"].pop(),
        lambda told: told["logFiles"][0].update(hashValue="00" * 32),
        lambda told: told.update(digestEndTime="2026-05-01T23:01:31Z"),
        lambda told: told.update(previousDigestSignature=None),
        lambda told: told.update(previousDigestHashValue="00" * 32),
        lambda told: told.update(awsAccountId="999999999999"),
    ],
)
def test_an_edited_digest_file_has_a_bad_signature(change: Any) -> None:
    trail = delivered()
    trail.edit(trail.digests[1], change)
    findings = told(audit(trail))
    assert ("bad signature", trail.digests[1]) in findings
    assert ("missing", trail.digests[1]) in findings  # As a link of the chain it counts for nothing.


def test_a_digest_file_signed_by_somebody_else_does_not_pass() -> None:
    trail = delivered()
    trail.key = OTHER
    forged = lambda told: told.update(logFiles=[], digestPublicKeyFingerprint=fingerprint(OTHER))  # noqa: E731
    trail.edit(trail.digests[1], forged, sign=True)
    assert ("unverifiable", trail.digests[1]) in told(audit(trail))
    trail.edit(trail.digests[1], lambda told: told.update(digestPublicKeyFingerprint=fingerprint(KEY)), sign=True)
    assert ("bad signature", trail.digests[1]) in told(audit(trail))


def test_digest_files_that_changed_places_are_both_named() -> None:
    trail = delivered()
    one, other = trail.digests[1:3]
    trail.objects[one], trail.objects[other] = trail.objects[other], trail.objects[one]
    assert {("altered", one), ("altered", other)} <= told(audit(trail))


def test_an_older_digest_file_in_a_new_ones_place_is_named() -> None:
    trail = delivered()
    trail.objects[trail.digests[2]] = trail.objects[trail.digests[1]]
    assert {("altered", trail.digests[2]), ("missing", trail.digests[2])} <= told(audit(trail))


def test_a_chain_that_begins_anew_is_told() -> None:
    trail = delivered(2)
    trail.previous = None
    trail.deliver(2)
    assert told(audit(trail)) == {("broken chain", trail.digests[2])}


def test_a_link_that_names_another_content_or_signature_is_told() -> None:
    trail = delivered()
    digests = [parse(*trail.objects[key]) for key in trail.digests]
    altered = msgspec.structs.replace(digests[1], sha256="00" * 32)
    assert told([*check_chain([digests[0], altered, *digests[2:]], since=0)]) == {("altered", digests[1].key)}
    other = msgspec.structs.replace(digests[1], signature="00")
    assert told([*check_chain([digests[0], other, *digests[2:]], since=0)]) == {("broken chain", digests[2].key)}
    fork = msgspec.structs.replace(digests[3], previous_key=digests[1].key, previous_sha256=digests[1].sha256)
    assert ("broken chain", digests[3].key) in told([*check_chain([*digests[:3], fork], since=0)])


def test_regions_and_backfill_are_chains_of_their_own() -> None:
    trail, elsewhere = delivered(), Trail(region="eu-west-1")
    for hour in range(3):
        elsewhere.deliver(hour)
    both = Trail(objects={**trail.objects, **elsewhere.objects})
    assert audit(both) == []
    digest = parse(*trail.objects[trail.digests[0]])
    backfill = msgspec.structs.replace(digest, key=digest.key.replace(".json.gz", "_backfill.json.gz"))
    assert backfill.chain != digest.chain
    assert [*check_chain([backfill, *(parse(*trail.objects[key]) for key in trail.digests)], since=0)] == []


@pytest.mark.parametrize(
    ("metadata", "keys", "kind"),
    [
        ({}, KEYS, "unverifiable"),
        ({"signature": "no hexadecimal"}, KEYS, "bad signature"),
        ({"signature": ""}, KEYS, "bad signature"),
        (None, {}, "unverifiable"),
        (None, {fingerprint(KEY): b"no key"}, "unverifiable"),
    ],
)
def test_what_cannot_be_verified_is_a_finding(metadata: Any, keys: Any, kind: str) -> None:
    trail = delivered(1)
    [key] = trail.digests
    if metadata is not None:
        trail.objects[key] = (trail.objects[key][0], metadata)
    assert (kind, key) in told(audit(trail, keys=keys))


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\x1f\x8b", gzip.compress(b'{"awsAccountId": 1}', mtime=0), b"PK\x03\x04"])
def test_what_is_no_digest_file_is_a_finding(data: bytes) -> None:
    trail = delivered(1)
    [key] = trail.digests
    trail.objects[key] = (data, trail.objects[key][1])
    assert ("unverifiable", key) in told(audit(trail))


def test_a_log_file_that_is_a_bomb_or_hashed_otherwise_is_unverifiable() -> None:
    trail = delivered(1)
    [log, _] = parse(*trail.objects[trail.digests[0]]).logs
    bomb = gzip.compress(bytes(4 << 20))
    assert [finding.kind for finding in check_log(log, bomb, limits=Limits(decoded_bytes=1 << 20))] == ["unverifiable"]
    assert [finding.kind for finding in check_log(msgspec.structs.replace(log, algorithm="MD5"), b"")] == ["unverifiable"]


def test_keys_come_from_list_public_keys_page_by_page() -> None:
    import boto3

    client = boto3.client("cloudtrail", region_name="us-east-2", aws_access_key_id="x", aws_secret_access_key="x")
    with Stubber(client) as stub:
        asked = {"StartTime": FIRST, "EndTime": FIRST + timedelta(hours=1)}
        first = {"PublicKeyList": [{"Value": der(KEY), "Fingerprint": fingerprint(KEY)}], "NextToken": "more"}
        stub.add_response("list_public_keys", first, asked)
        stub.add_response(
            "list_public_keys", {"PublicKeyList": [{"Value": der(OTHER), "Fingerprint": fingerprint(OTHER)}]}, {**asked, "NextToken": ANY}
        )
        assert public_keys(client, at(0), at(1)) == {fingerprint(KEY): der(KEY), fingerprint(OTHER): der(OTHER)}


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_whatever_is_deleted_or_altered_is_named(data: st.DataObject) -> None:
    trail = delivered(3)
    key = data.draw(st.sampled_from(sorted(trail.objects)))
    content = bytearray(gzip.decompress(trail.objects[key][0]))
    if data.draw(st.booleans()):
        del trail.objects[key]
        if key == trail.digests[-1]:
            assert ("missing", trail.digests[-2]) in told(audit(trail, until=at(6)))
        else:
            assert ("missing", key) in told(audit(trail))
        return
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    trail.objects[key] = (gzip.compress(bytes(content)), trail.objects[key][1])
    assert key in {finding.key for finding in audit(trail)}
