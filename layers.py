"""The layers of the transformer: norm, causal softmax self-attention, MLP, and the pre-norm block of all three.

Shapes are as in model.py.
"""

import functools
from collections.abc import Callable

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from model_config import ModelConfig, norm_epsilon

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "silu": F.silu,
    "relu2": lambda x: F.relu(x).square(),  # So et al., Primer, 2021
    "gelu_tanh": functools.partial(F.gelu, approximate="tanh"),  # GPT-2's
    "swiglu": F.silu,  # of the gate in recipes/layers.py
}


class Norm(nn.Module):
    """RMSNorm (Zhang and Sennrich, 2019) or LayerNorm (Ba et al., 2016) over the last dimension, with an optional gain.

    Computed in the precision of the input, the residual stream; the result is rounded to `dtype`. On a CPU, torch's
    LayerNorm is faster: it makes one pass over the data, RMSNorm several.
    """

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.is_rms = config.norm == "rms"
        self.epsilon = norm_epsilon(config.norm)
        self.gain = nn.Parameter(torch.empty(config.n_embd)) if config.norm == "layer_gain" else None

    def forward(self, x: Tensor) -> Tensor:
        if self.is_rms:
            return F.rms_norm(x, (x.size(-1),), eps=self.epsilon).to(self.dtype)
        return F.layer_norm(x, (x.size(-1),), self.gain, eps=self.epsilon).to(self.dtype)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute x @ weight.T + bias in the precision of x; the stored weights are float32."""
    return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


def attend_in_products(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor, dropout_p: float) -> Tensor:
    """`F.scaled_dot_product_attention` as two matrix products and a softmax; equal up to rounding.

    On a CPU in bfloat16 with few keys, torch's function is several times slower, and slower still in the backward pass.
    """
    if attn_mask.dtype != torch.bool:  # what is added to the scores, learned biases among it
        scores = (query * query.size(-1) ** -0.5 @ key.mT).add_(attn_mask)
        return F.dropout(scores.softmax(-1), dropout_p) @ value
    bias = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(~attn_mask, -torch.inf)
    if bias.dim() > 2:  # of each text
        bias = bias.expand(*query.shape[:2], -1, -1).flatten(0, 1)  # (B * nh, Q, T)
    queries, keys, values = (x.flatten(0, 1) for x in (query, key, value))  # (B * nh, Q or T, hs)
    scores = torch.baddbmm(bias, queries, keys.mT, alpha=query.size(-1) ** -0.5)
    weights = F.dropout(scores.softmax(-1), dropout_p)
    return torch.bmm(weights, values).view_as(query)


def attention_mask(T: int, positions: Tensor | None, device: torch.device) -> Tensor:
    """Return the keys to which each of T tokens attends, (T, T) bool, or (B, 1, T, T) with `positions` (B, T).

    These are the token itself and those before it, except for padding, whose position is -1. Padding attends to itself
    so that no row is empty, whose softmax would be NaN.
    """
    causal = torch.ones(T, T, dtype=torch.bool, device=device).tril()
    if positions is None:
        return causal
    itself = torch.eye(T, dtype=torch.bool, device=device)
    return (causal & (itself | (positions >= 0)[:, None]))[:, None]


class Attention(nn.Module):
    """Causal multi-head softmax self-attention (Vaswani et al., 2017)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.dropout = config.dropout
        self.may_be_padded = not config.any_order  # texts that are generated in any order have one length
        self.qkv = nn.Parameter(torch.empty(3, config.n_embd, config.n_embd))
        self.out = nn.Parameter(torch.empty(config.n_embd, config.n_embd))

    def forward(
        self, x: Tensor, query_start: int, kv_cache: list[Tensor] | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """Map x (B, T, C) to the attention output (B, Q, C) of the positions from `query_start` on.

        `kv_cache` holds the keys and values of the P positions before x, (B, nh, P, hs) each, or is empty; those of x
        are appended in place. `positions` (B, P + T) are as in `Transformer.forward`.
        """
        B, T, C = x.shape
        start = kv_cache[0].size(2) if kv_cache else 0  # P
        query, key, value = self.project(x, query_start, start, positions)
        if kv_cache is not None:
            new = key, value
            kv_cache[:] = (torch.cat(pair, 2) for pair in zip(kv_cache, new, strict=True)) if kv_cache else new
            key, value = kv_cache
        mask = self.mask(key.size(2), positions if self.may_be_padded else None, query.dtype)
        mask = mask[..., query_start - T :, :]  # (Q, P + T) for each text
        dropout = self.dropout if self.training else 0.0
        y = self.attend_function(x)(query, key, value, attn_mask=mask, dropout_p=dropout)
        return self.output(y.transpose(1, 2).reshape(B, T - query_start, C))

    def attend_function(self, x: Tensor) -> Callable[..., Tensor]:
        """Return what computes attention for inputs like x, with the arguments of `attend_in_products`."""
        is_slow = x.device.type == "cpu" and x.dtype == torch.bfloat16
        return attend_in_products if is_slow else F.scaled_dot_product_attention

    def mask(self, T: int, positions: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Return which keys T tokens attend to, as `attention_mask`, or what is added to the scores, in `dtype`."""
        return attention_mask(T, positions, self.qkv.device)

    def project(self, x: Tensor, query_start: int, start: int, positions: Tensor | None) -> tuple[Tensor, ...]:
        """Map x (B, T, C), which follows `start` positions, to queries (B, nh, Q, hs), keys and values (B, nh, T, hs).

        The embeddings encode the positions, so that `start` and `positions` are not used here.
        """
        inputs = x[:, query_start:], x, x
        return tuple(self.split_heads(linear(x, self.qkv[i])) for i, x in enumerate(inputs))

    def split_heads(self, x: Tensor) -> Tensor:
        """Map x (B, T, C) to (B, nh, T, hs)."""
        return x.unflatten(-1, (self.n_head, -1)).transpose(1, 2)

    def output(self, y: Tensor) -> Tensor:
        """Map the heads' outputs (B, Q, C), side by side, to what is added to the residual stream."""
        return linear(y, self.out)


class MLP(nn.Module):
    """Two matrices with an activation between them, applied to each position."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        self.up = nn.Parameter(torch.empty(config.n_hidden, config.n_embd))
        self.down = nn.Parameter(torch.empty(config.n_embd, config.n_hidden))

    def forward(self, x: Tensor) -> Tensor:
        return linear(self.activation(linear(x, self.up)), self.down)


class Block(nn.Module):
    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.attention = Attention(config)
        self.mlp = MLP(config)
        self.attention_norm = Norm(config, dtype)
        self.mlp_norm = Norm(config, dtype)

    def forward(
        self,
        x: Tensor,
        query_start: int = 0,
        kv_cache: list[Tensor] | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Map the residual stream x (B, T, C) to (B, Q, C); the other arguments are as in Attention."""
        x = x[:, query_start:] + self.dropped(self.attention(self.attention_norm(x), query_start, kv_cache, positions))
        return x + self.dropped(self.mlp(self.mlp_norm(x)))

    def dropped(self, x: Tensor) -> Tensor:
        """Apply dropout (Srivastava et al., 2014), in training mode only."""
        return F.dropout(x, self.dropout, self.training)
