"""What the node's owner can ask and order: the control API's `NodeService` on a running node (DESIGN 3).

Text and numbers in, text and numbers out; every failure is a sentence. Nothing here decides about money: orders become
events for the engine, answers are read off the engine's state.
"""

import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

import trio

from bootstrap.relays import roles_of
from protocols.channel.events import CloseRequested, OpenRequested, Refusal
from protocols.channel.state import BEFORE_FUNDING, Channel, Phase, balances, is_usable, receivable, spendable
from protocols.ids import ChannelId, PaymentHash, PeerId, Txid
from protocols.payment.events import PayPhase
from protocols.routing.events import Liquidity
from protocols.units import AssetId, BlockHeight, FeeRate, Msat, Sat, to_msat
from rrnode import audit
from rrnode.chain.base import Miner, Verdict
from rrnode.chain.parse import parse_transaction
from rrnode.control import models as m
from rrnode.control.convert import bounty_info, mailbox_info, payment_info, promise_info, trace_note
from rrnode.control.text import parse_payment_hash, parse_peer, peer_of_address, peer_text, txid_text
from rrnode.cover import report
from rrnode.errors import ChainUnavailable, NotThere, Unreachable, UserError
from rrnode.host.dialer import Source
from rrnode.node import Node
from rrnode.services.hunting import Hunter
from rrnode.services.neighbours import lives
from rrnode.sniffing import Sniffed, Wanted, sniffing
from rrnode.version import VERSION

LINK_WITHIN = 15.0  # seconds for a channel's stream to stand once the peer is linked
OPEN_WITHIN = 60.0  # seconds for a neighbour and our wallet to agree on a channel
PUBLISHED_WITHIN = 5.0
PUBLISHED_EVERY = 0.02
BOUNTIES_SHOWN = 200  # the newest; all are on disk


def channel_info(channel: Channel, waits: Refusal | None = None, warning: str = "") -> m.ChannelInfo:
    """A channel as its owner sees it. `waits`: why it waits for its watchers; `warning`: why it is in danger."""
    held = balances(channel)
    usable = is_usable(channel)
    their_reserve = channel.our_terms.reserve
    our_reserve = channel.their_terms.reserve if channel.their_terms else Sat(0)
    return m.ChannelInfo(
        channel_id=channel.channel_id.hex(),
        peer_id=peer_text(channel.peer),
        phase=channel.phase.name.lower(),
        usable=usable,
        funded_by_us=channel.we_fund,
        capacity_sat=channel.capacity,
        ours_msat=held.ours,
        theirs_msat=held.theirs,
        in_flight_out_msat=held.offered,
        in_flight_in_msat=held.received,
        can_send_msat=spendable(channel) if usable else 0,
        can_receive_msat=receivable(channel) if usable else 0,
        our_reserve_sat=our_reserve,
        their_reserve_sat=their_reserve,
        htlcs=len(channel.htlcs),
        funding_txid=txid_text(channel.funding.txid) if channel.funding else "",
        funding_index=channel.funding.index if channel.funding else 0,
        funding_height=channel.funding_height,
        states_revoked=channel.their_commitment.number if channel.their_commitment else 0,
        closing_txid=(
            txid_text(parse_transaction(channel.close.transaction).txid)
            if channel.close is not None and channel.close.transaction
            else ""
        ),
        note=channel_note(channel, waits),
        warning=warning,
    )


def channel_note(channel: Channel, waits: Refusal | None = None) -> str:
    """What a channel waits for, or why it failed."""
    if channel.failure:
        return channel.failure
    if channel.phase is Phase.OPEN and not is_usable(channel):
        if not channel.connected:
            return "the neighbour is not connected"
        if not channel.deep:
            return "the funding transaction lost confirmations in a reorganisation"
        return "re-establishing"
    if waits is not None and channel.phase is Phase.OPEN:
        return f"takes on nothing new: {waits.value}"
    return "" if channel.phase is Phase.OPEN else channel.phase.value


def _agreed(channel: Channel | None) -> bool:
    """Whether both have signed: the funding transaction is stored and on its way."""
    return channel is not None and channel.phase not in BEFORE_FUNDING


