"""Texts of one vocabulary, written with the token ids of another."""

import torch
from torch import Tensor

NO_TOKEN = 255


class Renumbering:
    """Token ids by the vocabulary `old` to those by `new`, which has its characters too, and back."""

    def __init__(self, old: str, new: str) -> None:
        """Raises ValueError when `new` lacks a character of `old`."""
        self.new_ids = torch.tensor([new.index(character) for character in old], dtype=torch.uint8)
        self.old_ids = torch.full((256,), NO_TOKEN, dtype=torch.uint8)
        self.old_ids[self.new_ids.long()] = torch.arange(len(old), dtype=torch.uint8)

    def there(self, ids: Tensor) -> Tensor:
        """(...) uint8 to (...) uint8, on the same device."""
        return self.new_ids.to(ids.device)[ids.long()]

    def back(self, ids: Tensor) -> Tensor:
        """(...) uint8 to (...) uint8, on the same device; NO_TOKEN for what `old` does not have."""
        return self.old_ids.to(ids.device)[ids.long()]
