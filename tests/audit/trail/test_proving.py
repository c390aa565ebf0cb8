"""Digest files in a bucket of a real server, verified tick by tick, and everything that somebody may do to them meanwhile."""

import gzip
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from sqlalchemy import update

from mlsec_dagster.audit.completeness import watermark
from mlsec_dagster.audit.findings import acknowledge
from mlsec_dagster.audit.ingestion import Ingestion
from mlsec_dagster.audit.layouts import CloudTrailLayout
from mlsec_dagster.audit.log_source import LogSource
from mlsec_dagster.audit.places import Directory, S3Bucket
from mlsec_dagster.audit.proving import COPIES, NOT_SWITCHED_ON, Proof, prove
from mlsec_dagster.audit.public_keys import KeysUnavailableError, PublicKeys
from mlsec_dagster.audit.state import LocationState
from mlsec_dagster.audit.ticks import Budget
from mlsec_dagster.audit.trail import Trail
from mlsec_dagster.errors import ConfigurationError
from mlsec_dagster.integrity.ledger import Ledger, open_ledger
from mlsec_dagster.storage import log_digests, log_positions
from mlsec_dagster.storage.database import Database
from mlsec_dagster.storage.tables import log_locations
from tests.audit.trail.deliveries import KEY, STRANGER, Delivering, der, fingerprint
from tests.audit.trail.made import Nobody, delivery, source_of

HOUR = 3_600_000_000


class Region:
    """CloudTrail's own answer, without a network."""

    def __init__(self, *keys: Any, code: str | None = None) -> None:
        self.keys = keys
        self.code = code
        self.asked: list[str] = []

    def __call__(self, region: str) -> Any:
        self.asked.append(region)
        return self

    def get_paginator(self, _: str) -> Any:
        return self

    def paginate(self, **_: Any) -> Iterator[Any]:
        if self.code:
            raise ClientError({"Error": {"Code": self.code}}, "ListPublicKeys")
        yield {"PublicKeyList": [{"Fingerprint": fingerprint(key), "Value": der(key)} for key in self.keys]}


class Watch:
    """An ingestion and a proof of one place, as a new process would make them each time."""

    def __init__(self, ledger: Ledger, trail: Trail, aws: Delivering, prefix: str = "") -> None:
        self.database = ledger.database
        self.ledger = ledger
        self.trail = trail
        self.aws = aws
        self.source = LogSource(S3Bucket(aws.client, aws.bucket, prefix), CloudTrailLayout())
        self.region = Region(KEY)

    def ingest(self) -> Any:
        return Ingestion(self.database, self.trail, self.source, Nobody(), ledger=self.ledger).tick(Budget())

    def prove(self, hours: float = 0, *, now: int | None = None, budget: Any = None) -> Proof:
        """Prove, by default as of half an hour after the last digest file that was delivered (and then so many hours)."""
        moment = now if now is not None else self.aws.end(len(self.aws.digests)) + int((hours + 0.5) * HOUR)
        return prove(self.database, self.source, PublicKeys(client=self.region), budget or Budget(), now=moment)

    def tick(self, hours: float = 0) -> Proof:
        self.ingest()
        return self.prove(hours)

    @property
    def state(self) -> LocationState:
        with self.database.read() as connection:
            known = log_positions.known_location(connection, self.source.place.uri)
        return LocationState.read(known[1]) if known else LocationState()


@pytest.fixture
def aws(s3_bucket: str) -> Delivering:
    return Delivering(boto3.client("s3"), s3_bucket)


@pytest.fixture
def watch(ledger: Ledger, trail: Trail, aws: Delivering) -> Watch:
    return Watch(ledger, trail, aws)


def told(proof: Proof) -> set[tuple[str, str]]:
    return {(finding.kind, finding.key) for finding in proof.findings}


# --- what was delivered


