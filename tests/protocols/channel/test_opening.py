"""Opening a channel: every message and effect in order, every term that BOLT 2 refuses, confirmations, reorganisations,
patience. Whole effect lists."""

from typing import Any

import msgspec
import pytest

from protocols.channel.commitments import build_ours, build_theirs
from protocols.channel.events import (
    Alarm,
    BuildFunding,
    ChannelChanged,
    CloseRequested,
    ForgetChannel,
    FundingBuilt,
    FundingFailed,
    LinkDown,
    LinkUp,
    MessageReceived,
    Publish,
    PublishWithChild,
    Purpose,
    ReleaseFunding,
    SendMessage,
    StoreChannel,
    TipChanged,
    TxConfirmed,
    TxUnconfirmed,
    WatchOutpoint,
    WatchTx,
)
from protocols.channel.state import Phase, is_usable, receivable, spendable
from protocols.errors import MisuseError
from protocols.ids import ChannelId, Txid, channel_id_of
from protocols.onchain import commitment
from protocols.onchain.funding import funding_output_script
from protocols.onchain.tx import Tx, TxInput, TxOutput, txid_of
from protocols.units import BlockHeight, Msat, Sat
from protocols.wire.channel import (
    AcceptChannel,
    ChannelReady,
    Error,
    FundingCreated,
    FundingSigned,
    OpenChannel,
)


def sent(effects: list[Any]) -> list[Any]:
    return [each.message for each in effects if isinstance(each, SendMessage)]


