"""The generated blocks of README, between `<!-- figures: NAME -->` and `<!-- end of figures -->`."""

import io
import math
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple

from rich.console import Console

from bench.formatting import UNKNOWN, clean_text, markdown_table, met_targets_text, number, ratio_text
from bench.report.cold_starts import cold_sentence
from bench.report.main_track import (
    FIRST_OF_CLASS,
    MAIN_TRACK,
    leading_default,
    record_lines,
    records_of_today,
    wait_sentence,
)
from bench.report.render import solved_text
from bench.report.summary import show_summary
from bench.stats.expected_time import expected_time_to_success
from bench.stats.ranking import CLOCKS, Entry, describe_standing, ranked_entries
from bench.storage.comparison_schema import Record
from bench.storage.records import RecordFolder
from bench.storage.results import FiledResults
from bench.storage.schema import ColdStart, Run

PAGE = "README.md"
MARKED = re.compile(r"(<!-- figures: (?P<name>[a-z-]+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)
NEWEST_RECORDS = 1  # a clock, beside those of today


class System(NamedTuple):
    """A published system, and the command that trains a model for its task here."""

    name: str
    track: str
    command: str


SYSTEMS = (
    System("three-digit speedrun", MAIN_TRACK, "python speedrun.py"),
    System("two-digit adder", "add2", "python speedrun.py --config add2"),
    System("grokking homework", "moddiv-97", "python speedrun.py --config moddiv-97"),
    System("training log of texts", "actions", "python speedrun.py --config actions"),
    System("sum equalities in random order", "sumeq", "python speedrun.py --config sumeq"),
)


class Standing(NamedTuple):
    """Where a track stands on a machine class by `total`: its record, or the best entry of the newest source."""

    track: str
    machine_class: str
    config: str
    record: Record | None
    solved: str
    clean: str
    ert_seconds: tuple[float | None, float | None]  # by `train` and by `total`
    started_at: datetime
    met_targets: str = ""  # of attempts of which none solved the track, how many met each weaker target

    @property
    def order(self) -> tuple[bool, int, float]:
        """The main track first; then what won in pairs, records compared with nothing, and what is no record."""
        evidence = 2 if self.record is None else 1 if self.record.predecessor is None else 0
        return self.track != MAIN_TRACK, evidence, self.ert_seconds[1] or math.inf

    @property
    def record_text(self) -> str:
        if self.record is None:
            return UNKNOWN
        link = record_link(self.record)
        return link if self.record.predecessor else f"{link} ({FIRST_OF_CLASS})"


def standings(runs: Sequence[Run], folders: Sequence[RecordFolder]) -> list[Standing]:
    """Each track and machine class with a record by `total` or a ranked batch, in the order of the table."""
    found: dict[tuple[str, str], Standing] = {}
    for entry in newest_leaders(runs):
        first = entry.runs[0]
        found[first.track, first.machine_class_name] = Standing(
            first.track,
            first.machine_class_name,
            first.config,
            None,
            solved_text(entry),
            clean_text(entry.runs),
            (expected_time_to_success(entry.runs, "train"), expected_time_to_success(entry.runs, "total")),
            first.started_at,
            "" if entry.num_solved_seeds else met_targets_text(entry.runs),
        )
    for folder in sorted(folders, key=lambda folder: folder.record.started_at):
        record, result = folder.record, folder.record.result
        if record.clock == "total":
            found[record.track, record.machine_class] = Standing(
                record.track,
                record.machine_class,
                record.config,
                record,
                f"{result.solved}/{result.attempts}",
                f"{result.clean}/{result.attempts}",
                (result.ert_train_seconds, result.ert_total_seconds),
                record.started_at,
            )
    return sorted(found.values(), key=lambda standing: standing.order)


def standing_table(
    runs: Sequence[Run], folders: Sequence[RecordFolder] = (), cold_starts: Sequence[ColdStart] = ()
) -> str:
    """Each source system with the command that runs its task here, and where its track stands by `total`.

    A record has the figures of its own batch everywhere. Other tracks and machine classes are on the leaderboard. Below
    the table stand the weaker targets of tracks that no attempt solved, and what was warm.
    """
    first: dict[str, Standing] = {}
    for standing in standings(runs, folders):
        first.setdefault(standing.track, standing)
    if not first:
        return "No ranked batch yet."
    rows = [[system.name, f"`{system.command}`", *standing_cells(first.get(system.track))] for system in SYSTEMS]
    headings = (
        *("source system", "one command", "processor", "solved", "clean"),
        *("ERT `train`, s", "ERT `total`, s", "date", "record"),
    )
    table = markdown_table(headings, rows, ("source system", "one command", "processor", "date", "record"))
    shown = [first[system.track] for system in SYSTEMS if system.track in first]
    unsolved = [each for each in shown if each.met_targets]
    met = [f"Attempts of `{each.track}` that met a weaker target: {each.met_targets}." for each in unsolved]
    return "\n\n".join([table, " ".join([*met, cold_sentence(cold_starts)])])


def standing_cells(standing: Standing | None) -> list[str]:
    """The cells of a standing, from the processor on."""
    if standing is None:
        return [UNKNOWN] * 7
    return [
        standing.machine_class.partition(",")[0],
        standing.solved,
        standing.clean,
        *(number(seconds, ".2f") for seconds in standing.ert_seconds),
        f"{standing.started_at:%Y-%m-%d}",
        standing.record_text,
    ]


def newest_leaders(runs: Sequence[Run]) -> list[Entry]:
    """For each track and machine class the entry with the best ERT by `total` of the source that was ranked last."""
    classes: dict[tuple[str, str | None], list[Entry]] = defaultdict(list)
    for entry in ranked_entries(runs, "total"):
        classes[entry.runs[0].track, entry.runs[0].machine.class_].append(entry)
    leaders = []
    for entries in classes.values():
        newest = max(entries, key=lambda entry: max(run.started_at for run in entry.runs)).runs[0].source_sha256
        leaders.append(next(entry for entry in entries if entry.runs[0].source_sha256 == newest))
    return leaders


def records_table(folders: Sequence[RecordFolder]) -> str:
    """The newest records of the main track on each clock that won in pairs, beside `records_of_today`."""
    rows, today = [], [folder.record for folder in records_of_today(folders)]
    for clock in CLOCKS:
        records = [
            folder.record
            for folder in folders
            if (folder.record.track, folder.record.clock) == (MAIN_TRACK, clock)
            and folder.record.predecessor
            and folder.record not in today
        ]
        records.sort(key=lambda record: record.started_at, reverse=True)
        rows += [
            [
                record_link(record),
                f"`{clock}`",
                number(record.ert_seconds, ".2f"),
                ratio_text(record.ert_ratio, record.ert_ratio_95),
            ]
            for record in records[:NEWEST_RECORDS]
        ]
    headings = ("earlier record", "clock", "ERT, s", "ERT to the record before it")
    return (
        markdown_table(headings, rows, ("earlier record", "clock"))
        if rows
        else "No earlier record that won in pairs yet."
    )


def record_link(record: Record) -> str:
    return f"[{record.name}](results/records/{record.name}/README.md)"


def example_text(runs: Sequence[Run], folders: Sequence[RecordFolder] = ()) -> str:
    """The terminal summary of an attempt by the default config with the best ERT, as of a single attempt."""
    entry = leading_default(runs, folders)
    if entry is None:
        return "No ranked batch yet."
    console = Console(file=io.StringIO(), record=True, width=80, highlight=False, color_system=None)
    run = entry.runs[0].model_copy(update={"batch": None})
    membership, _, _ = describe_standing(run, runs).partition(";")  # the best ERTs stand in the table
    show_summary(run, [], membership, console)
    lines = console.export_text().strip("\n").splitlines()
    return "\n".join(["```", *(line.rstrip() for line in lines), "```"])


FIGURES: dict[str, Callable[[FiledResults], str]] = {
    "record": lambda results_data: record_lines(results_data.records, "results/records"),
    "standing": lambda results_data: standing_table(results_data.runs, results_data.records, results_data.cold_starts),
    "records": lambda results_data: records_table(results_data.records),
    "example": lambda results_data: example_text(results_data.runs, results_data.records),
    "wait": lambda results_data: wait_sentence(results_data.runs),
}


def fill_page(text: str, results_data: FiledResults) -> str:
    """A page with the text between its markers generated anew; a page may lack any of the blocks.

    Raises:
        KeyError: a marker names an unknown block.
    """
    return MARKED.sub(lambda match: f"{match[1]}{FIGURES[match['name']](results_data)}\n{match[3]}", text)
