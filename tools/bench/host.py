"""What a link costs over loopback, two processes: a round trip, small frames in one direction, a dial.

Floors are py-libp2p as it comes, without our repairs and without frames, moving the same bytes: a round trip of one
write each way, writes of 64 KiB, and its own dial of one address.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache

from tools.bench.host_worker import FRAME
from tools.bench.table import Row, bench

AIM_FRAMES = 100_000.0  # routing messages a second through the engine; the link must carry what the engine makes


@bench("host", about="round trips, frames and dials between two nodes, against raw libp2p")
def host() -> Iterator[Row]:
    """Measure ours and libp2p's own, each in two fresh processes."""
    ours, raw = _measure("ours"), raw_figures()
    yield Row(
        what="round trip of a 100 byte frame",
        figure=ours["round_trip"] * 1e6,
        unit="us",
        floor=raw["round_trip"] * 1e6,
        floor_is="the same over raw libp2p streams",
    )
    yield Row(
        what="frames of 100 bytes, one way, bundled by the writer",
        figure=ours["frames"],
        unit="frames/s",
        floor=raw["frames"],
        floor_is="the same bytes in raw libp2p writes of 64 KiB",
        aim=AIM_FRAMES,
    )
    yield Row(
        what="dial, with Hello",
        figure=ours["dial"] * 1e3,
        unit="ms",
        floor=raw["dial"] * 1e3,
        floor_is="libp2p's dial_addr, without Hello",
    )


@cache
def raw_figures() -> dict[str, float]:
    """What bare libp2p does here: seconds of a `dial` and of a `round_trip`, `frames` a second, bytes of a `frame`."""
    return _measure("raw")


def _measure(kind: str) -> dict[str, float]:
    worker = [sys.executable, "-m", "tools.bench.host_worker", kind]
    server = subprocess.Popen([*worker, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        if not address:
            raise RuntimeError(f"the {kind} server did not start")
        client = subprocess.run([*worker, "measure", address], capture_output=True, text=True, timeout=120, check=True)
        found: dict[str, float] = json.loads(client.stdout)
        return found | {"frame": FRAME}
    finally:
        assert server.stdin is not None
        server.stdin.close()  # its sign to stop
        server.wait(timeout=20)
