"""`SCALING.md`: how the cost of an attempt grows with digits, attempts, machines and processes."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.config import current_names
from bench.formatting import (
    UNKNOWN,
    changed_settings,
    commit_text,
    escape_markdown,
    markdown_table,
    middle,
    spread_text,
)
from bench.report import scaling_plot
from bench.report.plot_style import csv_text
from bench.report.render import render_template
from bench.report.scaling_families import CONFIGS, QUANTITIES, Family, families, plotted
from bench.stats.descriptive import overheads
from bench.stats.power_law import MIN_LENGTHS
from bench.stats.ranking import CLOCKS
from bench.storage.results import FiledResults
from bench.storage.schema import Run


def render_scaling(runs: Sequence[Run], faults: Sequence[str] = ()) -> str:
    """The whole page as Markdown, with the messages about what could not be read."""
    all_families = families(runs)
    shown = {(family.machine_class, family.order): family for family in plotted(all_families)}
    machines: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for family in all_families:
        machines[family.machine_class].append(family_section(family, shown[family.machine_class, family.order]))
    return render_template(
        "scaling",
        configs=CONFIGS,
        machines=machines,
        quantities=list(QUANTITIES),
        fewest_lengths=MIN_LENGTHS,
        digits=digits_table(runs),
        overhead=overhead_table(runs),
        processes=processes_table(runs),
        faults=faults,
    )


def family_section(family: Family, shown: Family) -> dict[str, Any]:
    """One family on the page; `shown` is the family of the same machine class and order that the plot shows."""
    runs = [attempt.run for attempt in family.attempts]
    days = sorted({f"{run.started_at:%Y-%m-%d}" for run in runs})
    changes = changed_settings(shown.settings, family.settings)
    if family.attempts[0].run.source_sha256 != shown.attempts[0].run.source_sha256:
        changes.append("the source")
    return {
        "family": family,
        "configs": sorted({run.config for run in runs}),
        "commits": ", ".join(sorted({commit_text(run.commit, run.dirty) for run in runs})),
        "days": days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}",
        "num_clean": sum(run.machine.clean is True for run in runs),
        "is_shown": family == shown,
        "changes": changes,
        "rows": [
            length_row(digits, [attempt.run for attempt in attempts])
            for digits, attempts in itertools.groupby(family.attempts, key=lambda attempt: attempt.digits)
        ],
    }


def length_row(digits: int, runs: Sequence[Run]) -> dict[str, Any]:
    """The attempts of a family at one number of digits."""
    solved = [run for run in runs if run.outcome == "solved"]
    unsolved = [run for run in runs if run.outcome != "solved"]
    certificates = [run.certificate for run in unsolved if run.certificate is not None]
    others = Counter(run.outcome for run in unsolved if run.certificate is None)
    return {
        "digits": digits,
        "solved": f"{len(solved)}/{len(runs)}",
        "seconds": spread_text((run.seconds.train for run in solved), ".2f"),
        "steps": middle((run.steps for run in solved), ",.0f"),
        "flops": middle((run.train_flops for run in solved), ".3g"),
        "examples": middle((run.examples for run in solved), ",.0f"),
        "errors": spread_text((certificate.errors for certificate in certificates), ",.0f"),
        "rate": spread_text((certificate.error_rate_upper_95 for certificate in certificates), ".2g"),
        "uncertified": ", ".join(f"{count} {outcome}" for outcome, count in sorted(others.items())) or UNKNOWN,
    }


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


def scaling_files(results_data: FiledResults, results: Path) -> tuple[dict[Path, str], dict[Path, Callable[[], bytes]]]:
    """Path -> text of the page and of the plot's data, path -> plot; empty without an attempt of the configs."""
    shown = plotted(families(results_data.runs))
    if not shown:
        return {}, {}
    texts = {
        results / "SCALING.md": render_scaling(results_data.runs, results_data.faults),
        results / "plots" / "scaling.csv": csv_text(rows_of(shown)),
    }
    return texts, {results / "plots" / "scaling.png": lambda: scaling_plot.draw_scaling(shown)}


def digits_table(runs: Sequence[Run]) -> str:
    """The exponents in the number of digits, for each machine class's first family in either order."""
    rows = [
        [
            escape_markdown(family.machine_class),
            family.order,
            family.config,
            f"{family.num_solved}/{len(family.attempts)}",
            *family.exponents,
        ]
        for family in plotted(families(runs))
    ]
    text = ("machine class", "digits of the answer", "config")
    headings = (*text, "solved", f"exponent of {next(iter(QUANTITIES))}", *(f"of {name}" for name in [*QUANTITIES][1:]))
    return markdown_table(headings, rows, text) if rows else "Not measured yet."


def overhead_table(runs: Sequence[Run]) -> str:
    """The overhead of an attempt by engine and machine class."""
    text = ("engine", "machine class")
    rows = [
        [engine, escape_markdown(machine_class), len(gaps), spread_text(gaps, ".2f")]
        for (engine, machine_class), gaps in overheads(runs).items()
    ]
    return markdown_table((*text, "attempts", "overhead of an attempt, s"), rows, text) if rows else "Not measured yet."


def processes_table(runs: Sequence[Run]) -> str:
    """Attempts by several processes beside those by one, with equal settings apart from the number of threads."""

    def key(run: Run) -> tuple[object, ...]:
        settings = {name: value for name, value in current_names(run.settings).items() if name != "threads"}
        machine = run.hardware and (run.hardware.cpu, run.hardware.gpu and run.hardware.gpu.name)
        return run.track, run.config, run.source_sha256, machine, tuple(sorted(settings.items()))

    compared = {key(run) for run in runs if run.processes > 1}
    groups: dict[tuple[Any, ...], list[Run]] = defaultdict(list)
    for run in runs:
        if key(run) in compared:
            groups[run.track, run.config, run.machine.class_, run.processes, run.threads].append(run)
    text = ("track", "config", "machine class")
    headings = (*text, "processes", "threads of each", "solved", *(f"`{clock}`, s" for clock in CLOCKS))
    rows = []
    for (track, config, machine_class, *numbers), runs_of_group in sorted(groups.items()):
        solved = [run for run in runs_of_group if run.outcome == "solved"]
        seconds = [spread_text((getattr(run.seconds, clock) for run in solved), ".2f") for clock in CLOCKS]
        cells = [track, config, escape_markdown(machine_class), *numbers]
        rows.append([*cells, f"{len(solved)}/{len(runs_of_group)}", *seconds])
    return markdown_table(headings, rows, text) if rows else "Not measured yet."
