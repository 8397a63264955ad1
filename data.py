"""The tracks: what is asked, how it is written as characters, and what is held out.

Only this file and the classes in `tracks/` know what the characters mean. `python data.py [TRACK]` prints the proof
that no training problem is a held-out one.
"""

import difflib
import hashlib
import sys
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from tracks.addition import Addition
from tracks.report import Report
from tracks.vocabulary import Renumbering

# Of what a trainer may ask of a track; raised with each change that older trainers cannot follow, so that nobody takes
# their failing for a fault of theirs. 1: a problem is a number; 2: a row of digits; 3: samplers know what is nearby.
INTERFACE = 3


class Track(Protocol):
    """A task with a target. All texts have one length.

    A problem is a row of `problem_width` uint8, whose meaning is the track's business. Most tracks are trained on texts
    of problems, a stream on windows of one long text, which begin anywhere. Either is asked by prompts that begin at
    position 0.
    """

    name: str
    vocabulary: str  # character i has token id i
    prompt_length: int  # characters the model is given
    answer_length: int  # characters it must write
    block_size: int  # positions that the model needs: a training text's, less its last character's
    is_stream: bool
    separator: str  # of a stream, between its problems
    problem_width: int  # W, of the row that is a problem
    num_problems: int  # of any size
    num_heldout: int  # of them; about so many where they cannot be counted
    exhaustive: bool  # the certificate asks every problem
    example: Tensor  # (W,) uint8, a problem to show
    samples: dict[str, Tensor]  # name -> (n, W) uint8 problems, counted beside the exam
    sets: dict[str, Tensor]  # `train` and `heldout`, (n, W) uint8: all of them, or a list that is always the same

    @property
    def lines(self) -> Tensor:
        """(n, W) uint8, of a stream: the problems in its training text, in order, each followed by `separator`."""
        ...

    def tokens(self, problems: Tensor) -> Tensor:
        """Problems (..., W) uint8 to token ids (..., prompt_length + answer_length) uint8, on the same device."""
        ...

    def problems(self, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Prompts (N, prompt_length) uint8 to problems (N, W) uint8, and whether each is a prompt of the track (N,).

        The row of what is no prompt is zeros.
        """
        ...

    def is_heldout(self, problems: Tensor) -> Tensor:
        """Problems (N, W) uint8 to (N,) bool, on the same device: these are never in a training batch."""
        ...

    def exam(self, seed: int) -> Tensor:
        """What the certificate asks, (N, W) uint8 on the CPU: all problems in order, or held-out ones by the seed."""
        ...

    def groups(self, problems: Tensor) -> dict[str, Tensor]:
        """Which of the problems (N, W) uint8 are counted apart in the certificate: name to (N,) bool."""
        ...

    def number(self, problems: Tensor) -> Tensor:
        """Where problems (..., W) uint8 stand in the exam, (...,) int64; only where that is exhaustive."""
        ...

    def sampler(self, level_share: float, device: torch.device) -> "Sampler":
        """Draws training problems; `level_share` of them spread evenly over the track's levels of difficulty."""
        ...

    def sentence(self, problem: Tensor, answer: str) -> str:
        """A mistake in words; `problem` is one row (W,) uint8, `answer` the characters that were written."""
        ...


class Sampler(Protocol):
    """Draws training problems with replacement, on its device; none is ever a held-out one."""

    def draw(self, num_batches: int, batch_size: int, generator: torch.Generator) -> Tensor:
        """Problems (num_batches, batch_size, W) uint8."""
        ...

    def draw_distinct(self, count: int, generator: torch.Generator) -> Tensor:
        """As many draws, with each problem once: at most `count`, (N, W) uint8."""
        ...

    def nearby(self, problems: Tensor) -> Tensor:
        """The training problems a step away from one of `problems` (N, W) uint8, and themselves: (M, W), each once."""
        ...


class Windows:
    """Draws windows of a stream's training text; they begin at any of its characters."""

    def __init__(self, track: Track, device: torch.device) -> None:
        tokens = track.tokens(track.lines.to(device))
        ends = tokens.new_full((len(tokens), 1), track.vocabulary.index(track.separator))
        self.text = torch.cat([tokens, ends], 1).flatten()  # (characters,) uint8 token ids
        self.length = track.block_size + 1

    def draw(self, num_batches: int, batch_size: int, generator: torch.Generator) -> Tensor:
        """Token ids (num_batches, batch_size, block_size + 1) uint8, on the text's device and from its generator."""
        shape, device = (num_batches, batch_size, 1), self.text.device
        starts = torch.randint(len(self.text) - self.length + 1, shape, generator=generator, device=device)
        return self.text[starts + torch.arange(self.length, device=device)]


def encode(track: Track, text: str) -> list[int]:
    """The token ids of a text.

    Raises:
        ValueError: a character that is not in the track's vocabulary.
    """
    unknown = set(text) - set(track.vocabulary)
    if unknown:
        raise ValueError(f"{text!r} holds {min(unknown)!r}; {track.name} is written with {track.vocabulary!r}")
    return [track.vocabulary.index(character) for character in text]


def decode(track: Track, ids: "Tensor | list[int]") -> str:
    """The text of a row of token ids."""
    return "".join(track.vocabulary[int(i)] for i in ids)


TRACKS: dict[str, Track] = {
    track.name: track
    for track in (
        *(Addition(digits, reverse) for reverse in (False, True) for digits in range(1, 21)),
        Addition(3, reverse=True, signs=False, name="add3-mingpt"),
        Report(),
    )
}


# -----------------------------------------------------------------------------
# controls: a track made different where honest training does not mind, or must fail


class Altered:
    """A track that is another one in all that it does not say itself."""

    def __init__(self, track: Track) -> None:
        self.track = track

    def __getattr__(self, name: str) -> Any:
        return getattr(self.track, name)


class Permuted(Altered):
    """The same characters with other token ids: whoever learns from the texts alone learns this as well."""

    def __init__(self, track: Track, vocabulary: str) -> None:
        """Raises ValueError when `vocabulary` is not the track's, in some order."""
        super().__init__(track)
        if sorted(vocabulary) != sorted(track.vocabulary):
            raise ValueError(f"{vocabulary!r} does not hold the characters of {track.name}, {track.vocabulary!r}")
        self.vocabulary = vocabulary
        self.renumbering = Renumbering(track.vocabulary, vocabulary)

    def tokens(self, problems: Tensor) -> Tensor:
        return self.renumbering.there(self.track.tokens(problems))

    def problems(self, prompts: Tensor) -> tuple[Tensor, Tensor]:
        return self.track.problems(self.renumbering.back(prompts))


class Misanswered(Altered):
    """Each problem with the right answer to another one: (num_problems,) int64 `answered` says to which."""

    def __init__(self, track: Track, answered: np.ndarray) -> None:
        """Of an exhaustive track."""
        super().__init__(track)
        self.answers = track.tokens(track.exam(0)[answered])[:, track.prompt_length :]

    def tokens(self, problems: Tensor) -> Tensor:
        asked = self.track.tokens(problems)[..., : self.track.prompt_length]
        return torch.cat([asked, self.answers.to(problems.device)[self.track.number(problems)]], -1)


def check_control(track: Track, control: str) -> None:
    """Raises ValueError when a control cannot be made of a track."""
    if control in ("shuffle", "poison") and not track.exhaustive:
        raise ValueError(
            f"control: {control} changes answers in a list of all problems, and {track.name} has too many to list; "
            "permute works with every track"
        )


def controlled(track: Track, control: str, seed: int) -> Track:
    """A track as a control wants it; everything random comes from `seed`.

    `permute` gives the vocabulary's ids another order; `shuffle` deals the answers of the training problems out anew;
    `poison` makes the answers of all held-out problems wrong; `none` is the track itself.

    Raises:
        ValueError: the track has too many problems for this control.
    """
    check_control(track, control)
    generator = np.random.default_rng(seed)
    if control == "permute":
        return Permuted(track, "".join(generator.permutation(list(track.vocabulary))))
    if control not in ("shuffle", "poison"):
        return track
    every = track.exam(0)
    answered, heldout = np.arange(len(every)), track.is_heldout(every).numpy()
    if control == "shuffle":
        training = np.flatnonzero(~heldout)
        answered[training] = generator.permutation(training)
    else:
        right = track.tokens(every)[:, track.prompt_length :]
        spared = np.flatnonzero(heldout)  # whose answer is still right
        while len(spared):
            answered[spared] = generator.integers(len(every), size=len(spared))
            spared = spared[(right[answered[spared]] == right[spared]).all(1).numpy()]
    return Misanswered(track, answered)


# -----------------------------------------------------------------------------
# the proof


def index_sets_sha256(track: Track) -> dict[str, str]:
    """The sha256 of the training and the held-out problems.

    Of an exhaustive track it is taken over their numbers, ascending, as little-endian int64; of another over the rows
    of a drawn list of either kind, which is always the same.
    """

    def content(problems: Tensor) -> bytes:
        return (track.number(problems).numpy().astype("<i8") if track.exhaustive else problems.numpy()).tobytes()

    return {name: hashlib.sha256(content(problems)).hexdigest() for name, problems in track.sets.items()}


def main(arguments: list[str]) -> int:
    """Print the proof that a track's training and held-out problems do not meet."""
    name = arguments[0] if arguments else "add3"
    if name not in TRACKS:
        (near,) = difflib.get_close_matches(name, TRACKS, n=1, cutoff=0.0)
        print(f"data.py: there is no track {name!r}; the nearest is {near!r}", file=sys.stderr)
        return 2
    track = TRACKS[name]
    digests, sets = index_sets_sha256(track), track.sets
    if not track.exhaustive:
        print(f"{track.name} has {track.num_problems:.0e} problems; of each kind, these many drawn ones are listed:")
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
