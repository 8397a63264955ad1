"""The checks of `bench audit`, one for each known way to cheat."""

import dataclasses
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file

from bench.attempt.probe import Seeds, Warmup
from bench.audit.session import Audit, CheckNotApplicable, CheckSkipped
from bench.cli import print_progress
from bench.clock import MAX_WARMUP_SECONDS, PHASES
from bench.config import track_of
from bench.experiments.altered import MAX_SLOWDOWN, NUM_ALTERED, Altered, drawn_seed
from bench.experiments.outer_clock import disagreements
from bench.formatting import certificate_text, errors_in_words, verdict_text
from bench.judge.recertify import UnusableWeights
from bench.judge.verdict import lawful_sha256
from bench.machine.noise import MAX_OTHERS
from bench.storage.results import weights_sha256
from bench.storage.schema import Certificate, Run, Seconds
from tracks.controls import can_relabel
from tracks.descriptions import TRACKS, describe_track
from tracks.registry import get_track

SHUFFLED_SHARE = 1.5  # of the run's seconds of `train`, for learning shuffled answers
PHASES_TOLERANCE = 0.02  # relative difference between the total and the sum of the phases
# Errors of a run that missed may differ when its logits are computed in another way: by a share of them, or by a few.
MISS_TOLERANCE, MISS_TOLERANCE_ERRORS = 0.01, 3
# Training amplifies differences, so their size alone says nothing. In the few steps of a probe, one rounding error
# grows to 0.2 of the movement in bfloat16 and to less than 1e-3 in float32; different batches lead to 0.8. Steps of the
# C kernel instead of torch differ about as much as one rounding error (measured: 0.16).
MAX_ROUNDINGS = 10  # times the distance that one rounding error leads to
MAX_ROUNDING_DISTANCE = 0.5  # of the movement in training
# The same batches lead to no distance, or to that of a rounding error. Where a few lines tell much of the whole text,
# as in `words`, other batches lead to only 4 or 5 times that.
MAX_SAME_BATCHES = 2  # times the distance that one rounding error leads to

Verdict = Literal["passed", "CAUGHT", "not carried out", "does not apply"]


@dataclasses.dataclass(frozen=True)
class CheckResult:
    """The verdict of one check, and its evidence in words."""

    verdict: Verdict
    evidence: str


def check_result(faults: Sequence[str], evidence: str) -> CheckResult:
    """CAUGHT if there are faults, which are put in front of the evidence."""
    return CheckResult("CAUGHT" if faults else "passed", "; ".join([*faults, evidence] if evidence else faults))


def run_checks(audit: Audit, names: Collection[str]) -> dict[str, CheckResult]:
    """The results of some checks by name, in the order of CHECKS."""
    results = {}
    for name in (name for name in CHECKS if name in names):
        print_progress(f"{name} …")
        try:
            results[name] = CHECKS[name](audit)
        except CheckNotApplicable as problem:
            results[name] = CheckResult("does not apply", str(problem))
        except CheckSkipped as problem:
            results[name] = CheckResult("not carried out", str(problem))
    return results


# -----------------------------------------------------------------------------
# the checks


def check_weights(audit: Audit) -> CheckResult:
    """The file is the certified one, and its plain forward pass gives the same certificate in a separate process."""
    run, digest = audit.target.run, weights_sha256(audit.target.weights)
    if digest != audit.target.weights_sha256:
        return check_result(["the file is not the one that was certified"], f"sha256 {digest[:12]}…")
    if run.certificate is None:
        raise CheckSkipped("the run has no certificate to compare with")
    try:
        recertification = audit.recertification
    except UnusableWeights as problem:
        return check_result(["the weights cannot be certified"], str(problem))
    faults, journalled, errors = [], run.certificate.errors, recertification.certificate.errors
    if run.outcome == "solved" and errors and not recertification.certificate.may_have_errors:
        faults.append(f"claimed to be solved: {recertification.sentences[0]}")
    elif run.outcome == "solved" and not recertification.certificate.is_solved:
        faults.append(f"claimed to be solved: {verdict_text(recertification.certificate)}")
    elif abs(errors - journalled) > errors_tolerance(run, journalled):
        faults.append(f"{errors_in_words(journalled)} were journalled")
    if recertification.parameters != run.parameters:
        faults.append(f"{run.parameters or 0:,} parameters were journalled")
    return check_result(
        faults,
        f"sha256 {digest[:12]}… as journalled; {certificate_text(recertification.certificate)} in another process; "
        f"{recertification.parameters:,} parameters",
    )


def errors_tolerance(run: Run, journalled: int) -> float:
    """The largest difference from the journalled errors that rounding explains.

    Where completions are sampled, rounding draws some other tokens, so that the errors may differ as those of two
    samples do: by three standard deviations.
    """
    tolerance = max(MISS_TOLERANCE * journalled, MISS_TOLERANCE_ERRORS)
    is_sampled = describe_track(*track_of(run.settings)).is_sampled
    return max(tolerance, 3 * math.sqrt(2 * journalled)) if is_sampled else tolerance


