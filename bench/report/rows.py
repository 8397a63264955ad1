"""Rows of the leaderboard and of the track pages, as dictionaries of texts for the templates."""

from collections.abc import Mapping, Sequence
from typing import Any

from bench.clock import ClockName
from bench.formatting import commit_text, contestant_text, middle, number, ratio_text, search_text, spread_text
from bench.stats.descriptive import peak_memory, utilisation
from bench.stats.expected_time import expected_time_to_success
from bench.stats.ranking import Entry
from bench.storage.records import RecordFolder
from bench.storage.schema import Conclusion, PairedPlan, Run


def entry_row(entry: Entry, clock: ClockName, rank: int, yardsticks: Mapping[str, Run]) -> dict[str, Any]:
    """One ranked contestant.

    Args:
        yardsticks: batch id -> the yardstick run made beside that batch.
    """
    first = entry.runs[0]
    beside = [yardsticks[batch.id] for batch in entry.batches if batch.id in yardsticks]
    return {
        "rank": rank,
        "config": first.config,
        "ert": number(expected_time_to_success(entry.runs, clock), ".2f"),
        "solved": solved_text(entry),
        "spread": spread_text(entry.values(lambda run: getattr(run.seconds, clock)), ".2f"),
        "steps": middle(entry.values(lambda run: run.steps), ",.0f"),
        "parameters": middle(entry.values(lambda run: run.parameters), ",.0f"),
        "memory": middle([value / 2**20 for value in entry.values(peak_memory)], ",.0f"),
        "clean": clean_text(entry.runs),
        "utilisation": middle(entry.values(utilisation), ".1%"),
        "yardstick": middle([run.seconds.train for run in beside if run.seconds.train is not None], ".2f"),
        "date": f"{first.started_at:%Y-%m-%d}",
        "commit": commit_text(first.commit, first.dirty),
        **attempts_link(entry),
    }


def attempts_link(entry: Entry) -> dict[str, str]:
    """The anchor of an entry's attempts on the page of its track, and the text of a link to it."""
    batches = "" if len(entry.batches) == 1 else f" in {len(entry.batches)} batches"
    return {"anchor": entry.id, "attempts": f"{len(entry.runs)}{batches}"}


def unranked_row(entry: Entry) -> dict[str, Any]:
    """One contestant without a finished batch of the size that ranks."""
    first = entry.runs[0]
    return {
        "config": first.config,
        "train": number(expected_time_to_success(entry.runs, "train"), ".2f"),
        "total": number(expected_time_to_success(entry.runs, "total"), ".2f"),
        "solved": solved_text(entry),
        "clean": clean_text(entry.runs),
        "date": f"{first.started_at:%Y-%m-%d}",
        "commit": commit_text(first.commit, first.dirty),
        **attempts_link(entry),
    }


def solved_text(entry: Entry) -> str:
    is_whole = all(batch.finished for batch in entry.batches)
    return f"{entry.num_solved}/{len(entry.runs)}" + ("" if is_whole else f" of {entry.num_planned} planned")


def clean_text(runs: Sequence[Run]) -> str:
    """How many attempts ran on a quiet machine; an em dash when that was not measured."""
    known = [run.machine.clean for run in runs if run.machine.clean is not None]
    return f"{sum(known)}/{len(runs)}" if known else number(None)


def record_row(folder: RecordFolder) -> dict[str, Any]:
    record, result = folder.record, folder.record.result
    replays, _ = folder.reproductions.read()
    return {
        "name": record.name,
        "ert": number(record.ert_seconds, ".2f"),
        "ratio": ratio_text(record.ert_ratio, record.ert_ratio_95),
        "predecessor": record.predecessor,
        "solved": f"{result.solved}/{result.attempts}",
        "clean": f"{result.clean}/{result.attempts}" + (" (noisy)" if record.noisy else ""),
        "parameters": number(record.parameters),
        "date": f"{record.started_at:%Y-%m-%d}",
        "commit": record.commit[:10],
        "machine_classes": str(len(folder.machine_classes())),
        "replays": f"{sum(replay.reproduced for replay in replays)}/{len(replays)}" if replays else number(None),
        "failed_replays": [
            f"A replay of {replay.started_at:%Y-%m-%d} did not reproduce {record.name}: {replay.reason}; "
            f"{replay.result.solved} of {replay.result.attempts} solved, {replay.certified} certified again."
            for replay in replays
            if not replay.reproduced
        ],
        "search": search_text(record.search) or number(None),
    }


def comparison_row(plan: PairedPlan, conclusion: Conclusion | None, num_attempts: int) -> dict[str, str]:
    """One comparison.

    Args:
        conclusion: None for a comparison that is not finished.
        num_attempts: the attempts made so far, of both sides.
    """
    row = {
        "id": plan.id,
        "clock": plan.clock,
        "a": contestant_text(plan.a),
        "b": number(None) if plan.b is None else contestant_text(plan.b),
        "number": str(plan.number),
        "pairs": str(plan.pairs),
        "date": f"{plan.started_at:%Y-%m-%d}",
    }
    if conclusion is None:
        unknown = dict.fromkeys(("ratio", "p_value", "drift", "solved"), number(None))
        return row | unknown | {"verdict": f"not finished: {num_attempts} of {2 * plan.pairs} attempts"}
    return row | {
        "verdict": conclusion.verdict,
        "ratio": ratio_text(conclusion.ert_ratio, conclusion.ert_ratio_95),
        "p_value": number(conclusion.p_value, ".4f"),
        "drift": number(conclusion.drift, "+.1%"),
        "solved": f"{conclusion.a.solved}/{conclusion.a.attempts}, {conclusion.b.solved}/{conclusion.b.attempts}",
    }


def run_row(run: Run) -> dict[str, Any]:
    certificate = run.certificate
    return {
        "id": run.run_id,
        "config": run.config,
        "seed": run.seed,
        "outcome": run.outcome,
        "errors": number(None if certificate is None else certificate.errors),
        "heldout_errors": number(None if certificate is None else certificate.heldout_errors),
        "steps": number(run.steps),
        "commit": commit_text(run.commit, run.dirty),
        "message": (run.message or "").replace("|", "\\|"),
        **{name: number(value, ".2f") for name, value in run.seconds.model_dump().items()},
    }
