"""The control API over its real Unix socket: every operation's answer, and every kind of failure as one sentence."""

import json
import logging
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rrnode.control import models as m
from rrnode.control.api import MAX_BODY, create_app
from rrnode.datadir import socket_path


def over_socket(data_dir: Path) -> httpx.AsyncClient:
    transport = httpx.AsyncHTTPTransport(uds=str(socket_path(data_dir)))
    return httpx.AsyncClient(transport=transport, base_url="http://rrnode", trust_env=False)


@pytest.fixture
def client(node: Any, data_dir: Path) -> httpx.AsyncClient:
    return over_socket(data_dir)


async def test_reading_answers_with_the_documented_models(client: httpx.AsyncClient) -> None:
    expected: dict[str, Any] = {
        "status": m.Status,
        "contact": m.ContactInfo,
        "audit": m.Audit,
        "routes": m.Routes,
        "wallet/balance": m.WalletBalance,
    }
    for path, model in expected.items():
        answer = await client.get(f"/v1/{path}")
        assert answer.status_code == 200, path
        assert model.model_validate_json(answer.text).model_dump(mode="json") == answer.json()
    for path in ("peers", "helpers", "channels", "payments", "promises"):
        assert (await client.get(f"/v1/{path}")).json() == []


async def test_orders_reach_the_node_and_answer_with_what_became_of_them(
    client: httpx.AsyncClient, node: Any, fake: ModuleType
) -> None:
    peer = (await client.post("/v1/peers", json={"address": fake.BOB_ADDRESS})).json()
    assert m.PeerInfo.model_validate(peer).connected
    channel = (
        await client.post("/v1/channels", json={"peer": peer["peer_id"], "capacity_sat": 500_000, "push_msat": 7})
    ).json()
    assert (channel["ours_msat"], channel["theirs_msat"], node.wallet_sat) == (499_999_993, 7, 500_000)
    closing = await client.post(f"/v1/channels/{channel['channel_id']}/close", json={"force": True})
    assert closing.json()["phase"] == "closing by force"
    request = (await client.post("/v1/requests", json={"amount_msat": 1500, "memo": "tea", "expiry_s": 60})).json()
    assert (await client.get("/v1/promises")).json()[0]["payment_hash"] == request["payment_hash"]
    paid = await client.post("/v1/payments", json={"target": "request-dora-90000", "quiet_ms": 5})
    assert paid.status_code == 202
    assert node.orders == [m.PayOrder(target="request-dora-90000", quiet_ms=5)]
    payment = (await client.get(f"/v1/payments/{paid.json()['payment_hash']}")).json()
    assert (payment["phase"], payment["sent_msat"], payment["fee_msat"]) == ("paid", 92_500, 2_500)
    assert (await client.post("/v1/wallet/addresses")).json() == {"address": "bcrt1qexample"}
    sent = await client.post("/v1/wallet/send", json={"address": "bcrt1qx", "amount_sat": 1000})
    assert sent.json() == {"txid": "12" * 32, "amount_sat": 1000, "fee_sat": 150}
    assert (await client.post("/v1/chain/mine", json={"blocks": 2})).json()["height"] == 102
    assert (await client.delete(f"/v1/peers/{peer['peer_id']}")).json() == {"done": True}


async def test_a_refused_order_is_a_sentence_with_what_to_try(client: httpx.AsyncClient, fake: ModuleType) -> None:
    answer = await client.post("/v1/peers", json={"address": fake.DEAD_ADDRESS})
    assert answer.status_code == 400
    assert answer.json() == {
        "error": f"{fake.DEAD_ADDRESS} refused the connection",
        "try": "check that the node there runs",
    }


async def test_what_is_not_there_is_a_404_with_a_sentence(client: httpx.AsyncClient) -> None:
    answer = await client.get(f"/v1/payments/{'ab' * 32}")
    assert (answer.status_code, answer.json()["error"]) == (404, "there is no payment abababab of ours")
    answer = await client.get("/v1/moon")
    assert (answer.status_code, answer.json()["error"]) == (404, "there is no such operation")
    assert (await client.put("/v1/status")).status_code == 405


@pytest.mark.parametrize(
    ("path", "order", "sentence"),
    [
        ("requests", {"amount_msat": 0}, "amount_msat: input should be greater than 0 (came: 0)"),
        ("requests", {}, "amount_msat: field required"),
        ("requests", {"amount_msat": 5, "ammo": 1}, "ammo: extra inputs are not permitted (came: 1)"),
        ("payments", {"target": ""}, "target: string should have at least 1 character (came: '')"),
        ("channels", {"peer": "x", "capacity_sat": 2**70}, "capacity_sat: input should be less than or equal to"),
    ],
)
async def test_a_wrong_order_names_the_field_and_what_came(
    client: httpx.AsyncClient, path: str, order: dict[str, Any], sentence: str
) -> None:
    answer = await client.post(f"/v1/{path}", json=order)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(sentence)
    assert answer.json()["try"]