def test_a_channel_opens_message_by_message(kit: Any, pair: Any) -> None:
    alice, bob = pair.alice, pair.bob
    temporary = kit.request().temporary_id
    points, theirs = kit.alice_keys.points, kit.bob_keys.points

    effects = alice.ask(kit.request())
    open_channel = OpenChannel(
        chain=kit.asset,
        temporary_channel_id=temporary,
        funding_sat=1_000_000,
        push_msat=400_000_000,
        dust_limit_sat=354,
        max_htlc_value_in_flight_msat=900_000_000,
        channel_reserve_sat=20_000,
        htlc_minimum_msat=1,
        to_self_delay=144,
        max_accepted_htlcs=114,
        funding_pubkey=points.funding_pubkey,
        revocation_basepoint=points.revocation,
        payment_basepoint=points.payment,
        delayed_payment_basepoint=points.delayed_payment,
        htlc_basepoint=points.htlc,
        first_per_commitment_point=kit.alice_keys.per_commitment_point(0),
        shutdown_script=alice.now.our_terms.shutdown_script,
    )
    assert alice.now.phase is Phase.OPENING
    assert effects == [
        StoreChannel(channel=alice.now),
        SendMessage(peer=kit.bob_id, message=open_channel),
        ChannelChanged(channel_id=temporary),
    ]

    effects = bob.ask(pair.event(bob, open_channel))
    (accept,) = sent(effects)
    assert effects == [SendMessage(peer=kit.alice_id, message=accept)]
    assert bob.now.phase is Phase.ACCEPTED
    assert bob.disk is None
    assert accept == AcceptChannel(
        temporary_channel_id=temporary,
        dust_limit_sat=354,
        max_htlc_value_in_flight_msat=900_000_000,
        channel_reserve_sat=20_000,
        htlc_minimum_msat=1,
        minimum_depth=3,
        to_self_delay=144,
        max_accepted_htlcs=114,
        funding_pubkey=theirs.funding_pubkey,
        revocation_basepoint=theirs.revocation,
        payment_basepoint=theirs.payment,
        delayed_payment_basepoint=theirs.delayed_payment,
        htlc_basepoint=theirs.htlc,
        first_per_commitment_point=kit.bob_keys.per_commitment_point(0),
        shutdown_script=bob.now.our_terms.shutdown_script,
    )

    effects = alice.ask(pair.event(alice, accept))
    script = funding_output_script(points, theirs)
    assert alice.now.phase is Phase.FUNDING
    assert effects == [
        StoreChannel(channel=alice.now),
        BuildFunding(channel_id=temporary, script=script, amount=Sat(1_000_000)),
        ChannelChanged(channel_id=temporary),
    ]

    transaction = kit.funding_of(script, Sat(1_000_000))
    effects = alice.ask(FundingBuilt(channel_id=temporary, transaction=transaction, output_index=1))
    txid = txid_of(transaction)
    permanent = channel_id_of(txid, 1)
    built = build_theirs(alice.now, 0, kit.bob_keys.per_commitment_point(0))
    created = FundingCreated(temporary, txid, 1, commitment.sign(built, kit.alice_keys.funding_secret))
    assert alice.now.phase is Phase.SIGNING
    assert effects == [
        StoreChannel(channel=alice.now, replaces=temporary),
        SendMessage(peer=kit.bob_id, message=created),
        ChannelChanged(channel_id=permanent),
    ]

    effects = bob.ask(pair.event(bob, created))
    built = build_theirs(bob.now, 0, kit.alice_keys.per_commitment_point(0))
    signed = FundingSigned(permanent, commitment.sign(built, kit.bob_keys.funding_secret))
    watches = [
        WatchTx(txid=txid, script=script, from_height=kit.tip_at),
        WatchOutpoint(outpoint=bob.now.funding, script=script, from_height=kit.tip_at),
    ]
    assert bob.now.phase is Phase.CONFIRMING
    assert effects == [
        StoreChannel(channel=bob.now, replaces=temporary),
        SendMessage(peer=kit.alice_id, message=signed),
        *watches,
        ChannelChanged(channel_id=permanent),
    ]

    effects = alice.ask(pair.event(alice, signed))
    assert alice.now.phase is Phase.CONFIRMING
    assert effects == [
        StoreChannel(channel=alice.now),
        Publish(channel_id=permanent, transaction=transaction, purpose=Purpose.FUNDING),
        *watches,
        ChannelChanged(channel_id=permanent),
    ]
    pair.agree()

    for node, keys in ((alice, kit.alice_keys), (bob, kit.bob_keys)):
        node.tip = BlockHeight(kit.tip_at + 1)
        early = node.ask(TxConfirmed(txid=txid, height=kit.tip_at, transaction=transaction))
        assert early == [StoreChannel(channel=node.now)]
        node.tip = BlockHeight(kit.tip_at + 2)
        effects = node.ask(TipChanged())
        ready = ChannelReady(permanent, keys.per_commitment_point(1))
        assert effects == [
            StoreChannel(channel=node.now),
            SendMessage(peer=node.peer, message=ready),
            ChannelChanged(channel_id=permanent),
        ]
        assert node.now.phase is Phase.CONFIRMING
        assert not is_usable(node.now)
    for node, keys in ((alice, kit.bob_keys), (bob, kit.alice_keys)):
        effects = node.ask(pair.event(node, ChannelReady(permanent, keys.per_commitment_point(1))))
        assert effects == [StoreChannel(channel=node.now), ChannelChanged(channel_id=permanent)]
        assert node.now.phase is Phase.OPEN
        assert is_usable(node.now)
    assert (spendable(alice.now), receivable(alice.now)) == (580_000_000, 380_000_000)
    assert (spendable(bob.now), receivable(bob.now)) == (380_000_000, 580_000_000)


@pytest.mark.parametrize(
    ("capacity", "push", "words"),
    [
        (19_999, 0, "a capacity of 19999 sat"),
        (1_000_000_001, 0, "a capacity of 1000000001 sat"),
        (100_000, 100_000_001, "a push of 100000001 msat"),
        (100_000, -1, "a push of -1 msat"),
    ],
)
def test_an_order_that_cannot_be_is_told_to_the_user(kit: Any, pair: Any, capacity: int, push: int, words: str) -> None:
    (alarm,) = pair.alice.ask(kit.request(Sat(capacity), Msat(push)))
    assert isinstance(alarm, Alarm)
    assert words in alarm.text
    assert pair.alice.channel is None


