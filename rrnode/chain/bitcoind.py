"""Bitcoin Core 28 or newer by RPC; also reaches the embedded regtest of another process (`rrnode chain serve`).

Changes are heard by ZMQ when the node publishes them (found by `getzmqnotifications`, or given), else by polling two cheap figures.
A restart is survived: calls raise ChainUnavailable meanwhile, and work again afterwards.
Commitments with an anchor below 240 sat need Bitcoin Core 29 (ephemeral dust); an older one is told so once, in the log.
"""

import random
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import structlog
import trio

from bootstrap.networks import REGTEST, Network
from protocols.errors import DecodeError
from protocols.ids import Txid
from protocols.units import BlockHeight, FeeRate, Sat
from rrnode.chain import parse, zmtp
from rrnode.chain.base import NO_INTERESTS, BlockRef, Interests, Miner, OutputState, PublishResult, WholeChain
from rrnode.chain.rpc_client import Json, RpcClient, RpcFailure
from rrnode.chain.scopes import background
from rrnode.chain.verdicts import verdict_of_package, verdict_of_single
from rrnode.errors import ChainUnavailable

OLDEST = 280000
EPHEMERAL_DUST_SINCE = 290000
FEERATE_FLOOR = FeeRate(1000)
_CHAIN_NAMES = {"regtest": "regtest", "signet": "signet", "testnet4": "testnet4", "mainnet": "main"}
_TOPICS = ("hashblock", "hashtx", "sequence")
_REFS_KEPT = 4096
_OUTPOINTS_ASKED = 500  # in one request
_SLOW_POLL = 10.0  # seconds between looks while ZMQ tells

_NOT_FOUND, _OUT_OF_RANGE, _KNOWN = -5, -8, -27
_REFUSALS = (-22, -25, -26)

log = structlog.get_logger("rrnode.chain")


_P = ParamSpec("_P")
_T = TypeVar("_T")


