"""The tracks: what is asked, how it is written as characters, and what is held out.

The only file that knows what the characters mean. `python data.py [TRACK]` prints the proof that no training
problem is a held-out one.
"""

import hashlib
import random
import sys
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor


class Track(Protocol):
    """A task with a target. Problems are numbered 0 .. num_problems - 1; all texts have one length."""

    name: str
    vocabulary: str  # character i has token id i
    prompt_length: int  # characters the model is given
    answer_length: int  # characters it must write
    num_problems: int
    heldout: np.ndarray  # (num_problems,) bool, never in a training batch
    groups: dict[str, np.ndarray]  # name -> (num_problems,) bool, counted apart in the certificate
    samples: dict[str, np.ndarray]  # name -> (n,) int64 problems, weaker targets shown beside it

    def tokens(self, problems: Tensor) -> Tensor:
        """Problems (...) int64 to token ids (..., prompt_length + answer_length) uint8, on the same device."""
        ...

    def problems(self, prompts: Tensor) -> Tensor:
        """Prompts (N, prompt_length) uint8 to problem numbers (N,) int64, -1 for what is no prompt of the track."""
        ...

    def sampler(self, level_share: float, device: torch.device) -> "Sampler":
        """Draws training problems; `level_share` of them spread evenly over the track's levels of difficulty."""
        ...

    def sentence(self, problem: int, answer: str) -> str:
        """A mistake in words."""
        ...


def encode(track: Track, text: str) -> list[int]:
    """The token ids of a text.

    Raises:
        ValueError: a character that is not in the track's vocabulary.
    """
    unknown = set(text) - set(track.vocabulary)
    if unknown:
        raise ValueError(f"{text!r} holds {min(unknown)!r}; {track.name} is written with {track.vocabulary!r}")
    return [track.vocabulary.index(character) for character in text]


def decode(track: Track, ids: "Tensor | list[int]") -> str:
    """The text of a row of token ids."""
    return "".join(track.vocabulary[int(i)] for i in ids)


class Sampler:
    """Draws training problems with replacement; a share of them spread evenly over levels of difficulty."""

    def __init__(self, levels: Sequence[np.ndarray], level_share: float, device: torch.device) -> None:
        """`levels` are int64 problem numbers, each training problem in one level; `level_share` is in 0..1.

        The rest of the problems are drawn uniformly.
        """
        pools = [level for level in levels if len(level)]
        weights = [level_share / len(pools)] * len(pools) + [1 - level_share]
        sizes = [*map(len, pools), sum(map(len, pools))]
        starts = [sum(sizes[:i]) for i in range(len(pools))] + [0]  # the last pool is all of them
        self.problems = torch.from_numpy(np.concatenate(pools)).to(device)
        self.weights = torch.tensor(weights, device=device)
        self.sizes = torch.tensor(sizes, device=device)
        self.starts = torch.tensor(starts, device=device)

    def draw(self, num_batches: int, batch_size: int, generator: torch.Generator) -> Tensor:
        """Problem numbers (num_batches, batch_size) int64, on the sampler's device and from its generator."""
        count = num_batches * batch_size
        pool = self.weights.multinomial(count, replacement=True, generator=generator)
        raw = torch.randint(2**62, (count,), generator=generator, device=pool.device)
        return self.problems[self.starts[pool] + raw % self.sizes[pool]].view(num_batches, batch_size)


# -----------------------------------------------------------------------------
# addition


