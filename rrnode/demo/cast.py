"""Nodes of a demo by their letters, on one chain: added, linked, mined for, and asked about their channels."""

from rrnode.control.client import Json
from rrnode.demo.network import DemoNetwork, DemoNode, free_port, wait_for

BURN = "bcrt1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqdku202"  # 20 zero bytes: coins mined to it are nobody's
MATURITY = 100  # blocks until mined coins can be spent


class Cast:
    """Those who play.

    Attributes:
        nodes: those made so far.
    """

    def __init__(self, network: DemoNetwork) -> None:
        self.network = network
        self.nodes: dict[str, DemoNode] = {}
        self._listening: dict[str, str] = {}

    @property
    def miner(self) -> str:
        """Who makes blocks now."""
        raise NotImplementedError

    def add_server(self, name: str, address: str, switches: tuple[str, ...], **settings: str) -> None:
        """A node that reaches the chain itself and listens."""
        self._listening[name] = f"/ip4/{address}/tcp/{free_port(address)}"
        roles = {f"roles__{switch}": "true" for switch in switches}
        at = {"host__listen": self._listening[name], "chain__poll_seconds": "0.1"}
        self.nodes[name] = self.network.add(name, **at, **roles, **self.network.by_rpc, **settings)

    def add_client(self, name: str, helpers: str, **settings: str) -> None:
        """A node without a chain, which these helpers tell it."""
        self.nodes[name] = self.network.add(
            name, chain__kind="remote", chain__helpers=self.addresses(helpers), **settings
        )

    def addresses(self, names: str) -> str:
        """Where servers can be dialled, as a setting."""
        return ",".join(f"{self._listening[name]}/p2p/{self.nodes[name].peer_id}" for name in names)

    def post(self, name: str, path: str, **order: str | int) -> Json:
        """Give a node an order."""
        answer: Json = self.nodes[name].client.post(path, order)
        return answer

    def mine(self, blocks: int) -> None:
        """Make blocks, and wait until every node that is awake has seen them."""
        height = self.post(self.miner, "/chain/mine", blocks=blocks, address=BURN)["height"]
        for node in self.nodes.values():
            if node.is_running and not node.sleeps:
                wait_for(
                    f"{node.name} to see block {height}",
                    lambda node=node: node.client.get("/status")["chain"]["height"] >= height,  # type: ignore[misc]
                )

    def usable(self, here: str, there: str) -> bool:
        """Whether a node can use its newest channel with another."""
        channel = self.nodes[here].channel_with(self.nodes[there])
        return channel is not None and channel["usable"]

    def closed(self, here: str, there: str) -> bool:
        """Whether that channel is over for this end."""
        channel = self.nodes[here].channel_with(self.nodes[there])
        return channel is None or channel["phase"] == "closed"

    def close_channel(self, here: str, there: str, *, force: bool) -> None:
        """Begin to close it."""
        channel = self.nodes[here].channel_with(self.nodes[there])
        assert channel is not None
        self.post(here, f"/channels/{channel['channel_id']}/close", force=force)
