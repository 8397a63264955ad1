"""A decoder-only transformer: pre-norm, causal softmax self-attention, MLP.

A closed world: it maps token ids to logits and knows no task, no clock and no command line.

Shapes: B sequences, T positions, V characters in the vocabulary, C = n_embd, nh heads of hs = C / nh,
Q = T - first positions that ask, R = T * V (position, character) pairs.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from kernel import Kernel, Prepared

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "silu": F.silu,
    "relu2": lambda x: F.relu(x).square(),  # So et al., Primer, 2021
    "gelu_tanh": functools.partial(F.gelu, approximate="tanh"),  # GPT-2's
}

NORMS = ("rms", "layer", "layer_gain")
INITS = ("identity", "gpt2")


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a transformer.

    Raises:
        ValueError: a size below 1, an unknown choice, n_embd not divisible by n_head, or dropout outside 0..1.
    """

    vocab_size: int
    block_size: int  # longest sequence, characters
    n_layer: int
    n_head: int
    n_embd: int
    n_hidden: int  # width of the MLP
    activation: str
    embedding_std: float = 1.0  # of the initial values
    norm: str = "rms"  # see `Norm`
    init: str = "identity"  # or "gpt2"; see `Transformer.initialize`
    tied: bool = False  # the head's weights are the embeddings of the characters
    dropout: float = 0.0  # of the embeddings, of attention's weights, and of what is added to the residual stream

    def __post_init__(self) -> None:
        for name in ("vocab_size", "block_size", "n_layer", "n_head", "n_embd", "n_hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.embedding_std < math.inf:
            raise ValueError(f"embedding_std must be a number not below 0, got {self.embedding_std}")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd ({self.n_embd}) must be divisible by n_head ({self.n_head})")
        for name, choices in (("activation", tuple(ACTIVATIONS)), ("norm", NORMS), ("init", INITS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in 0..1, below 1, got {self.dropout}")

    @property
    def kernel_problem(self) -> str | None:
        """Why kernel.c cannot compute such a model, or None."""
        has_whole_vectors = self.n_embd % 16 == self.n_hidden % 16 == 0
        is_its_layer = self.activation == "gelu" and self.norm != "layer_gain" and not self.dropout
        if self.n_layer == 1 and is_its_layer and has_whole_vectors and self.vocab_size <= 256:
            return None
        return "it computes one layer of multiples of 16, with gelu, no gain and no dropout"


class Norm(nn.Module):
    """Over the last dimension: RMSNorm (Zhang and Sennrich, 2019), or LayerNorm (Ba et al., 2016), its gain optional.

    Computed in the precision of what goes in, the residual stream's; what comes out is rounded to `dtype`. On a CPU,
    torch's LayerNorm is one pass, its RMSNorm several.
    """

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.is_rms = config.norm == "rms"
        self.epsilon = torch.finfo(torch.float32).eps if self.is_rms else 1e-5
        self.gain = nn.Parameter(torch.empty(config.n_embd)) if config.norm == "layer_gain" else None

    def forward(self, x: Tensor) -> Tensor:
        if self.is_rms:
            return F.rms_norm(x, (x.size(-1),), eps=self.epsilon).to(self.dtype)
        return F.layer_norm(x, (x.size(-1),), self.gain, eps=self.epsilon).to(self.dtype)


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x @ weight.T in the precision of x; the weights themselves stay float32."""
    return F.linear(x, weight.to(x.dtype))


class RowSums(torch.autograd.Function):
    """`F.embedding_bag` with mode "sum": sums over rows of a table, whose gradient is again added up row by row.

    On a CPU its own backward pass sorts the indices first and runs on one thread, which takes several times as long.
    """

    @staticmethod
    def forward(ctx: Any, indices: Tensor, table: Tensor) -> Tensor:
        """indices (N, K) int64 into a table (rows, columns) to (N, columns)."""
        ctx.save_for_backward(indices)
        ctx.num_rows = table.size(0)
        return F.embedding_bag(indices, table, mode="sum")

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        (indices,) = ctx.saved_tensors
        each = gradient[:, None].expand(*indices.shape, -1).reshape(indices.numel(), -1)
        total = gradient.new_zeros(ctx.num_rows, gradient.size(1), dtype=torch.float32)  # bfloat16 would swallow terms
        return None, total.index_add_(0, indices.flatten(), each.float()).to(gradient.dtype)


def attend_in_products(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor, dropout_p: float) -> Tensor:
    """`F.scaled_dot_product_attention`, but for rounding, as two products with a softmax between them.

    On a CPU torch's own takes several times as long in bfloat16, where there are few keys, and longer still backward.
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

    def forward(self, x: Tensor, first: int, past: list[Tensor] | None = None) -> Tensor:
        """x (B, T, C) to the answers (B, Q, C) that positions first.. receive from all positions up to their own.

        `past` has the keys and values of the positions before x, (B, nh, P, hs) each, or nothing; x's join them.
        """
        B, T, C = x.shape
        heads = (B, -1, self.n_head, C // self.n_head)
        query = linear(x[:, first:], self.qkv[0]).view(heads).transpose(1, 2)  # (B, nh, Q, hs)
        key = linear(x, self.qkv[1]).view(heads).transpose(1, 2)  # (B, nh, T, hs)
        value = linear(x, self.qkv[2]).view(heads).transpose(1, 2)  # (B, nh, T, hs)
        if past is not None:
            past[:] = (torch.cat(both, 2) for both in zip(past, (key, value), strict=True)) if past else (key, value)
            key, value = past
        causal = key.new_ones(key.size(2), key.size(2), dtype=torch.bool).tril()[first - T :]  # (Q, P + T)
        dropout = self.dropout if self.training else 0.0
        is_slow = x.device.type == "cpu" and x.dtype == torch.bfloat16
        attend = attend_in_products if is_slow else F.scaled_dot_product_attention
        y = attend(query, key, value, attn_mask=causal, dropout_p=dropout)
        return linear(y.transpose(1, 2).reshape(B, T - first, C), self.out)

    def pair_table(self, table: Tensor, first: int) -> Tensor:
        """What a pair adds to attention where x[b, t] is always one of V rows table[t], as it is in the first layer.

        A softmax's answer is the sum of exp(query . key) * value over the keys, divided by the sum of exp(query . key).
        Here are the terms of both sums, for every asking row with every row.

        Args:
            table: (T, V, C), the normed embedding of every (position, character) pair.
            first: the first position that asks.

        Returns:
            (Q, V, R, hs + 1, nh) in the dtype of `table`, zero where the key would lie ahead of the query. The heads
            lie side by side, so that the product that makes it is one of whole vectors.
        """
        T, V, C = table.shape
        Q, R, nh = T - first, T * V, self.n_head
        rows = table.reshape(R, C)
        query = linear(rows[first * V :], self.qkv[0]).view(Q * V, nh, -1).transpose(0, 1)  # (nh, Q * V, hs)
        key = linear(rows, self.qkv[1]).view(R, nh, -1).permute(1, 2, 0)  # (nh, hs, R)
        value = linear(rows, self.qkv[2]).view(R, nh, -1).transpose(1, 2)  # (R, hs, nh)
        position = torch.arange(R, device=table.device) // V
        ahead = position > position[first * V :, None]  # (Q * V, R)
        scores = (query @ key).float() / math.sqrt(C // nh)
        scores = scores.masked_fill(ahead, -torch.inf)
        # The maximum is over all rows, also those that a sequence does not hold, so exp must not underflow. A score 80
        # below it weighs e^-80; only where all that a sequence holds lie there would the softmax be another.
        scores = (scores - scores.detach().amax(-1, keepdim=True)).clamp(min=-80.0)
        weights = scores.exp().masked_fill(ahead, 0.0).permute(1, 2, 0).to(table.dtype)  # (Q * V, R, nh)
        terms = torch.cat([value, value.new_ones(R, 1, nh)], 1)  # (R, hs + 1, nh)
        return (weights.contiguous()[:, :, None] * terms).view(Q, V, R, -1, nh)

    def from_pairs(self, pairs: Tensor, rows: Tensor, first: int) -> Tensor:
        """`forward` by the terms of `pair_table`: the numbers (B, T) of a sequence's rows, of R, to (B, Q, C)."""
        B, T = rows.shape
        Q, V, R, terms, nh = pairs.shape  # hs + 1 terms
        indices = (rows[:, first:, None] - first * V) * R + rows[:, None]  # (B, Q, T), of Q * V * R
        sums = RowSums.apply(indices.view(B * Q, T), pairs.view(Q * V * R, -1)).view(B, Q, terms, nh)
        y = (sums[:, :, :-1] / sums[:, :, -1:]).transpose(2, 3)  # (B, Q, nh, hs)
        return linear(y.reshape(B, Q, -1), self.out)


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
    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.attention = Attention(config)
        self.mlp = MLP(config)
        self.attention_norm = Norm(config, dtype)
        self.mlp_norm = Norm(config, dtype)

    def forward(self, x: Tensor, first: int = 0, past: list[Tensor] | None = None) -> Tensor:
        """x (B, T, C) to (B, Q, C): the residual stream at positions first.. after it; `past` is as in Attention."""
        x = x[:, first:] + self.dropped(self.attention(self.attention_norm(x), first, past))
        return x + self.dropped(self.mlp(self.mlp_norm(x)))

    def dropped(self, x: Tensor) -> Tensor:
        """Dropout (Srivastava et al., 2014), in training mode only."""
        return F.dropout(x, self.dropout, self.training)


class Transformer(nn.Module):
    """Token ids to logits.

    Products, and what lies between them inside a block, run in `dtype` (float32 or bfloat16); the weights, the residual
    stream and the norms are float32.
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

    def use_kernel(self, threads: int) -> None:
        """From now on compute logits without gradients by kernel.c, which is compiled here, and can train the model.

        Weights stay on the CPU. The same functions, but for rounding: in bfloat16 it rounds the factors of matrix
        products, and nothing else.

        Raises:
            ValueError: it cannot compute this model.
            RuntimeError: it cannot be compiled.
        """
        config, norm = self.config, self.norm
        if config.kernel_problem:
            raise ValueError(f"the C kernel: {config.kernel_problem}")
        shape = config.vocab_size, config.n_head, config.n_embd, config.n_hidden
        self.kernel = Kernel(*shape, not norm.is_rms, norm.epsilon, self.dtype, threads)

    def kernel_weights(self) -> tuple[Tensor, ...]:
        block = self.blocks[0]
        attention, mlp, head = block.attention, block.mlp, self.token if self.head is None else self.head
        return self.token, self.position, attention.qkv, attention.out, mlp.up, mlp.down, head

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        """Draw every weight from `generator` (on the CPU) by its role and shape alone.

        With "identity", matrices that read the residual stream keep its scale; those that write to it, and the head,
        start at zero, so that every block begins as the identity (Zhang et al., Fixup, 2019). With "gpt2", all have
        one small scale, and those that write to the stream a smaller one the more there are (Radford et al., GPT-2,
        2019). A gain starts at one.

        Raises:
            ValueError: a parameter whose role is not known here.
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
                    raise ValueError(f"nobody initialises the parameter {name}")
            weight.copy_(torch.randn(weight.shape, generator=generator) * std)

    def forward(self, idx: Tensor, first: int = 0, pasts: list[list[Tensor]] | None = None) -> Tensor:
        """idx (B, T) int64 to float32 logits (B, T - first, V) of the characters that follow positions first..

        The definition of the model; `forward_fast` is the same function. With `pasts`, a list for each block that is
        empty at first, idx goes on after P characters that were given before with the same lists, and were the same B
        sequences (their keys and values are kept: Pope et al., Efficiently Scaling Transformer Inference, 2022).
        """
        last = len(self.blocks) - 1
        start = pasts[0][0].size(2) if pasts and pasts[0] else 0  # P
        x = self.token[idx] + self.position.narrow(0, start, idx.size(1))  # (B, T, C)
        x = F.dropout(x, self.config.dropout, self.training)
        for i, block in enumerate(self.blocks):
            x = block(x, first if i == last else 0, pasts[i] if pasts else None)
        return self.logits(x)

    def logits(self, x: Tensor) -> Tensor:
        """x (B, Q, C), the residual stream after all blocks, to float32 (B, Q, V)."""
        return linear(self.norm(x), self.token if self.head is None else self.head).float()

    @property
    def has_table(self) -> bool:
        """Whether attention can be read from a table of pairs: with one layer, and no dropout of what stands in it."""
        return len(self.blocks) == 1 and not (self.training and self.config.dropout)

    def loss(self, texts: Tensor, first: int = 0) -> Tensor:
        """Texts (B, T + 1) of any integers to the mean cross-entropy, nats, of what follows positions first.. ."""
        texts = texts.long()
        logits = self.forward_fast(texts[:, :-1], first)  # (B, Q, V)
        return F.cross_entropy(logits.flatten(0, 1), texts[:, first + 1 :].flatten())

    @torch.no_grad()
    def examine(self, texts: Tensor, first: int = 0, pairs: Tensor | Prepared | None = None) -> tuple[Tensor, Tensor]:
        """Texts (B, T + 1) of any integers: where the model is worst among what follows positions first.. .

        Returns:
            Each text's largest loss of a character, nats, and whether it would write another one, given the right ones
            before it: two (B,), float32 and bool. `pairs` as in `forward_fast`.
        """
        T = texts.size(1) - 1
        if self.asks_kernel:
            losses, wrong = self.kernel.examine(self.pairs(T, first) if pairs is None else pairs, texts, first)
        else:
            texts = texts.long()
            logits, targets = self.forward_fast(texts[:, :-1], first, pairs), texts[:, first + 1 :]
            losses, wrong = F.cross_entropy(logits.mT, targets, reduction="none"), logits.argmax(-1) != targets
        return losses.amax(1), wrong.any(1)

    def forward_fast(self, idx: Tensor, first: int = 0, pairs: Tensor | Prepared | None = None) -> Tensor:
        """`forward`; with one layer, attention is read from the table of all pairs, `pairs` if that was made before."""
        if not self.has_table:
            return self(idx, first)
        block, (B, T), V = self.blocks[0], idx.shape, self.config.vocab_size
        pairs = self.pairs(T, first) if pairs is None else pairs
        if self.asks_kernel:
            return self.kernel.logits(pairs, idx, first)
        rows = torch.arange(T, device=idx.device) * V + idx  # (B, T), of R
        x = RowSums.apply(rows[:, first:].reshape(-1, 1), self.table(T).flatten(0, 1)).view(B, T - first, -1)
        x = x + block.attention.from_pairs(pairs, rows, first)
        x = x + block.mlp(block.mlp_norm(x))
        return self.logits(x)

    def table(self, T: int) -> Tensor:
        """(T, V, C): what enters the first layer for every (position, character) pair."""
        return self.token + self.position[:T, None]

    @property
    def asks_kernel(self) -> bool:
        """Whether logits come from the kernel, which gives them no gradients."""
        return self.kernel is not None and not torch.is_grad_enabled()

    def pairs(self, T: int, first: int = 0) -> Tensor | Prepared | None:
        """For sequences of T characters, what each pair of (position, character) rows adds to attention.

        For `forward_fast`, to be made once where many batches are asked; null where that uses none.
        """
        if not self.has_table:
            return None
        if self.asks_kernel:
            return self.kernel.prepare(self.kernel_weights(), T)
        block = self.blocks[0]
        return block.attention.pair_table(block.attention_norm(self.table(T)), first)

    def answerer(self) -> Callable[[Tensor], Tensor]:
        """A function from ids (B, T) int64 to the float32 logits (B, V) of the next character, for much asking.

        `forward_fast` at the last position; with several layers, characters that go on from those asked about last are
        all that is computed. The weights must not change while the function is used.
        """
        pairs = functools.cache(lambda T: self.pairs(T, T - 1))
        asked = torch.empty(0, 0)  # the latest ids
        pasts: list[list[Tensor]] = []  # what is kept of them

        @torch.no_grad()
        def next_logits(idx: Tensor) -> Tensor:
            nonlocal asked, pasts
            T, P = idx.size(1), asked.size(1)
            if self.has_table:
                return self.forward_fast(idx, T - 1, pairs(T))[:, 0]
            if not (0 < P < T and torch.equal(asked, idx[:, :P])):
                P, pasts = 0, [[] for _ in self.blocks]
            asked = asked[:, :0]  # in case the pass is broken off
            logits = self(idx[:, P:], T - P - 1, pasts)[:, 0]
            asked = idx.clone()
            return logits

        return next_logits

    def step_flops(self, B: int, T: int, first: int = 0) -> int:
        """FLOPs of the matrix products of `forward_fast` and its backward pass, 2 for each multiply-add.

        Backward, a product costs as much again for each of its two factors. What attention masks is multiplied all
        the same.
        """
        V, C, H, last = self.config.vocab_size, self.config.n_embd, self.config.n_hidden, len(self.blocks) - 1
        asking = [T - (first if i == last else 0) for i in range(last + 1)]  # positions that ask, of each block
        if self.has_table:  # rows stand for characters, and sums of the values are no matrix products
            QV, R = asking[0] * V, T * V
            products = (QV + 2 * R) * C * C + QV * R * C  # queries, keys and values; scores
        else:
            products = sum(B * (Q + 2 * T) * C * C + 2 * B * Q * T * C for Q in asking)  # scores; sums of the values
        products += sum(B * Q * (C * C + 2 * C * H) for Q in asking)  # what attention writes; the MLP
        return 2 * 3 * (products + B * asking[-1] * C * V)  # the head
