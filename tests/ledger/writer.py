"""A process that appends: `python -m tests.ledger.writer URL KEY NAME COUNT [SIGNAL_AFTER]`, started by the tests."""

import sys

from mlsec_dagster.integrity.keys import KeyRing
from mlsec_dagster.integrity.ledger import open_ledger
from mlsec_dagster.integrity.trust import Trust
from tests.ledger.material import write


def main(url: str, key: str, name: str, count: int) -> None:
    ring = KeyRing.from_file(key)
    ledger = open_ledger(url, signer=ring, trust=Trust({ring.fingerprint}))
    for number in range(count):
        ledger.append([write(name, None, f"{name}-{number}", padding="x" * 400)])
        print(number, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
