"""Optimizers and updates of recipes against torch.optim, published formulas and naive loops."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from optim import AdamW, learning_rate_schedule
from recipes.optimizers import Adam, Lion
from recipes.updates import SlowGradientFilter, clip_rows
from tests.support.small_trainer import SMALL, build

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


def test_the_slow_gradient_filter_is_the_published_one() -> None:
    weights, averages = tensors(0), None
    slow = SlowGradientFilter(weights, 0.98, 2.0)
    for step in range(4):
        gradients = tensors(10 + step)
        for weight, slope in zip(weights, gradients, strict=True):
            weight.grad = slope.clone()
        slow()
        if averages is None:
            averages = [slope.clone() for slope in gradients]
        averages = [0.98 * mean + 0.02 * slope for mean, slope in zip(averages, gradients, strict=True)]
        expected = [slope + 2.0 * mean for mean, slope in zip(averages, gradients, strict=True)]
        assert_close([weight.grad for weight in weights], expected)


def test_rows_are_scaled_down_to_the_limit_and_no_shorter_row_is_changed() -> None:
    (matrix,) = tensors(0)[:1]
    matrix[3], matrix[4] = 0.0, matrix[4] / 100
    before = matrix.clone()
    clip_rows([matrix], 3.5)
    for row, old in zip(matrix, before, strict=True):
        norm = math.sqrt(sum(float(value) ** 2 for value in old))
        assert_close(row, old * min(1.0, 3.5 / norm) if norm else old)


def test_noam_is_the_published_formula_by_steps_and_by_epochs() -> None:
    factor, width, warmup = 0.2, 128, 84
    peak = factor / math.sqrt(width * warmup)
    expected = torch.tensor([factor * width**-0.5 * min(n**-0.5, n * warmup**-1.5) for n in range(1, 301)])
    assert_close(peak * learning_rate_schedule(300, warmup, "noam", 2.0, 0.0), expected)
    by_epoch = peak * learning_rate_schedule(300, warmup, "noam", 2.0, 0.0, 0, 28)
    assert_close(by_epoch, expected[torch.arange(300) // 28])
    assert float(by_epoch[0]) == pytest.approx(2.3e-5, rel=0.01)


@pytest.mark.parametrize("decay", ["power", "cosine"])
def test_the_decay_can_end_before_or_after_the_last_step(decay: str) -> None:
    whole = learning_rate_schedule(100, 5, decay, 2.0, 0.1)
    assert torch.equal(learning_rate_schedule(100, 5, decay, 2.0, 0.1, 100), whole)
    assert torch.equal(learning_rate_schedule(40, 5, decay, 2.0, 0.1, 100), whole[:40])
    longer = learning_rate_schedule(150, 5, decay, 2.0, 0.1, 100)
    assert_close(longer[:100], whole)
    assert_close(longer[100:], torch.full((50,), 0.1))


RECIPE = replace(SMALL, grokfast_lambda=2.0, max_row_norm=1.0, clip_norm=0.5)


def test_state_is_restored_after_the_warm_up_and_reset_on_a_restart() -> None:
    trainer = build(replace(RECIPE, grad_scaler=True))
    before = [tensor.clone() for tensor in trainer.state()]
    trainer.warm_up()
    assert all(torch.equal(old, new) for old, new in zip(before, trainer.state(), strict=True))
    trainer.step()
    trainer.restart()
    for old, new in zip(build(replace(RECIPE, grad_scaler=True)).update.state(), trainer.update.state(), strict=True):
        assert torch.equal(old, new)


def test_a_scaled_step_is_the_step_and_an_overflow_skips_it() -> None:
    plain, scaled = build(RECIPE), build(replace(RECIPE, grad_scaler=True))
    for _ in range(3):
        plain.step()
        scaled.step()
    assert_close(list(scaled.model.parameters()), list(plain.model.parameters()), rtol=1e-4, atol=1e-6)
    before = [tensor.detach().clone() for tensor in (*scaled.model.parameters(), *scaled.adam.state())]
    scale = scaled.update.scaler.get_scale()
    scaled.update.scaler._scale.fill_(math.inf)
    scaled.step()
    after = [*scaled.model.parameters(), *scaled.adam.state()]
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert scale == 2.0**16


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_half_precision_trains_with_a_scaler(precision: torch.dtype) -> None:
    import speedrun
    from tests.support.small_trainer import TRACK

    trainer = speedrun.Trainer(replace(SMALL, grad_scaler=True, n_layer=2), TRACK, torch.device("cpu"), precision, 7)
    losses = []
    for _ in range(12):
        trainer.step()
        losses.append(float(trainer.loss))
    assert all(weight.isfinite().all() for weight in trainer.model.parameters())
    assert losses[-1] < losses[0]


def test_muon_moves_matrices_with_the_tiny_gradients_of_float16() -> None:
    """A gradient of 1e-9 is 0 in float16."""
    import speedrun
    from tests.support.small_trainer import TRACK

    trainer = speedrun.Trainer(replace(SMALL, n_layer=2), TRACK, torch.device("cpu"), torch.float16, 7)
    weights = [weight.clone() for weight in trainer.muon.weights]
    for weight in trainer.muon.weights:
        weight.grad = 1e-9 * torch.randn_like(weight)
    trainer.muon_learning_rate.fill_(0.1)
    trainer.muon.step()
    assert all((new - old).norm() > 0.1 for new, old in zip(trainer.muon.weights, weights, strict=True))
