"""Certifies a weights file in a separate process: `python -m bench.attempt.recertify PATH SEED plain|fast`.

The process runs the current harness and tracks with the contestant's model, assembled in a temporary folder.
"""

import functools
import sys
import tempfile
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from bench.attempt.certify import all_completions, batch_size_for, certify, mean_loss
from bench.attempt.decoding import NextLogits
from bench.processes import json_lines, last_error_line, run_python
from bench.provenance import ROOT, copy_files, harness_files, source_files
from bench.storage import weights
from bench.storage.schema import Certificate, SchemaModel
from bench.streams import print_data
from data import BatchOptions, Track, get_batches
from model import Transformer

ForwardPass = Literal["plain", "fast"]
PLAIN_BATCH_SIZE = 1024  # problems; the plain forward pass has more activations than the fast one


class Recertification(SchemaModel):
    """The results of certifying a weights file."""

    certificate: Certificate
    sentences: list[str]  # about the first mistakes
    parameters: int  # numbers in the file
    other_tensors: list[str]  # in the file, not parameters of the model
    lookahead_change: float  # largest change of a logit by later characters, relative to the largest logit
    right_when_scrambled: float | None = None  # accuracy with scrambled weights, 0..1; None with the fast forward pass


class UnusableWeights(Exception):
    """The weights file could not be certified; the message is one line."""


def recertify(contestant: Path, path: Path, seed: int, forward_pass: ForwardPass) -> Recertification:
    """Certify a weights file again, with the test set of the run's seed; UnusableWeights if that is impossible.

    Args:
        contestant: root of the source tree that holds the model.
        forward_pass: `plain` for the model's `forward`, which defines it, or `fast` for its `answerer`.
    """
    with tempfile.TemporaryDirectory(prefix="addition-speedrun-") as folder:
        assemble(contestant, Path(folder))
        arguments = ["-m", "bench.attempt.recertify", str(path.resolve()), str(seed), forward_pass]
        process = run_python(arguments, folder=Path(folder))
    if process.returncode:
        raise UnusableWeights(last_error_line(process.stderr))
    return Recertification.model_validate_json(*json_lines(process.stdout))


def assemble(contestant: Path, folder: Path) -> None:
    """Copy the current harness and tracks, and the rest of the contestant's source, into an empty folder."""

    def is_track(path: Path, root: Path) -> bool:
        return path.relative_to(root).parts[0] in ("data.py", "tracks")

    copy_files([*harness_files(), *(path for path in source_files() if is_track(path, ROOT))], ROOT, folder)
    copy_files([path for path in source_files(contestant) if not is_track(path, contestant)], contestant, folder)


# -----------------------------------------------------------------------------
# in the separate process


def plain_next_logits(model: Transformer) -> NextLogits:
    return lambda idx: model(idx)[:, -1]


@torch.inference_mode()
def change_by_later_characters(model: Transformer, track: Track, num_sequences: int = 64) -> float:
    """The largest change of any logit when all later characters are replaced, relative to the largest logit.

    Replaces characters after every position in random sequences and in texts of the track (a leak may depend on real
    texts), and tests both forward passes. In a causal model only rounding can differ.
    """
    generator = torch.Generator().manual_seed(0)
    device, length = next(model.parameters()).device, model.config.block_size
    texts = get_batches(track, BatchOptions(), torch.device("cpu"))

    def sequences() -> Tensor:
        """(2 * num_sequences, T) int64."""
        characters = torch.randint(model.config.vocab_size, (2 * num_sequences, length), generator=generator)
        drawn = texts.batch(texts.draw_distinct(num_sequences, generator)).tokens[:, :length]
        characters[num_sequences : num_sequences + len(drawn), : drawn.size(1)] = drawn  # texts of a stream are shorter
        return characters.to(device)

    originals, replacements = sequences(), sequences()
    largest = 0.0
    for forward in (model.forward, model.forward_fast):
        logits = forward(originals)
        for kept in range(1, length):
            mixed = torch.cat([originals[:, :kept], replacements[:, kept:]], 1)
            change = (forward(mixed)[:, :kept] - logits[:, :kept]).abs().max()
            largest = max(largest, float(change / logits.abs().max()))
    return largest


@torch.inference_mode()
def right_when_scrambled(model: Transformer, track: Track, num_problems: int = 4096) -> float:
    """The accuracy of the plain forward pass, 0..1, after the values of each weight have been shuffled in place.

    A model whose answers stay right does not have them from its weights, so they are computed by its code.
    """
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
        weight.copy_(weight.flatten()[order].view_as(weight))
    batches, device = get_batches(track, BatchOptions(), torch.device("cpu")), next(model.parameters()).device
    problems = batches.draw_distinct(num_problems, generator)
    next_logits = plain_next_logits(model)
    _, right = all_completions(next_logits, track, problems, device, PLAIN_BATCH_SIZE, lambda done: None)
    return float(right.double().mean())


def main(path: Path, seed: int, forward_pass: ForwardPass) -> int:
    device = torch.device("cpu")
    model, track = weights.load(path, device)
    next_logits: NextLogits = model.answerer()
    batch_size = batch_size_for(track, device, model)
    if forward_pass == "plain":
        next_logits, batch_size = plain_next_logits(model), PLAIN_BATCH_SIZE
    loss = functools.partial(mean_loss, model)
    certificate, sentences = certify(next_logits, track, device, seed, batch_size, loss=loss)
    sizes = weights.tensor_sizes(path)
    result = Recertification(
        certificate=certificate,
        sentences=sentences,
        parameters=sum(sizes.values()),
        other_tensors=sorted(sizes.keys() - dict(model.named_parameters()).keys()),
        lookahead_change=change_by_later_characters(model, track),
        # Last, because it changes the weights.
        right_when_scrambled=right_when_scrambled(model, track) if forward_pass == "plain" else None,
    )
    print_data(result.model_dump_json())
    return 0


if __name__ == "__main__":
    (chosen,) = (name for name in get_args(ForwardPass) if name == sys.argv[3])
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), chosen))
