"""The ledger: entries, checkpoints, manifests, public keys."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    position = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "mlsec_entries",
        sa.Column("position", position, primary_key=True, autoincrement=False),
        sa.Column("asset", sa.Text, nullable=False),
        sa.Column("partition", sa.Text),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text),
        sa.Column("previous", sa.BigInteger),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("signature", sa.LargeBinary, nullable=False),
        sa.Column("nodes", sa.LargeBinary, nullable=False),
    )
    op.create_index("mlsec_entries_subject", "mlsec_entries", ["asset", "partition", "position"])
    op.create_table(
        "mlsec_checkpoints",
        sa.Column("size", position, primary_key=True, autoincrement=False),
        sa.Column("note", sa.Text, nullable=False),
    )
    op.create_table(
        "mlsec_manifests",
        sa.Column("digest", sa.Text, primary_key=True),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "mlsec_public_keys",
        sa.Column("fingerprint", sa.Text, primary_key=True),
        sa.Column("spki", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "mlsec_notes",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )


def downgrade() -> None:
    raise NotImplementedError("A ledger is never taken apart; restore a backup instead.")