def _sensible(method: Callable[_P, Awaitable[_T]]) -> Callable[_P, Coroutine[Any, Any, _T]]:
    """An answer of another shape than Bitcoin Core's is said to be that, and is no error of another kind."""

    @wraps(method)
    async def checked(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return await method(*args, **kwargs)
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise ChainUnavailable(
                f"what answers is no Bitcoin Core ({method.__name__}: {error!r}); check the address and port"
            ) from error

    return checked


class BitcoindChain(WholeChain, Miner):
    """A Bitcoin Core; use it inside `running`."""

    name = "bitcoind"

    def __init__(
        self,
        url: str,
        *,
        network: Network = REGTEST,
        cookie: Path | None = None,
        user: str | None = None,
        password: str | None = None,
        zmq: str | None = None,
        poll_every: float | None = None,
        fallback_feerate: FeeRate = FEERATE_FLOOR,
    ) -> None:
        """Nothing is sent yet.

        Args:
            url: e.g. `http://127.0.0.1:18443`.
            cookie: bitcoind's cookie file; else `user` and `password`.
            zmq: e.g. `tcp://127.0.0.1:28332`, when it is not what `getzmqnotifications` says.
            poll_every: seconds between looks without ZMQ; default 0.2 on regtest, 2 elsewhere.
            fallback_feerate: while the node has no estimate (always so on a fresh regtest).
        """
        self._rpc = RpcClient(url, cookie=cookie, user=user, password=password)
        self._network, self._zmq, self._fallback = network, zmq, max(fallback_feerate, FEERATE_FLOOR)
        self._poll_every = poll_every or (0.2 if network is REGTEST else 2.0)
        self._refs: OrderedDict[bytes, BlockRef] = OrderedDict()
        self._fingerprint: tuple[Json, ...] = ()
        self._sequence = 0
        self._news = trio.Event()
        self._zmq_tells = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Connect and check network, version and readiness.

        Raises:
            ChainUnavailable: nobody answers, or it is another network, too old, pruned away or still syncing.
        """
        async with self._rpc.running():
            addresses = await self._check()
            async with background() as nursery:
                for address in addresses:
                    nursery.start_soon(self._listen, address)
                yield

    @_sensible
    async def _check(self) -> list[str]:
        info, version, genesis = await self._all(
            [("getblockchaininfo", ()), ("getnetworkinfo", ()), ("getblockhash", (0,))]
        )
        name, wanted = info.get("chain"), _CHAIN_NAMES[self._network.name]
        if name != wanted or bytes.fromhex(genesis)[::-1] != self._network.genesis:
            raise ChainUnavailable(
                f"Bitcoin Core at {self._rpc.url} is on the network {name}, {wanted} wanted; check the port, or `network`"
            )
        if version["version"] < OLDEST:
            raise ChainUnavailable(
                f"Bitcoin Core at {self._rpc.url} is version {version['version']}, 28 or newer wanted; update it"
            )
        if version["version"] < EPHEMERAL_DUST_SINCE:
            log.warning("chain.anchors_not_relayed", version=version["version"], wanted=EPHEMERAL_DUST_SINCE)
        if info.get("initialblockdownload") and self._network is not REGTEST:
            raise ChainUnavailable(
                f"Bitcoin Core at {self._rpc.url} is still syncing ({info.get('blocks')} of {info.get('headers')} blocks);"
                " wait for it"
            )
        if self._zmq is not None:
            return [self._zmq]
        try:
            zmq = await self._rpc.call("getzmqnotifications")
        except RpcFailure:  # built without ZMQ
            return []
        topics = {f"pub{topic}" for topic in _TOPICS}
        return sorted({one["address"] for one in zmq if one.get("type") in topics})

    # --- hearing of changes ------------------------------------------------------------------------------------------

    async def _listen(self, address: str) -> None:
        """Wake whoever waits at each message; come back with back-off when the publisher goes."""
        wait = 0.5
        while True:
            try:
                stream = await zmtp.connect(address)
                async with stream:
                    async for _ in zmtp.messages(stream, [topic.encode() for topic in _TOPICS]):
                        wait, self._zmq_tells = 0.5, True
                        self._wake()
            except (OSError, EOFError, DecodeError, trio.BrokenResourceError, trio.TooSlowError) as error:
                log.debug("chain.zmq_lost", address=address, reason=str(error))
            self._zmq_tells = False
            self._wake()
            await trio.sleep(wait * random.uniform(0.8, 1.2))  # jitter, not a secret
            wait = min(wait * 2, 30.0)

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()

    @_sensible
    async def wait_for_change(self, known: BlockRef, mempool_sequence: int) -> int:
        while True:
            news = self._news
            best, info = await self._all([("getbestblockhash", ()), ("getmempoolinfo", ())])
            # Any transaction that comes or goes changes the sum of sizes or fees.
            fingerprint = (info.get("size"), info.get("bytes"), info.get("total_fee"))
            if fingerprint != self._fingerprint:
                self._fingerprint = fingerprint
                self._sequence += 1
            if bytes.fromhex(best)[::-1] != known.hash or self._sequence != mempool_sequence:
                return self._sequence
            with trio.move_on_after(_SLOW_POLL if self._zmq_tells else self._poll_every):
                await news.wait()

    # --- asking ------------------------------------------------------------------------------------------------------

    async def _all(self, calls: Sequence[tuple[str, tuple[Json, ...]]]) -> list[Json]:
        results = await self._rpc.batch(calls)
        for (method, _), result in zip(calls, results, strict=True):
            if isinstance(result, RpcFailure):
                raise ChainUnavailable(f"Bitcoin Core at {self._rpc.url} refuses {method}: {result.message}")
        return results

    async def _ask(self, method: str, *params: Json, none_for: Sequence[int] = ()) -> Json:
        try:
            return await self._rpc.call(method, *params)
        except RpcFailure as failure:
            if failure.code in none_for:
                return None
            raise ChainUnavailable(f"Bitcoin Core at {self._rpc.url} refuses {method}: {failure.message}") from failure

    @_sensible
    async def genesis(self) -> bytes:
        return bytes.fromhex(await self._ask("getblockhash", 0))[::-1]

    @_sensible
    async def tip(self) -> BlockRef:
        ref = await self._ref(await self._ask("getbestblockhash"))
        assert ref is not None
        return ref

    @_sensible
    async def block_at(self, height: BlockHeight) -> BlockRef | None:
        found = await self._ask("getblockhash", height, none_for=(_OUT_OF_RANGE,))
        return None if found is None else await self._ref(found)

    async def _ref(self, shown: str) -> BlockRef:
        block_hash = bytes.fromhex(shown)[::-1]
        if (ref := self._refs.get(block_hash)) is None:
            header = await self._ask("getblockheader", shown)
            ref = BlockRef(
                height=BlockHeight(header["height"]),
                hash=block_hash,
                previous=bytes.fromhex(header.get("previousblockhash", "00" * 32))[::-1],
                time=header["time"],
            )
            self._refs[block_hash] = ref
            while len(self._refs) > _REFS_KEPT:
                self._refs.popitem(last=False)
        return ref

    @_sensible
    async def block(self, block_hash: bytes) -> bytes:
        return bytes.fromhex(await self._ask("getblock", block_hash[::-1].hex(), 0))

    @_sensible
    async def height_of(self, block_hash: bytes) -> BlockHeight | None:
        header = await self._ask("getblockheader", block_hash[::-1].hex(), none_for=(_NOT_FOUND,))
        return None if header is None or header["confirmations"] < 0 else BlockHeight(header["height"])

    @_sensible
    async def headers(self, first: BlockHeight, count: int) -> tuple[bytes, ...]:
        tip = await self.tip()
        heights = range(first, min(first + count, tip.height + 1))
        hashes = await self._all([("getblockhash", (height,)) for height in heights]) if heights else []
        raw = await self._all([("getblockheader", (shown, False)) for shown in hashes]) if hashes else []
        return tuple(map(bytes.fromhex, raw))

    @_sensible
    async def mempool(self, interests: Interests = NO_INTERESTS) -> tuple[Txid, ...]:
        return tuple(Txid(bytes.fromhex(shown)[::-1]) for shown in await self._ask("getrawmempool"))

    async def mempool_transaction(self, txid: Txid) -> bytes | None:
        return (await self.mempool_transactions((txid,))).get(txid)

    @_sensible
    async def mempool_transactions(self, txids: Sequence[Txid]) -> dict[Txid, bytes]:
        calls: list[tuple[str, tuple[Json, ...]]] = []
        for txid in txids:
            shown = txid[::-1].hex()
            # With -txindex the second alone would also give confirmed ones.
            calls += [("getmempoolentry", (shown,)), ("getrawtransaction", (shown,))]
        answers = await self._rpc.batch(calls)
        return {
            txid: bytes.fromhex(raw)
            for txid, entry, raw in zip(txids, answers[::2], answers[1::2], strict=True)
            if not isinstance(entry, RpcFailure) and not isinstance(raw, RpcFailure)
        }

    async def mempool_has(self, txids: Sequence[Txid]) -> frozenset[Txid]:
        answers = await self._rpc.batch([("getmempoolentry", (txid[::-1].hex(),)) for txid in txids])
        return frozenset(txid for txid, entry in zip(txids, answers, strict=True) if not isinstance(entry, RpcFailure))

    @_sensible
    async def mempool_spenders(self, outpoints: Sequence[bytes]) -> dict[bytes, Txid]:
        found: dict[bytes, Txid] = {}
        for start in range(0, len(outpoints), _OUTPOINTS_ASKED):
            asked = outpoints[start : start + _OUTPOINTS_ASKED]
            places = [{"txid": p[:32][::-1].hex(), "vout": int.from_bytes(p[32:], "little")} for p in asked]
            for place, answer in zip(asked, await self._ask("gettxspendingprevout", places), strict=True):
                if "spendingtxid" in answer:
                    found[place] = Txid(bytes.fromhex(answer["spendingtxid"])[::-1])
        return found

    @_sensible
    async def unspent(self, txid: Txid, index: int) -> OutputState | None:
        return await self._output(txid, index, mempool=True)

    @_sensible
    async def confirmed_output(self, txid: Txid, index: int) -> OutputState | None:
        return await self._output(txid, index, mempool=False)

    async def _output(self, txid: Txid, index: int, *, mempool: bool) -> OutputState | None:
        found = await self._ask("gettxout", txid[::-1].hex(), index, mempool)
        if found is None:
            return None
        height = None
        if found["confirmations"]:
            best = await self._ref(found["bestblock"])
            height = BlockHeight(best.height - found["confirmations"] + 1)
        script = bytes.fromhex(found["scriptPubKey"]["hex"])
        return OutputState(value=_satoshi(found["value"]), script=script, height=height)

    @_sensible
    async def publish(self, transactions: tuple[bytes, ...]) -> PublishResult:
        # A maxfeerate of 0 is no limit: how much a fee may be is decided by who built the transaction.
        if len(transactions) == 1:
            raw = transactions[0]
            shown = _txid_shown(raw)
            entry, sent = await self._rpc.batch([("getmempoolentry", (shown,)), ("sendrawtransaction", (raw.hex(), 0))])
            if isinstance(sent, RpcFailure):
                if sent.code not in (*_REFUSALS, _KNOWN):
                    raise ChainUnavailable(f"Bitcoin Core at {self._rpc.url} refuses to publish: {sent.message}")
                return verdict_of_single(sent.message, known=sent.code == _KNOWN)
            return verdict_of_single("", known=not isinstance(entry, RpcFailure))
        shown_txids = [_txid_shown(raw) for raw in transactions]
        *entries, sent = await self._rpc.batch(
            [
                *(("getmempoolentry", (shown,)) for shown in shown_txids),
                ("submitpackage", ([raw.hex() for raw in transactions], 0)),
            ]
        )
        if isinstance(sent, RpcFailure):
            if sent.code not in (*_REFUSALS, _OUT_OF_RANGE):
                raise ChainUnavailable(f"Bitcoin Core at {self._rpc.url} refuses to publish: {sent.message}")
            return verdict_of_package(sent.message, ())
        by_txid = {member["txid"]: member for member in sent["tx-results"].values()}
        members = [
            (str(by_txid.get(shown, {}).get("error", "")), not isinstance(entry, RpcFailure))
            for shown, entry in zip(shown_txids, entries, strict=True)
        ]
        return verdict_of_package(str(sent["package_msg"]), members)

    @_sensible
    async def feerate(self, within_blocks: int) -> FeeRate:
        estimate = await self._ask("estimatesmartfee", min(max(within_blocks, 1), 1008))
        if "feerate" not in estimate:
            return self._fallback
        return max(FEERATE_FLOOR, FeeRate(_satoshi(estimate["feerate"])))

    # --- Miner (regtest) ---------------------------------------------------------------------------------------------

    @_sensible
    async def mine(self, blocks: int, script: bytes) -> tuple[bytes, ...]:
        try:
            made = await self._rpc.call(
                "generatetodescriptor", blocks, f"raw({script.hex()})", again=False, timeout=30 + blocks / 10
            )
        except RpcFailure as failure:
            raise ChainUnavailable(f"Bitcoin Core at {self._rpc.url} made no block: {failure.message}") from failure
        self._wake()
        return tuple(bytes.fromhex(shown)[::-1] for shown in made)

    async def invalidate(self, block_hash: bytes) -> None:
        await self._ask("invalidateblock", block_hash[::-1].hex())
        self._wake()


def _satoshi(coins: Json) -> Sat:
    """From a JSON number of whole coins, exactly."""
    return Sat(int((Decimal(coins) * 100_000_000).to_integral_value()))


def _txid_shown(raw: bytes) -> str:
    try:
        return parse.parse_transaction(raw).txid[::-1].hex()
    except DecodeError:
        return "00" * 32  # whatever it is, Bitcoin Core says so
