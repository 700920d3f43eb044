"""Text forms of peer ids, equal to libp2p's, and what bad text gets."""

import subprocess
import sys
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.peer.id import ID

from protocols.errors import DecodeError
from protocols.ids import PeerId
from rrnode.host import peer_text
from rrnode.host.libp2p import from_libp2p, key_pair, to_libp2p

secrets = st.integers(min_value=1, max_value=2**255).map(lambda number: number.to_bytes(32, "big"))


@given(secrets)
def test_libp2p_has_the_same_id_for_every_secret(secret: bytes) -> None:
    theirs = ID.from_pubkey(key_pair(secret).public_key)
    peer = peer_text.peer_of(secret)
    assert len(peer) == 33
    assert peer_text.to_text(peer) == theirs.to_base58()
    assert peer_text.from_text(theirs.to_base58()) == peer
    assert to_libp2p(peer) == theirs
    assert from_libp2p(theirs) == peer
    assert to_libp2p(peer).extract_public_key().to_bytes() == peer


def test_a_known_secret_has_the_id_that_libp2p_documents() -> None:
    peer = peer_text.peer_of(b"\x11" * 32)
    assert peer_text.to_text(peer) == "16Uiu2HAmHzBkRq62mG95vsjKMuYQBezZCtjPXYWUoyVxMxi71aB3"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "16Uiu2",
        "0OIl",
        "ü" * 53,
        "1" * 10_000,
        "16Uiu2HAmHzBkRq62mG95vsjKMuYQBezZCtjPXYWUoyVxMxi71aB3\n",
        "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
        "12D3KooWGzxzKZYveHXtpG6AsrUJBcWxHBFS2HsEoGTxrMLvKXtf",
        "16Uiu2HAmHzBkRq62mG95vsjKMuYQBezZCtjPXYWUoyVxMxi71aB",
    ],
)
def test_text_that_is_no_peer_id_is_refused(text: str) -> None:
    with pytest.raises(DecodeError):
        peer_text.from_text(text)


@given(
    st.one_of(
        st.text(max_size=80),
        st.text(alphabet="123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz", max_size=64),
    )
)
def test_any_text_is_a_peer_id_or_a_decode_error(text: str) -> None:
    with suppress(DecodeError):
        assert peer_text.to_text(peer_text.from_text(text)) == text


def test_an_address_falls_into_place_and_peer() -> None:
    peer = peer_text.peer_of(b"\x11" * 32)
    address = peer_text.join_address("/ip4/127.0.0.1/tcp/1", peer)
    assert address == "/ip4/127.0.0.1/tcp/1/p2p/16Uiu2HAmHzBkRq62mG95vsjKMuYQBezZCtjPXYWUoyVxMxi71aB3"
    assert peer_text.split_address(address) == ("/ip4/127.0.0.1/tcp/1", peer)


@pytest.mark.parametrize(
    "address", ["", "/p2p/", "/ip4/127.0.0.1/tcp/1", "127.0.0.1:80/p2p/x", "/ip4/127.0.0.1/tcp/1/p2p/x"]
)
def test_an_address_without_a_peer_is_refused(address: str) -> None:
    with pytest.raises(DecodeError):
        peer_text.split_address(address)


def test_a_key_off_the_form_is_refused() -> None:
    raw = peer_text.to_bytes(PeerId(b"\x04" + bytes(32)))
    with pytest.raises(DecodeError, match="begins with 04"):
        peer_text.from_bytes(raw)


def test_text_forms_do_not_load_libp2p() -> None:
    script = "import sys, rrnode.host.peer_text; sys.exit('libp2p' in sys.modules or 'trio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
