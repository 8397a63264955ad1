"""The audit: it catches every cheat that we ship, on runs they really made, and passes the honest trainer.

The runs and what the audits make are processes; they are started before the first test that asks for one of them.
"""

import dataclasses
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import tomli_w
import torch

from bench.__main__ import main
from bench.attempt.probe import Seeds, Warmup
from bench.attempt.recertify import assemble, recertify
from bench.audit import checks, target
from bench.audit.checks import CHECKS, Audit, CheckResult, CheckSkipped
from bench.audit.target import AuditTarget
from bench.commands import audit
from bench.errors import UsageError
from bench.experiments.launcher import Contestant, Task, run_attempt
from bench.provenance import source_sha256
from bench.storage import weights
from bench.storage.journal import Journal
from bench.storage.schema import Batch, Run
from data import INTERFACE, get_track
from tests.support import cheats
from tests.support.examples import ROOT, example_certificate, example_run, example_seconds, random_model

# -----------------------------------------------------------------------------
# the cheats


@dataclasses.dataclass(frozen=True)
class Case:
    """A way to train, and the checks that it is asked to stand."""

    change: Callable[[Path], None]
    settings: dict
    checks: Sequence[str]
    solve_rate: float | None = None


CASES = {
    "honest": Case(lambda root: None, cheats.HONEST, tuple(CHECKS)),
    "one error": Case(cheats.one_error, cheats.HONEST, ["weights"]),
    "held out too": Case(cheats.held_out_too, cheats.HONEST | {"max_rounds": 2}, ["data"]),
    "calculator": Case(cheats.calculator, cheats.IDLE, ["weights", "blindness", "labels"], solve_rate=1.0),
    "hidden warm-up": Case(cheats.warm_up_that_trains_and_hides_it, cheats.HONEST, ["clock"]),
    "warm-up": Case(cheats.warm_up_that_trains, cheats.HONEST, ["clock"]),
    "slow clock": Case(cheats.slow_clock, cheats.HONEST, ["clock"]),
    "lookup table": Case(cheats.lookup_table, cheats.IDLE, ["data"]),
    "leak": Case(cheats.leak, cheats.IDLE, ["weights", "causality"]),
}
SEED = 7


@dataclasses.dataclass(frozen=True)
class Audited:
    run: Run
    findings: dict[str, CheckResult]
    results: Path


def run_and_audit(case: Case, folder: Path) -> Audited:
    """Let the changed trainer make a run as a command would start it, and audit that."""
    source, together, results = (folder / name for name in ("source", "together", "results"))
    source.mkdir(parents=True)
    together.mkdir()
    cheats.copy_project(source)
    case.change(source)
    config = folder / "case.toml"
    config.write_text(tomli_w.dumps(case.settings))
    # The device's lock would make them wait for one another.
    contestant = Contestant(source / "speedrun.py", ("--config", str(config), "--shared"), planned=example_run())
    batch = Batch(id="contest", command="speedrun", planned=1, index=0)
    run, _ = run_attempt(Task(contestant, SEED, batch), Journal(results))
    if run.weights is None:
        return Audited(run, {}, results)
    subject = AuditTarget(run.run_id, run, results / run.weights, run.weights_sha256, case.solve_rate, source)
    prepared = Audit(subject, together, results, ["--shared"])
    if case.checks != tuple(CHECKS):  # only the honest one is asked first what it would do; that takes two seconds
        assemble(source, together)
        prepared.contestant = dataclasses.replace(contestant, script=together / "speedrun.py", planned=run)
    return Audited(run, audit.run_checks(prepared, case.checks), results)


@pytest.fixture(scope="module")
def audits(tmp_path_factory) -> dict[str, Audited]:
    """All of them, two at a time: each is a process after the other."""
    folder = tmp_path_factory.mktemp("audits")
    with ThreadPoolExecutor(max_workers=2) as pool:
        started = {
            name: pool.submit(run_and_audit, case, folder / f"case{number}")
            for number, (name, case) in enumerate(CASES.items())
        }
    return {name: future.result() for name, future in started.items()}


