"""What the tests of the command share."""

from pathlib import Path

import pytest

from tests.cli.ledgers import Place


@pytest.fixture
def place(dagster_home: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A Dagster home with a ledger of twelve entries, all of them witnessed."""
    for name in ("MLSEC_STORE_URL", "MLSEC_WITNESS", "MLSEC_TRUSTED_KEYS", "MLSEC_SIGNER"):
        monkeypatch.delenv(name, raising=False)
    place = Place(dagster_home)
    place.append(6, witnessed=True)
    return place
