"""Finding a way into the network and staying in it: the plan of `bootstrap.join`, carried out (DESIGN 3)."""

import random
from collections.abc import Callable, Sequence

import structlog
import trio

from bootstrap.join import (
    Dial,
    Joined,
    JoinPlan,
    JoinPolicy,
    NobodyKnown,
    Wait,
    failed,
    heard_of,
    lost,
    next_step,
    plan,
    silent,
    succeeded,
)
from bootstrap.relays import Relay
from protocols.ids import PeerId
from rrnode.errors import Unreachable
from rrnode.host.base import Host, PeerConnected, PeerLost
from rrnode.services.acquaintances import Acquaintances
from rrnode.services.limits import printable

log = structlog.get_logger(__name__)


class Joiner:
    """Keeps links to a few unrelated relays.

    Args:
        host: the links.
        listed: relays that ship with this software or that the user named. With none of them, and none met before, nobody
            is dialled.
        acquaintances: where further ones are learnt and remembered; None: only listed ones are dialled.
        entropy: 32 random bytes, for the order.
        tell: takes a sentence for the owner when none answers.
        reached: takes the address at which one answered: who has a channel with it later, dials it again and can name it.
        policy: how many are enough.
    """

    def __init__(
        self,
        *,
        host: Host,
        listed: Sequence[Relay],
        acquaintances: Acquaintances | None,
        entropy: bytes,
        tell: Callable[[str], None],
        reached: Callable[[str], None] = lambda address: None,
        policy: JoinPolicy | None = None,
    ) -> None:
        self._host, self._acquaintances, self._tell, self._reached = host, acquaintances, tell, reached
        self._random = random.Random(entropy)
        good, others = acquaintances.relays() if acquaintances is not None else ((), ())
        active = listed or good
        self.plan: JoinPlan = plan(*((listed, good, others) if active else ()), entropy=entropy, policy=policy)
        self._by_peer: dict[PeerId, Relay] = {}
        self._wake = trio.Event()
        self._told = False
        self._last_error = ""

    async def run(self) -> None:
        """Serve until cancelled."""
        async with self._host.events() as events, trio.open_nursery() as nursery:
            nursery.start_soon(self._carry_out, nursery)
            async for event in events:
                match event:
                    case PeerLost(peer=peer) if peer in self._by_peer:
                        relay = self._by_peer.pop(peer)
                        self._change(lost(self.plan, relay, _milliseconds()))
                    case PeerConnected() | PeerLost():
                        pass

    def _change(self, state: JoinPlan) -> None:
        self.plan = state
        if (count := silent(state)) and not self._told:
            self._told = True
            self._tell(f"none of the {count} relays that were tried answers; the last one: {self._last_error}")
        self._wake.set()

    async def _carry_out(self, nursery: trio.Nursery) -> None:
        while True:
            self._wake = trio.Event()
            self.plan, step = next_step(self.plan, _milliseconds())
            match step:
                case Dial(relays=relays):
                    for relay in relays:
                        nursery.start_soon(self._try, relay)
                    self._wake.set()
                case Wait(until=until):
                    with trio.move_on_at(trio.current_time() + 86_400 if until is None else (until + 1) / 1000):
                        await self._wake.wait()
                    continue
                case NobodyKnown():
                    log.info("no relay is known; only peers that were named are dialled")
                    return
                case Joined():
                    pass
            await self._wake.wait()

    async def _try(self, relay: Relay) -> None:
        addresses = list(relay.dialled_at)
        self._random.shuffle(addresses)
        for address in addresses:
            try:
                peer = await self._host.dial(address)
            except Unreachable as error:
                self._last_error = printable(str(error))
            else:
                self._by_peer[peer] = relay
                self._reached(address)
                self._told = False
                self._change(succeeded(self.plan, relay))
                await self._learn(peer)
                return
        self._change(failed(self.plan, relay, _milliseconds()))

    async def _learn(self, peer: PeerId) -> None:
        if peer not in self._host.connected():  # lost before we listened: nobody will tell of it again
            if relay := self._by_peer.pop(peer, None):
                self._change(lost(self.plan, relay, _milliseconds()))
            return
        if self._acquaintances is None:
            return
        await self._acquaintances.learn(peer)
        good, others = self._acquaintances.relays()
        self._change(heard_of(self.plan, (*good, *others)))


def _milliseconds() -> int:
    return int(trio.current_time() * 1000)
