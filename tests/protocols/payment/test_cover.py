"""Channels that wait for their watchers: what waits, what goes on, and how waiting ends. Over channels that behave, whose
neighbours revoke a state with each HTLC that they commit to and with each `revoked`."""

from dataclasses import replace

import pytest

from protocols.channel.events import Alarm, Flush, StoreChannel, StoreRevoked
from protocols.channel.state import Phase, Stage
from protocols.ids import Txid
from protocols.onchain.secrets import secret_at
from protocols.payment.config import EngineConfig
from protocols.payment.events import (
    DropForward,
    FindOffers,
    LockRequested,
    NeighbourLiquidity,
    OffersFound,
    PayAbandoned,
    PayPhase,
    PromisePhase,
    RemediesHeld,
    RequestRefused,
    StoreForward,
)
from protocols.units import UnixTime
from protocols.wire.channel import FailureCode, RevokeAndAck, UpdateAddHtlc

IN, OUT = 1_010_000, 1_000_000
PATIENCE = EngineConfig().cover_patience


def revoking(kit):
    """Rules under which an HTLC of theirs is committed by the revocation of another state."""

    class Revoking(kit.Rules):
        def handle(self, channel, event, env):
            step = super().handle(channel, event, env)
            message = getattr(event, "message", None)
            return self._revoke(step) if isinstance(message, UpdateAddHtlc | RevokeAndAck) else step

        def _revoke(self, step):
            number = step.channel.their_secrets.count
            secrets = step.channel.their_secrets.insert(number, secret_at(bytes(32), number))
            changed = replace(step.channel, their_secrets=secrets)
            revoked = StoreRevoked(channel_id=changed.channel_id, number=number, txid=Txid(bytes(32)), record=b"")
            rest = [each for each in step.effects if not isinstance(each, StoreChannel)]
            return replace(step, channel=changed, effects=(StoreChannel(channel=changed), revoked, *rest))

    return Revoking()


@pytest.fixture
def desk(kit):
    channels = [kit.channel(name) for name in ("up", "near", "far")]
    return kit.Desk(*channels, config=EngineConfig(needs_cover=True), rules=revoking(kit))


def held(kit, name, states):
    return RemediesHeld(channel_id=kit.channel_id(name), states=states)


def offers(kit, *names, name="up", htlc_id=0):
    reference = b"carry" + kit.channel_id(name) + htlc_id.to_bytes(8, "big")
    return OffersFound(reference=reference, offers=tuple(kit.offer(each, OUT, quote=IN) for each in names))


def asked(effects):
    return [each for each in effects if isinstance(each, FindOffers)]


def outgoing(desk, name):
    return [each for each in desk.channel(name).htlcs if each.ours]


def incoming_failure(desk, name):
    return [each.failure for each in desk.channel(name).htlcs if not each.ours]


def late(kit, desk, *, after=PATIENCE):
    desk.now = UnixTime(desk.now + after)
    return desk.do(Flush())


def test_without_the_setting_nothing_waits(kit):
    desk = kit.Desk(kit.channel("up"), kit.channel("near"), rules=revoking(kit))
    assert asked(desk.htlc_in("up", 1, IN)) != []


def test_an_htlc_of_theirs_is_carried_on_once_what_was_revoked_for_it_is_held(kit, desk):
    effects = desk.htlc_in("up", 1, IN)
    assert [type(each) for each in effects] == [StoreChannel, StoreRevoked]
    assert asked(desk.do(held(kit, "up", 0))) == []
    assert len(asked(desk.do(held(kit, "up", 1)))) == 1
    desk.do(offers(kit, "near"))
    assert len(outgoing(desk, "near")) == 1


def test_an_htlc_of_theirs_waits_for_no_state_that_was_revoked_after_it(kit, desk):
    desk.htlc_in("up", 1, IN)
    desk.htlc_in("up", 2, IN, id=1)
    assert [each.payment_hash for each in asked(desk.do(held(kit, "up", 1)))] == [kit.hash(1)]
    assert [each.payment_hash for each in asked(desk.do(held(kit, "up", 2)))] == [kit.hash(2)]


def test_nothing_is_claimed_before_it_is_held(kit, desk):
    desk.do(desk.promise())
    desk.htlc_in("up", 1, 1_000_000)
    assert desk.engine.promises()[0].phase is PromisePhase.WAITING
    desk.do(held(kit, "up", 1))
    assert desk.engine.promises()[0].phase is PromisePhase.CLAIMED


