"""Batches of texts of unequal lengths against the texts one by one."""

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from data import PADDING, get_track
from tests.support.models import random_model
from tests.support.tracks import cpu_batches

TRACK: Any = get_track("moddiv", tokens="characters")
PROBLEMS = torch.tensor([[93, 5], [1, 1], [0, 96], [7, 50], [96, 96], [10, 3]])


def text_of(problem: torch.Tensor) -> tuple[list[int], int]:
    """The ids of the text of a problem, and the length of its prompt."""
    prompt, answer = (row[row != PADDING].tolist() for row in (TRACK.prompts(problem), TRACK.answers(problem)))
    return prompt + answer, len(prompt)


@pytest.mark.parametrize("loss_on", ["answer", "all"])
def test_a_batch_holds_the_texts_their_positions_and_their_targets(loss_on: str) -> None:
    batch: Any = cpu_batches(TRACK, loss_on=loss_on).batch(PROBLEMS, loss_on)
    assert batch.tokens.shape == (6, TRACK.prompt_length + TRACK.answer_length - 1)
    for row, problem in enumerate(PROBLEMS):
        text, prompt_length = text_of(problem)
        is_token = batch.positions[row] >= 0
        positions = batch.positions[row][is_token].tolist()
        num_tokens = len(text) - 1
        assert positions[:num_tokens] == list(range(num_tokens))
        assert batch.tokens[row][is_token][:num_tokens].tolist() == text[:-1]
        assert batch.targets[row][batch.loss_mask[row]].tolist() == text[prompt_length if loss_on == "answer" else 1 :]
        at = batch.positions[row][batch.loss_mask[row]].tolist()
        assert at == list(range(prompt_length - 1 if loss_on == "answer" else 0, num_tokens))
        assert batch.tokens[row].min() >= 0  # padding has an id of the vocabulary, and position -1
    answers_start = (batch.positions == torch.tensor([[text_of(problem)[1] - 1] for problem in PROBLEMS])).nonzero()
    assert set(answers_start[:, 1].tolist()) == {TRACK.prompt_length - 1}


@pytest.mark.parametrize("loss_on", ["answer", "all"])
@pytest.mark.parametrize("n_layer", [1, 2])
def test_a_padded_batch_has_the_loss_and_the_gradients_of_its_texts_one_by_one(loss_on: str, n_layer: int) -> None:
    batches = cpu_batches(TRACK, loss_on=loss_on)
    shape = {"n_layer": n_layer, "vocab_size": len(TRACK.vocabulary), "block_size": TRACK.block_size}
    together, alone = random_model(**shape), random_model(**shape)
    tokens, targets, mask, positions, _ = batches.batch(PROBLEMS, loss_on)
    loss = together.masked_loss(tokens, targets, mask, batches.query_start, positions)
    loss.backward()
    total, count = torch.zeros(()), 0
    for problem in PROBLEMS:
        text, prompt_length = text_of(problem)
        start = prompt_length - 1 if loss_on == "answer" else 0
        logits = alone(torch.tensor([text[:-1]]))[0, start:]
        total = total + torch.nn.functional.cross_entropy(logits, torch.tensor(text[start + 1 :]), reduction="sum")
        count += len(text) - 1 - start
    (total / count).backward()
    assert_close(loss, total / count)
    for (name, weight), other in zip(together.named_parameters(), alone.parameters(), strict=True):
        assert_close(weight.grad, other.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_a_share_of_each_batch_replays_problems() -> None:
    track: Any = get_track("moddiv")
    replayed = track.sets["train"][:3]
    batch = cpu_batches(track).draw(4, 20, torch.Generator().manual_seed(0), replayed, 0.25)
    prompts = {*map(tuple, track.prompts(replayed).tolist())}
    is_replayed = [[tuple(row[:4]) in prompts for row in step] for step in batch.tokens.tolist()]
    assert all(all(step[15:]) and not all(step[:15]) for step in is_replayed)
    everything = cpu_batches(track).draw(4, 20, torch.Generator().manual_seed(0), replayed, 1.0)
    assert not all(tuple(step[0][:4]) in prompts for step in everything.tokens.tolist())


def test_texts_of_one_length_need_neither_mask_nor_positions() -> None:
    track: Any = get_track("modadd")
    batches = cpu_batches(track)
    batch = batches.batch(track.rows[:5])
    assert batch.loss_mask is batch.positions is batch.next_positions is None
    assert torch.equal(
        batch.whole_texts(), torch.cat([track.prompts(track.rows[:5]), track.answers(track.rows[:5])], 1)
    )
    assert (batches.is_uniform, batches.query_start, cpu_batches(TRACK).is_uniform) == (True, 3, False)
