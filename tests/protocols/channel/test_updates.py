"""HTLCs on an open channel: what each message does (whole effect lists), what is refused, what waits for what (R10, R11)."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from protocols.channel import records
from protocols.channel.commitments import build_ours, build_theirs
from protocols.channel.events import (
    ChannelChanged,
    FailHtlc,
    Flush,
    HtlcFailed,
    HtlcFulfilled,
    HtlcOffered,
    HtlcReceived,
    HtlcRefused,
    LinkDown,
    OfferHtlc,
    Refusal,
    SendMessage,
    SettleHtlc,
    StoreChannel,
    StoreRevoked,
    TxConfirmed,
    TxUnconfirmed,
)
from protocols.channel.state import Balances, Stage, live_htlcs, receivable, spendable, undecided
from protocols.errors import MisuseError
from protocols.ids import Preimage
from protocols.onchain import commitment, htlc
from protocols.units import BlockDelta, BlockHeight, Msat, Sat
from protocols.wire.channel import (
    CommitmentSigned,
    FailureCode,
    RevokeAndAck,
    UpdateAddHtlc,
    UpdateFailHtlc,
    UpdateFulfillHtlc,
)

AMOUNT = 10_000_000


def committed(pair: Any, kit: Any, number: int = 1, amount: int = AMOUNT) -> Any:
    """Alice's HTLC, irrevocable on both sides; gives Bob's `HtlcReceived`."""
    pair.alice.batch(kit.offer(pair.alice.now, number, amount))
    pair.quiet()
    return pair.bob.received()[-1]


def settle(told: Any, kit: Any, number: int = 1) -> SettleHtlc:
    return SettleHtlc(channel_id=told.channel_id, htlc_id=told.htlc_id, preimage=kit.preimage_of(number))


def fail(told: Any) -> FailHtlc:
    return FailHtlc(channel_id=told.channel_id, htlc_id=told.htlc_id, code=FailureCode.DOWNSTREAM_FAILED)


def test_a_payment_message_by_message(kit: Any, opened: Any) -> None:
    alice, bob = opened.alice, opened.bob
    channel_id = alice.now.channel_id

    effects = alice.ask(kit.offer(alice.now, 1, AMOUNT))
    add = UpdateAddHtlc(channel_id, 0, AMOUNT, kit.hash_of(1), kit.tip_at + 100)
    assert effects == [
        StoreChannel(channel=alice.now),
        SendMessage(peer=kit.bob_id, message=add),
        HtlcOffered(channel_id=channel_id, reference=b"payment 1", htlc_id=0),
    ]
    assert bob.ask(opened.event(bob, add)) == []

    effects = alice.ask(Flush())
    built = build_theirs(alice.now, 1, kit.bob_keys.per_commitment_point(1))
    signed = CommitmentSigned(
        channel_id,
        commitment.sign(built, kit.alice_keys.funding_secret),
        htlc.sign_htlcs(built, kit.alice_keys.htlc_secret),
    )
    assert effects == [StoreChannel(channel=alice.now), SendMessage(peer=kit.bob_id, message=signed)]
    assert len(signed.htlc_signatures) == 1
    assert alice.ask(Flush()) == []

    effects = bob.ask(opened.event(bob, signed))
    revoke = RevokeAndAck(channel_id, kit.bob_keys.per_commitment_secret(0), kit.bob_keys.per_commitment_point(2))
    assert effects == [StoreChannel(channel=bob.now), SendMessage(peer=kit.alice_id, message=revoke)]

    before = build_theirs(replace(alice.now, htlcs=()), 0, kit.bob_keys.per_commitment_point(0))
    effects = alice.ask(opened.event(alice, revoke))
    assert effects == [
        StoreChannel(channel=alice.now),
        StoreRevoked(channel_id=channel_id, number=0, txid=before.txid, record=records.encode(before)),
    ]

    (_, answer) = bob.ask(Flush())
    effects = alice.ask(opened.event(alice, answer.message))
    assert effects == [
        StoreChannel(channel=alice.now),
        SendMessage(
            peer=kit.bob_id,
            message=RevokeAndAck(
                channel_id, kit.alice_keys.per_commitment_secret(0), kit.alice_keys.per_commitment_point(2)
            ),
        ),
    ]
    received = HtlcReceived(
        channel_id=channel_id,
        htlc_id=0,
        amount=Msat(AMOUNT),
        payment_hash=kit.hash_of(1),
        expiry=BlockHeight(kit.tip_at + 100),
    )
    effects = bob.ask(opened.event(bob, effects[1].message))
    assert effects[0] == StoreChannel(channel=bob.now)
    assert isinstance(effects[1], StoreRevoked)
    assert effects[2:] == [received]
    assert undecided(bob.now) == (received,)
    assert alice.balances == Balances(
        ours=Msat(590_000_000), theirs=Msat(400_000_000), offered=Msat(AMOUNT), received=Msat(0)
    )
    assert bob.balances == Balances(
        ours=Msat(400_000_000), theirs=Msat(590_000_000), offered=Msat(0), received=Msat(AMOUNT)
    )

    alice.outbox.clear()
    bob.outbox.clear()
    effects = bob.ask(settle(received, kit))
    fulfil = UpdateFulfillHtlc(channel_id, 0, kit.preimage_of(1))
    assert effects == [StoreChannel(channel=bob.now), SendMessage(peer=kit.alice_id, message=fulfil)]
    assert undecided(bob.now) == ()
    effects = alice.ask(opened.event(alice, fulfil))
    assert effects == [
        StoreChannel(channel=alice.now),
        HtlcFulfilled(channel_id=channel_id, htlc_id=0, payment_hash=kit.hash_of(1), preimage=kit.preimage_of(1)),
    ]
    bob.outbox.clear()
    bob.batch()
    opened.quiet()
    assert live_htlcs(alice.now) == live_htlcs(bob.now) == ()
    assert alice.balances.ours == 590_000_000
    assert bob.balances.ours == 410_000_000
    assert alice.done[-1] == ChannelChanged(channel_id=channel_id)
    opened.agree()


def test_a_failure_is_told_only_when_it_is_irrevocable_on_both_sides(kit: Any, opened: Any) -> None:
    """R10: until Bob has revoked the commitment that still holds it, he can claim the HTLC on the chain."""
    alice, bob = opened.alice, opened.bob
    told = committed(opened, kit)
    (_, message) = bob.ask(fail(told))
    assert message.message == UpdateFailHtlc(told.channel_id, 0, FailureCode.DOWNSTREAM_FAILED)
    seen = []
    bob.batch()
    for sender, stage in (
        (bob, Stage.REMOVE_SENT),
        (bob, Stage.REMOVE_ACK_SIGNED),
        (alice, None),
        (alice, None),
        (bob, None),
    ):
        effects = opened.deliver(sender, 1)
        seen += [each for each in effects if isinstance(each, HtlcFailed)]
        if stage is not None:
            assert alice.now.htlcs[0].stage == stage
        if alice.now.htlcs:
            assert seen == []
    assert seen == [
        HtlcFailed(
            channel_id=told.channel_id,
            htlc_id=0,
            payment_hash=kit.hash_of(1),
            code=FailureCode.DOWNSTREAM_FAILED,
        )
    ]
    assert alice.balances.ours == 600_000_000
    opened.agree()


def test_the_same_hash_is_offered_again_only_after_the_failure_is_irrevocable(kit: Any, opened: Any) -> None:
    """R11."""
    alice = opened.alice
    told = committed(opened, kit)
    refused = HtlcRefused(channel_id=told.channel_id, reference=b"payment 1", reason=Refusal.DUPLICATE_HASH)
    assert alice.ask(kit.offer(alice.now, 1)) == [refused]
    assert opened.bob.ask(kit.offer(opened.bob.now, 1)) == [refused]
    opened.bob.batch(fail(told))
    opened.deliver(opened.bob)
    assert alice.ask(kit.offer(alice.now, 1)) == [refused]
    opened.quiet()
    assert isinstance(alice.ask(kit.offer(alice.now, 1))[-1], HtlcOffered)


def test_updates_gather_while_a_revocation_is_outstanding(kit: Any, opened: Any) -> None:
    alice, bob = opened.alice, opened.bob
    alice.batch(*[kit.offer(alice.now, number) for number in range(3)])
    assert [type(kit.decode(each)) for each in alice.outbox] == [UpdateAddHtlc] * 3 + [CommitmentSigned]
    alice.batch(*[kit.offer(alice.now, number) for number in range(3, 5)])
    assert [type(kit.decode(each)) for each in alice.outbox][4:] == [UpdateAddHtlc] * 2
    assert [each.stage for each in alice.now.htlcs] == [Stage.ADD_SIGNED] * 3 + [Stage.ADD_SENT] * 2
    opened.deliver(alice)
    sent = [type(kit.decode(each)) for each in bob.outbox]
    assert sent == [RevokeAndAck, CommitmentSigned]  # Bob's own signature covers the three
    opened.deliver(bob, 1)
    assert type(kit.decode(alice.outbox[-1])) is CommitmentSigned
    assert len(kit.decode(alice.outbox[-1]).htlc_signatures) == 5
    opened.quiet()
    assert [each.stage for each in alice.now.htlcs] == [Stage.COMMITTED] * 5
    opened.agree()


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ({"expiry": 1018}, Refusal.EXPIRES_TOO_SOON),
        ({"expiry": 1000 + 2160 + 3}, Refusal.EXPIRES_TOO_FAR),
        ({"amount": 0}, Refusal.TOO_SMALL),
        ({"amount": 580_000_001}, Refusal.BELOW_RESERVE),
        ({"amount": 900_000_001}, Refusal.TOO_MUCH_IN_FLIGHT),
    ],
)
def test_what_cannot_be_offered_is_refused_and_changes_nothing(
    kit: Any, opened: Any, event: dict[str, int], reason: Refusal
) -> None:
    alice = opened.alice
    before = alice.now
    offer = replace(kit.offer(before, 1), **event)
    assert alice.ask(offer) == [HtlcRefused(channel_id=before.channel_id, reference=b"payment 1", reason=reason)]
    assert alice.now is before


def test_the_last_millisatoshi_above_the_reserve_can_be_offered(kit: Any, opened: Any) -> None:
    alice = opened.alice
    assert spendable(alice.now) == 580_000_000
    assert isinstance(alice.ask(kit.offer(alice.now, 1, 580_000_000))[-1], HtlcOffered)
    assert spendable(alice.now) == 0
    opened.alice.batch()
    opened.quiet()
    opened.agree()


def test_offers_are_refused_while_the_peer_is_away_or_the_chain_is(kit: Any, opened: Any) -> None:
    alice = opened.alice
    alice.accepts_chain = False
    assert alice.ask(kit.offer(alice.now, 1))[0].reason is Refusal.NOT_OPEN
    alice.accepts_chain = True
    opened.cut()
    assert alice.ask(kit.offer(alice.now, 1))[0].reason is Refusal.PEER_AWAY
    unknown = kit.Node(me=kit.alice_id, peer=kit.bob_id, keys=kit.alice_keys, config=alice.config)
    assert unknown.ask(kit.offer(alice.now, 1))[0].reason is Refusal.UNKNOWN_CHANNEL


def test_no_more_htlcs_than_the_neighbour_takes(kit: Any) -> None:
    pair = kit.pair(max_accepted_htlcs=2).open()
    alice = pair.alice
    alice.batch(kit.offer(alice.now, 1), kit.offer(alice.now, 2))
    assert alice.ask(kit.offer(alice.now, 3))[0].reason is Refusal.TOO_MANY_HTLCS
    assert (spendable(alice.now), receivable(pair.bob.now)) == (0, 380_000_000 + 200_000_000)
    pair.quiet()
    assert receivable(pair.bob.now) == 0
    pair.bob.batch(*[fail(each) for each in pair.bob.received()])
    pair.quiet()
    assert spendable(alice.now) == 580_000_000


def test_all_114_htlcs_each_way_fit_one_commitment(kit: Any, opened: Any) -> None:
    for node, first in ((opened.alice, 0), (opened.bob, 200)):
        events = [kit.offer(node.now, first + number, 1_000_000 + number) for number in range(115)]
        effects = node.batch(*events)
        refused = [each for each in effects if isinstance(each, HtlcRefused)]
        assert [each.reason for each in refused] == [Refusal.TOO_MANY_HTLCS]
    opened.quiet()
    opened.agree()
    built = build_ours(opened.alice.now, kit.alice_keys, opened.alice.now.our_number)
    assert len(built.htlc_outputs) == 228
    assert built.weight <= 40_000
    for node, first in ((opened.alice, 200), (opened.bob, 0)):
        numbers = {kit.hash_of(first + number): first + number for number in range(115)}
        node.batch(*[settle(each, kit, numbers[each.payment_hash]) for each in node.received()])
    opened.quiet()
    opened.agree()
    assert opened.alice.now.htlcs == ()


def test_dust_beyond_measure_is_not_offered(kit: Any) -> None:
    pair = kit.pair(max_dust_exposure=Msat(600_000)).open()
    alice, bob = pair.alice, pair.bob
    assert isinstance(alice.ask(kit.offer(alice.now, 1, 353_999))[-1], HtlcOffered)
    assert alice.ask(kit.offer(alice.now, 2, 353_999))[0].reason is Refusal.DUST_EXPOSURE
    assert isinstance(alice.ask(kit.offer(alice.now, 3, 354_000))[-1], HtlcOffered)
    alice.batch()
    pair.quiet()
    assert bob.ask(kit.offer(bob.now, 4, 300_000))[0].reason is Refusal.DUST_EXPOSURE


def test_dust_beyond_measure_that_was_received_is_failed_back_untold(kit: Any) -> None:
    pair = kit.pair().open()
    pair.bob.config = replace(pair.bob.config, max_dust_exposure=Msat(600_000))
    pair.alice.batch(kit.offer(pair.alice.now, 1, 353_999), kit.offer(pair.alice.now, 2, 353_998))
    pair.quiet()
    assert pair.bob.received() == []
    failed = [each for each in pair.alice.told if isinstance(each, HtlcFailed)]
    assert [each.code for each in failed] == [FailureCode.NODE_BUSY, FailureCode.NODE_BUSY]
    assert pair.alice.now.htlcs == ()
    pair.agree()


def test_dust_of_theirs_alone_counts_as_much(kit: Any) -> None:
    """A peer with a large dust limit could publish a commitment of its own without the HTLCs that we paid on for, and
    give all that they hold to a miner."""
    pair = kit.pair(max_dust_exposure=Msat(20_000_000))
    pair.alice.config = replace(pair.alice.config, dust_limit=Sat(19_000), max_dust_exposure=Msat(10**12))
    pair.open()
    for number in (1, 2, 3):
        pair.alice.batch(kit.offer(pair.alice.now, number, amount=18_999_000))
        pair.quiet()
    assert [each.payment_hash for each in pair.bob.received()] == [kit.hash_of(1)]
    pair.agree()


@pytest.mark.parametrize(
    ("expiry", "code"),
    [(1020, FailureCode.EXPIRY_TOO_SOON), (1000 + 2160 + 1, FailureCode.EXPIRY_TOO_FAR)],
)
def test_an_htlc_that_we_could_not_defend_is_failed_back_untold(kit: Any, expiry: int, code: FailureCode) -> None:
    pair = kit.pair().open()
    pair.alice.config = replace(pair.alice.config, settle_margin=BlockDelta(1), max_expiry=BlockDelta(9999))
    pair.alice.batch(kit.offer(pair.alice.now, 1, expiry=expiry))
    pair.bob.tip = BlockHeight(1002 if code is FailureCode.EXPIRY_TOO_SOON else 1000)
    pair.quiet()
    assert pair.bob.received() == []
    (failed,) = [each for each in pair.alice.told if isinstance(each, HtlcFailed)]
    assert failed.code is code


def test_an_htlc_of_coins_that_a_reorganisation_took_away_is_failed_back_untold(kit: Any, opened: Any) -> None:
    """Whoever carried it on, or released its preimage, could be left with a channel that holds nothing."""
    alice, bob = opened.alice, opened.bob
    bob.batch(TxUnconfirmed(txid=bob.now.funding.txid))
    alice.batch(kit.offer(alice.now, 1))
    opened.quiet()
    assert bob.received() == []
    (failed,) = [each for each in alice.told if isinstance(each, HtlcFailed)]
    assert failed.code is FailureCode.NODE_BUSY
    bob.batch(TxConfirmed(txid=bob.now.funding.txid, height=kit.tip_at, transaction=alice.now.funding_transaction))
    alice.batch(kit.offer(alice.now, 1))
    opened.quiet()
    assert len(bob.received()) == 1


def test_a_wrong_preimage_of_our_own_is_our_own_bug(kit: Any, opened: Any) -> None:
    told = committed(opened, kit)
    with pytest.raises(MisuseError, match="not of this HTLC's hash"):
        opened.bob.step(replace(settle(told, kit), preimage=Preimage(bytes(32))))


def test_decisions_are_taken_once(kit: Any, opened: Any) -> None:
    told = committed(opened, kit)
    bob = opened.bob
    bob.ask(settle(told, kit))
    for again in (settle(told, kit), fail(told)):
        assert bob.ask(again) == []
    for unknown in (replace(settle(told, kit), htlc_id=9), replace(fail(told), htlc_id=9)):
        assert bob.ask(unknown) == []


def test_a_failed_htlc_is_not_settled(kit: Any, opened: Any) -> None:
    told = committed(opened, kit)
    opened.bob.ask(fail(told))
    assert opened.bob.ask(settle(told, kit)) == []
    opened.bob.batch()
    opened.quiet()
    assert opened.alice.balances.ours == 600_000_000


def test_what_is_decided_while_the_peer_is_away_goes_out_when_it_returns(kit: Any, opened: Any) -> None:
    first, second = committed(opened, kit, 1), committed(opened, kit, 2)
    opened.cut()
    assert opened.bob.ask(settle(first, kit)) == [StoreChannel(channel=opened.bob.now)]
    assert opened.bob.ask(fail(second)) == [StoreChannel(channel=opened.bob.now)]
    assert undecided(opened.bob.now) == ()
    opened.bob.restart()
    opened.connect()
    opened.quiet()
    outcome = [each for each in opened.alice.told if isinstance(each, HtlcFulfilled | HtlcFailed)]
    assert [type(each) for each in outcome] == [HtlcFulfilled, HtlcFailed]
    opened.agree()


def test_a_settlement_that_was_rolled_back_is_told_upward_once(kit: Any, opened: Any) -> None:
    alice, bob = opened.alice, opened.bob
    told = committed(opened, kit)
    bob.ask(settle(told, kit))
    opened.deliver(bob, 1)
    assert [type(each) for each in alice.told[-1:]] == [HtlcFulfilled]
    opened.cut()
    assert alice.now.htlcs[0].stage == Stage.COMMITTED
    assert alice.now.htlcs[0].preimage == kit.preimage_of(1)
    opened.connect()
    opened.quiet()
    assert [type(each) for each in alice.told].count(HtlcFulfilled) == 1
    assert alice.balances.ours == 590_000_000
    opened.agree()


def test_a_peer_that_shows_the_preimage_and_then_fails_gives_the_money_back_untold(kit: Any, opened: Any) -> None:
    """What was told upward stands: the preimage was used. That the neighbour then asks for less is its own loss."""
    alice, bob = opened.alice, opened.bob
    told = committed(opened, kit)
    shown = UpdateFulfillHtlc(told.channel_id, 0, kit.preimage_of(1))
    alice.ask(opened.event(alice, shown))
    opened.cut()
    opened.connect()
    opened.quiet()
    bob.batch(fail(told))
    opened.quiet()
    assert [type(each) for each in alice.told if isinstance(each, HtlcFulfilled | HtlcFailed)] == [HtlcFulfilled]
    assert alice.balances.ours == 600_000_000
    opened.agree()


def test_an_offer_that_was_never_signed_has_failed_when_the_link_is_lost(kit: Any, opened: Any) -> None:
    alice = opened.alice
    alice.ask(kit.offer(alice.now, 1), kit.offer(alice.now, 2))
    effects = alice.ask(LinkDown(peer=kit.bob_id))
    channel_id = alice.now.channel_id
    assert effects == [
        StoreChannel(channel=replace(alice.now)),
        *[
            HtlcFailed(
                channel_id=channel_id, htlc_id=place, payment_hash=kit.hash_of(place + 1), code=FailureCode.NODE_BUSY
            )
            for place in range(2)
        ],
        ChannelChanged(channel_id=channel_id),
    ]
    assert alice.now.our_next_id == 0
    assert alice.now.htlcs == ()


def test_an_unknown_failure_code_is_read_as_internal(kit: Any, opened: Any) -> None:
    told = committed(opened, kit)
    opened.bob.ask(fail(told))
    message = kit.decode(opened.bob.outbox.popleft())
    opened.alice.ask(opened.event(opened.alice, msgspec.structs.replace(message, code=200)))
    assert opened.alice.now.htlcs[0].failure is FailureCode.INTERNAL


def test_htlcs_both_ways_at_once(kit: Any, opened: Any) -> None:
    alice, bob = opened.alice, opened.bob
    alice.batch(kit.offer(alice.now, 1, 11_000_001))
    bob.batch(kit.offer(bob.now, 2, 22_000_002))
    opened.quiet()
    bob.batch(settle(bob.received()[0], kit, 1))
    alice.batch(settle(alice.received()[0], kit, 2))
    opened.quiet()
    assert alice.balances == Balances(
        ours=Msat(600_000_000 - 11_000_001 + 22_000_002),
        theirs=Msat(400_000_000 + 11_000_001 - 22_000_002),
        offered=Msat(0),
        received=Msat(0),
    )
    opened.agree()


def test_a_failed_htlc_can_be_spent_again_as_soon_as_it_left_our_own_commitments(kit: Any, opened: Any) -> None:
    alice, bob = opened.alice, opened.bob
    told = committed(opened, kit, 1, 580_000_000)
    assert spendable(alice.now) == 0
    bob.batch(fail(told))
    opened.deliver(bob)
    assert alice.now.htlcs[0].stage == Stage.REMOVE_ACK_SIGNED
    assert spendable(alice.now) == 580_000_000
    alice.batch(kit.offer(alice.now, 2, 580_000_000))
    opened.quiet()
    assert (len(bob.received()), alice.balances.offered) == (2, 580_000_000)
    opened.agree()


def test_what_is_settled_can_be_spent_under_the_same_signature(kit: Any, opened: Any) -> None:
    alice, bob = opened.alice, opened.bob
    told = committed(opened, kit, 1, 300_000_000)
    assert spendable(bob.now) == 380_000_000
    bob.batch(settle(told, kit), kit.offer(bob.now, 2, 680_000_000))
    assert spendable(bob.now) == 0
    opened.quiet()
    assert bob.balances.offered == 680_000_000
    assert alice.balances.ours == 300_000_000
    opened.agree()


def test_offer_carries_its_reference_back(kit: Any, opened: Any) -> None:
    event = OfferHtlc(
        channel_id=opened.alice.now.channel_id,
        reference=b"\x00\x01",
        amount=Msat(1_000_000),
        payment_hash=kit.hash_of(5),
        expiry=BlockHeight(kit.tip_at + 50),
    )
    assert opened.alice.ask(event)[-1] == HtlcOffered(channel_id=event.channel_id, reference=b"\x00\x01", htlc_id=0)
