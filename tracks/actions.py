"""Lines that copy letters of themselves or of the line before, after a published training log."""

import re
from collections.abc import Callable, Mapping
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.stats.descriptive import clopper_pearson_upper
from tracks.base import PADDING, AnswerTrack, Batch, DecodedProblems, Decoding
from tracks.hashing import hash_fraction
from tracks.padding import left_aligned

FIXED_LINES, FIXED_SEED = 20_000, 3  # of the text of which windows are training texts
TEST_SEED, LIST_SEED = 1, 2
ASKED_OF_EACH = 1_000  # problems of each action in each way of asking
MOST_EARLIER = 10  # lines before the one that is asked for
MOST_LETTERS, NUM_LETTERS, NUM_COPIED, NUM_ACTIONS = 8, 6, 3, 10
LINE = MOST_LETTERS + 1  # numbers of a line in a problem's row: its letters, then PADDING, and its action
SHIFTED, NOTHING_BUT_Z, DIGITS = 6, 12, 13  # ids of `g`, `z` and `0`
WHOLE, CUT = 0, 1  # ways of asking
HELDOUT_SHARE = 0.1
MOST_ERRORS = 0.005  # of an action, as a share
PART = r"[a-f]{0,8}[0-9]?[a-lz]{0,3};?"  # the end of a line, whose beginning has been cut off
PROMPT = re.compile(rf"(?:{PART}\n)?(?:[a-f]{{4,8}}[0-9][a-lz]{{0,3}};\n)*[a-f]{{4,8}}[0-9]")


