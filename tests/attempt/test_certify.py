"""The certificate of models that are ten lines of Python, compared with loops over single problems."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.attempt import certify as certify_module
from bench.attempt.certify import all_completions, certify, mean_loss
from bench.attempt.decoding import complete
from data import TRACKS, Batch, Track, decode, encode, get_track
from tests.support.digits import is_held_out, longest_chain, pairs_of, rows_of
from tests.support.models import random_model
from tests.support.tracks import greedy
from tracks import addition
from tracks.addition import Addition

CPU = torch.device("cpu")
ADD1, ADD2 = get_track("add1"), get_track("add2")
SEED = 7


def fake_model(track: Track, answer: Callable[[str], str]) -> Callable[[Tensor], Tensor]:
    """A model whose logits spell `answer(prompt)`, one character per call."""

    def next_logits(idx: Tensor) -> Tensor:
        logits = torch.zeros(idx.size(0), len(track.vocabulary))
        for row, text in enumerate(decode(track, ids) for ids in idx.tolist()):
            prompt, written = text[: track.prompt_length], text[track.prompt_length :]
            logits[row, track.vocabulary.index(answer(prompt)[len(written)])] = 1.0
        return logits

    return next_logits


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
    certificate, sentences = certify(fake_model(ADD2, calculator), ADD2, CPU, SEED)
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
    certificate, sentences = certify(fake_model(ADD2, without_carries), ADD2, CPU, SEED, batch_size=777)
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

    certificate, sentences = certify(fake_model(ADD2, answer), ADD2, CPU, SEED)
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

    certificate, _ = certify(fake_model(track, answer), track, CPU, SEED)
    assert {name: (c.problems, c.errors) for name, c in certificate.samples.items()} == {
        "three": (3, 2),
        "none wrong": (2, 0),
    }
    assert certificate.errors == 3


@pytest.mark.parametrize("num_sentences", [0, 3, 50])
def test_the_requested_number_of_mistakes_is_described(num_sentences: int) -> None:
    certificate, sentences = certify(fake_model(ADD1, without_carries), ADD1, CPU, SEED, num_sentences=num_sentences)
    assert certificate.errors == 45
    assert len(sentences) == min(num_sentences, 45)


def test_a_track_without_held_out_problems_counts_none() -> None:
    certificate, _ = certify(fake_model(ADD1, without_carries), ADD1, CPU, SEED)
    assert (certificate.problems, certificate.errors) == (100, 45)
    assert (certificate.heldout_problems, certificate.heldout_errors) == (0, 0)


def test_a_reversed_answer_is_right_if_it_starts_with_the_units() -> None:
    track = get_track("add2-reversed")
    assert certify(fake_model(track, lambda prompt: calculator(prompt)[::-1]), track, CPU, SEED)[0].errors == 0
    certificate, sentences = certify(fake_model(track, calculator), track, CPU, SEED)
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
    certificate, sentences = certify(fake_model(track, lambda prompt: calculator(prompt)[::step]), track, CPU, SEED)
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

    certificate, sentences = certify(fake_model(track, looks_ahead_four_places), track, CPU, SEED)
    expected = [pair for pair in pairs_of(track.test_set(SEED)) if longest_chain(*pair) > 4]
    assert certificate.errors == len(expected) < 10
    assert [sentence.partition(":")[0] for sentence in sentences] == [f"{a} + {b}" for a, b in expected]
    assert {name: count.errors for name, count in certificate.samples.items() if name != "nines"} == {
        f"built chain {length}": 1000 if length > 4 else 0 for length in range(7)
    }
    assert 0 < certificate.samples["nines"].errors < certificate.samples["nines"].problems


@pytest.mark.usefixtures("short_exams")
def test_the_seed_determines_the_sampled_test_set() -> None:
    track, model = get_track("add4"), random_model(block_size=14)
    first, again, other = (certify(model.answerer(), track, CPU, seed) for seed in (1, 1, 2))
    assert first == again
    assert first[1] != other[1]


# -----------------------------------------------------------------------------
# decoding


def naive_answer(model: torch.nn.Module, track: Track, prompt: str) -> str:
    """Decode one problem, one character at a time, with full forward passes."""
    ids = encode(track, prompt)
    for _ in range(track.answer_length):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return decode(track, ids[track.prompt_length :])


@pytest.mark.parametrize("n_layer", [1, 2])
@pytest.mark.parametrize("batch_size", [7, 100])
def test_batched_decoding_equals_decoding_one_problem_at_a_time(n_layer: int, batch_size: int) -> None:
    model = random_model(n_layer=n_layer, block_size=5)  # `1+2=03` less its last character
    with torch.no_grad():
        block: Any = model.blocks[0]
        block.attention.out *= 8.0  # so that answers depend on the operands, not on the `=` alone
    shares: list[float] = []
    given, right = all_completions(model.answerer(), ADD1, ADD1.test_set(SEED), CPU, batch_size, shares.append)
    expected = [naive_answer(model, ADD1, f"{a}+{b}=") for a in range(10) for b in range(10)]
    assert [decode(ADD1, row) for row in given] == expected
    sums = [f"{a + b:02}" for a in range(10) for b in range(10)]
    assert right.tolist() == [answer == text for answer, text in zip(expected, sums, strict=True)]
    assert len(set(expected)) > 10  # else any constant would do


def test_the_certificate_does_not_depend_on_the_batch_size() -> None:
    model = random_model(block_size=8)
    certificates = [certify(model.answerer(), ADD2, CPU, SEED, batch_size=size) for size in (999, 10_000)]
    assert certificates[0] == certificates[1]
    assert certificates[0][0].errors > 0


def test_prompts_of_many_lengths_are_decoded_in_full_batches_and_samples_in_those_of_the_caller() -> None:
    track = get_track("addtext")
    problems = track.test_set(SEED)[::41]
    sizes: list[int] = []

    def next_logits(idx: Tensor) -> Tensor:
        sizes.append(len(idx))
        return torch.zeros(len(idx), len(track.vocabulary))

    def sampled(part: Tensor, generator: torch.Generator) -> Tensor:
        decoding = track.decoding._replace(temperature=1.0)
        return all_completions(next_logits, track, part, CPU, 100, lambda share: None, generator, decoding)[0]

    all_completions(next_logits, track, problems, CPU, 100, lambda share: None)
    assert max(sizes) == 100  # no 100 problems in a row have one length
    whole, parts = (torch.Generator().manual_seed(SEED) for _ in range(2))
    assert torch.equal(sampled(problems, whole), torch.cat([sampled(part, parts) for part in problems.split(100)]))


def test_the_input_of_the_model_is_the_prompt_and_its_own_output() -> None:
    seen = []
    generator = torch.Generator().manual_seed(0)

    def next_logits(idx: Tensor) -> Tensor:
        seen.append(idx.clone())
        logits = torch.randn(idx.size(0), 12, generator=generator)
        written.append(logits.argmax(-1))
        return logits

    written = []
    given, _ = all_completions(next_logits, ADD1, ADD1.test_set(SEED), CPU, 100, lambda share: None)
    prompts = torch.tensor([encode(ADD1, f"{a}+{b}=") for a in range(10) for b in range(10)])
    assert len(seen) == ADD1.answer_length
    for step, idx in enumerate(seen):
        assert idx.dtype == torch.int64
        assert torch.equal(idx[:, :4], prompts)
        assert idx.shape == (100, 4 + step)  # so no right answer was in sight
        assert idx[:, 4:].tolist() == (torch.stack(written[:step], 1).tolist() if step else [[]] * 100)
    assert torch.equal(given.long(), torch.stack(written, 1))


def test_greedy_decoding_takes_the_most_likely_character() -> None:
    logits = torch.tensor([0.0, -1.0, 3.0, 2.9999, *[-5.0] * 8])
    answers = complete(lambda idx: logits.expand(idx.size(0), 12), torch.zeros(3, 4, dtype=torch.int64), greedy(2))
    assert answers.tolist() == [[2, 2]] * 3


def test_decoding_computes_no_gradients() -> None:
    model = random_model(block_size=5)
    certify(lambda idx: model(idx)[:, -1], ADD1, CPU, SEED)
    assert all(weight.grad is None for weight in model.parameters())


# -----------------------------------------------------------------------------
# the mean loss of a batch


@pytest.mark.parametrize("has_mask", [False, True])
def test_the_mean_loss_is_the_same_in_parts_of_any_size(has_mask: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, generator = random_model().eval().requires_grad_(False), torch.Generator().manual_seed(0)
    texts = torch.randint(12, (9, 8), generator=generator)
    mask = torch.rand(9, 7, generator=generator) < 0.4 if has_mask else torch.ones(9, 7, dtype=torch.bool)
    mask[4:6] = False  # a part may have no target
    losses = -model(texts[:, :-1]).double().log_softmax(-1).gather(-1, texts[:, 1:, None])[..., 0]
    for part_tokens in (1, 20, 10_000):
        monkeypatch.setattr(certify_module, "LOSS_BATCH_TOKENS", part_tokens)
        found = mean_loss(model, Batch(texts[:, :-1], texts[:, 1:], mask))
        assert found == pytest.approx(float(losses[mask].mean()), rel=1e-6)
    whole = mean_loss(model, Batch(texts[:, :-1], texts[:, 1:]))
    assert whole == pytest.approx(float(losses.mean()), rel=1e-6)


def test_a_mean_loss_that_is_not_finite_is_none() -> None:
    model = random_model().eval().requires_grad_(False)
    model.token[0, 0] = torch.nan
    batch = Batch(torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.int64))
    assert mean_loss(model, batch) is None
