"""Keeps wanted peers connected: own address book, back-off with jitter (DESIGN 3, LIBP2P.md 9.6).

It dials no address that the user or the shipped relay list did not name, or a signed record of the peer vouch for:
what peers say on the wire about addresses never gets here.
"""

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

import trio

from protocols.ids import PeerId
from rrnode.errors import Unreachable
from rrnode.host.base import Host, PeerConnected, PeerLost
from rrnode.host.peer_text import join_address, split_address

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the stubs that libp2p brings name it so

MAX_ADDRESSES = 16  # per peer: more would only be ways to make us knock at strangers' doors


class Source(StrEnum):
    """Who named an address."""

    USER = "user"
    RELAYS = "relay list"
    RECORD = "signed record"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerAddress:
    """One way to reach a peer; `where` is a multiaddr without `/p2p`."""

    peer: PeerId
    where: str
    source: Source

    @property
    def text(self) -> str:
        """The whole multiaddr, `/p2p` included."""
        return join_address(self.where, self.peer)


class AddressBook(Protocol):
    """Where known addresses outlive the process."""

    def load(self) -> Iterable[PeerAddress]:
        """Everything kept, in any order."""

    def save(self, address: PeerAddress) -> None:
        """Keep this address; the same peer and place again replaces it."""

    def remove(self, address: PeerAddress) -> None:
        """Forget it."""


class VolatileBook:
    """An address book that forgets with the process."""

    def __init__(self, addresses: Iterable[PeerAddress] = ()) -> None:
        self.addresses = list(addresses)

    def load(self) -> Iterable[PeerAddress]:
        return tuple(self.addresses)

    def save(self, address: PeerAddress) -> None:
        self.addresses = [
            known for known in self.addresses if (known.peer, known.where) != (address.peer, address.where)
        ]
        self.addresses.append(address)

    def remove(self, address: PeerAddress) -> None:
        self.addresses = [known for known in self.addresses if known != address]


@dataclass(frozen=True, slots=True, kw_only=True)
class DialerConfig:
    """Seconds, where not said otherwise.

    Attributes:
        first_delay: after the first failed round; doubled each time.
        max_delay: it grows no further.
        stable_after: a link that lasted this long starts the back-off anew.
        at_once: how many peers are dialled at the same time; a handshake costs milliseconds of CPU.
    """

    first_delay: float = 1.0
    max_delay: float = 60.0
    stable_after: float = 60.0
    at_once: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class DialStatus:
    """What the dialer does about one peer, for `rrnode peers`.

    Attributes:
        next_try: seconds until the next round; None while connected, dialling, or waiting for an address.
        failures: rounds in a row without a stable link.
        last_error: one sentence, or None.
    """

    peer: PeerId
    connected: bool
    dialling: bool
    addresses: tuple[PeerAddress, ...]
    next_try: float | None
    failures: int
    last_error: str | None


