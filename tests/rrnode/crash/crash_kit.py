"""Three processes A---B---C over loopback libp2p and a chain in a fourth; any of them kills itself at a chosen commit."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

from rrnode.control.client import NodeAway
from rrnode.demo.network import DemoNetwork, DemoNode, Spawned, free_port, wait_for
from rrnode.errors import UserError

BURN = "bcrt1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqdku202"  # 20 zero bytes: coins mined to it are nobody's
CAPACITY_SAT = 2_000_000
PUSH_MSAT = 600_000_000
MOST_FEES = 60_000  # satoshi for the transactions of one channel's life
MOST_COMMITS = 90
LAUNCHER = Path(__file__).with_name("launcher.py")
SHORT = {
    "roles__route": "true",
    "locks__lock_delta": "6",
    "locks__final_lock": "9",
    "channels__to_self_delay": "6",
    "channels__funding_depth": "1",
    "channels__buried_depth": "3",
    "channels__settle_margin": "4",
    "chain__kind": "bitcoind",
    "chain__poll_seconds": "0.05",
    "wait__quiet_ms": "50",
    "wait__maximum_ms": "4000",
}
Json = dict[str, Any]


class CrashNode(DemoNode):
    """A node whose process can be told when to die."""

    @property
    def fuse(self) -> Path:
        return self.data_dir / "test-fuse"

    @property
    def seen(self) -> Path:
        return self.data_dir / "test-fuse.seen"

    def start(self, **more: str) -> None:
        flags = [part for key, value in self.settings.items() for part in ("--set", f"{key}={value}")]
        command = [sys.executable, str(LAUNCHER), "--datadir", str(self.data_dir), "start", *flags]
        environment = {"NODE_TEST_FUSE": str(self.fuse)}
        self._spawned = Spawned(self.name, command, self.data_dir / "test.log", environment)

    def arm(self, commit: int, side: str) -> None:
        """Die at this commit from now on, `before` or `after` it."""
        self.seen.unlink(missing_ok=True)
        written = self.fuse.with_suffix(".new")
        written.write_text(f"{commit} {side}")
        written.rename(self.fuse)  # never seen half written

    def disarm(self) -> int:
        """Live on. Gives the number of commits since it was armed."""
        self.fuse.unlink(missing_ok=True)
        return int(self.seen.read_text() or 0) if self.seen.exists() else 0

    @property
    def dead(self) -> bool:
        return self._spawned is None or self._spawned.process.poll() is not None

    def rise(self) -> None:
        """Start it again where it died by its own hand."""
        assert self._spawned is not None
        assert self._spawned.process.wait(10) == -9
        self.disarm()
        self.start()
        self.wait_until_up()

    def get(self, path: str) -> Any:
        """Ask; None when it is dead."""
        try:
            return self.client.get(path)
        except NodeAway:
            return None

    def order(self, path: str, body: Json) -> Any:
        """Give an order that it may not survive: the answer, or None."""
        try:
            return self.client.post(path, body)
        except NodeAway:
            return None

    def live(self) -> list[Json]:
        """Its channels that are not over."""
        return [each for each in self.channels() if each["phase"] != "closed"]

    def coins(self) -> int:
        balance = self.client.get("/wallet/balance")
        return int(balance["confirmed_sat"] + balance["unconfirmed_sat"])


class Line:
    """A---B---C, everybody routes, and everything that is done with them."""

    def __init__(self, directory: Path) -> None:
        self.network = DemoNetwork(directory)
        self.nodes: dict[str, CrashNode] = {}

    def __enter__(self) -> "Line":
        try:
            self._set_up()
        except BaseException:
            self.network.stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for node in self.nodes.values():
            node.disarm()
        self.network.stop()

    def _set_up(self) -> None:
        network = self.network
        network.start_chain(free_port())
        chain = {"node.network": "regtest", "chain.url": network.chain_url, "chain.cookie_file": str(network.cookie)}
        for name in "ABC":
            listen = {"host.listen": f"/ip4/127.0.0.1/tcp/{free_port()}"}
            settings = chain | listen | {key.replace("__", "."): value for key, value in SHORT.items()}
            self.nodes[name] = CrashNode(name, network.directory / name, settings)
            network.nodes.append(self.nodes[name])
        for node in self.nodes.values():
            node.start()
        for node in self.nodes.values():
            node.wait_until_up()
            node.client.post("/chain/mine", {"blocks": 2})
        self.mine(101)
        for one, other in ("AB", "BA", "BC", "CB"):  # both know where to dial after a death
            self.nodes[one].client.post("/peers", {"address": self.nodes[other].address})
        for funder, other in ("AB", "BC"):
            order = {"peer": self.nodes[other].peer_id, "capacity_sat": CAPACITY_SAT, "push_msat": PUSH_MSAT}
            self.nodes[funder].client.post("/channels", order)
        self.mine(2)
        self.old = {pair: self.nodes[pair[0]].channel_with(self.nodes[pair[1]])["channel_id"] for pair in ("AB", "BC")}
        self.at_rest()

    # --- waiting ------------------------------------------------------------------------------------------------------

    def mine(self, blocks: int) -> None:
        """Make blocks; whoever lives takes them in."""
        miner = next(node for name in "CBA" if not (node := self.nodes[name]).dead)
        height = miner.client.post("/chain/mine", {"blocks": blocks, "address": BURN})["height"]
        for node in self.nodes.values():

            def there(node: CrashNode = node) -> bool:
                if node.dead:
                    return True
                status = node.get("/status")
                return status is not None and status["chain"]["height"] >= height

            wait_for(f"{node.name} to see block {height}", there)

    def channel(self, name: str, channel_id: str) -> Json:
        return next(each for each in self.nodes[name].channels() if each["channel_id"] == channel_id)

    def at_rest(self) -> None:
        """Both old channels usable at both ends, without HTLC, and both ends of one mind."""
        for (one, other), channel_id in self.old.items():

            def idle(one: str = one, other: str = other, channel_id: str = channel_id) -> bool:
                here, there = self.channel(one, channel_id), self.channel(other, channel_id)
                if not (here["usable"] and there["usable"]) or here["htlcs"] or there["htlcs"]:
                    return False
                return bool((here["ours_msat"], here["theirs_msat"]) == (there["theirs_msat"], there["ours_msat"]))

            wait_for(f"channel {one}-{other} to rest", idle)
            here = self.channel(one, channel_id)
            assert here["ours_msat"] + here["theirs_msat"] == here["capacity_sat"] * 1000

    def worth(self) -> dict[str, int]:
        """What each node holds in its channels, msat."""
        return {name: sum(each["ours_msat"] for each in node.live()) for name, node in self.nodes.items()}

    # --- a death ------------------------------------------------------------------------------------------------------

    def killed(self, victim: str, commit: int, side: str, phase: Callable[[CrashNode], None]) -> bool:
        """Go through a phase in which the victim may die, and bring it back. Gives whether it died."""
        node = self.nodes[victim]
        node.arm(commit, side)
        try:
            phase(node)
        except NodeAway:
            assert node.dead or wait_for(f"{victim} to be dead", lambda: node.dead)
        if not node.dead:
            assert node.disarm() > 0, "the phase committed nothing, so nothing was tried"
            return False
        node.rise()
        return True

    # --- phases -------------------------------------------------------------------------------------------------------

    def pay(self, payer: str, payee: str, amount: int, victim: str, commit: int, side: str) -> bool:
        """One payment. Gives whether the victim died; checks the books in any case."""
        here = self.nodes[payer]
        before, known = self.worth(), {each["payment_hash"] for each in here.client.get("/payments")}
        contact = self.nodes[payee].client.get("/contact")["contact"]

        def ended() -> bool:
            return all(each["phase"] in ("paid", "failed") for each in here.client.get("/payments"))

        def phase(node: CrashNode) -> None:
            here.order("/payments", {"target": contact, "amount_msat": amount, "maximum_ms": 3000})
            wait_for("the payment to end", lambda: node.dead or (ended() and self.idle(node)))

        died = self.killed(victim, commit, side, phase)
        wait_for("the payment to end", ended)
        self.at_rest()
        wait_for("forwards to end", lambda: self.nodes["B"].client.get("/status")["forwards_live"] == 0)
        new = [each for each in here.client.get("/payments") if each["payment_hash"] not in known]
        assert len(new) <= 1
        paid = bool(new) and new[0]["phase"] == "paid"
        sent, received = (new[0]["sent_msat"], amount) if paid else (0, 0)
        expected = before | {payer: before[payer] - sent, payee: before[payee] + received}
        if "B" not in (payer, payee):
            expected["B"] += sent - received
        assert self.worth() == expected
        assert died or paid, new
        return died

    def idle(self, node: CrashNode) -> bool:
        """Whether no HTLC is left anywhere, as far as anybody who lives can tell."""
        for each in self.nodes.values():
            channels = each.get("/channels")
            if channels is None or any(channel["htlcs"] for channel in channels):
                return node.dead
        return True

    def newest(self, name: str) -> list[Json]:
        return [each for each in self.nodes[name].live() if each["channel_id"] not in self.old.values()]

    def both_usable(self) -> bool:
        return all(len(end) == 1 and end[0]["usable"] for end in (self.newest("A"), self.newest("B")))

    def is_ending(self) -> bool:
        """Whether the close has begun at either end, or is over."""
        ends = self.newest("A") + self.newest("B")
        return len(ends) < 2 or any(each["phase"] != "open" for each in ends)

    def neither_there(self) -> bool:
        return not self.newest("A") and not self.newest("B")

    def coins(self) -> int:
        wallets = sum(self.nodes[name].coins() for name in "AB")
        return wallets + sum(each["capacity_sat"] for each in self.newest("A"))

    def mine_until(self, what: str, condition: Callable[[], bool]) -> None:
        """Blocks, with a moment after each."""
        for _ in range(60):
            end = time.monotonic() + 0.3
            while time.monotonic() < end:
                if condition():
                    return
                time.sleep(0.03)
            self.mine(1)
        raise AssertionError(f"60 blocks did not bring {what}")

    def open(self, victim: str, commit: int, side: str) -> bool:
        """A second channel between A and B; afterwards it is open on both sides or forgotten on both."""
        before = self.coins()
        order = {"peer": self.nodes["B"].peer_id, "capacity_sat": 500_000, "push_msat": 50_000_123}

        def phase(node: CrashNode) -> None:
            refused: list[str] = []
            opening = Thread(target=self._order_open, args=(order, refused), daemon=True)
            opening.start()  # whose answer waits for a fundee that may be dead
            wait_for("the channel to be agreed", lambda: node.dead or not opening.is_alive())
            assert node.dead or not refused or wait_for(f"a death that explains {refused}", lambda: node.dead, 5)
            self.mine_until("the channel", lambda: node.dead or self.both_usable())

        died = self.killed(victim, commit, side, phase)
        self.at_rest()
        self.mine_until("one mind", lambda: self.both_usable() or self.neither_there())
        if self.neither_there():
            assert died
            assert self.coins() == before
        else:
            (ours,), (theirs,) = self.newest("A"), self.newest("B")
            assert (ours["ours_msat"], ours["theirs_msat"]) == (449_999_877, 50_000_123)
            assert (theirs["ours_msat"], theirs["theirs_msat"]) == (50_000_123, 449_999_877)
            assert before - MOST_FEES <= self.coins() <= before
        return died

    def _order_open(self, order: Json, refused: list[str]) -> None:
        try:
            self.nodes["A"].order("/channels", order)
        except UserError as error:
            refused.append(str(error))

    def open_in_peace(self) -> None:
        if self.neither_there():
            order = {"peer": self.nodes["B"].peer_id, "capacity_sat": 500_000, "push_msat": 50_000_123}
            self.nodes["A"].client.post("/channels", order)
            self.mine_until("the channel", self.both_usable)

    def close(self, victim: str, commit: int, side: str, *, force: bool) -> bool:
        """A closes the second channel; afterwards every coin is in a wallet, or the order died with its giver."""
        self.open_in_peace()
        before, (channel,) = self.coins(), self.newest("A")

        def phase(node: CrashNode) -> None:
            self.nodes["A"].order(f"/channels/{channel['channel_id']}/close", {"force": force})
            self.mine_until("the close", lambda: node.dead or self.neither_there())

        died = self.killed(victim, commit, side, phase)
        self.at_rest()
        wait_for("one mind about the close", lambda: self.both_usable() or self.is_ending())
        if not self.both_usable():
            self.mine_until("the close", self.neither_there)
            self.mine_until("its coins", lambda: not any(self._unsure(name) for name in "AB"))
        assert before - MOST_FEES <= self.coins() <= before
        return died

    def _unsure(self, name: str) -> bool:
        return bool(self.nodes[name].client.get("/wallet/balance")["unconfirmed_sat"])
