"""The composition root: the only place that knows all parts of a node and ties them together (DESIGN 3).

Who waits for whom: streams and the chain give events to the dispatcher; the dispatcher commits and performs; performing
hands over to queues, never to a peer. The routing engine lives beside the money engine and is told what it may offer.
"""

import os
import random
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog
import trio

from bootstrap.networks import NETWORKS
from protocols.channel.events import (
    Alarm,
    BuildFunding,
    ChannelChanged,
    CloseRequested,
    MessageReceived,
    Publish,
    PublishWithChild,
    PublishWithInputs,
    ReleaseFunding,
    SendMessage,
    StoreChannel,
    StoreRevoked,
    WatchOutpoint,
    WatchTx,
)
from protocols.channel.state import Phase
from protocols.facts import Facts
from protocols.ids import ChannelId, PeerId
from protocols.node_record import NodeRecord
from protocols.payment.events import (
    DropForward,
    FindOffers,
    NeighbourLiquidity,
    OffersFound,
    OfferUsed,
    PaymentChanged,
    PromiseChanged,
    StoreForward,
)
from protocols.routing.events import LiquidityChanged, PaymentEnded
from protocols.units import BlockHeight, UnixTime
from protocols.wire.channel import AcceptChannel, Error, OpenChannel
from rrnode.chain.base import BlockRef, ChainBackend, WholeChain
from rrnode.chain.broadcaster import Broadcaster
from rrnode.chain.follower import Follower
from rrnode.config.settings import Settings
from rrnode.control import models as m
from rrnode.control.bus import EventBus
from rrnode.control.convert import channel_event, forward_step
from rrnode.control.text import peer_text, txid_text
from rrnode.cover import BOUNTIES
from rrnode.dispatcher import Batch, Dispatcher, Halted
from rrnode.errors import StorageFailed
from rrnode.guard import Keeper
from rrnode.guards import Guards
from rrnode.host.base import Host, PeerConnected, PeerLost
from rrnode.host.dialer import Dialer, Source
from rrnode.host.peer_text import from_text
from rrnode.keys import KeyTree
from rrnode.recording import Recorder, money_engine, routing_engine
from rrnode.relays import listed_relays
from rrnode.services.acquaintances import FILE_NAME as KNOWN_SERVERS
from rrnode.services.acquaintances import Acquaintances
from rrnode.services.addresses import StoredAddresses
from rrnode.services.bringing import Bringing
from rrnode.services.chainfacts import ChainFactsServer
from rrnode.services.channels import ChannelService
from rrnode.services.collecting import Collector
from rrnode.services.covering import CoverClient
from rrnode.services.delivery import Deliveries
from rrnode.services.following import Following
from rrnode.services.funding import Funding
from rrnode.services.handing import Means
from rrnode.services.info import InfoServer, OwnRecord
from rrnode.services.initialization import InitializationService
from rrnode.services.joining import Joiner
from rrnode.services.limits import printable
from rrnode.services.mailbox import Mailbox
from rrnode.services.neighbours import Neighbours
from rrnode.services.openings import Openings
from rrnode.services.paying import Paying
from rrnode.services.receiving import Receiving
from rrnode.services.routing import RoutingService, SubscriptionEffect
from rrnode.services.subscriptions import SubscriptionClient, SubscriptionServer
from rrnode.services.watchtower import Watchtower
from rrnode.storage import Store
from rrnode.storage.mails import MailStore
from rrnode.storage.remedies import RemedyStore
from rrnode.version import AGENT
from rrnode.wallet import Wallet

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the stubs that libp2p brings name it so

log = structlog.get_logger(__name__)

