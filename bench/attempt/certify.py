"""The certificate: the harness decodes the track's test set, one token at a time, and counts the wrong completions.

Here the model is a function from token ids (B, T) to the logits (B, V) of the next token. Its input is the prompt and
its own output, nothing else.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from bench import distributed
from bench.attempt.decoding import NextLogits, complete, complete_all
from bench.attempt.memory import decoding_batch_size
from bench.machine.memory import release_freed_memory
from bench.stats.descriptive import clopper_pearson_upper
from bench.storage.schema import Certificate, Count
from data import Batch, DecodedProblems, Decoding, Track
from model import Transformer

LOSS_BATCH_TOKENS, LOSS_BATCH_LOGITS = 16_384, 2**22  # whose loss is computed at once, at most
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


@torch.inference_mode()
def mean_loss(model: Transformer, batch: Batch) -> float | None:
    """The mean cross-entropy of the targets of a batch, by the plain forward pass, nats; None if it is not finite.

    Parts of the batch are computed one after the other, so that memory does not grow with the batch.
    """
    device = next(model.parameters()).device
    together = min(LOSS_BATCH_TOKENS, max(1, LOSS_BATCH_LOGITS // model.config.vocab_size))  # tokens
    parts = min(len(batch.tokens), max(1, batch.tokens.numel() // together))
    total, count = 0.0, 0
    fields = (None if field is None else field.tensor_split(parts) for field in batch)
    split = [[None] * parts if field is None else [part.to(device) for part in field] for field in fields]
    for tokens, targets, mask, positions, next_positions in zip(*split, strict=True):
        num_targets = targets.numel() if mask is None else int(mask.sum())
        if num_targets:
            loss = model.masked_loss(tokens, targets, mask, positions=positions, next_positions=next_positions)
            total += float(loss) * num_targets
            count += num_targets
    return total / count if math.isfinite(total) else None


def certify(
    next_logits: NextLogits,
    track: Track,
    device: torch.device,
    seed: int,
    batch_size: int | None = None,
    num_sentences: int = 10,
    report: Callable[[float], None] = lambda done: None,
    loss: Callable[[Batch], float | None] = lambda batch: None,
) -> tuple[Certificate, list[str]]:
    """Decode the track's test set, which holds every problem if they can be listed, and count the errors.

    Args:
        seed: draws the test set if it does not hold every problem, and the tokens if the track samples them.
        report: called with the decoded share of this process's problems, 0..1.
        loss: the model's mean loss of a batch, for the track's measures.

    Also returns sentences about the first `num_sentences` mistakes.
    """
    batch_size = batch_size or batch_size_for(track, device)
    test_set, samples = track.test_set(seed), track.samples
    problems = torch.cat([test_set, *samples.values()])
    generator = torch.Generator(device).manual_seed(seed)
    completions, right = all_completions(next_logits, track, problems, device, batch_size, report, generator)
    wrong, *wrong_samples = (~right).split([len(test_set), *map(len, samples.values())])

    def count(mistakes: Tensor) -> Count:
        """Counts of (n,) bool, one per problem."""
        return Count(problems=len(mistakes), errors=int(mistakes.sum()))

    results = DecodedProblems(test_set, completions[: len(test_set)], right[: len(test_set)])
    total, heldout = count(wrong), count(wrong[track.is_heldout(test_set)])
    rate = total.errors / max(1, total.problems)
    certificate = Certificate(
        problems=total.problems,
        errors=total.errors,
        heldout_problems=heldout.problems,
        heldout_errors=heldout.errors,
        groups={name: count(wrong[mask]) for name, mask in track.groups(test_set).items()},
        samples={name: count(mistakes) for name, mistakes in zip(samples, wrong_samples, strict=True)},
        exhaustive=track.exhaustive,
        error_rate_upper_95=rate if track.exhaustive else clopper_pearson_upper(total.errors, total.problems),
        measures=track.measures(results, loss),
        limits=dict(track.limits),
        may_have_errors=track.may_have_errors,
        has_target=track.has_target,
        targets=track.named_targets(results),
    )
    first = wrong.nonzero()[:num_sentences, 0].tolist()
    sentences = [track.sentence(test_set[i], track.decode_completion(completions[i].tolist())) for i in first]
    return certificate, sentences
