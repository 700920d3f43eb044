"""Transactions that spend the wallet's coins, made by BDK: coin selection, change, PSBT, signatures (DESIGN 11).

BDK is given exactly the coins that may be spent, in a wallet that lives for one transaction: what is confirmed is for our
own ledger to say, which BDK has no call for. Coins and change addresses are ours to choose; the arithmetic is BDK's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import bdkpython as bdk

from protocols.errors import MisuseError
from protocols.units import BlockHeight, FeeRate, Sat
from rrnode.chain.parse import Tx, parse_transaction
from rrnode.chain.verify import check_transaction
from rrnode.errors import UserError
from rrnode.keys import KeyTree
from rrnode.wallet.ledger import BlockPlace, Coin, Entry

VERSION = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A signed transaction, checked by libbitcoinkernel.

    Attributes:
        spent: outpoints of the coins it spends, 36 bytes each.
        fee: what it pays the miner.
    """

    tx: Tx
    spent: tuple[bytes, ...]
    fee: Sat


class _Fixed(bdk.Persistence):  # type: ignore[misc]
    """Hands BDK one prepared state and keeps nothing of what it learns."""

    def __init__(self, state: bdk.ChangeSet) -> None:
        super().__init__()
        self._state = state

    def initialize(self) -> bdk.ChangeSet:
        return self._state

    def persist(self, changeset: bdk.ChangeSet) -> None:
        return None


class Builder:
    """Builds for one seed. Not for two threads at once.

    Args:
        keys: the node's keys.
    """

    def __init__(self, keys: KeyTree) -> None:
        self._genesis = bytes(keys.network.genesis)
        self._network = keys.bdk_network()
        self._descriptors = keys.descriptors()

    def script_of(self, address: str) -> bytes:
        """The output script of an address. Raises UserError when it is none, or of another network."""
        try:
            return bytes(bdk.Address(address.strip(), self._network).script_pubkey().to_bytes())
        except bdk.AddressParseError as error:
            name = self._network.name.lower()
            raise UserError(f"{address} is no {name} address ({error or type(error).__name__})") from None

    def address_of(self, script: bytes) -> str:
        """The address of an output script."""
        return str(bdk.Address.from_script(bdk.Script(script), self._network))

    def build(
        self,
        *,
        coins: Sequence[tuple[Coin, Entry]],
        pay: Sequence[tuple[bytes, Sat]],
        rest: bytes,
        everything: bool,
        feerate: FeeRate,
        tip: BlockHeight,
    ) -> Built:
        """Pay some scripts from these coins.

        Args:
            coins: what may be spent, each with the transaction that made it.
            pay: script and value of each output.
            rest: script that takes what is left over.
            everything: spend all the coins, not just enough.
            tip: height of the best block; the transaction is not valid in older ones (against fee sniping).

        Raises:
            UserError: too little, or an output too small to be relayed.
        """
        wallet = self._load(coins, tip)
        chosen = {coin.outpoint for coin, _ in coins}
        builder = (
            bdk.TxBuilder()
            .version(VERSION)
            .current_height(tip)
            .fee_rate(bdk.FeeRate.from_sat_per_kwu(max(1, -(-feerate // 4))))
            .drain_to(bdk.Script(rest))
            .unspendable([each.outpoint for each in wallet.list_unspent() if _point(each.outpoint) not in chosen])
        )
        for script, value in pay:
            builder = builder.add_recipient(bdk.Script(script), bdk.Amount.from_sat(value))
        if everything:
            builder = builder.drain_wallet()
        try:
            psbt = builder.finish(wallet)
        except (bdk.CreateTxError.InsufficientFunds, bdk.CreateTxError.CoinSelection):
            asked, there = sum(value for _, value in pay), sum(coin.value for coin, _ in coins)
            raise UserError(f"{asked} sat and the fee are needed, {there} sat can be spent now") from None
        except bdk.CreateTxError.OutputBelowDustLimit:
            raise UserError("an amount this small would not be relayed: send at least 546 sat") from None
        except bdk.CreateTxError as error:
            raise UserError(f"the transaction cannot be made: {error or type(error).__name__}") from None
        if not wallet.sign(psbt):
            raise MisuseError("BDK could not sign every input of a transaction of the wallet's own coins")
        try:
            raw = bytes(psbt.extract_tx().serialize())
        except bdk.ExtractTxError as error:
            raise UserError(f"a fee this high looks like a mistake: {error or type(error).__name__}") from None
        return _checked(raw, {coin.outpoint: coin for coin, _ in coins})

    def _load(self, coins: Sequence[tuple[Coin, Entry]], tip: BlockHeight) -> bdk.Wallet:
        entries = {entry.tx.txid: entry for _, entry in coins}
        blocks: dict[int, bytes] = {0: self._genesis}
        anchors = []
        last_seen: dict[bdk.Txid, int] = {}
        for txid, entry in entries.items():
            named = bdk.Txid.from_bytes(txid)
            if entry.block is None:
                last_seen[named] = max(1, entry.first_seen)
            else:
                blocks[entry.block.height] = entry.block.hash
                anchors.append(bdk.Anchor(confirmation_block_time=_confirmed(entry.block), txid=named))
        blocks.setdefault(tip, bytes(32))  # its hash is of no interest: nothing is anchored there
        state = bdk.ChangeSet.from_aggregate(
            *self._descriptors,
            self._network,
            bdk.LocalChainChangeSet(
                changes=[
                    bdk.ChainChange(height=height, hash=bdk.BlockHash.from_bytes(block_hash))
                    for height, block_hash in sorted(blocks.items())
                ]
            ),
            bdk.TxGraphChangeSet(
                txs=[bdk.Transaction(entry.tx.raw) for entry in entries.values()],
                txouts={},
                anchors=anchors,
                last_seen=last_seen,
                first_seen={},
                last_evicted={},
            ),
            bdk.IndexerChangeSet(last_revealed={}),
        )
        highest = max((coin.place.number for coin, _ in coins), default=0)
        return bdk.Wallet.load(*self._descriptors, bdk.Persister.custom(_Fixed(state)), highest + 1)


def _confirmed(block: BlockPlace) -> bdk.ConfirmationBlockTime:
    place = bdk.BlockId(height=block.height, hash=bdk.BlockHash.from_bytes(block.hash))
    return bdk.ConfirmationBlockTime(block_id=place, confirmation_time=block.time)


def _point(outpoint: bdk.OutPoint) -> bytes:
    return bytes(outpoint.txid.serialize()) + int(outpoint.vout).to_bytes(4, "little")


def _checked(raw: bytes, coins: dict[bytes, Coin]) -> Built:
    tx = parse_transaction(raw)
    spent = [coins[prevout] for prevout in tx.prevouts]
    problem = check_transaction(raw, [(coin.value, coin.script) for coin in spent])
    if problem is not None:
        raise MisuseError(f"the wallet made an invalid transaction: {problem}")
    fee = sum(coin.value for coin in spent) - sum(output.value for output in tx.outputs)
    return Built(tx=tx, spent=tx.prevouts, fee=Sat(fee))
