"""Two channel engines over a pipe that delays, is cut and reconnected, and whose ends crash at any commit point.

A hypothesis state machine drives both; whatever happens, the money sums to the funding, signatures on disk are good, no
HTLC is both settled and failed, and once all is delivered both agree about every millisatoshi.
"""

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from protocols.channel.events import FailHtlc, HtlcFailed, HtlcFulfilled, HtlcOffered, HtlcReceived, SettleHtlc
from protocols.channel.state import undecided
from protocols.wire.channel import FailureCode

SIDES = st.sampled_from(["alice", "bob"])
CRASHES = st.sampled_from([""] * 14 + ["before", "after"])
COUNTS = st.sampled_from([99, 99, 1, 2, 3])


def machine_of(kit: Any) -> type[RuleBasedStateMachine]:
    class Machine(RuleBasedStateMachine):
        @initialize()
        def open(self) -> None:
            self.pair = kit.pair().open()
            self.start = self.pair.alice.balances.ours
            self.number = 0

        def node(self, side: str) -> Any:
            return getattr(self.pair, side)

        def down(self, node: Any) -> None:
            node.outbox.clear()
            node.restart()
            self.pair.cut()

        def run(self, node: Any, crash: str, *events: Any) -> None:
            try:
                node.batch(*events, crash=crash)
            except kit.Lost:
                self.down(node)

        @precondition(lambda self: self.pair.connected)
        @rule(side=SIDES, amounts=st.lists(st.integers(1, 60_000_000), min_size=1, max_size=3), crash=CRASHES)
        def offer(self, side: str, amounts: list[int], crash: str) -> None:
            node = self.node(side)
            events = [kit.offer(node.now, self.number + place, amount) for place, amount in enumerate(amounts)]
            self.number += len(amounts)
            self.run(node, crash, *events)

        @rule(side=SIDES, data=st.data(), crash=CRASHES)
        def decide(self, side: str, data: Any, crash: str) -> None:
            node = self.node(side)
            node = node if undecided(node.now) else self.pair.other(node)
            waiting = undecided(node.now)
            if not waiting:
                return
            chosen = data.draw(st.lists(st.sampled_from(waiting), min_size=1, max_size=4, unique=True))
            self.run(node, crash, *[self.decision(each, not data.draw(st.booleans())) for each in chosen])

        def decision(self, each: HtlcReceived, settled: bool) -> Any:
            ids = {"channel_id": each.channel_id, "htlc_id": each.htlc_id}
            if not settled:
                return FailHtlc(code=FailureCode.DOWNSTREAM_FAILED, **ids)
            numbers = {kit.hash_of(number): number for number in range(self.number)}
            return SettleHtlc(preimage=kit.preimage_of(numbers[each.payment_hash]), **ids)

        @rule(side=SIDES, counts=st.lists(COUNTS, min_size=1, max_size=6), crash=CRASHES)
        def deliver(self, side: str, counts: list[int], crash: str) -> None:
            """Some messages one way, some the other, and so on; the last batch may end in a crash."""
            sender = self.node(side)
            for place, count in enumerate(counts):
                receiver = self.pair.other(sender)
                messages = [sender.outbox.popleft() for _ in range(min(count, len(sender.outbox)))]
                events = [self.pair.event(receiver, kit.decode(each)) for each in messages]
                self.run(receiver, crash if place == len(counts) - 1 else "", *events)
                sender = receiver

        @rule(kind=st.sampled_from(["cut", "restart", "replaced"]), side=SIDES, again=st.integers(0, 4))
        def trouble(self, kind: str, side: str, again: int) -> None:
            """The stream ends, or a node does, or a newer stream takes the place of one whose end nobody saw."""
            if kind == "cut":
                self.pair.cut()
            elif kind == "restart":
                self.down(self.node(side))
            if kind == "replaced" or again:
                self.pair.connect()

        @precondition(lambda self: not self.pair.connected)
        @rule()
        def connect(self) -> None:
            self.pair.connect()

        @invariant()
        def money_is_whole(self) -> None:
            for node in (self.pair.alice, self.pair.bob):
                held = node.balances
                assert held.ours + held.theirs + held.offered + held.received == kit.capacity * 1000
                assert min(held.ours, held.theirs) >= 0
                kit.holds_signatures(node)
                assert sorted(node.revoked) == list(range(node.now.their_commitment.number))

        @invariant()
        def nothing_is_told_twice(self) -> None:
            for node in (self.pair.alice, self.pair.bob):
                offered = [each.reference for each in node.told if isinstance(each, HtlcOffered)]
                ended = [each.payment_hash for each in node.told if isinstance(each, HtlcFulfilled | HtlcFailed)]
                taken = {each.payment_hash for each in node.received()}
                assert len(set(offered)) == len(offered)
                assert len(set(ended)) == len(ended)
                assert taken.isdisjoint(ended)

        def teardown(self) -> None:
            if not hasattr(self, "pair"):
                return
            self.pair.connect()
            self.pair.quiet()
            self.pair.agree()
            for place, node in enumerate((self.pair.alice, self.pair.bob)):
                node.batch(*[self.decision(each, place == 0) for each in undecided(node.now)])
            self.pair.quiet()
            self.pair.agree()
            alice, bob = self.pair.alice, self.pair.bob
            assert alice.now.htlcs == ()
            paid = {
                node.me: [each.payment_hash for each in node.told if isinstance(each, HtlcFulfilled)]
                for node in (alice, bob)
            }
            amounts = {each.payment_hash: each.amount for node in (alice, bob) for each in node.received()}
            spent = sum(amounts[each] for each in paid[alice.me])
            earned = sum(amounts[each] for each in paid[bob.me])
            assert alice.balances.ours == self.start - spent + earned
            for node in (alice, bob):
                offered = [each for each in node.told if isinstance(each, HtlcOffered)]
                ended = [each for each in node.told if isinstance(each, HtlcFulfilled | HtlcFailed)]
                assert len(offered) == len(ended)

    return Machine


@pytest.mark.parametrize("steps", [12, 50])
def test_whatever_happens_to_the_pipe_and_the_nodes_no_money_is_lost_and_both_agree(kit: Any, steps: int) -> None:
    run_state_machine_as_test(
        machine_of(kit),
        settings=settings(
            max_examples=60 if steps < 20 else 25,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
