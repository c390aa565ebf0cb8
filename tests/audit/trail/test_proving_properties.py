"""Whatever is done when, in whatever steps it is verified: nothing that was delivered is found, and nothing that was done is passed."""

import hashlib
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mlsec_dagster.audit.layouts import CloudTrailLayout
from mlsec_dagster.audit.log_source import LogSource
from mlsec_dagster.audit.objects import LogObject, ObjectChangedError
from mlsec_dagster.audit.proving import prove
from mlsec_dagster.audit.public_keys import PublicKeys
from mlsec_dagster.audit.state import LocationState
from mlsec_dagster.storage import log_positions
from mlsec_dagster.storage.database import Database
from tests.audit.trail.deliveries import KEY, Delivering
from tests.audit.trail.made import delivery
from tests.audit.trail.test_proving import HOUR, Region, Ticks

HOURS = 4


class Memory:
    """A bucket and its client, many times faster than a server. `test_proving` has the same on a real one."""

    uri = "s3://org-trail/"

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, dict[str, str]]] = {}

    def put_object(self, *, Bucket: str, Key: str, Body: bytes, Metadata: dict[str, str]) -> None:
        self.objects[Key] = (Body, Metadata)

    def get_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        return {"Body": BytesIO(self.objects[Key][0]), "Metadata": self.objects[Key][1]}

    def delete_object(self, *, Bucket: str, Key: str) -> None:
        self.objects.pop(Key, None)

    def list(self, prefix: str = "", *, after: str | None = None) -> Iterator[LogObject]:
        for key, (body, metadata) in sorted(self.objects.items()):
            if key.startswith(prefix):
                yield LogObject(key, hashlib.sha256(body + repr(metadata).encode()).hexdigest(), len(body), 1)

    def folders(self, prefix: str = "") -> Iterator[str]:
        yield from {key[len(prefix) :].split("/")[0] for key in self.objects if key.startswith(prefix) and "/" in key[len(prefix) :]}

    def read(self, found: LogObject, start: int = 0) -> Iterator[bytes]:
        if found not in [*self.list(found.key)]:
            raise ObjectChangedError(found.key)
        yield self.objects[found.key][0][start:]

    def metadata(self, found: LogObject) -> Mapping[str, str]:
        return self.objects[found.key][1]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_whatever_is_deleted_altered_or_replaced_before_it_is_verified_is_found_and_nothing_else(data: st.DataObject) -> None:
    place = Memory()
    aws = Delivering(place, "org-trail")
    source = LogSource(place, CloudTrailLayout())
    with TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{Path(folder) / 'store.db'}", read_only=False)
        verified = 0

        def some(hours: int, *, asked: int = 10_000) -> None:
            nonlocal verified
            now = aws.end(hours) + HOUR // 2
            verified += prove(database, source, PublicKeys(client=Region(KEY)), Ticks(asked), now=now).verified

        attacked, hour_of_it = None, 0
        strike = data.draw(st.one_of(st.none(), st.integers(0, HOURS - 1)), "hour of the attack")
        for hour in range(HOURS):
            aws.deliver(hour, logs=2)
            if hour == strike:
                # Of what was verified meanwhile the reading tells, not the proof.
                open_logs, open_digests = aws.logs[2 * verified :], aws.digests[verified:]
                attacked = data.draw(st.sampled_from([*open_logs, *open_digests]), "what")
                hour_of_it = (aws.logs.index(attacked) // 2) if attacked in aws.logs else aws.digests.index(attacked)
                match data.draw(st.sampled_from(["delete", "alter", "replace"]), "how"):
                    case "delete":
                        aws.delete(attacked)
                    case "alter":
                        aws.put(attacked, delivery([999]), place.objects[attacked][1])
                    case _:
                        aws.put(attacked, *place.objects[data.draw(st.sampled_from([k for k in place.objects if k != attacked]))])
            if data.draw(st.booleans(), "a tick"):
                some(hour + 1, asked=data.draw(st.integers(1, 12), "asked"))
        for _ in range(3):
            some(HOURS)
        some(HOURS + 1)
        some(HOURS + 4)
        with database.read() as connection:
            known = log_positions.known_location(connection, place.uri)
        state = LocationState.read(known[1]) if known else LocationState()
        database.close()
    if attacked is None:
        assert state.findings == []
        assert state.proven_to == aws.end(HOURS)
    elif attacked == aws.digests[-1]:
        assert [each for each in (*state.findings, *state.silent) if attacked in each or aws.trail in each]
        assert state.proven_to == aws.end(HOURS - 1)
    else:
        assert [each for each in state.findings if attacked in each]
        assert (state.proven_to or 0) <= aws.end(hour_of_it) + (HOUR if hour_of_it == 0 else 0)
