"""Every setting by section, in the order of the file that `rrnode init` writes (DESIGN 2, 5, 6, 7, 8, 9)."""

from dataclasses import dataclass

from bootstrap.networks import NETWORKS
from protocols.units import MAX_MSAT, MAX_SAT, PPM, BlockDelta, Msat, Sat
from rrnode.config.settings.fields import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """What this node is."""

    network: str = setting("regtest", "the chain this node works on", choices=tuple(NETWORKS))
    allow_mainnet: bool = setting(False, "must be true before the node works with real money; this software is young")
    operator: str = setting(
        "", "a name for whoever runs this node, shown to peers; helps others not to rely on one person twice"
    )
    log_level: str = setting("warning", "how much is logged", choices=("debug", "info", "warning", "error"))
    log_format: str = setting(
        "auto", "auto: for people on a terminal, JSON lines otherwise", choices=("auto", "console", "json")
    )
    record_mb: int = setting(
        0,
        "record what both engines are told and order, for `python -m tools.replay`: at most so many megabytes each start, in"
        " the data directory's recordings/; 0: off. A recording holds payment secrets",
        high=100_000,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleSettings:
    """What this node does for others. With all four off it is a client: it dials out and opens no port."""

    route: bool = setting(False, "accept connections, serve subscriptions, carry payments for a fee")
    chain: bool = setting(False, "serve chain facts to clients and publish their transactions")
    watch: bool = setting(False, "take remedies of others and hunt bounties")
    mailbox: bool = setting(False, "keep sealed payment initializations for clients that are away")
    followers: tuple[str, ...] = setting(
        (), "route: peer ids that may follow all offers that reach this node; they learn what its neighbours ask"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSettings:
    """Connections to other nodes. Addresses are multiaddrs, e.g. /ip4/192.0.2.7/tcp/9780/p2p/16Uiu2HA..."""

    listen: tuple[str, ...] = setting(
        (), "where to listen; empty: the network's default port when a role is on, else nowhere"
    )
    announce: tuple[str, ...] = setting((), "addresses to tell others when they differ from `listen` (port forwarding)")
    keep: tuple[str, ...] = setting(
        (), "peers to stay connected with: channel neighbours, routing servers; each ends in /p2p/<peer id>"
    )
    dial_shipped_relays: bool = setting(
        True, "also stay connected with relays that ship with this software for the network, if any"
    )
    relay: bool = setting(
        True,
        "route: let payers reach clients with a channel through this node, sealed, 32 KiB and 30 seconds at most (circuit relay)",
    )
    learn_relays: bool = setting(
        True, "also join by servers that such relays tell of, and remember those that answered"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSettings:
    """What you know of others."""

    operators: tuple[str, ...] = setting(
        (),
        'who runs which node, e.g. "16Uiu2HA... Ann": nodes of one operator do not look after you against each other;'
        " a node that several run may stand here several times",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainSettings:
    """Where the chain comes from."""

    kind: str = setting(
        "bitcoind",
        "bitcoind: Bitcoin Core 28 or newer (or `rrnode chain serve`) by RPC; kernel: an embedded regtest inside this process;"
        " remote: no chain of its own, but several `helpers`",
        choices=("bitcoind", "kernel", "remote"),
    )
    url: str = setting(
        "", "bitcoind: RPC address, e.g. http://127.0.0.1:18443; empty: this machine, the network's default port"
    )
    cookie_file: str = setting("", "bitcoind: its cookie file; empty: the usual place, unless `user` is set")
    user: str = setting("", "bitcoind: RPC user, instead of a cookie file")
    password: str = setting("", "bitcoind: RPC password of `user`", secret=True)
    poll_seconds: float = setting(1.0, "bitcoind: how often to look for news, seconds", low=0.01, high=600)
    zmq: str = setting("", "bitcoind: its zmqpubsequence address, e.g. tcp://127.0.0.1:28332; news then come at once")
    helpers: tuple[str, ...] = setting(
        (),
        "remote: nodes with the role `chain`, at most 8; each ends in /p2p/<peer id>. One of those that answer must be honest:"
        " choose them unrelated to your channel neighbours and to each other",
    )
    allow_related: bool = setting(
        False,
        "remote: also rely on helpers that seem to belong together, or to a channel neighbour, and could rob you together",
    )
    least_helpers: int = setting(
        2,
        "remote: so many must answer before it holds that nothing happened; with fewer nothing new is taken on",
        low=1,
        high=8,
    )
    checkpoint: str = setting(
        "",
        "remote: begin to read headers at this block instead of block 0, which saves a first start much reading: height, a"
        " multiple of 2016 and below everything that concerns this node, and header as bitcoin-cli getblockheader HASH false"
        " prints it. Whoever gives it to you can show you any chain: ask a full node that you trust",
    )
    answer_seconds: float = setting(10.0, "remote: how long a helper may take for one answer", low=1, high=120)
    max_feerate: int = setting(
        500, "remote: no fee estimate of helpers is believed above this, satoshi per virtual byte", low=1, high=100_000
    )
    mine_every: float = setting(
        0.0, "kernel: seconds between blocks; 0: only on demand (`rrnode chain mine`)", high=86400
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FeeSettings:
    """What this node asks for carrying a payment on: base_msat + ppm of the amount, rounded up."""

    base_msat: Msat = setting(Msat(1000), "per payment, millisatoshi", high=MAX_MSAT)
    ppm: int = setting(100, "of the amount, parts per million", high=PPM)
    neighbours: tuple[str, ...] = setting(
        (), 'other fees for single neighbours that pay us, e.g. "16Uiu2HA... 5000 2500": peer id, base_msat, ppm'
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LockSettings:
    """How long coins may be locked on the way, in blocks."""

    lock_delta: BlockDelta = setting(
        BlockDelta(40), "blocks between the incoming and the outgoing lock of a carried payment", low=2, high=2016
    )
    final_lock: BlockDelta = setting(
        BlockDelta(24), "blocks that a payment to this node must stay locked", low=2, high=2016
    )
    max_lock: BlockDelta = setting(BlockDelta(2016), "no payment may be locked for longer, blocks", low=4, high=4032)


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitSettings:
    """When the payer is satisfied with the offers so far, and what it pays at most."""

    quiet_ms: int = setting(700, "lock when no better offer came for this long, milliseconds", low=0, high=3_600_000)
    maximum_ms: int = setting(10_000, "never wait for offers longer than this, milliseconds", low=1, high=3_600_000)
    good_enough_ppm: int = setting(
        0, "lock at once when fees are at most this, parts per million of the amount", high=PPM
    )
    max_fee_ppm: int = setting(
        20_000, "most to pay in fees unless told otherwise: parts per million of the amount ...", high=PPM
    )
    max_fee_base_msat: Msat = setting(Msat(20_000), "... plus this, millisatoshi", high=MAX_MSAT)
    asleep_s: int = setting(
        3600,
        "how long to wait for a payee that is away, seconds: its mailbox keeps the payment meanwhile; 0: not at all",
        high=14 * 86_400,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelSettings:
    """What this node asks of a channel and grants to it."""

    accept: bool = setting(True, "let others open channels towards this node")
    to_self_delay: BlockDelta = setting(
        BlockDelta(144),
        "blocks a neighbour waits for its own coins after closing by force; longer than you may be away",
        low=1,
        high=2016,
    )
    maximum_to_self_delay: BlockDelta = setting(
        BlockDelta(2016), "the longest such wait accepted from a neighbour, blocks", low=1, high=4032
    )
    dust_limit_sat: Sat = setting(
        Sat(354), "smallest output on our commitments, satoshi (BOLT 3)", low=330, high=100_000
    )
    htlc_minimum_msat: Msat = setting(
        Msat(1), "smallest payment taken over a channel, millisatoshi", low=1, high=MAX_MSAT
    )
    reserve_ppm: int = setting(
        20_000, "share of a channel that the neighbour keeps at stake, parts per million", low=0, high=500_000
    )
    max_in_flight_ppm: int = setting(
        900_000, "share of a channel that may be in flight towards us, parts per million", low=1, high=PPM
    )
    max_accepted_htlcs: int = setting(114, "payments in flight towards us on one channel", low=1, high=114)
    minimum_capacity_sat: Sat = setting(Sat(20_000), "smallest channel, satoshi", low=1_000, high=MAX_SAT)
    maximum_capacity_sat: Sat = setting(Sat(1_000_000_000), "largest channel, satoshi", low=1_000, high=MAX_SAT)
    funding_depth: int = setting(3, "confirmations before a channel is used", low=1, high=144)
    funding_patience: BlockDelta = setting(
        BlockDelta(2016), "blocks to wait for a neighbour's funding transaction", low=6, high=4032
    )
    buried_depth: int = setting(7, "confirmations after which something on the chain is final", low=1, high=144)
    settle_margin: BlockDelta = setting(
        BlockDelta(18), "blocks before a lock's end at which to claim it on the chain", low=1, high=2016
    )
    timeout_grace: BlockDelta = setting(
        BlockDelta(2), "blocks after a lock's end at which to take it back on the chain", low=0, high=144
    )
    max_dust_exposure_msat: Msat = setting(
        Msat(5_000_000), "most that may be in flight in amounts too small for the chain, millisatoshi", high=MAX_MSAT
    )
    chain_reserve_sat: Sat = setting(
        Sat(10_000), "confirmed coins kept per channel to pay for closing it by force, satoshi", low=0, high=100_000_000
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetSettings:
    """Coins of several chains. An asset is a network's name or the hash of its first block, as explorers show it."""

    rates: tuple[str, ...] = setting(
        (),
        'exchange rates for payments carried from one coin to another, e.g. "signet regtest 3/2": 3 msat of signet, sent to us, for each 2 of regtest that leave',
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSettings:
    """Upper bounds, so that nobody can use up this machine."""

    max_channels: int = setting(1_000, "channels that live at once", low=1, high=100_000)
    max_channels_per_peer: int = setting(32, "of these, with one peer", low=1, high=100_000)
    max_peers: int = setting(2_000, "connections at once", low=1, high=100_000)
    peer_frames: int = setting(
        2_000,
        "frames a second that are read from one peer, one of 64 KiB counting as nine; beyond it the peer waits",
        low=100,
        high=1_000_000,
    )
    max_clients: int = setting(1_000, "peers served with subscriptions at once", low=0, high=100_000)
    table_offers: int = setting(65_536, "offers in the routing table (some 600 bytes each)", low=64, high=10_000_000)
    max_payments: int = setting(1_000, "payments of our own under way at once", low=1, high=100_000)
    max_promises: int = setting(10_000, "requests of ours that wait to be paid at once", low=1, high=1_000_000)
    traced_payments: int = setting(
        500,
        "payments of which offers and locks are remembered for tools.trace until a restart, and as many that were only"
        " asked about; some 5 KB each, at most 40; 0: none",
        low=0,
        high=100_000,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchSettings:
    """Who looks after this node's channels while it is away, and what this node takes on for others (roles.watch)."""

    watchers: tuple[str, ...] = setting(
        (), "watchers of this node's own channels; each ends in /p2p/<peer id>; best several, run by different people"
    )
    allow_related: bool = setting(
        False, "also use watchers that seem to belong together, or to a channel neighbour, and could rob you together"
    )
    may_be_away: bool = setting(
        False,
        "this node may be down for longer than channels.to_self_delay: warn of channels that no unrelated watcher looks"
        " after; a client is always warned",
    )
    quorum: int = setting(
        0,
        "a channel takes on no new payment before so many watchers hold its newest revoked state; what is locked already "
        "goes on. 0: it does not wait",
        low=0,
        high=100,
    )
    ask_blocks: BlockDelta = setting(
        BlockDelta(26_000),
        "how long watchers are asked to keep a remedy; renewed at half of it",
        low=144,
        high=1_000_000,
    )
    keep_blocks: BlockDelta = setting(
        BlockDelta(52_560),
        "as a watcher: the longest that a remedy is kept unless renewed, blocks",
        low=144,
        high=1_000_000,
    )
    client_bytes: int = setting(
        20_000_000,
        "as a watcher: room for one client, bytes on disk; a state without payments in flight takes 310",
        low=0,
        high=1_000_000_000,
    )
    total_bytes: int = setting(5_000_000_000, "as a watcher: room for all clients together, bytes", low=0, high=1 << 50)
    network_bytes: int = setting(
        500_000_000,
        "as a watcher: room for all clients of one network (IPv4 /16, IPv6 /32) together, bytes",
        low=0,
        high=1 << 50,
    )
    free_bytes: int = setting(
        500_000_000,
        "as a watcher: nothing more is taken when less than this is free on the disk, bytes: the node itself needs it, too",
        low=0,
        high=1 << 50,
    )
    max_clients: int = setting(200, "as a watcher: clients connected for it at once", low=1, high=100_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class InfoSettings:
    """What this node tells anyone who asks (/rr/info/1); balances never. Its operator is told when node.operator is set."""

    agent: bool = setting(True, "the program and its version")
    roles: bool = setting(True, "what it does for others, and the protocols it serves")
    addresses: bool = setting(True, "where it can be dialled; without them others cannot find it through their relays")
    channels: str = setting(
        "nothing",
        "its channels with neighbours that route: nothing, who they are, or their capacity too",
        choices=("nothing", "peers", "capacity"),
    )
    others: bool = setting(True, "what other servers said of themselves, to those that look for a way into the network")


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionSettings:
    """What this node asks of its routing servers while it pays."""

    prefix_bits: int = setting(
        0,
        "0: offers for the payment's hash; 8 to 64: for all hashes that begin with the same so many bits, so that a server learns"
        " less and sends more (protocols/README.md says how much); of 8 bits a server takes 16 at a time",
        high=64,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MailboxSettings:
    """What this node keeps for clients that are away (roles.mailbox)."""

    keep_days: int = setting(7, "how long a payment that waits is kept, days", low=1, high=14)
    client_mails: int = setting(
        100, "that wait for one client; one network of senders has a quarter of it", low=1, high=10_000
    )
    total_mails: int = setting(
        100_000,
        "for all clients together, some 800 bytes each; one network of senders has a twentieth of it",
        low=1,
        high=10_000_000,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageSettings:
    """Where state is kept."""

    url: str = setting(
        "", "empty: SQLite in the data directory; or postgresql+psycopg://user:password@host/database", secret=True
    )
