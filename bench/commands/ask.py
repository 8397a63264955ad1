"""`python -m bench ask`: answer problems with the weights of a run."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor

from bench.arguments import PathArgument
from bench.attempt.certify import batch_size_for, greedy_answers
from bench.commands.options import DEFAULT_RESULTS, DeviceOption, ResultsOption
from bench.errors import UsageError, describe_os_error
from bench.machine.devices import pick_device
from bench.storage import weights
from bench.storage.results import find_weights
from data import Track, decode


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Answer problems with the weights of a run, an answer a line."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run id, a path to weights, or `latest`."""
    prompts: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PROBLEM")] = ()
    """Problems, such as 123+456=."""
    file: PathArgument | None = None
    """A file of problems, one a line, in place of PROBLEM."""
    device: DeviceOption = "auto"
    results: ResultsOption = DEFAULT_RESULTS


def main(arguments: Arguments) -> int:
    if bool(arguments.prompts) == (arguments.file is not None):
        raise UsageError("ask needs either problems or --file")
    device = pick_device(arguments.device)
    try:
        model, track = weights.load(find_weights(arguments.run, arguments.results), device)
        texts = arguments.prompts if arguments.file is None else read_lines(arguments.file)
    except (OSError, ValueError) as problem:
        raise UsageError(describe_os_error(problem) if isinstance(problem, OSError) else str(problem)) from None
    if not texts:
        return 0
    prompts = read_prompts(texts, track, arguments.file)
    next_logits = model.answerer()
    for block in prompts.split(batch_size_for(track, device)):
        answers = greedy_answers(next_logits, block.long().to(device), track.answer_length).cpu()
        sys.stdout.write("".join(f"{decode(track, answer)}\n" for answer in answers.tolist()))
    return 0


def read_lines(path: Path) -> Sequence[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as problem:
        raise UsageError(f"{path}: {problem}") from None


def read_prompts(texts: Sequence[str], track: Track, file: Path | None) -> Tensor:
    """Encode prompts as token ids (n, prompt_length) uint8; a text that is no prompt is a UsageError."""
    no_character = len(track.vocabulary)
    ids_of_bytes = torch.full((256,), no_character, dtype=torch.uint8)
    for token, character in enumerate(track.vocabulary):
        ids_of_bytes[ord(character)] = token
    wrong = next((i for i, text in enumerate(texts) if len(text) != track.prompt_length), None)
    if wrong is None:
        characters = torch.frombuffer(bytearray("".join(texts), "ascii", "replace"), dtype=torch.uint8)
        ids = ids_of_bytes[characters.long()].view(-1, track.prompt_length)
        _, valid = track.problems(ids)
        if valid.all():
            return ids
        wrong = int((~valid).nonzero()[0])
    example = decode(track, track.tokens(track.example)[: track.prompt_length])
    location = "" if file is None else f"{file}:{wrong + 1}: "
    raise UsageError(f"{location}{texts[wrong]!r} is not a problem of {track.name}; write it like {example!r}")
