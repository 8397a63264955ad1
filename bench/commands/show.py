"""`python -m bench show`: print a run, a comparison, or the metadata of a weights file; draw learning curves."""

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from bench.arguments import OptionalPathArgument
from bench.clock import PHASES
from bench.commands.options import DEFAULT_RESULTS, ResultsOption
from bench.config import config_toml, settings_text
from bench.console import output_console
from bench.errors import UsageError
from bench.formatting import UNKNOWN, right_text, terminal_table
from bench.report.summary import show_summary
from bench.stats.descriptive import launch_bound_seconds, matmul_bound_seconds, utilisation
from bench.stats.learning_curves import PERCENTAGES, split_label
from bench.stats.loss_curve import loss_spikes, stuck_stretches
from bench.stats.ranking import describe_standing
from bench.storage.comparison_schema import PairedPlan
from bench.storage.journal import Journal
from bench.storage.results import find_run, is_weights_path, paired_plans_file, read_notes
from bench.storage.schema import YARDSTICK, Check, Note, Run
from bench.streams import print_data, print_line

DECIDED_BY = {
    "99%": "99% of the training problems of a check right",
    "heldout": "no error in the held-out problems (certificate)",
    "solved": "what solved means on the track (certificate)",
}  # by target; others are named targets of the certificate, or fixed samples of problems
MOST_CHECKS = 20  # rows of the table
MOST_SPIKES = 5  # that are listed


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Print runs, or the result of a comparison, or draw the learning curves of runs.

    Of a run, lines say where the loss was stuck and where it spiked. Stuck: over 20% of the steps or more, and 10
    checks or more, the lowest loss so far (of medians of 5 checks) fell by at most 5%, before 99% of a check's problems
    were right. Spike: a loss above 1.2 times the median of the 5 checks before it, and 0.1 nats above it; it is over at
    the first check with at most 1.05 times that median.
    """

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run ids, paths to weights, `latest`, or the id of a comparison; with --plot also ids of batches."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the run's line of the journal."""
    settings: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the run's settings as a config."""
    plot: OptionalPathArgument = None
    """Draw accuracy, loss and norm of the weights against steps into this file, .svg or .png, instead; runs of several
    configs have a column for each split."""
    results: ResultsOption = DEFAULT_RESULTS


def main(arguments: Arguments) -> int:
    if not arguments.runs:
        raise UsageError("show needs a RUN; `latest` is the latest one")
    chosen = [f"--{name}" for name in ("json", "settings", "plot") if getattr(arguments, name) not in (False, None)]
    if len(chosen) > 1:
        raise UsageError(f"show takes one of {', '.join(chosen)} at a time")
    if arguments.plot is not None:
        return plot_runs(arguments.plot, arguments)
    plans, _ = paired_plans_file(arguments.results).read()
    comparisons = {plan.id: plan for plan in plans if plan.b is not None}
    for name in arguments.runs:
        if name in comparisons:
            show_plan(comparisons[name], arguments)
        else:
            show_reference(name, arguments)
    return 0


def plot_runs(path: Path, arguments: Arguments) -> int:
    """Draw the learning curves of the runs, and of those in the batches, that are named."""
    if path.suffix not in (".svg", ".png"):
        raise UsageError(f"--plot {path}: the file's name must end in .svg or .png")
    batches: dict[str, list[Run]] = {}
    for run in Journal(arguments.results).read()[0]:
        if run.batch is not None and run.command != YARDSTICK and not run.altered:
            batches.setdefault(run.batch.id, []).append(run)
    named = [batches.get(name) or [find_run(name, arguments.results)] for name in arguments.runs]
    for name, group in zip(arguments.runs, named, strict=True):
        if not any(check.step for run in group for check in run.checks):
            raise UsageError(f"--plot: {name} has no check during training, so there is nothing to draw; leave it out")
    runs = list({run.run_id: run for group in named for run in group}.values())
    from bench.report.curves_plot import draw_curves

    try:
        path.write_bytes(draw_curves(runs, path.suffix.removeprefix(".")))
    except OSError as problem:
        raise UsageError(f"--plot {path}: {problem.strerror or problem}") from None
    print_line(str(path))
    return 0


