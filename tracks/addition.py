"""Addition of two numbers with as many digits as one likes, written forwards or backwards.

A problem is a row of digits, uint8: the first operand, then the second, most significant first. Rows are never made
into integers, so that twenty digits are as good as three; only where all problems can be listed do they have numbers.
"""

import random
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from tracks.sampling import DigitSampler, rows_together

EXHAUSTIVE_DIGITS = 3  # up to here the certificate asks every problem there is
EXAM_PROBLEMS = 1_000_000  # drawn for a certificate beyond
LISTED_PROBLEMS = 100_000  # of either kind, whose hash says which track it is
SAMPLE_PROBLEMS = 1000  # built for each length of carry chain
DRAWN_TOGETHER = 2**15  # problems, where they are drawn until there are enough of a kind; part of what is drawn

# Streams of random numbers that have nothing to do with one another, nor with the trainer's.
EXAM, LISTED, SAMPLED = 1, 2, 3

Columns = Sequence[Tensor]  # one tensor a digit; their shapes broadcast


# -----------------------------------------------------------------------------
# the rule of what is held out

FIFTH = pow(5, -1, 2**64) - 2**64  # times 5 it is 1, modulo 2**64; as an int64
MAX_FIFTH = (2**64 - 1) // 5
NEGATIVE_OR_ODD = 1 - 2**63  # the first bit and the last


def shift_right(x: Tensor, places: int) -> Tensor:
    """int64 as if it were unsigned."""
    return (x >> places).bitwise_and_(2 ** (64 - places) - 1)


def splitmix64(x: Tensor) -> Tensor:
    """One output of SplitMix64 (Steele, Lea and Flood, 2014) from the state x, both 64 bits in an int64."""
    x = x + (0x9E3779B97F4A7C15 - 2**64)
    x = x.bitwise_xor_(shift_right(x, 30)).mul_(0xBF58476D1CE4E5B9 - 2**64)
    x = x.bitwise_xor_(shift_right(x, 27)).mul_(0x94D049BB133111EB - 2**64)
    return x.bitwise_xor_(shift_right(x, 31))


def hash_is_multiple_of_ten(columns: Columns) -> Tensor:
    """h = 0, then h = splitmix64(h xor digit) for one digit after the other: whether h % 10 == 0, h unsigned."""
    h = torch.zeros(1, dtype=torch.int64, device=columns[0].device)
    for column in columns:
        h = splitmix64(h ^ column)
    fifth = h * FIFTH  # modulo 2**64: for the multiples of 5, and no others, this is h / 5 and at most MAX_FIFTH
    return (fifth & NEGATIVE_OR_ODD == 0) & (fifth <= MAX_FIFTH)


# -----------------------------------------------------------------------------
# adding digit by digit


def place_sums(columns: Columns) -> list[Tensor]:
    """The sums of the two digits at each place, units first."""
    digits = len(columns) // 2
    return [columns[digits - 1 - place] + columns[2 * digits - 1 - place] for place in range(digits)]


def carry_counts(columns: Columns) -> Tensor:
    """How many places carry, uint8."""
    carry = count = 0
    for sums in place_sums(columns):
        carry = (sums + carry > 9).view(torch.uint8)
        count = count + carry
    return count


def longest_chains(columns: Columns) -> Tensor:
    """The longest chain of carries, in places, uint8.

    A chain begins where two digits make ten or more, and runs on through the places next to it whose digits sum to 9,
    which carry because the place below does.
    """
    running = longest = torch.zeros((), dtype=torch.uint8, device=columns[0].device)
    for sums in place_sums(columns):
        running = torch.where(sums > 9, 1, (running + 1) * ((sums == 9) & (running > 0)))
        longest = torch.maximum(longest, running)
    return longest


# -----------------------------------------------------------------------------
# the track


