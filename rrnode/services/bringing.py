"""A payer's first word on its way: to the payee, or into its mailbox until it wakes, or into the payer's own hands (R14)."""

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import trio

from protocols.errors import DecodeError
from protocols.payment import payer, request
from protocols.payment.events import Kind, Payment
from protocols.payment.initialization import Initialization, seal
from protocols.units import UnixTime
from protocols.wire.init import Delivered, DeliveryCode, Failed, Kept
from rrnode.errors import Unreachable
from rrnode.services.delivery import Deliveries, KeptAt, PayeeRefuses, Way
from rrnode.services.limits import printable

LIVES = 120  # seconds that offers for one payment stay of use, when the payee is there
FIRST_INQUIRY = 15.0  # seconds until a mailbox is asked what became of it; doubles, as each is a dial
LAST_INQUIRY = 600.0
FETCHED_FROM_ONE = "offers; the payee fetched the payment from one mailbox, as that says, and another still keeps it"
_GONE = (DeliveryCode.NOT_KEPT, DeliveryCode.FULL)
_ASK_AGAIN = (DeliveryCode.UNAVAILABLE, DeliveryCode.TOO_MANY)


class Stage(Enum):
    """Where an initialization is."""

    TOLD = "the payee has it"
    ASLEEP = "it waits for the payee"
    LOST = "the payee will not act on it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """`words`: how it came, what is waited for, or a sentence that says why it is lost."""

    stage: Stage
    words: str


Tell = Callable[[Step], None]


class Bringing:
    """Brings initializations of payments that we make.

    Args:
        now: unix time.
    """

    def __init__(self, deliveries: Deliveries, now: Callable[[], UnixTime]) -> None:
        self._deliveries, self._now = deliveries, now

    async def bring(self, payment: Payment, contact: request.Contact, *, patient: bool, tell: Tell) -> None:
        """Bring it by whichever way works: the payee itself, its open link at a server, a mailbox. Tells each step.

        Args:
            patient: whether to leave it in a mailbox, and until the payment expires.
        """
        soon = UnixTime(min(payment.expiry, self._now() + LIVES))
        try:
            way = await self._deliveries.deliver(payment.payee, contact.servers, sealed_for(payment, soon))
        except DecodeError as error:
            sentence = f"The payee's key in the contact is no key ({error}); ask for a new contact."
            tell(Step(stage=Stage.LOST, words=sentence))
        except PayeeRefuses as error:
            tell(Step(stage=Stage.LOST, words=f"The payee does not take this payment: {error}. Nothing was paid."))
        except Unreachable as error:
            if patient:
                await self._leave(payment, contact, str(error), tell)
            else:
                tell(_unreached(str(error)))
        else:
            tell(Step(stage=Stage.TOLD, words=way.value))

    async def _leave(self, payment: Payment, contact: request.Contact, before: str, tell: Tell) -> None:
        sealed = sealed_for(payment, payment.expiry)
        try:
            left = await self._deliveries.store(payment.payee, contact.servers, sealed)
        except PayeeRefuses as error:
            tell(Step(stage=Stage.LOST, words=f"The payee does not take this payment: {error}. Nothing was paid."))
        except Unreachable as error:
            tell(_unreached(before if str(error) == before else f"{before}. No mailbox takes it either: {error}"))
        else:
            if isinstance(left, Way):
                tell(Step(stage=Stage.TOLD, words=left.value))
                return
            where = "one of its servers keeps" if len(left) == 1 else f"{len(left)} of its servers keep"
            tell(Step(stage=Stage.ASLEEP, words=f"the payee to wake up; {where} the payment in its mailbox"))
            tell(await self._until_known(payment, list(left), sealed, tell))

    async def _until_known(self, payment: Payment, places: list[KeptAt], sealed: bytes, tell: Tell) -> Step:
        """Ask now and then what became of it; offers, when they come, end the waiting before that. What one mailbox says does
        not end it while another still keeps the payment: servers lie."""
        delay, last, fetched = FIRST_INQUIRY, "", False
        while places:
            await trio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(2 * delay, LAST_INQUIRY)
            for place in tuple(places):
                try:
                    answer = await self._deliveries.inquire(payment.payee, place.address, sealed)
                except Unreachable:
                    continue
                match answer:
                    case Delivered():
                        places.remove(place)
                        fetched = True
                        if places:
                            tell(Step(stage=Stage.ASLEEP, words=FETCHED_FROM_ONE))
                    case Kept():
                        pass
                    case Failed(code=code) if code in _ASK_AGAIN:
                        pass
                    case Failed(code=code, reason=reason):
                        places.remove(place)
                        whose = "its mailbox no longer keeps it" if code in _GONE else "the payee woke and refused it"
                        last = f"{whose}: {printable(reason)}"
        if fetched:
            return Step(stage=Stage.TOLD, words="fetched by the payee from its mailbox")
        return Step(stage=Stage.LOST, words=f"The payee was asleep, and {last}. Nothing was paid.")


def sealed_for(payment: Payment, expiry: UnixTime) -> bytes:
    """A fresh sealed initialization for a payment. Raises DecodeError when the payee's key is none."""
    secret = payment.preimage if payment.kind is Kind.PUSH else payment.payment_hash
    assert secret is not None
    init = Initialization(
        nonce=os.urandom(16),
        kind=payment.kind,
        secret=secret,
        amount=payment.amount,
        ceiling=payer.published_ceiling(payment.ceiling, payment.amount, os.urandom(32)),
        expiry=expiry,
        memo=payment.memo if payment.kind is Kind.PUSH else "",
    )
    return seal(init, payment.payee, os.urandom(32))


def _unreached(why: str) -> Step:
    return Step(stage=Stage.LOST, words=f"The payee could not be reached: {why}. Nothing was paid; try again later.")