def test_what_waits_in_vain_is_failed_back_and_what_comes_later_at_once(kit, desk):
    desk.do(desk.promise(2))
    desk.htlc_in("up", 1, IN)
    desk.htlc_in("up", 2, IN, id=1)
    late(kit, desk, after=PATIENCE - 1)
    assert incoming_failure(desk, "up") == [None, None]
    effects = late(kit, desk, after=1)
    assert incoming_failure(desk, "up") == [FailureCode.NODE_BUSY] * 2
    assert NeighbourLiquidity(neighbour=kit.peer("up"), liquidity=()) in effects
    assert [each.channel_id for each in effects if isinstance(each, Alarm)] == [kit.channel_id("up")]
    assert desk.rules.flushed[-1] == kit.channel_id("up")  # and signed with the same batch
    desk.htlc_in("up", 3, IN, id=2)
    assert incoming_failure(desk, "up") == [FailureCode.NODE_BUSY] * 3
    assert desk.engine.promises()[0].phase is PromisePhase.WAITING


def test_a_watcher_that_returns_lets_a_late_channel_go_on(kit, desk):
    desk.htlc_in("up", 1, IN)
    late(kit, desk)
    desk.do(held(kit, "up", 1))
    assert desk.do(Flush())[-1].neighbour == kit.peer("up")
    desk.htlc_in("up", 2, IN, id=1)
    assert len(asked(desk.do(held(kit, "up", 2)))) == 1


def test_news_from_watchers_start_the_patience_again(kit, desk):
    desk.htlc_in("up", 1, IN)
    desk.htlc_in("up", 2, IN, id=1)
    late(kit, desk, after=PATIENCE - 1)
    desk.do(held(kit, "up", 1))
    late(kit, desk, after=PATIENCE - 1)
    assert incoming_failure(desk, "up") == [None, None]


def test_what_a_watcher_lost_stops_a_channel_again(kit, desk):
    desk.revoked("near")
    desk.do(held(kit, "near", 1))
    desk.do(held(kit, "near", 0))
    desk.locked(kit.offer("near", OUT))
    assert outgoing(desk, "near") == []


def test_a_forward_waits_for_the_channel_that_carries_it_on(kit, desk):
    desk.revoked("near")
    desk.htlc_in("up", 1, IN)
    desk.do(held(kit, "up", 1))
    assert desk.do(offers(kit, "near")) == []
    assert (outgoing(desk, "near"), incoming_failure(desk, "up")) == ([], [None])
    assert len(asked(desk.do(held(kit, "near", 1)))) == 1
    desk.do(offers(kit, "near"))
    assert len(outgoing(desk, "near")) == 1


def test_a_forward_takes_the_channel_that_need_not_wait(kit, desk):
    desk.revoked("near")
    desk.htlc_in("up", 1, IN)
    desk.do(held(kit, "up", 1))
    desk.do(offers(kit, "near", "far"))
    assert (len(outgoing(desk, "near")), len(outgoing(desk, "far"))) == (0, 1)


def test_a_forward_that_waits_in_vain_is_failed_back(kit, desk):
    desk.revoked("near")
    desk.htlc_in("up", 1, IN)
    desk.do(held(kit, "up", 1))
    desk.do(offers(kit, "near"))
    assert len(asked(late(kit, desk))) == 1
    desk.do(offers(kit, "near"))
    assert incoming_failure(desk, "up") == [FailureCode.NODE_BUSY]
    assert desk.engine.forwards() == ()


@pytest.mark.parametrize("change", [{"phase": Phase.SHUTTING}, {"phase": Phase.FORCED}, {"connected": False}])
def test_a_forward_does_not_wait_for_a_channel_that_takes_nothing_anyhow(kit, desk, change):
    desk.revoked("near")
    desk.htlc_in("up", 1, IN)
    desk.do(held(kit, "up", 1))
    desk.engine._book._put(replace(desk.channel("near"), **change))
    desk.do(offers(kit, "near"))
    assert incoming_failure(desk, "up") == [FailureCode.NODE_BUSY]


def test_a_forward_that_waits_for_a_channel_which_ends_is_failed_back(kit, desk):
    desk.revoked("near")
    desk.htlc_in("up", 1, IN)
    desk.do(held(kit, "up", 1))
    desk.do(offers(kit, "near"))
    desk.engine._book._put(replace(desk.channel("near"), phase=Phase.CLOSED))
    effects = late(kit, desk)
    assert len(asked(effects)) == 1
    assert [each for each in effects if isinstance(each, Alarm)] == []
    desk.do(offers(kit, "near"))
    assert incoming_failure(desk, "up") == [FailureCode.NODE_BUSY]


def test_a_channel_that_is_closed_by_force_is_not_said_to_wait_for_watchers(kit, desk):
    desk.revoked("near")
    desk.engine._book._put(replace(desk.channel("near"), phase=Phase.FORCED))
    assert desk.engine.covering(kit.channel_id("near")) is None
    assert [each for each in late(kit, desk) if isinstance(each, Alarm)] == []


