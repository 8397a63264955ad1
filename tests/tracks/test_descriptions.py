"""The torch-free descriptions against the tracks that they describe."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from data import PADDING, TRACKS, BatchOptions, describe_track, get_batches, get_track
from tests.support.examples import ROOT
from tracks.actions import Actions
from tracks.addition import Addition
from tracks.description import TEST_PROBLEMS
from tracks.sumeq import Sumeq
from tracks.word_rule import rows_of
from tracks.words import Words

ATTRIBUTES = (
    *("name", "vocabulary", "prompt_length", "answer_length"),
    *("num_problems", "num_heldout", "exhaustive", "is_stream"),
)
CASES = [
    *((name, {}) for name in TRACKS if name != "text"),  # which needs a file; see test_text.py
    ("moddiv", {"p": 113}),
    ("modadd", {"tokens": "characters"}),
    ("modsub", {"tokens": "characters", "p": 7}),
    ("moddiv", {"tokens": "characters", "training_share": 0.3, "validation_share": 0.2}),
    ("memorize", {"masked": 3}),
    ("memorize", {"text": "aaa"}),
    ("sumeq", {"padded": True}),
]


def test_there_are_twenty_lengths_and_each_is_reversed_too() -> None:
    forwards = [f"add{digits}" for digits in range(1, 21)]
    backwards = [f"{name}-reversed" for name in forwards]
    others = ["add3-mingpt", "add3-report", "add2-omnivault", "words", "addtext", "actions"]
    with_settings = ["modadd", "modsub", "moddiv", "memorize", "sumeq", "text"]
    assert list(TRACKS) == [*forwards, *backwards, *others, *with_settings]
    assert all(track.name == name or track.name.startswith(f"{name}-") for name, track in TRACKS.items())


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_a_description_says_what_the_track_is(name: str, settings: dict[str, Any]) -> None:
    description = describe_track(name, settings)
    track: Any = get_track(name, **settings)
    assert replace(track.description, splits=None) == replace(description, splits=None)
    if description.splits is not None:
        assert dict(description.splits()) == {split: len(rows) for split, rows in track.sets.items()}
        assert description.num_training == len(track.sets["train"])
        assert description.heldout_count == len(track.sets["heldout"])
    assert description.has_validation == (track.validation is not None)
    if description.num_test < TEST_PROBLEMS:
        assert description.test_count == len(track.test_set(0))
    for attribute in ATTRIBUTES:
        assert getattr(description, attribute) == getattr(track, attribute), attribute
    prompt = track.encode_prompts([description.example_prompt])[0].tolist()
    problem = problem_of(track, prompt)
    assert track.prompts(problem).tolist() == prompt
    answer = track.answers(problem).tolist()
    assert track.decode_completion(answer) == description.example_answer
    assert len(answer) == description.answer_length
    assert description.has_one_answer == track.has_one_answer
    assert description.is_sampled == (track.decoding.temperature > 0)
    assert track.grade(problem[None], torch.tensor([answer])).tolist() == [True]
    assert description.example_prompt + track.decode_completion(answer) == description.example_text


def problem_of(track: Any, prompt: list[int]) -> Tensor:
    """The problem with this prompt, (W,)."""
    if isinstance(track, Sumeq):
        return torch.tensor([93, -32, 41, 20, len(prompt) - prompt.count(PADDING) - 1])
    if isinstance(track, Addition):
        return track.problems(torch.tensor([prompt], dtype=torch.uint8))[0][0]
    if isinstance(track, Words):
        return rows_of([line.rstrip(";") for line in track.description.example_text.splitlines()])
    if isinstance(track, Actions):
        lines = torch.full((12, 9), PADDING, dtype=torch.int8)
        lines[9:, :6] = torch.tensor([[0] * 6, [5, 4, 3, 2, 1, 0], [0, 1, 2, 3, 4, 5]])
        lines[9:, 8] = torch.tensor([0, 0, 1])
        return torch.cat([lines.new_zeros(1), lines.flatten()])
    return track.rows[(track.prompts(track.rows) == torch.tensor(prompt)).all(1)][0]


def test_listing_the_tracks_imports_neither_torch_nor_numpy() -> None:
    code = "import sys, tracks.descriptions; print({'torch', 'numpy'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "set()"


@pytest.mark.parametrize(
    "name", ["add3", "add3-report", "add2-omnivault", "moddiv", "memorize", "addtext", "actions", "words"]
)
def test_a_description_knows_the_length_of_training_texts_without_the_track(name: str) -> None:
    batches = get_batches(get_track(name), BatchOptions(), torch.device("cpu"))
    description = describe_track(name)
    assert (description.training_tokens or description.block_size) == batches.training_length - 1
