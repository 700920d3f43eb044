"""Leaving by the chain: the heights at which it must be, what is published, and what the payments above are told (R10)."""

from dataclasses import replace
from typing import Any

import pytest

from protocols.channel.commitments import build_ours
from protocols.channel.engine import deadline, force_close_transactions
from protocols.channel.events import (
    Alarm,
    ChannelChanged,
    CloseRequested,
    FailHtlc,
    Flush,
    HtlcFailed,
    HtlcFulfilled,
    OutputSpent,
    Publish,
    PublishWithChild,
    PublishWithInputs,
    Purpose,
    SendMessage,
    SettleHtlc,
    SpendGone,
    StoreChannel,
    TipChanged,
    WatchOutpoint,
)
from protocols.channel.force import context
from protocols.channel.state import Phase, Stage
from protocols.onchain.htlc import htlc_transaction, sign_htlcs
from protocols.onchain.tx import parse, txid_of
from protocols.units import BlockHeight
from protocols.watch.state import SpendKind
from protocols.wire.channel import Error, FailureCode


def settle(told: Any, kit: Any, number: int = 1) -> SettleHtlc:
    return SettleHtlc(channel_id=told.channel_id, htlc_id=told.htlc_id, preimage=kit.preimage_of(number))


def fail(told: Any) -> FailHtlc:
    return FailHtlc(channel_id=told.channel_id, htlc_id=told.htlc_id, code=FailureCode.DOWNSTREAM_FAILED)


def force(node: Any) -> CloseRequested:
    return CloseRequested(channel_id=node.now.channel_id, force=True)


def committed(pair: Any, kit: Any, number: int = 1) -> Any:
    pair.alice.batch(kit.offer(pair.alice.now, number))
    pair.quiet()
    return pair.bob.received()[-1]


def of(kind: type, effects: Any) -> list[Any]:
    return [each for each in effects if isinstance(each, kind)]


# --- deadlines -------------------------------------------------------------------------------------------------------


def test_an_offered_htlc_has_its_deadline_after_its_expiry(kit: Any, opened: Any) -> None:
    alice = opened.alice
    assert deadline(alice.now, alice.config) is None
    alice.ask(kit.offer(alice.now, 1))
    assert deadline(alice.now, alice.config) is None  # unsigned: it is on no commitment
    alice.ask(Flush())
    assert deadline(alice.now, alice.config) == kit.tip_at + 100 + 2
    opened.quiet()
    alice.tip = BlockHeight(kit.tip_at + 101)
    assert alice.ask(TipChanged()) == []
    alice.tip = BlockHeight(kit.tip_at + 102)
    stored, publish, error, alarm, changed = alice.ask(TipChanged())
    channel_id = alice.now.channel_id
    assert stored == StoreChannel(channel=alice.now)
    assert isinstance(publish, PublishWithChild)
    assert error == SendMessage(peer=kit.bob_id, message=Error(channel_id, "an HTLC ran into its deadline"))
    assert alarm == Alarm(
        channel_id=channel_id, text=f"an HTLC had to be resolved on the chain by height {kit.tip_at + 102}"
    )
    assert changed == ChannelChanged(channel_id=channel_id)
    assert alice.now.phase is Phase.FORCED


def test_a_received_htlc_has_one_only_once_we_released_its_preimage(kit: Any, opened: Any) -> None:
    bob = opened.bob
    told = committed(opened, kit)
    assert deadline(bob.now, bob.config) is None
    bob.tip = BlockHeight(kit.tip_at + 99)
    assert bob.ask(TipChanged()) == []
    opened.cut()
    bob.ask(settle(told, kit))
    assert deadline(bob.now, bob.config) == kit.tip_at + 100 - 18
    bob.tip = BlockHeight(kit.tip_at + 81)
    assert bob.ask(TipChanged()) == []
    bob.tip = BlockHeight(kit.tip_at + 82)
    assert of(PublishWithChild, bob.ask(TipChanged()))
    assert bob.now.phase is Phase.FORCED


