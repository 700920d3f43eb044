"""Short hands for payment tests: named peers, open channels, and channel rules that behave without any cryptography.

`Rules` keeps real `Channel` states and does in one step what two nodes need a dance for: an HTLC is committed as soon as
it is offered or received, a failure is irrevocable as soon as it comes, and what we removed is gone with the peer's next
revoke_and_ack.
"""

import hashlib
from dataclasses import replace
from typing import Any

import pytest

from protocols.channel.events import (
    ChannelConfig,
    FailHtlc,
    HtlcFailed,
    HtlcFulfilled,
    HtlcOffered,
    HtlcRefused,
    LinkDown,
    LinkUp,
    MessageReceived,
    OfferHtlc,
    Refusal,
    SendMessage,
    SettleHtlc,
    StoreChannel,
)
from protocols.channel.state import Channel, Htlc, Phase, Stage, Terms, received, spendable, undecided
from protocols.channel.step import Env, Step
from protocols.facts import Facts
from protocols.ids import ChannelId, PaymentHash, PeerId, Preimage
from protocols.onchain.ec import point_of
from protocols.onchain.keys import BasePoints
from protocols.payment.config import EngineConfig
from protocols.payment.engine import Engine
from protocols.payment.events import (
    ChainReserveChanged,
    HtlcRef,
    Kind,
    LockRequested,
    OffersFound,
    PayRequested,
    PromiseMade,
    Snapshot,
)
from protocols.routing.events import KeptOffer
from protocols.units import Amount, AssetId, BlockDelta, BlockHeight, FeeRate, Msat, Sat, UnixTime
from protocols.wire.channel import FailureCode, RevokeAndAck, UpdateAddHtlc, UpdateFailHtlc, UpdateFulfillHtlc

NOW = UnixTime(1_700_000_000)
TIP = BlockHeight(1000)
COIN = AssetId(b"\xc0" * 32)
GOLD = AssetId(b"\x60" * 32)
ENTROPY = hashlib.sha256(b"entropy").digest()
SECRET = hashlib.sha256(b"node secret").digest()
TERMS = Terms(
    dust_limit=Sat(354),
    max_in_flight=Msat(10**12),
    reserve=Sat(1000),
    htlc_minimum=Msat(1),
    to_self_delay=BlockDelta(144),
    max_accepted_htlcs=114,
    shutdown_script=b"\x00\x14" + bytes(20),
)
POINTS = BasePoints(
    funding_pubkey=bytes(33), revocation=bytes(33), payment=bytes(33), delayed_payment=bytes(33), htlc=bytes(33)
)


def peer(name: str) -> PeerId:
    return PeerId(point_of(hashlib.sha256(name.encode()).digest()))


def preimage_of(number: int) -> Preimage:
    return Preimage(hashlib.sha256(b"%d" % number).digest())


def hash_of(number: int) -> PaymentHash:
    return PaymentHash(hashlib.sha256(preimage_of(number)).digest())


def channel_id(name: str) -> ChannelId:
    return ChannelId(hashlib.sha256(b"channel " + name.encode()).digest())


def channel(
    name: str, *, ours: int = 500_000, theirs: int = 500_000, of: str = "", asset: AssetId = COIN, **fields: Any
):
    """An open channel with the peer of that name; balances in satoshi."""
    defaults = {
        "channel_id": channel_id(name),
        "peer": peer(of or name),
        "asset": asset,
        "key_index": 1,
        "phase": Phase.OPEN,
        "we_fund": True,
        "capacity": Sat(ours + theirs),
        "push": Msat(0),
        "opened_tip": TIP,
        "our_terms": TERMS,
        "our_points": POINTS,
        "their_terms": TERMS,
        "our_balance": Msat(ours * 1000),
        "their_balance": Msat(theirs * 1000),
        "deep": True,
        "connected": True,
        "reestablished": True,
    }
    return Channel(**(defaults | fields))


def add_message(htlc: Htlc, of: ChannelId) -> UpdateAddHtlc:
    return UpdateAddHtlc(of, htlc.id, htlc.amount, htlc.payment_hash, htlc.expiry)


