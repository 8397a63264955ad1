"""Pairs of neighbouring characters: an embedding of each pair, and a head that predicts two characters jointly.

Where characters spell numbers, a pair acts as a token for a number of two digits. Shapes are as in model.py.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from model_config import ModelConfig

NO_TARGET = -100  # in place of a target that has no loss
PAIR_WEIGHT = 3.0  # of the loss of a pair, beside that of a character; division was learned late with 1


class Bigrams(nn.Module):
    """Embeds each pair of neighbouring characters, and scores the next two characters by the same embeddings.

    The embedding of a character and the one before it is added to that of the character (Huang et al., Over-Tokenized
    Transformer, 2025). The loss has a term for the next two characters together (Gloeckle et al., Better and Faster
    Large Language Models via Multi-token Prediction, 2024).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        V = self.nothing = config.vocab_size  # in place of the character before the first one
        self.pair = nn.Parameter(torch.empty(V + 1, V, config.n_embd))

    def embed(self, idx: Tensor, positions: Tensor | None = None, cache: list[Tensor] | None = None) -> Tensor:
        """Map idx (B, T) int64 to the embeddings (B, T, C) of each character with the one before it.

        `positions` (B, P + T) are as in `Transformer.forward`: the character at position 0 has none before it. `cache`
        holds the last ids passed before, (B, 1), or is empty; those of idx replace them.
        """
        latest = cache.pop() if cache else torch.full_like(idx[:, :1], self.nothing)
        before = torch.cat([latest, idx[:, :-1]], 1)
        if positions is not None:
            before = before.masked_fill(positions[:, -idx.size(1) :] == 0, self.nothing)
        if cache is not None:
            cache.append(idx[:, -1:])
        return F.embedding(before * self.nothing + idx, self.pair.flatten(0, 1))

    def pair_logits(self, x: Tensor) -> Tensor:
        """Map the normed residual stream x (B, Q, C) to the float32 logits (B, Q, V, V) of the next two characters."""
        pairs = self.pair[: self.nothing].to(x.dtype)
        return (x @ pairs.flatten(0, 1).mT).unflatten(-1, pairs.shape[:2]).float()

    def scores(self, x: Tensor, idx: Tensor) -> Tensor:
        """Return what pairs add to the logits of the next character, (B, Q, V).

        This is the logit of its pair with the present character idx (B, Q), and the logarithm of the sum over all
        characters that may come after it.
        """
        logits = self.pair_logits(x)
        present = idx[..., None, None].expand(-1, -1, 1, self.nothing)
        return logits.gather(2, present)[:, :, 0] + logits.logsumexp(-1)

    def loss(self, x: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy of pairs of targets (B, Q), nats, which is added to that of single characters.

        The characters of a text that have a loss form pairs: the first two, the next two, and so on. The sum over
        the pairs is multiplied by PAIR_WEIGHT and divided by the number of single characters that have a loss.
        """
        has_loss = targets != NO_TARGET
        is_first = has_loss.cumsum(1)[:, :-1] % 2 == 1
        is_pair = has_loss[:, :-1] & has_loss[:, 1:] & is_first
        pairs = (targets[:, :-1] * self.nothing + targets[:, 1:]).masked_fill(~is_pair, NO_TARGET)
        logits = self.pair_logits(x[:, :-1]).flatten(-2)
        loss = F.cross_entropy(logits.flatten(0, 1), pairs.flatten(), ignore_index=NO_TARGET, reduction="sum")
        return PAIR_WEIGHT * loss / has_loss.sum()