class Actions(AnswerTrack):
    """`abcdef1abc;` and a line break: 4 to 8 letters a..f, the digit of an action, its result.

    - 0: nothing; 9: `z`.
    - 1, 2: the first three letters, the last three.
    - 3, 4: the same, shifted from a..f to g..l.
    - 5 to 8: as 1 to 4, of the letters of the line before.

    A problem is a row: the way of asking, 0 or 1, then the lines of a text, each of nine numbers; blank lines, all
    PADDING, come first. The first other line is not shown, but its letters are those that the next one may copy. The
    last line is asked for: the prompt is all lines that are shown, the last one up to its action. In way 0 the prompt
    is as many of the last lines as fit into 60 characters, in way 1 the last 60 characters of all. These always hold
    the whole line before, since two lines have at most 23 characters without the last result.

    A line is held out, after the line before it, by a hash: of its letters as a number in base 7, its action, and the
    letters of the line before. The completion is the result and `;`, which ends it.
    """

    problem_width = 1 + (MOST_EARLIER + 2) * LINE
    may_have_errors = True
    limits: Mapping[str, float] = {"largest share of errors of an action": MOST_ERRORS}
    shortest_prompt = 5

    @property
    def decoding(self) -> Decoding:
        return Decoding(max_new_tokens=self.answer_length, stop_token=self.vocabulary.index(";"))

    # -------------------------------------------------------------------------
    # text

    def prompts(self, problems: Tensor) -> Tensor:
        lines = lines_of(problems)
        is_shown = lines[..., :-1, :1] != PADDING  # after a line that is not blank
        lines = lines[..., 1:, :]  # (..., n, 9)
        results = self.results(problems)
        ends = lines.new_tensor([self.vocabulary.index(character) for character in ";\n"]).expand(*lines.shape[:-1], 2)
        digits = lines[..., -1:] + DIGITS
        ids = torch.cat([lines[..., :-1], digits, results, ends], -1)  # (..., n, 14)
        ids = ids.masked_fill(~is_shown, PADDING)
        ids[..., -1, LINE:] = PADDING  # what is asked for
        to_go = (ids != PADDING).flatten(-2).flip(-1).cumsum(-1).flip(-1).view(ids.shape)  # tokens from each one on
        is_whole = to_go[..., :1] <= self.prompt_length
        is_cut = (problems[..., 0] == CUT)[..., None, None]
        ids = ids.masked_fill(torch.where(is_cut, to_go > self.prompt_length, ~is_whole), PADDING)
        return left_aligned([ids.flatten(-2)])[..., : self.prompt_length]

    def results(self, problems: Tensor) -> Tensor:
        """Return the ids of the results of the lines after the first, (..., n, 3); PADDING follows."""
        lines = lines_of(problems)
        actions, letters, before = lines[..., 1:, -1:], lines[..., 1:, :-1], lines[..., :-1, :-1]
        source = torch.where(copies_line_before(actions), before, letters)
        kind = (actions - 1) % 4
        start = torch.where(kind % 2 == 1, (source != PADDING).sum(-1, keepdim=True) - NUM_COPIED, 0)
        index = start.clamp(min=0) + torch.arange(NUM_COPIED, device=lines.device)
        copied = source.gather(-1, index.long()) + SHIFTED * (kind >= 2)
        z = torch.tensor([NOTHING_BUT_Z, PADDING, PADDING], dtype=lines.dtype, device=lines.device)
        return torch.where(actions == 0, PADDING, torch.where(actions == 9, z, copied)).to(lines.dtype)

    def answers(self, problems: Tensor) -> Tensor:
        last = torch.cat([problems[..., :1], problems[..., -2 * LINE :]], -1)
        results = self.results(last)[..., 0, :]
        stop = results.new_full((*results.shape[:-1], 1), self.vocabulary.index(";"))
        return left_aligned([results, stop])

    def encode_prompt(self, text: str) -> list[int]:
        """Return the ids of a prompt of at most 60 characters: a line up to its action, after others.

        The first line may be cut. Actions 5 to 8 need a whole line before.
        """
        is_prompt = len(text) <= self.prompt_length and PROMPT.fullmatch(text)
        if not is_prompt or (text[-1] in "5678" and not re.search(r"[a-f]{4,8}[0-9][a-lz]*;\n[a-f]*[0-9]$", text)):
            return []
        return [self.vocabulary.index(character) for character in text]

    def sentence(self, problem: Tensor, answer: str) -> str:
        text = "".join(self.vocabulary[i] for i in self.prompts(problem).tolist() if i != PADDING)
        before, line = (["", *text.split("\n")])[-2:]
        after = f" after {before!r}" if before else ""
        return f"{line!r}{after}: got {answer!r}, expected {self.decode_completion(self.answers(problem).tolist())!r}"

    # -------------------------------------------------------------------------
    # which problems

    def is_heldout(self, problems: Tensor) -> Tensor:
        before, line = lines_of(problems)[:, -2:].unbind(1)
        return is_heldout_after(before, line)

    def draw_stream(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw the lines of a text, (count, 9) int8, none of which is held out after the line before."""
        lines = random_lines(count + count // 7 + 64, generator)  # about a ninth is dropped
        while True:
            is_heldout = is_heldout_after(lines[:-1], lines[1:])
            if is_heldout.any():
                lines = lines[F.pad(~is_heldout, (1, 0), value=True)]
            elif len(lines) < count:
                lines = torch.cat([lines, random_lines(count, generator)])
            else:
                return lines[:count]

    def draw_training(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw training problems as they are asked, (count, W) int8, half of them in each way."""
        lines = self.draw_stream(count * (MOST_EARLIER + 2), generator).view(count, MOST_EARLIER + 2, LINE)
        return problems_of(lines, generator)

    @cached_property
    def test_problems(self) -> Tensor:
        """The problems of the certificate, (20,000, W) int8: by action, first those with whole lines."""
        generator = torch.Generator().manual_seed(TEST_SEED)
        count = 2 * ASKED_OF_EACH
        kept = [torch.empty(0, 2, LINE, dtype=torch.int8)] * NUM_ACTIONS
        while min(map(len, kept)) < count:
            drawn = random_lines(2**18, generator).view(-1, 2, LINE)
            drawn = drawn[is_heldout_after(drawn[:, 0], drawn[:, 1])]
            kept = [torch.cat([kept[action], drawn[drawn[:, 1, -1] == action]]) for action in range(NUM_ACTIONS)]
        last = torch.cat([lines[:count] for lines in kept])
        earlier = random_lines(len(last) * MOST_EARLIER, generator).view(-1, MOST_EARLIER, LINE)
        problems = problems_of(torch.cat([earlier, last], 1), generator)
        problems[:, 0] = torch.arange(len(problems)) % count >= ASKED_OF_EACH
        return problems

    def test_set(self, seed: int) -> Tensor:
        """Return the same problems for each seed."""
        return self.test_problems

    @cached_property
    def sets(self) -> dict[str, Tensor]:
        """Fixed samples: as many training problems as the test set has problems, and the test set."""
        generator = torch.Generator().manual_seed(LIST_SEED)
        return {"train": self.draw_training(len(self.test_problems), generator), "heldout": self.test_problems}

    def groups(self, problems: Tensor) -> dict[str, Tensor]:
        return {
            f"action {action}, {name}": (problems[:, -1] == action) & (problems[:, 0] == way)
            for way, name in ((WHOLE, "whole lines"), (CUT, "cut"))
            for action in range(NUM_ACTIONS)
        }

    # -------------------------------------------------------------------------
    # verdict

    def errors_of_actions(self, results: DecodedProblems) -> list[tuple[int, int]]:
        """Return the errors and the number of problems of each action in each way of asking."""
        members = self.groups(results.problems).values()
        return [(int((~results.right[group]).sum()), int(group.sum())) for group in members if group.any()]

    def measures(self, results: DecodedProblems, loss: Callable[[Batch], float | None]) -> dict[str, float | None]:
        """Return the largest share of errors of an action in a way of asking, and its one-sided 95% upper bound."""
        errors, problems = max(self.errors_of_actions(results), key=lambda count: count[0] / count[1])
        upper = clopper_pearson_upper(errors, problems)
        return {"largest share of errors of an action": errors / problems, "its upper bound, 95%": upper}

    def named_targets(self, results: DecodedProblems) -> dict[str, bool]:
        """Return whether each action is above 70%, the published log's own target, and whether all are right."""
        shares = [errors / problems for errors, problems in self.errors_of_actions(results)]
        return {"each above 70%": max(shares) < 0.3, "100%": max(shares) == 0}


def lines_of(problems: Tensor) -> Tensor:
    """Return the lines (..., n, 9) of problems (..., 1 + 9 n)."""
    return problems[..., 1:].unflatten(-1, (-1, LINE))


def copies_line_before(actions: Tensor) -> Tensor:
    """Return which actions (...) copy letters of the line before."""
    return (actions >= 5) & (actions < 9)


def random_lines(count: int, generator: torch.Generator) -> Tensor:
    """Draw lines (count, 9) int8: lengths, letters and actions are uniform."""
    device = generator.device
    letters = torch.randint(NUM_LETTERS, (count, LINE), generator=generator, device=device, dtype=torch.int8)
    lengths = torch.randint(4, MOST_LETTERS + 1, (count, 1), generator=generator, device=device)
    lines = letters.masked_fill_(torch.arange(LINE, device=device) >= lengths, PADDING)
    lines[:, -1] = torch.randint(NUM_ACTIONS, (count,), generator=generator, device=device, dtype=torch.int8)
    return lines


def problems_of(lines: Tensor, generator: torch.Generator) -> Tensor:
    """Return problems (N, 1 + 9 * 12) of lines (N, 12, 9), of which 1 to 10 earlier ones are shown, in either way."""
    count, n, _ = lines.shape
    shown = torch.randint(1, MOST_EARLIER + 1, (count, 1), generator=generator, device=lines.device)
    is_blank = torch.arange(n, device=lines.device) < n - 2 - shown
    lines = lines.masked_fill(is_blank[..., None], PADDING)
    ways = torch.randint(2, (count, 1), generator=generator, device=lines.device, dtype=lines.dtype)
    return torch.cat([ways, lines.flatten(1)], 1)


def is_heldout_after(before: Tensor, lines: Tensor) -> Tensor:
    """Return which lines (n, 9) are held out after the lines `before` (n, 9), (n,) bool."""
    powers = 7 ** torch.arange(MOST_LETTERS, device=lines.device)
    number, number_before = (((line[:, :-1].long() + 1) * powers).sum(1) for line in (lines, before))
    return hash_fraction([number, lines[:, -1].long(), number_before]) < HELDOUT_SHARE
