"""The contents of a results folder, and lookup of runs and weights."""

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.errors import UsageError, describe_os_error, nearest_hint
from bench.provenance import ROOT
from bench.storage.comparison_schema import Conclusion, PairedPlan
from bench.storage.disputes import disputes_file
from bench.storage.journal import Journal
from bench.storage.jsonl import JsonLines, print_faults
from bench.storage.machines import cold_starts_file
from bench.storage.records import RecordFolder, find_record, is_record, read_records
from bench.storage.schema import YARDSTICK, ColdStart, Note, Run

SAME_RUN = 0.7  # similarity of a mistyped run id, whose date and config are those of many runs


def paired_plans_file(results: Path) -> JsonLines[PairedPlan]:
    return JsonLines(results / "agenda.jsonl", PairedPlan)


def conclusions_file(results: Path) -> JsonLines[Conclusion]:
    return JsonLines(results / "comparisons.jsonl", Conclusion)


def notes_file(results: Path) -> JsonLines[Note]:
    return JsonLines(results / "notes.jsonl", Note)


def read_notes(results: Path) -> dict[str, list[Note]]:
    """The remarks about each run that has any, by run id, in file order; prints messages about invalid lines."""
    notes: dict[str, list[Note]] = {}
    lines, faults = notes_file(results).read()
    print_faults(faults)
    for note in lines:
        notes.setdefault(note.run_id, []).append(note)
    return notes


def runs_for_estimates(results: Path, planned: Iterable[Run]) -> list[Run]:
    """The runs from which the durations of planned runs are estimated: those of their machine classes.

    Those of the project's own results come first, then those of another folder.
    """
    classes = {run.machine.class_ for run in planned}
    folders = dict.fromkeys([(ROOT / "results").resolve(), results.resolve()])
    return [run for folder in folders for run in Journal(folder).read_machine_classes(classes)]


@dataclasses.dataclass(frozen=True)
class FiledResults:
    """The contents of a results folder: runs, plans and conclusions in file order, records by date.

    Records whose batch is disputed are left out.
    """

    runs: Sequence[Run]
    faults: Sequence[str] = ()  # messages about lines and folders that could not be read
    records: Sequence[RecordFolder] = ()
    paired_plans: Sequence[PairedPlan] = ()
    conclusions: Sequence[Conclusion] = ()
    cold_starts: Sequence[ColdStart] = ()

    @functools.cached_property
    def yardsticks(self) -> dict[str, Run]:
        """The run of the yardstick in each batch, by batch id."""
        return {batch.id: run for run in self.runs if (batch := run.batch_of(YARDSTICK)) is not None}


def read_results(results: Path) -> FiledResults:
    """Read a results folder; missing files are empty."""
    runs, faults = Journal(results).read()
    records, record_faults = read_records(results)
    paired_plans, plan_faults = paired_plans_file(results).read()
    conclusions, conclusion_faults = conclusions_file(results).read()
    cold_starts, cold_start_faults = cold_starts_file(results).read()
    _, dispute_faults = disputes_file(results).read()
    faults = [*faults, *record_faults, *plan_faults, *conclusion_faults, *cold_start_faults, *dispute_faults]
    disputed = {run.batch.id for run in runs if run.batch is not None and run.may_rank and run.disputed}
    records = [folder for folder in records if folder.record.batch not in disputed]
    return FiledResults(runs, faults, records, paired_plans, conclusions, cold_starts)


def is_weights_path(reference: str) -> bool:
    return Path(reference).suffix == ".safetensors"


def find_run(reference: str, results: Path, with_weights: bool = False) -> Run:
    """Find a run by its id, by a path to its weights, or as `latest`; UsageError, with the nearest id, without one."""
    if not reference:
        raise UsageError("the name of the run is empty; give a run id, a path to weights, or latest")
    runs, faults = Journal(results).read()
    print_faults(faults)
    candidates = [run for run in runs if run.weights is not None or not with_weights]
    kind = "run with weights" if with_weights else "run"
    if is_weights_path(reference):
        digest = weights_sha256(Path(reference).expanduser())
        matches = [run for run in candidates if run.weights_sha256 == digest]
        if not matches:
            raise UsageError(f"no run in {results} ended with the weights in {reference} (sha256 {digest})")
    elif reference == "latest" and candidates:
        return latest_run(candidates)
    else:
        matches = [run for run in candidates if run.run_id == reference]
        if not matches:
            raise UsageError(unknown_run(reference, results, runs, candidates, kind))
    return max(matches, key=lambda run: run.started_at)