@pytest.mark.parametrize("prefix", ["", "AWSLogs/", "AWSLogs/111122223333/"])
def test_what_was_delivered_is_proven_wherever_the_place_begins(ledger: Ledger, trail: Trail, aws: Delivering, prefix: str) -> None:
    watch = Watch(ledger, trail, aws, prefix)
    for hour in range(3):
        aws.deliver(hour)
    proof = watch.tick()
    assert (proof.verified, proof.findings) == (3, [])
    assert watch.state.proven_to == aws.end(3)
    assert not watch.state.unproven
    assert not watch.state.silent
    assert watch.prove().verified == 0


def test_a_log_file_is_hashed_while_it_is_read_and_not_read_again(watch: Watch, aws: Delivering) -> None:
    aws.deliver(0)
    assert watch.tick().read == 2  # Nobody knew then that digest files would come.
    aws.deliver(1, logs=5)
    proof = watch.tick()
    assert (proof.verified, proof.read, proof.findings) == (1, 0, [])
    assert watch.state.proven_to == aws.end(2)


def test_positions_in_postgresql_do_all_that_those_in_sqlite_do(ledger: Ledger, trail: Trail, aws: Delivering, postgres_url: str) -> None:
    watch = Watch(open_ledger(postgres_url, signer=ledger.signer, trust=ledger.trust), trail, aws)
    aws.deliver(0)
    assert told(watch.tick()) == set()
    for hour in range(1, 12):
        aws.deliver(hour, logs=1)
    planted = aws.log_key(aws.first, "PlantedPlanted00")
    aws.put(planted, delivery(range(900, 901)))
    aws.delete(aws.logs[-1])
    assert told(watch.tick()) == {("missing", aws.logs[-1]), ("unverifiable", planted)}
    assert watch.state.proven_to == aws.end(11)
    acknowledge(watch.database, watch.source.place.uri, watch.state.findings)
    assert watch.state.findings == []
    with watch.database.read() as connection:
        (chain,) = log_digests.all_chains(connection, 1).values()
    assert (chain.proven, chain.broken) == (aws.end(12), False)


def test_hours_in_which_nothing_happened_are_proven_too(watch: Watch, aws: Delivering) -> None:
    for hour in range(3):
        aws.deliver(hour, logs=0)
    watch.tick()
    assert watch.state.proven_to == aws.end(3)


def test_the_proof_goes_no_further_than_the_chain_that_is_farthest_behind(watch: Watch, aws: Delivering) -> None:
    other = Delivering(aws.client, aws.bucket, region="eu-west-1", first=aws.first)
    for hour in range(3):
        aws.deliver(hour)
    other.deliver(0)
    watch.tick()
    assert watch.state.proven_to == other.end(1)
    assert watch.region.asked == ["us-east-2"] or watch.region.asked == ["eu-west-1"]  # The second time it is known.


def test_a_digest_file_that_comes_late_is_waited_for(watch: Watch, aws: Delivering) -> None:
    aws.deliver(0)
    late = aws.deliver(1)
    kept = aws.get(late)
    aws.delete(late)
    aws.deliver(2)
    proof = watch.tick(-2.5)
    assert (proof.findings, proof.waiting) == ([], 1)
    assert watch.state.proven_to == aws.end(1)
    aws.put(late, *kept)
    assert told(watch.tick()) == set()
    assert watch.state.proven_to == aws.end(3)


# --- attacks on log files


def test_a_deleted_log_file_is_found_and_the_proof_stays_before_it(watch: Watch, aws: Delivering) -> None:
    aws.deliver(0)
    aws.deliver(1)
    aws.deliver(2)
    gone = aws.logs[2]
    aws.delete(gone)
    assert told(watch.tick()) == {("missing", gone)}
    assert watch.state.proven_to == aws.end(1)
    aws.deliver(3)
    assert told(watch.tick()) == set()
    assert watch.state.proven_to == aws.end(1)
    assert [sentence for sentence in watch.state.findings if gone in sentence]
    mark = watermark(watch.source.place.uri, watch.state, aws.end(4))
    assert any(gone in problem for problem in mark.problems)