def of_a_run_that_claims_to_have_solved(audits: dict[str, Audited], name: str) -> dict[str, CheckResult]:
    run, findings = audits[name].run, audits[name].findings
    assert (run.outcome, run.message) == ("solved", None)
    assert run.certificate.errors == 0
    return findings


def caught(findings: dict[str, CheckResult], check: str, sentence: str) -> None:
    assert findings[check].verdict == "CAUGHT", findings[check]
    assert sentence in findings[check].evidence


@pytest.mark.slow
def test_a_model_with_one_error_is_caught_by_its_weights(audits) -> None:
    found = of_a_run_that_claims_to_have_solved(audits, "one error")
    caught(found, "weights", "1 error in 10,000 by the plain forward pass")


@pytest.mark.slow
def test_one_error_in_a_million_is_found_in_the_file(tmp_path) -> None:
    """By the plain forward pass, of a model that knows all sums of three digits but one."""
    cheats.copy_project(tmp_path)
    cheats.calculator(tmp_path)
    cheats.extend_model(
        tmp_path,
        """
        def add_all_but_one(self, idx, first=0, pairs=None):
            logits = add(self, idx, first)
            nines = torch.tensor([9, 9, 9, 10, 9, 9, 9, 11], device=idx.device)
            logits[(idx[:, :8] == nines).all(1), -1, 0] = 20.0
            return logits


        Transformer.forward = Transformer.forward_fast = add_all_but_one
        """,
    )
    file = tmp_path / "w.safetensors"
    digest = weights.save(file, random_model(), get_track("add3"), {})
    scripted = Scripted(SOLVED, weights=file, weights_sha256=digest)
    scripted.recertification = recertify(tmp_path, file, SOLVED.seed, "plain")
    finding = checks.check_weights(scripted)
    assert finding.verdict == "CAUGHT"
    assert "claimed to be solved: 999 + 999: got 0, expected 1998" in finding.evidence
    assert "1 error in 1,000,000 by the plain forward pass" in finding.evidence


@pytest.mark.slow
def test_a_trainer_that_stops_the_clock_is_caught_by_the_clock_outside(audits) -> None:
    found = of_a_run_that_claims_to_have_solved(audits, "slow clock")
    caught(found, "clock", "the clocks disagree about train")


@pytest.mark.slow
def test_a_warm_up_that_trains_is_caught_by_the_weights_it_leaves(audits) -> None:
    found = of_a_run_that_claims_to_have_solved(audits, "warm-up")
    caught(found, "clock", "the warm-up changed the weights")


@pytest.mark.slow
def test_a_warm_up_that_hides_what_it_trained_is_caught_by_leaving_it_out(audits) -> None:
    found = of_a_run_that_claims_to_have_solved(audits, "hidden warm-up")
    caught(found, "clock", "training is another without the warm-up")
    caught(found, "clock", "asked of the problems before `train`: ")
    assert "changed the weights" not in found["clock"].evidence


@pytest.mark.slow
def test_a_lookup_table_is_caught_by_the_answers_to_held_out_problems(audits) -> None:
    found = of_a_run_that_claims_to_have_solved(audits, "lookup table")
    caught(found, "data", "it trains on held-out problems")


@pytest.mark.slow
def test_a_leak_is_caught_by_changing_later_characters(audits) -> None:
    found = of_a_run_that_claims_to_have_solved(audits, "leak")
    caught(found, "causality", "it looks ahead")
    caught(found, "weights", "claimed to be solved")


@pytest.mark.slow
def test_training_on_held_out_problems_is_caught_by_poisoning_them(audits) -> None:
    found = of_a_run_that_claims_to_have_solved(audits, "held out too")
    caught(found, "data", "it trains on held-out problems")


@pytest.mark.slow
def test_a_calculator_is_caught_by_its_weights_by_permuted_ids_and_by_wrong_labels(audits) -> None:
    found = of_a_run_that_claims_to_have_solved(audits, "calculator")
    caught(found, "weights", "its answers do not come from its weights")
    caught(found, "blindness", "it knows what the characters mean; 0 of 3 solved")
    caught(found, "labels", "it adds although it was taught otherwise")


