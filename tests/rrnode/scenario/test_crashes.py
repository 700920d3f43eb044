"""A node loses its power right before, and right after, every commit of open, update, forward and close, on both sides;
it comes back and goes on by itself. Then both ends agree, no millisatoshi is lost, and the payment has ended.

Whole nodes in one process: the power goes inside `Store.commit` or the wallet's, links break at once, and everything
that was not on the disk is gone. `tests/rrnode/crash` does the same to real processes with SIGKILL.
"""

import hashlib
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio
from scenario_kit import CALM, Actor, World, eventually
from trio.testing import MockClock

from protocols.channel.state import Channel, Phase, balances, is_usable
from protocols.payment.events import PayPhase, PromisePhase
from rrnode.control import models as m

Line = dict[str, Actor]
CAPACITY = 1_000_000  # satoshi of each channel
MOST_COMMITS = 80  # of one phase; more would mean that it never ends
PATIENCE = 100.0  # seconds of leaping time: whoever lost a neighbour often waits a minute before it dials again
STEPS = [13, pytest.param(1, marks=pytest.mark.slow)]  # from one death to the next: make test takes some of the commits
OPENINGS_EVERY = 11.0  # seconds of leaping time: a node takes no more from one peer
MOST_FEES = 60_000  # satoshi for the transactions of one channel's life


@pytest.fixture
async def line(net: World) -> Line:
    """A---B---C, everybody routes, every side holds something."""
    net.hosts = CALM
    actors = {name: await net.add(name) for name in "ABC"}
    await net.mine(101)
    await net.channel(actors["A"], actors["B"], CAPACITY, push_msat=300_000_000)
    await net.channel(actors["B"], actors["C"], CAPACITY, push_msat=300_000_000)
    return actors


async def at_every_commit(
    victim: Actor,
    phase: Callable[[], Awaitable[None]],
    check: Callable[[], Awaitable[None]],
    *,
    after: bool,
    step: int = 1,
) -> None:
    """Go through a phase again and again, the victim's power failing at its first commit, its second (with `step` 1), and
    so on, until it gets through. `check` follows each time, with the victim back."""
    for commit in range(1, MOST_COMMITS, step):
        victim.fuse.arm(commit, after=after)
        await phase()
        if not victim.fuse.blown:
            victim.fuse.disarm()
            assert victim.fuse.seen >= 1, "the phase committed nothing, so nothing was tried"
            await check()
            return
        await victim.gone()
        await victim.start()
        try:
            await check()
        except BaseException as error:
            error.add_note(f"{victim.name} was cut {'after' if after else 'before'} commit {commit}")
            raise
    raise AssertionError(f"more than {MOST_COMMITS} commits")


def mirrored(one: Actor, other: Actor) -> bool:
    """Whether both ends of their channel say the same, and all of it is there."""
    ours, theirs = one.channel_with(other), other.channel_with(one)
    if ours is None or theirs is None or ours.channel_id != theirs.channel_id:
        return False
    here, there = balances(ours), balances(theirs)
    assert here.ours + here.theirs + here.offered + here.received == ours.capacity * 1000
    return (here.ours, here.theirs) == (there.theirs, there.ours)


async def at_rest(line: Line, pairs: str = "AB BC") -> None:
    """Wait until every channel is usable again and holds no HTLC, and both ends agree."""
    for pair in pairs.split():
        one, other = line[pair[0]], line[pair[1]]
        for here, there in ((one, other), (other, one)):
            await here.until(f"{pair} to be usable", lambda here=here, there=there: here.usable(there), PATIENCE)
            idle = lambda here=here, there=there: not here.channel_with(there).htlcs  # noqa: E731
            await here.until(f"{pair} without HTLC", idle, PATIENCE)
        assert mirrored(one, other)
    for actor in line.values():
        await actor.attempt(partial(actor.takes_new_things_at, actor.node.following.height))


