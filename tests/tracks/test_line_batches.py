"""Texts of lines with the loss on all tokens, and padding."""

import re
from typing import Any

import pytest
import torch

from data import PADDING, decode, get_track
from tests.support.tracks import cpu_batches
from tracks.padding import left_aligned


@pytest.mark.parametrize("name", ["addtext", "actions"])
def test_with_the_loss_on_all_tokens_only_padding_has_none(name: str) -> None:
    track: Any = get_track(name)
    batches = cpu_batches(track, loss_on="all")
    assert (batches.query_start, batches.fields) == (0, ("targets", "loss_mask"))
    draw = torch.Generator().manual_seed(0)
    batch = batches.draw(2, 200, draw, torch.empty(0, track.problem_width), 0.0)
    assert batch.positions is None
    padding = ~batch.loss_mask
    assert (padding[..., 1:] >= padding[..., :-1]).all(), "padding ends a text"
    assert (batch.targets[padding] == 0).all()
    assert padding.float().mean() < 0.1
    problems = batches.draw_distinct(20, draw)
    evaluated = batches.batch(problems, "all")
    lengths = (left_aligned([track.prompts(problems), track.answers(problems)]) != PADDING).sum(1)
    assert evaluated.loss_mask.sum(1).tolist() == (lengths - 1).tolist()
    assert evaluated.tokens.size(1) == lengths.max() - 1


@pytest.mark.parametrize("name", ["addtext", "actions"])
def test_half_of_the_texts_begin_with_a_line(name: str) -> None:
    track: Any = get_track(name)
    batch = cpu_batches(track).draw(1, 400, torch.Generator().manual_seed(0), torch.empty(0, track.problem_width), 0.0)
    pattern = {"addtext": r"\d+ \+ ", "actions": "[a-f]{4,}"}[name]
    firsts = [decode(track, ids).split("\n")[0] for ids in batch.tokens[0]]
    lengths = torch.tensor([len(line) for line in firsts])
    share = sum(re.match(pattern, line) is not None for line in firsts) / 400
    assert 0.5 <= share < 0.8
    assert lengths.min() < 5


def test_windows_of_the_fixed_text_have_a_target_everywhere() -> None:
    batches = cpu_batches(get_track("actions"), window=63, loss_on="all")
    batch = batches.draw(2, 3, torch.Generator().manual_seed(0), torch.empty(0, 109), 0.0)
    assert (batches.fields, batches.training_length, batch.loss_mask) == (("targets",), 64, None)
    assert torch.equal(batch.tokens[..., 1:], batch.targets[..., :-1])
    text = batches.text.tolist()
    assert any(text[i : i + 63] == batch.tokens[0, 0].tolist() for i in range(len(text) - 63))
