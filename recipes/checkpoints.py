"""The best weights of a training run, by the loss of the track's validation set."""

import math

import torch

from model import Transformer


class BestCheckpoint:
    """Keeps a copy of the weights that had the lowest validation loss so far."""

    def __init__(self, model: Transformer) -> None:
        self.model, self.loss = model, math.inf
        self.weights = [weight.detach().clone() for weight in model.parameters()]

    @torch.no_grad()
    def update(self, loss: float) -> None:
        """Keep the present weights if their validation loss, nats, is the lowest so far."""
        if loss < self.loss:
            self.loss = loss
            for kept, weight in zip(self.weights, self.model.parameters(), strict=True):
                kept.copy_(weight)

    @torch.no_grad()
    def restore(self) -> None:
        """Put the kept weights into the model, if there are any."""
        if math.isfinite(self.loss):
            for kept, weight in zip(self.weights, self.model.parameters(), strict=True):
                weight.copy_(kept)
