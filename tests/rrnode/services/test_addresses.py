"""The dialer's address book on a real store, and on one whose disk is full."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from protocols.ids import PeerId
from protocols.units import UnixTime
from rrnode.errors import StorageFailed
from rrnode.host.dialer import PeerAddress, Source
from rrnode.host.memory import MemoryHost, MemoryNetwork
from rrnode.services.addresses import StoredAddresses
from rrnode.storage import KnownAddress, Store

US = PeerId(b"\x02" * 33)


def peer(number: int) -> PeerId:
    return MemoryHost(number.to_bytes(32, "big"), network=MemoryNetwork(), genesis=bytes(32)).peer_id


def address(number: int, port: int, source: Source = Source.USER) -> PeerAddress:
    return PeerAddress(peer=peer(number), where=f"/ip4/192.0.2.1/tcp/{port}", source=source)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store.open(tmp_path / "db.sqlite", node_id=US, network="regtest")
    yield made
    made.close()


def test_addresses_are_there_after_a_restart_with_their_source(store: Store) -> None:
    kept = {address(1, 1), address(1, 2, Source.RECORD), address(2, 1)}
    book = StoredAddresses(store)
    for each in kept:
        book.save(each)
    assert set(StoredAddresses(store).load()) == kept


def test_one_address_is_removed_and_the_others_of_its_peer_stay(store: Store) -> None:
    book = StoredAddresses(store)
    for each in (address(1, 1), address(1, 2), address(2, 1)):
        book.save(each)
    book.remove(address(1, 1))
    assert set(book.load()) == {address(1, 2), address(2, 1)}


def test_a_line_that_cannot_be_read_is_left_out(store: Store) -> None:
    store.remember_address(KnownAddress(peer=peer(1), address="what is this", wanted=True, last_ok=UnixTime(1)))
    StoredAddresses(store).save(address(2, 1))
    assert set(StoredAddresses(store).load()) == {address(2, 1)}


def test_a_full_disk_does_not_end_the_dialer(store: Store) -> None:
    class Full:
        def __getattr__(self, name: str) -> object:
            def fails(*given: object) -> object:
                raise StorageFailed("disk full")

            return fails

    book = StoredAddresses(Full())  # type: ignore[arg-type]
    book.save(address(1, 1))
    book.remove(address(1, 1))