def test_without_a_chain_no_channel_is_opened_or_accepted(kit: Any, pair: Any) -> None:
    pair.bob.accepts_chain = False
    (message,) = sent(pair.alice.ask(kit.request()))
    (error,) = sent(pair.bob.ask(pair.event(pair.bob, message)))
    assert error == Error(kit.request().temporary_id, "no channel now: the chain cannot be reached")
    pair.alice.channel, pair.alice.accepts_chain = None, False
    (alarm,) = pair.alice.ask(kit.request())
    assert alarm == Alarm(
        channel_id=kit.request().temporary_id, text="no channel was opened: the chain cannot be reached"
    )


BAD_TERMS = [
    ({"dust_limit_sat": 353}, "a dust limit of 353 sat"),
    ({"dust_limit_sat": 20_001, "channel_reserve_sat": 20_001}, "above the reserve of 20000 sat that we ask"),
    ({"dust_limit_sat": 400, "channel_reserve_sat": 399}, "above its own reserve"),
    ({"dust_limit_sat": 5_001, "channel_reserve_sat": 20_000}, "a dust limit of 5001 sat, at most 5000 allowed"),
    ({"dust_limit_sat": 354, "channel_reserve_sat": 353}, "above its own reserve"),
    ({"channel_reserve_sat": 200_001}, "a reserve of 200001 sat"),
    ({"to_self_delay": 2017}, "a to_self_delay of 2017 blocks"),
    ({"to_self_delay": 0}, "a to_self_delay of 0 blocks"),
    ({"max_accepted_htlcs": 0}, "max_accepted_htlcs 0"),
    ({"max_accepted_htlcs": 115}, "max_accepted_htlcs 115"),
    ({"htlc_minimum_msat": 50_000_001}, "an HTLC minimum of 50000001 msat"),
    ({"max_htlc_value_in_flight_msat": 49_999_999}, "at most 49999999 msat in flight"),
    ({"shutdown_script": b"\x6a" + bytes(24)}, "a shutdown script of no allowed form"),
    *[
        ({field: b"\x02" + b"\xff" * 32}, "a public key that is not on the curve")
        for field in (
            "funding_pubkey",
            "revocation_basepoint",
            "payment_basepoint",
            "delayed_payment_basepoint",
            "htlc_basepoint",
            "first_per_commitment_point",
        )
    ],
]


@pytest.mark.parametrize(("change", "words"), BAD_TERMS)
def test_terms_that_bolt_2_refuses_are_refused_by_the_fundee(
    kit: Any, pair: Any, change: dict[str, Any], words: str
) -> None:
    (message,) = sent(pair.alice.ask(kit.request()))
    (error,) = sent(pair.bob.ask(pair.event(pair.bob, msgspec.structs.replace(message, **change))))
    assert error.channel_id == kit.request().temporary_id
    assert words in error.text
    assert pair.bob.channel is None
    assert pair.bob.disk is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"chain": bytes(32)}, "the chain 00000000"),
        ({"funding_sat": 19_999}, "a capacity of 19999 sat"),
        ({"funding_sat": 1_000_000_001}, "a capacity of 1000000001 sat"),
        ({"push_msat": 1_000_000_001}, "a push of 1000000001 msat"),
        ({"funding_sat": 40_000, "push_msat": 20_000_000, "channel_reserve_sat": 8_001}, "a reserve of 8001 sat"),
    ],
)
def test_a_funder_that_lies_about_the_funding_is_refused(
    kit: Any, pair: Any, change: dict[str, Any], words: str
) -> None:
    (message,) = sent(pair.alice.ask(kit.request()))
    (error,) = sent(pair.bob.ask(pair.event(pair.bob, msgspec.structs.replace(message, **change))))
    assert words in error.text
    assert pair.bob.channel is None


