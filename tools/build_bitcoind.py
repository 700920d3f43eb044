"""Find a Bitcoin Core for the tests, or build one into the user's cache directory (`make bitcoind`).

The source tree of Bitcoin Core is part of py-bitcoinkernel's source distribution, which pip fetches like any package; the
version is the one this project pins. Nothing is installed on the system unless `--install-packages` asks for it (CI).
"""

import argparse
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rrnode.demo import core
from rrnode.demo.core import cache_dir
from rrnode.errors import UserError

DISTRIBUTION = "py-bitcoinkernel"
HOW_TO_GET_ONE = "no bitcoind: set $BITCOIND, put one on the PATH, or run `make bitcoind` (builds Bitcoin Core once)"

# What has to be there, as (Debian package, a file of it that the compiler must find).
_HEADERS = (
    ("libboost-dev", "boost/version.hpp"),
    ("libevent-dev", "event2/event.h"),
    ("libsqlite3-dev", "sqlite3.h"),
    ("libzmq3-dev", "zmq.h"),
)
_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_DAEMON=ON",
    "-DBUILD_CLI=ON",
    "-DBUILD_GUI=OFF",
    "-DBUILD_TESTS=OFF",
    "-DBUILD_BENCH=OFF",
    "-DBUILD_FUZZ_BINARY=OFF",
    "-DBUILD_TX=OFF",
    "-DBUILD_UTIL=OFF",
    "-DBUILD_UTIL_CHAINSTATE=OFF",
    "-DBUILD_KERNEL_LIB=OFF",
    "-DBUILD_BITCOIN_BIN=OFF",
    "-DENABLE_IPC=OFF",
    "-DENABLE_EXTERNAL_SIGNER=OFF",
    "-DENABLE_WALLET=ON",
    "-DWITH_ZMQ=ON",
    "-DINSTALL_MAN=OFF",
)
_ABANDONED_AFTER = 24 * 3600  # seconds
_TARGETS = ("bitcoind", "bitcoin-cli")
_PROGRESS = re.compile(r"^\[\s*(?:(\d+)%|(\d+)/(\d+))\]")


class BuildFailed(Exception):
    """The build cannot go on; the message says what to do."""


def find_bitcoind() -> Path | None:
    """The bitcoind to use, None when there is none. Raises BuildFailed when `$BITCOIND` is set to no program."""
    try:
        return core.find_bitcoind(cache_dir())
    except UserError as error:
        raise BuildFailed(str(error)) from None


def missing_packages() -> tuple[str, ...]:
    """Debian packages (by name) that the build needs and this machine does not have."""
    missing = []
    if shutil.which("c++") is None and shutil.which("g++") is None and shutil.which("clang++") is None:
        missing.append("g++")
    else:
        missing += [package for package, header in _HEADERS if not _compiler_finds(header)]
    if shutil.which("pkg-config") is None and shutil.which("pkgconf") is None:
        missing.append("pkg-config")
    return tuple(missing)


def _compiler_finds(header: str) -> bool:
    compiler = next(name for name in ("c++", "g++", "clang++") if shutil.which(name))
    probe = subprocess.run(
        [compiler, "-E", "-x", "c++", "-"],
        input=f"#include <{header}>\n",
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    return probe.returncode == 0


def install_packages(packages: Sequence[str]) -> None:
    """Install Debian packages; for CI, as root.

    Raises:
        BuildFailed: not root, no apt-get, or apt-get failed.
    """
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise BuildFailed("--install-packages needs root and apt-get")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", *packages]):
        _run(command, environment=environment)


def _run(command: Sequence[object], *, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-15:])
        raise BuildFailed(f"{' '.join(map(str, command[:4]))} ... failed with exit code {done.returncode}:\n{tail}")


