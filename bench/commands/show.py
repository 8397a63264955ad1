"""`python -m bench show`: print a run, a comparison, or the metadata of a weights file."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from bench.clock import PHASES
from bench.commands.options import DEFAULT_RESULTS, ResultsOption
from bench.config import config_toml, settings_text
from bench.console import output_console
from bench.errors import UsageError
from bench.formatting import UNKNOWN, terminal_table
from bench.report.summary import show_summary
from bench.stats.descriptive import launch_bound_seconds, matmul_bound_seconds, utilisation
from bench.stats.ranking import describe_standing
from bench.storage.journal import Journal
from bench.storage.results import find_run, is_weights_path, paired_plans_file
from bench.storage.schema import PairedPlan, Run
from bench.streams import print_data

DECIDED_BY = {
    "99%": "99% of the training problems of a check right",
    "heldout": "no error in the held-out problems (certificate)",
    "solved": "no error in any problem (certificate)",
}  # by target; the others are fixed samples of problems
MOST_CHECKS = 20  # rows of the table; of more checks, every second, third, … is printed


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Print a run, or the result of a comparison."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run id, a path to weights, `latest`, or the id of a comparison."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the run's line of the journal."""
    settings: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the run's settings as a config."""
    results: ResultsOption = DEFAULT_RESULTS


def main(arguments: Arguments) -> int:
    plans, _ = paired_plans_file(arguments.results).read()
    for plan in plans:
        if plan.id == arguments.run and plan.b is not None:
            return show_plan(plan, arguments)
    console, weights = output_console(), Path(arguments.run).expanduser()
    try:
        run = find_run(arguments.run, arguments.results)
    except UsageError as problem:
        if arguments.json or arguments.settings or not is_weights_path(arguments.run) or not weights.is_file():
            raise
        for label, text in list(weights_facts(weights)):
            console.print(f"{label:<26}{text}", soft_wrap=True)
        console.print(str(problem), soft_wrap=True)
        return 0
    if arguments.json:
        print_data(run.model_dump_json())
    elif arguments.settings:
        print_data(config_toml(run.settings).rstrip("\n"))
    else:
        show_run(run, Journal(arguments.results).read()[0], console)
    return 0


def show_plan(plan: PairedPlan, arguments: Arguments) -> int:
    if arguments.json:
        raise UsageError("--json: a comparison is not in the journal; its line is in comparisons.jsonl")
    if arguments.settings:
        raise UsageError("--settings: a comparison has two sides; name one of its runs")
    from bench.experiments.comparison import evaluate_comparison, show_comparison  # imports NumPy

    comparison = evaluate_comparison(plan, Journal(arguments.results).read()[0])
    show_comparison(comparison)
    print(comparison.verdict)
    return 0


def value_text(value: Any, pattern: str = "", unit: str = "") -> str:
    """A value with its unit; an em dash for an unknown value."""
    return UNKNOWN if value is None else f"{value:{pattern}}{unit and ' ' + unit}"


