"""Texts with blanks, which a model fills in an order that is given."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bench.attempt.answers import TextReplies
from bench.errors import UsageError
from bench.judge.decoding import next_token
from data import PADDING, Decoding, Track
from model import Transformer
from tracks.orders import draw_orders

BLANK = "?"  # stands for one character


@torch.inference_mode()
def fill_blanks(
    next_logits: Callable[..., Tensor], ids: Tensor, order: Tensor, decoding: Decoding, generator: torch.Generator
) -> Tensor:
    """Return a text (T,) int64 in which the tokens of its blanks, PADDING in `ids` (T,), are generated.

    `order` (T,) int64 is a permutation of the positions. The known tokens come first, then the blanks, both in this
    order. The first token must be known. A blank never becomes the stop token. `next_logits` takes ids, positions and
    next positions (1, n); see `model.Transformer.answerer`.
    """
    is_blank = ids[order] == PADDING
    order = torch.cat([order[~is_blank], order[is_blank]])
    text, num_known = ids[order], int((~is_blank).sum())
    for n in range(num_known, len(text)):
        logits = next_logits(text[None, :n], order[None, :n], order[None, 1 : n + 1])
        if decoding.stop_token is not None:
            logits[:, decoding.stop_token] = -torch.inf
        text[n] = next_token(logits, decoding, generator)
    return torch.empty_like(text).scatter(0, order, text)


class Blanks(TextReplies):
    """Texts with `?` for some characters, which are filled in."""

    refused = "not fit for"

    def __init__(
        self, model: Transformer, track: Track, texts: Sequence[str], device: torch.device, order: str
    ) -> None:
        """`order` is one of the setting `order`, by default of training. With alternating orders, the blanks at the
        beginning of a text are filled from right to left, others from left to right; with the order number-last, all
        from left to right.

        Raises UsageError for an order that the model was not trained for.
        """
        if order != "left-to-right" and not model.config.any_order:
            raise UsageError(f"--order {order}: these weights were trained from left to right only; leave it out")
        self.order = order
        super().__init__(model, track, texts, device)

    def encode(self, text: str) -> list[int] | str:
        if BLANK not in text:
            return f"has no blank: write {BLANK} for each character to fill in, or ask problems in another command"
        try:
            ids = self.track.encode_blanks(text)
        except ValueError as problem:
            return f"is no text of {self.track.name} with blanks: {problem}"
        if not self.model.config.any_order and text.rstrip(BLANK).count(BLANK):
            return (
                "has a blank before a known character; weights trained from left to right only fill blanks at the end"
            )
        return ids

    def reply(self, ids: list[int]) -> str:
        length = len(ids) if self.model.config.any_order else max(i for i, token in enumerate(ids) if token < 0) + 1
        order = self.order
        if order == "number-last":
            order = "left-to-right"
        elif order == "alternating":
            order = "right-to-left" if ids[1] == PADDING else "left-to-right"
        positions = draw_orders(order, (), length, self.generator)
        text = torch.tensor(ids[:length], device=self.device)
        filled = fill_blanks(self.model.answerer(), text, positions, self.decoding, self.generator)
        return self.track.decode_completion(filled.tolist())
