"""Our optimizers against torch.optim's, and the Newton-Schulz iteration against a singular value decomposition."""

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from optim import NEWTON_SCHULZ, AdamW, Muon, learning_rate_schedule, orthogonalize


def random_tensors(shapes: list[tuple[int, ...]], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def descend(optimizer, weights: list[Tensor], num_steps: int, *, before_step=lambda step: None) -> None:
    """Steps on gradients that depend on the weights, so that a difference in one step is seen in all later ones."""
    noise = random_tensors([(num_steps, *weight.shape) for weight in weights], seed=99)
    for step in range(num_steps):
        for weight, bump in zip(weights, noise, strict=True):
            weight.grad = 0.1 * weight.detach() + bump[step]
        before_step(step)
        optimizer.step()


def make_muon(
    weights: list[Tensor],
    dtype: torch.dtype = torch.bfloat16,
    learning_rate: float | Tensor = 0.05,
    num_iterations: int = 5,
    weight_decay: float = 0.3,
) -> Muon:
    return Muon(weights, torch.as_tensor(learning_rate), 0.9, num_iterations, weight_decay, dtype)


# -----------------------------------------------------------------------------
# the iteration


def test_the_iteration_acts_on_the_singular_values_alone() -> None:
    (matrices,) = random_tensors([(3, 6, 10)], seed=0)
    a, b, c = NEWTON_SCHULZ
    U, S, Vh = torch.linalg.svd(matrices.double(), full_matrices=False)
    S = S / S.norm(dim=-1, keepdim=True)
    for _ in range(5):
        S = a * S + b * S**3 + c * S**5
    expected = U @ torch.diag_embed(S) @ Vh
    assert_close(orthogonalize(matrices, 5, torch.float32).double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_singular_values_are_pushed_near_one(dtype: torch.dtype) -> None:
    (matrices,) = random_tensors([(4, 16, 40)], seed=1)
    matrices *= torch.tensor([1e-3, 1.0, 1e3, 1e-2])[:, None, None]  # the scale of a gradient must not matter
    update = orthogonalize(matrices, 5, dtype)
    assert update.dtype == torch.float32
    values = torch.linalg.svdvals(update)
    assert values.min() > 0.6
    assert values.max() < 1.25


def test_a_gradient_of_zero_is_no_update() -> None:
    assert not orthogonalize(torch.zeros(1, 4, 8), 5, torch.bfloat16).any()


# -----------------------------------------------------------------------------
# Muon


@pytest.mark.parametrize("shape", [(8, 24), (24, 8), (16, 16)])
def test_muon_is_the_muon_of_torch(shape: tuple[int, int]) -> None:
    (ours,) = random_tensors([shape], seed=0)
    theirs = ours.clone()
    descend(make_muon([ours]), [ours], num_steps=6)
    # "original" scales an update by sqrt(max(1, rows / columns)), as ours does; its products are in bfloat16.
    reference = torch.optim.Muon(
        [theirs], lr=0.05, momentum=0.9, nesterov=True, ns_steps=5, weight_decay=0.3, adjust_lr_fn="original"
    )
    descend(reference, [theirs], num_steps=6)
    moved = (theirs - random_tensors([shape], seed=0)[0]).norm()
    # Both round to bfloat16 inside the iteration, in another order; the iteration makes noise of small singular
    # values larger, so weights may part by some 2**-5 of their way. The test below has no such noise.
    assert moved > 0.1
    assert (ours - theirs).norm() < 0.05 * moved


def test_muon_is_the_muon_of_torch_where_neither_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = [(8, 24), (24, 8), (16, 16), (8, 24)]
    ours, theirs = random_tensors(shapes, seed=0), random_tensors(shapes, seed=0)
    descend(make_muon(ours, torch.float32), ours, num_steps=6)
    monkeypatch.setattr(Tensor, "bfloat16", Tensor.clone)  # how torch's Muon asks for its precision
    reference = torch.optim.Muon(
        theirs, lr=0.05, momentum=0.9, nesterov=True, ns_steps=5, weight_decay=0.3, adjust_lr_fn="original"
    )
    descend(reference, theirs, num_steps=6)
    for weight, expected in zip(ours, theirs, strict=True):
        assert_close(weight, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 8, 24), (3, 24, 8)])
