"""Records of nodes: what comes back, who is believed and when, limits, growth, and garbage."""

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import MisuseError
from protocols.ids import PeerId
from protocols.node_record import (
    MAX_ADDRESS,
    MAX_ADDRESSES,
    MAX_AGE,
    MAX_AHEAD,
    MAX_PROTOCOL,
    MAX_PROTOCOLS,
    MAX_TEXT,
    NodeRecord,
    Refusal,
    digest_of,
    read,
    sign,
)
from protocols.onchain import ec
from protocols.units import AssetId, Sat, UnixTime
from protocols.wire.framing import MAX_FRAME
from protocols.wire.info import CODEC, MAX_CHANNELS, MAX_CONTENT, MAX_RECORDS, Others, Record, Signed, ToldChannel

SECRET, OTHER = b"\x41" * 32, b"\x42" * 32
NODE, NETWORK, NOW = PeerId(ec.point_of(SECRET)), AssetId(b"\x01" * 32), UnixTime(1_800_000_000)
PLAIN = NodeRecord(node=NODE, network=NETWORK, made=NOW)
FULL = NodeRecord(
    node=NODE,
    network=NETWORK,
    made=NOW,
    switches=255,
    agent="é" * (MAX_TEXT // 2),
    operator="o" * MAX_TEXT,
    addresses=("/" + "a" * (MAX_ADDRESS - 1),) * MAX_ADDRESSES,
    protocols=("/" + "p" * (MAX_PROTOCOL - 1),) * MAX_PROTOCOLS,
    channels=MAX_CHANNELS,
    channels_digest=b"\xff" * 32,
)


def again(signed: Signed, *, now: int = NOW) -> NodeRecord | Refusal:
    return read(signed, network=NETWORK, now=UnixTime(now))


@pytest.mark.parametrize("record", [PLAIN, FULL], ids=["nothing told", "everything told"])
def test_a_record_comes_back_as_it_was_signed(record):
    assert again(sign(record, SECRET)) == record


def test_a_record_counts_for_a_week_and_half_a_minute_ahead():
    signed = sign(PLAIN, SECRET)
    assert again(signed, now=NOW + MAX_AGE) == PLAIN
    assert again(signed, now=NOW + MAX_AGE + 1) is Refusal.TOO_OLD
    assert again(signed, now=NOW - MAX_AHEAD) == PLAIN
    assert again(signed, now=NOW - MAX_AHEAD - 1) is Refusal.FROM_THE_FUTURE


def test_a_record_of_another_network_or_signed_by_somebody_else_is_refused():
    signed = sign(PLAIN, SECRET)
    assert read(signed, network=AssetId(b"\x02" * 32), now=NOW) is Refusal.OTHER_NETWORK
    theirs = sign(replace(PLAIN, node=PeerId(ec.point_of(OTHER))), OTHER)
    assert again(Signed(signed.content, theirs.signature)) is Refusal.WRONG_KEY


def test_no_byte_of_a_record_can_be_changed():
    signed = sign(replace(FULL, addresses=("/a",), protocols=("/p",), agent="a", operator="o"), SECRET)
    for place in range(len(signed.content)):
        content = bytearray(signed.content)
        content[place] ^= 1
        assert isinstance(again(Signed(bytes(content), signed.signature)), Refusal)


def test_what_later_versions_append_is_signed_and_otherwise_ignored():
    content = sign(PLAIN, SECRET).content + b"later"
    tag = hashlib.sha256(b"rr node record").digest()
    signature = ec.sign(SECRET, hashlib.sha256(tag + tag + content).digest())
    assert again(Signed(content, signature)) == PLAIN
    assert again(Signed(content[:-1], signature)) is Refusal.WRONG_KEY


@pytest.mark.parametrize(
    "beyond",
    [
        {"agent": "a" * (MAX_TEXT + 1)},
        {"operator": "é" * MAX_TEXT},
        {"agent": "a" * 256},
        {"addresses": ("/a",) * (MAX_ADDRESSES + 1)},
        {"addresses": ("/" + "a" * MAX_ADDRESS,)},
        {"addresses": ("/ip4/1.2.3.4/tcp/1/p2p/16Uiu2",)},
        {"addresses": ("no slash",)},
        {"addresses": ("/a\x1b[2J",)},
        {"protocols": ("/p",) * (MAX_PROTOCOLS + 1)},
        {"protocols": ("p" * (MAX_PROTOCOL + 1),)},
        {"channels": MAX_CHANNELS + 1},
        {"node": PeerId(ec.point_of(OTHER))},
    ],
    ids=str,
)
def test_nobody_signs_a_record_beyond_its_limits_or_for_somebody_else(beyond):
    with pytest.raises(MisuseError):
        sign(replace(PLAIN, **beyond), SECRET)


def test_a_key_that_is_no_point_is_a_malformed_record():
    content = bytearray(sign(PLAIN, SECRET).content)
    content[33:66] = b"\x02" + b"\xff" * 32
    assert again(Signed(bytes(content), bytes(64))) is Refusal.MALFORMED


@given(st.binary(max_size=300), st.binary(min_size=64, max_size=64))
def test_garbage_is_refused_and_raises_nothing(content, signature):
    assert isinstance(again(Signed(content, signature)), Refusal)


def test_the_largest_answers_fit_a_frame():
    signed = sign(FULL, SECRET)
    assert len(signed.content) <= MAX_CONTENT
    largest = Signed(bytes(MAX_CONTENT), bytes(64))
    channels = (ToldChannel(b"\x02" * 33, 21 * 10**14),) * MAX_CHANNELS
    assert len(CODEC.encode(Record(2**32 - 1, 2**63 - 1, largest, channels))) <= MAX_FRAME
    assert len(CODEC.encode(Others(2**32 - 1, (largest,) * MAX_RECORDS, True))) <= MAX_FRAME


def test_the_digest_depends_on_every_channel_and_on_their_order():
    one, two = (NODE, Sat(5)), (PeerId(ec.point_of(OTHER)), Sat(0))
    assert len({digest_of(each) for each in ((), (one,), (two,), (one, two), (two, one), ((NODE, Sat(6)),))}) == 6
