"""A ledger to write to, and one that was written and is now in an attacker's hands."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlsec_dagster.integrity.keys import KeyRing, create_key_file
from mlsec_dagster.integrity.ledger import Ledger, open_ledger
from mlsec_dagster.integrity.trust import Trust


@pytest.fixture(scope="session")
def ring(tmp_path_factory: pytest.TempPathFactory) -> KeyRing:
    """One key for everything."""
    return KeyRing(create_key_file(tmp_path_factory.mktemp("keys") / "mlsec.pem"))


@pytest.fixture(scope="session")
def thief(tmp_path_factory: pytest.TempPathFactory) -> KeyRing:
    """A key that nobody trusts."""
    return KeyRing(create_key_file(tmp_path_factory.mktemp("keys") / "thief.pem"))


@pytest.fixture
def trust(ring: KeyRing) -> Trust:
    return Trust({ring.fingerprint})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def opened(file: Path, ring: KeyRing, trust: Trust) -> Iterator[Callable[..., Ledger]]:
    """Opens the ledger in `file`, or wherever `url` says; closes what it opened."""
    ledgers: list[Ledger] = []

    def open_again(url: str | None = None, **how: object) -> Ledger:
        ledgers.append(open_ledger(url or f"sqlite:///{file}", **{"signer": ring, "trust": trust, **how}))
        return ledgers[-1]

    yield open_again
    for ledger in ledgers:
        ledger.close()


@pytest.fixture
def ledger(opened: Callable[..., Ledger]) -> Ledger:
    return opened()
