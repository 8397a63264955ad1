"""The audit catches every cheat in tests/support/cheats.py on a real run of it, and passes the honest trainer.

The runs and the attempts of the audits are processes. They are started before the first test that uses one of them.
"""

import dataclasses
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tomli_w

from bench.attempt.lifecycle import lost_run
from bench.attempt.plan import make_plan
from bench.audit.checks import CHECKS, CheckResult, run_checks
from bench.audit.session import Audit, assemble
from bench.audit.target import AuditTarget
from bench.experiments.launcher import Contestant, Task, run_attempt
from bench.storage.journal import Journal
from bench.storage.schema import Batch, Run
from settings import Settings
from tests.support import cheats


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
    "lookup table": Case(cheats.lookup_table, cheats.IDLE, []),
    "leak": Case(cheats.leak, cheats.IDLE, []),
}
SEED = 7
PLANNING = threading.Lock()  # tyro parses one command line at a time


@dataclasses.dataclass(frozen=True)
class Audited:
    run: Run
    checks: dict[str, CheckResult]
    results: Path


def run_and_audit(case: Case, folder: Path) -> Audited:
    """Let the changed trainer make a run, as a command would start it, and audit the run."""
    source, assembled, results = (folder / name for name in ("source", "assembled", "results"))
    source.mkdir(parents=True)
    assembled.mkdir()
    cheats.copy_project(source)
    case.change(source)
    config = folder / "case.toml"
    config.write_text(tomli_w.dumps(case.settings))
    options = ("--config", str(config), "--shared")  # with the device lock the cases would wait for one another
    with PLANNING:
        planned = lost_run(make_plan(Settings, options, ""))
    contestant = Contestant(source / "speedrun.py", options, planned)
    batch = Batch(id="contest", command="speedrun", planned=1, index=0)
    run, _ = run_attempt(Task(contestant, SEED, batch), Journal(results))
    if run.weights is None:
        return Audited(run, {}, results)
    audit_target = AuditTarget(run.run_id, run, results / run.weights, run.weights_sha256, source)
    audit = Audit(audit_target, assembled, results, ["--shared"])
    if case.checks != tuple(CHECKS):  # resolving the contestant takes two seconds; it is tested for the honest one
        assemble(source, assembled)
        audit.contestant = dataclasses.replace(contestant, script=assembled / "speedrun.py", planned=run)
    return Audited(run, run_checks(audit, case.checks), results)


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
