"""TCP sockets: listening with a plain reason when it fails, dialling with one, noticing dead peers (LIBP2P.md 6)."""

import errno
import ipaddress
import os
import socket
from contextlib import suppress

import trio

from rrnode.errors import Unreachable

KEEPALIVE = (10, 5, 3)  # seconds idle before the first probe, between probes, probes until the peer is dead
USER_TIMEOUT = 25_000  # milliseconds that sent bytes may stay unacknowledged


def watch_dead_peers(stream: trio.SocketStream) -> None:
    """Let the kernel end a connection whose peer has silently gone; without it that takes 16 minutes."""
    idle, interval, count = KEEPALIVE
    for level, name, value in (
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE", idle),
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL", interval),
        (socket.IPPROTO_TCP, "TCP_KEEPCNT", count),
        (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", USER_TIMEOUT),
    ):
        option = getattr(socket, name, None)  # not every system has every one; the heartbeat does not need them
        if option is not None:
            try:
                stream.socket.setsockopt(level, option, value)
            except OSError:
                return


def host_and_port(where: str) -> tuple[str, int]:
    """The host and TCP port of a multiaddr of one of the forms this node dials.

    Raises:
        Unreachable: another form.
    """
    match where.split("/"):
        case ["", "ip4" | "ip6" as family, host, "tcp", port]:
            try:
                address = ipaddress.ip_address(host)
            except ValueError:
                raise Unreachable(f"{where}: {host} is no IP address") from None
            if address.version != int(family[2]):
                raise Unreachable(f"{where}: {host} is no {family} address")
        case ["", "dns" | "dns4" | "dns6", host, "tcp", port] if host:
            pass
        case _:
            raise Unreachable(f"{where} is not of the form /ip4/<ip>/tcp/<port>, /ip6/… or /dns/…")
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise Unreachable(f"{where}: {port} is no TCP port")
    return host, int(port)


def multiaddr_of(address: tuple[object, ...]) -> str:
    """A socket address (host, port, …) as a multiaddr."""
    host = str(address[0]).partition("%")[0]
    return f"/ip{ipaddress.ip_address(host).version}/{host}/tcp/{address[1]}"


def reachable(where: str) -> tuple[str, ...]:
    """Where others can dial a multiaddr that we listen on: an unspecified address stands for every one we have, of
    which this names the one that faces outward, and the loopback."""
    host, port = host_and_port(where)
    address = ipaddress.ip_address(host)
    if not address.is_unspecified:
        return (where,)
    found = []
    family, outside, inside = (
        (socket.AF_INET, "192.0.2.1", "127.0.0.1") if address.version == 4 else (socket.AF_INET6, "2001:db8::1", "::1")
    )
    with socket.socket(family, socket.SOCK_DGRAM) as probe, suppress(OSError):  # no route to the outside
        probe.connect((outside, 9))  # of a datagram socket: nothing is sent
        found.append(multiaddr_of((probe.getsockname()[0], port)))
    return (*found, multiaddr_of((inside, port)))


async def listen(where: str, backlog: int, *, share: bool = False) -> list[trio.SocketListener]:
    """Listen on one multiaddr.

    Args:
        share: with other processes of this user that also share it; else with nobody, unlike libp2p's listener (B17).

    Raises:
        Unreachable: in use, not ours, or no such form.
    """
    host, port = host_and_port(where)
    try:
        if not share:
            return list(await trio.open_tcp_listeners(port, host=host, backlog=backlog))
        return [await _shared(host, port, backlog)]
    except OSError as error:
        raise Unreachable(f"cannot listen on {where}: {_reason(error)}") from None


async def _shared(host: str, port: int, backlog: int) -> trio.SocketListener:
    family, kind, protocol, _, address = (
        await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM, flags=trio.socket.AI_PASSIVE)
    )[0]
    listening = trio.socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEADDR, 1)
        listening.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEPORT, 1)
        await listening.bind(address)
        listening.listen(backlog)
    except BaseException:
        listening.close()
        raise
    return trio.SocketListener(listening)


async def connect(where: str) -> trio.SocketStream:
    """Connect to one multiaddr.

    Raises:
        Unreachable: refused, no route, no such name.
    """
    host, port = host_and_port(where)
    if port == 0:
        raise Unreachable(f"{where}: port 0 cannot be dialled")
    try:
        return await trio.open_tcp_stream(host, port)
    except OSError as error:
        raise Unreachable(f"{where}: {_reason(error)}") from None


def _reason(error: OSError) -> str:
    while isinstance(error.__cause__, OSError):  # trio wraps the reason once more
        error = error.__cause__
    if isinstance(error.__cause__, BaseExceptionGroup) and isinstance(error.__cause__.exceptions[0], OSError):
        error = error.__cause__.exceptions[0]
    match error.errno:
        case errno.EADDRINUSE:
            return "the address is in use; is another node running?"
        case errno.EADDRNOTAVAIL:
            return "this machine has no such address"
        case errno.EACCES:
            return "this user may not use that port"
        case errno.ECONNREFUSED:
            return "connection refused; is the node running there?"
        case number if isinstance(error, socket.gaierror):
            return f"no such host name ({number})"
        case int(number):
            return os.strerror(number).lower()
        case _:
            return str(error)
