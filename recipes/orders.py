"""Generation in any order: each token is embedded with the position of the token that comes next."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from model_config import ModelConfig


class NextPositions(nn.Module):
    """Embeddings of the position whose token is asked for (Pannatier et al., sigma-GPTs, 2024).

    Shapes are as in model.py. Attention stays causal in the order of generation.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.next_position = nn.Parameter(torch.empty(config.block_size, config.n_embd))

    def embed(self, start: int, T: int, next_positions: Tensor | None) -> Tensor:
        """Return the embeddings (B, T, C), or (T, C), of T tokens after `start` others.

        `next_positions` (B, start + T) int64 are by default those of left to right: 1, 2, and so on; the last position
        asks for itself.
        """
        if next_positions is None:
            last = len(self.next_position) - 1
            index = torch.arange(start + 1, start + T + 1, device=self.next_position.device).clamp(max=last)
        else:
            index = next_positions[:, start:]
        return F.embedding(index, self.next_position)
