"""The cheapest path there is, for somebody who sees every balance: Dijkstra, backwards from the payee.

Backwards, because what a node must be sent follows from what it must send on (THEORY, step 3). Each label is an amount; an
asker quotes as the engine does (`Pricer`), so equal paths cost equal amounts to the millisatoshi. Hop and lock limits do
not bind an oracle.
"""

import heapq
from collections.abc import Mapping

from protocols.ids import PeerId
from protocols.routing.pricing import FeePolicy
from protocols.units import MAX_MSAT, PPM, Msat


class Oracle:
    """Over what the nodes' engines hold, now.

    Args:
        rooms: of each node, the largest HTLC that it could offer each neighbour; looked up anew at every question.
        asks: of each node, what it asks of each neighbour for carrying a payment on.
    """

    def __init__(
        self, rooms: Mapping[PeerId, Mapping[PeerId, Msat]], asks: Mapping[PeerId, Mapping[PeerId, FeePolicy]]
    ) -> None:
        self._rooms, self._asks = rooms, asks

    def cheapest(self, payer: PeerId, payee: PeerId, amount: Msat) -> Msat | None:
        """What the payer must lock for `amount` to arrive, None: no single path can carry it."""
        rooms, asks = self._rooms, self._asks
        done: set[PeerId] = set()
        best: dict[PeerId, int] = {payee: amount}  # what each node must send on
        queue: list[tuple[int, PeerId]] = [(amount, payee)]
        while queue:
            onward, node = heapq.heappop(queue)
            if node in done:
                continue
            if node == payer:
                return Msat(onward)
            done.add(node)
            for other, fee in asks[node].items():
                if other in done:
                    continue
                asked = onward if node == payee else -(-(onward * (PPM + fee.ppm) + fee.base_msat * PPM) // PPM)
                if asked <= rooms[other].get(node, 0) and asked < best.get(other, MAX_MSAT + 1):
                    best[other] = asked
                    heapq.heappush(queue, (asked, other))
        return None
