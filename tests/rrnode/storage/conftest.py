"""State to store, made small and varied, and stores in temporary directories."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bootstrap.networks import REGTEST
from protocols.channel.events import Outpoint
from protocols.channel.state import Channel, Htlc, Phase, SignedCommitment, Stage, Terms
from protocols.facts import Facts
from protocols.ids import ChannelId, PaymentHash, PeerId, Preimage, Txid
from protocols.onchain.keys import BasePoints
from protocols.payment.events import (
    Attempt,
    Forward,
    HtlcRef,
    Kind,
    Payment,
    PayPhase,
    Promise,
    PromisePhase,
)
from protocols.units import Amount, BlockDelta, BlockHeight, FeeRate, Msat, Sat, UnixTime
from protocols.wire.channel import FailureCode
from rrnode.storage import Store

NODE = PeerId(b"\x02" + b"n" * 32)
PEER = PeerId(b"\x03" + b"p" * 32)


def points(seed: int) -> BasePoints:
    keys = [bytes([2]) + bytes([seed * 8 + place]) * 32 for place in range(5)]
    return BasePoints(
        funding_pubkey=keys[0], revocation=keys[1], payment=keys[2], delayed_payment=keys[3], htlc=keys[4]
    )


def terms(seed: int) -> Terms:
    return Terms(
        dust_limit=Sat(354),
        max_in_flight=Msat(10**9 + seed),
        reserve=Sat(20_000),
        htlc_minimum=Msat(1),
        to_self_delay=BlockDelta(144),
        max_accepted_htlcs=114,
        shutdown_script=b"\x00\x14" + bytes([seed]) * 20,
    )


@dataclass(frozen=True)
class Kit:
    """Builders; `n` makes one thing differ from another."""

    node: PeerId = NODE
    peer: PeerId = PEER

    def channel_id(self, n: int) -> ChannelId:
        return ChannelId(n.to_bytes(32, "big"))

    def channel(self, n: int, *, number: int = 0, **changes: Any) -> Channel:
        fields: dict[str, Any] = {
            "channel_id": self.channel_id(n),
            "peer": PEER,
            "asset": REGTEST.genesis,
            "key_index": n,
            "phase": Phase.OPEN,
            "we_fund": bool(n % 2),
            "capacity": Sat(1_000_000),
            "push": Msat(n),
            "opened_tip": BlockHeight(100),
            "our_terms": terms(1),
            "our_points": points(1),
            "their_terms": terms(2),
            "their_points": points(2),
            "our_balance": Msat(600_000_000 - number),
            "their_balance": Msat(400_000_000 + number),
            "htlcs": (self.htlc(0, ours=True), self.htlc(1, ours=False)),
            "our_number": number,
            "their_signature": b"s" * 64,
            "their_htlc_signatures": (b"h" * 64, b"i" * 64),
            "their_commitment": SignedCommitment(number=number, txid=Txid(b"t" * 32), record=b"r" * 40),
            "funding": Outpoint(txid=Txid(bytes([n % 256]) * 32), index=1),
        }
        return Channel(**{**fields, **changes})

    def htlc(self, n: int, *, ours: bool) -> Htlc:
        return Htlc(
            id=n,
            ours=ours,
            amount=Msat(1_000_001 + n),
            payment_hash=self.hash(n),
            expiry=BlockHeight(500 + n),
            stage=Stage.COMMITTED,
            preimage=None if ours else Preimage(b"p" * 32),
        )

    def hash(self, n: int) -> PaymentHash:
        return PaymentHash(b"hash" * 7 + n.to_bytes(4, "big"))

    def payment(self, n: int, phase: PayPhase = PayPhase.LOCKED) -> Payment:
        return Payment(
            payment_hash=self.hash(n),
            kind=Kind.PUSH,
            payee=PEER,
            amount=Amount(Msat(5_000), REGTEST.genesis),
            ceiling=Amount(Msat(6_000), REGTEST.genesis),
            preimage=Preimage(b"q" * 32),
            phase=phase,
            created=UnixTime(1_700_000_000 + n),
            expiry=UnixTime(1_700_003_600),
            attempts=(
                Attempt(
                    channel_id=self.channel_id(1),
                    htlc_id=None,
                    neighbour=PEER,
                    amount=Msat(5_010),
                    expiry=BlockHeight(700),
                    failure=FailureCode.DOWNSTREAM_FAILED,
                ),
            ),
            memo="für Grüße",
        )

    def promise(self, n: int, phase: PromisePhase = PromisePhase.WAITING) -> Promise:
        return Promise(
            payment_hash=self.hash(n),
            preimage=Preimage(b"w" * 32),
            kind=Kind.REQUEST,
            amount=Amount(Msat(7_000), REGTEST.genesis),
            phase=phase,
            created=UnixTime(1_700_000_000 + n),
            expiry=UnixTime(1_700_003_600),
            lock_blocks=BlockDelta(24),
        )

    def ref(self, n: int) -> HtlcRef:
        return HtlcRef(channel_id=self.channel_id(n), htlc_id=n)

    def forward(self, n: int, **changes: Any) -> Forward:
        fields: dict[str, Any] = {
            "incoming": self.ref(n),
            "payment_hash": self.hash(n),
            "incoming_amount": Msat(9_000),
            "incoming_expiry": BlockHeight(900),
            "upstream": PEER,
            "tried": (PEER,),
        }
        return Forward(**{**fields, **changes})

    def facts(self, n: int = 0) -> Facts:
        return Facts(
            now=UnixTime(1_700_000_000 + n),
            tip=BlockHeight(200 + n),
            feerate=FeeRate(1000),
            entropy=bytes([n % 256]) * 32,
        )


@dataclass(frozen=True)
class Line:
    """A journal entry as the dispatcher makes it."""

    event: Any
    facts: Facts


@pytest.fixture
def kit() -> Kit:
    return Kit()


@pytest.fixture
def line(kit: Kit) -> Callable[[Any, int], Line]:
    return lambda event, n=0: Line(event, kit.facts(n))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rrnode.sqlite"


@pytest.fixture
def opened(path: Path, kit: Kit) -> Iterator[Callable[..., Store]]:
    """Opens (again) the store of this test; everything is closed at the end."""
    stores: list[Store] = []

    def open_it(**options: Any) -> Store:
        if stores:
            stores[-1].close()
        stores.append(Store.open(path, node_id=kit.node, network="regtest", **options))
        return stores[-1]

    yield open_it
    for store in stores:
        store.close()
