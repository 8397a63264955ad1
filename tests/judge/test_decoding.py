"""Decoding against a loop over single prompts, and sampling against distributions that are written out by hand."""

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bench.judge.decoding import complete, complete_all, next_token
from data import PADDING, Decoding

STOP = 4


def pseudo_model(idx: Tensor) -> Tensor:
    """Logits (B, 5) that depend on all tokens of a row and on nothing else."""
    numbers = [sum((place + 3) * (token + 1) for place, token in enumerate(row)) for row in idx.tolist()]
    return torch.tensor([[math.sin(number * (token + 1)) for token in range(5)] for number in numbers])


def naive(prompt: list[int], count: int, stop: int | None) -> list[int]:
    """The completion of one prompt, without its padding; its end is the stop token, if it has one."""
    written: list[int] = []
    while len(written) < count and (not written or written[-1] != stop):
        written.append(int(pseudo_model(torch.tensor([prompt + written])).argmax()))
    return written


@given(
    st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=1, max_size=12),
    st.integers(1, 6),
    st.sampled_from([None, STOP]),
)
def test_completions_are_those_of_one_prompt_at_a_time(prompts: list[list[int]], count: int, stop: int | None) -> None:
    found = complete(pseudo_model, torch.tensor(prompts), Decoding(count, stop))
    expected = [naive(prompt, count, stop) for prompt in prompts]
    assert found.tolist() == [row + [PADDING] * (count - len(row)) for row in expected]
    assert found.dtype == torch.int64


@given(
    st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=5), min_size=1, max_size=12),
    st.sampled_from([None, STOP]),
    st.integers(1, 5),
)
def test_prompts_of_unequal_lengths_are_completed_as_alone(
    prompts: list[list[int]], stop: int | None, batch_size: int
) -> None:
    padded = torch.tensor([prompt + [PADDING] * (5 - len(prompt)) for prompt in prompts])
    found = complete_all(pseudo_model, padded, Decoding(4, stop), batch_size)
    expected = [naive(prompt, 4, stop) for prompt in prompts]
    assert found.tolist() == [row + [PADDING] * (4 - len(row)) for row in expected]


def test_no_prompts_have_no_completions() -> None:
    assert complete_all(pseudo_model, torch.empty(0, 5, dtype=torch.int64), Decoding(4, STOP), 3).shape == (0, 4)


def test_the_model_never_reads_padding_and_its_prompts_have_one_length() -> None:
    seen: list[Tensor] = []

    def recording(idx: Tensor) -> Tensor:
        seen.append(idx)
        return pseudo_model(idx)

    prompts = torch.tensor([[1, 2, PADDING], [3, PADDING, PADDING], [0, 1, 2], [2, 2, PADDING]])
    complete_all(recording, prompts, Decoding(5, STOP), 10)
    assert all((idx >= 0).all() for idx in seen)
    assert {tuple(row[:1]) for idx in seen for row in idx.tolist()} == {(1,), (3,), (0,), (2,)}


def test_a_batch_ends_when_every_completion_has_stopped() -> None:
    calls = []

    def stopping(idx: Tensor) -> Tensor:
        calls.append(idx.size(1))
        likeliest = torch.where(idx[:, 0] <= idx.size(1) - 2, STOP, 0)  # the first token says when
        return torch.nn.functional.one_hot(likeliest, 5).float()

    prompts = torch.tensor([[0, 0], [2, 0]])
    found = complete(stopping, prompts, Decoding(50, STOP))
    assert found[:, :4].tolist() == [[STOP, PADDING, PADDING, PADDING], [0, 0, STOP, PADDING]]
    assert found.shape == (2, 50)
    assert (found[:, 3:] == PADDING).all()
    assert calls == [2, 3, 4]


# -----------------------------------------------------------------------------
# sampling

LOGITS = [2.0, 1.0, 0.5, -1.0, 1.5]
DRAWS = 20_000


