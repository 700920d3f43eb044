"""Settings that contradict each other, or name what cannot be: one generator, in the order of importance."""

from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from bootstrap.networks import NETWORKS, parse_checkpoint
from protocols.errors import DecodeError
from protocols.wire.subscribe import MIN_PREFIX_BITS
from rrnode.config.settings import Settings, parse_neighbour_fee, parse_operator, parse_rate
from rrnode.control.text import peer_of_address
from rrnode.errors import UserError
from rrnode.host.peer_text import from_text, split_address
from rrnode.relations import Known, known, relation

MOST_HELPERS = 8  # each may make us hold a branch of headers and one answer of 21 MB
Problem = tuple[str, str, str, str]  # section, key, what was wanted, what to try


def contradictions(settings: Settings) -> Iterator[Problem]:
    """Everything wrong with settings whose single values are well-formed."""
    yield from _network(settings)
    yield from _operators(settings)
    yield from _chain(settings)
    yield from _addresses(settings)
    yield from _locks(settings)
    yield from _channels(settings)
    yield from _watchers(settings)
    yield from _followers(settings)
    if 0 < settings.subscriptions.prefix_bits < MIN_PREFIX_BITS:
        yield (
            "subscriptions",
            "prefix_bits",
            f"wanted 0, or at least {MIN_PREFIX_BITS}: no server serves a shorter prefix",
            f"set it to {MIN_PREFIX_BITS}",
        )
    yield from _prices(settings)


def _prices(settings: Settings) -> Iterator[Problem]:
    seen = set()
    priced = set()
    for text in settings.fees.neighbours:
        try:
            neighbour = parse_neighbour_fee(text).neighbour
        except (ValueError, DecodeError):
            yield "fees", "neighbours", f"and holds {text[:80]!r}", 'write it like: "16Uiu2HA... 5000 2500"'
            continue
        if neighbour in priced:
            yield "fees", "neighbours", "and names a neighbour twice", "remove one"
        priced.add(neighbour)
    for text in settings.assets.rates:
        try:
            rate = parse_rate(text)
            if (rate.downstream, rate.upstream) in seen:
                yield "assets", "rates", "and names a pair of assets twice", "remove one"
            seen.add((rate.downstream, rate.upstream))
        except ValueError:
            yield (
                "assets",
                "rates",
                f"and {text[:80]!r} is no exchange rate, wanted: asset that comes in, asset that goes out, ratio",
                'for example "signet regtest 3/2"; assets are ' + ", ".join(NETWORKS) + " or a block hash",
            )


def _network(settings: Settings) -> Iterator[Problem]:
    if settings.node.network == "mainnet" and not settings.node.allow_mainnet:
        yield (
            "node",
            "network",
            "which is refused: this software is young and would handle real money",
            "use signet or regtest, or set node.allow_mainnet = true if you accept to lose what you put in",
        )


def _operators(settings: Settings) -> Iterator[Problem]:
    for text in settings.peers.operators:
        try:
            parse_operator(text)
        except (ValueError, DecodeError):
            hint = 'write it like: "16Uiu2HA... Ann": peer id, name'
            yield "peers", "operators", f"and holds {text[:80]!r}", hint
            return


def _chain(settings: Settings) -> Iterator[Problem]:
    chain = settings.chain
    if chain.kind == "kernel" and settings.node.network != "regtest":
        yield (
            "chain",
            "kind",
            f"and the embedded chain is regtest only, not {settings.node.network}",
            'set chain.kind = "bitcoind"',
        )
    if chain.kind == "remote":
        yield from _helpers(settings)
    if chain.kind == "kernel" and chain.url:
        yield "chain", "kind", "and chain.url says where a bitcoind is: wanted one of the two", "remove one"
    url = urlsplit(settings.rpc_url)
    try:
        url_good = url.scheme in ("http", "https") and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        url_good = False
    if not url_good or "@" in url.netloc:
        yield (
            "chain",
            "url",
            "wanted http://host:port without user or password",
            "set chain.user and chain.password for those",
        )
    if chain.user and chain.cookie_file:
        yield "chain", "cookie_file", "and chain.user is set too: wanted one of the two", "remove one"
    if bool(chain.user) != bool(chain.password):
        missing = "password" if chain.user else "user"
        yield "chain", "user", f"and chain.{missing} is empty: wanted both or neither", f"set chain.{missing}"
    if chain.zmq and not chain.zmq.startswith(("tcp://", "ipc://")):
        yield "chain", "zmq", "wanted an address like tcp://127.0.0.1:28332", "see zmqpubsequence in bitcoin.conf"


def _helpers(settings: Settings) -> Iterator[Problem]:
    chain = settings.chain
    least, count = chain.least_helpers, len(chain.helpers)
    if not least <= count <= MOST_HELPERS:
        wanted = f"but chain.helpers names {count}: wanted {least} (chain.least_helpers) to {MOST_HELPERS}"
        yield "chain", "kind", wanted, "add or remove some"
    for address in chain.helpers:
        if problem := _address_problem(address, with_peer=True):
            yield (
                "chain",
                "helpers",
                f"and {address[:120]!r} {problem}",
                "for example /ip4/192.0.2.7/tcp/9780/p2p/16Uiu2HA...",
            )
            return
    yield from _related(settings, "chain", "helpers", chain.helpers, chain.allow_related)
    if chain.checkpoint:
        try:
            parse_checkpoint(chain.checkpoint, settings.network)
        except DecodeError as error:
            hint = "leave it empty to begin with block 0"
            yield "chain", "checkpoint", f"which is not what was wanted: {error}", hint
    if settings.roles.chain or settings.roles.watch:
        yield (
            "chain",
            "kind",
            "but a node without a chain of its own can neither serve it nor watch for others",
            "set roles.chain and roles.watch to false",
        )