def splitmix64(x: np.ndarray) -> np.ndarray:
    """One output of SplitMix64 (Steele, Lea and Flood, 2014) from the state x, uint64 to uint64."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Addition:
    """`ABC+DEF=GHIJ`: zero-padded, most significant digit first. Problem a * 10**digits + b asks for a + b."""

    vocabulary = "0123456789+="

    def __init__(self, digits: int) -> None:
        self.name = f"add{digits}"
        self.digits = digits
        self.num_operands = 10**digits
        self.num_problems = self.num_operands**2
        self.prompt_length = 2 * digits + 2
        self.answer_length = digits + 1

    @cached_property
    def heldout(self) -> np.ndarray:
        """(num_problems,) bool: a tenth of the unordered pairs, chosen by a hash of their digits.

        h = 0, then h = splitmix64(h xor digit) over the digits of the smaller operand and of the larger, most
        significant first; held out when h % 10 == 0.
        """
        h = np.zeros(1, np.uint64)
        for _ in range(2 * self.digits):  # each pass hashes one more digit onto every prefix
            h = splitmix64(h[:, None] ^ np.arange(10, dtype=np.uint64)).reshape(-1)
        heldout = (h % np.uint64(10) == 0).reshape(self.num_operands, self.num_operands)
        smaller_first = np.triu(heldout)
        return (smaller_first | smaller_first.T).reshape(-1)

    @cached_property
    def digit_sums(self) -> np.ndarray:
        """(digits, num_problems) uint8: the sum of the two digits at each place, units first."""
        operands = np.arange(self.num_operands)
        digits = np.stack([operands // 10**place % 10 for place in range(self.digits)]).astype(np.uint8)
        return (digits[:, :, None] + digits[:, None, :]).reshape(self.digits, -1)

    @cached_property
    def carries(self) -> np.ndarray:
        """(num_problems,) uint8: how many places carry."""
        carry = count = np.zeros(self.num_problems, np.uint8)
        for sums in self.digit_sums:
            carry = (sums + carry > 9).astype(np.uint8)
            count = count + carry
        return count

    @cached_property
    def groups(self) -> dict[str, np.ndarray]:
        """By carry count, and the problems without an operand that starts with a zero."""
        operands = np.arange(self.num_problems) // self.num_operands, np.arange(self.num_problems) % self.num_operands
        smallest = 10 ** (self.digits - 1)
        groups = {f"carry {count}": self.carries == count for count in range(self.digits + 1)}
        groups[f"{smallest}..{self.num_operands - 1}"] = np.minimum(*operands) >= smallest
        return groups

    @cached_property
    def samples(self) -> dict[str, np.ndarray]:
        """`sample80`: the 80 problems that the published report checked, 20 for each carry count (three digits)."""
        if self.digits != 3:
            return {}
        draw, kept = random.Random(42), {count: [] for count in range(4)}
        while any(len(problems) < 20 for problems in kept.values()):
            problem = draw.randint(100, 999) * 1000 + draw.randint(100, 999)
            problems = kept[int(self.carries[problem])]
            if len(problems) < 20:
                problems.append(problem)
        return {"sample80": np.concatenate([*map(np.array, kept.values())])}

    def tokens(self, problems: Tensor) -> Tensor:
        """Problems (...) int64 to token ids (..., 3 * digits + 3) uint8, on the same device."""
        a, b = problems // self.num_operands, problems % self.num_operands
        plus, equals = (torch.full_like(a, self.vocabulary.index(character)) for character in "+=")
        columns = [
            *(a // 10**place % 10 for place in reversed(range(self.digits))),
            plus,
            *(b // 10**place % 10 for place in reversed(range(self.digits))),
            equals,
            *((a + b) // 10**place % 10 for place in reversed(range(self.digits + 1))),
        ]
        return torch.stack(columns, -1).to(torch.uint8)

    def problems(self, prompts: Tensor) -> Tensor:
        """Prompts (N, 2 * digits + 2) uint8 to problem numbers (N,) int64, -1 for what is no prompt."""
        powers = 10 ** torch.arange(self.digits - 1, -1, -1, device=prompts.device)
        digits = prompts.long().clamp(max=9)
        a = (digits[:, : self.digits] * powers).sum(1)
        b = (digits[:, self.digits + 1 : -1] * powers).sum(1)
        problems = a * self.num_operands + b
        written = self.tokens(problems)[:, : self.prompt_length]  # differs where a character had no business
        return torch.where((written == prompts).all(1), problems, -1)

    def sampler(self, level_share: float, device: torch.device) -> Sampler:
        """Training problems; the levels are the lengths of carry chains, counted in places that sum to 9.

        Whether such a place carries is decided further down, so the digit before it must be written looking ahead.
        No chain begins at the units, which nothing carries into.
        """
        chain = (self.digit_sums[1:] == 9).sum(0)
        levels = [np.flatnonzero(~self.heldout & (chain == length)) for length in range(self.digits)]
        return Sampler(levels, level_share, device)

    def sentence(self, problem: int, answer: str) -> str:
        a, b = divmod(problem, self.num_operands)
        got = answer.lstrip("0") or "0" if answer.isdecimal() else repr(answer)
        return f"{a} + {b}: got {got}, expected {a + b}"


TRACKS: dict[str, Track] = {"add2": Addition(2), "add3": Addition(3)}


# -----------------------------------------------------------------------------
# controls: a track made different where honest training does not mind, or must fail


class Altered:
    """A track that is another one in all that it does not say itself."""

    def __init__(self, track: Track) -> None:
        self.track = track

    def __getattr__(self, name: str) -> Any:
        return getattr(self.track, name)


class Permuted(Altered):
    """The same characters with other token ids: whoever learns from the texts alone learns this as well."""

    def __init__(self, track: Track, vocabulary: str) -> None:
        """Raises ValueError when `vocabulary` is not the track's, in some order."""
        super().__init__(track)
        if sorted(vocabulary) != sorted(track.vocabulary):
            raise ValueError(f"{vocabulary!r} does not hold the characters of {track.name}, {track.vocabulary!r}")
        self.vocabulary = vocabulary
        self.new_ids = torch.tensor([vocabulary.index(character) for character in track.vocabulary], dtype=torch.uint8)
        self.old_ids = torch.arange(256, dtype=torch.uint8)  # what is no token stays none
        self.old_ids[self.new_ids.long()] = torch.arange(len(vocabulary), dtype=torch.uint8)

    def tokens(self, problems: Tensor) -> Tensor:
        return self.new_ids.to(problems.device)[self.track.tokens(problems).long()]

    def problems(self, prompts: Tensor) -> Tensor:
        return self.track.problems(self.old_ids.to(prompts.device)[prompts.long()])


