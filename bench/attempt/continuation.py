"""What a model says about any text of its vocabulary: the tokens that continue it, and the likeliest next ones."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from bench.judge.decoding import next_token
from data import Decoding
from model import Transformer


def next_logits(model: Transformer, ids: Sequence[int]) -> Tensor:
    """Return the logits (1, V) of the token after `ids`, of which the model reads as many as its context holds."""
    device = next(model.parameters()).device
    context = torch.tensor([list(ids[-model.config.block_size :])], device=device)
    return model(context, context.size(1) - 1)[:, 0]


def continuation(
    model: Transformer, ids: Sequence[int], count: int, decoding: Decoding, generator: torch.Generator
) -> Iterator[int]:
    """Yield the `count` tokens after `ids`, at least one; no token ends them.

    Beyond the context the model reads a sliding window, whose tokens have the positions 0, 1, and so on.
    """
    text = list(ids)
    for _ in range(count):
        with torch.inference_mode():
            token = int(next_token(next_logits(model, text), decoding, generator))
        text.append(token)
        yield token


@torch.inference_mode()
def likeliest_tokens(model: Transformer, ids: Sequence[int], count: int) -> list[tuple[int, float]]:
    """Return the `count` likeliest tokens after `ids` with their probabilities, 0..1, the likeliest first."""
    shares = next_logits(model, ids)[0].double().softmax(-1)
    values, tokens = shares.topk(min(count, len(shares)))
    return list(zip(tokens.tolist(), values.tolist(), strict=True))
