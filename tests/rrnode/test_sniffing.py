"""What a sniffer is shown: the frames of one payment from its messages alone, and no secret unless it is asked for."""

import hashlib
import importlib
import pkgutil

import pytest
import trio

import protocols.wire
from protocols.ids import PaymentHash, PeerId
from protocols.wire import channel, init, routing, subscribe
from protocols.wire.codec import Message
from rrnode.errors import UserError
from rrnode.host.tap import Tap
from rrnode.sniffing import COVERED, MOST_HTLCS, MOST_SNIFFERS, SECRETS, Sieve, Wanted, covered, sniffing

BOB, CAROL = PeerId(b"\x02" + b"\x22" * 32), PeerId(b"\x03" + b"\x33" * 32)
PREIMAGE = b"\x07" * 32
HASH = PaymentHash(hashlib.sha256(PREIMAGE).digest())
OTHER = PaymentHash(b"\x09" * 32)
ONE, TWO = b"\x0a" * 32, b"\x0b" * 32


def added(channel_id: bytes, number: int, payment_hash: bytes = HASH) -> bytes:
    return channel.CODEC.encode(channel.UpdateAddHtlc(channel_id, number, 1_000, payment_hash, 140))


def failed(channel_id: bytes, number: int) -> bytes:
    return channel.CODEC.encode(channel.UpdateFailHtlc(channel_id, number, 6))


def offer(payment_hash: bytes) -> routing.RoutingMessage:
    return routing.RoutingMessage(payment_hash, b"\x08" * 32, 1_000, 10, 5, 10**9, b"\x08" * 32, 1_800_000_000)


def test_a_payments_frames_are_found_by_its_hash() -> None:
    sieve = Sieve(Wanted(payment_hash=HASH))
    bundle = routing.CODEC.encode(routing.Bundle(3, (offer(OTHER), offer(HASH))))
    asked = subscribe.CODEC.encode(subscribe.Subscribe(1, (HASH,), (), 60))
    passed = [
        (BOB, routing.PROTOCOL, False, bundle, True),
        (BOB, routing.PROTOCOL, False, routing.CODEC.encode(routing.Bundle(4, (offer(OTHER),))), False),
        (CAROL, subscribe.PROTOCOL, True, asked, True),
        (BOB, channel.PROTOCOL, False, added(ONE, 7), True),
        (BOB, channel.PROTOCOL, False, added(ONE, 8, OTHER), False),
        (CAROL, channel.PROTOCOL, True, added(TWO, 7), True),
        (CAROL, channel.PROTOCOL, False, failed(TWO, 7), True),
        (BOB, channel.PROTOCOL, True, failed(ONE, 8), False),  # of the other payment
        (BOB, channel.PROTOCOL, False, failed(ONE, 7), False),  # an HTLC of ours with the same number
        (CAROL, channel.PROTOCOL, True, failed(ONE, 7), False),  # not that peer's channel
        (BOB, channel.PROTOCOL, True, channel.CODEC.encode(channel.UpdateFulfillHtlc(ONE, 7, PREIMAGE)), True),
        (BOB, channel.PROTOCOL, True, channel.CODEC.encode(channel.UpdateFulfillHtlc(ONE, 8, OTHER)), False),
        (BOB, channel.PROTOCOL, True, b"\xc1", False),
    ]
    assert [sieve(*each[:4]) for each in passed] == [each[4] for each in passed]


def test_the_htlcs_that_are_remembered_are_bounded() -> None:
    sieve = Sieve(Wanted(payment_hash=HASH))
    for number in range(MOST_HTLCS + 1):
        assert sieve(BOB, channel.PROTOCOL, False, added(ONE, number))
    assert [sieve(BOB, channel.PROTOCOL, True, failed(ONE, number)) for number in (0, 1, MOST_HTLCS)] == [
        False,
        True,
        True,
    ]


def test_secrets_are_covered_and_named() -> None:
    fulfil = channel.UpdateFulfillHtlc(ONE, 7, PREIMAGE)
    revoke = channel.RevokeAndAck(ONE, b"\x05" * 32, b"\x02" + bytes(32))
    again = channel.ChannelReestablish(ONE, 3, 2, b"\x06" * 32, b"\x02" + bytes(32))
    assert covered(channel.PROTOCOL, channel.CODEC.encode(fulfil)) == (
        channel.CODEC.encode(channel.UpdateFulfillHtlc(ONE, 7, COVERED)),
        ("preimage",),
    )
    for message, secret in ((revoke, b"\x05" * 32), (again, b"\x06" * 32)):
        payload, hidden = covered(channel.PROTOCOL, channel.CODEC.encode(message))
        assert secret not in payload
        assert getattr(channel.CODEC.decode(payload), hidden[0]) == COVERED


def test_what_cannot_be_read_is_not_shown_where_secrets_pass() -> None:
    damaged = channel.CODEC.encode(channel.UpdateFulfillHtlc(ONE, 7, PREIMAGE))[:-1]
    assert covered(channel.PROTOCOL, damaged) == (b"", ("payload",))
    sealed = init.CODEC.encode(init.Deliver(BOB, b"\x01" * init.SEALED_SIZE))
    assert covered(init.PROTOCOL, sealed) == (sealed, ())
    assert covered(routing.PROTOCOL, b"\xc1") == (b"\xc1", ())


def test_no_message_of_any_protocol_has_a_secret_that_is_not_covered() -> None:
    named = set()
    for module in pkgutil.iter_modules(protocols.wire.__path__):
        for kind in vars(importlib.import_module(f"protocols.wire.{module.name}")).values():
            if isinstance(kind, type) and issubclass(kind, Message):
                named |= {(kind, name) for name in kind.__struct_fields__ if "secret" in name or "preimage" in name}
    assert named == set(SECRETS.items())


async def test_a_sniffer_that_asks_for_secrets_is_shown_them() -> None:
    tap = Tap()
    fulfil = channel.CODEC.encode(channel.UpdateFulfillHtlc(ONE, 7, PREIMAGE))
    async with (
        sniffing(tap, Wanted(), lambda: 1.5) as without,
        sniffing(tap, Wanted(secrets=True), lambda: 1.5) as with_secrets,
    ):
        tap.tell(BOB, channel.PROTOCOL, True, fulfil)
        shown, whole = without.receive_nowait(), await with_secrets.receive()
        with pytest.raises(trio.WouldBlock):
            without.receive_nowait()
    assert (whole.payload, whole.hidden, whole.size) == (fulfil.hex(), (), len(fulfil))
    assert PREIMAGE.hex() not in shown.payload
    assert (shown.hidden, shown.size, shown.direction, shown.at_ms) == (("preimage",), len(fulfil), "out", 1500)


async def test_only_so_many_may_look_and_whoever_leaves_makes_room() -> None:
    tap = Tap()
    for _ in range(MOST_SNIFFERS + 1):
        async with sniffing(tap, Wanted(), lambda: 1.5):
            pass
    async with sniffing(tap, Wanted(), lambda: 1.5), sniffing(tap, Wanted(), lambda: 1.5):
        async with sniffing(tap, Wanted(), lambda: 1.5), sniffing(tap, Wanted(), lambda: 1.5):
            with pytest.raises(UserError, match="already"):
                async with sniffing(tap, Wanted(), lambda: 1.5):
                    pass
