"""`protocols/README.md` cannot rot: every message has its section, its fields as they are, and an example that is true.

An example is a fenced block: the message as JSON (byte strings as "0x..."), then the frame that carries it in hex. The
frame is made here from the JSON by a small MessagePack encoder that shares nothing with the library we use, so that the
page alone is shown to be enough to write another implementation.
"""

import hashlib
import importlib
import json
import re
import typing
from pathlib import Path
from types import UnionType

import msgspec
import pytest

from protocols import node_record
from protocols.onchain import ec, tx
from protocols.payment import by_hand
from protocols.payment.initialization import seal, unseal
from protocols.payment.request import Contact, Request, decode, encode_contact, encode_request
from protocols.units import FeeRate, Sat
from protocols.watch import bounty, pairs, receipt, remedy
from protocols.wire.framing import Deframer
from protocols.wire.info import Signed
from rrnode.chain.verify import check_transaction

README = Path(__file__).parents[2] / "protocols" / "README.md"
TEXT = README.read_text(encoding="utf-8") if README.exists() else ""
PROTOCOLS = ["link", "routing", "subscribe", "channel", "init", "watch", "chain", "info"]
LIMITS = {0xFF: "u8", 0xFFFF: "u16", 0xFFFF_FFFF: "u32", 2**63 - 1: "u63", 21 * 10**17: "msat", 21 * 10**14: "sat"}


def module_of(name: str):
    return importlib.import_module(f"protocols.wire.{name}")


def messages_of(name: str):
    unions = [
        value
        for key, value in vars(module_of(name)).items()
        if key.endswith("Message") and isinstance(value, UnionType)
    ]
    return typing.get_args(unions[0])


def type_text(kind) -> str:
    """A field's type as the page writes it."""
    info = msgspec.inspect
    match kind:
        case info.IntType(ge=0, le=high) if high in LIMITS:
            return LIMITS[high]
        case info.IntType(ge=low, le=high):
            return f"{low} to {high}"
        case info.BytesType(min_length=low, max_length=high):
            return f"{low} bytes" if low == high else f"{low or 0} to {high} bytes"
        case info.StrType(max_length=high):
            return f"text, at most {high}"
        case info.BoolType():
            return "bool"
        case info.VarTupleType(item_type=item, min_length=low, max_length=high):
            return f"list of {low or 0} to {high}: {type_text(item)}"
        case info.StructType(cls=cls):
            return cls.__name__
    raise AssertionError(kind)


def section(name: str) -> str:
    """The part of the page about one protocol."""
    protocol = module_of(name).PROTOCOL
    found = re.search(rf"^## `{re.escape(protocol)}`.*?(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found, f"no section for {protocol}"
    return found.group()


def part(name: str, message: str) -> str:
    found = re.search(rf"^### {message}\b.*?(?=^### |\Z)", section(name), re.MULTILINE | re.DOTALL)
    assert found, f"no part for {message} of {name}"
    return found.group()


def pack(value) -> bytes:
    """MessagePack, shortest forms, from its specification."""
    match value:
        case bool():
            return b"\xc3" if value else b"\xc2"
        case int():
            if value < 0x80:
                return bytes([value])
            for mark, size in ((0xCC, 1), (0xCD, 2), (0xCE, 4), (0xCF, 8)):
                if value < 1 << 8 * size:
                    return bytes([mark]) + value.to_bytes(size, "big")
        case str() if value.startswith("0x"):
            raw = bytes.fromhex(value[2:])
            size = 1 if len(raw) < 1 << 8 else 2
            return bytes([0xC3 + size]) + len(raw).to_bytes(size, "big") + raw
        case str():
            raw = value.encode()
            head = bytes([0xA0 | len(raw)]) if len(raw) < 32 else b"\xd9" + bytes([len(raw)])
            return head + raw
        case list():
            head = bytes([0x90 | len(value)]) if len(value) < 16 else b"\xdc" + len(value).to_bytes(2, "big")
            return head + b"".join(map(pack, value))
    raise AssertionError(value)


def framed(payload: bytes) -> bytes:
    length = len(payload)
    prefix = bytearray()
    while length > 0x7F:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([*prefix, length]) + payload


CASES = [(name, message) for name in PROTOCOLS for message in messages_of(name)]
IDS = [f"{name}.{message.__name__}" for name, message in CASES]


@pytest.mark.parametrize(("name", "message"), CASES, ids=IDS)
def test_the_example_of_each_message_is_true(name, message):
    block = re.search(r"^```\n(.*?)\n```", part(name, message.__name__), re.MULTILINE | re.DOTALL)
    assert block, "no example"
    written, _, hexed = block.group(1).rpartition("]\n")
    fields = json.loads(written + "]")
    frame = bytes.fromhex(hexed)
    assert frame == framed(pack(fields))
    codec = module_of(name).CODEC
    (payload,) = Deframer().feed(frame)
    decoded = codec.decode(payload)
    assert type(decoded) is message
    assert codec.encode(decoded) == payload


@pytest.mark.parametrize(("name", "message"), CASES, ids=IDS)
def test_the_fields_of_each_message_are_those_of_the_code(name, message):
    text = part(name, message.__name__)
    assert re.match(rf"### {message.__name__} \({message.__struct_config__.tag}\)", text)
    check_table(text, message)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("routing", "RoutingMessage"),
        ("subscribe", "Prefix"),
        ("init", "Mail"),
        ("init", "Answered"),
        ("watch", "SealedRemedy"),
        ("watch", "Held"),
        ("chain", "Proven"),
        ("chain", "ProvenWhole"),
        ("info", "Signed"),
        ("info", "ToldChannel"),
    ],
)
def test_the_fields_of_what_stands_inside_messages_are_those_of_the_code(name, message):
    check_table(part(name, message), getattr(module_of(name), message))


