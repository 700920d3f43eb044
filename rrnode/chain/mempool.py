"""The embedded regtest's mempool: single transactions and packages, version 3, anchors, replacement by fee.

Source: BIP 431 (version 3), Bitcoin Core's rules for replacement, packages and ephemeral dust, whose words it uses to
refuse. Consensus of every input is libbitcoinkernel's answer. Where Core compares feerate diagrams, this compares the feerates of what
comes and what goes, which for clusters of two is the same.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from protocols.ids import Txid
from protocols.units import BlockHeight, FeeRate
from rrnode.chain import policy
from rrnode.chain.index import ChainIndex, Unspent
from rrnode.chain.parse import Tx, outpoint
from rrnode.chain.policy import Refused

MAX_ENTRIES = 5_000  # a regtest's mempool; each entry may be 100 kB
MAX_FAMILY = 25  # ancestors or descendants, itself included
MAX_REPLACED = 100
MAX_PACKAGE = 25
MAX_BLOCK_WEIGHT = 3_900_000

ScriptCheck = Callable[[Tx, Sequence[Unspent]], bool]


@dataclass(slots=True)
class Entry:
    """A transaction in the mempool with its fee in satoshi and its unconfirmed relatives."""

    tx: Tx
    fee: int
    parents: set[Txid] = field(default_factory=set)
    children: set[Txid] = field(default_factory=set)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one transaction: `error` is empty when it is in the mempool now; `known` when it was there before."""

    tx: Tx
    error: str = ""
    known: bool = False
    fee: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageOutcome:
    """What became of a package, in Bitcoin Core's words (`success`, `transaction failed`, ...)."""

    message: str
    outcomes: tuple[Outcome, ...]
    replaced: tuple[Txid, ...] = ()


@dataclass(slots=True)
class _Candidate:
    tx: Tx
    coins: list[Unspent]
    fee: int
    parents: set[Txid]  # in the mempool
    conflicts: set[Txid]  # direct ones
    sibling_evicted: bool = False


