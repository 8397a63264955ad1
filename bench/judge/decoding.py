"""Decoding: a model's completions of prompts, one token at a time, fed nothing but the prompt and its own output."""

from collections.abc import Callable

import torch
from torch import Tensor

from tracks.base import PADDING, Decoding

NextLogits = Callable[[Tensor], Tensor]  # token ids (B, T) int64 to logits (B, V) of the next token


@torch.inference_mode()
def complete(
    next_logits: NextLogits, prompts: Tensor, decoding: Decoding, generator: torch.Generator | None = None
) -> Tensor:
    """Return the completions (B, max_new_tokens) int64 of prompts (B, P) int64 of one length.

    PADDING follows the stop token. `generator`, on the device of the logits, is for sampling.
    """
    text = prompts
    is_open = torch.ones(len(prompts), 1, dtype=torch.bool, device=prompts.device)
    for _ in range(decoding.max_new_tokens):
        token = next_token(next_logits(text), decoding, generator)
        if decoding.stop_token is None:
            text = torch.cat([text, token], 1)
            continue
        text = torch.cat([text, torch.where(is_open, token, decoding.stop_token)], 1)
        is_open = is_open & (token != decoding.stop_token)
        if not is_open.any():
            break
    completions = text[:, prompts.size(1) :]
    if decoding.stop_token is None:
        return completions
    stops = (completions == decoding.stop_token).cumsum(1)
    is_after = (stops > 1) | ((stops == 1) & (completions != decoding.stop_token))
    missing = decoding.max_new_tokens - completions.size(1)
    return torch.nn.functional.pad(completions.masked_fill(is_after, PADDING), (0, missing), value=PADDING)


def next_token(logits: Tensor, decoding: Decoding, generator: torch.Generator | None) -> Tensor:
    """Choose the next token (B, 1) int64 from logits (B, V): the likeliest, or one that is sampled."""
    if not decoding.temperature:
        return logits.argmax(-1, keepdim=True)
    logits = logits.double()
    logits = (logits - logits.amax(-1, keepdim=True)) / decoding.temperature  # no overflow at a small temperature
    if decoding.top_k:
        least = logits.topk(min(decoding.top_k, logits.size(-1))).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if decoding.top_p < 1:  # nucleus sampling (Holtzman et al., The Curious Case of Neural Text Degeneration, 2020)
        probabilities, order = logits.softmax(-1).sort(descending=True, stable=True)
        is_beyond = probabilities.cumsum(-1) - probabilities >= decoding.top_p
        logits = logits.masked_fill(is_beyond.scatter(-1, order, is_beyond), -torch.inf)
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)


def complete_all(
    next_logits: NextLogits,
    prompts: Tensor,
    decoding: Decoding,
    batch_size: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """As `complete`, for prompts (N, P) of unequal lengths, after which PADDING follows; in batches of one length."""
    lengths = prompts.size(1) - (prompts == PADDING).sum(1)
    completions = prompts.new_empty((len(prompts), decoding.max_new_tokens), dtype=torch.int64)
    # The largest buffers come first: later ones fit into freed memory. A sample depends on the order, and keeps it.
    for length in lengths.unique().sort(descending=not decoding.temperature).values.tolist():
        for index in (lengths == length).nonzero()[:, 0].split(batch_size):
            completions[index] = complete(next_logits, prompts[index, :length].long(), decoding, generator)
    return completions
