"""The certificate again, from a weights file, in a process of its own that has never seen the training.

The process runs today's harness and today's tracks with the contestant's model, put together in a clean folder.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from bench.attempt.certify import NextLogits, certify, greedy_answers
from bench.experiments.launcher import child_environment
from bench.provenance import ROOT, harness_files, source_files
from bench.storage import weights
from bench.storage.schema import Certificate, SchemaModel
from data import Track
from model import Transformer

How = Literal["plain", "fast"]
PLAIN_BATCH_SIZE = 1024  # problems; the full forward pass has more activations than the tables


class Recertification(SchemaModel):
    """What stands in a weights file."""

    certificate: Certificate
    sentences: list[str]  # the first mistakes
    parameters: int  # numbers in the file
    other_tensors: list[str]  # of the file, that are no parameters of the model
    latest_change: float  # the largest change of a logit by later characters, over the largest logit
    right_when_scrambled: float | None = None  # share of problems, 0..1, with the weights scrambled; null: nobody asked


class UnusableWeights(Exception):
    """The weights file could not be certified; the message is one line."""


def recertify(contestant: Path, path: Path, seed: int, how: How) -> Recertification:
    """Certify a weights file anew.

    Args:
        contestant: the tree whose model the weights are for.
        path: the weights.
        seed: of the run that they are from, by which its test set was drawn.
        how: by the model's plain `forward`, whose definition anyone can read, or by its fast `answerer`.

    Raises:
        UnusableWeights: there is nothing to certify.
    """
    with tempfile.TemporaryDirectory(prefix="addition-speedrun-") as folder:
        assemble(contestant, Path(folder))
        command = [sys.executable, "-m", "bench.attempt.recertify", str(path.resolve()), str(seed), how]
        answer = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, encoding="utf-8", env=child_environment({})
        )
    if answer.returncode:
        raise UnusableWeights((answer.stderr.strip().splitlines() or ["it ended without a word"])[-1])
    return Recertification.model_validate_json(answer.stdout.splitlines()[-1])


def assemble(contestant: Path, folder: Path) -> None:
    """Today's harness and tracks, with the contestant's model and what stands beside it, in an empty folder."""
    today = [*harness_files(), *(path for path in source_files() if is_track(path, ROOT))]
    theirs = [path for path in source_files(contestant) if not is_track(path, contestant)]
    for root, files in ((ROOT, today), (contestant, theirs)):
        for path in files:
            target = folder / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def is_track(path: Path, root: Path) -> bool:
    return path.relative_to(root).parts[0] in ("data.py", "tracks")


# -----------------------------------------------------------------------------
# in the process of its own


def plain_next_logits(model: Transformer) -> NextLogits:
    """The model's definition: the full forward pass, whose last position is asked."""
    return lambda idx: model(idx)[:, -1]


@torch.inference_mode()
def change_by_later_characters(model: Transformer, track: Track, num_sequences: int = 64) -> float:
    """The largest change of any logit when all characters after its own are replaced, over the largest logit.

    Random sequences, and texts of the track, as a leak may spare what is no text; each cut at every place. The plain
    forward pass and the fast one. A causal model has nothing but rounding to show.
    """
    generator = torch.Generator().manual_seed(0)
    device, length = next(model.parameters()).device, model.config.block_size
    sampler = track.sampler(0.0, torch.device("cpu"))

    def sequences() -> Tensor:
        """(2 * num_sequences, T) int64."""
        characters = torch.randint(model.config.vocab_size, (2 * num_sequences, length), generator=generator)
        texts = track.tokens(sampler.draw(1, num_sequences, generator)[0])[:, :length]
        characters[num_sequences:, : texts.size(1)] = texts  # of a stream they are shorter than its windows
        return characters.to(device)

    here, there = sequences(), sequences()
    largest = 0.0
    for forward in (model.forward, model.forward_fast):
        logits = forward(here)
        for kept in range(1, length):
            mixed = torch.cat([here[:, :kept], there[:, kept:]], 1)
            change = (forward(mixed)[:, :kept] - logits[:, :kept]).abs().max()
            largest = max(largest, float(change / logits.abs().max()))
    return largest


@torch.inference_mode()
def right_when_scrambled(model: Transformer, track: Track, num_problems: int = 4096) -> float:
    """The share of problems, 0..1, that the plain forward pass gets right with each weight's values in random order.

    What was learned stands in the weights, so a model that still answers knows it from elsewhere: its code computes.
    The model is left scrambled.
    """
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
        weight.copy_(weight.flatten()[order].view_as(weight))
    problems = track.sampler(0.0, torch.device("cpu")).draw(1, num_problems, generator)[0]
    texts = track.tokens(problems).long().to(next(model.parameters()).device)
    prompts, right = texts[:, : track.prompt_length], texts[:, track.prompt_length :]
    parts = [
        greedy_answers(plain_next_logits(model), part, track.answer_length) for part in prompts.split(PLAIN_BATCH_SIZE)
    ]
    return float((torch.cat(parts) == right).all(1).float().mean())


def main(path: Path, seed: int, how: How) -> int:
    device = torch.device("cpu")
    model, track = weights.load(path, device)
    next_logits, batch_size = (
        (plain_next_logits(model), PLAIN_BATCH_SIZE) if how == "plain" else (model.answerer(), None)
    )
    certificate, sentences = certify(next_logits, track, device, seed, batch_size)
    names = {name for name, _ in model.named_parameters()}
    sizes = weights.tensor_sizes(path)
    found = Recertification(
        certificate=certificate,
        sentences=sentences,
        parameters=sum(sizes.values()),
        other_tensors=sorted(sizes.keys() - names),
        latest_change=change_by_later_characters(model, track),
        right_when_scrambled=right_when_scrambled(model, track) if how == "plain" else None,  # spoils the model
    )
    print(found.model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
