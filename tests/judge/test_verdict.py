"""What training begins with, and the law of initial weights."""

import dataclasses
import hashlib
from typing import Any

import numpy as np
import pytest
import torch

from bench.judge.initial_weights import initial_weights, standard_normal, state_sha256
from bench.judge.verdict import start_values, started_track
from data import get_track
from model import ModelConfig, Transformer
from tests.support.models import example_settings
from tracks.controls import can_relabel

ADD2: Any = get_track("add2")


def test_the_ids_follow_from_the_seed_and_are_those_of_prompts_and_answers() -> None:
    first, again, other = (start_values(ADD2, seed) for seed in (1, 1, 2))
    assert first == again
    assert first["vocabulary"] != other["vocabulary"]
    assert first["vocabulary"] == first["answer_vocabulary"]
    assert sorted(first["vocabulary"]) == sorted(ADD2.vocabulary)
    task: Any = started_track(ADD2, first)
    assert task.tokens(ADD2.rows[[1234]])[0].tolist() == [first["vocabulary"].index(c) for c in "12+34=046"]


def test_relabelled_answers_are_written_with_the_ids_of_other_digits() -> None:
    usual: Any = started_track(ADD2, start_values(ADD2, 1))
    values = start_values(ADD2, 1, relabelling=5)
    task: Any = started_track(ADD2, values)
    assert torch.equal(task.prompts(ADD2.rows), usual.prompts(ADD2.rows))
    pairs = {
        (int(usual_id), int(id_))
        for usual_id, id_ in zip(usual.answers(ADD2.rows).flatten(), task.answers(ADD2.rows).flatten(), strict=True)
    }
    assert len(pairs) == 10  # a bijection of the digits
    assert {one for one, _ in pairs} == {other for _, other in pairs}
    assert all(one != other for one, other in pairs)
    assert task.grade(ADD2.rows, task.answers(ADD2.rows)).all()
    assert not task.grade(ADD2.rows, usual.answers(ADD2.rows)).any()
    assert torch.equal(task.tokens(ADD2.rows)[:, :6], usual.prompts(ADD2.rows))
    assert task.decode_completion(task.answers(ADD2.rows[[1234]])[0].tolist()) == "046"
    assert values["answer_vocabulary"] != start_values(ADD2, 1, relabelling=6)["answer_vocabulary"]


def test_answers_that_are_part_of_longer_texts_cannot_be_relabelled() -> None:
    for name, expected in (("add3", True), ("moddiv", True), ("memorize", False), ("addtext", False), ("sumeq", False)):
        assert can_relabel(get_track(name)) is expected
    track = get_track("memorize")
    values = start_values(track, 1) | {"answer_vocabulary": start_values(track, 2)["vocabulary"]}
    with pytest.raises(ValueError, match="the answers of memorize cannot be relabelled"):
        started_track(track, values)


def test_standard_normal_numbers_are_those_of_the_published_law() -> None:
    digest = hashlib.sha256(b"7 2 blocks.0.mlp.up").digest()
    words = [int.from_bytes(digest[4 * i : 4 * i + 4], "little") for i in range(8)]
    expected = np.random.RandomState(words).standard_normal((3, 4)).astype(np.float32)
    assert np.array_equal(standard_normal(7, 2, "blocks.0.mlp.up", (3, 4)).numpy(), expected)
    numbers = standard_normal(7, 0, "token", (1000, 100))
    assert abs(float(numbers.mean())) < 0.01
    assert abs(float(numbers.std()) - 1) < 0.01


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"init": "gpt2", "embedding_std": 0.02, "n_layer": 2, "norm": "layer_gain", "bias": "all"},
        {"any_order": True},
        {"tied": True, "activation": "swiglu", "position_encoding": "rotary"},
        {"position_encoding": "relative", "attention_window": 6, "n_layer": 2, "bigrams": True},
    ],
)
def test_the_judge_computes_the_initial_weights_of_the_trainer(changes: dict) -> None:
    config = ModelConfig(**example_settings(embedding_std=0.3) | changes)
    model = Transformer(config)
    model.initialize(lambda name, shape: standard_normal(7, 0, name, tuple(shape)))
    judged = dict(initial_weights(dataclasses.asdict(config), config.init, config.embedding_std, 7))
    assert judged.keys() == model.state_dict().keys()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, judged[name]), name
    assert state_sha256(model.state_dict()) == state_sha256(judged)
    with torch.no_grad():
        model.token[0, 0] += 1e-6
    assert state_sha256(model.state_dict()) != state_sha256(judged)
