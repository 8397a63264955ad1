"""Addition as Python's own integers and a pupil with a pencil do it: what the tracks are held against."""

from collections.abc import Iterable

import torch
from torch import Tensor

MASK = 2**64 - 1


def splitmix64_of_integers(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def is_held_out(a: int, b: int, digits: int) -> bool:
    """The design's rule, word for word; one digit has nothing held out."""
    h = 0
    for digit in f"{min(a, b):0{digits}}{max(a, b):0{digits}}":
        h = splitmix64_of_integers(h ^ int(digit))
    return h % 10 == 0 and digits > 1


def rows_of(pairs: Iterable[tuple[int, int]], digits: int) -> Tensor:
    """Pairs of operands as problems (N, 2 * digits) uint8."""
    texts = [f"{a:0{digits}}{b:0{digits}}" for a, b in pairs]
    return torch.tensor([list(map(int, text)) for text in texts], dtype=torch.uint8).view(-1, 2 * digits)


def pairs_of(rows: Tensor) -> list[tuple[int, int]]:
    """Problems (N, 2 * digits) as pairs of operands."""
    digits = rows.size(-1) // 2
    texts = ["".join(map(str, row)) for row in rows.tolist()]
    return [(int(text[:digits]), int(text[digits:])) for text in texts]


def carries(a: int, b: int) -> list[bool]:
    """Where a pupil who adds from the right writes a small one, units first; as far as there are digits."""
    found, carry = [], 0
    while a or b:
        carry = int(a % 10 + b % 10 + carry >= 10)
        found.append(bool(carry))
        a, b = a // 10, b // 10
    return found


def longest_chain(a: int, b: int) -> int:
    """The longest chain of carries: a place that makes ten by itself, then places that only the carry brings to it."""
    longest = running = 0
    while a or b:
        place = a % 10 + b % 10
        running = 1 if place >= 10 else running + 1 if place == 9 and running else 0
        longest = max(longest, running)
        a, b = a // 10, b // 10
    return longest


def places_of_nine(a: int, b: int, digits: int) -> int:
    """Places above the units whose digits sum to 9."""
    x, y = f"{a:0{digits}}"[:-1], f"{b:0{digits}}"[:-1]
    return sum(int(p) + int(q) == 9 for p, q in zip(x, y, strict=True))
