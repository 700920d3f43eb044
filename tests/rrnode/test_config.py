"""The configuration: where each value comes from, what is refused and in which words, the file that `init` writes."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootstrap.networks import MAINNET, REGTEST, SIGNET
from bootstrap.relays import Relay, RelayList
from protocols.channel.events import ChannelConfig
from protocols.payment.config import EngineConfig
from protocols.payment.payer import WaitPolicy
from protocols.routing.config import RoutingConfig
from protocols.routing.pricing import Rate
from protocols.units import BlockDelta, Msat
from rrnode.config import CONFIG_NAME, ConfigError, Settings, load
from rrnode.config.settings import SECTIONS, default_of
from rrnode.config.template import render, toml_value
from rrnode.control.text import peer_text
from rrnode.errors import UserError
from rrnode.host.peer_text import from_text

PEER = peer_text(b"\x02" * 33)  # type: ignore[arg-type]
SECOND = "16Uiu2HAm5hPxT7s3TA2f4b4YjAPzS7yLRSgdj87ysDZ6NAXMiRuY"
KEEP = f"/ip4/192.0.2.7/tcp/9780/p2p/{PEER}"


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    (tmp_path / CONFIG_NAME).write_text("")
    return tmp_path


def from_file(data_dir: Path, text: str, **more: Any) -> Settings:
    (data_dir / CONFIG_NAME).write_text(text)
    return load(data_dir, **more)


def test_an_empty_file_is_a_regtest_client_with_an_embedded_chain(data_dir: Path) -> None:
    found = load(data_dir)
    assert (found.network, found.is_client, found.switches, found.listen) == (REGTEST, True, 0, ())
    assert (found.chain.kind, found.storage_url) == ("kernel", f"sqlite:///{data_dir}/rrnode.sqlite")
    assert (found.locks.lock_delta, found.channels.to_self_delay) == (6, 6)


def test_later_sources_win(data_dir: Path) -> None:
    text = "[fees]\nppm = 1\nbase_msat = 1\n[wait]\nquiet_ms = 1\n"
    environment = {"RRNODE_FEES_PPM": "2", "RRNODE_WAIT_QUIET_MS": "2", "PATH": "/bin", "RRNODE_DATADIR": "/x"}
    found = from_file(data_dir, text, environment=environment, flags={"wait.quiet_ms": "3"})
    assert (found.fees.base_msat, found.fees.ppm, found.wait.quiet_ms) == (1, 2, 3)


def test_real_networks_wait_longer_and_ask_a_bitcoind(data_dir: Path) -> None:
    found = from_file(data_dir, '[node]\nnetwork = "signet"\n[roles]\nroute = true\n')
    assert (found.network, found.chain.kind, found.rpc_url) == (SIGNET, "bitcoind", "http://127.0.0.1:38332")
    assert (found.locks.lock_delta, found.channels.to_self_delay, found.channels.settle_margin) == (40, 144, 18)
    assert found.cookie_file == Path.home() / ".bitcoin/signet/.cookie"
    assert (found.listen, found.switches) == (("/ip4/0.0.0.0/tcp/39780",), 1)


def test_naming_a_bitcoind_on_regtest_means_to_use_it(data_dir: Path) -> None:
    found = from_file(data_dir, '[chain]\nurl = "http://127.0.0.1:5"\nuser = "u"\npassword = "p"\n')
    assert (found.chain.kind, found.rpc_url, found.cookie_file) == ("bitcoind", "http://127.0.0.1:5", None)
    assert "'p'" not in repr(found)


def test_the_engines_get_what_is_configured(data_dir: Path) -> None:
    text = """
        [roles]
        route = true
        [fees]
        base_msat = 7
        ppm = 8
        [locks]
        lock_delta = 50
        final_lock = 30
        max_lock = 500
        [channels]
        to_self_delay = 9
        chain_reserve_sat = 77
        settle_margin = 18
        [limits]
        max_channels = 5
        table_offers = 100
        [assets]
        rates = ["signet regtest 3/2"]
        [wait]
        quiet_ms = 1
        maximum_ms = 2
        good_enough_ppm = 3
        max_fee_ppm = 10000
        max_fee_base_msat = 5
    """
    found = from_file(data_dir, text)
    engine = found.engine_config()
    assert isinstance(engine, EngineConfig)
    assert engine.channel == ChannelConfig(
        to_self_delay=BlockDelta(9),
        settle_margin=BlockDelta(18),
        timeout_grace=BlockDelta(1),
        max_expiry=BlockDelta(644),
    )
    assert (engine.forward.lock_delta, engine.forward.final_lock, engine.forward.max_lock) == (50, 30, 500)
    assert (engine.chain_reserve, engine.max_channels) == (77, 5)
    routing = found.routing_config()
    assert isinstance(routing, RoutingConfig)
    assert (routing.routes, routing.fee.base_msat, routing.fee.ppm, routing.delta, routing.max_offers) == (
        True,
        7,
        8,
        50,
        100,
    )
    assert routing.rates == (Rate(upstream=SIGNET.genesis, downstream=REGTEST.genesis, numerator=3, denominator=2),)
    assert found.wait_policy() == WaitPolicy(quiet=1, maximum=2, good_enough=3)
    assert found.max_fee_for(Msat(199)) == 5 + 1


@pytest.mark.parametrize(
    ("text", "sentence", "hint"),
    [
        ("[fees]\nppm = -1", "fees.ppm is -1, wanted a whole number from 0 to 1000000", ""),
        ("[fees]\nppm = 1.5", "fees.ppm is 1.5, wanted a whole number from 0 to 1000000", ""),
        ("[fees]\nppm = true", "fees.ppm is True, wanted a whole number", ""),
        ('[fees]\nppm = "5"', "fees.ppm is '5', wanted a whole number", ""),
        ("[fees]\nppn = 1", "there is no setting fees.ppn", "did you mean 'ppm'?"),
        ("[chain]\nlisten = 1", "there is no setting chain.listen", "did you mean 'host.listen'?"),
        ("[fee]\nppm = 1", "there is no section 'fee'", "did you mean 'fees'?"),
        ("[zzzz]\n", "there is no section 'zzzz'", "known are: assets, chain, channels"),
        ("fees = 3", "fees is 3, wanted a section: [fees]", ""),
        ("ppm = 3", "there is no section 'ppm'", ""),
        ("[fees\n", "is not TOML: ", ""),
        ("[roles]\nroute = 1", "roles.route is 1, wanted true or false", ""),
        ('[node]\nnetwork = "moon"', "node.network is 'moon', wanted one of regtest, signet, testnet4, mainnet", ""),
        ('[host]\nlisten = "x"', "host.listen is 'x', wanted a list of texts", ""),
        ("[host]\nkeep = [1]", "host.keep is [1], wanted a list of texts", ""),
        ("[chain]\npoll_seconds = inf", "chain.poll_seconds is inf, wanted a number from 0.01 to 600", ""),
        ("[chain]\npassword = 5", "chain.password is (hidden), wanted a text", ""),
        ('[node]\nnetwork = "mainnet"', "node.network is 'mainnet', which is refused", "node.allow_mainnet = true"),
        ('[node]\nnetwork = "signet"\n[chain]\nkind = "kernel"', "the embedded chain is regtest only", "bitcoind"),
        ('[chain]\nkind = "kernel"\nurl = "http://h"', "chain.url says where a bitcoind is", "remove one"),
        ('[chain]\nurl = "ftp://h"', "chain.url is 'ftp://h', wanted http://host:port", "chain.user"),
        ('[chain]\nurl = "http://u:p@h:1"', "wanted http://host:port without user or password", "chain.user"),
        ('[chain]\nurl = "http://h:99999"', "wanted http://host:port", ""),
        ('[chain]\nuser = "me"', "chain.user is 'me', and chain.password is empty", "set chain.password"),
        ('[chain]\nuser = "me"\npassword = "x"\ncookie_file = "c"', "chain.user is set too", "remove one"),
        ('[chain]\nzmq = "28332"', "chain.zmq is '28332', wanted an address like tcp://", "zmqpubsequence"),
        (
            '[chain]\nkind = "remote"',
            "but chain.helpers names 0: wanted 2 (chain.least_helpers) to 8",
            "add or remove",
        ),
        (
            f'[chain]\nkind = "remote"\nhelpers = ["{KEEP}", "{KEEP}"]\nallow_related = true',
            "is the same node as another one",
            "different people",
        ),
        (
            f'[chain]\nkind = "remote"\nhelpers = ["/ip4/1.2.3.4/tcp/5/p2p/{PEER}", "/ip4/1.2.9.9/tcp/5/p2p/{SECOND}"]',
            "is in the same network (1.2.0.0/16) as another one",
            "chain.allow_related = true",
        ),
        (
            f'[chain]\nkind = "remote"\nhelpers = ["/ip4/1.2.3.4/tcp/5/p2p/{PEER}", "/ip4/9.9.9.9/tcp/5/p2p/{SECOND}"]\n'
            f'[peers]\noperators = ["{PEER} Ann", "{SECOND} Bob", "{SECOND}  ANN"]',
            "has the same operator (ann) as another one",
            "chain.allow_related = true",
        ),
        (f'[peers]\noperators = ["{PEER}"]', f"and holds '{PEER}'", "peer id, name"),
        ('[peers]\noperators = ["nobody Ann"]', "and holds 'nobody Ann'", "peer id, name"),
        (f'[peers]\noperators = ["{PEER} {"n" * 101}"]', "and holds", "peer id, name"),
        ('[chain]\nkind = "remote"\nhelpers = ["x", "y"]', "and 'x' is not a multiaddr", "for example"),
        (
            f'[chain]\nkind = "remote"\nleast_helpers = 1\nhelpers = ["{KEEP}"]\ncheckpoint = "7"',
            "which is not what was wanted: a height and the 160 hexadecimal digits of a header",
            "leave it empty",
        ),
        (
            f'[chain]\nkind = "remote"\nleast_helpers = 1\nhelpers = ["{KEEP}"]\n[roles]\nchain = true',
            "but a node without a chain of its own can neither serve it nor watch for others",
            "set roles.chain",
        ),
        (f'[host]\nlisten = ["{KEEP}"]', "but a client (no role is on) opens no port", "roles.route = true"),
        ('[host]\nkeep = ["/ip4/1.2.3.4/tcp/5"]', "does not end in /p2p/<peer id>", "for example"),
        ('[host]\nkeep = ["/ip4/1.2.3/tcp/5/p2p/x"]', "is not a multiaddr", "for example"),
        (
            '[host]\nkeep = ["/ip4/1.2.3.4/tcp/5/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"]',
            "names no usable peer",
            "",
        ),
        ('[host]\nkeep = ["nowhere"]', "is not a multiaddr", ""),
        ('[fees]\nneighbours = ["x 1 2"]', "and holds 'x 1 2'", "5000 2500"),
        (f'[fees]\nneighbours = ["{PEER} 1 1000001"]', "and holds", "5000 2500"),
        (f'[fees]\nneighbours = ["{PEER} 1 2", "{PEER} 3 4"]', "names a neighbour twice", "remove one"),
        ("[locks]\nlock_delta = 4", "locks.lock_delta is 4, wanted at least 5", "lower the other two"),
        ("[locks]\nfinal_lock = 3", "locks.final_lock is 3, wanted more than channels.settle_margin (3)", "raise it"),
        ("[locks]\nmax_lock = 11", "locks.max_lock is 11, wanted at least", "raise it"),
        (
            "[channels]\nminimum_capacity_sat = 5000\nmaximum_capacity_sat = 4000",
            "below channels.minimum_capacity_sat",
            "",
        ),
        ("[channels]\nmaximum_to_self_delay = 5", "shorter than what we ask for ourselves (6)", ""),
        ("[wait]\nquiet_ms = 5000\nmaximum_ms = 10", "longer than wait.maximum_ms (10)", ""),
        ('[roles]\nroute = true\nfollowers = ["16Uiu2"]', "one of them is no peer id", "16Uiu2HA"),
        (f'[roles]\nfollowers = ["{PEER}"]', "a node that does not route has no feed", "roles.route"),
        ('[watch]\nwatchers = ["/ip4/1.2.3.4/tcp/5"]', "does not end in /p2p/<peer id>", "for example"),
        (
            f'[watch]\nwatchers = ["/ip4/1.2.3.4/tcp/5/p2p/{PEER}", "/ip4/9.9.9.9/tcp/5/p2p/{PEER}"]\nallow_related = true',
            "is the same node as another one",
            "different people",
        ),
        (
            f'[watch]\nwatchers = ["/ip4/1.2.3.4/tcp/5/p2p/{PEER}", "/ip4/1.2.9.9/tcp/5/p2p/{SECOND}"]',
            "is in the same network (1.2.0.0/16) as another one",
            "watch.allow_related = true",
        ),
        (
            f'[watch]\nquorum = 2\nwatchers = ["/ip4/1.2.3.4/tcp/5/p2p/{PEER}"]',
            "watch.quorum is 2, but watch.watchers names 1: no channel would ever take on a payment",
            "name more watchers",
        ),
        ('[storage]\nurl = "mysql://x"', "wanted sqlite:///file or postgresql", "leave it empty"),
        ('[assets]\nrates = ["regtest signet"]', "'regtest signet' is no exchange rate", "signet regtest 3/2"),
        ('[assets]\nrates = ["regtest regtest 1/1"]', "is no exchange rate", ""),
        ('[assets]\nrates = ["regtest signet 0/1"]', "is no exchange rate", ""),
        ('[assets]\nrates = ["regtest signet 1.5"]', "is no exchange rate", ""),
        ('[assets]\nrates = ["regtest moon 1"]', "is no exchange rate", ""),
        ('[assets]\nrates = ["regtest signet 1", "regtest signet 2"]', "names a pair of assets twice", ""),
    ],
)
def test_what_cannot_be_is_refused_with_file_key_and_what_was_wanted(
    data_dir: Path, text: str, sentence: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        from_file(data_dir, text)
    assert str(refused.value).startswith(str(data_dir / CONFIG_NAME))
    assert sentence in str(refused.value)
    assert hint in refused.value.hint
    assert "\n" not in str(refused.value)


def test_related_helpers_and_watchers_are_taken_when_their_owner_says_so(data_dir: Path) -> None:
    near = f'["/ip4/1.2.3.4/tcp/5/p2p/{PEER}", "/ip4/1.2.9.9/tcp/5/p2p/{SECOND}"]'
    text = f'[chain]\nkind = "remote"\nhelpers = {near}\nallow_related = true\n'
    assert len(from_file(data_dir, text + f"[watch]\nwatchers = {near}\nallow_related = true").chain.helpers) == 2


def test_helper_may_be_a_watcher_too(data_dir: Path) -> None:
    two = f'["/ip4/1.2.3.4/tcp/5/p2p/{PEER}", "/ip4/9.9.9.9/tcp/5/p2p/{SECOND}"]'
    found = from_file(data_dir, f'[chain]\nkind = "remote"\nhelpers = {two}\n[watch]\nwatchers = {two}')
    assert found.chain.helpers == found.watch.watchers


def test_operators_are_those_that_the_user_names_and_those_of_the_relays_that_ship(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = RelayList(relays=(Relay(identity=SECOND, addresses=("/ip4/1.2.3.4/tcp/5",), operator="Bob"),))
    monkeypatch.setattr("rrnode.config.settings.whole.shipped_relays", lambda network: shipped)
    found = from_file(data_dir, f'[peers]\noperators = ["{SECOND} Ann Other", "{PEER} Eve"]')
    assert found.operators == {from_text(SECOND): {"Ann Other", "Bob"}, from_text(PEER): {"Eve"}}


def test_mistakes_elsewhere_name_their_own_source(data_dir: Path) -> None:
    with pytest.raises(ConfigError, match=r"^environment variable RRNODE_FEES_PPM: fees.ppm is 'x', wanted"):
        load(data_dir, environment={"RRNODE_FEES_PPM": "x"})
    with pytest.raises(ConfigError, match=r"^environment variable RRNODE_FEES: there is no setting fees\."):
        load(data_dir, environment={"RRNODE_FEES": "1"})
    with pytest.raises(ConfigError, match=r"^environment variable RRNODE_HOME: there is no section 'home'"):
        load(data_dir, environment={"RRNODE_HOME": "x"})
    with pytest.raises(ConfigError, match=r"^command line: wait.quiet_ms is 20000, which is longer"):
        load(data_dir, flags={"wait.quiet_ms": "20000"})
    with pytest.raises(ConfigError, match=r"^command line: there is no section ''"):
        load(data_dir, flags={"": "1"})


def test_mainnet_goes_on_only_when_it_is_allowed(data_dir: Path) -> None:
    text = '[node]\nnetwork = "mainnet"\nallow_mainnet = true'
    found = from_file(data_dir, text)
    assert (found.network, found.cookie_file) == (MAINNET, Path.home() / ".bitcoin/.cookie")


def test_files_that_are_no_configuration_are_refused(data_dir: Path, tmp_path: Path) -> None:
    path = data_dir / CONFIG_NAME
    path.write_bytes(b"\xff\xfe[fees]")
    with pytest.raises(ConfigError, match="is not UTF-8 text at byte 0"):
        load(data_dir)
    path.write_bytes(b"#" * (2 << 20))
    with pytest.raises(ConfigError, match="which is no configuration"):
        load(data_dir)
    path.write_text("x = " + "[" * 5000 + "]" * 5000)
    with pytest.raises(ConfigError, match=r"nested too deeply|is not TOML|there is no section"):
        load(data_dir)
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(data_dir)
    with pytest.raises(ConfigError, match="there is no node in") as refused:
        load(tmp_path / "elsewhere")
    assert refused.value.hint.endswith("init")
    assert load(tmp_path / "elsewhere", need_file=False).network == REGTEST


@pytest.mark.parametrize("network", ["regtest", "signet", "testnet4"])
def test_the_written_file_shows_every_setting_and_changes_nothing(data_dir: Path, network: str) -> None:
    text = render(network, {("node", "network"): network})
    written = from_file(data_dir, text)
    uncommented = "\n".join(
        line[1:] if line.startswith("#") and not line.startswith("# ") else line for line in text.splitlines()
    )
    document = tomllib.loads(uncommented)
    assert {section: set(table) for section, table in document.items()} == {
        section: set(kind.__dataclass_fields__) for section, kind in SECTIONS.items()
    }
    for section, table in document.items():
        for key, value in table.items():
            expected = default_of(section, key, network) if (section, key) != ("node", "network") else network
            assert (tuple(value) if isinstance(value, list) else value) == expected
            assert getattr(getattr(written, section), key) == expected
    assert max(len(line) for line in text.splitlines()) <= 120


@given(st.text())
def test_any_text_survives_the_file(text: str) -> None:
    encoded = text.encode("utf-8", "replace").decode()
    assert tomllib.loads(f"x = {toml_value(encoded)}") == {"x": encoded}


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([f"{section}.{key}" for section in SECTIONS for key in SECTIONS[section].__dataclass_fields__])
        | st.text(max_size=12),
        st.text(max_size=12)
        | st.integers().map(str)
        | st.floats().map(str)
        | st.sampled_from(["true", "no", "mainnet", "signet", KEEP, f"{KEEP},{KEEP}", "signet regtest 1/2", "kernel"]),
        max_size=4,
    )
)
def test_any_flags_are_a_configuration_or_one_sentence(flags: dict[str, str]) -> None:
    try:
        found = load(Path("/nonexistent"), flags=flags, need_file=False)
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        found.engine_config()
        found.routing_config()
        assert found.storage_url
        assert found.listen is not None


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200) | st.text(alphabet="[]=\"'\n.#feswaitpmrol0123456789 ", max_size=80).map(str.encode))
def test_any_file_is_a_configuration_or_one_sentence(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    data_dir = tmp_path_factory.mktemp("c")
    (data_dir / CONFIG_NAME).write_bytes(content)
    try:
        load(data_dir)
    except ConfigError as error:
        assert str(data_dir) in str(error)  # noqa: PT017