@pytest.mark.slow
def test_the_honest_trainer_passes_all_checks(audits) -> None:
    found = of_a_run_that_claims_to_have_solved(audits, "honest")
    assert list(found) == list(CHECKS)
    faulty = [f"{name}: {finding}" for name, finding in found.items() if finding.verdict != "passed"]
    assert not faulty, "\n".join(faulty)


@pytest.mark.slow
def test_what_an_audit_makes_is_journalled_each_attempt_in_a_place_of_its_own(audits) -> None:
    honest = audits["honest"]
    made = [run for run in Journal(honest.results).read()[0] if run.run_id != honest.run.run_id]
    assert {other.command for other in made} == {"audit"}
    assert [other.batch.index for other in made] == list(range(len(made)))
    assert {other.settings["control"] for other in made} == {"permute", "shuffle", "poison"}
    assert all(other.outer_seconds is not None for other in made)
    assert not any(other.is_contest for other in made)


# -----------------------------------------------------------------------------
# how checks judge


class Scripted(Audit):
    """An audit whose attempts and probes are told and not made."""

    def __init__(self, run: Run, attempts: Sequence[Run] = (), found: object = None, **changes) -> None:
        subject = AuditTarget(run.run_id, run, Path("w.safetensors"), "9" * 64, None, ROOT)
        super().__init__(dataclasses.replace(subject, **changes), Path("nowhere"), Path("nowhere"))
        self.told, self.found = list(attempts), found
        self.asked: list[tuple[str, int]] = []

    def attempt(self, control: str, seed: int, share: float | None = None) -> Run:
        self.asked.append((control, seed))
        self.made.append(self.told.pop(0))
        return self.made[-1]

    def probe(self, name: str, model: type) -> object:
        return self.found


SOLVED, MISSED = example_run(), example_run(outcome="missed", certificate=example_certificate(5))
CRASHED = example_run(outcome="error", message="out of memory", certificate=None, weights=None)


def blindness(attempts: Sequence[Run], **changes) -> tuple[str, int]:
    """The verdict, and how many of the attempts it took."""
    scripted = Scripted(SOLVED, attempts, **changes)
    finding = checks.check_blindness(scripted)
    seeds = [seed for control, seed in scripted.asked if control == "permute"]
    assert len(set(seeds)) == len(seeds)
    assert [seed for control, seed in scripted.asked if control == "none"] == seeds[: len(scripted.asked) - len(seeds)]
    return finding.verdict, len(scripted.made)


def test_three_of_five_permutations_are_enough() -> None:
    assert blindness([SOLVED, MISSED, SOLVED, CRASHED, SOLVED]) == ("passed", 5)
    assert blindness([SOLVED, SOLVED, SOLVED]) == ("passed", 3)


def test_permutations_that_solve_as_rarely_as_the_batch_are_enough() -> None:
    assert blindness([SOLVED, MISSED, MISSED, MISSED, MISSED], solve_rate=0.4)[0] == "passed"
    assert blindness([MISSED] * 5, solve_rate=0.6)[0] == "CAUGHT"


def test_no_attempt_is_made_once_the_verdict_on_permutations_is_known() -> None:
    assert blindness([CRASHED] * 3, solve_rate=1.0) == ("CAUGHT", 3)
    assert blindness([MISSED], solve_rate=0.1) == ("passed", 1)
    assert blindness([MISSED, MISSED, SOLVED], solve_rate=0.5) == ("passed", 3)


def test_a_single_run_is_compared_with_attempts_from_the_same_seeds() -> None:
    assert blindness([MISSED] * 5 + [SOLVED] * 3) == ("CAUGHT", 8)
    assert blindness([SOLVED, *([MISSED] * 4), MISSED, SOLVED, MISSED, SOLVED, MISSED])[0] == "passed"


def shuffled(errors: int, heldout_errors: int) -> CheckResult:
    certificate = example_certificate(errors, heldout_errors=heldout_errors)
    return checks.check_labels(Scripted(SOLVED, [example_run(outcome="missed", certificate=certificate)]))


def test_answers_learned_wrong_must_be_wrong_held_out_ones_included() -> None:
    assert shuffled(999_000, 99_000).verdict == "passed"
    assert "although it was taught otherwise" in shuffled(500_000, 99_000).evidence
    assert "what it was not taught" in shuffled(900_000, 0).evidence


