"""Tables of published figures beside ours: validation loss by epoch, steps until 95% are right, scores of decodings."""

import math
import statistics
from collections.abc import Sequence

from bench.formatting import UNKNOWN, markdown_table, number, spread_text
from bench.report.peer_configs import Peer, PublishedSteps
from bench.stats.ranking import group_batches, group_entries
from bench.storage.schema import Check, DecodingKey, DecodingScore, Run, Sampling

GREEDY: DecodingKey = (0.0, 0, 1.0)
TARGET = "validation 95%"  # key of a run's `reached_steps`

# -----------------------------------------------------------------------------
# validation loss


def check_after(run: Run, epoch: int) -> Check | None:
    """The first check of a run with a validation loss at or after the end of an epoch; None before that."""
    num_epochs, num_steps = run.settings.get("num_epochs"), run.settings.get("num_steps")
    if not num_epochs or not num_steps:
        return None
    evaluated = [check for check in run.checks if check.validation is not None and check.validation.loss is not None]
    return next((check for check in evaluated if check.step * float(num_epochs) >= epoch * float(num_steps)), None)


def loss_text(loss: float | None) -> str:
    """Three decimals, four below 0.1."""
    return number(loss, ".3f" if loss is None or loss >= 0.1 else ".4f")


def loss_table(peers: Sequence[tuple[Peer, Run | None]]) -> str | None:
    """Validation loss by epoch: one row an epoch, one column a config, `ours (published)`; None without figures.

    Each peer stands beside one run, or None where it has not been run.
    """
    compared = [(peer, run) for peer, run in peers if peer.published_validation_loss]
    epochs = {epoch for peer, _ in compared for epoch in peer.published_validation_loss}
    rows = []
    for epoch in sorted(epochs):
        cells = []
        for peer, run in compared:
            check = None if run is None else check_after(run, epoch)
            ours = None if check is None or check.validation is None else check.validation.loss
            published = peer.published_validation_loss.get(epoch)
            beside = "" if published is None else f" ({loss_text(published)})"
            cells.append(loss_text(ours) + beside if ours is not None or beside else "")
        rows.append([epoch, *cells])
    return markdown_table(["epoch", *(peer.config for peer, _ in compared)], rows) if rows else None


# -----------------------------------------------------------------------------
# steps until 95% of the validation problems are right


def ranked_runs(config: str, runs: Sequence[Run]) -> Sequence[Run]:
    """The runs of a config's newest ranked entry of the board, without changed settings."""
    of_config = [run for run in runs if run.config == config and run.is_contest and not run.overrides]
    entries = [entry for entry in group_entries(group_batches(of_config)) if entry.ranked]
    return max(entries, key=lambda entry: max(run.started_at for run in entry.runs)).runs if entries else ()


def steps_cells(trainer: str, runs: Sequence[Run]) -> tuple[str, float, list[str]]:
    """The task, the median of the steps, and the cells of a row about runs of one config."""
    steps = [step for run in runs if (step := (run.reached_steps or {}).get(TARGET)) is not None]
    middle, first = statistics.median(steps) if steps else None, runs[0]
    batch_size = int(first.settings["batch_size"] or 0)
    text = spread_text(steps, ",.0f") if len(steps) > 1 else number(steps[0]) if steps else "not reached"
    texts = None if middle is None else middle * batch_size
    cells = [
        first.track,
        trainer,
        text,
        number(batch_size),
        number(texts),
        f"{len(steps)} of {len(runs)}",
        "this project",
    ]
    return first.track, math.inf if middle is None else middle, cells


def published_steps_cells(line: PublishedSteps) -> tuple[str, float, list[str]]:
    """The task, the steps, and the cells of a row about a published figure."""
    text = f"{line.epochs:,.1f} epochs" if line.steps is None and line.epochs is not None else number(line.steps)
    text += f", in {line.seconds:,.0f} s" if line.seconds is not None else ""
    texts = None if line.steps is None or line.batch_size is None else line.steps * line.batch_size
    cells = [line.task, line.trainer, text, number(line.batch_size), number(texts), number(line.runs), line.source]
    return line.task, line.steps or math.inf, cells


def steps_table(peer: Peer, peer_runs: Sequence[Run], runs: Sequence[Run]) -> str | None:
    """Steps until 95% of the validation problems are right: ours and published ones, by task; None without figures."""
    if not peer.published_steps:
        return None
    ours = {config: ranked_runs(config, runs) for config in peer.compared_configs} | {peer.config: peer_runs}
    rows = [steps_cells(f"`{config}`", config_runs) for config, config_runs in ours.items() if config_runs]
    rows += map(published_steps_cells, peer.published_steps)
    tasks = list(dict.fromkeys(task for task, _, _ in rows))
    rows.sort(key=lambda row: (tasks.index(row[0]), row[1]))
    headings = ("task", "trainer", "steps", "batch", "training texts", "runs", "source")
    return markdown_table(headings, [cells for _, _, cells in rows], ("task", "trainer", "source"))


# -----------------------------------------------------------------------------
# sampled and greedy answers


def decoding_text(decoding: DecodingKey) -> str:
    """`temperature 0.8, top-k 200`; `greedy` at temperature 0."""
    temperature, top_k, top_p = decoding
    if not temperature:
        return "greedy"
    return f"temperature {temperature:g}" + f", top-k {top_k}" * (top_k > 0) + f", top-p {top_p:g}" * (top_p < 1)


def score_text(score: DecodingScore | None) -> str:
    """`9,734 of 10,000: 97.34% [97.01%, 97.64%]`; without an interval for a published score."""
    if score is None:
        return UNKNOWN
    text = f"{score.right:,} of {score.problems:,}: {score.right / score.problems:.2%}"
    return text + (f" [{score.share_95[0]:.2%}, {score.share_95[1]:.2%}]" if isinstance(score, Sampling) else "")


def samplings_table(samplings: Sequence[Sampling], runs: Sequence[Run], peers: Sequence[Peer]) -> str:
    """A row for each sampled model and each published score, by track; a column for each decoding.

    The newest score of each model and decoding counts.
    """
    models = {run.run_id: run for run in runs}
    scores: dict[str, dict[DecodingKey, DecodingScore]] = {}
    for line in samplings:
        if line.run_id in models:
            scores.setdefault(line.run_id, {})[line.decoding] = line
    rows = [(models[run_id].track, f"[{run_id}]({models[run_id].weights})", row) for run_id, row in scores.items()]
    for peer in peers:
        if (score := peer.published_score) is not None:
            rows.append((peer.track, f"{peer.config}, published", {score.decoding: score}))
    rows.sort(key=lambda row: row[0])
    decodings = sorted({decoding for _, _, row in rows for decoding in row})
    cells = [[track, model, *(score_text(row.get(decoding)) for decoding in decodings)] for track, model, row in rows]
    return markdown_table(["track", "model", *map(decoding_text, decodings)], cells, ("track", "model"))
