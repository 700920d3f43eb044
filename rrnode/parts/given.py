"""What a node is given: its settings and keys, and what stands between it and the disk, the network and the chain."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from protocols.ids import PeerId
from protocols.units import AssetId, UnixTime
from rrnode.chain.base import ChainBackend
from rrnode.config import Settings
from rrnode.guard import Keeper
from rrnode.host.base import Host
from rrnode.keys import KeyTree
from rrnode.recording import Recorder
from rrnode.storage import Store
from rrnode.storage.mails import MailStore
from rrnode.storage.remedies import RemedyStore
from rrnode.wallet import Wallet


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a node is made of; `rrnode.start` makes the real ones, tests give others.

    Attributes:
        remedies: where those of others are kept; None: this node watches for nobody.
        mails: what is kept for clients that are away; None: this node keeps nothing.
        throw_away: a running host under a fresh identity, for delivering initializations (R14).
        clock: unix time in seconds.
        keeper: of the guard over our deadlines (DESIGN 9); None runs without one.
        recorder: of what both engines are told and order (`tools.replay`); None: nothing is recorded.
    """

    settings: Settings
    keys: KeyTree
    store: Store
    wallet: Wallet
    host: Host
    backend: ChainBackend
    throw_away: Callable[[], AbstractAsyncContextManager[Host]]
    clock: Callable[[], float]
    keeper: Keeper | None = None
    remedies: RemedyStore | None = None
    recorder: Recorder | None = None
    mails: MailStore | None = None

    @property
    def us(self) -> PeerId:
        """Who this node is."""
        return self.keys.node_id()

    @property
    def asset(self) -> AssetId:
        """The coin of the chain that it works on."""
        return self.settings.network.genesis

    def now(self) -> UnixTime:
        """Unix time, whole seconds."""
        return UnixTime(int(self.clock()))
