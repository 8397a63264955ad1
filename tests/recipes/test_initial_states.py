"""The best of several initial states."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from data import get_track
from model import ModelConfig, Transformer
from recipes.initial_states import keep_best_state
from settings import Settings
from tests.support.models import example_settings, normal_numbers
from tests.support.small_trainer import SMALL, Monitor, SeededTrainer

CONFIG = ModelConfig(**example_settings(init="gpt2", embedding_std=0.5))
GPT2 = replace(SMALL, init="gpt2", embedding_std=0.5, num_steps=2, check_every=1, max_rounds=1)


def trainer_of(settings: Settings, seed: int = 7) -> Any:
    track = get_track(settings.track)
    return SeededTrainer(settings, track, torch.device("cpu"), torch.float32, seed)


def weights_of(model: Transformer) -> list[Tensor]:
    return [weight.detach().clone() for weight in model.parameters()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(map(torch.equal, a, b))


@pytest.mark.parametrize(("losses", "expected"), [((3.0, 1.0, 2.0), 1), ((1.0, 2.0, 3.0), 0), ((2.0, 3.0, 1.0), 2)])
def test_the_set_with_the_lowest_loss_is_kept(losses: tuple[float, ...], expected: int) -> None:
    model, numbers = Transformer(CONFIG), normal_numbers(1)
    model.initialize(numbers)
    seen, left = [], list(losses)

    def loss() -> float:
        assert not model.training  # without dropout
        seen.append(weights_of(model))
        return left.pop(0)

    keep_best_state(model, lambda: model.initialize(numbers), len(losses), loss)
    assert model.training
    assert same(weights_of(model), seen[expected])
    reference, again = Transformer(CONFIG), normal_numbers(1)
    for state in seen:  # they are what is drawn one after the other
        reference.initialize(again)
        assert same(state, weights_of(reference))


def test_a_trainer_starts_from_the_state_with_the_lowest_loss_on_its_batch() -> None:
    trainer, reference = trainer_of(replace(GPT2, initial_states=4)), trainer_of(GPT2)
    losses: list[float] = []
    states: list[list[Tensor]] = []
    trainer.train_round = lambda *_: pytest.fail("nothing is trained here")
    with pytest.raises(pytest.fail.Exception):
        trainer.train(Monitor())
    batch = trainer.inputs.of_step(torch.zeros_like(trainer.step_index))
    for _ in range(4):
        states.append(weights_of(reference.model))
        with torch.no_grad():
            losses.append(float(reference.model.loss(**batch, query_start=reference.query_start)))
        reference.draw_weights()
    assert len(set(losses)) == 4
    assert same(weights_of(trainer.model), states[losses.index(min(losses))])


def test_the_choice_is_the_same_each_time_and_another_with_another_seed() -> None:
    def trained(seed: int) -> list[Tensor]:
        trainer = trainer_of(replace(GPT2, initial_states=3), seed)
        trainer.train(Monitor())
        return weights_of(trainer.model)

    assert same(trained(7), trained(7))
    assert not same(trained(7), trained(8))


def test_a_single_state_draws_and_evaluates_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipes.initial_states.keep_best_state", lambda *_: pytest.fail("it chooses"))
    trainer_of(GPT2).train(Monitor())


def test_a_restart_chooses_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr("recipes.initial_states.keep_best_state", lambda *given: calls.append(given[2]))
    settings = replace(GPT2, initial_states=5, max_rounds=2, start_over_above=0)
    trainer_of(settings).train(Monitor())
    assert calls == [5, 5]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"initial_states": 0}, "initial_states must be above 0"),
        ({"initial_states": 2}, "the head is zero, and all initial states have the same loss; set init to gpt2"),
        ({"initial_states": 2, "init": "gpt2", "init_from": "latest"}, "init_from draws no initial weights"),
    ],
)
def test_states_that_cannot_be_told_apart_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Settings(**changes)
    assert Settings(initial_states=2, tied=True).initial_states == 2
