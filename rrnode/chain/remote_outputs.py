"""Outputs by the word of several helpers: that one was made is proven; that none spent it is believed until a spend is proven.

Who called an output unspent is remembered, so that a helper that was away meanwhile can say otherwise; then blocks must tell.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from protocols.ids import PeerId, Txid
from protocols.light.headers import HeaderChain
from protocols.units import BlockHeight
from protocols.wire import chain as wire
from protocols.wire.chain import GetOutput
from rrnode.chain.base import BlockRef, Interests, OutputState
from rrnode.chain.evidence import BadProof, included, shown
from rrnode.chain.parse import Output, Tx, outpoint
from rrnode.errors import ChainUnavailable
from rrnode.services.helpers import Helper

MOST_KEPT = 10_000  # outputs of which it is remembered that a block made or spent them

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Made:
    """An output proven to be in a block."""

    output: Output
    height: BlockHeight
    block_hash: bytes

    @property
    def state(self) -> OutputState:
        return OutputState(value=self.output.value, script=self.output.script, height=self.height)


@dataclass(frozen=True, slots=True)
class _Told:
    """What is held of an output.

    Attributes:
        made: None when it is not there, or a block spends it.
        disputed: whether too few answered, or one of them says, without proof, that it is spent.
        heard: who answered.
    """

    made: _Made | None
    disputed: bool
    heard: set[PeerId]


AskAll = Callable[[Callable[[Helper], Awaitable[tuple[_Made, ...] | None]]], Awaitable[dict[Helper, tuple[_Made, ...]]]]


class RemoteOutputs:
    """Asks helpers about outputs.

    Args:
        headers: the best chain.
        ask_all: asks those helpers that are ready; raises ChainUnavailable when none answers.
        are_enough: whether k of these count.
        reread: called when blocks from a height on must tell.
    """

    def __init__(
        self,
        headers: HeaderChain,
        *,
        ask_all: AskAll,
        are_enough: Callable[[Iterable[Helper]], bool],
        reread: Callable[[BlockHeight], None],
    ) -> None:
        self._headers, self._ask_all, self._are_enough, self._reread = headers, ask_all, are_enough, reread
        self._made: OrderedDict[bytes, _Made] = OrderedDict()
        self._spent: OrderedDict[bytes, tuple[BlockHeight, bytes]] = OrderedDict()  # by which block
        self._sure: OrderedDict[bytes, set[PeerId]] = OrderedDict()  # outputs taken for unspent, and by whose word

    def saw(self, ref: BlockRef, transactions: Sequence[Tx], interests: Interests) -> None:
        """A block proved to hold these transactions."""
        for tx in transactions:
            for index, output in enumerate(tx.outputs):
                if (place := outpoint(tx.txid, index)) in interests.outpoints:
                    _keep(self._made, place, _Made(output, ref.height, ref.hash))
            for prevout in interests.outpoints.intersection(tx.prevouts):
                _keep(self._spent, prevout, (ref.height, ref.hash))

    async def confirmed(self, txid: Txid, index: int) -> OutputState | None:
        """The output if it was made, and no block is known to spend it. Raises ChainUnavailable."""
        made = (await self._ask(txid, index)).made
        return None if made is None else made.state

    async def surely_unspent(self, txid: Txid, index: int) -> OutputState | None:
        """The same, if nobody says otherwise. Raises ChainUnavailable."""
        told = await self._ask(txid, index)
        if told.made is None or told.disputed:
            return None
        _keep(self._sure, outpoint(txid, index), told.heard)
        return told.made.state

    async def made(self, txid: Txid, index: int) -> Output | None:
        """An output that a block made, spent or not. Raises ChainUnavailable."""
        place = outpoint(txid, index)
        made = self._made.get(place)
        if made is None or self._headers.find(made.height, made.block_hash) is None:
            await self._ask(txid, index)
            made = self._made.get(place)
        return None if made is None else made.output

    async def ask_late(self, helper: Helper) -> None:
        """Ask a helper about outputs that others called unspent while it was away: if it disagrees, blocks must tell.

        Raises:
            BadProof: see `included`.
        """
        for place, heard in tuple(self._sure.items()):
            made = self._made.get(place)
            if helper.peer in heard or made is None or self._is_spent(place):
                continue
            told = await self._made_by(helper, Txid(place[:32]), int.from_bytes(place[32:], "little"))
            if told is None:
                return
            heard.add(helper.peer)
            if not told:
                self._reread(made.height)

    def _is_spent(self, place: bytes) -> bool:
        """Whether we saw a spend proven that still stands."""
        spent = self._spent.get(place)
        return spent is not None and self._headers.find(*spent) is not None

    async def _ask(self, txid: Txid, index: int) -> _Told:
        """One proof that it was made is enough; that a block spends it counts only when we saw that spend proven."""
        answers = await self._ask_all(lambda helper: self._made_by(helper, txid, index))
        sure, heard = self._are_enough(answers), {helper.peer for helper in answers}
        made = next((each[0] for each in answers.values() if each), None)
        place = outpoint(txid, index)
        if self._is_spent(place):
            return _Told(None, False, heard)
        if made is None:
            if not sure:
                raise ChainUnavailable(f"nobody shows output {index} of {shown((txid,))}, and too few were asked")
            return _Told(None, False, heard)
        doubters = [helper for helper, each in answers.items() if not each]
        for helper in doubters:
            helper.standing.disagreed(f"it says, without proof, that output {index} of {shown((txid,))} is not unspent")
        _keep(self._made, place, made)
        return _Told(made, not sure or any(helper.counts for helper in doubters), heard)

    async def _made_by(self, helper: Helper, txid: Txid, index: int) -> tuple[_Made, ...] | None:
        """A helper's proof that an output was made, and its word that no block spends it; empty: it says otherwise."""
        answer = await helper.ask(lambda number: GetOutput(number, txid, index))
        if not isinstance(answer, wire.Output):
            return None
        if not answer.created:
            return ()
        height = self._headers.height_of(answer.block_hash)
        header = None if height is None else self._headers.at(height)
        if height is None or header is None:
            return None  # it is on another branch, or ahead of us
        tx = included(answer.created[0], header, height)
        if tx.txid != txid or index >= len(tx.outputs):
            raise BadProof(f"it was asked for output {index} of {shown((txid,))} and showed another transaction")
        return (_Made(tx.outputs[index], height, header.hash),)


def _keep(table: "OrderedDict[bytes, T]", key: bytes, value: T) -> None:
    """Put it last; the first ones go when there are too many."""
    table[key] = value
    table.move_to_end(key)
    while len(table) > MOST_KEPT:
        table.popitem(last=False)
