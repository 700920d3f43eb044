"""From Bitcoin Core's words for what became of a transaction or package to one verdict, the same for every backend."""

from collections.abc import Sequence

from rrnode.chain.base import PublishResult, Verdict

_KNOWN = ("txn-already-in-mempool", "txn-already-known", "txn-same-nonwitness-data-in-mempool")
# Said of a member that only lacks the others; the cause is said elsewhere.
_OF_THE_OTHERS = ("min relay fee not met", "mempool min fee not met", "bad-txns-inputs-missingorspent")
_NO_CAUSE = ("success", "transaction failed", "unspent-dust")


def _is_known(error: str) -> bool:
    return error.startswith(_KNOWN)


def verdict_of_single(error: str, *, known: bool) -> PublishResult:
    """One transaction: `error` is the backend's reason, empty when it is in the mempool; `known` if it was before."""
    if known or _is_known(error):
        return PublishResult(verdict=Verdict.KNOWN)
    if error:
        return PublishResult(verdict=Verdict.REFUSED, reason=error)
    return PublishResult(verdict=Verdict.ACCEPTED)


def verdict_of_package(message: str, members: Sequence[tuple[str, bool]]) -> PublishResult:
    """A package: (error, known before) of each member in order, the child last.

    The child decides: it stands only on its parents, in the mempool or in the chain.
    """
    if members and (not members[-1][0] or _is_known(members[-1][0])):
        everyone = all(known or _is_known(error) for error, known in members)
        return PublishResult(verdict=Verdict.KNOWN if everyone else Verdict.ACCEPTED)
    if message and not message.startswith(_NO_CAUSE):
        return PublishResult(verdict=Verdict.REFUSED, reason=message)
    errors = [error for error, _ in members if error and not _is_known(error)]
    cause = next((error for error in errors if not error.startswith(_OF_THE_OTHERS)), errors[0] if errors else message)
    return PublishResult(verdict=Verdict.REFUSED, reason=cause)