def test_a_check_whose_attempt_fails_is_not_carried_out() -> None:
    found = audit.run_checks(
        Scripted(SOLVED, [CRASHED.model_copy(update={"settings": {"control": "shuffle"}})]), ["labels"]
    )
    assert found == {
        "labels": CheckResult("not carried out", "an attempt with --control shuffle ended as error: out of memory")
    }


# --- held-out answers

LOSS = {"step": 700, "train_seconds": 20.0, "loss": 0.0001, "errors": 0}
POISONED = example_run(
    checks=[LOSS | {"loss": 0.7}], certificate=example_certificate(9, heldout_errors=9), outcome="missed"
)
LATER = example_run(checks=[LOSS | {"train_seconds": 33.0}])
ELSEWHERE = example_run(checks=[LOSS | {"loss": 0.0002}])
AGAIN = example_run(checks=[LOSS | {"loss": 0.0003}])


@pytest.fixture
def one_weight_each(monkeypatch) -> None:
    monkeypatch.setattr(checks, "load_file", lambda path: {"head": torch.zeros(1)})


@pytest.mark.parametrize(
    ("attempts", "verdict", "sentence"),
    [
        ([LATER], "passed", "its own 700 steps end in the same weights"),
        ([ELSEWHERE, ELSEWHERE], "passed", "as without"),
        ([POISONED, LATER], "CAUGHT", "it trains on held-out problems"),
        ([POISONED, ELSEWHERE, ELSEWHERE], "CAUGHT", "it trains on held-out problems"),
        ([POISONED, ELSEWHERE, AGAIN], "CAUGHT", "not deterministic"),
        ([LATER.model_copy(update={"steps": 9}), ELSEWHERE, AGAIN], "passed", "not deterministic"),
    ],
)
def test_poisoned_answers_must_not_change_what_training_comes_to(
    attempts: list[Run], verdict: str, sentence: str, one_weight_each
) -> None:
    scripted = Scripted(SOLVED, attempts)
    finding = checks.check_data(scripted)
    assert finding.verdict == verdict
    assert sentence in finding.evidence
    assert {seed for _, seed in scripted.asked} == {SOLVED.seed}
    assert [control for control, _ in scripted.asked] == ["poison", "none", "none"][: len(attempts)]


def test_other_final_weights_are_another_outcome_of_training(monkeypatch) -> None:
    values = iter([0.0, 1.0, 0.0])
    monkeypatch.setattr(checks, "load_file", lambda path: {"head": torch.full((1,), next(values))})
    assert checks.check_data(Scripted(SOLVED, [SOLVED, SOLVED])).verdict == "CAUGHT"


@pytest.mark.parametrize("control", ["shuffle", "poison"])
def test_a_control_that_a_long_track_cannot_have_is_not_carried_out(control: str) -> None:
    scripted = Scripted(SOLVED)
    planned = example_run(track="add4", settings=SOLVED.settings | {"control": "none"})
    scripted.contestant = Contestant(Path("speedrun.py"), (), planned)
    with pytest.raises(CheckSkipped, match="add4 has too many to list"):
        Audit.attempt(scripted, control, 7)


def test_a_trainer_that_is_older_than_the_tracks_of_today_is_not_blamed_for_it(tmp_path) -> None:
    cheats.copy_project(tmp_path)
    assert target.track_interface(tmp_path) == INTERFACE
    (tmp_path / "data.py").write_text("# tracks whose problems are numbers\n", encoding="utf-8")
    subject = AuditTarget("old", SOLVED, None, None, None, tmp_path)
    found = audit.run_checks(Audit(subject, tmp_path / "together", tmp_path / "results"), ["seeds", "blindness"])
    assert {finding.verdict for finding in found.values()} == {"not carried out"}
    assert "tracks of interface 1" in found["blindness"].evidence


def test_where_nothing_is_held_out_only_what_was_taught_can_be_wrong() -> None:
    counts = {"problems": 100, "heldout_problems": 0, "heldout_errors": 0}
    missed = example_run(outcome="missed", certificate=example_certificate(90, **counts))
    assert checks.check_labels(Scripted(SOLVED, [missed])).verdict == "passed"


