"""Looks a transaction up among the remedies of strangers, some of them at a time (DESIGN 7).

Anybody may file anything under any hint, also remedies that hold: who owns both sides of a channel can sign for 228 outputs
and raise its bounties with every key, at 11 ms of checks each. So this is for worker threads, and goes on where it stopped.
"""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from protocols.errors import DecodeError, MisuseError
from protocols.ids import Txid
from protocols.onchain import tx as onchain
from protocols.units import BlockHeight
from protocols.watch import hunt
from protocols.watch.pairs import Pair
from protocols.watch.remedy import hint_of
from rrnode.chain.parse import Tx
from rrnode.errors import StorageFailed
from rrnode.storage.remedies import RemedyStore

SECONDS_AT_ONCE = 0.5  # of one worker thread for one transaction, before others have their turn

Seen = tuple[Tx, BlockHeight | None]  # with the height of its block; None: in the mempool


@dataclass(slots=True)
class Lookup:
    """One transaction among the remedies.

    Attributes:
        height: of its block; None while it is in the mempool only.
        pairs: the best so far, by output.
        told: those of them that the hunter knows.
        after: number of the client whose remedies were tried last.
        tried: how many remedies.
        done: there are no more.
        problem: why the disk did not answer; it is asked again.
    """

    tx: Tx
    height: BlockHeight | None
    pairs: dict[int, Pair] = field(default_factory=dict)
    told: dict[int, Pair] = field(default_factory=dict)
    after: int = 0
    tried: int = 0
    done: bool = False
    problem: str = ""

    @property
    def txid(self) -> Txid:
        return self.tx.txid

    @property
    def is_settled(self) -> bool:
        """Nothing is left to be tried or told."""
        return self.done and self.pairs == self.told


def go_on(lookup: Lookup, remedies: RemedyStore, seconds: float = math.inf) -> None:
    """Try more remedies: for so long at most, or until there are none left. At least one: every call brings it further."""
    until = time.monotonic() + min(seconds, SECONDS_AT_ONCE)
    hint = hint_of(lookup.txid)
    lookup.problem = ""
    try:
        breach = onchain.parse(lookup.tx.raw)
        while page := remedies.find_some(hint, lookup.after):
            for number, sealed in page:
                lookup.pairs |= hunt.offers(breach, sealed, lookup.pairs)
                lookup.after, lookup.tried = number, lookup.tried + 1
                if time.monotonic() > until:
                    return
        lookup.done = True
    except StorageFailed as error:
        lookup.problem = str(error)
    except (DecodeError, MisuseError):  # what our own parser does not read is no commitment of a channel
        lookup.done = True


def begun(seen: Iterable[Seen], remedies: RemedyStore, seconds: float) -> list[Lookup]:
    """Look-ups of those of these that may have remedies, each as far as the time for all of them reaches."""
    until = time.monotonic() + seconds
    found = []
    for tx, height in seen:
        if len(tx.outputs) <= hunt.MOST_OUTPUTS and remedies.may_have(hint_of(tx.txid)):
            lookup = Lookup(tx, height)
            left = until - time.monotonic()
            if left > 0:
                go_on(lookup, remedies, left)
            if not lookup.done or lookup.pairs:
                found.append(lookup)
    return found
