"""The wallet's tables: what it keeps between runs (`rrnode.wallet` says what it means)."""

from sqlalchemy import Connection, delete, insert, select

from protocols.ids import Txid
from protocols.units import BlockHeight, Sat, UnixTime
from rrnode.storage import schema
from rrnode.storage.records import SetAside, WalletChanges, WalletState, WalletTransaction
from rrnode.storage.statements import Statements, read_cursor

CURSOR = "wallet"


def load(connection: Connection) -> WalletState:
    """Everything the wallet keeps, as of one moment."""
    indexes = {row.name: row.next for row in connection.execute(select(schema.wallet_indexes))}
    free = schema.wallet_free_indexes
    return WalletState(
        transactions=tuple(
            WalletTransaction(
                txid=Txid(row.txid),
                raw=row.raw,
                height=None if row.height is None else BlockHeight(row.height),
                block_hash=row.block_hash,
                block_time=UnixTime(row.block_time),
                first_seen=UnixTime(row.first_seen),
                ours=row.ours,
            )
            for row in connection.execute(select(schema.wallet_transactions))
        ),
        set_aside=tuple(
            SetAside(txid=Txid(row.txid), index=row.output_index, holder=row.holder, value=Sat(row.value_sat))
            for row in connection.execute(select(schema.wallet_set_aside))
        ),
        next_receiving=indexes.get("receiving", 0),
        next_change=indexes.get("change", 0),
        free_indexes=tuple(connection.execute(select(free.c.index).order_by(free.c.index)).scalars()),
        cursor=read_cursor(connection, CURSOR),
    )


def write(connection: Connection, statements: Statements, changes: WalletChanges) -> None:
    """Write one change inside the caller's transaction."""
    if changes.dropped:
        gone = schema.wallet_transactions.c.txid.in_(changes.dropped)
        connection.execute(delete(schema.wallet_transactions).where(gone))
    if changes.transactions:
        connection.execute(
            statements.upserts["wallet_transactions"],
            [
                {
                    "txid": tx.txid,
                    "raw": tx.raw,
                    "height": tx.height,
                    "block_hash": tx.block_hash,
                    "block_time": tx.block_time,
                    "first_seen": tx.first_seen,
                    "ours": tx.ours,
                }
                for tx in changes.transactions
            ],
        )
    if changes.released:
        held = schema.wallet_set_aside.c.holder.in_(changes.released)
        connection.execute(delete(schema.wallet_set_aside).where(held))
    if changes.set_aside:
        connection.execute(
            insert(schema.wallet_set_aside),  # a coin that is set aside already must not change hands: no upsert
            [
                {"txid": coin.txid, "output_index": coin.index, "holder": coin.holder, "value_sat": coin.value}
                for coin in changes.set_aside
            ],
        )
    for name, number in (("receiving", changes.next_receiving), ("change", changes.next_change)):
        if number is not None:
            connection.execute(statements.upserts["wallet_indexes"], [{"name": name, "next": number}])
    if changes.free_indexes is not None:
        connection.execute(delete(schema.wallet_free_indexes))
        if changes.free_indexes:
            connection.execute(insert(schema.wallet_free_indexes), [{"index": index} for index in changes.free_indexes])
    if changes.cursor is not None:
        statements.set_cursor(connection, CURSOR, changes.cursor)