async def test_orders_that_contradict_themselves_are_refused(client: httpx.AsyncClient) -> None:
    both = {"target": "contact-x", "amount_msat": 1, "ceiling_msat": 2, "max_fee_msat": 1}
    assert (await client.post("/v1/payments", json=both)).json()["try"] == "give one of them"
    push = {"peer": "x", "capacity_sat": 1, "push_msat": 1001}
    assert "1001 msat are to be pushed" in (await client.post("/v1/channels", json=push)).json()["error"]
    for peer in ("16Uiu2HA", "zz", "02" + "0" * 63, "%F0%9F%92%A9"):
        assert (await client.delete(f"/v1/peers/{peer}")).status_code == 400
    assert (await client.post("/v1/channels/ab/close", json={})).json()["try"] == "a channel id is 64 hex digits"


async def test_a_machine_in_trouble_is_a_503_that_says_what_to_check(
    client: httpx.AsyncClient, node: Any, fake: ModuleType
) -> None:
    for kind, word in (("chain", "bitcoind"), ("disk", "disk full")):
        node.broken = fake.FAILURES[kind]
        answer = await client.get("/v1/status")
        assert answer.status_code == 503
        assert word in answer.json()["error"]
        assert answer.json()["try"]


class _Telling(logging.Handler):
    """Sets the event when the traceback of the fault is logged."""

    def __init__(self, seen: trio.Event) -> None:
        super().__init__()
        self._seen = seen

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and "the secret inside of a fault" in str(record.exc_info[1]):
            self._seen.set()


async def test_a_fault_of_ours_is_logged_and_not_shown(
    client: httpx.AsyncClient, node: Any, fake: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged = trio.Event()
    monkeypatch.setattr(logging.getLogger("hypercorn.error"), "handlers", [_Telling(logged)])
    node.broken = fake.FAILURES["bug"]
    answer = await client.get("/v1/status")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "GET /v1/status" in answer.json()["error"]
    with trio.fail_after(10):
        await logged.wait()
    node.broken = None
    assert (await client.get("/v1/status")).status_code == 200


async def test_a_body_that_is_too_large_is_refused_while_it_comes(client: httpx.AsyncClient) -> None:
    async def endless() -> Any:
        for _ in range(100):
            yield b"[" * 4096

    for body in (b"[" * (MAX_BODY + 1), endless()):
        answer = await client.post("/v1/payments", content=body, headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["error"]) == (413, f"the request has more than {MAX_BODY} bytes")


async def test_the_page_describes_every_operation_and_needs_no_internet(client: httpx.AsyncClient) -> None:
    described = (await client.get("/openapi.json")).json()
    page = (await client.get("/docs")).text
    operations = [(path, verb, body) for path, verbs in described["paths"].items() for verb, body in verbs.items()]
    assert len(operations) >= 20
    for path, _verb, body in operations:
        assert body["summary"]
        assert f"<code>{path}</code>" in page
    for name in ("PayOrder", "PaymentInfo", "Failure"):
        assert f"<h3 id={name}>" in page
    assert "src=" not in page
    assert "http://" not in page.replace("http://rrnode/", "")
    assert "https://" not in page


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    ["target", "amount_msat", "peer", "capacity_sat", "address", "memo", "blocks", "force", "expiry_s"]
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from(
        ["peers", "channels", "requests", "payments", "wallet/send", "chain/mine", "channels/ab/close"]
    ),
    body=JSON.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(FIELDS, JSON, max_size=4).map(lambda value: json.dumps(value).encode())
    | st.binary(max_size=60),
)
async def test_any_body_is_answered_in_json_and_never_by_a_fault(
    fake: ModuleType, tmp_path: Path, path: str, body: bytes
) -> None:
    app = create_app(fake.FakeNode(tmp_path, trio.Event()), trio.Event())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://rrnode") as client:
        answer = await client.post(f"/v1/{path}", content=body, headers={"content-type": "application/json"})
    assert answer.status_code < 500
    if not answer.is_success:
        assert set(answer.json()) == {"error", "try"}


async def test_what_was_seen_of_a_payment_is_told_and_of_an_unknown_one_nothing(
    client: httpx.AsyncClient, node: Any
) -> None:
    note = m.TraceNote(at_ms=5, kind="offer", peer_id="x", amount_msat=7, blocks=3, kept=False, text="too dear")
    node.notes[b"\xab" * 32] = (note,)
    known, unknown = [(await client.get(f"/v1/traces/{each * 32}")).text for each in ("ab", "cd")]
    assert m.Trace.model_validate_json(known).notes == (note,)
    assert m.Trace.model_validate_json(unknown).notes == ()
    assert (await client.get("/v1/traces/12")).status_code == 400
