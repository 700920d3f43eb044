"""The acts of `rrnode demo cheat`: how a theft goes, told from what the nodes and the chain say, and checked on it (DESIGN 7)."""

from collections.abc import Callable, Iterable
from pathlib import Path

from rrnode.control.client import Json
from rrnode.demo.network import PATIENCE, DemoNode, wait_for
from rrnode.demo.past import OldState
from rrnode.demo.screen import Screen
from rrnode.demo.watched import FIRST_SAT, MOST_BLOCKS, OF_E, WATCHERS, Watched
from rrnode.errors import UserError

EVERYBODY = "DE" + WATCHERS
UNTIL_EXPIRED = 40  # blocks; no payment between neighbours is locked for longer here
MOST_FOR_A_CLAIM = 5_000  # satoshi of fees for what E claims by itself
HUNTING = "hunting"


class Theft:
    """A network on which one act after the other is played, each on a channel of its own."""

    def __init__(self, cast: Watched, screen: Screen) -> None:
        self.cast, self.nodes, self.screen, self.say = cast, cast.nodes, screen, screen.say
        self._cost: dict[str, int] = {}  # of closing honestly, satoshi
        self._before: dict[str, int] = {}  # what each owned before the cheat, satoshi
        self._coins = self._found = 0  # what of that E had in blocks, and what was added while it was away

    def play(self, act: str) -> Json:
        """Play one of `ACTS`; gives what it came to. Raises UserError when a claim does not hold."""
        return {"act": act, "rounds": ACTS[act](self)}

    def holds(self, claim: bool, sentence: str) -> None:
        """Say a claim of the story if it is true. Raises UserError when it is not."""
        if not claim:
            raise UserError(f"this was claimed and does not hold: {sentence}")
        self.screen.holds(sentence)

    # --- before the acts --------------------------------------------------------------------------------------------

    def set_up(self, bitcoind: Path | None) -> None:
        """Chain, nodes, and what an honest close costs."""
        self.screen.title("The network")
        self.say("    D---E      E is a client: no chain, no open port, often away. D will cheat.")
        self.say("    F G H      tell E the chain and watch its channel; strangers to all.")
        self.cast.start(bitcoind)
        version = self.cast.network.rpc("getnetworkinfo")["subversion"].strip("/") if bitcoind else ""
        which = f"{version}, {bitcoind}" if bitcoind else "embedded, validated by libbitcoinkernel"
        self.say(f"Five processes run, and a regtest chain ({which}).")
        self.say(
            "Each time that D revokes a state, E hands F, G and H a sealed claim on what is D's in it. It can be opened once "
            "that state is published: it pays E, and leaves a bounty to whoever brings it into a block."
        )
        self.say(
            "No command of a node cheats. D stops, puts an old state out of its own journal back on its disk, starts again and "
            "closes by force: what anybody does who starts an old copy of the data directory."
        )
        self.screen.title("For comparison: an honest close")
        first, last = self.fill_channel()
        self.say(
            f"D has a channel of {first['capacity_sat']:,} sat with E. Of its {first['ours_msat'] // 1000:,} sat in there it pays E "
            f"all but the reserve: now D holds {last['ours_msat'] // 1000:,} sat, E {last['theirs_msat'] // 1000:,}."
        )
        before = self.purses("DE")
        self.cast.close_channel("D", "E", force=False)
        self.cast.mine_until("the channel to close", self.is_over)
        self._cost = {name: before[name] - after for name, after in self.purses("DE").items()}
        self.say(f"They close it together. The fees were {self._cost['D']:,} sat for D, {self._cost['E']:,} sat for E.")

    def fill_channel(self) -> tuple[Json, Json]:
        """A channel in which D has paid nearly all to E; gives it as D saw it before the payments, and after."""
        cast = self.cast
        cast.open_channel()
        first = cast.channel("D")
        cast.pay(FIRST_SAT * 1000)
        cast.pay(cast.channel("D")["can_send_msat"])
        return first, cast.channel("D")

    def purses(self, names: Iterable[str]) -> dict[str, int]:
        """What these own, on the chain and in the channel, satoshi."""
        return {name: self.cast.purse_sat(name) for name in names}

    def is_over(self) -> bool:
        """Whether the channel is, for both ends."""
        return self.cast.closed("D", "E") and self.cast.closed("E", "D")

    # --- the acts -----------------------------------------------------------------------------------------------------

    def race(self) -> list[Json]:
        """Three strangers race for one bounty."""
        self.screen.title("race: E is away, D cheats, three strangers race for the bounty")
        self.covered_channel()
        self.leave()
        old = self.cheat(has_more)
        self.come_back(old, self.hunt(old))
        ended = self.reckon(old)
        self.holds(len(self.richer(ended)) == 1, "of the hunters one has won, the others have lost nothing")
        self.poorer(ended, "D")
        return [ended]

    def insider(self) -> list[Json]:
        """The cheat is one of the hunters, and the only one that is awake."""
        self.screen.title("insider: the cheat is one of the hunters")
        self.say("G is D's own, under another key in another network; E takes it for a stranger.")
        self.covered_channel()
        self.leave()
        self.sleep("FH")
        self.say("F and H happen to be down, the worst that can be: D can have the whole bounty for itself.")
        old = self.cheat(has_more)
        paid = self.hunt(old)
        self.wake("FH")
        self.come_back(old, paid)
        ended = self.reckon(old)
        self.poorer(ended, "DG")
        return [ended]

    def last(self) -> list[Json]:
        """All watchers but one are dead."""
        self.screen.title("last: all watchers but one are dead")
        self.covered_channel()
        self.leave()
        for name in "FG":
            self.nodes[name].kill()
        self.say("F and G are killed. H is left.")
        old = self.cheat(has_more)
        paid = self.hunt(old)
        for name in "FG":
            self.nodes[name].start()
        for name in "FG":
            self.nodes[name].wait_until_up()
        self.say("F and G start again: E wants two helpers to answer before it believes that nothing else happened.")
        self.come_back(old, paid)
        ended = self.reckon(old)
        self.poorer(ended, "D")
        return [ended]

    def htlc(self) -> list[Json]:
        """A payment is in flight in the revoked state, and its lock is over: D may take it back at once, if it is first."""
        return [self.htlc_saved(), self.htlc_taken(late=False), self.htlc_taken(late=True)]

    def htlc_saved(self) -> Json:
        """The hunters are first."""
        self.screen.title("htlc, 1 of 3: a payment is in flight in the revoked state; the hunters come first")
        self.covered_channel()
        self.leave()
        self.cast.mine(UNTIL_EXPIRED)
        old = self.cheat(in_flight)
        self.sleep("D")
        self.say("D would take that back as soon as a block holds the state, but is held up here until it is too late.")
        paid = self.hunt(old)
        self.wake("D")
        self.come_back(old, paid)
        ended = self.reckon(old)
        self.poorer(ended, "D")
        return ended

    def htlc_taken(self, *, late: bool) -> Json:
        """D is first. Nobody can be given a claim on D's timeout transaction in advance: only E itself can take its output."""
        end = "E comes back too late" if late else "E comes back in time"
        self.screen.title(
            f"htlc, {3 if late else 2} of 3: a payment is in flight in the revoked state; D comes first, {end}"
        )
        cap = self.covered_channel()
        self.say(
            f"E takes no more than {cap:,} sat in flight (its channels.max_in_flight_ppm); D's node keeps to that."
        )
        self.leave()
        self.cast.mine(UNTIL_EXPIRED)
        self.sleep(WATCHERS)
        old = self.cheat(in_flight)
        self.cast.mine(1)
        wait_for("D to take the payment back", lambda: self.cast.is_spent(old.txid, old.htlc_index))
        self.cast.mine(1)
        delay = int(OF_E["channels__to_self_delay"])
        self.say(
            f"The hunters are held up here for two blocks: in the second, D has taken back the {old.in_flight:,} sat. Nobody "
            f"could be given a claim on that in advance; E itself can take it from D, for {delay} blocks."
        )
        self.wake(WATCHERS)
        paid = self.hunt(old)
        if not late:
            self.come_back(old, paid)
            return self.recovered(old)
        self.cast.mine(delay)
        self.cast.mine_until("D to have its loot", lambda: self.cast.closed("D", "E"))
        self.say(f"The {delay} blocks have passed.")
        self.come_back(old, paid)
        ended = self.reckon(old)
        lost = ended["honest_sat"]["E"] - ended["after_sat"]["E"]
        self.holds(
            0 < lost <= cap, f"E has lost {lost:,} sat by being away too long; its cap of {cap:,} sat bounds that"
        )
        self.say("So: let little be in flight, or give your neighbour a to_self_delay longer than you are ever away.")
        return ended

    def recovered(self, old: OldState) -> Json:
        """E, back in time, takes back what D took back."""
        ended = self.reckon(old)
        taken = ended["after_sat"]["E"] - self._coins - self._found
        self.holds(
            old.in_flight - MOST_FOR_A_CLAIM < taken < old.in_flight,
            f"E itself has taken the {old.in_flight:,} sat from D, less {old.in_flight - taken:,} sat of fees",
        )
        self.poorer(ended, "D")
        return ended

    def sleep(self, names: str) -> None:
        """These do nothing until `wake`."""
        for name in names:
            self.nodes[name].put_to_sleep()

    def wake(self, names: str) -> None:
        """These go on."""
        for name in names:
            self.nodes[name].wake()

    # --- what happens in an act -------------------------------------------------------------------------------------

    def covered_channel(self) -> int:
        """The same again, and every watcher holds what it needs; gives the most that D could have had in flight, satoshi."""
        first, last = self.fill_channel()
        cover = self.cast.wait_until_covered()
        self.say(
            f"A new channel, used likewise: D holds {last['ours_msat'] // 1000:,} sat, E {last['theirs_msat'] // 1000:,}. "
            f"{cover['holders_of_newest']} of {len(cover['held'])} watchers hold claims on all {cover['states_revoked']} states that "
            f"D has revoked. By publishing one, D would lose {cover['stake_sat']:,} sat at least."
        )
        return int(first["can_send_msat"]) // 1000

    def leave(self) -> None:
        """E goes offline; what all own is noted."""
        self._before = self.purses(EVERYBODY)
        self._coins = self.coins("E")
        self.nodes["E"].stop()
        self.say("E goes offline.")

    def coins(self, name: str) -> int:
        """A node's coins in blocks, satoshi."""
        return int(self.nodes[name].client.get("/wallet/balance")["confirmed_sat"])

    def cheat(self, wanted: Callable[[OldState], bool]) -> OldState:
        """D publishes an old state."""
        old = self.cast.cheat(wanted)
        self.say(
            f"D puts back state {old.number} and closes by force: {old.txid[:16]}… is in the mempool. "
            f"In it D has {old.ours:,} sat, E {old.theirs:,}."
        )
        if old.in_flight:
            height = self.nodes["D"].client.get("/status")["chain"]["height"]
            self.say(
                f"And {old.in_flight:,} sat are on their way to E. They arrived long ago, but by this state D may take them back "
                f"from block {old.expiry} on; block {height} is here."
            )
        return old

    def hunt(self, old: OldState) -> int:
        """The watchers that are awake do what they do; gives what their claims paid E, satoshi."""
        cast, hunters = self.cast, self.cast.awake
        for node in hunters:
            wait_for(f"{node.name} to see the cheat", lambda node=node: cast.case(node, old.txid) is not None)  # type: ignore[misc]
        cast.give_time(lambda: all(self.case(node, old)["claim_txid"] for node in hunters))
        for node in hunters:
            self.bids(node, self.case(node, old))
        places = [each["index"] for each in self.case(hunters[0], old)["outputs"]]
        blocks = 0
        while any(self.case(node, old)["outcome"] == HUNTING for node in hunters):
            if blocks == MOST_BLOCKS:
                raise UserError(f"after {blocks} blocks the hunt is not over")
            cast.give_time(lambda: all(cast.is_spent(old.txid, index) for index in places))
            cast.mine(1)
            blocks += 1
        self.say(f"  block {self.case(hunters[0], old)['breach_height']} holds the old state")
        return sum(self.result(node, self.case(node, old)) for node in hunters)

    def case(self, node: DemoNode, old: OldState) -> Json:
        """What a watcher says of this cheat."""
        found = self.cast.case(node, old.txid)
        assert found is not None
        return found

    def bids(self, node: DemoNode, case: Json) -> None:
        """What a hunter does first."""
        bounty = sum(each["bounty_sat"] for each in case["outputs"] if not each["spender"])
        if case["claim_txid"]:
            does = f"publishes the claim, with {case['claim_fee_sat']:,} sat of the bounty of {bounty:,} as its fee"
        else:
            does = f"waits for a block, since D's own fee is too high to be outbid; the bounty is {bounty:,} sat"
        self.say(f"  {node.name} sees it and {does}")

    def result(self, node: DemoNode, case: Json) -> int:
        """How a hunt ended; gives what it paid E, satoshi."""
        taken = [each for each in case["outputs"] if each["ours"]]
        paid = int(sum(each["value_sat"] - each["bounty_sat"] for each in taken))
        of = f", {len(taken)} of {len(case['outputs'])} outputs" if len(case["outputs"]) > 1 else ""
        gain = ""
        if taken:
            gain = f" in block {taken[0]['height']}: {paid:,} sat for E, {case['reward_sat']:,} for itself"
        self.say(f"  {node.name} has {case['outcome']}{of}{gain}")
        return paid

    def come_back(self, old: OldState, paid: int) -> None:
        """E starts again. No block is made before it is asked: nothing that it does itself can be in one."""
        self.nodes["E"].start()
        self.nodes["E"].wait_until_up()
        self.cast.give_time(lambda: self.coins("E") - self._coins == old.theirs + paid, PATIENCE)  # helpers may lag
        self._found = self.coins("E") - self._coins
        self.holds(
            self._found == old.theirs + paid,
            f"E is back and finds {self._found:,} sat on the chain: its own {old.theirs:,}, and {paid:,} that hunters got it",
        )

    def reckon(self, old: OldState) -> Json:
        """What all have once everything is buried: before, as it would be by closing honestly, and after."""
        self.cast.mine_until("the channel to be over for both", self.is_over)
        before, after = self._before, self.purses(EVERYBODY)
        honest = {name: before[name] - self._cost.get(name, 0) for name in EVERYBODY}
        self.screen.purses({name: (before[name], honest[name], after[name]) for name in EVERYBODY})
        cases = {name: self.case(self.nodes[name], old) for name in WATCHERS}
        ended = {"before_sat": before, "honest_sat": honest, "after_sat": after, "hunters": cases}
        richer = self.richer(ended)
        rewards = {name: case["reward_sat"] for name, case in cases.items() if case["reward_sat"]}
        self.holds(
            richer == rewards != {},
            " and ".join(f"{name} is {gain:,} sat richer" for name, gain in richer.items())
            + ": the bounty less the claim's fee",
        )
        return ended

    def richer(self, ended: Json) -> dict[str, int]:
        """The watchers whose purse has changed, and by how much."""
        before, after = ended["before_sat"], ended["after_sat"]
        return {name: after[name] - before[name] for name in WATCHERS if after[name] != before[name]}

    def poorer(self, ended: Json, side: str) -> None:
        """What must hold wherever E is not too late: cheating does not pay, for D and whoever is with it, nor costs E."""
        honest, after = ended["honest_sat"], ended["after_sat"]
        lost, gained = sum(honest[name] - after[name] for name in side), after["E"] - honest["E"]
        who = " and ".join(side) + (" together are" if len(side) > 1 else " is")
        self.holds(lost > 0, f"{who} {lost:,} sat poorer than by closing honestly")
        self.holds(gained >= 0, f"E is {gained:,} sat richer than by closing honestly")


def has_more(old: OldState) -> bool:
    """The first state: D has paid nothing yet."""
    return not old.spec.htlcs


def in_flight(old: OldState) -> bool:
    """D's first payment is on its way."""
    return old.in_flight > 0


ACTS: dict[str, Callable[[Theft], list[Json]]] = {
    "race": Theft.race,
    "insider": Theft.insider,
    "last": Theft.last,
    "htlc": Theft.htlc,
}
