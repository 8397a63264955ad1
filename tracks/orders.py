"""The orders in which the tokens of a text are generated."""

import torch
from torch import Tensor

from tracks.base import Batch


def draw_orders(order: str, shape: tuple[int, ...], length: int, generator: torch.Generator) -> Tensor:
    """Draw orders of the positions 0..length - 1, (*shape, length) int64; position 0 always comes first.

    - left-to-right, right-to-left: fixed.
    - alternating: either of the two, with equal probability.
    - pseudo-random: by the values of a Gaussian random walk along the text, so that positions that follow each other
      in the order are often close to each other in the text.
    - uniform: every order is equally likely.
    """
    device = generator.device
    if order == "left-to-right":
        return torch.arange(length, device=device).expand(*shape, length)
    if order == "right-to-left":
        values = torch.arange(length - 1, 0, -1, device=device).expand(*shape, -1)
    elif order == "alternating":
        sign = torch.randint(2, (*shape, 1), generator=generator, device=device) * 2 - 1
        values = sign * torch.arange(length - 1, device=device)
    elif order == "pseudo-random":
        values = torch.randn(*shape, length - 1, generator=generator, device=device).cumsum(-1)
    else:
        values = torch.rand(*shape, length - 1, generator=generator, device=device)
    first = torch.zeros(*shape, 1, dtype=torch.int64, device=device)
    return torch.cat([first, values.argsort(-1) + 1], -1)


def in_order(texts: Tensor, order: Tensor) -> Batch:
    """Return texts (..., T + 1) as a batch whose tokens stand in the order (..., T + 1) in which they are generated."""
    tokens = texts.gather(-1, order)
    return Batch(
        tokens[..., :-1], tokens[..., 1:], positions=order[..., :-1].contiguous(), next_positions=order[..., 1:]
    )
