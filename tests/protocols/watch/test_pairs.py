"""Pairs: signed for every kind of output, valid by Bitcoin Core's consensus, and worthless to whoever changes them."""

import hashlib
from dataclasses import replace
from typing import Any

import pytest

from protocols.channel import records
from protocols.errors import MisuseError
from protocols.onchain import ec, scripts, tx
from protocols.onchain.keys import payout_script
from protocols.onchain.tx import TxInput, TxOutput
from protocols.units import Sat
from protocols.watch import pairs
from protocols.watch.policy import BountyConfig
from rrnode.chain.verify import check_transaction

HTLCS = ((True, 400_000, 500), (False, 500_000, 700_000))
KINDS = ["to_local", "offered", "received"]


@pytest.fixture
def breach(breaches: Any) -> Any:
    return breaches.Breach(htlcs=HTLCS)


def pair_of(breach: Any, kind: str) -> pairs.Pair:
    value = {"to_local": 6_000_000, "offered": 400_000, "received": 500_000}[kind]
    return next(each for each in breach.pairs() if each.spent.value == value)


def claim(pair: pairs.Pair, *outputs: TxOutput, **changes: Any) -> tx.Tx:
    """A claim of one pair, as the signature wants it unless told otherwise."""
    own = TxOutput(Sat(1_000), b"\x00\x14" + b"\x77" * 20)
    made = tx.Tx(
        version=3,
        inputs=(TxInput(pair.txid, pair.index, 0xFFFFFFFD, pair.witness),),
        outputs=outputs or (pair.paid, own),
        locktime=0,
    )
    return replace(made, **changes)


def verdict(made: tx.Tx, pair: pairs.Pair) -> str | None:
    return check_transaction(made.serialize(), [(pair.spent.value, pair.spent.script)])


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_output_is_claimed_and_pays_the_victim_all_but_the_bounty(
    breaches: Any, breach: Any, kind: str
) -> None:
    pair = pair_of(breach, kind)
    assert verdict(claim(pair), pair) is None
    priced = {each.output.index: each.bounty for each in breach.plan().priced}
    assert pair.paid == TxOutput(
        Sat(pair.spent.value - priced[pair.index]), payout_script(breaches.ALICE.payment_basepoint)
    )
    assert pair.bounty == priced[pair.index]
    assert pair.spent == breach.parsed.outputs[pair.index]


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_hunter_is_refused_by_consensus(breach: Any, kind: str) -> None:
    pair = pair_of(breach, kind)
    paid, mine = pair.paid, TxOutput(Sat(1_000), b"\x00\x14" + b"\x77" * 20)
    lowered, redirected = replace(paid, value=Sat(paid.value - 1)), replace(paid, script=mine.script)
    for outputs in ((lowered, mine), (redirected, mine), (mine, paid), (mine,)):
        assert verdict(claim(pair, *outputs), pair) is not None
    for changes in (
        {"version": 2},
        {"locktime": 1},
        {"inputs": (replace(claim(pair).inputs[0], sequence=0xFFFFFFFF),)},
        {"inputs": (replace(claim(pair).inputs[0], index=pair.index + 1),)},
    ):
        assert verdict(claim(pair, **changes), pair) is not None


@pytest.mark.parametrize("kind", KINDS)
def test_pair_whose_bytes_were_changed_is_left_out_and_the_others_stand(breach: Any, kind: str) -> None:
    remedy, target = breach.remedy(), pair_of(breach, kind)
    others = tuple(each for each in breach.pairs() if each != target)
    one = remedy.balance if kind == "to_local" else next(each for each in remedy.htlcs if each.index == target.index)
    wrong = [
        replace(one, bounty=Sat(one.bounty - 1)),
        replace(one, bounty=Sat(one.bounty + 1)),
        replace(one, bounty=Sat(2**32 - 1)),
        replace(one, index=(one.index + 1) % 5),
        replace(one, index=255),
        replace(one, signature=bytes(64)),
        replace(one, signature=b"\xff" * 64),
        replace(one, signature=one.signature[32:] + one.signature[:32]),
    ]
    if kind == "to_local":
        wrong += [replace(one, to_self_delay=145), replace(one, delayed_pubkey=b"\x02" * 33)]
    else:
        wrong += [replace(one, expiry=one.expiry + 1), replace(one, expiry=2**32 - 1), replace(one, lock=bytes(20))]
    for each in wrong:
        if kind == "to_local":
            changed = replace(remedy, balance=each)
        else:
            changed = replace(remedy, htlcs=tuple(each if htlc is one else htlc for htlc in remedy.htlcs))
        assert pairs.check(changed, breach.parsed) == others


def test_remedy_whose_shared_parts_were_changed_holds_nothing(breach: Any) -> None:
    remedy = breach.remedy()
    for changes in (
        {"payout": bytes(20)},
        {"revocation_pubkey": b"\x02" + b"\xff" * 32},  # not on the curve
        {"revocation_pubkey": ec.point_of(b"\x01" * 32)},
    ):
        assert pairs.check(replace(remedy, **changes), breach.parsed) == ()
    assert len(pairs.check(replace(remedy, htlc_keys=remedy.htlc_keys[::-1]), breach.parsed)) == 1


STRANGER = b"\x33" * 32


