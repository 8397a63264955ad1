"""The pair table: its size, its zeros, and the gradient of its lookup."""

import pytest
import torch
from torch.testing import assert_close

from model_config import MAX_TABLE_BYTES, ModelConfig
from pair_table import SumRows, attend, pair_table


def shape(vocab_size: int, n_embd: int, n_head: int) -> ModelConfig:
    return ModelConfig(vocab_size, 64, 1, n_head, n_embd, 32, "gelu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("query_start", [0, 3])
def test_the_bytes_of_a_table_are_those_of_the_tensor(dtype: torch.dtype, query_start: int) -> None:
    T, V, C, nh = 5, 7, 12, 3
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(T, V, C, generator=generator).to(dtype)
    table = pair_table(rows, torch.randn(3, C, C, generator=generator), nh, query_start)
    assert table.dtype == dtype
    assert table.numel() * table.element_size() == shape(V, C, nh).pair_table_bytes(T, query_start, dtype.itemsize)
    first_query = table[0].view(V, T, V, -1)
    assert first_query[:, : query_start + 1].abs().sum() > 0
    assert not first_query[:, query_start + 1 :].any()  # later positions


def test_a_text_of_bytes_does_not_fit_and_three_digit_addition_does() -> None:
    assert shape(256, 64, 4).pair_table_bytes(64, 0, 4) == 64 * 256 * 64 * 256 * 17 * 4 * 4 > MAX_TABLE_BYTES
    assert shape(12, 64, 16).pair_table_bytes(11, 7, 4) < MAX_TABLE_BYTES


def test_attention_is_a_mean_of_the_values_weighted_by_the_softmax() -> None:
    T, V, C = 4, 3, 2
    generator = torch.Generator().manual_seed(0)
    rows, qkv = torch.randn(T, V, C, generator=generator), torch.randn(3, C, C, generator=generator)
    characters = torch.tensor([2, 0, 1, 1])
    x = rows[torch.arange(T), characters]
    query, key, value = (x @ weight.T for weight in qkv)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    row_index = (torch.arange(T) * V + characters)[None]
    assert_close(attend(pair_table(rows, qkv, 1, 0), row_index, 0)[0], expected)


def test_the_gradient_of_summed_rows_is_torchs() -> None:
    indices = torch.tensor([[0, 2], [2, 2], [1, 0]])
    ours, theirs = (torch.arange(8.0).view(4, 2).requires_grad_() for _ in range(2))
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    (SumRows.apply(indices, ours) * weight).sum().backward()
    (theirs[indices].sum(1) * weight).sum().backward()
    assert torch.equal(ours.grad, theirs.grad)
