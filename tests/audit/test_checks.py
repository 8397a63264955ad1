"""The verdicts of the checks, on given runs and probes."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.attempt.probe import Seeds, Warmup
from bench.audit import checks, session
from bench.audit.checks import CheckResult, run_checks
from bench.audit.session import Audit, CheckSkipped
from bench.audit.target import AuditTarget, track_interface
from bench.experiments.launcher import Contestant
from bench.judge.recertify import Recertification, UnusableWeights
from bench.provenance import harness_sha256, source_sha256
from bench.storage import weights
from bench.storage.records import pack_source
from bench.storage.schema import Run
from data import INTERFACE, get_track
from tests.support import cheats
from tests.support.examples import ROOT, example_certificate, example_record, example_run, example_seconds
from tests.support.models import random_model


class ScriptedAudit(Audit):
    """An audit with given results of attempts and of its probe."""

    def __init__(self, run: Run, attempts: Sequence[Run] = (), probe_result: object = None, **changes) -> None:
        target = AuditTarget(run.run_id, run, Path("w.safetensors"), "9" * 64, ROOT)
        super().__init__(dataclasses.replace(target, **changes), Path("nowhere"), Path("nowhere"))
        self.remaining, self.probe_result = list(attempts), probe_result
        self.requests: list[tuple[str, int]] = []

    def attempt(self, control: str, seed: int, time_share: float | None = None, relabelling: int | None = None) -> Run:
        self.requests.append((control, seed))
        self.runs.append(self.remaining.pop(0))
        return self.runs[-1]

    def probe(self, name: str, result_type: type) -> Any:
        return self.probe_result


@pytest.fixture(autouse=True)
def lawful(monkeypatch) -> None:
    """The initial weights of the example are those of its seed."""
    monkeypatch.setattr(checks, "lawful_sha256", lambda path, seed: example_run().initial_weights_sha256)


SOLVED, MISSED = example_run(), example_run(outcome="missed", certificate=example_certificate(5))
CRASHED = example_run(outcome="error", message="out of memory", certificate=None, weights=None)


def shuffled(errors: int, heldout_errors: int) -> CheckResult:
    certificate = example_certificate(errors, heldout_errors=heldout_errors)
    return checks.check_labels(ScriptedAudit(SOLVED, [example_run(outcome="missed", certificate=certificate)]))


def test_answers_learned_wrong_must_be_wrong_on_held_out_problems_too() -> None:
    assert shuffled(999_000, 99_000).verdict == "passed"
    assert "it answers correctly although it was trained on wrong" in shuffled(500_000, 99_000).evidence
    assert "held-out problems correctly" in shuffled(900_000, 0).evidence


def test_a_check_whose_attempt_fails_is_not_carried_out() -> None:
    results = run_checks(
        ScriptedAudit(SOLVED, [CRASHED.model_copy(update={"settings": {"control": "shuffle"}})]), ["labels"]
    )
    assert results == {
        "labels": CheckResult("not carried out", "an attempt with --control shuffle ended as error: out of memory")
    }


def test_a_check_that_has_no_meaning_on_the_track_does_not_apply(one_weight_each) -> None:
    """One text has no answers to exchange, and is in every batch."""
    run = example_run(settings={"track": "memorize", "control": "none", "batch_size": 1})
    same_batches = Seeds(batches=0.0, rounding=1e-7)
    scripted = ScriptedAudit(run, probe_result=same_batches)
    monkey: Any = scripted
    monkey.contestant = Contestant(Path("speedrun.py"), (), run)
    monkey.attempt = functools.partial(Audit.attempt, scripted)
    results = run_checks(scripted, ["seeds", "labels", "data"])
    assert {name: result.verdict for name, result in results.items()} == {
        "seeds": "passed",
        "labels": "does not apply",
        "data": "does not apply",
    }
    assert "as large as the training set" in results["seeds"].evidence
    assert "memorize has none to exchange" in results["data"].evidence
    for batch_size, verdict in ((9_003, "CAUGHT"), (9_004, "passed")):
        add2 = ScriptedAudit(
            example_run(settings={"track": "add2", "batch_size": batch_size}), probe_result=same_batches
        )
        assert checks.check_seeds(add2).verdict == verdict


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
        ([LATER], "passed", "700 steps end in the same weights as the run"),
        ([ELSEWHERE, ELSEWHERE], "passed", "as with right ones"),
        ([POISONED, LATER], "CAUGHT", "it trains on held-out problems"),
        ([POISONED, ELSEWHERE, ELSEWHERE], "CAUGHT", "it trains on held-out problems"),
        ([POISONED, ELSEWHERE, AGAIN], "CAUGHT", "not deterministic"),
        ([LATER.model_copy(update={"steps": 9}), ELSEWHERE, AGAIN], "passed", "not deterministic"),
    ],
)
def test_poisoned_answers_must_not_change_the_result_of_training(
    attempts: list[Run], verdict: str, sentence: str, one_weight_each
) -> None:
    scripted = ScriptedAudit(SOLVED, attempts)
    result = checks.check_data(scripted)
    assert result.verdict == verdict
    assert sentence in result.evidence
    assert {seed for _, seed in scripted.requests} == {SOLVED.seed}
    assert [control for control, _ in scripted.requests] == ["poison", "none", "none"][: len(attempts)]


def test_different_final_weights_are_a_different_outcome_of_training(monkeypatch) -> None:
    values = iter([0.0, 1.0, 0.0])
    monkeypatch.setattr(checks, "load_file", lambda path: {"head": torch.full((1,), next(values))})
    assert checks.check_data(ScriptedAudit(SOLVED, [SOLVED, SOLVED])).verdict == "CAUGHT"


@pytest.mark.parametrize("control", ["shuffle", "poison"])
def test_a_control_that_is_impossible_on_a_long_track_is_not_carried_out(control: str) -> None:
    scripted = ScriptedAudit(SOLVED)
    planned = example_run(track="add4", settings=SOLVED.settings | {"track": "add4", "control": "none"})
    scripted.contestant = Contestant(Path("speedrun.py"), (), planned)
    with pytest.raises(CheckSkipped, match="add4 has too many to list"):
        Audit.attempt(scripted, control, 7)


def test_a_trainer_for_older_tracks_is_not_checked(tmp_path) -> None:
    cheats.copy_project(tmp_path)
    assert track_interface(tmp_path) == INTERFACE
    (tmp_path / "data.py").write_text("# tracks whose problems are numbers\n", encoding="utf-8")
    target = AuditTarget("old", SOLVED, None, None, tmp_path)
    results = run_checks(Audit(target, tmp_path / "assembled", tmp_path / "results"), ["seeds", "labels"])
    assert {result.verdict for result in results.values()} == {"not carried out"}
    assert "tracks of interface 1" in results["labels"].evidence


def test_a_trainer_for_older_tracks_that_a_record_holds_runs_with_the_tracks_of_its_snapshot(tmp_path) -> None:
    source = tmp_path / "source"
    cheats.copy_project(source)
    (source / "data.py").write_text("# tracks whose problems are numbers\n", encoding="utf-8")
    record = example_record(source_sha256=source_sha256(source), harness_sha256=harness_sha256(source)).record
    folder = tmp_path / "results" / "records" / record.name
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(record.model_dump_json())
    pack_source(folder / "source.zip", source)
    run = SOLVED.model_copy(update={"source_sha256": record.source_sha256})
    audit = Audit(AuditTarget("old", run, None, None, source), tmp_path / "assembled", tmp_path / "results")
    audit.assemble_source()
    assert source_sha256(tmp_path / "assembled") == record.source_sha256
    assert harness_sha256(tmp_path / "assembled") == record.harness_sha256
    assert audit.remarks == [f"attempts with the tracks and the harness of {record.name}"]


def test_without_held_out_problems_only_the_others_are_counted() -> None:
    counts = {"problems": 100, "heldout_problems": 0, "heldout_errors": 0}
    missed = example_run(outcome="missed", certificate=example_certificate(90, **counts))
    assert checks.check_labels(ScriptedAudit(SOLVED, [missed])).verdict == "passed"


# --- seeds


def test_initial_weights_must_be_those_of_the_seed(monkeypatch) -> None:
    monkeypatch.setattr(checks, "lawful_sha256", lambda path, seed: f"{seed}")
    different = Seeds(batches=0.9, rounding=1e-5)
    for digest, verdict in ((f"{SOLVED.seed}", "passed"), (f"{SOLVED.seed + 1}", "CAUGHT")):
        run = SOLVED.model_copy(update={"initial_weights_sha256": digest})
        assert checks.check_seeds(ScriptedAudit(run, probe_result=different)).verdict == verdict


@pytest.mark.parametrize(
    ("seeds", "sentence"),
    [
        (Seeds(batches=0.9, rounding=1e-5), None),
        (Seeds(batches=0.9, rounding=0.2), None),  # bfloat16
        (Seeds(batches=0.17, rounding=0.033), None),  # words
        (Seeds(batches=0.0, rounding=0.0), "draw the same batches"),
        (Seeds(batches=0.2, rounding=0.2), "draw the same batches"),
    ],
)
def test_two_seeds_must_differ_by_more_than_rounding(seeds: Seeds, sentence: str | None) -> None:
    result = checks.check_seeds(ScriptedAudit(SOLVED, probe_result=seeds))
    assert result.verdict == ("passed" if sentence is None else "CAUGHT")
    assert sentence is None or sentence in result.evidence


# --- other ids of answers


def attempt(train: float, outcome: str = "solved", altered: bool = True, **machine: Any) -> Run:
    machine = {"class": "Example CPU", "clean": True, "reasons": []} | machine
    return example_run(altered=altered, outcome=outcome, seconds=example_seconds(train=train), machine=machine)


@pytest.mark.parametrize(
    ("attempts", "fault"),
    [
        ([attempt(25.0)], None),
        ([attempt(20.0, "missed"), attempt(90.0), attempt(39.0)], None),
        ([attempt(20.0, "missed")] * 3, "it does not learn answers that are written in other ids"),
        ([attempt(90.0)] * 3 + [attempt(20.0, altered=False)], "take it 4.5 times as long to learn"),
        ([attempt(90.0)] * 3 + [attempt(20.0, "missed", altered=False)], "take it 4.5 times as long to learn"),
        ([attempt(90.0)] * 3 + [attempt(80.0, altered=False)], "its source alone takes 4.0 times as long as the run"),
        ([attempt(90.0)] * 3 + [attempt(80.0, altered=False, **{"class": "A slow CPU"})], None),
    ],
)
def test_answers_in_other_ids_are_learned_about_as_fast(attempts: list[Run], fault: str | None) -> None:
    """The run took 20 s."""
    scripted = ScriptedAudit(SOLVED, attempts)
    scripted.contestant = Contestant(Path("speedrun.py"), (), SOLVED)
    result = checks.check_relabelling(scripted)
    assert (result.verdict, scripted.remaining) == ("passed" if fault is None else "CAUGHT", [])
    assert fault is None or fault in result.evidence


def test_a_repetition_beside_other_work_says_nothing() -> None:
    scripted = ScriptedAudit(SOLVED, [attempt(90.0)] * 3 + [attempt(80.0, altered=False, others_train=0.5)])
    scripted.contestant = Contestant(Path("speedrun.py"), (), SOLVED)
    result = run_checks(scripted, ["relabelling"])["relabelling"]
    assert result.verdict == "not carried out"
    assert "its source alone takes 4.0 times as long as the run, but other processes were busy" in result.evidence


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
def test_a_fault_of_the_clock_is_detected_in_the_run_and_in_each_attempt(changes: dict, sentence: str) -> None:
    faulty = TIMED.model_copy(update=dict(example_run(**{"outer_seconds": example_seconds(), **changes})))
    assert checks.check_clock(ScriptedAudit(TIMED, [TIMED], SAME)).verdict == "passed"
    for scripted in (ScriptedAudit(faulty, probe_result=SAME), ScriptedAudit(TIMED, [faulty], SAME)):
        result = checks.check_clock(scripted)
        assert result.verdict == "CAUGHT"
        assert sentence in result.evidence


def test_the_edge_of_a_short_phase_may_be_read_late() -> None:
    late = TIMED.model_copy(update=dict(example_run(outer_seconds=example_seconds(setup=0.9, warmup=0.6))))
    assert checks.check_clock(ScriptedAudit(late, [TIMED], SAME)).verdict == "passed"


@pytest.mark.parametrize(
    ("warmup", "verdict"),
    [
        (Warmup(skipped=0.2, rounding=0.2, touched=[]), "passed"),  # bfloat16, compiled
        (Warmup(skipped=0.2, rounding=1e-4, touched=[]), "CAUGHT"),
        (Warmup(skipped=0.6, rounding=0.2, touched=[]), "CAUGHT"),
        (Warmup(skipped=0.0, rounding=1e-5, touched=["tokens"]), "CAUGHT"),
    ],
)
def test_a_warm_up_may_only_change_the_rounding(warmup: Warmup, verdict: str) -> None:
    assert checks.check_clock(ScriptedAudit(TIMED, [TIMED], warmup)).verdict == verdict


def test_without_the_outer_clock_the_clock_is_not_checked() -> None:
    untimed = SOLVED.model_copy(update={"judge": None})
    with pytest.raises(CheckSkipped, match="by another process"):
        checks.check_clock(ScriptedAudit(untimed, [untimed], SAME))


# --- weights

LOSS_TOO_LARGE: Any = {"measures": {"loss": 0.002}, "limits": {"loss": 0.001}}


@pytest.fixture
def weights_file(tmp_path) -> tuple[Path, str]:
    path = tmp_path / "w.safetensors"
    return path, weights.save(path, random_model(block_size=8), get_track("add2"), {})


def test_a_file_that_was_not_certified_is_caught(weights_file) -> None:
    result = checks.check_weights(ScriptedAudit(SOLVED, weights=weights_file[0]))
    assert result.verdict == "CAUGHT"
    assert "not the one that was certified" in result.evidence


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
        (
            {"certificate": example_certificate(**LOSS_TOO_LARGE)},
            {},
            "solved: 0 errors, loss 0.002, needed at most 0.001",
        ),
        ({"parameters": 5}, {}, "200,832 parameters were journalled"),
    ],
)
def test_the_certificate_of_the_file_must_be_the_journalled_one(
    changes: dict, run: dict, sentence: str | None, weights_file, monkeypatch
) -> None:
    same = {
        "certificate": example_certificate(),
        "sentences": [],
        "parameters": 200_832,
    }
    monkeypatch.setattr(session, "recertify", lambda *_: Recertification(**{**same, **changes}))
    outcome = "missed" if run else "solved"
    path, digest = weights_file
    result = checks.check_weights(
        ScriptedAudit(example_run(outcome=outcome, **run), weights=path, weights_sha256=digest)
    )
    assert result.verdict == ("passed" if sentence is None else "CAUGHT")
    assert sentence is None or sentence in result.evidence


@pytest.mark.parametrize(
    ("track", "errors", "is_within"), [("add3", 44, False), ("words", 44, True), ("words", 67, False)]
)
def test_errors_of_sampled_completions_may_differ_as_two_samples_do(track: str, errors: int, is_within: bool) -> None:
    run = example_run(settings={**example_run().settings, "track": track})
    assert (abs(errors - 40) <= checks.errors_tolerance(run, 40)) == is_within


def test_weights_that_cannot_be_certified_are_caught(weights_file, monkeypatch) -> None:
    def refuse(*_):
        raise UnusableWeights("not a whole file")

    monkeypatch.setattr(session, "recertify", refuse)
    path, digest = weights_file
    results = run_checks(ScriptedAudit(SOLVED, weights=path, weights_sha256=digest), ["weights"])
    assert [result.verdict for result in results.values()] == ["CAUGHT"]
