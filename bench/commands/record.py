"""`python -m bench record`: run a batch in pairs with the standing record, and file it when it is faster."""

import contextlib
import dataclasses
import itertools
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import tyro

from bench.arguments import TextArgument
from bench.cli import EXIT_WRONG_REQUEST, handle_interrupts, print_progress
from bench.clock import ClockName
from bench.commands import board
from bench.commands.options import (
    DEFAULT_RESULTS,
    AddressOption,
    DeviceOption,
    EngineOption,
    ResultsOption,
    WhyOption,
    open_executors,
    read_why,
)
from bench.commands.paired_experiment import certificate_problem, run_paired_experiment
from bench.commands.record_checkout import check_committed, print_files_to_commit
from bench.commands.tracks import default_config
from bench.config import CONFIGS, config_toml, find_config, merged_values, settings_key, track_of, with_current_names
from bench.errors import UnavailableHere, UsageError
from bench.experiments.altered import NUM_ALTERED, Altered, altered_of
from bench.experiments.comparison import (
    Comparison,
    conclude_comparison,
    evaluate_comparison,
    filed_conclusion,
    show_comparison,
    summarize_batch,
)
from bench.experiments.executors import Executor, ExecutorLost, group_by_machine_class, prepare_each
from bench.experiments.launcher import SCRIPT, Refusal, check_may_rank
from bench.experiments.outer_clock import CAN_LISTEN
from bench.experiments.paired_plan import Experiment, resolve_side
from bench.experiments.paired_runs import runs_by_side
from bench.formatting import batch_line
from bench.report import leaderboard
from bench.report.main_track import FIRST_OF_CLASS
from bench.report.readme import PAGE
from bench.stats.ranking import RANKED_FROM
from bench.storage.comparison_schema import PairedPlan, Record
from bench.storage.evidence import write_evidence
from bench.storage.jsonl import replace_file
from bench.storage.records import RecordFolder, file_record, is_record, read_records, standing_record
from bench.storage.results import read_results
from bench.storage.schema import Run
from bench.streams import print_line
from tracks.descriptions import describe_track

QUIET_SECONDS = 3.0
RESOLVED_BY_MACHINE = ("device", "precision", "threads")  # settings that a default config leaves open


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Run a batch of a config in pairs with the standing record, and file it as the new record when it is faster.

    Without a standing record on this machine class, the batch runs alone: it is the first of its class, and compared
    with nothing. What is unclear counts against the config: a pair is run again only when the standing record's attempt
    was disturbed. Three further attempts get other ids of answers; one of them must solve the track. An interrupted
    batch resumes when the same command is run again. Commit the files that are listed at the end; docs/RULES.md and
    CONTRIBUTING.md say what makes a record and where to send it.
    """

    config: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CONFIG")]
    """The config that challenges the standing record."""
    clock: ClockName
    """The clock of the record."""
    pairs: int = RANKED_FROM
    """Attempts of the config, each paired with an attempt of the standing record."""
    why: WhyOption = None
    name: TextArgument = None
    """End of the name of the record's folder; by default the config and the clock."""
    noisy: tyro.conf.FlagCreatePairsOff[bool] = False
    """Begin on a machine that is not quiet, and let attempts of the standing record count that were disturbed; the
    record says so."""
    device: DeviceOption = "auto"
    engine: EngineOption = "local"
    address: AddressOption = None
    results: ResultsOption = DEFAULT_RESULTS


def main(arguments: Arguments) -> int:
    check_arguments(arguments)
    arguments = dataclasses.replace(arguments, why=read_why(arguments.why, arguments.results))
    handle_interrupts()
    with open_executors(arguments.engine, arguments.address, SCRIPT) as executors:
        if len(executors) == 1:
            return record_on_any(executors, arguments)
        statuses = []
        classes = prepare_each(executors, lambda executor: find_machine_class(executor, arguments))
        for group in group_by_machine_class(classes):
            try:
                statuses.append(record_on_any(group, arguments))
            except UsageError as problem:  # the other machine classes may still have their records
                print_progress(f"{', '.join(executor.name for executor in group)}: {problem}")
                statuses.append(EXIT_WRONG_REQUEST)
        return max(statuses)


def check_arguments(arguments: Arguments) -> None:
    """Raises UsageError for arguments that are wrong on every machine."""
    if arguments.pairs < RANKED_FROM:
        raise UsageError(f"--pairs {arguments.pairs}: a record is a batch of at least {RANKED_FROM} attempts")
    if is_record(arguments.config, arguments.results):
        raise UsageError(f"{arguments.config!r} is a record already; `replay` runs it again")
    if arguments.name is not None and not all(part.isalnum() for part in arguments.name.replace("_", "-").split("-")):
        raise UsageError(f"--name {arguments.name!r}: must be letters and digits, separated by '-' or '_'")


