"""The story of the demo: A pays E and D over the example network, a failure on the way, then the coins come back.

A---B---D---E      A and E are clients: they listen nowhere and dial out only.
     \\ /
      C
"""

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from rrnode.control.client import Json
from rrnode.demo.network import DemoNetwork, DemoNode, free_port, interrupted_cleanly, wait_for
from rrnode.demo.screen import Screen, sat
from rrnode.errors import UserError

CAPACITY_SAT = 2_000_000
PUSH_AMOUNT_MSAT = 150_000_123
REQUEST_AMOUNT_MSAT = 80_000_000
RETRY_AMOUNT_MSAT = 60_000_456
DEAR_PPM = 2500  # what D asks of B; the way through C costs less
CHANNELS = (("A", "B"), ("B", "D"), ("B", "C"), ("C", "D"), ("D", "E"))  # funder first
LINKS = (("A", "B"), ("B", "D"), ("B", "C"), ("C", "D"), ("E", "D"))  # dialler first
BURN = "bcrt1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqdku202"  # 20 zero bytes: coins mined to it are nobody's

# Shorter than on a real chain, so that the story fits on a screen: a lock delta of 6 blocks (R5), 3 confirmations.
SHORT = {
    "locks__lock_delta": "6",
    "locks__final_lock": "9",
    "channels__to_self_delay": "6",
    "channels__funding_depth": "3",
    "channels__buried_depth": "3",
    "channels__settle_margin": "4",
    "chain__kind": "bitcoind",
    "chain__poll_seconds": "0.05",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked on the command line. `keep`: leave the network running; `directory`: where, None: a new one."""

    keep: bool = False
    directory: Path | None = None


def run(options: Options, console: Console | None = None) -> Json:
    """Tell the whole story.

    Returns:
        What it came to: payments, seconds, and with `keep` the directory of each node.

    Raises:
        UserError: something did not go as it should.
    """
    screen = Screen(console or Console())
    directory = options.directory or Path(tempfile.mkdtemp(prefix="rrnode-demo-"))
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise UserError(f"{directory} is not empty", "name a new directory with --directory")
    began = time.monotonic()
    network = DemoNetwork(directory)
    kept = False
    try:
        with interrupted_cleanly():
            story = _Story(network, screen)
            story.set_up()
            story.pay()
            story.close()
            kept = options.keep
        seconds = time.monotonic() - began
        _farewell(screen, story, directory, seconds, keep=options.keep)
        return {
            "seconds": round(seconds, 1),
            "payments": story.ended,
            "nodes": {name: str(node.data_dir) for name, node in story.nodes.items()} if options.keep else {},
        }
    finally:
        if not kept:
            network.stop()
            if options.directory is None:
                shutil.rmtree(directory, ignore_errors=True)


def _farewell(screen: Screen, story: "_Story", directory: Path, seconds: float, *, keep: bool) -> None:
    screen.title("What next")
    screen.say(f"That took {seconds:.0f} seconds.")
    if keep:
        screen.say("The network goes on running. Look around, for instance:")
        for name, command in (("A", "status"), ("B", "channel list"), ("B", "routes"), ("D", "payments")):
            screen.say(f"  rrnode --datadir {story.nodes[name].data_dir} {command}")
        screen.say("End it with:")
        screen.say(f"  rrnode demo --stop {directory}")
    else:
        screen.say("Nothing is left running. To keep the network and try things yourself:")
        screen.say("  rrnode demo --keep")
        screen.say("To make a node of your own:")
        screen.say("  rrnode init && rrnode start")


def stop(directory: Path, console: Console | None = None) -> Json:
    """End a network that `--keep` left running. Raises UserError when there is none."""
    from rrnode.control.client import ControlClient, NodeAway

    screen = Screen(console or Console())
    asked = 0
    for data_dir in sorted(path for path in directory.glob("[A-Z]") if path.is_dir()):
        try:
            with ControlClient(data_dir) as client:
                client.post("/stop")
            asked += 1
        except NodeAway:
            continue
    stopped_chain = _stop_chain(directory / "chain")
    if not asked and not stopped_chain:
        raise UserError(f"no demo network runs in {directory}")
    screen.say(f"Stopped {asked} nodes{' and the chain' if stopped_chain else ''}. Its files are still in {directory}.")
    return {"nodes_stopped": asked, "chain_stopped": stopped_chain}


def _stop_chain(folder: Path) -> bool:
    import httpx

    try:
        user, _, password = (folder / ".cookie").read_text().strip().partition(":")
        url = (folder / "url").read_text().strip()
        answer = httpx.post(url, json={"method": "stop", "params": [], "id": 1}, auth=(user, password), trust_env=False)
    except (OSError, httpx.HTTPError):
        return False
    return answer.status_code == 200


class _Story:
    def __init__(self, network: DemoNetwork, screen: Screen) -> None:
        self.network, self.screen = network, screen
        self.nodes: dict[str, DemoNode] = {}
        self.ended: list[Json] = []

    # --- the network --------------------------------------------------------------------------------------------------

    def set_up(self) -> None:
        """Chain, five processes, coins, links, five channels."""
        say = self.screen.say
        self.screen.title("The network")
        say("    A---B---D---E      A and E are clients: no open port, they dial out only.")
        say("         \\ /           B, C and D are servers.")
        say("          C")
        port = free_port()
        self.network.start_chain(port)
        (self.network.directory / "chain" / "url").write_text(self.network.chain_url + "\n")
        for name in "ABCDE":
            server = name in "BCD"
            listen = {"roles__route": "true", "host__listen": "/ip4/127.0.0.1/tcp/0"} if server else {}
            self.nodes[name] = self.network.add(name, **SHORT, **listen)
            self.screen.names[self.nodes[name].peer_id] = name
        # D asks more of B than of C: so the short way is heard of first, and the longer one is cheaper.
        self.nodes["D"].settings["fees.neighbours"] = f"{self.nodes['B'].peer_id} 5000 {DEAR_PPM}"
        for node in self.nodes.values():
            node.start()
        for node in self.nodes.values():
            node.wait_until_up()
        say(f"Five processes run, and a chain (regtest, validated by libbitcoinkernel) at {self.network.chain_url}.")
        for node in self.nodes.values():
            node.client.post("/chain/mine", {"blocks": 3})
        self.mine(101)
        for node in self.nodes.values():
            wait_for(f"{node.name}'s coins", lambda node=node: node.wallet_sat() > CAPACITY_SAT)  # type: ignore[misc]
        for dialler, other in LINKS:
            self.nodes[dialler].client.post("/peers", {"address": self.nodes[other].address})
        say("Linked over TCP, Noise and Yamux. Opening five channels of 2,000,000 sat, each funded on the chain:")
        for funder, other in CHANNELS:
            order = {"peer": self.nodes[other].peer_id, "capacity_sat": CAPACITY_SAT}
            opened = self.nodes[funder].client.post("/channels", order)
            say(f"  {funder}-{other}: {funder} funds it with {opened['funding_txid'][:16]}…")
        self.mine(3)
        for left, right in CHANNELS:
            for here, there in ((left, right), (right, left)):
                wait_for(f"channel {left}-{right} to open", lambda here=here, there=there: self.usable(here, there))  # type: ignore[misc]
        say("All five are confirmed and open.")

    def usable(self, here: str, there: str) -> bool:
        """Whether a node can use its channel with another."""
        channel = self.nodes[here].channel_with(self.nodes[there])
        return channel is not None and channel["usable"]

    def mine(self, blocks: int) -> None:
        """Make blocks, and wait until every node has seen them."""
        height = self.nodes["A"].client.post("/chain/mine", {"blocks": blocks, "address": BURN})["height"]
        for node in self.nodes.values():
            wait_for(
                f"{node.name} to see block {height}",
                lambda node=node: node.client.get("/status")["chain"]["height"] >= height,  # type: ignore[misc]
            )

    # --- payments -----------------------------------------------------------------------------------------------------

    def holdings(self) -> dict[tuple[str, str], dict[str, int]]:
        """What each end of each channel holds, millisatoshi."""
        held = {}
        for left, right in CHANNELS:
            channel = self.nodes[left].channel_with(self.nodes[right])
            if channel is None:
                continue
            held[left, right] = {
                "left": channel["ours_msat"],
                "right": channel["theirs_msat"],
                "flight": channel["in_flight_out_msat"] + channel["in_flight_in_msat"],
            }
        return held

    def settled(self) -> bool:
        """Whether nothing is in flight anywhere and both ends of every channel agree."""
        for left, right in CHANNELS:
            here = self.nodes[left].channel_with(self.nodes[right])
            there = self.nodes[right].channel_with(self.nodes[left])
            if here is None or there is None or here["htlcs"] or there["htlcs"]:
                return False
            if (here["ours_msat"], here["theirs_msat"]) != (there["theirs_msat"], there["ours_msat"]):
                return False
        return True

    def show_balances(self) -> dict[tuple[str, str], dict[str, int]]:
        """Print the balances and check that they sum to what went in."""
        wait_for("every channel to settle", self.settled)
        held = self.holdings()
        self.screen.balances((left, right, each) for (left, right), each in held.items())
        total = sum(each["left"] + each["right"] + each["flight"] for each in held.values())
        put_in = len(CHANNELS) * CAPACITY_SAT * 1000
        if total != put_in:
            raise UserError(f"the balances sum to {total} msat, {put_in} went in")
        self.screen.say(f"Sum: {sat(total)} sat, exactly what went in.")
        return held

    def worth(self, held: dict[tuple[str, str], dict[str, int]]) -> dict[str, int]:
        """What each node holds in all its channels, millisatoshi."""
        sums = dict.fromkeys(self.nodes, 0)
        for (left, right), each in held.items():
            sums[left] += each["left"]
            sums[right] += each["right"]
        return sums

    def pay(self) -> None:
        """Three payments: push, request, and one that must find another way."""
        screen = self.screen
        screen.title("Before")
        before = self.show_balances()
        screen.title("A pays E: push, A's secret sealed to E")
        contact = self.nodes["E"].client.get("/contact")["contact"]
        screen.say(f"E can be reached only through D, its routing server: {contact[:40]}…")
        self.follow({"target": contact, "amount_msat": PUSH_AMOUNT_MSAT, "memo": "for E"})
        screen.title("A pays D: request, D's secret, so A ends with a receipt")
        asked = {"amount_msat": REQUEST_AMOUNT_MSAT, "memo": "one coffee", "expiry_s": 3600}
        request = self.nodes["D"].client.post("/requests", asked)["request"]
        screen.say(f"D's request: {request[:40]}…")
        self.follow({"target": request})
        screen.title("A pays E again, and a link on the chosen way breaks before the money comes")
        order = {"target": contact, "amount_msat": RETRY_AMOUNT_MSAT, "quiet_ms": 1500}
        paid = self.follow(order, on_cheap_offer=self.break_link)
        if paid["attempts"] < 2:
            raise UserError("the broken link was not on the way of the payment")
        self.nodes["C"].client.post("/peers", {"address": self.nodes["D"].address})
        wait_for("the link C-D to be back", lambda: self.usable("C", "D") and self.usable("D", "C"))
        screen.say("The link C-D is back; its channel was re-established without a person.")
        screen.title("After")
        after = self.show_balances()
        worth_before, worth_after = self.worth(before), self.worth(after)
        changes = {name: worth_after[name] - worth_before[name] for name in self.nodes}
        screen.say("Each node's change: " + ", ".join(f"{name} {sat(changes[name])}" for name in changes))
        if sum(changes.values()) != 0:
            raise UserError(f"the changes sum to {sum(changes.values())} msat, 0 wanted")
        if changes["E"] != PUSH_AMOUNT_MSAT + RETRY_AMOUNT_MSAT:
            raise UserError(f"E got {changes['E']} msat, {PUSH_AMOUNT_MSAT + RETRY_AMOUNT_MSAT} wanted")

    def break_link(self) -> None:
        """C loses its link to D after its offer has reached A."""
        self.nodes["C"].client.delete(f"/peers/{self.nodes['D'].peer_id}")
        self.screen.say("             [yellow](C has just lost its link to D; nobody has told A or B)[/]")

    def follow(self, order: Json, on_cheap_offer: Callable[[], None] | None = None) -> Json:
        """Pay from A and show what happens; gives the last event, and in `attempts` how many HTLCs it took."""
        payer = self.nodes["A"].client
        attempts = 0
        with payer.events() as events:
            payment_hash = payer.post("/payments", order)["payment_hash"]
            for event in events:
                if event.get("payment_hash") != payment_hash:
                    continue
                self.screen.event(event)
                match event["kind"]:
                    case "offer" if on_cheap_offer is not None and event["fee_ppm"] < DEAR_PPM:
                        on_cheap_offer()
                        on_cheap_offer = None
                    case "locked":
                        attempts = event["attempt"]
                    case "payment_failed":
                        raise UserError(f"the payment failed: {event['reason']}")
                    case "settled":
                        self.ended.append(event)
                        return {**event, "attempts": attempts}
        raise UserError("the node ended before the payment did")

    # --- closing ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Two channels are closed together, one by force; the coins arrive."""
        screen, nodes = self.screen, self.nodes
        screen.title("Closing: A-B and B-C together, C-D by force")
        before = {name: nodes[name].wallet_sat() for name in "ABCD"}
        for closer, other, force in (("A", "B", False), ("B", "C", False), ("C", "D", True)):
            channel = nodes[closer].channel_with(nodes[other])
            assert channel is not None
            nodes[closer].client.post(f"/channels/{channel['channel_id']}/close", {"force": force})
        wanted = (("A", "B"), ("B", "A"), ("B", "C"), ("C", "B"), ("C", "D"), ("D", "C"))

        def gone() -> bool:
            self.mine(1)
            return all(self.closed(here, there) for here, there in wanted)

        wait_for("the closes to be buried", gone)
        for one, other, how in (("A", "B", "together"), ("B", "C", "together"), ("C", "D", "by force")):
            channel = nodes[one].channel_with(nodes[other])
            closing = channel["closing_txid"][:16] if channel else ""
            screen.say(f"  {one}-{other}: closed {how} by {closing}…, buried")
        for name in "ABCD":
            change = nodes[name].wallet_sat() - before[name]
            screen.say(f"  {name}'s wallet on the chain: {change:+,} sat")
        screen.say(
            "The coins of all three channels are back on the chain; fees went to the miners. Whoever closed by force"
        )
        screen.say(
            "had to wait 6 blocks for its own, in which the other could have shown that the state was an old one."
        )

    def closed(self, here: str, there: str) -> bool:
        """Whether a channel is over for one of its ends."""
        channel = self.nodes[here].channel_with(self.nodes[there])
        return channel is None or channel["phase"] == "closed"
