"""The account book against a model: whatever blocks come and go, confirmed coins are those of the best chain, and a book
read back from what was stored is the same book.
"""

import struct
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from bootstrap.networks import REGTEST
from protocols.ids import Txid
from protocols.units import BlockHeight, UnixTime
from rrnode.chain.parse import Tx, compact_size, outpoint, parse_transaction
from rrnode.keys import KeyTree
from rrnode.storage import WalletTransaction
from rrnode.wallet.ledger import BlockPlace, Ledger
from rrnode.wallet.scripts import Place, Scripts

KEYS = KeyTree(" ".join(["abandon"] * 23 + ["art"]), REGTEST)
OURS = [Scripts(KEYS, look_ahead=1).script(Place(change, n)) for change in (False, True) for n in range(3)]
STRANGER = b"\x00\x14" + b"s" * 20
NOW = UnixTime(1_700_000_000)


def transaction(prevouts: list[bytes], outputs: list[tuple[int, bytes]], *, version: int = 2) -> Tx:
    parts = [struct.pack("<I", version), compact_size(len(prevouts))]
    parts += [prevout + b"\x00" + struct.pack("<I", 0xFFFFFFFD) for prevout in prevouts]
    parts.append(compact_size(len(outputs)))
    parts += [struct.pack("<q", value) + compact_size(len(script)) + script for value, script in outputs]
    parts.append(struct.pack("<I", 0))
    return parse_transaction(b"".join(parts))


def foreign(n: int) -> bytes:
    """An outpoint that is nobody's business."""
    return outpoint(n.to_bytes(32, "big"), n)


def new_ledger(stored: tuple[WalletTransaction, ...] = ()) -> Ledger:
    return Ledger(Scripts(KEYS, next_receiving=3, next_change=3, look_ahead=2), stored)


def place(height: int, branch: int = 0) -> BlockPlace:
    return BlockPlace(BlockHeight(height), bytes([branch]) * 28 + height.to_bytes(4, "big"), UnixTime(NOW + height))


def confirmed(ledger: Ledger) -> dict[bytes, int]:
    return {coin.outpoint: coin.value for coin in ledger.coins() if coin.height is not None}


@dataclass
class Disk:
    """What `taken` says must be stored."""

    rows: dict[Txid, WalletTransaction] = field(default_factory=dict)

    def write(self, ledger: Ledger) -> None:
        changed, dropped = ledger.taken()
        for txid in dropped:
            self.rows.pop(txid, None)
        self.rows.update({row.txid: row for row in changed})


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, int, int]]:
    steps = st.tuples(
        st.sampled_from(["pay", "spend", "double", "mine", "undo", "store"]), st.integers(0, 5), st.integers(0, 5)
    )
    return draw(st.lists(steps, max_size=30))


@settings(max_examples=150, deadline=None)
@given(histories())
def test_confirmed_coins_are_those_of_the_best_chain(history: list[tuple[str, int, int]]) -> None:
    ledger, disk = new_ledger(), Disk()
    chain: list[list[Tx]] = []
    mempool: list[Tx] = []
    branch = 0
    for serial, (what, first, second) in enumerate(history, 1):
        spent = {prevout for block in chain for tx in block for prevout in tx.prevouts}
        spent |= {prevout for tx in mempool for prevout in tx.prevouts}
        made = [
            (outpoint(tx.txid, n), out.value)
            for tx in [*(tx for block in chain for tx in block), *mempool]
            for n, out in enumerate(tx.outputs)
        ]
        free = [(point, value) for point, value in made if point not in spent]
        if what == "pay":
            mempool.append(transaction([foreign(serial)], [(1000 + serial, OURS[first]), (5, STRANGER)]))
            ledger.take_unconfirmed(mempool[-1:], NOW)
        elif what == "spend" and free:
            point, value = free[first % len(free)]
            mempool.append(transaction([point], [(value - 1, OURS[second])]))
            ledger.take_unconfirmed(mempool[-1:], NOW)
        elif what == "double" and mempool:
            gone = mempool.pop(first % len(mempool))  # replaced by one that pays somebody else
            below = {gone.txid}
            for tx in list(mempool):
                if any(prevout[:32] in below for prevout in tx.prevouts):
                    below.add(tx.txid)
                    mempool.remove(tx)
            mempool.append(transaction(list(gone.prevouts), [(900 + serial, STRANGER)]))
            ledger.take_unconfirmed(mempool[-1:], NOW)
            ledger.drop_missing({tx.txid for tx in mempool})
        elif what == "mine":
            chain.append(mempool)
            ledger.take_block(place(len(chain), branch), mempool)
            mempool = []
        elif what == "undo" and chain:
            depth = min(len(chain), 1 + first % 3)
            back = [tx for block in chain[-depth:] for tx in block]
            chain, branch = chain[:-depth], branch + 1
            mempool = back + mempool
            ledger.undo_blocks(BlockHeight(len(chain) + 1))
        elif what == "store":
            disk.write(ledger)
    disk.write(ledger)
    best = new_ledger()
    for height, block in enumerate(chain, 1):
        best.take_block(place(height), block)
    taken = {prevout for tx in mempool for prevout in tx.prevouts}
    assert confirmed(ledger) == {point: value for point, value in confirmed(best).items() if point not in taken}
    assert {coin.outpoint for coin in ledger.coins() if coin.height is None} == {
        outpoint(tx.txid, n)
        for tx in mempool
        for n, out in enumerate(tx.outputs)
        if out.script in OURS and outpoint(tx.txid, n) not in taken
    }
    again = new_ledger(tuple(disk.rows.values()))
    assert confirmed(again) == confirmed(ledger)
    assert {coin.outpoint for coin in again.coins()} == {coin.outpoint for coin in ledger.coins()}