class Rules:
    """Channels that behave; see above."""

    def __init__(self) -> None:
        self.flushed: list[ChannelId] = []
        self.refuse: dict[ChannelId, Refusal] = {}
        self.tell: list[Any] = []  # told once more at the next link that comes up

    def loaded(self, channel: Channel) -> Channel:
        return channel

    def resume(self, channel: Channel, env: Env) -> Step:
        return Step(channel, undecided(channel))

    def handle(self, channel: Channel | None, event: Any, env: Env) -> Step:
        if channel is None:
            return Step(None)
        match event:
            case OfferHtlc():
                return self._offer(channel, event)
            case SettleHtlc(htlc_id=number, preimage=preimage):
                return self._decide(
                    channel, number, UpdateFulfillHtlc(channel.channel_id, number, preimage), preimage, None
                )
            case FailHtlc(htlc_id=number, code=code):
                return self._decide(channel, number, UpdateFailHtlc(channel.channel_id, number, code), None, code)
            case MessageReceived(message=UpdateAddHtlc() as message):
                htlc = Htlc(
                    id=message.id,
                    ours=False,
                    amount=Msat(message.amount_msat),
                    payment_hash=PaymentHash(message.payment_hash),
                    expiry=BlockHeight(message.cltv_expiry),
                    stage=Stage.COMMITTED,
                )
                return self._store(replace(channel, htlcs=(*channel.htlcs, htlc)), received(channel, htlc))
            case MessageReceived(message=UpdateFulfillHtlc(id=number, preimage=preimage)):
                return self._gone(channel, number, preimage, None)
            case MessageReceived(message=UpdateFailHtlc(id=number, code=code)):
                return self._gone(channel, number, None, FailureCode(code))
            case MessageReceived(message=RevokeAndAck()):
                kept = tuple(each for each in channel.htlcs if each.stage < Stage.REMOVE_SENT)
                gain = sum(each.amount for each in channel.htlcs if each.stage >= Stage.REMOVE_SENT and each.preimage)
                return self._store(_moved(replace(channel, htlcs=kept), gain))
            case LinkUp():
                told, self.tell = tuple(self.tell), []
                return Step(replace(channel, connected=True, reestablished=True), told)
            case LinkDown():
                return Step(replace(channel, connected=False, reestablished=False))
        if type(event).__name__ == "Flush":
            self.flushed.append(channel.channel_id)
        return Step(channel)

    def _store(self, channel: Channel, *effects: Any) -> Step:
        return Step(channel, (StoreChannel(channel=channel), *effects))

    def _offer(self, channel: Channel, event: OfferHtlc) -> Step:
        reason = self.refuse.get(channel.channel_id)
        if reason is None and spendable(channel) < event.amount:
            reason = Refusal.BELOW_RESERVE
        if reason is not None:
            refused = HtlcRefused(channel_id=channel.channel_id, reference=event.reference, reason=reason)
            return Step(channel, (refused,))
        htlc = Htlc(
            id=channel.our_next_id,
            ours=True,
            amount=event.amount,
            payment_hash=event.payment_hash,
            expiry=event.expiry,
            stage=Stage.COMMITTED,
        )
        changed = replace(channel, htlcs=(*channel.htlcs, htlc), our_next_id=htlc.id + 1)
        return self._store(
            changed,
            SendMessage(peer=channel.peer, message=add_message(htlc, channel.channel_id)),
            HtlcOffered(channel_id=channel.channel_id, reference=event.reference, htlc_id=htlc.id),
        )

    def _decide(self, channel: Channel, number: int, message: Any, preimage: Any, code: Any) -> Step:
        for place, each in enumerate(channel.htlcs):
            if each.id == number and not each.ours and each.stage is Stage.COMMITTED:
                changed = replace(each, stage=Stage.REMOVE_SENT, preimage=preimage, failure=code)
                htlcs = (*channel.htlcs[:place], changed, *channel.htlcs[place + 1 :])
                return self._store(replace(channel, htlcs=htlcs), SendMessage(peer=channel.peer, message=message))
        return Step(channel)

    def _gone(self, channel: Channel, number: int, preimage: Any, code: Any) -> Step:
        for each in channel.htlcs:
            if each.id == number and each.ours:
                rest = tuple(other for other in channel.htlcs if other is not each)
                names = {"channel_id": channel.channel_id, "htlc_id": number, "payment_hash": each.payment_hash}
                if preimage is None:
                    return self._store(replace(channel, htlcs=rest), HtlcFailed(code=code, **names))
                told = HtlcFulfilled(preimage=Preimage(preimage), **names)
                return self._store(_moved(replace(channel, htlcs=rest), -each.amount), told)
        return Step(channel)


def _moved(channel: Channel, gain: int) -> Channel:
    ours, theirs = channel.our_balance + gain, channel.their_balance - gain
    return replace(channel, our_balance=Msat(ours), their_balance=Msat(theirs))