def check_table(text: str, message) -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| [^|]+ \|$", text, re.MULTILINE)
    fields = msgspec.inspect.type_info(message).fields
    assert rows == [(field.name, type_text(field.type)) for field in fields]


def test_every_code_is_explained():
    for name, codes in (
        ("channel", "FailureCode"),
        ("subscribe", "RefusalCode"),
        ("init", "DeliveryCode"),
        ("watch", "RefusalCode"),
        ("chain", "RefusalCode"),
        ("info", "RefusalCode"),
    ):
        known = {
            key: int(value)
            for key, value in vars(getattr(module_of(name), codes)).items()
            if key.isupper() and isinstance(value, int)
        }
        written = {
            key: int(value) for value, key in re.findall(r"^\| (\d+) \| `([A-Z_]+)` \|", section(name), re.MULTILINE)
        }
        assert written == known


def test_the_table_of_what_a_prefix_costs_and_hides_is_true():
    rows = re.findall(r"^\| (\d+|the hash itself) \| ([\d,.]+) \| ([\d.]+) \|$", section("subscribe"), re.MULTILINE)
    example = re.search(r"^```\n(.*?)\n```", part("subscribe", "Offers"), re.MULTILINE | re.DOTALL)
    frame = bytes.fromhex(example.group(1).rpartition("]\n")[2])
    assert f"100 payments a second, each in three offers of {len(frame) - 1} bytes" in section("subscribe")
    assert len(rows) == 6
    for bits, sent, hidden in rows:
        share = 2.0 ** -(256 if bits == "the hash itself" else int(bits))
        assert sent == f"{100 * 3 * (len(frame) - 1) * 86_400 * share / 1000:,.1f}"
        assert hidden == f"{100 * 60 * share:.2f}"


def blocks(name: str, heading: str) -> list[str]:
    """The pieces of the example under a heading, line breaks removed."""
    block = re.search(r"^```\n(.*?)\n```", part(name, heading), re.MULTILINE | re.DOTALL)
    assert block
    return block.group(1).split("\n\n")


def test_the_sealed_example_is_what_comes_out_and_what_can_be_read():
    given, sealed = blocks("init", "What is sealed")
    payee, ephemeral, *inside = given.split("\n")
    sealed = bytes.fromhex(sealed)
    initialization = unseal(sealed, bytes.fromhex(payee))
    assert seal(initialization, ec.point_of(bytes.fromhex(payee)), bytes.fromhex(ephemeral)) == sealed
    asset = initialization.amount.asset
    written = b"\x01\x00" + initialization.nonce + initialization.secret
    written += initialization.amount.msat.to_bytes(8, "big") + asset
    written += initialization.ceiling.msat.to_bytes(8, "big") + asset
    written += initialization.expiry.to_bytes(8, "big") + b"\x03tea"
    assert bytes.fromhex("".join(inside)) == written


