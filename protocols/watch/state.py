"""What is known of a channel's end on the chain, and what resolving it needs to know.

Source: BOLT 5, DESIGN 6. `Close` is stored inside the channel's state and holds chain facts only: what spent what, and where
it is confirmed. Everything to be done follows anew from these facts and a `Context`, which the channel engine makes of
its state for each event; so a reorganisation is nothing special: the facts change, and so does what follows.
"""

from dataclasses import dataclass
from enum import Enum

from protocols.ids import ChannelId, PaymentHash, Preimage, Txid
from protocols.onchain.commitment import CommitmentParams, CommitmentSpec
from protocols.onchain.keys import ChannelKeys
from protocols.onchain.secrets import SecretStore
from protocols.units import BlockHeight, Msat


class SpendKind(Enum):
    """What a spend of the funding output is. The value is for people."""

    MUTUAL = "closed together"
    OURS = "our commitment"
    THEIRS = "their commitment"  # one that they did not revoke: their current one, or the next that we signed
    REVOKED = "a commitment that they revoked"
    FUTURE = "a commitment of theirs that is newer than our records"
    UNKNOWN = "a transaction that we cannot explain"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFate:
    """How an output that we care about was spent, as told last. Stored.

    Attributes:
        txid, index: the output.
        spender: the transaction that spends it; `position`: by which of its inputs.
        height: None while the spender is only in the mempool.
        preimage: of the output's HTLC, where the spender's witness shows it.
        second_stage: the spender is an HTLC transaction, whose output `position` holds the value under a delay.
    """

    txid: Txid
    index: int
    spender: Txid
    position: int
    height: BlockHeight | None
    preimage: Preimage | None
    second_stage: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Close:
    """A channel's end on the chain. Stored in `Channel.close`; a new one is `Close()`.

    Attributes:
        forced_at: height at which we decided to publish our commitment, None while we did not.
        kind, transaction, height: of the spend of the funding output as told last; kind None: it is not spent.
            `height` is None while that spend is only in the mempool.
        record: what is kept of that spend's state, if it is a commitment of theirs (`protocols.channel.records`); empty when
            it is not at hand.
        fates: outputs of the commitment, and of HTLC transactions, that are spent.
        fulfilled: ids of HTLCs of ours for which `HtlcFulfilled` was told here.
        failed: likewise `HtlcFailed`.
        resolved: everything is buried: nothing is left to do, the channel is closed.
    """

    forced_at: BlockHeight | None = None
    kind: SpendKind | None = None
    transaction: bytes = b""
    height: BlockHeight | None = None
    record: bytes = b""
    fates: tuple[OutputFate, ...] = ()
    fulfilled: tuple[int, ...] = ()
    failed: tuple[int, ...] = ()
    resolved: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveHtlc:
    """An HTLC that is not irrevocably removed. `preimage`: known, for ours because they showed it off chain (then
    `HtlcFulfilled` was told already), for theirs because we settled with it (whether or not they were told). `given_up`: one of
    theirs that we failed: its preimage will never come, and nothing waits for it."""

    id: int
    ours: bool
    amount: Msat
    payment_hash: PaymentHash
    expiry: BlockHeight
    preimage: Preimage | None = None
    given_up: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TheirCommitment:
    """A commitment of theirs that we signed and they did not revoke; its `point` is theirs for that number."""

    spec: CommitmentSpec
    point: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What resolving needs of the channel. Made anew for each event, never stored.

    Attributes:
        our_params, their_params: where we, and where they, are the broadcaster.
        ours: our current commitment; `their_signature` and `their_htlc_signatures` are for it.
        theirs: their current commitment, and the next one where its predecessor is not revoked yet.
        htlcs: everything that is not irrevocably removed, both ways.
        closing_scripts: of both sides' shutdowns, () before.
        may_publish: False after a loss of data: our commitment may be an old one, and publishing it would cost everything.
        buried_depth: confirmations after which a resolution is final.
        settle_margin: blocks within which a claim should confirm; fees escalate over the last of them.
    """

    channel_id: ChannelId
    keys: ChannelKeys
    our_params: CommitmentParams
    their_params: CommitmentParams
    ours: CommitmentSpec
    their_signature: bytes
    their_htlc_signatures: tuple[bytes, ...]
    theirs: tuple[TheirCommitment, ...]
    their_secrets: SecretStore
    htlcs: tuple[LiveHtlc, ...]
    closing_scripts: tuple[bytes, ...] = ()
    may_publish: bool = True
    buried_depth: int = 7
    settle_margin: int = 18
