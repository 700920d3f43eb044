"""The whole configuration, and what each engine needs of it."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from bootstrap.networks import NETWORKS, Network
from bootstrap.relays import shipped_relays
from protocols.channel.events import ChannelConfig
from protocols.ids import PeerId
from protocols.payment.config import EngineConfig
from protocols.payment.events import ForwardPolicy
from protocols.payment.payer import WaitPolicy
from protocols.routing.config import RoutingConfig
from protocols.routing.pricing import FeePolicy, NeighbourFee, Rate
from protocols.units import PPM, BlockDelta, Msat
from rrnode.config.settings.sections import (
    AssetSettings,
    ChainSettings,
    ChannelSettings,
    FeeSettings,
    HostSettings,
    InfoSettings,
    LimitSettings,
    LockSettings,
    MailboxSettings,
    NodeSettings,
    PeerSettings,
    RoleSettings,
    StorageSettings,
    SubscriptionSettings,
    WaitSettings,
    WatchSettings,
)
from rrnode.config.settings.values import parse_neighbour_fee, parse_operator, parse_rate
from rrnode.host.peer_text import from_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The whole configuration, checked. Build with `load`."""

    data_dir: Path
    node: NodeSettings = NodeSettings()
    roles: RoleSettings = RoleSettings()
    host: HostSettings = HostSettings()
    peers: PeerSettings = PeerSettings()
    chain: ChainSettings = ChainSettings()
    fees: FeeSettings = FeeSettings()
    locks: LockSettings = LockSettings()
    wait: WaitSettings = WaitSettings()
    channels: ChannelSettings = ChannelSettings()
    assets: AssetSettings = AssetSettings()
    limits: LimitSettings = LimitSettings()
    watch: WatchSettings = WatchSettings()
    info: InfoSettings = InfoSettings()
    subscriptions: SubscriptionSettings = SubscriptionSettings()
    mailbox: MailboxSettings = MailboxSettings()
    storage: StorageSettings = StorageSettings()

    @property
    def network(self) -> Network:
        """The network by its name."""
        return NETWORKS[self.node.network]

    @property
    def is_client(self) -> bool:
        """No role: dials out only."""
        return not any((self.roles.route, self.roles.chain, self.roles.watch, self.roles.mailbox))

    @property
    def switches(self) -> int:
        """The roles as `protocols.wire.link.Hello` carries them: bit 0 route, 1 chain, 2 watch, 3 mailbox."""
        flags = (self.roles.route, self.roles.chain, self.roles.watch, self.roles.mailbox)
        return sum(1 << bit for bit, on in enumerate(flags) if on)

    @property
    def listen(self) -> tuple[str, ...]:
        """Where to listen, the default filled in: every interface, but only this machine on regtest."""
        if self.host.listen or self.is_client:
            return self.host.listen
        interface = "127.0.0.1" if self.node.network == "regtest" else "0.0.0.0"
        return (f"/ip4/{interface}/tcp/{self.network.port}",)

    @property
    def storage_url(self) -> str:
        """SQLAlchemy URL of the database, the default filled in."""
        return self.storage.url or f"sqlite:///{self.data_dir / 'rrnode.sqlite'}"

    @property
    def watch_storage_url(self) -> str:
        """Likewise, of what a watcher keeps for others: a file of its own, but not on PostgreSQL."""
        return self._beside("watch.sqlite")

    @property
    def mail_storage_url(self) -> str:
        """Likewise, of what a mailbox keeps for others."""
        return self._beside("mail.sqlite")

    def _beside(self, name: str) -> str:
        if self.storage.url and not self.storage.url.startswith("sqlite:"):
            return self.storage.url
        return f"sqlite:///{self.data_dir / name}"

    @property
    def rpc_url(self) -> str:
        """Bitcoin Core's RPC address, the default filled in."""
        return self.chain.url or f"http://127.0.0.1:{self.network.rpc_port}"

    @property
    def cookie_file(self) -> Path | None:
        """Bitcoin Core's cookie file, the usual place filled in; None when a user is configured instead."""
        if self.chain.cookie_file:
            return Path(self.chain.cookie_file).expanduser()
        if self.chain.user:
            return None
        folder = "" if self.node.network == "mainnet" else self.node.network
        return Path.home() / ".bitcoin" / folder / ".cookie"

    @property
    def rates(self) -> tuple[Rate, ...]:
        """The exchange rates, parsed."""
        return tuple(parse_rate(text) for text in self.assets.rates)

    @property
    def neighbour_fees(self) -> tuple[NeighbourFee, ...]:
        """The fees of single neighbours, parsed."""
        return tuple(parse_neighbour_fee(text) for text in self.fees.neighbours)

    @property
    def operators(self) -> dict[PeerId, frozenset[str]]:
        """Who runs which node, as its user and the relay list that ships say."""
        told = [parse_operator(text) for text in self.peers.operators]
        shipped = shipped_relays(self.network).relays
        told += [(from_text(relay.identity), relay.operator) for relay in shipped if relay.operator]
        names: dict[PeerId, frozenset[str]] = {}
        for peer, name in told:
            names[peer] = names.get(peer, frozenset()) | {name}
        return names

    def channel_config(self) -> ChannelConfig:
        """What the channel engine needs of it."""
        c = self.channels
        return ChannelConfig(
            to_self_delay=c.to_self_delay,
            dust_limit=c.dust_limit_sat,
            htlc_minimum=c.htlc_minimum_msat,
            reserve_ppm=c.reserve_ppm,
            max_in_flight_ppm=c.max_in_flight_ppm,
            max_accepted_htlcs=c.max_accepted_htlcs,
            minimum_capacity=c.minimum_capacity_sat,
            maximum_capacity=c.maximum_capacity_sat,
            maximum_to_self_delay=c.maximum_to_self_delay,
            funding_depth=c.funding_depth,
            funding_patience=c.funding_patience,
            buried_depth=c.buried_depth,
            settle_margin=c.settle_margin,
            timeout_grace=c.timeout_grace,
            max_expiry=BlockDelta(self.locks.max_lock + 144),
            max_dust_exposure=c.max_dust_exposure_msat,
        )

    def engine_config(self) -> EngineConfig:
        """What the payment engine needs of it."""
        locks, limits = self.locks, self.limits
        return EngineConfig(
            channel=self.channel_config(),
            forward=ForwardPolicy(lock_delta=locks.lock_delta, final_lock=locks.final_lock, max_lock=locks.max_lock),
            chain_reserve=self.channels.chain_reserve_sat,
            max_channels=limits.max_channels,
            max_channels_per_peer=limits.max_channels_per_peer,
            max_payments=limits.max_payments,
            max_promises=limits.max_promises,
            needs_cover=self.watch.quorum > 0,
        )

    def routing_config(self) -> RoutingConfig:
        """What the routing engine needs of it."""
        return RoutingConfig(
            routes=self.roles.route,
            fee=FeePolicy(base_msat=self.fees.base_msat, ppm=self.fees.ppm),
            neighbour_fees=self.neighbour_fees,
            rates=self.rates,
            delta=self.locks.lock_delta,
            max_lock_blocks=self.locks.max_lock,
            max_offers=self.limits.table_offers,
            feeds=bool(self.roles.followers),
            judges=self.limits.traced_payments > 0,
        )

    def wait_policy(self) -> WaitPolicy:
        """When a payer is satisfied, unless the user says otherwise."""
        return WaitPolicy(quiet=self.wait.quiet_ms, maximum=self.wait.maximum_ms, good_enough=self.wait.good_enough_ppm)

    def max_fee_for(self, amount: Msat) -> Msat:
        """Most to pay in fees for an amount unless the user says otherwise, rounded down."""
        return Msat(self.wait.max_fee_base_msat + amount * self.wait.max_fee_ppm // PPM)


SECTIONS: dict[str, type[Any]] = {
    name: kind
    for name, kind in get_type_hints(Settings).items()
    if isinstance(kind, type) and dataclasses.is_dataclass(kind)
}

# Where blocks cost nothing, waiting for them teaches nothing: short locks, an embedded chain.
NETWORK_DEFAULTS: dict[str, dict[tuple[str, str], Any]] = {
    "regtest": {
        ("chain", "kind"): "kernel",
        ("chain", "poll_seconds"): 0.2,
        ("locks", "lock_delta"): BlockDelta(6),
        ("locks", "final_lock"): BlockDelta(6),
        ("locks", "max_lock"): BlockDelta(144),
        ("channels", "to_self_delay"): BlockDelta(6),
        ("channels", "settle_margin"): BlockDelta(3),
        ("channels", "timeout_grace"): BlockDelta(1),
    }
}


def default_of(section: str, key: str, network: str) -> Any:
    """The value that holds on this network when nobody says otherwise."""
    fallback = getattr(SECTIONS[section](), key)
    return NETWORK_DEFAULTS.get(network, {}).get((section, key), fallback)
