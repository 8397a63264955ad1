"""Muon, AdamW and the learning-rate schedule.

All state is allocated on the device at construction, learning rates are tensors, and no step synchronises with the
device, so that a whole step can be captured as a CUDA graph. `torch.optim` is not used because its import loads the
compiler, which takes about two seconds.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from kernel import AdamWWeight, MuonWeight, Optimizers

# Coefficients of the quintic iteration (Jordan et al., Muon, 2024).
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
EPSILON = 1e-8  # of AdamW, added to the root of the mean square


# -----------------------------------------------------------------------------
# the learning-rate schedule


def learning_rate_schedule(
    num_steps: int, warmup_steps: int, decay: str, decay_power: float, decay_to: float
) -> Tensor:
    """Return the learning rate at each step of a round as a share of the peak, (num_steps,) float32.

    The schedule is the product of a linear warm-up and a decay from 1 to `decay_to`. See `settings.Settings` for the
    arguments.
    """
    step, peak_step = torch.arange(num_steps), max(0, warmup_steps - 1)
    warmup = ((step + 1) / (peak_step + 1)).clamp(max=1.0)
    match decay:
        case "power":
            remaining = (1 - step / num_steps) ** decay_power
        case "cosine":  # SGDR (Loshchilov and Hutter, 2017)
            progress = ((step - peak_step) / max(1, num_steps - peak_step)).clamp(min=0.0)
            remaining = (1 + (torch.pi * progress).cos()) / 2
        case "constant":
            remaining = torch.ones(num_steps)
    return warmup * (decay_to + (1 - decay_to) * remaining)


# -----------------------------------------------------------------------------
# Muon


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
    dimensions is a stack of matrices. The reference for tests is `torch.optim.Muon`, which processes matrices one by
    one and takes the learning rate from the host.

    Args:
        weights: of two or three dimensions, float32.
        learning_rate: a scalar tensor on the weights' device, read at every step.
        momentum: decay of the running mean of the gradient; the update uses Nesterov momentum.
        num_iterations: Newton-Schulz iterations of `orthogonalize`.
        weight_decay: decoupled, per step and unit of learning rate.
        dtype: precision of the products in `orthogonalize`.
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
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.num_iterations = num_iterations
        self.weight_decay = weight_decay
        self.dtype = dtype
        self.weights = list(weights)
        self.by_shape: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
        for weight in self.weights:
            self.by_shape[tuple(sorted(weight.shape[-2:]))].append(weight)
        self.buffers = {
            shape: torch.zeros_like(self.stack(group)) for shape, group in self.by_shape.items()
        }  # running means of the gradient, (n, rows, columns) with rows <= columns

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
        for shape, weights in self.by_shape.items():
            gradient, mean = self.stack(weight.grad for weight in weights), self.buffers[shape]
            mean.lerp_(gradient, 1 - self.momentum)
            gradient.lerp_(mean, self.momentum)
            update = orthogonalize(gradient, self.num_iterations, self.dtype) * self.learning_rate
            for weight, part in self.split(update, weights):
                wide(weight).mul_(decay_factor).sub_(part.view(wide(weight).shape), alpha=update_scale(weight))

    def step_flops(self) -> int:
        """Return the FLOPs of the matrix products of a step, 2 for each multiply-add."""
        shapes = [buffer.shape for buffer in self.buffers.values()]
        # multiply-adds per iteration: the Gram matrix, its square, and the product of their sum with the matrix
        iteration = sum(n * (rows * columns * rows + rows**3 + rows * rows * columns) for n, rows, columns in shapes)
        return 2 * self.num_iterations * iteration

    def state(self) -> list[Tensor]:
        """Return every tensor that a step changes, except the weights."""
        return list(self.buffers.values())

    def kernel_weights(self) -> list[MuonWeight]:
        """Return the matrices for kernel.c, whose sizes must be multiples of 16.

        The largest come first, which balances the load of the kernel's threads.
        """
        matrices = []
        for (rows, columns), group in self.by_shape.items():
            for weight, means in self.split(self.buffers[rows, columns], group):
                addresses = [tensor.data_ptr() for tensor in (weight, weight.grad, means)]
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


# -----------------------------------------------------------------------------
# AdamW


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019), computed by torch's fused kernel.

    Args:
        weights: float32.
        learning_rate: a scalar tensor on the weights' device, read at every step.
        betas: decay per step of the running means of the gradient and of its square.
        weight_decay: per step and unit of learning rate; weights of one dimension (gains) have none.
    """

    def __init__(
        self, weights: Iterable[Tensor], learning_rate: Tensor, betas: tuple[float, float], weight_decay: float
    ) -> None:
        self.learning_rate = learning_rate
        self.betas = betas
        self.weights = list(weights)
        self.means = [torch.zeros_like(weight) for weight in self.weights]
        self.mean_squares = [torch.zeros_like(weight) for weight in self.weights]
        self.steps = [torch.zeros((), device=weight.device) for weight in self.weights]
        # One call of the fused kernel per group: weights, means, mean squares, steps, and their weight decay.
        self.groups = []
        for is_decayed in (True, False):
            indices = [i for i, weight in enumerate(self.weights) if (weight.dim() >= 2) == is_decayed]
            if indices:
                lists = self.weights, self.means, self.mean_squares, self.steps
                members = [[tensors[i] for i in indices] for tensors in lists]
                self.groups.append((*members, weight_decay if is_decayed else 0.0))

    @torch.no_grad()
    def step(self) -> None:
        torch._foreach_add_(self.steps, 1)
        for weights, means, mean_squares, steps, weight_decay in self.groups:
            torch._fused_adamw_(
                weights,
                [weight.grad for weight in weights],
                means,
                mean_squares,
                [],
                steps,
                lr=self.learning_rate,
                beta1=self.betas[0],
                beta2=self.betas[1],
                weight_decay=weight_decay,
                eps=EPSILON,
                amsgrad=False,
                maximize=False,
            )

    def state(self) -> list[Tensor]:
        """Return every tensor that a step changes, except the weights."""
        return [*self.means, *self.mean_squares, *self.steps]

    def kernel_weights(self) -> list[AdamWWeight]:
        """Return the weights for kernel.c."""
        return [
            AdamWWeight(*(tensor.data_ptr() for tensor in tensors), tensors[0].numel(), weight_decay)
            for weights, means, squares, _, weight_decay in self.groups
            for tensors in zip(weights, [weight.grad for weight in weights], means, squares, strict=True)
        ]


def kernel_optimizers(muon: Muon, muon_rate: float, adam: AdamW, adam_rate: float) -> Optimizers:
    """Return both optimizers as kernel.c takes them, with their peak learning rates. All weights need a `grad`."""
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
        epsilon=EPSILON,
    )
