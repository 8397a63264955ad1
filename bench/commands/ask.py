"""`python -m bench ask`: answers by the weights of a run, one a line."""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor

from bench.attempt.certify import batch_size_for, greedy_answers
from bench.errors import UsageError, describe_os_error
from bench.machine.devices import pick_device
from bench.provenance import ROOT
from bench.storage import weights
from bench.storage.results import find_weights
from data import Track, decode


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Answer problems with the weights of a run."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run id, a path to weights, or `latest`."""
    prompts: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PROBLEM")] = ()
    """Problems, such as 123+456=."""
    file: Path | None = None
    """A file of problems, a line each, in place of those on the command line."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    results: Path = ROOT / "results"
    """The folder of the journal and the weights."""


def read_prompts(texts: Sequence[str], track: Track, where: Callable[[int], str]) -> Tensor:
    """Texts to token ids (n, prompt_length) uint8; `where` says which text a number means.

    Raises:
        UsageError: one of them is no prompt of the track.
    """
    no_character = len(track.vocabulary)
    ids_of_bytes = torch.full((256,), no_character, dtype=torch.uint8)
    for token, character in enumerate(track.vocabulary):
        ids_of_bytes[ord(character)] = token
    wrong = next((i for i, text in enumerate(texts) if len(text) != track.prompt_length), None)
    if wrong is None:
        written = torch.frombuffer(bytearray("".join(texts), "ascii", "replace"), dtype=torch.uint8)
        ids = ids_of_bytes[written.long()].view(-1, track.prompt_length)
        _, valid = track.problems(ids)
        if valid.all():
            return ids
        wrong = int((~valid).nonzero()[0])
    example = decode(track, track.tokens(track.example)[: track.prompt_length])
    raise UsageError(f"{where(wrong)}{texts[wrong]!r} is no problem of {track.name}; one looks like {example!r}")


def main(arguments: Arguments) -> int:
    if bool(arguments.prompts) == (arguments.file is not None):
        raise UsageError("ask needs either problems or --file")
    try:
        device = pick_device(arguments.device)
        model, track = weights.load(find_weights(arguments.run, arguments.results), device)
        texts = arguments.prompts
        if arguments.file is not None:
            texts = arguments.file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as problem:
        raise UsageError(f"{arguments.file}: {problem}") from None
    except OSError as problem:
        raise UsageError(describe_os_error(problem)) from None
    except ValueError as problem:
        raise UsageError(str(problem)) from None
    if not texts:
        return 0
    prompts = read_prompts(texts, track, lambda i: f"{arguments.file}:{i + 1}: " if arguments.file else "")
    next_logits = model.answerer()
    for block in prompts.split(batch_size_for(track, device)):
        answers = greedy_answers(next_logits, block.long().to(device), track.answer_length).cpu()
        sys.stdout.write("".join(f"{decode(track, answer)}\n" for answer in answers.tolist()))
    return 0
