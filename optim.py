"""Muon, AdamW and the learning-rate schedule.

All state is allocated on the device at construction, learning rates are tensors, and no step synchronises with the
device, so that a whole step can be captured as a CUDA graph. `torch.optim` is not used because its import loads the
compiler, which takes about two seconds.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from kernel import AdamWWeight, MuonWeight, Optimizers, gradient

# Coefficients of the quintic iteration (Jordan et al., Muon, 2024).
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def learning_rate_schedule(
    num_steps: int,
    warmup_steps: int,
    decay: str,
    decay_power: float,
    decay_to: float,
    decay_steps: int = 0,
    interval: float = 1,
) -> Tensor:
    """Return the learning rate at each step of a round as a share of the peak, (num_steps,) float32.

    It is the product of a linear warm-up and a decay from 1 to `decay_to`; see `settings.Settings` for the arguments.
    The rate changes every `interval` steps, in which `warmup_steps` and `decay_steps` are counted.
    """
    steps, peak_step = torch.arange(num_steps), max(0, warmup_steps - 1)
    step = steps if interval == 1 else (steps / interval).long()
    decay_steps = decay_steps or math.ceil(num_steps / interval)
    warmup = ((step + 1) / (peak_step + 1)).clamp(max=1.0)
    match decay:
        case "power":
            remaining = (1 - step.clamp(max=decay_steps) / decay_steps) ** decay_power
        case "cosine":  # SGDR (Loshchilov and Hutter, 2017)
            progress = ((step - peak_step) / max(1, decay_steps - peak_step)).clamp(0.0, 1.0)
            remaining = (1 + (torch.pi * progress).cos()) / 2
        case "noam":  # Vaswani et al., 2017; they write the peak as factor / sqrt(width * warmup_steps)
            remaining = ((peak_step + 1) / (step + 1)).sqrt().clamp(max=1.0)
        case "constant":
            remaining = torch.ones(num_steps)
    return warmup * (decay_to + (1 - decay_to) * remaining)


def orthogonalize(matrices: Tensor, num_iterations: int, dtype: torch.dtype) -> Tensor:
    """Move the singular values of `matrices` (n, rows, columns), rows <= columns, towards 1.

    Uses the quintic Newton-Schulz iteration (Jordan et al., Muon, 2024). Products are computed in `dtype`; the result
    is float32.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices.to(dtype)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(num_iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)  # a x + (b gram + c gram²) x
    return x.float()


