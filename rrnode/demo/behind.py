"""The story of people at home: two clients behind NATs of their own, three servers, and everything that breaks a link (DESIGN 2, 4).

A --NAT--\\                 A and E listen nowhere, dial out only, and hold no chain. A's channel is with R, E's with S;
          R --- S          R, S and T are relays, tell the chain, and keep mailboxes. Each server's address is in a network
E --NAT--/    T            of its own.
"""

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from rich.console import Console

from rrnode.control.client import Json
from rrnode.demo.cast import BURN, MATURITY, Cast
from rrnode.demo.example import SHORT
from rrnode.demo.nat import SERVER_ADDRESSES, NatLab, nat_lab
from rrnode.demo.network import DemoNetwork, rrnode, stage, wait_for
from rrnode.demo.screen import Screen, sat
from rrnode.errors import UserError

PORT = 9780
RPC_PORT = 18443
SERVERS = dict(zip("RST", SERVER_ADDRESSES, strict=True))
CLIENTS = {"A": 0, "E": 1}  # behind which NAT
SERVER_OF = {"A": "R", "E": "S"}  # the neighbour of each client
CHANNELS = (("R", "A"), ("R", "S"), ("S", "E"))  # funder first: a new client gets a channel from its server
CAPACITY_SAT = 2_000_000
PUSHED_MSAT = {
    "A": 800_000_000,
    "S": 800_000_000,
    "E": 300_000_000,
}  # given along with the channel, so that all can pay
AMOUNT_MSAT = 20_000_000
COIN_SAT = 20_000_000
MINER = "R"
BACK = (
    180.0  # seconds in which a client must be back after a trouble; it notices within 30, and tries again with back-off
)
ASLEEP_MAXIMUM_MS = 300_000  # how long A waits for a payee that sleeps


def run(directory: Path | None = None, console: Console | None = None) -> Json:
    """Tell the story.

    Returns:
        Payments made, and seconds that A was away after each trouble.

    Raises:
        UserError: this machine cannot hold such a network, or something did not go as it should.
    """
    screen = Screen(console or Console())
    began = time.monotonic()
    with nat_lab() as lab, stage(directory) as network:
        story = _Story(lab, network, screen)
        story.set_up()
        story.pay()
        story.troubles()
        story.asleep()
    screen.title("What next")
    screen.say(f"That took {time.monotonic() - began:.0f} seconds. Nothing is left running, and no namespace is left.")
    return {"payments": story.settled, "away_seconds": story.away}


