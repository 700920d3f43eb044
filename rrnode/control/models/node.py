"""The node itself, the peers that it is linked with, and those that tell it the chain."""

from pydantic import ConfigDict, Field

from rrnode.control.models.base import Model


class ChainStatus(Model):
    """The chain as the node's follower sees it. `problem` is a sentence when the backend does not answer."""

    backend: str
    height: int
    block_hash: str
    ready: bool
    problem: str = ""


class Status(Model):
    """What `rrnode status` prints.

    Attributes:
        halted: why the node takes on nothing new ("" while all is well); locked payments are still guarded.
        alarms: what a person must know, newest last.
        warnings: what is not as it should be with those who guard this node, now.
        channel_ours_msat: our settled balance in channels that live; in-flight HTLCs of ours are not in it.
    """

    version: str
    network: str
    peer_id: str
    operator: str
    switches: tuple[str, ...]
    listening: tuple[str, ...]
    data_dir: str
    pid: int
    uptime_s: int
    chain: ChainStatus
    peers_connected: int
    channels_open: int
    channels_opening: int
    channels_closing: int
    channel_ours_msat: int
    channel_theirs_msat: int
    in_flight_out_msat: int
    in_flight_in_msat: int
    wallet_confirmed_sat: int
    wallet_unconfirmed_sat: int
    payments_live: int
    forwards_live: int
    forwards_done: int = 0
    earned_msat: int = 0
    halted: str = ""
    alarms: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class PeerInfo(Model):
    """A peer that is linked, kept, or a channel neighbour.

    Attributes:
        address: where it is dialled; of an inbound link the other end, which is what a NAT made of it.
        problem: why it is not connected.
    """

    peer_id: str
    connected: bool
    inbound: bool = False
    address: str = ""
    agent: str = ""
    switches: tuple[str, ...] = ()
    kept: bool = False
    channels: int = 0
    problem: str = ""


class HelperInfo(Model):
    """A node that tells us the chain, because we hold none.

    Attributes:
        height: of the best block that it showed us; None before the first.
        lag: blocks that it is behind the best we know of.
        answers, silences, refusals: our questions by how they ended.
        disagreements: answers that differ from others' where nobody can be proven wrong; `last_disagreement` in words.
        lies: answers that are proven wrong; `last_lie` in words. Its silence then counts for nothing any more.
        problem: why it cannot be asked now; "" when it can.
        related: why its silence counts for nothing: it seems to belong to a channel neighbour.
    """

    peer_id: str
    connected: bool
    height: int | None = None
    lag: int | None = None
    answers: int = 0
    silences: int = 0
    refusals: int = 0
    disagreements: int = 0
    last_disagreement: str = ""
    lies: int = 0
    last_lie: str = ""
    problem: str = ""
    related: str = ""


class Done(Model):
    """An order without further answer was carried out."""

    done: bool = True


class Failure(Model):
    """The body of every answer that is not 2xx. `try` says what to do next, or is ""."""

    error: str
    hint: str = Field(default="", alias="try")

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)
