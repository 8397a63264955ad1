"""The certificate: greedy decoding of every problem, one character at a time, by the harness.

The model is one function here, token ids (B, T) to the logits (B, V) of the next character. It sees the prompt
and its own output, nothing else.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from bench.journal import Certificate, Count
from data import Track, decode

BATCH_SIZE = 8192  # problems decoded together; fits the activations into the caches of a CPU
NextLogits = Callable[[Tensor], Tensor]


@torch.inference_mode()
def greedy_answers(next_logits: NextLogits, prompts: Tensor, answer_length: int) -> Tensor:
    """Prompts (B, P) int64 to the answers (B, answer_length) int64 that the model writes."""
    text = prompts
    for _ in range(answer_length):
        text = torch.cat([text, next_logits(text).argmax(-1, keepdim=True)], dim=1)
    return text[:, prompts.size(1) :]


def all_answers(next_logits: NextLogits, track: Track, device: torch.device, batch_size: int) -> tuple[Tensor, Tensor]:
    """Every problem's answer by the model, and the right one: two (num_problems, answer_length) uint8 on the CPU."""
    given, right = [], []
    for problems in torch.arange(track.num_problems, device=device).split(batch_size):
        tokens = track.tokens(problems)
        prompts = tokens[:, : track.prompt_length].long()
        given.append(greedy_answers(next_logits, prompts, track.answer_length).to(torch.uint8))
        right.append(tokens[:, track.prompt_length :])
    return torch.cat(given).cpu(), torch.cat(right).cpu()


def certify(
    next_logits: NextLogits,
    track: Track,
    device: torch.device,
    batch_size: int = BATCH_SIZE,
    num_sentences: int = 10,
) -> tuple[Certificate, list[str]]:
    """Decode every problem of the track and count the mistakes.

    Args:
        next_logits: token ids (B, T) int64 on `device` to logits (B, V) of the next character.
        batch_size: problems decoded together.
        num_sentences: how many mistakes to put into words.

    Returns:
        The certificate, and the first mistakes as sentences.
    """
    given, right = all_answers(next_logits, track, device, batch_size)
    wrong = (given != right).any(1).numpy()

    def count(chosen: np.ndarray) -> Count:
        """Of a mask over the problems, or of problem numbers."""
        mistakes = wrong[chosen]
        return Count(problems=len(mistakes), errors=int(mistakes.sum()))

    heldout = count(track.heldout)
    certificate = Certificate(
        problems=len(wrong),
        errors=int(wrong.sum()),
        heldout_problems=heldout.problems,
        heldout_errors=heldout.errors,
        groups={name: count(mask) for name, mask in track.groups.items()},
        samples={name: count(problems) for name, problems in track.samples.items()},
        exhaustive=True,
        error_rate_upper_95=float(wrong.mean()),
    )
    first = np.flatnonzero(wrong)[:num_sentences]
    return certificate, [track.sentence(int(problem), decode(track, given[problem])) for problem in first]
