"""The tables, in SQL that SQLite and PostgreSQL both speak. The migrations in `migrations/versions` make them; a test
holds the two against each other.

The tables of a watcher and of a mailbox are in the same schema, but an SQLite node keeps each in a file of their own
(`rrnode.storage.remedies`, `rrnode.storage.mails`): the tables that one file does not use stay empty.

Blobs are the engines' frozen state (`rrnode.storage.codec`); columns beside them are for looking things up. A channel has
a small number of its own (`row`), since its 32-byte id would be repeated in every one of its revoked states.
"""

from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Index, Integer, LargeBinary, MetaData, Table, Text

HEAD = "0004"  # the newest revision in migrations/versions

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
    }
)

_Number = BigInteger().with_variant(Integer, "sqlite")  # an INTEGER PRIMARY KEY is SQLite's own row number

meta = Table("meta", metadata, Column("key", Text, primary_key=True), Column("value", Text, nullable=False))

channels = Table(
    "channels",
    metadata,
    Column("row", _Number, primary_key=True, autoincrement=False),
    Column("channel_id", LargeBinary, nullable=False, unique=True),
    Column("peer", LargeBinary, nullable=False),
    Column("phase", Text, nullable=False),
    Column("first_expiry", Integer),  # lowest expiry of its live HTLCs
    Column("state", LargeBinary, nullable=False),
)

revoked_states = Table(
    "revoked_states",
    metadata,
    Column("channel_row", _Number, ForeignKey("channels.row"), primary_key=True, autoincrement=False),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("txid", LargeBinary, nullable=False),
    Column("record", LargeBinary, nullable=False),
    sqlite_with_rowid=False,  # the key is stored once
)