def test_a_chain_of_unconfirmed_change_is_trusted_and_a_strangers_coin_in_it_is_not() -> None:
    ledger = new_ledger()
    start = transaction([foreign(1)], [(1000, OURS[0])])
    ledger.take_block(place(1), [start])
    change = transaction([outpoint(start.txid, 0)], [(900, OURS[3])])
    more = transaction([outpoint(change.txid, 0)], [(800, OURS[4])])
    ledger.take_unconfirmed([change, more], NOW)
    (coin,) = ledger.coins()
    assert coin.value == 800
    assert ledger.trusts(coin)
    gift = transaction([foreign(2)], [(50, OURS[1])])
    mixed = transaction([outpoint(more.txid, 0), outpoint(gift.txid, 0)], [(840, OURS[5])])
    ledger.take_unconfirmed([gift, mixed], NOW)
    (coin,) = ledger.coins()
    assert not ledger.trusts(coin)


def test_unconfirmed_version_3_change_is_not_built_upon() -> None:
    """BIP 431: a version 2 transaction that spends it would not be relayed."""
    ledger = new_ledger()
    start = transaction([foreign(1)], [(1000, OURS[0])])
    ledger.take_block(place(1), [start])
    child = transaction([outpoint(start.txid, 0)], [(900, OURS[3])], version=3)
    ledger.take_unconfirmed([child], NOW)
    (coin,) = ledger.coins()
    assert not ledger.trusts(coin)
    ledger.take_block(place(2), [child])
    (coin,) = ledger.coins()
    assert coin.height == 2


def test_our_own_unpublished_transaction_survives_an_empty_mempool_and_a_strangers_does_not() -> None:
    ledger = new_ledger()
    start = transaction([foreign(1)], [(1000, OURS[0])])
    ledger.take_block(place(1), [start])
    own = transaction([outpoint(start.txid, 0)], [(900, STRANGER), (50, OURS[3])])
    gift = transaction([foreign(2)], [(70, OURS[1])])
    ledger.take_unconfirmed([own, gift], NOW)
    assert ledger.drop_missing(frozenset())
    assert [entry.tx.txid for entry in ledger.unconfirmed()] == [own.txid]
    assert not ledger.drop_missing(frozenset())


def test_a_block_reward_that_is_reorganised_away_is_gone_with_what_spent_it() -> None:
    ledger = new_ledger()
    reward = transaction([bytes(32) + b"\xff\xff\xff\xff"], [(5000, OURS[0])])
    assert reward.is_coinbase
    ledger.take_block(place(1), [reward])
    (coin,) = ledger.coins()
    assert not ledger.is_mature(coin, BlockHeight(99))
    assert ledger.is_mature(coin, BlockHeight(100))
    spend = transaction([outpoint(reward.txid, 0)], [(4900, OURS[3])])
    ledger.take_unconfirmed([spend], NOW)
    ledger.undo_blocks(BlockHeight(1))
    assert list(ledger.coins()) == []
    assert list(ledger.unconfirmed()) == []


def test_what_does_not_concern_us_is_not_kept() -> None:
    ledger = new_ledger()
    other = transaction([foreign(1)], [(1000, STRANGER)])
    assert not ledger.take_block(place(1), [other])
    assert not ledger.take_unconfirmed([transaction([foreign(2)], [(1000, STRANGER)])], NOW)
    assert ledger.taken() == ((), ())
