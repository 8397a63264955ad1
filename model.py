"""A decoder-only transformer: pre-norm, causal softmax self-attention, MLP; its layers are in layers.py.

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
from layers import Block, Norm, linear
from model_config import ModelConfig

__all__ = ["ModelConfig", "Transformer"]  # imported from here by the harness

NO_TARGET = -100  # in place of a target that has no loss


def masked_targets(targets: Tensor, loss_mask: Tensor | None, query_start: int) -> Tensor:
    """Return the targets (B, Q) int64, NO_TARGET where there is no loss; see `Transformer.masked_loss`."""
    targets = targets[:, query_start:].long()
    return targets if loss_mask is None else targets.masked_fill(~loss_mask[:, query_start:], NO_TARGET)


def target_margins(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the logits (B, Q, V) of the targets (B, Q) less the largest other ones, (B, Q); inf without a target."""
    index = targets.clamp(min=0)[..., None]
    others = logits.scatter(-1, index, -torch.inf).amax(-1)
    return (logits.gather(-1, index)[..., 0] - others).masked_fill(targets == NO_TARGET, torch.inf)


class Transformer(nn.Module):
    """Maps token ids to logits.

    Matrix products and the operations between them inside a block are computed in `dtype` (float32, bfloat16 or
    float16). The weights, the residual stream and the norms are float32.
    """

    def __init__(self, config: ModelConfig, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config = config
        self.dtype = dtype
        self.token = nn.Parameter(torch.empty(config.vocab_size, config.n_embd))
        self.position = nn.Parameter(torch.empty(config.block_size, config.n_embd))
        if config.position_encoding != "learned":
            self.register_parameter("position", None)  # attention encodes the positions
        build_block: Callable[[ModelConfig, torch.dtype], Block] = Block
        build_norm: Callable[[ModelConfig, torch.dtype], Norm] = Norm
        if not config.is_plain:
            from recipes import bigrams, dropout, layers, orders

            build_block, build_norm = layers.RecipeBlock, layers.RecipeNorm
        self.bigrams = bigrams.Bigrams(config) if config.bigrams else None
        self.next_positions = orders.NextPositions(config) if config.any_order else None
        self.blocks = nn.ModuleList(build_block(config.of_block(i), dtype) for i in range(config.n_layer))
        self.shared_dropout = (
            dropout.SharedDropout(config.shared_dropout, self.blocks) if config.shared_dropout else None
        )
        self.norm = build_norm(config, dtype)
        self.head = None if config.tied else nn.Parameter(torch.empty(config.vocab_size, config.n_embd))
        self.head_bias = nn.Parameter(torch.empty(config.vocab_size)) if config.bias != "none" else None
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
    def initialize(self, normal: Callable[[str, torch.Size], Tensor]) -> None:
        """Set every weight to normal numbers, with a standard deviation by its role and shape.

        `normal` returns standard normal numbers for the weight of a name, on any device.

        With "identity", matrices that read the residual stream preserve its scale; matrices that write to it, and the
        head, are zero, so that every block starts as the identity (Zhang et al., Fixup, 2019). With "gpt2", all have
        standard deviation 0.02, divided by the square root of their number for matrices that write to the residual
        stream (Radford et al., GPT-2, 2019). Gains start at one, biases at zero. Raises ValueError for a parameter of
        unknown role.
        """
        is_gpt2 = self.config.init == "gpt2"
        for name, weight in self.named_parameters():
            match name.rpartition(".")[2]:
                case "token" | "position" | "next_position" | "pair":
                    std = self.config.embedding_std
                case "qkv" | "up" | "gate":
                    std = 0.02 if is_gpt2 else weight.size(-1) ** -0.5
                case "out" | "down":
                    std = 0.02 / math.sqrt(2 * len(self.blocks)) if is_gpt2 else 0.0
                case "head":
                    std = 0.02 if is_gpt2 else 0.0
                case "gain":
                    weight.fill_(1.0)
                    continue
                case role if role.endswith("bias"):
                    weight.zero_()
                    continue
                case _:
                    raise ValueError(f"no rule initialises the parameter {name}")
            weight.copy_(normal(name, weight.shape) * std) if std else weight.zero_()

    def forward(
        self,
        idx: Tensor,
        query_start: int = 0,
        kv_caches: list[list[Tensor]] | None = None,
        positions: Tensor | None = None,
        next_positions: Tensor | None = None,
    ) -> Tensor:
        """Map idx (B, T) int64 to the float32 logits (B, Q, V) of the next characters; this defines the model.

        `kv_caches` is a list for each block and one for bigrams, all empty at first. With it, idx continues the P
        characters that were passed before with the same lists (Pope et al., Efficiently Scaling Transformer Inference,
        2022).

        `positions` (B, P + T) int64 are those of the P characters and of idx; by default 0, 1, and so on. Padding has
        position -1: no other token attends to it, and its own logits are meaningless. `next_positions` (B, P + T) are
        those of the characters that come next, for models that generate in any order; by default 1, 2, and so on.
        """
        x = self.residual_stream(idx, query_start, kv_caches, positions, next_positions)
        return self.logits(x, idx[:, query_start:])

    def residual_stream(
        self,
        idx: Tensor,
        query_start: int = 0,
        kv_caches: list[list[Tensor]] | None = None,
        positions: Tensor | None = None,
        next_positions: Tensor | None = None,
    ) -> Tensor:
        """Return the residual stream (B, Q, C) after all blocks; the arguments are those of `forward`."""
        T, last = idx.size(1), len(self.blocks) - 1
        start = kv_caches[0][0].size(2) if kv_caches and kv_caches[0] else 0  # P
        x = F.embedding(idx, self.token)  # (B, T, C); the gradient of self.token[idx] is not deterministic on a CPU
        if self.config.position_encoding == "learned":
            index = None if positions is None else positions[:, start:].clamp(0)
            x = x + (self.position.narrow(0, start, T) if index is None else F.embedding(index, self.position))
        if self.next_positions is not None:
            x = x + self.next_positions.embed(start, T, next_positions)
        if self.bigrams is not None:
            x = x + self.bigrams.embed(idx, positions, kv_caches[-1] if kv_caches else None)
        x = F.dropout(x, self.config.dropout, self.training)
        if self.shared_dropout is not None:
            x = self.shared_dropout(x)
        for i, block in enumerate(self.blocks):
            x = block(x, query_start if i == last else 0, kv_caches[i] if kv_caches else None, positions)
        return x

    def logits(self, x: Tensor, idx: Tensor) -> Tensor:
        """Map the residual stream x (B, Q, C) at the characters idx (B, Q) to float32 logits (B, Q, V)."""
        x = self.norm(x)
        logits = linear(x, self.head_weight, self.head_bias).float()
        return logits if self.bigrams is None else logits + self.bigrams.scores(x, idx)

    # -------------------------------------------------------------------------
    # the fast path: kernel.c or a pair table, else the plain forward pass

    def uses_pair_table(self, T: int, query_start: int = 0, num_texts: int | None = None) -> bool:
        """Whether `forward_fast` reads attention from a pair table; see `ModelConfig.uses_pair_table`."""
        if self.training and self.config.dropout:
            return False
        return self.config.uses_pair_table(T, query_start, num_texts, self.dtype.itemsize)

    def prepare(self, T: int, query_start: int = 0, num_texts: int | None = None) -> Tensor | Prepared | None:
        """Compute the part of `forward_fast` that depends on the weights and T alone, to be shared by many batches.

        Returns the kernel's table, the pair table, or None where neither is used; valid until the weights change.
        """
        if self.kernel is not None and not torch.is_grad_enabled():  # the kernel computes no gradients of logits
            return self.kernel.prepare(self.kernel_weights(), T)
        if not self.uses_pair_table(T, query_start, num_texts):
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
        return self.logits(x, idx[:, query_start:])

    # -------------------------------------------------------------------------
    # loss, evaluation and decoding

    def loss(self, tokens: Tensor, query_start: int = 0) -> Tensor:
        """Return the mean cross-entropy of tokens (B, T + 1) at positions after `query_start`, nats."""
        tokens = tokens.long()
        inputs = tokens[:, :-1]
        if self.bigrams is not None:
            return self.masked_loss(inputs, tokens[:, 1:], query_start=query_start)
        is_fast = self.uses_pair_table(inputs.size(1), query_start, len(inputs))
        logits = self.forward_fast(inputs, query_start) if is_fast else self(inputs, query_start)  # (B, Q, V)
        return F.cross_entropy(logits.flatten(0, 1), tokens[:, query_start + 1 :].flatten())

    @torch.no_grad()
    def evaluate(
        self, tokens: Tensor, query_start: int = 0, prepared: Tensor | Prepared | None = None
    ) -> tuple[Tensor, Tensor]:
        """Evaluate tokens (B, T + 1) at positions after `query_start`, given the right characters before each.

        Returns the largest loss of a character of each text, nats, and the smallest margin, (B,) float32 each. The
        margin is the right logit less the largest other one; greedy decoding is right where it is above 0.
        """
        prepared = self.prepare(tokens.size(1) - 1, query_start, len(tokens)) if prepared is None else prepared
        if isinstance(prepared, Prepared):
            losses, margins = prepared.evaluate(tokens, query_start)
        else:
            tokens = tokens.long()
            inputs, targets = tokens[:, :-1], tokens[:, query_start + 1 :]
            is_fast = prepared is not None
            logits = self.forward_fast(inputs, query_start, prepared) if is_fast else self(inputs, query_start)
            losses, margins = F.cross_entropy(logits.mT, targets, reduction="none"), target_margins(logits, targets)
        return losses.amax(1), margins.amin(1)

    def masked_loss(
        self,
        tokens: Tensor,
        targets: Tensor,
        loss_mask: Tensor | None = None,
        query_start: int = 0,
        positions: Tensor | None = None,
        next_positions: Tensor | None = None,
    ) -> Tensor:
        """Return the mean cross-entropy over all targets of the batch that have a loss, nats.

        `tokens` and `targets` (B, T) are ids. `loss_mask` (B, T) bool says which targets have a loss, by default all;
        those before `query_start` have none. `positions` and `next_positions` (B, T) are as in `forward`. In training,
        bigrams add the loss of the next two characters.
        """
        tokens, targets = tokens.long(), masked_targets(targets, loss_mask, query_start)
        x = self.residual_stream(tokens, query_start, None, positions, next_positions)
        logits = self.logits(x, tokens[:, query_start:])
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=NO_TARGET)
        return loss if self.bigrams is None or not self.training else loss + self.bigrams.loss(self.norm(x), targets)

    @torch.no_grad()
    def masked_evaluate(
        self,
        tokens: Tensor,
        targets: Tensor,
        loss_mask: Tensor | None = None,
        query_start: int = 0,
        positions: Tensor | None = None,
        next_positions: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As `evaluate`, of the targets that have a loss; see `masked_loss`. Without any, 0 and infinity."""
        targets = masked_targets(targets, loss_mask, query_start)
        logits = self(tokens.long(), query_start, None, positions, next_positions)
        losses = F.cross_entropy(logits.mT, targets, reduction="none", ignore_index=NO_TARGET)
        return losses.amax(1), target_margins(logits, targets).amin(1)

    def answerer(self) -> Callable[..., Tensor]:
        """Return a function from ids (B, T) int64 to the float32 logits (B, V) of the next character, for decoding.

        The function computes `forward_fast` at the last position. Where that is the plain forward pass, it keeps keys
        and values of the latest ids, and computes only the characters that continue them. The weights must not change
        while the function is used. With more arguments, the positions (B, T) of the ids and those that come next as in
        `forward`, it always computes the plain forward pass.
        """
        prepare = functools.cache(lambda T, num_texts: self.prepare(T, T - 1, num_texts))
        cached = torch.empty(0, 0)  # ids, positions, next positions
        kv_caches: list[list[Tensor]] = []  # of them

        @torch.no_grad()
        def next_logits(idx: Tensor, *positions: Tensor) -> Tensor:
            nonlocal cached, kv_caches
            if not positions and (prepared := prepare(idx.size(1), len(idx))) is not None:
                return self.forward_fast(idx, idx.size(1) - 1, prepared)[:, 0]
            given = torch.stack([idx, *positions])
            T, P = given.size(-1), cached.size(-1)
            if not (0 < P < T and torch.equal(cached, given[..., :P])):
                P, kv_caches = 0, [[] for _ in range(len(self.blocks) + 1)]
            cached = cached[..., :0]  # an exception in the forward pass leaves the caches invalid
            logits = self(idx[:, P:], T - P - 1, kv_caches, *positions)[:, 0]
            cached = given.clone()
            return logits

        return next_logits

    @torch.no_grad()
    def squared_norm(self) -> Tensor:
        """Return the sum of the squares of all weights, a float32 scalar."""
        return torch.stack([weight.square().sum() for weight in self.parameters()]).sum()

    def step_flops(self, B: int, T: int, query_start: int = 0) -> int:
        """Return the FLOPs of the matrix products of `loss` and its backward pass, 2 for each multiply-add.

        A product costs twice as much backward as forward. Masked attention scores are counted. The kernel counts as a
        pair table.
        """
        V, C, H, last = self.config.vocab_size, self.config.n_embd, self.config.n_hidden, len(self.blocks) - 1
        num_queries = [T - (query_start if i == last else 0) for i in range(last + 1)]  # of each block
        if self.kernel is not None or self.uses_pair_table(T, query_start, B):  # sums of values are no matrix products
            QV, R = num_queries[0] * V, T * V
            products = (QV + 2 * R) * C * C + QV * R * C  # queries, keys and values; scores
        else:
            products = sum(B * (Q + 2 * T) * C * C + 2 * B * Q * T * C for Q in num_queries)  # and sums of values
        mlp = (3 if self.config.is_gated else 2) * C * H
        products += sum(B * Q * (C * C + mlp) for Q in num_queries)  # output projections and MLPs
        Q = num_queries[-1]
        products += B * Q * C * V  # head
        if self.bigrams is not None:
            products += B * (2 * Q - 1) * C * V**2  # of the logits, and of the loss of pairs
        return 2 * 3 * products
