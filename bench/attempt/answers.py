"""Answers of saved weights to problems that a user typed."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from bench.attempt.certify import batch_size_for
from bench.attempt.decoding import complete_all
from bench.storage import weights
from data import PADDING

MOST_MESSAGES = 20  # about texts that are no problems


class Answers:
    """The answers of a weights file to some texts; raises OSError or ValueError if it cannot be loaded."""

    def __init__(self, path: Path, texts: Sequence[str], device: torch.device) -> None:
        self.model, self.track = weights.load(path, device)
        self.texts, self.device = texts, device
        self.prompts = self.track.encode_prompts(texts)  # (n, P) int64
        self.is_problem = (self.prompts != PADDING).any(1)
        self.decoding, self.generator = self.track.decoding, torch.Generator(device)

    def sample(self, temperature: float, top_k: int, top_p: float, seed: int) -> None:
        """Sample the tokens of the answers; see `data.Decoding`."""
        self.decoding = self.decoding._replace(temperature=temperature, top_k=top_k, top_p=top_p)
        self.generator.manual_seed(seed)

    def __iter__(self) -> Iterator[str]:
        """The completion of each text; empty for a text that is no problem of the track."""
        next_logits = self.model.answerer()
        block_size = batch_size_for(self.track, self.device)
        for block, problems in zip(self.prompts.split(block_size), self.is_problem.split(block_size), strict=True):
            prompts = block[problems].to(self.device)
            completions = complete_all(next_logits, prompts, self.decoding, block_size, self.generator)
            answers = iter(completions.tolist())
            for is_problem in problems.tolist():
                yield self.track.decode_completion(next(answers)) if is_problem else ""

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
        text, description = self.texts[index], self.track.description
        prompt = text[: text.rfind("=") + 1] or text[: description.prompt_length]
        if prompt != text and (self.track.encode_prompts([prompt]) != PADDING).any():
            return f"write it without the answer: {prompt!r}"
        return f"write it like {description.example_prompt!r}" + (f": {description.form}" if description.form else "")
