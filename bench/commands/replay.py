"""`python -m bench replay`: run a record again from its snapshot, with the current clock and certificate."""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from bench.cli import handle_interrupts
from bench.commands import board
from bench.commands.options import DEFAULT_RESULTS, ResultsOption
from bench.commands.paired_experiment import certificate_problem, run_paired_experiment
from bench.errors import UsageError
from bench.experiments.comparison import bounded_interval, summarize_batch
from bench.experiments.paired_plan import Experiment, resolve_side
from bench.experiments.paired_runs import runs_by_side
from bench.formatting import ratio_text
from bench.provenance import harness_sha256
from bench.stats.descriptive import solve_rates_agree
from bench.stats.paired_test import charge_attempts, unpaired_ratio_interval
from bench.storage.comparison_schema import PairedPlan, Reproduction
from bench.storage.journal import Journal
from bench.storage.jsonl import JsonLines
from bench.storage.records import RecordFolder, find_record
from bench.storage.results import weights_sha256
from bench.storage.schema import Run
from bench.streams import print_line


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Unpack a record's snapshot into a temporary folder, run it with fresh seeds, and file the reproduction.

    Clock and certificate are the judge's. The speed is reported and decides nothing, because it
    depends on the machine.
    """

    record: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RECORD")]
    """A record's name or folder."""
    attempts: int = 10
    """Number of attempts."""
    results: ResultsOption = DEFAULT_RESULTS


def main(arguments: Arguments) -> int:
    if arguments.attempts < 1:
        raise UsageError(f"--attempts {arguments.attempts}: a replay has at least one attempt")
    handle_interrupts()
    results = arguments.results
    record_folder = find_record(arguments.record, results)
    record, reproductions = record_folder.record, reproductions_file(record_folder, results)
    if weights_sha256(record_folder.weights) != record.weights_sha256:
        raise UsageError(f"{record.name}: weights.safetensors holds other weights than record.json names")
    with contextlib.ExitStack() as stack:
        participant = resolve_side(arguments.record, "auto", results, stack)  # checks the hashes of source and settings
        experiment = Experiment(
            "replay",
            participant,
            None,
            record.clock,
            arguments.attempts,
            is_finished=lambda plan, runs: any(line.batch == plan.id for line in reproductions.read()[0]),
            results=results,
        )
        plan, runs = run_paired_experiment(experiment)
        replay_runs, _ = runs_by_side(plan, runs)
        solved = [run for run in replay_runs if run.outcome == "solved"]
        problems = [certificate_problem(run, results) for run in solved]
    if record_folder.results.resolve() != results.resolve():
        runs += Journal(record_folder.results).read()[0]
    reproduction = make_reproduction(record_folder, plan, replay_runs, runs, problems)
    reproductions.append(reproduction)
    board.write_texts(results)
    print_line(describe_reproduction(record_folder, reproduction))
    return 0 if reproduction.reproduced else 1


def reproductions_file(record_folder: RecordFolder, results: Path) -> JsonLines[Reproduction]:
    """The file of a reproduction: beside the record, or in the results folder where its attempts are filed."""
    if record_folder.results.resolve() == results.resolve():
        return record_folder.reproductions
    return JsonLines(results / "reproductions.jsonl", Reproduction)


def make_reproduction(
    record_folder: RecordFolder,
    plan: PairedPlan,
    replay_runs: Sequence[Run],
    runs: Sequence[Run],
    problems: Sequence[str | None],
) -> Reproduction:
    """The line about this replay.

    The record is reproduced when the certificate confirms every solved attempt, at least one is solved, and Fisher's
    exact test finds no difference between the solve rates of replay and record.

    `runs` are all of the journal, `problems` those of `certificate_problem` for each solved attempt.
    """
    record, result = record_folder.record, summarize_batch(replay_runs)
    record_runs = [run for run in runs if run.batch and (run.batch.id, run.batch.side) == (record.batch, "a")]
    ert = result.ert_seconds(record.clock)
    charged, record_charged = (charge_attempts(batch_runs, record.clock) for batch_runs in (replay_runs, record_runs))
    reasons = [problem for problem in problems if problem is not None]
    if not solve_rates_agree(result.solved, result.attempts, record.result.solved, record.result.attempts):
        reasons.append(
            f"{result.solved} of {result.attempts} solved, where the record has "
            f"{record.result.solved} of {record.result.attempts}"
        )
    if not result.solved:
        reasons.append("no attempt solved the track")
    return Reproduction(
        batch=plan.id,
        machine_class=plan.machine_class,
        harness_sha256=harness_sha256(),
        result=result,
        certified=sum(problem is None for problem in problems),
        ert_ratio=None if ert is None else ert / record.ert_seconds,
        ert_ratio_95=bounded_interval(unpaired_ratio_interval(charged, record_charged, plan.seeds[0])),
        reproduced=not reasons,
        reason="; ".join(reasons) or None,
        started_at=plan.started_at,
    )


def describe_reproduction(record_folder: RecordFolder, reproduction: Reproduction) -> str:
    result, record = reproduction.result, record_folder.record
    verdict = "reproduced" if reproduction.reproduced else f"not reproduced: {reproduction.reason}"
    ratio = ratio_text(reproduction.ert_ratio, reproduction.ert_ratio_95)
    return (
        f"{verdict}; solved {result.solved}/{result.attempts}, certified {reproduction.certified}; "
        f"ERT of the replay to the record's by `{record.clock}`: {ratio}; "
        f"{record.name} has been reached on {len(record_folder.machine_classes())} machine class(es)"
    )
