"""Padded batches against their texts one by one."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from model import Transformer
from tests.support.models import random_model

LENGTHS = (3, 9, 1, 6)
T, PAD = max(LENGTHS), 11
QUERY_STARTS = (0, 2)


class Batch:
    """Texts of LENGTHS, padded on one side, of whose targets about half have a loss."""

    def __init__(self, side: str) -> None:
        draw = torch.Generator().manual_seed(0)
        self.texts = [torch.randint(11, (length + 1,), generator=draw) for length in LENGTHS]
        masks = [torch.rand(length, generator=draw) < 0.6 for length in LENGTHS]
        for mask in masks:
            mask[-1] = True
        self.masks = masks
        self.tokens, self.targets = torch.full((2, len(LENGTHS), T), PAD)
        self.loss_mask = torch.zeros(len(LENGTHS), T, dtype=torch.bool)
        self.positions = torch.full((len(LENGTHS), T), -1)
        for row, (text, mask) in enumerate(zip(self.texts, masks, strict=True)):
            part = slice(0, len(mask)) if side == "right" else slice(T - len(mask), T)
            self.tokens[row, part], self.targets[row, part] = text[:-1], text[1:]
            self.loss_mask[row, part] = mask
            self.positions[row, part] = torch.arange(len(mask))
        self.offsets = [0 if side == "right" else T - length for length in LENGTHS]

    def alone(self, model: Transformer, row: int, query_start: int = 0) -> Tensor:
        """The losses of the targets of one text without padding, (n,)."""
        text, mask = self.texts[row], self.masks[row].clone()
        mask[: max(0, query_start - self.offsets[row])] = False
        log_shares = model(text[None, :-1])[0].log_softmax(-1)
        return -log_shares.gather(-1, text[1:, None])[:, 0][mask]

    def wrong_alone(self, model: Transformer, row: int) -> bool:
        text = self.texts[row]
        return bool((model(text[None, :-1])[0].argmax(-1) != text[1:])[self.masks[row]].any())


PADDINGS = [("left", True), ("right", True), ("right", False)]  # side, whether positions are given
MODELS: list[dict] = [{}, {"n_layer": 2, "norm": "layer"}, {"n_layer": 2, "dtype": torch.bfloat16}]


@pytest.mark.parametrize(("side", "has_positions"), PADDINGS)
@pytest.mark.parametrize("changes", MODELS)
@pytest.mark.parametrize("query_start", QUERY_STARTS)
def test_a_padded_batch_has_the_loss_and_the_gradients_of_its_texts_one_by_one(
    side: str, has_positions: bool, changes: dict, query_start: int
) -> None:
    batch, model, other = Batch(side), random_model(**changes), random_model(**changes)
    positions = batch.positions if has_positions else None
    loss = model.masked_loss(batch.tokens, batch.targets, batch.loss_mask, query_start, positions)
    loss.backward()
    losses = torch.cat([batch.alone(other, row, query_start) for row in range(len(LENGTHS))])
    losses.mean().backward()
    precision: dict[str, Any] = (
        {"rtol": 1e-4, "atol": 1e-6} if other.dtype == torch.float32 else {"rtol": 0.05, "atol": 0.02}
    )
    assert_close(loss, losses.mean(), **precision)
    for weight, expected in zip(model.parameters(), other.parameters(), strict=True):
        assert_close(weight.grad, expected.grad, **precision)


@pytest.mark.parametrize(("side", "has_positions"), PADDINGS)
def test_a_padded_batch_is_evaluated_as_its_texts_one_by_one(side: str, has_positions: bool) -> None:
    batch, model = Batch(side), random_model(n_layer=2)
    positions = batch.positions if has_positions else None
    losses, margins = model.masked_evaluate(batch.tokens, batch.targets, batch.loss_mask, 0, positions)
    rows = range(len(LENGTHS))
    assert_close(losses, torch.stack([batch.alone(model, row).max() for row in rows]), rtol=1e-4, atol=1e-5)
    assert (margins <= 0).tolist() == [batch.wrong_alone(model, row) for row in rows]
    batch.targets[batch.loss_mask] = model(batch.tokens, positions=positions).argmax(-1)[batch.loss_mask]
    assert (model.masked_evaluate(batch.tokens, batch.targets, batch.loss_mask, 0, positions)[1] > 0).all()


def test_without_a_mask_every_target_counts() -> None:
    model, text = random_model(n_layer=2), torch.randint(12, (4, 12), generator=torch.Generator().manual_seed(0))
    tokens, targets = text[:, :-1], text[:, 1:]
    assert_close(model.masked_loss(tokens, targets, None, 3), model.loss(text, 3))
    for ours, expected in zip(model.masked_evaluate(tokens, targets, None, 3), model.evaluate(text, 3), strict=True):
        assert_close(ours, expected)


def test_a_text_of_padding_alone_is_finite_and_has_no_gradient() -> None:
    batch, model = Batch("left"), random_model(n_layer=2)
    batch.positions[1], batch.loss_mask[1] = -1, False
    model.masked_loss(batch.tokens, batch.targets, batch.loss_mask, 0, batch.positions).backward()
    assert all(weight.grad.isfinite().all() for weight in model.parameters())
    losses, margins = model.masked_evaluate(batch.tokens, batch.targets, batch.loss_mask, 0, batch.positions)
    assert losses.isfinite().all()
    assert (losses[1], margins[1]) == (0, torch.inf)


def test_positions_are_those_of_the_tokens_wherever_the_text_stands() -> None:
    model, text = random_model(n_layer=2), torch.randint(12, (4, 6), generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(text, positions=torch.arange(6).expand(4, -1)), model(text))
    swapped = torch.tensor([0, 1, 3, 2, 4, 5]).expand(4, -1)
    assert not torch.equal(model(text, positions=swapped), model(text))
    with torch.no_grad():
        model.position[:6] = model.position[swapped[0]].clone()
    assert_close(model(text, positions=torch.arange(6).expand(4, -1)), model(text))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n_layer", [1, 2])
def test_the_answerer_continues_prompts_of_unequal_lengths(n_layer: int, dtype: torch.dtype) -> None:
    model, draw = random_model(n_layer=n_layer, dtype=dtype), torch.Generator().manual_seed(0)
    lengths, atol = (5, 1, 3), 1e-5 if dtype == torch.float32 else 0.05
    prompts = [torch.randint(11, (length,), generator=draw) for length in lengths]
    idx, positions = torch.full((3, 5), PAD), torch.full((3, 5), -1)
    for row, prompt in enumerate(prompts):
        idx[row, 5 - len(prompt) :], positions[row, 5 - len(prompt) :] = prompt, torch.arange(len(prompt))
    next_logits, computed = model.answerer(), []
    model.blocks[0].register_forward_pre_hook(lambda _, inputs: computed.append(inputs[0].size(1)))
    for _ in range(4):
        logits = next_logits(idx, positions)
        new = torch.randint(11, (3, 1), generator=draw)
        idx, positions = torch.cat([idx, new], 1), torch.cat([positions, positions[:, -1:] + 1], 1)
        for row, prompt in enumerate(prompts):
            assert_close(
                logits[row], random_model(n_layer=n_layer, dtype=dtype)(prompt[None])[0, -1], rtol=1e-4, atol=atol
            )
            prompts[row] = torch.cat([prompt, new[row]])
    assert computed == [5, 1, 1, 1]


def test_the_answerer_does_not_continue_other_positions() -> None:
    model, text = random_model(n_layer=2), torch.randint(12, (4, 6), generator=torch.Generator().manual_seed(0))
    next_logits, positions = model.answerer(), torch.arange(6).expand(4, -1)
    first = next_logits(text[:, :5], positions[:, :5])
    assert_close(first, model(text[:, :5])[:, -1])
    assert_close(next_logits(text, positions + 1), model(text, positions=positions + 1)[:, -1])
    assert_close(next_logits(text), model(text)[:, -1])


def test_a_vocabulary_of_sixty_thousand_tokens_is_a_vocabulary() -> None:
    model = random_model(vocab_size=60_000, n_layer=1)
    tokens = torch.tensor([[59_999, 3, 40_000]])
    model.masked_loss(tokens, tokens).backward()
    assert model.token.grad[59_999].any()
    assert_close(model.answerer()(tokens), model(tokens)[:, -1])
