"""The whole product of phases and events: nothing raises, nothing that is not legal changes a channel, no lawless message is
taken, and no event in any phase sends a commitment that could be punished."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from protocols.channel.engine import LEGAL, handle, loaded, resume
from protocols.channel.events import (
    CloseRequested,
    FailHtlc,
    Flush,
    FundingBuilt,
    FundingFailed,
    HtlcReceived,
    HtlcRefused,
    LinkDown,
    LinkUp,
    MessageReceived,
    OpenRequested,
    Outpoint,
    OutputSpent,
    PublishWithChild,
    ReleaseFunding,
    SendMessage,
    SettleHtlc,
    SpendGone,
    StoreChannel,
    TipChanged,
    TxConfirmed,
    TxUnconfirmed,
    WatchOutpoint,
    WatchTx,
)
from protocols.channel.state import BEFORE_FUNDING, Channel, Phase, balances, is_usable, receivable, spendable
from protocols.channel.step import Env, store, then
from protocols.ids import ChannelId
from protocols.onchain.funding import funding_output_script
from protocols.watch.state import Close
from protocols.wire.channel import (
    AcceptChannel,
    ChannelMessage,
    ChannelReady,
    ChannelReestablish,
    ClosingComplete,
    ClosingSig,
    CommitmentSigned,
    Error,
    FailureCode,
    FundingCreated,
    FundingSigned,
    OpenChannel,
    RevokeAndAck,
    Shutdown,
    UpdateAddHtlc,
    UpdateFailHtlc,
    UpdateFulfillHtlc,
    Warn,
)

SCRIPT = b"\x00\x14" + bytes(20)


def messages(kit: Any, channel_id: ChannelId) -> list[ChannelMessage]:
    """One of each, well formed as bytes."""
    point = kit.bob_keys.per_commitment_point(9)
    terms = (354, 900_000_000, 20_000, 1)
    points = (point, point, point, point, point, point)
    closing = (SCRIPT, SCRIPT, 500, 0, b"", b"", bytes(64))
    return [
        OpenChannel(kit.asset, channel_id, 500_000, 0, *terms, 144, 114, *points, SCRIPT),
        AcceptChannel(channel_id, *terms, 3, 144, 114, *points, SCRIPT),
        FundingCreated(channel_id, bytes(32), 0, bytes(64)),
        FundingSigned(channel_id, bytes(64)),
        ChannelReady(channel_id, point),
        UpdateAddHtlc(channel_id, 0, 1_000_000, kit.hash_of(9), 1100),
        UpdateFulfillHtlc(channel_id, 0, kit.preimage_of(9)),
        UpdateFailHtlc(channel_id, 0, 1),
        CommitmentSigned(channel_id, bytes(64), ()),
        RevokeAndAck(channel_id, bytes(32), point),
        ChannelReestablish(channel_id, 1, 0, bytes(32), point),
        Shutdown(channel_id, SCRIPT),
        ClosingComplete(channel_id, *closing),
        ClosingSig(channel_id, *closing),
        Error(channel_id, "no"),
        Warn(channel_id, "hm"),
    ]


def local_events(kit: Any, channel: Channel) -> list[Any]:
    channel_id, peer = channel.channel_id, channel.peer
    return [
        kit.request(),
        FundingBuilt(channel_id=channel_id, transaction=kit.funding_of(funding(kit), kit.capacity), output_index=1),
        FundingFailed(channel_id=channel_id, reason="no coins"),
        LinkUp(peer=peer),
        LinkDown(peer=peer),
        kit.offer(channel, 77),
        SettleHtlc(channel_id=channel_id, htlc_id=0, preimage=kit.preimage_of(1)),
        FailHtlc(channel_id=channel_id, htlc_id=0, code=FailureCode.TIMED_OUT),
        CloseRequested(channel_id=channel_id, force=False),
        CloseRequested(channel_id=channel_id, force=True),
        Flush(),
        TipChanged(),
        TxConfirmed(txid=bytes(32), height=1000),
        TxUnconfirmed(txid=bytes(32)),
        OutputSpent(outpoint=outpoint(0), transaction=bytes(60), height=1000),
        SpendGone(outpoint=outpoint(0)),
    ]


def funding(kit: Any) -> bytes:
    return funding_output_script(kit.alice_keys.points, kit.bob_keys.points)


def outpoint(index: int) -> Any:
    return Outpoint(txid=bytes(32), index=index)


def channels(kit: Any) -> dict[Phase, tuple[Channel, Env]]:
    """A real channel of Alice's (Bob's for ACCEPTED) in each phase."""
    found: dict[Phase, tuple[Channel, Env]] = {}

    def note(node: Any) -> None:
        found.setdefault(node.now.phase, (node.now, node.env))

    pair = kit.pair()
    pair.connected = True
    pair.alice.batch(kit.request())
    note(pair.alice)
    pair.deliver(pair.alice)
    note(pair.bob)
    pair.deliver(pair.bob)
    note(pair.alice)
    pair.fund()
    note(pair.alice)
    pair.quiet()
    note(pair.alice)
    pair.confirm()
    pair.quiet()
    pair.bob.batch(kit.offer(pair.bob.now, 1))
    pair.quiet()
    note(pair.alice)
    lost = replace(pair.alice.now, phase=Phase.LOST, failure="lost data")
    found[Phase.LOST] = (lost, pair.alice.env)
    pair.alice.batch(CloseRequested(channel_id=pair.alice.now.channel_id, force=False))
    note(pair.alice)
    pair.quiet()
    told = pair.alice.received()[0]
    pair.alice.batch(FailHtlc(channel_id=told.channel_id, htlc_id=0, code=FailureCode.TIMED_OUT))
    pair.quiet()
    note(pair.alice)
    found[Phase.CLOSED] = (
        replace(pair.alice.now, phase=Phase.CLOSED, close=Close(resolved=True)),
        pair.alice.env,
    )
    forced = kit.pair().open()
    forced.bob.batch(kit.offer(forced.bob.now, 1))
    forced.quiet()
    forced.alice.batch(CloseRequested(channel_id=forced.alice.now.channel_id, force=True))
    note(forced.alice)
    assert set(found) == set(Phase)
    return found


@pytest.fixture(scope="module")
def in_phase(kit: Any) -> dict[Phase, tuple[Channel, Env]]:
    return channels(kit)


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("place", range(16))
def test_a_local_event_in_any_phase_never_raises_and_changes_nothing_unless_it_is_legal(
    kit: Any, in_phase: Any, phase: Phase, place: int
) -> None:
    channel, env = in_phase[phase]
    event = local_events(kit, channel)[place]
    encoded = msgspec.msgpack.encode(channel)
    step = handle(channel, event, env)
    assert msgspec.msgpack.encode(channel) == encoded  # never in place
    if type(event) not in LEGAL[phase]:
        assert step.channel is channel
        assert all(isinstance(each, HtlcRefused | ReleaseFunding) for each in step.effects)
    assert stores_are_true(step.channel, step.effects)


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("place", range(16))
def test_a_message_in_any_phase_never_raises_and_is_taken_only_where_it_is_legal(
    kit: Any, in_phase: Any, phase: Phase, place: int
) -> None:
    channel, env = in_phase[phase]
    message = messages(kit, channel.channel_id)[place]
    encoded = msgspec.msgpack.encode(channel)
    step = handle(channel, MessageReceived(peer=channel.peer, message=message, key_index=9), env)
    assert msgspec.msgpack.encode(channel) == encoded
    assert stores_are_true(step.channel, step.effects)
    kinds = [type(each) for each in step.effects]
    if phase in (Phase.LOST, Phase.CLOSED):
        assert PublishWithChild not in kinds
    if type(message) in LEGAL[phase] or isinstance(message, OpenChannel):
        return
    errors = [each for each in step.effects if isinstance(each, SendMessage) and isinstance(each.message, Error)]
    if phase in BEFORE_FUNDING:
        assert step.channel is None
        assert errors
    elif step.channel is not channel:
        assert step.channel is not None
        assert step.channel.phase is Phase.FORCED
        assert errors
    else:
        assert step.effects == ()


def stores_are_true(channel: Channel | None, effects: tuple[Any, ...]) -> bool:
    """At most one store, first, and of the state that the step ends with."""
    stores = [each for each in effects if isinstance(each, StoreChannel)]
    return stores == [] or (effects[0] is stores[0] and len(stores) == 1 and stores[0].channel is channel)


@pytest.mark.parametrize("phase", [Phase.CONFIRMING, Phase.OPEN, Phase.SHUTTING, Phase.CLOSING])
def test_before_it_is_reestablished_only_a_few_messages_are_heard(kit: Any, in_phase: Any, phase: Phase) -> None:
    channel, env = in_phase[phase]
    away = replace(channel, reestablished=False)
    for message in messages(kit, channel.channel_id):
        if isinstance(message, ChannelReestablish | Error | OpenChannel):
            continue
        step = handle(away, MessageReceived(peer=channel.peer, message=message), env)
        assert (step.channel, step.effects) == (away, ())


@pytest.mark.parametrize("phase", list(Phase))
def test_what_is_loaded_is_not_thought_to_be_connected(kit: Any, in_phase: Any, phase: Phase) -> None:
    channel, env = in_phase[phase]
    fresh = loaded(channel)
    assert not fresh.connected
    assert not fresh.reestablished
    assert not is_usable(fresh)
    assert spendable(fresh) == receivable(fresh) == 0
    step = resume(channel, env)
    if phase in BEFORE_FUNDING - {Phase.SIGNING}:
        assert step.channel is None
        return
    assert step.channel == fresh
    if phase is Phase.SIGNING:
        assert step.effects == ()
        return
    kinds = [type(each) for each in step.effects]
    assert (WatchTx in kinds) == (WatchOutpoint in kinds) == (phase is not Phase.CLOSED)
    assert (HtlcReceived in kinds) == (phase in (Phase.OPEN, Phase.SHUTTING))
    assert (PublishWithChild in kinds) == (phase is Phase.FORCED)
    assert SendMessage not in kinds


def test_states_encode_and_come_back_as_they_were(kit: Any, in_phase: Any) -> None:
    decoder = msgspec.msgpack.Decoder(Channel)
    for channel, _ in in_phase.values():
        assert decoder.decode(msgspec.msgpack.encode(channel)) == channel
        held = balances(channel)
        assert held.ours + held.theirs + held.offered + held.received == channel.capacity * 1000


def test_without_a_channel_only_an_opening_makes_one(kit: Any, in_phase: Any) -> None:
    channel, env = in_phase[Phase.OPEN]
    for event in local_events(kit, channel):
        step = handle(None, event, env)
        assert (step.channel is not None) == isinstance(event, OpenRequested)


def test_then_keeps_one_store_of_the_newest_state(kit: Any, in_phase: Any) -> None:
    channel, _ = in_phase[Phase.OPEN]
    newer = replace(channel, failure="x")
    joined = then(store(channel, Warned), store(newer, Warned))
    assert joined.effects == (StoreChannel(channel=newer), Warned, Warned)
    assert joined.channel is newer


Warned = SendMessage(peer=bytes(33), message=Warn(bytes(32), ""))