class Mempool:
    """Unconfirmed transactions that could be in the next block."""

    def __init__(self, index: ChainIndex, scripts_hold: ScriptCheck, *, floor: FeeRate) -> None:
        """Begin empty.

        Args:
            index: the best chain; moved by its owner, who then tells `block_connected` or `rebuild`.
            scripts_hold: does libbitcoinkernel accept every input, given the outputs they spend?
            floor: relay floor and step of replacement, satoshi per 1000 virtual bytes.
        """
        self.entries: dict[Txid, Entry] = {}
        self.sequence = 1
        self._spenders: dict[bytes, Txid] = {}
        self._index, self._scripts_hold, self._floor = index, scripts_hold, floor

    def spender(self, place: bytes) -> Txid | None:
        """Who spends this outpoint (36 bytes), if anybody here does."""
        return self._spenders.get(place)

    # --- taking ------------------------------------------------------------------------------------------------------

    def submit(self, tx: Tx) -> Outcome:
        """Take a single transaction or say why not."""
        return self._submit_alone(tx)[0]

    def _submit_alone(self, tx: Tx) -> tuple[Outcome, bool]:
        """Also says whether a child might still bring it in."""
        if there := self.entries.get(tx.txid):
            return Outcome(tx=tx, known=True, fee=there.fee), False
        try:
            candidate = self._examine(tx, {}, single=True)
            policy.check_feerate(candidate.fee, tx.vsize, self._floor)
            replaced = self._check_replacement(candidate)
            self._check_anchors_spent([tx])
            self._check_scripts(candidate)
        except Refused as refused:
            return Outcome(tx=tx, error=str(refused)), refused.reconsider
        self._apply([candidate], replaced)
        return Outcome(tx=tx, fee=candidate.fee), False

    def submit_package(self, transactions: Sequence[Tx]) -> PackageOutcome:
        """Take parents and their child; each is tried alone first, as Bitcoin Core does (BIP 431 packages)."""
        before = set(self.entries)
        outcomes: dict[Txid, Outcome] = {}
        together: list[Tx] = []
        hopeless = False
        for tx in transactions:
            outcomes[tx.txid], reconsider = self._submit_alone(tx)
            if reconsider and len(transactions) > 1:
                together.append(tx)
            elif outcomes[tx.txid].error:
                hopeless = True
        message = "transaction failed" if hopeless else "success"
        if len(together) == 1 and not hopeless:
            message = "transaction failed"
        elif together and not hopeless:
            message = self._submit_together(together, outcomes)
        gone = tuple(txid for txid in before if txid not in self.entries)
        return PackageOutcome(message=message, outcomes=tuple(outcomes[tx.txid] for tx in transactions), replaced=gone)

    def _submit_together(self, transactions: list[Tx], outcomes: dict[Txid, Outcome]) -> str:
        def fail(tx: Tx, refused: Refused) -> str:
            outcomes[tx.txid] = Outcome(tx=tx, error=str(refused))
            return "transaction failed"

        made: dict[bytes, Unspent] = {}
        candidates = []
        for tx in transactions:
            try:
                candidates.append(self._examine(tx, made, single=False))
            except Refused as refused:
                return fail(tx, refused)
            height = BlockHeight(self._index.tip.height + 1)
            for number, output in enumerate(tx.outputs):
                made[outpoint(tx.txid, number)] = Unspent(output.value, output.script, height, False)
        fee, vsize = sum(c.fee for c in candidates), sum(c.tx.vsize for c in candidates)
        try:
            policy.check_feerate(fee, vsize, self._floor)
        except Refused as refused:
            return fail(transactions[-1], refused)
        try:
            self._check_truc_package(candidates)
            replaced = self._check_package_replacement(candidates, fee, vsize)
        except Refused as refused:
            return str(refused)
        try:
            self._check_anchors_spent(transactions)
        except Refused as refused:
            fail(transactions[-1], refused)
            return "unspent-dust"
        for candidate in candidates:
            try:
                self._check_scripts(candidate)
            except Refused as refused:
                return fail(candidate.tx, refused)
        self._apply(candidates, replaced)
        for candidate in candidates:
            outcomes[candidate.tx.txid] = Outcome(tx=candidate.tx, fee=candidate.fee)
        return "success"

    def _examine(self, tx: Tx, made: dict[bytes, Unspent], *, single: bool, bypass: bool = False) -> _Candidate:
        """All checks but fee, replacement and scripts; `bypass` for what returns from a disconnected block."""
        policy.check_alone(tx)
        policy.check_final(tx, self._index)
        conflicts = {self._spenders[prevout] for prevout in tx.prevouts if prevout in self._spenders}
        coins: list[Unspent] = []
        parents: set[Txid] = set()
        for prevout in tx.prevouts:
            coin = self._index.unspent.get(prevout) or made.get(prevout)
            parent = self.entries.get(Txid(prevout[:32]))
            if coin is None and parent is not None:
                number = int.from_bytes(prevout[32:], "little")
                if number < len(parent.tx.outputs):
                    output = parent.tx.outputs[number]
                    coin = Unspent(output.value, output.script, BlockHeight(self._index.tip.height + 1), False)
                    parents.add(parent.tx.txid)
            if coin is None:
                if any(outpoint(tx.txid, n) in self._index.unspent for n in range(len(tx.outputs))):
                    raise Refused("txn-already-known")
                raise Refused("bad-txns-inputs-missingorspent", reconsider=single)
            coins.append(coin)
        policy.check_sequence_locks(tx, coins, self._index)
        fee = policy.check_inputs(tx, coins, self._index)
        candidate = _Candidate(tx, coins, fee, parents, conflicts)
        if bypass:
            return candidate
        policy.check_dust_pays_nothing(tx, fee)
        if len(self.entries) >= MAX_ENTRIES:
            raise Refused("mempool full")
        self._check_truc_single(candidate, single=single)
        if conflicts & self._ancestors(parents):
            raise Refused("bad-txns-spends-conflicting-tx")
        self._check_family(candidate)
        return candidate

    def _check_scripts(self, candidate: _Candidate) -> None:
        if not self._scripts_hold(candidate.tx, candidate.coins):
            raise Refused("mempool-script-verify-flag-failed", "libbitcoinkernel refuses an input")

    def _check_truc_single(self, candidate: _Candidate, *, single: bool) -> None:
        """BIP 431, against parents in the mempool."""
        tx, parents = candidate.tx, [self.entries[txid] for txid in candidate.parents]
        name = tx.txid[::-1].hex()
        for parent in parents:
            if (parent.tx.version == policy.TRUC_VERSION) != (tx.version == policy.TRUC_VERSION):
                kinds = ("version=3", "non-version=3")
                mine, other = kinds if tx.version == policy.TRUC_VERSION else kinds[::-1]
                raise Refused("TRUC-violation", f"{mine} tx {name} cannot spend from {other} tx")
        if tx.version != policy.TRUC_VERSION:
            return
        if tx.vsize > policy.TRUC_MAX_VSIZE:
            raise Refused("TRUC-violation", f"version=3 tx {name} is too big: {tx.vsize} > 10000 virtual bytes")
        if not parents:
            return
        if len(parents) > 1 or parents[0].parents:
            raise Refused("TRUC-violation", f"tx {name} would have too many ancestors")
        if tx.vsize > policy.TRUC_CHILD_MAX_VSIZE:
            raise Refused("TRUC-violation", f"version=3 child tx {name} is too big: {tx.vsize} > 1000 virtual bytes")
        siblings = parents[0].children - candidate.conflicts
        if siblings and siblings == parents[0].children:
            only = next(iter(siblings))
            if not single or len(siblings) > 1 or self.entries[only].children:
                shown = parents[0].tx.txid[::-1].hex()
                raise Refused("TRUC-violation", f"tx {shown} would exceed descendant count limit")
            candidate.conflicts.add(only)
            candidate.sibling_evicted = True

    def _check_truc_package(self, candidates: list[_Candidate]) -> None:
        """BIP 431, among the transactions of a package."""
        by_txid = {candidate.tx.txid: candidate for candidate in candidates}
        for candidate in candidates:
            tx = candidate.tx
            inside = [by_txid[Txid(p[:32])] for p in tx.prevouts if p[:32] in by_txid]
            distinct = {parent.tx.txid: parent for parent in inside}
            for parent in distinct.values():
                if (parent.tx.version == policy.TRUC_VERSION) != (tx.version == policy.TRUC_VERSION):
                    raise Refused("TRUC-violation", "version=3 and non-version=3 transactions cannot spend each other")
            if tx.version != policy.TRUC_VERSION or not distinct:
                continue
            grandparents = any(p.parents or any(q[:32] in by_txid for q in p.tx.prevouts) for p in distinct.values())
            if len(distinct) + len(candidate.parents) > 1 or grandparents:
                raise Refused("TRUC-violation", f"tx {tx.txid[::-1].hex()} would have too many ancestors")
            if tx.vsize > policy.TRUC_CHILD_MAX_VSIZE:
                raise Refused("TRUC-violation", f"version=3 child tx is too big: {tx.vsize} > 1000 virtual bytes")

    def _check_family(self, candidate: _Candidate) -> None:
        ancestors = self._ancestors(candidate.parents)
        going = candidate.conflicts
        if len(ancestors) + 1 > MAX_FAMILY or any(
            len(self._descendants({a}) - self._descendants(going)) + 1 > MAX_FAMILY for a in ancestors
        ):
            raise Refused("too-long-mempool-chain")

    def _check_anchors_spent(self, transactions: Sequence[Tx]) -> None:
        """A child must spend the dust of every unconfirmed parent."""
        inside = {tx.txid: tx for tx in transactions}
        for tx in transactions:
            spent = set(tx.prevouts)
            for txid in {Txid(prevout[:32]) for prevout in tx.prevouts}:
                there = self.entries.get(txid)
                parent = inside.get(txid) or (there.tx if there else None)
                if parent and any(outpoint(txid, n) not in spent for n in policy.dust_outputs(parent)):
                    raise Refused("missing-ephemeral-spends", "did not spend parent's ephemeral dust")

    # --- replacing ---------------------------------------------------------------------------------------------------

    def _check_replacement(self, candidate: _Candidate) -> set[Txid]:
        """Replacement by fee: all that goes, if the newcomer pays more in sum and per byte."""
        note = " (including sibling eviction)" if candidate.sibling_evicted else ""
        return self._check_pays_more(
            candidate.conflicts, candidate.fee, candidate.tx.vsize, f"insufficient fee{note}", reconsider=True
        )

    def _check_package_replacement(self, candidates: list[_Candidate], fee: int, vsize: int) -> set[Txid]:
        conflicts = set().union(*(candidate.conflicts for candidate in candidates))
        if not conflicts:
            return set()
        if len(candidates) != 2:
            raise Refused("package RBF failed: package must be 1-parent-1-child")
        if any(candidate.parents for candidate in candidates):
            raise Refused("package RBF failed: new transaction cannot have mempool ancestors")
        parent = candidates[0]
        if fee * parent.tx.vsize <= parent.fee * vsize:
            raise Refused("package RBF failed: package feerate is less than or equal to parent feerate")
        return self._check_pays_more(conflicts, fee, vsize, "package RBF failed: insufficient anti-DoS fees")

    def _check_pays_more(
        self, conflicts: set[Txid], fee: int, vsize: int, word: str, *, reconsider: bool = False
    ) -> set[Txid]:
        if not conflicts:
            return set()
        going = self._descendants(conflicts)
        if len(going) > MAX_REPLACED:
            raise Refused("too many potential replacements")
        old_fee, old_vsize = sum(self.entries[t].fee for t in going), sum(self.entries[t].tx.vsize for t in going)
        needed = old_fee + -(-self._floor * vsize // 1000)
        if fee < needed:
            raise Refused(word, f"{fee} < {needed}", reconsider=reconsider)
        direct = (self.entries[txid] for txid in conflicts)
        if fee * old_vsize <= old_fee * vsize or any(fee * e.tx.vsize <= e.fee * vsize for e in direct):
            detail = "insufficient feerate: does not improve feerate diagram"
            raise Refused("replacement-failed", detail, reconsider=reconsider)
        return going

    def _descendants(self, roots: Iterable[Txid]) -> set[Txid]:
        """These and everything that spends them, directly or not."""
        return self._closure(roots, lambda entry: entry.children)

    def _ancestors(self, roots: Iterable[Txid]) -> set[Txid]:
        """These and everything they spend, directly or not."""
        return self._closure(roots, lambda entry: entry.parents)

    def _closure(self, roots: Iterable[Txid], relatives: Callable[[Entry], set[Txid]]) -> set[Txid]:
        found: set[Txid] = set()
        waiting = list(roots)
        while waiting:
            txid = waiting.pop()
            if txid not in found:
                found.add(txid)
                waiting += relatives(self.entries[txid])
        return found

    # --- moving ------------------------------------------------------------------------------------------------------

    def _apply(self, candidates: Sequence[_Candidate], replaced: set[Txid]) -> None:
        for txid in replaced:
            self._remove(txid)
        for candidate in candidates:
            tx = candidate.tx
            made = Entry(tx, candidate.fee)
            for prevout in tx.prevouts:
                self._spenders[prevout] = tx.txid
                if parent := self.entries.get(Txid(prevout[:32])):
                    made.parents.add(parent.tx.txid)
                    parent.children.add(tx.txid)
            self.entries[tx.txid] = made
            self.sequence += 1

    def _remove(self, txid: Txid) -> None:
        """Take one entry out; its relatives forget it."""
        entry = self.entries.pop(txid)
        for prevout in entry.tx.prevouts:
            self._spenders.pop(prevout, None)
        for parent in entry.parents & self.entries.keys():
            self.entries[parent].children.discard(txid)
        for child in entry.children & self.entries.keys():
            self.entries[child].parents.discard(txid)
        self.sequence += 1

    def block_connected(self, transactions: Sequence[Tx]) -> None:
        """What is in the block leaves, and so does what conflicts with it."""
        for tx in transactions:
            if tx.txid in self.entries:
                self._remove(tx.txid)
            rivals = {self._spenders[prevout] for prevout in tx.prevouts if prevout in self._spenders}
            for txid in self._descendants(rivals):
                self._remove(txid)

    def rebuild(self, returning: Sequence[Tx]) -> None:
        """After a reorganisation or restart: what returns from the old blocks, then what was here, if still possible.

        Fees are not asked for again (they were paid when it was first taken), everything else is.
        """
        old = [entry.tx for entry in self.entries.values()]
        self.entries.clear()
        self._spenders.clear()
        for tx in [*returning, *old]:
            if tx.txid in self.entries or len(self.entries) >= MAX_ENTRIES:
                continue
            try:
                candidate = self._examine(tx, {}, single=True, bypass=True)
                self._check_scripts(candidate)
            except Refused:
                continue
            if not candidate.conflicts:
                self._apply([candidate], set())
        self.sequence += 1

    def for_block(self) -> list[Entry]:
        """What the next block should hold, parents first, best paying families first, within the weight limit.

        A family that pays less than the relay floor waits: nobody would mine a commitment whose child is gone.
        """
        families = []
        for order, txid in enumerate(self.entries):
            family = self._ancestors({txid})
            fee = sum(self.entries[t].fee for t in family)
            vsize = sum(self.entries[t].tx.vsize for t in family)
            if fee * 1000 >= self._floor * vsize:
                families.append((-fee / vsize, order, family))
        place = {txid: order for order, txid in enumerate(self.entries)}
        chosen: dict[Txid, Entry] = {}
        weight = 0
        for _, _, family in sorted(families, key=lambda item: item[:2]):
            new = sorted((txid for txid in family if txid not in chosen), key=place.__getitem__)
            added = sum(self.entries[txid].tx.weight for txid in new)
            if weight + added <= MAX_BLOCK_WEIGHT:
                chosen.update((txid, self.entries[txid]) for txid in new)
                weight += added
        return list(chosen.values())
