"""A decoder-only transformer: pre-norm, causal softmax self-attention, MLP.

The model maps token ids to logits. It knows nothing of tasks, clocks and command lines.

Shapes: B sequences, T positions, V characters in the vocabulary, C = n_embd, nh heads of hs = C / nh channels,
H = n_hidden. The Q = T - query_start positions from `query_start` on predict their next character.
"""

import functools
import math
from collections.abc import Callable
from typing import cast

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

import pair_table
from kernel import Kernel, Prepared
from model_config import ModelConfig, norm_epsilon

__all__ = ["ModelConfig", "Transformer"]  # imported from here by the harness

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "silu": F.silu,
    "relu2": lambda x: F.relu(x).square(),  # So et al., Primer, 2021
    "gelu_tanh": functools.partial(F.gelu, approximate="tanh"),  # GPT-2's
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


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """Compute x @ weight.T in the precision of x; the stored weights are float32."""
    return F.linear(x, weight.to(x.dtype))


def attend_in_products(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor, dropout_p: float) -> Tensor:
    """`F.scaled_dot_product_attention` as two matrix products and a softmax; equal up to rounding.

    On a CPU in bfloat16 with few keys, torch's function is several times slower, and slower still in the backward pass.
    """
    bias = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(~attn_mask, -torch.inf)
    queries, keys, values = (x.flatten(0, 1) for x in (query, key, value))  # (B * nh, Q or T, hs)
    scores = torch.baddbmm(bias, queries, keys.mT, alpha=query.size(-1) ** -0.5)
    weights = F.dropout(scores.softmax(-1), dropout_p)
    return torch.bmm(weights, values).view_as(query)