# --- seeds


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (Seeds(initial=1.4, batches=0.9, rounding=1e-5), None),
        (Seeds(initial=1.4, batches=0.9, rounding=0.2), None),  # bfloat16
        (Seeds(initial=0.0, batches=0.9, rounding=1e-5), "begin with the same weights"),
        (Seeds(initial=1.4, batches=0.0, rounding=0.0), "draw the same batches"),
        (Seeds(initial=1.4, batches=0.2, rounding=0.2), "draw the same batches"),
    ],
)
def test_two_seeds_must_differ_by_more_than_rounding(found: Seeds, sentence: str | None) -> None:
    finding = checks.check_seeds(Scripted(SOLVED, found=found))
    assert finding.verdict == ("passed" if sentence is None else "CAUGHT")
    assert sentence is None or sentence in finding.evidence


# --- clock

TIMED = example_run(outer_seconds=example_seconds())
SAME = Warmup(skipped=0.0, rounding=1e-5, touched=[])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"outer_seconds": example_seconds(train=25.0)}, "the clocks disagree about train"),
        ({"outer_seconds": example_seconds(train=None)}, "the clocks disagree about train"),
        ({"outer_seconds": example_seconds(total=99.0)}, "the clocks disagree about total"),
        ({"seconds": example_seconds(total=30.0)}, "the phases add up to 26.50 s of 30.00 s"),
        ({"seconds": example_seconds(warmup=130.0), "outer_seconds": None}, "the warm-up took 130 s"),
        ({"initial_weights_sha256": "1" * 64, "warmed_weights_sha256": "2" * 64}, "the warm-up changed the weights"),
    ],
)
def test_a_fault_of_the_clock_is_seen_in_the_run_and_in_each_attempt(changes: dict, sentence: str) -> None:
    faulty = TIMED.model_copy(update=dict(example_run(**{"outer_seconds": example_seconds(), **changes})))
    assert checks.check_clock(Scripted(TIMED, [TIMED], SAME)).verdict == "passed"
    for scripted in (Scripted(faulty, found=SAME), Scripted(TIMED, [faulty], SAME)):
        finding = checks.check_clock(scripted)
        assert finding.verdict == "CAUGHT"
        assert sentence in finding.evidence


def test_a_phase_of_milliseconds_may_be_heard_late() -> None:
    late = TIMED.model_copy(update=dict(example_run(outer_seconds=example_seconds(setup=0.9, warmup=0.6))))
    assert checks.check_clock(Scripted(late, [TIMED], SAME)).verdict == "passed"


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (Warmup(skipped=0.2, rounding=0.2, touched=[]), "passed"),  # bfloat16, compiled
        (Warmup(skipped=0.2, rounding=1e-4, touched=[]), "CAUGHT"),
        (Warmup(skipped=0.6, rounding=0.2, touched=[]), "CAUGHT"),
        (Warmup(skipped=0.0, rounding=1e-5, touched=["tokens"]), "CAUGHT"),
    ],
)
def test_a_warm_up_may_change_the_rounding_and_nothing_else(found: Warmup, verdict: str) -> None:
    assert checks.check_clock(Scripted(TIMED, [TIMED], found)).verdict == verdict


def test_where_nothing_is_timed_from_outside_the_clock_is_not_checked() -> None:
    with pytest.raises(CheckSkipped, match="from outside"):
        checks.check_clock(Scripted(SOLVED, [SOLVED], SAME))


# --- weights


@pytest.fixture
def weights_file(tmp_path) -> tuple[Path, str]:
    path = tmp_path / "w.safetensors"
    return path, weights.save(path, random_model(block_size=8), get_track("add2"), {})


def test_another_file_than_was_certified_is_caught(weights_file) -> None:
    finding = checks.check_weights(Scripted(SOLVED, weights=weights_file[0]))
    assert finding.verdict == "CAUGHT"
    assert "another than was certified" in finding.evidence


