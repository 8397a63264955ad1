"""Margins of many answers of a one-layer model: attention's sums over parts that texts have in common.

In the first layer, keys and values depend on position and token alone, and numerator and denominator of softmax
attention are sums over positions. For a query, which is a position and a token, the sums over a part of a text are the
same in all texts that have this part. They are computed for each distinct part, and looked up for each text.

Shapes: as in forward.py; N texts of T + 1 tokens, D distinct contents of a part.
"""

import itertools
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.judge.forward import Model
from bench.judge.margins import token_margins
from bench.machine.cpu import level2_cache_bytes

MOST_CONTENTS = 2**16  # possible contents of a part, so that those that occur are found by counting
LOOKUPS_PER_ROW = 4  # answers for each computed row, from which on rows pay
MOST_SPREAD = 60.0  # of a query's scores; beside exp(-60), what underflows in float32 is lost in rounding
CACHE_BYTES_PER_TEXT = 128  # as many texts as have this much of a core's cache are computed at once
USUAL_CACHE_BYTES = 2**20
TASK_TEXTS = 2**15  # of a thread's task


def supports(model: Model) -> bool:
    """Whether keys and values depend on position and token alone, and the model is on a CPU."""
    config = model.config
    kind = config["n_layer"], config["position_encoding"], config["bigrams"], config["any_order"]
    return kind == (1, "learned", False, False) and model.weights["token"].device.type == "cpu"


def answer_margins(model: Model, tokens: Tensor, query_start: int) -> Tensor:
    """Return the margins of the tokens after position `query_start`, given the right tokens before each.

    `tokens` (N, T + 1) are ids of any integer type: prompts with their right answers. A margin is a token's logit less
    the largest logit of the others; the result is (N, T - query_start) in the model's dtype. Greedy decoding of a
    prompt makes its first error at the first token whose margin is not above 0, up to ties.

    Models and texts for which sharing does not pay go through `Model.logits`. Otherwise as many threads compute as
    torch is set to use. Raises ValueError for texts without an answer or too long, and ids outside the vocabulary.
    """
    if not 0 <= query_start < tokens.size(1) - 1:
        raise ValueError(f"texts of {tokens.size(1)} tokens have no answer after position {query_start}")
    if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < model.vocab_size:
        raise ValueError(f"a text holds an id outside the model's vocabulary of {model.vocab_size}")
    model.check_length(tokens.size(1) - 1)
    margins = SharedPrefixes(model, tokens, query_start).margins() if supports(model) else None
    return plain_margins(model, tokens, query_start) if margins is None else margins


