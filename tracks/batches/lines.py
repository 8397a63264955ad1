"""Training batches of tracks of lines."""

from abc import abstractmethod
from functools import cached_property

import torch
from torch import Tensor

from tracks.base import PADDING, Batch
from tracks.batches.problems import ProblemBatches, drawn_windows
from tracks.padding import left_aligned, moved, places_without_padding


class LineBatches(ProblemBatches):
    """Texts of several lines, drawn anew for each step; or windows of one fixed text, by the setting `window`.

    Each line is a problem of the track with its answer and a line break. Half of the texts, and those that replay a
    problem, begin with a line, the others anywhere in one, and all end after `text_tokens` tokens, so that few
    positions are padding. All padding is on the right, where no other token attends to it: attention needs no mask of
    each text.
    """

    draws_parts = True
    lines_per_text: int
    text_tokens: int  # T + 1

    @property
    def fields(self) -> tuple[str, ...]:
        return ("targets",) if self.options.window else ("targets", "loss_mask")

    @property
    def training_length(self) -> int:
        return (self.options.window or self.text_tokens - 1) + 1

    @property
    def query_start(self) -> int:
        return 0

    @property
    def answer_start(self) -> int:
        """The place in a batch at which the first token of the answer to the shortest prompt is predicted."""
        length: int = self.track.shortest_prompt
        return length - 1

    @abstractmethod
    def draw_lines(self, num_texts: int, generator: torch.Generator) -> Tensor:
        """Draw the lines of texts, (num_texts, lines_per_text, W) of problems that show no earlier line."""

    def is_answerable(self, lines: Tensor, is_whole: Tensor) -> Tensor:
        """Return whether a text tells the answers of its lines (num_texts, lines_per_text, W), (…, lines_per_text).

        `is_whole` (num_texts, lines_per_text) says of which lines it holds the first token.
        """
        return is_whole

    def with_replayed(self, lines: Tensor, problems: Tensor) -> Tensor:
        """Return the lines (..., lines_per_text, W) of texts with problems (..., W) among them; here unchanged."""
        return lines

    @property
    @abstractmethod
    def fixed_lines(self) -> Tensor:
        """The lines of the fixed text, (n, W)."""

    @cached_property
    def text(self) -> Tensor:
        """The fixed text, (tokens,) ids."""
        ids = self.line_tokens(self.fixed_lines.to(self.device))[0]
        return ids[ids != PADDING]

    def line_tokens(self, lines: Tensor) -> tuple[Tensor, Tensor]:
        """Return the ids of whole lines (..., L) of problems (..., W), and which are an answer's, (..., L) bool."""
        prompts, answers = self.track.prompts(lines), self.track.answers(lines)
        ends = answers.new_full((*answers.shape[:-1], 1), self.track.vocabulary.index("\n"))
        is_answer = [torch.zeros_like(prompts, dtype=torch.bool), answers != PADDING, torch.zeros_like(ends).bool()]
        return torch.cat([prompts, answers, ends], -1), torch.cat(is_answer, -1)

    def draw(
        self, num_batches: int, batch_size: int, generator: torch.Generator, replayed: Tensor, share: float
    ) -> Batch:
        if self.options.window:
            return drawn_windows(self.text, (num_batches, batch_size), self.options.window + 1, generator)
        lines = self.draw_lines(num_batches * batch_size, generator)
        num_replayed = round(batch_size * share) if len(replayed) else 0
        if num_replayed:
            texts = lines.view(num_batches, batch_size, *lines.shape[1:])[:, :num_replayed]  # a view
            index = torch.randint(len(replayed), texts.shape[:2], generator=generator, device=self.device)
            texts.copy_(self.with_replayed(texts, replayed[index]))
        ids, is_answer = self.line_tokens(lines)
        lengths = (ids != PADDING).sum(-1)
        cut = torch.rand(len(lines), generator=generator, device=self.device) * 2 - 1  # share of the first line
        cut.view(num_batches, batch_size)[:, :num_replayed] = 0
        first = (cut * lengths[:, 0]).long().clamp(min=0)[:, None]  # the token of the first line that begins the text
        if self.options.loss_on == "answer":
            starts = lengths.cumsum(1) - lengths
            is_target = is_answer & self.is_answerable(lines, starts >= first)[..., None]
        else:
            is_target = ids != PADDING
        ids, is_target = ids.flatten(1), is_target.flatten(1)
        places = places_without_padding(ids != PADDING) - first
        places = places.where((places >= 0) & (places < self.text_tokens), ids.size(1))
        shape = num_batches, batch_size, -1
        texts, is_target = (
            moved(field, places)[:, : self.text_tokens].view(shape) for field in (ids, is_target.to(ids.dtype))
        )
        return right_padded(texts, is_target > 0)

    def batch(self, problems: Tensor, loss_on: str = "answer") -> Batch:
        prompts, answers = self.track.prompts(problems), self.track.answers(problems)
        texts = left_aligned([prompts, answers])
        lengths, ends = ((part != PADDING).sum(-1, keepdim=True) for part in (prompts, texts))
        texts = texts[..., : int(ends.amax())]
        start = lengths if loss_on == "answer" else 1
        return right_padded(texts, (texts != PADDING) & (torch.arange(texts.size(-1), device=texts.device) >= start))


def right_padded(texts: Tensor, is_target: Tensor) -> Batch:
    """Return texts (..., T + 1) that end in PADDING as a batch; `is_target` says which tokens have a loss."""
    texts = texts.clamp(min=0)
    return Batch(texts[..., :-1], texts[..., 1:], is_target[..., 1:])
