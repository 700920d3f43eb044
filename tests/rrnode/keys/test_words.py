"""The 24 words: made, checked, and what is said about wrong ones."""

import pytest

from rrnode.errors import UserError
from rrnode.keys import check_words, new_words
from rrnode.keys.words import word_list

GOOD = " ".join(["abandon"] * 23 + ["art"])


def refusal(text: str) -> str:
    with pytest.raises(UserError) as caught:
        check_words(text)
    return str(caught.value)


def test_fresh_words_are_24_good_ones_and_never_the_same() -> None:
    first, second = new_words(), new_words()
    assert check_words(first) == first
    assert len(first.split()) == 24
    assert first != second


def test_case_and_spaces_do_not_matter() -> None:
    assert check_words("  " + GOOD.upper().replace(" ", "\n  ") + "\n") == GOOD


def test_a_missing_word_is_counted() -> None:
    assert refusal(" ".join(GOOD.split()[:-1])).startswith("23 words were given, 24 are needed")


def test_twelve_good_words_are_too_few() -> None:
    assert refusal(" ".join(["abandon"] * 11 + ["about"])).startswith("12 words were given, 24 are needed")


def test_an_unknown_word_is_named_with_its_place_and_what_was_meant() -> None:
    words = GOOD.split()
    words[4] = "abandom"
    assert (
        refusal(" ".join(words)) == 'word 5 ("abandom") is not one of the seed words: did you mean abandon or random?'
    )


def test_a_word_like_no_other_is_named_without_a_guess() -> None:
    words = GOOD.split()
    words[23] = "zzzzzzzz"
    assert (
        refusal(" ".join(words))
        == 'word 24 ("zzzzzzzz") is not one of the seed words; check it against what you wrote down'
    )


def test_a_wrong_checksum_says_that_the_words_exist() -> None:
    assert "their checksum is wrong" in refusal(" ".join(["abandon"] * 24))


def test_the_word_list_is_the_english_one_of_bip_39() -> None:
    words = word_list()
    assert len(set(words)) == 2048
    assert (words[0], words[1], words[2047]) == ("abandon", "ability", "zoo")
    assert list(words) == sorted(words)
