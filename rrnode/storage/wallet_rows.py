"""The wallet's tables: what it keeps between runs (`rrnode.wallet` says what it means)."""

from sqlalchemy import Connection, delete, insert, select

from protocols.ids import Txid
from protocols.units import BlockHeight, UnixTime
from rrnode.storage import schema
from rrnode.storage.records import SetAside, WalletChanges, WalletState, WalletTransaction
from rrnode.storage.statements import Statements, read_cursor

CURSOR = "wallet"


def load(connection: Connection) -> WalletState:
    """Everything the wallet keeps, as of one moment."""
    indexes = {row.name: row.number for row in connection.execute(select(schema.wallet_indexes))}
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
            )
            for row in connection.execute(select(schema.wallet_transactions))
        ),
        set_aside=tuple(
            SetAside(txid=Txid(row.txid), index=row.output_index, holder=row.holder, place=row.place)
            for row in connection.execute(select(schema.wallet_set_aside).order_by(schema.wallet_set_aside.c.place))
        ),
        next_receiving=indexes.get("receiving", 0),
        next_change=indexes.get("change", 0),
        address=indexes.get("address"),
        change_for=tuple((row.holder, row.key_index) for row in connection.execute(select(schema.wallet_change_for))),
        free_indexes=tuple(connection.execute(select(free.c.key_index).order_by(free.c.key_index)).scalars()),
        cursor=read_cursor(connection, CURSOR),
    )


def write(connection: Connection, statements: Statements, changes: WalletChanges) -> None:
    """Write one change inside the caller's transaction."""
    if changes.dropped:
        gone = schema.wallet_transactions.c.txid.in_(changes.dropped)
        connection.execute(delete(schema.wallet_transactions).where(gone))
    if changes.transactions:
        statements.upserts["wallet_transactions"].run(
            connection,
            [
                {
                    "txid": tx.txid,
                    "raw": tx.raw,
                    "height": tx.height,
                    "block_hash": tx.block_hash,
                    "block_time": tx.block_time,
                    "first_seen": tx.first_seen,
                }
                for tx in changes.transactions
            ],
        )
    if changes.released:
        held = schema.wallet_set_aside.c.holder.in_(changes.released)
        connection.execute(delete(schema.wallet_set_aside).where(held))
        promised = schema.wallet_change_for.c.holder.in_(changes.released)
        connection.execute(delete(schema.wallet_change_for).where(promised))
    for txid, index in changes.released_coins:
        coin = schema.wallet_set_aside.c
        connection.execute(delete(schema.wallet_set_aside).where(coin.txid == txid, coin.output_index == index))
    if changes.set_aside:
        connection.execute(
            insert(schema.wallet_set_aside),  # a coin that is set aside already must not change hands: no upsert
            [
                {"txid": coin.txid, "output_index": coin.index, "holder": coin.holder, "place": coin.place}
                for coin in changes.set_aside
            ],
        )
    if changes.change_for:
        connection.execute(
            insert(schema.wallet_change_for),
            [{"holder": holder, "key_index": index} for holder, index in changes.change_for],
        )
    numbers = (("receiving", changes.next_receiving), ("change", changes.next_change), ("address", changes.address))
    for name, number in numbers:
        if number is not None:
            statements.upserts["wallet_indexes"].run(connection, [{"name": name, "number": number}])
    if changes.free_indexes is not None:
        connection.execute(delete(schema.wallet_free_indexes))
        if changes.free_indexes:
            connection.execute(
                insert(schema.wallet_free_indexes), [{"key_index": index} for index in changes.free_indexes]
            )
    if changes.cursor is not None:
        statements.set_cursor(connection, CURSOR, changes.cursor)
