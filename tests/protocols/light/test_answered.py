"""Who answered for which blocks, held against a plain table of heights."""

from hypothesis import given
from hypothesis import strategies as st

from protocols.light import answered
from protocols.light.answered import Answered

A, B, C = (bytes([number]) * 34 for number in (1, 2, 3))
PEERS = st.frozensets(st.sampled_from([A, B, C]))


@given(st.lists(st.tuples(st.integers(0, 30), PEERS)), PEERS, st.integers(1, 3))
def test_what_is_put_is_known_and_what_lacks_answers_is_told(puts, relied_on, least):
    kept, table = Answered(), {}
    for height, peers in puts:
        kept.put(height, peers)
        table[height] = peers
    assert {height: kept.at(height) for height in range(32)} == {h: table.get(h, frozenset()) for h in range(32)}
    wanted = [height for height in sorted(table) if len(table[height] & relied_on) < least]
    assert list(kept.lacking(relied_on, least)) == wanted


def test_a_year_with_the_same_helpers_takes_the_room_of_a_block():
    kept = Answered()
    for height in range(50_000):
        kept.put(height, {A, B})
    assert kept._runs == [(0, 49_999, frozenset((A, B)))]
    kept.put(20_000, {A})
    assert list(kept.lacking({A, B}, 2)) == [20_000]
    kept.put(20_000, {B, A})
    assert kept._runs == [(0, 49_999, frozenset((A, B)))]


def test_of_too_many_runs_the_lowest_are_joined_so_that_nothing_lacking_is_lost(monkeypatch):
    monkeypatch.setattr(answered, "MOST_RUNS", 3)
    kept = Answered()
    for height, peers in enumerate(({A, B}, {B, C}, {A}, {A, B, C}, {A, B})):
        kept.put(height * 2, peers)
    assert kept._runs == [(0, 4, frozenset()), (6, 6, frozenset((A, B, C))), (8, 8, frozenset((A, B)))]
    assert list(kept.lacking({A, B, C}, 2)) == [0, 1, 2, 3, 4]
