"""`python -m bench ask`: answer problems with the weights of a run."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from bench.arguments import OptionalPathArgument
from bench.cli import EXIT_WRONG_REQUEST, check_seed, print_progress
from bench.commands.options import DEFAULT_RESULTS, DeviceOption, ResultsOption
from bench.errors import UsageError, describe_os_error
from bench.machine.devices import pick_device
from bench.storage.jsonl import print_faults
from bench.storage.results import find_weights


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Answer problems with the weights of a run, an answer a line.

    A text that is no problem of the run's track gets an empty line, a message, and exit status 2.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run id, a path to weights, or `latest`, the latest run that kept weights; RUN@STEP are the weights that a run
    saved after a step."""
    prompts: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PROBLEM")] = ()
    """Problems, such as 123+456=."""
    file: OptionalPathArgument = None
    """A file of problems, one a line, in place of PROBLEM."""
    temperature: float = 0.0
    """Sample tokens at this temperature; 0 answers greedily, as the certificate does."""
    top_k: int = 0
    """Sample from this many of the likeliest tokens; 0: from all."""
    top_p: float = 1.0
    """Sample from the likeliest tokens that together have this probability, above 0, at most 1."""
    seed: int = 1
    """Seed of the sampled tokens."""
    device: DeviceOption = "auto"
    results: ResultsOption = DEFAULT_RESULTS


def main(arguments: Arguments) -> int:
    from bench.attempt.answers import Answers  # imports torch, which takes a second

    if bool(arguments.prompts) == (arguments.file is not None):
        raise UsageError("ask needs either problems or --file")
    check_sampling(arguments)
    device = pick_device(arguments.device)
    try:
        path, answering = find_weights(arguments.run, arguments.results)
        texts = arguments.prompts if arguments.file is None else read_lines(arguments.file)
        answers = Answers(path, texts, device)
        answers.sample(arguments.temperature, arguments.top_k, arguments.top_p, arguments.seed)
    except (OSError, ValueError) as problem:
        raise UsageError(describe_os_error(problem) if isinstance(problem, OSError) else str(problem)) from None
    print_faults(answers.faults(None if arguments.file is None else str(arguments.file)))
    if not answers.is_problem.any():
        return EXIT_WRONG_REQUEST if texts else 0
    print_progress(f"answers by {answering}")
    for answer in answers:
        sys.stdout.write(f"{answer}\n")
    return 0 if answers.is_problem.all() else EXIT_WRONG_REQUEST


def check_sampling(arguments: Arguments) -> None:
    """Raise UsageError for an option of sampling that is out of range or has no effect."""
    if not 0 <= arguments.temperature < float("inf"):
        raise UsageError(f"--temperature {arguments.temperature:g}: must be at least 0")
    if arguments.top_k < 0:
        raise UsageError(f"--top-k {arguments.top_k}: must be at least 0")
    check_seed(arguments.seed)
    if not 0 < arguments.top_p <= 1:
        raise UsageError(f"--top-p {arguments.top_p:g}: must be above 0 and at most 1")
    if not arguments.temperature and (arguments.top_k or arguments.top_p < 1):
        raise UsageError("--top-k and --top-p choose among sampled tokens: add --temperature 1")


def read_lines(path: Path) -> Sequence[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as problem:
        raise UsageError(f"{path}: {problem}") from None
