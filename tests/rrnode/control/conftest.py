"""Directories of the control API's tests; the fake node is one that tests of several areas share."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A private directory whose path is short enough for a socket."""
    path = tmp_path / "n"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory with a short path, which others could reach: pytest's own are long and closed."""
    with tempfile.TemporaryDirectory(dir="/tmp") as path:
        yield Path(path)