class Attention(nn.Module):
    """Causal multi-head softmax self-attention (Vaswani et al., 2017)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.dropout = config.dropout
        self.qkv = nn.Parameter(torch.empty(3, config.n_embd, config.n_embd))
        self.out = nn.Parameter(torch.empty(config.n_embd, config.n_embd))

    def forward(self, x: Tensor, query_start: int, kv_cache: list[Tensor] | None = None) -> Tensor:
        """Map x (B, T, C) to the attention output (B, Q, C) of the positions from `query_start` on.

        `kv_cache` holds the keys and values of the P positions before x, (B, nh, P, hs) each, or is empty; those of x
        are appended in place.
        """
        B, T, C = x.shape
        heads = (B, -1, self.n_head, C // self.n_head)
        query = linear(x[:, query_start:], self.qkv[0]).view(heads).transpose(1, 2)  # (B, nh, Q, hs)
        key = linear(x, self.qkv[1]).view(heads).transpose(1, 2)  # (B, nh, T, hs)
        value = linear(x, self.qkv[2]).view(heads).transpose(1, 2)  # (B, nh, T, hs)
        if kv_cache is not None:
            new = key, value
            kv_cache[:] = (torch.cat(pair, 2) for pair in zip(kv_cache, new, strict=True)) if kv_cache else new
            key, value = kv_cache
        causal = key.new_ones(key.size(2), key.size(2), dtype=torch.bool).tril()[query_start - T :]  # (Q, P + T)
        dropout = self.dropout if self.training else 0.0
        is_slow = x.device.type == "cpu" and x.dtype == torch.bfloat16
        attend = attend_in_products if is_slow else F.scaled_dot_product_attention
        y = attend(query, key, value, attn_mask=causal, dropout_p=dropout)
        return linear(y.transpose(1, 2).reshape(B, T - query_start, C), self.out)


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

    def forward(self, x: Tensor, query_start: int = 0, kv_cache: list[Tensor] | None = None) -> Tensor:
        """Map the residual stream x (B, T, C) to (B, Q, C); `kv_cache` is as in Attention."""
        x = x[:, query_start:] + self.dropped(self.attention(self.attention_norm(x), query_start, kv_cache))
        return x + self.dropped(self.mlp(self.mlp_norm(x)))

    def dropped(self, x: Tensor) -> Tensor:
        """Apply dropout (Srivastava et al., 2014), in training mode only."""
        return F.dropout(x, self.dropout, self.training)


class Transformer(nn.Module):
    """Maps token ids to logits.

    Matrix products and the operations between them inside a block are computed in `dtype` (float32 or bfloat16). The
    weights, the residual stream and the norms are float32.
    """

    def __init__(self, config: ModelConfig, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config = config
        self.dtype = dtype
        self.token = nn.Parameter(torch.empty(config.vocab_size, config.n_embd))
        self.position = nn.Parameter(torch.empty(config.block_size, config.n_embd))
        self.blocks = nn.ModuleList(Block(config, dtype) for _ in range(config.n_layer))
        self.norm = Norm(config, dtype)
        self.head = None if config.tied else nn.Parameter(torch.empty(config.vocab_size, config.n_embd))
        self.kernel: Kernel | None = None

    @property
    def head_weight(self) -> Tensor:
        return self.token if self.head is None else self.head

    def use_kernel(self, threads: int) -> None:
        """Compile kernel.c, and use it from now on for all logits that need no gradients.

        The results are equal up to rounding: in bfloat16 the kernel rounds only the factors of matrix products. The
        weights must be on the CPU. Raises ValueError if the kernel does not support this model, RuntimeError if it
        cannot be compiled.
        """
        if self.config.kernel_problem:
            raise ValueError(self.config.kernel_problem)
        self.kernel = Kernel(self.config, self.dtype, threads)

    @property
    def first_block(self) -> Block:
        return cast(Block, self.blocks[0])

    def kernel_weights(self) -> tuple[Tensor, ...]:
        """Return the weights in the order of `kernel.Weights`."""
        attention, mlp = self.first_block.attention, self.first_block.mlp
        return self.token, self.position, attention.qkv, attention.out, mlp.up, mlp.down, self.head_weight

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        """Draw every weight from `generator` (on the CPU) according to its role and shape.

        With "identity", matrices that read the residual stream preserve its scale; matrices that write to it, and the
        head, are zero, so that every block starts as the identity (Zhang et al., Fixup, 2019). With "gpt2", all have
        standard deviation 0.02, divided by the square root of their number for matrices that write to the residual
        stream (Radford et al., GPT-2, 2019). Gains start at one. Raises ValueError for a parameter of unknown role.
        """
        is_gpt2 = self.config.init == "gpt2"
        for name, weight in self.named_parameters():
            match name.rpartition(".")[2]:
                case "token" | "position":
                    std = self.config.embedding_std
                case "qkv" | "up":
                    std = 0.02 if is_gpt2 else weight.size(-1) ** -0.5
                case "out" | "down":
                    std = 0.02 / math.sqrt(2 * len(self.blocks)) if is_gpt2 else 0.0
                case "head":
                    std = 0.02 if is_gpt2 else 0.0
                case "gain":
                    weight.fill_(1.0)
                    continue
                case _:
                    raise ValueError(f"no rule initialises the parameter {name}")
            weight.copy_(torch.randn(weight.shape, generator=generator) * std)

    def forward(self, idx: Tensor, query_start: int = 0, kv_caches: list[list[Tensor]] | None = None) -> Tensor:
        """Map idx (B, T) int64 to the float32 logits (B, Q, V) of the next characters; this defines the model.

        `kv_caches` is a list for each block, empty at first. With it, idx continues the P characters that were passed
        before with the same lists (Pope et al., Efficiently Scaling Transformer Inference, 2022).
        """
        last = len(self.blocks) - 1
        start = kv_caches[0][0].size(2) if kv_caches and kv_caches[0] else 0  # P
        x = self.token[idx] + self.position.narrow(0, start, idx.size(1))  # (B, T, C)
        x = F.dropout(x, self.config.dropout, self.training)
        for i, block in enumerate(self.blocks):
            x = block(x, query_start if i == last else 0, kv_caches[i] if kv_caches else None)
        return self.logits(x)

    def logits(self, x: Tensor) -> Tensor:
        """Map the residual stream x (B, Q, C) after all blocks to float32 logits (B, Q, V)."""
        return linear(self.norm(x), self.head_weight).float()

    # -------------------------------------------------------------------------
    # the fast path: kernel.c or a pair table, else the plain forward pass

    def uses_pair_table(self, T: int, query_start: int = 0) -> bool:
        """Whether `forward_fast` reads attention from a pair table: one layer, no dropout, and a table that fits."""
        config = self.config
        if len(self.blocks) > 1 or (self.training and config.dropout):
            return False
        sizes = config.vocab_size, config.n_embd, config.n_head
        return pair_table.table_bytes(T, query_start, *sizes, self.dtype) <= pair_table.MAX_TABLE_BYTES

    def prepare(self, T: int, query_start: int = 0) -> Tensor | Prepared | None:
        """Compute the part of `forward_fast` that depends on the weights and T alone, to be shared by many batches.

        Returns the kernel's table, the pair table, or None where neither is used; valid until the weights change.
        """
        if self.kernel is not None and not torch.is_grad_enabled():  # the kernel computes no gradients of logits
            return self.kernel.prepare(self.kernel_weights(), T)
        if not self.uses_pair_table(T, query_start):
            return None
        rows, attention = self.first_block.attention_norm(self.input_rows(T)), self.first_block.attention
        return pair_table.pair_table(rows, attention.qkv, self.config.n_head, query_start)

    def input_rows(self, T: int) -> Tensor:
        """Return the input of the first layer for every (position, character) pair, (T, V, C)."""
        return self.token + self.position[:T, None]

    def forward_fast(self, idx: Tensor, query_start: int = 0, prepared: Tensor | Prepared | None = None) -> Tensor:
        """As `forward` without `kv_caches`, faster where the model allows; `prepared` is a result of `prepare`."""
        T = idx.size(1)
        prepared = self.prepare(T, query_start) if prepared is None else prepared
        if prepared is None:
            return self(idx, query_start)
        if isinstance(prepared, Prepared):
            return prepared.logits(idx, query_start)
        block = self.first_block
        row_index = torch.arange(T, device=idx.device) * self.config.vocab_size + idx  # (B, T)
        queries = row_index[:, query_start:]
        x = pair_table.SumRows.apply(queries.reshape(-1, 1), self.input_rows(T).flatten(0, 1)).view(*queries.shape, -1)
        x = x + linear(pair_table.attend(prepared, row_index, query_start), block.attention.out)
        x = x + block.mlp(block.mlp_norm(x))
        return self.logits(x)

    # -------------------------------------------------------------------------
    # loss, evaluation and decoding

    def loss(self, tokens: Tensor, query_start: int = 0) -> Tensor:
        """Return the mean cross-entropy of tokens (B, T + 1) at positions after `query_start`, nats."""
        tokens = tokens.long()
        logits = self.forward_fast(tokens[:, :-1], query_start)  # (B, Q, V)
        return F.cross_entropy(logits.flatten(0, 1), tokens[:, query_start + 1 :].flatten())

    @torch.no_grad()
    def evaluate(
        self, tokens: Tensor, query_start: int = 0, prepared: Tensor | Prepared | None = None
    ) -> tuple[Tensor, Tensor]:
        """Evaluate tokens (B, T + 1) at positions after `query_start`, given the right characters before each.

        Returns the largest loss of a character of each text, nats, (B,) float32, and whether greedy decoding would make
        an error in it, (B,) bool.
        """
        prepared = self.prepare(tokens.size(1) - 1, query_start) if prepared is None else prepared
        if isinstance(prepared, Prepared):
            losses, wrong = prepared.evaluate(tokens, query_start)
        else:
            tokens = tokens.long()
            logits, targets = self.forward_fast(tokens[:, :-1], query_start, prepared), tokens[:, query_start + 1 :]
            losses, wrong = F.cross_entropy(logits.mT, targets, reduction="none"), logits.argmax(-1) != targets
        return losses.amax(1), wrong.any(1)

    def answerer(self) -> Callable[[Tensor], Tensor]:
        """Return a function from ids (B, T) int64 to the float32 logits (B, V) of the next character, for decoding.

        The function computes `forward_fast` at the last position. Where that is the plain forward pass, it keeps keys
        and values of the latest ids, and computes only the characters that continue them. The weights must not change
        while the function is used.
        """
        prepare = functools.cache(lambda T: self.prepare(T, T - 1))
        cached_ids = torch.empty(0, 0)
        kv_caches: list[list[Tensor]] = []  # of cached_ids

        @torch.no_grad()
        def next_logits(idx: Tensor) -> Tensor:
            nonlocal cached_ids, kv_caches
            T, P = idx.size(1), cached_ids.size(1)
            if (prepared := prepare(T)) is not None:
                return self.forward_fast(idx, T - 1, prepared)[:, 0]
            if not (0 < P < T and torch.equal(cached_ids, idx[:, :P])):
                P, kv_caches = 0, [[] for _ in self.blocks]
            cached_ids = cached_ids[:, :0]  # an exception in the forward pass leaves the caches invalid
            logits = self(idx[:, P:], T - P - 1, kv_caches)[:, 0]
            cached_ids = idx.clone()
            return logits

        return next_logits

    def step_flops(self, B: int, T: int, query_start: int = 0) -> int:
        """Return the FLOPs of the matrix products of `forward_fast` and its backward pass, 2 for each multiply-add.

        A product costs twice as much backward as forward. Masked attention scores are counted. The kernel counts as a
        pair table.
        """
        V, C, H, last = self.config.vocab_size, self.config.n_embd, self.config.n_hidden, len(self.blocks) - 1
        num_queries = [T - (query_start if i == last else 0) for i in range(last + 1)]  # of each block
        if self.kernel is not None or self.uses_pair_table(T, query_start):  # sums of values are no matrix products
            QV, R = num_queries[0] * V, T * V
            products = (QV + 2 * R) * C * C + QV * R * C  # queries, keys and values; scores
        else:
            products = sum(B * (Q + 2 * T) * C * C + 2 * B * Q * T * C for Q in num_queries)  # and sums of values
        products += sum(B * Q * (C * C + 2 * C * H) for Q in num_queries)  # output projections and MLPs
        return 2 * 3 * (products + B * num_queries[-1] * C * V)  # head