def facts(run: Run) -> Iterator[tuple[str, str]]:
    """The run's inputs and costs, as labels and texts."""
    batch, software = run.batch, run.software
    yield "run", run.run_id
    yield "started", f"{run.started_at:%Y-%m-%d %H:%M:%S} UTC"
    if batch is None:
        yield "batch", f"{UNKNOWN} (a single attempt)"
    else:
        side = f", side {batch.side}" if batch.side else ""
        yield "batch", f"{batch.id}, {batch.index + 1} of {batch.planned} by {batch.command}{side}"
    yield "track", run.track
    yield "config", run.config
    yield "overrides", UNKNOWN if run.overrides is None else settings_text(run.overrides) if run.overrides else "none"
    yield "config hash", run.config_hash
    yield "seed", f"{run.seed}"
    yield "source", run.source_sha256
    yield "harness", run.harness_sha256
    changes = {True: " + changes of the source", False: "", None: " (changes unknown)"}[run.dirty]
    yield "commit", UNKNOWN if run.commit is None else run.commit + changes
    yield "machine", value_text(run.machine.class_)
    clean = {True: "yes", False: "no", None: f"{UNKNOWN} (not measured)"}[run.machine.clean]
    yield "clean", "; ".join([clean, *run.machine.reasons])
    before, during = (value_text(share, ".1%") for share in (run.machine.others_before, run.machine.others_train))
    yield "other load", f"{before} of the cores before, {during} during train"
    compiled = "compiled" if run.compiled else "not compiled"
    yield "device", f"{run.device}, {run.precision}, {compiled}, {value_text(run.threads, '', 'threads')}"
    versions = None if software is None else f"torch {software.torch}, Python {software.python}, {software.platform}"
    yield "software", value_text(versions)
    sizes = [size and size / 2**20 for size in (run.peak_memory_bytes, run.peak_device_memory_bytes)]
    yield "peak memory", ", on the device ".join(value_text(size, ",.0f", "MiB") for size in sizes)
    yield "trained", f"{value_text(run.steps, ',')} steps, {value_text(run.examples, ',')} examples"
    yield "parameters", value_text(run.parameters, ",")
    yield "train FLOPs", value_text(run.train_flops, ".4g")
    peak = value_text(run.matmul_flops_per_second, ".4g", "FLOP/s")
    yield "utilisation", f"{value_text(utilisation(run), '.1%')} of the measured peak of {peak}"
    by_flops, by_launches = (
        value_text(bound(run), ".3g", "s") for bound in (matmul_bound_seconds, launch_bound_seconds)
    )
    launches = f"{by_launches} by launches ({value_text(run.step_launches)} a step)"
    yield "lower bounds", f"{by_flops} of train by FLOPs, {launches}"
    counter = f" ({run.energy_method})" if run.energy_method else ""
    yield "energy", value_text(run.energy_joules, ",.1f", "J") + counter
    yield "weights", value_text(run.weights)
    yield "weights hash", value_text(run.weights_sha256)
    yield "initial hash", value_text(run.initial_weights_sha256)
    yield "warm-up hash", value_text(run.warmed_weights_sha256)
    if run.note is not None:
        yield "note", run.note


def new_table(*headings: str) -> Table:
    """A table whose first column is text and whose other columns are numbers."""
    return terminal_table(headings, text=headings[:1], no_wrap=headings)


def phase_table(run: Run) -> Table:
    """The phases by the attempt's own clock, and by the clock of the command that started it."""
    table = new_table("phase", "inside, s", "outside, s", "difference, s")
    inner = run.seconds.model_dump()
    outer = {} if run.outer_seconds is None else run.outer_seconds.model_dump()
    for phase in (*PHASES, "total"):
        inside, outside = inner[phase], outer.get(phase)
        difference = None if inside is None or outside is None else outside - inside
        table.add_row(phase, value_text(inside, ".3f"), value_text(outside, ".3f"), value_text(difference, "+.3f"))
    return table


def check_table(run: Run) -> Table:
    """The evaluations during training, thinned to MOST_CHECKS; the last one is always there."""
    table = new_table("step", "train, s", "loss", "errors", "asked")
    stride = max(1, -(-len(run.checks) // MOST_CHECKS))
    for check in run.checks[::-1][::stride][::-1]:
        loss = "not finite" if check.loss is None else f"{check.loss:.6f}"
        counts = value_text(check.errors, ","), value_text(check.asked, ",")
        table.add_row(f"{check.step:,}", f"{check.train_seconds:.2f}", loss, *counts)
    return table


def show_run(run: Run, runs: Sequence[Run], console: Console) -> None:
    """Print the summary of the attempt, then the facts and tables that it leaves out."""
    show_summary(run, [], describe_standing(run, runs), console)
    console.print()
    for label, text in facts(run):
        console.print(f"{label:<14}{text}", soft_wrap=True)
    headings = "target", "train, s", "reached with"
    targets = terminal_table(headings, text=(headings[0], headings[2]), no_wrap=headings[:2])
    for target, seconds in run.reached.items():
        targets.add_row(
            target, value_text(seconds, ".2f"), DECIDED_BY.get(target, "no error in this sample, at a check")
        )
    for table in (phase_table(run), check_table(run), targets):
        if table.rows:
            console.print()
            console.print(table)


def weights_facts(path: Path) -> Iterator[tuple[str, str]]:
    """The metadata of a weights file, as labels and texts; raises UsageError if it is not one of this project."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
        yield "track", metadata["track"]
        yield "dtype", metadata["dtype"]
        for section in ("model", "settings"):
            for key, value in json.loads(metadata[section]).items():
                yield f"{section}.{key}", value_text(value)
    except (SafetensorError, OSError, KeyError, ValueError, AttributeError) as problem:
        raise UsageError(f"{path}: these are not weights of this project ({problem})") from None
