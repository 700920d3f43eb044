"""A public network and clients behind NATs, in network namespaces of this machine (Linux, with rights to make them).

    clients        NATs (masquerade, nothing new comes in)      public: servers, each on a network of its own
    10.0.1.2  ---  198.18.0.2  ------------------------------+  192.0.2.1
    10.0.2.2  ---  198.19.0.2  ------------------------------+  198.51.100.1, 203.0.113.1

The addresses are those set aside for documentation and benchmarks (RFC 5737, RFC 2544); no packet leaves the machine: no
namespace has a link to the one that the machine itself uses.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from rrnode.errors import UserError

SERVER_ADDRESSES = ("192.0.2.1", "198.51.100.1", "203.0.113.1")
CLIENTS = 2
_HOW_TO_GET_NFT = "install nftables (on Debian: apt-get install nftables)"

# What a home router does: our own go out under its address; only answers come back; what fits no known connection is dropped.
_RULES = """
table ip nat {
  chain out {
    type nat hook postrouting priority 100
    oifname "wan" masquerade fully-random
  }
}
table ip filter {
  chain through {
    type filter hook forward priority 0
    ct state invalid drop
    iifname "wan" ct state established,related accept
    iifname "wan" drop
  }
  chain arriving {
    type filter hook input priority 0
    iifname "wan" ct state established,related accept
    iifname "wan" drop
  }
}
"""


def why_not() -> str:
    """Why this machine can hold no such network, as a sentence; "" when it can."""
    for tool, hint in (("ip", "install iproute2"), ("nft", _HOW_TO_GET_NFT)):
        if shutil.which(tool) is None:
            return f"there is no {tool} command: {hint}"
    name = f"rr{os.getpid()}t"
    try:
        _run("ip", "netns", "add", name)
        try:
            _run("ip", "netns", "exec", name, "nft", "-f", "-", given=_RULES)
        finally:
            _run("ip", "netns", "del", name)
    except UserError as error:
        return f"network namespaces cannot be made here ({error}): it takes Linux and root"
    return ""


class NatLab:
    """The network, while it stands.

    Attributes:
        public: the namespace of the servers.
        clients: the namespace of each client.
    """

    def __init__(self, name: str) -> None:
        self.public = f"{name}-pub"
        self.clients = tuple(f"{name}-c{number}" for number in range(CLIENTS))
        self._routers = tuple(f"{name}-n{number}" for number in range(CLIENTS))
        self._moves = [0] * CLIENTS

    @staticmethod
    def inside(namespace: str) -> tuple[str, ...]:
        """What to put before a command, so that it runs in a namespace."""
        return ("ip", "netns", "exec", namespace)

    def make(self) -> None:
        """Raises UserError: it cannot be made here."""
        for namespace in (self.public, *self._routers, *self.clients):
            _run("ip", "netns", "add", namespace)
            _run("ip", "-n", namespace, "link", "set", "lo", "up")
        for address in SERVER_ADDRESSES:
            _run("ip", "-n", self.public, "addr", "add", f"{address}/32", "dev", "lo")
        for number, (router, client) in enumerate(zip(self._routers, self.clients, strict=True)):
            _cable(self.public, f"nat{number}", router, "wan")
            _cable(router, "lan", client, "eth0")
            _address(self.public, f"nat{number}", f"198.{18 + number}.0.1/24")
            _address(router, "lan", f"10.0.{number + 1}.1/24")
            for setting in ("net.ipv4.ip_forward=1", "net.netfilter.nf_conntrack_tcp_loose=0"):
                _run(*self.inside(router), "sysctl", "-qw", setting)
            self._plug(number)
            self.move(number)
            _run(*self.inside(router), "nft", "-f", "-", given=_RULES)

    def unmake(self) -> None:
        """Take it away; what is not there is passed over. No process may run in it any more."""
        for namespace in (*self.clients, *self._routers, self.public):
            with suppress(UserError):
                _run("ip", "netns", "del", namespace)

    # --- what happens to people at home -------------------------------------------------------------------------------

    def move(self, number: int) -> None:
        """The client gets another address from its router; packets to the old one reach nobody."""
        self._moves[number] += 1
        client, net = self.clients[number], f"10.0.{number + 1}"
        _run("ip", "-n", client, "addr", "flush", "dev", "eth0", "scope", "global")
        _address(client, "eth0", f"{net}.{1 + self._moves[number]}/24")
        _run("ip", "-n", client, "route", "replace", "default", "via", f"{net}.1")

    def forget(self, number: int) -> None:
        """The NAT loses its memory of every connection, as by a restart: packets of old ones are dropped without a word."""
        _run("ip", "-n", self._routers[number], "link", "set", "wan", "down")
        self._plug(number)

    def unplug(self, number: int) -> None:
        """The client's link is down until `plug_in`."""
        _run("ip", "-n", self._routers[number], "link", "set", "lan", "down")

    def plug_in(self, number: int) -> None:
        """The client's link is up again."""
        _run("ip", "-n", self._routers[number], "link", "set", "lan", "up")

    def _plug(self, number: int) -> None:
        router, net = self._routers[number], f"198.{18 + number}.0"
        _run("ip", "-n", router, "addr", "replace", f"{net}.2/24", "dev", "wan")
        _run("ip", "-n", router, "link", "set", "wan", "up")
        _run("ip", "-n", router, "route", "replace", "default", "via", f"{net}.1")


@contextmanager
def nat_lab() -> Iterator[NatLab]:
    """A network for the time of a `with`. Raises UserError: it cannot be made here."""
    if problem := why_not():
        raise UserError(problem)
    lab = NatLab(f"rr{os.getpid()}")
    try:
        lab.make()
        yield lab
    finally:
        lab.unmake()


def _cable(here: str, name: str, there: str, other: str) -> None:
    _run("ip", "-n", here, "link", "add", name, "type", "veth", "peer", "name", other, "netns", there)
    _run("ip", "-n", here, "link", "set", name, "up")
    _run("ip", "-n", there, "link", "set", other, "up")


def _address(namespace: str, device: str, address: str) -> None:
    _run("ip", "-n", namespace, "addr", "add", address, "dev", device)


def _run(*command: str, given: str = "") -> None:
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False, timeout=20)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().partition("\n")[0]
        raise UserError(f"`{' '.join(_short(command))}` failed: {said}")


def _short(command: Sequence[str]) -> Sequence[str]:
    return command[:8]
