"""The money engine as the dispatcher calls it: what is asked of it, what is stored, and what the runtime adds (DESIGN 3)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from protocols.channel.events import MessageReceived, SendMessage, StoreChannel, StoreRevoked
from protocols.facts import Facts
from protocols.payment.engine import Engine as MoneyEngine
from protocols.payment.events import DropForward, FindOffers, OffersFound, StoreForward
from protocols.routing.engine import Engine as RoutingEngine
from protocols.units import UnixTime
from protocols.wire.channel import AcceptChannel
from rrnode.control import models as m
from rrnode.control.convert import forward_step
from rrnode.dispatcher import Batch
from rrnode.services.neighbours import Neighbours
from rrnode.services.openings import Openings
from rrnode.storage import Store
from rrnode.traces import Traces


@dataclass(frozen=True, slots=True)
class Revoked:
    """A neighbour revoked a state, and that is on disk: watchers are to have it."""


@dataclass(frozen=True, slots=True)
class Passed:
    """Something about a payment that passes through us, for followers, told once what it rests on is on disk."""

    event: m.ForwardStep | m.Forwarded


@dataclass(frozen=True, slots=True)
class UnusedKeys:
    """A channel was refused before its keys were shown to anybody: a later one may use them."""

    key_index: int


class Handling:
    """Gives events to the money engine, batches to the store, and the engine's questions to the routing table."""

    def __init__(
        self,
        *,
        engine: MoneyEngine,
        routing: RoutingEngine,
        store: Store,
        openings: Openings,
        neighbours: Neighbours,
        traces: Traces,
        now: Callable[[], UnixTime],
    ) -> None:
        self._engine, self._routing, self._store = engine, routing, store
        self._openings, self._neighbours, self._traces, self._now = openings, neighbours, traces, now
        self._carried = {forward.incoming: forward.payment_hash for forward in engine.forwards()}

    def handle(self, event: Any, facts: Facts) -> list[Any]:
        """The money engine, and after it what followers are told of payments that pass through."""
        if isinstance(event, MessageReceived):
            self._traces.message(event.peer, event.message, ours=False)
        effects: list[Any] = []
        for effect in self._engine.handle(event, facts):
            effects.append(effect)
            match effect:
                case StoreRevoked():
                    effects.append(Revoked())
                case StoreForward(forward=forward):
                    self._carried[forward.incoming] = forward.payment_hash
                    effects.append(Passed(forward_step(forward)))
                case DropForward(incoming=incoming, earned=earned):
                    payment_hash = self._carried.pop(incoming, None)
                    if payment_hash is not None:
                        news = m.Forwarded(payment_hash=payment_hash.hex(), paid=earned > 0, earned_msat=earned)
                        effects.append(Passed(news))
        if isinstance(event, MessageReceived) and event.key_index is not None:
            # An accepted channel is in memory alone at first, but its keys are the peer's to see from here on.
            said = [effect.message for effect in effects if isinstance(effect, SendMessage)]
            if not any(isinstance(message, AcceptChannel) for message in said):
                effects.append(UnusedKeys(event.key_index))
        return effects

    def commit(self, batch: Batch) -> None:
        """In a worker thread."""
        for effect in batch.stores:
            if isinstance(effect, StoreChannel) and effect.replaces is not None:
                self._openings.renamed(effect.replaces, effect.channel.channel_id)
                self._neighbours.renamed(effect.replaces)
        self._store.commit(batch.stores, batch.journal, batch.cursor)

    def answer(self, question: FindOffers) -> OffersFound:
        """What the routing table offers now."""
        offers = self._routing.offers(question.payment_hash, question.upstream, question.asset, self._now())
        found = OffersFound(reference=question.reference, offers=offers)
        self._traces.offers_found(question, found)
        return found
