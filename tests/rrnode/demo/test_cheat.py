"""`rrnode demo cheat`: what it refuses; and (slow) all of it, played by real processes, its output read."""

import json
import subprocess
import sys
from ipaddress import ip_network
from pathlib import Path

import pytest

from rrnode.cli.app import main
from rrnode.demo import cheat, theft
from rrnode.demo.cheat import Options
from rrnode.demo.network import stage
from rrnode.demo.past import Past
from rrnode.demo.theft import ACTS, Theft
from rrnode.demo.watched import ADDRESSES, WATCHERS
from rrnode.errors import UserError

ROOT = Path(__file__).parents[3]
MOST_SECONDS = 1200  # two minutes on an idle machine


class Silent:
    """A screen that keeps what is said."""

    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)

    holds = say


@pytest.fixture
def without_core(monkeypatch, tmp_path):
    monkeypatch.delenv("BITCOIND", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(cheat, "cache_dir", lambda: tmp_path)


@pytest.fixture
def with_core(monkeypatch):
    monkeypatch.setenv("BITCOIND", sys.executable)  # looked for, not started
    return Path(sys.executable)


def plan(**options):
    screen = Silent()
    return cheat._plan(Options(**options), ("race", "last"), screen), screen.said


def test_watchers_and_the_cheat_live_in_networks_of_their_own():
    assert set(ADDRESSES) == {"D", *WATCHERS}
    assert len({ip_network(f"{address}/16", strict=False) for address in ADDRESSES.values()}) == len(ADDRESSES)


def test_the_race_is_run_once_more_on_a_bitcoin_core_where_there_is_one(with_core):
    assert plan() == ((("embedded", None, ("race", "last")), ("bitcoind", with_core, ("race",))), [])
    assert plan(chain="bitcoind") == ((("bitcoind", with_core, ("race", "last")),), [])
    assert plan(chain="embedded") == plan(act="race") == ((("embedded", None, ("race", "last")),), [])


@pytest.mark.parametrize("chain", ["", "bitcoind"])
def test_where_there_is_no_bitcoin_core_it_says_so_and_uses_the_embedded_chain(without_core, chain):
    planned, said = plan(chain=chain)
    assert planned == (("embedded", None, ("race", "last")),)
    assert said == [f"There is no Bitcoin Core here ({cheat.HOW_TO_GET_ONE}): all is played on the embedded chain."]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["demo", "cheat", "--act", "robbery"], "--act 'robbery' is not known"),
        (["demo", "cheat", "--chain", "signet"], "--chain 'signet' is not known"),
        (["demo", "--keep", "cheat"], "flags of another demo stand before cheat"),
        (["demo", "--json", "cheat"], "flags of another demo stand before cheat"),
    ],
)
def test_what_cannot_be_played_is_refused_at_once(words, error, capsys):
    assert main(words) == 1
    said = capsys.readouterr()
    assert error in said.out + said.err


def test_a_claim_that_does_not_hold_ends_the_story():
    screen = Silent()
    story = Theft(type("Cast", (), {"nodes": {}})(), screen)
    story.holds(True, "one and one are two")
    with pytest.raises(UserError, match="this was claimed and does not hold: one and one are three"):
        story.holds(False, "one and one are three")
    assert screen.said == ["one and one are two"]


def ended(d, e, g=0):
    return {"honest_sat": {"D": 100, "E": 100, "G": 0}, "after_sat": {"D": d, "E": e, "G": g}}


@pytest.mark.parametrize(
    ("after", "side", "broken"),
    [
        (ended(100, 100), "D", "D is 0 sat poorer"),
        (ended(80, 99), "D", "E is -1 sat richer"),
        (ended(80, 100, 20), "DG", "D and G together are 0 sat poorer"),
    ],
)
def test_a_cheat_that_pays_or_costs_its_victim_is_no_happy_end(after, side, broken):
    story = Theft(type("Cast", (), {"nodes": {}})(), Silent())
    with pytest.raises(UserError, match=broken):
        story.poorer(after, side)


def test_a_stage_is_cleared_when_all_went_well_and_keeps_its_logs_when_not(tmp_path):
    with stage(None) as network:
        assert network.directory.is_dir()
    assert not network.directory.exists()
    with pytest.raises(UserError, match="no luck") as refused, stage(tmp_path / "new") as network:
        raise UserError("no luck")
    assert refused.value.hint == f"look at the logs in {tmp_path / 'new'}"
    assert network.directory.is_dir()
    (network.directory / "log").touch()
    with pytest.raises(UserError, match="is not empty"), stage(network.directory):
        pass
    with pytest.raises(UserError) as refused, stage(tmp_path / "other"):
        raise UserError("no luck", "try harder")
    assert refused.value.hint == f"try harder; or look at the logs in {tmp_path / 'other'}"


def test_a_past_that_a_journal_does_not_lead_to_is_not_put_back(tmp_path):
    data_dir = tmp_path / "D"
    assert main(["--datadir", str(data_dir), "init", "--json"]) == 0
    with pytest.raises(UserError, match="does not lead to the channel as it is on disk"):
        Past(data_dir, {}).put_back("00" * 32, theft.has_more)


@pytest.mark.slow
def test_all_acts_are_played_and_every_claim_holds(tmp_path):
    """The sums of every round once more, from the answer for programs."""
    done = subprocess.run(
        [sys.executable, "-m", "rrnode.cli", "demo", "cheat", "--json", "--directory", str(tmp_path / "stage")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=MOST_SECONDS,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    acts = json.loads(done.stdout)["acts"]
    played = [(act["chain"], act["act"], len(act["rounds"])) for act in acts]
    assert played[:4] == [("embedded", name, 3 if name == "htlc" else 1) for name in ACTS]
    assert played[4:] in ([], [("bitcoind", "race", 1)])
    assert ("There is no Bitcoin Core here" in done.stderr) is (len(played) == 4)
    assert "Everything that was claimed held." in done.stderr
    for act in acts:
        for number, one in enumerate(act["rounds"]):
            honest, after = one["honest_sat"], one["after_sat"]
            change = {name: after[name] - honest[name] for name in honest}
            too_late = (act["act"], number) == ("htlc", 2)
            assert (change["D"] + change["G"] * (act["act"] == "insider") < 0) is not too_late
            assert (change["E"] >= 0) is not too_late
            rewards = {name: case["reward_sat"] for name, case in one["hunters"].items()}
            assert {name: change[name] for name in WATCHERS} == rewards
            assert sum(rewards.values()) > 0
            paid = sum(
                each["value_sat"] - each["bounty_sat"]
                for case in one["hunters"].values()
                for each in case["outputs"]
                if each["ours"]
            )
            assert paid > sum(rewards.values())
            assert f"and {paid:,} that hunters got it" in done.stderr.replace("\n", " ")
