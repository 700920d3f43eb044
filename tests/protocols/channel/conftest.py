"""Two channel engines, Alice who funds and Bob, each with a disk, joined by a pipe that can be cut.

A `Node` does what the runtime does: it handles a batch of events and then `Flush`, commits every store of the batch, and
only then sends. A crash before the commit loses the whole batch, a crash after it loses what was to be sent.
"""

import hashlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pytest

from protocols.channel.commitments import build_ours
from protocols.channel.engine import Env, Step, handle, resume
from protocols.channel.events import (
    BuildFunding,
    ChannelConfig,
    ChannelEffect,
    Flush,
    ForgetChannel,
    FundingBuilt,
    HtlcFailed,
    HtlcFulfilled,
    HtlcOffered,
    HtlcReceived,
    HtlcRefused,
    LinkDown,
    LinkUp,
    MessageReceived,
    OfferHtlc,
    OpenRequested,
    SendMessage,
    StoreChannel,
    StoreRevoked,
    TipChanged,
    TxConfirmed,
)
from protocols.channel.force import context
from protocols.channel.state import Balances, Channel, Phase, balances
from protocols.facts import Facts
from protocols.ids import ChannelId, PaymentHash, PeerId, Preimage, Txid
from protocols.onchain import commitment, htlc
from protocols.onchain.ec import point_of
from protocols.onchain.keys import ChannelKeys
from protocols.onchain.tx import Tx, TxInput, TxOutput
from protocols.units import AssetId, BlockDelta, BlockHeight, FeeRate, Msat, Sat, UnixTime
from protocols.wire.channel import CODEC, ChannelMessage, OpenChannel

ASSET = AssetId(bytes(range(32)))
CAPACITY = Sat(1_000_000)
TIP = BlockHeight(1000)
PUSH = Msat(400_000_000)
UPWARD = (HtlcOffered, HtlcRefused, HtlcReceived, HtlcFulfilled, HtlcFailed)
_decoder = msgspec.msgpack.Decoder(Channel)


def keys_of(name: str) -> ChannelKeys:
    wallet_key = hashlib.sha256(f"{name} wallet".encode()).digest()
    return ChannelKeys.from_seed(hashlib.sha256(name.encode()).digest(), point_of(wallet_key))


ALICE_KEYS, BOB_KEYS = keys_of("alice"), keys_of("bob")
ALICE = PeerId(point_of(hashlib.sha256(b"alice node").digest()))
BOB = PeerId(point_of(hashlib.sha256(b"bob node").digest()))


def preimage_of(number: int) -> Preimage:
    return Preimage(hashlib.sha256(b"preimage %d" % number).digest())


def hash_of(number: int) -> PaymentHash:
    return PaymentHash(hashlib.sha256(preimage_of(number)).digest())


def funding_of(script: bytes, amount: Sat) -> bytes:
    """A transaction like the wallet's: a segwit input, the funding, change."""
    spent = TxInput(Txid(hashlib.sha256(script).digest()), 0, 0xFFFFFFFD, (b"\x30" * 71, b"\x02" * 33))
    change = TxOutput(Sat(12_345), b"\x00\x14" + bytes(20))
    return Tx(2, (spent,), (change, TxOutput(amount, script)), 0).serialize()


class Lost(Exception):
    """The node went down."""


