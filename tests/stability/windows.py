"""Windows that the tests measure, and what measuring them yields."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

from mlsec_dagster.stability.frames import learn_frame
from mlsec_dagster.stability.measuring import measure
from mlsec_dagster.stability.profiles import Frame, Profile, Roles

KEY = b"a key of the tests, 32 bytes...."
START = datetime(2024, 1, 1, tzinfo=UTC)
PLAIN = Roles()


def mixed(rows: int = 3000, seed: int = 1) -> pa.Table:
    """Numbers, categories, identifiers, prose, times and decimals; some of them null."""
    random = np.random.default_rng(seed)
    words = np.array(["delayed", "by", "weather", "over", "Chicago", "and", "then", "late", "crew", "9"])
    table = {
        "number": pa.array(random.normal(10, 3, rows), mask=random.random(rows) < 0.1),
        "hour": pa.array(random.integers(0, 24, rows)),
        "amount": pa.array(random.integers(-1_000_000, 1_000_000, rows)),
        "carrier": pa.array(random.choice(["AA", "DL", "UA", "é ∅"], rows), mask=random.random(rows) < 0.05),
        "tail": pa.array([f"N{number:06d}" for number in random.integers(0, 10**6, rows)]),
        "note": pa.array([" ".join(random.choice(words, 12)) + f" {number}" for number in range(rows)]),
        "late": pa.array(random.random(rows) < 0.2, mask=random.random(rows) < 0.02),
        "price": pa.array([Decimal(int(cents)) / 100 for cents in random.integers(0, 10**7, rows)], pa.decimal128(12, 2)),
        "day": pa.array([(START + timedelta(days=int(day))).date() for day in random.integers(0, 300, rows)]),
        "moment": pa.array([START + timedelta(minutes=number) for number in range(rows)], pa.timestamp("us", "UTC")),
        "row": pa.array(range(rows), pa.int64()),
        "same": pa.array(["here"] * rows),
    }
    return pa.table(table)


def nested(rows: int = 500) -> pa.Table:
    return pa.table(
        {
            "list": pa.array([None if n % 10 == 0 else list(range(n % 7)) for n in range(rows)], pa.list_(pa.int64())),
            "map": pa.array([[("a", n)] * (n % 3) for n in range(rows)], pa.map_(pa.string(), pa.int64())),
            "struct": pa.array([{"x": n, "y": None if n % 2 else "y"} for n in range(rows)]),
        }
    )


def learnt(source: Any, roles: Roles = PLAIN) -> Frame:
    return learn_frame(source, roles)


def measured(source: Any, frame: Frame | None = None, roles: Roles = PLAIN, **options: Any) -> Profile:
    return measure(source, frame or learn_frame(source, roles), roles, KEY, **options)[0]


def accounted(profile: Profile) -> None:
    """Each row of each counted column is in exactly one cell, or null, or NaN."""
    for column in profile.columns:
        if column.counts:
            assert sum(column.counts) + column.nulls + column.nans == profile.rows, column.name
            assert min(column.counts) >= 0, column.name