def show_reference(reference: str, arguments: Arguments) -> None:
    """Print the run of an id or of a path to weights; of weights without a run, their metadata."""
    console, weights = output_console(), Path(reference).expanduser()
    try:
        run = find_run(reference, arguments.results)
    except UsageError as problem:
        if arguments.json or arguments.settings or not is_weights_path(reference) or not weights.is_file():
            raise
        for label, text in list(weights_facts(weights)):
            console.print(f"{label:<26}{text}", soft_wrap=True)
        console.print(str(problem), soft_wrap=True)
        return
    if arguments.json:
        print_data(run.model_dump_json())
    elif arguments.settings:
        print_data(config_toml(run.settings).rstrip("\n"))
    else:
        notes = read_notes(arguments.results).get(run.run_id, ())
        show_run(run, Journal(arguments.results).read()[0], console, notes)


def show_plan(plan: PairedPlan, arguments: Arguments) -> None:
    if arguments.json:
        raise UsageError("--json: a comparison is not in the journal; its line is in comparisons.jsonl")
    if arguments.settings:
        raise UsageError("--settings: a comparison has two sides; name one of its runs")
    from bench.experiments.comparison import evaluate_comparison, filed_conclusion, show_comparison  # imports NumPy

    conclusion = filed_conclusion(plan, arguments.results)
    comparison = evaluate_comparison(plan, Journal(arguments.results).read()[0], conclusion)
    show_comparison(comparison)
    print(comparison.verdict)


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
    peaks = ", on the device ".join(value_text(size, ",.0f", "MiB") for size in sizes)
    estimated = run.estimated_memory_bytes and run.estimated_memory_bytes / 2**20
    yield "peak memory", f"{peaks}; estimated {value_text(estimated, ',.0f', 'MiB')}"
    yield "trained", f"{value_text(run.steps, ',')} steps, {value_text(run.examples, ',')} examples"
    if len(run.checks) > MOST_CHECKS:
        yield "checks", f"{len(run.checks):,} in the journal, of which {MOST_CHECKS} are below; --plot FILE draws all"
    if run.tokenizer_seconds is not None:
        yield "tokenizer", f"{value_text(run.tokenizer_seconds, '.3f', 's')} of setup"
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
    certificate = run.certificate
    if certificate is not None and certificate.asked_again is not None:
        smallest = value_text(certificate.smallest_margin, ".4g")
        yield "margins", f"smallest {smallest}; {certificate.asked_again:,} problems also in float64"
    judges = {"harness": "another process", "self": "the attempt itself", None: "not judged: its source is older"}
    yield "judge", judges[run.judge]
    if run.judge == "harness":
        isolations = {True: "yes", False: "no: it had no namespaces of its own", None: "not known"}
        yield "isolated", isolations[run.isolated]
    yield "initial hash", value_text(run.initial_weights_sha256)
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


def thinned(checks: Sequence[Check]) -> Sequence[Check]:
    """Up to MOST_CHECKS of the checks, evenly spaced, with the first and the last one."""
    if len(checks) <= MOST_CHECKS:
        return checks
    return [checks[round(i * (len(checks) - 1) / (MOST_CHECKS - 1))] for i in range(MOST_CHECKS)]


def loss_text(loss: float | None) -> str:
    return "not finite" if loss is None else f"{loss:.3g}"


