"""Which channel an event reaches, and what neighbours can carry: through the engine, over channels that behave."""

from dataclasses import replace

import pytest

from protocols.channel.events import (
    CloseRequested,
    Flush,
    ForgetChannel,
    LinkDown,
    LinkUp,
    MessageReceived,
    OfferHtlc,
    OpenRequested,
    Outpoint,
    OutputSpent,
    SendMessage,
    SpendGone,
    StoreChannel,
    TipChanged,
    TxConfirmed,
    TxUnconfirmed,
    WatchOutpoint,
    WatchTx,
)
from protocols.channel.state import Htlc, Phase, Stage
from protocols.channel.step import Step
from protocols.errors import MisuseError
from protocols.ids import ChannelId, Txid
from protocols.onchain.weights import close_reserve
from protocols.payment.config import EngineConfig
from protocols.payment.events import ChainReserveChanged, NeighbourLiquidity
from protocols.routing.events import Liquidity
from protocols.units import BlockHeight, FeeRate, Msat, Sat
from protocols.wire.channel import (
    AcceptChannel,
    ChannelReady,
    CommitmentSigned,
    Error,
    FundingCreated,
    OpenChannel,
    UpdateAddHtlc,
    Warn,
)

ALL = bytes(32)


class Recorder:
    """Rules that note who was given what, and do what a test says."""

    def __init__(self) -> None:
        self.seen = []
        self.answers = {}

    def loaded(self, channel):
        return channel

    def resume(self, channel, env):
        return Step(channel)

    def handle(self, channel, event, env):
        self.seen.append((None if channel is None else channel.channel_id, type(event).__name__))
        answer = self.answers.get(type(event).__name__)
        return answer(channel, event) if answer else Step(channel)


@pytest.fixture
def recorded(kit):
    """A node with two channels to `a` and one to `b`, and the rules that note everything."""
    desk = kit.Desk(kit.channel("a1", of="a"), kit.channel("a2", of="a"), kit.channel("b"))
    rules = Recorder()
    desk.engine._book._rules = rules
    return desk, rules


def open_channel(named, chain=bytes(32)):
    keys = [b"\x02" + bytes(32)] * 6
    return OpenChannel(chain, named, 100_000, 0, 354, 1, 1000, 1, 144, 10, *keys, bytes(22))


def test_a_message_reaches_the_channel_it_names(kit, recorded):
    desk, rules = recorded
    desk.do(MessageReceived(peer=kit.peer("a"), message=CommitmentSigned(kit.channel_id("a2"), bytes(64), ())))
    assert rules.seen == [(kit.channel_id("a2"), "MessageReceived")]


@pytest.mark.parametrize(
    "message",
    [
        lambda named: UpdateAddHtlc(named, 0, 1, bytes(32), 1),
        lambda named: ChannelReady(named, bytes(33)),
        lambda named: Error(named, "no"),
        lambda named: FundingCreated(named, bytes(32), 0, bytes(64)),
        lambda named: AcceptChannel(named, 354, 1, 1000, 1, 3, 144, 10, *[bytes(33)] * 6, bytes(22)),
    ],
)
def test_a_peer_never_reaches_the_channel_of_another(kit, recorded, message):
    desk, rules = recorded
    desk.do(MessageReceived(peer=kit.peer("b"), message=message(kit.channel_id("a1"))))
    assert rules.seen == [(None, "MessageReceived")]


def test_only_a_message_about_a_channel_of_its_sender_concerns_us(kit, recorded):
    desk, rules = recorded

    def concerns(of, message):
        return desk.engine.concerns(MessageReceived(peer=kit.peer(of), message=message))

    for named, of, yes in (("a1", "a", True), ("a1", "b", False), ("none", "a", False)):
        assert concerns(of, CommitmentSigned(kit.channel_id(named), bytes(64), ())) is yes
        assert concerns(of, FundingCreated(kit.channel_id(named), bytes(32), 0, bytes(64))) is yes
    assert (concerns("a", Warn(ALL, "all")), concerns("stranger", Warn(ALL, "all"))) == (True, False)
    assert rules.seen == []


