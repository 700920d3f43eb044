"""Every message of every protocol: round trip, limits, growth by appended fields, and garbage (DESIGN 4).

Strategies are built from the messages' own types, so a new message or field is tested without a word here. A field
just outside its stated limit must be refused: the schema is the check.
"""

import contextlib
import importlib
import pkgutil
import typing
from types import UnionType

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import protocols.wire
from protocols.errors import DecodeError
from protocols.watch.remedy import SEALED_SIZES
from protocols.wire import link, routing, watch
from protocols.wire.codec import Codec, Message
from protocols.wire.framing import MAX_FRAME
from protocols.wire.routing import MAX_BUNDLE, Bundle, RoutingMessage

MODULES = [
    module
    for each in pkgutil.iter_modules(protocols.wire.__path__)
    if hasattr(module := importlib.import_module(f"protocols.wire.{each.name}"), "CODEC")
]
CODECS: list[Codec] = [module.CODEC for module in MODULES]


def messages_of(module) -> list[type[Message]]:
    union = next(
        value for name, value in vars(module).items() if name.endswith("Message") and isinstance(value, UnionType)
    )
    return list(typing.get_args(union))


MESSAGES = [(module, message) for module in MODULES for message in messages_of(module)]
NAMES = [f"{module.__name__.split('.')[-1]}.{message.__name__}" for module, message in MESSAGES]


def values(kind) -> st.SearchStrategy:
    """Values of a msgspec type, its limits included and preferred."""
    info = msgspec.inspect
    match kind:
        case info.IntType(ge=low, le=high):
            low, high = (-(2**63) if low is None else low), (2**64 - 1 if high is None else high)
            return st.one_of(st.just(low), st.just(high), st.integers(low, high))
        case info.BytesType(min_length=low, max_length=high):
            return st.binary(min_size=low or 0, max_size=min(high or 2000, (low or 0) + 200))
        case info.StrType(min_length=low, max_length=high):
            return st.text(min_size=low or 0, max_size=high or 50)
        case info.BoolType():
            return st.booleans()
        case info.VarTupleType(item_type=item, min_length=low, max_length=high):
            low = low or 0
            return st.lists(values(item), min_size=low, max_size=min(high or 3, low + 3)).map(tuple)
        case info.StructType(cls=cls):
            return instances(cls)
        case info.UnionType(types=kinds):
            return st.one_of(*map(values, kinds))
        case info.NoneType():
            return st.none()
    raise AssertionError(f"a kind of field without a strategy: {kind}")


def instances(message: type[Message]) -> st.SearchStrategy[Message]:
    fields = msgspec.inspect.type_info(message).fields
    return st.builds(message, **{field.name: values(field.type) for field in fields})


def outside(kind) -> list[object]:
    """Values just outside a field's limits, and of another kind."""
    info = msgspec.inspect
    match kind:
        case info.IntType(ge=low, le=high):
            assert low is not None
            assert high is not None, "a number without a limit"
            return [low - 1, *([high + 1] if high < 2**64 - 1 else []), "text", 1.5, None, True]
        case info.BytesType(min_length=low, max_length=high):
            assert high is not None, "bytes without a limit"
            return [bytes(high + 1), *([bytes(low - 1)] if low else []), 7, None]
        case info.StrType(max_length=high):
            assert high is not None, "text without a limit"
            return ["x" * (high + 1), 7, None, b"\xff\xfe"]
        case info.BoolType():
            return [0, 1, None]
        case info.VarTupleType(min_length=low, max_length=high):
            assert high is not None, "a list without a limit"
            return [None, 7, {}, *([[]] if low else [])]
        case info.StructType():
            return [None, 7, []]
    return []


def raw(message: Message) -> list[object]:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(message))


def test_every_protocol_has_its_messages_numbered_without_gaps():
    assert len(MODULES) >= 5
    for module in MODULES:
        tags = [message.__struct_config__.tag for message in messages_of(module)]
        assert tags == list(range(len(tags))), module.__name__
        assert module.CODEC.name == module.PROTOCOL