class _Story(Cast):
    miner = MINER

    def __init__(self, lab: NatLab, network: DemoNetwork, screen: Screen) -> None:
        super().__init__(network)
        self.lab, self.screen = lab, screen
        self.settled: list[Json] = []
        self.away: dict[str, float] = {}

    # --- the network --------------------------------------------------------------------------------------------------

    def set_up(self) -> None:
        """Servers, a chain, clients that join, channels towards them."""
        screen = self.screen
        screen.title("Two people at home")
        public = self.lab.inside(self.lab.public)
        self.network.start_chain(RPC_PORT, within=public)
        for name, address in SERVERS.items():
            self._listening[name] = f"/ip4/{address}/tcp/{PORT}"
            switches = {f"roles__{switch}": "true" for switch in ("route", "chain", "mailbox")}
            at = {"host__listen": self._listening[name], "chain__poll_seconds": "0.1"}
            self._add(name, public, **at, **switches, **self.network.by_rpc)
        self._start(MINER)
        self.post(MINER, "/chain/mine", blocks=3)
        self.post(MINER, "/chain/mine", blocks=MATURITY, address=BURN)
        self._start(*(name for name in SERVERS if name != MINER))
        for name, number in CLIENTS.items():
            self._add(
                name,
                self.lab.inside(self.lab.clients[number]),
                chain__kind="remote",
                chain__helpers=self.addresses("".join(each for each in SERVERS if each != SERVER_OF[name])),
                chain__least_helpers="2",
            )
            self._list_relays(name)
        self._start(*CLIENTS)
        screen.names = {node.peer_id: name for name, node in self.nodes.items()}
        screen.say(
            "A and E sit behind routers that let nothing in. They knew a list of relays and dialled out to them:"
        )
        for name in CLIENTS:
            wait_for(f"{name} to reach all servers", lambda name=name: len(self._links(name)) == len(SERVERS))  # type: ignore[misc]
            screen.say(
                f"  {name} is linked with {', '.join(self._links(name))}, which know it as {self._known_as(name)}"
            )
        self._open_channels()

    def _add(self, name: str, within: tuple[str, ...], **settings: str) -> None:
        self.nodes[name] = self.network.add(name, within, **SHORT, **settings)

    def _list_relays(self, client: str) -> None:
        """What `bootstrap/relays.toml` is on a public network: on a regtest everybody names their own."""
        for server in SERVERS:
            address = self.addresses(server)
            rrnode(
                "--datadir",
                str(self.nodes[client].data_dir),
                "relay",
                "add",
                address,
                "--operator",
                f"{server} & Co",
                "--untested",
            )

    def _start(self, *names: str) -> None:
        for name in names:
            self.nodes[name].start()
        for name in names:
            self.nodes[name].wait_until_up()

    def _open_channels(self) -> None:
        self.post("S", "/peers", address=self.addresses("R"))
        for name in ("S", "A", "E"):  # each pays for the end of its channels
            for _ in range(2):
                address = self.post(name, "/wallet/addresses")["address"]
                self.post(MINER, "/wallet/send", address=address, amount_sat=COIN_SAT)
        self.mine(1)
        for name in ("S", "A", "E"):
            wait_for(f"{name}'s coins", lambda name=name: self.nodes[name].wallet_sat() >= 2 * COIN_SAT)  # type: ignore[misc]
        for funder, other in CHANNELS:
            order = {"peer": self.nodes[other].peer_id, "capacity_sat": CAPACITY_SAT, "push_msat": PUSHED_MSAT[other]}
            self.nodes[funder].client.post("/channels", order)
        wait_for("the channels to open", self._opened)
        self.screen.say("R opened a channel towards A and S one towards E, over the links that the two had dialled.")

    def _opened(self) -> bool:
        self.mine(1)
        return all(self.usable(here, there) and self.usable(there, here) for here, there in CHANNELS)

    def _links(self, name: str) -> list[str]:
        return sorted(self.screen.name(peer["peer_id"]) for peer in self._peers(name) if peer["connected"])

    def _peers(self, name: str) -> list[Json]:
        found: list[Json] = self.nodes[name].client.get("/peers")
        return found

    def _known_as(self, client: str) -> str:
        server = SERVER_OF[client]
        return next(str(p["address"]) for p in self._peers(server) if p["peer_id"] == self.nodes[client].peer_id)

    # --- payments -----------------------------------------------------------------------------------------------------

    def pay(self) -> None:
        """A pays E while all is well."""
        self.screen.title("A pays E")
        self._pay()

    def _pay(self) -> None:
        contact = self.nodes["E"].client.get("/contact")["contact"]
        self._follow({"target": contact, "amount_msat": AMOUNT_MSAT})

    def _follow(self, order: Json, when_asleep: Callable[[str], None] | None = None) -> None:
        payer = self.nodes["A"].client
        with payer.events() as events:
            payment_hash = payer.post("/payments", order)["payment_hash"]
            for event in events:
                if event.get("payment_hash") != payment_hash:
                    continue
                self.screen.event(event)
                if when_asleep is not None and event["kind"] == "waiting" and "wake up" in event["what"]:
                    when_asleep(payment_hash)
                    when_asleep = None
                if event["kind"] == "payment_failed":
                    raise UserError(f"the payment failed: {event['reason']}")
                if event["kind"] == "settled":
                    self.settled.append(event)
                    break
            else:
                raise UserError("the node ended before the payment did")
        if when_asleep is not None:
            raise UserError("the payee was to be asleep, and was not")
        held = PUSHED_MSAT["E"] + sum(each["amount_msat"] for each in self.settled)
        wait_for("E to hold what A sent", lambda: self._held_by_e() == held)

    def _held_by_e(self) -> int:
        channel = self.nodes["E"].channel_with(self.nodes[SERVER_OF["E"]])
        return int(channel["ours_msat"]) if channel else 0

    # --- what happens to people at home -------------------------------------------------------------------------------

    def troubles(self) -> None:
        """One trouble after the other; each time A is back by itself, and pays."""
        lab, nodes = self.lab, self.nodes
        self.screen.title("What happens at home, to A")
        self._trouble("its router forgets every connection", lambda: lab.forget(0))
        self._trouble("it gets another address from its router", lambda: lab.move(0))
        self._trouble("its cable is out until its server has missed it", self._pull_cable)
        self._trouble("its routing server R is killed, and started again", self._restart_r, "R")
        self.screen.say(
            "[bold]T is killed[/], one of the two that tell A the chain. A takes on nothing new, and says why:"
        )
        nodes["T"].kill()
        wait_for("A to miss T", lambda: not self._is_well("A"), BACK)
        self.screen.say(f"  {nodes['A'].client.get('/status')['chain']['problem']}")
        self._start("T")
        wait_for("A and E to be well again", lambda: all(map(self._is_well, CLIENTS)), BACK)
        self.screen.say("T is back, and A pays again:")
        self._pay()

    def _trouble(self, what: str, happen: Callable[[], object], breaks: Iterable[str] = SERVERS) -> None:
        """Let something happen that breaks A's links with some servers, and wait until all are missed and all is well."""
        began = time.monotonic()
        still = set(breaks)
        happen()

        def missed() -> bool:
            still.intersection_update(self._links("A"))
            return not still

        wait_for(f"A to miss its servers after: {what}", missed, BACK)
        noticed = time.monotonic() - began
        wait_for(
            f"A to be back after: {what}",
            lambda: all(map(self._is_well, CLIENTS)) and self.usable("R", "A") and self.usable("A", "R"),
            BACK,
        )
        self.away[what] = round(time.monotonic() - began, 1)
        self.screen.say(
            f"[bold]{what}[/]: A noticed after {noticed:.0f} s and was back by itself after {self.away[what]:.0f} s."
        )
        self._pay()

    def _is_well(self, client: str) -> bool:
        """Whether it is linked with all, and relies on both that tell it the chain."""
        asked = self.nodes[client].client
        return (
            len(self._links(client)) == len(SERVERS)
            and all(helper["problem"] == "" for helper in asked.get("/helpers"))
            and asked.get("/status")["chain"]["ready"]
        )

    def _pull_cable(self) -> None:
        self.lab.unplug(0)
        wait_for("R to miss A", lambda: "A" not in self._links("R"), BACK)
        self.lab.plug_in(0)

    def _restart_r(self) -> None:
        self.nodes["R"].kill()
        wait_for("A to miss R", lambda: "R" not in self._links("A"), BACK)
        self._start("R")

    def asleep(self) -> None:
        """E sleeps while A orders the payment, and A is cut off while E wakes up."""
        self.screen.title("E sleeps while A pays")
        contact = self.nodes["E"].client.get("/contact")["contact"]
        self.nodes["E"].stop()
        order = {"target": contact, "amount_msat": AMOUNT_MSAT, "maximum_ms": ASLEEP_MAXIMUM_MS}
        self._follow(order, self._wake_e)
        self.screen.say(f"Paid in all: {sat(sum(each['amount_msat'] for each in self.settled))} sat.")

    def _wake_e(self, payment_hash: str) -> None:
        say = self.screen.say
        self.lab.unplug(0)
        say("             [yellow](now A's cable is out, and E wakes up and fetches what waits for it)[/]")
        self._start("E")
        wait_for("E's question to reach R", lambda: payment_hash in str(self.nodes["R"].client.get("/routes")), BACK)
        say("             [yellow](R has an offer for A, and cannot reach it; the cable is in again)[/]")
        self.lab.plug_in(0)
