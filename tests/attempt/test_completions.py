"""Completions by the contestant's forward pass, compared with decoding one problem at a time."""

from typing import Any

import pytest
import torch
from torch import Tensor

from bench.attempt.completions import all_completions
from bench.judge.decoding import complete
from data import Track, decode, encode, get_track
from tests.support.models import random_model
from tests.support.tracks import greedy

CPU = torch.device("cpu")
ADD1 = get_track("add1")
SEED = 7


def naive_answer(model: torch.nn.Module, track: Track, prompt: str) -> str:
    """Decode one problem, one character at a time, with full forward passes."""
    ids = encode(track, prompt)
    for _ in range(track.answer_length):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return decode(track, ids[track.prompt_length :])


@pytest.mark.parametrize("n_layer", [1, 2])
@pytest.mark.parametrize("batch_size", [7, 100])
def test_batched_decoding_equals_decoding_one_problem_at_a_time(n_layer: int, batch_size: int) -> None:
    model = random_model(n_layer=n_layer, block_size=5)  # `1+2=03` less its last character
    with torch.no_grad():
        block: Any = model.blocks[0]
        block.attention.out *= 8.0  # so that answers depend on the operands, not on the `=` alone
    shares: list[float] = []
    given, right = all_completions(model.answerer(), ADD1, ADD1.test_set(SEED), CPU, batch_size, shares.append)
    expected = [naive_answer(model, ADD1, f"{a}+{b}=") for a in range(10) for b in range(10)]
    assert [decode(ADD1, row) for row in given] == expected
    sums = [f"{a + b:02}" for a in range(10) for b in range(10)]
    assert right.tolist() == [answer == text for answer, text in zip(expected, sums, strict=True)]
    assert len(set(expected)) > 10  # else any constant would do


def test_prompts_of_many_lengths_are_decoded_in_full_batches_and_samples_in_those_of_the_caller() -> None:
    track = get_track("addtext")
    problems = track.test_set(SEED)[::41]
    sizes: list[int] = []

    def next_logits(idx: Tensor) -> Tensor:
        sizes.append(len(idx))
        return torch.zeros(len(idx), len(track.vocabulary))

    def sampled(part: Tensor, generator: torch.Generator) -> Tensor:
        decoding = track.decoding._replace(temperature=1.0)
        return all_completions(next_logits, track, part, CPU, 100, lambda share: None, generator, decoding)[0]

    all_completions(next_logits, track, problems, CPU, 100, lambda share: None)
    assert max(sizes) == 100  # no 100 problems in a row have one length
    whole, parts = (torch.Generator().manual_seed(SEED) for _ in range(2))
    assert torch.equal(sampled(problems, whole), torch.cat([sampled(part, parts) for part in problems.split(100)]))


def test_the_input_of_the_model_is_the_prompt_and_its_own_output() -> None:
    seen = []
    generator = torch.Generator().manual_seed(0)

    def next_logits(idx: Tensor) -> Tensor:
        seen.append(idx.clone())
        logits = torch.randn(idx.size(0), 12, generator=generator)
        written.append(logits.argmax(-1))
        return logits

    written = []
    given, _ = all_completions(next_logits, ADD1, ADD1.test_set(SEED), CPU, 100, lambda share: None)
    prompts = torch.tensor([encode(ADD1, f"{a}+{b}=") for a in range(10) for b in range(10)])
    assert len(seen) == ADD1.answer_length
    for step, idx in enumerate(seen):
        assert idx.dtype == torch.int64
        assert torch.equal(idx[:, :4], prompts)
        assert idx.shape == (100, 4 + step)  # so no right answer was in sight
        assert idx[:, 4:].tolist() == (torch.stack(written[:step], 1).tolist() if step else [[]] * 100)
    assert torch.equal(given.long(), torch.stack(written, 1))


def test_greedy_decoding_takes_the_most_likely_character() -> None:
    logits = torch.tensor([0.0, -1.0, 3.0, 2.9999, *[-5.0] * 8])
    answers = complete(lambda idx: logits.expand(idx.size(0), 12), torch.zeros(3, 4, dtype=torch.int64), greedy(2))
    assert answers.tolist() == [[2, 2]] * 3
