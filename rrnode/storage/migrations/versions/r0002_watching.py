"""Remedies that a watcher keeps, its cases, and what a client knows of its own watchers."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "watch_clients",
        sa.Column("number", NUMBER, nullable=False, autoincrement=False),
        sa.Column("peer", sa.LargeBinary, nullable=False),
        sa.Column("used_bytes", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_watch_clients"),
        sa.UniqueConstraint("peer", name="uq_watch_clients_peer"),
    )
    op.create_table(
        "remedies",
        sa.Column("hint", sa.LargeBinary, nullable=False),
        sa.Column("client", NUMBER, nullable=False, autoincrement=False),
        sa.Column("until", sa.Integer, nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("hint", "client", name="pk_remedies"),
        sa.ForeignKeyConstraint(["client"], ["watch_clients.number"], name="fk_remedies_client"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_remedies_client", "remedies", ["client", "hint"])
    op.create_index("ix_remedies_until", "remedies", ["until"])
    op.create_table(
        "bounty_cases",
        sa.Column("txid", sa.LargeBinary, nullable=False),
        sa.Column("is_open", sa.Boolean, nullable=False),
        sa.Column("first_seen", sa.BigInteger, nullable=False),
        sa.Column("state", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("txid", name="pk_bounty_cases"),
    )
    op.create_index("ix_bounty_cases_is_open", "bounty_cases", ["is_open"])
    op.create_table(
        "watchers",
        sa.Column("number", NUMBER, nullable=False, autoincrement=False),
        sa.Column("peer", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_watchers"),
        sa.UniqueConstraint("peer", name="uq_watchers_peer"),
    )
    op.create_table(
        "handed_over",
        sa.Column("watcher", NUMBER, nullable=False, autoincrement=False),
        sa.Column("channel_row", NUMBER, nullable=False, autoincrement=False),
        sa.Column("number", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("until", sa.Integer, nullable=False),
        sa.Column("digest", sa.LargeBinary),
        sa.Column("stake", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("watcher", "channel_row", "number", name="pk_handed_over"),
        sa.ForeignKeyConstraint(["watcher"], ["watchers.number"], name="fk_handed_over_watcher"),
        sa.ForeignKeyConstraint(["channel_row"], ["channels.row"], name="fk_handed_over_channel_row"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_handed_over_watcher", "handed_over", ["watcher", "until"])
    op.create_table(
        "watch_receipts",
        sa.Column("number", NUMBER, nullable=False, autoincrement=False),
        sa.Column("watcher", NUMBER, nullable=False),
        sa.Column("until", sa.Integer, nullable=False),
        sa.Column("listed", sa.LargeBinary, nullable=False),
        sa.Column("signature", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_watch_receipts"),
        sa.ForeignKeyConstraint(["watcher"], ["watchers.number"], name="fk_watch_receipts_watcher"),
    )


def downgrade() -> None:
    """Only for tables that hold nothing yet."""
    for name in ("watch_receipts", "handed_over", "watchers", "bounty_cases", "remedies", "watch_clients"):
        op.drop_table(name)
