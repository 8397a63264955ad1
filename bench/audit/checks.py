"""The checks of `bench audit`, one for each known way to cheat."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar

import tomli_w
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from bench.attempt.probe import Seeds, Warmup
from bench.attempt.recertify import Recertification, UnusableWeights, assemble, recertify
from bench.audit.target import MUST_SOLVE, NUM_PERMUTATIONS, AuditTarget, track_interface
from bench.clock import MAX_WARMUP_SECONDS, PHASES
from bench.errors import UsageError
from bench.experiments.launcher import Contestant, Task, child_environment, resolve_contestant, run_tasks
from bench.experiments.outer_clock import disagreements
from bench.formatting import attempt_line, errors_in_words
from bench.provenance import config_hash, first_seed
from bench.stats.descriptive import wilson_interval
from bench.storage.journal import Journal
from bench.storage.results import weights_sha256
from bench.storage.schema import AUDIT, Batch, Run, SchemaModel, Seconds, new_id
from data import INTERFACE, TRACKS, check_control

MOST_ATTEMPTS = 2 * NUM_PERMUTATIONS + 5  # of one audit
SHUFFLED_SHARE = 1.5  # of the run's seconds of `train`, for learning answers that have been dealt out anew
FEWEST_SECONDS = 1.0  # of that limit
PHASES_TOLERANCE = 0.02  # between the total and the sum of the phases
# So many of a miss's errors may be others by another way to the same logits: a share of them, or a few.
MISS_TOLERANCE, FEW_MISSES = 0.01, 3
# What lies ahead is multiplied by an exact zero, so later characters change nothing; a kernel that cuts its sums by
# content might move the last places.
CAUSAL_ROUNDINGS = 4  # times the precision's epsilon, of the largest logit
# Weights drawn independently lie 1.4 of their norm apart, less where some begin as constants.
MIN_INITIAL_DISTANCE = 0.1
# A step multiplies differences, so their size alone says nothing: in the few steps of the probe one rounding error of
# bfloat16 grows to 0.2 of all movement, one of float32 to less than 1e-3, where other batches make 0.8. Steps that are
# computed in another way, by the kernel instead of torch, end about as far off as one error does (measured: 0.16).
MOST_ROUNDINGS, MOST_ROUNDING = 10, 0.5  # times what one error leads to; of all movement

Verdict = Literal["passed", "CAUGHT", "not carried out"]
SectionT = TypeVar("SectionT", bound=SchemaModel)


@dataclasses.dataclass(frozen=True)
class CheckResult:
    """What one check has come to, and a sentence of evidence."""

    verdict: Verdict
    evidence: str


class CheckSkipped(Exception):
    """A check could not be made; the message says why."""


# -----------------------------------------------------------------------------
# what the checks share


class Audit:
    """One subject under audit; what a check has found out or made is there for those that follow."""

    def __init__(self, subject: AuditTarget, folder: Path, results: Path, options: Sequence[str] = ()) -> None:
        """`folder` is empty, the contestant is put together in it; `options` go with each of its command lines."""
        self.subject = subject
        self.folder = folder
        self.results = results
        self.options = options
        self.batch_id = new_id(f"{subject.run.config}-audit")
        self.made: list[Run] = []

    @cached_property
    def contestant(self) -> Contestant:
        """The trainer with the run's settings.

        Raises:
            CheckSkipped: it does not run here, not with today's tracks, or not with these settings.
        """
        run = self.subject.run
        if (theirs := track_interface(self.subject.source)) != INTERFACE:
            raise CheckSkipped(f"its trainer is written for tracks of interface {theirs}, today's have {INTERFACE}")
        assemble(self.subject.source, self.folder)
        config = self.folder / f"{run.config}.toml"
        config.write_text(
            tomli_w.dumps({key: value for key, value in run.settings.items() if value is not None}), encoding="utf-8"
        )
        try:
            contestant = resolve_contestant(self.folder / "speedrun.py", ["--config", str(config), *self.options])
        except UsageError as problem:
            raise CheckSkipped(str(problem)) from None
        if contestant.planned.config_hash != run.config_hash:
            raise CheckSkipped("here its settings come to others than the journal's, or to another config hash")
        return contestant

    def seed(self, purpose: str) -> int:
        """A seed that nobody chooses, another for each purpose."""
        return first_seed(self.subject.run.config_hash, self.subject.run.source_sha256, purpose)

    def attempt(self, control: str, seed: int, share: float | None = None) -> Run:
        """One attempt by the contestant, whatever its outcome.

        Args:
            control: see `data.controlled`.
            seed: of training and control.
            share: of the run's seconds of `train`, to limit the attempt's; by default the limit is the config's.

        Raises:
            CheckSkipped: the trainer cannot be started like this, or the track has too many problems for the control.
            KeyboardInterrupt: this process or the attempt was interrupted.
        """
        contestant, settings = self.contestant, {"control": control}
        if "control" not in contestant.planned.settings:
            raise CheckSkipped("its trainer is older than the controls")
        try:
            check_control(TRACKS[contestant.planned.track], control)
        except ValueError as problem:
            raise CheckSkipped(str(problem)) from None
        if share is not None:
            if self.subject.run.seconds.train is None:
                raise CheckSkipped("how long the run trained is not known")
            settings["max_seconds"] = max(FEWEST_SECONDS, round(share * self.subject.run.seconds.train, 3))
        options = [text for key, value in settings.items() for text in (f"--{key.replace('_', '-')}", str(value))]
        whole = contestant.planned.settings | settings
        planned = contestant.planned.model_copy(update={"settings": whole, "config_hash": config_hash(whole)})
        task = Task(
            dataclasses.replace(contestant, planned=planned),
            seed,
            Batch(id=self.batch_id, command=AUDIT, planned=MOST_ATTEMPTS, index=len(self.made)),
            tuple(options),
        )
        (run,) = run_tasks([task], Journal(self.results), lambda run: None)
        print(f"  {control}  {attempt_line(run)}", file=sys.stderr, flush=True)
        self.made.append(run)
        return run

    def weights_of(self, run: Run) -> Path | None:
        return None if run.weights is None else self.results / run.weights

    def solved(self, control: str, seeds: Sequence[int], decided: Callable[[range], bool]) -> tuple[int, int]:
        """Make attempts, one a seed, until it is decided by how many can still solve; how many did, and were made."""
        num_solved = 0
        for number, seed in enumerate(seeds, start=1):
            num_solved += self.attempt(control, seed).outcome == "solved"
            if decided(range(num_solved, num_solved + len(seeds) - number + 1)):
                return num_solved, number
        return num_solved, len(seeds)

    def probe(self, name: str, model: type[SectionT]) -> SectionT:
        """What `bench.probe` finds in the contestant.

        Raises:
            CheckSkipped: the contestant failed, or printed something else.
        """
        contestant = self.contestant
        own = [*contestant.arguments, "--seed", str(self.subject.run.seed), "--probe", name]
        command = [sys.executable, str(contestant.script), *own]
        answer = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=child_environment({}))
        if answer.returncode:
            last = (answer.stderr.strip().splitlines() or ["it ended without a word"])[-1]
            raise CheckSkipped(f"the probe failed: {last}")
        try:
            return model.model_validate_json((answer.stdout.splitlines() or [""])[-1])
        except ValidationError:
            raise CheckSkipped("the probe found no numbers: has training diverged?") from None

    @cached_property
    def recertification(self) -> Recertification:
        """Raises Unusable when there is nothing to certify in the weights file."""
        return recertify(self.subject.source, self.subject.weights, self.subject.run.seed, "plain")


def certified(run: Run) -> Run:
    """Raises NotCarriedOut when an attempt ended without a certificate."""
    if run.certificate is None:
        raise CheckSkipped(f"an attempt with --control {run.settings['control']} ended as {run.outcome}: {run.message}")
    return run


def check_result(faults: Sequence[str], evidence: str) -> CheckResult:
    """Caught when there are faults, which are then the evidence's first words."""
    return CheckResult("CAUGHT" if faults else "passed", "; ".join([*faults, evidence] if evidence else faults))


