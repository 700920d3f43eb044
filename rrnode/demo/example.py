"""The example network of the design document: who is linked with whom, who helps whom, set up until every channel is open.

A---B---D---E      A and E are clients: they listen nowhere, dial out only, and hold no chain.
     \\ /
      C   F   G    What is in the chain A and E are told by C, F and G: none of them their channel neighbour, each on an
                   address of a /16 of its own, as strangers would be (DESIGN 2, 8).
"""

from rrnode.demo.cast import BURN, MATURITY, Cast
from rrnode.demo.network import free_port, wait_for

CAPACITY_SAT = 2_000_000
DEAR_PPM = 2500  # what D asks of B; the way through C costs less
CHANNELS = (("A", "B"), ("B", "D"), ("B", "C"), ("C", "D"), ("D", "E"))  # funder first
LINKS = (("A", "B"), ("B", "D"), ("B", "C"), ("C", "D"), ("E", "D"))  # dialler first
SERVERS = {
    "B": ("route",),
    "C": ("route", "chain"),
    "D": ("route",),
    "F": ("chain",),
    "G": ("chain",),
}  # their switches
HELPERS = {"A": "CFG", "E": "CFG"}
MINER = "B"
MINED_COINS = 8  # of 50 BTC
COINS = {"A": 2, "C": 3, "D": 4, "E": 1}  # that the others get: one to pay for each channel's end, and what funds some
COIN_SAT = 10_000_000

# Shorter than on a real chain, so that the story fits on a screen: a lock delta of 6 blocks (R5), 3 confirmations.
SHORT = {
    "locks__lock_delta": "6",
    "locks__final_lock": "9",
    "channels__to_self_delay": "6",
    "channels__funding_depth": "3",
    "channels__buried_depth": "3",
    "channels__settle_margin": "4",
}

Holdings = dict[tuple[str, str], dict[str, int]]


class Example(Cast):
    """The nodes of the example network, by their letters."""

    @property
    def miner(self) -> str:
        """Always the same."""
        return MINER

    # --- setting up -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """A chain, five servers, and two clients that reach it through three of them."""
        port = free_port()
        self.network.start_chain(port)
        (self.network.directory / "chain" / "url").write_text(self.network.chain_url + "\n")
        others = [name for name in SERVERS if name != MINER]
        self._add(MINER)
        self.nodes[MINER].start()
        for name in others:
            self._add(name)
        self.nodes[MINER].wait_until_up()
        # Before the others start: they begin where the chain is then, and have nothing to read.
        self.post(MINER, "/chain/mine", blocks=MINED_COINS)
        self.post(MINER, "/chain/mine", blocks=MATURITY, address=BURN)
        # D asks more of B than of C: so the short way is heard of first, and the longer one is cheaper.
        self.nodes["D"].settings["fees.neighbours"] = f"{self.nodes['B'].peer_id} 5000 {DEAR_PPM}"
        for name in others:
            self.nodes[name].start()
        for name in HELPERS:
            self.add_client(name, HELPERS[name], **SHORT)
        for name in others:
            self.nodes[name].wait_until_up()
        for name in HELPERS:
            self.nodes[name].start()
        for name in HELPERS:
            self.nodes[name].wait_until_up()

    def _add(self, name: str) -> None:
        self.add_server(name, address_of(name), SERVERS[name], **SHORT)

    def share_coins(self) -> None:
        """The miner gives the others coins."""
        for name, count in COINS.items():
            for _ in range(count):
                address = self.post(name, "/wallet/addresses")["address"]
                self.post(MINER, "/wallet/send", address=address, amount_sat=COIN_SAT)
        self.mine(1)
        for name in COINS:
            wait_for(f"{name}'s coins", lambda name=name: self.nodes[name].wallet_sat() >= COINS[name] * COIN_SAT)  # type: ignore[misc]

    def link(self) -> None:
        """Everybody dials its neighbours."""
        for dialler, other in LINKS:
            self.post(dialler, "/peers", address=self.nodes[other].address)

    def open_channel(self, funder: str, other: str) -> str:
        """Ask for a channel; gives the id of the transaction that funds it."""
        opened = self.post(funder, "/channels", peer=self.nodes[other].peer_id, capacity_sat=CAPACITY_SAT)
        return str(opened["funding_txid"])

    def confirm_channels(self) -> None:
        """Make blocks until both ends of every channel can use it."""
        self.mine(int(SHORT["channels__funding_depth"]) - 1)
        ends = [*CHANNELS, *((right, left) for left, right in CHANNELS)]

        def opened() -> bool:
            self.mine(1)  # one more each time: a funding transaction may have missed the first ones
            return all(self.usable(here, there) for here, there in ends)

        wait_for("the channels to open", opened)

    # --- channels ---------------------------------------------------------------------------------------------------

    def holdings(self) -> Holdings:
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


def address_of(server: str) -> str:
    """Where a server listens: in a /16 of its own."""
    return f"127.{1 + list(SERVERS).index(server)}.0.1"


def worth(held: Holdings) -> dict[str, int]:
    """What each node holds in all its channels, millisatoshi."""
    sums = dict.fromkeys(sorted({end for channel in CHANNELS for end in channel}), 0)
    for (left, right), each in held.items():
        sums[left] += each["left"]
        sums[right] += each["right"]
    return sums
