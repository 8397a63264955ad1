"""The track that docs/TRACKS.md gives as an example works as it is written there."""

import re

import torch

from data import decode
from tests.support.examples import ROOT
from tracks import descriptions


def test_the_example_of_a_track_can_be_used_as_it_is():
    section = (ROOT / "docs/TRACKS.md").read_text("utf-8").split("## How to add")[1]
    source, description, config = re.findall(r"```(?:python|toml)\n(.*?)```", section, re.DOTALL)
    names = {}
    exec(source, names)
    exec(description, found := vars(descriptions).copy())
    described = found["DIGIT_SUMS"]
    track = names["DigitSums"](described, **described.parameters)
    assert decode(track, track.tokens(track.example)) == described.example_text
    problems = torch.tensor([[9, 9, 9, 0, 0, 2]], dtype=torch.uint8)
    assert decode(track, track.tokens(problems)[0]) == "999+002=991"
    assert track.sentence(problems[0], "001").endswith("got 001")
    assert f'track = "{described.name}"' in config
