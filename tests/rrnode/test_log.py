"""Logs: one stream for everything, two forms, and no secret in either."""

import io
import json
import logging

import pytest

from rrnode import log

SECRETS = {
    "preimage": b"\x07" * 32,
    "seed_words": "abandon art",
    "rpc_password": "hunter2",
    "identity_secret": b"\x08" * 32,
    "cookie": "__cookie__:abc",
    "url": "http://user:hunter2@127.0.0.1:18443/",
    "text": "tprv8ZgxMBicQKsPd7Uf69XL1XwhmjHopUGep8GuEiJDZmbQz6o58LninorQAfcKZWARbtRtfnLcJ5MQ2AtHcQJCCRUcMRvmDUjyEmNUWwx8UbK",
}
LEAKS = ("07" * 32, "08" * 32, "abandon", "hunter2", "__cookie__", "tprv8")


@pytest.fixture(autouse=True)
def _as_a_host_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("libp2p"), "propagate", True)  # importing libp2p alone does not


def set_up(level: str = "debug", form: str = "json") -> io.StringIO:
    stream = io.StringIO()
    log.setup(level, form, stream)
    return stream


@pytest.mark.parametrize("form", ["json", "console"])
def test_secrets_never_reach_a_line(form: str) -> None:
    stream = set_up(form=form)
    log.get("node").info("started", **SECRETS)
    logging.getLogger("somebody").error("dialling %s failed", SECRETS["url"])
    try:
        raise RuntimeError(f"cannot open {SECRETS['url']}")
    except RuntimeError:
        log.get("node").exception("failed")
    written = stream.getvalue()
    assert written.count("(hidden)") >= len(SECRETS) + 2
    for leak in LEAKS:
        assert leak not in written


def test_what_strangers_say_drives_no_terminal() -> None:
    stream = set_up(form="console")
    log.get("host").info("stream ended", reason="\x1b[2J", agent="\x9b2J\u202e\nforged", n=1)
    logging.getLogger("somebody").error("dialling %s failed", "\x1b]0;title\x07")
    try:
        raise RuntimeError("\x1b[2J")
    except RuntimeError:
        log.get("node").exception("failed")
    written = stream.getvalue()
    assert all(each.isprintable() or each == "\n" for each in written)
    assert len(written.splitlines()) > 5  # a trace keeps its lines
    assert "\nforged" not in written


def test_a_json_line_is_an_event_with_its_values() -> None:
    stream = set_up()
    log.get("channels").warning("peer lost", peer=b"\x02\xab", after=3)
    line = json.loads(stream.getvalue())
    assert {key: line[key] for key in ("event", "level", "logger", "peer", "after")} == {
        "event": "peer lost",
        "level": "warning",
        "logger": "rrnode.channels",
        "peer": "02ab",
        "after": 3,
    }
    assert line["timestamp"].endswith("Z")


def test_dependencies_log_into_the_same_stream_and_say_less() -> None:
    stream = set_up(level="info")
    logging.getLogger("libp2p.host").info("opened a stream")
    logging.getLogger("libp2p.host").warning("a stream was reset")
    log.get("node").info("ours")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["a stream was reset", "ours"]


def test_what_goes_well_is_silent_by_default() -> None:
    stream = io.StringIO()
    log.setup(stream=stream)
    log.get("node").info("started")
    assert stream.getvalue() == ""
    log.get("node").warning("disk nearly full")
    assert json.loads(stream.getvalue())["event"] == "disk nearly full"


def test_setting_up_again_replaces_and_does_not_double() -> None:
    set_up()
    stream = set_up()
    log.get("node").error("once")
    assert len(stream.getvalue().splitlines()) == 1
