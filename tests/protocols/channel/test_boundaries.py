"""One scripted life of a channel, interrupted at every single batch, in every way: BOLT 2's retransmission, exhaustively.

The script: HTLCs both ways at once, some settled, some failed, more on top, then a close together. It is run once
undisturbed to count its batches, then once per batch and kind of interruption; each time it must end the same way.
"""

from typing import Any

import pytest

from protocols.channel.engine import handle
from protocols.channel.events import (
    BuildFunding,
    CloseRequested,
    FailHtlc,
    FundingBuilt,
    HtlcFailed,
    HtlcFulfilled,
    HtlcOffered,
    MessageReceived,
    Publish,
    Purpose,
    SettleHtlc,
    TipChanged,
    TxConfirmed,
)
from protocols.channel.state import Phase, undecided
from protocols.wire.channel import FailureCode, OpenChannel

FAULTS = ("cut", "before", "after", "both down")
ORDERS = ("alice first", "bob first", "in turn")


class Script:
    """Runs the script; interrupts batch `at` in the way of `fault`."""

    def __init__(self, kit: Any, order: str, fault: str = "", at: int = -1) -> None:
        self.kit, self.order, self.fault, self.at = kit, order, fault, at
        self.pair = kit.pair().open()
        self.start = self.pair.alice.balances.ours
        self.count = 0
        self.turn = False

    def step(self, node: Any, *events: Any) -> None:
        self.count += 1
        if self.count - 1 != self.at:
            node.batch(*events)
            return
        try:
            node.batch(*events, crash=self.fault if self.fault in ("before", "after") else "")
        except self.kit.Lost:
            node.restart()
        if self.fault == "both down":
            self.pair.alice.restart()
            self.pair.bob.restart()
        self.pair.cut()
        self.pair.connect()

    def go(self) -> "Script":
        alice, bob = self.pair.alice, self.pair.bob
        self.offer(alice, 1, 2)
        self.offer(bob, 11, 12)
        self.talk(6)
        self.offer(alice, 3, 4)
        self.talk(3)
        self.offer(bob, 13, 14)
        self.talk(9)
        self.step(alice, CloseRequested(channel_id=alice.now.channel_id, force=False))
        self.talk(1000)
        if alice.now.phase is not Phase.CLOSING:  # the order was lost with a crash before its commit
            self.step(alice, CloseRequested(channel_id=alice.now.channel_id, force=False))
            self.talk(1000)
        return self

    def offer(self, node: Any, *numbers: int) -> None:
        self.step(node, *[self.kit.offer(node.now, number, 1_000_000 * number + 1) for number in numbers])

    def talk(self, turns: int) -> None:
        for _ in range(turns):
            speaker = self.speaker()
            if speaker is None:
                return
            receiver = self.pair.other(speaker)
            message = self.kit.decode(speaker.outbox.popleft())
            self.step(receiver, self.pair.event(receiver, message))
            for node in (self.pair.alice, self.pair.bob):
                if waiting := undecided(node.now):
                    self.step(node, *map(self.decision, waiting))

    def speaker(self) -> Any:
        first, second = self.pair.alice, self.pair.bob
        if self.order == "bob first" or (self.order == "in turn" and self.turn):
            first, second = second, first
        self.turn = not self.turn
        return first if first.outbox else second if second.outbox else None

    def decision(self, each: Any) -> Any:
        number = next(number for number in range(20) if self.kit.hash_of(number) == each.payment_hash)
        ids = {"channel_id": each.channel_id, "htlc_id": each.htlc_id}
        if number % 2:
            return SettleHtlc(preimage=self.kit.preimage_of(number), **ids)
        return FailHtlc(code=FailureCode.DOWNSTREAM_FAILED, **ids)

    def ended_well(self) -> None:
        alice, bob = self.pair.alice, self.pair.bob
        assert (alice.now.phase, bob.now.phase) == (Phase.CLOSING, Phase.CLOSING)
        paid = {}
        for node in (alice, bob):
            offered = [each for each in node.told if isinstance(each, HtlcOffered)]
            settled = [each.payment_hash for each in node.told if isinstance(each, HtlcFulfilled)]
            failed = [each.payment_hash for each in node.told if isinstance(each, HtlcFailed)]
            assert len(set(settled + failed)) == len(settled + failed) == len(offered)
            paid[node.me] = sum(1_000_000 * number + 1 for number in range(20) if self.kit.hash_of(number) in settled)
            assert not [number for number in range(0, 20, 2) if self.kit.hash_of(number) in settled]
            assert sorted(node.revoked) == list(range(node.now.their_commitment.number))
            published = [e for e in node.done if isinstance(e, Publish) and e.purpose is Purpose.MUTUAL_CLOSE]
            assert published
        assert alice.balances.ours == self.start - paid[alice.me] + paid[bob.me]
        self.pair.agree()