def test_an_error_for_all_channels_reaches_those_of_its_sender_only(kit, recorded):
    desk, rules = recorded
    for message in (Error(ALL, "all"), Warn(ALL, "all")):
        desk.do(MessageReceived(peer=kit.peer("a"), message=message))
        assert rules.seen == [(kit.channel_id("a1"), "MessageReceived"), (kit.channel_id("a2"), "MessageReceived")]
        rules.seen.clear()


def test_links_reach_every_channel_of_the_peer_and_blocks_every_channel_that_is_not_closed(kit, recorded):
    desk, rules = recorded
    desk.do(LinkUp(peer=kit.peer("a")))
    desk.do(LinkDown(peer=kit.peer("b")))
    desk.do(LinkDown(peer=kit.peer("stranger")))
    assert [each for each, _ in rules.seen] == [kit.channel_id("a1"), kit.channel_id("a2"), kit.channel_id("b")]
    rules.seen.clear()
    rules.answers["CloseRequested"] = lambda channel, event: Step(replace(channel, phase=Phase.CLOSED))
    desk.do(CloseRequested(channel_id=kit.channel_id("a1"), force=False))
    desk.do(TipChanged())
    assert rules.seen == [
        (kit.channel_id("a1"), "CloseRequested"),
        (kit.channel_id("a2"), "TipChanged"),
        (kit.channel_id("b"), "TipChanged"),
    ]


def test_a_flush_visits_only_what_changed_since_the_last(kit, desk):
    desk.do(Flush())
    desk.rules.flushed.clear()
    desk.do(Flush())
    assert desk.rules.flushed == []
    desk.htlc_in("near", 1, 1000)
    desk.do(Flush())
    assert desk.rules.flushed == [kit.channel_id("near")]
    desk.do(Flush())
    assert desk.rules.flushed == [kit.channel_id("near")]


def test_chain_events_reach_whoever_ordered_the_watch_under_its_newest_id(kit, recorded):
    desk, rules = recorded
    txid, outpoint = Txid(b"\x11" * 32), Outpoint(txid=Txid(b"\x22" * 32), index=1)
    watches = (
        WatchTx(txid=txid, script=b"", from_height=BlockHeight(1)),
        WatchOutpoint(outpoint=outpoint, script=b"", from_height=BlockHeight(1)),
    )
    rules.answers["TipChanged"] = lambda channel, event: Step(
        channel, watches if channel.channel_id == kit.channel_id("b") else ()
    )
    assert desk.do(TipChanged()) == list(watches)
    rules.seen.clear()
    chain = (
        TxConfirmed(txid=txid, height=BlockHeight(5)),
        TxUnconfirmed(txid=txid),
        OutputSpent(outpoint=outpoint, transaction=b"", height=None),
        SpendGone(outpoint=outpoint),
    )
    for event in chain:
        desk.do(event)
    assert rules.seen == [(kit.channel_id("b"), type(event).__name__) for event in chain]
    rules.seen.clear()
    desk.do(TxConfirmed(txid=Txid(b"\x33" * 32), height=BlockHeight(5)))
    rules.answers["LinkDown"] = lambda channel, event: Step(None, (ForgetChannel(channel_id=channel.channel_id),))
    desk.do(LinkDown(peer=kit.peer("b")))
    desk.do(chain[0])
    assert rules.seen == [(kit.channel_id("b"), "LinkDown")]


def test_a_channel_is_found_under_its_new_id_once_the_temporary_one_ends(kit, recorded):
    desk, rules = recorded
    old, new = kit.channel_id("b"), ChannelId(b"\x99" * 32)

    def rename(channel, event):
        changed = replace(channel, channel_id=new)
        return Step(changed, (StoreChannel(channel=changed, replaces=old),))

    rules.answers["LinkUp"] = rename
    desk.do(LinkUp(peer=kit.peer("b")))
    assert desk.engine.channel(old) is None
    assert desk.engine.channel(new).peer == kit.peer("b")
    desk.do(LinkDown(peer=kit.peer("b")))
    assert rules.seen[-1] == (new, "LinkDown")