def test_a_channel_in_which_nobody_has_more_than_its_reserve_is_refused(kit: Any) -> None:
    pair = kit.pair(reserve_ppm=600_000)
    (message,) = sent(pair.alice.ask(kit.request(Sat(1_000_000), Msat(500_000_000))))
    (error,) = sent(pair.bob.ask(pair.event(pair.bob, msgspec.structs.replace(message, channel_reserve_sat=200_000))))
    # The fundee's own reserve of 600,000 binds the funder; the funder's of 200,000 leaves the fundee its 500,000.
    assert isinstance(error, AcceptChannel)
    pair = kit.pair(reserve_ppm=200_000)
    (message,) = sent(pair.alice.ask(kit.request(Sat(1_000_000), Msat(900_000_000))))
    (answer,) = sent(pair.bob.ask(pair.event(pair.bob, message)))
    assert isinstance(answer, AcceptChannel)
    pair = kit.pair(reserve_ppm=950_000)
    (message,) = sent(pair.alice.ask(kit.request(Sat(1_000_000), Msat(100_000_000))))
    (error,) = sent(pair.bob.ask(pair.event(pair.bob, msgspec.structs.replace(message, channel_reserve_sat=150_000))))
    assert error.text == "neither side would have more than its reserve"


@pytest.mark.parametrize(("change", "words"), [*BAD_TERMS, ({"minimum_depth": 2017}, "a minimum depth of 2017 blocks")])
def test_terms_that_bolt_2_refuses_are_refused_by_the_funder(
    kit: Any, pair: Any, change: dict[str, Any], words: str
) -> None:
    pair.alice.batch(kit.request())
    pair.deliver(pair.alice)
    accept = kit.decode(pair.bob.outbox.popleft())
    effects = pair.alice.ask(pair.event(pair.alice, msgspec.structs.replace(accept, **change)))
    forget, send, release, alarm, changed = effects
    temporary = kit.request().temporary_id
    assert forget == ForgetChannel(channel_id=temporary)
    assert words in send.message.text
    assert release == ReleaseFunding(channel_id=temporary)
    assert words in alarm.text
    assert changed == ChannelChanged(channel_id=temporary)
    assert pair.alice.channel is None


def opening_until(pair: Any, kit: Any, phase: Phase) -> Any:
    """Alice and Bob on the way, Alice having just entered `phase`."""
    pair.connected = True
    pair.alice.batch(kit.request())
    if phase is Phase.OPENING:
        return pair
    pair.quiet()
    if phase is Phase.FUNDING:
        return pair
    pair.fund()
    if phase is Phase.SIGNING:
        return pair
    pair.quiet()
    assert pair.alice.now.phase is Phase.CONFIRMING
    return pair


@pytest.mark.parametrize(
    ("phase", "event"),
    [
        *[(phase, event) for phase in (Phase.OPENING, Phase.FUNDING) for event in ("down", "up", "restart")],
        *[
            (phase, event)
            for phase in (Phase.OPENING, Phase.FUNDING, Phase.SIGNING)
            for event in ("close", "error", "patience")
        ],
    ],
)
def test_before_funding_signed_the_funder_gives_up_with_nothing_lost(
    kit: Any, pair: Any, phase: Phase, event: str
) -> None:
    alice = opening_until(pair, kit, phase).alice
    before = alice.now.channel_id
    if event == "restart":
        effects = alice.restart()
    elif event == "patience":
        alice.tip = BlockHeight(kit.tip_at + 2017)
        effects = alice.ask(TipChanged())
    else:
        effects = alice.ask(
            {
                "down": LinkDown(peer=kit.bob_id),
                "up": LinkUp(peer=kit.bob_id),
                "close": CloseRequested(channel_id=before, force=True),
                "error": pair.event(alice, Error(before, "no")),
            }[event]
        )
    told = {"close": "given up", "patience": "it took too long"}.get(event)
    reason = {
        "down": "the link to the neighbour was lost",
        "up": "the link to the neighbour was lost",
        "restart": "the node was restarted before the funding was signed",
        "close": "given up at our own request",
        "error": "no",
        "patience": "it took too long",
    }[event]
    assert effects == [
        ForgetChannel(channel_id=before),
        *([SendMessage(peer=kit.bob_id, message=Error(before, told))] if told else []),
        ReleaseFunding(channel_id=before),
        Alarm(channel_id=before, text=f"the channel was not opened: {reason}"),
        ChannelChanged(channel_id=before),
    ]
    assert alice.channel is None
    assert alice.disk is None


