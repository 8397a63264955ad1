"""`python -m bench sample`: score sampled answers against greedy ones."""

import dataclasses
from datetime import UTC, datetime
from typing import Annotated

import tyro

from bench.cli import check_positive, check_seed, print_progress, reject_unwritable
from bench.commands.options import DEFAULT_RESULTS, DeviceOption, ResultsOption
from bench.console import output_console
from bench.errors import UsageError, describe_os_error
from bench.formatting import terminal_table
from bench.machine.devices import pick_device
from bench.report.published_figures import decoding_text, score_text
from bench.storage.results import find_run, find_weights, weights_sha256
from bench.storage.samplings import samplings_file
from bench.storage.schema import Run, Sampling


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Score the answers of a run, decoded in four ways on the same problems.

    The ways are greedy; temperature 1; temperature 0.8 with top-k 200; temperature 1 with top-p 0.9. The problems are
    held out from training, unless the track holds nothing out, which a message says. The scores are
    filed in samplings.jsonl; `bench board` shows them in PEERS.md, with a link to the weights of the run.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run id, a path to weights, or `latest`, the latest run that kept weights."""
    problems: int = 10_000
    """Number of problems, drawn from the held-out ones of the test set, or from all if the track holds nothing out."""
    seed: int = 1
    """Seed of the problems and of the sampled tokens."""
    device: DeviceOption = "auto"
    results: ResultsOption = DEFAULT_RESULTS


def main(arguments: Arguments) -> int:
    from bench.attempt.sampling import sampled_scores  # imports torch, which takes a second
    from bench.stats.descriptive import wilson_interval

    check_positive(arguments, "problems")
    check_seed(arguments.seed)
    table = terminal_table(("decoding", "right, 95%"), ["decoding", "right, 95%"])
    path, _ = find_weights(arguments.run, arguments.results)
    run, digest, device = journalled_run(arguments), weights_sha256(path), pick_device(arguments.device)
    try:
        for decoding, problems, right in sampled_scores(path, arguments.problems, arguments.seed, device):
            temperature, top_k, top_p = decoding
            line = Sampling(
                run_id=path.name if run is None else run.run_id,
                weights_sha256=digest,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                seed=arguments.seed,
                problems=problems,
                right=right,
                share_95=wilson_interval(right, problems),
                measured_at=datetime.now(UTC),
            )
            if run is not None:
                with reject_unwritable(arguments.results):
                    samplings_file(arguments.results).append(line)
            table.add_row(decoding_text(decoding), score_text(line))
    except (OSError, ValueError) as problem:
        raise UsageError(describe_os_error(problem) if isinstance(problem, OSError) else str(problem)) from None
    output_console().print(table)
    return 0


def journalled_run(arguments: Arguments) -> Run | None:
    """The run of the weights; None, with a message, for a path to weights of no run in the journal."""
    try:
        return find_run(arguments.run, arguments.results, with_weights=True)
    except UsageError as problem:  # the weights have been found, so they are at a path, or of a step
        reason = "these are not the final weights of a run" if "@" in arguments.run else problem
        print_progress(f"{reason}; the scores are not filed")
        return None