def strangers(script: bytes, revocation_pubkey: bytes, breach: Any) -> tuple[Any, tx.Tx]:
    """A remedy and a transaction that somebody made up: one output of the script, signed for by the stranger."""
    made = tx.Tx(2, (TxInput(breach.txid, 0, 0),), (TxOutput(Sat(6_000_000), script),), 0)
    witness_script = scripts.to_local_script(revocation_pubkey, 144, breach.remedy().balance.delayed_pubkey)
    paid = tx.output(5_900_000, b"\x00\x14" + breach.remedy().payout)
    outpoint = tx.outpoint(made.txid(), 0)
    digest = tx.single_pair_digest(3, outpoint, 0xFFFFFFFD, paid, 0, witness_script, Sat(6_000_000))
    balance = replace(breach.remedy().balance, index=0, bounty=Sat(100_000), signature=ec.sign(STRANGER, digest))
    return replace(breach.remedy(), revocation_pubkey=revocation_pubkey, balance=balance, htlcs=(), htlc_keys=()), made


def test_what_a_stranger_makes_up_holds_only_if_it_can_be_spent(breach: Any) -> None:
    key, no_key = ec.point_of(STRANGER), b"\x02" + b"\xff" * 32
    delayed = breach.remedy().balance.delayed_pubkey
    right = scripts.p2wsh(scripts.to_local_script(key, 144, delayed))
    assert len(pairs.check(*strangers(right, key, breach))) == 1
    assert pairs.check(*strangers(scripts.p2wpkh(key), key, breach)) == ()
    assert pairs.check(*strangers(scripts.p2wsh(b"\x51"), key, breach)) == ()
    assert pairs.check(*strangers(scripts.p2wsh(scripts.to_local_script(no_key, 144, delayed)), no_key, breach)) == ()


def test_pair_that_repeats_counts_once(breach: Any) -> None:
    remedy = breach.remedy()
    assert pairs.check(replace(remedy, htlcs=remedy.htlcs * 3), breach.parsed) == breach.pairs()


def test_pair_that_leaves_the_victim_dust_is_left_out(breaches: Any, breach: Any) -> None:
    """Signed by the revocation key itself: only a victim with a bug would, and no node would relay it."""
    remedy, target = breach.remedy(), pair_of(breach, "offered")
    keys, secret = breaches.ALICE, breaches.BOB.per_commitment_secret(breach.number)
    for value, holds in ((294, True), (293, False)):
        digest = tx.single_pair_digest(
            3, tx.outpoint(breach.txid, target.index), 0xFFFFFFFD, tx.output(value, target.paid.script), 0,
            target.witness[2], target.spent.value,
        )  # fmt: skip
        signature = ec.sign(pairs.derive_revocation_privkey(keys.revocation_secret, secret), digest)
        htlcs = tuple(
            replace(each, bounty=Sat(400_000 - value), signature=signature) if each.index == target.index else each
            for each in remedy.htlcs
        )
        found = pairs.check(replace(remedy, htlcs=htlcs), breach.parsed)
        assert (target.index in {each.index for each in found}) is holds


def test_remedy_for_another_commitment_holds_nothing(breaches: Any, breach: Any) -> None:
    for other in (breaches.Breach(htlcs=HTLCS, number=5), breaches.Breach(htlcs=HTLCS, funding=(bytes(32), 0))):
        assert pairs.check(breach.remedy(), other.parsed) == ()
        assert len(other.pairs()) == 3


def test_nothing_is_signed_where_no_bounty_is_to_be_had(breaches: Any) -> None:
    assert breaches.Breach(stake=0).remedy() is None
    assert breaches.Breach(bob=0).remedy() is None
    only = breaches.Breach(bob=10_000, htlcs=HTLCS).remedy()
    assert (only.balance, len(only.htlcs)) == (None, 2)


@pytest.mark.parametrize("wrong", ["number", "txid", "secret", "points", "keys", "value", "index", "hash", "missing"])
def test_what_does_not_belong_together_is_not_signed(breaches: Any, breach: Any, wrong: str) -> None:
    given: dict[str, Any] = {
        "number": breach.number,
        "txid": breach.txid,
        "params": breach.params,
        "keys": breaches.ALICE,
        "secret": breaches.BOB.per_commitment_secret(breach.number),
    }
    plan, outputs = breach.plan(), list(breach.outputs)
    htlc = next(place for place, each in enumerate(outputs) if each.kind is records.Kept.OFFERED_BY_THEM)
    match wrong:
        case "number":
            given["number"] += 1
        case "txid":
            given["txid"] = hashlib.sha256(b"another").digest()
        case "secret":
            given["secret"] = breaches.BOB.per_commitment_secret(breach.number + 1)
        case "keys":
            given["keys"] = replace(breaches.ALICE, revocation_secret=b"\x01" * 32)
        case "points":
            given["params"] = replace(breach.params, countersignatory=breaches.BOB.points)
        case "value":
            outputs[htlc] = replace(outputs[htlc], value=Sat(399_999))
        case "index":
            outputs[htlc] = replace(outputs[htlc], index=9)
        case "hash":
            outputs[htlc] = replace(outputs[htlc], payment_hash=None)
        case "missing":
            del outputs[htlc]
    with pytest.raises(MisuseError):
        pairs.build(replace(plan, outputs=tuple(outputs)), **given)


def test_the_whole_of_114_htlcs_each_way_is_claimed(breaches: Any) -> None:
    htlcs = tuple((place % 2 == 0, 30_000 + place, 500 + place) for place in range(228))
    breach = breaches.Breach(bob=2_000_000, htlcs=htlcs, capacity=100_000_000)
    config = BountyConfig(feerate=1_000)
    found = breach.pairs(config)
    assert len(found) == 229
    whole = tx.Tx(
        3,
        tuple(TxInput(each.txid, each.index, 0xFFFFFFFD, each.witness) for each in found),
        tuple(each.paid for each in found),
        0,
    )
    assert check_transaction(whole.serialize(), [(each.spent.value, each.spent.script) for each in found]) is None
    assert pairs.check(breach.remedy(config), breach.parsed) == found