def test_a_missing_log_file_that_is_put_back_is_read_and_neither_planted_nor_rewritten(watch: Watch, aws: Delivering) -> None:
    aws.deliver(0)
    aws.deliver(1)
    gone = aws.logs[2]
    kept = aws.get(gone)[0]
    aws.delete(gone)
    watch.tick()
    aws.put(gone, kept)
    assert watch.ingest().tally.events == 3
    for hour in range(2, 12):
        aws.deliver(hour, logs=0)
    assert told(watch.tick()) == set()
    assert len(watch.state.findings) == 1
    assert not watch.state.rewritten


def test_after_weeks_in_which_nobody_looked_it_goes_on_where_each_chain_stood(watch: Watch, aws: Delivering) -> None:
    """Objects on the test's server are all written now, so the weeks lie behind."""
    aws.first -= timedelta(days=20)
    aws.deliver(0, logs=0)
    watch.tick()
    for hour in range(1, 24 * 3, 1):
        aws.deliver(hour, logs=0)
    later = aws.first + timedelta(days=20)
    proof = watch.prove(now=int(later.timestamp()) * 1_000_000)
    assert (proof.verified, proof.findings) == (24 * 3 - 1, [])
    assert watch.state.proven_to == aws.end(24 * 3)
    assert watch.state.silent


@pytest.mark.parametrize("read_before", [False, True])
def test_a_log_file_that_is_altered_before_or_after_it_was_read_is_found(watch: Watch, aws: Delivering, read_before: bool) -> None:
    aws.deliver(0)
    watch.tick()
    aws.deliver(1)
    if read_before:
        watch.ingest()
    aws.put(aws.logs[-1], delivery(range(900, 901)))
    assert told(watch.tick()) == {("altered", aws.logs[-1])}
    assert watch.state.proven_to == aws.end(1)


def test_a_log_file_that_is_altered_between_reading_and_proving_in_one_tick_is_found(watch: Watch, aws: Delivering) -> None:
    aws.deliver(0)
    watch.tick()
    aws.deliver(1)
    watch.ingest()
    aws.put(aws.logs[-1], delivery(range(900, 901)))
    assert told(watch.prove()) == {("altered", aws.logs[-1])}


def test_a_log_file_that_is_altered_after_it_was_verified_is_a_problem_of_the_log(watch: Watch, aws: Delivering) -> None:
    aws.deliver(0)
    watch.tick()
    aws.put(aws.logs[-1], delivery(range(900, 901)))
    assert told(watch.tick()) == set()
    assert watch.state.rewritten == [aws.logs[-1]]


def test_a_log_file_that_is_compressed_anew_is_the_same(watch: Watch, aws: Delivering) -> None:
    aws.deliver(0)
    aws.put(aws.logs[0], gzip.compress(gzip.decompress(aws.get(aws.logs[0])[0]), 1, mtime=1))
    assert told(watch.tick()) == set()


@pytest.mark.parametrize("name", ["20260101T0000Z_PlantedPlanted00", "no-name-of-cloudtrail"])
def test_a_planted_log_file_is_found_whatever_its_name_says(watch: Watch, aws: Delivering, name: str) -> None:
    for hour in range(12):  # Up to six hours from now: what is written now should be named by then.
        aws.deliver(hour, logs=1)
    folder = aws.logs[0].rpartition("/")[0]
    planted = f"{folder}/{name}.json.gz" if name.startswith("no") else f"{folder}/{aws.account}_CloudTrail_{aws.region}_{name}.json.gz"
    aws.put(planted, delivery(range(900, 901)))
    assert told(watch.tick()) == {("unverifiable", planted)}
    assert told(watch.tick()) == set()
    assert len(watch.state.findings) == 1


def test_a_log_file_planted_where_no_digest_file_reaches_is_found(watch: Watch, aws: Delivering) -> None:
    for hour in range(12):
        aws.deliver(hour, logs=1)
    planted = aws.logs[0].replace("us-east-2", "ap-south-1")
    aws.put(planted, delivery(range(900, 901)))
    assert told(watch.tick()) == {("unverifiable", planted)}