@pytest.mark.parametrize("order", ORDERS)
def test_undisturbed_everything_odd_is_paid_and_the_channel_closes(kit: Any, order: str) -> None:
    script = Script(kit, order).go()
    script.ended_well()
    assert script.pair.alice.balances.ours == 600_000_000 - 4_000_002 + 24_000_002


@pytest.mark.parametrize("order", ORDERS[1:])
@pytest.mark.parametrize("fault", FAULTS)
def test_interrupted_at_any_batch_it_ends_as_if_nothing_had_happened(kit: Any, order: str, fault: str) -> None:
    batches = Script(kit, order).go().count
    for at in range(batches):
        script = Script(kit, order, fault, at).go()
        try:
            script.ended_well()
        except AssertionError as error:
            raise AssertionError(f"interrupted at batch {at} of {batches}") from error


# --- opening ---------------------------------------------------------------------------------------------------------


class Opening:
    """Opens a channel, batch by batch, and starts over as often as the opening came to nothing."""

    def __init__(self, kit: Any, fault: str = "", at: int = -1) -> None:
        self.kit, self.fault, self.at = kit, fault, at
        self.pair = kit.pair()
        self.pair.connected = True
        self.count = 0

    def step(self, node: Any, *events: Any) -> None:
        Script.step(self, node, *events)  # type: ignore[arg-type]

    def go(self) -> "Opening":
        for _ in range(3):
            if self.pair.alice.channel is None:
                assert self.pair.bob.channel is None
                self.pair.alice.done.clear()
                self.step(self.pair.alice, self.kit.request())
            self.talk()
            if self.pair.alice.channel is not None and self.pair.alice.now.phase is Phase.FUNDING:
                order = next(each for each in self.pair.alice.done if isinstance(each, BuildFunding))
                transaction = self.kit.funding_of(order.script, order.amount)
                self.step(
                    self.pair.alice,
                    FundingBuilt(channel_id=order.channel_id, transaction=transaction, output_index=1),
                )
                self.talk()
        for node in (self.pair.alice, self.pair.bob):
            for height in (1000, 1001, 1002):
                node.tip = height
                transaction = self.pair.alice.now.funding_transaction
                txid = node.now.funding.txid
                self.step(node, TxConfirmed(txid=txid, height=1000, transaction=transaction), TipChanged())
                self.talk()
        for node in (self.pair.alice, self.pair.bob):  # a follower that was interrupted tells again
            transaction, txid = self.pair.alice.now.funding_transaction, node.now.funding.txid
            node.batch(TxConfirmed(txid=txid, height=1000, transaction=transaction), TipChanged())
        self.talk()
        return self

    def talk(self) -> None:
        while self.pair.alice.outbox or self.pair.bob.outbox:
            for node in (self.pair.alice, self.pair.bob):
                if node.outbox:
                    receiver = self.pair.other(node)
                    message = self.kit.decode(node.outbox.popleft())
                    key_index = 5 if isinstance(message, OpenChannel) else None
                    event = MessageReceived(peer=receiver.peer, message=message, key_index=key_index)
                    known = receiver.channel
                    if known is not None and id_in(message) != known.channel_id:
                        step = handle(None, event, receiver.env)  # what the runtime does with an unknown id
                        receiver.perform(step.effects)
                    else:
                        self.step(receiver, event)


def id_in(message: Any) -> bytes:
    return getattr(message, "temporary_channel_id", b"") or message.channel_id


@pytest.mark.parametrize("fault", FAULTS)
def test_an_opening_interrupted_at_any_batch_ends_open_or_never_was(kit: Any, fault: str) -> None:
    batches = Opening(kit).go().count
    for at in range(batches):
        pair = Opening(kit, fault, at).go().pair
        assert (pair.alice.now.phase, pair.bob.now.phase) == (Phase.OPEN, Phase.OPEN), f"interrupted at batch {at}"
        pair.agree()
        pair.alice.batch(kit.offer(pair.alice.now, 1))
        pair.quiet()
        assert len(pair.bob.received()) == 1