def is_rounding(distance: float, one_error: float) -> bool:
    """Whether a distance of weights can come from rounding, by what one rounding error has led to."""
    return distance <= min(MOST_ROUNDINGS * one_error, MOST_ROUNDING)


# -----------------------------------------------------------------------------
# the checks


def check_weights(audit: Audit) -> CheckResult:
    """The file is the one that was certified, and its plain forward pass says the same in a process of its own."""
    subject, run = audit.subject, audit.subject.run
    digest = weights_sha256(subject.weights)
    if digest != subject.weights_sha256:
        return check_result(["the file is another than was certified"], f"sha256 {digest[:12]}…")
    if run.certificate is None:
        raise CheckSkipped("the run has no certificate to compare with")
    try:
        found = audit.recertification
    except UnusableWeights as problem:
        return check_result(["the weights cannot be certified"], str(problem))
    faults, claimed, errors = [], run.certificate.errors, found.certificate.errors
    if run.outcome == "solved" and errors:
        faults.append(f"claimed to be solved: {found.sentences[0]}")
    elif abs(errors - claimed) > max(MISS_TOLERANCE * claimed, FEW_MISSES):
        faults.append(f"{errors_in_words(claimed)} were journalled")
    if found.parameters != run.parameters:
        faults.append(f"{run.parameters:,} parameters were journalled")
    if found.other_tensors:
        faults.append(f"tensors that are no parameters: {', '.join(found.other_tensors)}")
    if found.right_when_scrambled > 0.5:
        faults.append("its answers do not come from its weights")
    return check_result(
        faults,
        f"sha256 {digest[:12]}… as journalled; {errors_in_words(errors)} in {found.certificate.problems:,} by the "
        f"plain forward pass; {found.parameters:,} parameters, scrambled {found.right_when_scrambled:.1%} right",
    )