def test_a_peer_cannot_take_over_a_channel_by_naming_its_funding(kit, recorded):
    desk, rules = recorded
    taken = kit.channel_id("a1")
    rules.answers["MessageReceived"] = lambda channel, event: Step(
        replace(channel, channel_id=taken), (StoreChannel(channel=channel, replaces=channel.channel_id),)
    )
    named = kit.channel_id("b")
    message = FundingCreated(named, bytes(32), 0, bytes(64))
    assert desk.do(MessageReceived(peer=kit.peer("b"), message=message)) == [
        ForgetChannel(channel_id=named),
        SendMessage(peer=kit.peer("b"), message=Error(named, "this funding output belongs to a channel")),
    ]
    assert desk.engine.channel(taken).peer == kit.peer("a")
    assert desk.engine.channel(named) is None


def test_a_new_channel_under_a_known_id_is_not_taken(kit, recorded):
    desk, rules = recorded
    rules.answers["OpenRequested"] = lambda channel, event: Step(kit.channel("a1", of="b"))
    order = OpenRequested(
        temporary_id=kit.channel_id("a1"), peer=kit.peer("b"), key_index=1, capacity=Sat(1), push=Msat(0)
    )
    desk.do(order)
    assert desk.engine.channel(kit.channel_id("a1")).peer == kit.peer("a")


@pytest.mark.parametrize(
    ("named", "config", "text"),
    [
        ("a1", {}, "this temporary_channel_id is in use"),
        ("new", {"max_channels": 4}, "no room for another channel here"),
        ("new", {"max_channels_per_peer": 2}, "there are too many channels between us already"),
        ("new", {"max_opening_per_peer": 1}, "too many of your channels are not confirmed yet"),
    ],
)
def test_an_open_channel_is_refused_before_anything_is_made_for_it(kit, named, config, text):
    opening = kit.channel("b2", of="b", phase=Phase.CONFIRMING, we_fund=False)
    desk = kit.Desk(
        kit.channel("a1", of="a"), kit.channel("a2", of="a"), kit.channel("b"), opening, config=EngineConfig(**config)
    )
    rules = desk.engine._book._rules = Recorder()
    effects = desk.do(MessageReceived(peer=kit.peer("b"), message=open_channel(kit.channel_id(named)), key_index=1))
    assert effects == [SendMessage(peer=kit.peer("b"), message=Error(kit.channel_id(named), text))]
    assert rules.seen == []


def test_an_open_channel_under_the_id_that_names_all_channels_is_refused(kit, recorded):
    desk, _ = recorded
    effects = desk.do(MessageReceived(peer=kit.peer("b"), message=open_channel(ALL), key_index=1))
    assert effects == [SendMessage(peer=kit.peer("b"), message=Error(ALL, "this temporary_channel_id is in use"))]


def test_a_repeated_open_channel_of_the_same_peer_reaches_its_channel(kit, recorded):
    desk, rules = recorded
    desk.do(MessageReceived(peer=kit.peer("b"), message=open_channel(kit.channel_id("b")), key_index=1))
    desk.do(MessageReceived(peer=kit.peer("b"), message=open_channel(kit.channel_id("new")), key_index=1))
    assert [each for each, _ in rules.seen] == [kit.channel_id("b"), None]


def test_an_answer_that_nobody_waits_for_is_our_own_bug(kit, desk):
    order = OfferHtlc(
        channel_id=kit.channel_id("near"),
        reference=b"",
        amount=Msat(1),
        payment_hash=kit.hash(1),
        expiry=BlockHeight(2000),
    )
    with pytest.raises(MisuseError, match="not offered here"):
        desk.do(order)


# --- liquidity --------------------------------------------------------------------------------------------------------


def told(kit, name, ours, theirs, asset=None):
    row = Liquidity(asset=asset or kit.COIN, ours=Msat(ours), theirs=Msat(theirs))
    return NeighbourLiquidity(neighbour=kit.peer(name), liquidity=(row,))


def test_liquidity_is_told_after_a_batch_and_only_when_it_changed(kit, desk):
    assert desk.do(Flush()) == [told(kit, name, 499_000_000, 499_000_000) for name in ("up", "near", "far")]
    assert desk.do(Flush()) == []
    desk.htlc_in("up", 1, 1_000_000)
    assert desk.do(Flush()) == [told(kit, "up", 499_000_000, 498_000_000)]
    desk.do(LinkDown(peer=kit.peer("far")))
    assert desk.do(Flush()) == [NeighbourLiquidity(neighbour=kit.peer("far"), liquidity=())]
    desk.do(LinkUp(peer=kit.peer("far")))
    assert desk.do(Flush()) == [told(kit, "far", 499_000_000, 499_000_000)]
    assert desk.engine.liquidity(kit.peer("far")) == told(kit, "far", 499_000_000, 499_000_000).liquidity


