"""`python -m bench show`: what is known about one run, as far as a reader needs it to judge the run."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from bench.clock import PHASES
from bench.errors import UsageError
from bench.experiments.comparison import COMPARISON_WIDTH, evaluate_comparison, show_comparison
from bench.formatting import terminal_table
from bench.provenance import ROOT
from bench.report.summary import show_summary
from bench.stats.descriptive import flops_floor, launch_floor, utilisation
from bench.stats.ranking import describe_standing
from bench.storage.journal import Journal
from bench.storage.results import find_run, is_weights_path, paired_plans_file
from bench.storage.schema import PairedPlan, Run

MOST_CHECKS = 20  # rows of the table; of more checks every second, third, … is shown
UNKNOWN = "—"


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Print what is known about one run, or what a comparison came to."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run id, a path to weights, `latest`, or the id of a comparison."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the journal's line."""
    settings: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the run's settings as a config."""
    results: Path = ROOT / "results"
    """The folder of the journal."""


# -----------------------------------------------------------------------------
# values in words


def shown(value: Any, pattern: str = "", unit: str = "") -> str:
    """A value with its unit; an em dash for what is not known."""
    return UNKNOWN if value is None else f"{value:{pattern}}{unit and ' ' + unit}"


def cleanliness(run: Run) -> str:
    machine = run.machine
    verdict = f"{UNKNOWN} (nobody looked)" if machine.clean is None else "yes" if machine.clean else "no"
    return "; ".join([verdict, *machine.reasons])


def facts(run: Run) -> Iterator[tuple[str, str]]:
    """What the run was made from and what it cost: label and text."""
    batch, software, mebibyte = run.batch, run.software, 2**20
    yield "run", run.run_id
    yield "started", f"{run.started_at:%Y-%m-%d %H:%M:%S} UTC"
    if batch is None:
        yield "batch", f"{UNKNOWN} (a single attempt)"
    else:
        side = f", side {batch.side}" if batch.side else ""
        yield "batch", f"{batch.id}, {batch.index + 1} of {batch.planned} by {batch.command}{side}"
    yield "track", run.track
    yield "config", run.config
    yield "config hash", run.config_hash
    yield "seed", f"{run.seed}"
    yield "source", run.source_sha256
    yield "harness", run.harness_sha256
    changes = {True: " + changes", False: "", None: " (changes unknown)"}[run.dirty]
    yield "commit", UNKNOWN if run.commit is None else run.commit + changes
    yield "machine", shown(run.machine.class_)
    yield "clean", cleanliness(run)
    before, during = (shown(share, ".1%") for share in (run.machine.others_before, run.machine.others_train))
    yield "others", f"{before} of the cores before, {during} during train"
    compiled = "compiled" if run.compiled else "not compiled"
    yield "device", f"{run.device}, {run.precision}, {compiled}, {shown(run.threads, '', 'threads')}"
    versions = None if software is None else f"torch {software.torch}, Python {software.python}, {software.platform}"
    yield "software", shown(versions)
    host, device = (
        None if size is None else size / mebibyte for size in (run.peak_memory_bytes, run.peak_device_memory_bytes)
    )
    yield "peak memory", f"{shown(host, ',.0f', 'MiB')}, on the device {shown(device, ',.0f', 'MiB')}"
    yield "trained", f"{shown(run.steps, ',')} steps, {shown(run.examples, ',')} examples"
    yield "parameters", shown(run.parameters, ",")
    yield "train FLOPs", shown(run.train_flops, ".4g")
    peak = shown(run.matmul_flops_per_second, ".4g", "FLOP/s")
    yield "utilisation", f"{shown(utilisation(run), '.1%')} of the measured peak of {peak}"
    by_flops, by_launches = shown(flops_floor(run), ".3g", "s"), shown(launch_floor(run), ".3g", "s")
    yield "floors", f"{by_flops} of train by FLOPs, {by_launches} by launches ({shown(run.step_launches)} a step)"
    counter = f" ({run.energy_method})" if run.energy_method else ""
    yield "energy", shown(run.energy_joules, ",.1f", "J") + counter
    yield "weights", shown(run.weights)
    yield "weights hash", shown(run.weights_sha256)
    yield "initial hash", shown(run.initial_weights_sha256)
    yield "warmed hash", shown(run.warmed_weights_sha256)
    if run.note is not None:
        yield "note", run.note


