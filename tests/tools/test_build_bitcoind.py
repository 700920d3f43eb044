"""Finding a bitcoind and saying what is missing to build one; the build itself is run by CI once, not here."""

import pytest

from tools import build_bitcoind as tool


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """A machine without any bitcoind."""
    monkeypatch.delenv("BITCOIND", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(tool, "cache_dir", lambda: tmp_path / "cache")
    (tmp_path / "bin").mkdir()
    return tmp_path


def program(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_where_there_is_none_none_is_found(nowhere):
    assert tool.find_bitcoind() is None


def test_the_variable_goes_before_the_path_and_the_path_before_the_cache(nowhere, monkeypatch):
    built = program(nowhere / "cache" / "bitcoin-core-31.0.0" / "bitcoind")
    assert tool.find_bitcoind() == built
    on_path = program(nowhere / "bin" / "bitcoind")
    assert tool.find_bitcoind() == on_path
    named = program(nowhere / "own" / "bitcoind")
    monkeypatch.setenv("BITCOIND", str(named))
    assert tool.find_bitcoind() == named


def test_a_variable_that_names_no_program_is_said_so(nowhere, monkeypatch, capsys):
    monkeypatch.setenv("BITCOIND", str(nowhere / "missing"))
    with pytest.raises(tool.BuildFailed, match="no program that can be run"):
        tool.find_bitcoind()
    assert tool.main([]) == 1
    assert "no program that can be run" in capsys.readouterr().err


def test_what_is_there_is_not_built_again(nowhere, capsys):
    built = program(nowhere / "cache" / "bitcoin-core-31.0.0" / "bitcoind")
    assert tool.main([]) == 0
    assert capsys.readouterr().out == f"bitcoind is there: {built}\n"


def test_missing_packages_are_named_and_not_installed(nowhere, capsys, monkeypatch):
    assert tool.missing_packages() == ("g++", "pkg-config")
    monkeypatch.setattr(tool, "install_packages", lambda packages: pytest.fail("not without being asked"))
    assert tool.main([]) == 1
    assert "apt-get install g++ pkg-config" in capsys.readouterr().err


def test_headers_that_the_compiler_does_not_find_are_missing(monkeypatch):
    monkeypatch.setattr(tool, "_compiler_finds", lambda header: header != "event2/event.h")
    monkeypatch.setattr(tool.shutil, "which", lambda name: f"/bin/{name}")
    assert tool.missing_packages() == ("libevent-dev",)


def test_the_version_is_what_the_source_says(tmp_path):
    (tmp_path / "CMakeLists.txt").write_text(
        "set(CLIENT_VERSION_MAJOR 31)\nset(CLIENT_VERSION_MINOR 1)\nset(CLIENT_VERSION_BUILD 0)\n"
    )
    assert tool.source_version(tmp_path) == "31.1.0"
