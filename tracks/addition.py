"""Addition of two numbers with any number of digits; the answer is written forwards or reversed.

A problem is a row of digits, uint8: the first operand, then the second, most significant digit first. Rows are not
converted to integers, so that operands of twenty digits cause no overflow.
"""

import random
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from tracks.base import PADDING, AnswerTrack, chunk_rows
from tracks.description import TEST_PROBLEMS, TrackDescription
from tracks.hashing import hash_columns

PLUS, EQUALS = 10, 11  # token ids; a digit is its own

LISTED_PROBLEMS = 100_000  # size of each of the fixed `sets` of such a track
SAMPLE_PROBLEMS = 1000  # problems constructed for each length of carry chain
DRAW_ROWS = 2**15  # problems per draw in rejection sampling; changing it changes which problems are drawn

# First words of the seeds of independent random streams.
TEST_STREAM, LIST_STREAM, SAMPLE_STREAM = 1, 2, 3

Columns = Sequence[Tensor]  # one tensor for each digit; their shapes broadcast


# -----------------------------------------------------------------------------
# the rule that selects held-out problems

INVERSE_OF_5 = pow(5, -1, 2**64) - 2**64  # modulo 2**64, as an int64
MAX_FIFTH = (2**64 - 1) // 5
SIGN_AND_PARITY = 1 - 2**63  # the highest and the lowest bit


def hash_is_multiple_of_ten(columns: Columns) -> Tensor:
    """Hash digits: h = 0, then h = splitmix64(h xor digit) for each digit; return h % 10 == 0 with h unsigned."""
    h = hash_columns(columns)
    fifth = h * INVERSE_OF_5  # modulo 2**64; it is at most MAX_FIFTH, and equals h / 5, exactly if 5 divides h
    return (fifth & SIGN_AND_PARITY == 0) & (fifth <= MAX_FIFTH)


# -----------------------------------------------------------------------------
# digit-wise addition


def place_sums(columns: Columns) -> Iterator[Tensor]:
    """Yield the sum of the two digits at each place, units first."""
    digits = len(columns) // 2
    return (columns[place] + columns[digits + place] for place in reversed(range(digits)))


