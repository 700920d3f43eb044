"""Real engines wired in memory: whole payments, crashes at every commit, closes by force, neighbours that cheat."""

import copy
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.channel.events import CloseRequested, HtlcFailed, MessageReceived, OfferHtlc
from protocols.channel.state import Channel, Phase, Stage
from protocols.payment.engine import Engine
from protocols.payment.events import ChainReserveChanged, LockRequested, PayPhase, PromisePhase
from protocols.routing.events import OffersWanted
from protocols.routing.pricing import FeePolicy
from protocols.units import BlockHeight, Msat, UnixTime
from protocols.wire.channel import CODEC, FailureCode, UpdateFailHtlc, UpdateFulfillHtlc
from tools.simulate.network import Network, hash_of, preimage_of
from tools.simulate.node import COIN

EXAMPLE = (("A", "B"), ("B", "C"), ("B", "D"), ("C", "D"), ("D", "E"))
CHAIN = (("A", "B"), ("B", "C"))
DIAMOND = (("A", "B"), ("B", "C"), ("B", "D"), ("C", "E"), ("D", "E"))
FLAT = FeePolicy(base_msat=Msat(1000), ppm=0)
HASH = hash_of(preimage_of(1))
AMOUNT = 20_000_000


def network(*links, fees=None, capacity=200_000):
    made = Network(*sorted({name for link in links for name in link}), fees=fees)
    for one, other in links:
        made.channel(one, other, capacity=capacity, push=capacity * 500)
    return made


def change(before, after):
    return {name: after[name] - before[name] for name in before}


def outcome(net, payer, number):
    return net[payer].money.payment(hash_of(preimage_of(number)))


def agreed(net, *links):
    """Both ends of every channel see the same, nothing is in flight, nothing is carried any more."""
    for one, other in links:
        ours, theirs = net[one].channel_with(net[other]), net[other].channel_with(net[one])
        assert (ours.phase, theirs.phase) == (Phase.OPEN, Phase.OPEN), (ours.failure, theirs.failure)
        assert (ours.htlcs, theirs.htlcs) == ((), ())
        assert (ours.our_balance, ours.their_balance) == (theirs.their_balance, theirs.our_balance)
    assert all(node.money.forwards() == () for node in net.nodes.values())


# --- payments that go well --------------------------------------------------------------------------------------------


def test_two_nodes_pay_each_other_exactly():
    net = network(("A", "B"))
    before = net.wealth()
    net.pay("A", "B", 1, AMOUNT + 1)
    net.quiet()
    net.pay("B", "A", 2, 7)
    net.quiet()
    assert change(before, net.wealth()) == {"A": -AMOUNT - 1 + 7, "B": AMOUNT + 1 - 7}
    assert outcome(net, "A", 1).preimage == preimage_of(1)
    agreed(net, ("A", "B"))


def test_the_example_network_pays_along_the_cheapest_chain_and_each_link_earns_its_fee():
    net = network(
        *EXAMPLE,
        fees={name: FeePolicy(base_msat=Msat(fee), ppm=0) for name, fee in zip("BCD", (3, 50, 700), strict=True)},
    )
    before = net.wealth()
    net.pay("A", "E", 1, AMOUNT)
    net.quiet()
    assert change(before, net.wealth()) == {"A": -AMOUNT - 703, "B": 3, "C": 0, "D": 700, "E": AMOUNT}
    assert [node.disk.earned for node in net.nodes.values()] == [0, 3, 0, 700, 0]
    agreed(net, *EXAMPLE)


def test_a_failure_downstream_is_carried_by_the_next_offer_and_the_payer_notices_nothing():
    """A locks B's first, dear offer (by D). B has got a cheaper one by then (by C), tries it, and falls back on D."""
    net = network(*DIAMOND, fees={"B": FLAT, "C": FLAT, "D": FeePolicy(base_msat=Msat(5000), ppm=0)})
    before = net.wealth()
    net.cut("B", "C")
    net["A"].route(OffersWanted(payment_hash=HASH, expiry=UnixTime(net.now + 600), now=net.now))
    net.promise("E", 1, AMOUNT)
    net.spread()
    net.order("A", "E", 1, AMOUNT)
    net.connect("B", "C")
    net.quiet_without_offers_to("A")
    net.give("A", LockRequested(payment_hash=HASH))
    assert outcome(net, "A", 1).attempts[0].amount == AMOUNT + 6000
    net.cut("C", "E")
    net.quiet()
    assert outcome(net, "A", 1).phase is PayPhase.PAID
    assert len(outcome(net, "A", 1).attempts) == 1
    assert net["B"].channel_with(net["C"]).our_next_id == 1  # C was tried first
    assert change(before, net.wealth()) == {"A": -AMOUNT - 6000, "B": 1000, "C": 0, "D": 5000, "E": AMOUNT}