def _addresses(settings: Settings) -> Iterator[Problem]:
    if settings.host.listen and settings.is_client:
        yield (
            "host",
            "listen",
            "but a client (no role is on) opens no port",
            "set roles.route = true, or remove host.listen",
        )
    for key in ("listen", "announce", "keep"):
        for address in getattr(settings.host, key):
            problem = _address_problem(address, with_peer=key == "keep")
            if problem:
                yield (
                    "host",
                    key,
                    f"and {address[:120]!r} {problem}",
                    "for example /ip4/192.0.2.7/tcp/9780/p2p/16Uiu2HA...",
                )


def _address_problem(address: str, *, with_peer: bool) -> str:
    if len(address) > 1024:
        return "is longer than any address"
    try:
        Multiaddr(address)
        peer = peer_of_address(address)
    except UserError as error:
        return f"names no usable peer: {error}"
    except (MultiaddrError, ValueError, TypeError, LookupError, OSError):  # its codecs raise their own kinds too
        return "is not a multiaddr"
    if with_peer and peer is None:
        return "does not end in /p2p/<peer id>"
    return ""


def _watchers(settings: Settings) -> Iterator[Problem]:
    for address in settings.watch.watchers:
        problem = _address_problem(address, with_peer=True)
        if problem:
            hint = "for example /ip4/192.0.2.7/tcp/9780/p2p/16Uiu2HA..."
            yield "watch", "watchers", f"and {address[:120]!r} {problem}", hint
            return
    yield from _related(settings, "watch", "watchers", settings.watch.watchers, settings.watch.allow_related)
    if settings.watch.quorum > (count := len(settings.watch.watchers)):
        wanted = f"but watch.watchers names {count}: no channel would ever take on a payment"
        yield "watch", "quorum", wanted, "name more watchers, or lower it"


def _related(settings: Settings, section: str, key: str, addresses: Iterable[str], allowed: bool) -> Iterator[Problem]:
    """Guards of one kind that belong together count as one, so that one alone could rob whoever relies on several.

    A helper may be a watcher, too: one looks out while the node is up, the other while it is away, and whoever watches has
    the whole chain anyhow. What that means for the node, `rrnode audit` tells.
    """
    operators, before = settings.operators, list[Known]()
    for address in addresses:
        where, peer = split_address(address)
        mine = known(peer, addresses=(where,), operators=operators.get(peer, ()))
        for other in before:
            why = relation(mine, other)
            if why and (peer == other.peer or not allowed):
                hint = f"choose {key} that different people run, or set {section}.allow_related = true"
                yield section, key, f"of which {address[:120]!r} {why} as another one", hint
        before.append(mine)


def _followers(settings: Settings) -> Iterator[Problem]:
    for text in settings.roles.followers:
        try:
            from_text(text)
        except DecodeError as error:
            yield "roles", "followers", f"and one of them is no peer id: {error}", "write it like 16Uiu2HA..."
    if settings.roles.followers and not settings.roles.route:
        yield "roles", "followers", "but a node that does not route has no feed", "set roles.route = true"


def _locks(settings: Settings) -> Iterator[Problem]:
    locks, channels = settings.locks, settings.channels
    # A forwarder must have time to learn the preimage from the chain after its own outgoing lock ended, and still
    # claim the incoming one in time (BOLT 2, "cltv_expiry_delta Selection").
    needed = channels.settle_margin + channels.timeout_grace + 1
    if locks.lock_delta < needed:
        yield (
            "locks",
            "lock_delta",
            f"wanted at least {needed}: channels.settle_margin + channels.timeout_grace + 1",
            "raise it, or lower the other two",
        )
    if locks.final_lock <= channels.settle_margin:
        yield "locks", "final_lock", f"wanted more than channels.settle_margin ({channels.settle_margin})", "raise it"
    if locks.max_lock < locks.final_lock + locks.lock_delta:
        yield "locks", "max_lock", "wanted at least locks.final_lock + locks.lock_delta", "raise it"


def _channels(settings: Settings) -> Iterator[Problem]:
    channels = settings.channels
    if channels.maximum_capacity_sat < channels.minimum_capacity_sat:
        yield "channels", "maximum_capacity_sat", "which is below channels.minimum_capacity_sat", "raise it"
    if channels.maximum_to_self_delay < channels.to_self_delay:
        yield (
            "channels",
            "maximum_to_self_delay",
            f"which is shorter than what we ask for ourselves ({channels.to_self_delay})",
            "raise it",
        )
    if settings.wait.quiet_ms > settings.wait.maximum_ms:
        yield "wait", "quiet_ms", f"which is longer than wait.maximum_ms ({settings.wait.maximum_ms})", "lower it"
    url = settings.storage.url
    if url and not url.startswith(("sqlite:///", "postgresql+psycopg://", "postgresql://")):
        yield (
            "storage",
            "url",
            "wanted sqlite:///file or postgresql+psycopg://...",
            "leave it empty for SQLite in the data directory",
        )
