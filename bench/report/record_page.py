"""The README of a record, rendered from its folder, its plan and the runs of its batch."""

import statistics
import zipfile
from collections.abc import Sequence
from typing import Any

from bench.formatting import changed_settings, escape_markdown, number, ratio_text, search_text
from bench.report.render import template_environment
from bench.report.rows import run_row
from bench.stats.descriptive import launch_bound_seconds, matmul_bound_seconds, utilisation
from bench.storage.records import RecordFolder
from bench.storage.schema import BatchSummary, PairedPlan, Run


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
    rows = [result_row(record.name, record.result)]
    if predecessor is not None and record.predecessor_result is not None:
        rows.append(result_row(predecessor.record.name, record.predecessor_result))
    changes: dict[str, list[str]] = {"changes": [], "changed_files": [], "changed_harness": []}
    if predecessor is not None:
        changes = {
            "changes": changed_settings(predecessor.record.settings, record.settings),
            "changed_files": changed_files(predecessor, record_folder, of_harness=False),
            "changed_harness": changed_files(predecessor, record_folder, of_harness=True),
        }
    template = template_environment().get_template("record.md.jinja")
    return template.render(
        record=record,
        ert=f"{record.ert_seconds:.2f}",
        date=f"{record.started_at:%Y-%m-%d}",
        number=plan.number,
        why=None if plan.why is None else escape_markdown(plan.why),
        search=search_text(record.search),
        ratio=ratio_text(record.ert_ratio, record.ert_ratio_95),
        p_value=number(record.p_value, ".4f"),
        results=rows,
        runs=[attempt_row(run) for run in runs],
        medians=medians_text(runs),
        yardstick=number(None if yardstick is None else yardstick.seconds.train, ".2f"),
        **changes,
    )


def result_row(name: str, result: BatchSummary) -> dict[str, str]:
    return {
        "name": name,
        "solved": f"{result.solved}/{result.attempts}",
        "clean": f"{result.clean}/{result.attempts}",
        "train": number(result.ert_train_seconds, ".2f"),
        "total": number(result.ert_total_seconds, ".2f"),
    }


def attempt_row(run: Run) -> dict[str, Any]:
    return {
        **run_row(run),
        "others": number(run.machine.others_train, ".1%"),
        "clean": "yes" if run.machine.clean else "; ".join(run.machine.reasons) or number(None),
    }


def medians_text(runs: Sequence[Run]) -> str:
    """The medians of steps, FLOPs and utilisation, and the lower bounds of `train`, as one sentence."""

    def median(values: list[int | None] | list[float | None], pattern: str) -> str:
        known = [value for value in values if value is not None]
        return number(statistics.median(known) if known else None, pattern)

    return (
        f"{median([run.steps for run in runs], ',.0f')} steps, "
        f"{median([run.examples for run in runs], ',.0f')} examples, "
        f"{median([run.train_flops for run in runs], '.3g')} FLOPs in the steps' matrix products, "
        f"utilisation {median([utilisation(run) for run in runs], '.1%')} of the measured peak; "
        f"no less than {median([matmul_bound_seconds(run) for run in runs], '.3g')} s by these FLOPs at the peak, "
        f"nor than {median([launch_bound_seconds(run) for run in runs], '.3g')} s by the launches of torch's operations"
    )


def changed_files(old: RecordFolder, new: RecordFolder, of_harness: bool) -> list[str]:
    """Names of the files that differ between the snapshots of two records.

    Args:
        of_harness: compare the files below bench/ if true, all others if false.
    """

    def contents(record_folder: RecordFolder) -> dict[str, bytes]:
        with zipfile.ZipFile(record_folder.folder / "source.zip") as archive:
            names = [name for name in archive.namelist() if name.startswith("bench/") == of_harness]
            return {name: archive.read(name) for name in names}

    before, after = contents(old), contents(new)
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
