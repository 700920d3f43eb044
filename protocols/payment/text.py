"""Checksummed text for bytes: bech32m (BIP 350) without the limit of 90 characters, in one case so that QR codes stay small.

The checksum finds any error with a probability of 1 - 2^-30; the guarantee for few errors that BIP 173 gives ends at 90
characters, which is why what moves money is signed besides (`protocols.payment.request`).
"""

from collections.abc import Sequence

from bitcoin.segwit_addr import CHARSET, bech32_hrp_expand, bech32_polymod, convertbits

from protocols.errors import DecodeError, MisuseError

MAX_TEXT = 2000  # characters; a QR code of the largest size holds twice as many
_BECH32M = 0x2BC830A3  # BIP 350
_CHECKSUM = 6  # characters
_VALUES = {letter: value for value, letter in enumerate(CHARSET)}


def encode(prefix: str, payload: bytes) -> str:
    """`prefix`, the separator 1, the payload in groups of five bits, six characters of checksum; all lower case.

    Raises:
        MisuseError: longer than `MAX_TEXT`, or a prefix that bech32 does not allow.
    """
    if not prefix or prefix != prefix.lower() or not all(33 <= ord(letter) <= 126 for letter in prefix):
        raise MisuseError(f"prefix {prefix!r}: printable lower-case ASCII wanted")
    values = convertbits(payload, 8, 5)
    assert values is not None
    polymod = bech32_polymod([*bech32_hrp_expand(prefix), *values, *[0] * _CHECKSUM]) ^ _BECH32M
    checksum = [(polymod >> 5 * (_CHECKSUM - 1 - i)) & 31 for i in range(_CHECKSUM)]
    text = prefix + "1" + "".join(CHARSET[value] for value in [*values, *checksum])
    if len(text) > MAX_TEXT:
        raise MisuseError(f"text of {len(text)} characters, at most {MAX_TEXT} allowed")
    return text


def decode(text: str) -> tuple[str, bytes]:
    """The prefix and the payload. White space around the text is ignored; all upper case is as good as all lower case.

    Raises:
        DecodeError: a sentence that says what is wrong with the text.
    """
    text = text.strip()
    if len(text) > MAX_TEXT:
        raise DecodeError(f"this text has {len(text)} characters, at most {MAX_TEXT} are allowed")
    if text != text.lower() and text != text.upper():
        raise DecodeError("this text mixes upper and lower case; it was not copied whole")
    text = text.lower()
    prefix, separator, data = text.rpartition("1")
    if not separator or not prefix or len(data) < _CHECKSUM or not all(33 <= ord(letter) <= 126 for letter in prefix):
        raise DecodeError("this is neither a contact nor a payment request")
    values = [_VALUES.get(letter, -1) for letter in data]
    if -1 in values:
        wrong = data[values.index(-1)]
        raise DecodeError(f"the character {wrong!r} does not belong into this text; it was not copied whole")
    if bech32_polymod([*bech32_hrp_expand(prefix), *values]) != _BECH32M:
        raise DecodeError("the checksum is wrong: a character of this text was changed or lost")
    return prefix, _bytes_of(values[:-_CHECKSUM])


def _bytes_of(values: Sequence[int]) -> bytes:
    payload = convertbits(values, 5, 8, False)
    if payload is None:
        raise DecodeError("this text ends in bits that mean nothing")
    return bytes(payload)
