"""Every fault of py-libp2p 0.8.1 that could kill or starve a node: gone with its repair, there without it.

The second half says that a repair is still needed, and that its test can fail. Scenes are in `fault_scenarios.py`.
"""

import importlib.util
import logging
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import libp2p
import pytest

from rrnode.host import repairs

SCRIPT = Path(__file__).with_name("fault_scenarios.py")
# What each scene says without its repair, and the repair.
FAULTS = {
    "own_key": ("our own key is gone", "B2"),
    "short_reads": ("150 bytes in 150 pieces", "B6"),
    "unasked_dial": ("it was dialled", "B8"),
    "slow_window": ("the writer gave up", "B9"),
    "parent_search": ("it looks through all tasks", "B14"),
    "long_negotiation": ("bytes were taken", "negotiation"),
    "raising_handler": ("the host died", "B3"),
    "cancelled_writes": ("the connection broke", "B4"),
    "cancelled_reads": ("the connection broke", "B4"),
    "window_overrun": ("we hold", "B7"),
    "inbound_slots": ("was refused, though none was open", "B1"),
    "plain_text": ("it was taken in", "plain"),
}
# Scenes that share a process without their repairs, because none touches what the other needs.
TOGETHER = (("B2", "B6", "B8", "B9", "B14", "negotiation"), ("B3",), ("B4",), ("B7",), ("B1", "plain"))


@pytest.fixture(scope="module")
def scenarios() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fault_scenarios", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def _unrepaired(scenes: tuple[str, ...], left_out: tuple[str, ...]) -> dict[str, str]:
    command = [sys.executable, str(SCRIPT), ",".join(scenes), ",".join(left_out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


@pytest.mark.parametrize("scene", FAULTS)
def test_a_repaired_libp2p_stands_this(scenarios: ModuleType, scene: str) -> None:
    assert scenarios.play(scene) == scenarios.FINE


@pytest.mark.parametrize("scene", FAULTS)
def test_an_unrepaired_one_does_not(scene: str) -> None:
    says, repair = FAULTS[scene]
    (left_out,) = (group for group in TOGETHER if repair in group)
    scenes = tuple(name for name, (_, needed) in FAULTS.items() if needed in left_out)
    assert says in _unrepaired(scenes, left_out)[scene]


def test_every_scene_is_played(scenarios: ModuleType) -> None:
    assert set(scenarios.SCENES) == set(FAULTS)


def test_another_version_of_libp2p_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libp2p, "__version__", "0.9.0")
    with pytest.raises(RuntimeError, match=r"libp2p 0\.9\.0 is installed, 0\.8\.1 is wanted"):
        repairs.apply()


def test_repairing_twice_changes_nothing() -> None:
    from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream

    repairs.apply()
    before = Yamux._write_frame, YamuxStream.write, YamuxStream.recv_window
    repairs.apply()
    assert (Yamux._write_frame, YamuxStream.write, YamuxStream.recv_window) == before


def test_libp2p_logs_nothing_of_what_strangers_do_and_leaves_the_root_logger_alone() -> None:
    script = """
import logging
from rrnode.host import repairs
repairs.apply()
import libp2p.network.connection.swarm_connection as swarm_connection
swarm_connection.logging.debug("a connection")
logging.getLogger("libp2p.host").error("a stranger did something")
assert not logging.getLogger().handlers, logging.getLogger().handlers
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert logging.getLogger("libp2p").propagate
