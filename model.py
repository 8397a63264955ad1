"""A decoder-only transformer: pre-norm, causal softmax self-attention, MLP.

A closed world: it maps token ids to logits and knows no task, no clock and no command line.

Shapes: B sequences, T positions, V characters in the vocabulary, C = n_embd, nh heads of hs = C / nh,
Q = T - first positions that ask, R = T * V rows of the table of all (position, character) pairs.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "silu": F.silu,
    "relu2": lambda x: F.relu(x).square(),  # So et al., Primer, 2021
}


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a transformer.

    Raises:
        ValueError: a size below 1, an unknown activation, or n_embd not divisible by n_head.
    """

    vocab_size: int
    block_size: int  # longest sequence, characters
    n_layer: int
    n_head: int
    n_embd: int
    n_hidden: int  # width of the MLP
    activation: str

    def __post_init__(self) -> None:
        for name in ("vocab_size", "block_size", "n_layer", "n_head", "n_embd", "n_hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd ({self.n_embd}) must be divisible by n_head ({self.n_head})")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {self.activation!r}")


def norm(x: Tensor) -> Tensor:
    """RMSNorm without a gain (Zhang and Sennrich, 2019) over the last dimension."""
    return F.rms_norm(x, (x.size(-1),))


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x @ weight.T in the precision of x; the weights themselves stay float32."""
    return F.linear(x, weight.to(x.dtype))


class Attention(nn.Module):
    """Causal multi-head softmax self-attention (Vaswani et al., 2017)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.qkv = nn.Parameter(torch.empty(3, config.n_embd, config.n_embd))
        self.out = nn.Parameter(torch.empty(config.n_embd, config.n_embd))

    def forward(self, x: Tensor, first: int) -> Tensor:
        """x (B, T, C) to the answers (B, Q, C) that positions first.. receive from all positions up to their own."""
        B, T, C = x.shape
        heads = (B, -1, self.n_head, C // self.n_head)
        query = linear(x[:, first:], self.qkv[0]).view(heads).transpose(1, 2)  # (B, nh, Q, hs)
        key = linear(x, self.qkv[1]).view(heads).transpose(1, 2)  # (B, nh, T, hs)
        value = linear(x, self.qkv[2]).view(heads).transpose(1, 2)  # (B, nh, T, hs)
        causal = torch.ones(T, T, dtype=torch.bool, device=x.device).tril()[first:]  # (Q, T)
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=causal)
        return linear(y.transpose(1, 2).reshape(B, T - first, C), self.out)

    def tables(self, table: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """All that attention can need where x[b, t] is always one of the V rows table[t], as in the first layer.

        Args:
            table: (T, V, C), the normed embedding of every (position, character) pair, R = T * V rows.
            first: the first position that asks.

        Returns:
            The softmax's numerators exp(query . key) of every asking row with every row, (nh, Q, V, R), zero where
            the key would lie ahead of the query; and the values (nh, R, hs). Both in the dtype of `table`.
        """
        T, V, C = table.shape
        Q, R, nh = T - first, T * V, self.n_head
        rows = table.reshape(R, C)
        query = linear(rows[first * V :], self.qkv[0]).view(Q * V, nh, -1).transpose(0, 1)  # (nh, Q * V, hs)
        key = linear(rows, self.qkv[1]).view(R, nh, -1).permute(1, 2, 0)  # (nh, hs, R)
        value = linear(rows, self.qkv[2]).view(R, nh, -1).transpose(0, 1)  # (nh, R, hs)
        position = torch.arange(R, device=table.device) // V
        ahead = position > position[first * V :, None]  # (Q * V, R)
        scores = (query @ key).float() / math.sqrt(C // nh)
        scores = scores.masked_fill(ahead, -torch.inf)
        # The maximum is over all rows, also those that a sequence does not hold, so exp must not underflow. A score 80
        # below it weighs e^-80; only where all that a sequence holds lie there would the softmax be another.
        scores = (scores - scores.detach().amax(-1, keepdim=True)).clamp(min=-80.0)
        return scores.exp().masked_fill(ahead, 0.0).to(table.dtype).view(nh, Q, V, R), value

    def from_table(self, table: Tensor, onehot: Tensor, first: int) -> Tensor:
        """`forward` where x[b, t] = table[t, c] for the character c that `onehot` (B, T, V) puts there.

        Queries, keys, values and exponentials are computed once a row instead of once a token; each sequence then
        picks its rows by products with its one-hot matrix, which makes few large products out of B * nh small ones.
        """
        T, V, C = table.shape
        B, Q, R, nh = onehot.size(0), T - first, T * V, self.n_head
        numerators, value = self.tables(table, first)
        weights = onehot[:, first:].transpose(0, 1) @ numerators  # (nh, Q, B, R): the asking character's row
        weights = (weights * onehot.reshape(B, R)).view(nh, Q * B, R)  # only the rows that the sequence holds
        y = weights @ torch.cat([value, value.new_ones(nh, R, 1)], -1)  # (nh, Q * B, hs + 1)
        y = y[..., :-1] / y[..., -1:]
        return linear(y.view(nh, Q, B, -1).permute(2, 1, 0, 3).reshape(B, Q, C), self.out)


class MLP(nn.Module):
    """Two matrices with an activation between them, position by position."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        self.up = nn.Parameter(torch.empty(config.n_hidden, config.n_embd))
        self.down = nn.Parameter(torch.empty(config.n_embd, config.n_hidden))

    def forward(self, x: Tensor) -> Tensor:
        return linear(self.activation(linear(x, self.up)), self.down)


class Block(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, first: int = 0) -> Tensor:
        """x (B, T, C) to (B, Q, C): the residual stream at positions first.. after this block."""
        x = x[:, first:] + self.attention(norm(x), first)
        return x + self.mlp(norm(x))


class Transformer(nn.Module):
    """Token ids to logits; weights are float32, products run in `dtype` (float32 or bfloat16)."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config = config
        self.dtype = dtype
        self.token = nn.Parameter(torch.empty(config.vocab_size, config.n_embd))
        self.position = nn.Parameter(torch.empty(config.block_size, config.n_embd))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.head = nn.Parameter(torch.empty(config.vocab_size, config.n_embd))

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        """Draw every weight from `generator` (on the CPU) by its role and shape alone.

        Matrices that read the residual stream keep its scale; those that write to it, and the head, start at
        zero, so that every block begins as the identity (Zhang et al., Fixup, 2019).

        Raises:
            ValueError: a parameter whose role is not known here.
        """
        for name, weight in self.named_parameters():
            match name.rpartition(".")[2]:
                case "token" | "position":
                    std = 1.0
                case "qkv" | "up":
                    std = weight.size(-1) ** -0.5
                case "out" | "down" | "head":
                    std = 0.0
                case _:
                    raise ValueError(f"nobody initialises the parameter {name}")
            weight.copy_(torch.randn(weight.shape, generator=generator) * std)

    def forward(self, idx: Tensor, first: int = 0) -> Tensor:
        """idx (B, T) int64 to float32 logits (B, T - first, V) of the characters that follow positions first..

        The definition of the model; `forward_fast` is the same function.
        """
        last = len(self.blocks) - 1
        x = (self.token[idx] + self.position[: idx.size(1)]).to(self.dtype)  # (B, T, C)
        for i, block in enumerate(self.blocks):
            x = block(x, first if i == last else 0)
        return linear(norm(x), self.head).float()

    def forward_fast(self, idx: Tensor, first: int = 0) -> Tensor:
        """`forward`, with the first layer's attention read from a table of all (position, character) pairs."""
        T, last = idx.size(1), len(self.blocks) - 1
        skip = first if last == 0 else 0
        table = (self.token + self.position[:T, None]).to(self.dtype)  # (T, V, C)
        characters = torch.arange(self.config.vocab_size, device=idx.device)
        onehot = (idx[..., None] == characters).to(self.dtype)  # (B, T, V); F.one_hot would make the host wait
        x = (onehot[:, skip:].transpose(0, 1) @ table[skip:]).transpose(0, 1)  # (B, T - skip, C)
        x = x + self.blocks[0].attention.from_table(norm(table), onehot, skip)
        x = x + self.blocks[0].mlp(norm(x))
        for i, block in enumerate(self.blocks[1:], start=1):
            x = block(x, first if i == last else 0)
        return linear(norm(x), self.head).float()

    def step_flops(self, B: int, T: int, first: int = 0) -> int:
        """FLOPs of the matrix products of `forward_fast` and its backward pass, 2 for each multiply-add.

        Backward, a product costs as much again for each factor that has a gradient; one-hot matrices have none. What
        attention masks is multiplied all the same.
        """
        V, C, H, nh = self.config.vocab_size, self.config.n_embd, self.config.n_hidden, self.config.n_head
        last = len(self.blocks) - 1
        asking = [T - (first if i == last else 0) for i in range(last + 1)]  # positions that ask, of each block
        Q, R = asking[0], T * V

        # multiply-adds forward, of the first block: what one-hot matrices pick, then the tables and their use
        picks = B * Q * V * C + nh * B * Q * V * R  # embeddings; the softmax's numerators
        products = (Q * V + 2 * R) * C * C + Q * V * R * C  # queries, keys and values; scores
        products += nh * B * Q * R * (C // nh + 1)  # sums of the values, and of the numerators
        for Q in asking[1:]:  # of the other blocks
            products += B * (Q + 2 * T) * C * C + B * Q * T * C  # queries, keys and values; scores
            products += B * Q * T * C  # sums of the values
        for Q in asking:  # of all blocks
            products += B * Q * (C * C + 2 * C * H)  # what attention writes; the MLP
        products += B * asking[-1] * C * V  # the head
        return 2 * (2 * picks + 3 * products)

    def answerer(self) -> Callable[[Tensor], Tensor]:
        """A function from ids (B, T) int64 to the float32 logits (B, V) of the next character, for much asking.

        `forward` at the last position. With one layer, the exponentials times the values are tables as well, one a
        (length, asking character): a sequence's attention is then a single product of its one-hot row. The weights
        must not change while the function is used.
        """
        if len(self.blocks) > 1:
            return lambda idx: self.forward_fast(idx, idx.size(1) - 1)[:, 0]
        block, nh, C, V = self.blocks[0], self.config.n_head, self.config.n_embd, self.config.vocab_size

        @functools.cache
        def tables(T: int) -> tuple[Tensor, Tensor]:
            """The last position's embeddings (V, C), and (V, R, C + nh): exp * value, and exp itself."""
            table = (self.token + self.position[:T, None]).to(self.dtype)
            numerators, value = block.attention.tables(norm(table), T - 1)  # (nh, 1, V, R), (nh, R, hs)
            products = numerators[:, 0, :, :, None] * value[:, None]  # (nh, V, R, hs)
            products = products.permute(1, 2, 0, 3).reshape(V, T * V, C)
            return table[-1], torch.cat([products, numerators[:, 0].permute(1, 2, 0)], -1)

        @torch.no_grad()
        def next_logits(idx: Tensor) -> Tensor:
            B, T = idx.shape
            embedding, products = tables(T)
            asking, order = idx[:, -1].sort()  # those that ask with the same character share a table
            counts = asking.bincount(minlength=V).tolist()
            rows = idx[order] + torch.arange(T, device=idx.device) * V
            onehot = torch.zeros(B, T * V, dtype=self.dtype, device=idx.device).scatter_(1, rows, 1.0)
            sums = torch.cat([part @ products[c] for c, part in enumerate(onehot.split(counts))])  # (B, C + nh)
            y = (sums[:, :C].view(B, nh, -1) / sums[:, C:, None]).view(B, C)
            x = embedding[asking] + linear(y, block.attention.out)
            x = x + block.mlp(norm(x))
            logits = linear(norm(x), self.head).float()
            return torch.empty_like(logits).index_copy_(0, order, logits)

        return next_logits
