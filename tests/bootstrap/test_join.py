"""The join plan: order by chance, unrelated relays first, enough is enough, and patience that grows. Whole steps asserted."""

from hypothesis import given
from hypothesis import strategies as st

from bootstrap.join import (
    ENOUGH_SILENT,
    HOPELESS,
    MOST_KNOWN,
    Dial,
    Joined,
    JoinPlan,
    JoinPolicy,
    NobodyKnown,
    Wait,
    failed,
    group_of,
    heard_of,
    lost,
    next_step,
    plan,
    silent,
    succeeded,
)
from bootstrap.relays import Relay

ENTROPY = b"\x01" * 32
ONE_BY_ONE = JoinPolicy(enough=2, at_once=1)


def relay(network: int, operator: str = "") -> Relay:
    return Relay(
        identity=f"id{network}", addresses=(f"/ip4/10.{network}.0.1/tcp/9780",), operator=operator or f"op{network}"
    )


def ordered(state: JoinPlan) -> list[Relay]:
    return [each.relay for each in state.known]


def test_without_relays_a_person_must_name_somebody() -> None:
    assert next_step(plan((), entropy=ENTROPY), 0)[1] == NobodyKnown()


def test_the_order_is_drawn_by_chance_and_is_the_same_for_the_same_chance() -> None:
    relays = [relay(number) for number in range(8)]
    orders = {tuple(ordered(plan(relays, entropy=bytes([seed]) * 32))) for seed in range(20)}
    assert len(orders) == 20
    assert ordered(plan(relays, entropy=ENTROPY)) == ordered(plan(reversed(relays), entropy=ENTROPY))


def test_lists_take_turns_whatever_their_length_and_nobody_stands_in_the_plan_twice() -> None:
    listed = [relay(1), relay(2)]
    told = [relay(number) for number in range(1, 100)]
    for seed in range(20):
        order = ordered(plan(listed, told, entropy=bytes([seed]) * 32))
        assert [each in listed for each in order[:5]] == [True, False, True, False, False]
        assert len(order) == len(set(order)) == 99


def test_whoever_is_heard_of_comes_last_and_there_is_a_most() -> None:
    state = plan([relay(1)], entropy=ENTROPY)
    state = failed(state, relay(1), 0)
    state = heard_of(state, [relay(1, "somebody else"), relay(2)])
    assert ordered(state) == [relay(1), relay(2)]
    assert state.known[0].failures == 1
    state = heard_of(state, [relay(number) for number in range(3, 2 * MOST_KNOWN)])
    assert len(state.known) == MOST_KNOWN


def test_room_for_others_is_made_by_those_that_failed_often_and_were_only_heard_of() -> None:
    state = heard_of(plan([relay(0)], entropy=ENTROPY), [relay(number) for number in range(1, MOST_KNOWN)])
    for each in (relay(0), relay(5), relay(6)):
        for _ in range(HOPELESS):
            state = failed(state, each, 0)
    state = heard_of(state, [relay(1000)])
    assert len(state.known) == MOST_KNOWN
    assert len({"id5", "id6"} - {each.relay.identity for each in state.known}) == 1
    assert ordered(state)[0] == relay(0)
    state = heard_of(state, [relay(number) for number in range(1001, 1010)])
    assert [each.identity for each in ordered(state)].count("id0") == 1
    assert not {"id5", "id6"} & {each.relay.identity for each in state.known}
    assert len(state.known) == MOST_KNOWN


def test_none_answers_when_all_or_many_were_tried_in_vain() -> None:
    state = plan([relay(1), relay(2)], entropy=ENTROPY)
    assert silent(plan((), entropy=ENTROPY)) == 0
    state = failed(state, relay(1), 0)
    assert silent(state) == 0
    state = failed(state, relay(2), 0)
    assert silent(state) == 2
    assert silent(succeeded(state, relay(1))) == 0
    state = plan([relay(number) for number in range(100)], entropy=ENTROPY)
    for number in range(ENOUGH_SILENT):
        assert silent(state) == 0
        state = failed(state, relay(number), 0)
    assert silent(state) == ENOUGH_SILENT