class Desk:
    """An engine with open channels, its rules, and the facts of the moment."""

    def __init__(
        self,
        *channels: Channel,
        reserve: int | None = 10**7,
        config: EngineConfig | None = None,
        rules: Rules | None = None,
        **kept: Any,
    ):
        self.rules = rules or Rules()
        self.config = config or EngineConfig(channel=ChannelConfig())
        snapshot = Snapshot(channels=channels, **kept)
        self.engine = Engine(
            us=peer("us"), asset=COIN, keys=None, snapshot=snapshot, config=self.config, rules=self.rules
        )
        self.now, self.tip = NOW, TIP
        self.resumed = self.engine.resume(self.facts())
        self.do(ChainReserveChanged(confirmed_sat=reserve, coins=100))

    def facts(self) -> Facts:
        return Facts(now=self.now, tip=self.tip, feerate=FeeRate(1000), entropy=ENTROPY)

    def do(self, event: Any) -> list[Any]:
        return self.engine.handle(event, self.facts())

    def channel(self, name: str) -> Channel:
        found = self.engine.channel(channel_id(name))
        assert found is not None
        return found

    def stored(self, name: str) -> StoreChannel:
        return StoreChannel(channel=self.channel(name))

    def restarted(self, **changes: Any) -> "Desk":
        """The engine anew, from what it holds; every stored state is what it holds when a batch has ended."""
        kept = {
            "payments": self.engine.payments(),
            "promises": self.engine.promises(),
            "forwards": self.engine.forwards(),
            "settled_hashes": frozenset(self.engine._ledger.settled),
        }
        return Desk(*self.engine.channels(), config=self.config, rules=self.rules, **(kept | changes))

    # --- what peers and users do ---

    def htlc_in(self, name: str, number: int, amount: int, *, expiry: int = TIP + 100, id: int = 0) -> list[Any]:
        message = UpdateAddHtlc(channel_id(name), id, amount, hash_of(number), expiry)
        return self.do(MessageReceived(peer=self.channel(name).peer, message=message))

    def fulfilled(self, name: str, number: int, id: int = 0) -> list[Any]:
        message = UpdateFulfillHtlc(channel_id(name), id, preimage_of(number))
        return self.do(MessageReceived(peer=self.channel(name).peer, message=message))

    def failed(self, name: str, code: FailureCode = FailureCode.DOWNSTREAM_FAILED, id: int = 0) -> list[Any]:
        message = UpdateFailHtlc(channel_id(name), id, code)
        return self.do(MessageReceived(peer=self.channel(name).peer, message=message))

    def revoked(self, name: str) -> list[Any]:
        message = RevokeAndAck(channel_id(name), bytes(32), bytes(33))
        return self.do(MessageReceived(peer=self.channel(name).peer, message=message))

    def order(self, number: int = 1, amount: int = 1_000_000, ceiling: int = 1_100_000, **fields: Any) -> PayRequested:
        defaults = {
            "payment_hash": hash_of(number),
            "kind": Kind.REQUEST,
            "payee": peer("payee"),
            "amount": Amount(Msat(amount), COIN),
            "ceiling": Amount(Msat(ceiling), COIN),
            "preimage": None,
            "expiry": UnixTime(NOW + 60),
        }
        return PayRequested(**(defaults | fields))

    def promise(self, number: int = 1, amount: int = 1_000_000, **fields: Any) -> PromiseMade:
        defaults = {
            "payment_hash": hash_of(number),
            "preimage": preimage_of(number),
            "kind": Kind.REQUEST,
            "amount": Amount(Msat(amount), COIN),
            "expiry": UnixTime(NOW + 60),
            "lock_blocks": BlockDelta(27),
        }
        return PromiseMade(**(defaults | fields))

    def locked(self, *offers: KeptOffer, number: int = 1, **fields: Any) -> list[Any]:
        """Order a payment, be satisfied, and be answered with these offers."""
        self.do(self.order(number, **fields))
        (question,) = self.do(LockRequested(payment_hash=hash_of(number)))
        return self.do(OffersFound(reference=question.reference, offers=offers))


def offer(name: str, amount: int, *, quote: int | None = None, asset: AssetId = COIN, **fields: Any) -> KeptOffer:
    defaults = {"lock_blocks": BlockDelta(30), "expiry": UnixTime(NOW + 60)}
    return KeptOffer(
        neighbour=peer(name),
        amount=Amount(Msat(amount), asset),
        quote=Amount(Msat(amount if quote is None else quote), COIN),
        **(defaults | fields),
    )


class Kit:
    """What tests of this folder share."""

    NOW, TIP, COIN, GOLD, ENTROPY, SECRET = NOW, TIP, COIN, GOLD, ENTROPY, SECRET
    Desk, Rules = Desk, Rules
    peer = staticmethod(peer)
    preimage = staticmethod(preimage_of)
    hash = staticmethod(hash_of)
    channel = staticmethod(channel)
    channel_id = staticmethod(channel_id)
    offer = staticmethod(offer)

    @staticmethod
    def ref(name: str, htlc_id: int = 0) -> HtlcRef:
        return HtlcRef(channel_id=channel_id(name), htlc_id=htlc_id)

    @staticmethod
    def coin(msat: int) -> Amount:
        return Amount(Msat(msat), COIN)


@pytest.fixture(scope="session")
def kit() -> type[Kit]:
    return Kit


@pytest.fixture
def desk() -> Desk:
    """A node with one open channel each to `up`, `near` and `far`, half of each its own."""
    return Desk(channel("up"), channel("near"), channel("far"))
