"""A home with a sealed trail in it, and what somebody who can write to its storage does to it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlsec_dagster.audit.ingestion import Ingestion
from mlsec_dagster.audit.ticks import Budget, Report
from mlsec_dagster.audit.trail import Trail
from tests.audit.trail.made import Names, line, source_of
from tests.cli.ledgers import Place

# What an attacker chooses: a user agent, a name, a path.
AGENT = "\x1b]0;owned\x07\x1b[2J\u202egnp.exe\u2028next\r\nline"
FORMULA = "=cmd|' /C calc'!A0"
QUOTED = "o'brien\"; DROP TABLE x; -- 100%"


@dataclass(frozen=True)
class TrailPlace:
    """A place whose logs are read into a trail beside its ledger."""

    place: Place

    @property
    def root(self) -> Path:
        return self.place.home / "mlsec" / "trail"

    @property
    def logs(self) -> Path:
        folder = self.place.home.parent / "logs"
        folder.mkdir(exist_ok=True)
        return folder

    @property
    def trail(self) -> Trail:
        return Trail(str(self.root))

    def tick(self) -> Report:
        ledger = self.place.ledger()
        try:
            return Ingestion(ledger.database, self.trail, source_of("mlflow", self.logs), Names(), ledger=ledger).tick(Budget())
        finally:
            ledger.witness_now()
            ledger.close()

    def add(self, *lines: bytes) -> Report:
        """A log file more, read."""
        (self.logs / f"{len(list(self.logs.iterdir()))}.jsonl").write_bytes(b"".join(lines))
        return self.tick()

    def files(self) -> list[Path]:
        return [self.root / file.path for file in self.trail.open().files()]

    def forge(self, *actions: dict[str, Any]) -> None:
        """A commit to the table by somebody without a key."""
        log = self.root / "_delta_log" / f"{self.trail.open().version + 1:020}.json"
        log.write_text("".join(json.dumps(action) + "\n" for action in actions))

    def added(self) -> dict[str, Any]:
        """The newest add action of the table's log."""
        actions = [json.loads(text) for log in sorted((self.root / "_delta_log").glob("*.json")) for text in log.read_text().splitlines()]
        return [action["add"] for action in actions if "add" in action][-1]


def ordinary(count: int, start: int = 0) -> bytes:
    return b"".join(line(number) for number in range(start, start + count))


def hostile() -> bytes:
    return (
        line(1001, user=QUOTED, user_agent=AGENT)
        + line(1002, user=FORMULA, user_agent="+1", client="203.0.113.9")
        + line(1003, user="\t=1+1", user_agent="@SUM(A1)")
    )
