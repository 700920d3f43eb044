"""Filters: exact hashes and prefixes, limits that are told, expiry; a model that matches by looking at every filter."""

from hypothesis import given
from hypothesis import strategies as st

from protocols.ids import PaymentHash, PeerId
from protocols.routing.subscriptions import FilterRefusal, Subscriptions
from protocols.units import UnixTime
from protocols.wire.subscribe import MAX_SECONDS, Prefix, RefusalCode

NOW = UnixTime(1000)
LATER = UnixTime(2000)
ALICE = PeerId(b"\x02" + b"a" * 32)
BOB = PeerId(b"\x02" + b"b" * 32)


def made(limit=10, total=100, longest=64):
    return Subscriptions(limit, total, longest)


def hash_(first: int, last: int = 0) -> PaymentHash:
    return PaymentHash(bytes([first]) + bytes(30) + bytes([last]))


def test_exact_hashes_and_prefixes_match_each_subscriber_once():
    filters = made()
    assert filters.add(ALICE, (hash_(1),), (Prefix(bits=8, value=b"\x01"),), LATER, NOW) == 8
    assert filters.add(BOB, (), (Prefix(bits=9, value=b"\x01\x00"),), LATER, NOW) == 9
    assert filters.match(hash_(1)) == (ALICE, BOB)
    assert filters.match(PaymentHash(b"\x01\x80" + bytes(30))) == (ALICE,)
    assert filters.match(hash_(2)) == ()


def test_the_limit_per_subscriber_refuses_the_whole_request():
    filters = made(limit=2)
    assert filters.add(ALICE, (hash_(1),), (), LATER, NOW) == 1
    assert filters.add(ALICE, (hash_(2), hash_(3)), (), LATER, NOW) == FilterRefusal(
        RefusalCode.TOO_MANY_FILTERS, "3 filters, at most 2 for one subscriber"
    )
    assert filters.match(hash_(2)) == ()
    assert filters.add(ALICE, (hash_(1), hash_(2)), (), LATER, NOW) == 0  # renewing costs nothing


def test_the_limit_of_the_whole_table_is_told():
    filters = made(total=1)
    filters.add(ALICE, (hash_(1),), (), LATER, NOW)
    refusal = filters.add(BOB, (hash_(1),), (), LATER, NOW)
    assert refusal == FilterRefusal(RefusalCode.TOO_MANY_FILTERS, "this server's table of filters is full")
    assert BOB not in filters


def test_all_prefixes_of_the_fewest_bits_are_the_full_feed_and_refused():
    filters = made(limit=1024, total=10_000)
    every = [Prefix(bits=8, value=bytes([first])) for first in range(256)]
    assert filters.add(ALICE, (hash_(1),), tuple(every[:16]), LATER, NOW) == 1024 - 17
    refusal = FilterRefusal(
        RefusalCode.TOO_MANY_FILTERS, "prefixes that cover more than 1 in 16 of all hashes; ask for longer ones"
    )
    assert filters.add(ALICE, (), (every[16],), LATER, NOW) == refusal
    assert filters.add(ALICE, (), (Prefix(bits=64, value=bytes([200, *bytes(7)])),), LATER, NOW) == refusal
    assert filters.add(ALICE, (hash_(2),), tuple(every[:16]), LATER, NOW) == 1024 - 18  # these it has
    assert filters.add(BOB, (), (every[16],), LATER, NOW) == 1023
    filters.remove(ALICE, (), (every[0],))
    assert filters.add(ALICE, (), (every[16],), LATER, NOW) == 1024 - 18


def test_prefixes_that_are_none_are_refused():
    filters = made()
    for prefix, code in (
        (Prefix(bits=7, value=b"\x00"), RefusalCode.PREFIX_TOO_SHORT),
        (Prefix(bits=65, value=bytes(9)), RefusalCode.BAD_REQUEST),
        (Prefix(bits=9, value=b"\x00"), RefusalCode.BAD_REQUEST),
        (Prefix(bits=9, value=b"\x00\x40"), RefusalCode.BAD_REQUEST),
    ):
        refusal = filters.add(ALICE, (), (prefix,), LATER, NOW)
        assert isinstance(refusal, FilterRefusal)
        assert refusal.code == code
        assert filters.remove(ALICE, (), (prefix,)) == 10
    assert filters.add(ALICE, (hash_(1),), (), NOW, NOW) == FilterRefusal(
        RefusalCode.BAD_REQUEST, "the subscription would end before it begins"
    )
    assert filters.count == 0


