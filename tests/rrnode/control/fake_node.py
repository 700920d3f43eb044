"""A node that behaves like one towards its owner, without network or chain: peers, channels, payments in memory.

It keeps its promises: balances add up, events are published before the order that causes them is answered, and what
cannot be is refused with a sentence. Contacts and requests are plain words here: `contact-NAME`, `request-NAME-MSAT`.
"""

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import trio

from protocols.ids import ChannelId, PaymentHash, PeerId, Txid
from rrnode.config import Settings
from rrnode.control import models as m
from rrnode.control.bus import EventBus
from rrnode.control.server import serve_control
from rrnode.control.text import parse_payment_hash, parse_peer, peer_of_address, peer_text
from rrnode.datadir import make_private
from rrnode.errors import ChainUnavailable, NotThere, StorageFailed, UserError
from rrnode.host.tap import Tap
from rrnode.sniffing import Sniffed, Wanted, sniffing

US = PeerId(b"\x02" + b"\x11" * 32)
BOB = PeerId(b"\x02" + b"\x22" * 32)
CAROL = PeerId(b"\x03" + b"\x33" * 32)
BOB_ADDRESS = f"/ip4/127.0.0.1/tcp/19780/p2p/{peer_text(BOB)}"
DEAD_ADDRESS = f"/ip4/127.0.0.1/tcp/1/p2p/{peer_text(CAROL)}"
FEE_MSAT = 2_500
NOW = 1_800_000_000


