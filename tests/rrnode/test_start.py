"""What `rrnode start` does before a node runs: its limits reach the host, and threads take short turns."""

import sys
from pathlib import Path

import pytest

from bootstrap.networks import REGTEST
from rrnode.config import Settings
from rrnode.config.settings import LimitSettings
from rrnode.errors import UserError
from rrnode.host.base import HostConfig
from rrnode.host.libp2p import LibP2PHost
from rrnode.keys import KeyTree, new_words
from rrnode.start import SWITCH_INTERVAL, host_of, run


def test_the_hosts_limits_are_those_configured(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, limits=LimitSettings(max_peers=7, peer_frames=500))
    host = host_of(settings, KeyTree(new_words(), REGTEST))
    assert isinstance(host, LibP2PHost)
    assert host.config == HostConfig(max_connections=7, peer_frames=500)


async def test_a_commit_never_waits_long_for_the_event_loop(tmp_path: Path) -> None:
    before = sys.getswitchinterval()
    try:
        with pytest.raises(UserError):
            await run(Settings(data_dir=tmp_path))  # there is no seed
        assert sys.getswitchinterval() == pytest.approx(SWITCH_INTERVAL)
    finally:
        sys.setswitchinterval(before)
