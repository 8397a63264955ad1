"""The main track's record of today, as the one line that states it, and its leading default config."""

from collections.abc import Iterable, Sequence
from statistics import median

from bench.stats.ranking import Entry, leaders, ranked_entries
from bench.storage.records import RecordFolder
from bench.storage.schema import Record, Run

MAIN_TRACK = "add3"
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


def record_sentence(folders: Iterable[RecordFolder]) -> str:
    """Today's record as one bold line of Markdown."""
    record = record_of_today(folders)
    if record is None:
        return f"No record of `{MAIN_TRACK}` by `total` yet."
    result = record.result
    return (
        f"**Record today: `{record.track}` in {result.ert_train_seconds:.2f} s of training, "
        f"{result.ert_total_seconds:.2f} s from process start to proof "
        f"(ERT, {result.solved} of {result.attempts} solved) on {record.machine_class}, {record.started_at:%Y-%m-%d}"
        f"{'' if record.predecessor else f' ({FIRST_OF_CLASS})'}**"
    )


def leading_default(runs: Sequence[Run], folders: Iterable[RecordFolder] = ()) -> Entry | None:
    """The leading entry by `total` of the main track's default configs, on the machine class of today's record.

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
