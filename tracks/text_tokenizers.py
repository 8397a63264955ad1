"""Tokenizers of texts: bytes, characters, byte-pair encoding."""

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from tracks.describe_text import BYTES, byte_alphabet

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CHUNK = 2**16  # characters that are encoded together
PARALLEL_CHUNKS = 16  # more need more memory
# A text can be cut before it with no effect on its tokens: GPT-2's pattern ends one before the last of white space.
CUT = re.compile(r"\n(?=\S)")
LONGEST_WORD = 10_000  # characters; the time of training grows faster than its square
WORD_KINDS = r"[^\W\d_]", r"\d", r"\s", r"(?:[^\w\s]|_)"  # as in GPT-2's pattern: letters, digits, white space, others
TOO_LONG = re.compile("|".join(f"(?<!{kind}){kind}{{{LONGEST_WORD + 1}}}" for kind in WORD_KINDS))


class TextTokenizer(ABC):
    """Maps texts to ids and back; every text that it can write is written in one way."""

    vocabulary: Sequence[str]  # token i has id i
    merges_sha256: str = ""  # of byte-pair encoding
    stored: str = ""  # what `restored` needs

    @abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """Return the ids of a text, (tokens,) uint8 or int32; raises ValueError for an unknown character."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> bytes:
        """Return the bytes that ids stand for; they need not be UTF-8."""


class ByteTokenizer(TextTokenizer):
    """One token a byte of UTF-8; its id is the byte."""

    vocabulary = byte_alphabet()

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode(), np.uint8)

    def decode(self, ids: Sequence[int]) -> bytes:
        return bytes(ids)


class CharacterTokenizer(TextTokenizer):
    """One token a character of Unicode."""

    def __init__(self, characters: Sequence[str]) -> None:
        """`characters` are in ascending order."""
        self.vocabulary = tuple(characters)
        self.codes = np.array([ord(character) for character in characters], dtype=np.uint32)
        self.stored = json.dumps(self.vocabulary)

    def encode(self, text: str) -> np.ndarray:
        codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
        ids = self.codes.searchsorted(codes)
        unknown = self.codes[ids.clip(max=len(self.codes) - 1)] != codes
        if unknown.any():
            character = chr(codes[unknown.argmax()])
            raise ValueError(f"{character!r} is not among the {len(self.codes):,} characters of its text; leave it out")
        return ids.astype(np.uint8 if len(self.codes) <= BYTES else np.int32)

    def decode(self, ids: Sequence[int]) -> bytes:
        return "".join(self.vocabulary[i] for i in ids).encode()


class BytePairTokenizer(TextTokenizer):
    """Byte-level byte-pair encoding (Sennrich et al., 2016), by the library `tokenizers`."""

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self.tokenizer = tokenizer
        ids = tokenizer.get_vocab()
        self.vocabulary = tuple(sorted(ids, key=ids.__getitem__))
        self.stored = tokenizer.to_str()
        merges = json.loads(self.stored)["model"]["merges"]
        self.merges_sha256 = hashlib.sha256(json.dumps(merges).encode()).hexdigest()

    @cached_property
    def bytes_of(self) -> list[bytes]:
        """The bytes of each token."""
        byte = {character: value for value, character in enumerate(byte_alphabet())}
        return [bytes(byte[character] for character in token) for token in self.vocabulary]

    def encode(self, text: str) -> np.ndarray:
        text.encode()  # raises ValueError for half a character
        parts, ids = list(chunks(text)), []
        for start in range(0, len(parts), PARALLEL_CHUNKS):
            encodings = self.tokenizer.encode_batch_fast(parts[start : start + PARALLEL_CHUNKS])
            ids += [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]
        return np.concatenate(ids)

    def decode(self, ids: Sequence[int]) -> bytes:
        return b"".join(self.bytes_of[i] for i in ids)


def chunks(text: str) -> Iterator[str]:
    """Cut a text, where that changes no token, into parts that are encoded in parallel."""
    start = 0
    while len(text) - start > CHUNK and (cut := CUT.search(text, start + CHUNK)) is not None:
        yield text[start : cut.start()]
        start = cut.start()
    yield text[start:]


def train_byte_pairs(text: str, vocabulary: int) -> BytePairTokenizer:
    """Train byte-pair encoding with so many tokens; raises ValueError if the text allows fewer, or a word is long."""
    if TOO_LONG.search(text):
        raise ValueError(
            f"track_settings.tokens: this text has a word of more than {LONGEST_WORD:,} characters, for which bpe "
            "would take very long; set it to bytes or characters"
        )
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, initial_alphabet=sorted(alphabet), show_progress=False)
    tokenizer.train_from_iterator(chunks(text), trainer)
    if (found := tokenizer.get_vocab_size()) < vocabulary:
        raise ValueError(
            f"track_settings.vocabulary: this text allows {found:,} tokens, {vocabulary:,} were asked for; "
            f"set it to at most {found:,}, or take a longer text"
        )
    return BytePairTokenizer(tokenizer)


def restored(kind: str, stored: str) -> TextTokenizer:
    """Return the tokenizer that was stored with some weights."""
    if kind == "bytes":
        return ByteTokenizer()
    if kind == "characters":
        return CharacterTokenizer(json.loads(stored))
    from tokenizers import Tokenizer

    return BytePairTokenizer(Tokenizer.from_str(stored))