def test_the_wallet_that_cannot_fund_ends_the_opening_and_tells_why(kit: Any, pair: Any) -> None:
    alice = opening_until(pair, kit, Phase.FUNDING).alice
    temporary = alice.now.channel_id
    effects = alice.ask(FundingFailed(channel_id=temporary, reason="12 sat are missing"))
    assert effects == [
        ForgetChannel(channel_id=temporary),
        SendMessage(peer=kit.bob_id, message=Error(temporary, "the channel is not funded after all")),
        ReleaseFunding(channel_id=temporary),
        Alarm(channel_id=temporary, text="the channel was not opened: 12 sat are missing"),
        ChannelChanged(channel_id=temporary),
    ]
    pair.deliver(alice)
    assert pair.bob.channel is None


def test_a_funding_that_comes_too_late_frees_its_inputs(kit: Any, pair: Any) -> None:
    late = FundingBuilt(channel_id=ChannelId(bytes(32)), transaction=bytes(80), output_index=0)
    assert pair.alice.ask(late) == [ReleaseFunding(channel_id=late.channel_id)]
    opened = kit.pair().open()
    late = FundingBuilt(channel_id=opened.alice.now.channel_id, transaction=bytes(80), output_index=0)
    assert opened.alice.ask(late) == [ReleaseFunding(channel_id=late.channel_id)]


def test_a_funding_transaction_that_does_not_pay_the_channel_is_our_own_bug(kit: Any, pair: Any) -> None:
    alice = opening_until(pair, kit, Phase.FUNDING).alice
    wrong = kit.funding_of(b"\x00\x20" + bytes(32), kit.capacity)
    with pytest.raises(MisuseError, match="does not pay the funding output"):
        alice.step(FundingBuilt(channel_id=alice.now.channel_id, transaction=wrong, output_index=1))


def test_a_wrong_signature_of_the_funder_is_refused(kit: Any, pair: Any) -> None:
    opening_until(pair, kit, Phase.SIGNING)
    temporary = pair.bob.now.channel_id
    created = msgspec.structs.replace(kit.decode(pair.alice.outbox.popleft()), signature=bytes(31) + b"\x01" * 33)
    effects = pair.bob.ask(pair.event(pair.bob, created))
    assert effects == [
        ForgetChannel(channel_id=temporary),
        SendMessage(peer=kit.alice_id, message=Error(temporary, "invalid signature")),
        ChannelChanged(channel_id=temporary),
    ]


def test_a_wrong_signature_of_the_fundee_means_that_nothing_is_published(kit: Any, pair: Any) -> None:
    alice = opening_until(pair, kit, Phase.SIGNING).alice
    permanent = alice.now.channel_id
    pair.deliver(alice)
    signed = msgspec.structs.replace(kit.decode(pair.bob.outbox.popleft()), signature=bytes(31) + b"\x01" * 33)
    effects = alice.ask(pair.event(alice, signed))
    assert effects == [
        ForgetChannel(channel_id=permanent),
        SendMessage(peer=kit.bob_id, message=Error(permanent, "invalid signature")),
        ReleaseFunding(channel_id=permanent),
        Alarm(
            channel_id=permanent,
            text="the channel was not opened: the neighbour signed our first commitment wrongly",
        ),
        ChannelChanged(channel_id=permanent),
    ]
    pair.deliver(alice)
    assert pair.bob.now.phase is Phase.FORCED  # Bob has a stake, and cannot know that nothing was published
    pair.bob.tip = BlockHeight(kit.tip_at + 2017)
    effects = pair.bob.ask(TipChanged())
    assert effects == [ForgetChannel(channel_id=permanent), ChannelChanged(channel_id=permanent)]
    assert pair.bob.channel is None