def test_a_next_offer_that_no_longer_earns_the_fee_is_not_tried_but_quoted_anew_to_the_payer():
    net = network(*DIAMOND, fees={"B": FLAT, "C": FLAT, "D": FeePolicy(base_msat=Msat(1001), ppm=0)})
    before = net.wealth()
    net.pay("A", "E", 1, AMOUNT)
    net.cut("C", "E")
    net.quiet()
    cheap, dear = outcome(net, "A", 1).attempts
    assert (cheap.amount, cheap.failure) == (AMOUNT + 2000, FailureCode.DOWNSTREAM_FAILED)
    assert (dear.neighbour, dear.amount, dear.failure) == (cheap.neighbour, AMOUNT + 2001, None)
    assert outcome(net, "A", 1).phase is PayPhase.PAID
    assert change(before, net.wealth()) == {"A": -AMOUNT - 2001, "B": 1000, "C": 0, "D": 1001, "E": AMOUNT}


def test_many_payments_both_ways_at_once_all_end_and_nothing_is_lost():
    net = network(*EXAMPLE, capacity=1_000_000)
    before = net.wealth()
    pairs = [("A", "E"), ("E", "A"), ("A", "D"), ("C", "A"), ("E", "B")]
    for number in range(50):
        payer, payee = pairs[number % len(pairs)]
        net.pay(payer, payee, number, 1_000_000 + number)
    net.quiet()
    assert {outcome(net, pairs[n % 5][0], n).phase for n in range(50)} == {PayPhase.PAID}
    assert sum(change(before, net.wealth()).values()) == 0
    agreed(net, *EXAMPLE)


def test_a_journal_of_events_and_facts_replays_to_the_same_effects_and_the_same_state():
    net = Network("A", "B", "C")
    node = net["B"]
    node.journal, first = [], node.money
    for one, other in CHAIN:
        net.channel(one, other)
    net.pay("A", "C", 1, AMOUNT)
    net.pay("C", "A", 2, AMOUNT)
    net.quiet()
    again = Engine(us=node.id, asset=COIN, keys=node.keys, config=node.config)
    again.handle(ChainReserveChanged(confirmed_sat=node.reserve, coins=100), node.facts())
    for event, facts, effects in node.journal:
        assert again.handle(event, facts) == effects
    assert (again.channels(), again.forwards()) == (first.channels(), first.forwards())
    assert len(node.journal) > 30


# --- links that break, nodes that go down -----------------------------------------------------------------------------


def expected(net, before, payments):
    """What each node must have now: what it had, less what it paid, plus what it claimed and earned."""
    wanted = dict(before)
    for payer, payee, number in payments:
        payment, promise = outcome(net, payer, number), net[payee].money.promise(hash_of(preimage_of(number)))
        claimed = promise is not None and promise.phase is PromisePhase.CLAIMED
        assert claimed == (payment is not None and payment.phase is PayPhase.PAID)
        assert payment is None or payment.phase in (PayPhase.PAID, PayPhase.FAILED)
        if claimed:
            wanted[payer] -= payment.attempts[-1].amount
            wanted[payee] += promise.received
    for name, node in net.nodes.items():
        wanted[name] += node.disk.earned
    return wanted


def one_payment(crash_in=None, at=0, crash=""):
    """A pays C through B; gives the network at the end and how many batches each node had."""
    net = network(*CHAIN)
    before, start = net.wealth(), {name: node.batches for name, node in net.nodes.items()}
    if crash_in is not None:
        net[crash_in].crash, net[crash_in].crash_at = crash, net[crash_in].batches + at
    net.pay("A", "C", 1, AMOUNT)
    net.quiet(at_a_time=1)
    batches = {name: node.batches - start[name] for name, node in net.nodes.items()}
    net.whole(*CHAIN)
    assert net.wealth() == expected(net, before, [("A", "C", 1)])
    agreed(net, *CHAIN)
    return net, batches