def test_a_settled_htlc_has_no_deadline_once_our_commitment_is_without_it(kit: Any, opened: Any) -> None:
    alice, bob = opened.alice, opened.bob
    bob.batch(settle(committed(opened, kit), kit))
    while bob.now.htlcs and bob.now.htlcs[0].stage <= Stage.REMOVE_REVOKED:
        assert deadline(bob.now, bob.config) == kit.tip_at + 82
        assert deadline(alice.now, alice.config) in (None, kit.tip_at + 102)
        opened.deliver(bob, 1)
        opened.deliver(alice, 1)
    opened.quiet()
    assert deadline(bob.now, bob.config) is None
    assert deadline(alice.now, alice.config) is None


def test_once_they_showed_the_preimage_we_can_wait(kit: Any, opened: Any) -> None:
    told = committed(opened, kit)
    opened.bob.ask(settle(told, kit))
    opened.deliver(opened.bob, 1)
    opened.alice.tip = BlockHeight(kit.tip_at + 500)
    assert opened.alice.ask(TipChanged()) == []
    assert opened.alice.now.phase is Phase.OPEN


def test_a_peer_that_is_merely_away_is_waited_for(kit: Any, opened: Any) -> None:
    told = committed(opened, kit)
    opened.bob.batch(fail(told))
    opened.quiet()
    opened.cut()
    for node in (opened.alice, opened.bob):
        node.tip = BlockHeight(kit.tip_at + 50_000)
        assert node.ask(TipChanged()) == []
        assert node.now.phase is Phase.OPEN


# --- what is published -----------------------------------------------------------------------------------------------


def test_the_guard_builds_the_commitment_and_its_htlc_transactions_from_the_state_alone(kit: Any, opened: Any) -> None:
    bob = opened.bob
    told = committed(opened, kit, 1)
    committed(opened, kit, 2)
    bob.batch(kit.offer(bob.now, 3))
    opened.quiet()
    opened.cut()
    bob.ask(settle(told, kit))
    close = force_close_transactions(bob.now, kit.bob_keys)
    built = build_ours(bob.now, kit.bob_keys, bob.now.our_number)
    assert txid_of(close.transaction) == built.txid
    assert close.anchor_index == built.anchor_index
    # The one whose preimage we have, and the one that we offered; not the one that we can only wait for.
    assert {each.purpose for each in close.htlcs} == {Purpose.HTLC_SUCCESS, Purpose.HTLC_TIMEOUT}
    for each in close.htlcs:
        transaction = parse(each.transaction)
        assert transaction.inputs[0].txid == built.txid
        assert transaction.outputs[0].value == each.spent_value == 10_000
        success = each.purpose is Purpose.HTLC_SUCCESS
        assert transaction.locktime == (0 if success else kit.tip_at + 100)
        assert (kit.preimage_of(1) in transaction.inputs[0].witness) == success
        assert each.deadline == kit.tip_at + 100 + (0 if success else 144)
    bob.batch(force(bob))
    (order,) = of(PublishWithChild, bob.done)
    assert order.transaction == close.transaction


def test_there_is_nothing_to_publish_before_a_signature_or_after_a_loss(kit: Any, pair: Any) -> None:
    pair.alice.ask(kit.request())
    assert force_close_transactions(pair.alice.now, kit.alice_keys) is None
    assert deadline(pair.alice.now, pair.alice.config) is None


def test_htlcs_that_were_never_signed_fail_at_once_when_we_leave(kit: Any, opened: Any) -> None:
    alice = opened.alice
    alice.ask(kit.offer(alice.now, 1))
    effects = alice.ask(force(alice))
    assert of(HtlcFailed, effects) == [
        HtlcFailed(channel_id=alice.now.channel_id, htlc_id=0, payment_hash=kit.hash_of(1), code=FailureCode.NODE_BUSY)
    ]
    assert alice.now.htlcs == ()
    assert not of(Alarm, effects)


def test_it_is_published_at_each_block_and_after_a_restart(kit: Any, opened: Any) -> None:
    alice = opened.alice
    (order,) = of(PublishWithChild, alice.ask(force(alice)))
    assert alice.ask(force(alice)) == [
        SendMessage(peer=kit.bob_id, message=Error(alice.now.channel_id, "closed by force"))
    ]
    alice.tip = BlockHeight(alice.tip + 1)
    assert of(PublishWithChild, alice.ask(TipChanged())) == [order]
    assert of(PublishWithChild, alice.restart()) == [order]


def spend(node: Any, transaction: bytes, height: int | None) -> Any:
    at = None if height is None else BlockHeight(height)
    return OutputSpent(outpoint=node.now.funding, transaction=transaction, height=at)