def shares_of(decoding: Decoding, seed: int = 0) -> list[float]:
    """How often each token is drawn."""
    generator = torch.Generator().manual_seed(seed)
    drawn = next_token(torch.tensor(LOGITS).expand(DRAWS, 5), decoding, generator)
    counts = Counter(drawn[:, 0].tolist())
    return [counts[token] / DRAWS for token in range(5)]


def probabilities(kept: Callable[[int], bool], temperature: float = 1.0) -> list[float]:
    weights = [math.exp(logit / temperature) if kept(token) else 0.0 for token, logit in enumerate(LOGITS)]
    return [weight / sum(weights) for weight in weights]


def nucleus(top_p: float) -> set[int]:
    """The likeliest tokens, as few as have this probability together."""
    every, kept = probabilities(lambda token: True), set()
    for token in sorted(range(5), key=lambda token: -every[token]):
        if sum(every[other] for other in kept) >= top_p:
            break
        kept.add(token)
    return kept


CASES: list[Any] = [
    (Decoding(1, temperature=1.0), probabilities(lambda token: True)),
    (Decoding(1, temperature=0.5), probabilities(lambda token: True, 0.5)),
    (Decoding(1, temperature=3.0), probabilities(lambda token: True, 3.0)),
    (Decoding(1, temperature=1.0, top_k=2), probabilities(lambda token: token in (0, 4))),
    (Decoding(1, temperature=0.8, top_k=200), probabilities(lambda token: True, 0.8)),
    (Decoding(1, temperature=1.0, top_k=1), [1.0, 0.0, 0.0, 0.0, 0.0]),
    (Decoding(1, temperature=1.0, top_p=0.9), probabilities(lambda token: token in nucleus(0.9))),
    (Decoding(1, temperature=1.0, top_p=0.5), probabilities(lambda token: token in nucleus(0.5))),
    (Decoding(1, temperature=1.0, top_p=1e-9), [1.0, 0.0, 0.0, 0.0, 0.0]),
    (Decoding(1, temperature=1e-320), [1.0, 0.0, 0.0, 0.0, 0.0]),
    (Decoding(1, temperature=1e-320, top_k=3, top_p=0.5), [1.0, 0.0, 0.0, 0.0, 0.0]),
]


@pytest.mark.parametrize(("decoding", "expected"), CASES)
def test_tokens_are_drawn_with_their_probabilities(decoding: Decoding, expected: list[float]) -> None:
    found = shares_of(decoding)
    assert found == pytest.approx(expected, abs=0.015)  # four standard deviations
    assert [share == 0 for share in found] == [probability == 0 for probability in expected]


def test_the_nucleus_is_of_the_probabilities_at_the_temperature_of_those_that_top_k_leaves() -> None:
    weights = [math.exp(logit / 0.7) if token in (0, 1, 4) else 0.0 for token, logit in enumerate(LOGITS)]
    by_size = sorted((weight / sum(weights) for weight in weights), reverse=True)
    assert by_size[0] < 0.8 < by_size[0] + by_size[1]
    found = shares_of(Decoding(1, temperature=0.7, top_k=3, top_p=0.8))
    both = weights[0] + weights[4]
    assert found == pytest.approx([weights[0] / both, 0, 0, 0, weights[4] / both], abs=0.015)


def test_what_is_drawn_follows_from_the_generator() -> None:
    decoding, prompts = Decoding(6, STOP, temperature=1.0), torch.arange(30).view(30, 1) % 4

    def drawn(seed: int) -> Tensor:
        return complete(pseudo_model, prompts, decoding, torch.Generator().manual_seed(seed))

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    stopped = [row for row in drawn(1).tolist() if STOP in row]
    assert stopped
    assert all(set(row[row.index(STOP) + 1 :]) <= {PADDING} for row in stopped)


def test_greedy_decoding_draws_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert next_token(torch.tensor([LOGITS]), Decoding(1, top_k=3, top_p=0.5), generator).tolist() == [[0]]
    assert torch.equal(generator.get_state(), before)
