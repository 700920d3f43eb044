"""Which HTLC transactions leave together in one transaction, and which alone. Pure.

Source: BOLT 3 `zero_fee_commitments`: SINGLE | ANYONECANPAY ties input i to output i and lets anything be added, so HTLC
transactions of one version and nLockTime can be one. That takes fewer of the wallet's confirmed coins, which are scarce as
unconfirmed change cannot pay (BIP 431), and less in fees. Apart stays what would harm the others: what is fought over, as
one lost input voids the whole; what is in a hurry, so that the rest need not pay for that; what is not worth their feerate.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from protocols.channel.events import PublishWithInputs, Purpose
from protocols.errors import MisuseError
from protocols.onchain.weights import JOINED_HTLCS
from protocols.units import FeeRate, Sat, fee_for
from rrnode.chain.bumping import bumped_vbytes, joined
from rrnode.chain.fees import FeePolicy
from rrnode.chain.parse import Tx, parse_transaction


@dataclass(frozen=True, slots=True)
class Pair:
    """An ordered HTLC transaction, one input and one output, with the (value, script) of the output that it spends."""

    order: PublishWithInputs
    bare: Tx
    spent: tuple[Sat, bytes]

    @property
    def place(self) -> bytes:
        """The outpoint that it is about, 36 bytes."""
        return self.bare.prevouts[0]


class Share(Enum):
    """What pairs that leave together have in common, in the order in which they are served. The value marks their coins."""

    HURRIED = b"hurried"
    CAPPED = b"capped"  # in a hurry, but not worth what that asks for: they pay what they are worth
    CALM = b"calm"
    SMALL = b"small"  # not worth the feerate of the others
    FOUGHT = b"fought"  # a stranger spends them: each leaves alone, with coins that won no other fight


@dataclass(frozen=True, slots=True)
class Party:
    """Pairs that leave as one transaction.

    Attributes:
        purpose: what its coins are set aside for.
        blocks_left: until the first deadline; more where its members need not pay for hurry.
        is_worth_coins: whether coins may be set aside for it. What pays less than is asked for may wait for ever, and keep
            them from what has a deadline.
    """

    purpose: bytes
    pairs: tuple[Pair, ...]
    blocks_left: int
    is_worth_coins: bool = True

    @property
    def places(self) -> frozenset[bytes]:
        return frozenset(pair.place for pair in self.pairs)

    @property
    def stake(self) -> Sat:
        return Sat(sum(pair.order.spent_value for pair in self.pairs))

    def bare(self) -> Tx:
        """The one transaction, without coins."""
        return joined([pair.bare for pair in self.pairs])


def read_pair(order: PublishWithInputs) -> Tx:
    """The transaction of an order. Raises DecodeError, or MisuseError when it is no pair."""
    bare = parse_transaction(order.transaction)
    if len(bare.prevouts) != 1 or len(bare.outputs) != 1:
        raise MisuseError("inputs are added to transactions of one input and one output only")
    return bare


def group_of(bare: Tx) -> bytes:
    """Pairs with the same one could leave as one: of one commitment, one version and nLockTime, and not too large."""
    place = bare.prevouts[0]
    index = int.from_bytes(place[32:], "little")
    return place[:32] + struct.pack("<BII", bare.version, bare.lock_time, index // JOINED_HTLCS)


def purpose_of(group: bytes, share: Share) -> bytes:
    """What the coins of this share are set aside for."""
    return group + share.value


def shares_of(
    pairs: Iterable[Pair], tip: int, estimate: FeeRate, policy: FeePolicy
) -> tuple[dict[Share, list[Pair]], list[Pair]]:
    """Sort the pairs of a group that nobody fights over.

    Args:
        estimate: the feerate asked for at the moment.

    Returns:
        The shares, and those that should rather go one by one, as far as there are coins: timeouts halfway through their
        hurry. The peer can take such an output with the preimage, and keep the transaction that does from our sight; one
        of them must not hold up the others until it is too late. The most valuable come first.
    """
    shares: dict[Share, list[Pair]] = {share: [] for share in Share}
    exposed = []
    for pair in sorted(pairs, key=lambda pair: (-pair.order.spent_value, pair.place)):
        left, vbytes, value = pair.order.deadline - tip, pair.bare.vsize, pair.order.spent_value
        if not policy.is_worth(vbytes, estimate, value):
            shares[Share.SMALL].append(pair)
        elif left > policy.hurry:
            shares[Share.CALM].append(pair)
        elif not policy.is_worth(vbytes, policy.feerate(estimate, left), value):
            shares[Share.CAPPED].append(pair)
        elif pair.order.purpose is Purpose.HTLC_TIMEOUT and left <= policy.hurry // 2:
            exposed.append(pair)
        else:
            shares[Share.HURRIED].append(pair)
    return shares, exposed


def parties_of(
    group: bytes, shares: Mapping[Share, Sequence[Pair]], tip: int, estimate: FeeRate, policy: FeePolicy
) -> list[Party]:
    """A party for each share that has members, in the order in which they are served."""
    made = []
    for share in Share:
        if pairs := shares[share]:
            left = min(pair.order.deadline for pair in pairs) - tip
            blocks_left = left if share in {Share.HURRIED, Share.CAPPED} else max(left, policy.hurry)
            party = Party(purpose_of(group, share), tuple(pairs), blocks_left)
            if share is Share.SMALL:
                vbytes = bumped_vbytes(party.bare(), 1)
                worth = policy.fee(vbytes, estimate, party.stake) >= fee_for(vbytes, estimate)
                party = replace(party, is_worth_coins=worth)
            made.append(party)
    return made


def party_of_one(pair: Pair, tip: int, purpose: bytes | None = None) -> Party:
    """A pair that leaves alone, with coins of its own or of this purpose."""
    return Party(purpose or pair.place, (pair,), pair.order.deadline - tip)
