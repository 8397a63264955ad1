"""Pairs of neighbouring characters against loops over texts and pairs."""

import torch
from torch import Tensor
from torch.testing import assert_close

from model_config import ModelConfig
from recipes.bigrams import Bigrams

V, C = 5, 3


def random_bigrams() -> Bigrams:
    bigrams = Bigrams(
        ModelConfig(vocab_size=V, block_size=8, n_layer=1, n_head=1, n_embd=C, n_hidden=4, activation="gelu")
    )
    with torch.no_grad():
        bigrams.pair.copy_(torch.randn(bigrams.pair.shape, generator=torch.Generator().manual_seed(0)))
    return bigrams


def joint_log_probabilities(bigrams: Bigrams, row: Tensor) -> Tensor:
    return torch.stack([bigrams.pair[u, v] @ row for u in range(V) for v in range(V)]).log_softmax(0)


def test_a_pair_of_neighbouring_characters_has_an_embedding_of_its_own() -> None:
    bigrams = random_bigrams()
    idx, positions = torch.tensor([[4, 2, 2, 3]]), torch.tensor([[-1, -1, 0, 1]])
    assert torch.equal(bigrams.embed(idx)[0], bigrams.pair[[V, 4, 2, 2], [4, 2, 2, 3]])
    assert torch.equal(bigrams.embed(idx, positions)[0, 2:], bigrams.pair[[V, 2], [2, 3]])
    cache: list[Tensor] = []
    parts = [bigrams.embed(idx[:, :3], None, cache), bigrams.embed(idx[:, 3:], None, cache)]
    assert torch.equal(torch.cat(parts, 1), bigrams.embed(idx))


def test_a_character_is_scored_by_its_pair_with_the_present_one_and_by_all_pairs_that_it_may_start() -> None:
    bigrams, x = random_bigrams(), torch.randn(1, 2, C, generator=torch.Generator().manual_seed(1))
    scores = bigrams.scores(x, torch.tensor([[3, 1]]))
    for position, present in enumerate((3, 1)):
        row = x[0, position]
        for character in range(V):
            after = torch.stack([bigrams.pair[character, v] @ row for v in range(V)])
            expected = bigrams.pair[present, character] @ row + after.exp().sum().log()
            assert_close(scores[0, position, character], expected)


def test_the_loss_is_that_of_the_first_two_characters_that_have_one_and_of_each_further_two() -> None:
    bigrams, x = random_bigrams(), torch.randn(2, 4, C, generator=torch.Generator().manual_seed(2))
    targets = torch.tensor([[1, 4, -100, -100], [-100, 2, 0, 3]])
    first = joint_log_probabilities(bigrams, x[0, 0])[1 * V + 4]
    second = joint_log_probabilities(bigrams, x[1, 1])[2 * V + 0]
    assert_close(bigrams.loss(x, targets), -3 * (first + second) / 5)
