"""What recipes do around the optimizers' step, against published algorithms and naive loops."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from recipes.updates import SlowGradientFilter, clip_rows
from tests.support.small_trainer import SMALL, TRACK, Monitor, SeededTrainer, build

SHAPES = [(12, 16), (5,), (3, 4, 4)]


def tensors(seed: int) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=draw) for shape in SHAPES]


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


RECIPE = replace(SMALL, grokfast_lambda=2.0, max_row_norm=1.0, clip_norm=0.5)


def test_state_is_reset_on_a_restart() -> None:
    trainer = build(replace(RECIPE, grad_scaler=True))
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
    trainer = SeededTrainer(replace(SMALL, grad_scaler=True, n_layer=2), TRACK, torch.device("cpu"), precision, 7)
    losses = []
    for _ in range(12):
        trainer.step()
        losses.append(float(trainer.loss))
    assert all(weight.isfinite().all() for weight in trainer.model.parameters())
    assert losses[-1] < losses[0]


def test_muon_moves_matrices_with_the_tiny_gradients_of_float16() -> None:
    """A gradient of 1e-9 is 0 in float16."""
    trainer = SeededTrainer(replace(SMALL, n_layer=2), TRACK, torch.device("cpu"), torch.float16, 7)
    weights = [weight.clone() for weight in trainer.muon.weights]
    for weight in trainer.muon.weights:
        weight.grad = 1e-9 * torch.randn_like(weight)
    trainer.muon_learning_rate.fill_(0.1)
    trainer.muon.step()
    assert all((new - old).norm() > 0.1 for new, old in zip(trainer.muon.weights, weights, strict=True))


def test_a_scaler_in_bfloat16_changes_the_weights_by_rounding_alone() -> None:
    settings = replace(SMALL, n_layer=2, norm_position="post", bias="mlp", norm="layer_gain", clip_norm=0.5)
    weights = []
    for has_scaler in (False, True):
        scaled = replace(settings, grad_scaler=has_scaler)
        trainer = SeededTrainer(scaled, TRACK, torch.device("cpu"), torch.bfloat16, 7)
        for _ in range(3):
            trainer.step()
        weights.append(list(trainer.model.parameters()))
    assert_close(*weights, rtol=1e-3, atol=1e-4)


def test_gradients_are_unscaled_before_their_norm_is_clipped() -> None:
    trainer, norms = build(replace(RECIPE, grad_scaler=True, grokfast_lambda=0.0)), []
    step = trainer.adam.step

    def recorded() -> None:
        norms.append(torch.stack([weight.grad.norm() for weight in trainer.model.parameters()]).norm())
        step()

    trainer.adam.step = recorded
    trainer.backward(trainer.inputs.of_step(trainer.step_index))
    scaled = torch.stack([weight.grad.norm() for weight in trainer.model.parameters()]).norm()
    trainer.update()
    assert float(scaled) > 1000
    assert float(norms[0]) == pytest.approx(min(0.5, float(scaled) / 2**16), rel=1e-3)


def test_an_overflow_halves_the_scale() -> None:
    trainer = build(replace(SMALL, grad_scaler=True))
    for weight in trainer.model.parameters():
        weight.grad = torch.full_like(weight, math.inf)
    trainer.update()
    assert trainer.update.scaler.get_scale() == 2.0**15
    assert not any(tensor.any() for tensor in trainer.adam.state())


@pytest.mark.parametrize(
    "changes",
    [
        {"grad_scaler": True},
        {"grokfast_lambda": 2.0, "max_row_norm": 1.0},
        {"matrix_optimizer": "adam", "decay_on": "all"},
        {"matrix_optimizer": "lion", "clip_norm": 0.5},
        {"norm_position": "post", "bias": "all", "norm": "layer_gain", "dropout": 0.2, "max_row_norm": 1.0},
        {"position_encoding": "rotary", "activation": "swiglu", "grokfast_lambda": 2.0},
    ],
)
def test_training_after_a_warm_up_is_the_same_training_with_every_option(changes: dict) -> None:
    cold, warm = (build(replace(SMALL, max_rounds=2, start_over_above=0, **changes)) for _ in range(2))
    warm.warm_up()
    for trainer in (cold, warm):
        trainer.train(Monitor())
    assert all(torch.equal(a, b) for a, b in zip(cold.state(), warm.state(), strict=True))


def test_the_state_of_the_updater_is_all_that_an_update_changes() -> None:
    trainer = build(replace(RECIPE, grad_scaler=True))
    kept = {tensor.data_ptr() for tensor in trainer.state()}
    trainer.step()
    updater = trainer.update
    for tensor in (*updater.filter.averages, updater.filter.steps, updater.scaler._scale):
        assert tensor.data_ptr() in kept
    assert updater.scaler._growth_tracker.data_ptr() in kept
    assert updater.filter.steps == 1
