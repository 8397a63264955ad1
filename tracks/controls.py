"""Controls: altered tracks that an honest trainer must learn just as well, or must fail to learn."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tracks.base import Track
from tracks.descriptions import TrackDescription
from tracks.tokenizer import TokenMap


class Altered:
    """Base of the controls: takes from another track every attribute that it does not define itself."""

    def __init__(self, track: Track) -> None:
        self.track = track

    def __getattr__(self, name: str) -> Any:
        return getattr(self.track, name)


class Permuted(Altered):
    """The same texts with permuted token ids. A trainer that learns from the texts alone is not affected."""

    def __init__(self, track: Track, vocabulary: str) -> None:
        """Raises ValueError when `vocabulary` is not a permutation of the track's."""
        super().__init__(track)
        if sorted(vocabulary) != sorted(track.vocabulary):
            raise ValueError(f"{vocabulary!r} does not hold the characters of {track.name}, {track.vocabulary!r}")
        self.vocabulary = vocabulary
        self.token_map = TokenMap(track.vocabulary, vocabulary)

    def tokens(self, problems: Tensor) -> Tensor:
        return self.token_map.to_target(self.track.tokens(problems))

    def problems(self, prompts: Tensor) -> tuple[Tensor, Tensor]:
        return self.track.problems(self.token_map.to_source(prompts))


class Misanswered(Altered):
    """An exhaustive track in which problem i has the right answer of problem `answered[i]`."""

    def __init__(self, track: Track, answered: np.ndarray) -> None:
        """`answered` (num_problems,) int64 are positions in the test set."""
        super().__init__(track)
        self.answers = track.tokens(track.test_set(0)[answered])[:, track.prompt_length :]

    def tokens(self, problems: Tensor) -> Tensor:
        prompts = self.track.tokens(problems)[..., : self.track.prompt_length]
        return torch.cat([prompts, self.answers.to(problems.device)[self.track.number(problems)]], -1)


def check_control(track: Track | TrackDescription, control: str) -> None:
    """Raise ValueError when a control cannot be applied to a track."""
    if control in ("shuffle", "poison") and not track.exhaustive:
        raise ValueError(
            f"control: {control} changes answers in a list of all problems, and {track.name} has too many to list; "
            "permute works with every track"
        )


def controlled(track: Track, control: str, seed: int) -> Track:
    """Apply a control to a track; raises ValueError as `check_control`.

    `permute` permutes the token ids; `shuffle` permutes the answers of the training problems; `poison` gives every
    held-out problem a wrong answer; `none` returns the track itself.
    """
    check_control(track, control)
    generator = np.random.default_rng(seed)
    if control == "permute":
        return Permuted(track, "".join(generator.permutation(list(track.vocabulary))))
    if control not in ("shuffle", "poison"):
        return track
    problems = track.test_set(0)
    answered, heldout = np.arange(len(problems)), track.is_heldout(problems).numpy()
    if control == "shuffle":
        training = np.flatnonzero(~heldout)
        answered[training] = generator.permutation(training)
    else:
        answers = track.tokens(problems)[:, track.prompt_length :]
        still_right = np.flatnonzero(heldout)
        while len(still_right):
            answered[still_right] = generator.integers(len(problems), size=len(still_right))
            is_right = (answers[answered[still_right]] == answers[still_right]).all(1).numpy()
            still_right = still_right[is_right]
    return Misanswered(track, answered)
