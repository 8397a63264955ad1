"""`python -m bench replay`: a record run again from its snapshot, by today's clock and today's certificate."""

import contextlib
import dataclasses
import hashlib
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from bench.attempt.recertify import UnusableWeights, recertify
from bench.cli import EXIT_INTERRUPTED, handle_interrupts, reject_unwritable
from bench.errors import UsageError
from bench.experiments.comparison import bounded_interval, summarize_batch
from bench.experiments.paired_plan import Contestants, plan_experiment, resolve_side, run_experiment, runs_by_side
from bench.formatting import errors_in_words, ratio_text
from bench.provenance import ROOT, harness_sha256
from bench.report import leaderboard
from bench.stats.descriptive import solve_rates_agree
from bench.stats.paired_test import charge_attempts, unpaired_ratio_interval
from bench.storage.journal import Journal
from bench.storage.records import RecordFolder, find_record
from bench.storage.schema import PairedPlan, Reproduction, Run


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Rebuild a record's snapshot in a clean folder, run it with fresh seeds, and file the reproduction.

    The outer clock and the certificate are today's. Speed is reported, not judged: another machine has another speed.
    """

    record: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RECORD")]
    """A record's name or folder."""
    attempts: int = 10
    """How many, fixed before the first."""
    results: Path = ROOT / "results"
    """The folder of the journal and the records."""


def main(arguments: Arguments) -> int:
    if arguments.attempts < 1:
        raise UsageError(f"--attempts {arguments.attempts}: a replay has at least one attempt")
    handle_interrupts()
    journal, results = Journal(arguments.results), arguments.results
    filed = find_record(arguments.record, results)
    check_weights(filed)
    with contextlib.ExitStack() as stack:
        side, contestant = resolve_side(
            arguments.record, "auto", results, stack
        )  # checks the hashes of source and settings
        with reject_unwritable(results):
            journal.recover()
            agenda, resumed = plan_experiment(
                "replay",
                (side, None),
                contestant.planned,
                filed.record.clock,
                arguments.attempts,
                lambda number: random.SystemRandom().randrange(2**31),  # fresh, and written down before they are used
                lambda agenda, runs: any(line.batch == agenda.id for line in filed.reproductions.read()[0]),
                results,
            )
        try:
            run_experiment(agenda, resumed, Contestants(contestant, None), results)
        except KeyboardInterrupt:
            leaderboard.refresh(results)
            return EXIT_INTERRUPTED
        runs, _ = journal.read()
        own, _ = runs_by_side(agenda, runs)
        verdicts = [certified_today(contestant.script.parent, run, results) for run in own if run.outcome == "solved"]
    reproduction = made_reproduction(filed, agenda, own, runs, verdicts)
    filed.reproductions.append(reproduction)
    leaderboard.refresh(results)
    print(sentence(filed, reproduction))
    return 0 if reproduction.reproduced else 1


def check_weights(filed: RecordFolder) -> None:
    """Raises WrongRequest when the record's weights are missing or are not those that it names."""
    try:
        digest = hashlib.sha256(filed.weights.read_bytes()).hexdigest()
    except OSError as problem:
        raise UsageError(f"{filed.record.name}: {problem}") from None
    if digest != filed.record.weights_sha256:
        raise UsageError(f"{filed.record.name}: weights.safetensors holds other weights than record.json names")


def certified_today(contestant: Path, run: Run, results: Path) -> str | None:
    """What today's certificate has against the weights of an attempt that solved the track; None when nothing."""
    print(f"certifying {run.run_id} again", file=sys.stderr, flush=True)
    try:
        found = recertify(contestant, results / run.weights, run.seed, "fast")
    except UnusableWeights as problem:
        return str(problem)
    errors = found.certificate.errors
    return f"{run.run_id}: {errors_in_words(errors)} by today's certificate" if errors else None


def made_reproduction(
    filed: RecordFolder, agenda: PairedPlan, own: Sequence[Run], runs: Sequence[Run], verdicts: Sequence[str | None]
) -> Reproduction:
    """The line about this replay; reproduced when every solved attempt is, by today's certificate, and enough solved.

    Enough: the solved fraction is the record's, as far as Fisher's exact test can tell.
    """
    record, result = filed.record, summarize_batch(own)
    theirs = [run for run in runs if run.batch is not None and (run.batch.id, run.batch.side) == (record.batch, "a")]
    ert = result.ert_train_seconds if record.clock == "train" else result.ert_total_seconds
    interval = unpaired_ratio_interval(
        charge_attempts(own, record.clock), charge_attempts(theirs, record.clock), agenda.seeds[0]
    )
    reasons = [verdict for verdict in verdicts if verdict is not None]
    if not solve_rates_agree(result.solved, result.attempts, record.result.solved, record.result.attempts):
        reasons.append(
            f"{result.solved} of {result.attempts} solved, where the record has "
            f"{record.result.solved} of {record.result.attempts}"
        )
    if not result.solved:
        reasons.append("no attempt solved the track")
    return Reproduction(
        batch=agenda.id,
        machine_class=agenda.machine_class,
        harness_sha256=harness_sha256(),
        result=result,
        certified=sum(verdict is None for verdict in verdicts),
        ert_ratio=ert and ert / record.ert_seconds,
        ert_ratio_95=bounded_interval(interval),
        reproduced=not reasons,
        reason="; ".join(reasons) or None,
        started_at=agenda.started_at,
    )


def sentence(filed: RecordFolder, reproduction: Reproduction) -> str:
    result = reproduction.result
    verdict = "reproduced" if reproduction.reproduced else f"not reproduced: {reproduction.reason}"
    ratio = ratio_text(reproduction.ert_ratio, reproduction.ert_ratio_95)
    return (
        f"{verdict}; solved {result.solved}/{result.attempts}, certified {reproduction.certified}; "
        f"ERT of the replay to the record's by `{filed.record.clock}`: {ratio}; "
        f"{filed.record.name} has been reached on {len(filed.machine_classes())} machine class(es)"
    )