def add(columns: Columns) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the sum at each place including the carry into it, and the carry out of it, both uint8, units first."""
    carry = columns[0].new_zeros(())
    for sums in place_sums(columns):
        total = sums + carry
        carry = (total > 9).view(torch.uint8)
        yield total, carry


def carry_counts(columns: Columns) -> Tensor:
    """Return the number of places that carry, uint8."""
    return torch.stack([carry for _, carry in add(columns)]).sum(0, dtype=torch.uint8)


def longest_chains(columns: Columns) -> Tensor:
    """Return the length of the longest chain of carries, in places, uint8.

    A chain starts at a place whose digits sum to ten or more. It continues through the next places whose digits sum to
    9: these carry only because they receive a carry.
    """
    running = longest = columns[0].new_zeros(())
    for sums in place_sums(columns):
        running = torch.where(sums > 9, 1, (running + 1) * ((sums == 9) & (running > 0)))
        longest = torch.maximum(longest, running)
    return longest


class Addition(AnswerTrack):
    """`ABC+DEF=GHIJ`: zero-padded, most significant digit first; a reversed answer starts with the units.

    Reversed and without signs the text is `ABCDEFJIHG`, the format of minGPT's adder (Karpathy, 2020). Up to three
    digits the test set is all problems in ascending order. For longer operands it is held-out problems drawn from the
    run's seed.
    """

    def __init__(self, description: TrackDescription, digits: int, reverse: bool) -> None:
        """`digits` are those of each operand; with `reverse` the answer starts with the units."""
        super().__init__(description)
        self.digits, self.reverse, self.signs = digits, reverse, "+" in description.vocabulary
        self.problem_width = 2 * digits

    # -------------------------------------------------------------------------
    # text

    def prompts(self, problems: Tensor) -> Tensor:
        """Map problems (..., 2 * digits) uint8 to the ids of their prompts (..., prompt_length) uint8."""
        n, second = self.digits, self.digits + self.signs
        prompts = problems.new_empty((*problems.shape[:-1], self.prompt_length))
        prompts[..., :n], prompts[..., second : second + n] = problems[..., :n], problems[..., n:]
        if self.signs:
            prompts[..., n], prompts[..., -1] = PLUS, EQUALS
        return prompts

    def answers(self, problems: Tensor) -> Tensor:
        """Map problems (..., 2 * digits) uint8 to the ids of their answers (..., answer_length) uint8."""
        n = self.digits
        answers = problems.new_empty((*problems.shape[:-1], self.answer_length))
        for place, (total, carry) in enumerate(add(problems.unbind(-1))):
            answers[..., place if self.reverse else n - place] = total - carry * 10
        answers[..., n if self.reverse else 0] = carry
        return answers

    def tokens(self, problems: Tensor) -> Tensor:
        """Map problems (..., 2 * digits) uint8 to the ids of whole texts (..., prompt + answer) uint8."""
        return torch.cat([self.prompts(problems), self.answers(problems)], -1)

    def encode_prompts(self, texts: Sequence[str]) -> Tensor:
        """As `Track.encode_prompts`, for many texts at once."""
        if not texts:
            return super().encode_prompts(texts)
        ids_of_bytes = torch.full((256,), len(self.vocabulary))
        for token, character in enumerate(self.vocabulary):
            ids_of_bytes[ord(character)] = token
        length = self.prompt_length
        fitting = "".join(text if len(text) == length else "?" * length for text in texts)
        characters = torch.frombuffer(bytearray(fitting, "ascii", "replace"), dtype=torch.uint8)
        ids = ids_of_bytes[characters.long()].view(-1, length)
        return torch.where(self.problems(ids.to(torch.uint8))[1][:, None], ids, PADDING)

    def problems(self, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Map prompts (N, prompt_length) uint8 to problems (N, 2 * digits) uint8 and their validity (N,) bool."""
        n, second = self.digits, self.digits + self.signs
        problems = torch.cat([prompts[:, :n], prompts[:, second : second + n]], 1)
        valid = (problems <= 9).all(1)
        if self.signs:
            valid &= (prompts[:, n] == PLUS) & (prompts[:, -1] == EQUALS)
        return problems * valid[:, None], valid

    def sentence(self, problem: Tensor, answer: str) -> str:
        """Describe an error; `problem` is one row (2 * digits,), `answer` the characters that the model produced."""
        digits = "".join(map(str, problem.tolist()))
        a, b = int(digits[: self.digits]), int(digits[self.digits :])
        number = answer[::-1] if self.reverse else answer
        got = number.lstrip("0") or "0" if answer.isdecimal() else repr(answer)
        return f"{a} + {b}: got {got}, expected {a + b}"

    # -------------------------------------------------------------------------
    # held-out problems

    def is_heldout(self, problems: Tensor) -> Tensor:
        """Return which problems (N, 2 * digits) uint8 are held out, (N,) bool on the same device.

        A tenth of the unordered pairs of operands is held out. The rule is a hash over the digits of the smaller
        operand, then of the larger, most significant first. With one digit nothing is held out.
        """
        if self.exhaustive:
            return self.heldout.to(problems.device)[self.number(problems)]
        return self.is_heldout_by_rule(problems)

    def is_heldout_by_rule(self, problems: Tensor) -> Tensor:
        """As `is_heldout`, computed from the digits instead of read from a table of all problems."""
        if self.digits == 1:
            return problems.new_zeros(len(problems), dtype=torch.bool)
        parts = []
        for part in problems.split(chunk_rows(problems.device)):
            a, b = part.t().contiguous().split(self.digits)  # (digits, rows)
            swap = torch.zeros(len(part), dtype=torch.bool, device=part.device)
            for x, y in zip(reversed(a), reversed(b), strict=True):
                swap = (x > y) | ((x == y) & swap)
            change = (a ^ b) * swap
            parts.append(hash_is_multiple_of_ten([*(a ^ change), *(b ^ change)]))  # the smaller, the larger
        return torch.cat(parts)

    @cached_property
    def rows(self) -> Tensor:
        """All problems in ascending order, (num_problems, 2 * digits) uint8."""
        return torch.cartesian_prod(*[torch.arange(10, dtype=torch.uint8)] * self.problem_width)

    def number(self, problems: Tensor) -> Tensor:
        """Return the positions of problems (..., 2 * digits) in `rows`, (...,) int64: their digits as one number."""
        number = torch.zeros(problems.shape[:-1], dtype=torch.int64, device=problems.device)
        for column in problems.unbind(-1):
            number.mul_(10).add_(column)
        return number

    @cached_property
    def heldout(self) -> Tensor:
        """`is_heldout` of `rows`, (num_problems,) bool."""
        if self.digits == 1:
            return torch.zeros(self.num_problems, dtype=torch.bool)
        n, size = self.digits, 10 ** (self.digits - 1)
        # each digit of every problem, (1, …, 10, …, 1), broadcastable to (10, …, 10)
        grid = [torch.arange(10, dtype=torch.uint8).view([-1] + [1] * place) for place in reversed(range(2 * n))]
        square = torch.zeros((10 * size, 10 * size), dtype=torch.bool)
        for leading in range(10):  # digit of the smaller operand; the larger operand's is no smaller
            columns = [grid[0][leading], *grid[1:n], grid[n][leading:], *grid[n + 1 :]]
            start = leading * size
            square[start : start + size, start:] = hash_is_multiple_of_ten(columns).view(size, -1)
        smaller_first = square.triu()
        return (smaller_first | smaller_first.T).reshape(-1)

    # -------------------------------------------------------------------------
    # the test set

    def test_set(self, seed: int) -> Tensor:
        """Return the problems of the certificate, (N, 2 * digits) uint8 on the CPU.

        All problems if `exhaustive`, else TEST_PROBLEMS independent, uniform draws from the held-out problems, in which
        a problem can occur twice.
        """
        return self.rows if self.exhaustive else self.draw_some((TEST_STREAM, seed), TEST_PROBLEMS, heldout=True)

    def groups(self, problems: Tensor) -> dict[str, Tensor]:
        """Map the name of each group to its members among problems (N, 2 * digits), (N,) bool.

        For an exhaustive track the groups are the carry counts, and the problems whose operands have no leading zero.
        For other tracks they are the lengths of the longest carry chain.
        """
        columns, lengths = problems.unbind(-1), range(self.digits + 1)
        if not self.exhaustive:
            chains = longest_chains(columns)
            return {f"chain {length}": chains == length for length in lengths}
        carries, smallest = carry_counts(columns), 10 ** (self.digits - 1)
        groups = {f"carry {count}": carries == count for count in lengths}
        no_zero = (columns[0] > 0) & (columns[self.digits] > 0)
        return groups | {f"{smallest}..{10**self.digits - 1}": no_zero}

    @cached_property
    def samples(self) -> dict[str, Tensor]:
        """Problems that are counted in addition to the test set, name to (n, 2 * digits) uint8.

        Three digits have `sample80`, the problems checked by the published report; one and two digits have none. Longer
        operands have `built chain 5` and its like, held-out problems whose longest carry chain is 5, since random draws
        rarely contain long chains, and the edge cases `nines`, which may be training problems.
        """
        if self.exhaustive:
            return {"sample80": sample80()} if self.digits == 3 else {}
        generator = np.random.default_rng(SAMPLE_STREAM)
        chains = {f"built chain {length}": self.build_chains(generator, length) for length in range(self.digits + 1)}
        return chains | {"nines": self.nines()}

    @property
    def sets(self) -> dict[str, Tensor]:
        """`train` and `heldout`, (n, 2 * digits) uint8 each.

        Complete and in ascending order if `exhaustive`, else LISTED_PROBLEMS draws that are the same for every run.
        """
        if self.exhaustive:
            return {"train": self.rows[~self.heldout], "heldout": self.rows[self.heldout]}
        sets = {"train": False, "heldout": True}
        return {name: self.draw_some(LIST_STREAM, LISTED_PROBLEMS, heldout) for name, heldout in sets.items()}

    def draw(self, generator: np.random.Generator) -> Tensor:
        """Draw uniform problems (DRAW_ROWS, 2 * digits) uint8 on the CPU, so that they do not depend on the device."""
        return torch.from_numpy(generator.integers(10, size=(self.problem_width, DRAW_ROWS), dtype=np.uint8)).t()

    def draw_some(self, seed: int | tuple[int, int], count: int, heldout: bool) -> Tensor:
        """Draw `count` problems that are held out, or none of which is, (count, 2 * digits) uint8."""
        parts: list[Tensor] = []
        generator = np.random.default_rng(seed)
        while sum(map(len, parts)) < count:
            rows = self.draw(generator)
            parts.append(rows[self.is_heldout(rows) == heldout])
        return torch.cat(parts)[:count]

    def build_chains(self, generator: np.random.Generator, length: int) -> Tensor:
        """Construct SAMPLE_PROBLEMS distinct held-out problems whose longest carry chain has this length.

        Sets `length - 1` adjacent places of random problems to digits that sum to 9 and keeps those with the right
        length; for length 0 all digit sums are below ten. Returns (SAMPLE_PROBLEMS, 2 * digits) uint8.
        """
        n = self.digits
        kept: dict[bytes, None] = {}  # the problems in the order in which they were drawn
        while len(kept) < SAMPLE_PROBLEMS:
            rows = self.draw(generator)
            a, b = rows[:, :n], rows[:, n:]  # views of the rows
            if length == 0:
                b.remainder_(10 - a)
            else:
                start = torch.from_numpy(generator.integers(n - length + 1, size=(len(rows), 1)))
                place = torch.arange(n - 1, -1, -1)  # units last
                torch.where((place > start) & (place < start + length), 9 - a, b, out=b)
            rows = rows[longest_chains(rows.unbind(-1)) == length]
            kept |= dict.fromkeys(map(bytes, rows[self.is_heldout(rows)].numpy()))
        return torch.tensor([list(row) for row in kept][:SAMPLE_PROBLEMS], dtype=torch.uint8)

    def nines(self) -> Tensor:
        """Return edge cases in both orders, (n, 2 * digits) uint8: 99…9 and a second operand.

        It is a digit, or a number whose distance from 0 or from 99…9 is a power of ten or one less.
        """
        n, full = self.digits, 10**self.digits - 1
        near = {10**place - less for place in range(n) for less in (0, 1)}
        others = sorted({*range(10), *near, *(full - number for number in near)})
        pairs = [f"{a:0{n}}{b:0{n}}" for other in others for a, b in ((full, other), (other, full))]
        return torch.tensor([list(map(int, text)) for text in dict.fromkeys(pairs)], dtype=torch.uint8)


def sample80() -> Tensor:
    """Return the 80 problems of the published report, 20 for each carry count, drawn by its rule, (80, 6) uint8."""
    generator = random.Random(42)
    kept: list[list[list[int]]] = [[], [], [], []]  # by carry count
    while any(len(problems) < 20 for problems in kept):
        a, b = generator.randint(100, 999), generator.randint(100, 999)
        carries = sum(a % power + b % power >= power for power in (10, 100, 1000))
        if len(kept[carries]) < 20:
            kept[carries].append([int(digit) for digit in f"{a}{b}"])
    return torch.tensor(kept, dtype=torch.uint8).view(80, 6)
