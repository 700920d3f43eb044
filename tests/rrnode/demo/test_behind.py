"""The story of people behind NATs, told in network namespaces of its own; and what a machine that cannot hold them is told."""

import json
import subprocess
import sys

import pytest

from rrnode.demo import nat
from rrnode.demo.behind import CHANNELS, CLIENTS, SERVER_OF, SERVERS
from rrnode.errors import UserError


def test_no_client_is_told_the_chain_by_its_neighbour():
    neighbours = {client: {end for pair in CHANNELS if client in pair for end in pair} - {client} for client in CLIENTS}
    assert neighbours == {client: {SERVER_OF[client]} for client in CLIENTS}
    assert len(set(SERVERS) - {SERVER_OF[client] for client in CLIENTS}) >= 1


def test_a_machine_without_the_tools_is_told_which(monkeypatch):
    monkeypatch.setattr(nat.shutil, "which", lambda name: None if name == "nft" else "/usr/sbin/" + name)
    assert nat.why_not() == "there is no nft command: install nftables (on Debian: apt-get install nftables)"
    with pytest.raises(UserError, match="there is no nft command"), nat.nat_lab():
        pass


@pytest.mark.slow
def test_behind_nats_everything_comes_back_by_itself(tmp_path):
    if problem := nat.why_not():
        pytest.skip(problem)
    command = [sys.executable, "-m", "rrnode.cli", "demo", "--nat", "--json", "--directory", str(tmp_path / "demo")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=800)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert len(told["payments"]) == 7
    assert len(told["away_seconds"]) == 4
    assert all(seconds < 120 for seconds in told["away_seconds"].values())
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert "-pub" not in left
