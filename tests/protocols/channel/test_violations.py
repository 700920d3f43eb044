"""What a lying or broken peer gets: each message that BOLT 2 forbids is answered with an Error, the channel is failed with our
last signed commitment, and nothing of ours is lost. One table."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from protocols.channel.commitments import build_ours
from protocols.channel.events import (
    Alarm,
    ChannelChanged,
    FailHtlc,
    HtlcFailed,
    HtlcFulfilled,
    HtlcReceived,
    PublishWithChild,
    SendMessage,
    SettleHtlc,
    StoreChannel,
)
from protocols.channel.state import Phase, balances
from protocols.onchain import commitment
from protocols.onchain.tx import txid_of
from protocols.wire.channel import (
    AcceptChannel,
    ChannelReestablish,
    CommitmentSigned,
    Error,
    FailureCode,
    FundingCreated,
    RevokeAndAck,
    Shutdown,
    UpdateAddHtlc,
    UpdateFailHtlc,
    UpdateFulfillHtlc,
)

OFF_CURVE = b"\x02" + b"\xff" * 32
WRONG = bytes(31) + b"\x01" * 33  # a signature of the right form
HIGH_S = b"\x01" * 32 + b"\xff" * 31 + b"\x01"
Make = Callable[[Any, Any], Any]


def add(kit: Any, pair: Any, **changes: Any) -> UpdateAddHtlc:
    fields = {"id": 0, "amount_msat": 1_000_000, "payment_hash": kit.hash_of(50), "cltv_expiry": 1100, **changes}
    return UpdateAddHtlc(channel_id=pair.alice.now.channel_id, **fields)


def next_of_bob(kit: Any, pair: Any, kind: type, *events: Any) -> Any:
    """The message of this kind that Bob would send now."""
    pair.bob.batch(*events)
    while True:
        message = kit.decode(pair.bob.outbox.popleft())
        if isinstance(message, kind):
            return message
        pair.alice.ask(pair.event(pair.alice, message))


def bobs_signature(kit: Any, pair: Any) -> CommitmentSigned:
    return next_of_bob(kit, pair, CommitmentSigned, kit.offer(pair.bob.now, 60))


def bobs_revocation(kit: Any, pair: Any) -> RevokeAndAck:
    pair.alice.batch(kit.offer(pair.alice.now, 70))
    pair.deliver(pair.alice)
    return next_of_bob(kit, pair, RevokeAndAck)


def changed(make: Make, **changes: Any) -> Make:
    return lambda kit, pair: msgspec.structs.replace(make(kit, pair), **changes)


def too_many(kit: Any, pair: Any) -> UpdateAddHtlc:
    for number in range(114):
        pair.alice.ask(pair.event(pair.alice, add(kit, pair, id=number, payment_hash=kit.hash_of(100 + number))))
    return add(kit, pair, id=114)


def in_flight(kit: Any, pair: Any) -> UpdateAddHtlc:
    pair.alice.config = pair.alice.config
    return add(kit, pair, amount_msat=900_000_001)


def removal(kind: str) -> Make:
    """A removal of Alice's HTLC 0, at a time or in a form that is wrong."""

    def make(kit: Any, pair: Any) -> Any:
        alice, bob = pair.alice, pair.bob
        channel_id = alice.now.channel_id
        fulfil = UpdateFulfillHtlc(channel_id, 0, kit.preimage_of(1))
        alice.batch(kit.offer(alice.now, 1))
        if kind == "before it is committed":
            return fulfil
        if kind == "after our signature only":
            pair.deliver(alice)
            pair.deliver(bob, 1)
            return fulfil
        pair.quiet()
        match kind:
            case "wrong preimage":
                return UpdateFulfillHtlc(channel_id, 0, kit.preimage_of(2))
            case "unknown id":
                return UpdateFulfillHtlc(channel_id, 1, kit.preimage_of(1))
            case "unknown id failed":
                return UpdateFailHtlc(channel_id, 7, FailureCode.TIMED_OUT)
        alice.ask(pair.event(alice, fulfil))
        return fulfil if kind == "twice" else UpdateFailHtlc(channel_id, 0, FailureCode.TIMED_OUT)

    return make


def their_own(kit: Any, pair: Any) -> UpdateFulfillHtlc:
    """Bob claims the HTLC that he himself offered."""
    pair.bob.batch(kit.offer(pair.bob.now, 1))
    pair.quiet()
    return UpdateFulfillHtlc(pair.alice.now.channel_id, 0, kit.preimage_of(1))


def fewer_htlc_signatures(kit: Any, pair: Any) -> CommitmentSigned:
    return msgspec.structs.replace(bobs_signature(kit, pair), htlc_signatures=())


def more_htlc_signatures(kit: Any, pair: Any) -> CommitmentSigned:
    message = bobs_signature(kit, pair)
    return msgspec.structs.replace(message, htlc_signatures=message.htlc_signatures * 2)


def old_secret(kit: Any, pair: Any) -> RevokeAndAck:
    return msgspec.structs.replace(
        bobs_revocation(kit, pair), per_commitment_secret=kit.bob_keys.per_commitment_secret(5)
    )