def crash_points():
    _, batches = one_payment()
    assert min(batches.values()) >= 6
    return [
        (name, at, crash)
        for name, count in batches.items()
        for at in range(1, count + 1)
        for crash in ("before", "after")
    ]


def test_a_node_may_crash_at_every_commit_and_nobody_loses_anything():
    for name, at, crash in crash_points():
        net, _ = one_payment(name, at, crash)
        payment = outcome(net, "A", 1)
        if name == "B" and payment is not None:  # a forwarder's crash delays, or fails before anything was claimed
            assert payment.phase in (PayPhase.PAID, PayPhase.FAILED)


EXAMPLE_NAMES = "ABCDE"
actions = st.lists(
    st.one_of(
        st.tuples(
            st.just("pay"),
            st.permutations(EXAMPLE_NAMES),
            st.sampled_from([1, 300_000, 1_000_000, 20_000_000, 90_000_000]),
        ),
        *[st.tuples(st.just("deliver"), st.integers(0, 99), st.sampled_from([1, 2, None]))] * 4,
        st.tuples(st.just("cut"), st.sampled_from(EXAMPLE), st.none()),
        *[st.tuples(st.just("connect"), st.sampled_from(EXAMPLE), st.none())] * 2,
        st.tuples(st.just("crash"), st.sampled_from(EXAMPLE_NAMES), st.sampled_from(["before", "after"])),
        st.tuples(st.just("restart"), st.sampled_from(EXAMPLE_NAMES), st.none()),
    ),
    max_size=120,
)


def start_payment(net, payer, payee, number, amount):
    payment_hash = hash_of(preimage_of(number))
    net[payer].route(OffersWanted(payment_hash=payment_hash, expiry=UnixTime(net.now + 600), now=net.now))
    net.promise(payee, number, amount)
    net.spread()
    net.order(payer, payee, number, amount)
    net.give(payer, LockRequested(payment_hash=payment_hash))


@settings(max_examples=60, deadline=None)
@given(actions)
def test_whatever_is_cut_or_crashes_no_msat_is_lost_and_every_payment_ends(steps):
    net = OPENED.fresh()
    before, payments = net.wealth(), []
    for what, who, how in steps:
        match what:
            case "pay" if not {net[who[0]].id, net[who[1]].id} & net.down:
                number = len(payments) + 1
                payments.append((who[0], who[1], number))
                start_payment(net, who[0], who[1], number, how)
            case "deliver" if waiting := net.waiting():
                net.deliver(*waiting[who % len(waiting)], count=how)
            case "cut" if net.linked(*who):
                net.cut(*who)
            case "connect" if not net.linked(*who) and not {net[name].id for name in who} & net.down:
                net.connect(*who)
            case "crash" if net[who].id not in net.down:
                net[who].crash = how
            case "restart" if net[who].id in net.down:
                net.restart(who)
    net.whole(*EXAMPLE)
    assert net.wealth() == expected(net, before, payments)
    agreed(net, *EXAMPLE)


class Opened:
    """The example network with open channels, made once and copied."""

    def __init__(self):
        self._made = None

    def fresh(self):
        if self._made is None:
            self._made = network(*EXAMPLE)
        net = Network(*EXAMPLE_NAMES)
        net.chain = copy.deepcopy(self._made.chain)
        for name, node in net.nodes.items():
            node.disk, node.next_key = copy.deepcopy(self._made[name].disk), 1000
            node.start()
        for one, other in EXAMPLE:
            net.connect(one, other)
        net.quiet()
        return net


OPENED = Opened()


# --- the chain decides ------------------------------------------------------------------------------------------------


def force(net, name, other):
    channel = net[name].channel_with(net[other])
    net.give(name, CloseRequested(channel_id=channel.channel_id, force=True))


def test_a_payee_that_closes_by_force_claims_on_the_chain_and_the_payment_settles_upstream():
    net = network(*CHAIN)
    before = net.wealth()
    net.pay("A", "C", 1, AMOUNT)
    while outcome(net, "A", 1).phase is PayPhase.LOCKED and not net["C"].disk.settled:
        net.deliver(*net.waiting()[0], count=1)
    net.cut("B", "C")  # C has decided to claim, and B has not heard of it
    assert net["C"].money.promises()[0].phase is PromisePhase.CLAIMED
    force(net, "C", "B")
    net.quiet()
    net.mine(2)
    assert outcome(net, "A", 1).phase is PayPhase.PAID
    assert net["B"].money.forwards() == ()
    assert net["B"].disk.earned == change(before, net.wealth())["A"] * -1 - AMOUNT


