"""Follow every helper's headers into one chain of the most work; say of each helper where it stands (DESIGN 8)."""

from collections.abc import Callable

import trio

from protocols.errors import PeerProtocolError
from protocols.light.headers import (
    MAX_LOCATOR,
    Branch,
    FutureHeader,
    HeaderChain,
    InvalidHeader,
    StaleBranch,
    parse_header,
    split_headers,
)
from protocols.units import BlockHeight, UnixTime
from protocols.wire.chain import GetHeaders, Headers
from rrnode.services.helpers import Helper
from rrnode.services.limits import printable

NEWS_EVERY = 0.2  # seconds at least between two looks at one helper: each makes us ask all the others too
VAIN_HEADER, LONGEST_QUIET = 0.01, 600.0  # seconds; a fork of old times' difficulty is cheap, and as long as the chain
_RESTARTS = 5  # times that a helper may change its branch while we read it

Now = Callable[[], UnixTime]


class HeaderSync:
    """One chain of headers, fed by several helpers.

    Args:
        chain: moved here and nowhere else.
        now: our clock, unix seconds.
        changed: called when there is another best block, or a helper has news.
        adopted: told the block above which the best chain has other headers now.
    """

    def __init__(
        self, chain: HeaderChain, *, now: Now, changed: Callable[[], None], adopted: Callable[[BlockHeight], None]
    ) -> None:
        self.chain, self._now, self._changed, self._adopted = chain, now, changed, adopted
        self._followed: set[Helper] = set()
        self._in_vain: dict[Helper, int] = {}  # headers checked that brought nothing; outlives a helper's streams

    async def keep(self, helper: Helper) -> None:
        """Follow one helper for as long as its stream stands.

        Raises:
            PeerProtocolError: its headers break a rule; its record says so.
        """
        self._followed.add(helper)
        try:
            while True:
                await trio.sleep(min(self._in_vain.get(helper, 0) * VAIN_HEADER, LONGEST_QUIET))
                self._in_vain.pop(helper, None)
                helper.news = trio.Event()
                await self._sync(helper)
                helper.look_again()
                self._changed()
                await trio.sleep(NEWS_EVERY)
                await helper.news.wait()
        finally:
            self._followed.discard(helper)

    async def _sync(self, helper: Helper) -> None:
        branch: Branch | None = None
        restarts = 0
        while True:
            known = self.chain.locator()
            locator = known if branch is None else (branch.last.hash, *known[: MAX_LOCATOR - 1])
            answer = await helper.ask(lambda number, these=locator: GetHeaders(number, these))  # type: ignore[misc]
            if not isinstance(answer, Headers):
                if answer is not None:
                    helper.standing.trouble = f"gives no headers: {printable(getattr(answer, 'reason', ''))}"
                return
            headers = split_headers(answer.headers)
            if not headers:
                self._judge(helper, branch, BlockHeight(answer.tip_height))
                return
            try:
                longer = self._extend(branch, headers)
                self._in_vain[helper] = len(headers) + self._in_vain.get(helper, 0) if longer.work else 0
            except StaleBranch:
                longer = None
            except FutureHeader as error:
                helper.standing.trouble = f"{error}: check that it is right"
                return
            except InvalidHeader as error:
                helper.lied(str(error))
                raise
            restarts += branch is not None and longer is not branch
            if restarts > _RESTARTS:
                raise PeerProtocolError("its headers go round in circles")
            branch = longer

    def _extend(self, branch: Branch | None, headers: tuple[bytes, ...]) -> Branch:
        parent = parse_header(headers[0]).previous
        if branch is None or parent != branch.last.hash:
            branch = self.chain.branch(parent)
            if branch is None:
                raise InvalidHeader("headers that follow no block of ours")
        branch.extend(headers, self._now())
        fork, height = branch.fork, self.chain.height
        if self.chain.adopt(branch):
            self._adopted(fork)
            self._changed()
            if fork < height:  # who was on the best chain may be on a fork now: they are looked at again
                for helper in self._followed:
                    helper.news.set()
        elif self.chain.find(branch.height, branch.last.hash) is not None:
            branch.rebase()  # another helper brought the same headers meanwhile
        return branch

    def _judge(self, helper: Helper, branch: Branch | None, tip_height: BlockHeight) -> None:
        """Where it stands, now that it has no more headers."""
        standing = helper.standing
        if branch is not None and branch.work:  # not taken as the best chain
            standing.height = branch.height
            standing.trouble = f"is on a fork with no more work than ours, from block {branch.fork} on"
            standing.disagreed(standing.trouble)
        elif tip_height > self.chain.height:
            # Its best block is ours, or below. Were all deadlines as much later, we could be robbed of what we forward.
            standing.height = self.chain.height
            standing.trouble = (
                f"says that it is at block {tip_height}, which is {self.chain.height} for us: check the height in"
                " chain.checkpoint"
            )
        else:
            standing.height = min(tip_height, self.chain.height)
            standing.trouble = ""