def test_liquidity_is_the_largest_single_htlc_each_way_and_per_coin(kit):
    desk = kit.Desk(
        kit.channel("one", of="near", ours=10_000, theirs=90_000),
        kit.channel("two", of="near", ours=70_000, theirs=30_000),
        kit.channel("gold", of="near", ours=5_000, theirs=6_000, asset=kit.GOLD),
    )
    assert desk.engine.liquidity(kit.peer("near")) == (
        Liquidity(asset=kit.COIN, ours=Msat(69_000_000), theirs=Msat(89_000_000)),
        Liquidity(asset=kit.GOLD, ours=Msat(4_000_000), theirs=Msat(5_000_000)),
    )


def test_without_a_reserve_only_what_can_never_be_an_output_is_told(kit, desk):
    desk.do(Flush())
    desk.do(ChainReserveChanged(confirmed_sat=0, coins=100))
    assert desk.do(Flush()) == [told(kit, name, 329_999, 329_999) for name in ("up", "near", "far")]
    desk.do(ChainReserveChanged(confirmed_sat=None, coins=100))
    assert desk.do(Flush()) == [told(kit, name, 0, 0) for name in ("up", "near", "far")]
    desk.do(ChainReserveChanged(confirmed_sat=30_000, coins=100))
    assert desk.do(Flush()) == [told(kit, name, 499_000_000, 499_000_000) for name in ("up", "near", "far")]
    desk.do(ChainReserveChanged(confirmed_sat=30_001, coins=100))
    assert desk.do(Flush()) == []


def test_channels_that_have_closed_or_hold_nothing_yet_need_no_reserve(kit):
    channels = [kit.channel(str(phase), phase=phase) for phase in Phase]
    desk = kit.Desk(*channels, reserve=0)
    needed = len(Phase) - 5  # four phases before the funding, and closed
    desk.do(ChainReserveChanged(confirmed_sat=needed * 10_000 - 1, coins=100))
    assert not desk.engine._book.covered
    desk.do(ChainReserveChanged(confirmed_sat=needed * 10_000, coins=100))
    assert desk.engine._book.covered


def test_channels_that_a_peer_only_says_it_will_fund_use_up_no_reserve(kit):
    """Else a stranger could stop every payment of ours with a few messages that cost it nothing."""
    said = [
        kit.channel(phase.name, of="stranger", phase=phase, we_fund=False, deep=False)
        for phase in (Phase.CONFIRMING, Phase.SHUTTING, Phase.CLOSING, Phase.FORCED)
    ]
    desk = kit.Desk(kit.channel("up"), *said, reserve=10_000)
    assert desk.engine._book.covered
    funded = replace(said[0], funding_height=kit.TIP)
    assert not kit.Desk(kit.channel("up"), funded, reserve=10_000).engine._book.covered
    # And talking of a close does not make room for more of them.
    message = MessageReceived(peer=kit.peer("stranger"), message=open_channel(kit.channel_id("new")), key_index=1)
    (refused,) = desk.do(message)
    assert refused.message.text == "too many of your channels are not confirmed yet"


def test_every_htlc_that_can_be_an_output_needs_coins_at_the_feerate_of_the_day(kit):
    """Else a peer could fill a channel with HTLCs which nobody can afford to claim, and take them back when they expire."""

    def holding(count, amount):
        htlcs = [
            Htlc(id=n, ours=False, amount=amount, payment_hash=kit.hash(n), expiry=kit.TIP + 100, stage=Stage.COMMITTED)
            for n in range(count)
        ]
        return kit.channel("up", htlcs=tuple(htlcs))

    need = close_reserve(50, FeeRate(1000)) + 10_000
    assert need > 26_000
    desk = kit.Desk(holding(50, Msat(5_000_000)), kit.channel("near"), reserve=need - 1)
    assert desk.engine.reserve_needed() == need
    desk.do(Flush())
    assert desk.do(ChainReserveChanged(confirmed_sat=need, coins=100)) == []
    assert desk.do(Flush())[-1].liquidity[0].ours > 400_000_000
    dearer = replace(desk.facts(), feerate=FeeRate(1001))
    desk.engine.handle(TipChanged(), dearer)
    assert [each.liquidity[0].ours for each in desk.engine.handle(Flush(), dearer)] == [Msat(329_999), Msat(329_999)]
    assert desk.engine.most_receivable(kit.COIN) == Msat(329_999)
    dust = kit.Desk(holding(50, Msat(329_999)), kit.channel("near"), reserve=20_000)
    dust.do(Flush())
    assert dust.engine._book.covered


