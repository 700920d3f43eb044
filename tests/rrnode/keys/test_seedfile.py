"""The seed file: whole or not at all, for its owner only, never overwritten."""

import os
from pathlib import Path

import pytest

from rrnode.errors import UserError
from rrnode.keys import SeedFile

GOOD = " ".join(["abandon"] * 23 + ["art"])
OTHER = " ".join(["zoo"] * 23 + ["vote"])


@pytest.fixture
def seed(tmp_path: Path) -> SeedFile:
    return SeedFile(tmp_path)


def test_what_was_written_is_read_by_its_owner_only(seed: SeedFile) -> None:
    assert not seed.exists()
    seed.create(GOOD)
    assert seed.exists()
    assert seed.read() == GOOD
    assert os.stat(seed.path).st_mode & 0o777 == 0o600
    assert os.listdir(seed.path.parent) == ["seed"]


def test_the_mode_does_not_depend_on_the_umask(seed: SeedFile) -> None:
    before = os.umask(0)
    try:
        seed.create(GOOD)
    finally:
        os.umask(before)
    assert os.stat(seed.path).st_mode & 0o777 == 0o600


def test_a_seed_is_never_overwritten(seed: SeedFile) -> None:
    seed.create(GOOD)
    with pytest.raises(UserError, match="never overwritten"):
        seed.create(OTHER)
    assert seed.read() == GOOD
    assert os.listdir(seed.path.parent) == ["seed"]


def test_not_even_a_dangling_link_is_overwritten(seed: SeedFile) -> None:
    seed.path.symlink_to(seed.path.parent / "elsewhere")
    with pytest.raises(UserError, match="never overwritten"):
        seed.create(GOOD)
    assert not (seed.path.parent / "elsewhere").exists()


def test_wrong_words_are_not_written(seed: SeedFile) -> None:
    with pytest.raises(UserError, match="23 words"):
        seed.create(" ".join(GOOD.split()[1:]))
    assert os.listdir(seed.path.parent) == []


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="could not be written to"):
        SeedFile(tmp_path / "nowhere").create(GOOD)


def test_no_seed_says_what_to_run(seed: SeedFile) -> None:
    with pytest.raises(UserError, match="there is no seed") as caught:
        seed.read()
    assert caught.value.hint == "make one with: rrnode init"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666, 0o644])
def test_a_seed_that_others_can_read_is_refused_with_the_cure(seed: SeedFile, mode: int) -> None:
    seed.create(GOOD)
    os.chmod(seed.path, mode)
    with pytest.raises(UserError, match="can be read by others") as caught:
        seed.read()
    assert caught.value.hint == f"run: chmod 600 {seed.path}"


def test_a_link_is_not_followed(seed: SeedFile, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    SeedFile(elsewhere).create(GOOD)
    seed.path.symlink_to(elsewhere / "seed")
    with pytest.raises(UserError, match="cannot be opened"):
        seed.read()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "0 words"),
        (b"\xff\xfe\x00", "no text"),
        (GOOD.encode()[:-2], 'word 24 ("a")'.replace("(", r"\(").replace(")", r"\)")),
        (b"# " + GOOD.encode(), "0 words"),
        (b"abandon " * 1000, "too long"),
    ],
)
def test_a_damaged_seed_says_how(seed: SeedFile, content: bytes, said: str) -> None:
    seed.path.write_bytes(content)
    seed.path.chmod(0o600)
    with pytest.raises(UserError, match=f"is damaged: .*{said}"):
        seed.read()


def test_a_directory_in_its_place_is_refused(seed: SeedFile) -> None:
    seed.path.mkdir()
    with pytest.raises(UserError, match="no plain file"):
        seed.read()


def test_only_words_made_just_now_are_fresh_and_only_until_a_wallet_was_opened(tmp_path: Path) -> None:
    made, typed = tmp_path / "made", tmp_path / "typed"
    for directory in (made, typed):
        directory.mkdir()
    SeedFile(made).create(GOOD, fresh=True)
    SeedFile(typed).create(GOOD)
    assert SeedFile(made).is_fresh()
    assert not SeedFile(typed).is_fresh()
    SeedFile(made).mark_used()
    SeedFile(made).mark_used()
    assert not SeedFile(made).is_fresh()


def test_words_typed_after_a_creation_that_broke_off_are_not_fresh(tmp_path: Path) -> None:
    (tmp_path / "seed.fresh").touch()
    SeedFile(tmp_path).create(GOOD)
    assert not SeedFile(tmp_path).is_fresh()


def test_an_attempt_to_overwrite_does_not_change_whether_a_seed_is_fresh(seed: SeedFile) -> None:
    seed.create(GOOD)
    with pytest.raises(UserError, match="never overwritten"):
        seed.create(OTHER, fresh=True)
    assert not seed.is_fresh()
