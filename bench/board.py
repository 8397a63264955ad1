"""The board: `LEADERBOARD.md` and the README's figures, rendered from the journal alone."""

import dataclasses
import io
import os
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import tyro
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.console import Console

from bench.display import show_summary
from bench.journal import Journal, Run
from bench.provenance import ROOT
from bench.stats import ClockName, expected_time_to_success, spread

RANKED_FROM = 10  # attempts in a batch
RANKED_COMMANDS = {"speedrun"}  # attempts of a matrix or a search never stand on the board
CLOCKS: tuple[ClockName, ...] = ("train", "total")
MARKED = re.compile(r"(<!-- figures: (?P<name>[a-z-]+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class BatchOfRuns:
    """The attempts that one command started; the unit that is ranked."""

    runs: tuple[Run, ...]  # by index

    @property
    def id(self) -> str:
        return self.runs[0].batch.id

    @property
    def finished(self) -> bool:
        return len(self.runs) == self.runs[0].batch.planned

    @property
    def ranked(self) -> bool:
        return self.finished and len(self.runs) >= RANKED_FROM

    @property
    def num_solved(self) -> int:
        return sum(run.outcome == "solved" for run in self.runs)

    def values(self, read: Callable[[Run], float | None]) -> list[float]:
        """What `read` finds in the runs, unknown values left out."""
        return [value for run in self.runs if (value := read(run)) is not None]

    def order(self, clock: ClockName) -> tuple[bool, float, str]:
        """Sorts the ranked before the others, then by ERT; an unsolved batch last."""
        return not self.ranked, expected_time_to_success(self.runs, clock), self.id


def batches_of(runs: Iterable[Run]) -> list[BatchOfRuns]:
    """The batches that may stand on the board, in file order.

    A batch whose runs disagree in config, source or machine class is split: only like attempts rank together.
    """
    together: dict[tuple, dict[int, Run]] = defaultdict(dict)
    for run in runs:
        if run.batch is not None and run.batch.command in RANKED_COMMANDS:
            key = (run.batch.id, run.config_hash, run.source_sha256, run.machine.class_)
            together[key].setdefault(run.batch.index, run)
    return [BatchOfRuns(tuple(by_index[i] for i in sorted(by_index))) for by_index in together.values()]


# -----------------------------------------------------------------------------
# rendering


def number(value: float | None, pattern: str = ",.0f") -> str:
    """A figure as text; an em dash for what is not known."""
    return "—" if value is None else "never" if value == float("inf") else format(value, pattern)


def spread_text(values: Sequence[float], pattern: str) -> str:
    known = spread(values)
    if known is None:
        return "—"
    return f"{known.median:{pattern}} ({known.minimum:{pattern}} … {known.maximum:{pattern}})"


def commit_text(run: Run) -> str:
    return number(None) if run.commit is None else run.commit[:10] + (" + changes" if run.dirty else "")


def middle(values: Sequence[float], pattern: str) -> str:
    known = spread(values)
    return "—" if known is None else format(known.median, pattern)


def batch_row(batch: BatchOfRuns, clock: ClockName, rank: int) -> dict[str, str]:
    first = batch.runs[0]
    hardware = first.hardware
    return {
        "rank": str(rank) if batch.ranked else "—",
        "config": first.config,
        "ert": number(expected_time_to_success(batch.runs, clock), ".2f"),
        "solved": f"{batch.num_solved}/{len(batch.runs)}"
        + ("" if batch.finished else f" of {first.batch.planned} planned"),
        "spread": spread_text(batch.values(lambda run: getattr(run.seconds, clock)), ".2f"),
        "steps": middle(batch.values(lambda run: run.steps), ",.0f"),
        "parameters": middle(batch.values(lambda run: run.parameters), ",.0f"),
        "memory": middle([value / 2**20 for value in batch.values(peak_memory)], ",.0f"),
        "hardware": "—" if hardware is None else (hardware.gpu.name if hardware.gpu else hardware.cpu) or "—",
        "date": f"{first.started_at:%Y-%m-%d}",
        "commit": commit_text(first),
        "batch": batch.id,
    }


def peak_memory(run: Run) -> int | None:
    """Bytes, of the device that trained."""
    return run.peak_device_memory_bytes if run.device == "cuda" else run.peak_memory_bytes


def run_row(run: Run) -> dict[str, Any]:
    certificate = run.certificate
    return {
        "id": run.run_id,
        "config": run.config,
        "seed": run.seed,
        "outcome": run.outcome,
        "errors": number(certificate and certificate.errors),
        "heldout_errors": number(certificate and certificate.heldout_errors),
        "steps": number(run.steps),
        "commit": commit_text(run),
        "message": (run.message or "").replace("|", "\\|"),
        **{name: number(value, ".2f") for name, value in run.seconds.model_dump().items()},
    }


def machine_section(name: str, runs: Sequence[Run]) -> dict[str, Any]:
    batches = batches_of(runs)
    tables = {}
    for clock in CLOCKS:
        in_order = sorted(batches, key=lambda batch: batch.order(clock))
        tables[clock] = [batch_row(batch, clock, rank) for rank, batch in enumerate(in_order, start=1)]
    singles = [run for run in runs if run.batch is None and run.search is None]
    return {
        "name": name,
        "tables": tables,
        "singles": [run_row(run) for run in sorted(singles, key=lambda run: run.started_at, reverse=True)],
        "batches": [{"id": batch.id, "runs": [run_row(run) for run in batch.runs]} for batch in reversed(batches)],
    }


def render(runs: Sequence[Run], faults: Sequence[str]) -> str:
    """The whole board as Markdown."""
    by_place: dict[str, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        by_place[run.track][run.machine.class_ or "unknown machine"].append(run)
    tracks = [
        {"name": track, "machines": [machine_section(name, machines[name]) for name in sorted(machines)]}
        for track, machines in sorted(by_place.items())
    ]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown; what is shown are our own figures and one-line messages
    )
    return environment.get_template("board.md.jinja").render(tracks=tracks, faults=faults, ranked_from=RANKED_FROM)


# -----------------------------------------------------------------------------
# the README's figures


def best_batches(runs: Sequence[Run], clock: ClockName) -> list[BatchOfRuns]:
    """The first of each board."""
    best: dict[tuple, BatchOfRuns] = {}
    for batch in sorted(batches_of(runs), key=lambda batch: batch.order(clock)):
        if batch.ranked and batch.num_solved:
            best.setdefault((batch.runs[0].track, batch.runs[0].machine.class_), batch)
    return list(best.values())


def standing_figures(runs: Sequence[Run]) -> str:
    """The leaders by `total` as a table."""
    lines = [
        "| track | config | machine class | solved | `train`, s | `certify`, s | `total`, s | peak memory, MiB |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for batch in best_batches(runs, "total"):
        first = batch.runs[0]
        cells = [first.track, first.config, first.machine.class_, f"{batch.num_solved}/{len(batch.runs)}"]
        for phase in ("train", "certify", "total"):
            cells.append(spread_text(batch.values(lambda run, phase=phase: getattr(run.seconds, phase)), ".2f"))
        cells.append(middle([value / 2**20 for value in batch.values(peak_memory)], ",.0f"))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def example_figures(runs: Sequence[Run]) -> str:
    """The summary of the leading batch's first attempt, as it stood on the terminal."""
    best = best_batches(runs, "total")
    if not best:
        return "No ranked batch yet."
    console = Console(file=io.StringIO(), width=100, highlight=False, color_system=None)
    show_summary(best[0].runs[0], [], standing(best[0].runs[0], runs), console)
    text = console.file.getvalue().strip("\n")
    return "```\n" + "\n".join(line.rstrip() for line in text.splitlines()) + "\n```"


FIGURES: dict[str, Callable[[Sequence[Run]], str]] = {"standing": standing_figures, "example": example_figures}


def fill_readme(text: str, runs: Sequence[Run]) -> str:
    """The README with what stands between its markers made anew.

    Raises:
        KeyError: a marker asks for figures that there are none of.
    """
    return MARKED.sub(lambda found: f"{found[1]}{FIGURES[found['name']](runs)}\n{found[3]}", text)


# -----------------------------------------------------------------------------
# after an attempt, and the command


def standing(run: Run, runs: Sequence[Run]) -> str:
    """Where an attempt stands, in a line."""
    same = [other for other in runs if (other.track, other.machine.class_) == (run.track, run.machine.class_)]
    leaders = {clock: best_batches(same, clock) for clock in CLOCKS}
    if run.batch is not None:
        place = f"attempt {run.batch.index + 1} of {run.batch.planned} of the batch {run.batch.id}"
    else:
        place = f"a single attempt, not ranked (--attempts {RANKED_FROM} makes a batch that is)"
    if not leaders["train"]:
        return f"{place}; no batch leads {run.track} on this machine class yet"
    leads = "; ".join(
        f"{clock}: {best[0].runs[0].config} leads with ERT {expected_time_to_success(best[0].runs, clock):.2f} s"
        for clock, best in leaders.items()
    )
    return f"{place}; {leads}"


def write(path: Path, text: str) -> None:
    """Replace a file whole: a reader finds the old board or the new one."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8", newline="\n")
    os.replace(draft, path)


def update(results: Path, run: Run) -> str:
    """Render the board after an attempt; returns where the attempt stands."""
    journal = Journal(results)
    with journal.lock():
        runs, faults = journal.read()
        write(results / "LEADERBOARD.md", render(runs, faults))
    return standing(run, runs)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Render the board, and the README's figures when the results are the project's own."""

    results: Path = ROOT / "results"
    """The folder of the journal."""
    check: tyro.conf.FlagCreatePairsOff[bool] = False
    """Write nothing; exit 1 when a file and the journal disagree."""


def main(arguments: Arguments) -> int:
    journal = Journal(arguments.results)
    runs, faults = journal.read()
    wanted = {arguments.results / "LEADERBOARD.md": render(runs, faults)}
    readme = ROOT / "README.md"
    if arguments.results.resolve() == ROOT / "results" and readme.exists():
        wanted[readme] = fill_readme(readme.read_text(encoding="utf-8"), runs)
    for fault in faults:
        print(fault, file=sys.stderr)
    if not arguments.check:
        arguments.results.mkdir(parents=True, exist_ok=True)
        for path, text in wanted.items():
            write(path, text)
        return 0
    stale = [path.name for path, text in wanted.items() if not path.exists() or path.read_text("utf-8") != text]
    for name in stale:
        print(f"{name} does not say what the journal says; run `python -m bench board`", file=sys.stderr)
    return 1 if stale else 0
