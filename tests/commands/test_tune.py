"""`python -m bench tune`, with a fake trainer."""

import functools
import signal
import time
import tomllib
from typing import Any

import pytest

from bench.commands import tune
from bench.config import SEARCH, find_config, merged_values
from bench.errors import UsageError

pytestmark = pytest.mark.extra

SPACE = """\
base = "fast"
attempts = 4
[space]
rate = { choices = [1, 2, 3] }
"""


@pytest.fixture
def run_tune(arena, monkeypatch):
    def run(text=SPACE, **changes):
        path = arena.root / "some.toml"
        path.write_text(text)
        given: dict[str, Any] = {"trials": 8, "device": "cpu"} | changes
        return tune.main(tune.Arguments(space=str(path), results=arena.results, **given))

    monkeypatch.setattr(tune, "SCRIPT", arena.script)
    import optuna

    # Without a seed, the few trials of a test may never draw the fastest settings, or draw them last.
    seeded_sampler = functools.partial(optuna.samplers.TPESampler, seed=0)
    monkeypatch.setattr(optuna.samplers, "TPESampler", seeded_sampler)
    arena.behave(
        fast={
            "noise": 0.0,
            "when": {"--rate 1.0": {"train": 9.0}, "--rate 2.0": {"train": 3.0}, "--rate 3.0": {"train": 6.0}},
        }
    )
    return run


def best_config(arena):
    return tomllib.loads((arena.results / "tune" / "some.toml").read_text())


def test_the_fastest_settings_are_written_with_the_cost_of_the_search(arena, run_tune, capsys):
    assert run_tune() == 0
    runs = arena.attempts()
    assert best_config(arena)["rate"] == 2
    assert best_config(arena)["track"] == "add3"
    cost = best_config(arena)["search"]
    assert cost["trials"] == 8
    assert cost["attempts"] == len(runs)
    assert cost["seconds"] == pytest.approx(sum(run.seconds.total for run in runs), abs=0.1)
    assert "best: trial" in capsys.readouterr().out
    assert not any(run.is_contest for run in runs)
    name, path = find_config(str(arena.results / "tune" / "some.toml"), "cpu")
    assert name == "some"
    assert merged_values(path)[SEARCH] == cost


def test_all_trials_use_the_same_seeds_and_records_cannot_draw_them(arena, run_tune):
    run_tune()
    assert {run.seed for run in arena.attempts()} == {2**31, 2**31 + 1, 2**31 + 2, 2**31 + 3}


def test_a_pruned_trial_runs_no_more_attempts(arena, run_tune):
    run_tune()
    made = {}
    for run in arena.attempts():
        made[run.settings["rate"]] = made.get(run.settings["rate"], 0) + 1
    assert made[2.0] == 4
    assert all(count <= 4 for count in made.values())
    assert sum(made.values()) < 12


def test_the_same_settings_are_not_tried_twice(arena, run_tune):
    run_tune(trials=20)
    keys = [(run.config_hash, run.seed) for run in arena.attempts()]
    assert len(keys) == len(set(keys))


def test_the_same_command_resumes_the_study(arena, run_tune):
    run_tune(trials=3)
    made = len(arena.calls())
    run_tune(trials=3)
    assert len(arena.calls()) == made
    run_tune(trials=12)
    assert best_config(arena)["search"]["trials"] == 12


def test_a_search_that_solves_nothing_writes_no_config(arena, run_tune, capsys):
    arena.behave(fast={"solves": 0.0})
    assert run_tune(trials=2) == 0
    assert "no trial has solved the track yet" in capsys.readouterr().out
    assert not (arena.results / "tune" / "some.toml").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_after_a_kill_the_search_resumes(arena, run_tune, number):
    arena.behave(fast={"sleep": 0.2, "noise": 0.0})
    path = arena.root / "some.toml"
    path.write_text(SPACE)
    process = arena.start("tune", str(path), "--trials", "3", "--device", "cpu")
    deadline = time.monotonic() + 60
    while len(arena.calls()) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == (-9 if number == signal.SIGKILL else 130), stderr
    time.sleep(0.4)
    run_tune(trials=3)
    runs = arena.attempts()
    keys = [(run.config_hash, run.seed) for run in runs if run.outcome == "solved"]
    assert len(keys) == len(set(keys))
    assert len(runs) - len(keys) <= 1
    assert best_config(arena)["search"]["trials"] == 3


def test_several_processes_share_one_study(arena, run_tune):
    arena.behave(fast={"sleep": 0.05, "noise": 0.0})
    path = arena.root / "some.toml"
    path.write_text(SPACE)
    workers = [arena.start("tune", str(path), "--trials", "6", "--device", "cpu") for _ in range(2)]
    outputs = [worker.communicate(timeout=120)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outputs
    assert all("trial" in each for each in outputs), "one of them did everything"
    numbers = [line.split()[1] for each in outputs for line in each.splitlines() if "rate=" in line]
    assert len(numbers) == len(set(numbers))


def test_settings_that_the_trainer_refuses_do_not_stop_the_search(arena, run_tune, capsys):
    two = SPACE + "momentum = { choices = [0.5, 0.9] }\n"
    arena.behave(fast={"when": {"--rate 1.0": {"refused": "rate is odd"}, "--momentum 0.9": {"refused": None}}})
    assert run_tune(two, trials=12) == 0
    assert "some.toml: rate=1.0 momentum=0.5: rate is odd" in capsys.readouterr().err
    assert best_config(arena)["search"]["trials"] == 12
    arena.behave(fast={"refused": "there is no GPU on this machine"})
    with pytest.raises(UsageError, match=r"this machine is left out: .*there is no GPU"):
        run_tune(trials=12)
    with pytest.raises(UsageError, match="must be above 0"):
        run_tune(trials=0)


def test_a_search_whose_values_the_trainer_refuses_does_not_begin(arena, run_tune):
    arena.behave(fast={"when": {"--rate 1.0": {"refused": "rate is odd"}}})
    with pytest.raises(UsageError, match=r"some\.toml: rate=1: rate is odd"):
        run_tune(trials=2)
    with pytest.raises(UsageError, match="'nosuch' is not a setting"):
        run_tune(SPACE.replace("rate", "nosuch"))
    assert arena.calls() == []


def test_the_best_config_has_the_hash_of_its_trial(arena, run_tune):
    run_tune(SPACE.replace("{ choices = [1, 2, 3] }", "{ low = 1, high = 2, step = 1 }"), trials=4)
    assert repr(best_config(arena)["rate"]) == "2.0"
    assert {type(run.settings["rate"]) for run in arena.attempts()} == {float}


def test_a_search_goes_on_after_its_log_was_cut(arena, run_tune, capsys):
    run_tune(trials=2)
    path = arena.results / "tune" / "some.log"
    path.write_bytes(path.read_bytes()[:-20])
    assert run_tune(trials=3) == 0
    assert "some.log:" in capsys.readouterr().err
    assert run_tune(trials=4) == 0


def test_another_limit_starts_another_study(arena, run_tune):
    run_tune(trials=2)
    made = len(arena.calls())
    run_tune(trials=2, max_seconds=50.0)
    assert len(arena.calls()) > made


def test_the_cost_is_that_of_one_search(arena, run_tune):
    run_tune(trials=2)
    made = len(arena.calls())
    (arena.root / "some-other.toml").write_text(SPACE)
    tune.main(tune.Arguments(space=str(arena.root / "some-other.toml"), results=arena.results, trials=2, device="cpu"))
    run_tune(trials=2)
    assert best_config(arena)["search"]["attempts"] == made
