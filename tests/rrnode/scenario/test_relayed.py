"""Who relays to whom, and what a client's contact says of it. Whole nodes over the memory host, which here keeps reservations
but carries no circuits; those are tested over libp2p."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import trio
from scenario_kit import World, eventually

from protocols.ids import PeerId
from rrnode.config.settings import HostSettings
from rrnode.errors import LinkClosed
from rrnode.host.memory import MemoryHost
from rrnode.host.peer_text import join_address, split_address, through

Relays = dict[PeerId, Callable[[PeerId], bool]]


@pytest.fixture
def relays(monkeypatch: pytest.MonkeyPatch) -> Relays:
    """Who relays, and for whom."""
    found: Relays = {}

    def relay_for(self: MemoryHost, admits: Callable[[PeerId], bool]) -> None:
        found[self.peer_id] = admits

    async def reserve(self: MemoryHost, peer: PeerId) -> float:
        await trio.lowlevel.checkpoint()
        if peer not in found or not found[peer](self.peer_id):
            raise LinkClosed("no relay")
        return 3600.0

    monkeypatch.setattr(MemoryHost, "relay_for", relay_for)
    monkeypatch.setattr(MemoryHost, "reserve", reserve)
    return found


async def test_a_server_relays_to_neighbours_and_their_contact_says_so_last(net: World, relays: Relays) -> None:
    server, client, stranger = await net.add("S"), await net.add("C", routes=False), await net.add("T", routes=False)
    await net.mine(101)
    await client.owner.connect(server.address)
    await net.channel(client, server)
    assert set(relays) == {server.node.us}
    admits = relays[server.node.us]
    assert (admits(client.node.us), admits(stranger.node.us)) == (True, False)
    await eventually("a reservation", lambda: client.node.initializations.relays == {server.node.us})
    relayed = join_address(through(*split_address(server.address)), client.node.us)
    assert client.node.paying.contact().servers == (server.address, relayed)


async def test_a_server_relays_to_nobody_when_its_owner_does_not_want_it(net: World, relays: Relays) -> None:
    await net.add("S", host=replace(HostSettings(), relay=False))
    assert relays == {}
