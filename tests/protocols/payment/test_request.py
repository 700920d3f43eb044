"""Contacts and requests as text: a round trip of every field, and one plain sentence for everything that is wrong."""

import hashlib
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocols.errors import DecodeError, MisuseError
from protocols.ids import PaymentHash
from protocols.onchain import ec
from protocols.payment import text
from protocols.payment.request import Contact, Request, decode, encode_contact, encode_request
from protocols.units import MAX_MSAT, Amount, AssetId, Msat, UnixTime

PREFIXES = {"regtest": "rrr", "signet": "rrs"}
NOW = UnixTime(1_700_000_000)
SERVER = "/ip4/127.0.0.1/tcp/19780/p2p/16Uiu2HAm8GdPSrFEE9DsUCnkkbXAYFhqFRjk1g8SmKyPhVqVPTkD"
SECRET = hashlib.sha256(b"payee").digest()
PAYEE = ec.point_of(SECRET)
CONTACT = Contact(payee=PAYEE, servers=(SERVER,))
REQUEST = Request(
    contact=CONTACT,
    payment_hash=PaymentHash(b"\x07" * 32),
    amount=Amount(Msat(1_234_567), AssetId(bytes(range(32)))),
    expiry=UnixTime(NOW + 3600),
    memo="café",
)


def read(string, network="regtest", now=NOW):
    return decode(string, network=network, prefixes=PREFIXES, now=now)


def signed(request=REQUEST, prefix="rrr"):
    return encode_request(request, prefix=prefix, secret=SECRET)


def test_a_contact_comes_back_as_it_was():
    string = encode_contact(CONTACT, prefix="rrr")
    assert string.startswith("rrrc1")
    assert read(string) == CONTACT


def test_a_request_comes_back_as_it_was_in_lower_and_in_upper_case():
    string = signed()
    assert string.startswith("rrrp1")
    assert read(string) == REQUEST
    assert read(string.upper()) == REQUEST
    assert read(f"  {string}\n") == REQUEST


@given(
    servers=st.lists(
        st.from_regex(r"/dns4/[a-z0-9.]{1,60}/tcp/[0-9]{1,5}/p2p/[A-Za-z0-9]{10,60}", fullmatch=True),
        min_size=1,
        max_size=3,
    ),
    amount=st.integers(1, MAX_MSAT),
    asset=st.binary(min_size=32, max_size=32),
    expiry=st.integers(NOW + 1, 2**63),
    memo=st.text(max_size=50),
)
def test_every_request_comes_back_as_it_was(servers, amount, asset, expiry, memo):
    request = Request(
        contact=Contact(payee=PAYEE, servers=tuple(servers)),
        payment_hash=PaymentHash(asset[::-1]),
        amount=Amount(Msat(amount), AssetId(asset)),
        expiry=UnixTime(expiry),
        memo=memo,
    )
    assert read(signed(request)) == request


def test_the_bytes_are_as_the_module_says():
    """The whole layout, written out by hand."""
    prefix, payload = text.decode(signed())
    server = SERVER.encode()
    memo = "café".encode()
    body = (
        b"\x00" + PAYEE + b"\x01" + len(server).to_bytes(2, "big") + server
        + b"\x07" * 32 + bytes(range(32)) + (1_234_567).to_bytes(8, "big") + (NOW + 3600).to_bytes(8, "big")
        + b"\x05" + memo
    )  # fmt: skip
    tag = hashlib.sha256(b"rr payment request").digest()
    digest = hashlib.sha256(tag + tag + b"rrrp" + body).digest()
    assert prefix == "rrrp"
    assert payload == body + ec.sign(SECRET, digest)


def problem(string, **changes):
    with pytest.raises(DecodeError) as caught:
        read(string, **changes)
    return str(caught.value)


def test_another_network_is_named():
    assert problem(signed(prefix="rrs")) == "this request is for signet, this node works on regtest"
    contact = encode_contact(CONTACT, prefix="rrr")
    assert problem(contact, network="signet") == "this contact is for regtest, this node works on signet"


def test_a_request_that_expired_says_how_long_ago():
    string = signed()
    assert problem(string, now=NOW + 3600) == "this request expired 0 seconds ago; ask the payee for a new one"
    assert problem(string, now=NOW + 3900) == "this request expired 5 minutes ago; ask the payee for a new one"
    assert problem(string, now=NOW + 90_000) == "this request expired 24 hours ago; ask the payee for a new one"
    assert problem(string, now=NOW + 3600 + 172_800) == "this request expired 2 days ago; ask the payee for a new one"


@pytest.mark.parametrize("place", [5, 40, -7, -1])
def test_a_changed_character_is_noticed(place):
    string = signed()
    letter = "q" if string[place] != "q" else "p"
    changed = string[:place] + letter + string[place:][1:]
    assert problem(changed) == "the checksum is wrong: a character of this text was changed or lost"


def test_any_changed_byte_under_a_right_checksum_fails_the_signature():
    prefix, payload = text.decode(signed())
    for place in range(38, len(payload)):  # beyond the contact's own structure
        changed = payload[:place] + bytes([payload[place] ^ 1]) + payload[place + 1 :]
        with pytest.raises(DecodeError):
            read(text.encode(prefix, changed))
    tampered = payload[:-1] + bytes([payload[-1] ^ 1])
    assert problem(text.encode(prefix, tampered)) == (
        "the signature is not the payee's: this request was forged or damaged, ask for a new one"
    )


