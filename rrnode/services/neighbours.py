"""Our neighbours: the peers that we have a channel with, living or about to (DESIGN 1)."""

from collections.abc import Callable, Iterator

from protocols.channel.state import Channel, Phase
from protocols.ids import ChannelId, PeerId
from protocols.payment.engine import Engine as MoneyEngine


def lives(channel: Channel) -> bool:
    """Whether a channel still needs its neighbour."""
    return channel.phase not in (Phase.FORCED, Phase.CLOSED)


class Neighbours:
    """Read off the money engine at first, then kept as it tells of each channel that has changed.

    Args:
        engine: to read from.
        gained: called with a peer that has become a neighbour.
        lost: called with a peer of whose channels none lives any more, at every change of one of them.
    """

    def __init__(
        self, engine: MoneyEngine, *, gained: Callable[[PeerId], None], lost: Callable[[PeerId], None]
    ) -> None:
        self._engine, self._gained, self._lost = engine, gained, lost
        self._peers = {channel.peer for channel in engine.channels() if lives(channel)}
        # Of every channel in memory, for when one is forgotten.
        self._peer_of = {channel.channel_id: channel.peer for channel in engine.channels()}

    def __contains__(self, peer: PeerId) -> bool:
        return peer in self._peers

    def __iter__(self) -> Iterator[PeerId]:
        return iter(self._peers)

    def renamed(self, before: ChannelId) -> None:
        """A channel has got its permanent id; its change is told under that."""
        self._peer_of.pop(before, None)

    def changed(self, channel_id: ChannelId) -> None:
        """A channel is new, different, or forgotten."""
        channel = self._engine.channel(channel_id)
        if channel is None:
            peer = self._peer_of.pop(channel_id, None)
        else:
            peer = self._peer_of[channel_id] = channel.peer
        if peer is None:
            return
        if channel is not None and lives(channel):
            if peer not in self._peers:
                self._peers.add(peer)
                self._gained(peer)
        elif not any(lives(each) for each in self._engine.channels() if each.peer == peer):
            self._peers.discard(peer)
            self._lost(peer)
