"""Characters to token ids and back: character i of a track's vocabulary has token id i."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tracks.base import Track

NO_TOKEN = 255


def encode(track: Track, text: str) -> list[int]:
    """Return the token ids of a text; raises ValueError for a character that is not in the track's vocabulary."""
    unknown = set(text) - set(track.vocabulary)
    if unknown:
        raise ValueError(f"{text!r} holds {min(unknown)!r}; {track.name} is written with {track.vocabulary!r}")
    return [track.vocabulary.index(character) for character in text]


def decode(track: Track, ids: Tensor | Sequence[int]) -> str:
    """Return the text of a row of token ids."""
    return "".join(track.vocabulary[int(i)] for i in ids)


class TokenMap:
    """Translates token ids of one vocabulary into those of another that contains the same characters."""

    def __init__(self, source: str, target: str) -> None:
        """Raises ValueError when `target` lacks a character of `source`."""
        self.target_ids = torch.tensor([target.index(character) for character in source], dtype=torch.uint8)
        self.source_ids = torch.full((256,), NO_TOKEN, dtype=torch.uint8)
        self.source_ids[self.target_ids.long()] = torch.arange(len(source), dtype=torch.uint8)

    def to_target(self, ids: Tensor) -> Tensor:
        """Map source ids (...) uint8 to target ids (...) uint8 on the same device."""
        return self.target_ids.to(ids.device)[ids.long()]

    def to_source(self, ids: Tensor) -> Tensor:
        """Map target ids (...) uint8 to source ids (...) uint8; NO_TOKEN where the source lacks the character."""
        return self.source_ids.to(ids.device)[ids.long()]