class FakeNode:
    """The service behind a control API. `broken` makes `status` fail in one of the ways a machine can."""

    def __init__(self, data_dir: Path, stopping: trio.Event) -> None:
        self.data_dir, self.stopping = data_dir, stopping
        self.bus = EventBus(lambda: NOW + 0.25)
        self.tap = Tap()
        self.notes: dict[PaymentHash, tuple[m.TraceNote, ...]] = {}
        self.broken: Exception | None = None
        self.wallet_sat = 1_000_000
        self.height = 100
        self.orders: list[m.PayOrder] = []
        self._peers: dict[PeerId, m.PeerInfo] = {}
        self.helping: tuple[m.HelperInfo, ...] = ()
        self._channels: dict[str, m.ChannelInfo] = {}
        self._due: list[tuple[m.ChannelInfo, str]] = []
        self._payments: dict[str, m.PaymentInfo] = {}
        self._promises: dict[str, m.PromiseInfo] = {}

    # --- node and peers ---

    async def status(self) -> m.Status:
        if self.broken:
            raise self.broken
        channels = tuple(self._channels.values())
        return m.Status(
            version="0.1.0",
            network="regtest",
            peer_id=peer_text(US),
            operator="tester",
            switches=(),
            listening=(),
            data_dir=str(self.data_dir),
            pid=1,
            uptime_s=3_725,
            chain=m.ChainStatus(backend="kernel", height=self.height, block_hash="00" * 32, ready=True),
            peers_connected=len(self._peers),
            channels_open=sum(channel.usable for channel in channels),
            channels_opening=0,
            channels_closing=0,
            channel_ours_msat=sum(channel.ours_msat for channel in channels),
            channel_theirs_msat=sum(channel.theirs_msat for channel in channels),
            in_flight_out_msat=0,
            in_flight_in_msat=0,
            wallet_confirmed_sat=self.wallet_sat,
            wallet_unconfirmed_sat=0,
            payments_live=0,
            forwards_live=0,
            alarms=("the neighbour \x1b[31mCarol closed by force",),
            warnings=("no watcher\x1b looks after it",),
        )

    async def stop(self) -> None:
        self.bus.publish(m.Stopping(reason="asked to"))
        self.bus.close()
        self.stopping.set()

    async def peers(self) -> tuple[m.PeerInfo, ...]:
        return tuple(self._peers.values())

    async def helpers(self) -> tuple[m.HelperInfo, ...]:
        return self.helping

    async def connect(self, address: str) -> m.PeerInfo:
        peer = peer_of_address(address)
        if peer is None:
            raise UserError(f"{address!r} is no address", "an address ends in /p2p/<peer id>")
        if address == DEAD_ADDRESS:
            raise UserError(f"{address} refused the connection", "check that the node there runs")
        self._peers[peer] = m.PeerInfo(
            peer_id=peer_text(peer),
            connected=True,
            address=address,
            agent="rrnode 0.1.0",
            switches=("route",),
            kept=True,
        )
        self.bus.publish(m.PeerEvent(peer_id=peer_text(peer), connected=True))
        return self._peers[peer]

    async def disconnect(self, peer: PeerId) -> None:
        if peer not in self._peers:
            raise NotThere(f"{peer_text(peer)} is not connected", "see rrnode peers")
        del self._peers[peer]

    # --- channels ---

    async def channels(self) -> tuple[m.ChannelInfo, ...]:
        """As they are now; what was ordered comes true right after it was looked at once."""
        found = tuple(self._channels.values())
        for channel, text in self._due:
            self._channel_is(channel, text)
        self._due.clear()
        return found

    async def channel_open(self, peer: str, capacity_sat: int, push_msat: int) -> m.ChannelInfo:
        who = parse_peer(peer) if not peer.startswith("/") else parse_peer((await self.connect(peer)).peer_id)
        if who not in self._peers:
            raise UserError(f"{peer_text(who)} is not connected", "connect first: rrnode connect ADDRESS")
        if capacity_sat > self.wallet_sat:
            raise UserError(
                f"the wallet holds {self.wallet_sat} sat, {capacity_sat} are wanted", "rrnode wallet address"
            )
        self.wallet_sat -= capacity_sat
        channel_id = hashlib.sha256(f"channel {len(self._channels)}".encode()).hexdigest()
        opening = m.ChannelInfo(
            channel_id=channel_id,
            peer_id=peer_text(who),
            phase="awaiting confirmations",
            usable=False,
            funded_by_us=True,
            capacity_sat=capacity_sat,
            ours_msat=capacity_sat * 1000 - push_msat,
            theirs_msat=push_msat,
            funding_txid=hashlib.sha256(channel_id.encode()).hexdigest(),
            note="waits for 3 confirmations",
        )
        self._channel_is(opening, "the funding transaction is published")
        open_ = opening.model_copy(update={"phase": "open", "usable": True, "note": "", "warning": "nobody watches it"})
        self._due.append((open_, "the channel is open"))
        return opening

    async def cover(self) -> m.Cover:
        held = m.HeldStates(peer_id=peer_text(BOB), states=3, newest=2, has_newest=True, until_height=900)
        return m.Cover(
            watchers=(m.WatcherInfo(peer_id=peer_text(BOB), address=BOB_ADDRESS, connected=True),),
            channels=(
                m.ChannelCover(
                    channel_id="ab" * 32,
                    peer_id=peer_text(US),
                    states_revoked=3,
                    stake_sat=20_000,
                    holders_of_newest=1,
                    held=(held,),
                    note="partly covered\x1b[31m",
                ),
            ),
        )

    async def audit(self) -> m.Audit:
        bob, carol = (peer_text(each) for each in (BOB, CAROL))
        neighbour = m.AuditParty(peers=(m.AuditPeer(peer_id=bob, roles=("neighbour",)),))
        both = m.AuditParty(
            peers=(
                m.AuditPeer(peer_id=carol, roles=("helper", "watcher")),
                m.AuditPeer(peer_id=peer_text(US), roles=("helper",)),
            ),
            why=("this one has the same operator (a\x1b[31m) as that one",),
        )
        alone = m.AuditSet(when="away", means="old state", at_stake_msat=1_500_000, parties=(neighbour,))
        hidden = m.AuditSet(when="up", means="payments in flight", at_stake_msat=7_001, parties=(neighbour, both))
        return m.Audit(
            own_chain=False,
            channels=(
                m.ChannelAudit(
                    channel_id="ab" * 32,
                    peer_id=bob,
                    to_self_delay_blocks=144,
                    sets=(alone, hidden),
                    warning="no watcher looks after it",
                ),
                m.ChannelAudit(channel_id="cd" * 32, peer_id=carol, to_self_delay_blocks=144, sets=()),
            ),
        )

    async def bounties(self) -> tuple[m.BountyInfo, ...]:
        taken = m.BountyOutput(index=0, value_sat=500_000, bounty_sat=9_000, spender="ef" * 32, height=700, ours=True)
        lost = m.BountyOutput(index=2, value_sat=40_000, bounty_sat=3_000, spender="cd" * 32, height=700)
        return (
            m.BountyInfo(
                txid="12" * 32,
                outcome="won in part",
                first_seen_unix=1_700_000_000,
                breach_height=699,
                reward_sat=8_500,
                lost=1,
                claim_txid="ef" * 32,
                claim_fee_sat=500,
                outputs=(taken, lost),
            ),
        )

    async def bounty(self, txid: Txid) -> m.BountyInfo:
        (found,) = await self.bounties()
        if txid.hex() != found.txid:
            raise NotThere("no breach with this transaction id was seen here", "see: rrnode bounty list")
        return found

    async def channel_close(self, channel_id: ChannelId, force: bool) -> m.ChannelInfo:
        channel = self._channels.get(channel_id.hex())
        if channel is None:
            raise NotThere(f"there is no channel {channel_id.hex()[:8]}", "see rrnode channel list")
        closing = channel.model_copy(update={"phase": "closing by force" if force else "closing", "usable": False})
        self._channel_is(closing, "asked to close")
        self._due.append(
            (closing.model_copy(update={"closing_txid": "cd" * 32}), "the closing transaction is published")
        )
        return closing

    def _channel_is(self, channel: m.ChannelInfo, text: str) -> None:
        self._channels[channel.channel_id] = channel
        self.bus.publish(
            m.ChannelEvent(
                channel_id=channel.channel_id,
                peer_id=channel.peer_id,
                phase=channel.phase,
                usable=channel.usable,
                ours_msat=channel.ours_msat,
                theirs_msat=channel.theirs_msat,
                text=text,
            )
        )

    # --- payments ---

    async def contact(self) -> m.ContactInfo:
        return m.ContactInfo(contact="rrr1contact", peer_id=peer_text(US), routing_servers=(BOB_ADDRESS,))

    async def request(self, amount_msat: int, memo: str, expiry_s: int) -> m.RequestInfo:
        payment_hash = hashlib.sha256(f"{amount_msat} {memo}".encode()).hexdigest()
        self._promises[payment_hash] = m.PromiseInfo(
            payment_hash=payment_hash,
            kind="request",
            phase="waiting",
            amount_msat=amount_msat,
            received_msat=0,
            created_unix=NOW,
            expires_unix=NOW + expiry_s,
            memo=memo,
        )
        return m.RequestInfo(
            request=f"rrr1request{amount_msat}",
            payment_hash=payment_hash,
            amount_msat=amount_msat,
            memo=memo,
            expires_unix=NOW + expiry_s,
        )

    async def pay(self, order: m.PayOrder) -> PaymentHash:
        self.orders.append(order)
        kind, _, rest = order.target.partition("-")
        if kind not in ("contact", "request"):
            raise UserError(f"{order.target!r} is neither a request nor a contact", "ask the payee for a new one")
        name, _, asked = rest.partition("-")
        amount = order.amount_msat or int(asked or 0)
        if not amount:
            raise UserError("a contact names no amount", "say how much: rrnode pay CONTACT AMOUNT")
        if name == "expired":
            raise UserError("the request expired on 2026-01-01", "ask the payee for a new one")
        preimage = hashlib.sha256(f"{order.target} {amount}".encode()).digest()
        payment_hash = hashlib.sha256(preimage).digest()
        self._run_payment(payment_hash.hex(), preimage.hex(), kind, name, amount, order)
        return PaymentHash(payment_hash)

    async def pay_by_hand(self, order: m.PayOrder) -> m.HandedOver:
        payment_hash = await self.pay(order)
        return m.HandedOver(payment_hash=payment_hash.hex(), text="rrri1qqqq", expires_unix=NOW + 3600)

    async def give_up(self, payment_hash: PaymentHash) -> None:
        if (await self.payment(payment_hash)).phase != "collecting":
            raise UserError("The payment is paid: it can no longer be given up.")

    async def receive(self, text: str) -> m.Handed:
        if text != "rrri1qqqq":
            raise UserError("this is no payment that waits to be received")
        payment_hash = "ab" * 32
        self.bus.publish(m.Received(payment_hash=payment_hash, amount_msat=5_000, memo="tea\x1b"))
        return m.Handed(payment_hash=payment_hash, amount_msat=5_000, memo="tea\x1b", expires_unix=NOW + 3600)

    async def mail(self) -> m.MailInfo:
        missed = m.Missed(at_ms=NOW * 1000, reason="the payment has expired", amount_msat=7_000, memo="rent\x1b")
        box = m.MailboxInfo(server=peer_text(BOB), at_unix=NOW, taken=2, left=1, turned_away=3)
        return m.MailInfo(mailboxes=(box,), missed=(missed,), kept_here=4)

    def _run_payment(
        self, payment_hash: str, preimage: str, kind: str, name: str, amount: int, order: m.PayOrder
    ) -> None:
        tell, about = self.bus.publish, {"payment_hash": payment_hash}
        payment = m.PaymentInfo.model_validate(
            {
                **about,
                "kind": "push" if kind == "contact" else "request",
                "phase": "collecting",
                "payee": peer_text(CAROL),
                "amount_msat": amount,
                "ceiling_msat": order.ceiling_msat or amount + (order.max_fee_msat or 100_000),
                "created_unix": NOW,
                "expires_unix": NOW + 60,
                "memo": order.memo,
            }
        )
        tell(m.Waiting(**about, what="the payee to answer", after_ms=1))
        if name == "nobody":
            reason = "no offer came within 10 s: the payee is away, or no channels lead there"
            tell(m.PaymentFailed(**about, reason=reason, hint="try later, or open another channel", after_ms=10_000))
            self._payments[payment_hash] = payment.model_copy(update={"phase": "failed", "reason": reason})
            return
        bob = peer_text(BOB)
        tell(_offer(payment_hash, amount, 4_000, 12, cheapest=True))
        tell(_offer(payment_hash, amount, FEE_MSAT, 31, cheapest=True))
        sent = amount + FEE_MSAT
        locked = m.Locked(
            **about,
            attempt=1,
            neighbour=bob,
            channel_id="ef" * 32,
            amount_msat=sent,
            fee_msat=FEE_MSAT,
            expiry_height=140,
            after_ms=700,
        )
        tell(locked)
        attempts = [_attempt(sent, "every way onward failed" if name == "bumpy" else "")]
        if name == "bumpy":
            tell(m.AttemptFailed(**about, attempt=1, neighbour=bob, reason="every way onward failed", after_ms=800))
            tell(locked.model_copy(update={"attempt": 2, "after_ms": 801}))
            attempts.append(_attempt(sent, ""))
        tell(m.Settled(**about, amount_msat=amount, sent_msat=sent, fee_msat=FEE_MSAT, preimage=preimage, after_ms=900))
        self._payments[payment_hash] = payment.model_copy(
            update={
                "phase": "paid",
                "sent_msat": sent,
                "fee_msat": FEE_MSAT,
                "preimage": preimage,
                "attempts": tuple(attempts),
                "ended_unix": NOW + 1,
            }
        )

    async def payment(self, payment_hash: PaymentHash) -> m.PaymentInfo:
        found = self._payments.get(payment_hash.hex())
        if found is None:
            raise NotThere(f"there is no payment {payment_hash.hex()[:8]} of ours", "see rrnode payments")
        return found

    async def payments(self) -> tuple[m.PaymentInfo, ...]:
        return tuple(self._payments.values())

    async def promises(self) -> tuple[m.PromiseInfo, ...]:
        return tuple(self._promises.values())

    async def trace(self, payment_hash: PaymentHash) -> m.Trace:
        return m.Trace(
            payment_hash=payment_hash.hex(),
            peer_id=peer_text(US),
            network="regtest",
            operator="tester",
            since_ms=NOW * 1000,
            notes=self.notes.get(payment_hash, ()),
        )

    async def routes(self) -> m.Routes:
        offer = m.OfferInfo(neighbour=peer_text(BOB), amount_msat=102_500, lock_blocks=12, expires_unix=NOW + 60)
        return m.Routes(
            entries=(m.RouteInfo(payment_hash="aa" * 32, role="payer", offers=(offer,)),),
            table_limit=1000,
            subscriptions=0,
            neighbours=(
                m.NeighbourInfo(
                    peer_id=peer_text(BOB), connected=True, routes=True, can_send_msat=1_000, can_receive_msat=2_000
                ),
            ),
        )

    # --- wallet and chain ---

    async def wallet_address(self) -> str:
        return "bcrt1qexample"

    async def wallet_balance(self) -> m.WalletBalance:
        return m.WalletBalance(
            confirmed_sat=self.wallet_sat,
            unconfirmed_sat=0,
            reserved_sat=10_000,
            spendable_sat=self.wallet_sat - 10_000,
        )

    async def wallet_send(self, address: str, amount_sat: int | None, feerate_sat_per_kvb: int | None) -> m.WalletSent:
        if not address.startswith("bcrt1"):
            raise UserError(f"{address} is no regtest address", "regtest addresses begin with bcrt1")
        amount = amount_sat if amount_sat is not None else self.wallet_sat - 10_000 - 150
        self.wallet_sat -= amount + 150
        return m.WalletSent(txid="12" * 32, amount_sat=amount, fee_sat=150)

    async def mine(self, blocks: int, address: str | None) -> m.Mined:
        self.height += blocks
        return m.Mined(block_hashes=tuple(f"{n:064x}" for n in range(blocks)), height=self.height)

    def events(self, *, after: int | None = None) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[m.Event]]:
        return self.bus.subscribe(after=after)

    @asynccontextmanager
    async def frames(self, wanted: m.FrameFilter) -> AsyncIterator[Sniffed]:
        sieve = Wanted(
            protocols=frozenset(wanted.protocols),
            peer=parse_peer(wanted.peer) if wanted.peer else None,
            payment_hash=parse_payment_hash(wanted.payment_hash) if wanted.payment_hash else None,
            secrets=wanted.secrets,
        )
        async with sniffing(self.tap, sieve, lambda: NOW + 0.25) as sniffed:
            yield sniffed