def unknown_run(reference: str, results: Path, runs: Sequence[Run], candidates: Sequence[Run], kind: str) -> str:
    """The message about a reference to no run, or to one without the weights that are needed."""
    if is_record(reference, results):
        folder = find_record(reference, results).folder
        return f"{reference} is a record, not a run; see {folder}/README.md, or use {folder}/weights.safetensors"
    if of_batch := [run for run in runs if run.batch is not None and run.batch.id == reference]:
        name = ([run.run_id for run in candidates if run in of_batch] or [of_batch[-1].run_id])[-1]
        return (
            f"{reference} is a batch of {len(of_batch)} runs: name one of them, such as {name}, or draw the learning "
            f"curves of all with `python -m bench show {reference} --plot FILE`"
        )
    for run in runs:
        if run.run_id == reference:
            keeps_none = run.batch_of("matrix", "tune")
            reason = f"; {keeps_none.command} keeps no weights" if keeps_none else f" ({run.outcome})"
            return f"the run {reference} kept no weights{reason}"
    if not candidates:
        return f"there is no {kind} in {results}"
    names = {"latest", *(run.run_id for run in candidates)}
    hint = nearest_hint(reference, names, "`python -m bench export`", similarity=SAME_RUN)
    return f"there is no {kind} {reference!r} in {results}{hint}"


def latest_run(runs: Sequence[Run]) -> Run:
    """The latest run that was made to solve its track; one of the other runs only if there is none."""
    return max([run for run in runs if run.is_regular] or runs, key=lambda run: run.started_at)


def find_weights(reference: str, results: Path) -> tuple[Path, str]:
    """The weights file of a run, and in words which one it is; see `find_run`.

    `RUN@STEP` is the file that the run saved after a step. A path to weights is returned as it is, without the journal.
    """
    if is_weights_path(reference):
        return Path(reference).expanduser(), reference
    if "@" in reference:
        return find_checkpoint(reference, results)
    run = find_run(reference, results, with_weights=True)
    remark = ""
    if reference == "latest" and (newest := latest_run(Journal(results).read()[0])).run_id != run.run_id:
        remark = f"; the latest run, {newest.run_id}, is {newest.outcome} and kept no weights"
    if run.weights is None or not (path := results / run.weights).exists():
        raise UsageError(
            f"the weights of {run.run_id} are not here, because they are not committed: make an attempt first, or use "
            "those of a record, results/records/NAME/weights.safetensors"
        )
    return path, f"{run.run_id} ({run.label}, {run.outcome}){remark}"


def checkpoint_path(run_id: str, step: int, results: Path) -> Path:
    """The file of the weights that a run saves after a step, by the setting `checkpoint_every`."""
    return results / "weights" / f"{run_id}-step-{step:06}.safetensors"


def checkpoint_reference(path: Path) -> str:
    """The RUN@STEP of a file of `checkpoint_path`."""
    run_id, _, step = path.stem.rpartition("-step-")
    return f"{run_id}@{int(step)}"


def find_checkpoint(reference: str, results: Path) -> tuple[Path, str]:
    """The weights file that `RUN@STEP` names, and in words which one it is; UsageError if there is none."""
    name, _, step = reference.rpartition("@")
    run = find_run(name, results)
    paths = (results / "weights").glob(f"{run.run_id}-step-*.safetensors")
    saved = [int(checkpoint_reference(path).rpartition("@")[2]) for path in paths]
    if not step.isdecimal():
        raise UsageError(f"{reference!r}: the step after @ must be a whole number")
    if int(step) not in saved:
        nearest = min(saved, key=lambda other: abs(other - int(step)), default=None)
        hint = "set checkpoint_every to save some" if nearest is None else f"the nearest is @{nearest}"
        raise UsageError(f"there are no weights of step {int(step):,} of {run.run_id}; {hint}")
    return checkpoint_path(run.run_id, int(step), results), f"{run.run_id} ({run.label}) after step {int(step):,}"


def weights_sha256(path: Path) -> str:
    """The sha256 of a weights file; raises UsageError if the file cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as problem:
        raise UsageError(describe_os_error(problem)) from None
