"""`tools.probe` against nodes on a memory network and on loopback; nodes that say little; and identify messages that are none."""

import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from bootstrap.networks import REGTEST
from protocols.errors import DecodeError
from protocols.units import UnixTime
from rrnode.config.settings import InfoSettings, NodeSettings, RoleSettings, Settings
from rrnode.host.base import Host
from rrnode.host.libp2p import LibP2PHost
from rrnode.host.memory import MemoryHost, MemoryNetwork
from rrnode.host.peer_text import peer_of, to_text
from rrnode.services.info import InfoServer, OwnRecord
from tools.probe import Identified, as_document, in_words, probe, read_identify

SECRET, OURS = b"\x51" * 32, b"\x52" * 32
NOW = 1_800_000_000
ROOT = Path(__file__).parents[2]


def serve(host: Host, *, ahead: int = 0) -> None:
    settings = Settings(
        data_dir=Path("/nowhere"),
        node=NodeSettings(operator="Ann"),
        roles=RoleSettings(route=True, watch=True),
        info=InfoSettings(channels="capacity"),
    )

    def now() -> UnixTime:
        return UnixTime(NOW + ahead)

    own = OwnRecord(settings=settings, secret=SECRET, agent="rrnode/9", host=host, channels=tuple, now=now)
    InfoServer(host=host, own=own, others=lambda after, most: ((), False), now=now)


@asynccontextmanager
async def both(*, info: bool = True, ahead: int = 0) -> AsyncIterator[tuple[Host, Host]]:
    """The node and ourselves."""
    network = MemoryNetwork(delay=0.02)
    node = MemoryHost(
        SECRET, network=network, genesis=REGTEST.genesis, switches=5, agent="rrnode/9\x1b", listen=("/memory/0",)
    )
    if info:
        serve(node, ahead=ahead)
    us = MemoryHost(OURS, network=network, genesis=REGTEST.genesis)
    async with node.running(), us.running():
        yield node, us


async def test_a_node_is_told_in_words(autojump_clock: Any) -> None:
    async with both(ahead=-20) as (node, us):
        found = await probe(us, node.addresses()[0], REGTEST, clock=lambda: NOW + 0.5)
    words = dict(in_words(found, NOW + 100))
    assert words == {
        "node": to_text(node.peer_id),
        "address": f"/memory/1/p2p/{to_text(node.peer_id)}",
        "answers": "yes: dial 100 ms, round trip 0.0 ms",
        "program": "rrnode/9\x1b",
        "operator": "Ann (its own word)",
        "does for others": "routes payments and serves subscriptions; watches over channels",
        "protocols": "/rr/info/1, /rr/link/1",
        "of libp2p": "",
        "connections": "does not relay those of others",
        "clock": "20 s behind ours",
        "record": "signed 2 min ago",
        "announces": "/memory/1",
        "channels": "tells of none",
        "other servers": "knows 0",
        "sees us as": "",
    }


async def test_a_clock_that_is_too_far_off_is_said_to_be(autojump_clock: Any) -> None:
    async with both(ahead=-45) as (node, us):
        found = await probe(us, node.addresses()[0], REGTEST, clock=lambda: NOW + 0.5)
    assert dict(in_words(found, NOW))["clock"] == "45 s behind ours, too far for offers to be understood"
    async with both(ahead=45) as (node, us):
        found = await probe(us, node.addresses()[0], REGTEST, clock=lambda: NOW + 0.5)
    words = dict(in_words(found, NOW))
    assert words["record"] == (
        "none: its record counts for nothing: it is dated in the future; one of the clocks is wrong"
    )


async def test_a_node_that_says_nothing_of_itself_is_told_of_all_the_same(autojump_clock: Any) -> None:
    async with both(info=False) as (node, us):
        found = await probe(us, node.addresses()[0], REGTEST)
    words = dict(in_words(found, NOW))
    assert words["answers"] == "yes: dial 100 ms"
    assert (words["operator"], words["protocols"], words["clock"]) == ("not declared", "/rr/link/1", "")
    assert words["record"] == f"none: {to_text(node.peer_id)} does not speak /rr/info/1"
    document = as_document(found)
    assert (document["record"], document["round_trip_ms"], document["known_servers"]) == (None, None, None)


async def test_a_node_on_libp2p_identifies_itself_and_sees_us() -> None:
    node = LibP2PHost(SECRET, genesis=REGTEST.genesis, switches=1, listen=("/ip4/127.0.0.1/tcp/0",))
    serve(node)
    us = LibP2PHost(OURS, genesis=REGTEST.genesis)
    with trio.fail_after(60):
        async with node.running(), us.running():
            found = await probe(us, node.addresses()[0], REGTEST, clock=lambda: NOW)
    assert found.identified is not None
    assert found.identified.observed.startswith("/ip4/127.0.0.1/tcp/")
    assert {"/rr/info/1", "/rr/link/1", "/ipfs/id/1.0.0"} <= set(found.protocols)
    document = as_document(found)
    assert (document["roles"], document["relays_connections"]) == (["route"], False)
    assert document["record"]["operator"] == "Ann"
    relaying = replace(found, protocols=("/libp2p/circuit/relay/0.2.0/hop",))
    assert dict(in_words(relaying, NOW))["connections"] == "relays those of others (circuit relay)"


def field(number: int, value: bytes) -> bytes:
    return bytes([number << 3 | 2, len(value)]) + value


def test_an_identify_message_is_read() -> None:
    message = field(1, b"key") + field(3, b"/a/1") + bytes([0x38, 0x85, 1]) + field(3, b"/b/1") + field(6, b"x/1")
    message += field(4, bytes.fromhex("047f000001060050"))
    assert read_identify(message) == Identified(
        agent="x/1", protocols=("/a/1", "/b/1"), observed="/ip4/127.0.0.1/tcp/80"
    )
    assert read_identify(field(4, b"\xff\xff")).observed == ""
    assert read_identify(b"") == Identified()


@given(st.binary(max_size=100))
def test_garbage_is_no_identify_message(message: bytes) -> None:
    try:
        read_identify(message)
    except DecodeError:
        return


@pytest.mark.parametrize("message", [b"\x0a", b"\x0a\x05abc", b"\x80", b"\x0d1234", b"\xff" * 20])
def test_what_ends_too_early_or_is_of_another_kind_is_named(message: bytes) -> None:
    with pytest.raises(DecodeError, match="identify"):
        read_identify(message)


async def test_ctrl_c_ends_it_with_one_word() -> None:
    """Against an address that takes the connection and never answers."""
    (silent,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = silent.socket.getsockname()[1]
    address = f"/ip4/127.0.0.1/tcp/{port}/p2p/{to_text(peer_of(SECRET))}"
    command = [sys.executable, "-m", "tools.probe", address]
    process = await trio.lowlevel.open_process(command, stderr=subprocess.PIPE, cwd=ROOT)
    assert process.stderr is not None
    try:
        with trio.fail_after(60):
            connection = await silent.accept()
            process.send_signal(signal.SIGINT)
            said = await process.stderr.receive_some()
            assert await process.wait() == 130
            await connection.aclose()
    finally:
        process.kill()
        await silent.aclose()
    assert said == b"interrupted\n"