@pytest.mark.parametrize(("module", "message"), MESSAGES, ids=NAMES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_each_message_comes_back_as_it_went(module, message, data):
    instance = data.draw(instances(message))
    assert module.CODEC.decode(module.CODEC.encode(instance)) == instance


@pytest.mark.parametrize(("module", "message"), MESSAGES, ids=NAMES)
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_fields_that_a_later_version_appends_are_ignored(module, message, data):
    instance = data.draw(instances(message))
    longer = [*raw(instance), 7, b"later", {"a": [1]}]
    assert module.CODEC.decode(msgspec.msgpack.encode(longer)) == instance


@pytest.mark.parametrize(("module", "message"), MESSAGES, ids=NAMES)
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_a_field_outside_its_limits_or_missing_is_refused(module, message, data):
    elements = raw(data.draw(instances(message)))
    for position, field in enumerate(msgspec.inspect.type_info(message).fields, start=1):
        for wrong in outside(field.type):
            bad = [*elements[:position], wrong, *elements[position + 1 :]]
            with pytest.raises(DecodeError):
                module.CODEC.decode(msgspec.msgpack.encode(bad))
        if field.required:
            with pytest.raises(DecodeError):
                module.CODEC.decode(msgspec.msgpack.encode(elements[:position]))


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@settings(max_examples=300, deadline=None)
@given(garbage=st.binary(max_size=300))
def test_garbage_raises_decode_error_only(codec, garbage):
    with contextlib.suppress(DecodeError):
        codec.decode(garbage)


@pytest.mark.parametrize(("module", "message"), MESSAGES, ids=NAMES)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_damaged_message_raises_decode_error_only(module, message, data):
    whole = bytearray(module.CODEC.encode(data.draw(instances(message))))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(whole) - 1))
        whole[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DecodeError):
        module.CODEC.decode(bytes(whole[: data.draw(st.integers(0, len(whole)))]))


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@pytest.mark.parametrize(
    "bomb",
    [
        b"\x91" * 5000,  # arrays within arrays
        b"\xdd\xff\xff\xff\xff",  # an array of 4 billion elements
        b"\xc6\xff\xff\xff\xff",  # bytes of 4 GB
        b"\x92\x00\xdf\xff\xff\xff\xff",  # a map of 4 billion
        b"\xc7\x05\x01hello",  # an extension type
        b"",
        b"\xc0",
        b"\x90",
        b"\x91\xcc\xff",  # a tag that no message has
        b"\x91\xff",
        b"\x91\xa1x",
    ],
    ids=lambda bomb: bomb[:8].hex() or "empty",
)
def test_bombs_and_near_misses_raise_decode_error_only(codec, bomb):
    with pytest.raises(DecodeError):
        codec.decode(bomb)


def test_an_error_names_the_protocol_and_what_was_wrong():
    with pytest.raises(DecodeError, match=r"/rr/link/1: Expected `bytes`, got `int` - at `\$\[1\]`"):
        link.CODEC.decode(b"\x94\x00\x07\x07\xa0")


def test_the_largest_bundle_fits_a_frame():
    asset = b"\xff" * 32
    offer = RoutingMessage(asset, asset, 21 * 10**17, 0xFFFF, 0xFF, 21 * 10**17, asset, 0xFFFF_FFFF)
    assert len(routing.CODEC.encode(Bundle(number=2**63 - 1, offers=(offer,) * MAX_BUNDLE))) <= MAX_FRAME


@pytest.mark.parametrize(
    "message",
    [
        watch.HandOver(
            2**32 - 1, 2**32 - 1, (watch.SealedRemedy(bytes(16), bytes(watch.SMALLEST_SEALED)),) * watch.MAX_REMEDIES
        ),
        watch.HandOver(2**32 - 1, 2**32 - 1, (watch.SealedRemedy(bytes(16), bytes(watch.LARGEST_SEALED)),) * 3),
        watch.Renew(2**32 - 1, 2**32 - 1, (bytes(16),) * watch.MAX_HINTS),
        watch.Withdraw(2**32 - 1, (bytes(16),) * watch.MAX_HINTS),
        watch.Holdings(2**32 - 1, (watch.Held(bytes(16), bytes(32), 2**32 - 1),) * watch.MAX_HELD, True),
    ],
    ids=["remedies", "largest remedies", "renew", "withdraw", "held"],
)
def test_what_a_watcher_is_sent_and_sends_at_most_fits_a_frame(message):
    assert len(watch.CODEC.encode(message)) <= MAX_FRAME


def test_remedies_have_the_sizes_that_the_wire_takes():
    assert (min(SEALED_SIZES), max(SEALED_SIZES)) == (watch.SMALLEST_SEALED, watch.LARGEST_SEALED)
