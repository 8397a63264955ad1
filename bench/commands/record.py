"""`python -m bench record`: a batch against the standing record, and what is filed when it is faster."""

import contextlib
import dataclasses
import statistics
import sys
import zipfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from bench.cli import EXIT_INTERRUPTED, EXIT_WRONG_REQUEST, handle_interrupts, reject_unwritable
from bench.clock import ClockName
from bench.commands import board
from bench.config import CONFIGS, find_config, merged_values
from bench.errors import UsageError
from bench.experiments.comparison import (
    COMPARISON_WIDTH,
    Comparison,
    evaluate_comparison,
    file_conclusion,
    show_comparison,
    summarize_batch,
)
from bench.experiments.executors import EngineName, Executor, ExecutorLost, group_by_machine_class, open_executors
from bench.experiments.launcher import SCRIPT, Refusal
from bench.experiments.paired_plan import (
    Contestants,
    normalize_why,
    plan_experiment,
    resolve_side,
    run_experiment,
    runs_by_side,
)
from bench.formatting import batch_line, changed_settings, escape_markdown, number, ratio_text, search_text
from bench.provenance import ROOT, first_seed
from bench.report import leaderboard
from bench.report.render import template_environment
from bench.stats.descriptive import flops_floor, launch_floor, utilisation
from bench.stats.ranking import RANKED_FROM
from bench.storage.journal import Journal
from bench.storage.jsonl import replace_file
from bench.storage.records import RecordFolder, file_record, is_record, read_records, records_folder, standing_record
from bench.storage.results import FiledResults
from bench.storage.schema import PairedPlan, Record, Run

