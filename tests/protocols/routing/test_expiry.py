"""Buckets of keys by time: a model with a plain dictionary, and no growth from adding and removing one key."""

from hypothesis import given
from hypothesis import strategies as st

from protocols.routing.expiry import WIDTH, Expiries
from protocols.units import UnixTime


@given(st.lists(st.tuples(st.sampled_from(["add", "discard", "due"]), st.integers(0, 5), st.integers(0, 100))))
def test_keys_come_up_once_their_whole_bucket_is_over_and_not_before(steps):
    expiries: Expiries[int] = Expiries()
    model: dict[int, int] = {}
    now = 0
    for name, key, at in steps:
        if name == "add" and key not in model:
            model[key] = Expiries.bucket(UnixTime(at))
            expiries.add(key, model[key])
        elif name == "discard" and key in model:
            expiries.discard(key, model.pop(key))
        elif name == "due":
            now = max(now, at)
            over = {key for key, bucket in model.items() if (bucket + 1) * WIDTH <= now}
            assert set(expiries.due(UnixTime(now))) == over
            for key in over:
                del model[key]
    assert expiries.next() == (min((bucket + 1) * WIDTH for bucket in model.values()) if model else None)


def test_adding_and_removing_one_key_for_ever_takes_no_room():
    expiries: Expiries[int] = Expiries()
    for _ in range(1000):
        expiries.add(1, 5)
        expiries.discard(1, 5)
    assert len(expiries._heap) == 1
    assert expiries.next() is None
    expiries.discard(1, 5)
    assert expiries.due(UnixTime(100)) == []