def check_seeds(audit: Audit) -> CheckResult:
    """Initial weights follow the law; two seeds give different batches where a batch is a part of the training set."""
    seeds, run, faults = audit.probe("seeds", Seeds), audit.target.run, []
    if run.initial_weights_sha256 != lawful_sha256(audit.target.weights, run.seed):
        faults.append("its initial weights are not those of its seed")
    evidence = f"the initial weights have the sha256 {(run.initial_weights_sha256 or '')[:12]}… of seed {run.seed}"
    if has_whole_batches(run):
        return check_result(faults, f"{evidence}; batches are not compared, as each is as large as the training set")
    if seeds.batches <= MAX_SAME_BATCHES * seeds.rounding:
        faults.append("two seeds draw the same batches")
    return check_result(
        faults,
        f"{evidence}; from the same weights, the batches of two seeds lead to a distance of {seeds.batches:.2f} of the "
        f"movement, one rounding error to {seeds.rounding:.1e}",
    )


def check_relabelling(audit: Audit) -> CheckResult:
    """When the tokens of answers have other ids, by a secret order, the track is solved, and about as fast."""
    run = audit.target.run
    name, track_settings = track_of(run.settings)
    if not can_relabel(get_track(name, **track_settings)):
        raise CheckNotApplicable("answers have the ids of prompts there, as each is a part of a longer text")
    if audit.contestant.planned.judge is None:
        raise CheckSkipped("its trainer is older than the judge")
    altered = Altered([], [run])
    while altered.fault is not None and len(altered.runs) < NUM_ALTERED:
        altered = Altered([*altered.runs, audit.attempt("none", drawn_seed(), relabelling=drawn_seed())], [run])
    faults: list[str] = []
    if altered.fault is not None and altered.fastest_seconds is not None:  # another machine may have made the run
        again = audit.attempt("none", drawn_seed())
        if again.outcome == "solved":
            altered = Altered(altered.runs, [again])
            faults += repetition_faults(again, run)
    faults += [] if altered.fault is None else [altered.fault]
    return check_result(faults, altered.text)


def check_labels(audit: Audit) -> CheckResult:
    """When the answers of the training problems are shuffled, the answers are wrong, on held-out problems as well."""
    certificate = certificate_of(audit.attempt("shuffle", audit.seed("labels"), SHUFFLED_SHARE))
    faults = []
    if 2 * certificate.errors <= certificate.problems:
        faults.append("it answers correctly although it was trained on wrong answers")
    if certificate.heldout_problems and 2 * certificate.heldout_errors <= certificate.heldout_problems:
        faults.append("it answers held-out problems correctly although it was trained on wrong answers")
    return check_result(
        faults,
        f"trained on shuffled answers, it has {errors_in_words(certificate.errors)} in {certificate.problems:,}, and "
        f"{certificate.heldout_errors:,} in {certificate.heldout_problems:,} held out",
    )


def check_data(audit: Audit) -> CheckResult:
    """With wrong answers of all held-out problems, training gives the same result."""
    run = audit.target.run

    def train_again(control: str) -> tuple[Run, tuple[object, ...]]:
        again = audit.attempt(control, run.seed)
        return again, outcome_of_training(again, None if again.weights is None else audit.results / again.weights)

    journalled = outcome_of_training(run, audit.target.weights)
    poisoned, poisoned_outcome = train_again("poison")
    evidence = f"with wrong held-out answers, {poisoned.steps or 0:,} steps end in"
    if poisoned_outcome == journalled:
        return check_result([], f"{evidence} the same weights as the run's")
    plain, plain_outcome = train_again("none")  # the run may be from another machine, which rounds differently
    if poisoned_outcome == plain_outcome:
        return check_result([], f"{evidence} the same weights as with right ones")
    repeated, repeated_outcome = (plain, journalled) if plain_outcome == journalled else train_again("none")
    if repeated_outcome == plain_outcome:
        evidence += " different weights, while a repetition ends in the same"
        return check_result(["it trains on held-out problems"], evidence)
    certificate = certificate_of(poisoned)
    return check_result(
        [] if poisoned.outcome in (plain.outcome, repeated.outcome) else ["wrong held-out answers change the outcome"],
        f"the trainer is not deterministic, so only outcomes are compared: {plain.outcome} and {repeated.outcome}; "
        f"with wrong held-out answers {poisoned.outcome}, {certificate.heldout_errors:,} held-out errors",
    )