def test_undeclared_operators_are_not_taken_for_one() -> None:
    state = plan(
        [Relay(identity=f"{n}", addresses=(f"/ip4/10.{n}.0.1/tcp/1",), operator="") for n in (1, 2)], entropy=ENTROPY
    )
    step = next_step(state, 0)[1]
    assert isinstance(step, Dial)
    assert len(step.relays) == 2


def test_two_are_tried_at_a_time_until_enough_links_stand() -> None:
    state = plan([relay(number) for number in range(5)], entropy=ENTROPY)
    a, b, c, d, _ = ordered(state)
    state, step = next_step(state, 0)
    assert step == Dial(relays=(a, b))
    assert next_step(state, 0) == (state, Wait(until=None))
    state = succeeded(state, a)
    state, step = next_step(state, 0)
    assert step == Dial(relays=(c,))
    state = succeeded(failed(state, b, 0), c)
    state, step = next_step(state, 0)
    assert step == Dial(relays=(d,))
    state = succeeded(state, d)
    assert next_step(state, 0)[1] == Joined(links=3)


def test_no_more_are_dialled_than_are_wanted() -> None:
    state = plan([relay(number) for number in range(5)], entropy=ENTROPY, policy=JoinPolicy(enough=1, at_once=2))
    assert next_step(state, 0)[1] == Dial(relays=(ordered(state)[0],))


def test_relays_of_one_operator_or_one_neighbourhood_wait_for_unrelated_ones() -> None:
    twins = [relay(1, "Ann"), relay(2, "ann"), relay(3)]
    near = Relay(identity="near", addresses=("/ip4/10.3.9.9/tcp/1",), operator="another")
    for seed in range(20):
        state = plan([*twins, near], entropy=bytes([seed]) * 32, policy=JoinPolicy(enough=2, at_once=2))
        _, step = next_step(state, 0)
        assert isinstance(step, Dial)
        assert len({each.operator.casefold() for each in step.relays}) == 2
        assert len({group_of(each.addresses[0]) for each in step.relays}) == 2


def test_the_addresses_that_a_linked_relay_claims_beside_its_own_hold_nobody_back() -> None:
    honest, accomplice = relay(1), relay(2)
    liar = Relay(identity="liar", addresses=("/ip4/10.9.0.1/tcp/1", *honest.addresses), operator="")
    state = plan([liar], [honest], [accomplice], entropy=ENTROPY, policy=ONE_BY_ONE)
    state = succeeded(state, liar, "/ip4/10.9.0.1/tcp/1")
    assert next_step(state, 0)[1] == Dial(relays=(honest,))


def test_relays_that_are_linked_from_one_neighbourhood_count_as_one_wherever_they_say_to_be() -> None:
    liars, honest = [relay(number) for number in (1, 2, 3)], relay(4)
    state = plan(liars, [honest], entropy=ENTROPY)
    for number, each in enumerate(liars):
        state = succeeded(state, each, f"/ip4/10.9.0.{number}/tcp/1")
    assert next_step(state, 0)[1] == Dial(relays=(honest,))


def test_when_the_last_listed_relay_is_lost_one_is_sought_beside_whoever_took_its_place() -> None:
    """Else who cuts a link now and then moves a node, step by step, to those that were only heard of."""
    listed, told = [relay(1), relay(2)], [relay(number) for number in range(3, 9)]
    state = plan(listed, told, entropy=ENTROPY)
    for each in (listed[0], *told[:3]):
        state = succeeded(state, each)
    assert next_step(state, 0)[1] == Joined(links=4)
    state = failed(lost(state, listed[0], 0), listed[1], 0)
    state, step = next_step(state, 0)
    assert isinstance(step, Wait)
    assert step.until is not None
    for _ in range(3 * HOPELESS):
        now = step.until or 0
        state, step = next_step(state, now)
        assert isinstance(step, Dial)
        assert set(step.relays) < set(listed)
        assert next_step(state, now)[1] == Joined(links=3)
        state, step = next_step(failed(state, step.relays[0], now), now)
        assert isinstance(step, Wait)
    state, step = next_step(state, step.until or 0)
    assert isinstance(step, Dial)
    assert next_step(succeeded(state, step.relays[0]), 0)[1] == Joined(links=4)


