"""The audit trail: where logs lie, how far they were read, and what was about to be put into the trail."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "mlsec_log_locations",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("uri", sa.Text, nullable=False, unique=True),
        sa.Column("holder", sa.Text),
        sa.Column("held_until", sa.Float),
        sa.Column("state", sa.Text, nullable=False),
    )
    op.create_table(
        "mlsec_log_objects",
        sa.Column("location", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("object", sa.Text, primary_key=True),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("modified", sa.BigInteger, nullable=False),
        sa.Column("consumed", sa.BigInteger, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("complete", sa.Integer, nullable=False),
        sa.Column("digest", sa.Text),
        sa.Column("seam", sa.Text),
        sa.Column("origin", sa.Text),
        sa.Column("content", sa.Text),
        sa.Column("named", sa.Integer),
    )
    op.create_index("mlsec_log_objects_digest", "mlsec_log_objects", ["digest"])
    op.create_table(
        "mlsec_digest_chains",
        sa.Column("location", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("chain", sa.Text, primary_key=True),
        sa.Column("object", sa.Text, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("signature", sa.Text, nullable=False),
        sa.Column("since", sa.BigInteger, nullable=False),
        sa.Column("start", sa.BigInteger, nullable=False),
        sa.Column("end", sa.BigInteger, nullable=False),
        sa.Column("proven", sa.BigInteger, nullable=False),
        sa.Column("broken", sa.Integer, nullable=False),
        sa.Column("gone", sa.Integer, nullable=False),
    )
    op.create_table(
        "mlsec_trail_batches",
        sa.Column("attempt", sa.Text, primary_key=True),
        sa.Column("location", sa.Integer, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("begun", sa.Float, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )
    op.create_index("mlsec_trail_batches_open", "mlsec_trail_batches", ["location", "state"])


def downgrade() -> None:
    raise NotImplementedError("A ledger is never taken apart; restore a backup instead.")
