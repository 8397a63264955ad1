"""Executors that share jobs, and what happens when one is lost, fails or is stopped."""

import sys
import threading
from collections.abc import Iterator

import pytest

from bench.commands import matrix
from bench.commands.options import open_executors
from bench.errors import UsageError
from bench.experiments import executors
from bench.experiments.executors import Executor, ExecutorLost, group_by_machine_class, run_jobs
from tests.support.examples import ROOT


class FakeExecutor(Executor):
    """An executor that only counts."""

    def __init__(self, name):
        self.name, self.is_lost, self.was_stopped = name, False, threading.Event()

    def stop(self):
        self.was_stopped.set()


def test_executors_share_an_iterator_and_each_job_runs_once():
    a, b, c = map(FakeExecutor, "abc")
    shared, both = iter(range(1, 41)), threading.Barrier(2)
    done, waiting = [], {a, b}

    def run_job(executor, job):
        if executor in waiting:
            waiting.remove(executor)
            both.wait(timeout=10)  # neither can take all jobs
        done.append((executor.name, job))
        return False

    assert not run_jobs({a: shared, b: shared, c: iter([100])}, run_job, pytest.fail)
    assert sorted(job for _, job in done) == [*range(1, 41), 100]
    assert {name for name, job in done if job <= 40} == {"a", "b"}
    assert ("c", 100) in done


def test_a_lost_executor_runs_no_more_jobs_and_another_continues():
    a, b = map(FakeExecutor, "ab")
    shared, done, reports = iter(range(1, 11)), [], []
    turn = threading.Event()

    def run_job(executor, job):
        if executor is a:
            a.is_lost = True
            turn.set()
        else:
            turn.wait(timeout=10)
        done.append(job)
        return False

    assert not run_jobs({a: shared, b: shared}, run_job, reports.append)
    assert sorted(done) == list(range(1, 11))
    assert reports == ["a was lost, and its current attempt with it"]


def test_when_the_only_executor_is_lost_the_remaining_jobs_are_left():
    a, left = FakeExecutor("a"), iter(range(1, 4))

    def run_job(executor, job):
        executor.is_lost = True
        raise ExecutorLost

    assert not run_jobs({a: left}, run_job, lambda line: None)
    assert list(left) == [2, 3]


@pytest.mark.parametrize("names", ["a", "ab"])
def test_an_interrupted_job_ends_everything(names):
    jobs: dict[Executor, Iterator[int]] = dict.fromkeys(map(FakeExecutor, names), iter(range(1, 1000)))

    def run_job(executor, job):
        if job == 5:
            raise KeyboardInterrupt
        return job == 7

    assert run_jobs(jobs, run_job, pytest.fail)
    assert next(next(iter(jobs.values()))) < 20


def test_an_exception_in_one_executor_is_raised():
    jobs: dict[Executor, Iterator[int]] = dict.fromkeys(map(FakeExecutor, "ab"), iter(range(1, 1000)))

    def run_job(executor, job):
        raise UsageError("no")

    with pytest.raises(UsageError):
        run_jobs(jobs, run_job, pytest.fail)


def test_ctrl_c_stops_all_executors(monkeypatch):
    a, b = map(FakeExecutor, "ab")
    begun = threading.Barrier(3)

    def run_job(executor, job):
        begun.wait(timeout=10)
        return executor.was_stopped.wait(timeout=10)

    def interrupted_wait(futures):
        if not a.was_stopped.is_set():
            begun.wait(timeout=10)
            raise KeyboardInterrupt

    monkeypatch.setattr(executors, "wait", interrupted_wait)
    assert run_jobs({a: iter([1]), b: iter([2])}, run_job, pytest.fail)
    assert b.was_stopped.is_set()


def test_executors_are_grouped_by_machine_class():
    a, b, c = map(FakeExecutor, "abc")
    assert group_by_machine_class({a: "Y", b: "X", c: "Y"}) == [[b], [a, c]]


def test_the_local_engine_is_this_machine():
    with open_executors("local", None, ROOT / "speedrun.py") as opened:
        assert [type(executor) for executor in opened] == [Executor]
    with (
        pytest.raises(UsageError, match="--address somewhere: needs --engine ray"),
        open_executors("local", "somewhere", ROOT / "speedrun.py"),
    ):
        pass


def test_without_ray_the_error_says_what_to_install(arena, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(matrix, "SCRIPT", arena.script)
    path = arena.root / "some.toml"
    path.write_text('base = "fast"\nseeds = [1]\n[axes]\nrate = [1]\n')
    with pytest.raises(UsageError, match=r"--engine ray needs Ray: pip install"):
        matrix.main(matrix.Arguments(file=str(path), results=arena.results, engine="ray"))
