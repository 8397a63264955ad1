"""Places that take jobs from one another's iterators, and what becomes of those that are lost or told to stop."""

import sys
import threading

import pytest

from bench.commands import matrix
from bench.errors import UsageError
from bench.experiments import executors
from bench.experiments.executors import ExecutorLost, LocalExecutor, group_by_machine_class, open_executors, run_jobs
from tests.support.examples import ROOT


class Somewhere:
    """A place that makes nothing."""

    def __init__(self, name):
        self.name, self.is_lost, self.was_stopped = name, False, threading.Event()

    def stop(self):
        self.was_stopped.set()


def test_places_share_an_iterator_and_each_job_is_done_once():
    a, b, c = map(Somewhere, "abc")
    shared, both = iter(range(1, 41)), threading.Barrier(2)
    done, waiting = [], {a, b}

    def make(place, job):
        if place in waiting:
            waiting.remove(place)
            both.wait(timeout=10)  # neither of them takes all
        done.append((place.name, job))
        return False

    assert not run_jobs({a: shared, b: shared, c: iter([100])}, make, pytest.fail)
    assert sorted(job for _, job in done) == [*range(1, 41), 100]
    assert {name for name, job in done if job <= 40} == {"a", "b"}
    assert ("c", 100) in done


def test_a_lost_place_makes_no_more_and_another_goes_on():
    a, b = map(Somewhere, "ab")
    shared, done, said = iter(range(1, 11)), [], []
    turn = threading.Event()

    def make(place, job):
        if place is a:
            a.is_lost = True
            turn.set()
        else:
            turn.wait(timeout=10)
        done.append(job)
        return False

    assert not run_jobs({a: shared, b: shared}, make, said.append)
    assert sorted(done) == list(range(1, 11))
    assert said == ["a was lost, and with it the attempt that it was at"]


def test_when_the_only_place_is_lost_the_rest_stays():
    a, left = Somewhere("a"), iter(range(1, 4))

    def make(place, job):
        place.is_lost = True
        raise ExecutorLost

    assert not run_jobs({a: left}, make, lambda line: None)
    assert list(left) == [2, 3]


@pytest.mark.parametrize("names", ["a", "ab"])
def test_an_interrupted_job_ends_everything(names):
    jobs = dict.fromkeys(map(Somewhere, names), iter(range(1, 1000)))

    def make(place, job):
        if job == 5:
            raise KeyboardInterrupt
        return job == 7

    assert run_jobs(jobs, make, pytest.fail)
    assert next(next(iter(jobs.values()))) < 20


def test_a_failure_at_one_place_comes_out():
    jobs = dict.fromkeys(map(Somewhere, "ab"), iter(range(1, 1000)))

    def make(place, job):
        raise UsageError("no")

    with pytest.raises(UsageError):
        run_jobs(jobs, make, pytest.fail)


def test_a_ctrl_c_stops_all_places(monkeypatch):
    a, b = map(Somewhere, "ab")
    begun = threading.Barrier(3)

    def make(place, job):
        begun.wait(timeout=10)
        return place.was_stopped.wait(timeout=10)

    def interrupted_wait(working):
        if not a.was_stopped.is_set():
            begun.wait(timeout=10)
            raise KeyboardInterrupt

    monkeypatch.setattr(executors, "wait", interrupted_wait)
    assert run_jobs({a: iter([1]), b: iter([2])}, make, pytest.fail)
    assert b.was_stopped.is_set()


def test_places_of_one_class_stand_together():
    a, b, c = map(Somewhere, "abc")
    assert group_by_machine_class({a: "Y", b: "X", c: "Y"}) == [[b], [a, c]]


def test_the_local_engine_is_this_machine():
    with open_executors("local", None, ROOT / "speedrun.py") as found:
        assert [type(place) for place in found] == [LocalExecutor]
    with (
        pytest.raises(UsageError, match="--address somewhere: goes with --engine ray"),
        open_executors("local", "somewhere", ROOT / "speedrun.py"),
    ):
        pass


def test_without_ray_a_sentence_says_what_to_install(arena, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(matrix, "SCRIPT", arena.script)
    path = arena.root / "some.toml"
    path.write_text('base = "fast"\nseeds = [1]\n[axes]\nrate = [1]\n')
    with pytest.raises(UsageError, match=r"--engine ray needs Ray: pip install"):
        matrix.main(matrix.Arguments(file=str(path), results=arena.results, engine="ray"))
