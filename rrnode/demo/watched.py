"""A client that is often away, its channel neighbour, and three strangers who watch: the network of `rrnode demo cheat`.

D---E       E is a client without a chain; D, its only neighbour, will cheat.
F G H       They tell E the chain and hold its remedies. They know neither D nor each other, as far as E can see: a key of
            its own for each, an address in a /16 of its own (DESIGN 2, 7).
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from rrnode.control.client import Json
from rrnode.demo.cast import BURN, MATURITY, Cast
from rrnode.demo.example import SHORT
from rrnode.demo.network import DemoNetwork, DemoNode, free_port, wait_for
from rrnode.demo.past import OldState, Past
from rrnode.errors import UserError

CAPACITY_SAT = 2_000_000
PUSH_SAT = 1_500_000  # what D gives E at the opening
FIRST_SAT = 200_000  # the first payment; the second is all that D may spend
WATCHERS = "FGH"
ADDRESSES = {"D": "127.1.0.1", "F": "127.2.0.1", "G": "127.3.0.1", "H": "127.4.0.1"}
COIN_SAT = 5_000_000
COINS = {"D": 6, "E": 3}  # to fund channels and pay for their ends
RESERVED_FOR_FEE_SAT = 1_000  # of the transaction that gives the rest away
MOST_BLOCKS = 60  # for the end of a channel, whichever way
BEFORE_A_BLOCK = 3.0  # seconds in which whoever wants to may act; on a slow machine it will take a block more

COMMON = SHORT | {"channels__funding_depth": "1"}
# E is away for long and relies on strangers: D must wait, and little of the channel may be in flight (DESIGN 7).
OF_E = COMMON | {"channels__to_self_delay": "40", "channels__max_in_flight_ppm": "150000", "wait__quiet_ms": "100"}


class Watched(Cast):
    """D, E and the watchers, with one channel at a time between D and E."""

    def __init__(self, network: DemoNetwork) -> None:
        super().__init__(network)
        self._past: Past | None = None

    @property
    def miner(self) -> str:
        """Whoever is there; the blocks are nobody's."""
        return next(name for name in "HGFD" if self.nodes[name].is_running and not self.nodes[name].sleeps)

    @property
    def watchers(self) -> list[DemoNode]:
        """All of them."""
        return [self.nodes[name] for name in WATCHERS]

    @property
    def awake(self) -> list[DemoNode]:
        """Those that could act now."""
        return [node for node in self.watchers if node.is_running and not node.sleeps]

    # --- setting up -------------------------------------------------------------------------------------------------

    def start(self, bitcoind: Path | None) -> None:
        """A chain (a Bitcoin Core, or None: the embedded one), the nodes, coins, and a link between D and E."""
        if bitcoind is None:
            self.network.start_chain(free_port())
        else:
            self.network.start_bitcoind(bitcoind, free_port())
        self.add_server("D", ADDRESSES["D"], ("route",), **COMMON)
        self._past = Past(self.nodes["D"].data_dir, self.nodes["D"].settings)
        self.nodes["D"].start()
        for name in WATCHERS:
            self.add_server(name, ADDRESSES[name], ("chain", "watch"), **COMMON)
        self.nodes["D"].wait_until_up()
        self.post("D", "/chain/mine", blocks=1)
        self.post("D", "/chain/mine", blocks=MATURITY, address=BURN)
        for node in self.watchers:
            node.start()
        self.add_client("E", WATCHERS, watch__watchers=self.addresses(WATCHERS), **OF_E)
        for node in self.watchers:
            node.wait_until_up()
        self.nodes["E"].start()
        self.nodes["E"].wait_until_up()
        self._share_coins()
        self.post("E", "/peers", address=self.nodes["D"].address)

    def _share_coins(self) -> None:
        """D mined one block: it keeps some coins, gives E some, and the rest is nobody's, so that sums are easy to read."""
        for name, count in COINS.items():
            for _ in range(count):
                address = self.post(name, "/wallet/addresses")["address"]
                self.post("D", "/wallet/send", address=address, amount_sat=COIN_SAT)
        self.mine(1)
        rest = self.nodes["D"].wallet_sat() - COINS["D"] * COIN_SAT
        self.post("D", "/wallet/send", address=BURN, amount_sat=rest - RESERVED_FOR_FEE_SAT)
        self.mine(1)
        wait_for("E's coins", lambda: self.nodes["E"].wallet_sat() == COINS["E"] * COIN_SAT)

    # --- the channel ------------------------------------------------------------------------------------------------

    def channel(self, name: str) -> Json:
        """The newest channel, as D or E sees it."""
        found = self.nodes[name].channel_with(self.nodes["E" if name == "D" else "D"])
        assert found is not None
        return found

    def open_channel(self) -> None:
        """D funds it and gives E most of it."""
        wait_for("D and E to be linked", self._linked)
        order = {"capacity_sat": CAPACITY_SAT, "push_msat": PUSH_SAT * 1000}
        self.post("D", "/channels", peer=self.nodes["E"].peer_id, **order)

        def opened() -> bool:
            self.mine(1)  # one more each time: a funding transaction may have missed the first ones
            return self.usable("D", "E") and self.usable("E", "D")

        wait_for("the channel to open", opened)

    def _linked(self) -> bool:
        peers = {each["peer_id"]: each for each in self.nodes["D"].client.get("/peers")}
        return bool(peers.get(self.nodes["E"].peer_id, {}).get("connected"))

    def pay(self, amount_msat: int) -> None:
        """D pays E. Raises UserError when it does not arrive."""
        contact = self.nodes["E"].client.get("/contact")["contact"]
        started = self.post("D", "/payments", target=contact, amount_msat=amount_msat, quiet_ms=100)
        path = f"/payments/{started['payment_hash']}"

        def ended() -> Json | None:
            payment: Json = self.nodes["D"].client.get(path)
            return payment if payment["phase"] in ("paid", "failed") else None

        payment = wait_for("D's payment to E", ended)
        if payment["phase"] != "paid":
            raise UserError(f"D's payment to E failed: {payment['reason']}")
        wait_for("the payment to be settled", lambda: not self.channel("D")["htlcs"] and not self.channel("E")["htlcs"])

    def wait_until_covered(self) -> Json:
        """Until every watcher holds the newest revoked state; gives what E's node says of that."""

        def covered() -> Json | None:
            told = {each["channel_id"]: each for each in self.nodes["E"].client.get("/cover")["channels"]}
            cover: Json = told[self.channel("E")["channel_id"]]
            return cover if cover["holders_of_newest"] == len(WATCHERS) else None

        return wait_for("the watchers to hold every revoked state", covered)

    def mine_until(self, what: str, there: Callable[[], bool]) -> None:
        """Make blocks, one after the other, until something has happened."""
        for _ in range(MOST_BLOCKS):
            if there():
                return
            self.mine(1)
        raise UserError(f"{MOST_BLOCKS} blocks were not enough for {what}")

    def purse_sat(self, name: str) -> int:
        """What a node owns: its coins, and its part of a channel that lives, rounded down."""
        open_ones = [each for each in self.nodes[name].channels() if each["phase"] == "open"]
        return self.nodes[name].wallet_sat() + sum(int(each["ours_msat"]) // 1000 for each in open_ones)

    # --- the cheat ----------------------------------------------------------------------------------------------------

    def cheat(self, wanted: Callable[[OldState], bool]) -> OldState:
        """D stops, goes back to the first wanted state, starts again, and closes with it by force."""
        assert self._past is not None
        channel_id = self.channel("D")["channel_id"]
        self.nodes["D"].stop()
        old = self._past.put_back(channel_id, wanted)
        self.nodes["D"].start()
        self.nodes["D"].wait_until_up()
        self.close_channel("D", "E", force=True)
        wait_for("the revoked commitment to be in the mempool", lambda: old.txid in self.network.rpc("getrawmempool"))
        return old

    def case(self, node: DemoNode, txid: str) -> Json | None:
        """A watcher's case of a breach."""
        return next((each for each in node.client.get("/bounties") if each["txid"] == txid), None)

    def is_spent(self, txid: str, index: int | None) -> bool:
        """Whether a block or the mempool spends this output."""
        unspent = self.network.rpc("gettxout", txid, index, True)
        return unspent is None

    def give_time(self, there: Callable[[], bool], within: float = BEFORE_A_BLOCK) -> None:
        """Some time for what need not come."""
        with suppress(UserError):
            wait_for("", there, within)
