"""What a cheat's own disk remembers: old states of its channels, played again from the journal of its node.

No command of a node publishes a state that was revoked. But the journal holds everything that the node was told, with the
facts of each moment, so its engine can be led through all of it once more (DESIGN 3, CONVENTIONS). A cheat stops there and
puts that moment back on the disk of its node, as if it had restored an old copy; from then on the node acts in good faith.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from protocols.channel.commitments import spec_of
from protocols.channel.events import Purpose, StoreChannel
from protocols.channel.force import force_close_transactions
from protocols.channel.state import Channel, Phase
from protocols.ids import ChannelId
from protocols.onchain import tx
from protocols.onchain.commitment import CommitmentSpec
from protocols.payment.engine import Engine
from protocols.payment.events import Payment, Snapshot, StorePayment
from protocols.units import BlockHeight, Sat, floor_to_sat
from rrnode.config import load
from rrnode.control.text import txid_text
from rrnode.errors import UserError
from rrnode.keys import KeyTree, SeedFile
from rrnode.storage import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class OldState:
    """A commitment of ours that the other side has signed, and the moment in which it became the newest.

    Attributes:
        channel: as it was then.
        payments: of ours that were known then.
        txid: of the commitment, as explorers show it.
        htlc_index: of the output of what we had locked to them; None when nothing is.
        spec: what is in it; we are its broadcaster.
    """

    channel: Channel
    payments: tuple[Payment, ...]
    txid: str
    htlc_index: int | None
    spec: CommitmentSpec

    @property
    def number(self) -> int:
        """Counted from 0."""
        return self.spec.number

    @property
    def ours(self) -> Sat:
        """Our balance, HTLCs left out."""
        return floor_to_sat(self.spec.to_broadcaster)

    @property
    def theirs(self) -> Sat:
        """Their balance, likewise."""
        return floor_to_sat(self.spec.to_countersignatory)

    @property
    def in_flight(self) -> Sat:
        """What we had locked to them."""
        return Sat(sum(floor_to_sat(htlc.amount) for htlc in self.spec.htlcs if htlc.offered))

    @property
    def expiry(self) -> BlockHeight:
        """The height from which we may take all of that back; 0 when nothing is locked."""
        return BlockHeight(max((htlc.expiry for htlc in self.spec.htlcs if htlc.offered), default=0))


class Past:
    """What one node's journal leads to, from its last start on.

    Args:
        data_dir: of a node that was never started.
        flags: its settings from the command line.
    """

    def __init__(self, data_dir: Path, flags: Mapping[str, str]) -> None:
        self._settings = load(data_dir, environment=os.environ, flags=flags)
        self._keys = KeyTree(SeedFile(data_dir).read(), self._settings.network)
        self._begin, self._after = Snapshot(), 0  # what the last start began with, and the last journal line before it

    def put_back(self, channel_id: str, wanted: Callable[[OldState], bool]) -> OldState:
        """Put the first wanted state of a channel back on the disk of the node, which does not run; the chain's part stays.

        Raises:
            UserError: the journal does not lead to what is on disk, or to no such state.
        """
        store = Store.open(
            self._settings.storage_url, node_id=self._keys.node_id(), network=self._settings.node.network
        )
        try:
            old = next(filter(wanted, self._states(store, ChannelId(bytes.fromhex(channel_id)))), None)
            if old is None:
                raise UserError(f"the journal in {self._settings.data_dir} leads to no such state of the channel")
            store.commit((StoreChannel(channel=old.channel), *(StorePayment(payment=each) for each in old.payments)))
            self._begin, self._after = store.load().snapshot, store.mark()[0]
            return old
        finally:
            store.close()

    def _states(self, store: Store, channel_id: ChannelId) -> tuple[OldState, ...]:
        """Every commitment of ours that the journal leads to, oldest first."""
        found: dict[int, OldState] = {}
        engine = Engine(
            us=self._keys.node_id(),
            asset=self._settings.network.genesis,
            keys=self._keys.key_ring(),
            snapshot=self._begin,
            config=self._settings.engine_config(),
        )
        for number, line in enumerate(store.load_journal(after=self._after)):
            if number == 0:
                engine.resume(line.facts)
            engine.handle(line.event, line.facts)
            channel = engine.channel(channel_id)
            if channel is not None and channel.phase is Phase.OPEN and channel.our_number not in found:
                found[channel.our_number] = self._state(channel, engine)
        stored = next((each for each in store.load().snapshot.channels if each.channel_id == channel_id), None)
        led = engine.channel(channel_id)
        if stored is None or led is None or stored.our_number != led.our_number:
            raise UserError(f"the journal in {self._settings.data_dir} does not lead to the channel as it is on disk")
        return tuple(found.values())

    def _state(self, channel: Channel, engine: Engine) -> OldState:
        closing = force_close_transactions(channel, self._keys.key_ring()(channel.key_index))
        assert closing is not None  # what is open can be closed
        timeout = next((each for each in closing.htlcs if each.purpose is Purpose.HTLC_TIMEOUT), None)
        return OldState(
            channel=channel,
            payments=engine.payments(),
            txid=txid_text(tx.parse(closing.transaction).txid()),
            htlc_index=None if timeout is None else tx.parse(timeout.transaction).inputs[0].index,
            spec=spec_of(channel, channel.our_number, ours=True),
        )
