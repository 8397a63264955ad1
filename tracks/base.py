"""The interface between a track and the harness: what is asked, and which completions are right.

The other part of a track, `tracks.batches`, makes what is trained on.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from tracks.descriptions import TrackDescription

BOS = "<BOS>"  # the token before the first one of a text, on tracks that have it
MOST_LISTED_TOKENS = 32  # in a message
PADDING = -1  # in the place of a token id, after the end of a text that is shorter than others


class Batch(NamedTuple):
    """Training texts. B texts of T tokens each, or, with one more dimension, those of several steps."""

    tokens: Tensor  # (..., B, T) ids, the input
    targets: Tensor  # (..., B, T) ids, the tokens that follow
    loss_mask: Tensor | None = None  # (..., B, T) bool; None: every position from `Batches.query_start` on
    positions: Tensor | None = None  # (..., B, T) int64, the position of each token, -1 for padding; None: 0, 1, …
    # (..., B, T) int64, the positions of the targets; None: the next ones. Tokens stand in the order in which they are
    # generated, which need not be that of their positions.
    next_positions: Tensor | None = None

    def whole_texts(self) -> Tensor:
        """Return the texts (..., B, T + 1), where the target of each token is the next token."""
        return torch.cat([self.tokens, self.targets[..., -1:]], -1)


def whole_texts(texts: Tensor) -> Batch:
    """Return texts (..., T + 1) of one length as a batch of T positions, all of which have a target."""
    return Batch(texts[..., :-1], texts[..., 1:])


class DecodedProblems(NamedTuple):
    """What the harness decoded, on the CPU."""

    problems: Tensor  # (N, W)
    completions: Tensor  # (N, A) ids, after which PADDING follows
    right: Tensor  # (N,) bool, the grades


class Decoding(NamedTuple):
    """How the harness decodes a completion; temperature 0 is greedy."""

    max_new_tokens: int
    stop_token: int | None = None  # ends a completion, of which it is the last token
    temperature: float = 0.0
    top_k: int = 0  # draw from the k likeliest tokens; 0: from all
    top_p: float = 1.0  # draw from the likeliest tokens that together have this probability


class Track(ABC):
    """What judges a model: vocabulary, prompts, held-out problems, grade, validation.

    A problem is a row of `problem_width` integers; only the track knows what the values mean. The harness decodes
    completions of the prompts, from position 0, and the track grades them.
    """

    problem_width: int  # W, the length of a problem's row
    limits: Mapping[str, float] = {}  # the measures of a solved track are at most these
    may_have_errors = False  # whether the verdict depends on the measures alone
    reads_completions = True  # whether measures or named targets are made of the completions themselves
    grades_decide = True  # whether the verdict, or a measure that it depends on, is made of the grades
    has_one_answer = False  # whether each problem has exactly one right completion
    # Targets of training: name -> share of right completions of the validation set, 0..1.
    validation_targets: Mapping[str, float] = {}
    default_continuation = 0  # tokens with which `bench ask` continues a text; 0: it answers problems
    tokenizer_seconds: float | None = None  # that `prepare` took, if the track has a tokenizer of its own
    stored = ""  # what weights keep of the track, for `data.get_track` where its file is not
    data: bytes = b""  # what the problems' rows do not tell of them, for `data.index_sets_sha256`

    def __init__(self, description: TrackDescription) -> None:
        self.description = description
        self.name, self.vocabulary = description.name, description.vocabulary
        self.prompt_length, self.answer_length = description.prompt_length, description.answer_length
        self.num_problems, self.num_heldout = description.num_problems, description.num_heldout
        self.exhaustive, self.is_stream = description.exhaustive, description.is_stream
        self.block_size = description.block_size  # positions of the model

    @property
    def has_target(self) -> bool:
        return self.description.has_target

    def prepare(self) -> Mapping[str, str]:
        """Make what belongs to the phase `setup`, such as a tokenizer; returns settings of the track found by that.

        Raises ValueError if the problems cannot be asked here.
        """
        return {}

    # -------------------------------------------------------------------------
    # what is asked

    @property
    def decoding(self) -> Decoding:
        return Decoding(max_new_tokens=self.answer_length)

    @abstractmethod
    def prompts(self, problems: Tensor) -> Tensor:
        """Map problems (..., W) to the ids of their prompts (..., P); shorter ones end in PADDING."""

    def encode_prompts(self, texts: Sequence[str]) -> Tensor:
        """Map texts to the ids of prompts (n, P) int64; a text that is no problem of the track becomes PADDING."""
        rows = [torch.tensor(self.encode_prompt(text), dtype=torch.int64) for text in texts]
        width = max([self.prompt_length, *map(len, rows)])
        padded = [torch.nn.functional.pad(row, (0, width - len(row)), value=PADDING) for row in rows]
        return torch.stack(padded) if padded else torch.empty(0, width, dtype=torch.int64)

    def encode_prompt(self, text: str) -> list[int]:
        """Return the ids of one prompt; empty if the text is no problem of the track."""
        raise NotImplementedError

    def decode_completion(self, ids: Sequence[int]) -> str:
        """Return the text of a completion, without its stop token."""
        stop = self.decoding.stop_token
        return "".join(self.vocabulary[i] for i in ids if i not in (PADDING, stop))

    # -------------------------------------------------------------------------
    # any text, whether or not it is a problem of the track

    @property
    def has_newlines(self) -> bool:
        """Whether a text of the track can hold a newline."""
        return any("\n" in token for token in self.vocabulary)

    @cached_property
    def token_pattern(self) -> "re.Pattern[str]":
        """Matches the longest token at a place of a text."""
        return re.compile("|".join(re.escape(token) for token in sorted(self.vocabulary, key=len, reverse=True)))

    def encode_text(self, text: str) -> list[int]:
        """Return the ids of any text, after BOS where texts begin with it.

        Raises ValueError, which names the first character that no token holds.
        """
        ids, place = [], 0
        while place < len(text):
            match = self.token_pattern.match(text, place)
            if match is None:
                raise ValueError(f"{text[place]!r} is not in its vocabulary{self.vocabulary_hint}")
            ids.append(self.vocabulary.index(match[0]))
            place = match.end()
        bos = [self.vocabulary.index(BOS)] if BOS in self.vocabulary else []
        return ids if ids[:1] == bos else bos + ids

    @property
    def vocabulary_hint(self) -> str:
        """The end of a message about an unknown character: the tokens, unless they are many."""
        tokens = "".join(self.vocabulary) if max(map(len, self.vocabulary)) == 1 else " ".join(self.vocabulary)
        return f"; use only {tokens!r}" if len(self.vocabulary) <= MOST_LISTED_TOKENS else "; leave it out"

    def encode_blanks(self, text: str) -> list[int]:
        """Return the ids of a whole training text in which `?` is a blank, PADDING; of tracks with orders.

        Raises ValueError for a text that is too long or has an unknown character.
        """
        raise ValueError("it is generated from left to right")

    def decode_text(self, ids: Sequence[int]) -> str:
        """Return the text of ids, with special tokens such as EOS."""
        return "".join(self.vocabulary[i] for i in ids)

    def token_repr(self, token: int) -> str:
        """Return a token as a Python literal, in which white space can be read."""
        return repr(self.vocabulary[token])

    # -------------------------------------------------------------------------
    # which problems

    @abstractmethod
    def test_set(self, seed: int) -> Tensor:
        """Return the problems of the certificate, (N, W) on the CPU.

        All of them in ascending order if `exhaustive`, else held-out problems drawn from `seed`.
        """

    @abstractmethod
    def is_heldout(self, problems: Tensor) -> Tensor:
        """Return which problems (N, W) must never be in a training batch, (N,) bool on the same device."""

    def heldout_test_set(self, seed: int) -> Tensor:
        """Return the held-out problems of the test set, (n, W); the whole test set if the track holds nothing out."""
        problems = self.test_set(seed)
        heldout = problems[self.is_heldout(problems)]
        return heldout if len(heldout) else problems

    @property
    def samples(self) -> dict[str, Tensor]:
        """Problems that are counted in addition to the test set, name to (n, W)."""
        return {}

    @property
    def sets(self) -> dict[str, Tensor]:
        """The index sets, `train`, `heldout` and others, name to (n, W): complete, or fixed samples of them."""
        return {}

    @property
    def validation(self) -> Tensor | None:
        """Problems that never train and that may decide when to stop, (n, W); None without such a set."""
        return None

    def overlap(self, one: str, other: str) -> int:
        """Return the number of problems that two of the `sets` share, as `python data.py` prints it."""
        rows, others = (set(map(bytes, self.sets[name].numpy())) for name in (one, other))
        return len(rows & others)

    def groups(self, problems: Tensor) -> dict[str, Tensor]:
        """Map the name of each group that the certificate counts to its members among problems (N, W), (N,) bool."""
        return {}

    # -------------------------------------------------------------------------
    # grade and verdict

    @abstractmethod
    def grade(self, problems: Tensor, completions: Tensor) -> Tensor:
        """Return which completions (N, A) of problems (N, W) are right, (N,) bool; shorter ones end in PADDING."""

    @abstractmethod
    def sentence(self, problem: Tensor, answer: str) -> str:
        """Describe an error; `problem` is one row (W,), `answer` the text that the model produced."""

    def measures(self, results: DecodedProblems, loss: Callable[[Batch], float | None]) -> dict[str, float | None]:
        """Return figures that are shown with the verdict, which depends on those in `limits`; None: not finite.

        `results` are those of the test set. `loss` returns the mean loss of the targets of a batch, nats, or None.
        """
        return {}

    def named_targets(self, results: DecodedProblems) -> dict[str, bool]:
        """Return whether each of the track's weaker targets is met by the results of the test set."""
        return {}


class AnswerTrack(Track):
    """A track with exactly one right answer to each problem."""

    has_one_answer = True
    reads_completions = False

    @property
    def rows(self) -> Tensor:
        """All problems in ascending order, (num_problems, W); of an exhaustive track."""
        raise NotImplementedError

    def number(self, problems: Tensor) -> Tensor:
        """Return the positions of problems (..., W) in `rows`, (...,) int64."""
        raise NotImplementedError

    @abstractmethod
    def answers(self, problems: Tensor) -> Tensor:
        """Map problems (..., W) to the ids of their right answers (..., A); shorter ones end in PADDING."""

    def grade(self, problems: Tensor, completions: Tensor) -> Tensor:
        return (completions == self.answers(problems)).all(-1)


def chunk_rows(device: torch.device) -> int:
    """Return how many problems to process at once: on a CPU as many as fit into its caches."""
    return 2**15 if device.type == "cpu" else 2**20
