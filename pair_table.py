"""Attention of a one-layer model by table lookup.

In the first layer, the input at position t is one of V rows: the normed embedding of a (position, character) pair. The
term that a key contributes to a query's attention depends on their two rows alone, so that all terms can be computed
once per step instead of once per text. Attention is then a sum of table rows. The table is small for short texts of few
characters only.

Shapes: as in model.py; Q = T - query_start positions have queries, R = T * V rows.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def pair_table(rows: Tensor, qkv: Tensor, n_head: int, query_start: int) -> Tensor:
    """Compute the terms of attention for every pair of a query's row and a key's row.

    Softmax attention is the sum of exp(query . key) * value over the keys, divided by the sum of exp(query . key). The
    table (Q, V, R, hs + 1, nh) holds the terms of both sums in the dtype of `rows`; the last of hs + 1 belongs to the
    denominator. Pairs whose key is at a later position are zero. Heads are the last dimension (wide layout), so that
    the product that builds the table is one of whole vectors.

    `rows` (T, V, C) are the normed embeddings of every (position, character) pair, `qkv` (3, C, C) float32 the
    attention's weights.
    """
    T, V, C = rows.shape
    Q, R = T - query_start, T * V
    rows = rows.reshape(R, C)
    qkv = qkv.to(rows.dtype)
    query = F.linear(rows[query_start * V :], qkv[0]).view(Q * V, n_head, -1).transpose(0, 1)  # (nh, Q * V, hs)
    key = F.linear(rows, qkv[1]).view(R, n_head, -1).permute(1, 2, 0)  # (nh, hs, R)
    value = F.linear(rows, qkv[2]).view(R, n_head, -1).transpose(1, 2)  # (R, hs, nh)
    position = torch.arange(R, device=rows.device) // V
    is_later = position > position[query_start * V :, None]  # (Q * V, R)
    scores = ((query @ key).float() / math.sqrt(C // n_head)).masked_fill(is_later, -torch.inf)
    # The maximum is over all rows, including those that a text does not contain, so exp must not underflow. The clamp
    # changes the result only if the scores of all rows of a text are 80 below the maximum.
    scores = (scores - scores.detach().amax(-1, keepdim=True)).clamp(min=-80.0)
    weights = scores.exp().masked_fill(is_later, 0.0).permute(1, 2, 0).to(rows.dtype)  # (Q * V, R, nh)
    terms = torch.cat([value, value.new_ones(R, 1, n_head)], 1)  # (R, hs + 1, nh)
    return (weights.contiguous()[:, :, None] * terms).view(Q, V, R, -1, n_head)


def attend(table: Tensor, row_index: Tensor, query_start: int) -> Tensor:
    """Compute attention (B, Q, C), before the output projection, from a pair table.

    `row_index` (B, T) int64 is the row of each character, in 0..R - 1.
    """
    B, T = row_index.shape
    Q, V, R, terms, n_head = table.shape
    pair_index = (row_index[:, query_start:, None] - query_start * V) * R + row_index[:, None]  # (B, Q, T)
    sums = SumRows.apply(pair_index.view(B * Q, T), table.view(Q * V * R, -1)).view(B, Q, terms, n_head)
    return (sums[:, :, :-1] / sums[:, :, -1:]).transpose(2, 3).reshape(B, Q, -1)  # from (B, Q, nh, hs)


class SumRows(torch.autograd.Function):
    """`F.embedding_bag` with mode "sum", and a backward pass that is several times faster on a CPU.

    torch's own backward pass sorts the indices first and runs on one thread.
    """

    @staticmethod
    def forward(ctx: Any, indices: Tensor, table: Tensor) -> Tensor:
        """Sum the rows indices (N, K) int64 of a table (rows, columns) to (N, columns)."""
        ctx.save_for_backward(indices)
        ctx.num_rows = table.size(0)
        return F.embedding_bag(indices, table, mode="sum")

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        (indices,) = ctx.saved_tensors
        terms = gradient[:, None].expand(*indices.shape, -1).reshape(indices.numel(), -1)
        # Summed in float32: a bfloat16 sum loses small terms.
        total = gradient.new_zeros(ctx.num_rows, gradient.size(1), dtype=torch.float32)
        return None, total.index_add_(0, indices.flatten(), terms.float()).to(gradient.dtype)
