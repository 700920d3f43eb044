"""What the owner of a running node is shown of it: the whole, its peers, its routing table (DESIGN 3, `control/`)."""

import os

import trio

from bootstrap.relays import roles_of
from protocols.channel.state import BEFORE_FUNDING, Phase, balances
from protocols.ids import PeerId
from protocols.payment.events import PayPhase
from protocols.routing.events import Liquidity
from protocols.units import AssetId, Msat
from rrnode.control import models as m
from rrnode.control.convert import offer_info
from rrnode.control.text import peer_text, txid_text
from rrnode.node import Node
from rrnode.services.neighbours import lives
from rrnode.version import VERSION


async def status(node: Node) -> m.Status:
    """The state of the whole node."""
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
        payments_live=sum(payment.phase in (PayPhase.COLLECTING, PayPhase.LOCKED) for payment in node.money.payments()),
        forwards_live=len(node.money.forwards()),
        forwards_done=forwards_done,
        earned_msat=earned,
        halted=node.halted(),
        alarms=tuple(node.alarms),
        warnings=node.guards.warnings(),
    )


def peers(node: Node) -> tuple[m.PeerInfo, ...]:
    """Linked peers, peers to keep, and channel neighbours."""
    connected = node.host.connected()
    kept = {each.peer: each for each in node.dialer.status()}
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


def routes(node: Node) -> m.Routes:
    """The routing table now."""
    engine, now = node.routing.engine, node.now()
    entries = []
    for route in engine.routes(now):
        role = "payee" if route.ours else "payer" if route.wanted else "forwarder"
        offers = tuple(offer_info(offer) for offer in route.offers)
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


def _of(liquidity: tuple[Liquidity, ...], asset: AssetId) -> Liquidity:
    for each in liquidity:
        if each.asset == asset:
            return each
    return Liquidity(asset=asset, ours=Msat(0), theirs=Msat(0))