def test_a_log_file_that_no_digest_file_can_name_yet_is_no_finding(watch: Watch, aws: Delivering) -> None:
    for hour in range(6):  # Up to now.
        aws.deliver(hour, logs=1)
    aws.put(aws.log_key(aws.first + timedelta(hours=6), "NotYetNotYetNot0"), delivery(range(900, 901)))
    assert told(watch.tick()) == set()


def test_a_digest_file_that_names_a_log_file_outside_of_the_place_is_found(watch: Watch, aws: Delivering) -> None:
    outside = {"s3Bucket": "elsewhere", "s3Object": "a.json.gz", "hashValue": "00" * 32, "hashAlgorithm": "SHA-256"}
    aws.deliver(0)
    aws.deliver(1, more=[outside])
    assert told(watch.tick()) == {("unverifiable", "a.json.gz")}
    assert watch.state.proven_to == aws.end(1)


# --- attacks on digest files


@pytest.mark.parametrize("verified", [False, True])
def test_a_digest_file_that_is_replaced_by_an_older_one_is_found(watch: Watch, aws: Delivering, verified: bool) -> None:
    for hour in range(3):
        aws.deliver(hour)
    if verified:
        watch.tick()
    aws.put(aws.digests[1], *aws.get(aws.digests[0]))
    assert ("altered", aws.digests[1]) in told(watch.tick())
    assert watch.state.proven_to == aws.end(3 if verified else 1)


@pytest.mark.parametrize("other", [{"said_bucket": "elsewhere"}, {"account": "999999999999"}, {"region": "eu-west-1"}, {"trail": "other"}])
def test_a_genuine_digest_file_of_somewhere_else_proves_nothing_here(watch: Watch, aws: Delivering, other: dict[str, str]) -> None:
    """Whoever has a trail of his own can have CloudTrail sign what he likes."""
    aws.deliver(0)
    theirs = Delivering(aws.client, boto3_bucket(aws), first=aws.first, **other)
    theirs.deliver(0, logs=0)
    theirs.deliver(1, logs=0)
    aws.put(aws.digest_key(1), *theirs.get(theirs.digests[1]))
    assert told(watch.tick()) == {("altered", aws.digest_key(1))}
    assert watch.state.proven_to == aws.end(1)


def boto3_bucket(aws: Delivering) -> str:
    name = f"{aws.bucket}-of-somebody-else"
    aws.client.create_bucket(Bucket=name)
    return name


def test_an_edited_digest_file_and_a_forged_one_are_found(watch: Watch, aws: Delivering) -> None:
    for hour in range(3):
        aws.deliver(hour)
    data, metadata = aws.get(aws.digests[1])
    content = json.loads(gzip.decompress(data))
    aws.put(aws.digests[1], gzip.compress(json.dumps({**content, "logFiles": []}).encode()), metadata)
    assert told(watch.tick()) == {("bad signature", aws.digests[1])}
    assert watch.state.proven_to == aws.end(1)
    aws.key = STRANGER
    aws.deliver(3)
    assert told(watch.tick()) == {("unverifiable", aws.digests[3])}
    assert watch.state.proven_to == aws.end(1)


def test_what_is_no_digest_file_or_has_no_signature_is_found(watch: Watch, aws: Delivering) -> None:
    aws.deliver(0)
    aws.put(aws.deliver(1), b"nothing")
    bare = aws.deliver(2)
    aws.put(bare, aws.get(bare)[0])
    assert told(watch.tick()) == {("unverifiable", aws.digests[1]), ("unverifiable", bare)}


def test_a_deleted_digest_file_is_found_once_it_cannot_come_any_more(watch: Watch, aws: Delivering) -> None:
    for hour in range(4):
        aws.deliver(hour)
    aws.delete(aws.digests[1])
    assert told(watch.prove(-4)) == set()
    assert told(watch.tick(3)) == {("missing", aws.digests[1])}
    assert watch.state.proven_to == aws.end(1)