def test_a_silent_neighbour_costs_time_and_no_money():
    """C never answers: B takes its HTLC back on the chain, and only when that is buried fails the payment upstream."""
    net = network(*CHAIN)
    before = net.wealth()
    net.pay("A", "C", 1, AMOUNT)
    while not any(each.ours for each in net["B"].channel_with(net["C"]).htlcs):
        net.deliver(*net.waiting()[0])
    net.deliver(net["B"].id, net["C"].id)
    net.deliver(net["C"].id, net["B"].id)
    net.deliver(net["B"].id, net["C"].id)
    net.cut("B", "C")
    net["C"].held_back = lambda publication: True  # not a word on the chain either
    net.down.add(net["C"].id)
    (htlc,) = net["B"].channel_with(net["C"]).htlcs
    expiry = htlc.expiry
    net.mine(expiry - net.chain.height + 1)
    assert outcome(net, "A", 1).phase is PayPhase.LOCKED
    while outcome(net, "A", 1).phase is PayPhase.LOCKED:
        assert not any(isinstance(effect, HtlcFailed) for effect in net["A"].done)
        net.mine()
        assert net.chain.height < expiry + 12
    assert outcome(net, "A", 1).phase is PayPhase.FAILED
    assert outcome(net, "A", 1).attempts[0].failure is FailureCode.DOWNSTREAM_FAILED
    assert net.wealth()["A"] == before["A"]
    assert net["A"].channel_with(net["B"]).phase is Phase.OPEN


# --- R10 and R11: nobody pays twice -----------------------------------------------------------------------------------


@pytest.mark.parametrize("answered", [False, True])
def test_a_failure_that_is_not_irrevocable_and_then_claimed_on_the_chain_is_paid_once(answered):
    """C fails B's HTLC, but before it revokes the commitment that holds it, it closes by force and claims with the preimage
    (which E gave it). B must not have tried D meanwhile, and must claim from A.

    `answered`: B has got C's commitment_signed without the HTLC and has revoked its own old one; else only the update.
    """
    net = network(*DIAMOND, fees={"B": FLAT, "C": FLAT, "D": FLAT})
    before = net.wealth()
    net.pay("A", "E", 1, AMOUNT)
    sent = outcome(net, "A", 1).attempts[0].amount
    net.cut("C", "E")  # so that C fails it
    b, c = net["B"].id, net["C"].id
    kept = copy.deepcopy(net["C"].disk)
    while not any(isinstance(CODEC.decode(raw), UpdateFailHtlc) for raw in net.wires[c, b]):
        kept = copy.deepcopy(net["C"].disk)
        net.deliver(*net.waiting()[0], count=1)
    while not isinstance(CODEC.decode(net.wires[c, b][0]), UpdateFailHtlc):
        net.deliver(c, b, count=1)
    net.deliver(c, b, count=None if answered else 1)
    (htlc,) = net["B"].channel_with(net["C"]).htlcs
    assert htlc.stage == (Stage.REMOVE_ACK_SIGNED if answered else Stage.REMOVE_SENT)
    net.cut("B", "C")
    cheat(net["C"], kept, preimage_of(1))
    force(net, "C", "B")
    net.quiet()
    net.mine(2)
    assert net["B"].channel_with(net["D"]).our_next_id == 0
    assert outcome(net, "A", 1).phase is PayPhase.PAID
    assert outcome(net, "A", 1).preimage == preimage_of(1)
    assert change(before, net.wealth())["A"] == -sent
    assert net["B"].disk.earned == sent - htlc.amount


def cheat(node, disk, preimage):
    """A node as it was before it failed an HTLC, when its commitment had that HTLC, and with the preimage."""
    ((channel_id, raw),) = [
        (key, raw) for key, raw in disk.channels.items() if msgspec.msgpack.decode(raw, type=Channel).htlcs
    ]
    channel = msgspec.msgpack.decode(raw, type=Channel)
    (taken,) = channel.htlcs
    disk.channels[channel_id] = msgspec.msgpack.encode(replace(channel, htlcs=(replace(taken, preimage=preimage),)))
    node.disk = disk
    node.start()


