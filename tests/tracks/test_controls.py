"""The tracks that were made different on purpose, and weights that write with permuted ids."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.judge.certificate import certify
from bench.storage import weights
from data import Permuted, controlled, decode, encode, get_track, index_sets_sha256
from tests.support.judged import Stepwise
from tests.support.models import random_model
from tests.support.tracks import addition_track, cpu_batches, fresh, texts_of
from tracks.controls import Misanswered, permute

ADD2 = addition_track("add2")
EVERY = ADD2.test_set(0)
HELD_OUT = ADD2.is_heldout(EVERY).numpy()
REVERSED = "=+9876543210"
CPU = torch.device("cpu")


def answers_of(track) -> list[str]:
    return [text.partition("=")[2] for text in texts_of(track, EVERY)]


SUMS = [f"{a + b:03}" for a in range(100) for b in range(100)]


# -----------------------------------------------------------------------------
# permuted ids


def test_permuted_ids_write_the_same_texts() -> None:
    track: Any = Permuted(ADD2, REVERSED)
    assert texts_of(track, EVERY) == texts_of(ADD2, EVERY)
    assert not torch.equal(track.tokens(EVERY), ADD2.tokens(EVERY))
    assert encode(track, "=+0") == [0, 1, 11]


def test_any_text_is_written_and_read_with_permuted_ids() -> None:
    track: Any = Permuted(ADD2, REVERSED)
    assert track.encode_text("=+01") == [0, 1, 11, 10]
    assert track.decode_text([0, 1, 11, 10]) == "=+01"
    assert [track.token_repr(token) for token in (0, 11)] == ["'='", "'0'"]


def test_permuted_ids_are_read_again() -> None:
    track: Any = Permuted(ADD2, REVERSED)
    prompts = track.tokens(EVERY)[:, : track.prompt_length]
    problems, valid = track.problems(prompts)
    assert torch.equal(problems, EVERY)
    assert valid.all()


@pytest.mark.parametrize("id_", [0, 12, 255])  # `=`, and what is no character
def test_what_is_no_prompt_stays_none_with_permuted_ids(id_: int) -> None:
    track: Any = Permuted(ADD2, REVERSED)
    prompts = track.tokens(EVERY[:1])[:, : track.prompt_length].clone()
    prompts[0, 0] = id_
    assert track.problems(prompts)[1].tolist() == [False]


def test_permuted_ids_keep_shapes_and_everything_else_of_the_track() -> None:
    track: Any = Permuted(ADD2, REVERSED)
    assert track.tokens(EVERY.view(10, 1000, 4)).shape == (10, 1000, 9)
    assert track.tokens(EVERY).dtype == torch.uint8
    assert (track.name, track.prompt_length, track.num_problems) == ("add2", 6, 10_000)
    assert index_sets_sha256(track) == index_sets_sha256(ADD2)
    assert track.sentence(EVERY[703], "011") == "7 + 3: got 11, expected 10"


@pytest.mark.parametrize("vocabulary", ["0123456789+", "0123456789++", "0123456789+=x", ""])
def test_another_set_of_characters_is_no_permutation(vocabulary: str) -> None:
    with pytest.raises(ValueError, match="does not hold the tokens of add2"):
        Permuted(ADD2, vocabulary)


# -----------------------------------------------------------------------------
# other answers


def test_the_answer_is_that_of_the_other_problem() -> None:
    track: Any = Misanswered(ADD2, np.roll(np.arange(10_000), -1))
    assert [decode(track, row) for row in track.tokens(EVERY[[0, 1234]])] == ["00+00=001", "12+34=047"]
    assert track.tokens(EVERY.view(10, 1000, 4)).shape == (10, 1000, 9)
    assert torch.equal(track.problems(track.tokens(EVERY)[:, :6])[0], EVERY)


def test_no_control_is_the_track_itself() -> None:
    assert controlled(ADD2, "none", 7) is ADD2


def test_permute_gives_the_ids_an_order_that_follows_from_the_seed() -> None:
    orders = [permute(ADD2, seed).vocabulary for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[2]) == sorted(ADD2.vocabulary)
    assert orders[2] != ADD2.vocabulary


def test_shuffle_deals_out_the_answers_of_the_training_problems_and_no_others() -> None:
    answers = answers_of(controlled(ADD2, "shuffle", 7))
    training = ~HELD_OUT
    assert sorted(np.array(answers)[training]) == sorted(np.array(SUMS)[training])
    assert (np.array(answers) != np.array(SUMS))[training].mean() > 0.98
    assert (np.array(answers) == np.array(SUMS))[HELD_OUT].all()


def test_poison_makes_every_held_out_answer_wrong_and_no_other() -> None:
    wrong = np.array(answers_of(controlled(ADD2, "poison", 7))) != np.array(SUMS)
    assert np.array_equal(wrong, HELD_OUT)


@pytest.mark.parametrize("control", ["shuffle", "poison"])
def test_wrong_answers_follow_from_the_seed(control: str) -> None:
    first, again, other = (controlled(ADD2, control, seed).tokens(EVERY) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("control", ["shuffle", "poison"])
def test_a_control_changes_neither_the_prompts_nor_what_is_held_out(control: str) -> None:
    track = controlled(ADD2, control, 7)
    assert [text[:6] for text in texts_of(track, EVERY)] == [text[:6] for text in texts_of(ADD2, EVERY)]
    assert np.array_equal(track.is_heldout(EVERY).numpy(), HELD_OUT)
    drawn = cpu_batches(track, level_share=0.5).draw(4, 500, torch.Generator().manual_seed(0), EVERY[:0], 0.0)
    problems, valid = track.problems(drawn.whole_texts().flatten(0, 1)[:, :6])
    assert valid.all()
    assert not ADD2.is_heldout(problems).any()


@pytest.mark.parametrize("name", ["add1", "add4", "add20-reversed"])
def test_every_track_can_have_its_ids_permuted(name: str) -> None:
    usual = addition_track(name)
    track: Any = permute(usual, 7)
    drawn = cpu_batches(track, level_share=0.5).sampler.draw(1, 100, torch.Generator().manual_seed(0))[0]
    tokens = track.tokens(drawn)
    assert not torch.equal(tokens, usual.tokens(drawn))
    assert [decode(track, row) for row in tokens] == [decode(usual, row) for row in usual.tokens(drawn)]
    assert torch.equal(track.problems(tokens[:, : track.prompt_length])[0], drawn)


@pytest.mark.parametrize("control", ["shuffle", "poison"])
def test_what_needs_a_list_of_all_problems_is_refused_where_there_is_none(control: str) -> None:
    with pytest.raises(ValueError, match=f"control: {control} .* add4 has too many"):
        controlled(get_track("add4"), control, 7)


def test_with_nothing_held_out_there_is_nothing_to_poison() -> None:
    with pytest.raises(ValueError, match="control: poison exchanges held-out answers, and add1 has none"):
        controlled(get_track("add1"), "poison", 7)
    assert controlled(get_track("add1"), "shuffle", 7).name == "add1"


# -----------------------------------------------------------------------------
# weights


def saved(path: Path, track) -> None:
    weights.save(path, random_model(block_size=8), track, {})


def test_weights_remember_the_order_of_their_ids(tmp_path: Path) -> None:
    saved(tmp_path / "w.safetensors", Permuted(ADD2, REVERSED))
    _, track = weights.load(tmp_path / "w.safetensors", CPU)
    assert track.vocabulary == REVERSED
    assert texts_of(track, EVERY) == texts_of(ADD2, EVERY)


@pytest.mark.parametrize("control", ["shuffle", "poison"])
def test_weights_that_were_taught_wrong_answers_are_certified_against_the_right_ones(
    control: str, tmp_path: Path
) -> None:
    saved(tmp_path / "w.safetensors", controlled(ADD2, control, 7))
    _, track = weights.load(tmp_path / "w.safetensors", CPU)
    assert track is ADD2


def test_weights_of_another_set_of_characters_are_refused(tmp_path: Path) -> None:
    foreign = fresh("add2")
    foreign.vocabulary = "0123456789-="
    saved(tmp_path / "w.safetensors", foreign)
    with pytest.raises(ValueError, match="does not hold the tokens"):
        weights.load(tmp_path / "w.safetensors", CPU)


def test_prompts_and_answers_of_permuted_weights_are_written_with_the_usual_characters() -> None:
    track: Any = Permuted(ADD2, REVERSED)
    prompts = track.encode_prompts(["12+34=", "99+99="])
    assert prompts.tolist() == [encode(track, "12+34="), encode(track, "99+99=")]
    assert track.problems(prompts.to(torch.uint8))[0].tolist() == [[1, 2, 3, 4], [9, 9, 9, 9]]
    right = {tuple(row[:length].tolist()): row for row in track.tokens(EVERY).long() for length in (6, 7, 8)}

    def next_logits(idx: torch.Tensor) -> torch.Tensor:
        following = torch.stack([right[tuple(row.tolist())][idx.size(1)] for row in idx])
        return torch.nn.functional.one_hot(following, 12).float()

    certificate, _ = certify(lambda dtype: Stepwise(next_logits), track, CPU, 0)
    assert (certificate.problems, certificate.errors) == (10_000, 0)