def find_machine_class(executor: Executor, arguments: Arguments) -> str | None:
    """The machine class of an executor; raises UnavailableHere or UsageError when it cannot run the config."""
    (answer,) = executor.resolve_all(SCRIPT, [["--config", arguments.config, "--device", arguments.device]])
    if isinstance(answer, Refusal):
        raise UnavailableHere(answer.reason) if answer.not_here else UsageError(answer.reason)
    return answer.planned.machine.class_


# -----------------------------------------------------------------------------
# the batch


def record_on_any(executors: Sequence[Executor], arguments: Arguments) -> int:
    """`record_on` the first executor of a machine class; when it is lost, on the next. Returns the exit status."""
    for executor in executors:
        try:
            return record_on(executor, arguments)
        except ExecutorLost:
            print_progress(f"{executor.name} was lost, and its current attempt with it")
    print_progress("no executor is left to continue; run the same command again to resume")
    return 1


def record_on(executor: Executor, arguments: Arguments) -> int:
    """Run the batch on an executor, and file the record if it is one. Returns the exit status.

    After ExecutorLost, another executor of the same machine class can run the attempts that are left.
    """
    results = arguments.results
    with contextlib.ExitStack() as stack:
        challenger = resolve_side(arguments.config, arguments.device, results, stack, executor)
        planned = challenger.contestant.planned
        check_may_rank(challenger.contestant.planned, challenger.side.name)
        check_committed(planned, find_config(arguments.config, planned.device)[1], SCRIPT.parent)
        folders = read_results(results).records  # without those whose batch is disputed
        standing = standing_record(folders, planned.track, arguments.clock, planned.machine_class_name)
        opponent = None
        if standing is not None:
            opponent = resolve_side(standing.record.name, "auto", results, stack, executor)
            a, b = challenger.side, opponent.side
            if a.source_sha256 == b.source_sha256 and settings_key(a.settings) == settings_key(b.settings):
                raise UsageError(f"this config and source are the standing record, {b.name}")
        reasons = executor.check_quiet(planned.device, QUIET_SECONDS)
        if reasons and not arguments.noisy:
            raise UsageError(f"{executor.name} is not quiet: {'; '.join(reasons)}; --noisy continues nevertheless")
        experiment = Experiment(
            "record",
            challenger,
            opponent,
            arguments.clock,
            arguments.pairs,
            is_finished=lambda plan, runs: is_finished(plan, runs, results),
            results=results,
            why=arguments.why,
            noisy=arguments.noisy,
            altered=NUM_ALTERED if can_alter(planned) else 0,
            executor=executor,
        )
        plan, runs = run_paired_experiment(experiment)
    return decide(arguments, plan, standing, runs, source=challenger.contestant.script.parent)


def can_alter(planned: Run) -> bool:
    """Whether the judge can give answers other ids: the trainer knows the judge, and the track allows it."""
    from tracks.controls import can_relabel  # imports torch, as do the tracks
    from tracks.registry import get_track

    name, track_settings = track_of(planned.settings)
    return planned.judge is not None and CAN_LISTEN and can_relabel(get_track(name, **track_settings))


# -----------------------------------------------------------------------------
# the decision


