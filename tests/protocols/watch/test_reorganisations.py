"""Reorganisations: spends vanish and come differently, and what was told upward stays true. First single cases, then a model:
random blocks, claims by either side, and reorganisations of up to 6 blocks, played against the rules of BOLT 5."""

from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from protocols.channel.events import HtlcFailed, HtlcFulfilled, Outpoint, Publish, PublishWithInputs
from protocols.onchain import tx
from protocols.watch.state import SpendKind


def test_another_commitment_after_a_reorganisation_starts_anew(scene: Any, htlc: Any) -> None:
    s = scene(htlcs=(htlc(0, True, expiry=105),))
    s.tell_force()
    s.tell_close(s.whole(s.ours), 100)
    s.tell_tip(105)
    s.tell_spent(s.at(s.ours, "offered 0"), s.published("offered 0"), 106)
    s.tip = 106
    assert s.tell_gone(s.at(s.ours, "offered 0")) == [("with inputs", "HTLC timeout", "offered 0", 117)]
    funding = Outpoint(txid=s.context.our_params.funding_txid, index=s.context.our_params.funding_index)
    assert s.tell_gone(funding) == [("with child", "ours", 107)]
    assert s.close.kind is None
    assert s.close.fates == ()
    assert s.tell_close(s.whole(s.theirs), 103) == [
        ("watch", "offered 0", 97),
        ("publish", "HTLC timeout", "offered 0"),
    ]
    assert s.close.kind is SpendKind.THEIRS
    assert s.tell_spent(s.at(s.theirs, "offered 0"), s.published("offered 0"), 107) == []
    assert s.tell_tip(111) == []
    assert s.tell_tip(112) == [("failed", 0, "TIMED_OUT")]


def test_commitment_replaced_without_a_gap_starts_anew(scene: Any, htlc: Any) -> None:
    s = scene(htlcs=(htlc(0, True, expiry=150),))
    s.tell_close(s.whole(s.theirs), 99)
    s.tell_spent(s.at(s.theirs, "offered 0"), s.bobs_claim(s.theirs, "offered 0", preimage=True), 100)
    assert s.tell_close(s.whole(s.ours), 99) == [("watch", "offered 0", 93), ("watch", "to_local", 93)]
    assert (s.close.kind, s.close.fates, s.close.fulfilled) == (SpendKind.OURS, (), (0,))


def test_block_above_the_tip_is_one_that_is_being_left(scene: Any, htlc: Any) -> None:
    s = scene(htlcs=(htlc(0, False, known=True),), tip=99)
    assert s.tell_close(s.whole(s.theirs), 100) == [("watch", "received 0", 94)]
    assert s.tell_tip(100) == [("publish", "HTLC success", "received 0")]


def test_height_that_changes_moves_the_delay(scene: Any) -> None:
    s = scene()
    s.tell_close(s.whole(s.ours), 100)
    assert s.tell_close(s.whole(s.ours), None) == [("with child", "ours", 244)]
    assert s.tell_close(s.whole(s.ours), 104) == []
    assert s.tell_tip(109) == []
    assert s.tell_tip(112) == []
    assert s.tell_tip(113) == [("publish", "sweep", "to_local")]


def test_second_stage_that_vanishes_takes_its_sweep_with_it(scene: Any, htlc: Any) -> None:
    s = scene(htlcs=(htlc(0, False, expiry=150, known=True),))
    s.tell_close(s.whole(s.ours), 100)
    place = s.at(s.ours, "received 0")
    s.tell_spent(place, s.published("received 0"), 101)
    s.tell_tip(110)
    second = Outpoint(txid=s.close.fates[0].spender, index=0)
    s.tell_spent(second, s.published("output of received 0"), 111)
    assert len(s.close.fates) == 2
    s.tip = 111
    assert ("with inputs", "HTLC success", "received 0", 150) in s.tell_gone(place)
    assert s.close.fates == ()


def test_claim_after_a_failure_was_buried_is_told_with_an_alarm(scene: Any, htlc: Any) -> None:
    s = scene(htlcs=(htlc(0, True, expiry=105),))
    s.tell_close(s.whole(s.theirs), 100)
    s.tell_tip(105)
    place = s.at(s.theirs, "offered 0")
    s.tell_spent(place, s.published("offered 0"), 106)
    assert s.tell_tip(111) == [("failed", 0, "TIMED_OUT")]
    assert s.close.resolved
    claim = s.bobs_claim(s.theirs, "offered 0", preimage=True)
    assert s.tell_spent(place, claim, 106) == [("alarm",), ("fulfilled", 0)]
    assert s.close.resolved  # that, too, is buried


