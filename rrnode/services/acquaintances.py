"""Which servers we know: the record of everyone that routes and is linked, and what relays tell of others (`/rr/info/1`).

The table is `bootstrap.known`; here is where it comes from, and the file in which it outlives the process.
"""

import json
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import structlog
import trio

from bootstrap import known as table
from bootstrap.known import Known, KnownServer, is_server, relay_of, teller_of
from bootstrap.relays import Relay
from protocols.errors import PeerProtocolError
from protocols.ids import PeerId
from protocols.node_record import MAX_AGE, NodeRecord, Refusal, read
from protocols.units import AssetId, UnixTime
from protocols.wire.info import Signed
from rrnode.errors import LinkClosed
from rrnode.host.base import Host, PeerConnected
from rrnode.host.peer_text import to_text
from rrnode.services.asking import Asker, asking
from rrnode.services.limits import Shares, printable

log = structlog.get_logger(__name__)

FILE_NAME = "known_servers.json"
MOST_BYTES = 2 << 20  # of the file; ours has a quarter of it at most
ASK_AGAIN = 6 * 3600.0  # seconds; a record counts for a week
ASKED_AT_ONCE = 4
MOST_WAITING = 64  # servers still to be asked; who is not among them is asked when its link stands for long
SAVE_AFTER = 5.0  # seconds in which changes gather


def load(path: Path, network: AssetId, now: UnixTime) -> Known:
    """What was saved and still counts; nothing when the file is not there or cannot be read: it can be learnt again."""
    known: Known = ()
    try:
        with path.open("rb") as file:
            saved = json.loads(file.read(MOST_BYTES))
        for each in saved["servers"]:
            signed = Signed(bytes.fromhex(each["content"]), bytes.fromhex(each["signature"]))
            record = read(signed, network=network, now=now)
            if isinstance(record, NodeRecord):
                server = KnownServer(
                    record=record, signed=signed, teller=str(each["teller"]), met=UnixTime(int(each["met"]))
                )
                known = table.remember(known, server)
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, LookupError, TypeError) as error:
        log.warning("the file of known servers cannot be read and is begun anew", file=str(path), reason=str(error))
        return ()
    return known


