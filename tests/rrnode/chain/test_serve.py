"""`rrnode chain serve` as a process of its own: it says where it is, ends when told to, and says what is wrong."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from rrnode.chain.bitcoind import BitcoindChain
from rrnode.chain.serve import serve_chain

SENTENCE = re.compile(rb"a regtest is served at (http://127.0.0.1:\d+), its cookie is in (\S+)\n")


def command(*arguments):
    return [sys.executable, "-m", "rrnode.chain.serve", *map(str, arguments)]


async def started(process):
    text = b""
    with trio.fail_after(30):
        while b"\n" not in text:
            piece = await process.stdout.receive_some()
            assert piece, text
            text += piece
    match = SENTENCE.fullmatch(text)
    assert match is not None, text
    return match[1].decode(), Path(match[2].decode())


async def failed(*arguments):
    done = await trio.run_process(command(*arguments), check=False, capture_stderr=True, capture_stdout=True)
    return done.returncode, done.stdout, done.stderr.decode()


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
async def test_it_serves_until_it_is_told_to_end(tmp_path, kit, ending):
    process = await trio.lowlevel.open_process(
        command("--datadir", tmp_path / "chain", "--port", 0, "--mine-every", 0.1, "--feerate", 3000),
        stdout=subprocess.PIPE,
    )
    try:
        address, cookie = await started(process)
        assert cookie == tmp_path / "chain" / ".cookie"
        chain = BitcoindChain(address, cookie=cookie, poll_every=0.05)
        async with chain.running():
            await chain.mine(2, kit.OPEN)
            tip = await chain.tip()
            with trio.fail_after(10):
                await chain.wait_for_change(tip, await chain.wait_for_change(tip, -1))  # one comes by itself
            assert await chain.feerate(2) == 3000
        code, _, error = await failed("--datadir", tmp_path / "chain", "--port", 0)
        assert (code, "in use by another process" in error, "Traceback" in error) == (1, True, False)
        code, _, error = await failed("--datadir", tmp_path / "two", "--port", address.rsplit(":", 1)[1])
        assert (code, "Address already in use" in error, "Traceback" in error) == (1, True, False)
    finally:
        process.send_signal(ending)
        with trio.fail_after(10):
            assert await process.wait() == 0
    assert not cookie.exists()


async def test_it_can_be_part_of_another_process(tmp_path, nursery, kit):
    async def serve(task_status):
        await serve_chain(tmp_path / "chain", port=0, cookie=tmp_path / "cookie", task_status=task_status)

    port = await nursery.start(serve)
    async with BitcoindChain(f"http://127.0.0.1:{port}", cookie=tmp_path / "cookie").running():
        pass
    nursery.cancel_scope.cancel()
