"""Where a Bitcoin Core may be on this machine: `$BITCOIND`, the PATH, or what `make bitcoind` has built."""

import os
import shutil
from pathlib import Path

import platformdirs

from rrnode.errors import UserError


def cache_dir() -> Path:
    """Where builds are kept: the user's cache directory, never the source tree."""
    return Path(platformdirs.user_cache_dir("rrnode"))


def find_bitcoind(cache: Path) -> Path | None:
    """The bitcoind to use: `$BITCOIND`, else the one on the PATH, else the newest built one.

    Raises:
        UserError: `$BITCOIND` is set to something that is no program.
    """
    if named := os.environ.get("BITCOIND"):
        found = shutil.which(named)
        if found is None:
            raise UserError(f"$BITCOIND is {named!r}, which is no program that can be run")
        return Path(found)
    if on_path := shutil.which("bitcoind"):
        return Path(on_path)
    built = [path for path in cache.glob("bitcoin-core-*/bitcoind") if os.access(path, os.X_OK)]
    return max(built, key=lambda path: path.stat().st_mtime, default=None)