@pytest.mark.parametrize(
    ("changes", "run", "sentence"),
    [
        ({}, {}, None),
        ({"certificate": example_certificate(1), "sentences": ["7 + 3: got 0, expected 10"]}, {}, "7 + 3: got 0"),
        ({"certificate": example_certificate(502)}, {"certificate": example_certificate(500)}, None),
        ({"certificate": example_certificate(43)}, {"certificate": example_certificate(40)}, None),
        ({"certificate": example_certificate(44)}, {"certificate": example_certificate(40)}, "40 errors were"),
        (
            {"certificate": example_certificate(600)},
            {"certificate": example_certificate(500)},
            "500 errors were journalled",
        ),
        ({"parameters": 5}, {}, "200,832 parameters were journalled"),
        ({"other_tensors": ["table"]}, {}, "no parameters: table"),
        ({"right_when_scrambled": 1.0}, {}, "do not come from its weights"),
    ],
)
def test_the_certificate_from_the_file_must_be_the_journal_s(
    changes: dict, run: dict, sentence: str | None, weights_file, monkeypatch
) -> None:
    same = {
        "certificate": example_certificate(),
        "sentences": [],
        "parameters": 200_832,
        "other_tensors": [],
        "lookahead_change": 0.0,
        "right_when_scrambled": 0.0,
    }
    monkeypatch.setattr(checks, "recertify", lambda *_: checks.Recertification(**{**same, **changes}))
    outcome = "missed" if run else "solved"
    path, digest = weights_file
    finding = checks.check_weights(Scripted(example_run(outcome=outcome, **run), weights=path, weights_sha256=digest))
    assert finding.verdict == ("passed" if sentence is None else "CAUGHT")
    assert sentence is None or sentence in finding.evidence


def test_weights_that_cannot_be_certified_are_caught(weights_file, monkeypatch) -> None:
    def refuse(*_):
        raise checks.UnusableWeights("not a whole file")

    monkeypatch.setattr(checks, "recertify", refuse)
    path, digest = weights_file
    found = audit.run_checks(Scripted(SOLVED, weights=path, weights_sha256=digest), ["weights", "causality"])
    assert [finding.verdict for finding in found.values()] == ["CAUGHT", "not carried out"]


@pytest.mark.parametrize(("precision", "verdict"), [("float32", "CAUGHT"), ("bfloat16", "passed")])
def test_rounding_is_no_look_ahead(precision: str, verdict: str, monkeypatch) -> None:
    found = checks.Recertification(
        certificate=example_certificate(), sentences=[], parameters=1, other_tensors=[], lookahead_change=0.008
    )
    monkeypatch.setattr(checks, "recertify", lambda *_: found)
    assert checks.check_causality(Scripted(example_run(precision=precision))).verdict == verdict


# -----------------------------------------------------------------------------
# the command


@pytest.fixture
def filed(tmp_path) -> Run:
    """A missed run in a journal, with the weights of a model that knows nothing, by this checkout's source."""
    model = random_model(block_size=8)
    digest = weights.save(tmp_path / "weights" / "w.safetensors", model, get_track("add2"), {})
    return file_run(tmp_path, weights="weights/w.safetensors", weights_sha256=digest, source_sha256=source_sha256())


def file_run(results: Path, **changes) -> Run:
    run = example_run(**changes)
    Journal(results).append(run)
    return run


def run_command(results: Path, *arguments: str) -> int:
    return main(["audit", *arguments, "--results", str(results)])


