"""The main track's records of today, as the lines that state them, and its best default config."""

from collections.abc import Iterable, Sequence
from statistics import median

from bench.formatting import number, ratio_text
from bench.stats.ranking import Entry, leaders, ranked_entries
from bench.storage.comparison_schema import Record
from bench.storage.records import RecordFolder, standing_record
from bench.storage.schema import Run

MAIN_TRACK = "add3"
HEADLINES = {
    "total": "**Record today: `{0.track}` in {0.ert_seconds:.2f} s from process start to proof on {processor}**",
    "train": "**Training alone: {0.ert_seconds:.2f} s** on the same machine class",
}
FIRST_OF_CLASS = "first of its class, compared with nothing"


def record_of_today(folders: Iterable[RecordFolder]) -> Record | None:
    """The fastest standing record of the main track by `total`, over all machine classes.

    A record that won in pairs comes before one that had no predecessor, whatever their seconds.
    """
    standing: dict[str, Record] = {}  # by machine class
    for record in sorted((folder.record for folder in folders), key=lambda record: record.started_at):
        if (record.track, record.clock) == (MAIN_TRACK, "total"):
            standing[record.machine_class] = record
    return min(standing.values(), key=lambda record: (record.predecessor is None, record.ert_seconds), default=None)


def records_of_today(folders: Sequence[RecordFolder]) -> list[RecordFolder]:
    """`record_of_today`, and the standing record by `train` on its machine class, where there are any."""
    record = record_of_today(folders)
    if record is None:
        return []
    by_total = next(folder for folder in folders if folder.record == record)
    by_train = standing_record(folders, MAIN_TRACK, "train", record.machine_class)
    return [by_total] if by_train is None else [by_total, by_train]


def record_lines(folders: Sequence[RecordFolder], records: str) -> str:
    """`records_of_today` as lines of Markdown, one a clock.

    `records` is the path from the page to the folder of records.
    """
    lines = [
        HEADLINES[folder.record.clock].format(folder.record, processor=folder.record.machine_class.partition(",")[0])
        + evidence_text(folder, records)
        for folder in records_of_today(folders)
    ]
    return "\\\n".join(lines) or f"No record of `{MAIN_TRACK}` by `total` yet."


def evidence_text(folder: RecordFolder, records: str) -> str:
    """The clock, the solved attempts, the test against the record before, the replays, and the link of a record."""
    record, replays = folder.record, folder.reproductions.read()[0]
    parts = [f"ERT by `{record.clock}`", f"{record.result.solved}/{record.result.attempts} solved"]
    if record.predecessor is None:
        parts.append(FIRST_OF_CLASS)
    else:
        ratio = ratio_text(record.ert_ratio, record.ert_ratio_95)
        parts += [f"{ratio} times the record before", f"p = {number(record.p_value, '.4f')}"]
    if replays:
        parts.append(f"reproduced {sum(replay.reproduced for replay in replays)}/{len(replays)}")
    return f", {', '.join(parts)} ([the record]({records}/{record.name}/README.md))"


def leading_default(runs: Sequence[Run], folders: Iterable[RecordFolder] = ()) -> Entry | None:
    """The main track's default config with the best ERT by `total`, on the machine class of today's record.

    Without a record, the fastest over all machine classes; None when no default config is ranked.
    """
    record = record_of_today(folders)
    defaults = [run for run in runs if run.track == MAIN_TRACK and run.config == f"{run.track}-{run.device}"]
    entries = leaders(defaults, "total")
    here = [entry for entry in entries if record and entry.runs[0].machine.class_ == record.machine_class]
    return next(iter(here or entries), None)


def wait_sentence(runs: Sequence[Run]) -> str:
    """How long a user waits for an attempt with the default config, from the newest ranked batch that measured it."""
    defaults = [run for run in runs if run.track == MAIN_TRACK and run.config == f"{run.track}-{run.device}"]
    measured = [entry for entry in ranked_entries(defaults, "total") if entry.values(lambda run: run.seconds.wall)]
    if not measured:
        return "How long the prompt takes to come back has not been measured yet."
    entry = max(measured, key=lambda entry: entry.runs[-1].started_at)
    first, walls = entry.runs[0], sorted(entry.values(lambda run: run.seconds.wall))
    return (
        f"The prompt is back **{median(walls):.1f} s** after the command ({walls[0]:.1f} to {walls[-1]:.1f} s in "
        f"{len(walls)} attempts on {first.machine_class_name}, {first.started_at:%Y-%m-%d})."
    )
