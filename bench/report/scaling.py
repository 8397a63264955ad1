"""What grows, and what attempts take beside themselves: the figures of docs/SCALING.md, from the journal alone."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.config import current_names
from bench.formatting import changed_settings, commit_text, escape_markdown, middle, number, spread_text
from bench.report import scaling_plot
from bench.report.plots import csv_text
from bench.report.render import template_environment
from bench.report.scaling_families import CONFIGS, QUANTITIES, Family, ScalingAttempt, families, plotted
from bench.stats.descriptive import overheads
from bench.stats.power_law import MIN_LENGTHS
from bench.stats.ranking import CLOCKS
from bench.storage.results import FiledResults
from bench.storage.schema import Run

# -----------------------------------------------------------------------------
# the page


def render_scaling(found: Sequence[Family], faults: Sequence[str] = ()) -> str:
    """The whole page as Markdown.

    Args:
        found: as `families` gives them.
        faults: sentences about what could not be read.
    """
    first = {(family.machine_class, family.order): family for family in plotted(found)}
    machines: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for family in found:
        section = family_section(family, first[family.machine_class, family.order])
        machines[escape_markdown(family.machine_class)].append(section)
    template = template_environment().get_template("scaling.md.jinja")
    return template.render(
        configs=CONFIGS,
        machines=dict(machines),
        quantities=list(QUANTITIES),
        fewest_lengths=MIN_LENGTHS,
        faults=[escape_markdown(fault) for fault in faults],
    )


def family_section(family: Family, shown: Family) -> dict[str, Any]:
    """What the page says of one family; `shown` is the first of its machine class and order, which the plot shows."""
    runs = [attempt.run for attempt in family.attempts]
    days = sorted({f"{run.started_at:%Y-%m-%d}" for run in runs})
    changes = changed_settings(shown.settings, family.settings)
    if family.attempts[0].run.source_sha256 != shown.attempts[0].run.source_sha256:
        changes.append("the source")
    return {
        "order": family.order,
        "configs": sorted({run.config for run in runs}),
        "commits": ", ".join(sorted({commit_text(run.commit, run.dirty) for run in runs})),
        "days": days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}",
        "num_attempts": len(runs),
        "num_clean": sum(run.machine.clean is True for run in runs),
        "is_shown": family == shown,
        "changes": changes,
        "num_solved": family.num_solved,
        "exponents": family.exponents,
        "rows": [
            length_row(digits, [attempt for attempt in family.attempts if attempt.digits == digits])
            for digits in sorted({attempt.digits for attempt in family.attempts})
        ],
    }


def length_row(digits: int, attempts: Sequence[ScalingAttempt]) -> dict[str, Any]:
    """A family's attempts at one number of digits."""
    solved = [attempt.run for attempt in attempts if attempt.solved]
    unsolved = [attempt.run for attempt in attempts if not attempt.solved]
    certificates = [run.certificate for run in unsolved if run.certificate is not None]
    others = Counter(run.outcome for run in unsolved if run.certificate is None)

    def known(values: Sequence[float | None]) -> list[float]:
        return [value for value in values if value is not None]

    return {
        "digits": digits,
        "solved": f"{len(solved)}/{len(attempts)}",
        "seconds": spread_text(known([run.seconds.train for run in solved]), ".2f"),
        "steps": middle(known([run.steps for run in solved]), ",.0f"),
        "flops": middle(known([run.train_flops for run in solved]), ".3g"),
        "examples": middle(known([run.examples for run in solved]), ",.0f"),
        "errors": spread_text([certificate.errors for certificate in certificates], ",.0f"),
        "rate": spread_text([certificate.error_rate_upper_95 for certificate in certificates], ".2g"),
        "uncertified": ", ".join(f"{count} {outcome}" for outcome, count in sorted(others.items())) or number(None),
    }


# -----------------------------------------------------------------------------
# the plot's data


class Row(NamedTuple):
    """One attempt of a family that the plot shows."""

    run: str
    machine_class: str
    digits: int
    order: str
    outcome: str
    train_seconds: float | None
    steps: int | None
    train_flops: float | None


def rows_of(shown: Sequence[Family]) -> list[Row]:
    return [
        Row(run.run_id, machine, digits, order, run.outcome, run.seconds.train, run.steps, run.train_flops)
        for machine, order, attempts in shown
        for digits, run in attempts
    ]


# -----------------------------------------------------------------------------
# the files


def scaling_files(evidence: FiledResults, results: Path) -> tuple[dict[Path, str], dict[Path, Callable[[], bytes]]]:
    """The page, the plot's data and the plot, each as (path, content); none without an attempt of the configs."""
    found = families(evidence.runs)
    if not found:
        return {}, {}
    shown = plotted(found)
    texts = {
        results / "SCALING.md": render_scaling(found, evidence.faults),
        results / "plots" / "scaling.csv": csv_text(rows_of(shown)),
    }
    return texts, {results / "plots" / "scaling.png": lambda: scaling_plot.draw_scaling(shown)}


# -----------------------------------------------------------------------------
# tables


def digits_figures(runs: Sequence[Run]) -> str:
    """The exponents in the number of digits, of each machine class's first family in either order, as a table."""
    shown = plotted(families(runs))
    lines = [
        f"| machine class | digits of the answer | config | solved | exponent of {' | of '.join(QUANTITIES)} |",
        f"| --- | --- | --- | ---: |{' ---: |' * len(QUANTITIES)}",
    ]
    for family in shown:
        solved = f"{family.num_solved}/{len(family.attempts)}"
        lines.append(
            f"| {' | '.join([family.machine_class, family.order, family.config, solved, *family.exponents])} |"
        )
    return "\n".join(lines) if shown else "Not measured yet."


def overhead_figures(runs: Sequence[Run]) -> str:
    """The overhead of an attempt by engine and machine class, as a table."""
    lines = ["| engine | machine class | attempts | overhead of an attempt, s |", "| --- | --- | ---: | ---: |"]
    for (engine, machine_class), gaps in overheads(runs).items():
        lines.append(f"| {engine} | {machine_class} | {len(gaps)} | {spread_text(gaps, '.2f')} |")
    return "\n".join(lines) if len(lines) > 2 else "Not measured yet."


def processes_figures(runs: Sequence[Run]) -> str:
    """Attempts of several processes beside those of one, with the same settings but for the threads of each."""

    def key(run: Run) -> tuple:
        settings = {name: value for name, value in current_names(run.settings).items() if name != "threads"}
        machine = run.hardware and (run.hardware.cpu, run.hardware.gpu and run.hardware.gpu.name)
        return run.track, run.config, run.source_sha256, machine, tuple(sorted(settings.items()))

    together = {key(run) for run in runs if run.processes > 1}
    groups: dict[tuple, list[Run]] = defaultdict(list)
    for run in runs:
        if key(run) in together:
            groups[run.track, run.config, run.machine.class_, run.processes, run.threads].append(run)
    lines = [
        "| track | config | machine class | processes | threads of each | solved | `train`, s | `total`, s |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (track, config, machine_class, processes, threads), its in sorted(groups.items()):
        solved = [run for run in its if run.outcome == "solved"]
        train, total = (spread_text([getattr(run.seconds, clock) for run in solved], ".2f") for clock in CLOCKS)
        cells = track, config, machine_class, processes, threads, f"{len(solved)}/{len(its)}", train, total
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) if len(lines) > 2 else "Not measured yet."
