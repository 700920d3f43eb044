"""Views of one payment put together: joined ends, causes first whatever the clocks say, and what the page and picture show."""

import xml.etree.ElementTree as Xml
from dataclasses import replace
from typing import Any

import pytest

from protocols.ids import PaymentHash
from protocols.routing.views import Drop
from rrnode.control import models as m
from tools.trace.gather import Seen, seen_by
from tools.trace.page import document, page, what, where
from tools.trace.past import Step, joined
from tools.trace.picture import MOST_DRAWN, as_svg
from tools.trace.story import Story, story_of

HASH = "ab" * 32
A, B, C = "16Uiu2HAmAAAAAA", "16Uiu2HAmBBBBBB", "16Uiu2HAmCCCCCC"


def step(at_ms: int, kind: str, peer: str = "", amount: int | None = None, **more: Any) -> Step:
    return Step(at_ms=at_ms, kind=kind, exact=more.pop("exact", True), peer=peer, amount=amount, **more)


def seen(name: str, peer_id: str, *steps: Step, **more: Any) -> Seen:
    return Seen(name=name, peer_id=peer_id, network="regtest", runs=True, steps=steps, **more)


def told(story: Story) -> list[str]:
    return [f"{where(each)}: {what(each)}" for each in story.happenings]


def test_what_one_sent_and_another_got_is_one_happening() -> None:
    story = story_of(
        HASH,
        [
            seen("b", B, step(20, "quote", A, 1000, blocks=12), step(21, "quote", C, 1000, blocks=12)),
            seen("a", A, step(25, "offer", B, 1000, blocks=12, kept=False, text="too dear")),
        ],
    )
    assert told(story) == [
        "b -> a: send me 1 sat, 12 blocks - dropped: too dear",
        "b -> …CCCCCC: send me 1 sat, 12 blocks",
    ]
    assert [each.at_ms for each in story.happenings] == [20, 21]


def test_equal_prices_said_twice_are_joined_in_order_and_others_are_not() -> None:
    story = story_of(
        HASH,
        [
            seen(
                "a", A, *(step(at, "offer", B, amount, kept=True) for at, amount in ((3, 7000), (5, 7000), (6, 5000)))
            ),
            seen("b", B, *(step(at, "quote", A, amount) for at, amount in ((1, 7000), (2, 6000), (4, 7000)))),
        ],
    )
    assert [(each.at_ms, each.amount, each.kept) for each in story.happenings] == [
        (1, 7000, True),
        (2, 6000, None),
        (4, 7000, True),
        (6, 5000, True),
    ]
    assert told(story)[-1] == "a: looks again at the offer of b for 5 sat - kept"


def test_causes_come_first_whatever_the_clocks_say() -> None:
    """B's clock is an hour behind, C's an hour ahead; each knows its own order."""
    story = story_of(
        HASH,
        [
            seen("c", C, step(3_600_005, "lock_in", B, 900), step(3_600_006, "settle_out", B)),
            seen(
                "b",
                B,
                step(-3_600_000, "lock_in", A, 1000),
                step(-3_599_999, "lock_out", C, 900),
                step(-3_599_990, "settle_in", C),
                step(-3_599_989, "settle_out", A),
            ),
            seen("a", A, step(1, "want"), step(2, "lock_out", B, 1000), step(50, "settle_in", B), step(51, "paid")),
        ],
    )
    assert [where(each) for each in story.happenings] == ["a", "a -> b", "b -> c", "c -> b", "b -> a", "a"]
    assert story.columns == ("a", "b", "c")


def test_seconds_from_a_disk_are_ordered_by_the_nodes_that_know_better() -> None:
    rough = seen("b", B, step(1000, "lock_in", A, 1000, exact=False), step(1000, "fail_out", A, exact=False))
    story = story_of(HASH, [rough, seen("a", A, step(1400, "lock_out", B, 1000), step(1450, "fail_in", B, text="no"))])
    assert told(story) == ["a -> b: locks 1 sat", "b -> a: gives it back: no"]
    assert [(each.at_ms, each.exact) for each in story.happenings] == [(1400, True), (1450, True)]


def test_views_that_contradict_each_other_still_make_a_story() -> None:
    story = story_of(
        HASH,
        [
            seen("a", A, step(1, "settle_in", B), step(2, "lock_out", B, 5)),
            seen("b", B, step(1, "lock_in", A, 5), step(2, "settle_out", A)),
        ],
    )
    assert sorted(each.kind for each in story.happenings) == ["lock", "settle"]


def test_an_offer_that_makes_room_is_no_message() -> None:
    gone = step(5, "offer", B, 1000, kept=False, text=Drop.EVICTED.value)
    story = story_of(HASH, [seen("a", A, step(1, "offer", B, 1000, kept=True), gone)])
    assert told(story)[1] == f"a: no longer holds the offer of …BBBBBB for 1 sat: {Drop.EVICTED.value}"


def test_kept_and_why_not_passed_on_are_one_step() -> None:
    kept = step(5, "offer", B, 1000, kept=True)
    why = replace(kept, text="too dear for some")
    later = replace(why, at_ms=6)
    assert joined([kept, why]) == (why,)
    assert joined([kept, kept, later]) == (kept, kept, later)