def test_a_folder_of_digest_files_that_is_deleted_is_found_at_once_and_its_silence_later(watch: Watch, aws: Delivering) -> None:
    for hour in range(3):
        aws.deliver(hour)
    watch.tick()
    for key in aws.digests:
        aws.delete(key)
    assert told(watch.tick()) == {("missing", aws.digests[2])}
    watch.tick(4)
    assert len(watch.state.findings) == 1
    assert "Digest files come every hour" in watch.state.silent[0]
    assert not watch.state.unproven  # It is not that they were never switched on.


def test_a_chain_of_which_nothing_comes_any_more_is_told_and_its_return_takes_that_back(watch: Watch, aws: Delivering) -> None:
    other = Delivering(aws.client, aws.bucket, region="eu-west-1", first=aws.first)
    other.deliver(0)
    aws.deliver(0)
    watch.tick()
    assert not watch.state.silent
    for hour in range(1, 4):
        aws.deliver(hour)
    watch.tick()
    assert [sentence for sentence in watch.state.silent if "eu-west-1" in sentence]
    assert watch.state.silent[0] in watermark(watch.source.place.uri, watch.state, aws.end(4)).problems
    for hour in range(1, 4):
        other.deliver(hour)
    watch.tick()
    assert not watch.state.silent
    assert watch.state.proven_to == aws.end(4)


def test_a_chain_that_begins_anew_is_told(watch: Watch, aws: Delivering) -> None:
    aws.deliver(0)
    watch.tick()
    aws.previous = None
    aws.deliver(1)
    assert told(watch.tick()) == {("broken chain", aws.digests[1])}
    assert watch.state.proven_to == aws.end(1)


def test_a_region_that_is_new_is_none_that_begins_anew(watch: Watch, aws: Delivering) -> None:
    aws.deliver(0)
    watch.tick()
    Delivering(aws.client, aws.bucket, region="eu-west-1", first=aws.first).deliver(0)
    assert told(watch.tick()) == set()


def test_a_flood_of_findings_hides_none_of_another_kind(watch: Watch, aws: Delivering) -> None:
    aws.deliver(0)
    for number in range(30):
        aws.put(aws.digest_key(1).replace("us-east-2_trail", f"us-east-2_junk{number}"), b"nothing")
    watch.tick()
    aws.delete(aws.logs[0])
    aws.deliver(1)
    aws.delete(aws.logs[-1])
    watch.tick()
    assert [sentence for sentence in watch.state.findings if sentence.startswith("missing: ") and aws.logs[-1] in sentence]
    assert len(watch.state.findings) == 11
    assert watch.state.more_findings == {"unverifiable": 20}
    problems = watermark(watch.source.place.uri, watch.state, aws.end(2)).problems
    assert any("20 unverifiable" in problem for problem in problems)


# --- keys


def test_without_the_right_to_fetch_keys_nothing_is_proven_and_nothing_is_found(watch: Watch, aws: Delivering) -> None:
    aws.deliver(0)
    watch.region = Region(code="AccessDeniedException")
    proof = watch.tick()
    assert (proof.verified, proof.waiting, proof.findings) == (0, 1, [])
    assert watch.state.proven_to is None
    (clause,) = watermark(watch.source.place.uri, watch.state, aws.end(1)).not_observable[-1:]
    assert "not verified" in clause
    assert "cloudtrail:ListPublicKeys" in clause
    watch.region = Region(KEY)
    watch.tick()
    assert watch.state.proven_to == aws.end(1)
    assert not watch.state.unproven


def test_a_chain_that_was_proven_and_cannot_be_any_more_is_a_problem(watch: Watch, aws: Delivering) -> None:
    """Whoever may write to the bucket, where keys are only given, can name one that is not."""
    aws.deliver(0)
    watch.tick()
    aws.key = STRANGER
    for hour in range(1, 5):
        aws.deliver(hour)
    watch.region = Region(code="AccessDeniedException")
    assert told(watch.tick()) == set()
    assert "verified up to" in watch.state.silent[0]
    assert "cloudtrail:ListPublicKeys" in watch.state.silent[0]
    assert watch.state.proven_to == aws.end(1)


