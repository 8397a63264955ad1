"""The certificate: greedy decoding of the track's test set, one character at a time, by the harness.

The model is one function here, token ids (B, T) to the logits (B, V) of the next character. It sees the prompt
and its own output, nothing else.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from bench import distributed
from bench.stats.descriptive import clopper_pearson_upper
from bench.storage.schema import Certificate, Count
from data import Track, decode

CHARACTERS_TOGETHER = 100_000  # of the problems that a CPU decodes together, whose caches the activations fit into
BATCH_SIZE_ELSEWHERE = 32_768  # problems; a GPU has less to wait for when more are decoded together
NextLogits = Callable[[Tensor], Tensor]


def batch_size_for(track: Track, device: torch.device) -> int:
    """How many problems are decoded together."""
    length = track.prompt_length + track.answer_length
    return CHARACTERS_TOGETHER // length if device.type == "cpu" else BATCH_SIZE_ELSEWHERE


@torch.inference_mode()
def greedy_answers(next_logits: NextLogits, prompts: Tensor, answer_length: int) -> Tensor:
    """Prompts (B, P) int64 to the answers (B, answer_length) int64 that the model writes."""
    text = prompts
    for _ in range(answer_length):
        text = torch.cat([text, next_logits(text).argmax(-1, keepdim=True)], dim=1)
    return text[:, prompts.size(1) :]


def all_answers(
    next_logits: NextLogits, track: Track, problems: Tensor, device: torch.device, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Each problem's answer by the model, and the right one: two (N, answer_length) uint8 on the CPU.

    `problems` are (N, W) uint8 on any device. Of processes that train together, each asks its share of them.
    """
    given, right = [], []
    for part in distributed.share(problems).split(batch_size):
        tokens = track.tokens(part.to(device))
        prompts = tokens[:, : track.prompt_length].long()
        given.append(greedy_answers(next_logits, prompts, track.answer_length).to(torch.uint8))
        right.append(tokens[:, track.prompt_length :])
    return tuple(distributed.gather(torch.cat(each), len(problems)).cpu() for each in (given, right))


def certify(
    next_logits: NextLogits,
    track: Track,
    device: torch.device,
    seed: int,
    batch_size: int | None = None,
    num_sentences: int = 10,
) -> tuple[Certificate, list[str]]:
    """Decode the track's test set, which is every problem where they can be listed, and count the mistakes.

    Args:
        next_logits: token ids (B, T) int64 on `device` to logits (B, V) of the next character.
        seed: the run's, by which the test set is drawn where it is not every problem.
        batch_size: problems decoded together; what suits the device when left out.
        num_sentences: how many mistakes to put into words.

    Returns:
        The certificate, and the first mistakes as sentences.
    """
    batch_size = batch_size or batch_size_for(track, device)
    test_set = track.test_set(seed)
    asked = torch.cat([test_set, *track.samples.values()])  # the samples once more, if they are in the test set
    given, right = all_answers(next_logits, track, asked, device, batch_size)
    wrong, *wrong_samples = (given != right).any(1).split([len(test_set), *map(len, track.samples.values())])

    def count(mistakes: Tensor) -> Count:
        """Of (n,) bool, one a problem."""
        return Count(problems=len(mistakes), errors=int(mistakes.sum()))

    everything, heldout = count(wrong), count(wrong[track.is_heldout(test_set)])
    rate = everything.errors / everything.problems
    certificate = Certificate(
        problems=everything.problems,
        errors=everything.errors,
        heldout_problems=heldout.problems,
        heldout_errors=heldout.errors,
        groups={name: count(wrong[mask]) for name, mask in track.groups(test_set).items()},
        samples={name: count(mistakes) for name, mistakes in zip(track.samples, wrong_samples, strict=True)},
        exhaustive=track.exhaustive,
        error_rate_upper_95=rate if track.exhaustive else clopper_pearson_upper(everything.errors, everything.problems),
    )
    first = wrong.nonzero()[:num_sentences, 0].tolist()
    return certificate, [track.sentence(test_set[i], decode(track, given[i])) for i in first]
