"""The frame of the command line: help, mistakes, faults without tracebacks, and how quickly it is there."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rrnode.cli import main
from rrnode.version import VERSION

ROOT = Path(__file__).parents[3]
HEAVY = ("libp2p", "fastapi", "starlette", "hypercorn", "sqlalchemy", "bdkpython", "pbk", "coincurve", "multiaddr")


def test_the_version_is_the_projects(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"rrnode {VERSION}\n"
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == VERSION


def test_without_a_command_it_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["channel"], ["wallet"], ["chain"]):
        assert main(words) == 2
        assert "Commands:" in capsys.readouterr().out
    assert main(["--help"]) == 0
    assert "superconnector" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["stauts"], "No such command 'stauts'"),
        (["pay"], "Missing argument"),
        (["status", "--jsn"], "No such option: --jsn"),
        (["chain", "mine", "0"], "Invalid value for"),
    ],
)
def test_a_mistyped_command_line_is_one_sentence(
    capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"rrnode: {sentence}")
    assert "--help" in captured.err
    assert main([*words, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"].startswith(sentence)


def test_global_flags_may_stand_anywhere(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    place = str(tmp_path / "x")
    for words in (
        ["--datadir", place, "status"],
        ["status", "--datadir", place],
        ["channel", "list", f"--datadir={place}", "--network", "signet"],
    ):
        assert main(words) == 3
        assert f"there is no node in {place}\n" in capsys.readouterr().err
    assert main(["status", "--datadir"]) == 2
    assert "No such option: --datadir" in capsys.readouterr().err
    assert main(["disconnect", "--", "--datadir"]) == 3
    assert main(["chain", "serve", "--datadir", place, "--help"]) == 0


async def test_a_fault_of_ours_is_a_sentence_and_a_traceback_only_with_debug(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr("rrnode.control.client.ControlClient.get", broken)
    result = await run("status")
    assert (result.code, result.out) == (4, "")
    assert result.err == (
        "rrnode: this command failed by a fault of its own (RuntimeError: unforeseen)\n"
        "try: run it again with: rrnode --debug ..., and report what it shows\n"
    )
    with pytest.raises(RuntimeError, match="unforeseen"):
        await run("--debug", "status")


async def test_an_interrupted_command_says_so(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rrnode.control.client.ControlClient.get", interrupted)
    assert (await run("status")).code == 130


def test_client_commands_load_nothing_heavy() -> None:
    code = (
        "import sys; from rrnode.cli import main; main(['--datadir', '/nonexistent', 'status'])\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_command_line_is_there_within_half_a_second_of_processor_time() -> None:
    code = "import time; a = time.process_time(); import rrnode.cli; print(time.process_time() - a)"
    best = min(
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(3)
    )
    assert best < 0.5


def test_output_into_a_closed_pipe_is_no_fault() -> None:
    command = f"{sys.executable} -m rrnode.cli --help | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, env=os.environ)
    assert (done.stdout, done.stderr) == ("U", "")


# --- blocks straight from a chain's RPC -------------------------------------------------------------------------------


class Core:
    """As much of Bitcoin Core's RPC as `chain mine --rpc` asks, on a real local socket."""

    def __init__(self) -> None:
        import threading
        from http.server import BaseHTTPRequestHandler, HTTPServer

        core = self
        self.asked: list[tuple[str, Any, str | None]] = []
        self.answer: tuple[int, bytes] | None = None

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                order = json.loads(self.rfile.read(int(self.headers["content-length"])))
                core.asked.append((order["method"], order["params"], self.headers.get("authorization")))
                results = {"generatetoaddress": ["11" * 32] * 2, "getblockcount": 7}
                good = json.dumps({"result": results[order["method"]], "error": None, "id": order["id"]}).encode()
                status, body = core.answer or (200, good)
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def core() -> Any:
    core = Core()
    yield core
    core.close()


async def test_blocks_are_made_by_rpc_with_the_cookie(run: Any, core: Core, tmp_path: Path) -> None:
    (tmp_path / ".cookie").write_text("user:word\n")
    result = await run("chain", "mine", "2", "--rpc", core.url, "--cookie", str(tmp_path / ".cookie"), "--to", "bcrt1q")
    assert result.out == "2 blocks; the chain is at block 7.\n"
    assert core.asked == [
        ("generatetoaddress", [2, "bcrt1q"], "Basic dXNlcjp3b3Jk"),
        ("getblockcount", [], "Basic dXNlcjp3b3Jk"),
    ]


async def test_a_chain_that_refuses_is_one_sentence(run: Any, core: Core, fake: ModuleType) -> None:
    order = ("chain", "mine", "--rpc", core.url)
    assert "--rpc needs an address" in (await run(*order)).err
    for answer, sentence in (
        ((401, b""), "wants a password"),
        (
            (500, b'{"result": null, "error": {"message": "no such address"}}'),
            "the chain refused generatetoaddress: no such",
        ),
        ((200, b"<html>"), "is no Bitcoin Core RPC"),
        ((200, b"[]"), "is no Bitcoin Core RPC"),
    ):
        core.answer = answer
        result = await run(*order, "--to", "x")
        assert result.code == 1
        assert sentence in result.err
    nobody = await run("chain", "mine", "--rpc", "http://127.0.0.1:1", "--to", "x")
    assert nobody.err.startswith("rrnode: no chain answers at http://127.0.0.1:1")
