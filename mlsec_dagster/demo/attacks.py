"""What somebody with write access to storage, to the ledger's database or to the source can do. Nothing here uses this package.

Every attack hides its traces as far as that access goes: the schema stays, no row is added or lost, the file keeps its time stamp.
"""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

SEED = 7
"""Of what is chosen at random, so that a drill can be repeated."""


def flip_labels(file: Path, label: str, *, carrier: str, first_row: int) -> int:
    """Turn the labels of one carrier's flights from `first_row` on into their opposite; returns how many."""
    table = pd.read_parquet(file)
    chosen = (table["carrier"] == carrier).to_numpy() & (np.arange(len(table)) >= first_row)
    table.loc[chosen, label] = ~table.loc[chosen, label]
    _replace(file, table)
    return int(chosen.sum())


def hide_delays(file: Path, *, carrier: str) -> int:
    """Make every late arrival of one carrier punctual, in place; returns how many."""
    table = pd.read_parquet(file)
    chosen = (table["carrier"] == carrier) & (table["arr_delay"] > 0)
    table.loc[chosen, "arr_delay"] = 0.0
    _replace(file, table)
    return int(chosen.sum())


def crowd_with_copies(flights: pd.DataFrame, *, carrier: str, share: float) -> int:
    """Put copies of one carrier's flights in the place of others', a share of all rows; returns how many."""
    random, of_carrier = np.random.default_rng(SEED), (flights["carrier"] == carrier).to_numpy()
    count = int(share * len(flights))
    replaced = random.choice(np.flatnonzero(~of_carrier), count, replace=False)
    copied = random.choice(np.flatnonzero(of_carrier), count, replace=False)
    for column in flights:
        flights.loc[replaced, column] = flights[column].array[copied]
    return count


def call_punctual(flights: pd.DataFrame, label: str, *, share: float) -> int:
    """Turn labels that say "late" into "punctual", as many as a share of all rows; returns how many."""
    late = np.flatnonzero(flights[label].fillna(value=False))
    chosen = np.random.default_rng(SEED).choice(late, min(int(share * len(flights)), len(late)), replace=False)
    flights.loc[chosen, label] = False
    return len(chosen)


def rewrite_record(database: Path, asset: str, old: str, new: str) -> int:
    """Replace a digest in the newest record about an asset, so that a forged file agrees with it; returns the record's place.

    The database is an ordinary one: whoever may write to it can write this.
    """
    with closing(sqlite3.connect(database)) as connection, connection:
        query = "SELECT position, payload FROM mlsec_entries WHERE asset = ? ORDER BY position DESC LIMIT 1"
        position, payload = connection.execute(query, (asset,)).fetchone()
        forged = payload.replace(old.encode(), new.encode())
        connection.execute("UPDATE mlsec_entries SET payload = ? WHERE position = ?", (forged, position))
    return int(position)


def copy_database(database: Path, copy: Path) -> None:
    """Copy an SQLite database while others have it open; also puts an earlier copy back."""
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)


@contextmanager
def issued_again(feed: Path, week: str, flights: pd.DataFrame) -> Iterator[None]:
    """Have the source issue a week again, until the block ends."""
    feed.mkdir(exist_ok=True)
    file = feed / f"{week}.csv"
    flights.to_csv(file, index=False)
    try:
        yield
    finally:
        file.unlink()


@contextmanager
def restored_afterwards(*files: Path) -> Iterator[None]:
    """Put `files` back as they were, bytes and time stamps, when the block ends."""
    copies = {file: file.with_name(f".{file.name}.before") for file in files}
    for file, copy in copies.items():
        shutil.copy2(file, copy)
    try:
        yield
    finally:
        for file, copy in copies.items():
            copy.replace(file)


def _replace(file: Path, table: pd.DataFrame) -> None:
    """Write `table` where `file` was, in one step and with the old file's time stamps."""
    times = file.stat()
    forged = file.with_name(f".{file.name}.forged")
    table.to_parquet(forged, index=False)
    os.utime(forged, ns=(times.st_atime_ns, times.st_mtime_ns))
    forged.replace(file)
