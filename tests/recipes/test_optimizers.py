"""Optimizers of recipes against torch.optim and the published algorithm."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from optim import AdamW
from recipes.optimizers import Adam, Lion

SHAPES = [(12, 16), (5,), (3, 4, 4)]


def tensors(seed: int) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=draw) for shape in SHAPES]


def descend(optimizer, weights: list[Tensor], num_steps: int = 6) -> None:
    for step in range(num_steps):
        for weight, noise in zip(weights, tensors(100 + step), strict=True):
            weight.grad = 0.1 * weight.detach() + noise
        optimizer.step()


@pytest.mark.parametrize(("ours", "theirs"), [(AdamW, torch.optim.AdamW), (Adam, torch.optim.Adam)])
@pytest.mark.parametrize("decay_on", ["matrices", "all"])
def test_adam_with_either_decay_is_torchs(ours, theirs, decay_on: str) -> None:
    weights, expected = tensors(0), tensors(0)
    descend(ours(weights, torch.tensor(0.01), (0.9, 0.98), 0.3, 1e-3, decay_on), weights)
    groups = [
        {"params": [weight for weight in expected if weight.dim() >= 2], "weight_decay": 0.3},
        {"params": [expected[1]], "weight_decay": 0.3 if decay_on == "all" else 0.0},
    ]
    descend(theirs(groups, lr=0.01, betas=(0.9, 0.98), eps=1e-3), expected)
    assert_close(weights, expected, rtol=1e-5, atol=1e-6)


def test_lion_is_the_published_algorithm() -> None:
    weights, expected = tensors(0), tensors(0)
    lion = Lion(weights, torch.tensor(0.01), (0.9, 0.98), 0.3, 1e-8, "all")
    descend(lion, weights)
    means = [torch.zeros_like(weight) for weight in expected]
    for step in range(6):
        for weight, mean, noise in zip(expected, means, tensors(100 + step), strict=True):
            slope = 0.1 * weight + noise
            update = torch.sign(0.9 * mean + 0.1 * slope)
            weight -= 0.01 * (update + 0.3 * weight)
            mean.copy_(0.98 * mean + 0.02 * slope)
    assert_close(weights, expected, rtol=1e-5, atol=1e-6)
    assert len(lion.state()) == len(SHAPES)
