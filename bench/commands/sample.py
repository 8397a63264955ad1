"""`python -m bench sample`: score sampled answers against greedy ones."""

import dataclasses
from datetime import UTC, datetime
from typing import Annotated

import tyro

from bench.cli import check_positive, reject_unwritable
from bench.commands.options import DEFAULT_RESULTS, DeviceOption, ResultsOption
from bench.console import output_console
from bench.errors import UsageError, describe_os_error
from bench.formatting import terminal_table
from bench.machine.devices import pick_device
from bench.report.peers import decoding_text, share_text
from bench.storage.results import find_weights, is_weights_path, weights_sha256
from bench.storage.samplings import samplings_file
from bench.storage.schema import Sampling


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Score the greedy answers of a run, and answers that are sampled in three usual ways, on the same problems.

    The scores are filed in samplings.jsonl; `bench board` shows them in PEERS.md.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run id, a path to weights, or `latest`, the latest run that kept weights."""
    problems: int = 10_000
    """Number of problems, drawn from the test set."""
    seed: int = 1
    """Seed of the problems and of the sampled tokens."""
    device: DeviceOption = "auto"
    results: ResultsOption = DEFAULT_RESULTS


def main(arguments: Arguments) -> int:
    from bench.attempt.sampling import sampled_scores  # imports torch, which takes a second

    check_positive(arguments, "problems")
    table = terminal_table(("decoding", "right", "problems", "share, 95%"), ["decoding"])
    try:
        path, run = find_weights(arguments.run, arguments.results)
        digest, device = weights_sha256(path), pick_device(arguments.device)
        for decoding, problems, right in sampled_scores(path, arguments.problems, arguments.seed, device):
            temperature, top_k, top_p = decoding
            line = Sampling(
                run=path.name if is_weights_path(arguments.run) else run,
                weights_sha256=digest,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                seed=arguments.seed,
                problems=problems,
                right=right,
                measured_at=datetime.now(UTC),
            )
            with reject_unwritable(arguments.results):
                samplings_file(arguments.results).append(line)
            table.add_row(decoding_text(line), f"{right:,}", f"{problems:,}", share_text(line))
    except (OSError, ValueError) as problem:
        raise UsageError(describe_os_error(problem) if isinstance(problem, OSError) else str(problem)) from None
    output_console().print(table)
    return 0