def commitment_of(node: Any) -> bytes:
    return force_close_transactions(node.now, node.keys).transaction


def test_a_commitment_of_theirs_in_the_mempool_ends_the_channel(kit: Any, opened: Any) -> None:
    alice = opened.alice
    committed(opened, kit)
    transaction = commitment_of(opened.bob)
    effects = alice.ask(spend(alice, transaction, None))
    assert alice.now.phase is Phase.FORCED
    assert alice.now.close.kind is SpendKind.THEIRS
    assert effects[0] == StoreChannel(channel=alice.now)
    assert of(WatchOutpoint, effects)
    assert of(ChannelChanged, effects)


def test_one_that_vanishes_again_is_followed_by_ours(kit: Any, opened: Any) -> None:
    alice = opened.alice
    committed(opened, kit)
    alice.ask(spend(alice, commitment_of(opened.bob), None))
    effects = alice.ask(SpendGone(outpoint=alice.now.funding))
    (order,) = of(PublishWithChild, effects)
    assert order.transaction == commitment_of(alice)
    assert effects[0] == StoreChannel(channel=alice.now)


def test_unsigned_htlcs_fail_when_they_leave(kit: Any, opened: Any) -> None:
    alice = opened.alice
    transaction = commitment_of(opened.bob)
    alice.ask(kit.offer(alice.now, 1))
    effects = alice.ask(spend(alice, transaction, 1003))
    assert [each.htlc_id for each in of(HtlcFailed, effects)] == [0]


def test_a_spend_of_something_else_means_nothing(kit: Any, opened: Any) -> None:
    alice = opened.alice
    other = type(alice.now.funding)(txid=bytes(32), index=0)
    assert alice.ask(OutputSpent(outpoint=other, transaction=bytes(60), height=BlockHeight(1003))) == []
    assert alice.ask(SpendGone(outpoint=alice.now.funding)) == []
    assert alice.now.phase is Phase.OPEN


# --- R10 on the chain ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signed", [False, True])
def test_a_failure_that_is_not_irrevocable_and_is_then_claimed_on_the_chain_counts_as_paid(
    kit: Any, opened: Any, signed: bool
) -> None:
    """Bob fails the HTLC, and publishes the commitment that still holds it. Alice has told nobody that it failed."""
    alice, bob = opened.alice, opened.bob
    told = committed(opened, kit)
    transaction = commitment_of(bob)
    held = build_ours(bob.now, kit.bob_keys, bob.now.our_number)
    bob.batch(fail(told))
    opened.deliver(bob, 2 if signed else 1)
    assert not of(HtlcFailed, alice.told)
    alice.ask(spend(alice, transaction, 1003))
    assert not of(HtlcFailed, alice.told)
    ((index, _),) = held.htlc_outputs
    stolen = bob_claims(kit, opened, held, index)
    outpoint = type(alice.now.funding)(txid=held.txid, index=index)
    effects = alice.ask(OutputSpent(outpoint=outpoint, transaction=stolen, height=None))
    assert of(HtlcFulfilled, effects) == [
        HtlcFulfilled(channel_id=told.channel_id, htlc_id=0, payment_hash=kit.hash_of(1), preimage=kit.preimage_of(1))
    ]
    for height in (1003, 1010, 1200, 5000):
        alice.tip = BlockHeight(height)
        alice.ask(TipChanged())
    assert not of(HtlcFailed, alice.told)


def bob_claims(kit: Any, pair: Any, built: Any, index: int) -> bytes:
    """Bob's HTLC-success transaction for the commitment that he published."""
    (theirs,) = sign_htlcs(built, kit.alice_keys.htlc_secret)
    return htlc_transaction(
        built,
        index,
        their_signature=theirs,
        htlc_basepoint_secret=kit.bob_keys.htlc_secret,
        preimage=kit.preimage_of(1),
    )