def after_shutdown(kit: Any, pair: Any) -> UpdateAddHtlc:
    alice = pair.alice
    alice.batch(kit.offer(alice.now, 1))  # keeps the close waiting
    pair.quiet()
    alice.ask(pair.event(alice, Shutdown(alice.now.channel_id, pair.bob.now.our_terms.shutdown_script)))
    return add(kit, pair)


def nothing_to_sign(kit: Any, pair: Any) -> CommitmentSigned:
    return CommitmentSigned(pair.alice.now.channel_id, WRONG, ())


def other_script(kit: Any, pair: Any) -> Shutdown:
    return Shutdown(pair.alice.now.channel_id, b"\x00\x14" + bytes(20))


VIOLATIONS: list[tuple[str, Make, str]] = [
    ("an id that skips one", lambda kit, pair: add(kit, pair, id=1), "HTLC id 1, 0 wanted"),
    ("no amount", lambda kit, pair: add(kit, pair, amount_msat=0), "an HTLC of 0 msat"),
    ("an expiry in seconds", lambda kit, pair: add(kit, pair, cltv_expiry=500_000_000), "an HTLC expiry of 500000000"),
    ("more than its balance", lambda kit, pair: add(kit, pair, amount_msat=400_000_001), "its reserve is 20000000"),
    ("a millisatoshi of its reserve", lambda kit, pair: add(kit, pair, amount_msat=380_000_001), "leaves it 19999999"),
    ("too much in flight", in_flight, "900000001 msat in flight"),
    ("too many HTLCs", too_many, "more than 114 HTLCs"),
    ("an HTLC after its shutdown", after_shutdown, "update_add_htlc after its shutdown"),
    ("settling what is not there", removal("unknown id"), "HTLC 1, which it cannot settle"),
    ("failing what is not there", removal("unknown id failed"), "HTLC 7, which it cannot fail"),
    ("settling too early", removal("before it is committed"), "HTLC 0, which it cannot settle"),
    ("settling between the signatures", removal("after our signature only"), "HTLC 0, which it cannot settle"),
    ("settling twice", removal("twice"), "HTLC 0, which it cannot settle"),
    ("failing what it settled", removal("failed after"), "HTLC 0, which it cannot fail"),
    ("a wrong preimage", removal("wrong preimage"), "a wrong preimage for HTLC 0"),
    ("settling its own HTLC", their_own, "HTLC 0, which it cannot settle"),
    ("signing nothing", nothing_to_sign, "commitment_signed without an update"),
    ("a wrong signature", changed(bobs_signature, signature=WRONG), "invalid signature of our commitment"),
    ("a high signature", changed(bobs_signature, signature=HIGH_S), "invalid signature of our commitment"),
    ("a zero signature", changed(bobs_signature, signature=bytes(64)), "invalid signature of our commitment"),
    ("a wrong HTLC signature", changed(bobs_signature, htlc_signatures=(WRONG,)), "invalid signatures of our HTLC"),
    ("an HTLC signature too few", fewer_htlc_signatures, "invalid signatures of our HTLC"),
    ("an HTLC signature too many", more_htlc_signatures, "invalid signatures of our HTLC"),
    ("revoking unasked", lambda kit, pair: RevokeAndAck(pair.alice.now.channel_id, bytes(32), OFF_CURVE), "without a"),
    ("a wrong secret", changed(bobs_revocation, per_commitment_secret=b"\x07" * 32), "not of its point"),
    ("a later secret", old_secret, "not of its point"),
    ("no secret", changed(bobs_revocation, per_commitment_secret=bytes(32)), "not of its point"),
    ("a secret above the order", changed(bobs_revocation, per_commitment_secret=b"\xff" * 32), "not of its point"),
    ("a point off the curve", changed(bobs_revocation, next_per_commitment_point=OFF_CURVE), "not on the curve"),
    ("another shutdown script", other_script, "a shutdown script other than the one"),
    (
        "a shutdown script of no form",
        lambda kit, pair: Shutdown(pair.alice.now.channel_id, b"\x6a" + bytes(30)),
        "a shutdown script of no allowed form",
    ),
]


@pytest.mark.parametrize(
    ("make", "words"), [(make, words) for _, make, words in VIOLATIONS], ids=[v[0] for v in VIOLATIONS]
)
def test_a_rule_broken_fails_the_channel_and_loses_nothing(kit: Any, opened: Any, make: Make, words: str) -> None:
    alice = opened.alice
    message = make(kit, opened)
    before = alice.now
    effects = alice.ask(opened.event(alice, message))
    channel_id = before.channel_id

    assert alice.now.phase is Phase.FORCED
    stored, publish, error, *rest = effects
    gone = [each for each in rest if isinstance(each, HtlcFailed)]
    assert stored == StoreChannel(channel=alice.now)
    assert isinstance(error, SendMessage)
    assert isinstance(error.message, Error)
    assert error.message.channel_id == channel_id
    assert words in error.message.text
    assert rest == [
        *gone,
        Alarm(channel_id=channel_id, text=f"the neighbour broke a rule: {error.message.text}"),
        ChannelChanged(channel_id=channel_id),
    ]
    # What goes out is our last commitment that they signed; nothing of it was ever revoked.
    assert isinstance(publish, PublishWithChild)
    built = build_ours(alice.now, kit.alice_keys, before.our_number)
    assert txid_of(publish.transaction) == built.txid
    assert commitment.verify(built, alice.now.their_signature)
    held = balances(alice.now)
    assert held.ours + held.offered == before.our_balance
    assert held.ours + held.theirs + held.offered + held.received == kit.capacity * 1000
    assert not [each for each in effects if isinstance(each, HtlcFulfilled | HtlcReceived)]
    # From here on the peer is not heard any more.
    assert alice.ask(opened.event(alice, message)) == []