def test_the_contact_and_the_request_of_the_example_are_true():
    contact, request = (each.replace("\n", "") for each in blocks("init", "Contact and request strings"))
    prefixes = {"regtest": "rrr"}
    read = decode(contact, network="regtest", prefixes=prefixes, now=0)
    assert isinstance(read, Contact)
    assert encode_contact(read, prefix="rrr") == contact
    asked = decode(request, network="regtest", prefixes=prefixes, now=0)
    assert isinstance(asked, Request)
    assert (asked.contact, asked.amount.msat, asked.memo) == (read, 1_000_000, "tea")
    assert encode_request(asked, prefix="rrr", secret=b"\x41" * 32) == request


def test_the_initialization_as_a_text_of_the_example_is_true():
    given, sealed = blocks("init", "What is sealed")
    (text,) = (each.replace("\n", "") for each in blocks("init", "Initializations as texts"))
    payee = ec.point_of(bytes.fromhex(given.split("\n")[0]))
    assert by_hand.encode(payee, bytes.fromhex(sealed), prefix="rrr") == text


def test_the_remedy_of_the_example_opens_and_claims_what_it_says():
    commitment, inside, sealed, claim = (
        bytes.fromhex(each.replace("\n", "")) for each in blocks("watch", "What is sealed in a remedy")
    )
    text = part("watch", "What is sealed in a remedy")
    txid = tx.txid_of(commitment)
    assert f"under the hint {remedy.hint_of(txid).hex()}" in text
    opened = remedy.unseal(sealed, txid)
    padded = inside.ljust(409, b"\0")
    assert opened == remedy.decode(padded)
    assert remedy.seal(opened, txid, bytes(range(12))) == sealed
    found = pairs.check(opened, tx.parse(commitment))
    assert len(found) == 3
    fee = int(re.search(r"a fee of (\d+) satoshi", text).group(1))
    (made,) = bounty.assemble(found, b"\x00\x14" + b"\x77" * 20, FeeRate(1_000), least_fee=Sat(fee))
    assert (made.raw, made.fee) == (claim, fee)
    assert check_transaction(made.raw, made.spent) is None
    assert [f"{size:,}" in text for size in remedy.PLAIN_SIZES] == [True] * 5
    assert ", ".join(map(str, remedy.SEALED_SIZES[:-1])) in part("watch", "SealedRemedy")


def test_the_receipt_of_the_example_is_true():
    content, signature = (bytes.fromhex(each.replace("\n", "")) for each in blocks("watch", "What a receipt signs"))
    network, client = content[1:33], ec.point_of(b"\x42" * 32)
    kept = ((b"\x11" * 16, hashlib.sha256(b"\xab" * 184).digest()),)
    assert receipt.sign(b"\x41" * 32, network, client, 902_560, kept) == signature
    listed = hashlib.sha256(b"".join(kept[0])).digest()
    assert content == b"\x01" + network + client + (902_560).to_bytes(4, "big") + b"\x00\x01" + listed


def test_the_record_of_the_example_is_true():
    content, signature = (bytes.fromhex(each.replace("\n", "")) for each in blocks("info", "What a record signs"))
    network, node, neighbour = content[1:33], ec.point_of(b"\x41" * 32), ec.point_of(b"\x42" * 32)
    channels = ((neighbour, Sat(1_000_000)),)
    record = node_record.read(Signed(content, signature), network=network, now=1_800_000_007)
    assert record == node_record.NodeRecord(
        node=node,
        network=network,
        made=1_800_000_000,
        switches=3,
        agent="rrnode/0.1.0",
        operator="Ann",
        addresses=("/ip4/192.0.2.7/tcp/9780",),
        protocols=("/rr/info/1",),
        channels=1,
        channels_digest=hashlib.sha256(neighbour + (1_000_000).to_bytes(8, "big")).digest(),
    )
    assert node_record.digest_of(channels) == record.channels_digest
    assert node_record.sign(record, b"\x41" * 32) == Signed(content, signature)
