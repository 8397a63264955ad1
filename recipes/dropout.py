"""Dropout with a rate of its own for each text, and the same units in all layers."""

from collections.abc import Iterable

import torch
import torch.nn as nn
from torch import Tensor

from layers import Block


class SharedDropout(nn.Module):
    """Drops units of the residual stream (B, T, C): of each text the same ones at all positions and in all layers.

    The rate of a text is uniform from 0 to `largest_rate`, which it does not reach (a recipe of 2024 for models of
    random order). The embeddings and all that the blocks add to the stream are zero in the dropped units. What is kept
    is not scaled: norms do that. Forward draws the units, of the embeddings' batch, in training mode only.
    """

    def __init__(self, largest_rate: float, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.largest_rate = largest_rate
        self.kept: Tensor | None = None  # (B, 1, C), 1 or 0
        for block in blocks:
            assert isinstance(block, Block)
            for sublayer in (block.attention, block.mlp):
                sublayer.register_forward_hook(self.drop)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            self.kept = None
            return x
        rates = self.largest_rate * torch.rand(len(x), 1, 1, device=x.device)
        self.kept = (torch.rand(len(x), 1, x.size(-1), device=x.device) >= rates).to(x.dtype)
        return x * self.kept

    def drop(self, module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        """A hook: what a sublayer returns (B, Q, C), without the dropped units."""
        return output if self.kept is None else output * self.kept.to(output.dtype)
