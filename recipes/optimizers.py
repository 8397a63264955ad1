"""Optimizers of published recipes: Adam with L2 regularisation, and Lion.

They are used as `optim.AdamW` is, and have its arguments.
"""

from typing import Any

import torch

from kernel import gradient
from optim import AdamW


class Adam(AdamW):
    """Adam (Kingma and Ba, 2015); the weight decay is added to the gradient, as L2 regularisation."""

    fused_step = staticmethod(torch._fused_adam_)


class Lion(AdamW):
    """Lion (Chen et al., Symbolic Discovery of Optimization Algorithms, 2023), with decoupled weight decay.

    The update is the sign of a mix of the gradient and its running mean, with the share `betas[0]` of the mean.
    `betas[1]` is the decay of the mean. `epsilon` has no effect.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.mean_squares, self.steps = [], []

    @torch.no_grad()
    def step(self) -> None:
        for group in self.groups:
            if weights := self.weights[group]:
                gradients, means = [gradient(weight) for weight in weights], self.means[group]
                updates = torch._foreach_sign(torch._foreach_lerp(means, gradients, 1 - self.betas[0]))
                torch._foreach_mul_(updates, self.learning_rate)
                torch._foreach_mul_(weights, 1 - self.decay_of(weights[0]) * self.learning_rate)
                torch._foreach_sub_(weights, updates)
                torch._foreach_lerp_(means, gradients, 1 - self.betas[1])


OPTIMIZERS: dict[str, type[AdamW]] = {"adam": Adam, "lion": Lion}  # by the setting `matrix_optimizer`
