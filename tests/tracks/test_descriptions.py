"""The torch-free descriptions against the tracks that they describe."""

import subprocess
import sys

import pytest

from data import TRACKS, decode, get_track
from tests.support.examples import ROOT

ATTRIBUTES = (
    *("name", "vocabulary", "prompt_length", "answer_length"),
    *("num_problems", "num_heldout", "exhaustive", "is_stream"),
)


def test_there_are_twenty_lengths_and_each_is_reversed_too() -> None:
    forwards = [f"add{digits}" for digits in range(1, 21)]
    assert list(TRACKS) == [*forwards, *(f"{name}-reversed" for name in forwards), "add3-mingpt", "add3-report"]
    assert all(name == track.name for name, track in TRACKS.items())


@pytest.mark.parametrize("name", TRACKS)
def test_a_description_says_what_the_track_is(name: str) -> None:
    description, track = TRACKS[name], get_track(name)
    for attribute in ATTRIBUTES:
        assert getattr(description, attribute) == getattr(track, attribute), attribute
    assert description.example_text == decode(track, track.tokens(track.example))


def test_listing_the_tracks_imports_neither_torch_nor_numpy() -> None:
    code = "import sys, tracks.descriptions; print({'torch', 'numpy'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "set()"
