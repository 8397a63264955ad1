"""Batches of attempts, with a script of a few lines in place of the trainer."""

import sys
from dataclasses import replace

import pytest
from examples import ROOT, example_run

from bench import run
from bench.journal import Journal
from bench.plan import make_plan
from speedrun import Settings

# Files a solved run for even seeds; dies in different ways for others.
SCRIPT = """
import os, sys
sys.path[:0] = [{root!r}, {root!r} + "/tests"]
from pathlib import Path
from examples import example_run
from bench.journal import Journal
seed = int(sys.argv[sys.argv.index("--seed") + 1])
journal = Journal(Path(sys.argv[sys.argv.index("--results") + 1]))
made = example_run(run_id=f"run-{{seed}}", seed=seed, batch=__import__("json").loads(os.environ["{variable}"]))
if seed % 3 == 1:
    os.kill(os.getpid(), 9)  # before the start mark
with journal.attempt(made.model_copy(update={{"outcome": "lost"}})):
    if seed % 3 == 2:
        os.kill(os.getpid(), 9)  # after it
    journal.append(made)
"""


@pytest.fixture
def plan(tmp_path, monkeypatch):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(root=str(ROOT), variable=run.BATCH_VARIABLE))
    monkeypatch.setattr(sys, "argv", [str(script)])
    results = tmp_path / "results"
    plan = make_plan(Settings, ["--device", "cpu", "--attempts", "3", "--results", str(results)], "")
    return replace(plan, seed=30)


def carry_out(plan):
    arguments = ["--attempts", "3", "--results", str(plan.request.results)]
    return run.run_batch(plan, arguments, lambda own: example_run(batch=own.batch, seed=own.seed))


def test_every_attempt_counts_however_it_ends(plan, capsys):
    assert carry_out(plan) == 1
    runs, _ = Journal(plan.request.results).read()
    assert [(one.batch.index, one.seed, one.outcome) for one in runs] == [
        (0, 30, "solved"),
        (1, 31, "lost"),
        (2, 32, "lost"),
    ]
    assert {one.batch.planned for one in runs} == {3}
    assert "solved 1/3" in capsys.readouterr().err


def test_a_batch_that_solves_everything_exits_0(plan):
    assert carry_out(replace(plan, request=replace(plan.request, attempts=1))) == 0


def test_an_interrupt_ends_the_batch_and_files_the_attempt(plan, monkeypatch):
    def interrupted(arguments, batch):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "start_attempt", interrupted)
    assert carry_out(plan) == 130
    assert len(Journal(plan.request.results).read()[0]) == 1


@pytest.mark.parametrize("given", [["--a", "1", "--attempts", "3", "--b"], ["--a", "1", "--attempts=3", "--b"]])
def test_an_attempt_is_not_asked_for_a_batch(given):
    assert run.without_option(given, "--attempts") == ["--a", "1", "--b"]


def test_seeds_stay_within_31_bits(plan):
    carry_out(replace(plan, seed=2**31 - 2, request=replace(plan.request, attempts=3)))
    assert [one.seed for one in Journal(plan.request.results).read()[0]] == [2**31 - 2, 2**31 - 1, 0]
