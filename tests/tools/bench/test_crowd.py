"""The crowd bench on a few clients: what it starts, asks and ends, and that two shards hold what one cannot tell apart."""

import pytest

from tools.bench import crowd


@pytest.mark.slow
def test_few_clients_are_measured_like_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowd, "IDLE_SECONDS", 1)
    monkeypatch.setattr(crowd, "FLOOD_SECONDS", 2)
    rows = [*crowd._rows(8), *crowd._shards(8)]
    assert [row.unit for row in rows] == [
        "bytes", "%", "clients/s", "clients/s", "ms", "ms", "ms", "clients/s", "ms",
    ]  # fmt: skip
    assert all(row.figure > 0 for row in rows if row.unit != "bytes")
