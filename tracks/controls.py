"""Controls: altered tracks that an honest trainer must learn just as well, or must fail to learn."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tracks.base import Batch, DecodedProblems, Decoding, Track
from tracks.description import TrackDescription
from tracks.tokenizer import TokenMap


class Altered:
    """Base of the controls: takes from another track every attribute that it does not define itself."""

    def __init__(self, track: Any) -> None:
        self.track = track

    def __getattr__(self, name: str) -> Any:
        return getattr(self.track, name)


class Permuted(Altered):
    """The same texts with permuted token ids. A trainer that learns from the texts alone is not affected."""

    def __init__(self, track: Any, vocabulary: Sequence[str]) -> None:
        """Raises ValueError when `vocabulary` is not a permutation of the track's."""
        super().__init__(track)
        if sorted(vocabulary) != sorted(track.vocabulary):
            raise ValueError(f"{vocabulary!r} does not hold the tokens of {track.name}, {track.vocabulary!r}")
        self.vocabulary = vocabulary
        self.token_map = self.answer_map = TokenMap(track.vocabulary, vocabulary)

    @property
    def decoding(self) -> Decoding:
        stop = self.track.decoding.stop_token
        is_permuted = stop is not None
        return self.track.decoding._replace(stop_token=int(self.token_map.target_ids[stop]) if is_permuted else None)

    def prompts(self, problems: Tensor) -> Tensor:
        return self.token_map.to_target(self.track.prompts(problems))

    def answers(self, problems: Tensor) -> Tensor:
        return self.token_map.to_target(self.track.answers(problems))

    def tokens(self, problems: Tensor) -> Tensor:
        return self.token_map.to_target(self.track.tokens(problems))

    def problems(self, prompts: Tensor) -> tuple[Tensor, Tensor]:
        return self.track.problems(self.token_map.to_source(prompts))

    def encode_prompts(self, texts: Sequence[str]) -> Tensor:
        return self.token_map.to_target(self.track.encode_prompts(texts))

    def decode_completion(self, ids: Sequence[int]) -> str:
        return self.track.decode_completion(self.answer_map.to_source(torch.tensor(ids)).tolist())

    def encode_text(self, text: str) -> list[int]:
        return self.token_map.to_target(torch.tensor(self.track.encode_text(text), dtype=torch.int64)).tolist()

    def encode_blanks(self, text: str) -> list[int]:
        return self.token_map.to_target(torch.tensor(self.track.encode_blanks(text), dtype=torch.int64)).tolist()

    def decode_text(self, ids: Sequence[int]) -> str:
        return self.track.decode_text(self.token_map.to_source(torch.tensor(ids, dtype=torch.int64)).tolist())

    def token_repr(self, token: int) -> str:
        return self.track.token_repr(int(self.token_map.source_ids[token]))

    def grade(self, problems: Tensor, completions: Tensor) -> Tensor:
        return self.track.grade(problems, self.token_map.to_source(completions))

    def measures(self, results: DecodedProblems, loss: Callable[[Batch], float | None]) -> dict[str, float | None]:
        def permuted_loss(batch: Batch) -> float | None:
            tokens, targets = (self.token_map.to_target(ids) for ids in (batch.tokens, batch.targets))
            return loss(batch._replace(tokens=tokens, targets=targets))

        return self.track.measures(self.in_source_ids(results), permuted_loss)

    def named_targets(self, results: DecodedProblems) -> dict[str, bool]:
        return self.track.named_targets(self.in_source_ids(results))

    def in_source_ids(self, results: DecodedProblems) -> DecodedProblems:
        if not self.track.reads_completions:  # a million of them take a while
            return results
        return results._replace(completions=self.answer_map.to_source(results.completions))


class Relabelled(Permuted):
    """Permuted ids, with others for the tokens of answers: a model that has stored right answers gives wrong ones."""

    def __init__(self, track: Any, vocabulary: Sequence[str], answer_vocabulary: Sequence[str]) -> None:
        """Raises ValueError where a vocabulary is not a permutation of the track's, or answers cannot be relabelled."""
        super().__init__(track, vocabulary)
        if not can_relabel(track):
            raise ValueError(f"the answers of {track.name} cannot be relabelled")
        self.answer_map = TokenMap(track.vocabulary, answer_vocabulary)

    def answers(self, problems: Tensor) -> Tensor:
        return self.answer_map.to_target(self.track.answers(problems))

    def tokens(self, problems: Tensor) -> Tensor:
        return torch.cat([self.prompts(problems), self.answers(problems)], -1)

    def grade(self, problems: Tensor, completions: Tensor) -> Tensor:
        return (completions == self.answers(problems)).all(-1)


