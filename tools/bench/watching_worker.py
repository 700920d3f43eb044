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

ENOUGH = (
    100_000  # hints, for what does not grow with them to be as large as it gets: a page of them, SQLite's own cache
)


def measure(file: Path) -> dict[str, float]:
    """Bytes that the process has more when a store is open and can be asked: `fixed` whatever the number of hints, `all` with
    those of the file; and the `seconds` that the latter took."""
    with tempfile.TemporaryDirectory(prefix="rrnode-bench-") as directory:
        few, enough = Path(directory) / "few.sqlite", Path(directory) / "enough.sqlite"
        fill(few, 1)
        fill(enough, ENOUGH)
        before = _memory_with(few)
        fixed = _memory_with(enough)
    start = time.perf_counter()
    whole = _memory_with(file)
    return {"fixed": fixed - before, "all": whole - before, "seconds": time.perf_counter() - start}


def _memory_with(file: Path) -> int:
    with closing(opened(file)) as store:
        store.fill_filter()
        return resident_bytes()


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]))))
