"""The filter over hints: never a hint missed, few let through, memory that does not grow."""

import hashlib

from rrnode.storage import hints
from rrnode.storage.hints import HintFilter


def hint(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(8, "big")).digest()[:16]


def test_no_hint_is_missed_and_few_strangers_get_through() -> None:
    full = HintFilter(100_000)
    for number in range(100_000):
        full.add(hint(number))
    assert all(hint(number) in full for number in range(100_000))
    let_through = sum(hint(number) in full for number in range(1_000_000, 1_050_000))
    assert let_through < 50_000 * 0.02
    assert not full.is_full


def test_memory_is_bounded_whatever_is_expected() -> None:
    assert len(HintFilter(10**12)._bytes) == hints.MOST_BITS // 8


def test_a_filter_that_took_much_more_than_it_was_made_for_says_so() -> None:
    small = HintFilter(0)
    room = hints.LEAST_BITS // hints.BITS_PER_HINT
    for _ in range(room):
        small.add(hint(1))
    assert not small.is_full
    small.add(hint(1))
    assert small.is_full