def test_a_timeout_on_the_chain_is_told_only_when_it_is_buried(kit: Any, opened: Any) -> None:
    alice = opened.alice
    committed(opened, kit)
    alice.tip = BlockHeight(kit.tip_at + 102)
    (order,) = of(PublishWithChild, alice.ask(TipChanged()))
    built = build_ours(alice.now, kit.alice_keys, alice.now.our_number)
    effects = alice.ask(spend(alice, order.transaction, alice.tip))
    (timeout,) = of(PublishWithInputs, effects)
    assert timeout.purpose is Purpose.HTLC_TIMEOUT
    ((index, _),) = built.htlc_outputs
    outpoint = type(alice.now.funding)(txid=built.txid, index=index)
    confirmed = BlockHeight(alice.tip + 1)
    alice.tip = confirmed
    alice.ask(OutputSpent(outpoint=outpoint, transaction=timeout.transaction, height=confirmed))
    alice.tip = BlockHeight(confirmed + alice.config.buried_depth - 2)
    assert not of(HtlcFailed, alice.ask(TipChanged()))
    alice.tip = BlockHeight(confirmed + alice.config.buried_depth - 1)
    assert [each.code for each in of(HtlcFailed, alice.ask(TipChanged()))] == [FailureCode.TIMED_OUT]


def test_a_preimage_that_comes_after_the_close_claims_on_the_chain(kit: Any, opened: Any) -> None:
    bob = opened.bob
    told = committed(opened, kit)
    (order,) = of(PublishWithChild, bob.ask(force(bob)))
    bob.tip = BlockHeight(1003)
    bob.ask(spend(bob, order.transaction, 1003))
    effects = bob.ask(settle(told, kit))
    assert effects[0] == StoreChannel(channel=bob.now)
    assert bob.now.htlcs[0].preimage == kit.preimage_of(1)
    (claim,) = of(PublishWithInputs, effects)
    assert claim.purpose is Purpose.HTLC_SUCCESS
    assert bob.ask(settle(told, kit)) == []
    bob.ask(fail(told))
    assert bob.now.htlcs[0].failure is None


def test_a_failure_that_comes_after_the_close_is_noted_and_told_to_nobody(kit: Any, opened: Any) -> None:
    bob = opened.bob
    told = committed(opened, kit)
    bob.ask(force(bob))
    assert bob.ask(fail(told)) == [StoreChannel(channel=bob.now)]
    assert bob.ask(fail(told)) == []


def test_a_preimage_on_a_lost_channel_is_kept(kit: Any, opened: Any) -> None:
    bob = opened.bob
    told = committed(opened, kit)
    assert context(bob.now, bob.env).may_publish
    bob.channel = replace(bob.now, phase=Phase.LOST)
    assert not context(bob.now, bob.env).may_publish
    assert bob.ask(settle(told, kit)) == [StoreChannel(channel=bob.now)]
    assert not of(Publish, bob.ask(TipChanged()))


def test_our_close_is_followed_until_everything_is_buried(kit: Any, opened: Any) -> None:
    alice = opened.alice
    (order,) = of(PublishWithChild, alice.ask(force(alice)))
    alice.tip = BlockHeight(1003)
    alice.ask(spend(alice, order.transaction, 1003))
    built = build_ours(alice.now, kit.alice_keys, alice.now.our_number)
    index = next(place for place, each in enumerate(built.outputs) if each.witness_script)
    alice.tip = BlockHeight(1003 + 144)
    (sweep,) = of(Publish, alice.ask(TipChanged()))
    assert sweep.purpose is Purpose.SWEEP
    outpoint = type(alice.now.funding)(txid=built.txid, index=index)
    alice.tip = BlockHeight(1200)
    alice.ask(OutputSpent(outpoint=outpoint, transaction=sweep.transaction, height=BlockHeight(1200)))
    assert alice.now.phase is Phase.FORCED
    alice.tip = BlockHeight(1199 + alice.config.buried_depth)
    effects = alice.ask(TipChanged())
    assert effects == [StoreChannel(channel=alice.now), ChannelChanged(channel_id=alice.now.channel_id)]
    assert alice.now.phase is Phase.CLOSED


def test_both_leaving_together_or_by_force_ends_as_the_chain_says(kit: Any, opened: Any) -> None:
    """Alice forces; but the closing transaction that both signed is what confirms."""
    alice = opened.alice
    alice.batch(CloseRequested(channel_id=alice.now.channel_id, force=False))
    opened.quiet()
    transaction = alice.now.closing_transactions[-1]
    alice.ask(force(alice))
    assert alice.now.phase is Phase.FORCED
    alice.ask(spend(alice, transaction, 1003))
    assert alice.now.phase is Phase.CLOSING
    alice.ask(SpendGone(outpoint=alice.now.funding))
    assert alice.now.phase is Phase.FORCED
