"""The best of several initial states, by the loss of a batch before the first step."""

from collections.abc import Callable

import torch

from model import Transformer
from recipes.checkpoints import BestCheckpoint


@torch.no_grad()
def keep_best_state(model: Transformer, draw: Callable[[], None], num_states: int, loss: Callable[[], float]) -> None:
    """Draw `num_states` - 1 more sets of initial weights, and leave the model with the set of the lowest loss.

    The first set is the one that the model has. `draw` replaces the weights by a new set. `loss` returns the
    model's loss, nats, without dropout; it may raise an exception to end training.
    """
    best = BestCheckpoint(model)
    model.eval()
    best.update(loss())
    for _ in range(num_states - 1):
        draw()
        best.update(loss())
    best.restore()
    model.train()
