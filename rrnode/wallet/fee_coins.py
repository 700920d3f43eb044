"""Coins that pay for closing channels: choosing and signing them (DESIGN 6; `rrnode.chain.fees.FeeWallet`)."""

from protocols.errors import MisuseError
from protocols.onchain import ec
from protocols.onchain import tx as onchain
from protocols.onchain.scripts import p2wpkh_code
from protocols.units import Sat
from rrnode.chain.fees import FeeCoin
from rrnode.chain.parse import outpoint
from rrnode.chain.verify import check_transaction
from rrnode.keys import KeyTree
from rrnode.storage import SetAside
from rrnode.wallet.ledger import Coin
from rrnode.wallet.purse import Purse
from rrnode.wallet.scripts import Scripts

FEE_ROOM = 4  # a coin for fees is worth at least so many times the fee asked for, if there is one


def reserve_coins(purse: Purse, holder: bytes, at_least: Sat) -> tuple[FeeCoin, ...]:
    """Promise this holder confirmed coins worth so much in all, those that it has included, as far as there are any; on
    disk when this returns. The caller holds the wallet's lock.

    Raises:
        StorageFailed: nothing is promised.
    """
    good: list[Coin] = []
    stale: list[SetAside] = []
    for each in purse.held.of(holder):
        point = outpoint(each.txid, each.index)
        coin = purse.ledger.coin(point)
        if coin is None or coin.height is None or purse.ledger.spent_height(point) is not None:
            stale.append(each)
        else:
            good.append(coin)
    total: int = sum(coin.value for coin in good)
    free = sorted(purse.free_confirmed(), key=lambda coin: (-coin.value, coin.outpoint))
    added: list[Coin] = []
    while total < at_least and free:
        # Room for the fee to grow, but not the whole purse for a small fee: another close may need one too.
        roomy = [coin for coin in free if coin.value >= FEE_ROOM * (at_least - total)]
        coin = roomy[-1] if roomy else free[0]
        free.remove(coin)
        added.append(coin)
        total += coin.value
    purse.held.promise(holder, [coin.outpoint for coin in added], instead_of=stale)
    return tuple(
        FeeCoin(txid=coin.txid, index=coin.index, value=coin.value, script=coin.script) for coin in (*good, *added)
    )


def signed(
    keys: KeyTree,
    scripts: Scripts,
    transaction: bytes,
    coins: tuple[FeeCoin, ...],
    spent: tuple[tuple[Sat, bytes], ...],
) -> bytes:
    """The transaction with signatures for these coins of ours, valid as a whole.

    Args:
        spent: value and script of the output that each input spends, in their order.

    Raises:
        MisuseError: a coin is not ours, not an input, or the result is not valid.
    """
    tx = onchain.parse(transaction)
    places = {outpoint(each.txid, each.index): number for number, each in enumerate(tx.inputs)}
    witnesses = [each.witness for each in tx.inputs]
    for coin in coins:
        number = places.get(outpoint(coin.txid, coin.index))
        place = scripts.place(coin.script)
        if number is None or place is None:
            raise MisuseError("asked to sign for a coin that is not ours, or that the transaction does not spend")
        secret = keys.wallet_secret(place.number, change=place.change)
        digest = onchain.input_digest(tx, number, p2wpkh_code(coin.script), coin.value)
        signature = ec.to_der(ec.sign(secret, digest)) + bytes([onchain.SIGHASH_ALL])
        witnesses[number] = (signature, keys.wallet_key(place.number, change=place.change))
    result = onchain.with_witnesses(tx.base(), witnesses)
    problem = check_transaction(result, spent)
    if problem is not None:
        raise MisuseError(f"a transaction with added fees is invalid: {problem}")
    return result