def test_a_payment_waits_for_its_channel_and_goes_on_by_itself(kit, desk):
    desk.revoked("near")
    desk.locked(kit.offer("near", OUT))
    assert desk.engine.payments()[0].phase is PayPhase.COLLECTING
    (question,) = asked(desk.do(held(kit, "near", 1)))
    desk.do(OffersFound(reference=question.reference, offers=(kit.offer("near", OUT),)))
    assert desk.engine.payments()[0].phase is PayPhase.LOCKED


def test_a_payment_given_up_while_it_waits_says_what_it_waited_for(kit, desk):
    desk.revoked("near")
    desk.locked(kit.offer("near", OUT))
    desk.do(PayAbandoned(payment_hash=kit.hash(1), reason="no other offer"))
    assert desk.engine.payments()[0].reason == (
        "An offer came, but it could not be locked: the watchers do not hold the channel's newest revoked state yet. "
        "Nothing was paid. Try again later."
    )


def test_a_payment_that_only_late_channels_could_carry_is_refused_with_the_reason(kit, desk):
    for name in ("up", "near", "far"):
        desk.revoked(name)
    late(kit, desk)
    (refused,) = desk.do(desk.order(expiry=UnixTime(desk.now + 60)))
    assert refused == RequestRefused(
        payment_hash=kit.hash(1),
        reason="Nothing can be paid now: fewer watchers than watch.quorum asks for hold the channel's newest revoked "
        "state; see: rrnode cover",
    )
    desk.do(held(kit, "far", 1))
    desk.do(desk.order(expiry=UnixTime(desk.now + 60)))
    assert len(desk.do(LockRequested(payment_hash=kit.hash(1)))) == 1


def test_what_is_locked_already_is_settled_however_late_the_watchers_are(kit, desk):
    desk.htlc_in("up", 1, IN)
    desk.do(held(kit, "up", 1))
    desk.do(offers(kit, "near"))
    for name in ("up", "near"):
        desk.revoked(name)
    late(kit, desk)
    effects = desk.fulfilled("near", 1)
    assert desk.channel("up").htlcs[0].preimage == kit.preimage(1)
    assert [type(each) for each in effects if isinstance(each, StoreForward)] == [StoreForward]
    assert isinstance(desk.revoked("up")[-1], DropForward)


def test_what_is_locked_already_is_failed_however_late_the_watchers_are(kit, desk):
    desk.htlc_in("up", 1, IN)
    desk.do(held(kit, "up", 1))
    desk.do(offers(kit, "near"))
    for name in ("up", "near", "far"):
        desk.revoked(name)
    late(kit, desk)
    desk.failed("near")
    desk.do(offers(kit, "far"))
    assert incoming_failure(desk, "up") == [FailureCode.DOWNSTREAM_FAILED]


def test_after_a_restart_all_waits_until_the_receipts_are_told(kit, desk):
    desk.do(desk.promise())
    desk.htlc_in("up", 1, 1_000_000)
    again = desk.restarted()
    assert again.engine.promises()[0].phase is PromisePhase.WAITING
    again.do(held(kit, "up", 1))
    assert again.engine.promises()[0].phase is PromisePhase.CLAIMED


def test_after_a_restart_what_was_claimed_is_settled_without_waiting(kit, desk):
    desk.do(desk.promise())
    desk.htlc_in("up", 1, 1_000_000)
    desk.do(held(kit, "up", 1))
    # The claim reached the disk, the settling of its HTLC did not.
    htlc = replace(desk.channel("up").htlcs[0], stage=Stage.COMMITTED, preimage=None)
    stored = replace(desk.channel("up"), htlcs=(htlc,))
    again = kit.Desk(stored, config=desk.config, promises=desk.engine.promises())
    assert again.channel("up").htlcs[0].preimage == kit.preimage(1)


def test_a_channel_without_revoked_states_waits_for_nothing_and_is_never_late(kit, desk):
    desk = desk.restarted()
    late(kit, desk)
    assert desk.engine.liquidity(kit.peer("near")) != ()
    stands = UnixTime(desk.now + 60)
    desk.locked(kit.offer("near", OUT, expiry=stands), expiry=stands)
    assert len(outgoing(desk, "near")) == 1


def test_an_htlc_that_left_the_channel_while_it_waited_is_not_acted_on(kit, desk):
    desk.htlc_in("up", 1, IN)
    desk.engine._book._put(replace(desk.channel("up"), phase=Phase.CLOSED, htlcs=()))
    assert desk.do(held(kit, "up", 1)) == []
