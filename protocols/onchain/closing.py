"""The closing transaction of a simple close, in its three variants.

Source: BOLT 2, "Closing Negotiation: `closing_complete` and `closing_sig`"; BOLT 3, "Closing Transaction". The *closer* proposes and
pays the whole fee from its output; the *closee* signs one of the variants. OP_RETURN scripts do not occur (`scripts.is_shutdown_script`).
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

from protocols.errors import MisuseError
from protocols.ids import Txid
from protocols.onchain import ec, scripts, tx
from protocols.onchain.commitment import FUNDING_WITNESS_WEIGHT, funding_witness
from protocols.units import MSAT_PER_SAT, FeeRate, Msat, Sat, fee_for, weight_to_vbytes

VERSION = 2
SEQUENCE = 0xFFFFFFFD  # replaceable: either side may propose again with a higher fee


class Variant(Enum):
    """Which outputs a closing transaction has; the values are the names of the signature's field (BOLT 2)."""

    CLOSER_ONLY = "closer_output_only"
    CLOSEE_ONLY = "closee_output_only"
    BOTH = "closer_and_closee_outputs"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosingTerms:
    """What a proposal to close says. A frozen value; both sides build the same of it.

    Attributes:
        closer_pubkey, closee_pubkey: funding keys, 33 bytes.
        closer_balance, closee_balance: with no HTLC left, before the fee; rounded down to whole satoshis each.
        fee: paid by the closer, at most its balance.
        locktime: as proposed. The closee should refuse one that is not final at the next block.
    """

    funding_txid: Txid
    funding_index: int
    capacity: Sat
    closer_pubkey: bytes
    closee_pubkey: bytes
    closer_balance: Msat
    closee_balance: Msat
    closer_script: bytes
    closee_script: bytes
    fee: Sat
    locktime: int

    @property
    def closer_value(self) -> int:
        """The closer's output in satoshi; negative when it cannot pay the fee."""
        return self.closer_balance // MSAT_PER_SAT - self.fee

    @property
    def closee_value(self) -> int:
        """The closee's output in satoshi."""
        return self.closee_balance // MSAT_PER_SAT


@dataclass(frozen=True, slots=True)
class BuiltClosing:
    """A closing transaction without signatures; `digest` is what both funding keys sign."""

    terms: ClosingTerms
    variant: Variant
    base: bytes
    digest: bytes

    @property
    def txid(self) -> Txid:
        return Txid(scripts.sha256d(self.base))


def variants_to_sign(terms: ClosingTerms) -> tuple[Variant, ...]:
    """The variants that the closer must sign (BOLT 2); empty: these terms lead to no transaction that is relayed, propose a lower fee."""
    closer_dust = terms.closer_value < scripts.dust_threshold(terms.closer_script)
    closee_dust = terms.closee_value < scripts.dust_threshold(terms.closee_script)
    if terms.closer_value < 0 or (closer_dust and closee_dust):
        return ()
    if terms.closer_balance < terms.closee_balance:  # the lesser side may not drop the other's output
        if closer_dust:
            return (Variant.CLOSEE_ONLY,)
        return () if closee_dust else (Variant.BOTH,)
    if closer_dust:
        return ()
    return (Variant.CLOSER_ONLY,) if closee_dust else (Variant.CLOSER_ONLY, Variant.BOTH)


def variant_to_accept(terms: ClosingTerms, offered: Collection[Variant]) -> Variant | None:
    """The variant whose signature the closee checks and answers (BOLT 2); None: the proposal breaks the rules.

    The closee's output is missing only where it would be dust, so the closee never signs itself away.
    """
    if terms.closer_value < 0:
        return None
    if terms.closee_value < scripts.dust_threshold(terms.closee_script):
        wanted = Variant.CLOSER_ONLY
    elif Variant.BOTH in offered:
        wanted = Variant.BOTH
    else:
        wanted = Variant.CLOSEE_ONLY
    return wanted if wanted in offered else None


def build(terms: ClosingTerms, variant: Variant) -> BuiltClosing:
    """The closing transaction of these terms.

    Raises:
        MisuseError: the closer's balance does not cover the fee.
    """
    if terms.closer_value < 0:
        raise MisuseError(f"a closing fee of {terms.fee} sat from {terms.closer_balance} msat")
    outputs = []
    if variant is not Variant.CLOSEE_ONLY:
        outputs.append((terms.closer_value, terms.closer_script))
    if variant is not Variant.CLOSER_ONLY:
        outputs.append((terms.closee_value, terms.closee_script))
    packed = [tx.output(value, script) for value, script in sorted(outputs)]
    spent = tx.outpoint(terms.funding_txid, terms.funding_index)
    code = scripts.funding_script(terms.closer_pubkey, terms.closee_pubkey)
    return BuiltClosing(
        terms,
        variant,
        tx.single_input_base(VERSION, spent, SEQUENCE, packed, terms.locktime),
        tx.single_input_digest(VERSION, spent, SEQUENCE, b"".join(packed), terms.locktime, code, terms.capacity),
    )


def sign(built: BuiltClosing, funding_secret: bytes) -> bytes:
    """Either side's compact signature, 64 bytes."""
    return ec.sign(funding_secret, built.digest)


def verify(built: BuiltClosing, funding_pubkey: bytes, signature: bytes) -> bool:
    """Whether this is that key's signature, low-S."""
    return ec.verify(funding_pubkey, built.digest, signature)


def finalize(built: BuiltClosing, closer_signature: bytes, closee_signature: bytes) -> bytes:
    """The closing transaction with its witness, ready to publish."""
    terms = built.terms
    stack = funding_witness(terms.closer_pubkey, closer_signature, terms.closee_pubkey, closee_signature)
    return tx.with_witnesses(built.base, [stack])


def closing_fee(closer_script: bytes, closee_script: bytes, feerate: FeeRate) -> Sat:
    """Fee for the larger variant (both outputs) at this feerate."""
    outputs = sum(8 + 1 + len(script) for script in (closer_script, closee_script))
    return fee_for(weight_to_vbytes(4 * (4 + 1 + 41 + 1 + outputs + 4) + FUNDING_WITNESS_WEIGHT), feerate)