class Payments:
    """Pays again and again from one node to another, and keeps the books."""

    def __init__(self, line: Line, victim: str, payer: str, payee: str, amount: int) -> None:
        self.line, self.amount = line, amount
        self.victim, self.payer, self.payee = line[victim], line[payer], line[payee]
        self.ended = {PayPhase.PAID: 0, PayPhase.FAILED: 0, None: 0}

    def worth(self, actor: Actor) -> int:
        """What a node holds in all its channels."""
        return sum(balances(channel).ours for channel in actor.node.money.channels())

    async def pay(self) -> None:
        """One payment, until it has ended everywhere or the victim is gone."""
        self.before = {name: self.worth(actor) for name, actor in self.line.items()}
        self.known = {payment.payment_hash for payment in self.payer.node.money.payments()}
        contact = (await self.payee.owner.contact()).contact
        order = m.PayOrder(target=contact, amount_msat=self.amount, maximum_ms=2000)
        payer = self.payer
        answer = await payer.attempt(lambda: payer.owner.pay(order))
        assert not isinstance(answer, str), answer

        async def over() -> None:
            await payer.until("the payment to end", self._ended, PATIENCE)
            await at_rest(self.line)
            await self.line["B"].until("forwards to end", lambda: not self.line["B"].node.money.forwards(), PATIENCE)

        await self.victim.attempt(over)

    def _ended(self) -> bool:
        return not any(
            each.phase in (PayPhase.COLLECTING, PayPhase.LOCKED) for each in self.payer.node.money.payments()
        )

    async def check(self) -> None:
        """It has ended, and what moved is what was paid."""
        await self.payer.until("the payment to end", self._ended, PATIENCE)
        await at_rest(self.line)
        await self.line["B"].until("forwards to end", lambda: not self.line["B"].node.money.forwards(), PATIENCE)
        new = [each for each in self.payer.node.money.payments() if each.payment_hash not in self.known]
        assert len(new) <= 1
        sent = received = 0
        if new and new[0].phase is PayPhase.PAID:
            payment = new[0]
            assert payment.preimage is not None
            assert hashlib.sha256(payment.preimage).digest() == payment.payment_hash
            sent, received = payment.attempts[-1].amount, self.amount
        promise = self.payee.node.money.promise(new[0].payment_hash) if new else None
        claimed = promise is not None and promise.phase is PromisePhase.CLAIMED
        assert claimed == (received > 0), "the payee claimed what the payer does not know of, or the other way round"
        gains = {name: self.worth(actor) - self.before[name] for name, actor in self.line.items()}
        expected = dict.fromkeys(self.line, 0)
        expected[self.payer.name] -= sent
        expected[self.payee.name] += received
        if "B" not in (self.payer.name, self.payee.name):
            expected["B"] += sent - received
        assert gains == expected
        self.ended[new[0].phase if new else None] += 1

    async def run(self, *, after: bool) -> None:
        await at_every_commit(self.victim, self.pay, self.check, after=after)
        assert self.ended[PayPhase.PAID] >= 1, "the last one, that nobody disturbed"


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("victim", ["A", "B"], ids=["payer", "payee"])
async def test_power_lost_at_any_commit_of_an_update(
    leaping_clock: MockClock, line: Line, victim: str, after: bool
) -> None:
    await Payments(line, victim, "A", "B", 7_000_001).run(after=after)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("victim", ["A", "B", "C"], ids=["payer", "forwarder", "payee"])
async def test_power_lost_at_any_commit_of_a_forward(
    leaping_clock: MockClock, line: Line, victim: str, after: bool
) -> None:
    await Payments(line, victim, "A", "C", 5_000_001).run(after=after)


# --- open and close ---------------------------------------------------------------------------------------------------