def save(path: Path, known: Known) -> None:
    """Write the whole table, or leave the file as it was. Blocking. Raises OSError."""
    servers = [
        {
            "content": each.signed.content.hex(),
            "signature": each.signed.signature.hex(),
            "teller": each.teller,
            "met": each.met,
        }
        for each in known
    ]
    fresh = path.with_suffix(".new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump({"servers": servers}, file)
    fresh.replace(path)


NEVER = UnixTime(0)


class Acquaintances:
    """The servers that this node knows.

    Args:
        host: the links.
        network: genesis hash.
        anywhere: whether addresses of this machine and of private networks may be dialled and passed on (a regtest).
        clock: unix time in seconds.
        path: the file.
        said: takes what a linked peer says about itself.
    """

    def __init__(
        self,
        *,
        host: Host,
        network: AssetId,
        anywhere: bool,
        clock: Callable[[], float],
        path: Path,
        said: Callable[[NodeRecord], None] = lambda record: None,
    ) -> None:
        self._said = said
        self._host, self._network, self._anywhere, self._clock, self._path = host, network, anywhere, clock, path
        self.known = load(path, network, self._now())
        self.refused: Counter[Refusal] = Counter()  # records that count for nothing
        self._limiter = trio.CapacityLimiter(ASKED_AT_ONCE)
        # A peer that comes and goes is not asked each time, and one network's never fill the places of those that wait.
        self._asks = Shares(per_sender=1 / 600, per_network=1 / 30, total=2, own=1 / 600, burst=1800)
        self._locks: dict[PeerId, trio.Lock] = {}
        self._waiting: set[PeerId] = set()
        self._changed = trio.Event()

    def _now(self) -> UnixTime:
        return UnixTime(int(self._clock()))

    def page(self, after: bytes, most: int) -> tuple[tuple[Signed, ...], bool]:
        """Records for one who asks, in the order of their keys."""
        return table.page(table.still_good(self.known, UnixTime(self._now() - MAX_AGE)), after, most)

    def relays(self) -> tuple[tuple[Relay, ...], tuple[Relay, ...]]:
        """Those that answered once when we dialled them, and the others."""
        met = [each for each in self.known if each.met]
        unmet = [each for each in self.known if not each.met]
        return tuple(self._as_relays(met)), tuple(self._as_relays(unmet))

    def _as_relays(self, servers: Iterable[KnownServer]) -> Iterable[Relay]:
        for each in servers:
            yield relay_of(each, anywhere=self._anywhere, identity=to_text(each.record.node))

    async def learn(self, peer: PeerId) -> None:
        """Ask a server that we are linked with which others it knows, and note that it answered, if it is we who dialled:
        of one that came to us nobody knows whether it can be reached. Never raises for what it says."""
        link = self._host.connected().get(peer)
        dialled = link is not None and not link.inbound
        try:
            async with self._asking(peer) as asker:
                await self._note(asker, met=self._now() if dialled else NEVER)
                heard = await asker.others()
        except (LinkClosed, PeerProtocolError) as error:
            log.info("a relay tells nothing", peer=to_text(peer), reason=printable(str(error)))
            return
        self.refused += heard.refused
        random.shuffle(heard.records)  # they come by key, the last ones are kept, and keys can be ground
        for record, signed in heard.records:
            self._take(record, signed, teller_of(asker.remote_address))

    @asynccontextmanager
    async def _asking(self, peer: PeerId) -> AsyncIterator[Asker]:
        """Questions to one peer, one task at a time: a second stream would end the first."""
        lock = self._locks.setdefault(peer, trio.Lock())
        try:
            async with lock, asking(self._host, peer, network=self._network, clock=self._clock) as asker:
                yield asker
        finally:
            if not lock.locked():
                self._locks.pop(peer, None)

    async def _note(self, asker: Asker, *, met: UnixTime = NEVER) -> None:
        about = await asker.about()
        self._said(about.record)
        self._take(about.record, about.signed, teller_of(asker.remote_address), met=met)

    def _take(self, record: NodeRecord, signed: Signed, teller: str, *, met: UnixTime = NEVER) -> None:
        if record.node == self._host.peer_id or not is_server(record, anywhere=self._anywhere):
            return
        server = KnownServer(record=record, signed=signed, teller=teller, met=met)
        known = table.remember(table.still_good(self.known, UnixTime(self._now() - MAX_AGE)), server)
        if met:
            known = table.met(known, record.node, met)
        if known != self.known:
            self.known = known
            self._changed.set()

    # --- running ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Ask servers that are linked for their records, and keep the file, until cancelled."""
        async with self._host.events() as events, trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_file)
            nursery.start_soon(self._ask_again, nursery)
            async for event in events:
                if isinstance(event, PeerConnected):
                    self._ask(event, nursery)

    async def _ask_again(self, nursery: trio.Nursery) -> None:
        while True:
            for link in self._host.connected().values():
                self._ask(link, nursery)
            await trio.sleep(ASK_AGAIN)

    def _ask(self, link: PeerConnected, nursery: trio.Nursery) -> None:
        welcome = link.switches and link.peer not in self._waiting and len(self._waiting) < MOST_WAITING
        if welcome and self._asks.take(link.address, link.peer):
            self._waiting.add(link.peer)
            nursery.start_soon(self._get_record, link.peer)

    async def _get_record(self, peer: PeerId) -> None:
        try:
            async with self._limiter, self._asking(peer) as asker:
                await self._note(asker)
        except (LinkClosed, PeerProtocolError) as error:
            log.debug("a server says nothing about itself", peer=to_text(peer), reason=printable(str(error)))
        finally:
            self._waiting.discard(peer)

    async def _keep_file(self) -> None:
        try:
            while True:
                await self._changed.wait()
                await trio.sleep(SAVE_AFTER)
                self._changed = trio.Event()
                try:
                    await trio.to_thread.run_sync(save, self._path, self.known)
                except OSError as error:
                    log.warning("known servers were not written to disk", file=str(self._path), reason=str(error))
        finally:
            if self._changed.is_set():
                with suppress(OSError):
                    save(self._path, self.known)
