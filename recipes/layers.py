"""Layers that recipes have and the plain model lacks: biases, post-norm, other position encodings, a gated MLP.

Shapes are as in model.py.
"""

from collections.abc import Callable

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from layers import MLP, Attention, Block, Norm, attention_mask, linear
from model_config import ModelConfig

ROTARY_BASE = 10_000.0  # the angle of the slowest pair of channels is about 1 / ROTARY_BASE per position


def bias(size: int, exists: bool) -> nn.Parameter | None:
    return nn.Parameter(torch.empty(size)) if exists else None


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Encode positions (T,) or (B, T) in queries or keys x (B, nh, T, hs) (Su et al., RoFormer, 2021).

    Channels i and i + hs / 2 are a pair, which is rotated by the position times ROTARY_BASE ** (-2 i / hs).
    """
    half = x.size(-1) // 2
    frequencies = ROTARY_BASE ** (-torch.arange(half, device=x.device) / half)
    angles = positions[..., None] * frequencies  # (T, hs / 2) or (B, T, hs / 2)
    if angles.dim() > 2:
        angles = angles[:, None]  # the same for all heads
    cos, sin = angles.cos(), angles.sin()
    first, second = x.float().split(half, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(x.dtype)


def attend_in_float32(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor, dropout_p: float) -> Tensor:
    """`F.scaled_dot_product_attention` by products of float32 whose sizes are multiples of 16; equal up to rounding.

    On a CPU, torch computes a softmax over 15 keys ten times slower than one over 16, and slower still in bfloat16.
    `attn_mask` is (Q, T); queries (B, nh, Q, hs), keys and values (B, nh, T, hs) are padded with zeros.
    """
    Q, T = attn_mask.shape
    bias = torch.zeros_like(attn_mask, dtype=torch.float32).masked_fill_(~attn_mask, -torch.inf)
    bias = F.pad(F.pad(bias, (0, -T % 16), value=-torch.inf), (0, 0, 0, -Q % 16))
    bias[Q:] = 0.0  # without a key, a softmax would be NaN
    queries, keys, values = (F.pad(x.float(), (0, 0, 0, -x.size(2) % 16)).flatten(0, 1) for x in (query, key, value))
    scores = torch.baddbmm(bias, queries, keys.mT, alpha=query.size(-1) ** -0.5)
    weights = F.dropout(scores.softmax(-1), dropout_p)
    return torch.bmm(weights, values).unflatten(0, query.shape[:2])[:, :, :Q].to(query.dtype)


def distance_scores(biases: Tensor, T: int) -> Tensor:
    """Return what is added to the attention scores of T tokens, (nh, T, T): a bias by head and distance.

    The score of the key `distance` tokens before the query gets biases[:, distance] (nh, D). Keys at distances from D
    on, and later keys, get -inf. The rows are overlapping views of one row, which costs less than to index the biases.
    """
    num_heads, D = biases.shape
    later, earlier = (biases.new_full((num_heads, length), -torch.inf) for length in (T, max(0, T - D)))
    row = torch.cat([earlier, biases[:, :T].flip(1), later], 1)  # of the last query, and -inf
    return row.unfold(1, T, 1)[:, :T].flip(1)


class RecipeNorm(Norm):
    """A norm that has a bias if it has a gain."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        super().__init__(config, dtype)
        self.bias = bias(config.n_embd, config.bias != "none" and self.gain is not None)

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is None:
            return super().forward(x)
        return F.layer_norm(x, (x.size(-1),), self.gain, self.bias, self.epsilon).to(self.dtype)


class RecipeAttention(Attention):
    """Attention with biases, rotary positions or relative ones, or of tokens in any order.

    Relative positions are learned biases of the scores, one for each head and distance (after Raffel et al., T5, 2020,
    without their ranges of distances). They start at zero. With `attention_window`, only so many tokens are attended
    to, and a text may be longer than all training texts without a change of what attention finds.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.is_rotary = config.position_encoding == "rotary"
        self.qkv_bias = bias(3 * config.n_embd, config.bias == "all")  # a vector, so that it counts as a bias
        self.out_bias = bias(config.n_embd, config.bias == "all")
        num_distances = config.attention_window or config.block_size
        self.distance_bias = bias(config.n_head * num_distances, config.position_encoding == "relative")

    def mask(self, T: int, positions: Tensor | None, dtype: torch.dtype) -> Tensor:
        if self.distance_bias is None:
            return super().mask(T, positions, dtype)
        scores = distance_scores(self.distance_bias.to(dtype).view(self.n_head, -1), T)
        if positions is None:
            return scores
        return scores.masked_fill(~attention_mask(T, positions, scores.device), -torch.inf)  # (B, nh, T, T)

    def project(self, x: Tensor, query_start: int, start: int, positions: Tensor | None) -> tuple[Tensor, ...]:
        biases = (None, None, None) if self.qkv_bias is None else self.qkv_bias.chunk(3)
        inputs = enumerate(zip((x[:, query_start:], x, x), biases, strict=True))
        query, key, value = (self.split_heads(linear(x, self.qkv[i], bias)) for i, (x, bias) in inputs)
        if self.is_rotary:
            positions = torch.arange(start + x.size(1), device=x.device) if positions is None else positions
            query = rotate(query, positions[..., start + query_start :])
            key = rotate(key, positions[..., start:])
        return query, key, value

    def attend_function(self, x: Tensor) -> Callable[..., Tensor]:
        is_in_order = self.may_be_padded or x.device.type != "cpu"
        return super().attend_function(x) if is_in_order else attend_in_float32

    def output(self, y: Tensor) -> Tensor:
        return linear(y, self.out, self.out_bias)


class RecipeMLP(MLP):
    """An MLP with biases, or SwiGLU: silu(gate) * up (Shazeer, GLU Variants Improve Transformer, 2020)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.gate = nn.Parameter(torch.empty_like(self.up)) if config.activation == "swiglu" else None
        self.up_bias = bias(config.n_hidden, config.bias != "none")
        self.gate_bias = bias(config.n_hidden, config.bias != "none" and self.gate is not None)
        self.down_bias = bias(config.n_embd, config.bias != "none")

    def forward(self, x: Tensor) -> Tensor:
        hidden = linear(x, self.up, self.up_bias)
        activated = self.activation(hidden if self.gate is None else linear(x, self.gate, self.gate_bias))
        hidden = activated if self.gate is None else activated * hidden
        return linear(hidden, self.down, self.down_bias)


class RecipeBlock(Block):
    """A block of these layers, pre-norm, or post-norm as in Vaswani et al., 2017.

    With post-norm, the norms' float32 results are the residual stream.
    """

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        super().__init__(config, dtype)
        self.dtype = dtype
        self.is_post_norm = config.norm_position == "post"
        self.attention, self.mlp = RecipeAttention(config), RecipeMLP(config)
        norm_dtype = torch.float32 if self.is_post_norm else dtype
        self.attention_norm, self.mlp_norm = RecipeNorm(config, norm_dtype), RecipeNorm(config, norm_dtype)

    def forward(
        self,
        x: Tensor,
        query_start: int = 0,
        kv_cache: list[Tensor] | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        if not self.is_post_norm:
            return super().forward(x, query_start, kv_cache, positions)
        attended = self.attention(x.to(self.dtype), query_start, kv_cache, positions)
        x = self.attention_norm(x[:, query_start:] + self.dropped(attended))
        return self.mlp_norm(x + self.dropped(self.mlp(x.to(self.dtype))))
