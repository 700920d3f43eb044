"""What a network of real nodes costs: discovery, payments and routing messages, over loopback libp2p on real disks.

The five nodes of the example network are five processes (`node_worker`), with the chain as a sixth:

    A---B---D---E      A and E are clients. D asks more of B than of C, so the way through C is the cheapest.
         \\ /
          C

Payments are driven without the payer's wait policy and without sealed initializations, whose budgets for strangers
(DESIGN R14) are made to brake: the payee promises and floods, the payer waits for offers, and the clock starts with the
first lock and stops when the last HTLC is gone for good. Everything else is what `rrnode start` runs.
"""

import hashlib
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from statistics import median

from protocols.onchain import ec
from tools.bench.host import raw_figures
from tools.bench.nodes import Line, example_network, raw_hop_seconds
from tools.bench.table import Row, bench, seconds_of

AMOUNT = 1_000_000  # msat
ROUNDS = 15  # discoveries; each is paid
QUIET_MS = 150
ONE_BY_ONE, AT_ONCE = 40, 300  # payments, with 1 and with 100 in flight
MESSAGES = 30_000  # routing messages from E to D
MESSAGE_BYTES = 100  # of a routing message in its bundle, about
COMMIT_BYTES = 4096  # of the smallest commit that stands for one: a channel's row and a journal line
FIRST_HOPS, BEST_HOPS = 5, 6  # A-D, D-E, E-D, D-B, B-A; the best offer goes D-C, C-B
AIM_ONE, AIM_THREE = 200.0, 60.0


@bench("network", about="five node processes: discovery, payments, routing messages (about a minute and a half)")
def network() -> Iterator[Row]:
    """All of it on one network, which shrinks as the bench goes on."""
    with example_network() as net:
        yield from _discovery(net)
        net.end("C")
        yield from _payments(net, "B", "one channel", AIM_ONE)
        yield from _payments(net, "E", "three hops", AIM_THREE)
        net.end("A", "B")
        yield from _messages(net)


def _discovery(net: Line) -> Iterator[Row]:
    raw = raw_figures()
    hop = median(raw_hop_seconds())
    contact = net["E"].do("contact")
    found = []
    for _ in range(ROUNDS):
        found.append(net["A"].do("discover", target=contact, amount=AMOUNT, quiet_ms=QUIET_MS))
        for node in net.nodes.values():
            node.do("settled")
    best = min(offer for each in found for offer in each["offers"])
    reached = [each for each in found if best in each["offers"]]
    for what, key, hops, rounds in (("first", "first", FIRST_HOPS, found), ("best", "best", BEST_HOPS, reached)):
        yield Row(
            what=f"discovery A to E: initialization sent to {what} offer",
            figure=median(each[key] for each in rounds) * 1e3,
            unit="ms",
            floor=hop * hops * 1e3,
            floor_is=f"{hops} hops between bare libp2p processes",
            aim=2 * hop * hops * 1e3,
        )
    yield Row(
        what="discovery A to E: order to first offer, a new identity dials E's server first",
        figure=median(each["order_to_first"] for each in found) * 1e3,
        unit="ms",
        floor=(raw["dial"] + hop * FIRST_HOPS) * 1e3,
        floor_is=f"a bare libp2p dial and {FIRST_HOPS} hops",
    )


def _payments(net: Line, payee: str, what: str, aim: float) -> Iterator[Row]:
    sign, verify, commit = _unit_costs(net.directory)
    for in_flight, count in ((1, ONE_BY_ONE), (100, AT_ONCE)):
        hashes = net[payee].do("promise", count=count, amount=AMOUNT)
        net["A"].do("want", payee=net.who[payee]["hex"], hashes=hashes, amount=AMOUNT)
        before = net.stats()
        seconds = net["A"].do("pay", hashes=hashes, in_flight=in_flight)
        for node in net.nodes.values():
            node.do("settled")
        after = net.stats()
        spent = {key: (after[key] - before[key]) / count for key in after}
        keys = spent["sign"] * sign + spent["verify"] * verify
        per_payment = f"{spent['sign']:.1f} signatures, {spent['verify']:.1f} checks, {spent['commits']:.2f} commits"
        yield Row(
            what=f"payments over {what}, {in_flight} in flight",
            figure=count / seconds,
            unit="payments/s",
            floor=1 / (keys + spent["commits"] * commit),
            floor_is=f"{per_payment}, one after another",
            aim=aim if in_flight > 1 else None,
        )
        yield Row(
            what=f"  processor time of one of these, all nodes ({spent['commit_seconds'] * 1e3:.1f} ms wait for disks)",
            figure=spent["cpu"] * 1e3,
            unit="ms",
            floor=keys * 1e3,
            floor_is="its signatures, made and checked",
        )


def _unit_costs(directory: Path) -> tuple[float, float, float]:
    """Seconds of a signature, a verification and a synced commit, here and now."""
    secret, digest = hashlib.sha256(b"key").digest(), hashlib.sha256(b"digest").digest()
    key, signature = ec.point_of(secret), ec.sign(secret, digest)
    signing = seconds_of(lambda: [ec.sign(secret, digest) for _ in range(300)]) / 300
    verifying = seconds_of(lambda: [ec.verify(key, digest, signature) for _ in range(300)]) / 300
    return signing, verifying, commit_seconds(directory)


def commit_seconds(directory: Path, rounds: int = 200) -> float:
    """What one commit of one small row costs in SQLite with everything synced, the median of some."""
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        with closing(sqlite3.connect(f"{folder}/floor.sqlite", isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("CREATE TABLE floor (number INTEGER PRIMARY KEY, data BLOB)")

            def commit() -> None:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("INSERT OR REPLACE INTO floor VALUES (1, ?)", (os.urandom(COMMIT_BYTES),))
                connection.execute("COMMIT")

            return median(seconds_of(commit, rounds=1) for _ in range(rounds))


def _messages(net: Line) -> Iterator[Row]:
    raw = raw_figures()
    before, made = net["D"].do("stats"), net["E"].do("stats")["cpu"]
    flood = net["E"].do("flood", count=MESSAGES, amount=AMOUNT)
    seconds = net["D"].do("offered", text=flood["last"]) - flood["begun"]
    after, made = net["D"].do("stats"), net["E"].do("stats")["cpu"] - made
    taken = after["cpu"] - before["cpu"]
    yield Row(
        what=f"routing messages between two nodes, engine to engine: {MESSAGES} new hashes, asked for one by one "
        f"({made / MESSAGES * 1e6:.0f} us to make and send one, {taken / MESSAGES * 1e6:.0f} us to take one)",
        figure=MESSAGES / seconds,
        unit="messages/s",
        floor=raw["frames"] * raw["frame"] / MESSAGE_BYTES,
        floor_is="as many bytes in raw libp2p writes of 64 KiB",
    )
    yield Row(
        what="memory of the receiving process per table entry",
        figure=(after["rss"] - before["rss"]) / MESSAGES,
        unit="bytes",
        floor=float(MESSAGE_BYTES),
        floor_is="its bytes on the wire",
    )
