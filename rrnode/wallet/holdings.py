"""Coins and change addresses that are promised to something: a channel's funding, or the fees of one publication.

Everything is on disk before it counts here, so that after a crash no coin is promised twice.
"""

from collections.abc import Callable, Iterable

from protocols.ids import Txid
from rrnode.chain.parse import outpoint
from rrnode.storage import SetAside, WalletChanges

FUNDING = b"funding:"  # followed by the temporary and the permanent channel id
FEES = b"fees:"  # followed by the broadcaster's purpose


def channels_of(holder: bytes) -> tuple[bytes, bytes]:
    """Temporary and permanent channel id of a funding's holder."""
    ids = holder.removeprefix(FUNDING)
    return ids[:32], ids[32:]


class Holdings:
    """What is promised to whom.

    Args:
        set_aside, change_for: as they were stored.
        write: puts a change on disk or raises StorageFailed.
    """

    def __init__(
        self,
        set_aside: Iterable[SetAside],
        change_for: Iterable[tuple[bytes, int]],
        write: Callable[[WalletChanges], None],
    ) -> None:
        self._held = {outpoint(coin.txid, coin.index): coin for coin in set_aside}
        self._change_for = dict(change_for)
        self._write = write

    def __contains__(self, point: bytes) -> bool:
        return point in self._held

    def items(self) -> Iterable[tuple[bytes, SetAside]]:
        """Every promised coin by its 36-byte outpoint."""
        return self._held.items()

    def is_for_funding(self, point: bytes) -> bool:
        """Whether this coin is promised to a channel's funding."""
        held = self._held.get(point)
        return held is not None and held.holder.startswith(FUNDING)

    def of(self, holder: bytes) -> list[SetAside]:
        """A holder's coins in the order in which it got them."""
        return sorted((coin for coin in self._held.values() if coin.holder == holder), key=lambda coin: coin.place)

    def holders(self) -> set[bytes]:
        """Everybody who has a coin or a change address."""
        return {coin.holder for coin in self._held.values()} | set(self._change_for)

    def promise(
        self,
        holder: bytes,
        points: Iterable[bytes],
        *,
        instead_of: Iterable[SetAside] = (),
        next_change: int | None = None,
    ) -> None:
        """Promise coins to a holder, after those it has, and take others from it. Raises StorageFailed."""
        gone = tuple(instead_of)
        first = 1 + max((coin.place for coin in self.of(holder)), default=-1)
        new = {
            point: SetAside(
                txid=Txid(point[:32]), index=int.from_bytes(point[32:], "little"), holder=holder, place=place
            )
            for place, point in enumerate(points, first)
        }
        if not new and not gone:
            return
        self._write(
            WalletChanges(
                set_aside=tuple(new.values()),
                released_coins=tuple((coin.txid, coin.index) for coin in gone),
                next_change=next_change,
            )
        )
        self.forget(gone)
        self._held.update(new)

    def release(self, holder: bytes) -> None:
        """Take back everything from a holder. Raises StorageFailed."""
        self._write(WalletChanges(released=(holder,)))
        self._held = {point: coin for point, coin in self._held.items() if coin.holder != holder}
        self._change_for.pop(holder, None)

    def forget(self, coins: Iterable[SetAside]) -> None:
        """These are no longer promised; the disk knows already."""
        for coin in coins:
            self._held.pop(outpoint(coin.txid, coin.index), None)

    def change_for(self, holder: bytes) -> int | None:
        """The change index promised to a holder, None while it has none."""
        return self._change_for.get(holder)

    def promise_change(self, holder: bytes, index: int, *, next_change: int) -> None:
        """Promise a fresh change index. Raises StorageFailed."""
        self._write(WalletChanges(next_change=next_change, change_for=((holder, index),)))
        self._change_for[holder] = index