def can_relabel(track: Any) -> bool:
    """Whether the answers of a track can have other ids than prompts: each problem is a text of its own."""
    description: TrackDescription = track.description
    is_text = description.is_stream or not description.is_one_length
    return bool(track.has_one_answer and not is_text and description.num_problems > 1)


def relabelled(track: Any, vocabulary: Sequence[str], generator: np.random.Generator) -> Sequence[str]:
    """Return a vocabulary in which each token of an answer has the id of another such token."""
    found = track.answers(track.test_set(0)[:4096]).unique().tolist()
    tokens = [track.vocabulary[i] for i in found]
    places = [list(vocabulary).index(token) for token in tokens]
    order = generator.permutation(len(places))  # a cycle, so that no token keeps its id
    moved = list(vocabulary)
    for k in range(len(order)):
        moved[places[order[k]]] = tokens[order[k - 1]]
    return "".join(moved) if isinstance(vocabulary, str) else tuple(moved)


class Misanswered(Altered):
    """A track with a list of all problems, in which problem i has the right answer of problem `answered[i]`."""

    def __init__(self, track: Any, answered: np.ndarray) -> None:
        """`answered` (num_problems,) int64 are positions in the list."""
        super().__init__(track)
        self.all_answers = track.answers(track.rows[answered])

    def answers(self, problems: Tensor) -> Tensor:
        return self.all_answers.to(problems.device)[self.track.number(problems)]

    def grade(self, problems: Tensor, completions: Tensor) -> Tensor:
        return (completions == self.answers(problems)).all(-1)

    def tokens(self, problems: Tensor) -> Tensor:
        return torch.cat([self.track.prompts(problems), self.answers(problems)], -1)


class ControlNotApplicable(ValueError):
    """A control that has no meaning on a track, whose answers it cannot exchange."""


def check_control(track: Track | TrackDescription, control: str) -> None:
    """Raise ValueError when a control cannot be applied to a track: ControlNotApplicable where it has no meaning."""
    if control not in ("shuffle", "poison"):
        return
    description = track if isinstance(track, TrackDescription) else track.description
    if not description.has_one_answer:
        raise ControlNotApplicable(
            f"control: {control} exchanges right answers, and {track.name} has many to each problem"
        )
    if description.is_stream and not track.exhaustive:
        raise ControlNotApplicable(f"control: {control} exchanges answers, and {track.name} is a text")
    if not track.exhaustive:
        raise ValueError(
            f"control: {control} changes answers in a list of all problems, and {track.name} has too many to list"
        )
    if track.num_problems == 1 or (control == "poison" and not track.num_heldout):
        what = "answers" if track.num_problems == 1 else "held-out answers"
        raise ControlNotApplicable(f"control: {control} exchanges {what}, and {track.name} has none to exchange")


def permute(track: Any, seed: int) -> Any:
    """Permute the ids of a track at random."""
    order = np.random.default_rng(seed).permutation(len(track.vocabulary))
    tokens = tuple(track.vocabulary[i] for i in order)
    return Permuted(track, "".join(tokens) if isinstance(track.vocabulary, str) else tokens)


def controlled(track: Any, control: str, seed: int) -> Any:
    """Apply a control to a track; raises ValueError as `check_control`.

    `shuffle` permutes the answers of the training problems; `poison` gives every
    held-out problem a wrong answer; `none` returns the track itself.
    """
    check_control(track, control)
    generator = np.random.default_rng(seed)
    if control not in ("shuffle", "poison"):
        return track
    problems = track.rows
    answered, heldout = np.arange(len(problems)), track.is_heldout(problems).numpy()
    if control == "shuffle":
        training = track.number(track.sets["train"]).numpy()
        answered[training] = generator.permutation(training)
    else:
        answers = track.answers(problems)
        still_right = np.flatnonzero(heldout)
        while len(still_right):
            answered[still_right] = generator.integers(len(problems), size=len(still_right))
            is_right = (answers[answered[still_right]] == answers[still_right]).all(1).numpy()
            still_right = still_right[is_right]
    return Misanswered(track, answered)
