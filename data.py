"""The entry to the tracks: what a model learns, how it is written as characters, and which problems are held out.

Only this module and `tracks/` know what the characters mean. `python data.py [TRACK]` prints the proof that the
training set and the held-out set of a track are disjoint.
"""

if __name__ == "__main__":
    from bench.entry import prepare_process

    prepare_process()

import itertools
import pkgutil
import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.errors import nearest_hint
from tracks.base import PADDING, Batch, DecodedProblems, Decoding, Track
from tracks.batches.base import Batches
from tracks.controls import ControlNotApplicable, Permuted, check_control, controlled
from tracks.descriptions import TRACKS, BatchOptions, describe_track, read_track_settings
from tracks.registry import get_track, index_sets_sha256
from tracks.tokenizer import decode, encode

__all__ = [
    "PADDING",
    "TRACKS",
    "Batch",
    "BatchOptions",
    "Batches",
    "ControlNotApplicable",
    "DecodedProblems",
    "Decoding",
    "Permuted",
    "Track",
    "check_control",
    "controlled",
    "decode",
    "describe_track",
    "encode",
    "get_batches",
    "get_track",
    "index_sets_sha256",
]

# The version of the interface between tracks and trainers. It is raised with each change that older trainers cannot
# follow. 1: a problem is a number. 2: a problem is a row of digits. 3: samplers have `nearby`. 4: a track is two
# classes: `Track` asks and grades, `Batches` makes what is trained on. 5: the track to learn, whose ids are permuted,
# and the seed are arguments of `train`.
INTERFACE = 5


def get_batches(track: Track, options: BatchOptions, device: torch.device) -> Batches:
    """Return what makes the training batches of a track; it reads no problem before the first batch."""
    batches: Batches = pkgutil.resolve_name(track.description.batches)(track, options, device)
    return batches


def main(arguments: list[str]) -> int:
    """Print the proof that the sets of a track share no problem: their sizes, their hashes, what two of them share."""
    if {"-h", "--help"} & set(arguments):
        print(f"usage: python data.py [TRACK] [KEY=VALUE ...]\n\n{main.__doc__}")
        print("TRACK is add3 by default; `python -m bench tracks` lists all, with their settings.")
        return 0
    name = arguments[0] if arguments else "add3"
    try:
        track = get_track(name, **read_settings(name, arguments[1:]))
        track.prepare()
    except KeyError:
        print(
            f"data.py: there is no track {name!r}{nearest_hint(name, TRACKS, '`python -m bench tracks`')}",
            file=sys.stderr,
        )
        return 2
    except ValueError as problem:
        print(f"data.py: {problem}", file=sys.stderr)
        return 2
    digests, sets = index_sets_sha256(track), track.sets
    if not track.exhaustive and track.description.splits is None:
        print(f"{track.name} has {track.num_problems:.0e} problems; these are fixed samples of the sets:")
    for set_name, problems in sets.items():
        print(f"{track.name} {set_name:<11}{len(problems):>9,} problems  sha256 {digests[set_name]}")
    for one, other in itertools.combinations(sets, 2):
        print(f"{track.name} in {f'{one} and {other}':<24}{track.overlap(one, other):>9,} problems")
    for set_name, problems in sets.items():
        if len(problems):
            examples = problems[np.linspace(0, len(problems) - 1, min(5, len(problems))).astype(int)]
            texts = (track.decode_text(ids).replace("\n", "\\n") for ids in texts_of(track, examples))
            print(f"{track.name} {set_name:<11}{'  '.join(texts)}")
    return 0


def texts_of(track: Any, problems: Tensor) -> list[list[int]]:
    """Return the ids of the texts of problems (N, W), prompt and right answer."""
    ids = torch.cat([track.prompts(problems), track.answers(problems)], -1)
    return [[i for i in row if i != PADDING] for row in ids.tolist()]


def read_settings(name: str, arguments: list[str]) -> dict[str, bool | int | float | str]:
    """Read the settings of a track, each `key=value`; raises KeyError for an unknown track, else ValueError."""
    if name not in TRACKS:
        raise KeyError(name)
    texts = {}
    for argument in arguments:
        key, equals, value = argument.removeprefix("--").removeprefix("track_settings.").partition("=")
        if not equals:
            raise ValueError(f"{argument!r}: one track at a time; its settings are written as key=value")
        texts[key] = value
    return read_track_settings(name, texts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
