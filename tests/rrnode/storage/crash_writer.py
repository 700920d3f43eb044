"""Run as a program: commits batches until it is killed, by its parent or by itself. Modes:

`write PATH FIRST`: as fast as it can, from batch FIRST + 1 on; says after each that it is done.
`points DIRECTORY`: for n = 1, 2, ... a forked child commits two batches into `DIRECTORY/n` and kills itself at the n-th
SQL statement of the second; ends when a child gets through, and says that child's n.

Batch n stores, in one transaction, channel 1 at number n, what it revoked, payment n, a journal line and the cursor n.
"""

import os
import signal
import sys
from importlib import util
from pathlib import Path
from typing import Any

from sqlalchemy import event

from protocols.channel.events import Flush, StoreChannel, StoreRevoked
from protocols.ids import Txid
from protocols.payment.events import StorePayment
from rrnode.storage import Store

_spec = util.spec_from_file_location("kit", Path(__file__).with_name("conftest.py"))
assert _spec is not None
assert _spec.loader is not None
_module = util.module_from_spec(_spec)
sys.modules["kit"] = _module
_spec.loader.exec_module(_module)
kit = _module.Kit()


def commit(store: Store, number: int) -> None:
    revoked = StoreRevoked(
        channel_id=kit.channel_id(1), number=number, txid=Txid(b"t" * 32), record=number.to_bytes(8, "big") * 40
    )
    store.commit(
        [StoreChannel(channel=kit.channel(1, number=number)), revoked, StorePayment(payment=kit.payment(number))],
        [_module.Line(Flush(), kit.facts(number))],
        cursor=(number, number.to_bytes(32, "big")),
    )


def opened(path: str) -> Store:
    return Store.open(path, node_id=kit.node, network="regtest", journal_rows=500)


def write(path: str, first: int) -> None:
    store = opened(path)
    number = first
    while True:
        number += 1
        commit(store, number)
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()


def points(directory: str) -> None:
    number = 0
    while True:
        number += 1
        child = os.fork()
        if child == 0:
            _two_batches(os.path.join(directory, str(number)), number)
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            sys.stdout.write(f"{number}\n")
            return


def _two_batches(path: str, kill_at: int) -> None:
    store = opened(path)
    commit(store, 1)
    left = kill_at

    @event.listens_for(store._database._engine, "after_cursor_execute")
    def _count(*_: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    commit(store, 2)


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(sys.argv[2], int(sys.argv[3]))
    else:
        points(sys.argv[2])
