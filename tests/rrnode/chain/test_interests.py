"""Which transactions of a block concern whoever asks."""

from rrnode.chain.base import NO_INTERESTS, Interests
from rrnode.chain.parse import outpoint


def test_spends_transactions_and_payments_concern_and_what_spends_those_payments_in_the_same_block(kit):
    source, other = (outpoint(bytes([n]) * 32, 0) for n in (1, 2))
    spend = kit.build([(source, 10_000, kit.OPEN)], [(9_000, kit.LOCKED)])
    paid = kit.build([(other, 10_000, kit.OPEN)], [(5_000, kit.LOCKED), (4_000, kit.OPEN)])
    onward = kit.build([kit.coin(paid, 1)], [(3_000, kit.LOCKED)])
    change = kit.build([kit.coin(paid, 0)], [(4_000, kit.LOCKED)])
    block = (spend, paid, onward, change)
    assert Interests(outpoints=frozenset({source})).within(block) == (0,)
    assert Interests(txids=frozenset({change.txid})).within(block) == (3,)
    assert Interests(scripts=frozenset({kit.OPEN})).within(block) == (1, 2)
    everything = Interests(outpoints=frozenset({source})) | Interests(scripts=frozenset({kit.LOCKED}))
    assert everything.within(block) == (0, 1, 2, 3)
    assert NO_INTERESTS.within(block) == ()
    assert (len(everything), len(NO_INTERESTS)) == (2, 0)
