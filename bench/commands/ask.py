"""`python -m bench ask`: answer problems with the weights of a run."""

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor

from bench.arguments import OptionalPathArgument
from bench.attempt.certify import batch_size_for, greedy_answers
from bench.cli import EXIT_WRONG_REQUEST, print_progress
from bench.commands.options import DEFAULT_RESULTS, DeviceOption, ResultsOption
from bench.errors import UsageError, describe_os_error
from bench.machine.devices import pick_device
from bench.storage import weights
from bench.storage.jsonl import print_faults
from bench.storage.results import find_weights
from data import TRACKS, Track, decode

MOST_MESSAGES = 20  # about texts that are no problems


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Answer problems with the weights of a run, an answer a line.

    A text that is no problem of the run's track gets an empty line, a message, and exit status 2.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run id, a path to weights, or `latest`, the latest run that kept weights."""
    prompts: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PROBLEM")] = ()
    """Problems, such as 123+456=."""
    file: OptionalPathArgument = None
    """A file of problems, one a line, in place of PROBLEM."""
    device: DeviceOption = "auto"
    results: ResultsOption = DEFAULT_RESULTS


def main(arguments: Arguments) -> int:
    if bool(arguments.prompts) == (arguments.file is not None):
        raise UsageError("ask needs either problems or --file")
    device = pick_device(arguments.device)
    try:
        path, answering = find_weights(arguments.run, arguments.results)
        model, track = weights.load(path, device)
        texts = arguments.prompts if arguments.file is None else read_lines(arguments.file)
    except (OSError, ValueError) as problem:
        raise UsageError(describe_os_error(problem) if isinstance(problem, OSError) else str(problem)) from None
    if not texts:
        return 0
    prompts, is_problem = read_prompts(texts, track)
    print_faults(unreadable_prompts(texts, is_problem, track, arguments.file))
    if not is_problem.any():
        return EXIT_WRONG_REQUEST
    print_progress(f"answers by {answering}")
    next_logits = model.answerer()
    block_size = batch_size_for(track, device)
    for block, problems in zip(prompts.split(block_size), is_problem.split(block_size), strict=True):
        answers = greedy_answers(next_logits, block.long().to(device), track.answer_length).cpu()
        rows = zip(answers.tolist(), problems.tolist(), strict=True)
        sys.stdout.write("".join(f"{decode(track, answer) if known else ''}\n" for answer, known in rows))
    return 0 if is_problem.all() else EXIT_WRONG_REQUEST


def read_lines(path: Path) -> Sequence[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as problem:
        raise UsageError(f"{path}: {problem}") from None


def read_prompts(texts: Sequence[str], track: Track) -> tuple[Tensor, Tensor]:
    """Encode texts as token ids (n, prompt_length) uint8; and whether each is a problem of the track (n,) bool.

    In the place of a text that is no problem stands a problem.
    """
    no_character, length = len(track.vocabulary), track.prompt_length
    ids_of_bytes = torch.full((256,), no_character, dtype=torch.uint8)
    for token, character in enumerate(track.vocabulary):
        ids_of_bytes[ord(character)] = token
    example = example_prompt(track)
    has_length = torch.tensor([len(text) == length for text in texts])
    fitting = "".join(text if len(text) == length else example for text in texts)
    characters = torch.frombuffer(bytearray(fitting, "ascii", "replace"), dtype=torch.uint8)
    ids = ids_of_bytes[characters.long()].view(-1, length)
    is_problem = track.problems(ids)[1] & has_length
    ids[~is_problem] = ids_of_bytes[torch.tensor(list(example.encode()))]
    return ids, is_problem


def unreadable_prompts(texts: Sequence[str], is_problem: Tensor, track: Track, file: Path | None) -> Iterator[str]:
    """A message about each text that is no problem of the track, up to MOST_MESSAGES."""
    wrong = (~is_problem).nonzero().flatten().tolist()
    for index in wrong[:MOST_MESSAGES]:
        location = "bench" if file is None else f"{file}:{index + 1}"
        form = TRACKS[track.name].form
        yield (
            f"{location}: {texts[index]!r} is not a problem of {track.name}; write it like {example_prompt(track)!r}"
            + (f": {form}" if form else "")
        )
    if len(wrong) > MOST_MESSAGES:
        yield f"bench: {len(wrong) - MOST_MESSAGES:,} more lines are no problems of {track.name}"


def example_prompt(track: Track) -> str:
    return decode(track, track.tokens(track.example)[: track.prompt_length])
