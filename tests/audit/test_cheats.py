"""The audit catches every cheat in tests/support/cheats.py on a real run of it, and passes the honest trainer.

The runs and the attempts of the audits are processes. They are started before the first test that uses one of them.
"""

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench.audit.checks import CHECKS, CheckResult
from bench.storage.journal import Journal
from bench.storage.schema import Run
from tests.support import cheats
from tests.support.cheat_runs import make_contest


@dataclasses.dataclass(frozen=True)
class Case:
    """A change of the trainer, its settings, and the checks to carry out."""

    change: Callable[[Path], None]
    settings: dict
    checks: Sequence[str]


CASES = {
    "honest": Case(lambda root: None, cheats.HONEST, tuple(CHECKS)),
    "one error": Case(cheats.one_error, cheats.HONEST | {"precision": "float32"}, []),
    "held out too": Case(cheats.held_out_too, cheats.HONEST | {"max_rounds": 2}, ["data"]),
    "calculator": Case(cheats.calculator, cheats.IDLE, []),
    "warm-up": Case(cheats.warm_up_that_trains, cheats.HONEST, ["clock"]),
    "slow clock": Case(cheats.slow_clock, cheats.HONEST, []),
    "moved edge": Case(cheats.moved_edge, cheats.HONEST, []),
    "kernel bug": Case(cheats.planted_kernel_bug, cheats.HONEST | {"kernel": "c"}, []),
    "lookup table": Case(cheats.lookup_table, cheats.IDLE, []),
    "leak": Case(cheats.leak, cheats.IDLE, []),
}


@dataclasses.dataclass(frozen=True)
class Audited:
    run: Run
    checks: dict[str, CheckResult]
    results: Path


def run_and_audit(case: Case, folder: Path) -> Audited:
    """Let the changed trainer make a run, as a command would start it, and audit the run."""
    contest = make_contest(case.change, case.settings, folder)
    run = contest.attempt()
    return Audited(run, contest.audit(run, case.checks) if run.weights is not None else {}, contest.results)


@pytest.fixture(scope="module")
def audits(tmp_path_factory) -> dict[str, Audited]:
    """The audits of all cases, two at a time."""
    folder = tmp_path_factory.mktemp("audits")
    with ThreadPoolExecutor(max_workers=2) as pool:
        started = {
            name: pool.submit(run_and_audit, case, folder / f"case{number}")
            for number, (name, case) in enumerate(CASES.items())
        }
    return {name: future.result() for name, future in started.items()}


def results_for_solved(audits: dict[str, Audited], name: str) -> dict[str, CheckResult]:
    audited = audits[name]
    assert (audited.run.outcome, audited.run.message) == ("solved", None)
    assert audited.run.certificate.errors == 0
    return audited.checks


def assert_caught(results: dict[str, CheckResult], check: str, sentence: str) -> None:
    assert results[check].verdict == "CAUGHT", results[check]
    assert sentence in results[check].evidence


@pytest.mark.slow
def test_a_model_with_one_error_has_missed(audits) -> None:
    run = audits["one error"].run
    assert run.outcome == "missed"
    assert run.certificate.margins["below 0"] == 1  # the next answer may be right by too small a margin
    assert 1 <= run.certificate.errors <= 2


@pytest.mark.slow
def test_a_trainer_that_slows_its_clock_gains_nothing(audits) -> None:
    run = audits["slow clock"].run
    assert run.outcome == "solved"
    assert run.checks[-1].train_seconds < run.seconds.train / 5  # by the clock of the trainer


@pytest.mark.slow
def test_a_trainer_that_moves_the_edge_of_its_clock_gains_nothing(audits) -> None:
    """When the attempt had the clock, it had 0.05 s of `train` in place of 0.6 s, and passed all checks of an audit."""
    run, honest = audits["moved edge"].run, audits["honest"].run
    assert (run.outcome, run.steps) == ("solved", honest.steps)
    between_checks = run.checks[-1].train_seconds - run.checks[0].train_seconds  # by the clock of the trainer
    assert run.seconds.train > between_checks > 0
    assert run.seconds.train > honest.seconds.train / 3


@pytest.mark.slow
def test_a_bug_of_the_kernel_does_not_reach_the_certificate(audits) -> None:
    """When the trainer's own model was certified, the bug was part of it: 0 errors where plain float32 finds 1,902."""
    run = audits["kernel bug"].run
    assert run.outcome == "missed"
    assert run.checks[-1].errors == 0  # as the trainer sees it, in 9,000 of the 10,000 problems
    assert run.certificate.errors > 10


@pytest.mark.slow
def test_a_warm_up_that_trains_is_caught_by_leaving_it_out(audits) -> None:
    results = results_for_solved(audits, "warm-up")
    assert_caught(results, "clock", "training differs without the warm-up")
    assert_caught(results, "clock", "problems were used before `train`: ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("calculator", None),
        ("leak", None),
        ("lookup table", "the weights hold 'answers', which the model's config does not describe"),
    ],
)
def test_a_forward_pass_of_its_own_gains_nothing(name: str, message: str | None, audits) -> None:
    """The certificate computes the model from its weights, by code of its own."""
    run = audits[name].run
    assert run.outcome == ("missed" if message is None else "error")
    assert message is None or message in run.message
    assert message is not None or run.certificate.errors > 9_000


@pytest.mark.slow
def test_training_on_held_out_problems_is_caught_by_poisoning_them(audits) -> None:
    results = results_for_solved(audits, "held out too")
    assert_caught(results, "data", "it trains on held-out problems")


@pytest.mark.slow
def test_the_honest_trainer_passes_all_checks(audits) -> None:
    results = results_for_solved(audits, "honest")
    assert list(results) == list(CHECKS)
    faulty = [f"{name}: {result}" for name, result in results.items() if result.verdict != "passed"]
    assert not faulty, "\n".join(faulty)


@pytest.mark.slow
def test_the_attempts_of_an_audit_are_journalled_with_their_own_index(audits) -> None:
    honest = audits["honest"]
    runs = [run for run in Journal(honest.results).read()[0] if run.run_id != honest.run.run_id]
    assert {other.batch.command for other in runs} == {"audit"}
    assert [other.batch.index for other in runs] == list(range(len(runs)))
    assert {other.settings["control"] for other in runs} == {"none", "shuffle", "poison"}
    assert [other.altered for other in runs if other.settings["control"] == "none"] == [True]
    assert all(other.judge == "harness" for other in runs)
    assert not any(other.is_contest for other in runs)
