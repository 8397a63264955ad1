"""What is drawn for the training of addition, against Python's own integers."""

from collections import Counter
from typing import Any

import pytest
import torch

from data import BatchOptions, get_batches, get_track
from tests.support.digits import is_held_out, pairs_of, places_of_nine
from tests.support.tracks import cpu_batches

TRACKS: Any = [get_track(f"add{digits}") for digits in (2, 4, 20)]
ADD2, ADD4, ADD20 = TRACKS


def sampler_of(track: Any, level_share: float) -> Any:
    return cpu_batches(track, level_share=level_share).sampler


@pytest.mark.parametrize("level_share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", ["add1", "add3", "add4", "add6-reversed", "add20"])
def test_the_sampler_never_draws_a_held_out_problem(name: str, level_share: float) -> None:
    track: Any = get_track(name)
    sampler, generator = sampler_of(track, level_share), torch.Generator().manual_seed(0)
    problems = sampler.draw(50, 1000, generator)
    assert problems.shape == (50, 1000, track.problem_width)
    assert problems.dtype == torch.uint8
    assert problems.max() <= 9
    assert not track.is_heldout(problems.flatten(0, 1)).any()
    assert not track.is_heldout(sampler.draw_distinct(5000, generator)).any()
    drawn = pairs_of(problems[0])
    assert not any(is_held_out(a, b, track.digits) for a, b in drawn)


@pytest.mark.parametrize("level_share", [0.0, 1.0])
def test_the_sampler_reaches_every_training_problem(level_share: float) -> None:
    # 9,004 problems are drawn from, each 100 times on average and no level's less than 50: a miss has odds of e^-50.
    drawn = sampler_of(ADD2, level_share).draw(90, 10_000, torch.Generator().manual_seed(0))
    assert set(ADD2.number(drawn).flatten().tolist()) == set(ADD2.number(ADD2.sets["train"]).tolist())


@pytest.mark.parametrize("digits", [3, 4, 20])
@pytest.mark.parametrize("level_share", [0.0, 0.5, 1.0])
def test_the_levels_are_numbers_of_nines_and_get_even_shares(digits: int, level_share: float) -> None:
    track = get_track(f"add{digits}")
    problems = sampler_of(track, level_share).draw(30, 1000, torch.Generator().manual_seed(1)).flatten(0, 1)
    drawn = Counter(places_of_nine(a, b, digits) for a, b in pairs_of(problems))
    uniform = torch.distributions.Binomial(digits - 1, torch.tensor(0.1))
    for level in range(digits):
        by_chance = float(uniform.log_prob(torch.tensor(float(level))).exp())
        expected = level_share / digits + (1 - level_share) * by_chance
        assert drawn[level] / len(problems) == pytest.approx(expected, abs=0.015)


def test_what_a_long_track_draws_in_a_level_is_as_uniform_as_if_it_were_picked_from_a_list() -> None:
    """Every place is as often a nine, every digit as frequent, and pairs of one sum are alike."""
    sampler: Any = sampler_of(get_track("add6"), 1.0)
    rows = sampler.fill(torch.full((60_000,), 2), torch.Generator().manual_seed(2)).long()
    a, b = rows[:, :6], rows[:, 6:]
    assert ((a + b == 9)[:, :5].sum(1) == 2).all()
    assert (a + b == 9).float().mean(0).tolist() == pytest.approx([0.4] * 5 + [0.1], abs=0.01)
    for place in range(6):
        pairs = (10 * a[:, place] + b[:, place]).bincount(minlength=100).float() / len(rows)
        share = 0.4 if place < 5 else 0.1
        is_nine = torch.tensor([x + y == 9 for x in range(10) for y in range(10)])
        assert pairs[is_nine].tolist() == pytest.approx([share / 10] * 10, abs=0.004)
        assert pairs[~is_nine].tolist() == pytest.approx([(1 - share) / 90] * 90, abs=0.003)


@pytest.mark.parametrize("name", ["add3", "add4", "add20"])
def test_a_draw_depends_on_its_generator_alone(name: str) -> None:
    sampler = sampler_of(get_track(name), 0.5)
    draws = [sampler.draw(2, 64, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_distinct_draws_are_the_draws_without_repetitions() -> None:
    for track in (ADD2, ADD4, ADD20):
        sampler = sampler_of(track, 1.0)
        drawn = sampler.draw(1, 40_000, torch.Generator().manual_seed(5))[0].tolist()
        distinct = sampler.draw_distinct(40_000, torch.Generator().manual_seed(5)).tolist()
        assert len({*map(tuple, distinct)}) == len(distinct)
        assert {*map(tuple, distinct)} == {*map(tuple, drawn)}


def test_nearby_are_the_training_problems_with_one_digit_changed() -> None:
    for track in (ADD2, ADD4, ADD20):
        batches = cpu_batches(track, level_share=0.5)
        problems = batches.draw_distinct(30, torch.Generator().manual_seed(7))
        changed = {
            (*row[:i], d, *row[i + 1 :]) for row in problems.tolist() for i in range(len(row)) for d in range(10)
        }
        heldout = track.is_heldout(torch.tensor(sorted(changed), dtype=torch.uint8)).tolist()
        expected = [row for row, is_out in zip(sorted(changed), heldout, strict=True) if not is_out]
        found = batches.nearby(problems)
        assert found.dtype == torch.uint8
        assert sorted(map(tuple, found.tolist())) == expected
        assert {*map(tuple, problems.tolist())} <= set(expected)
        assert any(heldout)


# -----------------------------------------------------------------------------
# on a GPU


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["add1", "add3", "add3-reversed", "add4", "add20"])
def test_a_gpu_draws_training_problems(name: str) -> None:
    track: Any = get_track(name)
    device = torch.device("cuda")
    batches, generator = get_batches(track, BatchOptions(0.5), device), torch.Generator(device).manual_seed(0)
    none = torch.empty(0, track.problem_width, device=device)
    texts = batches.draw(20, 1000, generator, none, 0.25).whole_texts()
    assert texts.is_cuda
    problems, valid = track.problems(texts.flatten(0, 1)[:, : track.prompt_length])
    assert valid.all()
    assert not track.is_heldout(problems.cpu()).any()
    assert batches.draw_distinct(1000, generator).is_cuda
