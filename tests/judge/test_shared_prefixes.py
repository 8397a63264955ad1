"""Margins from shared sums against margins from the plain forward pass."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from bench.judge import shared_prefixes
from bench.judge.decoding import complete
from bench.judge.forward import Model
from bench.judge.margins import token_margins
from bench.judge.shared_prefixes import SharedPrefixes, answer_margins, logit_leads, part_edges, plain_margins, supports
from data import Decoding
from model import Transformer
from model_config import ModelConfig
from tests.support.models import example_settings

SHAPES: list[dict[str, Any]] = [
    {},
    {"n_head": 4, "norm": "layer", "activation": "relu2", "tied": True},
    {"norm": "layer_gain", "bias": "all", "activation": "swiglu"},
    {"norm_position": "post", "bias": "mlp", "norm": "layer_gain", "activation": "gelu_tanh"},
]
V = 4


def random_judge(dtype: torch.dtype = torch.float32, scale: float = 1.0, **changes: Any) -> Model:
    """A one-layer model of random weights; `scale` is that of the attention scores."""
    config = ModelConfig(**example_settings(vocab_size=V, block_size=8, **changes))
    state, generator = Transformer(config).state_dict(), torch.Generator().manual_seed(0)
    for name, weight in state.items():
        weight.copy_(
            torch.randn(weight.shape, generator=generator) * (1.5 * weight.size(-1) ** -0.5 if weight.dim() > 1 else 1)
        )
        if name in ("token", "position"):
            weight.mul_(weight.size(-1) ** 0.5)
    if scale != 1:
        state["blocks.0.attention.qkv"][0] *= scale
    return Model(dataclasses.asdict(config), state, dtype)


def random_texts(N: int = 2000, length: int = 6, seed: int = 0) -> Tensor:
    """Texts (N, length) of few tokens at each position, so that most parts occur many times."""
    return torch.randint(V, (N, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("most_contents", [1, V**2, 2**16])
@pytest.mark.parametrize("query_start", [0, 2, 4])
@pytest.mark.parametrize("changes", SHAPES)
def test_shared_sums_give_the_margins_of_the_plain_pass(
    monkeypatch: pytest.MonkeyPatch, most_contents: int, query_start: int, changes: dict
) -> None:
    monkeypatch.setattr(shared_prefixes, "MOST_CONTENTS", most_contents)
    monkeypatch.setattr(shared_prefixes, "LOOKUPS_PER_ROW", 0)  # even where it does not pay
    texts = random_texts()
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-13)):
        judge = random_judge(dtype, **changes)
        expected = plain_margins(judge, texts, query_start)
        found = SharedPrefixes(judge, texts, query_start).margins()
        assert found.dtype == dtype
        assert_close(found, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_ids_may_be_of_any_integer_type(dtype: torch.dtype) -> None:
    judge, texts = random_judge(), random_texts()
    assert torch.equal(answer_margins(judge, texts.to(dtype), 2), answer_margins(judge, texts, 2))


def test_a_position_that_is_the_same_in_all_texts_and_tokens_that_never_occur_change_nothing() -> None:
    judge, texts = random_judge(), random_texts()
    texts[:, 2], texts[:, 4] = 3, texts[:, 4] % 2
    assert_close(SharedPrefixes(judge, texts, 2).margins(), plain_margins(judge, texts, 2), rtol=0, atol=1e-4)


def test_prompts_may_have_several_answers_and_texts_may_be_repeated() -> None:
    judge, texts = random_judge(), random_texts(200)
    several = torch.cat([texts[:, :3].repeat(20, 1), random_texts(4000, 3, seed=1)], 1)
    assert_close(SharedPrefixes(judge, several, 2).margins(), plain_margins(judge, several, 2), rtol=0, atol=1e-4)


def test_positive_margins_are_what_greedy_decoding_gets_right() -> None:
    judge, prompts = random_judge(), random_texts(1500, 3)
    decoded = complete(judge.next_logits(), prompts, Decoding(max_new_tokens=3))
    answers = torch.where(
        torch.rand(1500, 1, generator=torch.Generator().manual_seed(2)) < 0.5, decoded, random_texts(1500, 3)
    )
    is_right = (decoded == answers).all(1)
    assert 0 < is_right.sum() < 1500
    assert torch.equal((answer_margins(judge, torch.cat([prompts, answers], 1), 2) > 0).all(1), is_right)


# -----------------------------------------------------------------------------
# what is left to the plain forward pass


@pytest.mark.parametrize(
    ("changes", "is_supported"),
    [
        *((changes, True) for changes in SHAPES),
        ({"n_layer": 2}, False),
        ({"position_encoding": "rotary"}, False),
        ({"position_encoding": "relative"}, False),
        ({"bigrams": True}, False),
        ({"any_order": True}, False),
    ],
)
def test_one_layer_with_learned_positions_is_supported(changes: dict, is_supported: bool) -> None:
    judge, texts = random_judge(**changes), random_texts()
    assert supports(judge) == is_supported
    assert_close(answer_margins(judge, texts, 2), plain_margins(judge, texts, 2), rtol=0, atol=1e-4)


def test_on_another_device_than_the_cpu_nothing_is_shared() -> None:
    judge = random_judge()
    weights = {name: weight.to("meta") for name, weight in judge.weights.items()}
    assert not supports(Model(judge.config, weights))


def test_few_texts_share_too_little() -> None:
    judge, texts = random_judge(), random_texts(20)
    assert SharedPrefixes(judge, texts, 2).margins() is None
    assert torch.equal(answer_margins(judge, texts, 2), plain_margins(judge, texts, 2))
    assert answer_margins(judge, texts[:0], 2).shape == (0, 3)


@pytest.mark.parametrize(("scale", "is_shared"), [(1.0, True), (3.0, True), (300.0, False)])
def test_scores_that_are_far_apart_lose_no_digits(scale: float, is_shared: bool) -> None:
    judge, texts = random_judge(scale=scale), random_texts()
    assert (SharedPrefixes(judge, texts, 2).margins() is not None) == is_shared
    expected = plain_margins(judge, texts, 2)
    assert expected.isfinite().all()
    assert_close(answer_margins(judge, texts, 2), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("name", "value"), [("head", torch.nan), ("head", torch.inf), ("position", torch.nan)])
def test_logits_that_are_no_numbers_have_the_margin_of_minus_infinity(name: str, value: float) -> None:
    judge, texts = random_judge(), random_texts()
    judge.weights[name][0] = value
    for margins in (answer_margins(judge, texts, 2), plain_margins(judge, texts, 2)):
        assert (margins == -torch.inf).all()


# -----------------------------------------------------------------------------
# parts, margins, threads, and wrong input


def test_parts_cover_the_positions_and_split_the_prompt_evenly() -> None:
    assert part_edges(7, 7, 12) == [(0, 4), (4, 8)]  # 12**4 contents are below 2**16, 12**5 above
    assert part_edges(7, 10, 12) == [(0, 4), (4, 8), (8, 11)]
    assert part_edges(5, 12, 12) == [(0, 3), (3, 6), (6, 10), (10, 13)]
    assert part_edges(2, 3, 60_000) == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert part_edges(0, 0, 1) == [(0, 1)]


def test_the_margin_is_the_right_logit_less_the_largest_other_one() -> None:
    rows = [[1.0, 4.0, 2.5], [1.0, 4.0, 2.5], [3.0, 3.0, 0.0], [torch.nan, 1.0, 0.0], [0.0, torch.inf, 0.0]]
    targets = torch.tensor([1, 2, 0, 1, 1])
    assert token_margins(torch.tensor(rows), targets).tolist() == [1.5, -1.5, 0.0, -torch.inf, -torch.inf]
    leads = logit_leads(torch.tensor(rows).mT, targets)
    assert leads[:3].tolist() == [1.5, -1.5, 0.0]
    assert not leads[3:].isfinite().any()


def fail_in_pool() -> None:
    with shared_prefixes.single_threaded_pool():
        raise ZeroDivisionError


def test_torch_has_as_many_threads_afterwards() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        answer_margins(random_judge(), random_texts(), 2)
        assert torch.get_num_threads() == 2
        with shared_prefixes.single_threaded_pool() as pool:
            assert pool.submit(torch.get_num_threads).result() == 1
        with pytest.raises(ZeroDivisionError):
            fail_in_pool()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("query_start", [-1, 5, 9])
def test_texts_without_an_answer_are_an_error(query_start: int) -> None:
    with pytest.raises(ValueError, match=f"^texts of 6 tokens have no answer after position {query_start}$"):
        answer_margins(random_judge(), random_texts(), query_start)


def test_ids_outside_the_vocabulary_and_texts_that_are_too_long_are_errors() -> None:
    for unknown in (-1, V):
        texts = random_texts()
        texts[7, 1] = unknown
        with pytest.raises(ValueError, match=r"^a text holds an id outside the model's vocabulary of 4$"):
            answer_margins(random_judge(), texts, 2)
    for N in (2000, 20):
        with pytest.raises(ValueError, match=r"^a text of 9 tokens is longer than the model's block_size, 8$"):
            answer_margins(random_judge(), random_texts(N, 10), 2)
