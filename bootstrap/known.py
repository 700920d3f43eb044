"""Servers that a node has heard of by their signed records: a bounded table that nobody can fill alone (`/rr/info/1`). Pure.

An operator's name costs nothing, and an address in a record nothing either until it is dialled; what costs something is
where a record came from. So each of these may account for a few only. Who answered when we dialled it stays; who is only
talked about makes room for who is talked about later.
"""

import ipaddress
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from bootstrap.addresses import first_part, number_of
from bootstrap.join import group_of
from bootstrap.relays import SWITCH_ROUTE, Relay, roles_of
from protocols.ids import PeerId
from protocols.node_record import NodeRecord
from protocols.units import UnixTime
from protocols.wire.info import Signed

MOST = 256  # half a megabyte of records, and eight pages of `Others`
MOST_ALIKE = 4  # of one operator by name, IPv4 /16 or IPv6 /32
MOST_TOLD = MOST // 8  # by tellers of one network: it takes eight networks to fill the table
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")  # RFC 4291, 2.4: all that is assigned to the public


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownServer:
    """Attributes:
    signed: the record as it came, to be passed on.
    teller: the network of who told us, as `teller_of` has it.
    met: when we last had a link that we dialled; 0: never.
    """

    record: NodeRecord
    signed: Signed
    teller: str = ""
    met: UnixTime = UnixTime(0)


Known = tuple[KnownServer, ...]  # the one heard of last is last


def remember(known: Known, server: KnownServer) -> Known:
    """The table with a newer record in it; unchanged when there is no room for it.

    A record of a server that is there already takes its place, if it is later and still fits; what we know of having
    met it stays, and so does who told of it first: a relay that passes on what all others told would else have told all.
    Room is made by those whom we never met, of the teller with the most of them: claimed names and addresses cost nothing.
    """
    before = next((each for each in known if each.record.node == server.record.node), None)
    if before is not None and before.record.made >= server.record.made:
        return known
    if before is not None:
        server = replace(server, met=max(before.met, server.met), teller=before.teller)
    others = tuple(each for each in known if each is not before)
    for alike, most in _limits(server):
        these = [each for each in others if alike(each)]
        if len(these) >= most:
            victim = _least(these, server.teller)
            if victim.met > server.met:
                return known
            others = tuple(each for each in others if each is not victim)
    return (*others, server)


def met(known: Known, node: PeerId, now: UnixTime) -> Known:
    """We had a link to it that we dialled."""
    return tuple(replace(each, met=now) if each.record.node == node else each for each in known)


def still_good(known: Known, oldest: UnixTime) -> Known:
    """Without the records made before `oldest`."""
    return tuple(each for each in known if each.record.made >= oldest)


def page(known: Known, after: bytes, most: int) -> tuple[tuple[Signed, ...], bool]:
    """Records in the order of their keys, beyond `after`, and whether there are more."""
    found = sorted((each for each in known if each.record.node > after), key=lambda each: each.record.node)
    return tuple(each.signed for each in found[:most]), len(found) > most


def is_server(record: NodeRecord, *, anywhere: bool) -> bool:
    """Whether somebody could join the network through it.

    Args:
        anywhere: also addresses of this machine and of private networks (a regtest).
    """
    return bool(record.switches & SWITCH_ROUTE and dialable(record.addresses, anywhere=anywhere))


def dialable(addresses: Iterable[str], *, anywhere: bool) -> tuple[str, ...]:
    """Those that a stranger's word may make us dial: nothing inside our own network, and no names, which whoever owns
    them can make point there."""
    return tuple(each for each in addresses if anywhere or _is_public(each))


def teller_of(address: str) -> str:
    """The network that a record came from, "" when it is this machine or a private one: there nobody can be told apart."""
    return group_of(address) if _is_public(address) else ""


def relay_of(server: KnownServer, *, anywhere: bool, identity: str) -> Relay:
    """The server as the plan of joining takes it."""
    record = server.record
    return Relay(
        identity=identity,
        addresses=dialable(record.addresses, anywhere=anywhere),
        operator=record.operator,
        serves=roles_of(record.switches),
    )


# --- inside -----------------------------------------------------------------------------------------------------------


def _least(these: Sequence[KnownServer], teller: str) -> KnownServer:
    """Who makes room for one more that this teller told of; the first of equals, heard of longest ago."""
    told = Counter([teller, *(each.teller for each in these)])
    return min(these, key=lambda each: (each.met, -told[each.teller]))


def _limits(server: KnownServer) -> Iterable[tuple[Callable[[KnownServer], bool], int]]:
    """What it must share room with, and how much there is."""
    for mark in sorted(_marks(server.record)):
        yield partial(_bears, mark), MOST_ALIKE
    if server.teller:
        yield lambda each: each.teller == server.teller, MOST_TOLD
    yield lambda each: True, MOST


def _bears(mark: str, server: KnownServer) -> bool:
    return mark in _marks(server.record)


def _is_public(address: str) -> bool:
    kind, host = first_part(address)
    number = number_of(host)
    if number is None or kind not in ("ip4", "ip6"):
        return False
    if isinstance(number, ipaddress.IPv6Address) and (
        number not in _GLOBAL_UNICAST or number.sixtofour or number.teredo
    ):
        return False  # it leads to an IPv4 address, which may be inside, or is inside itself
    return number.is_global and not number.is_multicast


def _marks(record: NodeRecord) -> frozenset[str]:
    """What only a few may share. Addresses of one machine or a private network are nobody's: a regtest lives on them."""
    named = record.operator.strip().casefold()
    groups = {f"group:{group_of(each)}" for each in record.addresses if _is_public(each)}
    return frozenset(groups | ({f"operator:{named}"} if named else set()))
