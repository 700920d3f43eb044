"""What helpers say of transactions, checked: proofs of inclusion against headers, unconfirmed spends against signatures."""

from collections.abc import Iterable, Mapping

from protocols.errors import DecodeError, PeerProtocolError
from protocols.ids import Txid
from protocols.light.headers import Header
from protocols.light.merkle import proves
from protocols.light.witness import binds, commitment_of
from protocols.units import BlockHeight
from protocols.wire.chain import Matches, Proven, ProvenWhole
from rrnode.chain.parse import Output, Tx, parse_transaction
from rrnode.chain.verify import check_input


class BadProof(PeerProtocolError):
    """A proof that proves nothing: no honest helper gives one. The message is for people."""


def included(proven: Proven | ProvenWhole, header: Header, height: BlockHeight) -> Tx:
    """The transaction that a proof shows to be in a block; its witnesses are not proven.

    Args:
        header, height: of a block of the best chain.

    Raises:
        BadProof: it does not.
    """
    try:
        tx = parse_transaction(proven.transaction)
    except DecodeError as error:
        raise BadProof(f"it showed bytes that are no transaction as part of block {height}") from error
    if not proves(tx.txid, tx.base_size, proven.index, proven.branch, header.merkle_root):
        raise BadProof(f"it showed transaction {shown((tx.txid,))} as part of block {height}, which it is not")
    return tx


def whole(answer: Matches, header: Header, height: BlockHeight) -> dict[int, Tx]:
    """The transactions that an answer shows to be in a block, by place, with the witnesses that they have there.

    Raises:
        BadProof: see `included`; or their witnesses, and so preimages in them, may be others.
    """
    if not answer.transactions:
        return {}
    if not answer.coinbase or answer.coinbase[0].index:
        raise BadProof(f"it showed transactions of block {height} without the one that commits to their witnesses")
    coinbase = included(answer.coinbase[0], header, height)
    commitment = commitment_of([output.script for output in coinbase.outputs])
    found = {}
    for proven in answer.transactions:
        tx = found[proven.index] = included(proven, header, height)
        if not _has_its_witnesses(tx, proven, coinbase, commitment):
            raise BadProof(
                f"it showed transaction {shown((tx.txid,))} in block {height} with witnesses not proven there"
            )
    return found


def _has_its_witnesses(tx: Tx, proven: ProvenWhole, coinbase: Tx, commitment: bytes | None) -> bool:
    if commitment is None:
        return len(tx.raw) == tx.base_size
    reserved = coinbase.witnesses[0]
    if len(reserved) != 1 or len(reserved[0]) != 32 or len(proven.witness_branch) != len(proven.branch):
        return False
    return binds(commitment, reserved[0], tx.wtxid, proven.index, proven.witness_branch)


def forged_input(tx: Tx, known: Mapping[bytes, Output]) -> str | None:
    """Why one of the inputs that spend known outputs may not spend it; None when all may.

    Args:
        known: outputs by outpoint.
    """
    for place, prevout in enumerate(tx.prevouts):
        output = known.get(prevout)
        if output is not None and (problem := check_input(tx.raw, place, output.value, output.script)) is not None:
            return problem
    return None


def without_rivals(candidates: Mapping[Txid, tuple[Tx, int]]) -> dict[Txid, Tx]:
    """Of transactions that spend the same output, the one that most helpers tell (of equals the lower id).

    Args:
        candidates: with how many helpers tell each.
    """
    chosen: dict[Txid, Tx] = {}
    spent = set[bytes]()
    for txid, (tx, _) in sorted(candidates.items(), key=lambda item: (-item[1][1], item[0])):
        if spent.isdisjoint(tx.prevouts):
            chosen[txid] = tx
            spent.update(tx.prevouts)
    return chosen


def shown(txids: Iterable[Txid]) -> str:
    """Ids as people know them, three at most."""
    return ", ".join(txid[::-1].hex() for txid in sorted(txids)[:3])
