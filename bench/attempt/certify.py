"""The certificate: the harness decodes the track's test set greedily, one character at a time, and counts the errors.

Here the model is a function from token ids (B, T) to the logits (B, V) of the next character. Its input is the prompt
and its own output, nothing else.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from bench import distributed
from bench.stats.descriptive import clopper_pearson_upper
from bench.storage.schema import Certificate, Count
from data import Track, decode

CPU_BATCH_CHARACTERS = 100_000  # the activations of so many characters fit into the caches
GPU_BATCH_SIZE = 32_768  # problems; large batches hide the launch times of the kernels
NextLogits = Callable[[Tensor], Tensor]  # token ids (B, T) int64 to logits (B, V) of the next character


def batch_size_for(track: Track, device: torch.device) -> int:
    """Number of problems to decode together."""
    length = track.prompt_length + track.answer_length
    return CPU_BATCH_CHARACTERS // length if device.type == "cpu" else GPU_BATCH_SIZE


@torch.inference_mode()
def greedy_answers(next_logits: NextLogits, prompts: Tensor, answer_length: int) -> Tensor:
    """The model's answers (B, answer_length) int64 to prompts (B, P) int64."""
    text = prompts
    for _ in range(answer_length):
        text = torch.cat([text, next_logits(text).argmax(-1, keepdim=True)], dim=1)
    return text[:, prompts.size(1) :]


def all_answers(
    next_logits: NextLogits,
    track: Track,
    problems: Tensor,
    device: torch.device,
    batch_size: int,
    report: Callable[[float], None],
) -> tuple[Tensor, Tensor]:
    """The model's answers and the right ones, both (N, answer_length) uint8 on the CPU.

    `problems` is (N, W) uint8 on any device. Each of several processes decodes its share of them.
    """
    decoded, right = [], []
    parts = distributed.share(problems).split(batch_size)
    for i, part in enumerate(parts):
        report(i / len(parts))
        tokens = track.tokens(part.to(device))
        prompts = tokens[:, : track.prompt_length].long()
        decoded.append(greedy_answers(next_logits, prompts, track.answer_length).to(torch.uint8))
        right.append(tokens[:, track.prompt_length :])

    def gather(parts: list[Tensor]) -> Tensor:
        return distributed.gather(torch.cat(parts), len(problems)).cpu()

    return gather(decoded), gather(right)


def certify(
    next_logits: NextLogits,
    track: Track,
    device: torch.device,
    seed: int,
    batch_size: int | None = None,
    num_sentences: int = 10,
    report: Callable[[float], None] = lambda done: None,
) -> tuple[Certificate, list[str]]:
    """Decode the track's test set, which holds every problem if they can be listed, and count the errors.

    `seed` draws the test set if it does not hold every problem. `report` is called with the decoded share of this
    process's problems, 0..1. Also returns sentences about the first `num_sentences` mistakes.
    """
    batch_size = batch_size or batch_size_for(track, device)
    test_set = track.test_set(seed)
    problems = torch.cat([test_set, *track.samples.values()])
    answers, right = all_answers(next_logits, track, problems, device, batch_size, report)
    wrong, *wrong_samples = (answers != right).any(1).split([len(test_set), *map(len, track.samples.values())])

    def count(mistakes: Tensor) -> Count:
        """Counts of (n,) bool, one per problem."""
        return Count(problems=len(mistakes), errors=int(mistakes.sum()))

    total, heldout = count(wrong), count(wrong[track.is_heldout(test_set)])
    rate = total.errors / total.problems
    certificate = Certificate(
        problems=total.problems,
        errors=total.errors,
        heldout_problems=heldout.problems,
        heldout_errors=heldout.errors,
        groups={name: count(wrong[mask]) for name, mask in track.groups(test_set).items()},
        samples={name: count(mistakes) for name, mistakes in zip(track.samples, wrong_samples, strict=True)},
        exhaustive=track.exhaustive,
        error_rate_upper_95=rate if track.exhaustive else clopper_pearson_upper(total.errors, total.problems),
    )
    first = wrong.nonzero()[:num_sentences, 0].tolist()
    return certificate, [track.sentence(test_set[i], decode(track, answers[i])) for i in first]
