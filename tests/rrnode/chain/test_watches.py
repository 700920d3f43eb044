"""What is told of watched transactions and outputs, without a chain: each fact once, and undone when it is."""

from protocols.channel.events import Outpoint, OutputSpent, SpendGone, TxConfirmed, TxUnconfirmed
from rrnode.chain.watches import Watches


def scene(kit):
    """A transaction, two rivals that spend it, and watches for all of it."""
    first = kit.pay([(b"\x01" * 36, 10_000, kit.OPEN)], 1000)
    one, two = kit.pay([kit.coin(first)], 1000), kit.pay([kit.coin(first)], 2000)
    watches = Watches()
    point = Outpoint(txid=first.txid, index=0)
    assert watches.add_tx(first.txid)
    assert watches.add_outpoint(kit.coin(first)[0], point)
    assert not watches.add_tx(first.txid)
    assert not watches.add_outpoint(kit.coin(first)[0], point)
    return watches, first, one, two, point, kit.coin(first)[0]


def test_a_block_is_told_once_in_the_order_of_its_transactions(kit):
    watches, first, one, _, point, place = scene(kit)
    assert watches.open_outpoints(0) == [place]
    assert watches.block(7, [first, one]) == [
        TxConfirmed(txid=first.txid, height=7, transaction=first.raw),
        OutputSpent(outpoint=point, transaction=one.raw, height=7),
    ]
    assert watches.block(7, [first, one]) == []
    assert watches.open_outpoints(7) == []
    assert watches.open_outpoints(6) == [place]
    assert watches.is_told(txid=first.txid, place=None)
    assert watches.is_told(txid=None, place=place)


def test_the_mempool_is_told_changes_only_and_never_above_a_block(kit):
    watches, _, one, two, point, place = scene(kit)
    assert watches.mempool({place: one}) == [OutputSpent(outpoint=point, transaction=one.raw, height=None)]
    assert watches.told_unconfirmed(place) == one.txid
    assert watches.mempool({place: one}) == []
    assert watches.mempool({place: None}) == []
    assert watches.mempool({place: two}) == [OutputSpent(outpoint=point, transaction=two.raw, height=None)]
    assert watches.mempool({}) == [SpendGone(outpoint=point)]
    assert watches.mempool({}) == []
    watches.block(7, [one])
    assert watches.mempool({place: two}) == []
    assert watches.mempool({}) == []
    assert watches.told_unconfirmed(place) is None


def test_undoing_tells_what_stood_above_the_fork(kit):
    watches, first, one, _, point, _ = scene(kit)
    watches.block(7, [first])
    watches.block(8, [one])
    assert watches.undo(8) == []
    assert watches.undo(7) == [SpendGone(outpoint=point)]
    assert watches.undo(6) == [TxUnconfirmed(txid=first.txid)]
    assert watches.undo(0) == []
    assert watches.never_told() == [TxUnconfirmed(txid=first.txid), SpendGone(outpoint=point)]


def test_a_watch_ends_when_its_fact_is_too_deep_to_be_undone(kit):
    watches, first, one, _, _, place = scene(kit)
    watches.block(7, [first])
    watches.forget(6)
    assert watches.undo(6) == [TxUnconfirmed(txid=first.txid)]
    watches.block(7, [first, one])
    watches.forget(7)
    assert watches.undo(0) == []
    assert watches.open_outpoints(0) == []
    assert watches.is_told(txid=first.txid, place=None)
    assert watches.is_told(txid=None, place=place)
