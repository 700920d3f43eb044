"""What only the libp2p host has: sockets, other libp2p programs, nothing that is dialled or stored unasked."""

import errno
import ipaddress
import random
import socket
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.lowlevel
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair as ed25519_key
from libp2p.host.ping import ID as PING
from libp2p.identity.identify.identify import ID as IDENTIFY
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.peer.peerstore import PeerStoreError
from multiaddr import Multiaddr

from protocols.wire.framing import frame
from rrnode.errors import Unreachable
from rrnode.host import sockets
from rrnode.host.base import FrameStream, HostConfig
from rrnode.host.libp2p import LibP2PHost, key_pair, to_libp2p
from rrnode.host.peer_text import split_address, to_text

CONFIG = HostConfig(hello_timeout=1.0, close_timeout=1.0, crossing_wait=0.1)


def host(number: int, *listen: str, announce: tuple[str, ...] = ()) -> LibP2PHost:
    return LibP2PHost(
        number.to_bytes(32, "big"), genesis=bytes(32), listen=listen, announce=announce, config=CONFIG
    )  # fmt: skip


async def echo(stream: FrameStream) -> None:
    while True:
        await stream.send(await stream.receive())


async def test_the_kernel_watches_every_connection_too() -> None:
    one, other = host(1), host(2, "/ip4/127.0.0.1/tcp/0")
    async with other.running(), one.running():
        await one.dial(other.addresses()[0])
        for link in (*one._all.values(), *other._all.values()):
            plain = link.connection._below.socket  # type: ignore[attr-defined]
            assert plain.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert plain.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                assert plain.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == sockets.USER_TIMEOUT


async def test_a_link_says_from_where_it_came() -> None:
    one, other = host(1), host(2, "/ip4/127.0.0.1/tcp/0")
    async with other.running(), one.running():
        await one.dial(other.addresses()[0])
        (theirs,) = one._links.values()
        (ours,) = other._links.values()
        assert theirs.connection.remote_address == split_address(other.addresses()[0])[0]
        assert ours.connection.remote_address.startswith("/ip4/127.0.0.1/tcp/")


async def test_ip6_works_like_ip4() -> None:
    one, other = host(1), host(2, "/ip6/::1/tcp/0")
    try:
        async with other.running(), one.running():
            assert await one.dial(other.addresses()[0]) == other.peer_id
            (ours,) = other._links.values()
            assert ours.connection.remote_address.startswith("/ip6/::1/tcp/")
    except Unreachable as error:
        pytest.skip(f"no IPv6 here: {error}")


async def test_two_hosts_do_not_share_a_port() -> None:
    one = host(1, "/ip4/127.0.0.1/tcp/0")
    async with one.running():
        other = host(2, split_address(one.addresses()[0])[0])
        with pytest.raises(Unreachable, match="is in use; is another node running"):
            async with other.running():
                pass


async def test_processes_of_one_identity_may_share_a_port_and_each_gets_some_of_the_connections() -> None:
    sharing = replace(CONFIG, share_port=True)
    one = LibP2PHost(bytes(31) + b"\x07", genesis=bytes(32), listen=("/ip4/127.0.0.1/tcp/0",), config=sharing)
    async with one.running():
        (address,) = one.addresses()
        other = LibP2PHost(bytes(31) + b"\x07", genesis=bytes(32), listen=(split_address(address)[0],), config=sharing)
        async with other.running(), AsyncExitStack() as stack:
            for number in range(20, 44):  # that all meet one of the two has a chance of one in millions
                client = host(number)
                await stack.enter_async_context(client.running())
                await client.dial(address)
            assert len(one.connected()) + len(other.connected()) == 24
            assert one.connected()
            assert other.connected()


async def test_a_failure_to_listen_frees_what_was_bound_before() -> None:
    free = socket.socket()
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
    free.close()
    broken = host(1, f"/ip4/127.0.0.1/tcp/{port}", "/ip4/203.0.113.1/tcp/1")
    with pytest.raises(Unreachable, match="no such address"):
        async with broken.running():
            pass
    async with host(2, f"/ip4/127.0.0.1/tcp/{port}").running():
        pass


async def test_an_unspecified_address_is_shown_as_ones_that_can_be_dialled() -> None:
    one, other = host(1), host(2, "/ip4/0.0.0.0/tcp/0")
    async with other.running(), one.running():
        places = [split_address(address)[0] for address in other.addresses()]
        assert "0.0.0.0" not in "".join(places)
        assert places[-1].startswith("/ip4/127.0.0.1/tcp/")
        assert all(not ipaddress.ip_address(place.split("/")[2]).is_unspecified for place in places)
        await one.dial(other.addresses()[-1])