class _Wanted:
    """One wanted peer's state; its task alone changes it."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.wake = trio.Event()
        self.urgent = False  # somebody asked since the last round began
        self.failures = 0
        self.next_try: float | None = None  # trio time
        self.dialling = False
        self.last_error: str | None = None


class Dialer:
    """One per node.

    Args:
        host: dials and tells who comes and goes.
        book: where addresses are kept.
        randomness: for jitter and the order of addresses.
        config: delays.
    """

    def __init__(
        self, host: Host, book: AddressBook, *, randomness: random.Random, config: DialerConfig | None = None
    ) -> None:
        self._host = host
        self._book = book
        self._random = randomness
        self._config = config or DialerConfig()
        self._addresses: dict[PeerId, list[PeerAddress]] = {}
        self._wanted: dict[PeerId, _Wanted] = {}
        self._nursery: trio.Nursery | None = None
        self._limiter = trio.CapacityLimiter(self._config.at_once)
        for address in book.load():
            self._addresses.setdefault(address.peer, []).append(address)

    # What the node asks.

    def name(self, address: str, source: Source) -> PeerId:
        """Learn a multiaddr ending in `/p2p/<id>` and keep it; the peer is not dialled unless it is wanted.

        Raises:
            DecodeError: no such address.
        """
        where, peer = split_address(address)
        self._learn(PeerAddress(peer=peer, where=where, source=source))
        self._hurry(peer)
        return peer

    def want(self, peer: PeerId) -> None:
        """Keep this peer connected from now on; dials at once, whatever the back-off says."""
        state = self._wanted.get(peer)
        if state is None:
            state = self._wanted[peer] = _Wanted()
            if self._nursery is not None:
                self._nursery.start_soon(self._keep, peer, state)
        self._hurry(peer)

    def unwant(self, peer: PeerId) -> None:
        """Stop dialling this peer; a standing link is left alone."""
        state = self._wanted.pop(peer, None)
        if state is not None:
            state.scope.cancel()

    async def connect(self, address: str, source: Source = Source.USER) -> PeerId:
        """Dial this address now; when it answers, learn it.

        Raises:
            Unreachable: with one plain sentence.
        """
        peer = await self._host.dial(address)
        self._learn(PeerAddress(peer=peer, where=split_address(address)[0], source=source))
        return peer

    def addresses_of(self, peer: PeerId) -> tuple[PeerAddress, ...]:
        """What is known, in the order of learning."""
        return tuple(self._addresses.get(peer, ()))

    @property
    def wanted(self) -> frozenset[PeerId]:
        """The peers it keeps connected."""
        return frozenset(self._wanted)

    def status(self) -> tuple[DialStatus, ...]:
        """Of every wanted peer, by peer id. To be called inside trio."""
        now = trio.current_time()
        connected = self._host.connected()
        return tuple(
            DialStatus(
                peer=peer,
                connected=peer in connected,
                dialling=state.dialling,
                addresses=self.addresses_of(peer),
                next_try=None if state.next_try is None else max(0.0, state.next_try - now),
                failures=state.failures,
                last_error=state.last_error,
            )
            for peer, state in sorted(self._wanted.items())
        )

    async def run(self, *, task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled. Peers that were wanted before are dialled now."""
        async with self._host.events() as events, trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                for peer, state in self._wanted.items():
                    nursery.start_soon(self._keep, peer, state)
                task_status.started()
                async for event in events:
                    match event:
                        case PeerConnected(peer=peer) | PeerLost(peer=peer):
                            self._wake(peer)
            finally:
                self._nursery = None
            nursery.cancel_scope.cancel()  # the host has stopped

    # Inside.

    def _learn(self, address: PeerAddress) -> None:
        known = self._addresses.setdefault(address.peer, [])
        if address in known:
            return
        for old in [old for old in known if old.where == address.where]:
            if old.source is Source.USER:
                return  # what the user named stays the user's
            known.remove(old)
        known.append(address)
        self._book.save(address)
        if len(known) > MAX_ADDRESSES:
            victim = next((old for old in known if old.source is not Source.USER), known[0])
            known.remove(victim)
            self._book.remove(victim)

    def _wake(self, peer: PeerId) -> None:
        state = self._wanted.get(peer)
        if state is not None:
            state.wake.set()

    def _hurry(self, peer: PeerId) -> None:
        state = self._wanted.get(peer)
        if state is not None:
            state.urgent = True
            state.wake.set()

    async def _keep(self, peer: PeerId, state: _Wanted) -> None:
        with state.scope:
            while True:
                await trio.lowlevel.checkpoint()
                state.wake = trio.Event()
                state.urgent = False
                if peer in self._host.connected():
                    await self._while_connected(peer, state)
                elif not self._addresses.get(peer):
                    state.last_error = "no address is known; it has to dial us"
                    await state.wake.wait()
                elif not await self._try_all(peer, state):
                    await self._back_off(peer, state)
                elif peer not in self._host.connected():
                    state.last_error = "the link was lost again at once"
                    await self._back_off(peer, state)

    async def _while_connected(self, peer: PeerId, state: _Wanted) -> None:
        since = trio.current_time()
        state.last_error = None
        link = self._host.connected().get(peer)
        while link is not None and self._host.connected().get(peer) is link:
            await state.wake.wait()
            state.wake = trio.Event()
        if trio.current_time() - since >= self._config.stable_after:
            state.failures = 0
        elif peer not in self._host.connected():
            state.last_error = "the link was lost again soon"
            await self._back_off(peer, state)

    async def _try_all(self, peer: PeerId, state: _Wanted) -> bool:
        addresses = list(self._addresses[peer])
        self._random.shuffle(addresses)
        async with self._limiter:
            state.dialling = True
            try:
                for address in addresses:
                    try:
                        await self._host.dial(address.text)
                    except Unreachable as error:
                        state.last_error = str(error)
                    else:
                        return True
            finally:
                state.dialling = False
        return False

    async def _back_off(self, peer: PeerId, state: _Wanted) -> None:
        """Wait for the delay, or until somebody asks or the peer dials us. Jitter keeps thousands of clients of a server
        that was restarted from coming back in one moment."""
        ceiling = min(self._config.max_delay, self._config.first_delay * math.pow(2.0, min(state.failures, 30)))
        delay = ceiling * self._random.uniform(0.5, 1.0)
        state.failures += 1
        state.next_try = trio.current_time() + delay
        with trio.move_on_at(state.next_try):
            while not state.urgent and peer not in self._host.connected():
                state.wake = trio.Event()
                await state.wake.wait()
        state.next_try = None