MOST_ALARMS = 100  # sentences kept for `rrnode status`; older ones are in the log
SWITCH_ROUTE, SWITCH_MAILBOX = 1, 8  # bits of `Hello.switches`


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a node is made of; `rrnode.start` makes the real ones, tests give others.

    Attributes:
        remedies: where those of others are kept; None: this node watches for nobody.
        mails: what is kept for clients that are away; None: this node keeps nothing.
        throw_away: a running host under a fresh identity, for delivering initializations (R14).
        clock: unix time in seconds.
        keeper: of the guard over our deadlines (DESIGN 9); None runs without one.
        recorder: of what both engines are told and order (`tools.replay`); None: nothing is recorded.
    """

    settings: Settings
    keys: KeyTree
    store: Store
    wallet: Wallet
    host: Host
    backend: ChainBackend
    throw_away: Callable[[], AbstractAsyncContextManager[Host]]
    clock: Callable[[], float]
    keeper: Keeper | None = None
    remedies: RemedyStore | None = None
    recorder: Recorder | None = None
    mails: MailStore | None = None


@dataclass(frozen=True, slots=True)
class _Revoked:
    """A neighbour revoked a state, and that is on disk: watchers are to have it."""


@dataclass(frozen=True, slots=True)
class _News:
    """Something for followers, told once what it rests on is on disk."""

    event: m.ForwardStep | m.Forwarded


@dataclass(frozen=True, slots=True)
class _UnusedKeys:
    """A channel was refused before its keys were shown to anybody: a later one may use them."""

    key_index: int


class Node:
    """A running node. `run` serves until `stop` is called or the node halts."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        settings = self.settings = parts.settings
        self.host, self.store, self.wallet, self.backend = parts.host, parts.store, parts.wallet, parts.backend
        self.us = parts.keys.node_id()
        self.asset = settings.network.genesis
        self.started_at = parts.clock()
        self.stopping = trio.Event()
        self.ended = trio.Event()
        self.alarms: deque[str] = deque(maxlen=MOST_ALARMS)
        self.bus = EventBus(parts.clock)
        self.openings = Openings(self._notify)
        self._change = trio.Event()
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
        self._carried = {forward.incoming: forward.payment_hash for forward in self.money.forwards()}
        self.neighbours = Neighbours(self.money, gained=self._neighbour_gained, lost=self._neighbour_lost)
        self.dispatcher = Dispatcher(
            handle=self._handle,
            commit=self._commit,
            perform=self._perform,
            answer=self._answer,
            facts=self._facts,
        )
        self.follower = Follower(self.backend, cursor=cursor, interests=self.wallet.interests)
        self.broadcaster = Broadcaster(self.backend, self.wallet)
        self.tower: Watchtower | None = None
        if parts.remedies is not None:
            self.tower = Watchtower(
                settings=settings,
                host=self.host,
                backend=self.backend,
                wallet=self.wallet,
                remedies=parts.remedies,
                secret=parts.keys.identity_secret(),
                network=self.asset,
                height=lambda: self.following.height,
                now=self.now,
                alarm=self._alarm,
            )
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
            alarm=self._alarm,
            hunt=self.tower.take if self.tower is not None else None,
        )
        self.funding = Funding(
            wallet=self.wallet, following=self.following, dispatcher=self.dispatcher, openings=self.openings
        )
        self.dialer = Dialer(self.host, StoredAddresses(self.store), randomness=random.SystemRandom())

        routing = routing_engine(parts.recorder, settings.routing_config(), self.us)
        self.routing = RoutingService(
            host=self.host,
            engine=routing,
            epoch=os.urandom(16),
            routes=settings.roles.route,
            now=self.now,
            is_neighbour=self.neighbours.__contains__,
            subscriptions=self._subscription_effect,
            offer_arrived=lambda arrived: self.paying.offer_arrived(arrived),
        )
        self.subscriptions: SubscriptionServer | None = None
        if settings.roles.route:
            self.subscriptions = SubscriptionServer(
                host=self.host,
                tell=self.routing.tell,
                answer=routing.answer,
                now=self.now,
                most=settings.limits.max_clients,
                is_neighbour=self.neighbours.__contains__,
                followers=frozenset(map(from_text, settings.roles.followers)),
                first_number=int(self.started_at * 1e6),
            )
        self.chain_facts: ChainFactsServer | None = None
        if settings.roles.chain and isinstance(self.backend, WholeChain):
            self.chain_facts = ChainFactsServer(host=self.host, chain=self.backend)
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
            link_changed=self._notify,
        )
        prefixes = {network.name: network.prefix for network in NETWORKS.values()}
        self.receiving = Receiving(
            config=self.money.config,
            engine=self.money,
            us=self.us,
            secret=parts.keys.identity_secret(),
            asset=self.asset,
            bus=self.bus,
            ask=self.ask,
            tell=self.routing.tell,
            now=self.now,
            network=settings.node.network,
            prefixes=prefixes,
        )
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
        self.acquaintances = Acquaintances(
            host=self.host,
            network=self.asset,
            anywhere=settings.node.network == "regtest",
            clock=parts.clock,
            path=settings.data_dir / KNOWN_SERVERS,
            said=self._said,
        )
        self.guards = Guards(
            settings, self.neighbours, self.host, self.dialer, (each.record for each in self.acquaintances.known)
        )
        self.covering = CoverClient(
            host=self.host,
            means=Means(
                us=self.us,
                store=self.store.cover(),
                channels=self.money.channels,
                keys_of=parts.keys.key_ring(),
                network=self.asset,
                height=lambda: self.following.height,
                ask=settings.watch.ask_blocks,
                bounties=BOUNTIES,
                alarm=self._alarm,
            ),
            watchers=self.guards.watchers,
            refuses=self.guards.refuses,
            related=self.guards.related_watcher,
            quorum=settings.watch.quorum,
            post=self.dispatcher.post,
        )
        InfoServer(
            host=self.host,
            own=OwnRecord(
                settings=settings,
                secret=parts.keys.identity_secret(),
                agent=AGENT,
                host=self.host,
                channels=self.money.channels,
                now=self.now,
            ),
            others=self.acquaintances.page if settings.info.others else lambda after, most: ((), False),
            now=self.now,
        )
        self.joiner = Joiner(
            host=self.host,
            listed=listed_relays(settings),
            acquaintances=self.acquaintances if settings.host.learn_relays else None,
            entropy=os.urandom(32),
            tell=self._alarm,
            reached=self._relay_reached,
        )
        self.paying = Paying(
            settings=settings,
            config=self.money.config,
            engine=self.money,
            us=self.us,
            secret=parts.keys.identity_secret(),
            bus=self.bus,
            ask=self.ask,
            tell=self.routing.tell,
            subscriptions=self.subscribed,
            bringing=Bringing(Deliveries(parts.throw_away), self.now),
            servers=self.reachable_at,
            now=self.now,
            prefixes=prefixes,
        )

    # --- small facts --------------------------------------------------------------------------------------------------

    def now(self) -> UnixTime:
        """Unix time, whole seconds."""
        return UnixTime(int(self.parts.clock()))

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
                self._notify()
                self.ended.set()

    async def _dispatch(self) -> None:
        """The money engine's task. When it halts, everything that could take on something new ends with it."""
        try:
            await self.dispatcher.run(self._resume)
        except Halted as error:
            if self.parts.keeper is not None:
                with suppress(StorageFailed):
                    self.parts.keeper.beat(self.following.height, str(error))  # the guard stands in from now on
            self._alarm(f"the node has halted and takes on nothing new: {error}")
            self._require_background().cancel_scope.cancel()

    def _resume(self, facts: Facts) -> list[Any]:
        """What the disk still owes; channels that the guard closed meanwhile are closed here before a peer is heard."""
        effects = list(self.money.resume(facts))
        for channel_id in self._closed_by_guard:
            if self.money.channel(channel_id) is not None:
                self._alarm("its guard closed this channel while the node was down", channel_id)
                effects += self.money.handle(CloseRequested(channel_id=channel_id, force=True), facts)
        return effects

    async def _probe(self) -> tuple[int, str]:
        """Once through the engine and the disk, for the heartbeat."""
        await self.dispatcher.ask(self.following.reserve)
        return self.following.height, ""

    def _require_background(self) -> trio.Nursery:
        assert self._background is not None, "the node is not running"
        return self._background

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
                self._notify()

    # --- the dispatcher's hands ---------------------------------------------------------------------------------------

    def _commit(self, batch: Batch) -> None:
        """In a worker thread."""
        for effect in batch.stores:
            if isinstance(effect, StoreChannel) and effect.replaces is not None:
                self.openings.renamed(effect.replaces, effect.channel.channel_id)
                self.neighbours.renamed(effect.replaces)
        self.store.commit(batch.stores, batch.journal, batch.cursor)

    def _handle(self, event: Any, facts: Facts) -> list[Any]:
        """The money engine, and after it what followers are told of payments that pass through."""
        effects: list[Any] = []
        for effect in self.money.handle(event, facts):
            effects.append(effect)
            match effect:
                case StoreRevoked():
                    effects.append(_Revoked())
                case StoreForward(forward=forward):
                    self._carried[forward.incoming] = forward.payment_hash
                    effects.append(_News(forward_step(forward)))
                case DropForward(incoming=incoming, earned=earned):
                    payment_hash = self._carried.pop(incoming, None)
                    if payment_hash is not None:
                        news = m.Forwarded(payment_hash=payment_hash.hex(), paid=earned > 0, earned_msat=earned)
                        effects.append(_News(news))
        if isinstance(event, MessageReceived) and event.key_index is not None:
            # An accepted channel is in memory alone at first, but its keys are the peer's to see from here on.
            said = [effect.message for effect in effects if isinstance(effect, SendMessage)]
            if not any(isinstance(message, AcceptChannel) for message in said):
                effects.append(_UnusedKeys(event.key_index))
        return effects

    def _answer(self, question: FindOffers) -> OffersFound:
        offers = self.routing.engine.offers(question.payment_hash, question.upstream, question.asset, self.now())
        return OffersFound(reference=question.reference, offers=offers)

    def _perform(self, effect: Any) -> None:
        """Hand one effect over; never waits."""
        match effect:
            case SendMessage():
                if isinstance(effect.message, Error):
                    self.openings.failed(ChannelId(effect.message.channel_id), effect.message.text)
                self.channels.send(effect.peer, effect.message)
            case ChannelChanged():
                self._channel_changed(effect.channel_id)
            case NeighbourLiquidity():
                self.routing.tell(
                    LiquidityChanged(neighbour=effect.neighbour, liquidity=effect.liquidity, now=self.now())
                )
            case OfferUsed():
                self.routing.tell(
                    PaymentEnded(
                        payment_hash=effect.payment_hash,
                        downstream=effect.downstream,
                        paid=effect.paid,
                        now=self.now(),
                        amount=effect.amount,
                        upstream=effect.upstream,
                    )
                )
            case _News():
                self.bus.publish(effect.event)
            case _Revoked():
                self.covering.wake()
            case _UnusedKeys():
                self._require_background().start_soon(self.funding.give_back_keys, effect.key_index)
            case PaymentChanged():
                self.paying.payment_changed(effect)
            case PromiseChanged():
                self.receiving.promise_changed(effect)
            case BuildFunding():
                self._require_background().start_soon(self.funding.build, effect)
            case ReleaseFunding():
                self._require_background().start_soon(self.funding.release, effect.channel_id)
            case Publish() | PublishWithChild() | PublishWithInputs():
                self.broadcaster.take(effect)
            case WatchTx():
                self.follower.watch_tx(effect)
            case WatchOutpoint():
                self.follower.watch_outpoint(effect)
            case Alarm():
                self.openings.failed(effect.channel_id, effect.text)
                self._alarm(f"channel {effect.channel_id.hex()[:16]}: {effect.text}", effect.channel_id)

    def _alarm(self, text: str, channel_id: ChannelId | None = None) -> None:
        text = printable(text)  # it may repeat what a peer said
        log.error("alarm", text=text)
        self.alarms.append(text)
        self.bus.publish(m.AlarmRaised(channel_id=channel_id.hex() if channel_id else "", text=text))

    def _channel_changed(self, channel_id: ChannelId) -> None:
        self.neighbours.changed(channel_id)
        channel = self.money.channel(channel_id)
        if channel is not None:
            self.bus.publish(channel_event(channel))
            if channel.phase is Phase.CLOSED:
                self.covering.wake()  # its remedies are withdrawn
        self._notify()

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
        self._notify()

    def _notify(self) -> None:
        self._change.set()
        self._change = trio.Event()

    async def changed(self) -> None:
        """Wait until something (a channel, a peer, the chain) has changed."""
        await self._change.wait()

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
