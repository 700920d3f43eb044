"""A line of three processes for crash tests; see `crash_kit`."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from crash_kit import Line


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    """A---B---C, running."""
    with Line(tmp_path) as made:
        yield made