class Addition:
    """`ABC+DEF=GHIJ`: zero-padded, most significant digit first; reversed, the answer begins with the units.

    Without signs and reversed it is `ABCDEFJIHG`, as minGPT's adder writes it (Karpathy, 2020). Up to three digits all
    problems are listed in ascending order, and the certificate asks every one. Beyond, it asks held-out problems that
    are drawn by the run's seed.
    """

    vocabulary = "0123456789+="
    is_stream = False

    def __init__(self, digits: int, reverse: bool = False, signs: bool = True, name: str | None = None) -> None:
        self.name = name or (f"add{digits}-reversed" if reverse else f"add{digits}")
        self.digits = digits
        self.reverse = reverse
        self.signs = signs
        if not signs:
            self.vocabulary = "0123456789"
        self.num_problems = 100**digits
        self.exhaustive = digits <= EXHAUSTIVE_DIGITS
        self.problem_width = 2 * digits
        self.prompt_length = 2 * digits + 2 * signs
        self.answer_length = digits + 1
        self.block_size = self.prompt_length + self.answer_length - 1

    # -------------------------------------------------------------------------
    # as characters

    def tokens(self, problems: Tensor) -> Tensor:
        """Problems (..., 2 * digits) uint8 to token ids (..., prompt and answer) uint8, on the same device."""
        n, first = self.digits, self.prompt_length
        texts = problems.new_empty((*problems.shape[:-1], first + self.answer_length))
        if self.signs:
            texts[..., :n], texts[..., n] = problems[..., :n], self.vocabulary.index("+")
            texts[..., n + 1 : first - 1], texts[..., first - 1] = problems[..., n:], self.vocabulary.index("=")
        else:
            texts[..., :first] = problems
        answer = texts[..., first:]
        carry = 0
        for place, sums in enumerate(place_sums(problems.unbind(-1))):
            total = sums + carry
            carry = (total > 9).view(torch.uint8)
            answer[..., place if self.reverse else n - place] = total - carry * 10
        answer[..., n if self.reverse else 0] = carry
        return texts

    def problems(self, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Prompts (N, prompt_length) uint8 to problems (N, 2 * digits) uint8, and whether each was a prompt (N,)."""
        n, problems = self.digits, prompts
        if self.signs:
            problems = torch.cat([prompts[:, :n], prompts[:, n + 1 : -1]], 1)
        valid = (problems <= 9).all(1)
        if self.signs:
            plus, equals = self.vocabulary.index("+"), self.vocabulary.index("=")
            valid &= (prompts[:, n] == plus) & (prompts[:, -1] == equals)
        return problems * valid[:, None], valid

    @property
    def example(self) -> Tensor:
        """(2 * digits,) uint8: 381+350, or its like."""
        digits = [pattern[place % 3] for pattern in ((3, 8, 1), (3, 5, 0)) for place in range(self.digits)]
        return torch.tensor(digits, dtype=torch.uint8)

    def sentence(self, problem: Tensor, answer: str) -> str:
        """A mistake in words; `problem` is one row (2 * digits,), `answer` what was written."""
        digits = "".join(map(str, problem.tolist()))
        a, b = int(digits[: self.digits]), int(digits[self.digits :])
        number = answer[::-1] if self.reverse else answer
        got = number.lstrip("0") or "0" if answer.isdecimal() else repr(answer)
        return f"{a} + {b}: got {got}, expected {a + b}"

    # -------------------------------------------------------------------------
    # what is held out

    def is_heldout(self, problems: Tensor) -> Tensor:
        """Whether problems (N, 2 * digits) uint8 may never be in a training batch, (N,) bool, on the same device.

        A tenth of the unordered pairs, chosen by a hash over the digits of the smaller operand and of the larger, most
        significant first. Of the 100 problems with one digit none is.
        """
        if self.exhaustive:
            return self.heldout.to(problems.device)[self.number(problems)]
        return self.is_heldout_by_rule(problems)

    def is_heldout_by_rule(self, problems: Tensor) -> Tensor:
        """The same without a list of all problems."""
        if self.digits == 1:
            return problems.new_zeros(len(problems), dtype=torch.bool)
        parts = []
        for part in problems.split(rows_together(problems.device)):
            a, b = part.t().contiguous().split(self.digits)  # (digits, rows)
            swap = torch.zeros(len(part), dtype=torch.bool, device=part.device)
            for x, y in zip(reversed(a), reversed(b), strict=True):
                swap = (x > y) | ((x == y) & swap)
            change = (a ^ b) * swap
            parts.append(hash_is_multiple_of_ten([*(a ^ change), *(b ^ change)]))  # the smaller, the larger
        return torch.cat(parts) if parts else problems.new_zeros(0, dtype=torch.bool)

    # -------------------------------------------------------------------------
    # where all problems can be listed

    @cached_property
    def grid(self) -> Columns:
        """Each digit of every problem, (1, …, 10, …, 1) uint8: together they broadcast to (10, …, 10)."""
        width = self.problem_width
        return [torch.arange(10, dtype=torch.uint8).view([-1] + [1] * (width - 1 - place)) for place in range(width)]

    @cached_property
    def rows(self) -> Tensor:
        """All problems in ascending order, (num_problems, 2 * digits) uint8."""
        rows = torch.empty([10] * self.problem_width + [self.problem_width], dtype=torch.uint8)
        for place, column in enumerate(self.grid):
            rows[..., place] = column
        return rows.view(self.num_problems, self.problem_width)

    def number(self, problems: Tensor) -> Tensor:
        """Where problems (..., 2 * digits) stand in `rows`: the number that all their digits make, (...,) int64."""
        number = torch.zeros(problems.shape[:-1], dtype=torch.int64, device=problems.device)
        for column in problems.unbind(-1):
            number.mul_(10).add_(column)
        return number

    @cached_property
    def heldout(self) -> Tensor:
        """`is_heldout` of `rows`, (num_problems,) bool."""
        if self.digits == 1:
            return torch.zeros(self.num_problems, dtype=torch.bool)
        n, columns = self.digits, list(self.grid)
        square = torch.zeros((10**n, 10**n), dtype=torch.bool)
        for first in range(10):  # of the smaller operand; the larger one's is no less
            columns[0], columns[n] = self.grid[0][first], self.grid[n][first:]
            block = first * 10 ** (n - 1)
            square[block : block + 10 ** (n - 1), block:] = hash_is_multiple_of_ten(columns).view(10 ** (n - 1), -1)
        smaller_first = square.triu()
        return (smaller_first | smaller_first.T).reshape(-1)

    @property
    def num_heldout(self) -> int:
        """How many problems are held out; beyond three digits the tenth that the rule aims at."""
        return int(self.heldout.sum()) if self.exhaustive else self.num_problems // 10

    # -------------------------------------------------------------------------
    # what is asked

    def exam(self, seed: int) -> Tensor:
        """What the certificate asks, (N, 2 * digits) uint8 on the CPU: all problems, or held-out ones by the seed.

        Drawn ones are independent and uniform over everything held out, so one may come twice.
        """
        if self.exhaustive:
            return self.rows
        drawn, generator = [], np.random.default_rng((EXAM, seed))
        while sum(map(len, drawn)) < EXAM_PROBLEMS:
            rows = self.drawn(generator, DRAWN_TOGETHER)
            drawn.append(rows[self.is_heldout(rows)])
        return torch.cat(drawn)[:EXAM_PROBLEMS]

    def groups(self, problems: Tensor) -> dict[str, Tensor]:
        """Which of the problems (N, 2 * digits) are counted apart: name to (N,) bool.

        By carry count, and the problems without an operand that starts with a zero; where not all problems are asked,
        by the longest chain of carries.
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
        """Problems to be counted beside the exam, name to (n, 2 * digits) uint8.

        Three digits have `sample80`, the 80 problems that the published report checked, 20 for each carry count. Beyond
        three, `built chain 5` are held-out problems whose longest chain of carries is 5, which drawing would hardly
        ever find when it is long, and `nines` are edges, held out or not: 99…9 and a digit, or a number as far from 0
        or from 99…9 as a power of ten or one less is, in both orders. One and two digits have none.
        """
        if self.digits == 3:
            return {"sample80": sample80()}
        if self.exhaustive:
            return {}
        generator = np.random.default_rng(SAMPLED)
        built = {f"built chain {length}": self.built(generator, length) for length in range(self.digits + 1)}
        return built | {"nines": self.nines()}

    @property
    def sets(self) -> dict[str, Tensor]:
        """`train` and `heldout`: all such problems in ascending order, else drawn ones, the same for every run.

        Each (n, 2 * digits) uint8.
        """
        if self.exhaustive:
            return {"train": self.rows[~self.heldout], "heldout": self.rows[self.heldout]}
        parts, generator = {"train": [], "heldout": []}, np.random.default_rng(LISTED)
        while sum(map(len, parts["heldout"])) < LISTED_PROBLEMS:  # there are nine times as many of the others
            rows = self.drawn(generator, DRAWN_TOGETHER)
            heldout = self.is_heldout(rows)
            parts["train"].append(rows[~heldout])
            parts["heldout"].append(rows[heldout])
        return {name: torch.cat(rows)[:LISTED_PROBLEMS] for name, rows in parts.items()}

    def sampler(self, level_share: float, device: torch.device) -> DigitSampler:
        """Training problems; the levels are the numbers of places that sum to 9.

        Whether such a place carries is decided further down, so the digit before it must be written looking ahead. The
        units do not count, as nothing carries into them.
        """
        # By rule, as a list of all problems takes longer to make.
        return DigitSampler(self.digits, lambda rows: ~self.is_heldout_by_rule(rows), level_share, device)

    # -------------------------------------------------------------------------
    # drawn and built problems

    def drawn(self, generator: np.random.Generator, count: int) -> Tensor:
        """(count, 2 * digits) uint8, uniform, on the CPU: the same for whatever device the model is on."""
        return torch.from_numpy(generator.integers(10, size=(self.problem_width, count), dtype=np.uint8)).t()

    def built(self, generator: np.random.Generator, length: int) -> Tensor:
        """SAMPLE_PROBLEMS different held-out problems whose longest chain of carries has this length, (n, 2 * digits).

        So many places less one are made to sum to 9, next to one another; kept is what then comes to that length. For
        length 0 no two digits make ten.
        """
        n, found = self.digits, []
        while len(found) < SAMPLE_PROBLEMS:
            rows = self.drawn(generator, DRAWN_TOGETHER)
            a, b = rows[:, :n], rows[:, n:]  # parts of the rows
            if length == 0:
                b.remainder_(10 - a)
            else:
                start = torch.from_numpy(generator.integers(n - length + 1, size=(len(rows), 1)))
                place = torch.arange(n - 1, -1, -1)  # units last
                torch.where((place > start) & (place < start + length), 9 - a, b, out=b)
            fitting = rows[longest_chains(rows.unbind(-1)) == length]
            new = fitting[self.is_heldout(fitting)].numpy()
            together = np.concatenate([found, new]) if len(found) else new
            _, first = np.unique(together, axis=0, return_index=True)
            found = together[np.sort(first)]
        return torch.from_numpy(found[:SAMPLE_PROBLEMS])

    def nines(self) -> Tensor:
        """(n, 2 * digits) uint8; see `samples`."""
        n = self.digits
        powers = [10**place for place in range(n)]
        full, near = 10**n - 1, {*powers, *(power - 1 for power in powers)}
        others = sorted({*range(10), *near, *(full - number for number in near)})
        pairs = [f"{a:0{n}}{b:0{n}}" for other in others for a, b in ((full, other), (other, full))]
        return torch.tensor([list(map(int, text)) for text in dict.fromkeys(pairs)], dtype=torch.uint8)


def sample80() -> Tensor:
    """(80, 6) uint8, as the report drew them."""
    draw, kept = random.Random(42), {count: [] for count in range(4)}
    while any(len(problems) < 20 for problems in kept.values()):
        a, b = draw.randint(100, 999), draw.randint(100, 999)
        carries = sum(a % power + b % power >= power for power in (10, 100, 1000))
        if len(kept[carries]) < 20:
            kept[carries].append([int(digit) for digit in f"{a}{b}"])
    return torch.tensor([*kept.values()], dtype=torch.uint8).view(80, 6)