@dataclass
class Node:
    me: PeerId
    peer: PeerId
    keys: ChannelKeys
    config: ChannelConfig
    tip: BlockHeight = TIP
    feerate: FeeRate = FeeRate(2000)
    channel: Channel | None = None
    disk: bytes | None = None
    outbox: deque[bytes] = field(default_factory=deque)
    told: list[ChannelEffect] = field(default_factory=list)
    done: list[ChannelEffect] = field(default_factory=list)
    revoked: dict[int, StoreRevoked] = field(default_factory=dict)
    accepts_chain: bool = True

    @property
    def env(self) -> Env:
        facts = Facts(now=UnixTime(1_700_000_000), tip=self.tip, feerate=self.feerate, entropy=bytes(32))
        return Env(
            config=self.config, keys=lambda _: self.keys, facts=facts, asset=ASSET, accepts_chain=self.accepts_chain
        )

    def step(self, event: Any) -> Step:
        """What the engine says, without doing any of it."""
        return handle(self.channel, event, self.env)

    def ask(self, *events: Any) -> list[ChannelEffect]:
        """Handle events, commit, perform; no Flush."""
        effects: list[ChannelEffect] = []
        for event in events:
            step = self.step(event)
            self.channel = step.channel
            effects += step.effects
        self.commit(effects)
        self.perform(effects)
        return effects

    def batch(self, *events: Any, crash: str = "") -> list[ChannelEffect]:
        """Handle events and Flush as the runtime does. `crash` is "", "before" or "after" the commit."""
        effects: list[ChannelEffect] = []
        for event in (*events, Flush()):
            step = self.step(event)
            self.channel = step.channel
            effects += step.effects
        if crash != "before":
            self.commit(effects)
        if crash:
            raise Lost
        self.perform(effects)
        return effects

    def commit(self, effects: Sequence[ChannelEffect]) -> None:
        for effect in effects:
            match effect:
                case StoreChannel():
                    self.disk = msgspec.msgpack.encode(effect.channel)
                    assert _decoder.decode(self.disk) == effect.channel
                case ForgetChannel():
                    self.disk = None
                case StoreRevoked():
                    self.revoked[effect.number] = effect
                case HtlcOffered() | HtlcReceived() | HtlcFulfilled() | HtlcFailed():
                    self.told.append(effect)

    def perform(self, effects: Sequence[ChannelEffect]) -> None:
        self.done += effects
        for effect in effects:
            if isinstance(effect, SendMessage):
                assert effect.peer == self.peer
                self.outbox.append(CODEC.encode(effect.message))

    def restart(self) -> list[ChannelEffect]:
        """Start from the disk."""
        self.channel, effects = None, ()
        if self.disk is not None:
            step = resume(_decoder.decode(self.disk), self.env)
            self.channel, effects = step.channel, step.effects
        self.commit(effects)
        self.perform(effects)
        return list(effects)

    def received(self) -> list[HtlcReceived]:
        return [each for each in self.told if isinstance(each, HtlcReceived)]

    @property
    def now(self) -> Channel:
        assert self.channel is not None
        return self.channel

    @property
    def balances(self) -> Balances:
        return balances(self.now)


@dataclass
class Pair:
    alice: Node
    bob: Node
    connected: bool = False

    def other(self, node: Node) -> Node:
        return self.bob if node is self.alice else self.alice

    def connect(self) -> None:
        """A new stream: nothing of the old one arrives any more."""
        for node in (self.alice, self.bob):
            node.outbox.clear()
        self.connected = True
        for node in (self.alice, self.bob):
            if node.channel is not None:
                node.batch(LinkUp(peer=node.peer))

    def cut(self) -> None:
        self.connected = False
        for node in (self.alice, self.bob):
            node.outbox.clear()
            if node.channel is not None:
                node.batch(LinkDown(peer=node.peer))

    def deliver(self, sender: Node, count: int | None = None) -> list[ChannelEffect]:
        """Hand what a node has sent, or the first `count` of it, to the other in one batch."""
        receiver = self.other(sender)
        count = len(sender.outbox) if count is None else min(count, len(sender.outbox))
        events = [self.event(receiver, CODEC.decode(sender.outbox.popleft())) for _ in range(count)]
        return receiver.batch(*events) if events else []

    def event(self, receiver: Node, message: ChannelMessage) -> MessageReceived:
        key_index = 7 if isinstance(message, OpenChannel) else None
        return MessageReceived(peer=receiver.peer, message=message, key_index=key_index)

    def quiet(self) -> None:
        """Deliver everything until nobody says anything any more."""
        for _ in range(1000):
            if not (self.alice.outbox or self.bob.outbox):
                return
            self.deliver(self.alice)
            self.deliver(self.bob)
        raise AssertionError("the two never fall silent")

    def open(self, capacity: Sat = CAPACITY, push: Msat = PUSH) -> "Pair":
        """All the way to an open channel; Bob has something to spend, too."""
        self.connected = True
        self.alice.batch(request(capacity, push))
        self.quiet()
        self.fund()
        self.quiet()
        self.confirm()
        self.quiet()
        assert self.alice.now.phase is Phase.OPEN
        assert self.bob.now.phase is Phase.OPEN
        for node in (self.alice, self.bob):
            node.done.clear()
        return self

    def fund(self) -> list[ChannelEffect]:
        order = next(each for each in self.alice.done if isinstance(each, BuildFunding))
        transaction = funding_of(order.script, order.amount)
        return self.alice.batch(FundingBuilt(channel_id=order.channel_id, transaction=transaction, output_index=1))

    def confirm(self, height: BlockHeight = TIP, depth: int = 3) -> None:
        """The funding is in a block at `height`, and `depth` blocks deep."""
        self.tip(BlockHeight(height + depth - 1))
        transaction = self.alice.now.funding_transaction
        for node in (self.alice, self.bob):
            assert node.now.funding is not None
            node.batch(TxConfirmed(txid=node.now.funding.txid, height=height, transaction=transaction))

    def tip(self, height: BlockHeight) -> None:
        for node in (self.alice, self.bob):
            node.tip = height
            if node.channel is not None:
                node.batch(TipChanged())

    def agree(self) -> None:
        """Both see the same channel, each from its side, and hold good signatures for what they hold."""
        a, b = self.alice.now, self.bob.now
        assert mirrored(a) == (a.our_balance, a.their_balance, seen(a))
        assert (b.their_balance, b.our_balance) == (a.our_balance, a.their_balance)
        assert seen(a) == {(not ours, number): rest for (ours, number), rest in seen(b).items()}
        for node in (self.alice, self.bob):
            holds_signatures(node)