def test_a_weight_of_three_dimensions_is_its_matrices_apart(shape: tuple[int, int, int]) -> None:
    (stack,) = random_tensors([shape], seed=0)
    slices = [matrix.clone() for matrix in stack]
    (gradients,) = random_tensors([(4, *shape)], seed=1)
    together, apart = make_muon([stack], torch.float32), make_muon(slices, torch.float32)
    for gradient in gradients:
        stack.grad = gradient.clone()
        for matrix, part in zip(slices, gradient, strict=True):
            matrix.grad = part.clone()
        together.step()
        apart.step()
    assert_close(stack, torch.stack(slices), rtol=1e-5, atol=1e-6)
    assert not torch.equal(stack, random_tensors([shape], seed=0)[0])


def test_matrices_that_share_a_buffer_do_not_mix() -> None:
    shapes = [(8, 24), (24, 8), (3, 8, 24), (16, 16)]
    together, apart = random_tensors(shapes, seed=0), random_tensors(shapes, seed=0)
    optimizer = make_muon(together, torch.float32)
    assert sorted(tuple(buffer.shape) for buffer in optimizer.state()) == [(1, 16, 16), (5, 8, 24)]
    descend(optimizer, together, num_steps=3)
    noise = random_tensors([(3, *shape) for shape in shapes], seed=99)
    for weight, bumps in zip(apart, noise, strict=True):
        alone = make_muon([weight], torch.float32)
        for bump in bumps:
            weight.grad = 0.1 * weight.detach() + bump
            alone.step()
    for weight, expected in zip(together, apart, strict=True):
        assert_close(weight, expected, rtol=1e-5, atol=1e-6)


def test_muon_changes_no_gradient_that_it_was_given() -> None:
    (weight,) = random_tensors([(8, 24)], seed=0)
    (gradient,) = random_tensors([(8, 24)], seed=1)
    weight.grad = gradient.clone()
    make_muon([weight]).step()
    assert torch.equal(weight.grad, gradient)


@pytest.mark.parametrize("shapes", [[(8, 24)], [(24, 8), (16, 16), (3, 8, 24), (5, 5)], []])
@pytest.mark.parametrize("num_iterations", [1, 5])
def test_the_flops_of_a_step_of_muon_are_those_that_torch_counts(shapes: list[tuple], num_iterations: int) -> None:
    weights = random_tensors(shapes, seed=0)
    optimizer = make_muon(weights, torch.float32, num_iterations=num_iterations)
    with FlopCounterMode(display=False) as counter:
        descend(optimizer, weights, num_steps=1)
    assert optimizer.step_flops() == counter.get_total_flops()


def test_a_learning_rate_of_zero_leaves_the_weights_as_they_were() -> None:
    weights = random_tensors([(8, 24), (24, 8)], seed=0)
    descend(make_muon(weights, learning_rate=0.0), weights, num_steps=2)
    for weight, before in zip(weights, random_tensors([(8, 24), (24, 8)], seed=0), strict=True):
        assert torch.equal(weight, before)


def test_the_state_of_muon_is_all_it_remembers() -> None:
    (weight,) = random_tensors([(8, 24)], seed=0)
    optimizer = make_muon([weight])
    descend(optimizer, [weight], num_steps=2)
    saved = [tensor.clone() for tensor in (weight, *optimizer.state())]
    descend(optimizer, [weight], num_steps=2)
    first = weight.clone()
    for tensor, value in zip((weight, *optimizer.state()), saved, strict=True):
        tensor.copy_(value)
    descend(optimizer, [weight], num_steps=2)
    assert torch.equal(weight, first)


# -----------------------------------------------------------------------------
# both


def make_adamw(weights: list[Tensor], learning_rate: Tensor) -> AdamW:
    return AdamW(weights, learning_rate, betas=(0.9, 0.95), weight_decay=0.1)