def _offer(payment_hash: str, amount: int, fee: int, after_ms: int, *, cheapest: bool) -> m.OfferSeen:
    return m.OfferSeen(
        payment_hash=payment_hash,
        neighbour=peer_text(BOB),
        amount_msat=amount + fee,
        fee_msat=fee,
        fee_ppm=fee * 1_000_000 // amount,
        lock_blocks=12,
        cheapest=cheapest,
        after_ms=after_ms,
    )


def _attempt(sent: int, failure: str) -> m.AttemptInfo:
    return m.AttemptInfo(
        channel_id="ef" * 32,
        neighbour=peer_text(BOB),
        amount_msat=sent,
        fee_msat=FEE_MSAT,
        expiry_height=140,
        failure=failure,
    )


FAILURES = {
    "chain": ChainUnavailable("bitcoind at http://127.0.0.1:18443 does not answer"),
    "disk": StorageFailed("the database could not be written: disk full"),
    "bug": RuntimeError("the secret inside of a fault"),
}


@asynccontextmanager
async def serving(data_dir: Path) -> AsyncIterator[FakeNode]:
    """A fake node whose control API is served while inside."""
    make_private(data_dir)
    stopping = trio.Event()
    node = FakeNode(data_dir, stopping)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_control, node, data_dir, stopping)
            try:
                yield node
            finally:
                stopping.set()


async def run(settings: Settings, *, ready: Callable[[], None] | None = None) -> None:
    """What `rrnode.start.run` is to `rrnode start`: runs until it is told to stop over its control API."""
    async with serving(settings.data_dir) as node:
        if ready is not None:
            ready()
        await node.stopping.wait()