def _fetch_source(work: Path) -> tuple[Path, Path]:
    """Fetch and unpack the source distribution; gives (Bitcoin Core's tree, the temporary venv's bin directory)."""
    environment = work / "venv"
    _run([sys.executable, "-m", "venv", environment])
    python = environment / "bin" / "python"
    # pip asks the source distribution for its metadata, for which its build backend must be at hand.
    _run([python, "-m", "pip", "install", "--quiet", "scikit-build-core", "cmake", "ninja"])
    version = importlib.metadata.version(DISTRIBUTION)
    print(f"fetching the source distribution of {DISTRIBUTION} {version}", flush=True)
    fetch = [python, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--no-build-isolation"]
    path = f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
    _run([*fetch, "--dest", work, f"{DISTRIBUTION}=={version}"], environment=os.environ | {"PATH": path})
    archives = list(work.glob("*.tar.gz"))
    if len(archives) != 1:
        raise BuildFailed(f"pip left {len(archives)} archives, 1 wanted")
    with tarfile.open(archives[0]) as archive:
        archive.extractall(work / "source", filter="data")
    trees = list((work / "source").glob("*/depend/bitcoin/CMakeLists.txt"))
    if len(trees) != 1:
        raise BuildFailed(f"{archives[0].name} does not carry Bitcoin Core's source tree under depend/bitcoin")
    return trees[0].parent, environment / "bin"


def source_version(tree: Path) -> str:
    """Bitcoin Core's version as its build file states it, e.g. `31.0.0`."""
    text = (tree / "CMakeLists.txt").read_text()
    parts = [re.search(rf"set\(CLIENT_VERSION_{name} (\d+)\)", text) for name in ("MAJOR", "MINOR", "BUILD")]
    return ".".join(part.group(1) if part else "0" for part in parts)


def _compile(build: Path, cmake: str, jobs: int) -> None:
    command = [cmake, "--build", str(build), "--parallel", str(jobs), "--target", *_TARGETS]
    started, shown = time.monotonic(), -1
    tail: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            tail = [*tail[-40:], line.rstrip()]
            match = _PROGRESS.match(line)
            if match is None:
                continue
            percent = int(match[1]) if match[1] else 100 * int(match[2]) // int(match[3])
            if percent > shown:
                shown = percent
                minutes = (time.monotonic() - started) / 60
                end = "" if sys.stdout.isatty() else "\n"
                if sys.stdout.isatty() or percent % 5 == 0:
                    print(f"\rcompiling Bitcoin Core: {percent:3d} %, {minutes:.1f} min", end=end, flush=True)
    if sys.stdout.isatty():
        print()
    if process.returncode:
        raise BuildFailed("the compiler failed:\n" + "\n".join(tail[-15:]))


def build(jobs: int) -> Path:
    """Build bitcoind and bitcoin-cli from the pinned source and put them into the cache; gives bitcoind's path.

    Raises:
        BuildFailed: packages are missing, the source cannot be fetched, or the build failed.
    """
    if missing := missing_packages():
        raise BuildFailed(
            f"missing: {' '.join(missing)}\ninstall with: apt-get install {' '.join(missing)}  (as root; Debian's names)"
        )
    cache_dir().mkdir(parents=True, exist_ok=True)
    for left in cache_dir().glob("build-*"):  # of a build that was killed
        if time.time() - left.stat().st_mtime > _ABANDONED_AFTER:
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="build-", dir=cache_dir()) as temporary:
        work = Path(temporary)
        tree, bin_directory = _fetch_source(work)
        version = source_version(tree)
        cmake, ninja = str(bin_directory / "cmake"), bin_directory / "ninja"
        print(f"configuring Bitcoin Core {version}", flush=True)
        out = work / "out"
        _run([cmake, "-S", tree, "-B", out, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}", *_OPTIONS])
        _compile(out, cmake, jobs)
        target = cache_dir() / f"bitcoin-core-{version}"
        target.mkdir(exist_ok=True)
        for name in _TARGETS:
            program = out / "bin" / name
            if strip := shutil.which("strip"):
                _run([strip, program])
            staged = target / f".{name}.new"
            shutil.copy2(program, staged)
            staged.replace(target / name)
    return target / "bitcoind"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of `python -m tools.build_bitcoind`; exit code 0 when there is a bitcoind to use."""
    parser = argparse.ArgumentParser(prog="make bitcoind", description=__doc__)
    parser.add_argument(
        "--install-packages", action="store_true", help="install missing Debian packages (root; for CI)"
    )
    parser.add_argument("--rebuild", action="store_true", help="build even when there is one already")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="compile so many files at once")
    options = parser.parse_args(arguments)
    try:
        if not options.rebuild and (found := find_bitcoind()) is not None:
            print(f"bitcoind is there: {found}")
            return 0
        if options.install_packages and (missing := missing_packages()):
            print(f"installing {' '.join(missing)}", flush=True)
            install_packages(missing)
        print("building Bitcoin Core takes about 12 minutes on two cores", flush=True)
        print(f"bitcoind is there: {build(options.jobs)}")
    except BuildFailed as failure:
        print(f"no bitcoind was built: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
