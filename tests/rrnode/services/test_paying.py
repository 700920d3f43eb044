"""Taking a payment: offers go out while the promise is being written, and stop when it cannot be kept."""

import hashlib
from pathlib import Path

import pytest
import trio
import trio.testing

from bootstrap.networks import NETWORKS
from protocols.ids import PaymentHash, PeerId
from protocols.onchain.ec import point_of
from protocols.payment.config import EngineConfig
from protocols.payment.events import Kind, PromiseMade, RequestRefused
from protocols.payment.initialization import Initialization, seal
from protocols.routing.events import FloodEnded, FloodRequested
from protocols.units import Amount, Msat, UnixTime
from protocols.wire.init import DeliveryCode
from rrnode.config.settings import Settings
from rrnode.control.bus import EventBus
from rrnode.errors import StorageFailed
from rrnode.services.initialization import NotTaken
from rrnode.services.paying import Paying

NOW = UnixTime(1_700_000_000)
SECRET = hashlib.sha256(b"payee").digest()
PREIMAGE = hashlib.sha256(b"preimage").digest()
HASH = PaymentHash(hashlib.sha256(PREIMAGE).digest())


class Money:
    """What `Paying` reads of a money engine that has promised nothing."""

    def promise(self, payment_hash):
        return None

    def most_receivable(self, asset):
        return Msat(10**9)


class Payee:
    """A `Paying` whose orders wait until they are let through, or are refused."""

    def __init__(self, tmp_path: Path) -> None:
        self.told: list[object] = []
        self.asked: list[object] = []
        self.stored = trio.Event()
        self.answer: list[object] | Exception = []
        settings = Settings(data_dir=tmp_path)
        self.asset = settings.network.genesis
        self.paying = Paying(
            settings=settings,
            config=EngineConfig(),
            engine=Money(),  # type: ignore[arg-type]
            us=PeerId(point_of(SECRET)),
            secret=SECRET,
            bus=EventBus(lambda: float(NOW)),
            ask=self._ask,
            tell=self.told.append,
            subscriptions=None,  # type: ignore[arg-type]
            deliver=None,  # type: ignore[arg-type]
            servers=tuple,
            now=lambda: NOW,
            prefixes={network.name: network.prefix for network in NETWORKS.values()},
        )

    async def _ask(self, event):
        self.asked.append(event)
        await self.stored.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def sealed(self) -> bytes:
        init = Initialization(
            nonce=bytes(16),
            kind=Kind.PUSH,
            secret=PREIMAGE,
            amount=Amount(Msat(5000), self.asset),
            ceiling=Amount(Msat(6000), self.asset),
            expiry=UnixTime(NOW + 60),
            memo="",
        )
        return seal(init, PeerId(point_of(SECRET)), hashlib.sha256(b"entropy").digest())

    def kinds(self) -> list[type]:
        return [type(event) for event in self.told]


@pytest.fixture
def payee(tmp_path):
    return Payee(tmp_path)


async def test_offers_leave_while_the_promise_is_on_its_way_to_the_disk(payee, nursery):
    nursery.start_soon(payee.paying.take, payee.sealed(), b"sender")
    await trio.testing.wait_all_tasks_blocked()
    (flood,) = payee.told
    (made,) = payee.asked
    assert isinstance(flood, FloodRequested)
    assert isinstance(made, PromiseMade)
    assert (flood.payment_hash, flood.amount, flood.lock_blocks) == (HASH, made.amount, made.lock_blocks)
    payee.stored.set()


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ([RequestRefused(payment_hash=HASH, reason="too many promises")], DeliveryCode.REFUSED),
        (StorageFailed("the disk is full"), DeliveryCode.TOO_MANY),
    ],
)
async def test_a_promise_that_cannot_be_kept_is_asked_for_no_more(payee, answer, code):
    payee.answer = answer
    payee.stored.set()
    with pytest.raises(NotTaken) as refusal:
        await payee.paying.take(payee.sealed(), b"sender")
    assert refusal.value.code == code
    assert payee.kinds() == [FloodRequested, FloodEnded]