@pytest.mark.parametrize("shapes", [[(12, 16), (5,)], [(5,), (3, 4, 4), (7,), (12, 16)], [(12, 16)], [(5,)]])
def test_adamw_is_the_adamw_of_torch_that_lets_vectors_keep_their_size(shapes: list[tuple[int, ...]]) -> None:
    ours, theirs = random_tensors(shapes, seed=0), random_tensors(shapes, seed=0)
    descend(make_adamw(ours, torch.tensor(0.01)), ours, num_steps=8)
    groups = [
        {"params": [weight for weight in theirs if weight.dim() >= 2], "weight_decay": 0.1},
        {"params": [weight for weight in theirs if weight.dim() < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    reference = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95), eps=1e-8)
    descend(reference, theirs, num_steps=8)
    for weight, expected, before in zip(ours, theirs, random_tensors(shapes, seed=0), strict=True):
        assert_close(weight, expected, rtol=1e-5, atol=1e-6)
        assert not torch.equal(weight, before)


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_the_learning_rate_is_read_anew_at_every_step(kind: str) -> None:
    (weight,) = random_tensors([(8, 24)], seed=0)
    learning_rate = torch.tensor(0.0)
    optimizer: Muon | AdamW = make_adamw([weight], learning_rate)
    if kind == "muon":
        optimizer = make_muon([weight], torch.float32, learning_rate)
    moved = []

    def before_step(step: int) -> None:
        moved.append(weight.clone())
        learning_rate.fill_(0.0 if step % 2 else 0.1)

    descend(optimizer, [weight], num_steps=4, before_step=before_step)
    moved.append(weight.clone())
    changed = [not torch.equal(before, after) for before, after in itertools.pairwise(moved)]
    assert changed == [True, False, True, False]


def test_the_state_of_adamw_is_all_it_remembers() -> None:
    (weight,) = random_tensors([(8, 24)], seed=0)
    optimizer = make_adamw([weight], torch.tensor(0.01))
    descend(optimizer, [weight], num_steps=2)
    saved = [tensor.clone() for tensor in (weight, *optimizer.state())]
    descend(optimizer, [weight], num_steps=2)
    first = weight.clone()
    for tensor, value in zip((weight, *optimizer.state()), saved, strict=True):
        tensor.copy_(value)
    descend(optimizer, [weight], num_steps=2)
    assert torch.equal(weight, first)


# -----------------------------------------------------------------------------
# the learning-rate schedule


def test_the_learning_rate_rises_and_falls_to_zero() -> None:
    schedule = learning_rate_schedule(100, 10, "power", 2.0, 0.0)
    assert schedule[0] == pytest.approx(0.1)
    assert schedule[50] == pytest.approx(0.25)
    assert schedule[99] == pytest.approx(0.0001, rel=1e-4)
    assert schedule.argmax() == 9
    assert (schedule.diff()[:9] > 0).all()
    assert (schedule.diff()[9:] < 0).all()


def test_the_learning_rate_rises_and_falls_as_nanogpts() -> None:
    warmup_iters, max_iters, learning_rate, min_lr = 50, 5000, 6e-3, 6e-4

    def get_lr(it: int) -> float:
        if it < warmup_iters:
            return learning_rate * (it + 1) / (warmup_iters + 1)
        decay_ratio = (it - warmup_iters) / (max_iters - warmup_iters)
        return min_lr + 0.5 * (1.0 + math.cos(math.pi * decay_ratio)) * (learning_rate - min_lr)

    schedule = learning_rate_schedule(max_iters, 51, "cosine", 2.0, 0.1)
    expected = torch.tensor([get_lr(it) for it in range(max_iters)])
    assert torch.allclose(schedule * learning_rate, expected, rtol=1e-5, atol=1e-9)


def test_a_constant_learning_rate_is_constant_after_its_rise() -> None:
    schedule = learning_rate_schedule(20, 5, "constant", 2.0, 0.0)
    assert schedule[:5].tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert (schedule[4:] == 1).all()
    assert (learning_rate_schedule(20, 0, "constant", 2.0, 0.0) == 1).all()


def test_the_learning_rate_falls_to_a_share_of_the_peak() -> None:
    to_zero, to_a_fifth = (learning_rate_schedule(100, 0, "power", 2.0, share) for share in (0.0, 0.2))
    assert torch.allclose(to_a_fifth, 0.2 + 0.8 * to_zero)


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


@pytest.mark.parametrize("decay", ["cosine", "power"])
def test_a_decay_over_more_steps_than_are_taken_is_the_start_of_that_decay(decay: str) -> None:
    """A rate that falls from 1e-3 to 1e-5 over 50,000 steps after 100 of warm-up, in a run of 600 steps."""
    short = learning_rate_schedule(600, 100, decay, 1.0, 0.01, decay_steps=50_000).double()
    assert len(short) == 600
    long = learning_rate_schedule(50_000, 100, decay, 1.0, 0.01).double()
    assert torch.equal(short, long[:600])
    for step in (0, 49, 99, 100, 350, 599):
        warmup = min(1.0, (step + 1) / 100)
        if decay == "power":
            remaining = 1 - step / 50_000
        else:
            remaining = (1 + math.cos(math.pi * max(0, step - 99) / (50_000 - 99))) / 2
        assert float(short[step]) == pytest.approx(warmup * (0.01 + 0.99 * remaining), rel=1e-6)
    assert float(long[-1]) == pytest.approx(0.01, rel=1e-2)
