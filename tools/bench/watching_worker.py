"""A watcher's process of the bench: `python -m tools.bench.watching_worker FILE`.

It opens the store, fills the filter over its hints, and prints what that took.
"""

import json
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from tools.bench.table import resident_bytes
from tools.bench.watched import fill, opened

ONE_PAGE = 25_000  # hints: a little more than are read in one go


def measure(file: Path) -> dict[str, float]:
    """Bytes that the process has more when a store is open and can be asked: `fixed` whatever the number of hints, `all` with
    those of the file; and the `seconds` that the latter took."""
    with tempfile.TemporaryDirectory(prefix="rrnode-bench-") as directory:
        _opening(Path(directory), 1)  # code and what it keeps for the next time
        before = resident_bytes()
        _opening(Path(directory), ONE_PAGE)
        fixed = resident_bytes()
    start = time.perf_counter()
    with closing(opened(file)) as store:
        store.fill_filter()
        seconds = time.perf_counter() - start
        return {"fixed": fixed - before, "all": resident_bytes() - before, "seconds": seconds}


def _opening(directory: Path, hints: int) -> None:
    file = directory / f"{hints}.sqlite"
    fill(file, hints)
    with closing(opened(file)) as store:
        store.fill_filter()


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]))))