class Channels:
    """Opens a second channel between A and B and closes it, again and again, and counts the coins."""

    def __init__(self, net: World, line: Line, victim: str) -> None:
        self.net, self.line = net, line
        self.a, self.b, self.victim = line["A"], line["B"], line[victim]
        self.old = {self.a.channel_with(self.b).channel_id}
        self.opened = self.forgotten = 0

    def newest(self, actor: Actor) -> list[Channel]:
        """Channels between A and B beyond the first, that are not over."""
        other = self.b if actor is self.a else self.a
        return [
            channel
            for channel in actor.node.money.channels()
            if channel.peer == other.keys.node_id()
            and channel.channel_id not in self.old
            and channel.phase is not Phase.CLOSED
        ]

    def coins(self) -> int:
        """Satoshi of A and B together, in wallets and in channels that are not over (as A sees them)."""
        wallets = sum(
            each.coins().confirmed + each.coins().pending + each.coins().immature for each in (self.a, self.b)
        )
        return wallets + sum(channel.capacity for channel in self.newest(self.a))

    async def links(self) -> None:
        """Wait until the channel that is not touched works again."""
        (old,) = self.old
        for here in (self.a, self.b):
            await here.until("the link", lambda here=here: is_usable(here.node.money.channel(old)), PATIENCE)

    async def mine_until(self, what: str, condition: Callable[[], bool]) -> None:
        for _ in range(40):
            if condition():
                return
            await self.net.mine(1)
            with trio.move_on_after(0.2):  # a moment for what a block sets off between the two
                while not condition():  # noqa: ASYNC110
                    await trio.sleep(0.05)
        raise AssertionError(f"40 blocks did not bring {what}")

    def both_usable(self) -> bool:
        ends = self.newest(self.a), self.newest(self.b)
        return all(len(end) == 1 and is_usable(end[0]) for end in ends)

    def is_ending(self) -> bool:
        """Whether the close has begun at either end, or is over."""
        ends = self.newest(self.a) + self.newest(self.b)
        return len(ends) < 2 or any(channel.phase is not Phase.OPEN for channel in ends)

    def neither_there(self) -> bool:
        return not self.newest(self.a) and not self.newest(self.b)

    async def open(self) -> None:
        """Until it is usable on both sides or the victim is gone."""
        await trio.sleep(OPENINGS_EVERY)
        self.before = self.coins()
        opener = lambda: self.a.owner.channel_open(self.b.keys.node_id().hex(), 500_000, 50_000_123)  # noqa: E731

        async def whole() -> None:
            answer = await self.a.attempt(opener)
            assert not isinstance(answer, str) or self.victim.fuse.blown, answer
            await self.mine_until("the channel", self.both_usable)

        await self.victim.attempt(whole)

    async def check_opened(self) -> None:
        """Usable on both sides, or forgotten on both with its coins free."""
        await self.links()
        await self.mine_until("one mind about the channel", lambda: self.both_usable() or self.neither_there())
        assert self.before - MOST_FEES <= self.coins() <= self.before
        if self.neither_there():
            self.forgotten += 1
            assert self.coins() == self.before, "a channel that was never opened costs nothing"
            await eventually("A's coins to be free", lambda: self.a.coins().set_aside == 0)
            return
        self.opened += 1
        (ours,), (theirs,) = self.newest(self.a), self.newest(self.b)
        assert ours.channel_id == theirs.channel_id
        assert (balances(ours).ours, balances(ours).theirs) == (449_999_877, 50_000_123)
        assert (balances(theirs).ours, balances(theirs).theirs) == (50_000_123, 449_999_877)
        assert self.a.coins().set_aside == 0
        await self.close_now()

    async def close_now(self) -> None:
        """In peace."""
        await self.a.owner.channel_close(self.newest(self.a)[0].channel_id, False)
        await self.mine_until("the close", self.neither_there)

    async def close(self, closer: Actor, force: bool) -> None:
        """Open in peace, then close until it is over on both sides or the victim is gone."""
        left, self.victim.fuse._left = self.victim.fuse._left, 0
        await self.open()
        await self.links()
        self.before = self.coins()
        self.victim.fuse.arm(left, after=self.victim.fuse._after)
        channel_id = self.newest(closer)[0].channel_id

        async def whole() -> None:
            await closer.attempt(lambda: closer.owner.channel_close(channel_id, force))
            await self.mine_until("the close", self.neither_there)

        await self.victim.attempt(whole)

    async def check_closed(self, closer: Actor) -> None:
        """Over on both sides with every coin in a wallet; or the order was lost with the power and all goes on."""
        await self.links()
        await eventually("one mind about the close", lambda: self.both_usable() or self.is_ending())
        if self.both_usable():
            self.forgotten += 1
            await self.close_now()
        await self.mine_until("the close", self.neither_there)
        for actor in (self.a, self.b):
            free = lambda actor=actor: actor.coins().set_aside == 0 and actor.coins().pending == 0  # noqa: E731
            await self.mine_until(f"{actor.name}'s coins", free)
        assert self.before - MOST_FEES <= self.coins() <= self.before
        self.opened += 1


@pytest.mark.parametrize("step", STEPS, ids=["some", "all"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("victim", ["A", "B"], ids=["funder", "fundee"])
async def test_power_lost_at_any_commit_of_an_opening(
    leaping_clock: MockClock, net: World, line: Line, victim: str, after: bool, step: int
) -> None:
    channels = Channels(net, line, victim)
    await at_every_commit(line[victim], channels.open, channels.check_opened, after=after, step=step)
    assert channels.opened >= 1
    assert channels.forgotten >= 1, "a power cut before anything was signed leaves nothing"


@pytest.mark.parametrize("step", STEPS, ids=["some", "all"])
@pytest.mark.parametrize("force", [False, True], ids=["together", "by force"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("victim", ["A", "B"], ids=["closer", "other"])
async def test_power_lost_at_any_commit_of_a_close(
    leaping_clock: MockClock, net: World, line: Line, victim: str, after: bool, force: bool, step: int
) -> None:
    channels, a = Channels(net, line, victim), line["A"]
    await at_every_commit(
        line[victim], lambda: channels.close(a, force), lambda: channels.check_closed(a), after=after, step=step
    )
