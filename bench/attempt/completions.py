"""Completions by the contestant's own forward pass, and their grades: for checks in training and other decodings."""

from collections.abc import Callable

import torch
from torch import Tensor

from bench import distributed
from bench.attempt.memory import decoding_batch_size
from bench.judge.decoding import NextLogits, complete, complete_all
from bench.machine.memory import release_freed_memory
from data import Decoding, Track
from model import Transformer

MIXED_PROBLEMS = 2**14  # with prompts of many lengths: batches of one length are larger and fewer, which is faster


def batch_size_for(track: Track, device: torch.device, model: Transformer | None = None) -> int:
    """Number of problems to decode together; with `model`, so few that its activations fit into memory."""
    config = None if model is None or model.kernel is not None else model.config
    item_bytes = 4 if model is None else model.dtype.itemsize
    return decoding_batch_size(track.description, device.type, config, item_bytes)


def all_completions(
    next_logits: NextLogits,
    track: Track,
    problems: Tensor,
    device: torch.device,
    batch_size: int,
    report: Callable[[float], None],
    generator: torch.Generator | None = None,
    decoding: Decoding | None = None,
) -> tuple[Tensor, Tensor]:
    """The completions (N, A) of problems (N, W) on any device, and whether each is right (N,); both on the CPU.

    `decoding` is by default the track's. Each of several processes decodes its share of the problems.
    """
    completions, right = [], []
    decoding = track.decoding if decoding is None else decoding
    is_small = decoding.stop_token is None and len(track.vocabulary) <= 256
    is_one_length = track.description.is_one_length
    part_size = batch_size
    if not (is_one_length or decoding.temperature):  # samples depend on the parts, and keep them
        part_size = max(batch_size, MIXED_PROBLEMS)
    parts = distributed.share(problems).split(part_size)
    for i, part in enumerate(parts):
        report(i / len(parts))
        if len(part) > batch_size:  # batches of other lengths have buffers of other sizes
            release_freed_memory()
        part = part.to(device)
        prompts = track.prompts(part)
        if is_one_length:
            decoded = complete(next_logits, prompts.long(), decoding, generator)
        else:
            decoded = complete_all(next_logits, prompts, decoding, batch_size, generator)
        completions.append(decoded.to(torch.uint8 if is_small else torch.int32))
        right.append(track.grade(part, completions[-1]))

    def gather(parts: list[Tensor]) -> Tensor:
        return distributed.gather(torch.cat(parts), len(problems)).cpu()

    return gather(completions), gather(right)


def decode_and_grade(model: Transformer, track: Track, problems: Tensor, generator: torch.Generator) -> Tensor:
    """Whether the completion of each of the problems (N, W) is right, (N,) bool on the generator's device.

    For the trainer's own evaluations: each of several processes decodes its share.
    """
    device = generator.device
    inputs = model.answerer(), track, problems, device, batch_size_for(track, device, model)
    return all_completions(*inputs, report=lambda done: None, generator=generator)[1].to(device)
