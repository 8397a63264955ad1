"""Characters as token ids and back, and token ids of one vocabulary as those of another."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data import PADDING, decode, encode, get_track
from tracks.tokenizer import TokenMap

ADD3 = get_track("add3")


@given(st.text(alphabet=ADD3.vocabulary))
def test_decoding_undoes_encoding(text: str) -> None:
    ids = encode(ADD3, text)
    assert all(0 <= i < len(ADD3.vocabulary) for i in ids)
    assert decode(ADD3, ids) == text
    assert decode(ADD3, torch.tensor(ids, dtype=torch.uint8)) == text


@given(st.lists(st.integers(0, 11)))
def test_encoding_undoes_decoding(ids: list[int]) -> None:
    assert encode(ADD3, decode(ADD3, ids)) == ids


def test_a_character_outside_the_vocabulary_is_named() -> None:
    with pytest.raises(ValueError, match=r"'12 \+34=' holds ' '; add3 is written with '0123456789\+='"):
        encode(ADD3, "12 +34=")


@given(st.text(alphabet=st.characters(exclude_characters=ADD3.vocabulary), min_size=1))
def test_no_foreign_character_is_encoded(text: str) -> None:
    with pytest.raises(ValueError, match="add3 is written with"):
        encode(ADD3, text)


def test_a_token_map_translates_the_characters_of_both_vocabularies_and_no_others() -> None:
    token_map = TokenMap("ab", "xba")
    assert token_map.to_target(torch.tensor([[0, 1, 1]], dtype=torch.uint8)).tolist() == [[2, 1, 1]]
    read = token_map.to_source(torch.tensor([2, 1, 0, 255], dtype=torch.uint8)).tolist()
    assert read[:2] == [0, 1]
    assert not {0, 1} & set(read[2:])
    assert token_map.to_source(torch.tensor([0, 3, -1])).tolist()[0] not in (0, 1)
    assert token_map.to_source(torch.tensor([3, -1])).tolist() == [3, -1]


def test_padding_stays_padding() -> None:
    token_map = TokenMap(["zero", "one"], ["one", "zero"])
    assert token_map.to_target(torch.tensor([0, PADDING, 1, PADDING])).tolist() == [1, PADDING, 0, PADDING]
    assert token_map.to_source(torch.tensor([[1, PADDING]])).tolist() == [[0, PADDING]]


def test_a_token_map_needs_every_token_of_the_source() -> None:
    with pytest.raises(ValueError, match="lacks 'c'"):
        TokenMap("abc", "ab")
