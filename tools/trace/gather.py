"""Asking one's own nodes about a payment: those that run over their control API, and each one's database."""

from dataclasses import dataclass, replace
from pathlib import Path

from protocols.ids import PaymentHash
from protocols.payment.events import Payment, Promise
from rrnode.config import load
from rrnode.control import models as m
from rrnode.control.client import ControlClient, NodeAway
from rrnode.control.text import peer_text
from rrnode.errors import StorageFailed, UserError
from rrnode.storage.history import History, PaymentHistory
from tools.trace.past import Step, joined, of_note, steps_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What one node knows of a payment.

    Attributes:
        name: short, for people.
        runs: it answered; else offers are unknown, and the rest is from its database.
        left_out: notes that it did not keep.
        problem: why something could not be asked; a sentence or "".
    """

    name: str
    peer_id: str
    network: str
    runs: bool
    steps: tuple[Step, ...]
    left_out: int = 0
    problem: str = ""
    payment: Payment | None = None
    promise: Promise | None = None


def seen_by(name: str, trace: m.Trace | None, history: History | None, payment_hash: PaymentHash) -> Seen:
    """What a node says, and what its database says; one of them may be None.

    Raises:
        StorageFailed: the database cannot be read.
    """
    past = PaymentHistory(payment=None, promise=None, forwards=(), ended=(), lines=())
    peer_id, network = (trace.peer_id, trace.network) if trace is not None else ("", "")
    if history is not None:
        past = history.of(payment_hash)
        peer_id, network = peer_text(history.node_id), history.network
    steps = steps_of(past)
    notes = trace.notes if trace is not None else ()
    if trace is not None and notes:
        steps = (*(step for step in steps if step.at_ms < trace.since_ms), *joined(map(of_note, notes)))
    return Seen(
        name=name,
        peer_id=peer_id,
        network=network,
        runs=trace is not None,
        steps=steps,
        left_out=trace.left_out if trace is not None else 0,
        payment=past.payment,
        promise=past.promise,
    )


def ask(name: str, directory: Path, payment_hash: PaymentHash) -> Seen:
    """Ask the node in a directory.

    Raises:
        UserError: there is no node.
        StorageFailed: it does not run, and its database cannot be read.
    """
    settings = load(directory)
    trace: m.Trace | None = None
    problem = ""
    try:
        with ControlClient(directory) as client:
            trace = m.Trace.model_validate(client.get(f"/traces/{payment_hash.hex()}"))
    except NodeAway as error:
        problem = str(error)
    try:
        history = History.open(settings.storage_url)
    except StorageFailed as error:
        if trace is None:
            raise
        return replace(seen_by(name, trace, None, payment_hash), problem=str(error))
    try:
        return replace(seen_by(name, trace, history, payment_hash), problem=problem)
    finally:
        history.close()


def ask_all(directories: list[Path], payment_hash: PaymentHash) -> list[Seen]:
    """Ask the nodes in these directories; one that cannot be asked is only told of, unless it is the only one.

    Raises:
        UserError, StorageFailed: none could be asked; says why the first could not.
    """
    found: list[Seen] = []
    failures: list[UserError | StorageFailed] = []
    for name, directory in zip(_names(directories), directories, strict=True):
        try:
            found.append(ask(name, directory, payment_hash))
        except (UserError, StorageFailed) as error:
            failures.append(error)
            found.append(Seen(name=name, peer_id="", network="", runs=False, steps=(), problem=str(error)))
    if len(failures) == len(directories):
        raise failures[0]
    return found


def _names(directories: list[Path]) -> list[str]:
    """The directories' own names, told apart where they are the same."""
    names: list[str] = []
    for directory in directories:
        name = directory.name or "node"
        count = sum(each == name or each.startswith(f"{name}-") for each in names)
        names.append(f"{name}-{count + 1}" if count else name)
    return names
