"""The RPC server and client against each other's worst days: wrong credentials, garbage, sizes, batches, other servers."""

import json
import stat
from functools import partial

import httpx
import pytest
import structlog
import trio

from rrnode.chain import rpc_client, rpc_server
from rrnode.chain.bitcoind import BitcoindChain
from rrnode.chain.rpc_client import RpcClient, RpcFailure
from rrnode.chain.rpc_server import serving
from rrnode.errors import ChainUnavailable


@pytest.fixture
async def served(kernel_chain, tmp_path, kit):
    """(address, cookie file) of an embedded regtest behind its RPC."""
    cookie = tmp_path / "secret" / "cookie"
    async with serving(kernel_chain, port=0, cookie=cookie) as port:
        yield f"http://127.0.0.1:{port}", cookie


@pytest.fixture
async def raw_post(served):
    """Post bytes with the right credentials."""
    address, cookie = served
    user, _, password = cookie.read_text().partition(":")
    async with httpx.AsyncClient(auth=(user, password), trust_env=False) as client:

        async def post(content, **extra):
            return await client.post(address, content=content, **extra)

        yield post


def request(method, *params):
    return json.dumps({"id": 1, "method": method, "params": params})


async def test_the_cookie_is_for_its_owner_and_goes_with_the_server(kernel_chain, tmp_path):
    cookie = tmp_path / "cookie"
    async with serving(kernel_chain, port=0, cookie=cookie):
        assert stat.S_IMODE(cookie.stat().st_mode) == 0o600
    assert not cookie.exists()


async def test_a_port_in_use_is_an_os_error_and_leaves_the_others_cookie(kernel_chain, served, tmp_path):
    address, cookie = served
    with pytest.raises(OSError, match="in use"):
        async with serving(kernel_chain, port=int(address.rsplit(":", 1)[1]), cookie=tmp_path / "other"):
            pass
    assert not (tmp_path / "other").exists()
    assert cookie.exists()


@pytest.mark.parametrize("auth", [None, ("__cookie__", "wrong"), ("", "")])
async def test_without_the_cookie_nothing_is_answered(served, auth):
    async with httpx.AsyncClient(trust_env=False) as client:
        response = await client.post(served[0], content=request("getblockcount"), auth=auth)
    assert (response.status_code, response.content) == (401, b"")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 500, -32700),
        (b"{", 500, -32700),
        (b"\xff\xfe", 500, -32700),
        (b"[" * 100_000, 500, -32700),
        (b"17", 400, -32600),
        (b"[]", 400, -32600),
        (b'{"id":1}', 404, -32601),
        (request("dumpwallet"), 404, -32601),
        (request("__init__"), 404, -32601),
        (request("getblockhash"), 500, -32602),
        (request("getblockhash", 1, 2), 500, -32602),
        (b'{"id":1,"method":"getblockcount","params":{}}', 500, -32602),
        (request("getblockhash", "x"), 500, -3),
        (request("getblockhash", True), 500, -3),
        (request("getblockhash", -1), 500, -8),
        (request("getblockhash", 7), 500, -8),
        (request("getblock", "zz"), 500, -8),
        (request("getblock", "00" * 32, 0), 500, -5),
        (request("getblock", "00" * 32, 2), 500, -8),
        (request("getrawtransaction", 5), 500, -8),
        (request("gettxout", "00" * 32, 2**32), 500, -8),
        (request("gettxspendingprevout", [5]), 500, -8),
        (request("sendrawtransaction", "00"), 500, -22),
        (request("sendrawtransaction", "xyz"), 500, -22),
        (request("sendrawtransaction", 7), 500, -22),
        (request("submitpackage", []), 500, -8),
        (request("submitpackage", ["00"]), 500, -22),
        (request("generatetodescriptor", 1, "wpkh(x)"), 500, -5),
        (request("generatetodescriptor", 1, "raw(x)"), 500, -5),
        (request("generatetodescriptor", 10**6, "raw(51)"), 500, -8),
        (request("generatetoaddress", 1, "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4"), 500, -5),
        (request("estimatesmartfee", 0), 500, -8),
    ],
)
async def test_bad_requests_get_bitcoin_cores_codes(raw_post, body, status, code):
    response = await raw_post(body)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


async def test_what_is_too_large_is_cut_off(raw_post):
    assert (await raw_post(b" " * (rpc_server.MAX_BODY + 1))).status_code == 413
    many = json.dumps([{"id": 1, "method": "getblockcount"}] * (rpc_server.MAX_BATCH + 1))
    response = await raw_post(many)
    assert (response.status_code, response.json()["error"]["code"]) == (400, -32600)
    assert (await raw_post(request("getblockcount"))).json()["result"] == 0


async def test_other_ways_of_asking_are_refused(served, raw_post):
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(served[0])).status_code == 405
        assert (await client.post(served[0] + "/wallet", content=b"{}")).status_code == 404


async def test_a_batch_is_answered_in_order_with_each_failure_in_its_place(served):
    client = RpcClient(served[0], cookie=served[1])
    async with client.running():
        calls = [("getblockcount", ()), ("nonsense", ()), ("getblockhash", (0,))]
        first, second, third = await client.batch(calls)
        assert (first, second.code, third[:8]) == (0, -32601, "0f9188f1")
        answers = await client.batch([("getblockcount", ())] * (rpc_client.MAX_BATCH * 2 + 1))
        assert answers == [0] * (rpc_client.MAX_BATCH * 2 + 1)
        with pytest.raises(RpcFailure, match="Method not found"):
            await client.call("nonsense")


