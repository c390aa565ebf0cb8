"""Real ledgers to verify, and what somebody who can write to their database does to them."""

import json
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from mlsec_dagster.cli import main
from mlsec_dagster.integrity.keys import KeyRing, load_or_create_key_file
from mlsec_dagster.integrity.ledger import Ledger, open_ledger
from mlsec_dagster.integrity.statements import SEAL, WRITE, Statement
from mlsec_dagster.integrity.trust import Trust
from mlsec_dagster.integrity.witness import Witness


def mlsec(*arguments: object, stdin: str | None = None) -> Result:
    """Run the command as a shell would, without a traceback on purpose or by accident."""
    result = CliRunner().invoke(main, [str(each) for each in arguments], input=stdin, catch_exceptions=True)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert "Traceback" not in result.output, result.output
    return result


def document(result: Result) -> dict[str, Any]:
    """What a command with --json printed."""
    return json.loads(result.stdout)


@dataclass(frozen=True)
class Place:
    """A Dagster home with a ledger, a key and a witness in it."""

    home: Path

    @property
    def database(self) -> Path:
        return self.home / "mlsec" / "ledger.db"

    @property
    def key_file(self) -> Path:
        return self.home / "mlsec" / "keys" / "mlsec.pem"

    @property
    def witness(self) -> Path:
        return self.home.parent / "witness"

    @property
    def fingerprint(self) -> str:
        return self.ring.fingerprint

    @property
    def ring(self) -> KeyRing:
        return KeyRing(load_or_create_key_file(self.key_file))

    def ledger(self, ring: KeyRing | None = None) -> Ledger:
        ring = ring or self.ring
        return open_ledger(f"sqlite:///{self.database}", signer=ring, trust=Trust(ring.publics.keys()), witness=Witness(self.witness))

    def append(self, count: int, *, start: int = 0, ring: KeyRing | None = None, witnessed: bool = False) -> None:
        """`count` pairs of entries, a transaction each: a run writes, its check passes."""
        ledger = self.ledger(ring)
        for number in range(start, start + count):
            about = ("raw/flights", f"week-{number:02d}")
            ledger.append([Statement(*about, WRITE, {"blake3": f"{number:064x}"}, {"run_id": f"run-{number}", "io_manager": "x"})])
            ledger.append([Statement(*about, SEAL, {"blake3": f"{number:064x}"}, {"run_id": f"run-{number}", "verdict": "passed"})])
        if witnessed:
            ledger.witness_now()
        ledger.close()

    def attack(self, *statements: str | tuple[str, Sequence[Any]]) -> None:
        """Change the database behind the ledger's back."""
        with closing(sqlite3.connect(self.database)) as connection, connection:
            for statement in statements:
                command, values = (statement, ()) if isinstance(statement, str) else statement
                assert connection.execute(command, values).rowcount != 0

    def copy(self, target: Path) -> Path:
        with closing(sqlite3.connect(self.database)) as source, closing(sqlite3.connect(target)) as backup:
            source.backup(backup)
        return target

    def restore(self, copy: Path) -> None:
        for file in self.database.parent.glob("ledger.db*"):
            file.unlink()
        shutil.copy(copy, self.database)
