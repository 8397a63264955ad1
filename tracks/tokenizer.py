"""Tokens to ids and back: token i of a track's vocabulary has id i."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tracks.base import PADDING, Track


def encode(track: Track, text: str) -> list[int]:
    """Return the ids of the characters of a text; raises ValueError for one that is not in the track's vocabulary."""
    unknown = set(text) - set(track.vocabulary)
    if unknown:
        raise ValueError(f"{text!r} holds {min(unknown)!r}; {track.name} is written with {track.vocabulary!r}")
    return [track.vocabulary.index(character) for character in text]


def decode(track: Track, ids: Tensor | Sequence[int]) -> str:
    """Return the text of a row of token ids."""
    return "".join(track.vocabulary[int(i)] for i in ids)


class TokenMap:
    """Translates ids of one vocabulary into those of another that contains the same tokens. PADDING stays."""

    def __init__(self, source: Sequence[str], target: Sequence[str]) -> None:
        """Raises ValueError when `target` lacks a token of `source`."""
        index = {token: i for i, token in enumerate(target)}
        if missing := set(source) - set(index):
            raise ValueError(f"the vocabulary lacks {min(missing)!r}")
        ids = torch.tensor([index[token] for token in source])
        self.target_ids = torch.cat([ids, torch.tensor([PADDING])])  # ends in PADDING, which is the element -1
        self.source_ids = torch.full((len(target),), len(source))  # an id of no token, for tokens of the target alone
        self.source_ids[ids] = torch.arange(len(source))

    def to_target(self, ids: Tensor) -> Tensor:
        """Map source ids (...) to target ids (...) of the same type on the same device.

        It is fast, as texts are drawn with it. Raises IndexError for an id of no token.
        """
        table, index = self.target_ids.to(ids.device, ids.dtype), ids.reshape(-1)
        if ids.dtype == torch.uint8:  # holds no PADDING; this is twice as fast
            return table.index_select(0, index.int()).view(ids.shape)
        return table.take(index.long()).view(ids.shape)

    def to_source(self, ids: Tensor) -> Tensor:
        """Map target ids (...) to source ids (...); a token that the source lacks gets an id of no token.

        PADDING, and ids of no token, stay.
        """
        table, index = self.source_ids.to(ids.device), ids.long()
        is_token = (index >= 0) & (index < len(table))
        return torch.where(is_token, table[index.clamp(0, len(table) - 1)], index).to(ids.dtype)
