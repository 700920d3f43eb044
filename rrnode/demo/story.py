"""The story of the demo: A pays E and D over the example network, a failure on the way, then the coins come back."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from rrnode.control.client import Json
from rrnode.demo.example import CAPACITY_SAT, CHANNELS, DEAR_PPM, HELPERS, Example, Holdings, worth
from rrnode.demo.network import DemoNetwork, stage, wait_for
from rrnode.demo.screen import Screen, sat
from rrnode.errors import UserError

PUSH_AMOUNT_MSAT = 150_000_123
REQUEST_AMOUNT_MSAT = 80_000_000
RETRY_AMOUNT_MSAT = 60_000_456
CLOSES = (("A", "B", True), ("B", "C", False), ("C", "D", False))  # who closes, with whom, whether by force
ENDS = "ABCD"  # of these channels
LOST = "G"  # a helper that goes away
MOST_FOR_A_CLOSE = 5_000  # satoshi: a commitment, its child and the way back to the wallet are some 500 at 1 sat/vB


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
    began = time.monotonic()
    with stage(options.directory) as network:
        story = _Story(network, screen)
        story.set_up()
        story.pay()
        story.close()
        if options.keep:
            story.bring_back()
        network.kept = options.keep
        _farewell(screen, story, network.directory, time.monotonic() - began, keep=options.keep)
        return {
            "seconds": round(time.monotonic() - began, 1),
            "payments": story.ended,
            "nodes": {name: str(node.data_dir) for name, node in sorted(story.nodes.items())} if options.keep else {},
        }


def _farewell(screen: Screen, story: "_Story", directory: Path, seconds: float, *, keep: bool) -> None:
    screen.title("What next")
    screen.say(f"That took {seconds:.0f} seconds.")
    if keep:
        screen.say("The network goes on running. Look around, for instance:")
        for name, command in (
            ("A", "status"),
            ("A", "helpers"),
            ("B", "channel list"),
            ("B", "routes"),
            ("D", "payments"),
        ):
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
        self.example, self.screen = Example(network), screen
        self.nodes = self.example.nodes
        self.ended: list[Json] = []

    # --- the network --------------------------------------------------------------------------------------------------

    def set_up(self) -> None:
        """Chain, seven processes, coins, links, five channels."""
        say, example = self.screen.say, self.example
        self.screen.title("The network")
        say("    A---B---D---E      A and E are clients: no open port, no chain.")
        say("         \\ /           B, C and D are servers: they carry payments.")
        say("          C   F   G    C, F and G tell A and E the chain, with proofs.")
        example.start()
        self.screen.names |= {node.peer_id: name for name, node in self.nodes.items()}
        say(
            f"Seven processes run, and a chain (regtest, validated by libbitcoinkernel) at {example.network.chain_url}."
        )
        say("Nobody's helper is its neighbour; one of three that is honest is enough:")
        for client in HELPERS:
            say(f"  {client} is helped by {self.helpers(client)}")
        example.share_coins()
        example.link()
        say("Linked over TCP, Noise and Yamux. Opening five channels of 2,000,000 sat, each funded on the chain:")
        for funder, other in CHANNELS:
            say(f"  {funder}-{other}: {funder} funds it with {example.open_channel(funder, other)[:16]}…")
        example.confirm_channels()
        say("All five are confirmed and open.")

    def helpers(self, client: str) -> str:
        """How a client's helpers stand, in a line."""
        return ", ".join(
            f"{self.screen.name(each['peer_id'])} ({each['problem'].partition(':')[0] or 'at block ' + str(each['height'])})"
            for each in self.nodes[client].client.get("/helpers")
        )

    def misses_one(self, client: str) -> bool:
        """Whether a client has noticed that one of its helpers is away."""
        return not all(each["connected"] for each in self.nodes[client].client.get("/helpers"))

    # --- payments -----------------------------------------------------------------------------------------------------

    def show_balances(self) -> Holdings:
        """Print the balances and check that they sum to what went in."""
        wait_for("every channel to settle", self.example.settled)
        held = self.example.holdings()
        self.screen.balances((left, right, each) for (left, right), each in held.items())
        total = sum(each["left"] + each["right"] + each["flight"] for each in held.values())
        put_in = len(CHANNELS) * CAPACITY_SAT * 1000
        if total != put_in:
            raise UserError(f"the balances sum to {total} msat, {put_in} went in")
        self.screen.say(f"Sum: {sat(total)} sat, exactly what went in.")
        return held

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
        wait_for("the link C-D to be back", lambda: self.example.usable("C", "D") and self.example.usable("D", "C"))
        screen.say("The link C-D is back; its channel was re-established without a person.")
        screen.title("After")
        after = self.show_balances()
        worth_before, worth_after = worth(before), worth(after)
        changes = {name: worth_after[name] - worth_before[name] for name in worth_after}
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
        """One channel is closed by force, by a client that has just lost a helper, and two together; the coins arrive."""
        screen, nodes, example = self.screen, self.nodes, self.example
        screen.title("Closing: A-B by force, B-C and C-D together")
        nodes[LOST].stop()
        wait_for(f"A to miss {LOST}", lambda: self.misses_one("A"))
        screen.say(f"{LOST} was just switched off. A notices, and goes on with the other two:")
        screen.say(f"  A is helped by {self.helpers('A')}")
        nodes["A"].client.delete(f"/peers/{nodes['B'].peer_id}")
        screen.say("A has also lost its link to B: it closes by force, with coins of its own to pay.")
        due = worth(example.holdings())["A"] // 1000
        before = {name: nodes[name].wallet_sat() for name in ENDS}
        for here, there, force in CLOSES:
            example.close_channel(here, there, force=force)

        def gone() -> bool:
            example.mine(1)
            return all(example.closed(here, there) and example.closed(there, here) for here, there, _ in CLOSES)

        wait_for("the closes to be buried", gone)
        for here, there, force in CLOSES:
            channel = nodes[here].channel_with(nodes[there])
            closing = channel["closing_txid"][:16] if channel else ""
            screen.say(f"  {here}-{there}: closed {'by force' if force else 'together'} by {closing}…, buried")
        changes = {name: nodes[name].wallet_sat() - before[name] for name in before}
        screen.say("On the chain: " + ", ".join(f"{name} {change:+,}" for name, change in changes.items()) + " sat")
        if not 0 < (paid := due - changes["A"]) < MOST_FOR_A_CLOSE:
            raise UserError(f"A had {due} sat in its channel and got {changes['A']} sat: less some fees is wanted")
        screen.say(
            f"The coins of all three channels are back. A paid {paid} sat to the miners, and had to wait 6 blocks for the "
            "rest, in which B could have shown that the state was an old one."
        )

    def bring_back(self) -> None:
        """The network is whole again."""
        self.nodes[LOST].start()
        self.nodes[LOST].wait_until_up()