def check_causality(audit: Audit) -> CheckResult:
    """Later characters never change earlier logits."""
    try:
        change = audit.recertification.lookahead_change
    except UnusableWeights as problem:
        raise CheckSkipped(str(problem)) from None
    tolerance = CAUSAL_ROUNDINGS * torch.finfo(getattr(torch, audit.subject.run.precision)).eps
    return check_result(
        ["it looks ahead"] if not change <= tolerance else [],  # also when it is no number
        f"later characters change a logit by {change:.1e} of the largest, where rounding may by {tolerance:.1e}",
    )


def check_seeds(audit: Audit) -> CheckResult:
    """Two seeds give other initial weights, and other batches."""
    found, faults = audit.probe("seeds", Seeds), []
    if found.initial < MIN_INITIAL_DISTANCE:
        faults.append("two seeds begin with the same weights")
    if is_rounding(found.batches, found.rounding):
        faults.append("two seeds draw the same batches")
    return check_result(
        faults,
        f"initial weights of two seeds lie {found.initial:.2f} of their norm apart; from the same weights, either "
        f"seed's batches lead {found.batches:.2f} of the way trained apart, one rounding error {found.rounding:.1e}",
    )


def check_blindness(audit: Audit) -> CheckResult:
    """With the vocabulary's ids permuted the track is solved as well as with its own."""
    seeds, rate = [audit.seed(f"blindness {number}") for number in range(NUM_PERMUTATIONS)], audit.subject.solve_rate

    def alike(num_solved: int, rate: float) -> bool:
        _, highest = wilson_interval(num_solved, NUM_PERMUTATIONS)  # solving more often than usual is no fault
        return num_solved >= MUST_SOLVE or rate <= highest

    def permuted_decide(possible: range) -> bool:
        if possible[0] >= MUST_SOLVE:
            return True
        return rate is not None and len({alike(num_solved, rate) for num_solved in possible}) == 1

    num_solved, tried = audit.solved("permute", seeds, permuted_decide)
    seen = f"{num_solved} of {tried} solved with the vocabulary's ids permuted"
    if num_solved >= MUST_SOLVE:
        return check_result([], seen)
    if rate is not None:
        against = f"its batch solved {rate:.0%}"
    else:  # a single run does not say how often its trainer solves
        others, others_tried = audit.solved(
            "none",
            seeds,
            lambda possible: len({alike(num_solved, other / NUM_PERMUTATIONS) for other in possible}) == 1,
        )
        rate = others / NUM_PERMUTATIONS
        against = f"{others} of {others_tried} with the vocabulary as it is"
    faults = [] if alike(num_solved, rate) else ["it knows what the characters mean"]
    return check_result(faults, f"{seen}, {against}")


def check_labels(audit: Audit) -> CheckResult:
    """With the answers of the training problems dealt out anew, what it learns is wrong, held-out problems included."""
    certificate = certified(audit.attempt("shuffle", audit.seed("labels"), SHUFFLED_SHARE)).certificate
    faults = []
    if 2 * certificate.errors <= certificate.problems:
        faults.append("it adds although it was taught otherwise")
    if certificate.heldout_problems and 2 * certificate.heldout_errors <= certificate.heldout_problems:
        faults.append("it adds what it was not taught")
    return check_result(
        faults,
        f"taught answers dealt out anew, it has {errors_in_words(certificate.errors)} in {certificate.problems:,} and "
        f"{certificate.heldout_errors:,} in {certificate.heldout_problems:,} held out",
    )


