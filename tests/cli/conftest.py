"""What the tests of the command share."""

from pathlib import Path

import pytest

from tests.cli.ledgers import Place
from tests.cli.trails import TrailPlace, hostile, ordinary


@pytest.fixture
def place(dagster_home: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A Dagster home with a ledger of twelve entries, all of them witnessed."""
    for name in ("MLSEC_STORE_URL", "MLSEC_WITNESS", "MLSEC_TRUSTED_KEYS", "MLSEC_SIGNER"):
        monkeypatch.delenv(name, raising=False)
    place = Place(dagster_home)
    place.append(6, witnessed=True)
    return place


@pytest.fixture
def kept(place: Place, monkeypatch: pytest.MonkeyPatch) -> TrailPlace:
    """The same with a sealed trail: 20 accesses, three hostile ones, and a line that is none."""
    for name in ("MLSEC_TRAIL", "MLSEC_TRAIL_OPTIONS"):
        monkeypatch.delenv(name, raising=False)
    kept = TrailPlace(place)
    kept.add(ordinary(20))
    kept.add(hostile(), b"no json\n")
    return kept