def test_a_server_without_that_operation_proves_nothing(watch: Watch, aws: Delivering) -> None:
    aws.deliver(0)
    watch.ingest()
    proof = prove(watch.database, watch.source, PublicKeys(), Budget(), now=aws.end(1))  # The test's server has no ListPublicKeys.
    assert (proof.verified, proof.findings) == (0, [])
    assert "not verified" in watch.state.unproven[0]


def test_keys_that_are_given_need_no_right(watch: Watch, aws: Delivering, tmp_path: Path) -> None:
    aws.deliver(0)
    (tmp_path / "key.der").write_bytes(der(KEY))
    region = Region(code="AccessDeniedException")
    keys = PublicKeys({fingerprint(KEY): str(tmp_path / "key.der")}, client=region)
    assert prove(watch.database, watch.source, keys, Budget(), now=aws.end(1)).verified == 1
    assert region.asked == []
    with pytest.raises(ConfigurationError, match="cannot be read"):
        PublicKeys({"ea2f": str(tmp_path / "none.der")})


def test_a_folder_that_is_no_region_is_never_part_of_a_hosts_name() -> None:
    region = Region(KEY)
    keys = PublicKeys(client=region)
    keys.find("ea2f", region="evil.example", start=0, end=1)
    assert region.asked == []
    refused = Region(code="AccessDeniedException")
    keys = PublicKeys(client=refused)
    for _ in range(3):
        with pytest.raises(KeysUnavailableError, match="eu-west-1"):
            keys.find("ea2f", region="eu-west-1", start=0, end=1)
    assert refused.asked == ["eu-west-1"]


# --- nothing to verify


def test_without_digest_files_it_is_said_how_to_switch_them_on(watch: Watch, aws: Delivering) -> None:
    aws.log(aws.first)
    watch.tick()
    assert watch.state.unproven == [NOT_SWITCHED_ON]
    assert watch.state.proven_to is None
    assert not watch.state.digests


def test_digest_files_on_a_disk_have_no_signature_and_prove_nothing(
    ledger: Ledger, aws: Delivering, logs: Path, ingestion: Callable[..., Ingestion]
) -> None:
    aws.deliver(0)
    for key in (*aws.logs, *aws.digests):
        (logs / key).parent.mkdir(parents=True, exist_ok=True)
        (logs / key).write_bytes(aws.get(key)[0])
    reading = ingestion("cloudtrail")
    reading.tick(Budget())
    proof = prove(ledger.database, LogSource(Directory(logs), CloudTrailLayout()), PublicKeys(client=Region(KEY)), Budget(), now=aws.end(1))
    assert (proof.verified, proof.findings) == (0, [])
    assert reading.state().unproven == [COPIES]
    assert reading.state().proven_to is None


def test_only_cloudtrail_has_digest_files(ledger: Ledger, logs: Path) -> None:
    with pytest.raises(ConfigurationError, match="Only CloudTrail"):
        prove(ledger.database, source_of("mlflow", logs), PublicKeys(), Budget())


# --- stopping anywhere


