"""Tokenizers of texts against naive ones."""

import itertools
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracks import text_tokenizers
from tracks.describe_text import byte_alphabet
from tracks.text_tokenizers import ByteTokenizer, CharacterTokenizer, chunks, restored, train_byte_pairs

TEXT = "".join(f"def f{n}(x, y):\n    return x * {n} + y  # größer\n\n" for n in range(60))
BYTE_PAIRS = train_byte_pairs(TEXT, 300)
# GPT-2's pattern without the categories that Python's `re` lacks.
WORDS = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+")


def naive_byte_pairs(text):
    """Merge the pair of the earliest merge, word by word, until there is none."""
    merges = [tuple(pair) for pair in json.loads(BYTE_PAIRS.stored)["model"]["merges"]]
    ids = []
    for word in WORDS.findall(text):
        parts = [byte_alphabet()[byte] for byte in word.encode()]
        while pairs := [(merges.index(pair), i) for i, pair in enumerate(itertools.pairwise(parts)) if pair in merges]:
            i = min(pairs)[1]
            parts[i : i + 2] = ["".join(parts[i : i + 2])]
        ids += [BYTE_PAIRS.vocabulary.index(part) for part in parts]
    return ids


def test_byte_pairs_are_merged_in_the_order_of_their_training():
    text = TEXT[:400] + "naïve_words 1234 it's\t\n\n  \n x"
    assert BYTE_PAIRS.encode(text).tolist() == naive_byte_pairs(text)


def test_training_gives_the_same_merges_again_and_depends_on_the_text():
    assert train_byte_pairs(TEXT, 300).merges_sha256 == BYTE_PAIRS.merges_sha256
    assert train_byte_pairs(TEXT + "zzzzzz" * 500, 300).merges_sha256 != BYTE_PAIRS.merges_sha256


@pytest.mark.parametrize("word", ["ACGT" * 2_501, "7" * 10_001, " " * 10_001, "-_" * 5_001])
def test_a_word_that_would_take_very_long_is_refused(word):
    with pytest.raises(ValueError, match="a word of more than 10,000 characters"):
        train_byte_pairs(f"{TEXT} {word} {TEXT}", 300)
    assert train_byte_pairs(f"{TEXT} {word[:5_000]} {TEXT}", 300)


def test_a_vocabulary_that_the_text_does_not_allow_is_refused_with_the_largest_one():
    with pytest.raises(ValueError, match=r"this text allows (\d+) tokens, 5,000 were asked for") as refused:
        train_byte_pairs(TEXT, 5000)
    most = int(re.search(r"allows (\d+)", str(refused.value))[1])
    assert len(train_byte_pairs(TEXT, most).vocabulary) == most


@given(st.text(max_size=40))
@settings(max_examples=30, deadline=None)
def test_any_text_comes_back_from_bytes_and_byte_pairs(text):
    for tokenizer in (ByteTokenizer(), BYTE_PAIRS):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids.tolist()) == text.encode()
        assert ids.max(initial=0) < len(tokenizer.vocabulary)


def test_bytes_are_their_own_ids():
    assert ByteTokenizer().encode("aé").tolist() == [97, 195, 169]


def test_characters_have_the_ids_of_their_order():
    tokenizer = CharacterTokenizer(sorted(set("hello wörld 🦊")))
    assert tokenizer.encode("low 🦊").tolist() == [tokenizer.vocabulary.index(character) for character in "low 🦊"]
    assert tokenizer.decode(tokenizer.encode("wörld").tolist()) == "wörld".encode()
    for text, unknown in (("help", "p"), ("zoo", "z"), ("🦊🐻", "🐻"), ("!", "!")):
        with pytest.raises(ValueError, match=f"'{unknown}' is not among the {len(tokenizer.vocabulary)} characters"):
            tokenizer.encode(text)


def test_more_than_256_characters_have_larger_ids():
    characters = [chr(code) for code in range(0x4E00, 0x4E00 + 300)]
    ids = CharacterTokenizer(characters).encode("".join(characters))
    assert ids.dtype == np.int32
    assert ids.tolist() == list(range(300))


def test_cuts_for_parallel_encoding_change_no_token(monkeypatch):
    whole = BYTE_PAIRS.encode(TEXT).tolist()
    monkeypatch.setattr(text_tokenizers, "CHUNK", 50)
    parts = list(chunks(TEXT))
    assert "".join(parts) == TEXT
    assert len(parts) > 20
    assert BYTE_PAIRS.encode(TEXT).tolist() == whole


@given(st.text(alphabet="ab1' \t\n!ü", max_size=30))
@settings(max_examples=60, deadline=None)
def test_any_white_space_may_surround_a_cut(text):
    for cut in text_tokenizers.CUT.finditer(text):
        both = text[: cut.start()], text[cut.start() :]
        assert [i for part in both for i in naive_byte_pairs(part)] == BYTE_PAIRS.encode(text).tolist()


def test_stored_tokenizers_write_the_same_ids():
    for kind, tokenizer in (
        ("bytes", ByteTokenizer()),
        ("characters", CharacterTokenizer(sorted(set(TEXT)))),
        ("bpe", BYTE_PAIRS),
    ):
        again = restored(kind, tokenizer.stored)
        assert tuple(again.vocabulary) == tuple(tokenizer.vocabulary)
        assert again.encode(TEXT).tolist() == tokenizer.encode(TEXT).tolist()
        assert again.merges_sha256 == tokenizer.merges_sha256