class Misanswered(Altered):
    """Each problem with the right answer to another one: (num_problems,) int64 `answered` says to which."""

    def __init__(self, track: Track, answered: np.ndarray) -> None:
        super().__init__(track)
        self.answered = torch.from_numpy(answered)

    def tokens(self, problems: Tensor) -> Tensor:
        asked = self.track.tokens(problems)[..., : self.track.prompt_length]
        answered = self.answered.to(problems.device)[problems]
        return torch.cat([asked, self.track.tokens(answered)[..., self.track.prompt_length :]], -1)


def controlled(track: Track, control: str, seed: int) -> Track:
    """A track as a control wants it; everything random comes from `seed`.

    `permute` gives the vocabulary's ids another order; `shuffle` deals the answers of the training problems out anew;
    `poison` makes the answers of all held-out problems wrong; `none` is the track itself.
    """
    generator = np.random.default_rng(seed)
    answered = np.arange(track.num_problems)
    match control:
        case "permute":
            return Permuted(track, "".join(generator.permutation(list(track.vocabulary))))
        case "shuffle":
            training = np.flatnonzero(~track.heldout)
            answered[training] = generator.permutation(training)
            return Misanswered(track, answered)
        case "poison":
            right = track.tokens(torch.from_numpy(answered))[:, track.prompt_length :]
            spared = np.flatnonzero(track.heldout)  # whose answer is still right
            while len(spared):
                answered[spared] = generator.integers(track.num_problems, size=len(spared))
                spared = spared[(right[answered[spared]] == right[spared]).all(1).numpy()]
            return Misanswered(track, answered)
    return track


def index_sets_sha256(track: Track) -> dict[str, str]:
    """The sha256 of the training and the held-out problem numbers, ascending, as little-endian int64."""
    sets = {"train": np.flatnonzero(~track.heldout), "heldout": np.flatnonzero(track.heldout)}
    return {name: hashlib.sha256(indices.astype("<i8").tobytes()).hexdigest() for name, indices in sets.items()}


def main(arguments: list[str]) -> int:
    """Print the proof that a track's training and held-out problems do not meet."""
    name = arguments[0] if arguments else "add3"
    if name not in TRACKS:
        print(f"data.py: there is no track {name!r}; there are {', '.join(TRACKS)}", file=sys.stderr)
        return 2
    track = TRACKS[name]
    digests = index_sets_sha256(track)
    sets = {"train": np.flatnonzero(~track.heldout), "heldout": np.flatnonzero(track.heldout)}
    for set_name, indices in sets.items():
        print(f"{track.name} {set_name:<8}{len(indices):>9,} problems  sha256 {digests[set_name]}")
    print(f"{track.name} in both  {len(np.intersect1d(*sets.values())):>8,} problems")
    for set_name, indices in sets.items():
        examples = indices[np.linspace(0, len(indices) - 1, 5).astype(int)]
        texts = (decode(track, row) for row in track.tokens(torch.from_numpy(examples)))
        print(f"{track.name} {set_name:<8} {'  '.join(texts)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
