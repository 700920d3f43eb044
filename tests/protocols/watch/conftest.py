"""A channel between Alice (us) and Bob, its commitments, and a chain of which Alice is told what she watches.

Everything that Alice publishes is checked by libbitcoinkernel against the outputs it spends, and against the locks that
keep it out of the next block.
"""

import hashlib
import importlib.util
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from protocols.channel.events import (
    Alarm,
    ChannelEffect,
    HtlcFailed,
    HtlcFulfilled,
    Outpoint,
    OutputSpent,
    Publish,
    PublishWithChild,
    PublishWithInputs,
    SettleHtlc,
    SpendGone,
    TipChanged,
    WatchOutpoint,
)
from protocols.facts import Facts
from protocols.ids import ChannelId, PaymentHash, Preimage, Txid
from protocols.onchain import commitment, ec, scripts, tx
from protocols.onchain.commitment import BuiltCommitment, CommitmentParams, CommitmentSpec, HtlcSpec, OutputKind
from protocols.onchain.funding import funding_output_script
from protocols.onchain.htlc import htlc_transaction, sign_htlcs
from protocols.onchain.keys import ChannelKeys, derive_privkey, payout_script
from protocols.onchain.secrets import SecretStore
from protocols.onchain.sweep import Claim
from protocols.onchain.sweep import build as build_sweep
from protocols.units import BlockDelta, BlockHeight, FeeRate, Msat, Sat, UnixTime
from protocols.watch import resolve
from protocols.watch.state import Close, Context, LiveHtlc, TheirCommitment
from rrnode.chain.verify import check_transaction

CAPACITY = 10_000_000
CHANNEL = ChannelId(b"\xcc" * 32)
FUNDING = Outpoint(txid=Txid(bytes(range(32))), index=1)
OUR_DELAY, THEIR_DELAY = 10, 20
NUMBER = 7  # of both current commitments


def keys_of(name: str) -> ChannelKeys:
    wallet_key = hashlib.sha256(f"{name} wallet".encode()).digest()
    return ChannelKeys.from_seed(hashlib.sha256(name.encode()).digest(), ec.point_of(wallet_key))


ALICE, BOB = keys_of("alice"), keys_of("bob")


def preimage_of(name: str) -> Preimage:
    return Preimage(hashlib.sha256(name.encode()).digest())


@dataclass(frozen=True)
class H:
    """An HTLC of a scene. `on`: which commitments have it."""

    id: int
    ours: bool
    sat: int = 50_000
    expiry: int = 150
    known: bool = False  # its preimage, to us
    on: frozenset[str] = frozenset({"ours", "theirs", "next"})
    given_up: bool = False

    @property
    def name(self) -> str:
        return f"{'offered' if self.ours else 'received'} {self.id}"

    @property
    def preimage(self) -> Preimage:
        return preimage_of(self.name)

    @property
    def hash(self) -> PaymentHash:
        return PaymentHash(hashlib.sha256(self.preimage).digest())


def params(*, ours: bool, funding: Outpoint) -> CommitmentParams:
    own, other = (ALICE, BOB) if ours else (BOB, ALICE)
    return CommitmentParams(
        funding_txid=funding.txid,
        funding_index=funding.index,
        capacity=Sat(CAPACITY),
        broadcaster=own.points,
        countersignatory=other.points,
        opener_is_broadcaster=ours,
        to_self_delay=BlockDelta(OUR_DELAY if ours else THEIR_DELAY),
        dust_limit=Sat(354),
    )


def spec(htlcs: tuple[H, ...], which: str, number: int) -> CommitmentSpec:
    ours = which == "ours"
    kept = [each for each in htlcs if which in each.on]
    in_htlcs = sum(each.sat for each in kept)
    alices = 6_000_000 - sum(each.sat for each in kept if each.ours)
    bobs = CAPACITY - in_htlcs - alices
    return CommitmentSpec(
        number=number,
        to_broadcaster=Msat(1000 * (alices if ours else bobs)),
        to_countersignatory=Msat(1000 * (bobs if ours else alices)),
        htlcs=tuple(
            HtlcSpec(
                id=each.id,
                offered=each.ours == ours,
                amount=Msat(each.sat * 1000),
                payment_hash=each.hash,
                expiry=BlockHeight(each.expiry),
            )
            for each in kept
        ),
    )


