"""Every kind of spend of the funding output is recognised, and what cannot be explained is an alarm and claims nothing."""

from dataclasses import replace
from typing import Any

import pytest

from protocols.channel.events import Outpoint, OutputSpent
from protocols.errors import MisuseError
from protocols.ids import Txid
from protocols.onchain import closing, commitment, tx
from protocols.onchain.closing import ClosingTerms, Variant
from protocols.onchain.keys import payout_script
from protocols.onchain.tx import Tx, TxInput, TxOutput
from protocols.units import Msat, Sat
from protocols.watch.classify import classify, revoked_point
from protocols.watch.state import SpendKind


def mutual(s: Any, variant: Variant, *, closer_script: bytes | None = None) -> bytes:
    context = s.context
    points, theirs = context.our_params.broadcaster, context.our_params.countersignatory
    terms = ClosingTerms(
        funding_txid=context.our_params.funding_txid,
        funding_index=context.our_params.funding_index,
        capacity=context.our_params.capacity,
        closer_pubkey=points.funding_pubkey,
        closee_pubkey=theirs.funding_pubkey,
        closer_balance=Msat(6_000_000_000),
        closee_balance=Msat(4_000_000_000),
        closer_script=closer_script or payout_script(points.payment),
        closee_script=payout_script(theirs.payment),
        fee=Sat(500),
        locktime=0,
    )
    built = closing.build(terms, variant)
    signature = closing.sign(built, context.keys.funding_secret)
    return closing.finalize(built, signature, signature)  # its signatures are not looked at: the chain did


def test_every_commitment_is_known_by_its_id(scene: Any, htlc: Any) -> None:
    s = scene(htlcs=(htlc(0, True),), next_is_signed=True, revoked=(htlc(9, True),))
    assert [classify(s.whole(each), s.context) for each in (s.ours, s.theirs, s.next, s.old)] == [
        SpendKind.OURS,
        SpendKind.THEIRS,
        SpendKind.THEIRS,
        SpendKind.REVOKED,
    ]


@pytest.mark.parametrize("variant", list(Variant))
def test_closing_transaction_pays_only_agreed_scripts(scene: Any, variant: Variant) -> None:
    s = scene()
    assert classify(mutual(s, variant), s.context) is SpendKind.MUTUAL
    assert classify(mutual(s, Variant.BOTH, closer_script=b"\x00\x14" + bytes(20)), s.context) is SpendKind.UNKNOWN
    assert classify(mutual(s, variant), replace(s.context, closing_scripts=())) is SpendKind.UNKNOWN


def test_buried_closing_transaction_ends_the_channel(scene: Any) -> None:
    s = scene()
    raw = mutual(s, Variant.BOTH)
    assert s.tell_close(raw, None) == []
    assert s.tell_close(raw, 100) == []
    assert s.tell_tip(104) == []
    assert not s.close.resolved
    assert s.tell_tip(105) == []
    assert s.close.resolved


def test_commitment_newer_than_our_records_is_an_alarm_and_its_htlcs_are_watched_for_preimages(
    scene: Any, htlc: Any
) -> None:
    s = scene(htlcs=(htlc(0, True, expiry=105),))  # the next one was signed, but we forgot
    found = s.tell_close(s.whole(s.next), 100)
    assert s.close.kind is SpendKind.FUTURE
    assert found[0] == ("alarm",)
    assert ("watch", "offered 0", 94) in found
    assert s.tell_tip(120) == []  # nothing of theirs can be claimed, and nothing is told as failed
    claim = s.bobs_claim(s.next, "offered 0", preimage=True)
    assert s.tell_spent(s.at(s.next, "offered 0"), claim, 121) == [("fulfilled", 0)]
    s.tell_tip(126)
    assert s.close.resolved


def test_future_commitment_without_htlcs_of_ours_ends_when_it_is_buried(scene: Any) -> None:
    s = scene()
    assert s.tell_close(s.whole(s.next), 100) == [("alarm",)]
    s.tell_tip(105)
    assert s.close.resolved


def test_own_old_state_and_nonsense_are_unknown(scene: Any) -> None:
    s = scene()
    old_spec = replace(s.ours.spec, number=3)
    params = s.context.our_params
    own_old = commitment.build(params, old_spec, s.context.keys.per_commitment_point(3))
    other_amounts = commitment.build(
        s.context.their_params,
        replace(
            s.theirs.spec,
            to_broadcaster=Msat(s.theirs.spec.to_broadcaster - 1_000),
            to_countersignatory=Msat(s.theirs.spec.to_countersignatory + 1_000),
        ),
        s.theirs.point,
    )
    strange = Tx(2, (TxInput(params.funding_txid, params.funding_index, 0),), (TxOutput(Sat(1), b"\x51"),), 0)
    elsewhere = Tx(2, (TxInput(Txid(bytes(32)), 0, 0),), (TxOutput(Sat(1), b"\x51"),), 0)
    for raw in (own_old.base, other_amounts.base, strange.serialize(), elsewhere.serialize(), b"nonsense"):
        assert classify(raw, s.context) is SpendKind.UNKNOWN
    assert s.tell_close(strange.serialize(), 100) == [("alarm",)]


def test_asking_for_the_secret_of_what_is_not_revoked_is_our_own_mistake(scene: Any) -> None:
    s = scene()
    with pytest.raises(MisuseError, match="not a commitment whose secret"):
        revoked_point(s.whole(s.theirs), s.context)


def test_events_of_other_outputs_change_nothing(scene: Any, htlc: Any) -> None:
    s = scene(htlcs=(htlc(0, True),))
    elsewhere = Outpoint(txid=Txid(b"\x77" * 32), index=0)
    event = OutputSpent(outpoint=elsewhere, transaction=s.whole(s.theirs), height=None)
    assert s.tell(event) == []
    s.tell_close(s.whole(s.ours), 100)
    before = s.close
    anchor = s.at(s.ours, "anchor")
    place = s.at(s.ours, "offered 0")
    assert s.tell(event) == []
    assert (
        s.tell(OutputSpent(outpoint=anchor, transaction=s.bobs_claim(s.ours, "offered 0", preimage=True), height=None))
        == []
    )
    assert s.tell(OutputSpent(outpoint=place, transaction=s.whole(s.theirs), height=None)) == []
    assert s.tell(OutputSpent(outpoint=place, transaction=b"nonsense", height=None)) == []
    assert s.tell_gone(elsewhere) == []
    assert s.close == before
    assert tx.txid_of(s.close.transaction) == s.ours.txid
