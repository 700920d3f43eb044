"""What the machine does to us (CONVENTIONS, "Errors"): a service retries with back-off, or stops; no channel is closed."""

from collections.abc import Iterator

from protocols.errors import RrnodeError


class ChainUnavailable(RrnodeError):
    """The chain backend does not answer, or answers nonsense. The message says which and what to check."""


class StorageFailed(RrnodeError):
    """A commit did not happen. Nothing of the batch may leave; the node takes on nothing new."""


class LinkClosed(RrnodeError):
    """The stream or link has ended; whatever was not answered is lost."""


class Unreachable(RrnodeError):
    """A peer could not be reached at this address; the message says why."""


class UserError(RrnodeError):
    """The user asked for something that cannot be.

    Attributes:
        hint: what to try next, as an imperative sentence ("start the node with: rrnode start"), or "".
    """

    def __init__(self, sentence: str, hint: str = "") -> None:
        super().__init__(sentence)
        self.hint = hint


class NotThere(UserError):
    """What the user named (a channel, a payment, a peer) is not known to this node."""


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The single errors in it, in their order: itself, or what a group from inside nurseries holds however deep."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error
