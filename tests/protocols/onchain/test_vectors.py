"""The published vectors of `zero_fee_commitments`: every commitment and HTLC transaction byte for byte, each also valid
for libbitcoinkernel."""

from typing import Any

import pytest

from protocols.ids import PaymentHash, Preimage, Txid
from protocols.onchain import commitment, ec, scripts, tx
from protocols.onchain.commitment import CommitmentParams, CommitmentSpec, HtlcSpec
from protocols.onchain.htlc import htlc_transaction, sign_htlcs, verify_htlcs
from protocols.onchain.keys import BasePoints
from protocols.units import BlockDelta, BlockHeight, Msat, Sat
from rrnode.chain.verify import check_transaction


def params_of(vectors: Any, dust_limit: int) -> CommitmentParams:
    def point(name: str) -> bytes:
        return ec.point_of(bytes.fromhex(vectors[name]))

    return CommitmentParams(
        funding_txid=Txid(bytes.fromhex(vectors["funding_txid"])[::-1]),
        funding_index=vectors["funding_index"],
        capacity=Sat(vectors["funding_amount_satoshis"]),
        broadcaster=BasePoints(
            funding_pubkey=point("local_funding_priv"),
            revocation=point("local_payment_basepoint_secret"),  # of no influence
            payment=point("local_payment_basepoint_secret"),
            delayed_payment=point("local_delayed_payment_basepoint_secret"),
            htlc=point("local_htlc_basepoint_secret"),
        ),
        countersignatory=BasePoints(
            funding_pubkey=point("remote_funding_priv"),
            revocation=bytes.fromhex(vectors["revocation_basepoint"]),
            payment=point("remote_payment_basepoint_secret"),
            delayed_payment=point("remote_payment_basepoint_secret"),  # of no influence
            htlc=point("remote_htlc_basepoint_secret"),
        ),
        opener_is_broadcaster=True,
        to_self_delay=BlockDelta(vectors["to_self_delay"]),
        dust_limit=Sat(dust_limit),
    )


def htlcs_of(case: Any) -> tuple[HtlcSpec, ...]:
    return tuple(
        HtlcSpec(
            id=each["id"],
            offered=offered,
            amount=Msat(each["amount_msat"]),
            payment_hash=PaymentHash(bytes.fromhex(each["payment_hash"])),
            expiry=BlockHeight(each["cltv_expiry"]),
        )
        for offered, field in ((False, "incoming_htlcs"), (True, "outgoing_htlcs"))
        for each in case.get(field, ())
    )


@pytest.mark.parametrize("number", range(11))
def test_commitment_and_its_htlc_transactions_are_those_of_the_vector(vectors: Any, number: int) -> None:
    assert len(vectors["tests"]) == 11
    case = vectors["tests"][number]
    params = params_of(vectors, case["dust_limit_satoshis"])
    spec = CommitmentSpec(
        number=vectors["commitment_number"],
        to_broadcaster=Msat(case["to_local_msat"]),
        to_countersignatory=Msat(case["to_remote_msat"]),
        htlcs=htlcs_of(case),
    )
    built = commitment.build(params, spec, bytes.fromhex(vectors["per_commitment_point"]))
    theirs = commitment.sign(built, bytes.fromhex(vectors["remote_funding_priv"]))
    assert commitment.verify(built, theirs)
    whole = commitment.finalize(built, commitment.sign(built, bytes.fromhex(vectors["local_funding_priv"])), theirs)
    assert whole.hex() == case["signed_commit_tx"]
    funding = scripts.funding_script(params.broadcaster.funding_pubkey, params.countersignatory.funding_pubkey)
    assert check_transaction(whole, [(params.capacity, scripts.p2wsh(funding))]) is None

    signatures = sign_htlcs(built, bytes.fromhex(vectors["remote_htlc_basepoint_secret"]))
    assert verify_htlcs(built, signatures)
    made: dict[bool, list[str]] = {False: [], True: []}
    for (index, htlc), signature in zip(built.htlc_outputs, signatures, strict=True):
        known = vectors["payment_hash_to_preimage"][htlc.payment_hash.hex()]
        transaction = htlc_transaction(
            built,
            index,
            their_signature=signature,
            htlc_basepoint_secret=bytes.fromhex(vectors["local_htlc_basepoint_secret"]),
            preimage=None if htlc.offered else Preimage(bytes.fromhex(known)),
            sighash=tx.SIGHASH_ALL,
        )
        spent = built.outputs[index]
        assert check_transaction(transaction, [(spent.value, spent.script)]) is None
        made[htlc.offered].append(transaction.hex())
    assert made[False] == case.get("signed_htlc_success_txs", [])
    assert made[True] == case.get("signed_htlc_timeout_txs", [])