def test_a_node_off_the_way_stands_where_it_makes_arrows_longest_least() -> None:
    story = story_of(
        HASH,
        [
            seen("a", A, step(1, "want"), step(5, "lock_out", B, 3)),
            seen("b", B, step(6, "lock_in", A, 3), step(7, "lock_out", C, 2), step(3, "offer", "…x", 9, kept=True)),
            seen("c", C, step(2, "quote", "…x", 2), step(8, "lock_in", B, 2), step(1, "ask", amount=2)),
        ],
    )
    assert story.columns == ("a", "b", "……x", "c")


def test_the_notes_of_a_run_replace_what_the_disk_says_of_that_time() -> None:
    trace = m.Trace(payment_hash=HASH, peer_id=A, network="regtest", operator="", since_ms=5, notes=())
    assert seen_by("a", trace, None, PaymentHash(bytes.fromhex(HASH))).steps == ()
    noted = trace.model_copy(update={"notes": (m.TraceNote(at_ms=7, kind="want"),), "left_out": 3})
    found = seen_by("a", noted, None, PaymentHash(bytes.fromhex(HASH)))
    assert (found.steps, found.left_out, found.peer_id, found.runs) == ((step(7, "want"),), 3, A, True)


@pytest.mark.parametrize(
    ("told_step", "words"),
    [
        (step(1, "want", amount=1500, text="at most 2 sat"), "wants to pay 1.5 sat, at most 2 sat"),
        (step(1, "promised", amount=1000), "will take 1 sat"),
        (
            step(1, "ask", amount=1000, text="at most 2 sat, 9 hops"),
            "asks the network for 1 sat, at most 2 sat, 9 hops",
        ),
        (step(1, "stands", B, 1000), "could lock 1 sat to …BBBBBB"),
        (step(1, "stands", text="no offer stands"), "has nothing to lock: no offer stands"),
        (step(1, "failed", text="too \x1b[31mdear"), "has not paid: too ·[31mdear"),
        (step(1, "expired"), "takes it no more: its time is over"),
        (step(1, "forwarded", amount=0), "has carried nothing"),
    ],
)
def test_what_happens_at_one_node_in_words(told_step: Step, words: str) -> None:
    assert told(story_of(HASH, [seen("a", A, told_step)])) == [f"a: {words}"]


def test_the_page_says_who_was_asked_and_what_is_rough() -> None:
    away = Seen(name="b", peer_id="", network="", runs=False, steps=(), problem="there is no node in /x")
    story = story_of(HASH, [seen("a", A, step(1000, "want", exact=False), left_out=4), away])
    lines = list(page(story))
    assert lines[:6] == [
        f"payment {HASH}",
        "",
        f"  a  {A}  runs",
        "     4 more notes were not kept",
        "  b  (unknown)  not asked",
        "     there is no node in /x",
    ]
    assert lines[-2:] == [
        "   ~+0.000  a  wants to pay",
        "~: from a database, which knows the second only, and nothing of offers",
    ]
    assert list(page(story_of(HASH, [seen("a", A)])))[-1] == "none of these nodes knows this payment"


def test_the_document_has_every_happening_with_its_words() -> None:
    story = story_of(HASH, [seen("a", A, step(1, "lock_out", B, 1000, blocks=140))])
    found = document(story)
    assert found["nodes"] == [
        {"name": "a", "peer_id": A, "network": "regtest", "runs": True, "left_out": 0, "problem": ""}
    ]
    assert found["happenings"] == [
        {
            "at_ms": 1,
            "exact": True,
            "kind": "lock",
            "node": "a",
            "to": "…BBBBBB",
            "other": "",
            "amount_msat": 1000,
            "blocks": 140,
            "kept": None,
            "text": "",
            "words": "locks 1 sat until block 140",
        }
    ]
    assert (found["payment"], found["promise"]) == (None, None)


def texts(svg: str) -> list[str]:
    return [each.text or "" for each in Xml.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_the_picture_is_whole_whatever_names_and_reasons_hold() -> None:
    nasty = seen("<a&b>" * 9, A, step(1, "failed", text='<script>"&'), step(2, "offer", B, 1000, kept=False, blocks=3))
    words = texts(as_svg(story_of(HASH, [nasty])))
    assert 'has not paid: <script>"&' in words
    assert "dropped: 1 sat, 3 blocks" in words
    assert "<a&b><a&b><a&b><a&b><a&…" in words


def test_a_long_story_is_drawn_without_the_offers_that_were_dropped() -> None:
    offers = [step(at, "offer", B, at, kept=at % 2 == 0, blocks=1) for at in range(1, 2 * MOST_DRAWN)]
    story = story_of(HASH, [seen("a", A, *offers, step(10**6, "lock_out", B, 1000))])
    words = texts(as_svg(story))
    assert f"{2 * MOST_DRAWN - MOST_DRAWN} offers are not drawn" in words
    assert "lock 1 sat" in words
    assert not any(each.startswith("dropped") for each in words)