class Owner:
    """Implements `rrnode.control.service.NodeService`."""

    def __init__(self, node: Node) -> None:
        self._node = node

    # --- the node -----------------------------------------------------------------------------------------------------

    async def status(self) -> m.Status:
        """The state of the whole node."""
        node = self._node
        settings = node.settings
        channels = node.money.channels()
        held = [balances(channel) for channel in channels if channel.phase is not Phase.CLOSED]
        coins = await trio.to_thread.run_sync(node.wallet.balance)
        forwards_done, earned = await trio.to_thread.run_sync(node.store.forward_totals)
        return m.Status(
            version=VERSION,
            network=settings.node.network,
            peer_id=peer_text(node.us),
            operator=settings.node.operator,
            switches=roles_of(settings.switches),
            listening=node.host.addresses(),
            data_dir=str(settings.data_dir),
            pid=os.getpid(),
            uptime_s=int(node.parts.clock() - node.started_at),
            chain=m.ChainStatus(
                backend=node.backend.name,
                height=node.follower.tip.height,
                block_hash=txid_text(node.follower.tip.hash),
                ready=node.chain_ready,
                problem=node.following.problem,
            ),
            peers_connected=len(node.host.connected()),
            channels_open=sum(channel.phase is Phase.OPEN for channel in channels),
            channels_opening=sum(channel.phase in BEFORE_FUNDING | {Phase.CONFIRMING} for channel in channels),
            channels_closing=sum(
                channel.phase in (Phase.SHUTTING, Phase.CLOSING, Phase.FORCED, Phase.LOST) for channel in channels
            ),
            channel_ours_msat=sum(each.ours for each in held),
            channel_theirs_msat=sum(each.theirs for each in held),
            in_flight_out_msat=sum(each.offered for each in held),
            in_flight_in_msat=sum(each.received for each in held),
            wallet_confirmed_sat=coins.confirmed,
            wallet_unconfirmed_sat=coins.pending,
            payments_live=sum(
                payment.phase in (PayPhase.COLLECTING, PayPhase.LOCKED) for payment in node.money.payments()
            ),
            forwards_live=len(node.money.forwards()),
            forwards_done=forwards_done,
            earned_msat=earned,
            halted=node.halted(),
            alarms=tuple(node.alarms),
            warnings=node.guards.warnings(),
        )

    async def stop(self) -> None:
        """Begin an orderly end."""
        self._node.stopping.set()

    # --- peers --------------------------------------------------------------------------------------------------------

    async def peers(self) -> tuple[m.PeerInfo, ...]:
        """Linked peers, peers to keep, and channel neighbours."""
        node = self._node
        connected = node.host.connected()
        kept = {status.peer: status for status in node.dialer.status()}
        count: dict[PeerId, int] = {}
        for channel in node.money.channels():
            if lives(channel):
                count[channel.peer] = count.get(channel.peer, 0) + 1
        found = []
        for peer in sorted({*connected, *kept, *count}):
            link, keep = connected.get(peer), kept.get(peer)
            problem = node.subscribed.refusals.get(peer, "")
            if link is None:
                problem = keep.last_error or "" if keep is not None else "not dialled: connect to it, or it dials us"
            address = keep.addresses[0].text if keep is not None and keep.addresses else ""
            if link is not None and (link.inbound or not address):
                address = link.address
            found.append(
                m.PeerInfo(
                    peer_id=peer_text(peer),
                    connected=link is not None,
                    inbound=link.inbound if link else False,
                    address=address,
                    agent=link.agent if link else "",
                    switches=roles_of(link.switches) if link else (),
                    kept=keep is not None,
                    channels=count.get(peer, 0),
                    problem=problem,
                )
            )
        return tuple(found)

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
        node = self._node
        who = await self._dial(peer) if peer.startswith("/") else parse_peer(peer)
        if who == node.us:
            raise UserError("a channel needs somebody else")
        if who not in node.host.connected():
            raise UserError(f"{peer_text(who)} is not connected", "connect first: rrnode connect ADDRESS")
        if why := node.guards.refuses_neighbour(who):
            raise UserError(why, "see: rrnode audit")
        if to_msat(Sat(capacity_sat)) < push_msat:
            raise UserError("more would be given away than the channel holds")
        node.channels.want(who)
        with trio.move_on_after(LINK_WITHIN):
            while not node.channels.is_up(who):
                await node.changed()
        if not node.channels.is_up(who):
            raise UserError(f"{peer_text(who)} is connected but does not speak about channels", "try again in a moment")
        temporary = ChannelId(os.urandom(32))
        key_index = await trio.to_thread.run_sync(node.wallet.reserve_key_index)
        order = OpenRequested(
            temporary_id=temporary, peer=who, key_index=key_index, capacity=Sat(capacity_sat), push=Msat(push_msat)
        )
        with node.openings.following(temporary) as opening:
            await node.ask(order)
            with trio.move_on_after(OPEN_WITHIN):
                while not opening.reason and not _agreed(node.money.channel(opening.now_called)):
                    await node.changed()
            channel = node.money.channel(opening.now_called)
        if opening.reason:
            raise UserError(opening.reason, opening.hint)
        if channel is None or not _agreed(channel):
            raise UserError("the neighbour did not answer in time; nothing was spent", "try again later")
        await self._until_published(channel)
        return channel_info(channel)

    async def _until_published(self, channel: Channel) -> None:
        """Wait a moment until the chain knows the funding; if it does not, it is published again at each block."""
        assert channel.funding is not None
        with trio.move_on_after(PUBLISHED_WITHIN), suppress(ChainUnavailable):
            # A backend tells nobody when it has taken something, so it is asked.
            while await self._node.backend.unspent(channel.funding.txid, channel.funding.index) is None:  # noqa: ASYNC110
                await trio.sleep(PUBLISHED_EVERY)

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
        node = self._node
        engine, now = node.routing.engine, node.now()
        entries = []
        for route in engine.routes(now):
            role = "payee" if route.ours else "payer" if route.wanted else "forwarder"
            offers = tuple(
                m.OfferInfo(
                    neighbour=peer_text(offer.neighbour),
                    amount_msat=offer.amount.msat,
                    lock_blocks=offer.lock_blocks,
                    expires_unix=offer.expiry,
                )
                for offer in route.offers
            )
            entries.append(
                m.RouteInfo.model_validate({"payment_hash": route.payment_hash.hex(), "role": role, "offers": offers})
            )
        neighbours = tuple(
            m.NeighbourInfo(
                peer_id=peer_text(view.neighbour),
                connected=view.up,
                routes=view.routes,
                can_send_msat=_of(view.liquidity, node.asset).ours,
                can_receive_msat=_of(view.liquidity, node.asset).theirs,
                offers_received=view.offers_received,
                payments_completed=view.paid,
            )
            for view in engine.neighbours(now)
        )
        return m.Routes(
            entries=tuple(entries),
            table_limit=engine.config.max_offers,
            subscriptions=len(node.subscriptions) if node.subscriptions is not None else 0,
            neighbours=neighbours,
        )

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


def _of(liquidity: tuple[Liquidity, ...], asset: AssetId) -> Liquidity:
    for each in liquidity:
        if each.asset == asset:
            return each
    return Liquidity(asset=asset, ours=Msat(0), theirs=Msat(0))
