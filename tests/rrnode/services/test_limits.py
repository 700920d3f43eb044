"""Token buckets and who counts as one sender, on a clock that jumps."""

import pytest
import trio
import trio.testing

from rrnode.services.limits import Allowance, Shares, one_network, one_sender, printable

PEER = b"\x02" * 33


async def test_a_key_has_its_burst_and_then_its_rate(autojump_clock: trio.testing.MockClock) -> None:
    allowance = Allowance(per_key=2, burst=3, total=1000)
    assert [allowance.take("a") for _ in range(4)] == [True, True, True, False]
    await trio.sleep(1)
    assert [allowance.take("a") for _ in range(3)] == [True, True, False]
    await trio.sleep(1000)
    assert [allowance.take("a") for _ in range(4)] == [True, True, True, False]  # no more than a burst is saved


async def test_what_one_key_uses_up_leaves_others_theirs(autojump_clock: trio.testing.MockClock) -> None:
    allowance = Allowance(per_key=1, burst=1, total=1000)
    assert allowance.take("a")
    assert not allowance.take("a")
    assert allowance.take("b")


async def test_all_keys_together_have_a_limit(autojump_clock: trio.testing.MockClock) -> None:
    allowance = Allowance(per_key=1, burst=5, total=2)
    assert sum(allowance.take(number) for number in range(100)) == 20
    await trio.sleep(3)
    assert sum(allowance.take(number) for number in range(100, 200)) == 6


async def test_what_the_total_refuses_costs_the_key_nothing(autojump_clock: trio.testing.MockClock) -> None:
    allowance = Allowance(per_key=0.001, burst=1, total=0.1)
    assert allowance.take("a")
    assert not allowance.take("b")
    await trio.sleep(10)
    assert allowance.take("b")


async def test_memory_is_bounded_by_forgetting_the_longest_unused(autojump_clock: trio.testing.MockClock) -> None:
    allowance = Allowance(per_key=0, burst=1, total=1000, most_keys=10)
    for number in range(1000):
        allowance.take(number)
        assert len(allowance._keys) <= 10
    assert not allowance.take(999)
    assert allowance.take(0)  # forgotten, so it has a fresh burst


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("/ip4/192.0.2.7/tcp/1000", "/ip4/192.0.2.7/tcp/2000", True),
        ("/ip4/192.0.2.7/tcp/1000", "/ip4/192.0.2.8/tcp/1000", False),
        ("/ip6/::ffff:192.0.2.7/tcp/1000", "/ip4/192.0.2.7/tcp/2000", True),
        ("/ip6/::ffff:192.0.2.7/tcp/1000", "/ip6/::ffff:192.0.2.8/tcp/1000", False),
        ("/ip6/2001:db8:1:2::1/tcp/1", "/ip6/2001:db8:1:2:ffff::9/tcp/2", True),
        ("/ip6/2001:db8:1:2::1/tcp/1", "/ip6/2001:db8:1:3::1/tcp/1", False),
        ("/ip6/::ffff:1.2.3.4/tcp/5", "/ip6/::ffff:1.2.3.5/tcp/5", False),
        ("/ip6/::ffff:1.2.3.4/tcp/5", "/ip4/1.2.3.4/tcp/6", True),
    ],
)
def test_senders_are_told_apart_by_address_without_port(one: str, other: str, same: bool) -> None:
    assert (one_sender(one, PEER) == one_sender(other, b"\x03" * 33)) is same


@pytest.mark.parametrize("address", ["", "/memory/0", "/ip4/127.0.0.1/tcp/5", "/ip6/::1/tcp/5", "/ip4/nonsense/tcp/5"])
def test_senders_without_an_address_of_their_own_are_told_apart_by_key(address: str) -> None:
    assert one_sender(address, PEER) == PEER


def test_what_drives_a_terminal_is_taken_out() -> None:
    assert printable("a\x1b[2Jb\nc\u202ed é") == "a·[2Jb·c·d é"


def address(first: int, second: int, last: int = 1) -> str:
    return f"/ip4/{first}.{second}.0.{last}/tcp/9780"


@pytest.mark.parametrize(
    ("where", "network"),
    [
        ("/ip4/192.0.2.7/tcp/1000", "192.0.0.0/16"),
        ("/ip6/2001:db8:1:2::1/tcp/1", "2001:db8::/32"),
        ("/ip4/127.0.0.1/tcp/1", "127.0.0.0/16"),
        ("", PEER),
        ("/memory/7", PEER),
    ],
)
def test_a_network_is_what_one_operator_is_taken_to_have(where: str, network: object) -> None:
    assert one_network(where, PEER) == network


def taken(shares: Shares, where: str, tries: int) -> int:
    return sum(shares.take(where, PEER) for _ in range(tries))


async def test_a_sender_a_network_and_all_together_have_their_rates(autojump_clock: trio.testing.MockClock) -> None:
    shares = Shares(per_sender=2, per_network=5, total=12, own=0, burst=10)
    assert taken(shares, address(1, 1), 100) == 20
    assert taken(shares, address(1, 1, last=2), 100) == 20
    assert taken(shares, address(1, 1, last=3), 100) == 10  # 50 for the network
    assert taken(shares, address(1, 2), 100) == 20
    assert sum(taken(shares, address(2, number), 5) for number in range(30)) == 120 - 70
    await trio.sleep(1)
    assert taken(shares, address(1, 1), 10) == 2


async def test_what_many_strangers_use_up_leaves_each_network_a_little(autojump_clock: trio.testing.MockClock) -> None:
    shares = Shares(per_sender=5, per_network=20, total=100, own=0.2, burst=40)

    def flood() -> int:
        return sum(taken(shares, address(50 + number, 1), 30) for number in range(100))

    flood()
    for _ in range(3):
        assert taken(shares, address(9, 9), 1) == 1  # a client that publishes now and then
        await trio.sleep(5)
        flood()


async def test_who_waits_is_served_in_time(autojump_clock: trio.testing.MockClock) -> None:
    shares = Shares(per_sender=2, per_network=5, total=100, own=0, burst=1)
    began = trio.current_time()
    for _ in range(12):
        await shares.wait(address(1, 1), PEER)
    assert trio.current_time() - began == pytest.approx(5)
