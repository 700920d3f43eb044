"""`python -m tools.simulate` as a process: the same seed gives the same bytes, and bad input is told in one sentence."""

import json
import os
import subprocess
import sys


def run(*arguments, hash_seed="0", cwd=None):
    environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.getcwd()}
    return subprocess.run(
        [sys.executable, "-m", "tools.simulate", *arguments],
        capture_output=True, text=True, env=environment, timeout=120, check=False, cwd=cwd,
    )  # fmt: skip


SMALL = ("--nodes", "40", "--payments", "12", "--amount", "1000:500000", "--json")


def test_two_runs_with_one_seed_give_the_same_bytes_and_another_seed_others():
    for more in (("--shape", "hubs"), ("--rate", "5", "--balances", "drained")):
        first = run(*SMALL, *more, hash_seed="1")
        second = run(*SMALL, *more, hash_seed="2")
        assert first.returncode == 0, first.stderr
        assert first.stdout == second.stdout
        assert json.loads(first.stdout)["payments"]["ordered"] == 12
    assert run(*SMALL, *more, "--seed", "2").stdout != first.stdout


def test_people_get_tables_and_pictures(tmp_path):
    done = run("--nodes", "20", "--degree", "4", "--payments", "3", "--pictures", str(tmp_path / "pictures"))
    assert done.returncode == 0, done.stderr
    assert "the oracle's fee, ppm" in done.stdout
    assert "the busiest 1 % of nodes" in done.stdout
    assert "MB of memory" in done.stderr
    assert "━" not in done.stderr  # no bar where there is no terminal
    assert {each.name for each in (tmp_path / "pictures").iterdir()} >= {"fees.svg", "times.svg", "messages.svg"}


def test_a_list_and_a_workload_are_read_from_files(tmp_path):
    rows = "".join(f"{a},{b},1000000,1000,0,40,500000\n" for pair in ("AB", "BC") for a, b in (pair, pair[::-1]))
    head = "source,target,capacity_sat,base_fee_msat,proportional_fee_ppm,cltv_delta,balance_sat\n"
    (tmp_path / "list.csv").write_text(head + rows)
    (tmp_path / "work.csv").write_text("payer,payee,amount_sat\nA,C,1000\n")
    done = run(str(tmp_path / "list.csv"), "--orders", str(tmp_path / "work.csv"), "--json")
    assert done.returncode == 0, done.stderr
    (each,) = json.loads(done.stdout)["each"]
    assert (each["locked"], each["carriers"]) == (1_001_000, ["B"])


def test_bad_input_is_told_with_its_line_and_ends_with_two(tmp_path):
    (tmp_path / "list.csv").write_text(
        "source,target,capacity_sat,base_fee_msat,proportional_fee_ppm,cltv_delta\na,b,1,x,0,40\n"
    )
    done = run(str(tmp_path / "list.csv"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"{tmp_path / 'list.csv'}, line 2: base_fee_msat is 'x', a whole number wanted\n"
    for option, value in (("--amount", "10:1"), ("--delay", "soon"), ("--amount", "0")):
        done = run(option, value)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"{option} is {value!r}; wanted is a whole number or FROM:TO")
