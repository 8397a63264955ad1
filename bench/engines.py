"""What grows, and what attempts take beside themselves: the figures of docs/SCALING.md, from the journal alone."""

import itertools
from collections import defaultdict
from collections.abc import Sequence

from bench.batches import CLOCKS
from bench.growth import QUANTITIES, families, plotted
from bench.journal import SWEEPS, Run
from bench.pages import spread_text


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


def overheads(runs: Sequence[Run]) -> dict[tuple[str, str], list[float]]:
    """(engine, machine class) -> seconds from one attempt's start to the next one's, less the former's `total`.

    Of matrices and searches whose attempts came one after the other; where several nodes made them at once, the gaps
    tell nothing.
    """
    sweeps: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        if run.batch is not None and run.batch.command in SWEEPS:
            sweeps[run.batch.id].append(run)
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for its in sweeps.values():
        in_order = sorted(its, key=lambda run: run.started_at)
        gaps = [gap for pair in itertools.pairwise(in_order) if (gap := gap_between(*pair)) is not None]
        if gaps and min(gaps) > 0:
            found[in_order[0].engine or "local", in_order[0].machine.class_ or "unknown machine"] += gaps
    return dict(sorted(found.items()))


def gap_between(run: Run, following: Run) -> float | None:
    """Seconds in which neither was under way; None for one that was killed, or stopped by somebody."""
    if run.seconds.total is None or run.outcome == "interrupted":
        return None
    return (following.started_at - run.started_at).total_seconds() - run.seconds.total


def overhead_figures(runs: Sequence[Run]) -> str:
    """The overhead of an attempt by engine and machine class, as a table."""
    lines = ["| engine | machine class | attempts | overhead of an attempt, s |", "| --- | --- | ---: | ---: |"]
    for (engine, machine_class), gaps in overheads(runs).items():
        lines.append(f"| {engine} | {machine_class} | {len(gaps)} | {spread_text(gaps, '.2f')} |")
    return "\n".join(lines) if len(lines) > 2 else "Not measured yet."


def processes_figures(runs: Sequence[Run]) -> str:
    """Attempts of several processes beside those of one, with the same settings but for the threads of each."""

    def key(run: Run) -> tuple:
        settings = {name: value for name, value in run.settings.items() if name != "threads"}
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