def test_a_fundee_keeps_a_failed_channel_whose_funding_confirmed(kit: Any, pair: Any) -> None:
    bob = opening_until(pair, kit, Phase.CONFIRMING).bob
    bob.ask(pair.event(bob, Error(bob.now.channel_id, "gone")))
    transaction, txid = pair.alice.now.funding_transaction, bob.now.funding.txid
    bob.ask(TxConfirmed(txid=txid, height=kit.tip_at, transaction=transaction))
    bob.tip = BlockHeight(kit.tip_at + 2017)
    (order,) = [each for each in bob.ask(TipChanged()) if isinstance(each, PublishWithChild)]
    assert order.channel_id == bob.now.channel_id
    assert bob.now.phase is Phase.FORCED


def test_messages_out_of_order_end_the_opening(kit: Any, pair: Any) -> None:
    alice = opening_until(pair, kit, Phase.OPENING).alice
    effects = alice.ask(pair.event(alice, FundingSigned(alice.now.channel_id, bytes(64))))
    assert sent(effects) == [Error(kit.request().temporary_id, "FundingSigned out of order")]
    assert alice.channel is None


def test_a_second_open_channel_replaces_one_that_came_to_nothing(kit: Any, pair: Any) -> None:
    (message,) = sent(pair.alice.ask(kit.request()))
    pair.bob.ask(pair.event(pair.bob, message))
    again = msgspec.structs.replace(message, funding_sat=500_000, push_msat=0)
    (accept,) = sent(pair.bob.ask(pair.event(pair.bob, again)))
    assert isinstance(accept, AcceptChannel)
    assert pair.bob.now.capacity == 500_000
    effects = pair.alice.ask(pair.event(pair.alice, message))
    assert sent(effects) == [Error(kit.request().temporary_id, "that temporary channel id is in use")]


def test_open_channel_needs_a_key_index(kit: Any, pair: Any) -> None:
    with pytest.raises(MisuseError, match="key index"):
        pair.bob.step(MessageReceived(peer=kit.alice_id, message=sent(pair.alice.ask(kit.request()))[0]))


# --- confirmations ---------------------------------------------------------------------------------------------------


def test_the_fundee_looks_at_the_funding_transaction(kit: Any, pair: Any) -> None:
    """A funder that names an output which holds something else would be paid in coins that are not there."""
    bob = opening_until(pair, kit, Phase.CONFIRMING).bob
    permanent, funding = bob.now.channel_id, bob.now.funding
    assert bob.ask(TxConfirmed(txid=funding.txid, height=kit.tip_at)) == []
    wrong = kit.funding_of(b"\x00\x20" + bytes(32), kit.capacity)
    text = "the neighbour's funding transaction does not pay the channel"
    assert bob.ask(TxConfirmed(txid=funding.txid, height=kit.tip_at, transaction=wrong)) == [
        ForgetChannel(channel_id=permanent),
        SendMessage(peer=kit.alice_id, message=Error(permanent, text)),
        Alarm(channel_id=permanent, text=text),
        ChannelChanged(channel_id=permanent),
    ]
    assert bob.channel is None


def test_too_little_in_the_funding_output_is_seen(kit: Any, pair: Any) -> None:
    bob = opening_until(pair, kit, Phase.CONFIRMING).bob
    script = funding_output_script(kit.alice_keys.points, kit.bob_keys.points)
    wrong = kit.funding_of(script, Sat(kit.capacity - 1))
    bob.ask(TxConfirmed(txid=bob.now.funding.txid, height=kit.tip_at, transaction=wrong))
    assert bob.channel is None


