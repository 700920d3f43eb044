"""Making a node and running it: what `init` leaves on disk, what `start` refuses, a life in the background."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio

import rrnode
from rrnode.config import load
from rrnode.datadir import LOG_NAME, PID_NAME, is_locked, locked
from rrnode.keys import SeedFile
from rrnode.keys.words import word_list

WORDS = "abandon " * 23 + "art"  # BIP 39's vector for 32 zero bytes


def there(path: Path) -> bool:
    return path.exists()


def content(path: Path) -> str:
    return path.read_text()


async def test_init_shows_the_words_once_and_keeps_everything_private(run: Any, data_dir: Path) -> None:
    result = await run("init", "--json", "--operator", 'a "quoted" name', "--route", "--set", "fees.ppm=250")
    assert result.code == 0
    made = result.json
    assert len(made["words"]) == 24
    assert set(made["words"]) <= set(word_list())
    assert made["peer_id"].startswith("16Uiu2")
    for name, mode in (("", 0o700), ("seed", 0o600), ("rrnode.toml", 0o600)):
        assert stat.S_IMODE(os.stat(data_dir / name).st_mode) == mode
    settings = load(data_dir)
    assert (settings.node.operator, settings.roles.route, settings.fees.ppm) == ('a "quoted" name', True, 250)
    assert settings.fees.base_msat == 1000
    shown = await run("wallet", "seed", "--json")
    assert shown.json["words"] == made["words"]


async def test_init_for_people_says_what_the_words_are_worth_and_what_is_next(run: Any, data_dir: Path) -> None:
    result = await run("init")
    assert "the only way to your coins" in result.out
    assert result.out.splitlines()[-1] == f"Start it with: rrnode --datadir {data_dir} start"
    words = SeedFile(data_dir).read().split()
    assert f" 1 {words[0]}" in result.out
    assert f"24 {words[23]}" in result.out


async def test_restoring_from_words_gives_the_same_node_and_shows_no_words(run: Any, data_dir: Path) -> None:
    restored = await run("init", "--restore", "--json", stdin=WORDS.upper() + "\n")
    assert restored.code == 0
    assert "words" not in restored.json
    assert SeedFile(data_dir).read() == WORDS
    assert restored.json["restored"] is True


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("one two", "2 words were given, 24 are needed"),
        (WORDS.replace("art", "artt"), 'word 24 ("artt") is not one of the seed words'),
        (WORDS.replace("art", "zoo"), "all the words exist, but their checksum is wrong"),
    ],
)
async def test_wrong_words_make_no_node(run: Any, data_dir: Path, words: str, sentence: str) -> None:
    result = await run("init", "--restore", stdin=words)
    assert result.code == 1
    assert sentence in result.err
    assert not there(data_dir / "rrnode.toml")


async def test_a_node_is_never_made_over_another(run: Any, data_dir: Path) -> None:
    await run("init")
    seed = SeedFile(data_dir).read()
    again = await run("init", "--restore", stdin=WORDS)
    assert (again.code, again.err.splitlines()[0]) == (
        1,
        f"rrnode: there is a node in {data_dir} already (rrnode.toml)",
    )
    assert SeedFile(data_dir).read() == seed
    os.unlink(data_dir / "rrnode.toml")
    assert (await run("init")).err.splitlines()[0] == f"rrnode: there is a node in {data_dir} already (seed)"


@pytest.mark.parametrize(
    ("arguments", "sentence", "hint"),
    [
        (("--set", "fees.pmm=5"), "command line: there is no setting fees.pmm", "did you mean 'ppm'?"),
        (("--set", "fees"), "'fees' sets nothing", "write it like: --set fees.ppm=50"),
        (
            ("--set", "fees.ppm=much"),
            "command line: fees.ppm is 'much', wanted a whole number from 0 to 1000000",
            "",
        ),
        (
            ("--listen", "/ip4/127.0.0.1/tcp/1"),
            "command line: host.listen is",
            "set roles.route = true, or remove host.listen",
        ),
        (("--keep", "/ip4/127.0.0.1/tcp/1", "--route"), "command line: host.keep is", "for example /ip4/"),
    ],
)
async def test_settings_that_cannot_be_make_no_node(
    run: Any, data_dir: Path, arguments: tuple[str, ...], sentence: str, hint: str
) -> None:
    result = await run("init", *arguments)
    assert result.code == 1
    assert result.err.startswith(f"rrnode: {sentence}")
    assert f"try: {hint}" in result.err or not hint
    assert not there(data_dir)


async def test_mainnet_is_refused_unless_the_configuration_allows_it(run: Any, data_dir: Path) -> None:
    refused = await run("--network", "mainnet", "init")
    assert refused.code == 1
    assert "which is refused: this software is young and would handle real money" in refused.err
    assert "allow_mainnet" in refused.err
    assert not there(data_dir)
    assert (await run("--network", "mainnet", "init", "--set", "node.allow_mainnet=true")).code == 0
    wrong = await run("--network", "marsnet", "status")
    assert wrong.err == "rrnode: there is no network 'marsnet'\ntry: known are: regtest, signet, testnet4, mainnet\n"


# --- start ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def node_module(fake: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The fake node in the place of `rrnode.start`."""
    monkeypatch.setitem(sys.modules, "rrnode.start", fake)
    monkeypatch.setattr(rrnode, "start", fake, raising=False)
    return fake


