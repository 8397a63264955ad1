"""The track that docs/TRACKS.md gives as an example works as it is written there: built, trained and certified."""

import re
import sys
import tomllib
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch

from bench.judge.certificate import certify
from data import BatchOptions, get_batches
from tests.support.examples import ROOT
from tests.support.judged import judged_models
from tests.support.small_trainer import SMALL, Monitor, SeededTrainer, batches_of
from tracks import descriptions

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def track() -> Any:
    section = (ROOT / "docs/TRACKS.md").read_text("utf-8").split("## How to add")[1]
    source, description, config = re.findall(r"```(?:python|toml)\n(.*?)```", section, re.DOTALL)
    assert len(source.splitlines()) < 60
    module: Any = ModuleType("tracks.larger")
    exec(source, vars(module))
    exec(description, found := vars(descriptions).copy())
    assert tomllib.loads(config)["track"] == found["LARGER"].name
    sys.modules["tracks.larger"] = module
    yield module.Larger(found["LARGER"], **found["LARGER"].parameters)
    del sys.modules["tracks.larger"]


def test_its_description_says_what_it_is(track: Any) -> None:
    assert len(track.rows) == track.num_problems == 10_000
    assert len(track.sets["heldout"]) == track.num_heldout
    prompt = track.encode_prompts([track.description.example_prompt])
    problem = torch.tensor([38, 57])
    assert prompt[0].tolist() == track.prompts(problem).tolist()
    assert track.decode_completion(track.answers(problem).tolist()) == track.description.example_answer == "57"
    assert track.sentence(problem, "38") == "larger of 38 and 57: got 38, expected 57"
    for text in ("38,57", "38,5=", "038,57=", "38,57,12=", "", "38+57=", "38=", "3a,57="):
        assert (track.encode_prompts([text]) < 0).all(), text


def test_its_answers_are_right_and_its_batches_hold_no_held_out_problem(track: Any) -> None:
    every = [(a, b) for a in range(100) for b in range(100)]
    assert [*map(tuple, track.rows.tolist())] == every
    answers = [track.decode_completion(row) for row in track.answers(track.rows).tolist()]
    assert answers == [f"{max(a, b):02}" for a, b in every]
    batches = get_batches(track, BatchOptions(), CPU)
    texts = batches.draw(3, 200, torch.Generator().manual_seed(0), track.rows[:0], 0.0).whole_texts()
    assert texts.shape == (3, 200, 8)
    digits = texts.flatten(0, 1).long()
    problems = torch.stack([digits[:, 0] * 10 + digits[:, 1], digits[:, 3] * 10 + digits[:, 4]], 1)
    assert not track.is_heldout(problems).any()


def test_it_is_trained_and_certified(track: Any) -> None:
    settings = replace(SMALL, num_steps=30, check_every=10, batch_size=64)
    monitor: Any = Monitor()
    trainer = SeededTrainer(settings, track, CPU, torch.float32, 7)
    trainer.warm_up()
    assert len(batches_of(trainer)) == 30
    trainer = SeededTrainer(settings, track, CPU, torch.float32, 7)
    trainer.train(monitor)
    assert monitor.checks[-1][1] < monitor.checks[0][1]  # the loss
    certificate, sentences = certify(judged_models(trainer.model), track, CPU, 7)
    assert (certificate.problems, certificate.heldout_problems) == (10_000, track.num_heldout)
    assert 0 < certificate.errors < 10_000
    assert sentences[0].startswith("larger of ")