def test_a_funding_in_a_block_reward_is_used_only_when_a_commitment_could_spend_it(kit: Any, pair: Any) -> None:
    """Until it is mature, nothing that the funder owes could be claimed, and HTLCs would time out meanwhile."""
    pair.connected = True
    pair.alice.batch(kit.request())
    pair.quiet()
    order = next(each for each in pair.alice.done if isinstance(each, BuildFunding))
    reward = Tx(
        2,
        (TxInput(Txid(bytes(32)), 0xFFFFFFFF, 0xFFFFFFFF, (bytes(32),)),),
        (TxOutput(order.amount, order.script),),
        0,
    )
    funding = FundingBuilt(channel_id=order.channel_id, transaction=reward.serialize(), output_index=0)
    pair.alice.batch(funding)
    pair.quiet()
    pair.confirm()
    pair.quiet()
    for depth, phase in ((99, Phase.CONFIRMING), (100, Phase.OPEN)):
        pair.tip(BlockHeight(kit.tip_at + depth - 1))
        pair.quiet()
        assert pair.bob.now.phase is phase


def test_another_transaction_means_nothing(kit: Any, opened: Any) -> None:
    assert opened.alice.ask(TxConfirmed(txid=bytes(32), height=kit.tip_at, transaction=bytes(80))) == []
    assert opened.alice.ask(TxUnconfirmed(txid=bytes(32))) == []


def test_a_reorganisation_stops_new_htlcs_until_the_funding_is_deep_again(kit: Any, opened: Any) -> None:
    for node in (opened.alice, opened.bob):
        channel_id, txid = node.now.channel_id, node.now.funding.txid
        transaction = opened.alice.now.funding_transaction
        effects = node.ask(TxUnconfirmed(txid=txid))
        assert effects == [StoreChannel(channel=node.now), ChannelChanged(channel_id=channel_id)]
        assert node.now.phase is Phase.OPEN
        assert (spendable(node.now), receivable(node.now)) == (0, 0)
        (refused,) = node.ask(kit.offer(node.now, 1))
        assert refused.reason.name == "NOT_OPEN"
        assert node.ask(TxUnconfirmed(txid=txid)) == []
        node.tip = BlockHeight(kit.tip_at + 3)
        published = [Publish(channel_id=channel_id, transaction=transaction, purpose=Purpose.FUNDING)]
        assert node.ask(TipChanged()) == (published if node is opened.alice else [])
        height = BlockHeight(kit.tip_at + 2)
        effects = node.ask(TxConfirmed(txid=txid, height=height, transaction=transaction))
        assert effects == [StoreChannel(channel=node.now)]
        assert not is_usable(node.now)
        node.tip = BlockHeight(kit.tip_at + 4)
        assert node.ask(TipChanged()) == [StoreChannel(channel=node.now), ChannelChanged(channel_id=channel_id)]
        assert is_usable(node.now)
        assert node.ask(TxConfirmed(txid=txid, height=height, transaction=transaction)) == []


def test_a_reorganisation_that_moves_the_funding_deeper_changes_nothing_else(kit: Any, opened: Any) -> None:
    alice = opened.alice
    transaction = alice.now.funding_transaction
    confirmed = TxConfirmed(txid=alice.now.funding.txid, height=BlockHeight(999), transaction=transaction)
    assert alice.ask(confirmed) == [StoreChannel(channel=alice.now)]
    assert is_usable(alice.now)


def test_the_funding_is_published_at_each_block_until_it_confirms(kit: Any, pair: Any) -> None:
    alice = opening_until(pair, kit, Phase.CONFIRMING).alice
    order = Publish(channel_id=alice.now.channel_id, transaction=alice.now.funding_transaction, purpose=Purpose.FUNDING)
    assert alice.ask(TipChanged()) == [order]
    assert alice.restart()[-1] == order
    assert pair.bob.ask(TipChanged()) == []