class Ticks:
    """A budget that is spent once it was asked so many times."""

    def __init__(self, asked: int) -> None:
        self.left = asked

    @property
    def spent(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize("asked", [1, 2, 3])
def test_whatever_the_budget_everything_is_verified_in_the_end(watch: Watch, aws: Delivering, asked: int) -> None:
    for hour in range(2):
        aws.deliver(hour, logs=3)
    aws.delete(aws.logs[4])
    watch.ingest()
    verified = ticks = 0
    while verified < 2:
        verified += watch.prove(budget=Ticks(asked)).verified
        ticks += 1
        assert ticks < 20
    assert watch.state.proven_to == aws.end(1)
    assert len(watch.state.findings) == 1


class _CrashError(BaseException):
    pass


@pytest.mark.parametrize("committed", [False, True])
def test_whoever_dies_at_any_write_neither_skips_a_digest_file_nor_loses_or_doubles_a_finding(
    ledger: Ledger, trail: Trail, aws: Delivering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    for hour in range(3):
        aws.deliver(hour, logs=1)
    aws.delete(aws.logs[1])
    write = Database.write
    step = 0
    while True:
        step += 1
        ledger = open_ledger(f"sqlite:///{tmp_path / f'{step}.db'}", signer=ledger.signer, trust=ledger.trust)
        watch = Watch(ledger, trail, aws)
        seen = 0

        @contextmanager
        def dying(database: Any, step: int = step) -> Iterator[Any]:
            nonlocal seen
            with write(database) as connection:
                yield connection
                seen += 1
                if seen == step and not committed:
                    raise _CrashError
            if seen == step and committed:
                raise _CrashError

        monkeypatch.setattr(Database, "write", dying)
        with suppress(_CrashError):
            watch.prove()
        monkeypatch.setattr(Database, "write", write)
        _release(watch)
        watch.prove()
        assert watch.state.proven_to == aws.end(1)
        assert len(watch.state.findings) == 1
        with watch.database.read() as connection:
            (chain,) = log_digests.all_chains(connection, 1).values()
        assert (chain.object, chain.broken) == (aws.digests[2], True)
        if seen < step:
            break
    assert step > 6


def _release(watch: Watch) -> None:
    """As when the time of whoever holds the location is over."""
    with watch.database.write() as connection:
        connection.execute(update(log_locations).values(held_until=0))


def test_of_two_daemons_at_once_one_gives_way_and_nothing_is_told_twice(watch: Watch, aws: Delivering) -> None:
    for hour in range(2):
        aws.deliver(hour)
    aws.delete(aws.logs[0])
    watch.ingest()
    others: list[Proof] = []
    place: Any = watch.source.place
    metadata = place.metadata

    def meanwhile(found: Any) -> Any:
        answer = metadata(found)
        if not others:
            others.append(watch.prove())  # While the first holds the location ...
            _release(watch)
            place.metadata = metadata
            others.append(watch.prove())  # ... and when it was taken for dead.
        return answer

    place.metadata = meanwhile
    first = watch.prove()
    assert (others[0].held_elsewhere, others[0].verified) == (True, 0)
    assert others[1].verified == 2
    assert (first.held_elsewhere, first.verified) == (True, 0)
    assert len(watch.state.findings) == 1


def test_a_finding_stays_when_the_file_is_put_back_and_the_window_has_moved_on_until_somebody_looked(watch: Watch, aws: Delivering) -> None:
    aws.deliver(0)
    aws.deliver(1)
    gone = aws.logs[2]
    kept = aws.get(gone)[0]
    aws.delete(gone)
    watch.tick()
    aws.put(gone, kept)
    for hour in range(2, 80, 26):
        aws.digests.append("")
        aws.deliver(hour, logs=0)
    watch.tick(100)
    assert [sentence for sentence in watch.state.findings if gone in sentence]
    uri = watch.source.place.uri
    seen = watermark(uri, watch.state, aws.end(3)).problems
    assert acknowledge(watch.database, uri, []) == []
    assert watch.state.findings
    gone_now = acknowledge(watch.database, uri, seen)
    assert any(gone in sentence for sentence in gone_now)
    assert not watch.state.findings
    assert not watch.state.silent
    with pytest.raises(ConfigurationError, match="ever read"):
        acknowledge(watch.database, "s3://nowhere/", [])


def test_once_somebody_has_looked_the_proof_goes_on(watch: Watch, aws: Delivering) -> None:
    aws.deliver(0)
    aws.deliver(1)
    aws.delete(aws.logs[2])
    watch.tick()
    acknowledge(watch.database, watch.source.place.uri, watch.state.findings)
    aws.deliver(2)
    assert told(watch.tick()) == set()
    assert watch.state.proven_to == aws.end(3)