def check_clock(audit: Audit) -> CheckResult:
    """The phases add up to the total, a second clock agrees where there is one, and the warm-up does not train."""
    runs = [audit.target.run, *audit.runs]
    faults = [fault for run in runs for fault in clock_faults(run)]
    if faults:
        return check_result(faults, "")
    warmup = audit.probe("warmup", Warmup)
    if not is_rounding(warmup.skipped, warmup.rounding):
        faults.append("training differs without the warm-up")
    if warmup.touched:
        faults.append(f"problems were used before `train`: {', '.join(warmup.touched)}")
    if not faults and len(runs) == 1:
        runs.append(audit.attempt("none", audit.target.run.seed))
        faults += clock_faults(runs[-1])
    timed = [run for run in runs if run.judge == "harness" or run.outer_seconds is not None]
    if not faults and not timed:
        raise CheckSkipped("no attempt could be timed by another process")
    warmup_seconds = [run.seconds.warmup for run in runs if run.seconds.warmup is not None]
    return check_result(
        faults,
        f"{len(timed)} of {len(runs)} attempts timed by another process; phases add up; longest warm-up "
        f"{max(warmup_seconds, default=0.0):.2f} s; without it training ends at a distance of {warmup.skipped:.1e} of "
        f"the movement, one rounding error leads to {warmup.rounding:.1e}",
    )


CHECKS: dict[str, Callable[[Audit], CheckResult]] = {
    "weights": check_weights,
    "seeds": check_seeds,
    "relabelling": check_relabelling,
    "labels": check_labels,
    "data": check_data,
    "clock": check_clock,  # last, because it also checks the attempts of the others
}


# -----------------------------------------------------------------------------
# shared by the checks


def certificate_of(run: Run) -> Certificate:
    """Raises CheckSkipped: the attempt ended without a certificate."""
    if run.certificate is None:
        raise CheckSkipped(f"an attempt with --control {run.settings['control']} ended as {run.outcome}: {run.message}")
    return run.certificate


def repetition_faults(again: Run, run: Run) -> Iterator[str]:
    """On a machine of the same class the source alone trains in about the seconds of the run.

    A run that was much faster used something that is not in the source, such as weights in a data file. Raises
    CheckSkipped: other work slowed the repetition.
    """
    ratio = (again.seconds.train or 0.0) / (run.seconds.train or math.inf)
    if again.machine.class_ != run.machine.class_ or ratio <= MAX_SLOWDOWN:
        return
    evidence = f"its source alone takes {ratio:.1f} times as long as the run"
    if (again.machine.others_train or 0.0) > MAX_OTHERS:
        raise CheckSkipped(f"{evidence}, but other processes were busy; repeat the audit on a quiet machine")
    yield evidence


def has_whole_batches(run: Run) -> bool:
    """Whether a batch of a run is at least as large as the track's training set, so that all batches are similar."""
    if run.settings.get("track") not in TRACKS:
        return False
    batch_size, num_training = run.settings.get("batch_size"), describe_track(*track_of(run.settings)).num_training
    return isinstance(batch_size, int) and num_training is not None and batch_size >= num_training


def is_rounding(distance: float, rounding: float) -> bool:
    """Whether rounding can explain a distance of weights; `rounding` is the distance that one rounding error causes."""
    return distance <= min(MAX_ROUNDINGS * rounding, MAX_ROUNDING_DISTANCE)


def outcome_of_training(run: Run, weights: Path | None) -> tuple[object, ...]:
    """The steps, the checks without their seconds, and the bytes of the final weights.

    The files are not compared as a whole, because they contain the settings.
    """
    tensors = {} if weights is None else load_file(weights)
    content = {name: tensor.contiguous().view(torch.uint8).numpy().tobytes() for name, tensor in tensors.items()}
    return run.steps, [(check.step, check.loss, check.errors) for check in run.checks], content


def clock_faults(run: Run) -> Iterator[str]:
    """Faults in the seconds of a run, and in the weights after its warm-up."""
    inner, total, warmup = run.seconds.model_dump(), run.seconds.total, run.seconds.warmup
    if run.outer_seconds is not None:
        # Only the ranked clocks: on a busy machine an edge may be read late, which matters for a short phase.
        sentences = disagreements(ranked_seconds(run.seconds), ranked_seconds(run.outer_seconds))
        yield from (f"{run.run_id}: {sentence}" for sentence in sentences)
    phases_seconds = sum(inner[phase] or 0.0 for phase in PHASES)
    if total is not None and abs(phases_seconds - total) > PHASES_TOLERANCE * total:
        yield f"{run.run_id}: the phases add up to {phases_seconds:.2f} s of {total:.2f} s"
    if warmup is not None and warmup > MAX_WARMUP_SECONDS:
        yield f"{run.run_id}: the warm-up took {warmup:.0f} s, allowed are {MAX_WARMUP_SECONDS:.0f} s"
    if run.warmed_weights_sha256 is not None and run.initial_weights_sha256 != run.warmed_weights_sha256:
        yield f"{run.run_id}: the warm-up changed the weights"


def ranked_seconds(seconds: Seconds) -> dict[str, float | None]:
    return dict.fromkeys(PHASES) | {"train": seconds.train, "total": seconds.total}
