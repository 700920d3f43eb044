"""Publication through helpers: to all of them, and again at each new block, since one that publishes is enough (DESIGN 8)."""

from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import structlog

from protocols.errors import DecodeError
from protocols.ids import Txid
from protocols.light.headers import HeaderChain
from protocols.units import BlockHeight
from protocols.wire.chain import Publish, Published, VerdictCode
from rrnode.chain.asking import Asking
from rrnode.chain.base import PublishResult, Verdict
from rrnode.chain.parse import parse_transaction
from rrnode.errors import ChainUnavailable
from rrnode.services.helpers import Helper
from rrnode.services.limits import printable

AGAIN_FOR = 20  # blocks during which a transaction is published again; who needs it longer publishes it anew
MOST_AGAIN = 32  # packages published again: helpers take bursts of 200, and others are waiting

log = structlog.get_logger("rrnode.chain")


class RemotePublisher:
    """Publishes through helpers, also those that lag or were caught lying.

    Args:
        helpers: all of them.
        headers: the best chain.
        asking: shared with who asks them other things.
        changed: waits until there may be another best block.
    """

    def __init__(
        self,
        helpers: Sequence[Helper],
        headers: HeaderChain,
        *,
        asking: Asking,
        changed: Callable[[], Awaitable[None]],
    ) -> None:
        self._helpers, self._headers, self._asking, self._wait_changed = helpers, headers, asking, changed
        self._again: OrderedDict[Txid, tuple[tuple[bytes, ...], BlockHeight]] = OrderedDict()

    @property
    def waiting(self) -> frozenset[Txid]:
        """What is published again until it is in a block: the child of each package."""
        return frozenset(self._again)

    def confirmed(self, txids: Iterable[Txid]) -> None:
        """These are in a block."""
        for txid in txids:
            self._again.pop(txid, None)

    async def publish(self, transactions: tuple[bytes, ...]) -> PublishResult:
        """Give one transaction or package to every helper; it is taken when one of them takes it.

        Raises:
            ChainUnavailable: nobody answered.
        """
        try:
            key = parse_transaction(transactions[-1]).txid
        except DecodeError as error:
            return PublishResult(verdict=Verdict.REFUSED, reason=f"TX decode failed: {error}")
        answers = await self._give_to_all(transactions)
        if not answers:
            raise ChainUnavailable("no helper takes a transaction: they are not connected, or do not answer")
        verdicts = {answer.verdict for answer in answers.values()}
        if verdicts == {VerdictCode.REFUSED}:
            reasons = Counter(printable(answer.reason) for answer in answers.values())
            return PublishResult(verdict=Verdict.REFUSED, reason=reasons.most_common(1)[0][0])
        for helper, answer in answers.items():
            if answer.verdict == VerdictCode.REFUSED:
                helper.standing.disagreed(f"it refused to publish what others took: {printable(answer.reason)}")
        self._again[key] = transactions, self._headers.height
        self._again.move_to_end(key)
        while len(self._again) > MOST_AGAIN:
            self._again.popitem(last=False)
        return PublishResult(verdict=Verdict.ACCEPTED if VerdictCode.ACCEPTED in verdicts else Verdict.KNOWN)

    async def run(self) -> None:
        """A mempool forgets, and a helper may only have said that it took something: at each new block all is given again."""
        tip = self._headers.tip.hash
        while True:
            while self._headers.tip.hash == tip:
                await self._wait_changed()
            tip = self._headers.tip.hash
            for txid, (transactions, since) in tuple(self._again.items()):
                if self._headers.height - since > AGAIN_FOR:
                    self._again.pop(txid, None)
                elif not await self._give_to_all(transactions):
                    log.debug("chain.not_published_again", txid=txid[::-1].hex())

    async def _give_to_all(self, transactions: tuple[bytes, ...]) -> dict[Helper, Published]:
        async def give(helper: Helper) -> Published | None:
            answer = await helper.ask(lambda number: Publish(number, transactions))
            return answer if isinstance(answer, Published) else None

        return await self._asking.ask_each(self._helpers, give, _is_taken)


def _is_taken(answers: Mapping[Helper, Published]) -> bool:
    """Whether what the others will say changes nothing; each was given it before."""
    return any(helper.counts and answer.verdict != VerdictCode.REFUSED for helper, answer in answers.items())
