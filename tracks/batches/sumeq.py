"""Training texts of the track of sum equalities: whole lines, in any order."""

from functools import cached_property

import torch
from torch import Tensor

from tracks.base import PADDING, Batch, whole_texts
from tracks.batches.problems import ListBatches, list_sampler
from tracks.batches.sampling import LevelSampler, Sampler
from tracks.orders import draw_orders, in_order
from tracks.sumeq import SOURCE_PROMPT, TEXT_LENGTH

NUMBER_PARTS = (1, 2, 4, 5)  # of `Sumeq.parts`
PAD_PART = 6


class SumeqBatches(ListBatches):
    """Whole lines, in the order of the setting `order`. Evaluations are from left to right.

    The two levels are lines of which one number ends in the digit 0, and lines of which more do: there, the last
    digits of fewer numbers depend on each other.
    """

    draws_parts = True

    @cached_property
    def sampler(self) -> Sampler:
        if self.options.sampling == "independent" and self.options.level_share:
            rows = self.track.sets["train"]
            levels = (rows[:, :4] % 10 == 0).sum(1).clamp(max=2) - 1
            return LevelSampler(rows, levels, self.options.level_share, self.device)
        return list_sampler(self.track.sets["train"], self.options.sampling, self.device)

    @property
    def is_uniform(self) -> bool:
        return self.options.order == "left-to-right" and self.options.loss_on == "all"

    @property
    def fields(self) -> tuple[str, ...]:
        mask = ("loss_mask",) if self.options.loss_on == "answer" else ()
        positions = () if self.options.order == "left-to-right" else ("positions", "next_positions")
        return ("targets", *mask, *positions)

    @property
    def training_length(self) -> int:
        return TEXT_LENGTH

    @property
    def answer_start(self) -> int:
        return SOURCE_PROMPT if self.track.padded else len("0+0==")

    def draw(
        self, num_batches: int, batch_size: int, generator: torch.Generator, replayed: Tensor, share: float
    ) -> Batch:
        problems = self.draw_problems(num_batches, batch_size, generator, replayed, share)
        if self.options.order == "left-to-right":
            return self.batch(problems, self.options.loss_on)
        parts = self.track.parts(problems)
        if self.options.order == "number-last":
            order = draw_number_last(parts, generator)
        else:
            order = draw_orders(self.options.order, problems.shape[:-1], TEXT_LENGTH, generator)
        batch = in_order(self.track.tokens(problems), order)
        if self.options.loss_on == "all":
            return batch
        return batch._replace(loss_mask=draw_loss_mask(parts, order, self.options.earlier_loss, generator))

    def batch(self, problems: Tensor, loss_on: str = "answer") -> Batch:
        """Return the texts of problems (..., 5) as a batch (..., 15) from left to right."""
        batch = whole_texts(self.track.tokens(problems))
        if loss_on == "all":
            return batch
        lengths = (self.track.prompts(problems) != PADDING).sum(-1, keepdim=True)  # tokens of the prompt
        num_targets = (self.track.answers(problems) != PADDING).sum(-1, keepdim=True)
        place = torch.arange(1, TEXT_LENGTH, device=problems.device)  # of the targets
        return batch._replace(loss_mask=(place >= lengths) & (place < lengths + num_targets))


def draw_number_last(parts: Tensor, generator: torch.Generator) -> Tensor:
    """Draw orders (..., 16): the positions of a text in ascending order, but for one of its numbers, which is last.

    `parts` (..., 16) are those of `Sumeq.parts`. Each number is equally likely. If it is the last one of the text, PAD
    follows it, and the order is from left to right.
    """
    drawn = torch.randint(4, (*parts.shape[:-1], 1), generator=generator, device=parts.device)
    last = torch.tensor(NUMBER_PARTS, device=parts.device)[drawn]
    is_last = (parts == last) | ((parts == PAD_PART) & (last == NUMBER_PARTS[-1]))
    return is_last.long().sort(dim=-1, stable=True).indices


def draw_loss_mask(parts: Tensor, order: Tensor, earlier_loss: float, generator: torch.Generator) -> Tensor:
    """Draw which targets have a loss, (..., 15) bool in the order of generation (..., 16).

    `parts` (..., 16) are those of `Sumeq.parts`, in text order. The number that is completed last has a loss, the one
    before it with the probability `earlier_loss`, and everything else with its square. PAD belongs to the last number
    of the text, and has a loss only at its first position. Targets before `Batches.query_start` have none.
    """
    place = torch.arange(TEXT_LENGTH, device=parts.device)
    in_order = parts.gather(-1, order)
    ends = torch.stack([(place * (in_order == part)).amax(-1) for part in NUMBER_PARTS], -1)  # (..., 4)
    rank = ends.argsort(-1, descending=True).argsort(-1)  # 0: completed last
    a, b, c, d = (earlier_loss ** rank.clamp(max=2).double()).unbind(-1)
    rest = torch.full_like(a, earlier_loss**2)
    chance = torch.stack([rest, a, b, rest, c, d, d], -1)  # of each part
    has_loss = torch.rand(chance.shape, generator=generator, device=parts.device) < chance
    is_later_pad = order > (parts < PAD_PART).sum(-1, keepdim=True)
    return (has_loss.gather(-1, in_order) & ~is_later_pad)[..., 1:]
