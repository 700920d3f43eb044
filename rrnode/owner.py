"""What the node's owner can ask and order: the control API's `NodeService` on a running node (DESIGN 3).

Text and numbers in, text and numbers out; every failure is a sentence. Nothing here decides about money: orders become
events for the engine, answers are read off the engine's state.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import trio

from protocols.channel.events import CloseRequested
from protocols.channel.state import Phase
from protocols.ids import ChannelId, PaymentHash, PeerId, Txid
from protocols.units import BlockHeight, FeeRate, Msat, Sat
from rrnode import audit, showing
from rrnode.chain.base import Miner, Verdict
from rrnode.control import models as m
from rrnode.control.convert import bounty_info, channel_info, mailbox_info, payment_info, promise_info, trace_note
from rrnode.control.text import parse_payment_hash, parse_peer, peer_of_address, peer_text, txid_text
from rrnode.cover import report
from rrnode.errors import ChainUnavailable, NotThere, Unreachable, UserError
from rrnode.host.dialer import Source
from rrnode.node import Node
from rrnode.opening import open_channel
from rrnode.services.hunting import Hunter
from rrnode.services.neighbours import lives
from rrnode.sniffing import Sniffed, Wanted, sniffing

BOUNTIES_SHOWN = 200  # the newest; all are on disk


class Owner:
    """Implements `rrnode.control.service.NodeService`."""

    def __init__(self, node: Node) -> None:
        self._node = node

    # --- the node -----------------------------------------------------------------------------------------------------

    async def status(self) -> m.Status:
        """The state of the whole node."""
        return await showing.status(self._node)

    async def stop(self) -> None:
        """Begin an orderly end."""
        self._node.stopping.set()

    # --- peers --------------------------------------------------------------------------------------------------------

    async def peers(self) -> tuple[m.PeerInfo, ...]:
        """Linked peers, peers to keep, and channel neighbours."""
        return showing.peers(self._node)

    async def helpers(self) -> tuple[m.HelperInfo, ...]:
        """The helpers that tell us the chain."""
        alike = m.HelperInfo.model_fields.keys() - {"peer_id", "problem"}
        return tuple(
            m.HelperInfo(
                peer_id=peer_text(each.peer), problem=each.trouble, **{name: getattr(each, name) for name in alike}
            )
            for each in self._node.backend.helpers()
        )

    async def connect(self, address: str) -> m.PeerInfo:
        """Dial an address and keep the peer."""
        peer = await self._dial(address)
        return next(info for info in await self.peers() if info.peer_id == peer_text(peer))

    async def _dial(self, address: str) -> PeerId:
        node = self._node
        named = peer_of_address(address)
        if named is None:
            raise UserError(
                f"{address[:100]!r} does not end in /p2p/<peer id>",
                "an address looks like /ip4/192.0.2.7/tcp/9780/p2p/…",
            )
        if named == node.us:
            raise UserError("that is this node's own address")
        try:
            peer = await node.host.dial(address)
        except Unreachable as error:
            raise UserError(str(error), "check the address, and that the other node runs") from None
        node.dialer.name(address, Source.USER)
        node.dialer.want(peer)
        return peer

    async def disconnect(self, peer: PeerId) -> None:
        """End the link and stop redialling."""
        node = self._node
        node.dialer.unwant(peer)
        await node.host.disconnect(peer, "its owner asked for it")

    # --- channels -----------------------------------------------------------------------------------------------------

    async def channels(self) -> tuple[m.ChannelInfo, ...]:
        """Every channel."""
        unwatched, money = self._node.guards.unwatched, self._node.money
        return tuple(
            channel_info(channel, money.covering(channel.channel_id), unwatched(channel.peer) if lives(channel) else "")
            for channel in money.channels()
        )

    async def channel_open(self, peer: str, capacity_sat: int, push_msat: int) -> m.ChannelInfo:
        """Fund a channel."""
        who = await self._dial(peer) if peer.startswith("/") else parse_peer(peer)
        return channel_info(await open_channel(self._node, who, Sat(capacity_sat), Msat(push_msat)))

    async def channel_close(self, channel_id: ChannelId, force: bool) -> m.ChannelInfo:
        """Begin to close."""
        node = self._node
        channel = node.money.channel(channel_id)
        if channel is None:
            raise NotThere("there is no such channel", "see: rrnode channel list")
        if channel.phase is Phase.CLOSED:
            raise UserError("this channel is closed already")
        if not force and channel.phase in (Phase.OPEN, Phase.SHUTTING) and not channel.connected:
            raise UserError(
                "the neighbour is not connected, so the two of you cannot close together now",
                "wait until it is back, or close by force: rrnode channel close --force",
            )
        await node.ask(CloseRequested(channel_id=channel_id, force=force))
        after = node.money.channel(channel_id)
        return channel_info(after or channel)

    # --- watchers -----------------------------------------------------------------------------------------------------

    async def cover(self) -> m.Cover:
        """Which watcher holds what."""
        node = self._node
        return await trio.to_thread.run_sync(report, node.covering, node.store, node.guards, node.money.channels())

    async def audit(self) -> m.Audit:
        """Whose collusion could rob us."""
        node = self._node
        return await audit.report(node.money.channels(), node.guards, node.covering, node.backend)

    async def bounties(self) -> tuple[m.BountyInfo, ...]:
        """The newest cases."""
        found = await trio.to_thread.run_sync(self._hunter().store.newest, BOUNTIES_SHOWN)
        return tuple(bounty_info(each) for each in found)

    async def bounty(self, txid: Txid) -> m.BountyInfo:
        """One case."""
        found = await trio.to_thread.run_sync(self._hunter().store.find, txid)
        if found is None:
            raise NotThere("no breach with this transaction id was seen here", "see: rrnode bounty list")
        return bounty_info(found)

    def _hunter(self) -> Hunter:
        if self._node.tower is None:
            raise UserError("this node watches for nobody, so it hunts no bounties", "set roles.watch = true")
        return self._node.tower.hunter

    # --- payments -----------------------------------------------------------------------------------------------------

    async def contact(self) -> m.ContactInfo:
        """Our contact string."""
        contact = self._node.paying.contact()
        return m.ContactInfo(
            contact=self._node.paying.contact_text(),
            peer_id=peer_text(contact.payee),
            routing_servers=contact.servers,
        )

    async def request(self, amount_msat: int, memo: str, expiry_s: int) -> m.RequestInfo:
        """Make a payment request."""
        text, promise = await self._node.paying.make_request(Msat(amount_msat), memo, expiry_s)
        return m.RequestInfo(
            request=text,
            payment_hash=promise.payment_hash.hex(),
            amount_msat=promise.amount.msat,
            memo=promise.memo,
            expires_unix=promise.expiry,
        )

    async def pay(self, order: m.PayOrder) -> PaymentHash:
        """Start a payment."""
        await self._node.until_ready()
        return await self._node.paying.pay(order)

    async def pay_by_hand(self, order: m.PayOrder) -> m.HandedOver:
        """Start a payment whose payee its owner tells."""
        await self._node.until_ready()
        payment, text = await self._node.paying.pay_by_hand(order)
        return m.HandedOver(payment_hash=payment.payment_hash.hex(), text=text, expires_unix=payment.expiry)

    async def give_up(self, payment_hash: PaymentHash) -> None:
        """End a payment of which nothing is locked."""
        await self._node.paying.give_up(payment_hash)

    async def receive(self, text: str) -> m.Handed:
        """Ask for offers for what a payer handed over."""
        found = await self._node.receiving.receive(text)
        return m.Handed(
            payment_hash=found.promise.payment_hash.hex(),
            amount_msat=found.init.amount.msat,
            memo=found.promise.memo,
            expires_unix=min(found.init.expiry, found.promise.expiry),
        )

    async def mail(self) -> m.MailInfo:
        """Mailboxes, ours and others'."""
        node = self._node
        emptied = node.collector.emptied
        ours = {peer for peer in node.initializations.standing if node.collector.keeps(peer)} | emptied.keys()
        kept = node.initializations.mailbox
        return m.MailInfo(
            mailboxes=tuple(mailbox_info(peer, emptied.get(peer)) for peer in sorted(ours)),
            missed=tuple(reversed(node.receiving.missed)),
            kept_here=kept.waiting if kept is not None else None,
        )

    async def payment(self, payment_hash: PaymentHash) -> m.PaymentInfo:
        """One payment that we make."""
        found = self._node.money.payment(payment_hash)
        if found is None:
            raise NotThere("no payment with this hash was made here", "see: rrnode payments")
        return payment_info(found, self._node.paying.delivery(payment_hash))

    async def payments(self) -> tuple[m.PaymentInfo, ...]:
        """Payments that we make, newest first."""
        paying = self._node.paying
        return tuple(
            payment_info(each, paying.delivery(each.payment_hash)) for each in reversed(self._node.money.payments())
        )

    async def promises(self) -> tuple[m.PromiseInfo, ...]:
        """Payments that we take, newest first."""
        return tuple(promise_info(each) for each in reversed(self._node.money.promises()))

    async def trace(self, payment_hash: PaymentHash) -> m.Trace:
        """What is remembered of a payment."""
        node = self._node
        notes, left_out = node.traces.of(payment_hash)
        return m.Trace(
            payment_hash=payment_hash.hex(),
            peer_id=peer_text(node.us),
            network=node.settings.node.network,
            operator=node.settings.node.operator,
            since_ms=int(node.started_at * 1000),
            notes=tuple(map(trace_note, notes)),
            left_out=left_out,
        )

    async def routes(self) -> m.Routes:
        """The routing table now."""
        return showing.routes(self._node)

    # --- wallet and chain ---------------------------------------------------------------------------------------------

    async def wallet_address(self) -> str:
        """A fresh address."""
        return await trio.to_thread.run_sync(self._node.wallet.address)

    async def wallet_balance(self) -> m.WalletBalance:
        """Coins on the chain."""
        coins = await trio.to_thread.run_sync(self._node.wallet.balance)
        return m.WalletBalance(
            confirmed_sat=coins.confirmed,
            unconfirmed_sat=coins.pending + coins.immature,
            reserved_sat=coins.reserve + coins.set_aside,
            spendable_sat=coins.spendable,
        )

    async def wallet_send(self, address: str, amount_sat: int | None, feerate_sat_per_kvb: int | None) -> m.WalletSent:
        """Send coins on the chain."""
        node = self._node
        feerate = FeeRate(feerate_sat_per_kvb) if feerate_sat_per_kvb is not None else node.following.feerate
        amount = None if amount_sat is None else Sat(amount_sat)
        node.following.keep_reserve()
        sent = await trio.to_thread.run_sync(lambda: node.wallet.send(address, amount, feerate))
        try:
            result = await node.backend.publish((sent.transaction,))
        except ChainUnavailable:
            raise  # it may have left: the wallet keeps it and publishes it again
        if result.verdict is Verdict.REFUSED:
            await trio.to_thread.run_sync(node.wallet.forget, sent.txid)
            raise UserError(f"the chain refused the transaction: {result.reason}", "try another fee rate")
        return m.WalletSent(txid=txid_text(sent.txid), amount_sat=sent.amount, fee_sat=sent.fee)

    async def mine(self, blocks: int, address: str | None) -> m.Mined:
        """Make blocks on regtest."""
        node = self._node
        if node.settings.node.network != "regtest" or not isinstance(node.backend, Miner):
            raise UserError("blocks can be made only on regtest")
        where = address if address is not None else await self.wallet_address()
        script = await trio.to_thread.run_sync(node.wallet.script_of, where)
        hashes = await node.backend.mine(blocks, script)
        tip = await node.backend.tip()
        await node.caught_up(BlockHeight(tip.height))
        return m.Mined(block_hashes=tuple(txid_text(each) for each in hashes), height=tip.height)

    # --- events -------------------------------------------------------------------------------------------------------

    def events(self, *, after: int | None = None) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[m.Event]]:
        """Follow events."""
        return self._node.bus.subscribe(after=after)

    @asynccontextmanager
    async def frames(self, wanted: m.FrameFilter) -> AsyncIterator[Sniffed]:
        """See frames as they pass."""
        sieve = Wanted(
            protocols=frozenset(wanted.protocols),
            peer=parse_peer(wanted.peer) if wanted.peer else None,
            payment_hash=parse_payment_hash(wanted.payment_hash) if wanted.payment_hash else None,
            secrets=wanted.secrets,
        )
        async with sniffing(self._node.host.tap, sieve, self._node.parts.clock) as sniffed:
            yield sniffed
