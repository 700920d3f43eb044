"""The 24 words: made, checked and explained. Source: BIP 39; bdkpython does the arithmetic."""

import difflib
from functools import cache

import bdkpython as bdk

from rrnode.errors import UserError

WORD_COUNT = 24


def new_words() -> str:
    """24 fresh words (256 bits of the operating system's randomness), separated by single spaces."""
    return str(bdk.Mnemonic(bdk.WordCount.WORDS24))


def check_words(text: str) -> str:
    """Check words that somebody typed.

    Returns:
        The words in lower case, separated by single spaces.

    Raises:
        UserError: a sentence that says which word is wrong, how many are missing, or that the checksum fails.
    """
    words = text.lower().split()
    if len(words) != WORD_COUNT:
        raise UserError(
            f"{len(words)} words were given, {WORD_COUNT} are needed: check that none is missing or doubled"
        )
    sentence = " ".join(words)
    try:
        bdk.Mnemonic.from_string(sentence)
    except bdk.Bip39Error.UnknownWord as error:
        raise UserError(_unknown(words, error.index)) from None
    except bdk.Bip39Error.InvalidChecksum:
        raise UserError(
            "all the words exist, but their checksum is wrong: one of them was written down wrongly, or two have changed places"
        ) from None
    except bdk.Bip39Error as error:
        raise UserError(f"these are no seed words: {error}") from None
    return sentence


def _unknown(words: list[str], index: int) -> str:
    near = difflib.get_close_matches(words[index], word_list(), n=3, cutoff=0.7)
    hint = f": did you mean {' or '.join(near)}?" if near else "; check it against what you wrote down"
    return f'word {index + 1} ("{words[index]}") is not one of the seed words{hint}'


@cache
def word_list() -> tuple[str, ...]:
    """The 2,048 English words in their order, read out of bdkpython by encoding every 11-bit number once."""
    found: list[str] = []
    for start in range(0, 2048, 23):  # 24 words hold 23 free 11-bit numbers, 3 free bits and the checksum
        bits = 0
        for number in range(start, start + 23):
            bits = bits << 11 | number % 2048
        entropy = (bits << 3).to_bytes(32, "big")
        found += str(bdk.Mnemonic.from_entropy(entropy)).split()[:23]
    return tuple(found[:2048])