def cheap_lock(net, name, other, number, amount, expiry=120):
    """An HTLC straight through the channel engine, whatever the money engine thinks of it."""
    channel = net[name].channel_with(net[other])
    order = OfferHtlc(
        channel_id=channel.channel_id,
        reference=b"cheat",
        amount=Msat(amount),
        payment_hash=hash_of(preimage_of(number)),
        expiry=BlockHeight(net.chain.height + expiry),
    )
    node = net[name]
    effects = node.money._book.apply(order.channel_id, order, node.facts())
    for effect in effects:
        node._perform(effect)
    node.batch()


def failures(net, receiver):
    """The failure codes that a node sent back, newest last."""
    sent = [
        effect.message.code
        for effect in net[receiver].done
        if type(effect).__name__ == "SendMessage" and isinstance(effect.message, UpdateFailHtlc)
    ]
    return [FailureCode(code) for code in sent]


def test_the_same_hash_locked_twice_by_two_payers_is_claimed_once():
    links = (("A", "C"), ("X", "C"))
    net = network(*links)
    before = net.wealth()
    net.promise("C", 1, AMOUNT)
    cheap_lock(net, "A", "C", 1, AMOUNT)
    cheap_lock(net, "X", "C", 1, AMOUNT)
    net.quiet()
    (paid,) = [name for name, gain in change(before, net.wealth()).items() if gain < 0]
    assert change(before, net.wealth()) == {"A": 0, "X": 0, "C": AMOUNT} | {paid: -AMOUNT}
    assert failures(net, "C") == [FailureCode.ALREADY_PAID]
    agreed(net, *links)


def test_a_second_htlc_with_a_live_hash_over_another_channel_is_failed_and_the_first_is_paid():
    links = (("A", "B"), ("X", "B"), ("B", "C"))
    net = network(*links, capacity=1_000_000)
    before = net.wealth()
    net.pay("A", "C", 1, AMOUNT)
    sent = outcome(net, "A", 1).attempts[0].amount
    wires = [(net[a].id, net[b].id) for a, b in (("A", "B"), ("B", "A"))]
    while not net["B"].money.forwards():
        for wire in wires:
            net.deliver(*wire)
    cheap_lock(net, "X", "B", 1, sent)
    for _ in range(3):
        net.deliver(net["X"].id, net["B"].id)
        net.deliver(net["B"].id, net["X"].id)
    assert failures(net, "B") == [FailureCode.DUPLICATE_HASH]
    net.quiet()
    assert change(before, net.wealth()) == {"A": -sent, "X": 0, "B": sent - AMOUNT, "C": AMOUNT}
    # And once it was settled, a third one finds nobody who would claim it.
    cheap_lock(net, "X", "B", 1, sent)
    net.quiet()
    assert change(before, net.wealth()) == {"A": -sent, "X": 0, "B": sent - AMOUNT, "C": AMOUNT}


@pytest.mark.parametrize(
    ("number", "less", "expiry", "code"),
    [
        (99, 0, 120, FailureCode.UNKNOWN_HASH),
        (1, 1, 120, FailureCode.AMOUNT_TOO_LOW),
        (1, 0, 60, FailureCode.EXPIRY_TOO_SOON),
    ],
)
def test_a_neighbour_that_locks_what_was_never_offered_gets_it_back(number, less, expiry, code):
    net = network(*CHAIN)
    before = net.wealth()
    payment_hash = net.promise("C", 1, AMOUNT)
    net.spread()
    (kept,) = net["B"].routing.offers(payment_hash, net["A"].id, net["A"].money.asset, net.now)
    cheap_lock(net, "A", "B", number, kept.quote.msat - less, expiry)
    net.quiet()
    assert failures(net, "B") == [code]
    assert change(before, net.wealth()) == dict.fromkeys("ABC", 0)
    agreed(net, *CHAIN)


def test_a_wrong_preimage_ends_the_channel_and_settles_nothing():
    net = network(*CHAIN)
    net.pay("A", "C", 1, AMOUNT)
    while not net["C"].disk.settled:
        net.deliver(*net.waiting()[0], count=1)
    channel = net["B"].channel_with(net["C"])
    wrong = UpdateFulfillHtlc(channel.channel_id, 0, preimage_of(2))
    net["C"].held_back = lambda publication: True
    net.give("B", MessageReceived(peer=net["C"].id, message=wrong))
    assert net["B"].channel_with(net["C"]).phase is Phase.FORCED
    assert outcome(net, "A", 1).phase is PayPhase.LOCKED
    assert net["B"].money.forwards()[0].preimage is None