async def test_blocks_are_mined_to_addresses(raw_post, kernel_chain):
    address = "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080"
    (made,) = (await raw_post(request("generatetoaddress", 1, address))).json()["result"]
    assert made == (await kernel_chain.tip()).hash[::-1].hex()
    (coin,) = kernel_chain.index.unspent.values()
    assert coin.script.hex() == "0014751e76e8199196d454941c45d1b3a323f1433bd6"
    await raw_post(request("generatetodescriptor", 1, f"addr({address})#abc"))
    assert len(kernel_chain.index.unspent) == 2


async def test_wrong_credentials_are_said_and_forgotten_when_the_cookie_changes(served, tmp_path):
    wrong = tmp_path / "wrong"
    wrong.write_text("__cookie__:no")
    client = RpcClient(served[0], cookie=wrong)
    async with client.running():
        with pytest.raises(ChainUnavailable, match=f"refused our credentials; check the cookie file {wrong}"):
            await client.call("getblockcount")
        wrong.write_text(served[1].read_text())
        assert await client.call("getblockcount") == 0
        wrong.write_text("__cookie__:again")
        assert await client.call("getblockcount") == 0
    missing = RpcClient(served[0], cookie=tmp_path / "missing")
    async with missing.running():
        with pytest.raises(ChainUnavailable, match="check the cookie file"):
            await missing.call("getblockcount")
    by_name = RpcClient(served[0], user="somebody", password="else")
    async with by_name.running():
        with pytest.raises(ChainUnavailable, match="check user and password"):
            await by_name.call("getblockcount")


async def test_a_restarted_server_with_a_new_cookie_is_reached_by_the_first_call(kernel_chain, tmp_path):
    cookie = tmp_path / "cookie"
    async with serving(kernel_chain, port=0, cookie=cookie) as port:
        client = RpcClient(f"http://127.0.0.1:{port}", cookie=cookie)
        old = cookie.read_text()
    async with client.running():
        client._auth = httpx.BasicAuth(*old.split(":"))
        async with serving(kernel_chain, port=port, cookie=cookie):
            assert cookie.read_text() != old
            assert await client.call("getblockcount") == 0


async def answering(nursery, answer):
    """A server on loopback that gives this answer to everything; its address."""

    async def serve(stream):
        data = b""
        while b"\r\n\r\n" not in data:
            piece = await stream.receive_some(4096)
            if not piece:
                return
            data += piece
        await stream.send_all(answer)
        await stream.aclose()

    listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
    return f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"


def http(body, status="200 OK"):
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "broke"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "broke"),
        (http(b"<html>"), "is no Bitcoin Core"),
        (http(b"17"), "is no Bitcoin Core"),
        (http(b'{"result":17}'), "is no Bitcoin Core"),
        (http(b'{"result":"zz","id":1}'), "is no Bitcoin Core"),
        (http(b'{"error":"no"}'), "is no Bitcoin Core"),
        (http(b'{"error":{"code":-28,"message":"Loading block index"}}', "500 x"), "is still starting: Loading block"),
        (http(b"Work queue depth exceeded", "503 x"), "overloaded"),
        (http(b'{"error":{"code":-1,"message":"gone"}}'), "refuses getbestblockhash: gone"),
    ],
)
async def test_what_is_no_working_bitcoin_core_is_unavailable(nursery, answer, words):
    chain = BitcoindChain(await answering(nursery, answer), user="u", password="p")
    async with chain._rpc.running():
        with pytest.raises(ChainUnavailable, match=words):
            await chain.tip()


async def test_nobody_there_is_said_with_what_to_check(kit):
    chain = BitcoindChain(f"http://127.0.0.1:{kit.free_port()}", user="u", password="p")
    with pytest.raises(ChainUnavailable, match="check that it runs and that the address is right"):
        async with chain.running():
            pass
    with pytest.raises(ChainUnavailable, match="outside of `running`"):
        await chain.tip()


async def test_an_old_bitcoin_core_is_refused_and_one_without_anchors_is_said(kernel_chain, tmp_path, monkeypatch):
    for version, events in ((270000, None), (280000, ["chain.anchors_not_relayed"]), (290000, [])):
        monkeypatch.setattr(rpc_server, "_EMULATED_VERSION", version)
        cookie = tmp_path / "cookie"
        async with serving(kernel_chain, port=0, cookie=cookie) as port:
            chain = BitcoindChain(f"http://127.0.0.1:{port}", cookie=cookie)
            with structlog.testing.capture_logs() as logs:
                if events is None:
                    with pytest.raises(ChainUnavailable, match="28 or newer wanted"):
                        async with chain.running():
                            pass
                else:
                    async with chain.running():
                        pass
                    assert [entry["event"] for entry in logs] == events


@pytest.mark.bitcoind
async def test_zmq_of_a_real_bitcoin_core_tells_of_news_at_once(bitcoind_binary, tmp_path, nursery, kit):
    zmq = f"tcp://127.0.0.1:{kit.free_port()}"
    rig = kit.CoreRig(
        tmp_path, nursery, program=bitcoind_binary, options=(f"-zmqpubhashblock={zmq}", f"-zmqpubhashtx={zmq}")
    )
    await rig.start()
    chain = BitcoindChain(f"http://127.0.0.1:{rig.port}", cookie=rig.cookie, poll_every=60)
    async with chain.running():
        tip = await chain.tip()
        sequence = await chain.wait_for_change(tip, -1)
        with trio.fail_after(10):
            while not chain._zmq_tells:  # a subscription takes a moment to stand
                await rig.chain.mine(1, kit.LOCKED)
                await trio.sleep(0.05)
            tip = await chain.tip()
            sequence = await chain.wait_for_change(tip, -1)
            async with trio.open_nursery() as both:
                both.start_soon(rig.chain.mine, 1, kit.LOCKED)
                while (await chain.tip()).hash == tip.hash:
                    sequence = await chain.wait_for_change(tip, sequence)
    await rig.stop()
