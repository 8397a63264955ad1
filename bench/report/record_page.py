"""The README of a record, rendered from its folder, its plan and the runs of its batch."""

import zipfile
from collections.abc import Sequence

from bench.formatting import changed_settings, middle
from bench.report.render import render_template
from bench.stats.descriptive import launch_bound_seconds, matmul_bound_seconds, utilisation
from bench.storage.records import RecordFolder
from bench.storage.schema import PairedPlan, Run


def render_record_page(
    record_folder: RecordFolder,
    predecessor: RecordFolder | None,
    plan: PairedPlan,
    runs: Sequence[Run],
    yardstick: Run | None,
) -> str:
    """The README as Markdown.

    Args:
        predecessor: the record that this one beat; None for the first of its board.
        runs: the attempts of the record's batch.
        yardstick: the run of the frozen config beside the batch.
    """
    record = record_folder.record
    changes: dict[str, list[str]] = {"changes": [], "changed_files": [], "changed_harness": []}
    if predecessor is not None:
        changes = {
            "changes": changed_settings(predecessor.record.settings, record.settings),
            "changed_files": changed_files(predecessor, record_folder, of_harness=False),
            "changed_harness": changed_files(predecessor, record_folder, of_harness=True),
        }
    return render_template(
        "record",
        record=record,
        plan=plan,
        runs=runs,
        medians=medians_text(runs),
        yardstick_seconds=None if yardstick is None else yardstick.seconds.train,
        **changes,
    )


def medians_text(runs: Sequence[Run]) -> str:
    """The medians of steps, FLOPs and utilisation, and the lower bounds of `train`, as one sentence."""

    return (
        f"{middle((run.steps for run in runs), ',.0f')} steps, "
        f"{middle((run.examples for run in runs), ',.0f')} examples, "
        f"{middle((run.train_flops for run in runs), '.3g')} FLOPs in the steps' matrix products, "
        f"utilisation {middle(map(utilisation, runs), '.1%')} of the measured peak; "
        f"no less than {middle(map(matmul_bound_seconds, runs), '.3g')} s by these FLOPs at the peak, "
        f"nor than {middle(map(launch_bound_seconds, runs), '.3g')} s by the launches of torch's operations"
    )


def changed_files(old: RecordFolder, new: RecordFolder, of_harness: bool) -> list[str]:
    """Names of the files below bench/ (`of_harness`), or of all others, that differ between two records."""

    def contents(record_folder: RecordFolder) -> dict[str, bytes]:
        with zipfile.ZipFile(record_folder.folder / "source.zip") as archive:
            names = [name for name in archive.namelist() if name.startswith("bench/") == of_harness]
            return {name: archive.read(name) for name in names}

    before, after = contents(old), contents(new)
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
