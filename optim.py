"""The optimizers: state on the device from the start, learning rates as tensors, and no step waits for the device.

So a step can be captured whole. They also start at once, where `torch.optim` imports the compiler (two seconds).
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from kernel import Matrix, Optimizers, Other

# Coefficients of the quintic iteration (Jordan et al., Muon, 2024).
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
EPSILON = 1e-8  # AdamW's, beside the root of the mean square


def orthogonalize(matrices: Tensor, num_iterations: int, dtype: torch.dtype) -> Tensor:
    """Push the singular values of each of the `matrices` (n, rows, columns), rows <= columns, towards 1.

    The quintic Newton-Schulz iteration (Jordan et al., Muon, 2024), its products in `dtype`; float32 comes back.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices.to(dtype)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(num_iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)  # a x + (b gram + c gram²) x
    return x.float()


class Muon:
    """Momentum, then the nearest orthogonal matrix as the update (Jordan et al., 2024).

    Matrices of one shape, either way round, share a buffer and are orthogonalized together; a weight of three
    dimensions is a stack of matrices. `torch.optim.Muon` is the reference it is tested against: that one takes the
    matrices one by one and its learning rate from the host.

    Args:
        weights: of two or three dimensions, float32.
        learning_rate: a scalar tensor on the weights' device, read anew at every step.
        momentum: of the gradient's running mean; Nesterov's look-ahead is always on.
        num_iterations: of `orthogonalize`.
        weight_decay: decoupled, a step and unit of learning rate.
        dtype: of the orthogonalization's products.
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
            shape: torch.zeros_like(self.gather(group)) for shape, group in self.by_shape.items()
        }  # running means of the gradient, (n, rows, columns) with rows <= columns

    @staticmethod
    def gather(tensors: Iterable[Tensor]) -> Tensor:
        """Stack matrices of one shape, lying down."""
        return torch.cat([lying(tensor).reshape(-1, *lying(tensor).shape[-2:]) for tensor in tensors])

    @staticmethod
    def parts(stack: Tensor, weights: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Each of the weights, with its part (n, rows, columns) of what `gather` makes of all."""
        size = stack[0].numel()
        return zip(weights, stack.split([weight.numel() // size for weight in weights]), strict=True)

    @torch.no_grad()
    def step(self) -> None:
        kept = 1 - self.weight_decay * self.learning_rate
        for shape, weights in self.by_shape.items():
            gradient, mean = self.gather(weight.grad for weight in weights), self.buffers[shape]
            mean.lerp_(gradient, 1 - self.momentum)
            gradient.lerp_(mean, self.momentum)
            update = orthogonalize(gradient, self.num_iterations, self.dtype) * self.learning_rate
            for weight, part in self.parts(update, weights):
                lying(weight).mul_(kept).sub_(part.view(lying(weight).shape), alpha=update_scale(weight))

    def step_flops(self) -> int:
        """FLOPs of the matrix products of a step, 2 for each multiply-add."""
        shapes = [buffer.shape for buffer in self.buffers.values()]
        # multiply-adds an iteration: the Gram matrix, its square, and the product of their sum with the matrix
        iteration = sum(n * (rows * columns * rows + rows**3 + rows * rows * columns) for n, rows, columns in shapes)
        return 2 * self.num_iterations * iteration

    def state(self) -> list[Tensor]:
        return list(self.buffers.values())

    def matrices(self) -> list[Matrix]:
        """What kernel.c needs to know of each, where all sizes are multiples of 16; the largest come first.

        Its threads take turns, and should have as much to do.
        """
        found = []
        for shape, group in self.by_shape.items():
            for weight, means in self.parts(self.buffers[shape], group):
                rows, columns = shape
                places = [tensor.data_ptr() for tensor in (weight, weight.grad, means)]
                is_transposed = weight.size(-2) > weight.size(-1)
                for start in range(0, 4 * weight.numel(), 4 * rows * columns):
                    where = (place + start for place in places)
                    found.append(Matrix(*where, rows, columns, is_transposed, update_scale(weight)))
        return sorted(found, key=lambda matrix: -matrix.columns)


def update_scale(weight: Tensor) -> float:
    """What makes an orthogonal update of (..., rows, columns) change each output by the same amount."""
    rows, columns = weight.shape[-2:]
    return max(1.0, rows / columns) ** 0.5


def lying(weight: Tensor) -> Tensor:
    """A view with no more rows than columns."""
    return weight.mT if weight.size(-2) > weight.size(-1) else weight


class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019), by torch's fused kernel.

    Args:
        weights: float32.
        learning_rate: a scalar tensor on the weights' device, read anew at every step.
        betas: decay a step of the running means of the gradient and of its square.
        weight_decay: of weights of two or more dimensions, a step and unit of learning rate; gains keep their size.
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
        # What the kernel takes together: weights, means, mean squares and steps, and their weight decay.
        self.groups = []
        for is_decayed in (True, False):
            places = [i for i, weight in enumerate(self.weights) if (weight.dim() >= 2) == is_decayed]
            if places:
                lists = self.weights, self.means, self.mean_squares, self.steps
                together = [[tensors[i] for i in places] for tensors in lists]
                self.groups.append((*together, weight_decay if is_decayed else 0.0))

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
        return [*self.means, *self.mean_squares, *self.steps]

    def others(self) -> list[Other]:
        """What kernel.c needs to know of each weight."""
        return [
            Other(*(tensor.data_ptr() for tensor in (weight, weight.grad, mean, square)), weight.numel(), weight_decay)
            for weights, means, squares, _, weight_decay in self.groups
            for weight, mean, square in zip(weights, means, squares, strict=True)
        ]


def for_kernel(muon: Muon, muon_rate: float, adam: AdamW, adam_rate: float) -> Optimizers:
    """Both optimizers as kernel.c takes them, at their highest rates; the weights have a `grad`."""
    matrices, others = muon.matrices(), adam.others()
    return Optimizers(
        num_matrices=len(matrices),
        num_others=len(others),
        num_iterations=muon.num_iterations,
        adam_steps=int(adam.steps[0]),
        matrices=(Matrix * len(matrices))(*matrices),
        others=(Other * len(others))(*others),
        muon_rate=muon_rate,
        momentum=muon.momentum,
        muon_weight_decay=muon.weight_decay,
        coefficients=NEWTON_SCHULZ,
        adam_rate=adam_rate,
        betas=adam.betas,
        epsilon=EPSILON,
    )