def holding(kit, *expiries, ours=True, name="up"):
    """A channel with an HTLC for each of these expiries, in blocks from now."""
    htlcs = tuple(
        Htlc(
            id=n,
            ours=ours,
            amount=Msat(1_000_000),
            payment_hash=kit.hash(n),
            expiry=BlockHeight(kit.TIP + blocks),
            stage=Stage.COMMITTED,
        )
        for n, blocks in enumerate(expiries)
    )
    return kit.channel(name, htlcs=htlcs)


@pytest.mark.parametrize(
    ("channels", "coins"),
    [
        ([], 0),
        ([((), True)], 0),  # without an HTLC no block is the last
        ([((50,) * 60, False)], 1),  # the commitment, and two transactions with 48 and 12 of them
        ([(range(40, 45), True)], 1),  # the commitment, and five that cannot be one, of five locktimes
        ([(range(40, 46), True)], 2),
        ([(range(40, 140), True)], 4),  # not all of these fall due within the time that one takes
        ([((50,), True), ((50,), False), ((50,), True)], 1),
        ([((50,), True)] * 4, 2),  # two transactions each
    ],
)
def test_an_end_on_the_chain_takes_a_coin_for_so_many_transactions_one_after_the_other(kit, channels, coins):
    held = [holding(kit, *expiries, ours=ours, name=str(n)) for n, (expiries, ours) in enumerate(channels)]
    desk = kit.Desk(*held)
    assert desk.engine.coins_needed() == coins
    desk.do(ChainReserveChanged(confirmed_sat=10_000_000, coins=coins))
    assert desk.engine._book.covered
    if coins:
        desk.do(ChainReserveChanged(confirmed_sat=10_000_000, coins=coins - 1))
        assert not desk.engine._book.covered
        assert "separate coins" in desk.engine._book.why_not


def test_an_htlc_that_would_need_one_more_coin_is_not_offered(kit):
    desk = kit.Desk(holding(kit, *range(40, 45)), kit.channel("near"))
    desk.do(ChainReserveChanged(confirmed_sat=10_000_000, coins=1))
    book, full = desk.engine._book, desk.engine.channel(kit.channel_id("up"))
    assert book.covered
    assert book.may_offer(full, Msat(1_000_000), BlockHeight(kit.TIP + 44)), "it can leave with another"
    assert not book.may_offer(full, Msat(1_000_000), BlockHeight(kit.TIP + 45))
    assert not book.may_offer(desk.engine.channel(kit.channel_id("near")), Msat(1_000_000), BlockHeight(kit.TIP + 44))
    assert book.may_offer(full, Msat(329_999), BlockHeight(kit.TIP + 45)), "it can never be an output"
    desk.do(ChainReserveChanged(confirmed_sat=10_000_000, coins=2))
    assert book.may_offer(full, Msat(1_000_000), BlockHeight(kit.TIP + 45))
    desk.do(ChainReserveChanged(confirmed_sat=None, coins=2))
    assert not book.may_offer(full, Msat(329_999), BlockHeight(kit.TIP + 44))


def test_an_htlc_that_the_satoshi_would_not_reach_for_is_not_offered(kit):
    filled = holding(kit, *[50] * 50)
    need = close_reserve(50, FeeRate(1000))
    desk = kit.Desk(filled, reserve=need)
    book = desk.engine._book
    assert not book.may_offer(filled, Msat(1_000_000), BlockHeight(kit.TIP + 50))
    desk.do(ChainReserveChanged(confirmed_sat=close_reserve(51, FeeRate(1000)), coins=1))
    assert book.may_offer(filled, Msat(1_000_000), BlockHeight(kit.TIP + 50))
