"""Who is a neighbour, as channels come, end and are forgotten; the engine is a table of channels."""

from dataclasses import replace
from typing import Any

import pytest
from services_kit import channel

from protocols.channel.state import Channel, Phase
from protocols.ids import ChannelId, PeerId
from rrnode.services.neighbours import Neighbours

ANN, BOB = PeerId(b"\x02" * 33), PeerId(b"\x03" * 33)


class Table:
    """The engine's channels, and what was told of neighbours."""

    def __init__(self, *channels: Channel) -> None:
        self.known = {each.channel_id: each for each in channels}
        self.told: list[tuple[str, PeerId]] = []
        engine: Any = self
        self.neighbours = Neighbours(
            engine,
            gained=lambda peer: self.told.append(("gained", peer)),
            lost=lambda peer: self.told.append(("lost", peer)),
        )

    def channels(self) -> tuple[Channel, ...]:
        return tuple(self.known.values())

    def channel(self, channel_id: ChannelId) -> Channel | None:
        return self.known.get(channel_id)

    def put(self, changed: Channel) -> None:
        self.known[changed.channel_id] = changed
        self.neighbours.changed(changed.channel_id)

    def forget(self, known: Channel) -> None:
        del self.known[known.channel_id]
        self.neighbours.changed(known.channel_id)


def test_only_peers_with_a_living_channel_are_neighbours_at_the_start() -> None:
    table = Table(channel(1, ANN), channel(2, BOB, Phase.FORCED), channel(3, BOB, Phase.CLOSED))
    assert (list(table.neighbours), ANN in table.neighbours, BOB in table.neighbours) == ([ANN], True, False)
    assert table.told == []


def test_a_peer_is_gained_with_its_first_channel_only() -> None:
    table = Table()
    table.put(channel(1, ANN, Phase.ACCEPTED))
    table.put(channel(1, ANN))
    table.put(channel(2, ANN))
    assert table.told == [("gained", ANN)]
    assert list(table.neighbours) == [ANN]


@pytest.mark.parametrize("phase", [Phase.FORCED, Phase.CLOSED])
def test_a_peer_is_lost_when_the_last_of_its_channels_has_ended(phase: Phase) -> None:
    first, second = channel(1, ANN), channel(2, ANN)
    table = Table(first, second, channel(3, BOB))
    table.put(replace(first, phase=phase))
    assert (table.told, ANN in table.neighbours) == ([], True)
    table.put(replace(second, phase=phase))
    assert table.told == [("lost", ANN)]
    assert list(table.neighbours) == [BOB]


def test_a_peer_is_lost_when_its_only_channel_is_forgotten() -> None:
    known = channel(1, ANN, Phase.ACCEPTED)
    table = Table(known)
    table.forget(known)
    table.neighbours.changed(known.channel_id)  # told once more, of a channel that nobody knows any more
    assert table.told == [("lost", ANN)]
    assert list(table.neighbours) == []


def test_a_channel_that_got_its_permanent_id_keeps_its_peer() -> None:
    temporary, permanent = channel(1, ANN, Phase.FUNDING), channel(2, ANN, Phase.SIGNING)
    table = Table(temporary)
    table.neighbours.renamed(temporary.channel_id)
    del table.known[temporary.channel_id]
    table.put(permanent)
    assert (table.told, list(table.neighbours)) == ([], [ANN])
    table.forget(permanent)
    table.neighbours.changed(temporary.channel_id)  # nobody is known by this id any more
    assert table.told == [("lost", ANN)]
