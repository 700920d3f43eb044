"""Closing together: shutdown, draining, proposals of both sides, and what is published. Whole effect lists; bad proposals."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from protocols.channel.events import (
    ChannelChanged,
    CloseRequested,
    FailHtlc,
    Flush,
    OutputSpent,
    Publish,
    PublishWithChild,
    Purpose,
    Refusal,
    SendMessage,
    SpendGone,
    StoreChannel,
    TipChanged,
)
from protocols.channel.state import ClosingProposal, Phase
from protocols.onchain import closing
from protocols.onchain.tx import parse
from protocols.units import BlockHeight, FeeRate, Msat
from protocols.wire.channel import (
    ClosingComplete,
    ClosingSig,
    Error,
    FailureCode,
    Shutdown,
    UpdateAddHtlc,
    Warn,
)

WRONG = bytes(31) + b"\x01" * 33


def close(node: Any, force: bool = False) -> CloseRequested:
    return CloseRequested(channel_id=node.now.channel_id, force=force)


def sent(effects: Any) -> list[Any]:
    return [each.message for each in effects if isinstance(each, SendMessage)]


def published(effects: Any) -> list[bytes]:
    return [each.transaction for each in effects if isinstance(each, Publish)]


def test_a_close_message_by_message(kit: Any, opened: Any) -> None:
    alice, bob = opened.alice, opened.bob
    channel_id = alice.now.channel_id
    ours, theirs = alice.now.our_terms.shutdown_script, bob.now.our_terms.shutdown_script
    changed = ChannelChanged(channel_id=channel_id)

    assert alice.ask(close(alice)) == [StoreChannel(channel=alice.now), changed]
    assert alice.now.phase is Phase.SHUTTING
    shutdown = Shutdown(channel_id, ours)
    assert alice.ask(Flush()) == [StoreChannel(channel=alice.now), SendMessage(peer=kit.bob_id, message=shutdown)]

    fee = closing.closing_fee(ours, theirs, FeeRate(2000))
    effects = bob.ask(opened.event(bob, shutdown))
    answer, proposal = sent(effects)
    assert effects == [
        StoreChannel(channel=replace(bob.now, proposal=None)),
        changed,
        SendMessage(peer=kit.alice_id, message=Shutdown(channel_id, theirs)),
        changed,
        SendMessage(peer=kit.alice_id, message=proposal),
    ]
    assert bob.now.phase is Phase.CLOSING
    assert bob.now.proposal == ClosingProposal(fee=fee, locktime=bob.tip)
    assert (proposal.fee_sat, proposal.closer_script, proposal.closee_script) == (fee, theirs, ours)
    # Bob has less than Alice, so he may not drop her output, and keeps his own.
    assert [bool(proposal.closer_output_only), bool(proposal.closee_output_only)] == [False, False]

    (own,) = sent(alice.ask(opened.event(alice, answer)))
    assert isinstance(own, ClosingComplete)
    assert own.closer_output_only
    assert own.closer_and_closee_outputs
    effects = alice.ask(opened.event(alice, proposal))
    (signature,) = sent(effects)
    assert effects == [
        StoreChannel(channel=alice.now),
        SendMessage(peer=kit.bob_id, message=signature),
        Publish(
            channel_id=channel_id,
            transaction=alice.now.closing_transactions[-1],
            purpose=Purpose.MUTUAL_CLOSE,
        ),
    ]
    effects = bob.ask(opened.event(bob, signature))
    assert published(effects) == [alice.now.closing_transactions[-1]]
    transaction = parse(published(effects)[0])
    assert {(each.value, each.script) for each in transaction.outputs} == {
        (600_000, ours),
        (400_000 - fee, theirs),
    }
    bob.ask(opened.event(bob, own))
    opened.quiet()
    paid = {tuple(sorted(each.value for each in parse(one).outputs)) for one in alice.now.closing_transactions}
    assert paid == {(400_000 - fee, 600_000), (400_000, 600_000 - fee)}


def test_a_close_waits_until_the_htlcs_have_drained(kit: Any, opened: Any) -> None:
    alice, bob = opened.alice, opened.bob
    alice.batch(kit.offer(alice.now, 1))
    opened.quiet()
    bob.batch(close(bob))
    opened.quiet()
    assert (alice.now.phase, bob.now.phase) == (Phase.SHUTTING, Phase.SHUTTING)
    assert alice.ask(kit.offer(alice.now, 2))[0].reason is Refusal.NOT_OPEN
    told = bob.received()[0]
    bob.batch(FailHtlc(channel_id=told.channel_id, htlc_id=0, code=FailureCode.CHANNEL_CLOSING))
    opened.quiet()
    assert (alice.now.phase, bob.now.phase) == (Phase.CLOSING, Phase.CLOSING)
    assert alice.now.closing_transactions
    assert sorted(alice.now.closing_transactions) == sorted(bob.now.closing_transactions)


def test_shutdown_waits_until_our_own_updates_are_signed(kit: Any, opened: Any) -> None:
    alice, bob = opened.alice, opened.bob
    alice.batch(kit.offer(alice.now, 1))  # signed; the revocation is outstanding
    alice.ask(kit.offer(alice.now, 2))  # not signed
    sent_before = len(alice.outbox)
    alice.batch(close(alice))
    assert len(alice.outbox) == sent_before
    opened.deliver(alice)
    opened.deliver(bob)
    kinds = [type(kit.decode(each)).__name__ for each in alice.outbox]
    assert kinds == ["RevokeAndAck", "CommitmentSigned", "Shutdown"]
    opened.quiet()
    assert len(bob.received()) == 2
    assert alice.now.phase is Phase.SHUTTING


def test_a_poor_closer_proposes_nothing_and_the_rich_one_does(kit: Any) -> None:
    pair = kit.pair().open(push=Msat(100_000))
    pair.alice.batch(close(pair.alice))
    pair.quiet()
    assert pair.bob.now.proposal is None
    (one,) = set(pair.alice.now.closing_transactions)
    outputs = parse(one).outputs
    assert [each.script for each in outputs] == [pair.alice.now.our_terms.shutdown_script]  # Bob's 100 sat are dust
    assert pair.bob.now.closing_transactions == (one,)


def test_a_closer_whose_rest_is_dust_pays_it_all_as_fee(kit: Any) -> None:
    pair = kit.pair().open(push=Msat(400_000))
    pair.bob.feerate = FeeRate(1500)
    pair.bob.batch(close(pair.bob))
    pair.quiet()
    scripts = {tuple(each.script for each in parse(one).outputs) for one in pair.bob.now.closing_transactions}
    assert (pair.alice.now.our_terms.shutdown_script,) in scripts


def test_a_mad_estimate_of_the_chain_burns_no_more_than_half(kit: Any) -> None:
    pair = kit.pair().open()
    ours = pair.alice.balances.ours // 1000
    pair.alice.feerate = FeeRate(10**9)
    pair.alice.batch(close(pair.alice))
    pair.quiet()
    fees = [
        each.message.fee_sat
        for each in pair.alice.done
        if isinstance(each, SendMessage) and isinstance(each.message, ClosingComplete)
    ]
    assert fees == [ours // 2]


def proposal_to_alice(kit: Any, pair: Any) -> ClosingComplete:
    pair.alice.batch(close(pair.alice))
    pair.deliver(pair.alice)
    pair.deliver(pair.bob, 1)
    return kit.decode(pair.bob.outbox.popleft())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"closer_script": b"\x00\x14" + bytes(20)}, "other scripts"),
        ({"closee_script": b"\x00\x14" + bytes(20)}, "other scripts"),
        ({"fee_sat": 400_001}, "fee or variants"),
        ({"closer_and_closee_outputs": b""}, "fee or variants"),
        ({"locktime": 1004}, "a locktime of 1004"),
    ],
)
def test_a_proposal_that_cannot_be_is_warned_of_and_nothing_is_closed_for_it(
    kit: Any, opened: Any, change: dict[str, Any], words: str
) -> None:
    lie = msgspec.structs.replace(proposal_to_alice(kit, opened), **change)
    before = opened.alice.now
    (warning,) = opened.alice.ask(opened.event(opened.alice, lie))
    assert isinstance(warning.message, Warn)
    assert words in warning.message.text
    assert opened.alice.now is before


def test_a_proposal_with_a_wrong_signature_fails_the_channel(kit: Any, opened: Any) -> None:
    lie = msgspec.structs.replace(proposal_to_alice(kit, opened), closer_and_closee_outputs=WRONG)
    effects = opened.alice.ask(opened.event(opened.alice, lie))
    assert opened.alice.now.phase is Phase.FORCED
    assert [type(each) for each in effects if isinstance(each, PublishWithChild)] == [PublishWithChild]


def answer_to_alice(kit: Any, pair: Any) -> ClosingSig:
    pair.alice.batch(close(pair.alice))
    pair.deliver(pair.alice)
    pair.deliver(pair.bob, 1)
    pair.bob.outbox.clear()
    pair.deliver(pair.alice)
    return kit.decode(pair.bob.outbox.popleft())


@pytest.mark.parametrize(
    "change",
    [
        {"fee_sat": 1},
        {"locktime": 7},
        {"closer_script": b"\x00\x14" + bytes(20)},
    ],
)
def test_an_answer_to_something_else_is_ignored(kit: Any, opened: Any, change: dict[str, Any]) -> None:
    other = msgspec.structs.replace(answer_to_alice(kit, opened), **change)
    assert opened.alice.ask(opened.event(opened.alice, other)) == []


@pytest.mark.parametrize(
    "change",
    [
        {"closer_and_closee_outputs": b""},
        {"closer_output_only": WRONG},
        {"closee_output_only": WRONG, "closer_and_closee_outputs": b""},
    ],
)
def test_an_answer_without_exactly_one_signature_that_was_asked_for_is_warned_of(
    kit: Any, opened: Any, change: dict[str, Any]
) -> None:
    other = msgspec.structs.replace(answer_to_alice(kit, opened), **change)
    (warning,) = sent(opened.alice.ask(opened.event(opened.alice, other)))
    assert isinstance(warning, Warn)


def test_an_answer_with_a_wrong_signature_fails_the_channel(kit: Any, opened: Any) -> None:
    answer = msgspec.structs.replace(answer_to_alice(kit, opened), closer_and_closee_outputs=WRONG)
    opened.alice.ask(opened.event(opened.alice, answer))
    assert opened.alice.now.phase is Phase.FORCED


def closed(kit: Any, pair: Any) -> bytes:
    pair.alice.batch(close(pair.alice))
    pair.quiet()
    return pair.alice.now.closing_transactions[-1]


def test_the_closing_transaction_is_published_until_it_confirms_and_then_buried(kit: Any, opened: Any) -> None:
    transaction = closed(kit, opened)
    alice = opened.alice
    order = Publish(channel_id=alice.now.channel_id, transaction=transaction, purpose=Purpose.MUTUAL_CLOSE)
    assert alice.ask(TipChanged()) == [order]
    assert alice.restart()[-1] == order
    spent = OutputSpent(outpoint=alice.now.funding, transaction=transaction, height=BlockHeight(1003))
    alice.tip = BlockHeight(1003)
    assert alice.ask(spent) == [StoreChannel(channel=alice.now)]
    assert alice.ask(TipChanged()) == []
    alice.ask(SpendGone(outpoint=alice.now.funding))  # a reorganisation
    assert alice.now.phase is Phase.CLOSING
    assert alice.ask(TipChanged()) == [order]
    alice.ask(spent)
    alice.tip = BlockHeight(1002 + alice.config.buried_depth)
    assert alice.ask(TipChanged()) == [
        StoreChannel(channel=alice.now),
        ChannelChanged(channel_id=alice.now.channel_id),
    ]
    assert alice.now.phase is Phase.CLOSED


def test_after_a_reconnect_the_negotiation_begins_anew_at_the_fee_of_the_day(kit: Any, opened: Any) -> None:
    transaction = closed(kit, opened)
    opened.cut()
    opened.alice.feerate = FeeRate(9000)
    opened.connect()
    opened.quiet()
    newest = opened.alice.now.closing_transactions
    assert transaction in newest
    fee = 1_000_000 - min(sum(out.value for out in parse(each).outputs) for each in newest)
    wanted = closing.closing_fee(
        *[node.now.our_terms.shutdown_script for node in (opened.alice, opened.bob)], FeeRate(9000)
    )
    assert fee == wanted


def test_few_closing_transactions_are_kept_however_often_it_begins_anew(kit: Any, opened: Any) -> None:
    closed(kit, opened)
    for round_ in range(12):
        opened.cut()
        opened.alice.feerate = FeeRate(3000 + 100 * round_)
        opened.connect()
        opened.quiet()
    assert len(opened.alice.now.closing_transactions) == 8


def test_an_error_while_a_closing_transaction_is_in_hand_changes_nothing(kit: Any, opened: Any) -> None:
    closed(kit, opened)
    alice = opened.alice
    assert alice.ask(opened.event(alice, Error(alice.now.channel_id, "eh"))) == []
    assert alice.now.phase is Phase.CLOSING


def test_an_error_before_there_is_one_fails_the_channel(kit: Any, opened: Any) -> None:
    alice = opened.alice
    alice.batch(close(alice))
    opened.deliver(alice)
    opened.deliver(opened.bob, 1)
    assert alice.now.phase is Phase.CLOSING
    alice.ask(opened.event(alice, Error(alice.now.channel_id, "eh")))
    assert alice.now.phase is Phase.FORCED


def test_an_htlc_while_closing_fails_the_channel(kit: Any, opened: Any) -> None:
    closed(kit, opened)
    alice = opened.alice
    add = UpdateAddHtlc(alice.now.channel_id, 0, 1_000_000, kit.hash_of(1), 1100)
    alice.ask(opened.event(alice, add))
    assert alice.now.phase is Phase.FORCED


def test_a_channel_can_be_closed_together_before_its_funding_is_deep(kit: Any, pair: Any) -> None:
    pair.connected = True
    pair.alice.batch(kit.request())
    pair.quiet()
    pair.fund()
    pair.quiet()
    transaction = closed(kit, pair)
    order = Publish(channel_id=pair.alice.now.channel_id, transaction=transaction, purpose=Purpose.MUTUAL_CLOSE)
    funding = Publish(
        channel_id=pair.alice.now.channel_id,
        transaction=pair.alice.now.funding_transaction,
        purpose=Purpose.FUNDING,
    )
    assert pair.alice.ask(TipChanged()) == [funding, order]


def test_closing_twice_and_shutdown_twice_change_nothing(kit: Any, opened: Any) -> None:
    alice, bob = opened.alice, opened.bob
    alice.batch(kit.offer(alice.now, 1))
    opened.quiet()
    alice.batch(close(alice))
    assert alice.ask(close(alice)) == []
    opened.quiet()
    assert bob.ask(opened.event(bob, Shutdown(alice.now.channel_id, alice.now.our_terms.shutdown_script))) == []


def confirming(kit: Any, pair: Any) -> Any:
    """Both wait for confirmations; Alice has seen them and said channel_ready."""
    pair.connected = True
    pair.alice.batch(kit.request())
    pair.quiet()
    pair.fund()
    pair.quiet()
    pair.confirm()
    return pair


def test_a_close_that_crosses_the_other_sides_channel_ready_still_takes_its_htlc(kit: Any, pair: Any) -> None:
    """Bob is open as soon as he has Alice's channel_ready, and may use the channel before he hears of her shutdown."""
    alice, bob = confirming(kit, pair).alice, pair.bob
    pair.deliver(alice)
    assert bob.now.phase is Phase.OPEN
    bob.batch(kit.offer(bob.now, 1))
    alice.batch(close(alice))
    pair.quiet()
    (told,) = alice.received()
    assert (alice.now.phase, bob.now.phase) == (Phase.SHUTTING, Phase.SHUTTING)
    alice.batch(FailHtlc(channel_id=told.channel_id, htlc_id=0, code=FailureCode.CHANNEL_CLOSING))
    pair.quiet()
    assert (alice.now.phase, bob.now.phase) == (Phase.CLOSING, Phase.CLOSING)
    pair.agree()


def test_an_htlc_before_channel_ready_fails_the_channel_though_it_is_closing(kit: Any, pair: Any) -> None:
    alice = confirming(kit, pair).alice
    alice.batch(close(alice))
    alice.ask(pair.event(alice, UpdateAddHtlc(alice.now.channel_id, 0, 1_000_000, kit.hash_of(1), 1100)))
    assert alice.now.phase is Phase.FORCED
    assert "before channel_ready" in alice.now.failure