# -----------------------------------------------------------------------------
# tables


def new_table(*headings: str) -> Table:
    """The first column to the left, the others to the right."""
    return terminal_table(headings, text=headings[:1], no_wrap=headings)


def phase_table(run: Run) -> Table:
    """The attempt's own clock beside that of the command that started it."""
    table = new_table("phase", "inside, s", "outside, s", "difference, s")
    inner = run.seconds.model_dump()
    outer = {} if run.outer_seconds is None else run.outer_seconds.model_dump()
    for phase in (*PHASES, "total"):
        inside, outside = inner[phase], outer.get(phase)
        difference = None if inside is None or outside is None else outside - inside
        table.add_row(phase, shown(inside, ".3f"), shown(outside, ".3f"), shown(difference, "+.3f"))
    return table


def check_table(run: Run) -> Table:
    """The sparse evaluations; the last one always."""
    table = new_table("step", "train, s", "loss", "errors", "asked")
    stride = -(-len(run.checks) // MOST_CHECKS)
    for check in run.checks[::-1][::stride][::-1]:
        loss = "not finite" if check.loss is None else f"{check.loss:.6f}"
        counts = shown(check.errors, ","), shown(check.asked, ",")
        table.add_row(f"{check.step:,}", f"{check.train_seconds:.2f}", loss, *counts)
    return table


def target_table(run: Run) -> Table:
    table = new_table("target", "reached after, s of train")
    for target, seconds in run.reached.items():
        table.add_row(target, shown(seconds, ".2f"))
    return table


def show_run(run: Run, runs: Sequence[Run], console: Console) -> None:
    """The summary as it stood at the end of the attempt, then all that it leaves out."""
    show_summary(run, [], describe_standing(run, runs), console)
    console.print()
    for label, text in facts(run):
        console.print(f"{label:<14}{text}", soft_wrap=True, markup=False)
    tables = [phase_table(run), check_table(run) if run.checks else None, target_table(run) if run.reached else None]
    for table in filter(None, tables):
        console.print()
        console.print(table)


# -----------------------------------------------------------------------------
# weights that no run of this journal ended with


def weights_facts(path: Path) -> Iterator[tuple[str, str]]:
    """What a weights file says about itself: label and text.

    Raises:
        UsageError: it is not a weights file of this project.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
        yield "track", metadata["track"]
        yield "dtype", metadata["dtype"]
        for section in ("model", "settings"):
            for key, value in json.loads(metadata[section]).items():
                yield f"{section}.{key}", shown(value)
    except (SafetensorError, OSError, KeyError, ValueError, AttributeError) as problem:
        raise UsageError(f"{path}: these are not weights of this project ({problem})") from None


def find_comparison(wanted: str, results: Path) -> PairedPlan | None:
    """The agenda of this id, of a command that had two sides."""
    return next((agenda for agenda in paired_plans_file(results).read()[0] if agenda.id == wanted and agenda.b), None)


def main(arguments: Arguments) -> int:
    console = Console(highlight=False)
    agenda = find_comparison(arguments.run, arguments.results)
    if agenda is not None:
        comparison = evaluate_comparison(agenda, Journal(arguments.results).read()[0])
        if arguments.json:
            raise UsageError("--json: a comparison is not a line of the journal; comparisons.jsonl has its own")
        if arguments.settings:
            raise UsageError("--settings: a comparison has two sides; ask for one of its runs")
        show_comparison(comparison, Console(highlight=False, width=COMPARISON_WIDTH))
        print(comparison.verdict)
        return 0
    try:
        run = find_run(arguments.run, arguments.results)
    except UsageError as problem:
        if (
            arguments.json
            or arguments.settings
            or not is_weights_path(arguments.run)
            or not Path(arguments.run).is_file()
        ):
            raise
        for label, text in list(weights_facts(Path(arguments.run))):
            console.print(f"{label:<26}{text}", soft_wrap=True, markup=False)
        console.print(str(problem), soft_wrap=True, markup=False)
        return 0
    if arguments.json:
        print(run.line())
        return 0
    if arguments.settings:
        import tomli_w

        print(tomli_w.dumps(run.settings), end="")
        return 0
    show_run(run, Journal(arguments.results).read()[0], console)
    return 0