def test_related_relays_are_used_only_when_the_unrelated_ones_are_hopeless() -> None:
    ann, again_ann, dead = relay(1, "Ann"), relay(2, "Ann"), relay(3)
    state = plan([ann, again_ann, dead], entropy=ENTROPY, policy=ONE_BY_ONE)
    linked = next(each for each in ordered(state) if each != dead)
    state = succeeded(state, linked)
    now = 0
    for _ in range(HOPELESS):
        state, step = next_step(state, now)
        assert step == Dial(relays=(dead,))
        state = failed(state, dead, now)
        now += ONE_BY_ONE.longest_wait
    state, step = next_step(state, 0)
    (other,) = {ann, again_ann} - {linked}
    assert step == Dial(relays=(other,))
    state = succeeded(state, other)
    assert next_step(state, 0)[1] == Joined(links=2)


def test_whoever_does_not_answer_is_tried_later_and_later() -> None:
    only = relay(1)
    policy = JoinPolicy(first_wait=1000, longest_wait=10_000)
    state, now, waits = plan([only], entropy=ENTROPY, policy=policy), 0, []
    for _ in range(12):
        state, step = next_step(state, now)
        assert step == Dial(relays=(only,))
        state = failed(state, only, now)
        step = next_step(state, now)[1]
        assert isinstance(step, Wait)
        assert step.until is not None
        waits.append(step.until - now)
        assert next_step(state, step.until - 1)[1] == step
        now = step.until
    for failures, wait in enumerate(waits):
        full = min(10_000, 1000 << failures)
        assert full // 2 <= wait <= full
    assert len(set(waits)) > 5


def test_an_answer_forgives_what_was_before_and_a_lost_link_is_sought_again() -> None:
    only = relay(1)
    state = plan([only], entropy=ENTROPY)
    for _ in range(5):
        state = failed(state, only, 0)
    state = succeeded(state, only)
    assert next_step(state, 0)[1] == Joined(links=1)
    state = lost(state, only, 5_000)
    assert silent(state) == 0
    step = next_step(state, 5_000)[1]
    assert isinstance(step, Wait)
    assert step.until is not None
    assert step.until <= 5_000 + JoinPolicy().first_wait


def test_what_addresses_share_is_their_neighbourhood() -> None:
    assert group_of("/ip4/192.0.2.7/tcp/1/p2p/x") == "192.0.0.0/16"
    assert group_of("/ip6/2001:db8:1:2::3/tcp/1") == group_of("/ip6/2001:db8:ffff::1/tcp/9") == "2001:db8::/32"
    assert group_of("/ip6/::ffff:192.0.9.9/tcp/1") == "192.0.0.0/16"
    assert group_of("/dns4/Relay.Example/tcp/1") == group_of("/dns6/b.relay.example./tcp/2") == "dns:relay.example"
    assert group_of("") == ":"


RELAYS = st.lists(
    st.builds(
        Relay,
        identity=st.sampled_from("abcdefghij"),
        addresses=st.integers(0, 9).map(lambda number: (f"/ip4/10.{number % 5}.0.{number}/tcp/1",)),
        operator=st.sampled_from("ABC"),
    ),
    max_size=8,
    unique_by=lambda each: each.identity,
)


@given(RELAYS, st.lists(st.booleans(), min_size=60, max_size=60), st.binary(min_size=32, max_size=32))
def test_any_course_of_events_ends_joined_or_waiting_and_never_dials_twice_at_once(
    relays: list[Relay], answers: list[bool], entropy: bytes
) -> None:
    state, now, under_way = plan(relays, entropy=entropy), 0, list[Relay]()
    for answer in answers:
        state, step = next_step(state, now)
        match step:
            case Dial():
                assert not set(step.relays) & set(under_way)
                assert 0 < len(under_way) + len(step.relays) <= state.policy.at_once
                under_way += step.relays
            case Wait(until=None):
                assert under_way
            case Wait(until=until):
                assert until is not None
                assert until > now
                assert not under_way or len(under_way) < state.policy.at_once
                now = until
            case Joined():
                linked = [each for each in state.known if each.linked]
                assert len(linked) == step.links
                assert step.links >= min(state.policy.enough, len(state.known))
                return
            case NobodyKnown():
                assert not relays
                return
        if under_way:
            tried = under_way.pop(0)
            state = succeeded(state, tried) if answer else failed(state, tried, now)