def test_sweep_undone_after_everything_was_buried_is_ordered_again(scene: Any) -> None:
    s = scene()
    s.tell_close(s.whole(s.ours), 100)
    s.tell_tip(109)
    place = s.at(s.ours, "to_local")
    s.tell_spent(place, s.published("to_local"), 110)
    s.tell_tip(115)
    assert s.close.resolved
    assert s.tell_gone(place) == [("publish", "sweep", "to_local")]
    assert not s.close.resolved


class Model(RuleBasedStateMachine):
    """A chain beside Alice: blocks of (outpoint, raw) pairs that spend what she watches. `DEPTH` deep is final for her."""

    scene_type: Any
    htlc_type: Any
    DEPTH = 6

    @initialize(
        htlcs=st.lists(
            st.tuples(
                st.booleans(), st.integers(102, 125), st.booleans(), st.sampled_from(["both", "ours", "theirs", "dust"])
            ),
            max_size=4,
        )
    )
    def start(self, htlcs: Any) -> None:
        places = {
            "both": {"ours", "theirs", "next"},
            "ours": {"ours"},
            "theirs": {"theirs", "next"},
            "dust": {"ours", "theirs", "next"},
        }
        made = tuple(
            self.htlc_type(
                place,
                ours,
                sat=300 if where == "dust" else 50_000 + place,
                expiry=expiry,
                known=known and not ours,
                on=frozenset(places[where]),
            )
            for place, (ours, expiry, known, where) in enumerate(htlcs)
        )
        self.s = self.scene_type(htlcs=made, tip=100)
        self.blocks: dict[int, list[tuple[Outpoint, bytes]]] = {}
        self.mark = self.checked = 0
        self.s.tell_force()

    # --- the chain

    def spent(self) -> dict[tuple[bytes, int], bytes]:
        return {(out.txid, out.index): raw for block in self.blocks.values() for out, raw in block}

    def exists(self, outpoint: Outpoint) -> bool:
        confirmed = {tx.txid_of(raw) for raw in self.spent().values()}
        return outpoint == self.funding or outpoint.txid in confirmed

    @property
    def funding(self) -> Outpoint:
        params = self.s.context.our_params
        return Outpoint(txid=params.funding_txid, index=params.funding_index)

    def possible(self) -> list[tuple[Outpoint, bytes]]:
        """What may be in the next block: a commitment, then Bob's claims, and what Alice ordered last."""
        s, spent = self.s, self.spent()
        if (self.funding.txid, self.funding.index) not in spent:
            return [(self.funding, s.whole(each)) for each in (s.ours, s.theirs)]
        built = s.ours if tx.txid_of(spent[(self.funding.txid, self.funding.index)]) == s.ours.txid else s.theirs
        found = []
        for index, each in built.htlc_outputs:
            by_us = each.offered == (built is s.ours)
            name = f"{'offered' if by_us else 'received'} {each.id}"
            if by_us:
                found.append((Outpoint(txid=built.txid, index=index), s.bobs_claim(built, name, preimage=True)))
            elif each.expiry <= s.tip:
                found.append((Outpoint(txid=built.txid, index=index), s.bobs_claim(built, name, preimage=False)))
        for effect in s.effects[self.mark :]:
            if isinstance(effect, Publish | PublishWithInputs):
                first = tx.parse(effect.transaction).inputs[0]
                found.append((Outpoint(txid=first.txid, index=first.index), effect.transaction))
        return [(out, raw) for out, raw in found if (out.txid, out.index) not in spent and self.exists(out)]

    def mine(self, choices: list[int]) -> None:
        s = self.s
        possible = self.possible()
        s.tip += 1
        block: list[tuple[Outpoint, bytes]] = []
        for choice in choices:
            if possible and choice < 2 * len(possible):
                out, raw = possible[choice % len(possible)]
                if all(out != taken for taken, _ in block):
                    block.append((out, raw))
        self.blocks[s.tip] = block
        for out, raw in block:
            s.tell_spent(out, raw, s.tip)
            self.check()
        self.mark = len(s.effects)
        s.tell_tip(s.tip)
        self.check()

    @rule(choices=st.lists(st.integers(0, 9), max_size=3))
    def block(self, choices: list[int]) -> None:
        self.mine(choices)

    @rule()
    def quiet_blocks(self) -> None:
        for _ in range(3):
            self.mine([])

    @precondition(lambda self: len(self.blocks) > 1)
    @rule(
        depth=st.integers(1, 5),
        dropped=st.booleans(),
        more=st.lists(st.lists(st.integers(0, 9), max_size=2), max_size=7),
    )
    def reorganise(self, depth: int, dropped: bool, more: Any) -> None:
        """`depth` blocks go; what was in them goes to the mempool, or vanishes; then a longer branch comes."""
        s = self.s
        depth = min(depth, len(self.blocks))
        gone = [pair for height in range(s.tip, s.tip - depth, -1) for pair in reversed(self.blocks.pop(height))]
        s.tip -= depth
        for out, raw in gone:
            if dropped:
                s.tell_gone(out)
            else:
                s.tell_spent(out, raw, None)
                s.heights.pop(tx.txid_of(raw), None)
            self.check()
        self.mark = len(s.effects)
        s.tell_tip(s.tip)
        if not dropped:  # from the mempool nothing is mined unless chosen; it makes way for what is
            for out, _ in gone:
                s.tell_gone(out)
        self.mark = min(self.mark, len(s.effects))
        for choices in [*more, *[[]] * (depth + 1 - len(more))]:
            self.mine(choices)

    @rule(place=st.integers(0, 3))
    def settle(self, place: int) -> None:
        if any(not each.ours and each.id == place for each in self.s.htlcs):
            self.s.tell_settled(place)
            self.check()

    # --- what must hold

    def check(self) -> None:
        s = self.s
        fulfilled = [each.htlc_id for each in s.effects if isinstance(each, HtlcFulfilled)]
        failed = [each.htlc_id for each in s.effects if isinstance(each, HtlcFailed)]
        assert len(set(fulfilled)) == len(fulfilled)
        assert len(set(failed)) == len(failed)
        assert not set(fulfilled) & set(failed)
        spent = self.spent()
        for htlc_id in failed[self.checked :]:
            assert self.is_final(htlc_id, spent)
        self.checked = len(failed)

    def is_final(self, htlc_id: int, spent: dict[tuple[bytes, int], bytes]) -> bool:
        """Whether no reorganisation of less than DEPTH blocks lets Bob claim this HTLC of ours any more."""
        s = self.s
        heights = {(out.txid, out.index): height for height, block in self.blocks.items() for out, _ in block}
        closed = heights.get((self.funding.txid, self.funding.index))
        if closed is None or s.tip - closed + 1 < self.DEPTH:
            return False
        built = s.ours if tx.txid_of(spent[(self.funding.txid, self.funding.index)]) == s.ours.txid else s.theirs
        for index, each in built.htlc_outputs:
            if each.id == htlc_id and each.offered == (built is s.ours):
                height = heights.get((built.txid, index))
                return height is not None and s.tip - height + 1 >= self.DEPTH
        return True

    def teardown(self) -> None:
        """Left alone with what Alice orders, everything is resolved, and each HTLC of ours was told once."""
        if not hasattr(self, "s"):
            return
        s = self.s
        for _ in range(2300 if any(not each.ours for each in s.htlcs) else 200):
            if s.close.resolved:
                break
            quiet = s.close.kind is not None and not self.ordered() and s.tip > 160
            if quiet and any(not each.ours and not each.known for each in s.htlcs):
                s.tip += 2016  # nobody comes for what is theirs
            self.mine(list(range(10)))
        assert s.close.resolved
        told = {each.htlc_id for each in s.effects if isinstance(each, HtlcFulfilled | HtlcFailed)}
        assert told == {each.id for each in s.htlcs if each.ours}

    def ordered(self) -> bool:
        return any(isinstance(each, Publish | PublishWithInputs) for each in self.s.effects[self.mark :])


def test_whatever_the_chain_does_each_htlc_ends_once_and_only_when_it_is_final(scene: Any, htlc: Any) -> None:
    model = type("BoundModel", (Model,), {"scene_type": scene, "htlc_type": htlc})
    run_state_machine_as_test(
        model,
        settings=settings(
            max_examples=40,
            stateful_step_count=15,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate,),
        ),
    )