def mirrored(channel: Channel) -> Any:
    assert channel.our_balance + channel.their_balance == channel.capacity * 1000
    return channel.our_balance, channel.their_balance, seen(channel)


def seen(channel: Channel) -> dict[tuple[bool, int], tuple[Any, ...]]:
    return {(each.ours, each.id): (each.amount, each.payment_hash, each.expiry, each.stage) for each in channel.htlcs}


def holds_signatures(node: Node) -> None:
    """Our commitment can be published: the signatures held are for exactly this state; and theirs can be recognised."""
    built = build_ours(node.now, node.keys, node.now.our_number)
    assert commitment.verify(built, node.now.their_signature)
    assert htlc.verify_htlcs(built, node.now.their_htlc_signatures)
    known = context(node.now, node.env)
    signed = [each for each in (node.now.their_commitment, node.now.their_unrevoked) if each is not None]
    rebuilt = [commitment.build(known.their_params, each.spec, each.point).txid for each in known.theirs]
    assert rebuilt == [each.txid for each in signed]  # what resolving a close of theirs goes by


def request(capacity: Sat = CAPACITY, push: Msat = PUSH) -> OpenRequested:
    return OpenRequested(
        temporary_id=ChannelId(hashlib.sha256(b"temporary").digest()),
        peer=BOB,
        key_index=3,
        capacity=capacity,
        push=push,
    )


def offer_of(channel: Channel, number: int, amount: int = 10_000_000, expiry: int = TIP + 100) -> OfferHtlc:
    return OfferHtlc(
        channel_id=channel.channel_id,
        reference=b"payment %d" % number,
        amount=Msat(amount),
        payment_hash=hash_of(number),
        expiry=BlockHeight(expiry),
    )


def new_pair(**changes: Any) -> Pair:
    config = replace(ChannelConfig(funding_depth=3, settle_margin=BlockDelta(18)), **changes)
    return Pair(
        alice=Node(me=ALICE, peer=BOB, keys=ALICE_KEYS, config=config),
        bob=Node(me=BOB, peer=ALICE, keys=BOB_KEYS, config=config),
    )


class Kit:
    """What tests of this folder share."""

    asset, capacity, tip_at, alice_id, bob_id = ASSET, CAPACITY, TIP, ALICE, BOB
    alice_keys, bob_keys = ALICE_KEYS, BOB_KEYS
    Lost, Pair, Node = Lost, Pair, Node
    upward = UPWARD
    pair = staticmethod(new_pair)
    request = staticmethod(request)
    offer = staticmethod(offer_of)
    hash_of = staticmethod(hash_of)
    preimage_of = staticmethod(preimage_of)
    funding_of = staticmethod(funding_of)
    holds_signatures = staticmethod(holds_signatures)
    keys_of = staticmethod(keys_of)
    decode = staticmethod(CODEC.decode)


@pytest.fixture(scope="session")
def kit() -> type[Kit]:
    return Kit


@pytest.fixture
def pair() -> Pair:
    """Alice and Bob, strangers."""
    return new_pair()


@pytest.fixture
def opened() -> Pair:
    """Alice and Bob with an open channel: 600,000 sat Alice's, 400,000 Bob's."""
    return new_pair().open()
