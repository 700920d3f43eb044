"""What unconfirmed transactions concern us, by the word of several helpers: believed when signed for (DESIGN 8)."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from protocols.errors import DecodeError
from protocols.ids import Txid
from protocols.wire import chain as wire
from protocols.wire.chain import GetMempool
from rrnode.chain.base import NO_INTERESTS, Interests
from rrnode.chain.evidence import BadProof, forged_input, shown, without_rivals
from rrnode.chain.parse import Output, Tx, parse_transaction
from rrnode.chain.verify import is_taproot
from rrnode.services.helpers import Helper

MOST_EXTRA = 1_000  # interests beside those of who follows the mempool, before they are forgotten

Told = dict[Txid, Tx]
AskAll = Callable[[Callable[[Helper], Awaitable[Told | None]]], Awaitable[dict[Helper, Told]]]


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """What was told and believed, as of a version of the world."""

    version: int
    interests: Interests
    transactions: Told


class RemoteMempool:
    """Asks the helpers' mempools, again only when there is news or something new to ask.

    Args:
        ask_all: asks those helpers that are ready; raises ChainUnavailable when none answers.
        version: grows whenever there may be another answer.
        known_output: an output that a block made, None when nobody proves it.
    """

    def __init__(
        self,
        *,
        ask_all: AskAll,
        version: Callable[[], int],
        known_output: Callable[[Txid, int], Awaitable[Output | None]],
    ) -> None:
        self._ask_all, self._version, self._known_output = ask_all, version, known_output
        self._followed = NO_INTERESTS
        self._extra = NO_INTERESTS  # what others than the follower asked for
        self._snapshot = _Snapshot(-1, NO_INTERESTS, {})

    def follow(self, interests: Interests) -> None:
        """What whoever follows the mempool wants to know from now on."""
        self._followed = interests
        if len(self._extra) > MOST_EXTRA:
            self._extra = NO_INTERESTS

    async def look(self, interests: Interests) -> Told:
        """Every unconfirmed transaction that concerns these interests or those of who follows. Raises ChainUnavailable."""
        self._extra |= interests.but(self._followed)
        wanted, kept = self._followed | self._extra, self._snapshot
        version = self._version()
        if kept.version != version or wanted.but(kept.interests):
            answers = await self._ask_all(lambda helper: self._told_by(helper, wanted))
            self._snapshot = _Snapshot(version, wanted, await self._believed(answers, wanted))
        return self._snapshot.transactions

    async def _told_by(self, helper: Helper, interests: Interests) -> Told | None:
        if not await helper.watch(interests):
            return None
        answer = await helper.ask(GetMempool)
        if not isinstance(answer, wire.Mempool):
            return None
        try:
            told = [parse_transaction(raw) for raw in answer.transactions]
        except DecodeError as error:
            raise BadProof(f"it showed bytes that are no transaction as part of its mempool: {error}") from error
        return {told[number].txid: told[number] for number in interests.within(told)}

    async def _believed(self, answers: dict[Helper, Told], interests: Interests) -> Told:
        """Those whose spends of what concerns us are signed for; whoever tells another one lies."""
        told = {txid: tx for each in answers.values() for txid, tx in each.items()}
        spent = {prevout for tx in told.values() for prevout in tx.prevouts} & interests.outpoints
        known: dict[bytes, Output] = {}
        for place in spent:
            output = await self._spent_output(place, told)
            if output is not None and not is_taproot(output.script):
                known[place] = output
        candidates: dict[Txid, tuple[Tx, int]] = {}
        for helper, each in answers.items():
            for txid, tx in each.items():
                if (problem := forged_input(tx, known)) is not None:
                    helper.lied(f"it showed an unconfirmed spend that is not signed for: {shown((txid,))}, {problem}")
                elif spent.intersection(tx.prevouts) <= known.keys():  # of what we cannot check, nothing is believed
                    candidates[txid] = tx, candidates.get(txid, (tx, 0))[1] + 1
        return without_rivals(candidates)

    async def _spent_output(self, place: bytes, told: Told) -> Output | None:
        txid, index = Txid(place[:32]), int.from_bytes(place[32:], "little")
        if (parent := told.get(txid)) is not None:
            return parent.outputs[index] if index < len(parent.outputs) else None  # the id binds them, confirmed or not
        return await self._known_output(txid, index)
