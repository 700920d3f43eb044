"""Building those parts of a node that take many words: what it does for others, payments, who guards it, how it joins."""

import os
from collections.abc import Awaitable, Callable
from typing import Any

from bootstrap.networks import NETWORKS
from protocols.node_record import NodeRecord
from protocols.payment.engine import Engine as MoneyEngine
from protocols.routing.events import RoutingEvent
from protocols.units import BlockHeight
from rrnode.chain.base import WholeChain
from rrnode.control.bus import EventBus
from rrnode.cover import BOUNTIES
from rrnode.guards import Guards
from rrnode.host.peer_text import from_text
from rrnode.parts.given import Parts
from rrnode.relays import listed_relays
from rrnode.services.acquaintances import FILE_NAME as KNOWN_SERVERS
from rrnode.services.acquaintances import Acquaintances
from rrnode.services.bringing import Bringing
from rrnode.services.chainfacts import ChainFactsServer
from rrnode.services.channels import Post
from rrnode.services.covering import CoverClient
from rrnode.services.delivery import Deliveries
from rrnode.services.handing import Means
from rrnode.services.info import InfoServer, OwnRecord
from rrnode.services.joining import Joiner
from rrnode.services.neighbours import Neighbours
from rrnode.services.paying import Paying
from rrnode.services.receiving import Receiving
from rrnode.services.routing import RoutingService
from rrnode.services.subscriptions import SubscriptionClient, SubscriptionServer
from rrnode.services.watchtower import Watchtower
from rrnode.version import AGENT

PREFIXES = {network.name: network.prefix for network in NETWORKS.values()}

Ask = Callable[[Any], Awaitable[list[Any]]]  # the money engine, and wait
Say = Callable[[str], None]  # to our owner
Tell = Callable[[RoutingEvent], None]  # the routing engine


# --- for others -------------------------------------------------------------------------------------------------------


def watchtower(parts: Parts, height: Callable[[], BlockHeight], alarm: Say) -> Watchtower | None:
    """What watches for others; None when this node watches for nobody."""
    if parts.remedies is None:
        return None
    return Watchtower(
        settings=parts.settings,
        host=parts.host,
        backend=parts.backend,
        wallet=parts.wallet,
        remedies=parts.remedies,
        secret=parts.keys.identity_secret(),
        network=parts.asset,
        height=height,
        now=parts.now,
        alarm=alarm,
    )


def subscription_server(
    parts: Parts, routing: RoutingService, neighbours: Neighbours, started_at: float
) -> SubscriptionServer | None:
    """What serves offers to clients; None when this node does not route. `started_at`: unix time; the feed's numbers grow
    over restarts."""
    if not parts.settings.roles.route:
        return None
    return SubscriptionServer(
        host=parts.host,
        tell=routing.tell,
        answer=routing.engine.answer,
        now=parts.now,
        most=parts.settings.limits.max_clients,
        is_neighbour=neighbours.__contains__,
        followers=frozenset(map(from_text, parts.settings.roles.followers)),
        first_number=int(started_at * 1e6),
    )


def chain_facts(parts: Parts) -> ChainFactsServer | None:
    """What serves the chain to clients; None when this node serves none."""
    if not parts.settings.roles.chain or not isinstance(parts.backend, WholeChain):
        return None
    return ChainFactsServer(host=parts.host, chain=parts.backend)


def serve_info(parts: Parts, money: MoneyEngine, acquaintances: Acquaintances) -> None:
    """Answer whoever asks what this node says about itself, and about others."""
    InfoServer(
        host=parts.host,
        own=OwnRecord(
            settings=parts.settings,
            secret=parts.keys.identity_secret(),
            agent=AGENT,
            host=parts.host,
            channels=money.channels,
            now=parts.now,
        ),
        others=acquaintances.page if parts.settings.info.others else lambda after, most: ((), False),
        now=parts.now,
    )


# --- payments ---------------------------------------------------------------------------------------------------------


def receiving(parts: Parts, money: MoneyEngine, bus: EventBus, ask: Ask, tell: Tell) -> Receiving:
    """Payments that we take."""
    return Receiving(
        config=money.config,
        engine=money,
        us=parts.us,
        secret=parts.keys.identity_secret(),
        asset=parts.asset,
        bus=bus,
        ask=ask,
        tell=tell,
        now=parts.now,
        network=parts.settings.node.network,
        prefixes=PREFIXES,
    )


def paying(
    parts: Parts,
    money: MoneyEngine,
    bus: EventBus,
    ask: Ask,
    tell: Tell,
    subscribed: SubscriptionClient,
    servers: Callable[[], tuple[str, ...]],
) -> Paying:
    """Payments that we make. `servers`: where a payer could leave an initialization for us."""
    return Paying(
        settings=parts.settings,
        config=money.config,
        engine=money,
        us=parts.us,
        secret=parts.keys.identity_secret(),
        bus=bus,
        ask=ask,
        tell=tell,
        subscriptions=subscribed,
        bringing=Bringing(Deliveries(parts.throw_away), parts.now),
        servers=servers,
        now=parts.now,
        prefixes=PREFIXES,
    )


# --- for ourselves ----------------------------------------------------------------------------------------------------


def acquaintances_of(parts: Parts, said: Callable[[NodeRecord], None]) -> Acquaintances:
    """The servers that we have heard of."""
    return Acquaintances(
        host=parts.host,
        network=parts.asset,
        anywhere=parts.settings.node.network == "regtest",
        clock=parts.clock,
        path=parts.settings.data_dir / KNOWN_SERVERS,
        said=said,
    )


def joiner(parts: Parts, acquaintances: Acquaintances, tell: Say, reached: Callable[[str], None]) -> Joiner:
    """What finds a way into the network."""
    return Joiner(
        host=parts.host,
        listed=listed_relays(parts.settings),
        acquaintances=acquaintances if parts.settings.host.learn_relays else None,
        entropy=os.urandom(32),
        tell=tell,
        reached=reached,
    )


def cover_client(
    parts: Parts, money: MoneyEngine, guards: Guards, height: Callable[[], BlockHeight], alarm: Say, post: Post
) -> CoverClient:
    """What hands our remedies to watchers."""
    watch = parts.settings.watch
    means = Means(
        us=parts.us,
        store=parts.store.cover(),
        channels=money.channels,
        keys_of=parts.keys.key_ring(),
        network=parts.asset,
        height=height,
        ask=watch.ask_blocks,
        bounties=BOUNTIES,
        alarm=alarm,
    )
    return CoverClient(
        host=parts.host,
        means=means,
        watchers=guards.watchers,
        refuses=guards.refuses,
        related=guards.related_watcher,
        quorum=watch.quorum,
        post=post,
    )
