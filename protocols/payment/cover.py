"""Waiting for watchers: a channel takes on nothing new before enough of them hold what its neighbour revoked (DESIGN 7).

What waits is what raises the value of cheating, and nothing else:

- An HTLC of theirs that became irrevocable is neither claimed nor carried on. The revocation that made it so ended a state in
  which its amount was still theirs; once we pay for it, publishing that state robs us of it.
- No HTLC of ours is offered: each makes more states that they will revoke.

Commitments are signed and revoked all the same. An HTLC that is in one commitment only can be neither settled nor failed, so
its offerer would have to close by force at its expiry; and what is settled, failed or shut down travels under those
signatures. So all that is locked already ends as if there were no watchers.

Nothing of this is stored. A restart begins as if no watcher held anything; the runtime tells what the receipts say, and the
channels tell again of each HTLC that nobody decided.
"""

from protocols.channel.events import HtlcReceived, Refusal
from protocols.channel.state import Channel
from protocols.ids import ChannelId, PaymentHash
from protocols.payment.events import HtlcRef
from protocols.units import UnixTime


class Cover:
    """How far each channel is covered, and what waits for it.

    Args:
        needed: whether channels wait at all.
        patience: seconds without news from watchers after which a channel is late: nothing waits any more, all is refused.
            Others have money locked up for what waits here.

    Attributes:
        late: channels that are.
    """

    def __init__(self, *, needed: bool, patience: int) -> None:
        self._needed, self._patience = needed, patience
        self._held: dict[ChannelId, int] = {}
        self._since: dict[ChannelId, UnixTime] = {}  # of each channel that is behind: when it fell behind or had news
        # No more than fit their channels; and no more than live at once (`max_payments`, `max_live_forwards`).
        self._received: dict[ChannelId, dict[HtlcRef, tuple[int, HtlcReceived]]] = {}
        self._asking: dict[HtlcRef | PaymentHash, None] = {}
        self.late: set[ChannelId] = set()

    def refusal(self, channel: Channel) -> Refusal | None:
        """Why nothing new may be taken on now; None when it may."""
        if not self._needed or self._held.get(channel.channel_id, 0) >= channel.their_secrets.count:
            return None
        return Refusal.UNCOVERED if channel.channel_id in self.late else Refusal.NOT_COVERED_YET

    def behind(self, channel_id: ChannelId, now: UnixTime) -> None:
        """Another state was revoked, or we know nothing after a restart."""
        if self._needed:
            self._since.setdefault(channel_id, now)

    def told(self, channel: Channel, states: int, now: UnixTime) -> None:
        """What watchers hold has changed; they may also have lost something."""
        channel_id = channel.channel_id
        if states >= channel.their_secrets.count:
            self._since.pop(channel_id, None)
            self.late.discard(channel_id)
        elif states > self._held.get(channel_id, 0):
            self._since[channel_id] = now
            self.late.discard(channel_id)
        else:
            self._since.setdefault(channel_id, now)
        self._held[channel_id] = states

    def overdue(self, now: UnixTime) -> list[ChannelId]:
        """Channels that are late from now on; each is given once."""
        found = [
            channel_id
            for channel_id, since in self._since.items()
            if now >= since + self._patience and channel_id not in self.late
        ]
        self.late.update(found)
        return found

    def forget(self, channel_id: ChannelId) -> None:
        """The channel has ended."""
        self._held.pop(channel_id, None)
        self._since.pop(channel_id, None)
        self._received.pop(channel_id, None)
        self.late.discard(channel_id)

    # --- what waits ---------------------------------------------------------------------------------------------------

    def keep(self, channel: Channel, incoming: HtlcRef, htlc: HtlcReceived) -> None:
        """An HTLC of theirs waits for what has been revoked so far; what is revoked later is not its business."""
        waiting = self._received.setdefault(channel.channel_id, {})
        waiting.setdefault(incoming, (channel.their_secrets.count, htlc))

    def ready(self, channel_id: ChannelId) -> list[tuple[HtlcRef, HtlcReceived]]:
        """HTLCs of theirs that need not wait any more, or, on a late channel, in vain; each is given once."""
        held, waiting = self._held.get(channel_id, 0), self._received.get(channel_id, {})
        over = [
            (incoming, htlc) for incoming, (needs, htlc) in waiting.items() if needs <= held or channel_id in self.late
        ]
        for incoming, _ in over:
            del waiting[incoming]
        return over

    def ask_again(self, reference: HtlcRef | PaymentHash) -> None:
        """A forward, named by its incoming HTLC, or a payment of ours found only channels that wait."""
        self._asking[reference] = None

    def asking(self) -> list[HtlcRef | PaymentHash]:
        """Those; each is given once."""
        waiting = list(self._asking)
        self._asking.clear()
        return waiting

    def is_asking(self, reference: HtlcRef | PaymentHash) -> bool:
        """Whether it waits."""
        return reference in self._asking