def test_a_secret_that_does_not_continue_the_earlier_ones_fails_the_channel(kit: Any, opened: Any) -> None:
    """The secret fits its point, but the shachain is broken: a remedy for an earlier state could not be made of it."""
    for number in range(3):
        opened.alice.batch(kit.offer(opened.alice.now, number))
        opened.quiet()
    other = kit.keys_of("mallory")
    alice = opened.alice
    alice.batch(kit.offer(alice.now, 9))
    number = alice.now.their_commitment.number
    object.__setattr__(alice.channel, "their_point", other.per_commitment_point(number))
    opened.deliver(alice)
    message = kit.decode(opened.bob.outbox.popleft())
    lie = msgspec.structs.replace(message, per_commitment_secret=other.per_commitment_secret(number))
    alice.ask(opened.event(alice, lie))
    assert "does not continue" in alice.now.failure


MISPLACED = [
    lambda pair: AcceptChannel(
        pair.alice.now.channel_id, 354, 900_000_000, 20_000, 1, 3, 144, 114, *([OFF_CURVE] * 6), b"\x00\x14" + bytes(20)
    ),
    lambda pair: FundingCreated(pair.alice.now.channel_id, bytes(32), 0, bytes(64)),
]


@pytest.mark.parametrize("make", MISPLACED)
def test_a_message_of_another_phase_fails_the_channel(opened: Any, make: Any) -> None:
    alice = opened.alice
    alice.ask(opened.event(alice, make(opened)))
    assert alice.now.phase is Phase.FORCED
    assert "while the channel is open" in alice.now.failure


def test_updates_before_the_channel_is_open_fail_it(kit: Any, pair: Any) -> None:
    pair.connected = True
    pair.alice.batch(kit.request())
    pair.quiet()
    pair.fund()
    pair.quiet()
    pair.bob.ask(pair.event(pair.bob, add(kit, pair)))
    assert pair.bob.now.phase is Phase.FORCED


def test_another_peer_cannot_speak_for_this_one(kit: Any, opened: Any) -> None:
    alice = opened.alice
    event = opened.event(opened.alice, Error(alice.now.channel_id, "close please"))
    stranger = type(event)(peer=kit.alice_id, message=event.message)
    effects = alice.step(stranger).effects
    assert effects == (SendMessage(peer=kit.alice_id, message=Error(alice.now.channel_id, "unknown channel")),)
    assert alice.now.phase is Phase.OPEN


def test_an_unknown_channel_is_answered_as_bolt_2_says(kit: Any, pair: Any) -> None:
    unknown = ChannelReestablish(b"\x05" * 32, 1, 0, bytes(32), kit.bob_keys.per_commitment_point(0))
    assert pair.alice.ask(pair.event(pair.alice, unknown)) == [
        SendMessage(peer=kit.bob_id, message=Error(b"\x05" * 32, "unknown channel"))
    ]
    created = FundingCreated(b"\x06" * 32, bytes(32), 0, bytes(64))
    assert pair.alice.ask(pair.event(pair.alice, created)) == [
        SendMessage(peer=kit.bob_id, message=Error(b"\x06" * 32, "unknown channel"))
    ]
    assert pair.alice.ask(pair.event(pair.alice, Error(b"\x05" * 32, "unknown channel"))) == []


def test_an_error_of_the_peer_fails_the_channel_too(kit: Any, opened: Any) -> None:
    alice = opened.alice
    channel_id = alice.now.channel_id
    alice.batch(kit.offer(alice.now, 1))
    opened.quiet()
    told = opened.bob.received()[0]
    opened.bob.ask(SettleHtlc(channel_id=channel_id, htlc_id=told.htlc_id, preimage=kit.preimage_of(1)))
    opened.bob.ask(FailHtlc(channel_id=channel_id, htlc_id=5, code=FailureCode.TIMED_OUT))
    stored, publish, alarm, change = alice.ask(opened.event(alice, Error(channel_id, "disk full")))
    assert stored == StoreChannel(channel=alice.now)
    assert isinstance(publish, PublishWithChild)
    assert alarm == Alarm(channel_id=channel_id, text="the neighbour failed the channel: disk full")
    assert change == ChannelChanged(channel_id=channel_id)
