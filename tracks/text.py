"""The text of a file: the model learns its first nine tenths, and is measured in bits per byte on the last tenth."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from tracks.base import PADDING, AnswerTrack, Batch, DecodedProblems
from tracks.describe_text import TEST_PLACES
from tracks.description import TrackDescription
from tracks.text_file import characters_of, load_text
from tracks.text_tokenizers import ByteTokenizer, CharacterTokenizer, TextTokenizer, restored, train_byte_pairs

SAMPLE_PLACES = 1_000  # of each part, whose hash is journalled
TRAINING, HELDOUT = 0, 1  # parts of the text
SENTENCE_TOKENS = 16  # before an error, in the sentence about it


class Text(AnswerTrack):
    """The text of a file in tokens; the last tenth of its bytes is held out.

    A problem is a place: the row (part, start). Its prompt is the `context` tokens from there on, its answer the token
    that follows. The held-out part is preceded by `context` tokens of the training part, so that its first token has a
    prompt. Errors decide nothing; with the setting `bits_per_byte`, the track is solved at so many bits per byte.
    """

    problem_width = 2
    may_have_errors = True
    grades_decide = False
    default_continuation = 100
    has_newlines = True

    def __init__(
        self,
        description: TrackDescription,
        digest: str,
        tokens: str,
        merges: str,
        bits_per_byte: float,
        stored: str = "",
    ) -> None:
        """`digest` is the hash of the file. With `stored`, the tokenizer is the one that was stored with weights."""
        super().__init__(description)
        self.digest, self.tokens, self.merges = digest, tokens, merges
        self.limits = {"bits_per_byte": bits_per_byte} if bits_per_byte else {}
        self.data = digest.encode()
        if stored or tokens == "bytes":
            self.use(restored(tokens, stored))

    # -------------------------------------------------------------------------
    # the tokenizer

    def prepare(self) -> Mapping[str, str]:
        """Make the tokenizer, on the training part; raises ValueError if there is no text, or it is too short."""
        if self.tokenizer_seconds is None:
            load_text(self.digest)
            start = time.perf_counter()
            self.use(self.make_tokenizer())
            self.tokenizer_seconds = time.perf_counter() - start
            self.check_length()
        return {"merges": self.merges} if self.merges else {}

    def make_tokenizer(self) -> TextTokenizer:
        if self.tokens == "bytes":
            return ByteTokenizer()
        if self.tokens == "characters":
            return CharacterTokenizer(characters_of(self.digest))
        tokenizer = train_byte_pairs(self.parts[TRAINING], len(self.vocabulary))
        if self.merges not in ("", tokenizer.merges_sha256):
            raise ValueError(
                "track_settings.merges: this version of the library tokenizers finds other merges in the text, "
                f"{tokenizer.merges_sha256[:12]}…, than {self.merges[:12]}…; leave the setting out"
            )
        return tokenizer

    def use(self, tokenizer: TextTokenizer) -> None:
        """Write texts with this tokenizer; its merges become part of the track's name."""
        self.tokenizer, self.stored, self.vocabulary = tokenizer, tokenizer.stored, tokenizer.vocabulary
        name = self.name
        if tokenizer.merges_sha256 != self.merges:
            self.merges = tokenizer.merges_sha256
            kind = f"-bpe-{len(self.vocabulary)}"
            name = name.replace(kind, f"{kind}-{self.merges[:8]}")
        self.name = name
        self.description = replace(self.description, name=name, vocabulary=self.vocabulary)

    def check_length(self) -> None:
        """Raise ValueError if the training part has no window of the context, or the held-out part is empty."""
        training, heldout = self.parts
        start = training[: 64 * self.prompt_length]
        count = len(self.tokenizer.encode(start))
        if count <= self.prompt_length and len(start) < len(training):
            count = len(self.training_tokens)
        if count <= self.prompt_length or not heldout:
            most = count - 1
            fix = f"set track_settings.context to at most {most}, or take a longer text" if most > 1 and heldout else ""
            raise ValueError(
                f"track_settings.file: the text is too short: its first nine tenths have {count:,} tokens and its last "
                f"tenth {len(heldout.encode()):,} bytes; {fix or 'take a longer text'}"
            )

    # -------------------------------------------------------------------------
    # the text

    @cached_property
    def parts(self) -> tuple[str, str]:
        """The training part and the held-out part, which begins at the first character of the last tenth."""
        content = load_text(self.digest)
        cut = len(content) * 9 // 10
        while cut < len(content) and content[cut] & 0xC0 == 0x80:  # inside a character
            cut += 1
        return content[:cut].decode(), content[cut:].decode()

    @cached_property
    def training_tokens(self) -> Tensor:
        """The tokens of the training part, (n,) uint8 or int32."""
        return self.encoded(self.parts[TRAINING])

    @cached_property
    def heldout_tokens(self) -> Tensor:
        """The last `context` tokens of the training part, then the tokens of the held-out part."""
        training, heldout = self.parts
        context = self.encoded(training[-64 * self.prompt_length :])
        if len(context) < self.prompt_length:  # long tokens
            context = self.training_tokens
        return torch.cat([context[-self.prompt_length :], self.encoded(heldout)])

    def encoded(self, text: str) -> Tensor:
        return torch.from_numpy(self.tokenizer.encode(text).copy())

    # -------------------------------------------------------------------------
    # what is asked

    def windows(self, problems: Tensor, first: int, length: int) -> Tensor:
        """Return `length` tokens from `first` tokens behind the start of each problem (..., 2), (..., length)."""
        part, start = problems.unbind(-1)
        index = start[..., None] + torch.arange(first, first + length, device=problems.device)
        parts = part.unique().tolist()
        texts = [self.heldout_tokens if part == HELDOUT else self.training_tokens for part in parts]
        if len(texts) == 1:
            return texts[0].to(problems.device)[index]
        ids = torch.zeros_like(index, dtype=torch.uint8 if len(self.vocabulary) <= 256 else torch.int32)
        for number, text in zip(parts, texts, strict=True):
            ids[part == number] = text.to(problems.device)[index[part == number]]
        return ids

    def prompts(self, problems: Tensor) -> Tensor:
        return self.windows(problems, 0, self.prompt_length)

    def answers(self, problems: Tensor) -> Tensor:
        return self.windows(problems, self.prompt_length, 1)

    def encode_text(self, text: str) -> list[int]:
        try:
            ids: list[int] = self.tokenizer.encode(text).tolist()
        except UnicodeEncodeError:
            raise ValueError("it is not UTF-8; write it in UTF-8") from None
        return ids

    def encode_prompt(self, text: str) -> list[int]:
        try:
            ids = self.encode_text(text)
        except ValueError:
            return []
        return ids if len(ids) <= self.prompt_length else []

    def decode_text(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids).decode(errors="replace")

    def decode_completion(self, ids: Sequence[int]) -> str:
        return self.decode_text([i for i in ids if i != PADDING])

    def token_repr(self, token: int) -> str:
        content = self.tokenizer.decode([token])
        try:
            return repr(content.decode())
        except UnicodeDecodeError:
            return repr(content)

    def sentence(self, problem: Tensor, answer: str) -> str:
        before = self.decode_text(self.prompts(problem)[-SENTENCE_TOKENS:].tolist())
        expected = self.decode_text(self.answers(problem).tolist())
        return f"after {before!r}: got {answer!r}, expected {expected!r}"

    # -------------------------------------------------------------------------
    # which problems

    def places(self, part: int, starts: Tensor) -> Tensor:
        """Return the problems of a part at these starts, (n, 2) int64."""
        return torch.stack([torch.full_like(starts, part), starts], -1)

    def num_places(self, part: int) -> int:
        """The number of problems of a part."""
        return len(self.heldout_tokens if part == HELDOUT else self.training_tokens) - self.prompt_length

    @property
    def sets(self) -> dict[str, Tensor]:
        """Fixed samples of the places of both parts; none if the text cannot be read any more."""

        def sample(part: int) -> Tensor:
            count = self.num_places(part)
            return self.places(part, torch.linspace(0, count - 1, min(count, SAMPLE_PLACES)).long())

        try:
            return {"train": sample(TRAINING), "heldout": sample(HELDOUT)}
        except ValueError:
            return {}

    def test_set(self, seed: int) -> Tensor:
        """Return places of the held-out part that are drawn without replacement, in ascending order."""
        generator = torch.Generator().manual_seed(seed)
        starts = torch.randperm(self.num_places(HELDOUT), generator=generator)[:TEST_PLACES]
        return self.places(HELDOUT, starts.sort().values)

    def is_heldout(self, problems: Tensor) -> Tensor:
        return problems[..., 0] == HELDOUT

    # -------------------------------------------------------------------------
    # bits per byte

    def measures(self, results: DecodedProblems, loss: Callable[[Batch], float | None]) -> dict[str, float | None]:
        """Return the bits per byte of the held-out part, and the mean loss of its tokens, nats.

        Each token of the held-out part is predicted once, in a window of `context` tokens that moves by half a window:
        it has at least half the context before it.
        """
        batch = self.heldout_windows()
        nats = loss(batch)
        if nats is None:
            return {"bits_per_byte": None, "loss": None}
        assert batch.loss_mask is not None
        bits = nats * int(batch.loss_mask.sum()) / math.log(2)
        return {"bits_per_byte": bits / len(self.parts[HELDOUT].encode()), "loss": nats}

    def heldout_windows(self) -> Batch:
        """Return windows (n, context) in which each token of the held-out part is a target once."""
        text, length = self.heldout_tokens, self.prompt_length
        stride = max(1, length // 2)
        firsts = torch.arange(length, len(text), stride)  # the first target of each window
        ends = (firsts + stride).clamp(max=len(text))  # behind its last target
        index = ends[:, None] - length + torch.arange(length)  # of the targets
        return Batch(text[index - 1], text[index], index >= firsts[:, None])
