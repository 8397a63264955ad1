"""Margins: by how much a model prefers the right answer to every other one."""

from collections.abc import Callable

import torch
from torch import Tensor

from tracks.base import PADDING, AnswerTrack

# Margins in float32 between these are computed again in float64; below, an answer is wrong in any precision.
ASK_AGAIN_ABOVE, ASK_AGAIN_BELOW = -0.1, 2.0
# The smallest margin of a right answer. It is a demand, 20 times the largest difference that was seen between float32
# in any order of summation and float64; no bound of rounding errors is claimed.
SMALLEST_MARGIN = 1e-3
# Lower ends of the bins of the journalled histogram; margins below the first one have no end.
BINS = (0.0, SMALLEST_MARGIN, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)

# Maps ids (B, T) int64 and the first position with a query to logits (B, T - query_start, V) of the next tokens.
Logits = Callable[[Tensor, int], Tensor]


def token_margins(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the logit of each target less the largest other logit.

    Args:
        logits: (..., V).
        targets: (...,) ids; PADDING has the margin inf.

    Where a logit is infinite or not a number, the margin is -inf.
    """
    index = targets.clamp(min=0).long()[..., None]
    right = logits.gather(-1, index)[..., 0]
    others = logits.scatter(-1, index, -torch.inf).amax(-1)
    margins = torch.where(logits.isfinite().all(-1), right - others, -torch.inf)
    return margins.masked_fill(targets == PADDING, torch.inf)


def text_margins(logits: Logits, prompts: Tensor, answers: Tensor) -> Tensor:
    """Return the margin of each answer, that of its worst token, (B,).

    The model's input is the right answer up to each token. Where greedy decoding makes its first error, its input is
    the right answer, too, so that the completion is right exactly if the margin is above 0.

    Args:
        prompts: (B, P) ids, of one length.
        answers: (B, A) ids; shorter ones end in PADDING.
    """
    texts = torch.cat([prompts.long(), answers[:, :-1].clamp(min=0).long()], 1)
    return token_margins(logits(texts, prompts.size(1) - 1), answers).amin(1)


def problem_margins(
    logits: Logits, track: AnswerTrack, problems: Tensor, batch_tokens: int, report: Callable[[float], None]
) -> Tensor:
    """Return the margin of each of the problems (N, W), (N,) on their device.

    Args:
        batch_tokens: computed at once, at most, if that is one text or more.
        report: called with the share of the problems that are done, 0..1.
    """
    margins = []
    parts = problems.split(max(1, batch_tokens // track.description.block_size))
    for i, part in enumerate(parts):
        report(i / len(parts))
        prompts, answers = track.prompts(part), track.answers(part)
        lengths = prompts.size(1) - (prompts == PADDING).sum(1)
        found = torch.empty(len(part), dtype=torch.float64, device=part.device)
        for length in lengths.unique().tolist():
            index = (lengths == length).nonzero()[:, 0]
            found[index] = text_margins(logits, prompts[index, :length], answers[index]).double()
        margins.append(found)
    return torch.cat(margins) if margins else torch.empty(0, dtype=torch.float64, device=problems.device)


def histogram(margins: Tensor) -> dict[str, int]:
    """Return the number of margins (N,) from each lower end on: `{"below 0": 2, "0": 0, "0.001": 5, …}`."""
    edges = torch.tensor(BINS, dtype=torch.float64, device=margins.device)
    counts = torch.bucketize(margins, edges, right=True).bincount(minlength=len(BINS) + 1).tolist()
    return dict(zip(["below 0", *(f"{edge:g}" for edge in BINS)], counts, strict=True))
