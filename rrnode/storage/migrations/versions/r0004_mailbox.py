"""Sealed initializations that a mailbox keeps for payees that are away."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "mailboxes",
        sa.Column("number", NUMBER, nullable=False, autoincrement=False),
        sa.Column("payee", sa.LargeBinary, nullable=False),
        sa.Column("turned_away", sa.BigInteger, nullable=False),
        sa.Column("expired", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_mailboxes"),
        sa.UniqueConstraint("payee", name="uq_mailboxes_payee"),
    )
    op.create_table(
        "mails",
        sa.Column("number", NUMBER, nullable=False, autoincrement=False),
        sa.Column("mailbox", NUMBER, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("network", sa.Text, nullable=False),
        sa.Column("stored", sa.BigInteger, nullable=False),
        sa.Column("sealed", sa.LargeBinary),
        sa.Column("code", sa.Integer),
        sa.Column("reason", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_mails"),
        sa.ForeignKeyConstraint(["mailbox"], ["mailboxes.number"], name="fk_mails_mailbox"),
    )
    op.create_index("ix_mails_mailbox", "mails", ["mailbox", "digest"], unique=True)
    op.create_index("ix_mails_network", "mails", ["network"])
    op.create_index("ix_mails_stored", "mails", ["stored"])


def downgrade() -> None:
    """Only for tables that hold nothing yet."""
    for name in ("mails", "mailboxes"):
        op.drop_table(name)
