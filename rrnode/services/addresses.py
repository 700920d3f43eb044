"""The dialer's address book in the node's database."""

import time
from collections.abc import Iterable

import structlog

from protocols.errors import DecodeError
from protocols.units import UnixTime
from rrnode.errors import StorageFailed
from rrnode.host.dialer import PeerAddress, Source
from rrnode.host.peer_text import split_address
from rrnode.storage import KnownAddress, Store

log = structlog.get_logger(__name__)


class StoredAddresses:
    """Implements `rrnode.host.dialer.AddressBook` on the store; called a few times a minute at most.

    An address that cannot be written is in memory all the same: the dialer must not end for it.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def load(self) -> Iterable[PeerAddress]:
        """Everything kept; what an older version wrote and this one cannot read is left out."""
        for row in self._store.addresses():
            try:
                where, peer = split_address(row.address)
            except DecodeError:
                continue
            yield PeerAddress(peer=peer, where=where, source=Source.USER if row.wanted else Source.RECORD)

    def save(self, address: PeerAddress) -> None:
        """Keep this address."""
        try:
            self._save(address)
        except StorageFailed as error:
            log.warning("an address was not written to disk", address=address.text, error=str(error))

    def _save(self, address: PeerAddress) -> None:
        self._store.remember_address(
            KnownAddress(
                peer=address.peer,
                address=address.text,
                wanted=address.source is Source.USER,
                last_ok=UnixTime(int(time.time())),
            )
        )

    def remove(self, address: PeerAddress) -> None:
        """Forget it. The store forgets by peer, so the others of that peer are put back."""
        try:
            others = [known for known in self.load() if known.peer == address.peer and known.where != address.where]
            self._store.forget_addresses(address.peer)
            for other in others:
                self._save(other)
        except StorageFailed as error:
            log.warning("an address was not taken off the disk", address=address.text, error=str(error))