def test_a_request_moved_to_another_network_fails_the_signature():
    _, payload = text.decode(signed())
    assert problem(text.encode("rrsp", payload), network="signet").startswith("the signature is not the payee's")


def test_a_request_cannot_be_passed_off_as_a_contact_nor_the_other_way():
    _, request = text.decode(signed())
    _, contact = text.decode(encode_contact(CONTACT, prefix="rrr"))
    assert "bytes too many" in problem(text.encode("rrrc", request))
    assert problem(text.encode("rrrp", contact)) == "this text ends too early"


@pytest.mark.parametrize(
    ("string", "sentence"),
    [
        ("", "this is neither a contact nor a payment request"),
        ("hello", "this is neither a contact nor a payment request"),
        ("rrrp1", "this is neither a contact nor a payment request"),
        (
            "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq",
            "the checksum is wrong: a character of this text was changed or lost",
        ),
        ("rrrp1qqqqqqqqqb", "the character 'b' does not belong into this text; it was not copied whole"),
        ("rrrp1qqqqQqqqqqq", "this text mixes upper and lower case; it was not copied whole"),
        ("q" * 2001, "this text has 2001 characters, at most 2000 are allowed"),
        (text.encode("lnbc", b"x"), "this is neither a contact nor a payment request"),
        (text.encode("rrrx", b"x"), "this is neither a contact nor a payment request"),
        (text.encode("rrrc", b""), "this text ends too early"),
        (text.encode("rrrc", b"\x01"), "this text has version 1, this program knows 0: update it"),
        (text.encode("rrrc", b"\x00\x02" + b"\xff" * 32), "the payee's key is no point of the curve"),
        (text.encode("rrrc", b"\x00" + PAYEE + b"\x00"), "0 routing servers, 1 to 8 wanted"),
        (text.encode("rrrc", b"\x00" + PAYEE + b"\x09"), "9 routing servers, 1 to 8 wanted"),
        (text.encode("rrrc", b"\x00" + PAYEE + b"\x01\x00\x02\xff\xff"), "the address in this text is not UTF-8"),
    ],
)
def test_what_is_no_contact_or_request_gets_one_plain_sentence(string, sentence):
    assert problem(string) == sentence


@example("rrrp1\udcff")
@given(st.text(alphabet="qpzry9x8gf2tvdw0s3jn54khce6mua7l1rİ\n", max_size=200) | st.text(max_size=100))
def test_garbage_gets_a_decode_error_and_nothing_else(string):
    with pytest.raises(DecodeError):
        read(string)


@given(st.binary(max_size=300), st.sampled_from(["rrrc", "rrrp"]))
def test_garbage_under_a_right_checksum_gets_a_decode_error_and_nothing_else(payload, prefix):
    with pytest.raises(DecodeError):
        read(text.encode(prefix, payload))


@pytest.mark.parametrize(
    "servers",
    [
        (),
        (SERVER,) * 9,
        ("127.0.0.1:19780",),
        ("/ip4/1.2.3.4/tcp/1",),
        ("/ip4/1 /p2p/x",),
        ("/dns4/" + "x" * 300 + "/p2p/a",),
    ],
)
def test_a_contact_without_proper_servers_is_not_made(servers):
    with pytest.raises(MisuseError):
        encode_contact(replace(CONTACT, servers=servers), prefix="rrr")


def test_a_request_is_only_signed_by_its_payee_and_with_a_short_memo():
    with pytest.raises(MisuseError, match="node key of its payee"):
        encode_request(REQUEST, prefix="rrr", secret=bytes(31) + b"\x01")
    with pytest.raises(MisuseError, match="memo of 201 bytes"):
        signed(replace(REQUEST, memo="x" * 201))


def test_an_amount_of_nothing_is_refused_although_it_is_signed():
    assert problem(signed(replace(REQUEST, amount=Amount(Msat(0), REQUEST.amount.asset)))) == (
        "this request asks for 0 msat, which cannot be"
    )


def test_text_longer_than_the_limit_is_not_made():
    with pytest.raises(MisuseError, match="at most 2000"):
        text.encode("rrrc", bytes(1300))
    with pytest.raises(MisuseError, match="printable lower-case"):
        text.encode("RRR", b"")


@pytest.mark.parametrize("values", [[0, 1], [0, 0, 0]])
def test_bits_that_mean_nothing_are_refused(values):
    """Left-over bits that are not zero, and a whole group too many, under a right checksum."""
    polymod = text.bech32_polymod([*text.bech32_hrp_expand("rrrc"), *values, *[0] * 6]) ^ text._BECH32M
    checksum = [(polymod >> 5 * (5 - i)) & 31 for i in range(6)]
    string = "rrrc1" + "".join(text.CHARSET[value] for value in [*values, *checksum])
    assert problem(string) == "this text ends in bits that mean nothing"


@pytest.mark.parametrize(
    "valid",
    ["A1LQFN3A", "a1lqfn3a", "abcdef1l7aum6echk45nj3s0wdvt2fg8x9yrzpqzd3ryx", "?1v759aa"],
)
def test_the_checksum_is_that_of_bip_350(valid):
    values = [text._VALUES[letter] for letter in valid.lower().rpartition("1")[2]]
    expanded = text.bech32_hrp_expand(valid.lower().rpartition("1")[0])
    assert text.bech32_polymod([*expanded, *values]) == text._BECH32M
