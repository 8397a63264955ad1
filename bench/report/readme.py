"""The generated blocks of README, between `<!-- figures: NAME -->` and `<!-- end of figures -->`."""

import io
import re
from collections import defaultdict
from collections.abc import Callable, Sequence

from rich.console import Console

from bench.formatting import markdown_table, number, ratio_text
from bench.report.main_track import FIRST_OF_CLASS, MAIN_TRACK, claim_sentence, leading_default, record_sentence
from bench.report.render import clean_text
from bench.report.summary import show_summary
from bench.stats.expected_time import expected_time_to_success
from bench.stats.ranking import CLOCKS, Entry, describe_standing, ranked_entries
from bench.storage.records import RecordFolder
from bench.storage.results import FiledResults
from bench.storage.schema import Run

PAGE = "README.md"
MARKED = re.compile(r"(<!-- figures: (?P<name>[a-z-]+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)
MOST_ROWS = 6  # of the table of leaders
NEWEST_RECORDS = 2  # a clock


def standing_table(runs: Sequence[Run]) -> str:
    """The leader by `total` on each track and machine class, the main track and the fastest class first."""
    entries = sorted(newest_leaders(runs), key=lambda entry: (entry.runs[0].track != MAIN_TRACK, *entry.order("total")))
    rows = [
        [
            entry.runs[0].track,
            entry.runs[0].config,
            entry.runs[0].machine_class_name,
            f"{entry.num_solved}/{len(entry.runs)}",
            clean_text(entry.runs),
            *(number(expected_time_to_success(entry.runs, clock), ".2f") for clock in CLOCKS),
            f"{entry.runs[0].started_at:%Y-%m-%d}",
        ]
        for entry in entries[:MOST_ROWS]
    ]
    headings = ("track", "config", "machine class", "solved", "clean", "ERT `train`, s", "ERT `total`, s", "date")
    text = ("track", "config", "machine class", "date")
    return markdown_table(headings, rows, text) if rows else "No ranked batch yet."


def newest_leaders(runs: Sequence[Run]) -> list[Entry]:
    """For each track and machine class the fastest ranked entry by `total` of the source that was ranked last."""
    classes: dict[tuple[str, str | None], list[Entry]] = defaultdict(list)
    for entry in ranked_entries(runs, "total"):
        classes[entry.runs[0].track, entry.runs[0].machine.class_].append(entry)
    leaders = []
    for entries in classes.values():
        newest = max(entries, key=lambda entry: max(run.started_at for run in entry.runs)).runs[0].source_sha256
        leaders.append(next(entry for entry in entries if entry.runs[0].source_sha256 == newest))
    return leaders


def records_table(folders: Sequence[RecordFolder]) -> str:
    """The newest records of the main track on each clock."""
    rows = []
    for clock in CLOCKS:
        records = [
            folder.record for folder in folders if (folder.record.track, folder.record.clock) == (MAIN_TRACK, clock)
        ]
        records.sort(key=lambda record: record.started_at, reverse=True)
        rows += [
            [
                f"[{record.name}](results/records/{record.name}/README.md)",
                f"`{clock}`",
                number(record.ert_seconds, ".2f"),
                ratio_text(record.ert_ratio, record.ert_ratio_95) if record.predecessor else FIRST_OF_CLASS,
                f"{record.started_at:%Y-%m-%d}",
            ]
            for record in records[:NEWEST_RECORDS]
        ]
    headings = ("record", "clock", "ERT, s", "ERT to the record before", "date")
    return markdown_table(headings, rows, ("record", "clock", "date")) if rows else "No record yet."


def example_text(runs: Sequence[Run], folders: Sequence[RecordFolder] = ()) -> str:
    """The terminal summary of an attempt by the leading default config, as of a single attempt."""
    entry = leading_default(runs, folders)
    if entry is None:
        return "No ranked batch yet."
    console = Console(file=io.StringIO(), record=True, width=100, highlight=False, color_system=None)
    run = entry.runs[0].model_copy(update={"batch": None})
    show_summary(run, [], describe_standing(run, runs), console)
    lines = console.export_text().strip("\n").splitlines()
    return "\n".join(["```", *(line.rstrip() for line in lines), "```"])


FIGURES: dict[str, Callable[[FiledResults], str]] = {
    "claim": lambda results_data: claim_sentence(results_data.runs, results_data.records),
    "record": lambda results_data: record_sentence(results_data.records),
    "standing": lambda results_data: standing_table(results_data.runs),
    "records": lambda results_data: records_table(results_data.records),
    "example": lambda results_data: example_text(results_data.runs, results_data.records),
}


def fill_page(text: str, results_data: FiledResults) -> str:
    """A page with the text between its markers generated anew; a page may lack any of the blocks.

    Raises:
        KeyError: a marker names an unknown block.
    """
    return MARKED.sub(lambda match: f"{match[1]}{FIGURES[match['name']](results_data)}\n{match[3]}", text)
