"""The README's first payment by hand: typed as it stands, on free ports, by a real shell with real nodes."""

import re
import socket
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def lines() -> list[str]:
    block = re.search(r"## A first payment by hand.*?```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    return block[1].splitlines()


def test_it_is_ten_lines() -> None:
    assert len(lines()) == 10


@pytest.mark.slow
def test_it_works_as_typed(data_dir: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    end = "code=$?; set +e; for n in alice bob; do rrnode --datadir $n stop; done >/dev/null 2>&1; kill %1 2>/dev/null; exit $code"
    script = f"set -e -m; trap '{end}' EXIT\n" + "\n".join(lines())
    for typed, here in (
        ("18443", str(port)),
        ("--route $C", "--route --listen /ip4/127.0.0.1/tcp/0 $C"),
        ('"$(mktemp -d)"', str(data_dir.parent)),
    ):
        assert typed in script
        script = script.replace(typed, here)
    assert (ROOT / ".venv/bin/activate").exists() or pytest.skip("no .venv: make setup makes one")
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^paid +1,500 sat$", done.stdout, re.MULTILINE)
    assert re.search(r"^receipt +[0-9a-f]{64}$", done.stdout, re.MULTILINE)
    assert "settled" in done.stderr
