"""The certificate: the judge computes a model's answers to the track's test set, and counts the wrong ones.

The model is the real-valued function of its stored weights. It is computed in float32, and in float64 where the outcome
is close.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from bench.judge import forward
from bench.judge.decoding import NextLogits, complete_all
from bench.judge.margins import ASK_AGAIN_ABOVE, ASK_AGAIN_BELOW, SMALLEST_MARGIN, histogram, problem_margins
from bench.judge.shared_prefixes import answer_margins
from bench.stats.descriptive import clopper_pearson_upper
from bench.storage.schema import Certificate, Count
from tracks.base import Batch, DecodedProblems, Track

Report = Callable[[float], None]  # called with the share of the problems that are done, 0..1


class Model(Protocol):
    """A model in one precision on one device, such as `forward.Model`."""

    @property
    def logits(self) -> Callable[..., Tensor]:
        """Maps ids (B, T) and the first position with a query to the logits (B, T - query_start, V) that follow."""

    @property
    def next_logits(self) -> Callable[[], NextLogits]:
        """Returns a function to the logits of the token after the last one, with key and value caches."""

    @property
    def batch_tokens(self) -> int:
        """The number of tokens to compute at once."""


Models = Callable[[torch.dtype], Model]


class Answers(NamedTuple):
    """What a model answers to N problems; all on the CPU."""

    completions: Tensor  # (N, A) ids, after which PADDING follows; a wrong one may not be decoded: see there
    right: Tensor  # (N,) bool
    margins: Tensor | None  # (N,) float64 of tracks with one right answer, float32 ones included
    asked_again: int  # problems that were computed in float64, too


def certify(
    models: Models,
    track: Track,
    device: torch.device,
    seed: int,
    num_sentences: int = 10,
    report: Report = lambda done: None,
    is_plain: bool = False,
) -> tuple[Certificate, list[str]]:
    """Grade the model's answers to the track's test set, which holds every problem if they can be listed.

    Args:
        models: returns the model in float32 or float64; it is called once for each.
        device: of the models.
        seed: draws the test set if it does not hold every problem, and the tokens if the track samples them.
        is_plain: compute every text for itself, without the sums that texts of a one-layer model share.

    Also returns sentences about the first `num_sentences` mistakes.
    """
    models = functools.cache(models)
    torch.set_float32_matmul_precision("highest")  # a trainer in this process may have chosen less
    test_set, samples = track.test_set(seed), track.samples
    problems = torch.cat([test_set, *samples.values()])
    if has_margins(track):
        answers = answers_with_margins(models, track, problems.to(device), num_sentences, report, is_plain)
    else:
        answers = answers_by_decoding(models, track, problems, device, seed, report)
    completions, right, margins, asked_again = answers
    wrong, *wrong_samples = (~right).split([len(test_set), *map(len, samples.values())])

    def count(mistakes: Tensor) -> Count:
        """Counts of (n,) bool, one per problem."""
        return Count(problems=len(mistakes), errors=int(mistakes.sum()))

    results = DecodedProblems(test_set, completions[: len(test_set)], right[: len(test_set)])
    total, heldout = count(wrong), count(wrong[track.is_heldout(test_set)])
    rate = total.errors / max(1, total.problems)
    tested = None if margins is None else margins[: len(test_set)]
    certificate = Certificate(
        problems=total.problems,
        errors=total.errors,
        heldout_problems=heldout.problems,
        heldout_errors=heldout.errors,
        groups={name: count(wrong[mask]) for name, mask in track.groups(test_set).items()},
        samples={name: count(mistakes) for name, mistakes in zip(samples, wrong_samples, strict=True)},
        exhaustive=track.exhaustive,
        error_rate_upper_95=rate if track.exhaustive else clopper_pearson_upper(total.errors, total.problems),
        measures=track.measures(results, functools.partial(mean_loss, models(torch.float32), device)),
        limits=dict(track.limits),
        may_have_errors=track.may_have_errors,
        has_target=track.has_target,
        targets=track.named_targets(results),
        smallest_margin=None if tested is None or not len(tested) else finite(float(tested.min())),
        asked_again=asked_again,
        margins=None if tested is None else histogram(tested),
    )
    first = wrong.nonzero()[:num_sentences, 0].tolist()
    return certificate, [mistake_sentence(track, test_set[i], completions[i], tested, i) for i in first]


def has_margins(track: Track) -> bool:
    """Whether the margins of the answers decide: each problem has one right answer, and the verdict depends on it."""
    return track.has_one_answer and track.grades_decide


def mistake_sentence(track: Track, problem: Tensor, completion: Tensor, margins: Tensor | None, index: int) -> str:
    """Describe a mistake; a right completion that counts as an error has too small a margin."""
    sentence = track.sentence(problem, track.decode_completion(completion.tolist()))
    if margins is None or not bool(track.grade(problem[None], completion[None])):
        return sentence
    return f"{sentence}, by a margin of {float(margins[index]):.1e}; it must be {SMALLEST_MARGIN:g}"


def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


# -----------------------------------------------------------------------------
# one right answer: margins


def answers_with_margins(
    models: Models, track: Any, problems: Tensor, num_sentences: int, report: Report, is_plain: bool = False
) -> Answers:
    """Compute the margins of the right answers; those close to 0 again in float64.

    Only wrong answers are decoded: all of them where the track reads completions, else those that are described.
    """
    model = models(torch.float32)
    margins = margins_of(model, track, problems, report, is_plain)
    close = ((margins > ASK_AGAIN_ABOVE) & (margins < ASK_AGAIN_BELOW)).nonzero()[:, 0]
    if len(close):
        margins[close] = margins_of(models(torch.float64), track, problems[close], report, is_plain=True)
    completions = track.answers(problems)
    decoded = (margins <= 0).nonzero()[:, 0]
    if not track.reads_completions:
        decoded = decoded[:num_sentences]
    if len(decoded):
        batch_size = max(1, model.batch_tokens // track.description.block_size)
        prompts = track.prompts(problems[decoded])
        ids = complete_all(model.next_logits(), prompts, track.decoding, batch_size)
        completions[decoded] = ids.to(completions.dtype)
    return Answers(completions.cpu(), (margins >= SMALLEST_MARGIN).cpu(), margins.cpu(), len(close))


def margins_of(model: Model, track: Any, problems: Tensor, report: Report, is_plain: bool) -> Tensor:
    """Return the margins (N,) float64 of the right answers to problems (N, W)."""
    if not is_plain and track.description.is_one_length and isinstance(model, forward.Model):
        prompts, answers = track.prompts(problems), track.answers(problems)
        texts = torch.cat([prompts, answers], 1)
        return answer_margins(model, texts, prompts.size(1) - 1).amin(1).double()
    return problem_margins(model.logits, track, problems, model.batch_tokens, report)


# -----------------------------------------------------------------------------
# several right answers: decoded twice


def answers_by_decoding(
    models: Models, track: Track, problems: Tensor, device: torch.device, seed: int, report: Report
) -> Answers:
    """Decode and grade in float32, then in float64; a completion is right if both are, and the first one is kept.

    Where the verdict does not depend on the grades, once is enough.
    """
    exact = models(torch.float64 if track.grades_decide else torch.float32)
    batch_size = max(1, exact.batch_tokens // track.description.block_size)  # the same, as samples depend on it
    inputs, times = (track, problems, device, seed, batch_size), 1 + track.grades_decide
    completions, right = decode_and_grade(models(torch.float32), *inputs, lambda done: report(done / times))
    if not track.grades_decide:
        return Answers(completions, right, None, 0)
    _, right_again = decode_and_grade(exact, *inputs, lambda done: report((1 + done) / 2))
    return Answers(completions, right & right_again, None, len(problems))


def decode_and_grade(
    model: Model, track: Track, problems: Tensor, device: torch.device, seed: int, batch_size: int, report: Report
) -> tuple[Tensor, Tensor]:
    """Return the completions (N, A) of problems (N, W), and which are right (N,), both on the CPU."""
    generator, completions, right = torch.Generator(device), [], []
    next_logits, parts = model.next_logits(), problems.split(batch_size)
    for i, part in enumerate(parts):
        report(i / len(parts))
        part = part.to(device)
        generator.manual_seed((seed << 24) + i)  # where a sample differs in float64, later parts do not
        decoded = complete_all(next_logits, track.prompts(part), track.decoding, batch_size, generator)
        completions.append(decoded.to(torch.int32))
        right.append(track.grade(part, completions[-1]).cpu())
    return torch.cat(completions).cpu(), torch.cat(right)


# -----------------------------------------------------------------------------
# losses


@torch.inference_mode()
def mean_loss(model: Model, device: torch.device, batch: Batch) -> float | None:
    """The mean cross-entropy of the targets of a batch, nats; None if it is not finite."""
    size = max(1, model.batch_tokens // batch.tokens.size(-1))
    total, count = 0.0, 0
    fields = (itertools.repeat(None) if field is None else field.split(size) for field in batch)
    for tokens, targets, mask, positions, next_positions in zip(*fields, strict=False):
        more = [None if field is None else field.to(device).long() for field in (positions, next_positions)]
        logits = model.logits(tokens.to(device).long(), 0, None, *more)
        losses = torch.nn.functional.cross_entropy(logits.mT.double(), targets.to(device).long(), reduction="none")
        is_target = torch.ones_like(losses, dtype=torch.bool) if mask is None else mask.to(device)
        total += float(losses[is_target].sum())
        count += int(is_target.sum())
    return total / count if count and math.isfinite(total) else None