@dataclass
class Scene:
    """Alice's view of the end of a channel. `tell...` methods give Alice an event and return a summary of the effects."""

    htlcs: tuple[H, ...] = ()
    next_is_signed: bool = False
    tip: int = 100
    feerate: int = 2_000
    may_publish: bool = True
    revoked: tuple[H, ...] = ()
    funding: Outpoint = FUNDING
    close: Close = field(default_factory=Close)
    effects: list[ChannelEffect] = field(default_factory=list)
    coins: dict[tuple[bytes, int], tuple[int, bytes]] = field(default_factory=dict)
    heights: dict[bytes, int] = field(default_factory=dict)
    names: dict[tuple[bytes, int], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.coins[(self.funding.txid, self.funding.index)] = (
            CAPACITY,
            funding_output_script(ALICE.points, BOB.points),
        )
        self.ours = commitment.build(
            params(ours=True, funding=self.funding),
            spec(self.htlcs, "ours", NUMBER),
            ALICE.per_commitment_point(NUMBER),
        )
        self.theirs = self._bobs(spec(self.htlcs, "theirs", NUMBER))
        self.next = self._bobs(spec(self.htlcs, "next", NUMBER + 1))
        self.old = self._bobs(spec(self.revoked, "theirs", NUMBER - 1))
        for built, live in (
            (self.ours, self.htlcs),
            (self.theirs, self.htlcs),
            (self.next, self.htlcs),
            (self.old, self.revoked),
        ):
            self._name(built, live)

    def _bobs(self, made: CommitmentSpec) -> BuiltCommitment:
        return commitment.build(params(ours=False, funding=self.funding), made, BOB.per_commitment_point(made.number))

    def _name(self, built: BuiltCommitment, live: tuple[H, ...]) -> None:
        for index, each in enumerate(built.outputs):
            name = {
                OutputKind.ANCHOR: "anchor",
                OutputKind.TO_BROADCASTER: "to_local",
                OutputKind.TO_COUNTERSIGNATORY: "to_remote",
            }.get(each.kind)
            if each.htlc is not None:
                by_us = each.htlc.offered == (built is self.ours)
                name = f"{'offered' if by_us else 'received'} {each.htlc.id}"
            self.names[(built.txid, index)] = name or ""

    # --- what Alice knows

    @property
    def context(self) -> Context:
        signed = [self.theirs, self.next] if self.next_is_signed else [self.theirs]
        secrets: SecretStore | None = SecretStore()
        for number in range(NUMBER):
            assert secrets is not None
            secrets = secrets.insert(number, BOB.per_commitment_secret(number))
        assert secrets is not None
        return Context(
            channel_id=CHANNEL,
            keys=ALICE,
            our_params=params(ours=True, funding=self.funding),
            their_params=params(ours=False, funding=self.funding),
            ours=self.ours.spec,
            their_signature=commitment.sign(self.ours, BOB.funding_secret),
            their_htlc_signatures=sign_htlcs(self.ours, BOB.htlc_secret),
            theirs=tuple(TheirCommitment(spec=each.spec, point=each.point) for each in signed),
            their_secrets=secrets,
            htlcs=tuple(
                LiveHtlc(
                    id=each.id,
                    ours=each.ours,
                    amount=Msat(each.sat * 1000),
                    payment_hash=each.hash,
                    expiry=BlockHeight(each.expiry),
                    preimage=each.preimage if each.known else None,
                    given_up=each.given_up,
                )
                for each in self.htlcs
            ),
            closing_scripts=(payout_script(ALICE.payment_basepoint), payout_script(BOB.payment_basepoint)),
            may_publish=self.may_publish,
            buried_depth=6,
            settle_margin=12,
        )

    @property
    def facts(self) -> Facts:
        return Facts(now=UnixTime(0), tip=BlockHeight(self.tip), feerate=FeeRate(self.feerate), entropy=bytes(32))

    # --- events

    def tell(self, event: Any) -> list[tuple[Any, ...]]:
        self.close, effects = resolve.advance(self.close, event, self.context, self.facts)
        return self._taken(effects)

    def tell_force(self) -> list[tuple[Any, ...]]:
        self.close, effects = resolve.force(self.close, self.context, self.facts)
        return self._taken(effects)

    def tell_tip(self, tip: int) -> list[tuple[Any, ...]]:
        self.tip = tip
        return self.tell(TipChanged())

    def tell_settled(self, htlc_id: int) -> list[tuple[Any, ...]]:
        self.htlcs = tuple(
            replace(each, known=True) if not each.ours and each.id == htlc_id else each for each in self.htlcs
        )
        preimage = preimage_of(f"received {htlc_id}")
        return self.tell(SettleHtlc(channel_id=CHANNEL, htlc_id=htlc_id, preimage=preimage))

    def tell_spent(
        self, outpoint: Outpoint, raw: bytes, height: int | None, record: bytes = b""
    ) -> list[tuple[Any, ...]]:
        """`raw` spends the output; its own outputs exist from now on."""
        parsed = tx.parse(raw)
        txid = parsed.txid()
        for index, each in enumerate(parsed.outputs):
            self.coins[(txid, index)] = (each.value, each.script)
        if height is not None:
            self.heights[txid] = height
        position = [(each.txid, each.index) for each in parsed.inputs].index((outpoint.txid, outpoint.index))
        if (outpoint.txid, outpoint.index) != (self.funding.txid, self.funding.index):
            self.names.setdefault((txid, position), f"output of {self.name(outpoint)}")
        at = None if height is None else BlockHeight(height)
        return self.tell(OutputSpent(outpoint=outpoint, transaction=raw, height=at, record=record))

    def tell_gone(self, outpoint: Outpoint) -> list[tuple[Any, ...]]:
        return self.tell(SpendGone(outpoint=outpoint))

    def tell_close(self, raw: bytes, height: int | None, record: bytes = b"") -> list[tuple[Any, ...]]:
        return self.tell_spent(self.funding, raw, height, record)

    # --- transactions

    def whole(self, built: BuiltCommitment) -> bytes:
        own, other = (ALICE, BOB) if built is self.ours else (BOB, ALICE)
        return commitment.finalize(
            built, commitment.sign(built, own.funding_secret), commitment.sign(built, other.funding_secret)
        )

    def at(self, built: BuiltCommitment, name: str) -> Outpoint:
        """The output of a commitment that has this name, seen from Alice."""
        index = next(index for (txid, index), each in self.names.items() if txid == built.txid and each == name)
        return Outpoint(txid=built.txid, index=index)

    def name(self, outpoint: Outpoint) -> str:
        return self.names[(outpoint.txid, outpoint.index)]

    def bobs_claim(self, built: BuiltCommitment, name: str, *, preimage: bool) -> bytes:
        """Bob takes an HTLC: by preimage or after its expiry, directly on Alice's commitment, by HTLC transaction on his."""
        outpoint = self.at(built, name)
        output = built.outputs[outpoint.index]
        shown = preimage_of(name) if preimage else None
        if built is self.ours:
            claim = Claim(
                txid=built.txid,
                index=outpoint.index,
                value=output.value,
                witness_script=output.witness_script,
                secret=derive_privkey(BOB.htlc_secret, BOB.points.htlc, built.point),
                tail=(shown or b"",),
                locktime=0 if preimage or output.htlc is None else output.htlc.expiry,
            )
            raw = build_sweep(claim, payout_script(BOB.payment_basepoint), FeeRate(1_000))
            assert raw is not None
        else:
            place = [index for index, _ in built.htlc_outputs].index(outpoint.index)
            raw = htlc_transaction(
                built,
                outpoint.index,
                their_signature=sign_htlcs(built, ALICE.htlc_secret)[place],
                htlc_basepoint_secret=BOB.htlc_secret,
                preimage=shown,
            )
        assert check_transaction(raw, [(output.value, output.script)]) is None
        return raw

    def published(self, name: str) -> bytes:
        """What Alice ordered last to spend this output, with fee inputs added where she asked for them."""
        for effect in reversed(self.effects):
            if isinstance(effect, Publish | PublishWithInputs):
                spent = tx.parse(effect.transaction).inputs[0]
                if self.names[(spent.txid, spent.index)] == name:
                    return (
                        with_fee_input(effect.transaction)
                        if isinstance(effect, PublishWithInputs)
                        else effect.transaction
                    )
        raise AssertionError(f"nothing was ordered for {name}")

    # --- effects

    def _taken(self, effects: list[ChannelEffect]) -> list[tuple[Any, ...]]:
        self.effects += effects
        return [self._summary(each) for each in effects]

    def _summary(self, effect: ChannelEffect) -> tuple[Any, ...]:
        match effect:
            case WatchOutpoint():
                key = (effect.outpoint.txid, effect.outpoint.index)
                assert effect.script == self.coins[key][1]
                return ("watch", self.name(effect.outpoint), effect.from_height)
            case Publish():
                return ("publish", effect.purpose.value, self._checked(effect.transaction))
            case PublishWithInputs():
                name = self._checked(effect.transaction)
                self._checked(with_fee_input(effect.transaction))
                spent = tx.parse(effect.transaction).inputs[0]
                assert effect.spent_value == self.coins[(spent.txid, spent.index)][0]
                return ("with inputs", effect.purpose.value, name, effect.deadline)
            case PublishWithChild():
                parsed = tx.parse(effect.transaction)
                assert parsed.outputs[effect.anchor_index].script == scripts.ANCHOR_SCRIPT
                coin = self.coins[(self.funding.txid, self.funding.index)]
                assert check_transaction(effect.transaction, [coin]) is None
                return ("with child", "ours" if parsed.txid() == self.ours.txid else "theirs", effect.deadline)
            case HtlcFulfilled():
                assert hashlib.sha256(effect.preimage).digest() == effect.payment_hash
                return ("fulfilled", effect.htlc_id)
            case HtlcFailed():
                return ("failed", effect.htlc_id, effect.code.name)
            case Alarm():
                return ("alarm",)
            case _:
                raise AssertionError(f"unexpected {effect}")

    def _checked(self, raw: bytes) -> str:
        """The name of the first output that it spends, after its checks: it is valid, and can be in the next block."""
        parsed = tx.parse(raw)
        coins = [FEE_COIN if each.txid == FEE_TXID else self.coins[(each.txid, each.index)] for each in parsed.inputs]
        assert check_transaction(raw, coins) is None
        assert parsed.locktime < self.tip + 1
        first = parsed.inputs[0]
        if first.sequence < 1 << 22:
            assert self.tip + 1 >= self.heights[first.txid] + first.sequence
        return self.names[(first.txid, first.index)]


FEE_SECRET, FEE_TXID = b"\x05" * 32, Txid(b"\x09" * 32)
FEE_COIN = (20_000, scripts.p2wpkh(ec.point_of(FEE_SECRET)))


def with_fee_input(raw: bytes) -> bytes:
    """As the wallet would publish it: a coin and change added after the signed pair."""
    parsed = tx.parse(raw)
    made = replace(
        parsed,
        inputs=(*parsed.inputs, tx.TxInput(FEE_TXID, 0, 0xFFFFFFFD)),
        outputs=(*parsed.outputs, tx.TxOutput(Sat(18_000), FEE_COIN[1])),
    )
    digest = tx.input_digest(made, 1, scripts.p2wpkh_code(FEE_COIN[1]), Sat(FEE_COIN[0]))
    witness = (ec.to_der(ec.sign(FEE_SECRET, digest)) + b"\x01", ec.point_of(FEE_SECRET))
    return replace(made, inputs=(made.inputs[0], replace(made.inputs[1], witness=witness))).serialize()


@pytest.fixture
def scene() -> type[Scene]:
    return Scene


@pytest.fixture
def htlc() -> type[H]:
    return H


@pytest.fixture
def funding_script() -> bytes:
    return funding_output_script(ALICE.points, BOB.points)


def _loaded(name: str, path: Path) -> ModuleType:
    if name not in sys.modules:
        spec_of_kit = importlib.util.spec_from_file_location(name, path)
        assert spec_of_kit is not None
        assert spec_of_kit.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec_of_kit)
        spec_of_kit.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture
def chain_kit() -> ModuleType:
    """Coins, transactions and an embedded chain: the kit of the chain's own tests."""
    return _loaded("chain_kit", Path(__file__).parents[2] / "rrnode" / "chain" / "chain_kit.py")


@pytest.fixture(scope="session")
def breaches() -> ModuleType:
    """Revoked commitments and what a hunter makes of their remedies."""
    return _loaded("breach_kit", Path(__file__).with_name("breach_kit.py"))


@pytest.fixture
def bob() -> ChannelKeys:
    return BOB
