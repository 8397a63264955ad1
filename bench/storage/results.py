"""Everything in one results folder, read together, and lookup of runs and weights."""

import dataclasses
import difflib
import hashlib
from collections.abc import Sequence
from pathlib import Path

from bench.errors import UsageError, describe_os_error
from bench.storage.journal import Journal
from bench.storage.jsonl import JsonLines, print_faults
from bench.storage.records import RecordFolder, read_records
from bench.storage.schema import YARDSTICK, Conclusion, PairedPlan, Run


def paired_plans_file(results: Path) -> JsonLines[PairedPlan]:
    return JsonLines(results / "agenda.jsonl", PairedPlan)


def conclusions_file(results: Path) -> JsonLines[Conclusion]:
    return JsonLines(results / "comparisons.jsonl", Conclusion)


@dataclasses.dataclass(frozen=True)
class FiledResults:
    """Each in file order."""

    runs: Sequence[Run]
    faults: Sequence[str] = ()  # sentences about what could not be read
    records: Sequence[RecordFolder] = ()
    agendas: Sequence[PairedPlan] = ()
    conclusions: Sequence[Conclusion] = ()

    def yardsticks(self) -> dict[str, Run]:
        """The yardstick's run beside each batch."""
        return {run.batch.id: run for run in self.runs if run.batch is not None and run.batch.command == YARDSTICK}


def read_results(results: Path) -> FiledResults:
    runs, faults = Journal(results).read()
    records, record_faults = read_records(results)
    agendas, agenda_faults = paired_plans_file(results).read()
    conclusions, conclusion_faults = conclusions_file(results).read()
    return FiledResults(
        runs, [*faults, *record_faults, *agenda_faults, *conclusion_faults], records, agendas, conclusions
    )


def is_weights_path(wanted: str) -> bool:
    return Path(wanted).suffix == ".safetensors"


def find_run(wanted: str, results: Path, with_weights: bool = False) -> Run:
    """The run of an id, the latest one, or the one that ended with the weights in a file.

    Args:
        wanted: a run id, `latest`, or a path to weights.
        results: the folder of the journal.
        with_weights: pass over runs that kept none.

    Raises:
        UsageError: there is no such run; names the nearest.
    """
    runs, faults = Journal(results).read()
    print_faults(faults)
    candidates = [run for run in runs if run.weights is not None or not with_weights]
    kind = "run with weights" if with_weights else "run"
    if is_weights_path(wanted):
        digest = weights_sha256(Path(wanted))
        found = [run for run in candidates if run.weights_sha256 == digest]
        if not found:
            raise UsageError(f"no run in {results} ended with the weights in {wanted} (sha256 {digest})")
    elif not candidates:
        raise UsageError(f"there is no {kind} in {results}")
    elif wanted == "latest":  # of those that were made for their own sake, if there are any
        found = [run for run in candidates if run.is_contest] or candidates
    else:
        found = [run for run in candidates if run.run_id == wanted]
        if not found:
            (near,) = difflib.get_close_matches(wanted, [run.run_id for run in candidates], n=1, cutoff=0.0)
            raise UsageError(f"there is no {kind} {wanted!r} in {results}; the nearest is {near!r}")
    return max(found, key=lambda run: run.started_at)


def find_weights(wanted: str, results: Path) -> Path:
    """The weights of a run id, of the latest run that kept any, or at a path, which needs no journal.

    Raises:
        UsageError: there is no such run, it kept no weights, or they are not here.
    """
    if is_weights_path(wanted):
        return Path(wanted)
    run = find_run(wanted, results, with_weights=True)
    if not (results / run.weights).exists():
        raise UsageError(
            f"the weights of {run.run_id} are not here: the journal travels without them; make an attempt first, or "
            "name those of a record, results/records/NAME/weights.safetensors"
        )
    return results / run.weights


def weights_sha256(path: Path) -> str:
    """Of a weights file, as the journal has it.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise UsageError(f"{path}: there is no such weights file") from None
    except OSError as problem:
        raise UsageError(describe_os_error(problem)) from None
