"""A peer that says anything at any time, in well-formed messages: the engine never raises, and what is ours stays ours.

Values are drawn from pools that contain the right ones, so that a hostile conversation gets far; between the messages our
own side goes on with its orders, blocks arrive, and the link is cut.
"""

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocols.channel.commitments import build_ours
from protocols.channel.engine import resume
from protocols.channel.events import (
    CloseRequested,
    FailHtlc,
    HtlcFulfilled,
    LinkDown,
    LinkUp,
    MessageReceived,
    PublishWithChild,
    SettleHtlc,
    TipChanged,
)
from protocols.channel.state import Phase, undecided
from protocols.onchain.tx import txid_of
from protocols.units import BlockHeight
from protocols.wire.channel import (
    ChannelReady,
    ChannelReestablish,
    ClosingComplete,
    ClosingSig,
    CommitmentSigned,
    Error,
    FailureCode,
    RevokeAndAck,
    Shutdown,
    UpdateAddHtlc,
    UpdateFailHtlc,
    UpdateFulfillHtlc,
    Warn,
)

SMALL = st.integers(0, 4)


def hostile(kit: Any, pair: Any) -> st.SearchStrategy[Any]:
    """Messages about the channel of this pair, many of them nearly right."""
    channel_id = pair.alice.now.channel_id
    keys = st.sampled_from([kit.bob_keys, kit.keys_of("mallory")])
    points = st.one_of(st.builds(lambda k, n: k.per_commitment_point(n), keys, SMALL), st.just(b"\x02" + b"\xff" * 32))
    secrets = st.one_of(
        st.builds(lambda k, n: k.per_commitment_secret(n), st.sampled_from([kit.bob_keys, kit.alice_keys]), SMALL),
        st.sampled_from([bytes(32), b"\xff" * 32]),
    )
    scripts = st.sampled_from(
        [pair.bob.now.our_terms.shutdown_script, pair.alice.now.our_terms.shutdown_script, b"\x6a" + bytes(24)]
    )
    signatures = st.sampled_from([bytes(64), bytes(31) + b"\x01" * 33, b"\xff" * 64])
    amounts = st.sampled_from([0, 1, 353_999, 354_000, 10_000_000, 380_000_000, 380_000_001, 10**12])
    expiries = st.sampled_from([0, 1001, 1019, 1100, 4000, 499_999_999, 500_000_000])
    some = st.sampled_from([b"", bytes(31) + b"\x01" * 33, bytes(5)])
    closing = (scripts, scripts, st.sampled_from([0, 400, 400_000, 400_001]), SMALL, some, some, some)
    return st.one_of(
        st.builds(UpdateAddHtlc, st.just(channel_id), SMALL, amounts, st.builds(kit.hash_of, SMALL), expiries),
        st.builds(UpdateFulfillHtlc, st.just(channel_id), SMALL, st.builds(kit.preimage_of, SMALL)),
        st.builds(UpdateFailHtlc, st.just(channel_id), SMALL, st.integers(0, 255)),
        st.builds(CommitmentSigned, st.just(channel_id), signatures, st.lists(signatures, max_size=2).map(tuple)),
        st.builds(RevokeAndAck, st.just(channel_id), secrets, points),
        st.builds(ChannelReestablish, st.just(channel_id), SMALL, SMALL, secrets, points),
        st.builds(ChannelReady, st.just(channel_id), points),
        st.builds(Shutdown, st.just(channel_id), scripts),
        st.builds(ClosingComplete, st.just(channel_id), *closing),
        st.builds(ClosingSig, st.just(channel_id), *closing),
        st.just(Warn(channel_id, "x" * 256)),
        st.just(Error(channel_id, "x" * 256)),
    )


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(data=st.data())
def test_a_peer_that_says_anything_gets_nothing_of_ours(kit: Any, data: Any) -> None:
    pair = kit.pair().open()
    alice, bob = pair.alice, pair.bob
    messages = hostile(kit, pair)
    start = alice.balances.ours
    for number in range(data.draw(st.integers(1, 14))):
        action = data.draw(
            st.sampled_from(["lie", "lie", "lie", "honest", "honest", "honest", "ours", "link", "block"])
        )
        if alice.channel is None:
            break
        match action:
            case "lie":
                alice.batch(MessageReceived(peer=bob.me, message=data.draw(messages)))
            case "honest":
                bob.batch(kit.offer(bob.now, 20 + number))
                pair.deliver(alice)
                pair.deliver(bob)
            case "ours":
                ours(kit, alice, number, data)
            case "link":
                for event in (LinkDown(peer=bob.me), LinkUp(peer=bob.me)):
                    alice.batch(event)
                bob.batch(LinkDown(peer=alice.me), LinkUp(peer=alice.me))
            case "block":
                alice.tip = BlockHeight(alice.tip + data.draw(st.sampled_from([1, 40, 200])))
                alice.batch(TipChanged())
        whole(kit, alice, start)


def ours(kit: Any, alice: Any, number: int, data: Any) -> None:
    """An order of our own side."""
    waiting = undecided(alice.now)
    kinds = ["offer", "offer", "close", "force"] + (["settle", "fail"] * 2 if waiting else [])
    match data.draw(st.sampled_from(kinds)):
        case "offer":
            alice.batch(kit.offer(alice.now, data.draw(SMALL), expiry=alice.tip + 100))
        case "close":
            alice.batch(CloseRequested(channel_id=alice.now.channel_id, force=False))
        case "force":
            alice.batch(CloseRequested(channel_id=alice.now.channel_id, force=True))
        case decision:
            each = data.draw(st.sampled_from(waiting))
            ids = {"channel_id": each.channel_id, "htlc_id": each.htlc_id}
            preimages = {kit.hash_of(place): kit.preimage_of(place) for place in range(40)}
            settled = SettleHtlc(preimage=preimages[each.payment_hash], **ids)
            alice.batch(settled if decision == "settle" else FailHtlc(code=FailureCode.TIMED_OUT, **ids))


def whole(kit: Any, alice: Any, start: int) -> None:
    channel, held = alice.now, alice.balances
    assert held.ours + held.theirs + held.offered + held.received == kit.capacity * 1000
    assert min(held.ours, held.theirs) >= 0
    paid = {each.payment_hash for each in alice.told if isinstance(each, HtlcFulfilled)}
    assert held.ours + held.offered >= start - 10_000_000 * len(paid)  # every offer above is of 10,000 sat
    kit.holds_signatures(alice)
    # Nothing that was ever published was revoked, before or after.
    built = build_ours(channel, alice.keys, channel.our_number)
    for each in (*alice.done, *resume(channel, alice.env).effects):
        if isinstance(each, PublishWithChild):
            assert channel.phase is not Phase.LOST
            assert txid_of(each.transaction) == built.txid
