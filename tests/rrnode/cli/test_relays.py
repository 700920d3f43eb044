"""`rrnode relay`: the node's own list, what ships, what was learnt, and dialling them on loopback."""

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bootstrap.networks import REGTEST
from protocols.ids import PeerId
from protocols.node_record import NodeRecord, sign
from protocols.onchain import ec
from protocols.units import UnixTime
from rrnode.config.settings import NodeSettings, RoleSettings, Settings
from rrnode.host.libp2p import LibP2PHost
from rrnode.host.peer_text import to_text
from rrnode.relays import FILE_NAME, own_relays
from rrnode.services.acquaintances import FILE_NAME as KNOWN
from rrnode.services.info import InfoServer, OwnRecord

SECRET = b"\x51" * 32


@pytest.fixture
async def relay() -> AsyncIterator[str]:
    """The address of a relay on loopback that says who it is."""
    host = LibP2PHost(SECRET, genesis=REGTEST.genesis, switches=3, agent="rrnode/9", listen=("/ip4/127.0.0.1/tcp/0",))
    settings = Settings(
        data_dir=Path("/nowhere"), node=NodeSettings(operator="Ann\x1b"), roles=RoleSettings(route=True, chain=True)
    )

    def now() -> UnixTime:
        return UnixTime(int(time.time()))

    own = OwnRecord(settings=settings, secret=SECRET, agent="rrnode/9", host=host, channels=tuple, now=now)
    InfoServer(host=host, own=own, others=lambda after, most: ((), False), now=now)
    async with host.running():
        yield host.addresses()[0]


@pytest.fixture
async def made(run: Any, data_dir: Path) -> None:
    assert (await run("init")).code == 0


async def test_without_any_relay_it_says_what_to_do(run: Any, made: None) -> None:
    listed = await run("relay", "list")
    assert listed.out.splitlines()[0] == "No relay is known."
    assert "rrnode relay add" in listed.out
    tested = await run("relay", "test")
    assert (tested.code, tested.out) == (1, "")
    assert tested.err.splitlines()[0] == "rrnode: no relay is known"


async def test_a_relay_is_tested_added_listed_and_tested_again(
    run: Any, made: None, data_dir: Path, relay: str
) -> None:
    where, _, peer = relay.partition("/p2p/")
    tested = await run("relay", "test", relay, "--json")
    assert tested.code == 0
    (found,) = tested.json
    assert found.pop("dial_ms") >= 0
    assert found == {
        "peer_id": peer,
        "answers": True,
        "agent": "rrnode/9",
        "operator": "Ann\x1b",
        "serves": ["route", "chain"],
        "clock": "agrees with ours within a second",
        "problem": "",
    }
    added = await run("relay", "add", relay)
    assert added.out.splitlines()[0] == f"Added {peer}, run by Ann.."
    (kept,) = own_relays(data_dir, REGTEST)
    assert (kept.identity, kept.addresses, kept.operator, kept.serves) == (
        peer,
        (where,),
        "Ann\x1b",
        ("route", "chain"),
    )
    line = (await run("relay", "list")).out.splitlines()[1]
    assert line.split() == ["yours", "Ann.", "route,", "chain", "the", "node", "does", "not", "run", relay]
    assert (await run("relay", "test")).code == 0
    assert (await run("relay", "add", relay, "--operator", "Bob", "--json")).json["operator"] == "Bob"
    assert [each.operator for each in own_relays(data_dir, REGTEST)] == ["Bob"]


async def test_a_relay_that_does_not_answer_is_added_only_on_request(
    run: Any, made: None, data_dir: Path, relay: str
) -> None:
    away = "/ip4/127.0.0.1/tcp/1/p2p/" + relay.rpartition("/")[2]
    refused = await run("relay", "add", away)
    assert refused.code == 1
    assert refused.err.startswith("rrnode: this relay does not answer: /ip4/127.0.0.1/tcp/1: connection refused")
    assert own_relays(data_dir, REGTEST) == ()
    assert (await run("relay", "add", away, "--untested")).code == 0
    assert len(own_relays(data_dir, REGTEST)) == 1
    tested = await run("relay", "test")
    assert tested.code == 1
    assert "NO" in tested.out


@pytest.mark.parametrize("command", ["add", "test"])
async def test_what_is_no_address_is_refused(run: Any, made: None, command: str) -> None:
    refused = await run("relay", command, "127.0.0.1:9780")
    assert refused.code == 1
    assert "is not of the form /ip4/<ip>/tcp/<port>/p2p/<peer id>" in refused.err


async def test_an_address_that_no_list_may_hold_is_refused(run: Any, made: None, data_dir: Path, relay: str) -> None:
    refused = await run("relay", "add", "/unix/x/p2p/" + relay.rpartition("/")[2], "--untested")
    assert refused.code == 1
    assert "is not /ip4/<ip>/tcp/<port> or alike" in refused.err
    assert not (data_dir / FILE_NAME).exists()


async def test_a_list_that_cannot_be_read_is_named(run: Any, made: None, data_dir: Path) -> None:
    (data_dir / FILE_NAME).write_text("[regtest]\nrelays = 1\n")
    listed = await run("relay", "list")
    assert listed.code == 1
    assert listed.err.startswith(f"rrnode: {data_dir / FILE_NAME}: [regtest] wants a text as note")


async def test_what_the_node_learnt_and_is_connected_with_is_shown(
    run: Any, node: Any, data_dir: Path, fake: Any
) -> None:
    (data_dir / "rrnode.toml").write_text('[node]\nnetwork = "regtest"\n')
    record = NodeRecord(
        node=PeerId(ec.point_of(SECRET)),
        network=REGTEST.genesis,
        made=UnixTime(int(time.time())),
        switches=1,
        operator="Carol",
        addresses=("/ip4/192.0.2.7/tcp/1",),
    )
    signed = sign(record, SECRET)
    server = {"content": signed.content.hex(), "signature": signed.signature.hex(), "teller": "", "met": 0}
    (data_dir / KNOWN).write_text(json.dumps({"servers": [server]}))
    listed = await run("relay", "list", "--json")
    assert listed.json["relays"] == [
        {
            "peer_id": to_text(record.node),
            "source": "learnt",
            "operator": "Carol",
            "serves": ["route"],
            "addresses": [f"/ip4/192.0.2.7/tcp/1/p2p/{to_text(record.node)}"],
            "connected": False,
        }
    ]
