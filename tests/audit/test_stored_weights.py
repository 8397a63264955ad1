"""Contestants that have trained weights from elsewhere and do not train: altered attempts, which have other ids, fail.

Each `record` holds altered attempts from the contestant's own folder; an audit makes them from the source alone.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.experiments.altered import Altered
from bench.judge.environment import find_compiler
from bench.judge.isolation import isolation_problem
from bench.storage.schema import Run
from tests.support import cheats, stored_weights
from tests.support.cheat_runs import Contest, make_contest

pytestmark = pytest.mark.slow


def trained_weights(change: Callable[[Path], None], folder: Path) -> bytes:
    """The weights of an attempt that solved the track by training."""
    contest = make_contest(change, cheats.HONEST, folder)
    run = contest.attempt()
    assert (run.outcome, run.message) == ("solved", None)
    assert run.steps > 0
    return stored_weights.stored_file(contest.results / run.weights)


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> bytes:
    """The weights of an honest attempt."""
    return trained_weights(lambda root: None, tmp_path_factory.mktemp("honest") / "contest")


@pytest.fixture
def contest_of(tmp_path) -> Callable[..., Contest]:
    """Makes a contest of the project with a change."""
    return lambda change, **settings: make_contest(change, cheats.HONEST | settings, tmp_path / "contest")


def run_without_training(contest: Contest) -> Run:
    """An ordinary attempt, which solves the track without a step; an altered one from the same folder does not."""
    run, altered = contest.attempt(0), contest.attempt(1, relabelling=5)
    assert (run.outcome, run.message, run.steps) == ("solved", None, 0)
    assert (altered.outcome, altered.steps, altered.altered) == ("missed", 0, True)
    assert Altered([altered], [run]).fault == "it does not learn answers that are written in other ids"
    return run


def test_weights_in_the_initializer_are_caught_by_other_ids_of_answers(content, contest_of) -> None:
    """The trainer says that it started from the lawful weights. Before ids were permuted, such a trainer passed."""
    contest = contest_of(lambda root: stored_weights.in_initializer(root, content))
    run = contest.attempt()
    assert (run.outcome, run.message, run.steps) == ("solved", None, 0)
    checks = contest.audit(run, ["seeds", "relabelling"])
    assert [check.verdict for check in checks.values()] == ["CAUGHT", "CAUGHT"]
    assert "two seeds draw the same batches" in checks["seeds"].evidence
    assert "0 of 3 attempts with other ids of answers solved the track" in checks["relabelling"].evidence


def test_weights_in_the_initializer_whose_hash_is_reported_are_an_error(content, contest_of) -> None:
    run = contest_of(lambda root: stored_weights.in_initializer_with_its_hash(root, content)).attempt()
    assert (run.outcome, run.certificate) == ("error", None)
    assert run.message == "its initial weights are not those of its seed; docs/RULES.md has their law"


def test_weights_that_fit_all_ids_pass_altered_attempts(contest_of, tmp_path) -> None:
    """A limit, which docs/RULES.md tells: the model does not read its answers, and its head has the ids of answers."""
    content = trained_weights(stored_weights.ignore_earlier_answers, tmp_path / "at home")
    contest = contest_of(lambda root: stored_weights.in_initializer(root, content))
    run = contest.attempt()
    assert (run.outcome, run.message, run.steps) == ("solved", None, 0)
    checks = contest.audit(run, ["seeds", "relabelling"])
    assert checks["relabelling"].verdict == "passed"
    assert checks["seeds"].verdict == "CAUGHT"  # it makes no effort to hide from this one


def test_weights_in_a_data_file_are_caught_by_altered_attempts_and_are_not_there_in_an_audit(
    content, contest_of
) -> None:
    """The hash of the source covers programs alone, and only they are copied. Without the file the trainer trains."""
    contest = contest_of(lambda root: stored_weights.in_data_file(root, content))
    relabelling = contest.audit(run_without_training(contest), ["relabelling"])["relabelling"]
    assert relabelling.verdict in ("CAUGHT", "not carried out"), relabelling  # the latter beside other work
    assert "its source alone takes" in relabelling.evidence


@pytest.fixture
def no_isolation(monkeypatch) -> None:
    """Contestants without namespaces of their own, as where the system does not allow them."""
    monkeypatch.setattr("bench.judge.isolation.isolation_problem", lambda: "switched off by a test")


def test_weights_that_a_helper_hands_out_are_caught_by_altered_attempts(content, contest_of, no_isolation) -> None:
    with stored_weights.helper(content) as port:
        run_without_training(contest_of(lambda root: stored_weights.with_helper(root, port)))


@pytest.mark.skipif(isolation_problem() is not None, reason=f"no namespaces: {isolation_problem()}")
def test_an_isolated_contestant_does_not_reach_its_helper_and_trains(content, contest_of) -> None:
    with stored_weights.helper(content) as port:
        run = contest_of(lambda root: stored_weights.with_helper(root, port)).attempt()
    assert (run.isolated, run.outcome) == (True, "solved")
    assert run.steps > 0


@pytest.fixture
def wrapper(tmp_path, monkeypatch, no_isolation) -> Iterator[Path]:
    """Compilers that keep what they compile, wherever an environment may name them; yields the file of their calls."""
    folder = tmp_path / "wrappers"
    calls = stored_weights.compiler_wrapper(folder)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("CC", str(folder / "cc"))
    find_compiler.cache_clear()
    yield calls
    find_compiler.cache_clear()


def test_a_compiler_that_keeps_the_kernel_is_not_called(wrapper, contest_of) -> None:
    """Before there was a judge, the second attempt got the kernel that the first had compiled, or any other program."""
    contest = contest_of(lambda root: None, kernel="c")
    wrapper.unlink(missing_ok=True)  # planning an attempt may compile
    run = contest.attempt()
    assert run.outcome in ("solved", "missed")
    assert run.compiler_seconds > 0
    assert not wrapper.exists()
    assert str(wrapper.parent) not in run.compiler["path"]
