"""The entry to the tracks: what a model learns, how it is written as characters, and which problems are held out.

Only this module and `tracks/` know what the characters mean. `python data.py [TRACK]` prints the proof that the
training set and the held-out set of a track are disjoint.
"""

if __name__ == "__main__":
    from bench.entry import prepare_process

    prepare_process()

import functools
import hashlib
import pkgutil
import sys

import numpy as np
from torch import Tensor

from bench.errors import nearest_hint
from tracks.base import Sampler, Track
from tracks.controls import Permuted, check_control, controlled
from tracks.descriptions import TRACKS
from tracks.sampling import Windows
from tracks.tokenizer import decode, encode

# imported from here by the harness and by trainers, also those of older records
__all__ = ["TRACKS", "Permuted", "Sampler", "Track", "Windows", "check_control", "controlled", "decode", "encode"]

# The version of the interface between tracks and trainers. It is raised with each change that older trainers cannot
# follow, so that an audit does not count their failure against them. 1: a problem is a number. 2: a problem is a row of
# digits. 3: samplers have `nearby`.
INTERFACE = 3


@functools.cache
def get_track(name: str) -> Track:
    """Build a track; later calls return the same object. Raises KeyError for a name that TRACKS lacks."""
    description = TRACKS[name]
    return pkgutil.resolve_name(description.implementation)(description, **description.parameters)


def index_sets_sha256(track: Track) -> dict[str, str]:
    """Return the sha256 of the training set and of the held-out set.

    For an exhaustive track, the hash of the problems' numbers in ascending order, as little-endian int64. For other
    tracks, the hash of the rows of a fixed sample of each set.
    """

    def content(problems: Tensor) -> bytes:
        return (track.number(problems).numpy().astype("<i8") if track.exhaustive else problems.numpy()).tobytes()

    return {name: hashlib.sha256(content(problems)).hexdigest() for name, problems in track.sets.items()}


def main(arguments: list[str]) -> int:
    """Print the proof that a track's training set and held-out set are disjoint."""
    if {"-h", "--help"} & set(arguments):
        print(f"usage: python data.py [TRACK]\n\n{main.__doc__}")
        print("TRACK is add3 by default; `python -m bench tracks` lists all.")
        return 0
    name = arguments[0] if arguments else "add3"
    if len(arguments) > 1 or name not in TRACKS:
        unknown = f"there is no track {name!r}{nearest_hint(name, TRACKS, '`python -m bench tracks`')}"
        print(f"data.py: {unknown if name not in TRACKS else 'one track at a time'}", file=sys.stderr)
        return 2
    track = get_track(name)
    digests, sets = index_sets_sha256(track), track.sets
    if not track.exhaustive:
        print(f"{track.name} has {track.num_problems:.0e} problems; these are fixed samples of both sets:")
    for set_name, problems in sets.items():
        print(f"{track.name} {set_name:<8}{len(problems):>9,} problems  sha256 {digests[set_name]}")
    rows = [set(map(bytes, problems.numpy())) for problems in sets.values()]
    print(f"{track.name} in both  {len(rows[0] & rows[1]):>8,} problems")
    for set_name, problems in sets.items():
        if len(problems):
            examples = problems[np.linspace(0, len(problems) - 1, 5).astype(int)]
            texts = (decode(track, row) for row in track.tokens(examples))
            print(f"{track.name} {set_name:<8} {'  '.join(texts)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
