"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make every table."""
    op.create_table(
        "meta",
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_meta"),
    )
    op.create_table(
        "channels",
        sa.Column("row", NUMBER, nullable=False, autoincrement=False),
        sa.Column("channel_id", sa.LargeBinary, nullable=False),
        sa.Column("peer", sa.LargeBinary, nullable=False),
        sa.Column("phase", sa.Text, nullable=False),
        sa.Column("first_expiry", sa.Integer),
        sa.Column("state", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("row", name="pk_channels"),
        sa.UniqueConstraint("channel_id", name="uq_channels_channel_id"),
    )
    op.create_table(
        "revoked_states",
        sa.Column("channel_row", NUMBER, nullable=False, autoincrement=False),
        sa.Column("number", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("txid", sa.LargeBinary, nullable=False),
        sa.Column("record", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("channel_row", "number", name="pk_revoked_states"),
        sa.ForeignKeyConstraint(["channel_row"], ["channels.row"], name="fk_revoked_states_channel_row"),
        sqlite_with_rowid=False,
    )
    for name in ("payments", "promises"):
        op.create_table(
            name,
            sa.Column("payment_hash", sa.LargeBinary, nullable=False),
            sa.Column("phase", sa.Text, nullable=False),
            sa.Column("created", sa.BigInteger, nullable=False),
            sa.Column("state", sa.LargeBinary, nullable=False),
            sa.PrimaryKeyConstraint("payment_hash", name=f"pk_{name}"),
        )
    op.create_table(
        "forwards",
        sa.Column("channel_id", sa.LargeBinary, nullable=False),
        sa.Column("htlc_id", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("state", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("channel_id", "htlc_id", name="pk_forwards"),
    )
    op.create_table(
        "forward_history",
        sa.Column("number", NUMBER, nullable=False, autoincrement=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("earned_msat", sa.BigInteger, nullable=False),
        sa.Column("state", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_forward_history"),
    )
    op.create_table(
        "journal",
        sa.Column("seq", NUMBER, nullable=False, autoincrement=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("engine", sa.Text, nullable=False),
        sa.Column("event_type", sa.Text, nullable=False),
        sa.Column("event", sa.LargeBinary, nullable=False),
        sa.Column("facts", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_journal"),
    )
    op.create_table(
        "cursors",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("height", sa.Integer, nullable=False),
        sa.Column("block_hash", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_cursors"),
    )
    op.create_table(
        "addresses",
        sa.Column("peer", sa.LargeBinary, nullable=False),
        sa.Column("address", sa.Text, nullable=False),
        sa.Column("wanted", sa.Boolean, nullable=False),
        sa.Column("last_ok", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("peer", "address", name="pk_addresses"),
    )
    op.create_table(
        "wallet_transactions",
        sa.Column("txid", sa.LargeBinary, nullable=False),
        sa.Column("raw", sa.LargeBinary, nullable=False),
        sa.Column("height", sa.Integer),
        sa.Column("block_hash", sa.LargeBinary, nullable=False),
        sa.Column("block_time", sa.BigInteger, nullable=False),
        sa.Column("first_seen", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("txid", name="pk_wallet_transactions"),
    )
    op.create_table(
        "wallet_set_aside",
        sa.Column("txid", sa.LargeBinary, nullable=False),
        sa.Column("output_index", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("holder", sa.LargeBinary, nullable=False),
        sa.Column("place", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("txid", "output_index", name="pk_wallet_set_aside"),
    )
    op.create_index("ix_wallet_set_aside_holder", "wallet_set_aside", ["holder"])
    op.create_table(
        "wallet_indexes",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_wallet_indexes"),
    )
    op.create_table(
        "wallet_free_indexes",
        sa.Column("key_index", sa.BigInteger, nullable=False, autoincrement=False),
        sa.PrimaryKeyConstraint("key_index", name="pk_wallet_free_indexes"),
    )
    op.create_table(
        "wallet_change_for",
        sa.Column("holder", sa.LargeBinary, nullable=False),
        sa.Column("key_index", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("holder", name="pk_wallet_change_for"),
    )


def downgrade() -> None:
    """There is nothing before the first schema."""
    raise NotImplementedError("the first schema is not undone: delete the database instead")