class Muon:
    """Momentum with an orthogonalized update (Jordan et al., Muon, 2024).

    Matrices of the same shape or transposed shape share a buffer and are orthogonalized together. A weight of three
    dimensions is a stack of matrices. Products are computed in `dtype`. The learning rate is a scalar tensor on the
    weights' device, read at every step; see `settings.Settings` for the other arguments. The reference for tests is
    `torch.optim.Muon`, which processes matrices one by one and takes the learning rate from the host.
    """

    def __init__(
        self,
        weights: Iterable[Tensor],
        learning_rate: Tensor,
        momentum: float,
        num_iterations: int,
        weight_decay: float,
        dtype: torch.dtype,
    ) -> None:
        self.learning_rate, self.momentum, self.weight_decay = learning_rate, momentum, weight_decay
        self.num_iterations, self.dtype = num_iterations, dtype
        self.weights = list(weights)
        by_shape: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
        for weight in self.weights:
            by_shape[tuple(sorted(weight.shape[-2:]))].append(weight)
        # weights, and the running means of their gradients, (n, rows, columns) with rows <= columns
        self.groups = [(group, torch.zeros_like(self.stack(group))) for group in by_shape.values()]

    @staticmethod
    def stack(tensors: Iterable[Tensor]) -> Tensor:
        """Stack matrices of one shape in wide layout: (n, rows, columns) with rows <= columns."""
        return torch.cat([wide(tensor).reshape(-1, *wide(tensor).shape[-2:]) for tensor in tensors])

    @staticmethod
    def split(stacked: Tensor, weights: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Undo `stack`: yield each weight with its part (n, rows, columns) of `stacked`."""
        size = stacked[0].numel()
        return zip(weights, stacked.split([weight.numel() // size for weight in weights]), strict=True)

    @torch.no_grad()
    def step(self) -> None:
        decay_factor = 1 - self.weight_decay * self.learning_rate
        for weights, mean in self.groups:
            update = self.stack(map(gradient, weights))
            mean.lerp_(update, 1 - self.momentum)
            update.lerp_(mean, self.momentum)  # Nesterov momentum
            update = orthogonalize(update, self.num_iterations, self.dtype) * self.learning_rate
            for weight, part in self.split(update, weights):
                wide(weight).mul_(decay_factor).sub_(part.view(wide(weight).shape), alpha=update_scale(weight))

    def step_flops(self) -> int:
        """Return the FLOPs of the matrix products of a step, 2 for each multiply-add."""
        shapes = [mean.shape for mean in self.state()]
        # multiply-adds per iteration: the Gram matrix, its square, and the product of their sum with the matrix
        iteration = sum(n * (rows * columns * rows + rows**3 + rows * rows * columns) for n, rows, columns in shapes)
        return 2 * self.num_iterations * iteration

    def state(self) -> list[Tensor]:
        """Return every tensor that a step changes, except the weights."""
        return [mean for _, mean in self.groups]

    def kernel_weights(self) -> list[MuonWeight]:
        """Return the matrices for kernel.c, whose sizes must be multiples of 16.

        The largest come first, which balances the load of the kernel's threads.
        """
        matrices = []
        for weights, means in self.groups:
            rows, columns = means.shape[-2:]
            for weight, mean in self.split(means, weights):
                addresses = [tensor.data_ptr() for tensor in (weight, gradient(weight), mean)]
                is_transposed = weight.size(-2) > weight.size(-1)
                for offset in range(0, 4 * weight.numel(), 4 * rows * columns):  # bytes of float32
                    shifted = (address + offset for address in addresses)
                    matrices.append(MuonWeight(*shifted, rows, columns, is_transposed, update_scale(weight)))
        return sorted(matrices, key=lambda matrix: -matrix.columns)


def update_scale(weight: Tensor) -> float:
    """Return the factor by which an orthogonal update of (..., rows, columns) changes outputs of any size equally."""
    rows, columns = weight.shape[-2:]
    return max(1.0, rows / columns) ** 0.5


def wide(weight: Tensor) -> Tensor:
    """Return a view in wide layout: no more rows than columns."""
    return weight.mT if weight.size(-2) > weight.size(-1) else weight


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019), computed by torch's fused kernel.

    The learning rate is a scalar tensor on the weights' device, read at every step. `epsilon` is added to the root of
    the mean square. Weights of one dimension (gains and biases) have no weight decay unless `decay_on` is "all".
    """

    fused_step = staticmethod(torch._fused_adamw_)

    def __init__(
        self,
        weights: Iterable[Tensor],
        learning_rate: Tensor,
        betas: tuple[float, float],
        weight_decay: float,
        epsilon: float = 1e-8,
        decay_on: str = "matrices",
    ) -> None:
        self.learning_rate, self.betas, self.weight_decay = learning_rate, betas, weight_decay
        self.epsilon, self.decay_on = epsilon, decay_on
        self.weights = sorted(weights, key=lambda weight: weight.dim() < 2)  # gains and biases last
        self.means = [torch.zeros_like(weight) for weight in self.weights]
        self.mean_squares = [torch.zeros_like(weight) for weight in self.weights]
        self.steps = [torch.zeros((), device=weight.device) for weight in self.weights]
        num_decayed = sum(weight.dim() >= 2 for weight in self.weights)
        self.groups = slice(num_decayed), slice(num_decayed, None)  # of one weight decay each

    def decay_of(self, weight: Tensor) -> float:
        return self.weight_decay if weight.dim() >= 2 or self.decay_on == "all" else 0.0

    @torch.no_grad()
    def step(self) -> None:
        torch._foreach_add_(self.steps, 1)
        for group in self.groups:
            if weights := self.weights[group]:
                self.fused_step(
                    weights,
                    [gradient(weight) for weight in weights],
                    self.means[group],
                    self.mean_squares[group],
                    [],
                    self.steps[group],
                    lr=self.learning_rate,
                    beta1=self.betas[0],
                    beta2=self.betas[1],
                    weight_decay=self.decay_of(weights[0]),
                    eps=self.epsilon,
                    amsgrad=False,
                    maximize=False,
                )

    def state(self) -> list[Tensor]:
        """Return every tensor that a step changes, except the weights."""
        return [*self.means, *self.mean_squares, *self.steps]

    def kernel_weights(self) -> list[AdamWWeight]:
        """Return the weights for kernel.c."""
        lists = self.weights, map(gradient, self.weights), self.means, self.mean_squares
        return [
            AdamWWeight(*(tensor.data_ptr() for tensor in tensors), tensors[0].numel(), self.decay_of(tensors[0]))
            for tensors in zip(*lists, strict=True)
        ]


class Updater:
    """Updates the weights from their gradients, by a function; `recipes.updates` has another one."""

    def __init__(self, update_weights: Callable[[], None]) -> None:
        self.update_weights = update_weights

    def __call__(self) -> None:
        self.update_weights()

    def scale(self, loss: Tensor) -> Tensor:
        """Return the loss as it is; an updater may scale it."""
        return loss

    def state(self) -> list[Tensor]:
        """Return every tensor that an update changes, except the weights and the optimizers' state."""
        return []

    def reset(self) -> None:
        """Reset the state, in place, to what it was at construction."""


def kernel_optimizers(muon: Muon, muon_rate: float, adam: AdamW, adam_rate: float) -> Optimizers:
    """Return both optimizers as kernel.c takes them, with their peak learning rates."""
    muon_weights, adamw_weights = muon.kernel_weights(), adam.kernel_weights()
    return Optimizers(
        num_muon_weights=len(muon_weights),
        num_adamw_weights=len(adamw_weights),
        num_iterations=muon.num_iterations,
        adamw_steps=int(adam.steps[0]),
        muon_weights=(MuonWeight * len(muon_weights))(*muon_weights),
        adamw_weights=(AdamWWeight * len(adamw_weights))(*adamw_weights),
        muon_rate=muon_rate,
        momentum=muon.momentum,
        muon_weight_decay=muon.weight_decay,
        coefficients=NEWTON_SCHULZ,
        adamw_rate=adam_rate,
        betas=adam.betas,
        epsilon=adam.epsilon,
    )
