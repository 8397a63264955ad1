"""What saved weights answer to texts that a user typed."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch

from bench.attempt.completions import batch_size_for
from bench.attempt.continuation import continuation, likeliest_tokens
from bench.judge.decoding import complete_all
from data import PADDING, Track
from model import Transformer

MOST_MESSAGES = 20  # about texts that are refused
MOST_SHOWN = 60  # characters of a text in a message
NUM_LIKELIEST = 5  # tokens
NEWLINE = re.compile(r"(\\?)\\n")


def with_newlines(text: str, track: Track) -> str:
    r"""Replace `\n` by a newline, and `\\n` by `\n`, on tracks whose texts have newlines."""
    return NEWLINE.sub(lambda match: r"\n" if match[1] else "\n", text) if track.has_newlines else text


class Replies(ABC):
    """The replies of a model to some texts, a string each, which is empty for a text that is refused."""

    refused = "no problems of"  # what texts are that are refused, before the track's name

    def __init__(self, model: Transformer, track: Track, texts: Sequence[str], device: torch.device) -> None:
        self.model, self.track, self.device = model, track, device
        self.texts = [with_newlines(text, track) for text in texts]
        self.decoding, self.generator = track.decoding, torch.Generator(device)

    def sample(self, temperature: float, top_k: int, top_p: float, seed: int) -> None:
        """Sample the tokens of the replies; see `data.Decoding`."""
        self.decoding = self.decoding._replace(temperature=temperature, top_k=top_k, top_p=top_p)
        self.generator.manual_seed(seed)

    @property
    @abstractmethod
    def is_accepted(self) -> list[bool]:
        """Whether the model can reply, for each text."""

    @abstractmethod
    def fault(self, text: str) -> str:
        """Why a text is refused, and what to write instead."""

    @abstractmethod
    def __iter__(self) -> Iterator[str]: ...

    def faults(self, source: str | None) -> Iterator[str]:
        """A message about each text that is refused, up to MOST_MESSAGES; `source` is their file."""
        wrong = [index for index, is_accepted in enumerate(self.is_accepted) if not is_accepted]
        for index in wrong[:MOST_MESSAGES]:
            location = "bench" if source is None else f"{source}:{index + 1}"
            text = self.texts[index]
            shown = repr(text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…")
            yield f"{location}: {shown} {self.fault(text)}"
        if len(wrong) > MOST_MESSAGES:
            yield f"bench: {len(wrong) - MOST_MESSAGES:,} more lines are {self.refused} {self.track.name}"


class Answers(Replies):
    """The completions of problems of the track."""

    def __init__(self, model: Transformer, track: Track, texts: Sequence[str], device: torch.device) -> None:
        super().__init__(model, track, texts, device)
        self.prompts = track.encode_prompts(self.texts)  # (n, P) int64
        self.is_problem = (self.prompts != PADDING).any(1)

    @property
    def is_accepted(self) -> list[bool]:
        accepted: list[bool] = self.is_problem.tolist()
        return accepted

    def __iter__(self) -> Iterator[str]:
        next_logits = self.model.answerer()
        block_size = batch_size_for(self.track, self.device, self.model)
        for block, problems in zip(self.prompts.split(block_size), self.is_problem.split(block_size), strict=True):
            prompts = block[problems].to(self.device)
            completions = complete_all(next_logits, prompts, self.decoding, block_size, self.generator)
            answers = iter(completions.tolist())
            for is_problem in problems.tolist():
                yield self.track.decode_completion(next(answers)) if is_problem else ""

    def fault(self, text: str) -> str:
        description = self.track.description
        prompt = text[: text.rfind("=") + 1] or text[: description.prompt_length]
        if prompt != text and (self.track.encode_prompts([prompt]) != PADDING).any():
            advice = f"write it without the answer: {prompt!r}"
        else:
            form = f": {description.form}" if description.form else ""
            advice = f"{self.reason(text)}write it like {description.example_prompt!r}{form}"
        return f"is not a problem of {self.track.name}; {advice}"

    def reason(self, text: str) -> str:
        """The unknown character or the length that makes a text no problem; empty if it is another reason."""
        try:
            length = len(self.track.encode_text(text))
        except ValueError as problem:
            return f"{problem}; "
        most = self.track.prompt_length
        return f"it has {length:,} tokens and a prompt has at most {most:,}; " if length > most else ""


class TextReplies(Replies):
    """Replies to texts that need not be problems: any text that the vocabulary can write."""

    refused = "unreadable by"
    most_tokens: int | None = None  # of a text

    def __init__(self, model: Transformer, track: Track, texts: Sequence[str], device: torch.device) -> None:
        super().__init__(model, track, texts, device)
        self.prompts = list(map(self.encode, self.texts))

    def encode(self, text: str) -> list[int] | str:
        """The ids of a text, or why it is refused."""
        try:
            ids = self.track.encode_text(text)
        except ValueError as problem:
            return f"cannot be read by {self.track.name}: {problem}"
        if not ids:
            return "is empty: write at least one character"
        if self.most_tokens is not None and len(ids) > self.most_tokens:
            return f"has {len(ids):,} tokens, more than the context of {self.most_tokens:,}: shorten it"
        return ids

    @property
    def is_accepted(self) -> list[bool]:
        return [not isinstance(prompt, str) for prompt in self.prompts]

    def fault(self, text: str) -> str:
        problem = self.encode(text)
        assert isinstance(problem, str)
        return problem

    @abstractmethod
    def reply(self, ids: list[int]) -> str:
        """The reply to one text."""

    def __iter__(self) -> Iterator[str]:
        for prompt in self.prompts:
            yield "" if isinstance(prompt, str) else self.reply(prompt)


class Continuations(TextReplies):
    """The next `count` tokens of texts, without an end."""

    def __init__(
        self, model: Transformer, track: Track, texts: Sequence[str], device: torch.device, count: int
    ) -> None:
        super().__init__(model, track, texts, device)
        self.count = count

    def reply(self, ids: list[int]) -> str:
        return self.track.decode_text(list(continuation(self.model, ids, self.count, self.decoding, self.generator)))


class Likeliest(TextReplies):
    """The likeliest next tokens of texts, each with its probability."""

    def __init__(self, model: Transformer, track: Track, texts: Sequence[str], device: torch.device) -> None:
        self.most_tokens = model.config.block_size
        super().__init__(model, track, texts, device)

    def reply(self, ids: list[int]) -> str:
        likeliest = likeliest_tokens(self.model, ids, NUM_LIKELIEST)
        return "  ".join(f"{self.track.token_repr(token)} {share:.2%}" for token, share in likeliest)
