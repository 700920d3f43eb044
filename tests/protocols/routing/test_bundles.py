"""Bundles: one offer per hash, numbers, repeats after a reconnect, duplicates dropped. A model over a lossy link."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import MisuseError, PeerProtocolError
from protocols.routing.bundles import MAX_UNACKNOWLEDGED, NEVER, Inbox, OfferQueue, Outbox
from protocols.wire.routing import MAX_BUNDLE, Acknowledge, Bundle, Resume, RoutingMessage

EPOCH = b"e" * 16
OTHER = b"f" * 16


def amounts(offers):
    return [(int.from_bytes(each.payment_hash, "big"), each.amount_msat) for each in offers]


def test_a_queue_holds_the_cheapest_offer_per_hash_in_the_order_of_hashes(kit):
    queue = OfferQueue()
    queue.put([kit.message(1, 1000), kit.message(2, 500), kit.message(1, 900), kit.message(2, 600)])
    assert amounts(queue.take(kit.NOW)) == [(1, 900), (2, 500)]
    assert queue.take(kit.NOW) == ()


def test_a_queue_keeps_two_assets_of_one_hash_apart(kit):
    queue = OfferQueue()
    queue.put([kit.message(1, 1000), kit.message(1, 10, asset=kit.GOLD)])
    assert len(queue) == 2


def test_a_queue_leaves_out_what_has_ended_and_lets_a_lasting_offer_replace_it(kit):
    queue = OfferQueue()
    queue.put([kit.message(1, 1000, expiry=kit.NOW - 31), kit.message(2, expiry=kit.NOW - 30)])
    assert amounts(queue.take(kit.NOW)) == [(2, 1000)]
    queue.put([kit.message(1, 1000, expiry=kit.NOW), kit.message(1, 1500, expiry=kit.NOW + 60)])
    assert amounts(queue.take(kit.NOW)) == [(1, 1500)]


def test_a_full_queue_loses_its_oldest_offer_and_counts_it(kit):
    queue = OfferQueue(limit=2)
    queue.put(kit.message(number) for number in (1, 2, 3))
    assert amounts(queue.take(kit.NOW)) == [(2, 1000), (3, 1000)]
    assert queue.lost == 1


def test_bundles_are_numbered_from_one_and_hold_what_fits(kit):
    outbox = Outbox(EPOCH)
    assert outbox.take(kit.NOW) is None
    outbox.put(kit.message(number) for number in range(MAX_BUNDLE + 1))
    first, second, third = outbox.take(kit.NOW), outbox.take(kit.NOW), outbox.take(kit.NOW)
    assert (first.number, len(first.offers)) == (1, MAX_BUNDLE)
    assert (second.number, len(second.offers)) == (2, 1)
    assert third is None
    assert (outbox.queued, outbox.unacknowledged, outbox.lost) == (0, 2, 0)


def test_after_a_reconnect_what_was_not_taken_is_repeated_first(kit):
    outbox = Outbox(EPOCH)
    made = []
    for number in (1, 2, 3):
        outbox.put([kit.message(number)])
        made.append(outbox.take(kit.NOW))
    outbox.acknowledged(1)
    outbox.put([kit.message(4)])
    outbox.resume(EPOCH, 2)
    assert outbox.take(kit.NOW) == made[2]
    assert outbox.take(kit.NOW) == Bundle(number=4, offers=(kit.message(4),))
    assert outbox.take(kit.NOW) is None


@pytest.mark.parametrize("seen", [(NEVER, 0), (OTHER, 77)])
def test_a_neighbour_that_knows_another_epoch_is_repeated_everything_kept(kit, seen):
    outbox = Outbox(EPOCH)
    outbox.put([kit.message(1)])
    bundle = outbox.take(kit.NOW)
    outbox.resume(*seen)
    assert outbox.take(kit.NOW) == bundle
    assert outbox.take(kit.NOW) is None


def test_an_acknowledgement_ends_a_repeat(kit):
    outbox = Outbox(EPOCH)
    outbox.put([kit.message(1)])
    outbox.take(kit.NOW)
    outbox.resume(NEVER, 0)
    outbox.acknowledged(1)
    assert outbox.take(kit.NOW) is None


def test_too_much_unacknowledged_holds_bundles_back_and_offers_coalesce(kit):
    outbox = Outbox(EPOCH)
    for number in range(MAX_UNACKNOWLEDGED):
        outbox.put([kit.message(number)])
        assert outbox.take(kit.NOW) is not None
    outbox.put([kit.message(1, 1000)])
    assert outbox.take(kit.NOW) is None
    outbox.put([kit.message(1, 900)])
    outbox.acknowledged(1)
    assert amounts(outbox.take(kit.NOW).offers) == [(1, 900)]


def test_acknowledging_what_was_never_sent_breaks_the_rules(kit):
    outbox = Outbox(EPOCH)
    with pytest.raises(PeerProtocolError, match="acknowledges bundle 1, the last one sent is 0"):
        outbox.acknowledged(1)
    with pytest.raises(PeerProtocolError):
        outbox.resume(EPOCH, 1)


@pytest.mark.parametrize("epoch", [NEVER, b"short"])
def test_an_epoch_is_sixteen_bytes_and_not_zero(epoch):
    with pytest.raises(MisuseError):
        Outbox(epoch)


def test_an_inbox_takes_each_number_once_and_acknowledges_once(kit):
    inbox = Inbox()
    assert inbox.resume(epoch=OTHER, routes=True) == Resume(epoch=OTHER, seen_epoch=NEVER, seen_number=0, routes=True)
    inbox.begin(Resume(epoch=EPOCH, seen_epoch=NEVER, seen_number=0, routes=True))
    bundle = Bundle(number=3, offers=(kit.message(1),))
    assert inbox.acknowledgement() is None
    assert inbox.take(bundle) == bundle.offers  # a gap is lawful
    assert inbox.take(bundle) == ()
    assert inbox.acknowledgement() == Acknowledge(number=3)
    assert inbox.acknowledgement() is None
    assert inbox.resume(epoch=OTHER, routes=False).seen_number == 3


def test_a_new_epoch_starts_numbers_anew(kit):
    inbox = Inbox()
    inbox.begin(Resume(epoch=EPOCH, seen_epoch=NEVER, seen_number=0, routes=True))
    inbox.take(Bundle(number=9, offers=(kit.message(1),)))
    inbox.begin(Resume(epoch=OTHER, seen_epoch=NEVER, seen_number=0, routes=True))
    assert inbox.take(Bundle(number=1, offers=(kit.message(1),))) == (kit.message(1),)


def test_an_inbox_refuses_what_breaks_the_order(kit):
    inbox = Inbox()
    bundle = Bundle(number=0, offers=(kit.message(1),))
    with pytest.raises(PeerProtocolError, match="before Resume"):
        inbox.take(bundle)
    with pytest.raises(PeerProtocolError, match="zero bytes"):
        inbox.begin(Resume(epoch=NEVER, seen_epoch=NEVER, seen_number=0, routes=True))
    inbox.begin(Resume(epoch=EPOCH, seen_epoch=NEVER, seen_number=0, routes=True))
    with pytest.raises(PeerProtocolError, match="number 0"):
        inbox.take(bundle)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 5), st.integers(1, 50)),
        st.tuples(st.sampled_from(["carry", "lose", "acknowledge", "reconnect"]), st.just(0), st.just(0)),
    ),
    max_size=60,
)


@given(steps)
def test_over_a_link_that_breaks_the_cheapest_price_always_arrives_and_no_bundle_is_taken_twice(steps):
    """A model: whatever is lost with a broken stream, after a last reconnect the far side knows the best price of each."""
    outbox, inbox = Outbox(EPOCH), Inbox()
    inbox.begin(Resume(epoch=EPOCH, seen_epoch=NEVER, seen_number=0, routes=True))
    best: dict[int, int] = {}
    known: dict[int, int] = {}
    numbers = []

    def carry():
        bundle = outbox.take(0)
        if bundle is not None:
            offers = inbox.take(bundle)
            if offers:
                numbers.append(bundle.number)
            for number, amount in amounts(offers):
                known[number] = min(amount, known.get(number, amount))
        return bundle

    def reconnect():
        ours = inbox.resume(epoch=OTHER, routes=True)
        outbox.resume(ours.seen_epoch, ours.seen_number)

    lost = False
    for step, number, amount in steps:
        if step == "put":
            best[number] = min(amount, best.get(number, amount))
            outbox.put([RoutingMessage(number.to_bytes(32, "big"), bytes(32), amount, 1, 1, 1, bytes(32), 0)])
        elif step == "carry" and not lost:
            carry()
        elif step == "lose":
            lost = outbox.take(0) is not None or lost  # the stream broke with this bundle on it
        elif step == "acknowledge" and not lost:
            told = inbox.acknowledgement()
            if told is not None:
                outbox.acknowledged(told.number)
        elif step == "reconnect":
            reconnect()
            lost = False
    reconnect()
    while carry() is not None:
        told = inbox.acknowledgement()
        if told is not None:
            outbox.acknowledged(told.number)
    assert known == best
    assert numbers == sorted(set(numbers))