def test_a_renewed_filter_lasts_until_its_new_end_and_none_longer_than_a_day():
    filters = made()
    filters.add(ALICE, (hash_(1), hash_(2)), (), UnixTime(1100), NOW)
    filters.add(ALICE, (hash_(1),), (), UnixTime(10**9), NOW)
    filters.expire(UnixTime(1200))
    assert (filters.match(hash_(1)), filters.match(hash_(2))) == ((ALICE,), ())
    assert filters.next_expiry() is not None
    filters.expire(UnixTime(NOW + MAX_SECONDS + 8))
    assert filters.count == 0
    assert filters.next_expiry() is None


def test_what_was_asked_for_can_be_taken_back_piece_by_piece():
    filters = made()
    prefix = Prefix(bits=8, value=b"\x01")
    filters.add(ALICE, (hash_(1),), (prefix,), LATER, NOW)
    filters.add(BOB, (hash_(1),), (), LATER, NOW)
    assert filters.remove(ALICE, (hash_(1), hash_(9)), ()) == 9
    assert filters.match(hash_(1)) == (BOB, ALICE)
    assert filters.remove(ALICE, (), (prefix,)) == 10
    assert filters.match(hash_(1)) == (BOB,)
    filters.drop(BOB)
    filters.drop(BOB)
    assert (filters.count, list(filters.views())) == (0, [])


subscribers = st.sampled_from([ALICE, BOB, PeerId(b"\x03" * 33)])
hashes = st.integers(0, 40).map(lambda number: PaymentHash(bytes([number]) * 32))
prefixes = st.tuples(st.integers(8, 20), st.integers(0, 40)).map(
    lambda pair: Prefix(
        bits=pair[0],
        value=((int.from_bytes(bytes([pair[1]]) * 3, "big") >> (24 - pair[0])) << (-pair[0] % 8)).to_bytes(
            (pair[0] + 7) // 8, "big"
        ),
    )
)
operations = st.lists(
    st.tuples(
        st.sampled_from(["add", "remove", "drop", "expire"]),
        subscribers,
        st.lists(hashes, max_size=3),
        st.lists(prefixes, max_size=3),
        st.integers(1, 50),
    ),
    max_size=30,
)


@given(operations, st.lists(hashes, max_size=10))
def test_matching_equals_looking_at_every_filter(operations, probes):
    filters = made(limit=1000, total=1000)
    now = NOW
    model: dict[PeerId, dict[tuple[int, int], int]] = {}
    for name, peer, some_hashes, some_prefixes, seconds in operations:
        keys = [(256, int.from_bytes(each, "big")) for each in some_hashes] + [
            (each.bits, int.from_bytes(each.value, "big") >> (-each.bits % 8)) for each in some_prefixes
        ]
        mine = model.setdefault(peer, {})
        if name == "add":
            until = UnixTime(now + seconds)
            filters.add(peer, tuple(some_hashes), tuple(some_prefixes), until, now)
            mine.update(dict.fromkeys(keys, until))
        elif name == "remove":
            filters.remove(peer, tuple(some_hashes), tuple(some_prefixes))
            for key in keys:
                mine.pop(key, None)
        elif name == "drop":
            filters.drop(peer)
            mine.clear()
        else:
            now = UnixTime(now + seconds)
            filters.expire(now)
            for each in model.values():
                for key in [key for key, until in each.items() if (until // 8 + 1) * 8 <= now]:
                    del each[key]
    assert filters.count == sum(map(len, model.values()))
    for probe in probes:
        number = int.from_bytes(probe, "big")
        expected = {
            peer for peer, mine in model.items() if any(number >> (256 - bits) == value for bits, value in mine)
        }
        found = filters.match(probe)
        assert len(found) == len(set(found))
        assert set(found) == expected
