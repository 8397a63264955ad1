"""The README of a record, rendered from its folder, its plan, the runs of its batch and its replays."""

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.experiments.altered import Altered, altered_of
from bench.formatting import UNKNOWN, ask_command, changed_settings, middle
from bench.report.render import render_template
from bench.stats.descriptive import launch_bound_seconds, matmul_bound_seconds, utilisation
from bench.storage.comparison_schema import Conclusion, PairedPlan, Record
from bench.storage.records import RecordFolder
from bench.storage.results import FiledResults
from bench.storage.schema import Run


def record_pages(results_data: FiledResults, example_prompt: Callable[[Record], str]) -> dict[Path, str]:
    """The README of each record whose plan is in the agenda: path -> Markdown.

    `example_prompt` returns a problem of a record's track, for the command that asks its model.
    """
    plans = {plan.id: plan for plan in results_data.paired_plans}
    conclusions = {conclusion.id: conclusion for conclusion in results_data.conclusions}
    folders = {folder.record.name: folder for folder in results_data.records}
    pages = {}
    for folder in results_data.records:
        record = folder.record
        if (plan := plans.get(record.batch)) is not None:
            predecessor = folders.get(record.predecessor or "")
            altered = altered_of(plan, results_data.runs)
            yardstick = results_data.yardsticks.get(plan.id)
            pages[folder.folder / "README.md"] = render_record_page(
                folder, predecessor, plan, conclusions.get(plan.id), altered, yardstick, example_prompt(record)
            )
    return pages


def render_record_page(
    record_folder: RecordFolder,
    predecessor: RecordFolder | None,
    plan: PairedPlan,
    conclusion: Conclusion | None,
    altered: Altered,
    yardstick: Run | None,
    example_prompt: str,
) -> str:
    """The README as Markdown.

    Args:
        predecessor: the record that this one beat; None for the first of its board.
        conclusion: of the comparison with it.
        altered: the attempts of the record's batch, the `ordinary` ones, and those with other ids of answers.
        yardstick: the run of the frozen config beside the batch.
        example_prompt: a problem of the track.
    """
    record = record_folder.record
    changes: dict[str, list[str] | None] = {"changes": [], "changed_files": [], "changed_harness": []}
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
        conclusion=conclusion,
        runs=altered.ordinary,
        altered=altered,
        replays=record_folder.reproductions.read()[0],
        medians=medians_text(altered.ordinary),
        ask_command=ask_command(f"results/records/{record.name}/weights.safetensors", example_prompt),
        yardstick_seconds=None if yardstick is None else yardstick.seconds.train,
        **changes,
    )


def medians_text(runs: Sequence[Run]) -> str:
    """The medians of steps, FLOPs and utilisation, and the lower bounds of `train`, in sentences."""
    lower_bounds = {
        "Computing these FLOPs at the peak": middle(map(matmul_bound_seconds, runs), ".3g"),
        "Launching torch's operations": middle(map(launch_bound_seconds, runs), ".3g"),
    }
    bounds = [f" {work} takes at least {seconds} s." for work, seconds in lower_bounds.items() if seconds != UNKNOWN]
    return (
        f"{middle((run.steps for run in runs), ',.0f')} steps, "
        f"{middle((run.examples for run in runs), ',.0f')} examples, "
        f"{middle((run.train_flops for run in runs), '.3g')} FLOPs in the steps' matrix products, "
        f"utilisation {middle(map(utilisation, runs), '.1%')} of the measured peak." + "".join(bounds)
    )


def changed_files(old: RecordFolder, new: RecordFolder, of_harness: bool) -> list[str] | None:
    """Names of the files below bench/ (`of_harness`), or of all others, that differ between two records.

    None when a record's `source.zip` cannot be read.
    """

    def contents(record_folder: RecordFolder) -> dict[str, bytes]:
        with zipfile.ZipFile(record_folder.folder / "source.zip") as archive:
            names = [name for name in archive.namelist() if name.startswith("bench/") == of_harness]
            return {name: archive.read(name) for name in names}

    try:
        before, after = contents(old), contents(new)
    except (OSError, zipfile.BadZipFile):
        return None
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
