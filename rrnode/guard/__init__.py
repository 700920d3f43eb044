"""A small process that watches over the deadlines of locked payments while the node is down, halted or hung."""

from rrnode.guard.files import Heartbeat, guard_pid, read_closed, remove_closed, write_heartbeat
from rrnode.guard.keeper import Keeper
from rrnode.guard.process import Guard, Parts, run

__all__ = [
    "Guard",
    "Heartbeat",
    "Keeper",
    "Parts",
    "guard_pid",
    "read_closed",
    "remove_closed",
    "run",
    "write_heartbeat",
]
