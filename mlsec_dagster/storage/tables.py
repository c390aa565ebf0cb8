"""The tables of the security store, as they are at the newest migration.

All names begin with `mlsec_`, so that the store may share a database with others, Dagster's own included. Nothing in a column is
trusted for being there: `integrity` checks every one of them against what was signed.
"""

from typing import Final

from sqlalchemy import BigInteger, Column, Float, Index, Integer, LargeBinary, MetaData, Table, Text

SCHEMA_VERSION: Final = "0002"
"""The newest migration that this code knows."""

KNOWN_VERSIONS: Final = frozenset({"0001", "0002"})

VERSION_TABLE: Final = "mlsec_schema_version"

metadata = MetaData()

_Position = BigInteger().with_variant(Integer, "sqlite")  # On SQLite only INTEGER is the row id itself, without a second index.

entries = Table(
    "mlsec_entries",
    metadata,
    Column("position", _Position, primary_key=True, autoincrement=False),
    Column("asset", Text, nullable=False),
    Column("partition", Text),
    Column("type", Text, nullable=False),
    Column("run_id", Text),
    Column("previous", BigInteger),
    Column("key", Text, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("nodes", LargeBinary, nullable=False),
    # For the newest entry about a subject. Nothing more is in it, for it is the dearest part of an insertion.
    Index("mlsec_entries_subject", "asset", "partition", "position"),
)

checkpoints = Table(
    "mlsec_checkpoints",
    metadata,
    Column("size", _Position, primary_key=True, autoincrement=False),
    Column("note", Text, nullable=False),
)

manifests = Table(
    "mlsec_manifests",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("content", LargeBinary, nullable=False),
)

public_keys = Table(
    "mlsec_public_keys",
    metadata,
    Column("fingerprint", Text, primary_key=True),
    Column("spki", LargeBinary, nullable=False),
)

notes = Table(
    "mlsec_notes",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
"""Conveniences that nothing depends on: when a checkpoint was last witnessed."""

log_locations = Table(
    "mlsec_log_locations",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("uri", Text, nullable=False, unique=True),
    Column("holder", Text),
    Column("held_until", Float),
    Column("state", Text, nullable=False),
)
"""Where logs are read from. `holder` keeps two readers from doing the same work; that nothing is counted twice does not depend on it.
`state` is JSON: what the location's watermark is made of."""

log_objects = Table(
    "mlsec_log_objects",
    metadata,
    Column("location", Integer, primary_key=True, autoincrement=False),
    Column("object", Text, primary_key=True),
    Column("version", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("modified", BigInteger, nullable=False),
    Column("consumed", BigInteger, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("complete", Integer, nullable=False),
    Column("digest", Text),
    Column("seam", Text),
    Column("origin", Text),
    Column("content", Text),
    Column("named", Integer),
    Index("mlsec_log_objects_digest", "digest"),
)
"""How far each log object was read: written only after its rows are in the trail. `content` is the SHA-256 of what it holds decompressed;
`named` is 1 once a digest file that was verified names it, 0 once it was told that none does."""

digest_chains = Table(
    "mlsec_digest_chains",
    metadata,
    Column("location", Integer, primary_key=True, autoincrement=False),
    Column("chain", Text, primary_key=True),
    Column("object", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("signature", Text, nullable=False),
    Column("since", BigInteger, nullable=False),
    Column("start", BigInteger, nullable=False),
    Column("end", BigInteger, nullable=False),
    Column("proven", BigInteger, nullable=False),
    Column("broken", Integer, nullable=False),
    Column("gone", Integer, nullable=False),
)
"""The last digest file of each chain that was verified, and how far the chain proves that nothing is missing."""

trail_batches = Table(
    "mlsec_trail_batches",
    metadata,
    Column("attempt", Text, primary_key=True),
    Column("location", Integer, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("begun", Float, nullable=False),
    Column("content", LargeBinary, nullable=False),
    Index("mlsec_trail_batches_open", "location", "state"),
)
"""What was about to be put into the trail: `state` is "intended" until the trail says whether it was, then "done" or "lost"."""