def test_a_fundee_forgets_a_funding_that_never_confirms(kit: Any, pair: Any) -> None:
    bob = opening_until(pair, kit, Phase.CONFIRMING).bob
    permanent = bob.now.channel_id
    bob.tip = BlockHeight(kit.tip_at + 2016)
    assert bob.ask(TipChanged()) == []
    bob.tip = BlockHeight(kit.tip_at + 2017)
    assert bob.ask(TipChanged()) == [
        ForgetChannel(channel_id=permanent),
        SendMessage(peer=kit.alice_id, message=Error(permanent, "the funding transaction was never confirmed")),
        ChannelChanged(channel_id=permanent),
    ]


def test_a_fundee_forgets_a_funding_that_never_confirms_though_the_funder_talks_of_closing(kit: Any, pair: Any) -> None:
    """Or a peer could fill the node with channels that cost it nothing."""
    opening_until(pair, kit, Phase.CONFIRMING)
    pair.quiet()
    pair.alice.batch(CloseRequested(channel_id=pair.alice.now.channel_id, force=False))
    pair.quiet()
    assert pair.bob.now.phase is Phase.CLOSING
    pair.bob.tip = BlockHeight(kit.tip_at + 2016)
    pair.bob.ask(TipChanged())
    assert pair.bob.channel is not None
    pair.bob.tip = BlockHeight(kit.tip_at + 2017)
    pair.bob.ask(TipChanged())
    assert pair.bob.channel is None


def test_a_funder_frees_the_inputs_but_keeps_the_way_back(kit: Any, pair: Any) -> None:
    alice = opening_until(pair, kit, Phase.CONFIRMING).alice
    permanent = alice.now.channel_id
    alice.tip = BlockHeight(kit.tip_at + 2017)
    stored, publish, error, alarm, changed, release = alice.ask(TipChanged())
    assert stored == StoreChannel(channel=alice.now)
    assert isinstance(publish, PublishWithChild)
    assert error.message == Error(permanent, "the funding transaction was never confirmed")
    assert alarm == Alarm(channel_id=permanent, text="the funding transaction was never confirmed")
    assert changed == ChannelChanged(channel_id=permanent)
    assert release == ReleaseFunding(channel_id=permanent)
    assert alice.now.phase is Phase.FORCED


def test_an_error_before_confirmation_ends_a_channel_without_a_stake_and_fails_one_with(kit: Any) -> None:
    for push, survives in ((0, False), (1, True)):
        pair = kit.pair()
        pair.connected = True
        pair.alice.batch(kit.request(push=Msat(push)))
        pair.quiet()
        pair.fund()
        pair.quiet()
        bob = pair.bob
        bob.ask(pair.event(bob, Error(bob.now.channel_id, "gone")))
        assert (bob.channel is not None) == survives
        if survives:
            assert bob.now.phase is Phase.FORCED


def test_channel_ready_with_a_key_off_the_curve_fails_the_channel(kit: Any, pair: Any) -> None:
    alice = opening_until(pair, kit, Phase.CONFIRMING).alice
    alice.ask(pair.event(alice, ChannelReady(alice.now.channel_id, b"\x02" + b"\xff" * 32)))
    assert alice.now.phase is Phase.FORCED
    assert "not on the curve" in alice.now.failure


def test_channel_ready_may_come_first_and_twice(kit: Any, pair: Any) -> None:
    bob = opening_until(pair, kit, Phase.CONFIRMING).bob
    ready = pair.event(bob, ChannelReady(bob.now.channel_id, kit.alice_keys.per_commitment_point(1)))
    assert bob.ask(ready) == [StoreChannel(channel=bob.now), ChannelChanged(channel_id=bob.now.channel_id)]
    assert bob.ask(ready) == []
    pair.confirm()
    assert bob.now.phase is Phase.OPEN


def test_the_first_commitments_hold_the_balances_and_the_push(kit: Any, opened: Any) -> None:
    built = build_ours(opened.bob.now, kit.bob_keys, 0)
    assert (built.spec.to_broadcaster, built.spec.to_countersignatory) == (400_000_000, 600_000_000)