def decide(
    arguments: Arguments, plan: PairedPlan, standing: RecordFolder | None, runs: Sequence[Run], source: Path
) -> int:
    """File the batch as a record if it beat the standing one, or if there is none. Returns the exit status.

    `runs` are all of the journal; `source` is the tree that is filed as the record's snapshot.
    """
    results = arguments.results
    batch_runs, _ = runs_by_side(plan, runs)
    write_evidence(results, batch_runs)
    comparison = None if standing is None else conclude_comparison(plan, runs, results)
    altered = altered_of(plan, runs)
    refusal = reason_against(altered, comparison)
    if altered.runs:
        print_progress(altered.text)
    solved = [run for run in batch_runs if run.outcome == "solved"]
    if refusal is None:
        refusal = "; ".join(filter(None, (certificate_problem(run, results) for run in solved))) or None
    if refusal is not None:
        leaderboard.refresh(results)
        if comparison is not None:
            show_comparison(comparison)
        print_files_to_commit(SCRIPT.parent, results, [])
        print_line(f"no record: {refusal}")
        return 1
    solved.sort(key=lambda run: getattr(run.seconds, arguments.clock))
    median = solved[(len(solved) - 1) // 2]  # the lower of the two for an even number
    record = make_record(arguments, plan, batch_runs, median, comparison, standing)
    assert median.weights is not None  # a solved attempt keeps its weights, except in a matrix or a search
    file_record(
        results,
        record,
        results / median.weights,
        source,
        f"The settings of {record.name}, as they were resolved on its machine.",
    )
    is_new_default = plan.clock == "total" and is_own(results) and make_default(arguments.config, record)
    board.main(board.Arguments(results=results))  # renders the record's README, too
    if comparison is not None:
        show_comparison(comparison)
    if is_new_default:
        print_line(f"{default_file(record).name} is now {record.config}")
    print_files_to_commit(SCRIPT.parent, results, [SCRIPT.parent / PAGE, default_file(record)])
    first = "" if record.predecessor else f", {FIRST_OF_CLASS}"
    print_line(f"record {record.name}{first}: {batch_line(batch_runs)}")
    return 0


def is_finished(plan: PairedPlan, runs: Sequence[Run], results: Path) -> bool:
    """Whether a complete batch is filed as a record, or its comparison is concluded and it is none."""
    if any(record_folder.record.batch == plan.id for record_folder in read_records(results)[0]):
        return True
    altered = altered_of(plan, runs)
    if altered.num_left(plan):
        return False
    comparison = None
    if plan.b is not None:
        conclusion = filed_conclusion(plan, results)
        if conclusion is None:
            return False
        comparison = evaluate_comparison(plan, runs, conclusion)
    return reason_against(altered, comparison) is not None


def reason_against(altered: Altered, comparison: Comparison | None) -> str | None:
    """Why a batch, the `ordinary` attempts beside the altered ones, is not a record; None when it is one."""
    batch_runs = altered.ordinary
    if disputed := list(dict.fromkeys(reason for run in batch_runs for reason in run.disputed)):
        return f"the batch is disputed: {'; '.join(disputed)}"
    if not any(run.outcome == "solved" for run in batch_runs):
        return "no attempt solved the track"
    if comparison is not None:
        if not any(run.outcome == "solved" for run in comparison.b):
            return "the standing record solved nothing here; see its messages in the journal"
        if comparison.verdict != "faster":
            level = f"comparison number {comparison.plan.number}, level {comparison.level:.2g}"
            return f"the verdict against the standing record is: {comparison.verdict} ({level})"
    if altered.runs and altered.fault is not None:
        return altered.fault
    return None


# -----------------------------------------------------------------------------
# filing


def make_record(
    arguments: Arguments,
    plan: PairedPlan,
    batch_runs: Sequence[Run],
    median: Run,
    comparison: Comparison | None,
    standing: RecordFolder | None,
) -> Record:
    contestant_keys = {"config", "settings", "config_hash", "source_sha256", "harness_sha256", "commit"}
    return Record(
        name=new_record_name(arguments, plan),
        **plan.model_dump(include={"track", "clock", "machine_class", "device", "started_at"}),
        **plan.a.model_dump(include=contestant_keys),
        **median.model_dump(include={"weights_sha256", "parameters", "search"}),
        batch=plan.id,
        result=summarize_batch(batch_runs),
        predecessor=None if standing is None else standing.record.name,
        predecessor_result=None if comparison is None else summarize_batch(comparison.b),
        ert_ratio=None if comparison is None else comparison.ratio,
        ert_ratio_95=None if comparison is None else comparison.ratio_95,
        p_value=None if comparison is None else comparison.p_value,
        level=None if comparison is None else comparison.level,
        number=None if comparison is None else plan.number,
        noisy=any(run.machine.clean is not True for run in batch_runs),
        median_run=median.run_id,
    )


def new_record_name(arguments: Arguments, plan: PairedPlan) -> str:
    """`<date>-<track>-<name>`, with a number at the end when such a record exists."""
    config = plan.a.config.removeprefix(f"{plan.track}-")
    stem = arguments.name or (plan.clock if config == plan.track else f"{config}-{plan.clock}")
    name = f"{datetime.now(UTC):%Y-%m-%d}-{plan.track}-{stem}"
    candidates = itertools.chain([name], (f"{name}-{count}" for count in itertools.count(2)))
    return next(candidate for candidate in candidates if not is_record(candidate, arguments.results))


def is_own(results: Path) -> bool:
    """Whether a results folder is the project's own; a record in another one is a trial."""
    return results.resolve() == (CONFIGS.parents[1] / "results").resolve()


def default_file(record: Record) -> Path:
    """The file that holds the default config of a record's track on its device, once a record was faster by `total`."""
    return CONFIGS / f"{record.track}-{record.device}.toml"


def make_default(config: str, record: Record) -> bool:
    """Make the record's config the track's default on its device, and return True, unless it is the default already."""
    present = default_config(describe_track(*track_of(record.settings)), record.device)
    if record.config == present or record.device not in ("cpu", "cuda"):
        return False
    values = merged_values(find_config(config, record.device)[1], with_current_names, record.device)
    kept = {key: value for key, value in values.items() if key not in RESOLVED_BY_MACHINE}
    if kept.get("kernel") == "c":
        kept["kernel"] = "auto"  # a default config has to run on machines without a compiler
    header = f"# The default of {record.track} on {record.device}, since the record {record.name}.\n"
    replace_file(default_file(record), header + config_toml(kept))
    return True
