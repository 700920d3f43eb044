"""What a stranger may earn by stopping a cheat: which outputs of a revoked state get a signed pair, with which bounty.

Source: DESIGN 7 ("Cheating must never pay"). The cheat can be the hunter, so all bounties of a state must be less than what
it loses by cheating: its balance. That is the reserve once it has ever offered an HTLC, and from then on never less
(BOLT 2); before, it may be less, even nothing, and then a reserve that was only agreed on deters nobody.
"""

from dataclasses import dataclass
from enum import Enum

from protocols.channel.records import Kept, RevokedOutput
from protocols.errors import MisuseError
from protocols.onchain import weights
from protocols.units import MSAT_PER_SAT, FeeRate, Msat, Sat, fee_for

HUNTER_DUST = Sat(354)  # no output that a hunter may want is dust from here on (BOLT 3)
MAX_BOUNTY = Sat(2**32 - 1)  # what a remedy has room for, 42 coins
_WITNESS = {
    Kept.TO_THEM: weights.TO_LOCAL_PENALTY_WITNESS,
    Kept.OFFERED_BY_THEM: weights.OFFERED_HTLC_PENALTY_WITNESS,
    Kept.OFFERED_BY_US: weights.RECEIVED_HTLC_PENALTY_WITNESS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BountyConfig:
    """How bounties are set.

    Attributes:
        stake_share: all bounties of one state together are at most one part in so many of what the cheat has at stake;
            2, so that a cheat who hunts itself has lost half of it even with every bounty in its hands.
        output_share: a bounty is at most one part in so many of its output; what is saved is the victim's.
        feerate: a bounty pays at least for a claim of its output alone at this feerate, since the cheat may have spent the
            state's other outputs. 10 sat per virtual byte: most days are below; above, hunters wait.
        htlc_minimum: smaller HTLCs get no pair: each one makes the remedy larger by a hundred bytes, kept for ever.
    """

    stake_share: int = 2
    output_share: int = 10
    feerate: FeeRate = FeeRate(10_000)
    htlc_minimum: Sat = Sat(25_000)

    def __post_init__(self) -> None:
        if self.stake_share < 2 or self.output_share < 2:
            raise MisuseError("bounties of more than half of a stake or of an output: cheating might pay")
        if self.feerate < 1000 or self.htlc_minimum < 0:
            raise MisuseError(
                "a bounty's feerate of at least 1000 sat per 1000 vB and an HTLC minimum of at least 0 wanted"
            )


class Uncovered(Enum):
    """Why an output of a revoked state gets no pair. The value is a sentence for people."""

    NOTHING_AT_STAKE = "the neighbour would lose too little by cheating for any bounty to be taken from it"
    OVER_BUDGET = "the bounties of this state together would be more than the share of the neighbour's stake allowed"
    OUTPUT_TOO_SMALL = "the largest bounty that its value allows does not pay for the fee of its claim"
    BELOW_THRESHOLD = "the HTLC is smaller than those that bounties are offered for"


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """An output that gets a pair: the victim is paid its value less the bounty."""

    output: RevokedOutput
    bounty: Sat


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """An output that gets none: only its owner can claim it."""

    output: RevokedOutput
    reason: Uncovered


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The bounties of one revoked state.

    Attributes:
        outputs: the state's record.
        priced: to_local first, then HTLCs, the largest first.
        left: without a pair.
        stake: what the cheat loses by publishing this state.
        trimmed: what has no output in it: anchor and fee, gone for both sides.
    """

    outputs: tuple[RevokedOutput, ...]
    priced: tuple[Priced, ...]
    left: tuple[Left, ...]
    stake: Sat
    trimmed: Sat

    @property
    def bounties(self) -> Sat:
        """All bounties together."""
        return Sat(sum(each.bounty for each in self.priced))

    @property
    def deters(self) -> bool:
        """Whether strangers alone make this state a loss for the cheat and none for the victim: even a cheat that takes
        every bounty and every output without a pair ends poorer than by closing honestly, and its victim no poorer.
        True, too, when the state has no output that could be taken. What the cheat takes by an HTLC transaction before any
        claim is not in this: for that the victim itself must come back in time."""
        if not self.priced and not self.left:
            return True
        return self.bounties + sum(each.output.value for each in self.left) + self.trimmed < self.stake


def at_stake(reserve: Sat, balance: Msat, dust_limit: Sat) -> Sat:
    """What the neighbour is sure to lose by cheating, now and at any later time.

    Args:
        reserve: what we demand of it (`Channel.our_terms.reserve`).
        balance: its own in its newest commitment, HTLCs left out.
        dust_limit: below it a balance has no output, and closing honestly brings nothing.
    """
    own = Sat(balance // MSAT_PER_SAT)
    return min(reserve, own) if own >= dust_limit else Sat(0)


def least_bounty(kind: Kept, config: BountyConfig) -> Sat:
    """The least bounty of an output of this kind: fee of a claim of it alone, and an output for the hunter."""
    return Sat(fee_for(weights.claim_vbytes(_WITNESS[kind]), config.feerate) + HUNTER_DUST)


def plan(outputs: tuple[RevokedOutput, ...], *, capacity: Sat, stake: Sat, config: BountyConfig) -> Plan:
    """The bounties of a revoked state: what its outputs need at least, and the rest of the budget in proportion to value.

    No victim's output is dust: it is at least as much as the bounty, and that is above every threshold.

    Args:
        outputs: the whole record of the state (`records.decode`).
        stake: see `at_stake`.
    """
    claimable = [each for each in outputs if each.kind is not Kept.TO_US]
    claimable.sort(key=lambda each: (each.kind is not Kept.TO_THEM, -each.value, each.index))
    budget = stake // config.stake_share
    left: list[Left] = []
    taken: list[tuple[RevokedOutput, Sat]] = []
    for output in claimable:
        least = least_bounty(output.kind, config)
        reason = _reason(output, least, budget, stake, config)
        if reason is not None:
            left.append(Left(output=output, reason=reason))
            continue
        taken.append((output, least))
        budget -= least
    total = sum(output.value for output, _ in taken)
    return Plan(
        outputs=outputs,
        priced=tuple(
            Priced(
                output=output,
                bounty=Sat(
                    min(output.value // config.output_share, least + budget * output.value // total, MAX_BOUNTY)
                ),
            )
            for output, least in taken
        ),
        left=tuple(left),
        stake=stake,
        trimmed=Sat(capacity - sum(each.value for each in outputs)),
    )


def _reason(output: RevokedOutput, least: Sat, budget: int, stake: Sat, config: BountyConfig) -> Uncovered | None:
    if output.kind is not Kept.TO_THEM and output.value < config.htlc_minimum:
        return Uncovered.BELOW_THRESHOLD
    if least > output.value // config.output_share:
        return Uncovered.OUTPUT_TOO_SMALL
    if least > stake // config.stake_share:
        return Uncovered.NOTHING_AT_STAKE
    return Uncovered.OVER_BUDGET if least > budget else None
