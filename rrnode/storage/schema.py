"""The tables, in SQL that SQLite and PostgreSQL both speak. The migrations in `migrations/versions` make them; a test
holds the two against each other.

Blobs are the engines' frozen state (`rrnode.storage.codec`); columns beside them are for looking things up. A channel has
a small number of its own (`row`), since its 32-byte id would be repeated in every one of its revoked states.
"""

from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Index, Integer, LargeBinary, MetaData, Table, Text

HEAD = "0001"  # the newest revision in migrations/versions

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
    Column("name", Text, primary_key=True),  # "channels" or "wallet": each follows the chain at its own pace
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
