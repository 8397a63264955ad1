"""The certificate of models that are ten lines of Python, compared with loops over single problems."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.attempt.completions import all_completions
from bench.judge import certificate as certificate_module
from bench.judge.certificate import certify, mean_loss
from bench.judge.decoding import complete_all
from bench.judge.forward import Model
from bench.judge.margins import BINS, token_margins
from data import PADDING, TRACKS, Batch, Track, get_track
from tests.support.digits import is_held_out, longest_chain, pairs_of, rows_of
from tests.support.judged import FakeModel, Stepwise, judged_models
from tests.support.models import random_model
from tracks import addition
from tracks.addition import Addition
from tracks.sumeq import PAD

CPU = torch.device("cpu")
ADD1, ADD2 = get_track("add1"), get_track("add2")
SEED = 7


def fake(track: Track, answer: Callable[[str], str], size: float = 4.0) -> Callable[[torch.dtype], Any]:
    """The models in all precisions: their logits spell `answer(prompt)`, and lead by `size`."""
    return lambda dtype: FakeModel(track, answer, size)


def calculator(prompt: str) -> str:
    a, b = prompt.rstrip("=").split("+")
    return f"{int(a) + int(b):0{len(a) + 1}}"


def without_carries(prompt: str) -> str:
    """Adds each digit without carries."""
    a, b = prompt.rstrip("=").split("+")
    return "0" + "".join(str((int(x) + int(y)) % 10) for x, y in zip(a, b, strict=True))


# -----------------------------------------------------------------------------
# counting


def test_a_calculator_makes_no_mistake() -> None:
    certificate, sentences = certify(fake(ADD2, calculator), ADD2, CPU, SEED)
    assert (certificate.problems, certificate.errors) == (10_000, 0)
    assert (certificate.heldout_problems, certificate.heldout_errors) == (996, 0)
    assert {name: (group.problems, group.errors) for name, group in certificate.groups.items()} == {
        "carry 0": (55 * 55, 0),
        "carry 1": (45 * 45 + 55 * 45, 0),
        "carry 2": (45 * 55, 0),
        "10..99": (8100, 0),
    }
    assert certificate.exhaustive
    assert certificate.error_rate_upper_95 == 0.0
    assert sentences == []


def test_errors_are_counted_as_by_a_loop_over_all_problems() -> None:
    certificate, sentences = certify(fake(ADD2, without_carries), ADD2, CPU, SEED)
    wrong = {}
    for a in range(100):
        for b in range(100):
            answer = without_carries(f"{a:02}+{b:02}=")
            if int(answer) != a + b:
                wrong[a * 100 + b] = f"{a} + {b}: got {int(answer)}, expected {a + b}"
    assert certificate.errors == len(wrong) == 10_000 - 55 * 55
    assert certificate.heldout_errors == sum(is_held_out(*divmod(problem, 100), 2) for problem in wrong)
    assert 0 < certificate.heldout_errors < certificate.heldout_problems == 996
    for name, mask in ADD2.groups(ADD2.test_set(SEED)).items():
        assert certificate.groups[name].problems == mask.sum()
        assert certificate.groups[name].errors == sum(bool(mask[problem]) for problem in wrong)
    assert certificate.groups["carry 0"].errors == 0
    assert certificate.error_rate_upper_95 == len(wrong) / 10_000
    assert sentences == list(wrong.values())[:10]
    assert sentences[0] == "1 + 9: got 0, expected 10"


def test_one_wrong_character_at_any_position_is_one_error() -> None:
    def answer(prompt: str) -> str:
        return {"34+12=": "146", "34+13=": "057", "34+14=": "04+"}.get(prompt, calculator(prompt))

    certificate, sentences = certify(fake(ADD2, answer), ADD2, CPU, SEED)
    assert certificate.errors == 3
    assert sentences == [
        "34 + 12: got 146, expected 46",
        "34 + 13: got 57, expected 47",
        "34 + 14: got '04+', expected 48",
    ]


def test_samples_are_counted_by_their_own_problems() -> None:
    class Sampled(Addition):
        samples = {  # noqa: RUF012
            "three": rows_of([(0, 5), (0, 12), (99, 99)], 2),
            "none wrong": rows_of([(0, 0), (0, 1)], 2),
        }

    track: Any = Sampled(TRACKS["add2"], digits=2, reverse=False)

    def answer(prompt: str) -> str:
        return "000" if prompt in ("00+05=", "99+99=", "50+50=") else calculator(prompt)

    certificate, _ = certify(fake(track, answer), track, CPU, SEED)
    assert {name: (c.problems, c.errors) for name, c in certificate.samples.items()} == {
        "three": (3, 2),
        "none wrong": (2, 0),
    }
    assert certificate.errors == 3


@pytest.mark.parametrize("num_sentences", [0, 3, 50])
def test_the_requested_number_of_mistakes_is_described(num_sentences: int) -> None:
    certificate, sentences = certify(fake(ADD1, without_carries), ADD1, CPU, SEED, num_sentences=num_sentences)
    assert certificate.errors == 45
    assert len(sentences) == min(num_sentences, 45)


def test_a_track_without_held_out_problems_counts_none() -> None:
    certificate, _ = certify(fake(ADD1, without_carries), ADD1, CPU, SEED)
    assert (certificate.problems, certificate.errors) == (100, 45)
    assert (certificate.heldout_problems, certificate.heldout_errors) == (0, 0)


def test_a_reversed_answer_is_right_if_it_starts_with_the_units() -> None:
    track = get_track("add2-reversed")
    assert certify(fake(track, lambda prompt: calculator(prompt)[::-1]), track, CPU, SEED)[0].errors == 0
    certificate, sentences = certify(fake(track, calculator), track, CPU, SEED)
    assert certificate.errors == sum(f"{a + b:03}" != f"{a + b:03}"[::-1] for a in range(100) for b in range(100))
    assert sentences[0] == "0 + 1: got 100, expected 1"


# -----------------------------------------------------------------------------
# exams that are drawn


@pytest.fixture
def short_exams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addition, "TEST_PROBLEMS", 3000)


@pytest.mark.usefixtures("short_exams")
@pytest.mark.parametrize("name", ["add4", "add6-reversed"])
def test_a_calculator_passes_a_sampled_test_set(name: str) -> None:
    track: Any = get_track(name)
    step = -1 if track.reverse else 1
    certificate, sentences = certify(fake(track, lambda prompt: calculator(prompt)[::step]), track, CPU, SEED)
    assert not certificate.exhaustive
    assert (certificate.problems, certificate.errors) == (3000, 0)
    assert (certificate.heldout_problems, certificate.heldout_errors) == (3000, 0)
    assert certificate.error_rate_upper_95 == pytest.approx(1 - 0.05 ** (1 / 3000))
    assert sum(count.problems for count in certificate.groups.values()) == 3000
    assert [count.problems for count in certificate.samples.values()][:-1] == [1000] * (track.digits + 1)
    assert not any(count.errors for count in (*certificate.groups.values(), *certificate.samples.values()))
    assert sentences == []


@pytest.mark.usefixtures("short_exams")
def test_errors_in_long_carry_chains_are_found_although_sampled_problems_rarely_have_any() -> None:
    track = get_track("add6")

    def looks_ahead_four_places(prompt: str) -> str:
        a, b = prompt.rstrip("=").split("+")
        return without_carries(prompt) if longest_chain(int(a), int(b)) > 4 else calculator(prompt)

    certificate, sentences = certify(fake(track, looks_ahead_four_places), track, CPU, SEED)
    expected = [pair for pair in pairs_of(track.test_set(SEED)) if longest_chain(*pair) > 4]
    assert certificate.errors == len(expected) < 10
    assert [sentence.partition(":")[0] for sentence in sentences] == [f"{a} + {b}" for a, b in expected]
    assert {name: count.errors for name, count in certificate.samples.items() if name != "nines"} == {
        f"built chain {length}": 1000 if length > 4 else 0 for length in range(7)
    }
    assert 0 < certificate.samples["nines"].errors < certificate.samples["nines"].problems


@pytest.mark.usefixtures("short_exams")
def test_the_seed_determines_the_sampled_test_set() -> None:
    track, models = get_track("add4"), judged_models(random_model(block_size=14))
    first, again, other = (certify(models, track, CPU, seed) for seed in (1, 1, 2))
    assert first == again
    assert first[1] != other[1]


# -----------------------------------------------------------------------------
# margins


def test_the_margin_of_a_token_is_its_logit_less_the_largest_other_one() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.5], [1.0, 3.0, 2.5], [1.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    assert token_margins(logits, torch.tensor([1, 0, 0, PADDING])).tolist() == [0.5, -2.0, 0.0, torch.inf]
    for value in (torch.inf, -torch.inf, torch.nan):
        assert token_margins(torch.tensor([[value, 3.0, 1.0]]), torch.tensor([1])).tolist() == [-torch.inf]


@pytest.mark.parametrize(("size", "errors"), [(4.0, 0), (1e-2, 0), (1e-4, 100), (0.0, 100), (torch.inf, 100)])
def test_a_right_answer_needs_a_margin(size: float, errors: int) -> None:
    certificate, sentences = certify(fake(ADD1, calculator, size), ADD1, CPU, SEED)
    assert certificate.errors == errors
    assert certificate.smallest_margin == (None if size == torch.inf else pytest.approx(size))
    assert certificate.asked_again == (100 if size < 2 else 0)
    if size == 1e-4:
        assert sentences[0] == "0 + 0: got 0, expected 0, by a margin of 1.0e-04; it must be 0.001"


def test_a_margin_below_two_is_computed_again_in_float64() -> None:
    asked: list[int] = []

    class Exact(FakeModel):
        def logits(self, ids: Tensor, query_start: int = 0, positions: Tensor | None = None) -> Tensor:
            asked.append(len(ids))
            return super().logits(ids, query_start)

    sizes = {torch.float32: 1.9, torch.float64: 5e-4}
    certificate, _ = certify(lambda dtype: Exact(ADD1, calculator, sizes[dtype]), ADD1, CPU, SEED)
    assert (certificate.errors, certificate.asked_again) == (100, 100)
    assert certificate.smallest_margin == pytest.approx(5e-4)
    sizes = {torch.float32: 2.1, torch.float64: 5e-4}
    certificate, _ = certify(lambda dtype: Exact(ADD1, calculator, sizes[dtype]), ADD1, CPU, SEED)
    assert (certificate.errors, certificate.asked_again) == (0, 0)
    assert sum(asked) == 300


def test_only_the_wrong_answers_that_are_described_are_decoded_unless_the_track_reads_them(monkeypatch) -> None:
    decoded: list[int] = []
    monkeypatch.setattr(
        certificate_module, "complete_all", lambda *given: (decoded.append(len(given[1])), complete_all(*given))[1]
    )
    certificate, sentences = certify(fake(ADD1, without_carries), ADD1, CPU, SEED, num_sentences=3)
    assert (certificate.errors, len(sentences), decoded) == (45, 3, [3])
    monkeypatch.setattr(type(ADD1), "reads_completions", True)
    certify(fake(ADD1, without_carries), ADD1, CPU, SEED, num_sentences=3)
    assert decoded == [3, 45]


def test_an_answer_that_is_wrong_by_more_than_a_little_is_not_computed_again() -> None:
    def answer(prompt: str) -> str:
        return "99"

    for size, asked_again in ((0.05, 100), (0.2, 0)):
        certificate, _ = certify(fake(ADD1, answer, size), ADD1, CPU, SEED)
        assert (certificate.errors, certificate.asked_again) == (100, asked_again)


def test_the_histogram_counts_the_margins_from_each_lower_end_on() -> None:
    def answer(prompt: str) -> str:
        return "99" if prompt == "3+4=" else calculator(prompt)

    certificate, _ = certify(fake(ADD1, answer, 1.0), ADD1, CPU, SEED)
    assert certificate.margins == {"below 0": 1} | {f"{edge:g}": 99 if edge == 1 else 0 for edge in BINS}


def test_errors_are_those_of_greedy_decoding_by_the_plain_model() -> None:
    model = random_model(block_size=5).eval().requires_grad_(False)
    certificate, _ = certify(judged_models(model), ADD1, CPU, SEED)
    _, right = all_completions(lambda ids: model(ids)[:, -1], ADD1, ADD1.test_set(SEED), CPU, 100, lambda done: None)
    assert certificate.errors == int((~right).sum()) > 50


# -----------------------------------------------------------------------------
# several right answers


class Completes:
    """A model of `sumeq` that repeats the left side of a prompt, or writes the same side for all prompts."""

    batch_tokens = 10_000

    def __init__(self, track: Track, side: str | None) -> None:
        self.track, self.side = track, side

    def next_logits(self) -> Callable[[Tensor], Tensor]:
        equals = self.track.vocabulary.index("=")

        def next_logits(ids: Tensor) -> Tensor:
            logits = torch.zeros(len(ids), len(self.track.vocabulary))
            for row, text in enumerate(ids.tolist()):
                first = text.index(equals)
                side = text[1:first] if self.side is None else [self.track.vocabulary.index(each) for each in self.side]
                written = text[first + 2 :]
                logits[row, [*side, PAD][len(written)] if len(written) <= len(side) else PAD] = 1.0
            return logits

        return next_logits

    def logits(self, ids: Tensor, query_start: int = 0, *_: object) -> Tensor:
        return torch.zeros(*ids.shape, len(self.track.vocabulary))[:, query_start:]


def test_a_completion_whose_grade_differs_in_float64_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    track: Any = get_track("sumeq")
    monkeypatch.setattr(type(track), "test_set", lambda self, seed: track.sets["heldout"][:200])
    monkeypatch.setattr(type(track), "samples", {})
    sides = {torch.float32: None, torch.float64: "9+9"}
    right = certify(lambda dtype: Completes(track, None), track, CPU, SEED)[0]
    changed = certify(lambda dtype: Completes(track, sides[dtype]), track, CPU, SEED)[0]
    assert (right.errors, right.asked_again, right.smallest_margin, right.margins) == (0, 200, None, None)
    assert changed.errors == sum(sum(row) != 18 for row in track.sets["heldout"][:200, :2].tolist()) > 150


@pytest.mark.slow
def test_both_precisions_draw_the_same_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    track: Any = get_track("words")
    problems = track.test_set(SEED)[:600]
    monkeypatch.setattr(type(track), "test_set", lambda self, seed: problems)
    likely = torch.randn(len(track.vocabulary), generator=torch.Generator().manual_seed(3)) + 1.0
    errors = []
    for tokens in (100_000, 1_000):  # that float64 computes at once

        def models(dtype: torch.dtype, tokens: int = tokens) -> Any:
            model = Stepwise(lambda ids: likely.to(dtype).expand(len(ids), -1))
            model.batch_tokens = 100_000 if dtype == torch.float32 else tokens
            return model

        certificate = certify(models, track, CPU, SEED)[0]
        exact = certify(lambda dtype: models(torch.float64), track, CPU, SEED)[0]
        assert certificate.errors == exact.errors
        errors.append(certificate.errors)
    assert 100 < min(errors) <= max(errors) < 600


# -----------------------------------------------------------------------------
# the mean loss of a batch


@pytest.mark.parametrize("has_mask", [False, True])
def test_the_mean_loss_is_the_same_in_parts_of_any_size(has_mask: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, generator = random_model().eval().requires_grad_(False), torch.Generator().manual_seed(0)
    texts = torch.randint(12, (9, 8), generator=generator)
    mask = torch.rand(9, 7, generator=generator) < 0.4 if has_mask else torch.ones(9, 7, dtype=torch.bool)
    mask[4:6] = False  # a part may have no target
    losses = -model(texts[:, :-1]).double().log_softmax(-1).gather(-1, texts[:, 1:, None])[..., 0]
    judged = judged_models(model)(torch.float32)
    for part_tokens in (1, 20, 10_000):
        monkeypatch.setattr(Model, "batch_tokens", part_tokens)
        found = mean_loss(judged, CPU, Batch(texts[:, :-1], texts[:, 1:], mask))
        assert found == pytest.approx(float(losses[mask].mean()), rel=1e-6)
    whole = mean_loss(judged, CPU, Batch(texts[:, :-1], texts[:, 1:]))
    assert whole == pytest.approx(float(losses.mean()), rel=1e-6)


def test_a_mean_loss_that_is_not_finite_is_none() -> None:
    model = random_model().eval().requires_grad_(False)
    model.token[0, 0] = torch.nan
    batch = Batch(torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.int64))
    assert mean_loss(judged_models(model)(torch.float32), CPU, batch) is None