def check_table(run: Run) -> Table:
    """The evaluations during training: of drawn training problems, and of the other splits that the run evaluated.

    It fits into 80 columns.
    """
    others = [split for split in ("validation", "test") if any(split in check.splits for check in run.checks)]
    headings = ["step", "train, s", "loss", *(["right"] if others else ["errors", "asked", "right"])]
    headings += ["validation\nloss", "validation\nright"] * ("validation" in others) + ["test\nright"] * (
        "test" in others
    )
    has_norm = any(check.squared_norm is not None for check in run.checks)
    table = new_table(*headings, *["norm"] * has_norm)
    for check in thinned(run.checks):
        splits = check.splits
        row = [f"{check.step:,}", f"{check.train_seconds:.2f}", loss_text(check.loss)]
        if not others:
            row += [value_text(check.errors, ","), value_text(check.asked, ",")]
        row.append(right_text(splits["train"]) if "train" in splits else UNKNOWN)
        for split in others:
            count = splits.get(split)
            row += [] if split == "test" else [UNKNOWN if count is None else loss_text(count.loss)]
            row.append(UNKNOWN if count is None else right_text(count))
        norm = None if check.squared_norm is None else math.sqrt(check.squared_norm)
        table.add_row(*row, *[value_text(norm, ".1f")] * has_norm)
    return table


def loss_events(checks: Sequence[Check]) -> list[tuple[str, str]]:
    """The stuck stretches and the first MOST_SPIKES spikes of a run, each with its kind, `stuck` or `spike`."""
    last_step = checks[-1].step if checks else 0
    stretches, spikes = stuck_stretches(checks), loss_spikes(checks)
    lines = [
        (
            "stuck",
            f"at a loss of {stretch.loss:.3g} from step {stretch.first_step:,} to {stretch.last_step:,}, "
            f"{(stretch.last_step - stretch.first_step) / last_step:.0%} of the steps",
        )
        for stretch in stretches
    ]
    for spike in spikes[:MOST_SPIKES]:
        end = "not over at the last check" if spike.step_back is None else f"over at step {spike.step_back:,}"
        lines.append(("spike", f"loss {spike.loss_before:.3g} to {spike.loss:.3g} at step {spike.step:,}, {end}"))
    if len(spikes) > MOST_SPIKES:
        lines.append(("spike", f"and {len(spikes) - MOST_SPIKES:,} more"))
    return lines


def reached_table(run: Run) -> Table:
    """The steps at which each split was first right."""
    steps = run.reached_steps or {}
    table = new_table("steps to", *(f"{percent}% right" for percent in PERCENTAGES))
    for split in dict.fromkeys(key.partition(" ")[0] for key in steps):
        table.add_row(
            split_label(split, [run]), *(value_text(steps.get(f"{split} {percent}%"), ",") for percent in PERCENTAGES)
        )
    return table


def show_run(run: Run, runs: Sequence[Run], console: Console, notes: Sequence[Note] = ()) -> None:
    """Print the summary of the attempt, then the facts, the remarks and the tables that it leaves out."""
    show_summary(run, [], describe_standing(run, runs), console)
    console.print()
    for label, text in facts(run):
        console.print(f"{label:<14}{text}", soft_wrap=True)
    for kind, text in loss_events(run.checks):
        console.print(f"{kind:<14}{text}", soft_wrap=True)
    for note in notes:
        console.print(f"{'note':<14}{note.written_at:%Y-%m-%d %H:%M} UTC: {note.text}", soft_wrap=True, markup=False)
    headings = "target", "train, s", "reached with"
    targets = terminal_table(headings, text=(headings[0], headings[2]), no_wrap=headings[:2])
    named = () if run.certificate is None else run.certificate.targets
    for target, seconds in run.reached.items():
        decided_by = DECIDED_BY.get(target, "no error in this sample, at a check")
        if target.startswith("validation "):
            decided_by = "this share of validation right, at a check"
        elif target in named:
            decided_by = "the track's weaker target (certificate)"
        targets.add_row(target, value_text(seconds, ".2f"), decided_by)
    for table in (phase_table(run), check_table(run), reached_table(run), targets):
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