@pytest.mark.parametrize(("verdict", "status"), [("passed", 0), ("CAUGHT", 1), ("not carried out", 1)])
def test_the_command_prints_a_table_and_exits_0_when_all_passed(
    verdict: str, status: int, filed, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.setitem(CHECKS, "labels", lambda subject: CheckResult("passed", "7 of 9 wrong"))
    monkeypatch.setitem(CHECKS, "weights", lambda subject: CheckResult(verdict, "[as] it is"))
    monkeypatch.setattr(audit, "handle_interrupts", lambda: None)
    assert run_command(tmp_path, "latest", "--checks", "labels,weights") == status
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == ["audit", "check", "weights", "labels"]
    assert verdict in lines[2][1]
    assert lines[2][1].strip().endswith("[as] it is")


def test_an_interrupted_audit_exits_130(filed, tmp_path, monkeypatch) -> None:
    def interrupted(subject):
        raise KeyboardInterrupt

    monkeypatch.setitem(CHECKS, "labels", interrupted)
    monkeypatch.setattr(audit, "handle_interrupts", lambda: None)
    assert run_command(tmp_path, filed.run_id, "--checks", "labels") == 130


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["latest", "--checks", "weihgts"], "there is no check 'weihgts'; the nearest is 'weights'"),
        (["20260131-235959-add3-cpu-1a2b3d"], "the nearest is '20260131-235959-add3-cpu-1a2b3c'"),
    ],
)
def test_a_wrong_request_names_the_nearest(arguments: list[str], sentence: str, filed, tmp_path, capsys) -> None:
    assert run_command(tmp_path, *arguments) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"weights": None, "weights_sha256": None, "outcome": "timeout"}, "kept no weights (timeout)"),
        ({"weights": "weights/gone.safetensors"}, "its weights are gone"),
        ({"settings": {"control": "shuffle"}}, "was made to test a trainer"),
        ({"source_sha256": "a" * 64, "commit": None}, "the journal names no commit"),
        ({"source_sha256": "a" * 64, "commit": "0" * 40}, "is not in this checkout"),
    ],
)
def test_what_cannot_be_audited_is_a_wrong_request(changes: dict, sentence: str, filed, tmp_path, capsys) -> None:
    file_run(tmp_path, **(dict(filed) | {"run_id": "another"} | changes))
    assert run_command(tmp_path, "another") == 2
    assert sentence in capsys.readouterr().err


def test_the_latest_run_is_none_that_an_audit_made(filed, tmp_path) -> None:
    later = filed.started_at.replace(year=2027)
    batch = Batch(id="x", command="audit", planned=9, index=0)
    file_run(tmp_path, **(dict(filed) | {"run_id": "later", "batch": batch, "started_at": later}))
    with ExitStack() as stack:
        assert target.find_target("latest", tmp_path, stack).run == filed


@pytest.mark.parametrize(
    ("outcomes", "rate"), [(["solved"] * 4, None), (["solved", "missed", "lost", "solved", "error"], 0.4)]
)
def test_a_run_solves_as_often_as_its_batch_if_that_is_large_enough(outcomes: list[str], rate: float | None) -> None:
    batches = [Batch(id="x", command="speedrun", planned=5, index=index) for index in range(len(outcomes))]
    runs = [example_run(outcome=outcome, batch=batch) for outcome, batch in zip(outcomes, batches, strict=True)]
    yardstick = example_run(batch=Batch(id="x", command="yardstick", planned=1, index=0))
    assert target.solve_rate(runs[0], [yardstick, *runs]) == rate
    assert target.solve_rate(SOLVED, [SOLVED]) is None


# -----------------------------------------------------------------------------
# the source


@pytest.fixture
def checkout(tmp_path) -> tuple[Path, Run]:
    """A repository whose source has changed since its one commit, and a run of before."""
    root = tmp_path / "checkout"
    root.mkdir()

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
        return subprocess.run(
            ["git", "-C", root, *identity, *arguments], check=True, capture_output=True, text=True
        ).stdout.strip()

    (root / "speedrun.py").write_text("# before\n")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "before")
    run = example_run(source_sha256=source_sha256(root), commit=git("rev-parse", "HEAD"))
    return root, run


def test_a_run_of_this_source_is_audited_where_it_stands(checkout, tmp_path) -> None:
    root, run = checkout
    assert target.source_of(run, tmp_path / "unused", root) == root


def test_a_run_of_another_source_is_audited_from_its_commit(checkout, tmp_path) -> None:
    root, run = checkout
    (root / "speedrun.py").write_text("# after\n")
    folder = tmp_path / "empty"
    folder.mkdir()
    assert target.source_of(run, folder, root) == folder
    assert (folder / "speedrun.py").read_text() == "# before\n"


def test_a_run_of_a_source_that_was_never_committed_cannot_be_audited(checkout, tmp_path) -> None:
    root, run = checkout
    changed = run.model_copy(update={"source_sha256": "a" * 64})
    with pytest.raises(UsageError, match="changes that the commit"):
        target.source_of(changed, tmp_path / "empty", root)
