"""When the payer stops waiting, which ceiling it tells, what it draws: values in, values out."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import MisuseError
from protocols.payment.config import EngineConfig
from protocols.payment.draw import draw
from protocols.payment.payer import (
    Collection,
    GiveUp,
    Lock,
    WaitPolicy,
    WaitUntil,
    failure_words,
    in_words,
    published_ceiling,
    slack,
)
from protocols.units import MAX_MSAT, Amount, Msat
from protocols.wire.channel import FailureCode

POLICY = WaitPolicy(quiet=700, maximum=10_000, good_enough=1000)


@pytest.fixture
def collection(kit):
    """A million sat with a ceiling 2 % above, begun at 1,000 ms."""
    return Collection(amount=kit.coin(10**9), ceiling=kit.coin(1_020_000_000), policy=POLICY, started=1000)


def test_without_an_offer_the_payer_waits_for_the_maximum_and_gives_up(collection):
    assert collection.decide(1000) == WaitUntil(at=11_000)
    assert collection.decide(10_999) == WaitUntil(at=11_000)
    assert collection.decide(11_000) == GiveUp(
        reason="No offer came: no chain of channels can carry 1,000,000 sat to the payee now, or the payee is away. "
        "Try a smaller amount, or try again later."
    )


def test_a_quiet_spell_after_the_last_improvement_is_enough(kit, collection):
    one = collection.offer(kit.coin(1_010_000_000), 2000)
    assert one.decide(2000) == WaitUntil(at=2700)
    better = one.offer(kit.coin(1_005_000_000), 2600)
    assert better.decide(2700) == WaitUntil(at=3300)
    assert better.offer(kit.coin(1_005_000_000), 3200).decide(3299) == WaitUntil(at=3300)  # no cheaper
    assert better.decide(3300) == Lock()


def test_improvements_do_not_prolong_the_wait_beyond_the_maximum(kit, collection):
    late = collection.offer(kit.coin(1_010_000_000), 10_900)
    assert late.decide(10_900) == WaitUntil(at=11_000)
    assert late.decide(11_000) == Lock()


def test_an_offer_that_is_good_enough_is_locked_at_once(kit, collection):
    assert collection.offer(kit.coin(1_001_000_000), 1500).decide(1500) == Lock()
    assert collection.offer(kit.coin(1_001_000_001), 1500).decide(1500) == WaitUntil(at=2200)


def test_without_a_good_enough_only_a_free_offer_is_locked_at_once(kit):
    strict = Collection(amount=kit.coin(10**9), ceiling=kit.coin(2 * 10**9), policy=WaitPolicy(), started=0)
    assert strict.offer(kit.coin(10**9), 5).decide(5) == Lock()
    assert strict.offer(kit.coin(10**9 + 1), 5).decide(5) == WaitUntil(at=705)


def test_offers_above_the_ceiling_count_only_for_what_is_said_at_the_end(kit, collection):
    dear = collection.offer(kit.coin(1_050_000_000), 1500).offer(kit.coin(1_030_000_000), 1600)
    dear = dear.offer(kit.coin(1_040_000_000), 1700)
    assert dear.decide(2500) == WaitUntil(at=11_000)
    assert dear.decide(11_000) == GiveUp(
        reason="The cheapest offer asks 1,030,000 sat, the most to be paid is 1,020,000 sat. "
        "Allow a higher fee, or try again later."
    )


def test_offers_in_another_coin_cannot_be_paid(kit, collection):
    other = collection.offer(Amount(Msat(1), kit.GOLD), 1500)
    assert other.decide(11_000) == GiveUp(reason="All offers were in a coin that this node has no channel in.")


def test_an_amount_in_another_coin_is_never_good_enough(kit):
    mixed = Collection(amount=Amount(Msat(10**9), kit.GOLD), ceiling=kit.coin(10**9), policy=POLICY, started=0)
    assert mixed.offer(kit.coin(5), 5).decide(5) == WaitUntil(at=705)


def test_what_is_waited_for_is_said_in_words(kit, collection):
    assert collection.words(1000) == "waiting for an offer, at most 10.0 s more"
    dear = collection.offer(kit.coin(1_030_000_500), 1500)
    assert dear.words(1500) == (
        "waiting for an offer, at most 9.5 s more; the cheapest asks 1,030,000.5 sat, above the ceiling"
    )
    one = dear.offer(kit.coin(1_010_000_000), 2000)
    assert one.words(2200) == "best 1,010,000 sat of 2; waiting 0.5 s for a cheaper one"
    assert one.words(99_000) == "best 1,010,000 sat of 2; waiting 0.0 s for a cheaper one"


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(900, 1100)), max_size=30))
def test_waiting_always_ends_by_the_maximum_and_never_looks_back(steps):
    coin = b"\xc0" * 32
    now = 0
    collection = Collection(amount=Amount(Msat(1000), coin), ceiling=Amount(Msat(1050), coin), policy=POLICY, started=0)
    for pause, amount in steps:
        now += pause
        collection = collection.offer(Amount(Msat(amount), coin), now)
        decision = collection.decide(now)
        assert isinstance(decision, Lock | GiveUp) or now < decision.at <= 10_000
        if now >= 10_000:
            assert isinstance(decision, Lock if collection.best else GiveUp)


@given(st.binary(min_size=32, max_size=32), st.integers(1, 10**12), st.integers(0, 10**10))
def test_the_published_ceiling_is_above_ours_and_never_the_amount(entropy, amount, fee):
    coin = b"\xc0" * 32
    ours = Amount(Msat(amount + fee), coin)
    told = published_ceiling(ours, Amount(Msat(amount), coin), entropy)
    assert ours < told
    assert told.msat <= ours.msat + max(fee, ours.msat // 50, 1000)


def test_the_published_ceiling_never_exceeds_all_money(kit):
    most = Amount(MAX_MSAT, kit.COIN)
    assert published_ceiling(most, kit.coin(1), kit.ENTROPY) == most
    assert published_ceiling(most, Amount(Msat(1), kit.GOLD), kit.ENTROPY) == most


def test_slack_is_at_least_three_blocks_and_takes_every_value_of_its_span():
    config = EngineConfig()
    drawn = {slack(config, hashlib.sha256(b"%d" % number).digest(), b"x") for number in range(200)}
    assert drawn == set(range(3, 9))
    with pytest.raises(MisuseError, match="R5"):
        EngineConfig(slack=2)
    with pytest.raises(MisuseError, match="one attempt"):
        EngineConfig(max_attempts=0)


def test_numbers_drawn_under_different_labels_differ():
    assert draw(bytes(32), b"a", 2**64) != draw(bytes(32), b"b", 2**64)
    assert draw(bytes(32), b"a", 1) == 0
    for wrong in ((b"short", 5), (bytes(32), 0), (bytes(32), 2**65)):
        with pytest.raises(MisuseError):
            draw(wrong[0], b"", wrong[1])


def test_amounts_are_exact_in_words():
    assert in_words(Msat(1_234_567_890)) == "1,234,567.89 sat"
    assert in_words(Msat(1)) == "0.001 sat"
    assert in_words(Msat(0)) == "0 sat"


def test_every_failure_has_words():
    assert all(failure_words(code) for code in FailureCode)
