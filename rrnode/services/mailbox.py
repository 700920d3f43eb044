"""`/rr/init/1`, the mailbox: keeps sealed initializations for payees that are away (DESIGN 2, the `mailbox` switch; R14).

The disk is asked in one thread of its own: a flood of mail waits for itself, and never for the node's own threads.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import structlog
import trio

from protocols.ids import PeerId
from protocols.units import UnixTime
from protocols.wire.init import (
    MAX_MAILS,
    Acknowledge,
    Acknowledged,
    Delivered,
    DeliveryCode,
    Failed,
    Fetch,
    Inquire,
    Kept,
    Mail,
    Mails,
)
from rrnode.errors import StorageFailed
from rrnode.relations import network_of
from rrnode.services.limits import Allowance, Shares, printable
from rrnode.storage.mails import Ended, MailStore, NoRoom, Waiting

log = structlog.get_logger(__name__)

T = TypeVar("T")
CLEAN_EVERY = 3600.0  # seconds between looks for what has been kept for its time
AWAY = Failed(DeliveryCode.UNAVAILABLE, "this mailbox cannot write or read at the moment")
TOO_FAST = Failed(DeliveryCode.TOO_MANY, "too many requests at once; try again in a few seconds")


class Mailbox:
    """The mailboxes of one server.

    Args:
        store: where mail is kept.
        now: unix time.
    """

    def __init__(self, store: MailStore, now: Callable[[], UnixTime]) -> None:
        self._store, self._now = store, now
        self._disk = trio.CapacityLimiter(1)
        self._kept = Shares(per_sender=1, per_network=5, total=50, own=0.1, burst=10)  # each costs an fsync
        self._asked = Allowance(per_key=5, burst=100, total=200)

    @property
    def waiting(self) -> int:
        """How many are kept here, for all payees together."""
        return self._store.waiting

    async def run(self) -> None:
        """Drop what has been kept for its time, until cancelled."""
        while True:
            try:
                if dropped := await self._on_disk(partial(self._store.drop_past, self._now())):
                    log.info("mail dropped that nobody fetched", count=dropped)
            except StorageFailed as error:
                log.warning("a mailbox is not put in order", reason=str(error))
            await trio.sleep(CLEAN_EVERY)

    async def _on_disk(self, question: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(question, limiter=self._disk)

    # --- for payers ---------------------------------------------------------------------------------------------------

    async def keep(self, payee: PeerId, sealed: bytes, address: str, sender: PeerId) -> Kept | Delivered | Failed:
        """Keep it for this payee.

        Args:
            address: the multiaddr that it came from; whose network cannot be seen shares one with all of its kind.
            sender: the key that it came from, likely a throw-away.
        """
        if not self._kept.take(address, sender):
            return TOO_FAST
        try:
            found = await self._on_disk(partial(self._store.put, payee, sealed, network_of(address), self._now()))
        except StorageFailed as error:
            log.error("a mailbox keeps nothing new", reason=str(error))
            return AWAY
        if isinstance(found, NoRoom):
            return Failed(DeliveryCode.FULL, found.value)
        return _told(found)

    async def inquire(self, question: Inquire) -> Kept | Delivered | Failed:
        """What became of one."""
        try:
            found = await self._on_disk(partial(self._store.status, PeerId(question.payee), question.digest))
        except StorageFailed:
            return AWAY
        return _told(found) if found is not None else Failed(DeliveryCode.NOT_KEPT, "nothing of the kind is kept here")

    # --- for payees ---------------------------------------------------------------------------------------------------

    async def answer(self, payee: PeerId, request: Fetch | Acknowledge) -> Mails | Acknowledged | Failed:
        """A request of the payee itself, as its link has proven."""
        if not self._asked.take(payee):
            return TOO_FAST
        try:
            match request:
                case Fetch(after=after):
                    page = await self._on_disk(partial(self._store.fetch, payee, after, MAX_MAILS))
                    mails = tuple(Mail(each.number, each.stored, each.sealed) for each in page.mails)
                    return Mails(mails, page.more, page.turned_away, page.expired)
                case Acknowledge(answers=answers, turned_away=turned_away, expired=expired):
                    ends = [(each.number, Ended(code=each.code, reason=printable(each.reason))) for each in answers]
                    await self._on_disk(partial(self._store.acknowledge, payee, ends, turned_away, expired))
                    return Acknowledged()
        except StorageFailed as error:
            log.error("a mailbox cannot be emptied", reason=str(error))
            return AWAY


def _told(found: Waiting | Ended) -> Kept | Delivered | Failed:
    match found:
        case Waiting(until=until):
            return Kept(until)
        case Ended(code=0):
            return Delivered()
        case Ended(code=code, reason=reason):
            return Failed(code, reason)
