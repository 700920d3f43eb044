"""What the control API asks of a running node; `rrnode.node` is the implementation (DESIGN 3).

Every method may raise `rrnode.errors.UserError` (one plain sentence, and what to try), `NotThere` for a thing the user
named that is not known, and `ChainUnavailable` or `StorageFailed` from the machine. Nothing else reaches a user.
"""

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Protocol

import trio

from protocols.ids import ChannelId, PaymentHash, PeerId, Txid
from rrnode.control import models as m

if TYPE_CHECKING:
    from rrnode.control.streams import Feed


class NodeService(Protocol):
    """A running node, as its owner sees it. All amounts are of the node's own network's coin."""

    async def status(self) -> m.Status:
        """The state of the whole node; answers even when the node is halted or its chain is away."""

    async def stop(self) -> None:
        """Begin an orderly end and return at once; the process ends soon after, `Stopping` is the last event."""

    # --- peers ---

    async def peers(self) -> tuple[m.PeerInfo, ...]:
        """Linked peers, peers to keep, and channel neighbours."""

    async def helpers(self) -> tuple[m.HelperInfo, ...]:
        """The helpers that tell us the chain; none where we hold our own."""

    async def connect(self, address: str) -> m.PeerInfo:
        """Dial a multiaddr ending in `/p2p/<id>` and keep it until `disconnect` or the end of the process.

        Raises:
            UserError: malformed, unreachable, another identity or network.
        """

    async def disconnect(self, peer: PeerId) -> None:
        """End the link and stop redialling. Channels stay; they are unusable until the link is back."""

    # --- channels ---

    async def channels(self) -> tuple[m.ChannelInfo, ...]:
        """Every channel that is not forgotten, closed ones until their outputs are buried."""

    async def channel_open(self, peer: str, capacity_sat: int, push_msat: int) -> m.ChannelInfo:
        """Fund a channel. Returns when its funding transaction is stored and ordered to be published.

        Args:
            peer: a peer id (base58 or 66 hex digits), or a multiaddr, which is dialled first.

        Raises:
            UserError: not reachable, refused by the peer (with its reason), not enough coins.
        """

    async def channel_close(self, channel_id: ChannelId, force: bool) -> m.ChannelInfo:
        """Begin to close, together or by force; follow it through `ChannelEvent`."""

    # --- watchers ---

    async def cover(self) -> m.Cover:
        """Which watcher of ours holds which newest state of each channel, and why one is not covered."""

    async def audit(self) -> m.Audit:
        """Per channel, the smallest sets of peers whose collusion could rob this node, and of how much."""

    async def bounties(self) -> tuple[m.BountyInfo, ...]:
        """The breaches that this node hunts or hunted, newest first. Raises UserError when it watches for nobody."""

    async def bounty(self, txid: Txid) -> m.BountyInfo:
        """One of them. Raises NotThere."""

    # --- payments ---

    async def contact(self) -> m.ContactInfo:
        """Our contact string."""

    async def request(self, amount_msat: int, memo: str, expiry_s: int) -> m.RequestInfo:
        """Make and store a payment request of ours."""

    async def pay(self, order: m.PayOrder) -> PaymentHash:
        """Check, store and start a payment; returns its hash while it runs. Its end is `Settled` or `PaymentFailed`.

        Raises:
            UserError: malformed or expired string, another network, used hash (R11), amount above every channel, ...
        """

    async def pay_by_hand(self, order: m.PayOrder) -> m.HandedOver:
        """Likewise, but the caller brings the payee the text that is given back. Raises UserError."""

    async def give_up(self, payment_hash: PaymentHash) -> None:
        """End a payment of ours of which nothing is locked. Raises UserError when something is, or it has ended."""

    async def receive(self, text: str) -> m.Handed:
        """Ask the network for offers for what a payer handed over as a text. Raises UserError: not for us, expired, ..."""

    async def mail(self) -> m.MailInfo:
        """Our mailboxes at our servers, what was missed, and what waits here for others."""

    async def payment(self, payment_hash: PaymentHash) -> m.PaymentInfo:
        """One payment that we make. Raises NotThere."""

    async def payments(self) -> tuple[m.PaymentInfo, ...]:
        """Payments that we make or made, newest first."""

    async def promises(self) -> tuple[m.PromiseInfo, ...]:
        """Payments that we take or took, newest first."""

    async def trace(self, payment_hash: PaymentHash) -> m.Trace:
        """What is remembered of a payment that we make, take, carry, or were only asked about; nothing when it is unknown."""

    async def routes(self) -> m.Routes:
        """The routing table now."""

    # --- wallet and chain ---

    async def wallet_address(self) -> str:
        """A fresh address of the wallet."""

    async def wallet_balance(self) -> m.WalletBalance: ...

    async def wallet_send(self, address: str, amount_sat: int | None, feerate_sat_per_kvb: int | None) -> m.WalletSent:
        """Send coins on the chain; the reserve that guards channels is not touched."""

    async def mine(self, blocks: int, address: str | None) -> m.Mined:
        """Regtest only: make blocks, paid to `address` or to our wallet. Raises UserError on any other network."""

    # --- events ---

    def events(self, *, after: int | None = None) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[m.Event]]:
        """Subscribe: events from now on, or everything kept since the event numbered `after` (0: all that is kept).

        `rrnode.control.bus.EventBus.subscribe` is this method; a subscriber that reads too slowly is cut off
        (`trio.EndOfChannel`).
        """

    def frames(self, wanted: m.FrameFilter) -> AbstractAsyncContextManager["Feed[m.Frame]"]:
        """See the frames that pass from now on. Who reads too slowly loses some and is told how many.

        Raises:
            UserError: on entering: a peer or hash that is none, or too many look already.
        """
