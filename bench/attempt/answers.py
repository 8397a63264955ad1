"""Answers of saved weights to problems that a user typed."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from bench.attempt.certify import batch_size_for, greedy_answers
from bench.storage import weights
from data import TRACKS, Track, decode

MOST_MESSAGES = 20  # about texts that are no problems


class Answers:
    """The answers of a weights file to some texts; raises OSError or ValueError if it cannot be loaded."""

    def __init__(self, path: Path, texts: Sequence[str], device: torch.device) -> None:
        self.model, self.track = weights.load(path, device)
        self.texts, self.device = texts, device
        self.prompts, self.is_problem = read_prompts(texts, self.track)

    def __iter__(self) -> Iterator[str]:
        """The answer to each text; empty for a text that is no problem of the track."""
        next_logits = self.model.answerer()
        block_size = batch_size_for(self.track, self.device)
        for block, problems in zip(self.prompts.split(block_size), self.is_problem.split(block_size), strict=True):
            answers = greedy_answers(next_logits, block.long().to(self.device), self.track.answer_length).cpu()
            for answer, is_problem in zip(answers.tolist(), problems.tolist(), strict=True):
                yield decode(self.track, answer) if is_problem else ""

    def faults(self, source: str | None) -> Iterator[str]:
        """A message about each text that is no problem of the track, up to MOST_MESSAGES; `source` is their file."""
        wrong = (~self.is_problem).nonzero().flatten().tolist()
        for index in wrong[:MOST_MESSAGES]:
            location = "bench" if source is None else f"{source}:{index + 1}"
            yield f"{location}: {self.texts[index]!r} is not a problem of {self.track.name}; {self.advice(index)}"
        if len(wrong) > MOST_MESSAGES:
            yield f"bench: {len(wrong) - MOST_MESSAGES:,} more lines are no problems of {self.track.name}"

    def advice(self, index: int) -> str:
        """How to write a text as a problem."""
        problem = self.texts[index][: self.track.prompt_length]
        if problem != self.texts[index] and read_prompts([problem], self.track)[1].all():
            return f"write it without the answer: {problem!r}"
        form = TRACKS[self.track.name].form
        return f"write it like {example_prompt(self.track)!r}" + (f": {form}" if form else "")


def read_prompts(texts: Sequence[str], track: Track) -> tuple[Tensor, Tensor]:
    """Encode texts as token ids (n, prompt_length) uint8; and whether each is a problem of the track (n,) bool.

    In the place of a text that is no problem stands a problem.
    """
    no_character, length = len(track.vocabulary), track.prompt_length
    ids_of_bytes = torch.full((256,), no_character, dtype=torch.uint8)
    for token, character in enumerate(track.vocabulary):
        ids_of_bytes[ord(character)] = token
    example = example_prompt(track)
    has_length = torch.tensor([len(text) == length for text in texts])
    fitting = "".join(text if len(text) == length else example for text in texts)
    characters = torch.frombuffer(bytearray(fitting, "ascii", "replace"), dtype=torch.uint8)
    ids = ids_of_bytes[characters.long()].view(-1, length)
    is_problem = track.problems(ids)[1] & has_length
    ids[~is_problem] = ids_of_bytes[torch.tensor(list(example.encode()))]
    return ids, is_problem


def example_prompt(track: Track) -> str:
    return decode(track, track.tokens(track.example)[: track.prompt_length])
