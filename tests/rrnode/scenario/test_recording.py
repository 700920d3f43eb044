"""What a running node records replays exactly: every event of both engines, over opening, paying, a refusal and a restart."""

import pytest
from scenario_kit import World

from protocols.payment.events import PayPhase
from rrnode.config.settings import NodeSettings
from rrnode.errors import UserError
from rrnode.recording import MONEY, ROUTING, read
from tools.replay.replay import replay


async def test_a_node_that_carried_and_was_restarted_replays_to_the_byte(net: World) -> None:
    recorded = NodeSettings(record_mb=50)
    a, b, c = [await net.add(name, node=recorded) for name in "ABC"]
    await net.mine(101)
    await net.channel(a, b)
    await net.channel(b, c)
    contact = (await c.owner.contact()).contact
    assert (await a.pay(contact, 100_000_000)).phase is PayPhase.PAID
    await b.stop()
    await b.start()
    await b.until("both channels", lambda: b.usable(a) and b.usable(c))
    await a.until("its channel", lambda: a.usable(b))
    assert (await a.pay(contact, 50_000_000)).phase is PayPhase.PAID
    with pytest.raises(UserError, match="The largest payment that a channel of this node can carry now"):
        await a.pay(contact, 900_000_000)
    await net.settled()
    for actor, starts in ((a, 1), (b, 2), (c, 1)):
        await actor.stop()
        files = sorted((actor.settings.data_dir / "recordings").iterdir())
        assert len(files) == starts
        for path in files:
            assert path.stat().st_mode & 0o777 == 0o600
            with path.open("rb") as file:
                done = replay(read(file), actor.keys.key_ring())
            assert done.difference is None, f"{actor.name}: {done.difference}"
            assert done.calls[MONEY] > 20
            assert done.calls[ROUTING] > 5
