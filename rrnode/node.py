"""The composition root: the only place that knows all parts of a node and ties them together (DESIGN 3).

Who waits for whom: streams and the chain give events to the dispatcher; the dispatcher commits and performs; performing
hands over to queues, never to a peer. The routing engine lives beside the money engine and is told what it may offer.
"""

import os
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import structlog
import trio

from bootstrap.relays import SWITCH_MAILBOX, SWITCH_ROUTE
from protocols.channel.events import CloseRequested
from protocols.channel.state import Phase
from protocols.facts import Facts
from protocols.ids import PeerId
from protocols.node_record import NodeRecord
from protocols.units import BlockHeight
from protocols.wire.channel import OpenChannel
from rrnode.chain.base import BlockRef
from rrnode.chain.broadcaster import Broadcaster
from rrnode.chain.follower import Follower
from rrnode.control import models as m
from rrnode.control.text import peer_text, txid_text
from rrnode.dispatcher import Dispatcher, Halted
from rrnode.errors import StorageFailed
from rrnode.guards import Guards
from rrnode.host.base import PeerConnected, PeerLost
from rrnode.host.dialer import Dialer, Source
from rrnode.parts import Handling, News, Parts, Performing, building
from rrnode.recording import money_engine, routing_engine
from rrnode.services.addresses import StoredAddresses
from rrnode.services.channels import ChannelService
from rrnode.services.collecting import Collector
from rrnode.services.following import Following
from rrnode.services.funding import Funding
from rrnode.services.initialization import InitializationService
from rrnode.services.mailbox import Mailbox
from rrnode.services.neighbours import Neighbours
from rrnode.services.openings import Openings
from rrnode.services.routing import RoutingService, SubscriptionEffect
from rrnode.services.subscriptions import SubscriptionClient
from rrnode.traces import Traces

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the stubs that libp2p brings name it so

log = structlog.get_logger(__name__)

READY_WITHIN, READY_LOOK = 5.0, 0.1  # seconds