def check_data(audit: Audit) -> CheckResult:
    """With the answers of all held-out problems wrong, training comes out the same."""
    run = audit.subject.run
    own = outcome_of_training(run, audit.subject.weights)
    poisoned = audit.attempt("poison", run.seed)
    came_out = outcome_of_training(poisoned, audit.weights_of(poisoned))
    if came_out == own:
        return check_result([], f"with the held-out answers wrong, its own {run.steps:,} steps end in the same weights")
    plain = audit.attempt("none", run.seed)  # the run may be of another machine, which rounds differently
    usual = outcome_of_training(plain, audit.weights_of(plain))
    if came_out == usual:
        return check_result(
            [], f"with the held-out answers wrong, {plain.steps:,} steps end in the same weights as without"
        )
    again = plain if usual == own else audit.attempt("none", run.seed)
    if again is plain or outcome_of_training(again, audit.weights_of(again)) == usual:
        evidence = f"with the held-out answers wrong, {poisoned.steps or 0:,} steps end in other weights"
        return check_result(["it trains on held-out problems"], f"{evidence}, where a repeat ends in the same")
    certified(poisoned)
    return check_result(
        [] if poisoned.outcome in (plain.outcome, again.outcome) else ["it comes out worse for wrong answers"],
        f"the trainer is not deterministic, so only outcomes are compared: {plain.outcome} and {again.outcome}; with "
        f"the held-out answers wrong {poisoned.outcome}, {poisoned.certificate.heldout_errors:,} held-out errors",
    )


def check_clock(audit: Audit) -> CheckResult:
    """The clock inside is the clock outside, the phases are all there is, and the warm-up teaches nothing."""
    runs = [audit.subject.run, *audit.made]
    faults = [fault for run in runs for fault in clock_faults(run)]
    if faults:
        return check_result(faults, "")
    found = audit.probe("warmup", Warmup)
    if not is_rounding(found.skipped, found.rounding):
        faults.append("training is another without the warm-up")
    if found.touched:
        faults.append(f"asked of the problems before `train`: {', '.join(found.touched)}")
    if not faults and len(runs) == 1:
        runs.append(audit.attempt("none", audit.subject.run.seed))
        faults += clock_faults(runs[-1])
    heard = [run for run in runs if run.outer_seconds is not None]
    if not faults and not heard:
        raise CheckSkipped("no attempt could be timed from outside")
    warmups = [run.seconds.warmup for run in runs if run.seconds.warmup is not None]
    return check_result(
        faults,
        f"{len(heard)} of {len(runs)} attempts timed by a second clock, which agrees; phases add up; longest warm-up "
        f"{max(warmups, default=0.0):.2f} s; without it training ends {found.skipped:.1e} of its way off, one rounding "
        f"error makes {found.rounding:.1e}",
    )


CHECKS: dict[str, Callable[[Audit], CheckResult]] = {
    "weights": check_weights,
    "causality": check_causality,
    "seeds": check_seeds,
    "blindness": check_blindness,
    "labels": check_labels,
    "data": check_data,
    "clock": check_clock,  # the last, as it looks at the attempts of the others, too
}


def outcome_of_training(run: Run, weights: Path | None) -> tuple:
    """The steps, the checks without their seconds, and the bytes of the final weights.

    The files themselves differ, as they hold their settings.
    """
    tensors = {} if weights is None else load_file(weights)
    content = {name: tensor.contiguous().view(torch.uint8).numpy().tobytes() for name, tensor in tensors.items()}
    return run.steps, [(check.step, check.loss, check.errors) for check in run.checks], content


def clock_faults(run: Run) -> Iterator[str]:
    """What is wrong with the seconds of a run and with the weights that its warm-up left."""
    inner = run.seconds.model_dump()
    if run.outer_seconds is not None:
        # Only the ranked clocks: on a busy machine an edge is heard late, at the cost of a phase of milliseconds.
        ours, theirs = (ranked_clocks(seconds) for seconds in (run.seconds, run.outer_seconds))
        yield from (f"{run.run_id}: {sentence}" for sentence in disagreements(ours, theirs))
    together = sum(inner[phase] or 0.0 for phase in PHASES)
    if inner["total"] is not None and abs(together - inner["total"]) > PHASES_TOLERANCE * inner["total"]:
        yield f"{run.run_id}: the phases add up to {together:.2f} s of {inner['total']:.2f} s"
    if (inner["warmup"] or 0.0) > MAX_WARMUP_SECONDS:
        yield f"{run.run_id}: the warm-up took {inner['warmup']:.0f} s, allowed are {MAX_WARMUP_SECONDS:.0f} s"
    if run.warmed_weights_sha256 is not None and run.initial_weights_sha256 != run.warmed_weights_sha256:
        yield f"{run.run_id}: the warm-up changed the weights"


def ranked_clocks(seconds: Seconds) -> dict[str, float | None]:
    return dict.fromkeys(PHASES) | {"train": seconds.train, "total": seconds.total}