payments = Table(
    "payments",
    metadata,
    Column("payment_hash", LargeBinary, primary_key=True),
    Column("phase", Text, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("state", LargeBinary, nullable=False),
)

promises = Table(
    "promises",
    metadata,
    Column("payment_hash", LargeBinary, primary_key=True),
    Column("phase", Text, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("state", LargeBinary, nullable=False),
)

forwards = Table(
    "forwards",
    metadata,
    Column("channel_id", LargeBinary, primary_key=True),
    Column("htlc_id", BigInteger, primary_key=True, autoincrement=False),
    Column("state", LargeBinary, nullable=False),
)

forward_history = Table(
    "forward_history",
    metadata,
    Column("number", _Number, primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("earned_msat", BigInteger, nullable=False),
    Column("state", LargeBinary, nullable=False),
)

journal = Table(
    "journal",
    metadata,
    Column("seq", _Number, primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("engine", Text, nullable=False),
    Column("event_type", Text, nullable=False),
    Column("event", LargeBinary, nullable=False),
    Column("facts", LargeBinary, nullable=False),
)

cursors = Table(
    "cursors",
    metadata,
    Column("name", Text, primary_key=True),  # "channels", "wallet" or "hunting": each follows the chain at its own pace
    Column("height", Integer, nullable=False),
    Column("block_hash", LargeBinary, nullable=False),
)

addresses = Table(
    "addresses",
    metadata,
    Column("peer", LargeBinary, primary_key=True),
    Column("address", Text, primary_key=True),
    Column("wanted", Boolean, nullable=False),
    Column("last_ok", BigInteger, nullable=False),
)

wallet_transactions = Table(
    "wallet_transactions",
    metadata,
    Column("txid", LargeBinary, primary_key=True),
    Column("raw", LargeBinary, nullable=False),
    Column("height", Integer),
    Column("block_hash", LargeBinary, nullable=False),
    Column("block_time", BigInteger, nullable=False),
    Column("first_seen", BigInteger, nullable=False),
)

wallet_set_aside = Table(
    "wallet_set_aside",
    metadata,
    Column("txid", LargeBinary, primary_key=True),
    Column("output_index", BigInteger, primary_key=True, autoincrement=False),
    Column("holder", LargeBinary, nullable=False),
    Column("place", Integer, nullable=False),
)
Index("ix_wallet_set_aside_holder", wallet_set_aside.c.holder)

wallet_indexes = Table(
    "wallet_indexes",
    metadata,
    Column("name", Text, primary_key=True),  # "receiving", "change", "address"
    Column("number", BigInteger, nullable=False),
)

wallet_free_indexes = Table(
    "wallet_free_indexes", metadata, Column("key_index", BigInteger, primary_key=True, autoincrement=False)
)

wallet_change_for = Table(
    "wallet_change_for",
    metadata,
    Column("holder", LargeBinary, primary_key=True),
    Column("key_index", BigInteger, nullable=False),
)

# --- what a watcher keeps for others ----------------------------------------------------------------------------------

watch_clients = Table(
    "watch_clients",
    metadata,
    Column("number", _Number, primary_key=True, autoincrement=False),  # stands for the key in each of its remedies
    Column("peer", LargeBinary, nullable=False, unique=True),
    Column("used_bytes", BigInteger, nullable=False),
    Column("since", Integer, nullable=False, server_default="0"),  # height at which its first remedy came
    Column("network", Text, nullable=False, server_default=""),  # that it came from
)

watch_networks = Table(
    "watch_networks",
    metadata,
    Column("network", Text, primary_key=True),
    Column("used_bytes", BigInteger, nullable=False),  # of its clients together
)

remedies = Table(
    "remedies",
    metadata,
    Column("hint", LargeBinary, primary_key=True),
    Column("client", _Number, ForeignKey("watch_clients.number"), primary_key=True, autoincrement=False),
    Column("until", Integer, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
Index("ix_remedies_client", remedies.c.client, remedies.c.hint)
Index("ix_remedies_until", remedies.c.until)

bounty_cases = Table(
    "bounty_cases",
    metadata,
    Column("txid", LargeBinary, primary_key=True),
    Column("is_open", Boolean, nullable=False),
    Column("first_seen", BigInteger, nullable=False),
    Column("state", LargeBinary, nullable=False),
)
Index("ix_bounty_cases_is_open", bounty_cases.c.is_open)

# --- what a client knows of its watchers ------------------------------------------------------------------------------

watchers = Table(
    "watchers",
    metadata,
    Column("number", _Number, primary_key=True, autoincrement=False),
    Column("peer", LargeBinary, nullable=False, unique=True),
)

handed_over = Table(
    "handed_over",
    metadata,
    Column("watcher", _Number, ForeignKey("watchers.number"), primary_key=True, autoincrement=False),
    Column("channel_row", _Number, ForeignKey("channels.row"), primary_key=True, autoincrement=False),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("until", Integer, nullable=False),
    Column(
        "digest", LargeBinary
    ),  # of the sealed remedy; none: this state had nothing that a bounty could be offered for
    Column("stake", BigInteger, nullable=False),  # of the neighbour when that was decided, satoshi
    sqlite_with_rowid=False,
)
Index("ix_handed_over_watcher", handed_over.c.watcher, handed_over.c.until)

watch_receipts = Table(
    "watch_receipts",
    metadata,
    Column("number", _Number, primary_key=True, autoincrement=False),
    Column("watcher", _Number, ForeignKey("watchers.number"), nullable=False),
    Column("until", Integer, nullable=False),
    Column("listed", LargeBinary, nullable=False),  # hint and digest of each, one after the other
    Column("signature", LargeBinary, nullable=False),
)

# --- what a mailbox keeps for payees that are away --------------------------------------------------------------------

mailboxes = Table(
    "mailboxes",
    metadata,
    Column("number", _Number, primary_key=True, autoincrement=False),
    Column("payee", LargeBinary, nullable=False, unique=True),
    Column("turned_away", BigInteger, nullable=False),  # both since the payee last acknowledged them
    Column("expired", BigInteger, nullable=False),
)

mails = Table(
    "mails",
    metadata,
    Column("number", _Number, primary_key=True, autoincrement=False),
    Column("mailbox", _Number, ForeignKey("mailboxes.number"), nullable=False),
    Column("digest", LargeBinary, nullable=False),  # SHA-256 of the sealed bytes
    Column("network", Text, nullable=False),  # the sender's
    Column("stored", BigInteger, nullable=False),
    Column("sealed", LargeBinary),  # none: it waits no longer, `code` and `reason` say what became of it
    Column("code", Integer),
    Column("reason", Text, nullable=False),
)
Index("ix_mails_mailbox", mails.c.mailbox, mails.c.digest, unique=True)
Index("ix_mails_network", mails.c.network)
Index("ix_mails_stored", mails.c.stored)
