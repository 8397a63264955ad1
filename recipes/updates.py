"""What published recipes do around the optimizers' step: gradient scaling, a slow-gradient filter, row-norm clipping.

All state is allocated on the device at construction, and no step moves it. Without gradient scaling, no step
synchronises with the device.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from kernel import gradient
from optim import Updater
from settings import Settings


class SlowGradientFilter:
    """Adds `gain` times the exponential moving average of each gradient to the gradient.

    This is Grokfast-EMA (Lee et al., Grokfast: Accelerated Grokking by Amplifying Slow Gradients, 2024). The average
    starts as the first gradient. `decay` is its share of the average per step.
    """

    def __init__(self, weights: list[Tensor], decay: float, gain: float) -> None:
        self.weights, self.decay, self.gain = weights, decay, gain
        self.averages = [torch.zeros_like(weight) for weight in weights]
        self.steps = torch.zeros((), device=weights[0].device)

    @torch.no_grad()
    def __call__(self) -> None:
        gradients = [gradient(weight) for weight in self.weights]
        new_share = (self.steps == 0).float().clamp(min=1 - self.decay)  # 1 at first
        torch._foreach_lerp_(self.averages, gradients, [new_share] * len(gradients))
        torch._foreach_add_(gradients, self.averages, alpha=self.gain)
        self.steps += 1


@torch.no_grad()
def clip_rows(matrices: Iterable[Tensor], max_norm: float) -> None:
    """Scale the rows (the last dimension) of matrices whose norm is above `max_norm` down to it, in place."""
    for matrix in matrices:
        norms = matrix.norm(dim=-1, keepdim=True)
        matrix.mul_((max_norm / norms).clamp(max=1.0))  # a row of zeros has the factor 1


class RecipeUpdater(Updater):
    """Wraps `update_weights`, which clips the gradients' norm and takes the optimizers' steps."""

    def __init__(self, settings: Settings, weights: Iterable[Tensor], update_weights: Callable[[], None]) -> None:
        super().__init__(update_weights)
        self.settings, self.weights = settings, list(weights)
        self.matrices = [weight for weight in self.weights if weight.dim() >= 2]
        self.filter = None
        if settings.grokfast_lambda:
            self.filter = SlowGradientFilter(self.weights, settings.grokfast_alpha, settings.grokfast_lambda)
        self.scaler = None
        if settings.grad_scaler:
            device = self.weights[0].device
            self.scaler = torch.amp.GradScaler(device.type)
            self.scaler.scale(torch.zeros((), device=device))  # allocates its state
            self.initial_scaler_state = self.scaler.state_dict()
        self.param_groups = [{"params": self.weights}]  # read by GradScaler, to which this object is an optimizer

    def scale(self, loss: Tensor) -> Tensor:
        """Multiply the loss by the scale of the gradients."""
        return loss if self.scaler is None else self.scaler.scale(loss)

    def __call__(self) -> None:
        """Update the weights, unless a scaled gradient has overflowed."""
        if self.scaler is None:
            self.step()
        else:
            self.scaler.step(self)  # type: ignore[arg-type]
            self.scaler.update()

    def step(self) -> None:
        """Update the weights from unscaled gradients."""
        if self.filter is not None:
            self.filter()
        self.update_weights()
        if self.settings.max_row_norm:
            clip_rows(self.matrices, self.settings.max_row_norm)

    def state(self) -> list[Tensor]:
        """Return every tensor that an update changes, except the weights and the optimizers' state."""
        tensors = [] if self.filter is None else [*self.filter.averages, self.filter.steps]
        if self.scaler is not None:
            tensors += [tensor for tensor in (self.scaler._scale, self.scaler._growth_tracker) if tensor is not None]
        return tensors

    def reset(self) -> None:
        """Reset the state, in place, to what it was at construction."""
        for tensor in self.state():
            tensor.zero_()
        if self.scaler is not None:
            self.scaler.load_state_dict(self.initial_scaler_state)
