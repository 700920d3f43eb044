"""Reconnecting: what is said first, what is sent again and in which order, and what provably lost data leads to."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from protocols.channel.commitments import build_ours
from protocols.channel.engine import resume
from protocols.channel.events import (
    Alarm,
    ChannelChanged,
    CloseRequested,
    HtlcFailed,
    LinkDown,
    LinkUp,
    OutputSpent,
    PublishWithChild,
    SendMessage,
    SettleHtlc,
    StoreChannel,
    TipChanged,
)
from protocols.channel.state import LastSent, Phase, Stage
from protocols.onchain import commitment
from protocols.units import BlockHeight
from protocols.wire.channel import (
    ChannelReady,
    ChannelReestablish,
    CommitmentSigned,
    Error,
    RevokeAndAck,
    Shutdown,
    UpdateAddHtlc,
    UpdateFulfillHtlc,
)


def sent(effects: Any) -> list[Any]:
    return [each.message for each in effects if isinstance(each, SendMessage)]


def hello(node: Any) -> Any:
    """LinkUp, and the channel_reestablish that it brings."""
    return sent(node.ask(LinkUp(peer=node.peer)))[-1]


def test_the_first_word_names_the_numbers_and_the_last_secret(kit: Any, opened: Any) -> None:
    alice, bob = opened.alice, opened.bob
    channel_id = alice.now.channel_id
    assert hello(alice) == ChannelReestablish(channel_id, 1, 0, bytes(32), kit.alice_keys.per_commitment_point(0))
    opened.connect()
    opened.quiet()
    alice.batch(kit.offer(alice.now, 1))
    opened.quiet()
    assert alice.now.our_number == bob.now.our_number == 1
    assert hello(alice) == ChannelReestablish(
        channel_id,
        2,
        1,
        kit.bob_keys.per_commitment_secret(0),
        kit.alice_keys.per_commitment_point(1),
    )


def test_nothing_is_sent_again_when_nothing_was_lost(kit: Any, opened: Any) -> None:
    opened.alice.batch(kit.offer(opened.alice.now, 1))
    opened.quiet()
    opened.cut()
    first, second = hello(opened.alice), hello(opened.bob)
    changed = ChannelChanged(channel_id=opened.alice.now.channel_id)
    assert opened.alice.ask(opened.event(opened.alice, second)) == [changed]
    assert opened.bob.ask(opened.event(opened.bob, first)) == [changed]
    assert opened.alice.ask(opened.event(opened.alice, second)) == []  # only once a connection


def test_channel_ready_is_repeated_before_the_first_update(kit: Any, opened: Any) -> None:
    opened.cut()
    hello(opened.alice)
    effects = opened.alice.ask(opened.event(opened.alice, hello(opened.bob)))
    ready = ChannelReady(opened.alice.now.channel_id, kit.alice_keys.per_commitment_point(1))
    assert sent(effects) == [ready]
    assert opened.bob.ask(opened.event(opened.bob, ready)) == []


def test_a_lost_signature_is_sent_again_with_its_updates_byte_for_byte(kit: Any, opened: Any) -> None:
    alice = opened.alice
    alice.batch(kit.offer(alice.now, 1), kit.offer(alice.now, 2))
    first = [kit.decode(each) for each in alice.outbox]
    assert [type(each) for each in first] == [UpdateAddHtlc, UpdateAddHtlc, CommitmentSigned]
    opened.cut()
    alice.restart()
    hello(alice)
    effects = alice.ask(opened.event(alice, hello(opened.bob)))
    assert [each for each in sent(effects) if not isinstance(each, ChannelReady)] == first


def test_a_lost_revocation_is_sent_again(kit: Any, opened: Any) -> None:
    alice, bob = opened.alice, opened.bob
    alice.batch(kit.offer(alice.now, 1))
    opened.deliver(alice)
    revoke = kit.decode(bob.outbox[0])
    opened.cut()
    bob.restart()
    hello(bob)
    effects = bob.ask(opened.event(bob, hello(alice)))
    assert [type(each) for each in sent(effects)] == [RevokeAndAck, CommitmentSigned]
    assert sent(effects)[0] == revoke


@pytest.mark.parametrize("revoked_last", [False, True])
def test_both_are_sent_again_in_their_old_order(kit: Any, opened: Any, revoked_last: bool) -> None:
    """A signature made after a revocation covers what that revocation moved on; in the wrong order it is invalid."""
    alice, bob = opened.alice, opened.bob
    if revoked_last:
        bob.batch(kit.offer(bob.now, 2))  # Bob signs first, then revokes what Alice signs
        alice.batch(kit.offer(alice.now, 1))
        bob.outbox.clear()
        opened.deliver(alice)
    else:
        alice.batch(kit.offer(alice.now, 1))
        opened.deliver(alice)
    assert bob.now.last_sent is (LastSent.REVOKE_AND_ACK if revoked_last else LastSent.COMMITMENT_SIGNED)
    opened.cut()
    hello(bob)
    kinds = [type(each) for each in sent(bob.ask(opened.event(bob, hello(alice))))]
    expected = [UpdateAddHtlc, CommitmentSigned, RevokeAndAck] if revoked_last else [RevokeAndAck, CommitmentSigned]
    assert [each for each in kinds if each is not ChannelReady] == expected
    opened.connect()
    opened.quiet()
    opened.agree()


def test_a_settlement_goes_out_again_even_when_it_was_never_signed(kit: Any, opened: Any) -> None:
    alice, bob = opened.alice, opened.bob
    alice.batch(kit.offer(alice.now, 1))
    opened.quiet()
    told = bob.received()[0]
    bob.ask(SettleHtlc(channel_id=told.channel_id, htlc_id=0, preimage=kit.preimage_of(1)))
    opened.cut()
    assert bob.now.htlcs[0].stage == Stage.COMMITTED
    hello(bob)
    effects = bob.ask(opened.event(bob, hello(alice)))
    assert effects[0] == StoreChannel(channel=bob.now)
    assert sent(effects) == [UpdateFulfillHtlc(told.channel_id, 0, kit.preimage_of(1))]


def test_shutdown_is_repeated(kit: Any, opened: Any) -> None:
    opened.alice.batch(kit.offer(opened.alice.now, 1))
    opened.quiet()
    opened.alice.batch(CloseRequested(channel_id=opened.alice.now.channel_id, force=False))
    opened.cut()
    hello(opened.alice)
    effects = opened.alice.ask(opened.event(opened.alice, hello(opened.bob)))
    script = opened.alice.now.our_terms.shutdown_script
    assert sent(effects) == [Shutdown(opened.alice.now.channel_id, script)]


def test_an_interruption_while_the_funding_confirms_changes_nothing(kit: Any, pair: Any) -> None:
    pair.connected = True
    pair.alice.batch(kit.request())
    pair.quiet()
    pair.fund()
    pair.quiet()
    pair.cut()
    pair.alice.restart()
    pair.bob.restart()
    pair.confirm()  # while they are apart: each sends its channel_ready when they meet
    assert pair.alice.now.phase is Phase.CONFIRMING
    pair.connect()
    pair.quiet()
    assert (pair.alice.now.phase, pair.bob.now.phase) == (Phase.OPEN, Phase.OPEN)
    pair.agree()


def signing(kit: Any, pair: Any) -> Any:
    """Alice has sent funding_created."""
    pair.connected = True
    pair.alice.batch(kit.request())
    pair.quiet()
    pair.fund()
    return pair


def test_a_lost_funding_signed_is_asked_for_and_repeated(kit: Any, pair: Any) -> None:
    signing(kit, pair)
    pair.deliver(pair.alice)
    signed = kit.decode(pair.bob.outbox[-1])
    pair.cut()
    assert pair.alice.restart() == []
    assert pair.alice.now.phase is Phase.SIGNING
    greeting = hello(pair.alice)
    assert greeting == ChannelReestablish(
        pair.alice.now.channel_id, 0, 0, bytes(32), kit.alice_keys.per_commitment_point(0)
    )
    pair.alice.ask(pair.event(pair.alice, hello(pair.bob)))
    assert sent(pair.bob.ask(pair.event(pair.bob, greeting))) == [signed]
    pair.alice.ask(pair.event(pair.alice, signed))
    assert pair.alice.now.phase is Phase.CONFIRMING
    pair.confirm()
    pair.quiet()
    assert (pair.alice.now.phase, pair.bob.now.phase) == (Phase.OPEN, Phase.OPEN)


def test_a_funder_whose_funding_created_was_lost_forgets(kit: Any, pair: Any) -> None:
    signing(kit, pair)
    pair.cut()
    assert pair.bob.channel is None
    greeting = hello(pair.alice)
    (error,) = sent(pair.bob.ask(pair.event(pair.bob, greeting)))
    assert error == Error(pair.alice.now.channel_id, "unknown channel")
    effects = pair.alice.ask(pair.event(pair.alice, error))
    assert [type(each).__name__ for each in effects] == ["ForgetChannel", "ReleaseFunding", "Alarm", "ChannelChanged"]
    assert pair.alice.channel is None


def test_funding_signed_is_not_repeated_for_a_channel_in_use(kit: Any, opened: Any) -> None:
    opened.cut()
    hello(opened.bob)
    ask = ChannelReestablish(opened.bob.now.channel_id, 0, 0, bytes(32), kit.alice_keys.per_commitment_point(0))
    opened.bob.ask(opened.event(opened.bob, ask))
    assert "it expects commitment 0, 1 is next" in opened.bob.now.failure


def test_a_fundee_without_a_stake_whose_funder_knows_nothing_forgets_too(kit: Any, pair: Any) -> None:
    pair.connected = True
    pair.alice.batch(kit.request(push=0))
    pair.quiet()
    pair.fund()
    pair.deliver(pair.alice)
    pair.cut()
    pair.alice.channel = pair.alice.disk = None
    pair.connect()
    pair.deliver(pair.bob)
    pair.deliver(pair.alice)
    assert pair.bob.channel is None


# --- lost data -------------------------------------------------------------------------------------------------------


def old_alice(kit: Any, pair: Any, payments: int = 2) -> Any:
    """Alice comes back with the disk of some payments ago."""
    disk = pair.alice.disk
    for number in range(payments):
        pair.alice.batch(kit.offer(pair.alice.now, number))
        pair.quiet()
        told = pair.bob.received()[-1]
        pair.bob.batch(SettleHtlc(channel_id=told.channel_id, htlc_id=told.htlc_id, preimage=kit.preimage_of(number)))
        pair.quiet()
    pair.cut()
    pair.alice.disk = disk
    pair.alice.restart()
    return pair.alice


def test_who_has_lost_data_publishes_nothing_and_asks_the_other_to_close(kit: Any, opened: Any) -> None:
    alice = old_alice(kit, opened)
    channel_id = alice.now.channel_id
    hello(alice)
    effects = alice.ask(opened.event(alice, hello(opened.bob)))
    assert effects == [
        StoreChannel(channel=alice.now),
        SendMessage(peer=kit.bob_id, message=Error(channel_id, "lost data: please publish your commitment")),
        Alarm(
            channel_id=channel_id,
            text="our record of this channel is older than the neighbour's: it must close it, we must not",
        ),
        ChannelChanged(channel_id=channel_id),
    ]
    assert alice.now.phase is Phase.LOST
    for event in (
        CloseRequested(channel_id=channel_id, force=True),
        TipChanged(),
        LinkDown(peer=kit.bob_id),
        LinkUp(peer=kit.bob_id),
    ):
        alice.tip = BlockHeight(alice.tip + 5000)
        assert not [each for each in alice.ask(event) if isinstance(each, PublishWithChild)]
    assert sent(alice.done)[-1] == Error(channel_id, "lost data: please publish your commitment")
    assert not [each for each in resume(alice.now, alice.env).effects if isinstance(each, PublishWithChild)]


def test_the_other_side_closes_with_its_newest_state_and_the_loser_gets_its_balance(kit: Any, opened: Any) -> None:
    alice = old_alice(kit, opened)
    bob = opened.bob
    hello(bob)
    effects = bob.ask(opened.event(bob, hello(alice)))
    assert bob.now.phase is Phase.FORCED
    (publish,) = [each for each in effects if isinstance(each, PublishWithChild)]
    built = build_ours(bob.now, kit.bob_keys, bob.now.our_number)
    assert built.spec.to_countersignatory == 580_000_000
    alice.ask(opened.event(alice, hello_again(bob, kit)))
    assert alice.now.phase is Phase.LOST
    spent = OutputSpent(outpoint=alice.now.funding, transaction=publish.transaction, height=BlockHeight(1010))
    alice.tip = BlockHeight(1010)
    alice.ask(spent)
    assert alice.now.phase is Phase.LOST
    alice.tip = BlockHeight(1009 + alice.config.buried_depth)
    alice.ask(TipChanged())
    assert alice.now.phase is Phase.CLOSED


def hello_again(node: Any, kit: Any) -> ChannelReestablish:
    """What an implementation that keeps answering would say: its numbers are ahead of ours, with the right secret."""
    return ChannelReestablish(
        node.now.channel_id,
        node.now.our_number + 1,
        node.now.their_commitment.number,
        node.now.their_secrets.get(node.now.their_commitment.number - 1),
        node.keys.per_commitment_point(node.now.our_number),
    )


LIES: list[tuple[str, dict[str, Any], str]] = [
    (
        "a revocation far ahead without its secret",
        {"next_revocation_number": 9},
        "a secret that is not of our commitment 8",
    ),
    ("a wrong secret", {"your_last_per_commitment_secret": b"\x09" * 32}, "a secret that is not of our commitment 1"),
    ("no secret where one was revealed", {"your_last_per_commitment_secret": bytes(32)}, "not of our commitment 1"),
    (
        "a secret that was never revealed",
        {"next_revocation_number": 0, "your_last_per_commitment_secret": b"\x09" * 32},
        "a secret that we never revealed",
    ),
    ("a revocation number beyond all", {"next_revocation_number": 2**48 + 1}, "a revocation number of"),
    ("a commitment far ahead", {"next_commitment_number": 9}, "it expects commitment 9, 3 is next"),
    ("a commitment long gone", {"next_commitment_number": 1}, "it expects commitment 1, 3 is next"),
    ("commitment zero", {"next_commitment_number": 0}, "it expects commitment 0, 3 is next"),
    ("a point off the curve", {"my_current_per_commitment_point": b"\x02" + b"\xff" * 32}, "not on the curve"),
]


@pytest.mark.parametrize(("change", "words"), [(change, words) for _, change, words in LIES], ids=[e[0] for e in LIES])
def test_numbers_that_cannot_be_fail_the_channel(kit: Any, opened: Any, change: dict[str, Any], words: str) -> None:
    for number in range(1):
        opened.alice.batch(kit.offer(opened.alice.now, number))
        opened.quiet()
        told = opened.bob.received()[-1]
        opened.bob.batch(SettleHtlc(channel_id=told.channel_id, htlc_id=told.htlc_id, preimage=kit.preimage_of(number)))
        opened.quiet()
    opened.cut()
    hello(opened.alice)
    lie = msgspec.structs.replace(hello(opened.bob), **change)
    effects = opened.alice.ask(opened.event(opened.alice, lie))
    assert opened.alice.now.phase is Phase.FORCED
    (error,) = sent(effects)
    assert words in error.text
    (publish,) = [each for each in effects if isinstance(each, PublishWithChild)]
    built = build_ours(opened.alice.now, kit.alice_keys, opened.alice.now.our_number)
    assert commitment.verify(built, opened.alice.now.their_signature)
    assert publish.anchor_index == built.anchor_index


def test_a_revocation_that_is_two_behind_fails_the_channel(kit: Any, opened: Any) -> None:
    """Bob lost his disk: his numbers are old, and the secret that he names for them is right."""
    for number in range(3):
        opened.alice.batch(kit.offer(opened.alice.now, number))
        opened.quiet()
    opened.cut()
    hello(opened.alice)
    lie = msgspec.structs.replace(
        hello(opened.bob),
        next_revocation_number=1,
        your_last_per_commitment_secret=kit.alice_keys.per_commitment_secret(0),
    )
    opened.alice.ask(opened.event(opened.alice, lie))
    assert "it expects revocation 1, 3 is next" in opened.alice.now.failure


def test_a_failed_channel_says_so_whenever_it_is_asked(kit: Any, opened: Any) -> None:
    alice = opened.alice
    greeting = hello(opened.bob)
    alice.ask(opened.event(alice, Error(alice.now.channel_id, "bye")))
    assert alice.ask(LinkDown(peer=kit.bob_id)) == []
    text = "the neighbour failed the channel: bye"
    assert sent(alice.ask(LinkUp(peer=kit.bob_id))) == [Error(alice.now.channel_id, text)]
    assert sent(alice.ask(opened.event(alice, greeting))) == [Error(alice.now.channel_id, text)]
    quiet = replace(alice.now, failure="", phase=Phase.CLOSED)
    alice.channel = quiet
    assert sent(alice.ask(LinkUp(peer=kit.bob_id))) == []
    assert sent(alice.ask(opened.event(alice, greeting))) == [Error(quiet.channel_id, "this channel is closed")]


def test_what_of_theirs_was_not_signed_is_forgotten(kit: Any, opened: Any) -> None:
    alice, bob = opened.alice, opened.bob
    bob.ask(kit.offer(bob.now, 1))
    opened.deliver(bob, 1)
    assert [each.stage for each in alice.now.htlcs] == [Stage.ADD_SENT]
    opened.cut()
    assert alice.now.htlcs == bob.now.htlcs == ()
    assert (alice.now.their_next_id, bob.now.our_next_id) == (0, 0)
    assert [type(each) for each in bob.told].count(HtlcFailed) == 1
    opened.connect()
    opened.quiet()
    opened.agree()
