"""The figures of README and docs, which stand between markers: from the evidence alone, as the board."""

import io
import re
from collections.abc import Callable, Sequence

from rich.console import Console

from bench.formatting import commit_text, escape_markdown, middle, number, ratio_text, spread_text
from bench.report.scaling import digits_figures, overhead_figures, processes_figures
from bench.report.summary import show_summary
from bench.stats.descriptive import peak_memory
from bench.stats.expected_time import expected_time_to_success
from bench.stats.ranking import describe_standing, leaders
from bench.storage.results import FiledResults
from bench.storage.schema import Run

PAGES = ("README.md", "docs/SCALING.md")
MARKED = re.compile(r"(<!-- figures: (?P<name>[a-z-]+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)


def standing_figures(runs: Sequence[Run]) -> str:
    """The leaders by `total` as a table."""
    lines = [
        "| track | config | machine class | solved | ERT `total`, s | `train`, s | `certify`, s | `total`, s "
        "| peak memory, MiB | date | commit |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- | --- |",
    ]
    for entry in leaders(runs, "total"):
        first = entry.runs[0]
        cells = [first.track, first.config, first.machine.class_, f"{entry.num_solved}/{len(entry.runs)}"]
        cells.append(f"{expected_time_to_success(entry.runs, 'total'):.2f}")
        for phase in ("train", "certify", "total"):
            cells.append(spread_text(entry.values(lambda run, phase=phase: getattr(run.seconds, phase)), ".2f"))
        cells.append(middle([value / 2**20 for value in entry.values(peak_memory)], ",.0f"))
        cells += [f"{first.started_at:%Y-%m-%d}", commit_text(first.commit, first.dirty)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def record_figures(evidence: FiledResults) -> str:
    """The history of the records as a table, newest first, with what each of them changed."""
    why = {agenda.id: agenda.why for agenda in evidence.paired_plans}
    lines = [
        "| record | clock | ERT, s | to the one before | what changed | machine class |",
        "| --- | --- | ---: | ---: | --- | --- |",
    ]
    for filed in sorted(evidence.records, key=lambda filed: filed.record.started_at, reverse=True):
        record = filed.record
        reason = why.get(record.batch) or ("—" if record.predecessor else "the first of its kind")
        cells = [
            f"[{record.name}](results/records/{record.name}/README.md)",
            f"`{record.clock}`",
            number(record.ert_seconds, ".2f"),
            ratio_text(record.ert_ratio, record.ert_ratio_95),
            escape_markdown(reason),
            record.machine_class,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) if evidence.records else "No record yet."


def example_figures(runs: Sequence[Run]) -> str:
    """The summary of the first attempt by which the default config leads, as if it had been a single one."""
    best = leaders([run for run in runs if run.config == f"{run.track}-{run.device}"], "total")
    if not best:
        return "No ranked batch yet."
    console = Console(file=io.StringIO(), width=100, highlight=False, color_system=None)
    run = best[0].runs[0].model_copy(update={"batch": None})
    show_summary(run, [], describe_standing(run, runs), console)
    text = console.file.getvalue().strip("\n")
    return "```\n" + "\n".join(line.rstrip() for line in text.splitlines()) + "\n```"


FIGURES: dict[str, Callable[[FiledResults], str]] = {
    "standing": lambda evidence: standing_figures(evidence.runs),
    "records": record_figures,
    "example": lambda evidence: example_figures(evidence.runs),
    "digits": lambda evidence: digits_figures(evidence.runs),
    "overhead": lambda evidence: overhead_figures(evidence.runs),
    "processes": lambda evidence: processes_figures(evidence.runs),
}


def fill_page(text: str, evidence: FiledResults) -> str:
    """A page with what stands between its markers made anew.

    Raises:
        KeyError: a marker asks for figures that there are none of.
    """
    return MARKED.sub(lambda found: f"{found[1]}{FIGURES[found['name']](evidence)}\n{found[3]}", text)