async def test_a_node_runs_in_the_foreground_until_it_is_stopped(
    run: Any, data_dir: Path, node_module: ModuleType
) -> None:
    await run("init")
    async with trio.open_nursery() as nursery:
        codes: list[int] = []

        async def run_it() -> None:
            codes.append((await run("start", "--json")).code)

        nursery.start_soon(run_it)
        with trio.fail_after(30):
            while not is_locked(data_dir) or not there(data_dir / "control.sock"):  # noqa: ASYNC110 (files tell nobody)
                await trio.sleep(0.02)  # leaves the processor to the threads that start it
        second = await run("start")
        assert (second.code, second.err) == (
            1,
            f"rrnode: process {os.getpid()} uses {data_dir}\ntry: stop it with: rrnode --datadir {data_dir} stop\n",
        )
        assert (await run("stop")).code == 0
    assert codes == [0]
    assert not is_locked(data_dir)


async def test_start_refuses_what_is_not_there_or_not_private(
    run: Any, data_dir: Path, node_module: ModuleType
) -> None:
    missing = await run("start")
    assert (
        missing.err == f"rrnode: there is no node in {data_dir}\ntry: make one with: rrnode --datadir {data_dir} init\n"
    )
    await run("init")
    other = await run("--network", "signet", "start")
    assert other.err.startswith(f"rrnode: the node in {data_dir} is on regtest, not on signet\n")
    os.chmod(data_dir, 0o755)
    assert (await run("start")).err == (
        f"rrnode: {data_dir} can be entered by other users\ntry: run: chmod 700 {data_dir}\n"
    )


def behave(folder: Path, body: str) -> dict[str, str]:
    """Environment for processes in which `rrnode.start` is `body`; `fake` is the kit there."""
    folder.mkdir()
    kit = Path(__file__).parents[1] / "control" / "fake_node.py"
    lines = [
        "import importlib.util, sys, types",
        f"spec = importlib.util.spec_from_file_location('fake_node', {str(kit)!r})",
        "def load():",
        "    fake = importlib.util.module_from_spec(spec); sys.modules['fake_node'] = fake",
        "    spec.loader.exec_module(fake); return fake",
        "class Finder:",
        "    def find_spec(self, name, path=None, target=None):",
        "        if name == 'rrnode.start': return importlib.util.spec_from_loader(name, self)",
        "    def create_module(self, spec): return None",
        "    def exec_module(self, module):",
        f"        exec({body!r}, {{'fake': load(), 'module': module}})",
        "sys.meta_path.insert(0, Finder())",
    ]
    (folder / "sitecustomize.py").write_text("\n".join(lines))
    return {"PYTHONPATH": str(folder)}


async def test_a_node_in_the_background_answers_when_start_returns_and_ends_with_stop(
    run: Any, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run("init")
    for name, value in behave(tmp_path / "site", "module.run = fake.run").items():
        monkeypatch.setenv(name, value)
    started = await run("start", "--background", "--json")
    assert started.code == 0, started
    pid = started.json["pid"]
    try:
        assert content(data_dir / PID_NAME) == f"{pid}\n"
        assert content(data_dir / "lock") == f"{pid}\n"
        again = await run("start", "--background")
        assert again.err.startswith(f"rrnode: process {pid} uses {data_dir}\n")
        assert (await run("status", "--json")).code == 0
        assert (await run("stop")).code == 0
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    assert not there(data_dir / PID_NAME)
    assert not is_locked(data_dir)


async def test_a_background_start_that_fails_tells_the_reason(
    run: Any, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run("init")
    body = (
        "from rrnode.errors import UserError\n"
        "async def run(settings, *, ready):\n    import trio\n    async with trio.open_nursery() as nursery:\n        raise UserError('the chain speaks signet', 'check chain.url')\n"
        "module.run = run"
    )
    for name, value in behave(tmp_path / "site", body).items():
        monkeypatch.setenv(name, value)
    result = await run("start", "--background")
    assert result.code == 1
    assert result.err == (
        f"rrnode: the node ended at once: the chain speaks signet\ntry: the whole story is in {data_dir / LOG_NAME}\n"
    )
    assert not is_locked(data_dir)


def test_a_lock_left_by_a_killed_process_locks_nobody_out(tmp_path: Path) -> None:
    hold = (
        "import sys, time; from pathlib import Path; from rrnode.datadir import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert is_locked(tmp_path)
        with pytest.raises(Exception, match=f"process {holder.pid} uses"), locked(tmp_path):
            pass
        holder.kill()
    with locked(tmp_path):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