QUIET_SECONDS = 3.0
RESOLVED_BY_MACHINE = ("device", "precision", "threads")  # settings that a default config leaves open


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Run a batch of a config in pairs with the standing record, and file it as the record when it is faster.

    Where there is no record yet, the batch runs alone. One that was broken off goes on when it is asked for again.
    """

    config: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CONFIG")]
    """The challenger, a config."""
    clock: ClockName
    """The clock that the record is of."""
    pairs: int = RANKED_FROM
    """Attempts of the challenger, each in a pair with one of the standing record."""
    why: str | None = None
    """What the challenger tries and for what reason, in a line; it stands in NEGATIVE.md beside the verdict."""
    name: str | None = None
    """What the record's folder ends with; the config and the clock when left out."""
    noisy: tyro.conf.FlagCreatePairsOff[bool] = False
    """Go on although the machine is not quiet; the record says so."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    engine: EngineName = "local"
    """Where attempts are made: in processes of this machine, or at one node of each machine class of a Ray cluster."""
    address: str | None = None
    """Of a running Ray cluster; without it, one of this machine alone is started."""
    results: Path = ROOT / "results"
    """The folder of the journal and the records."""


def main(arguments: Arguments) -> int:
    check(arguments)
    why = normalize_why(arguments.why)
    handle_interrupts()
    with open_executors(arguments.engine, arguments.address, SCRIPT) as places:
        if len(places) == 1:
            return record_on(places, arguments, why)
        statuses = []
        for group in group_by_machine_class(machine_classes(places, arguments)):
            try:
                statuses.append(record_on(group, arguments, why))
            except UsageError as problem:  # of this class; another one may still have its record
                print(f"{', '.join(place.name for place in group)}: {problem}", file=sys.stderr)
                statuses.append(EXIT_WRONG_REQUEST)
            if EXIT_INTERRUPTED in statuses:
                break
        return max(statuses)


def machine_classes(places: Sequence[Executor], arguments: Arguments) -> dict[Executor, str | None]:
    """The class of each place where the config can run.

    Raises:
        UsageError: it can run nowhere, or is wrong anywhere.
    """
    classes, refusals = {}, []
    for place in places:
        (answer,) = place.resolve_all(SCRIPT, [["--config", arguments.config, "--device", arguments.device]])
        if not isinstance(answer, Refusal):
            classes[place] = answer.planned.machine.class_
        elif answer.not_here:
            refusals.append(f"{place.name} is left out: {answer.reason}")
        else:
            raise UsageError(answer.reason)
    if not classes:
        raise UsageError("; ".join(refusals))
    for line in refusals:
        print(line, file=sys.stderr)
    return classes


def record_on(places: Sequence[Executor], arguments: Arguments, why: str | None) -> int:
    """As `record_at`, at the first place of one machine class, and should that be lost, at the next."""
    for place in places:
        try:
            return record_at(place, arguments, why)
        except ExecutorLost:
            print(f"{place.name} was lost, and with it the attempt that it was at", file=sys.stderr)
    print("nobody is left who could go on with it; the same command does", file=sys.stderr)
    return 1


def record_at(place: Executor, arguments: Arguments, why: str | None) -> int:
    """Run the batch at one place, file the record if it is one; the exit status.

    Raises:
        ExecutorLost: another place of the same machine class can go on with it.
        UsageError: there can be no record, or the place is not quiet.
    """
    journal, results = Journal(arguments.results), arguments.results
    with contextlib.ExitStack() as stack:
        side_a, a = resolve_side(arguments.config, arguments.device, results, stack, place)
        planned = a.planned
        if planned.dirty is not False:
            what = "has changes that are not committed" if planned.dirty else "is no git checkout, or git is not here"
            raise UsageError(f"a record is made from committed source, and this {what}")
        if planned.settings["control"] != "none":
            raise UsageError("control: an attempt on a track that was tampered with is no record")
        before = standing_record(read_records(results)[0], planned.track, arguments.clock, planned.machine.class_)
        side_b, b = (None, None) if before is None else resolve_side(before.record.name, "auto", results, stack, place)
        if side_b is not None and (side_b.config_hash, side_b.source_sha256) == (
            side_a.config_hash,
            side_a.source_sha256,
        ):
            raise UsageError(f"this config and source are the standing record, {before.record.name}")
        reasons = place.check_quiet(planned.device, QUIET_SECONDS)
        if reasons and not arguments.noisy:
            raise UsageError(f"{place.name} is not quiet: {'; '.join(reasons)} (--noisy goes on all the same)")
        with reject_unwritable(results):
            journal.recover()
            agenda, resumed = plan_experiment(
                "record",
                (side_a, side_b),
                planned,
                arguments.clock,
                arguments.pairs,
                lambda number: first_seed(side_a.config_hash, side_a.source_sha256),
                lambda agenda, runs: is_over(agenda, runs, results),
                results,
                why,
            )
        try:
            run_experiment(agenda, resumed, Contestants(a, b), results, place)
        except KeyboardInterrupt:
            leaderboard.refresh(results)
            return EXIT_INTERRUPTED
    return decide(arguments, agenda, before, journal.read()[0], a.script.parent)


def check(arguments: Arguments) -> None:
    """Raises WrongRequest for what can be seen to be wrong before anything is asked."""
    if arguments.pairs < RANKED_FROM:
        raise UsageError(f"--pairs {arguments.pairs}: a record is a batch of at least {RANKED_FROM} attempts")
    if is_record(arguments.config, arguments.results):
        raise UsageError(f"{arguments.config!r} is a record already; `replay` runs it again")
    if arguments.name is not None and not all(part.isalnum() for part in arguments.name.replace("_", "-").split("-")):
        raise UsageError(f"--name {arguments.name!r}: letters and digits with '-' between them")


# -----------------------------------------------------------------------------
# the decision


def decide(
    arguments: Arguments, agenda: PairedPlan, before: RecordFolder | None, runs: Sequence[Run], source: Path
) -> int:
    """File the record if rule 7 holds, with the tree at `source`; exit status 0, or 1 when there is none to file."""
    own, _ = runs_by_side(agenda, runs)
    comparison = None if before is None else evaluate_comparison(agenda, runs)
    if comparison is not None:
        file_conclusion(comparison, arguments.results)
        show_comparison(comparison, Console(highlight=False, width=COMPARISON_WIDTH))
    refusal = reason_against(own, comparison, arguments.noisy)
    if refusal is not None:
        leaderboard.refresh(arguments.results)
        print(f"no record: {refusal}")
        return 1
    record = made_record(arguments, agenda, own, comparison, before)
    median = next(run for run in own if run.run_id == record.median_run)
    yardstick = FiledResults(runs).yardsticks().get(agenda.id)
    file_record(
        arguments.results,
        record,
        arguments.results / median.weights,
        source,
        f"The settings of {record.name}, as they were resolved on its machine.",
        lambda filed: readme(filed, before, agenda, own, comparison, yardstick),
    )
    print(f"record {record.name}: {batch_line(own)}")
    if agenda.clock == "total":
        promote(arguments, record)
    board.main(board.Arguments(results=arguments.results))
    return 0


def is_over(agenda: PairedPlan, runs: Sequence[Run], results: Path) -> bool:
    """Whether a batch is filed as a record, or can never be, whatever is said of the noise."""
    own, _ = runs_by_side(agenda, runs)
    comparison = None if agenda.b is None else evaluate_comparison(agenda, runs)
    is_filed = any(filed.record.batch == agenda.id for filed in read_records(results)[0])
    return is_filed or reason_against(own, comparison, noisy=True) is not None


def reason_against(own: Sequence[Run], comparison: Comparison | None, noisy: bool) -> str | None:
    """Why this batch is no record."""
    if not any(run.outcome == "solved" for run in own):
        return "no attempt solved the track"
    if comparison is not None:
        if not any(run.outcome == "solved" for run in comparison.b):
            return "the standing record solved nothing here; see its messages in the journal"
        if comparison.verdict != "faster":
            return f"against the standing record the test says {comparison.verdict}"
    unclean = sum(run.machine.clean is not True for run in own)
    if unclean and not noisy:
        return f"{unclean} of {len(own)} attempts ran on a machine that was not quiet (--noisy files it all the same)"
    return None


def made_record(
    arguments: Arguments,
    agenda: PairedPlan,
    own: Sequence[Run],
    comparison: Comparison | None,
    before: RecordFolder | None,
) -> Record:
    side = agenda.a
    solved = sorted((run for run in own if run.outcome == "solved"), key=lambda run: getattr(run.seconds, agenda.clock))
    median = solved[(len(solved) - 1) // 2]
    stem = arguments.name or f"{side.config.removeprefix(f'{agenda.track}-')}-{agenda.clock}"
    name = f"{datetime.now(UTC):%Y-%m-%d}-{agenda.track}-{stem}"
    taken = {path.name for path in records_folder(arguments.results).glob("*") if (path / "record.json").exists()}
    record_name = next(each for each in (name, *(f"{name}-{count}" for count in range(2, 10_000))) if each not in taken)
    return Record(
        name=record_name,
        track=agenda.track,
        clock=agenda.clock,
        machine_class=agenda.machine_class,
        device=agenda.device,
        config=side.config,
        settings=side.settings,
        config_hash=side.config_hash,
        source_sha256=side.source_sha256,
        harness_sha256=side.harness_sha256,
        commit=side.commit,
        batch=agenda.id,
        result=summarize_batch(own),
        predecessor=before and before.record.name,
        predecessor_result=comparison and summarize_batch(comparison.b),
        ert_ratio=comparison and comparison.ratio,
        ert_ratio_95=comparison and comparison.ratio_95,
        p_value=comparison and comparison.p_value,
        noisy=any(run.machine.clean is not True for run in own),
        median_run=median.run_id,
        weights_sha256=median.weights_sha256,
        parameters=median.parameters,
        started_at=agenda.started_at,
        search=median.search,
    )


def promote(arguments: Arguments, record: Record) -> None:
    """Make the record's config the track's default on its device, if it is not already."""
    default = CONFIGS / f"{record.track}-{record.device}.toml"
    if record.config == default.stem or record.device not in ("cpu", "cuda"):
        return
    import tomli_w

    values = merged_values(find_config(arguments.config, record.device)[1])
    kept = {key: value for key, value in values.items() if key not in RESOLVED_BY_MACHINE}
    if kept.get("kernel") == "c":
        kept["kernel"] = "auto"  # a default works where there is no compiler, too
    head = f"# The default of {record.track} on {record.device}, since the record {record.name}.\n"
    replace_file(default, head + tomli_w.dumps(kept))
    print(f"{default.name} is now {record.config}")


# -----------------------------------------------------------------------------
# the README of a record


def readme(
    filed: RecordFolder,
    before: RecordFolder | None,
    agenda: PairedPlan,
    own: Sequence[Run],
    comparison: Comparison | None,
    yardstick: Run | None,
) -> str:
    record = filed.record
    sides = [(record.name, record.result)]
    if before is not None:
        sides.append((before.record.name, record.predecessor_result))
    return (
        template_environment()
        .get_template("record.md.jinja")
        .render(
            record=record,
            ert=f"{record.ert_seconds:.2f}",
            date=f"{record.started_at:%Y-%m-%d}",
            number=agenda.number,
            why=agenda.why and escape_markdown(agenda.why),
            search=search_text(record.search),
            ratio=ratio_text(record.ert_ratio, record.ert_ratio_95),
            p_value=number(record.p_value, ".4f"),
            results=[
                {
                    "name": name,
                    "solved": f"{result.solved}/{result.attempts}",
                    "clean": f"{result.clean}/{result.attempts}",
                    "train": number(result.ert_train_seconds, ".2f"),
                    "total": number(result.ert_total_seconds, ".2f"),
                }
                for name, result in sides
            ],
            changes=[] if before is None else changed_settings(before.record.settings, record.settings),
            changed_files=[] if before is None else changed_files(before, filed, of_harness=False),
            changed_harness=[] if before is None else changed_files(before, filed, of_harness=True),
            runs=[attempt_row(run) for run in own],
            medians=medians(own),
            yardstick=number(yardstick and yardstick.seconds.train, ".2f"),
        )
    )


def attempt_row(run: Run) -> dict[str, Any]:
    return {
        **leaderboard.run_row(run),
        "others": number(run.machine.others_train, ".1%"),
        "clean": "yes" if run.machine.clean else "; ".join(run.machine.reasons) or number(None),
    }


def medians(own: Sequence[Run]) -> str:
    """Steps, FLOPs, utilisation and the floors of `train` in words."""

    def middle(values: list[float | None], pattern: str) -> str:
        known = [value for value in values if value is not None]
        return number(statistics.median(known) if known else None, pattern)

    return (
        f"{middle([run.steps for run in own], ',.0f')} steps, "
        f"{middle([run.examples for run in own], ',.0f')} examples, "
        f"{middle([run.train_flops for run in own], '.3g')} FLOPs in the steps' matrix products, "
        f"utilisation {middle([utilisation(run) for run in own], '.1%')} of the measured peak; "
        f"no less than {middle([flops_floor(run) for run in own], '.3g')} s by these FLOPs at the peak, nor than "
        f"{middle([launch_floor(run) for run in own], '.3g')} s by the launches of torch's operations"
    )


def changed_files(before: RecordFolder, after: RecordFolder, of_harness: bool) -> list[str]:
    """Files that two records' snapshots do not have in common, of the contestants or of the harness beneath them."""

    def contents(filed: RecordFolder) -> dict[str, bytes]:
        with zipfile.ZipFile(filed.folder / "source.zip") as packed:
            names = [name for name in packed.namelist() if name.startswith("bench/") == of_harness]
            return {name: packed.read(name) for name in names}

    old, new = contents(before), contents(after)
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
