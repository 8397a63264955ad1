"""`python -m bench ask`: answers by the weights of a run, one a line."""

import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor

from bench import weights
from bench.certify import BATCH_SIZE, greedy_answers
from bench.config import WrongRequest
from bench.hardware import pick_device
from bench.journal import Journal
from bench.provenance import ROOT
from data import Track, decode, encode


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Answer problems with the weights of a run."""

    run: Annotated[str, tyro.conf.Positional]
    """A run id, a path to weights, or `latest`."""
    prompts: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Problems, such as 123+456=."""
    file: Path | None = None
    """A file of problems, a line each, in place of those on the command line."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    results: Path = ROOT / "results"
    """The folder of the journal and the weights."""


def find_weights(run: str, results: Path) -> Path:
    """The weights of a run id, of `latest`, or at a path.

    Raises:
        WrongRequest: there is no such run, or it kept no weights.
    """
    if Path(run).suffix == ".safetensors":
        return Path(run)
    runs, _ = Journal(results).read()
    with_weights = [candidate for candidate in runs if candidate.weights is not None]
    if run != "latest":
        with_weights = [candidate for candidate in with_weights if candidate.run_id == run]
    if not with_weights:
        what = "no run with weights" if run == "latest" else f"no run {run!r} with weights"
        raise WrongRequest(f"there is {what} in {results}")
    return results / max(with_weights, key=lambda candidate: candidate.started_at).weights


def prompt_blocks(lines: Iterable[str], track: Track, where: Callable[[int], str]) -> Iterator[Tensor]:
    """Token ids (n, prompt_length) uint8 of many prompts at a time; `where` names the prompt of a number.

    Raises:
        WrongRequest: a line is no prompt of the track.
    """
    characters = torch.full((256,), 255, dtype=torch.uint8)
    characters[torch.tensor(list(track.vocabulary.encode()))] = torch.arange(len(track.vocabulary), dtype=torch.uint8)
    example = decode(track, track.tokens(torch.tensor(0))[: track.prompt_length])
    numbered = enumerate(line.rstrip("\r\n") for line in lines)
    while block := list(itertools.islice(numbered, BATCH_SIZE)):
        whole = [(number, text) for number, text in block if len(text.encode()) == track.prompt_length]
        ids = characters[torch.frombuffer(bytearray("".join(t for _, t in whole).encode()), dtype=torch.uint8).long()]


def main(arguments: Arguments) -> int:
    return 0
