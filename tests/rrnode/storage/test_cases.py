"""A hunter's cases on disk: open ones go on, closed ones are history of bounded length."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from protocols.ids import Txid
from protocols.onchain.tx import TxOutput
from protocols.units import BlockHeight, Sat, UnixTime
from protocols.watch.hunt import Case, Taken
from protocols.watch.pairs import Pair
from rrnode.storage import cases
from rrnode.storage.cases import CaseStore
from rrnode.storage.owned import open_owned

PAIR = Pair(
    txid=Txid(b"b" * 32),
    index=1,
    spent=TxOutput(Sat(10_000), b"s" * 34),
    paid=TxOutput(Sat(9_000), b"p" * 22),
    witness=(b"signature", b"\x01", b"script"),
)


def case(number: int, **changes: Any) -> Case:
    made = Case(
        txid=Txid(bytes([number]) * 32),
        breach=b"b" * 100,
        pairs=(PAIR,),
        script=b"\x00\x14" + bytes(20),
        first_seen=UnixTime(1000 + number),
        opened_at=BlockHeight(10),
    )
    return replace(made, **changes)


TIP = BlockHeight(20)
TAKEN = Taken(index=1, spender=Txid(b"s" * 32), height=BlockHeight(12), ours=True, reward=Sat(900))


@pytest.fixture
def store(tmp_path: Path, kit: Any) -> Iterator[CaseStore]:
    database = open_owned(tmp_path / "watch.sqlite", node_id=kit.node, network="regtest", writes_again=True)
    yield CaseStore(database)
    database.close()


def test_a_case_is_kept_as_it_was_last(store: CaseStore) -> None:
    store.save([case(1), case(2)], TIP)
    changed = case(
        1, height=BlockHeight(11), taken=(TAKEN,), claims=(Txid(b"c" * 32),), claim=Txid(b"c" * 32), claim_fee=Sat(500)
    )
    store.save([changed], TIP)
    assert store.find(changed.txid) == changed
    assert store.find(Txid(bytes(32))) is None
    assert store.newest(10) == (case(2), changed)
    assert store.newest(1) == (case(2),)


def test_how_far_everything_is_settled_is_kept_and_may_go_back(store: CaseStore) -> None:
    assert store.settled_to() is None
    store.save([case(1)], TIP)
    assert store.settled_to() == TIP
    store.save([], BlockHeight(7))
    assert store.settled_to() == 7


def test_only_open_cases_go_on(store: CaseStore) -> None:
    store.save([case(1), case(2, closed=True)], TIP)
    assert store.open_cases() == (case(1),)


def test_history_loses_the_oldest_and_no_open_case(store: CaseStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "MOST_CLOSED", 2)
    store.save([case(0)], TIP)
    for number in range(1, 5):
        store.save([case(number, closed=True)], TIP)
    assert store.newest(10) == (case(4, closed=True), case(3, closed=True), case(0))