class Node:
    """A running node. `run` serves until `stop` is called or the node halts."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        settings = self.settings = parts.settings
        self.host, self.store, self.wallet, self.backend = parts.host, parts.store, parts.wallet, parts.backend
        self.us, self.asset, self.now = parts.us, parts.asset, parts.now
        self.started_at = parts.clock()
        self.stopping = trio.Event()
        self.ended = trio.Event()
        self.news = News(parts.clock)
        self.bus, self.alarms = self.news.bus, self.news.alarms
        self.traces = Traces(parts.clock, settings.limits.traced_payments)
        self.openings = Openings(self.news.notify)
        self._background: trio.Nursery | None = None

        loaded = self.store.load()
        self._closed_by_guard = parts.keeper.begin(loaded.snapshot.channels) if parts.keeper is not None else ()
        cursor = None if loaded.cursor is None else (BlockHeight(loaded.cursor[0]), loaded.cursor[1])
        self.money = money_engine(
            parts.recorder,
            us=self.us,
            asset=self.asset,
            keys=parts.keys.key_ring(),
            snapshot=loaded.snapshot,
            config=settings.engine_config(),
        )
        routing = routing_engine(parts.recorder, settings.routing_config(), self.us)
        self.neighbours = Neighbours(self.money, gained=self._neighbour_gained, lost=self._neighbour_lost)
        handling = Handling(
            engine=self.money,
            routing=routing,
            store=self.store,
            openings=self.openings,
            neighbours=self.neighbours,
            traces=self.traces,
            now=self.now,
        )
        self.dispatcher = Dispatcher(
            handle=handling.handle,
            commit=handling.commit,
            perform=lambda effect: self._performing.perform(effect),
            answer=handling.answer,
            facts=self._facts,
        )
        self.follower = Follower(self.backend, cursor=cursor, interests=self.wallet.interests)
        self.broadcaster = Broadcaster(self.backend, self.wallet)
        self.tower = building.watchtower(parts, self._height, self.news.alarm)
        self.following = Following(
            settings=settings,
            backend=self.backend,
            follower=self.follower,
            wallet=self.wallet,
            engine=self.money,
            dispatcher=self.dispatcher,
            stored=self.store.revoked_state,
            now=self.now,
            took_in=self._took_in,
            alarm=self.news.alarm,
            hunt=self.tower.take if self.tower is not None else None,
        )
        self.funding = Funding(
            wallet=self.wallet, following=self.following, dispatcher=self.dispatcher, openings=self.openings
        )
        self.dialer = Dialer(self.host, StoredAddresses(self.store), randomness=random.SystemRandom())

        self.routing = RoutingService(
            host=self.host,
            engine=routing,
            epoch=os.urandom(16),
            routes=settings.roles.route,
            now=self.now,
            is_neighbour=self.neighbours.__contains__,
            subscriptions=self._subscription_effect,
            offer_arrived=lambda arrived: self.paying.offer_arrived(arrived),
            traced=self.traces.routing if self.traces.most else None,
        )
        self.subscriptions = building.subscription_server(parts, self.routing, self.neighbours, self.started_at)
        self.chain_facts = building.chain_facts(parts)
        self.subscribed = SubscriptionClient(
            host=self.host,
            tell=self.routing.tell,
            is_server=self.is_our_server,
            now=self.now,
            prefix_bits=settings.subscriptions.prefix_bits,
        )
        self.channels = ChannelService(
            host=self.host,
            post=self.dispatcher.post,
            is_neighbour=self.neighbours.__contains__,
            concerns=self.money.concerns,
            fresh_keys=self.funding.fresh_keys,
            refuses_open=self._refuses_open,
            error_received=self.openings.failed,
            link_changed=self.news.notify,
        )
        self.receiving = building.receiving(parts, self.money, self.bus, self.ask, self.routing.tell)
        self.collector = Collector(
            take=self.receiving.take_mail,
            keeps=lambda peer: self._has(peer, SWITCH_MAILBOX),
            missed=self.receiving.mail_missed,
            now=self.now,
        )
        self.initializations = InitializationService(
            host=self.host,
            take=self.receiving.take,
            attaches_to=self.attaches_to,
            hands_to=self.neighbours.__contains__,
            collector=self.collector,
            mailbox=Mailbox(parts.mails, self.now) if parts.mails is not None else None,
        )
        if settings.roles.route and settings.host.relay:
            self.host.relay_for(self.neighbours.__contains__)
        self.acquaintances = building.acquaintances_of(parts, self._said)
        self.guards = Guards(
            settings, self.neighbours, self.host, self.dialer, (each.record for each in self.acquaintances.known)
        )
        self.covering = building.cover_client(
            parts, self.money, self.guards, self._height, self.news.alarm, self.dispatcher.post
        )
        building.serve_info(parts, self.money, self.acquaintances)
        self.joiner = building.joiner(parts, self.acquaintances, self.news.alarm, self._relay_reached)
        self.paying = building.paying(
            parts, self.money, self.bus, self.ask, self.routing.tell, self.subscribed, self.reachable_at
        )
        self._performing = Performing(
            engine=self.money,
            news=self.news,
            traces=self.traces,
            openings=self.openings,
            neighbours=self.neighbours,
            channels=self.channels,
            funding=self.funding,
            broadcaster=self.broadcaster,
            follower=self.follower,
            routing=self.routing,
            covering=self.covering,
            paying=self.paying,
            receiving=self.receiving,
            spawn=self._spawn,
            now=self.now,
        )

    # --- small facts --------------------------------------------------------------------------------------------------

    def _height(self) -> BlockHeight:
        return self.following.height

    def _facts(self) -> Facts:
        return Facts(now=self.now(), tip=self.follower.height, feerate=self.following.feerate, entropy=os.urandom(32))

    def _has(self, peer: PeerId, switches: int) -> bool:
        """Whether a connected peer has one of these switches."""
        link = self.host.connected().get(peer)
        return link is not None and bool(link.switches & switches)

    def is_our_server(self, peer: PeerId) -> bool:
        """Whether we subscribe at this peer: a neighbour that routes, while we do not."""
        return not self.settings.roles.route and peer in self.neighbours and self._has(peer, SWITCH_ROUTE)

    def attaches_to(self, peer: PeerId) -> bool:
        """Whether we can be reached through this peer: our routing servers, and neighbours that keep mail."""
        serves = self._has(peer, SWITCH_ROUTE | SWITCH_MAILBOX)
        return not self.settings.roles.route and peer in self.neighbours and serves

    def reachable_at(self) -> tuple[str, ...]:
        """Addresses at which a payer can leave an initialization for us."""
        if own := self.host.addresses():
            return own
        return self.initializations.reachable_at(
            lambda server: (known.where for known in self.dialer.addresses_of(server))
        )

    @property
    def chain_ready(self) -> bool:
        """Whether the chain is followed now, so that payments are taken on."""
        return self._background is not None and self.following.ready

    def halted(self) -> str:
        """Why the node takes on nothing new; "" while all is well."""
        return self.dispatcher.halted or ""

    async def ask(self, event: Any) -> list[Any]:
        """Give the money engine an event and wait until what follows is on disk. Raises StorageFailed when halted."""
        try:
            return await self.dispatcher.ask(event)
        except Halted as error:
            raise StorageFailed(f"the node has halted and takes on nothing new: {error}") from None

    # --- running ------------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `stopping` is set or the node halts; reports started when it listens and follows the chain."""
        self._guards_changed()
        async with self.host.running(), self.backend.running():
            await self.following.check()
            try:
                async with trio.open_nursery() as nursery:
                    self._background = nursery
                    await nursery.start(self.following.run)
                    nursery.start_soon(self._dispatch)
                    nursery.start_soon(self._watch_peers)
                    for service in (
                        self.broadcaster.run,
                        self.channels.run,
                        self.routing.run,
                        self.subscribed.run,
                        self.initializations.run,
                        self.dialer.run,
                        self.paying.run,
                        self.covering.run,
                        self.acquaintances.run,
                        self.joiner.run,
                    ):
                        nursery.start_soon(service)
                    if self.chain_facts is not None:
                        nursery.start_soon(self.chain_facts.run)
                    if self.tower is not None:
                        nursery.start_soon(self.tower.run)
                    if self.parts.keeper is not None:
                        nursery.start_soon(self.parts.keeper.run, self._probe)
                    task_status.started()
                    await self.stopping.wait()
                    nursery.cancel_scope.cancel()
            except* Halted:
                pass  # whoever had an event for the engine when it halted; `halted` says why
            except* StorageFailed:
                if not self.halted():  # else it is what `ask` says to who waited then
                    raise
            finally:
                self._background = None
                self.bus.publish(m.Stopping(reason=self.halted()))
                self.news.notify()
                self.ended.set()

    async def _dispatch(self) -> None:
        """The money engine's task. When it halts, everything that could take on something new ends with it."""
        try:
            await self.dispatcher.run(self._resume)
        except Halted as error:
            if self.parts.keeper is not None:
                with suppress(StorageFailed):
                    self.parts.keeper.beat(self.following.height, str(error))  # the guard stands in from now on
            self.news.alarm(f"the node has halted and takes on nothing new: {error}")
            self._require_background().cancel_scope.cancel()

    def _resume(self, facts: Facts) -> list[Any]:
        """What the disk still owes; channels that the guard closed meanwhile are closed here before a peer is heard."""
        effects = list(self.money.resume(facts))
        for channel_id in self._closed_by_guard:
            if self.money.channel(channel_id) is not None:
                self.news.alarm("its guard closed this channel while the node was down", channel_id)
                effects += self.money.handle(CloseRequested(channel_id=channel_id, force=True), facts)
        return effects

    async def _probe(self) -> tuple[int, str]:
        """Once through the engine and the disk, for the heartbeat."""
        await self.dispatcher.ask(self.following.reserve)
        return self.following.height, ""

    def _require_background(self) -> trio.Nursery:
        assert self._background is not None, "the node is not running"
        return self._background

    def _spawn(self, work: Callable[..., Awaitable[Any]], *args: Any) -> None:
        self._require_background().start_soon(work, *args)

    # --- peers --------------------------------------------------------------------------------------------------------

    async def _watch_peers(self) -> None:
        for peer in self.neighbours:
            self.dialer.want(peer)
        for address in self.settings.host.keep + self.settings.watch.watchers:
            self.dialer.want(self.dialer.name(address, Source.USER))
        async with self.host.events() as events:
            async for event in events:
                match event:
                    case PeerConnected(peer=peer):
                        self.bus.publish(m.PeerEvent(peer_id=peer_text(peer), connected=True))
                        if self.guards.met(peer):
                            self._guards_changed()
                    case PeerLost(peer=peer, reason=reason):
                        self.bus.publish(m.PeerEvent(peer_id=peer_text(peer), connected=False, reason=reason))
                self.news.notify()

    # --- neighbours and guards ----------------------------------------------------------------------------------------

    def _neighbour_gained(self, peer: PeerId) -> None:
        self.routing.sessions.check(peer)
        self.channels.sessions.check(peer)
        self.subscribed.sessions.check(peer)
        self.initializations.attachments.check(peer)
        self.guards.met(peer)
        self._guards_changed()

    def _neighbour_lost(self, peer: PeerId) -> None:
        self.routing.forget(peer)
        # Until its last channel is over on the chain, it may be its own helper that tells us so.
        if all(each.phase is Phase.CLOSED for each in self.money.channels() if each.peer == peer):
            self.guards.lost(peer)
            self._guards_changed()

    def _relay_reached(self, address: str) -> None:
        self.dialer.name(address, Source.RELAYS)

    def _said(self, record: NodeRecord) -> None:
        if self.guards.said(record):
            self._guards_changed()

    def _guards_changed(self) -> None:
        self.covering.neighbours_changed()
        self.backend.set_related(self.guards.related_helpers())
        for text in self.guards.news():
            log.warning("guards", text=text)
            self.bus.publish(m.AlarmRaised(text=text))

    # --- waiting for changes ------------------------------------------------------------------------------------------

    def _took_in(self, tip: BlockRef) -> None:
        self.broadcaster.tip_changed()
        self.covering.wake()
        if self.tower is not None:
            self.tower.tip_changed()
        self.bus.publish(m.TipEvent(height=tip.height, block_hash=txid_text(tip.hash)))
        self.news.notify()

    async def until_ready(self) -> None:
        """While a block is being taken in, nothing new is taken on: wait for that, but not for a chain that is away."""
        with trio.move_on_after(READY_WITHIN):
            while not self.chain_ready and not self.following.problem and not self.halted():
                with trio.move_on_after(READY_LOOK):
                    await self.changed()

    async def changed(self) -> None:
        """Wait until something (a channel, a peer, the chain) has changed."""
        await self.news.changed()

    async def caught_up(self, height: BlockHeight) -> None:
        """Wait until the node has taken in the chain up to this height."""
        while self.following.height < height:
            await self.changed()

    # --- what the services ask ----------------------------------------------------------------------------------------

    def _refuses_open(self, peer: PeerId, message: OpenChannel) -> str | None:
        if not self.settings.channels.accept:
            return "this node accepts no channels"
        if self.following.problem:
            return "this node does not see the chain at the moment"
        if why := self.guards.refuses_neighbour(peer):
            log.info("a channel is refused", why=why)
            return "this node takes no channel from this peer"  # nobody needs to know who guards us
        return None

    def _subscription_effect(self, effect: SubscriptionEffect) -> None:
        if self.subscriptions is not None:
            self.subscriptions.perform(effect)