def plain_margins(model: Model, tokens: Tensor, query_start: int) -> Tensor:
    """As `answer_margins`, by `Model.logits`."""
    texts = (part.long() for part in tokens.split(max(1, model.batch_tokens // tokens.size(1))))
    return torch.cat(
        [token_margins(model.logits(ids[:, :-1], query_start), ids[:, query_start + 1 :]) for ids in texts]
    )


def logit_leads(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the logits of targets (n,) int64 less the largest of the others, (n,), from logits (V, n)."""
    right = logits.gather(0, targets[None])
    return (right - logits.scatter_(0, targets[None], -torch.inf).amax(0))[0]


def part_edges(query_start: int, position: int, vocab_size: int) -> list[tuple[int, int]]:
    """Split the positions 0..position into parts; return the first position of each and the one after its last.

    A part has at most MOST_CONTENTS possible contents, or one token. The prompt, up to `query_start`, is split into
    parts of equal lengths, the answer after it into as few as possible.
    """
    longest = max(1, int(math.log(MOST_CONTENTS, max(2, vocab_size))))
    prompt = query_start + 1
    count = -(-prompt // longest)
    starts = [prompt * i // count for i in range(count)] + list(range(prompt, position + 1, longest))
    return list(itertools.pairwise([*starts, position + 1]))


class Part(NamedTuple):
    """The same positions of all texts."""

    contents: Tensor  # (D, length) int64, the distinct ones, as rows position * V + token
    numbers: Tensor  # (N,) int32, which of them each text has


class Query(NamedTuple):
    """A position and a token, and what does not depend on the rest of the text."""

    position: int
    x: Tensor  # (C,), the residual stream before the layer
    texts: Tensor  # (n,) int64, the texts that have the token there
    sums: Tensor | None  # (sum of D, 2 C), numerators and denominators of all parts; None if they may underflow


class SharedPrefixes:
    """The texts `tokens` (N, T + 1) of a model that `supports` is true for; see `answer_margins`."""

    def __init__(self, model: Model, tokens: Tensor, query_start: int) -> None:
        self.model, self.query_start = model, query_start
        self.columns = torch.stack(tokens.unbind(1))  # (T + 1, N)
        self.T, self.N, self.V = len(self.columns) - 1, len(tokens), model.vocab_size

    def margins(self) -> Tensor | None:
        """Return the margins (N, Q), or None if they are better computed by the plain forward pass.

        That is the case where few texts have a part in common, and where attention scores are so far apart that a sum
        may underflow, whose terms are small in this text and large in others.
        """
        positions = range(self.query_start, self.T)
        edges = {position: part_edges(self.query_start, position, self.V) for position in positions}
        distinct = list(dict.fromkeys(itertools.chain(*edges.values())))
        with single_threaded_pool() as pool:
            found = dict(zip(distinct, pool.map(self.find_part, distinct), strict=True))
            self.parts = {position: [found[edge] for edge in edges[position]] for position in positions}
            self.occurs = torch.zeros(self.T, self.V, dtype=torch.bool)
            for part in self.parts[self.T - 1]:
                self.occurs.view(-1)[part.contents] = True
            pairs = [pair for pair in self.occurs.nonzero().tolist() if pair[0] >= self.query_start]
            rows = self.T * self.V + sum(len(part.contents) for position, _ in pairs for part in self.parts[position])
            if rows * LOOKUPS_PER_ROW > self.N * len(positions):
                return None
            self.rows = dict(zip(positions, pool.map(self.find_rows, positions), strict=True))
            self.project()
            queries = list(pool.map(self.query, pairs))
            if any(query.sums is None for query in queries):
                return None
            self.result = torch.empty(len(positions), self.N, dtype=self.model.dtype)
            tasks = [(query, texts) for query in queries for texts in query.texts.split(TASK_TEXTS)]
            list(pool.map(self.compute, tasks))
        # Where a lead is infinite or not a number, a logit is: an overflow is no right answer.
        return self.result.nan_to_num_(nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf).mT

    def find_part(self, edge: tuple[int, int]) -> Part:
        """Find the distinct contents of the positions from edge[0] to edge[1], without the last."""
        start, end = edge
        code = self.columns[start].int()  # a number for each possible content
        for column in self.columns[start + 1 : end]:
            code = code * self.V + column
        occurs = torch.bincount(code) > 0
        powers = self.V ** torch.arange(end - start - 1, -1, -1)
        tokens = occurs.nonzero() // powers % self.V  # (D, length)
        return Part(torch.arange(start, end) * self.V + tokens, (occurs.cumsum(0, dtype=torch.int32) - 1)[code])

    def find_rows(self, position: int) -> Tensor:
        """Find the parts' contents of each text up to a position among the rows of `Query.sums`, (N, parts) int32."""
        parts = self.parts[position]
        starts = itertools.accumulate((len(part.contents) for part in parts[:-1]), initial=0)
        return torch.stack([part.numbers + start for part, start in zip(parts, starts, strict=True)], 1)

    def project(self) -> None:
        """Compute residual stream (T, V, C), queries, keys and values (T, V, nh, hs) of all positions and tokens."""
        ids = torch.arange(self.V)[:, None].expand(-1, self.T)
        self.x = self.model.embed(ids, torch.arange(self.T)[None], None).transpose(0, 1)
        inputs = self.model.attention_input(self.x, 0)
        self.queries, self.keys, self.values = (self.model.project(inputs, 0, i) for i in range(3))

    def query(self, pair: tuple[int, int]) -> Query:
        """Compute the sums over all distinct parts for a query, a position and a token."""
        position, token = pair
        texts = (self.columns[position] == token).nonzero()[:, 0]
        query, keys, values = self.queries[position, token], self.keys[: position + 1], self.values[: position + 1]
        scores = (keys * query).sum(-1) / math.sqrt(query.size(-1))  # (position + 1, V, nh)
        bound = scores.masked_fill(~self.occurs[: position + 1, :, None], -torch.inf).amax((0, 1))  # (nh,)
        # Every text has the query's own key. If its weight is not tiny, no sum underflows.
        if not (bound - scores[position, token] <= MOST_SPREAD).all():  # nor is NaN
            return Query(position, self.x[position, token], texts, None)
        weights = (scores - bound).exp()[..., None].expand_as(values)  # the same in all channels of a head
        terms = torch.cat([(weights * values).flatten(2), weights.flatten(2)], -1).flatten(0, 1)  # (rows, 2 C)
        sums = [F.embedding_bag(part.contents, terms, mode="sum") for part in self.parts[position]]
        return Query(position, self.x[position, token], texts, torch.cat(sums))

    @torch.inference_mode()
    def compute(self, task: tuple[Query, Tensor]) -> None:
        """Compute the margins after a query in some of its texts."""
        query, task_texts = task
        assert query.sums is not None
        model, C = self.model, query.x.size(0)
        for texts in task_texts.split((level2_cache_bytes() or USUAL_CACHE_BYTES) // CACHE_BYTES_PER_TEXT):
            sums = F.embedding_bag(self.rows[query.position].index_select(0, texts), query.sums, mode="sum")
            x = model.after_attention(query.x, sums[:, :C] / sums[:, C:], 0)
            targets = self.columns[query.position + 1][texts].long()
            logits = model.head_columns(model.norm(x, "norm"))
            self.result[query.position - self.query_start, texts] = logit_leads(logits, targets)


@contextmanager
def single_threaded_pool() -> Iterator[ThreadPoolExecutor]:
    """Threads, as many as torch uses within an operation, each of which computes its operations alone.

    Operations on tensors that fit into a core's cache are too short to be split among threads.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # also of threads that are started later
    try:
        with ThreadPoolExecutor(threads) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)
