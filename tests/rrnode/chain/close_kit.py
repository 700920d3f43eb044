"""What tests of HTLC transactions are made of: a confirmed commitment, a wallet with coins and a broadcaster.

Given to tests by the fixtures `close` and `close_kit`.
"""

import structlog

from protocols.channel.events import PublishWithInputs, Purpose
from protocols.ids import ChannelId, Txid
from rrnode.chain.broadcaster import Broadcaster
from rrnode.chain.joining import Share, group_of, purpose_of
from rrnode.chain.parse import outpoint, parse_block, parse_transaction

CHANNEL = ChannelId(b"\x05" * 32)


class Close:
    """A confirmed commitment with HTLC outputs that anybody can spend, a wallet with coins, and a broadcaster."""

    channel_id = CHANNEL

    def __init__(self, chain, kit, wallet):
        self.chain, self.kit, self.wallet = chain, kit, wallet
        self.broadcaster = Broadcaster(chain, wallet)

    async def confirm(self, *values):
        (source,) = await self.kit.funded(self.chain, 1)
        self.commitment = self.kit.build(
            [source], [*((value, self.kit.OPEN) for value in values), (source[1] - sum(values) - 5000, self.kit.LOCKED)]
        )
        assert (await self.chain.publish((self.commitment.raw,))).verdict.name == "ACCEPTED"
        await self.mine()
        self.height = (await self.chain.tip()).height

    def place(self, index):
        return outpoint(self.commitment.txid, index)

    def htlc(self, index, left, *, lock_time=0):
        """An order for output `index` with so many blocks left until its deadline."""
        coin = self.kit.coin(self.commitment, index)
        bare = self.kit.build([coin], [(coin[1], self.kit.OPEN)], version=3, sequence=0, lock_time=lock_time)
        return PublishWithInputs(
            channel_id=self.channel_id,
            transaction=bare.raw,
            purpose=Purpose.HTLC_TIMEOUT if lock_time else Purpose.HTLC_SUCCESS,
            spent_value=coin[1],
            deadline=self.height + left,
        )

    async def order(self, *orders):
        with structlog.testing.capture_logs() as logs:
            for each in orders:
                self.broadcaster.take(each)
            await self.broadcaster.carry_out()
        return [entry["event"] for entry in logs if entry["log_level"] != "debug"]

    async def mine(self, blocks=1):
        await self.chain.mine(blocks, self.kit.LOCKED)

    async def empty_block(self, count=1):
        """Blocks whose miners take none of our transactions."""
        for _ in range(count):
            self.chain._make_block(self.chain.index.tip, (), 0, self.kit.LOCKED)

    async def mined(self):
        """The transactions of the newest block, its coinbase left out."""
        tip = await self.chain.tip()
        return parse_block(await self.chain.block(tip.hash)).transactions[1:]

    async def stands(self, order):
        """Whether no block holds what an order wants."""
        place = parse_transaction(order.transaction).prevouts[0]
        return await self.chain.confirmed_output(Txid(place[:32]), int.from_bytes(place[32:], "little")) is not None

    @property
    def out(self):
        """What is in the mempool: for each transaction the indexes of the HTLC outputs that it spends."""
        return sorted(sorted(self.indexes(entry.tx)) for entry in self.entries)

    @property
    def entries(self):
        return list(self.chain.mempool_now.entries.values())

    def indexes(self, tx):
        return [int.from_bytes(each[32:], "little") for each in tx.prevouts if each[:32] == self.commitment.txid]

    def rate(self, index):
        """Satoshi per virtual byte of the transaction that spends an output."""
        (entry,) = [each for each in self.entries if index in self.indexes(each.tx)]
        return entry.fee / entry.tx.vsize

    def purpose(self, order):
        """What the coins of an order that can wait are set aside for."""
        return purpose_of(group_of(parse_transaction(order.transaction)), Share.CALM)
