"""What helpers say of transactions, checked: proofs of inclusion against headers, unconfirmed spends against signatures."""

from collections.abc import Iterable, Mapping

from protocols.errors import DecodeError, PeerProtocolError
from protocols.ids import Txid
from protocols.light.headers import Header
from protocols.light.merkle import proves
from protocols.units import BlockHeight
from protocols.wire.chain import Proven
from rrnode.chain.parse import Output, Tx, outpoint, parse_transaction
from rrnode.chain.verify import check_input, is_taproot


class BadProof(PeerProtocolError):
    """A proof that proves nothing: no honest helper gives one. The message is for people."""


def included(proven: Proven, header: Header, height: BlockHeight) -> Tx:
    """The transaction that a proof shows to be in a block.

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


def signed_for(txs: Iterable[Tx], outputs: Mapping[bytes, Output], height: BlockHeight) -> None:
    """Check the witnesses of a block's transactions, which their ids and so the proofs do not bind: preimages are in them.

    Args:
        outputs: some of what they spend, by outpoint; what their own parents among them made is known besides.

    Raises:
        BadProof: an input that spends one of the outputs may not.
    """
    known = {place: output for place, output in outputs.items() if not is_taproot(output.script)}
    for tx in txs:  # in the block's order: parents first
        if (problem := forged_input(tx, known)) is not None:
            raise BadProof(
                f"it showed a spend in block {height} that is not signed for: {shown((tx.txid,))}, {problem}"
            )
        for index, output in enumerate(tx.outputs):
            if not is_taproot(output.script):
                known[outpoint(tx.txid, index)] = output


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
