"""Generation in any order: what a model with next positions computes."""

import dataclasses

import pytest
import torch
from torch import Tensor

from model import ModelConfig, Transformer
from recipes.layers import attend_in_float32
from settings import Settings

CONFIG = ModelConfig(7, 8, n_layer=2, n_head=2, n_embd=16, n_hidden=32, activation="gelu", any_order=True)


def random_model(config: ModelConfig = CONFIG) -> Transformer:
    model = Transformer(config)
    generator = torch.Generator().manual_seed(1)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.5, generator=generator)
    return model.eval()


def random_texts() -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, positions and next positions (3, 7)."""
    generator = torch.Generator().manual_seed(2)
    order = torch.stack([torch.randperm(8, generator=generator) for _ in range(3)])
    return torch.randint(7, (3, 7), generator=generator), order[:, :-1], order[:, 1:]


def test_no_logit_depends_on_a_token_or_position_that_comes_later_in_the_order() -> None:
    model, (tokens, positions, next_positions) = random_model(), random_texts()
    logits = model(tokens, 0, None, positions, next_positions)
    for changed in range(1, 7):
        others = tokens.clone(), positions.clone(), next_positions.clone()
        others[0][:, changed:] = (others[0][:, changed:] + 1) % 7
        others[1][:, changed:] = (others[1][:, changed:] + 1) % 8
        others[2][:, changed:] = (others[2][:, changed:] + 1) % 8
        other_logits = model(others[0], 0, None, *others[1:])
        torch.testing.assert_close(other_logits[:, :changed], logits[:, :changed])
        assert (other_logits[:, changed] != logits[:, changed]).any(-1).all()


def test_a_logit_depends_on_the_position_that_comes_next() -> None:
    model, (tokens, positions, next_positions) = random_model(), random_texts()
    logits = model(tokens, 0, None, positions, next_positions)
    elsewhere = next_positions.clone()
    elsewhere[:, -1] = (elsewhere[:, -1] + 1) % 8
    assert not torch.allclose(model(tokens, 0, None, positions, elsewhere)[:, -1], logits[:, -1])


def test_left_to_right_is_the_default() -> None:
    model, (tokens, _, _) = random_model(), random_texts()
    positions = torch.arange(8).expand(3, -1)
    torch.testing.assert_close(model(tokens), model(tokens, 0, None, positions[:, :-1], positions[:, 1:]))


def test_the_key_cache_gives_the_same_logits_in_any_order() -> None:
    model, (tokens, positions, next_positions) = random_model(), random_texts()
    logits = model(tokens, 0, None, positions, next_positions)
    answerer = model.answerer()
    for length in range(1, 8):
        inputs = (ids[:, :length] for ids in (tokens, positions, next_positions))
        torch.testing.assert_close(answerer(*inputs), logits[:, length - 1])
    for length in range(1, 8):  # without positions, and after another text
        torch.testing.assert_close(answerer(tokens[:, :length]), model(tokens[:, :length])[:, -1])


def test_attention_in_float32_is_torch_s_attention() -> None:
    generator = torch.Generator().manual_seed(3)
    for Q, T in ((15, 15), (16, 16), (1, 9), (7, 20)):
        query, key, value = (
            torch.randn(2, length, 3, 8, generator=generator).transpose(1, 2).requires_grad_() for length in (Q, T, T)
        )
        mask = torch.ones(T, T, dtype=torch.bool).tril()[-Q:]
        found = attend_in_float32(query, key, value, mask, 0.0)
        expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        torch.testing.assert_close(found, expected)
        weights = torch.randn(expected.shape, generator=generator)
        gradients = [torch.autograd.grad((y * weights).sum(), (query, key, value)) for y in (found, expected)]
        torch.testing.assert_close(*gradients)
        low = attend_in_float32(query.bfloat16(), key.bfloat16(), value.bfloat16(), mask, 0.0)
        assert low.dtype == torch.bfloat16
        torch.testing.assert_close(low.float(), expected, atol=0.03, rtol=0.03)


def test_the_loss_is_that_of_each_token_at_the_position_that_was_asked_for() -> None:
    model, (tokens, positions, next_positions) = random_model(), random_texts()
    targets = tokens.roll(-1, 1)
    loss = model.masked_loss(tokens, targets, None, 0, positions, next_positions)
    logits = model(tokens, 0, None, positions, next_positions)
    expected = -logits.log_softmax(-1).gather(-1, targets[..., None]).mean()
    torch.testing.assert_close(loss, expected)


def test_such_a_model_is_not_plain_and_takes_no_bigrams() -> None:
    assert not CONFIG.is_plain
    assert "another order" in (CONFIG.kernel_problem or "")
    with pytest.raises(ValueError, match="bigrams = true pairs a character with the one before it"):
        dataclasses.replace(CONFIG, bigrams=True)


def test_tracks_without_orders_refuse_them() -> None:
    with pytest.raises(ValueError, match="order: add3 is generated from left to right"):
        Settings(order="uniform", loss_on="all")


def test_tracks_without_a_long_text_refuse_windows() -> None:
    with pytest.raises(ValueError, match="window: add3 has no long text; set it to 0"):
        Settings(window=8, loss_on="all")