async def test_announced_addresses_are_shown_in_place_of_our_own() -> None:
    one = host(1, "/ip4/127.0.0.1/tcp/0", announce=("/dns4/node.example/tcp/9",))
    async with one.running():
        assert one.addresses() == (f"/dns4/node.example/tcp/9/p2p/{to_text(one.peer_id)}",)
        assert [str(address) for address in one._host.get_addrs()] == [one.addresses()[0]]


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("/ip4/127.0.0.1/udp/1", "is not of the form"),
        ("/ip4/::1/tcp/1", "is no ip4 address"),
        ("/ip4/localhost/tcp/1", "is no IP address"),
        ("/ip4/127.0.0.1/tcp/99999", "is no TCP port"),
        ("/ip4/127.0.0.1/tcp/-1", "is no TCP port"),
        ("/ip4/127.0.0.1/tcp/0", "cannot be dialled"),
        ("/dns4//tcp/1", "is not of the form"),
        ("/dns4/no-such-host.invalid/tcp/1", "no such host name"),
        ("/ip4/127.0.0.1/tcp/1/p2p-circuit", "is not of the form"),
    ],
)
async def test_addresses_that_cannot_be_dialled_say_why(where: str, words: str) -> None:
    with pytest.raises(Unreachable, match=words):
        await sockets.connect(where)


async def test_something_that_is_no_node_is_said_to_be_none() -> None:
    async def web_server(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, web_server, [listener])
        one = host(1)
        async with one.running():
            address = f"/ip4/127.0.0.1/tcp/{listener.socket.getsockname()[1]}/p2p/{to_text(host(2).peer_id)}"
            with pytest.raises(Unreachable, match="is no libp2p node with Noise and Yamux"):
                await one.dial(address)
            assert one._all == {}
        nursery.cancel_scope.cancel()


async def test_other_libp2p_programs_can_identify_and_ping_it_and_are_cut_without_a_hello() -> None:
    server = host(1, "/ip4/127.0.0.1/tcp/0")
    visitor: Any = new_host(key_pair=key_pair(b"\x09" * 32))
    async with server.running(), visitor.run([]):
        info = info_from_p2p_addr(Multiaddr(server.addresses()[0]))
        connection = await visitor.get_network().dial_addr(info.addrs[0], info.peer_id)
        ping = await visitor.new_stream(info.peer_id, [PING])
        await ping.write(bytes(32))
        assert await ping.read(32) == bytes(32)
        identify = await visitor.new_stream(info.peer_id, [IDENTIFY])
        assert b"/rr/link/1" in await identify.read(4096)
        with trio.fail_after(4):
            await connection.event_closed.wait()
        assert server.counters.refused_peers == 1
        await visitor.close()


async def test_a_peer_with_a_key_of_another_kind_is_cut() -> None:
    server = host(1, "/ip4/127.0.0.1/tcp/0")
    visitor: Any = new_host(key_pair=ed25519_key())
    async with server.running(), visitor.run([]):
        info = info_from_p2p_addr(Multiaddr(server.addresses()[0]))
        connection = await visitor.get_network().dial_addr(info.addrs[0], info.peer_id)
        with trio.fail_after(2):
            await connection.event_closed.wait()
        assert (server.counters.refused_peers, server._all) == (1, {})
        await visitor.close()


async def test_reads_and_writes_that_are_given_up_at_any_moment_do_not_hurt_the_connection() -> None:
    one, other = host(1), host(2, "/ip4/127.0.0.1/tcp/0")
    other.handle("/test/echo/1", echo)
    randomness = random.Random(1)
    async with other.running(), one.running():
        peer = await one.dial(other.addresses()[0])
        raw: Any = await one._links[peer].connection.open("/test/echo/1")
        cancelled = sent = got = 0
        while cancelled < 300:
            with trio.move_on_after(randomness.uniform(0, 0.0006)) as scope:
                if sent == got:
                    await raw.write(frame(bytes(99)))
                    sent += 100
                got += len(await raw.read())
            cancelled += scope.cancelled_caught
            await trio.lowlevel.checkpoint()
        stream = await one.open_stream(peer, "/test/echo/1")
        await stream.send(b"x")
        assert await stream.receive() == b"x"


async def test_nothing_is_learnt_about_where_peers_say_they_are() -> None:
    one, other = host(1, "/ip4/127.0.0.1/tcp/0"), host(2, "/ip4/127.0.0.1/tcp/0")
    async with other.running(), one.running():
        await one.dial(other.addresses()[0])
        await trio.sleep(0.2)
        for ours, theirs in ((one, other), (other, one)):
            with pytest.raises(PeerStoreError):
                ours._host.get_peerstore().addrs(to_libp2p(theirs.peer_id))
            assert not ours._host._identify_inflight


def test_every_reason_of_the_machine_has_words() -> None:
    for number in (errno.EADDRINUSE, errno.EACCES, errno.ECONNREFUSED, errno.ENETUNREACH, errno.ETIMEDOUT):
        assert sockets._reason(OSError(number, "text"))
