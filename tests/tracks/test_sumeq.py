"""Sum equalities against Python's own parsing of the texts."""

import itertools
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.judge import certificate as certificate_module
from bench.judge.certificate import certify
from bench.judge.decoding import complete_all
from data import PADDING, ControlNotApplicable, controlled, decode, get_track, main
from model import Transformer
from settings import Settings
from tests.support.digits import splitmix64_of_integers
from tests.support.judged import Stepwise
from tests.support.tracks import cpu_batches
from tracks.controls import permute
from tracks.sumeq import BOUND, PAD

FORMS = {False: r"(-?(?:0|[1-9][0-9]?))([+-](?:0|[1-9][0-9]?))", True: r"([+-][0-9]{2})([+-][0-9]{2})"}


def line_values(text: str, padded: bool = False) -> list[int] | None:
    """The four integers of a well-formed line; None for another text."""
    match = re.fullmatch(f"{FORMS[padded]}=={FORMS[padded]}", text)
    if match is None or any(int(number) == 0 and number[0] == "-" for number in match.groups()):
        return None  # zero is 0 or +0
    return [*map(int, match.groups())]


def is_right(text: str, padded: bool = False) -> bool:
    values = line_values(text, padded)
    return values is not None and values[0] + values[1] == values[2] + values[3]


def texts_of(track: Any, problems: Tensor) -> list[str]:
    """The lines of problems, without PAD."""
    rows = track.tokens(problems).tolist()
    texts = [decode(track, row).replace("<pad>", " ") for row in rows]
    assert all(text[0] == " " and len(text.split()) == 1 for text in texts)
    return [text.strip() for text in texts]


def encoded(track: Any, text: str, width: int = 8, ends: bool = True) -> list[int]:
    """The ids of a completion, with PAD after it and PADDING up to the width."""
    ids = track.ids_of(text) + [PAD] * ends
    return ids + [PADDING] * (width - len(ids))


def encoded_prompt(track: Any, text: str) -> list[int]:
    return [PAD, *track.ids_of(text), *[PADDING] * (8 - len(text))]


@pytest.mark.parametrize("padded", [False, True])
def test_every_line_is_a_true_equality_of_at_most_14_characters(padded: bool) -> None:
    track: Any = get_track("sumeq", padded=padded)
    for name, problems in track.sets.items():
        texts = texts_of(track, problems)
        assert [line_values(text, padded) for text in texts] == problems[:, :4].tolist(), name
        assert all(is_right(text, padded) for text in texts)
        assert max(map(len, texts)) <= 14
        assert problems[:, 4].tolist() == [text.index("==") + 2 for text in texts]
    texts = texts_of(track, torch.tensor([[0, 0, 5, -5, 0], [-99, -99, -99, -99, 0]]))
    assert texts == (["+00+00==+05-05", "-99-99==-99-99"] if padded else ["0+0==5-5", "-99-99==-99-99"])


def test_there_are_as_many_lines_as_four_loops_count() -> None:
    numbers = range(-99, 100)
    sums = [a + b for a, b in itertools.product(numbers, numbers)]
    counts = torch.tensor(sums).add(198).bincount()
    assert get_track("sumeq").num_problems == int(counts.square().sum())


def test_training_lines_are_drawn_by_the_hash_and_the_same_for_every_run() -> None:
    expected: list[list[int]] = []
    for candidate in itertools.count():
        numbers = []
        for column in range(3):
            h = 0
            for value in (1, candidate, column):
                h = splitmix64_of_integers(h ^ value)
            numbers.append(int((h >> 11) / 2**53 * 199) - 99)
        a, b, c = numbers
        if abs(a + b - c) <= 99:
            expected.append([a, b, c, a + b - c])
        if len(expected) == 200:
            break
    assert get_track("sumeq").sets["train"][:200, :4].tolist() == expected


def test_validation_and_test_prompts_stand_on_no_side_of_a_training_line() -> None:
    track: Any = get_track("sumeq")
    sides = {name: [text.split("==") for text in texts_of(track, rows)] for name, rows in track.sets.items()}
    shown = {side for line in sides["train"] for side in line}
    asked = {name: {left for left, _ in sides[name]} for name in ("validation", "heldout")}
    assert {name: len(prompts) for name, prompts in asked.items()} == {"validation": 1_024, "heldout": 5_000}
    assert not shown & (asked["validation"] | asked["heldout"])
    assert not asked["validation"] & asked["heldout"]
    assert len(sides["train"]) == 10_000
    assert track.is_heldout(torch.cat([*track.sets.values()])).tolist() == [False] * 10_000 + [True] * 6_024
    assert torch.equal(track.test_set(7), track.sets["heldout"])


def test_the_overlap_of_two_sets_counts_left_sides_on_either_side_of_training_lines() -> None:
    track: Any = get_track("sumeq")
    for one, other in itertools.combinations(track.sets, 2):
        assert track.overlap(one, other) == 0
    changed: Any = get_track.__globals__["build_track"].__wrapped__("sumeq", ())
    line = changed.sets["train"][0]
    changed.sets["heldout"][0, :2], changed.sets["heldout"][1, :2] = line[:2], line[2:4]
    assert changed.overlap("train", "heldout") == 2


def test_data_prints_the_proof(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sumeq"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"in train and heldout +0 problems", printed)
    assert re.search(r"in train and validation +0 problems", printed)
    assert "samples of both sets" not in printed


@pytest.mark.parametrize("padded", [False, True])
def test_prompts_and_answers_are_the_parts_of_a_line(padded: bool) -> None:
    track: Any = get_track("sumeq", padded=padded)
    sample = track.samples["first 7 characters"]
    for problems in (track.sets["heldout"][:50], sample[:50]):
        texts, lengths = texts_of(track, problems), problems[:, 4].tolist()
        prompts, answers = track.prompts(problems).tolist(), track.answers(problems).tolist()
        assert prompts == [encoded_prompt(track, text[:n]) for text, n in zip(texts, lengths, strict=True)]
        assert answers == [encoded(track, text[n:]) for text, n in zip(texts, lengths, strict=True)]
    assert torch.equal(sample[:, :4], track.sets["heldout"][:, :4])
    assert (sample[:, 4] == 7).all()


CASES = ["41+20", "61+0", "0+61", "61-0", "-0+61", "+41+20", "041+20", "41+020", "41+2", "99-38", "-38+99", "100-39"]
CASES += ["1+60==1+60", "", "61", "41+20=", "41-+20", "41++20", "--1+62", "9-+", "-1+62", "41+20+0", "93-32", "20+41"]


@pytest.mark.parametrize("padded", [False, True])
def test_a_completion_is_right_when_python_reads_a_true_equality(padded: bool) -> None:
    track: Any = get_track("sumeq", padded=padded)
    generator = torch.Generator().manual_seed(1)
    texts = CASES + [
        "".join(track.vocabulary[i] for i in torch.randint(1, 14, (5,), generator=generator)) for _ in range(300)
    ]
    texts += [f"{c:{'+03d' if padded else 'd'}}{61 - c:{'+03d' if padded else '+d'}}" for c in range(-38, 100)]
    texts = [text for text in texts if len(text) < 8]
    problems = torch.tensor([[93, -32, 0, 61, 7 + padded]]).expand(len(texts), -1)
    ended = torch.tensor([encoded(track, text) for text in texts])
    grades = track.grade(problems, ended).tolist()
    assert grades == [is_right(f"{'+' * padded}93-32=={text}", padded) for text in texts]
    assert sum(grades) >= 138
    open_ended = torch.tensor([encoded(track, text, ends=False) for text in texts])
    assert not track.grade(problems, open_ended).any()


def test_the_first_seven_characters_are_completed_by_what_is_missing() -> None:
    track: Any = get_track("sumeq")
    rows = torch.tensor([[-93, -32, -99, -26, 7], [1, 2, 3, 0, 7], [10, 20, 15, 15, 7], [1, 2, -1, 4, 7]])
    prompts = ["-93-32=", "1+2==3+", "10+20==", "1+2==-1"]
    assert [decode(track, [i for i in row if i > PAD]) for row in track.prompts(rows).tolist()] == prompts
    cases = [
        ("=-99-26", "0", "-9+39", "+4"),
        ("-99-26", "", "15+15", "0+13"),
        ("==-99-26", "3", "15-15", "0-7"),
        ("=0-99", "-0", "=15+15", "+2"),
        ("=-61-64", "0+0", "30+0", "6+19"),
    ]
    for case in cases:
        grades = track.grade(rows, torch.tensor([encoded(track, text, 10) for text in case])).tolist()
        assert grades == [is_right(prompt + text) for prompt, text in zip(prompts, case, strict=True)], case


def test_only_a_left_side_as_in_a_line_is_a_prompt() -> None:
    track: Any = get_track("sumeq")
    wrong = [
        "93-32",
        "93-32=",
        "93-32==4",
        "+93-32==",
        "093-32==",
        "93-032==",
        "93-0==",
        "-0+3==",
        "100+1==",
        "93==",
        "",
    ]
    wrong += ["93-32==\n", "a+b==", "93--32==", "9²+1==", "?+1=="]
    prompts = track.encode_prompts(["93-32==", "-7+0==", "0+0==", *wrong])
    assert [decode(track, [i for i in row if i > PAD]) for row in prompts.tolist()] == [
        "93-32==",
        "-7+0==",
        "0+0==",
    ] + [""] * len(wrong)
    assert (prompts[3:] == PADDING).all()
    padded: Any = get_track("sumeq", padded=True)
    assert (padded.encode_prompts(["+93-32==", "+7+03==", "93-32=="]) != PADDING).any(1).tolist() == [
        True,
        False,
        False,
    ]


def test_an_error_is_put_into_words() -> None:
    track: Any = get_track("sumeq")
    row = torch.tensor([93, -32, 41, 20, 7])
    assert track.sentence(row, "41+2") == "93-32: got 41+2, expected two numbers with the sum 61"
    assert track.sentence(row, "") == "93-32: got nothing, expected two numbers with the sum 61"


# -----------------------------------------------------------------------------
# batches


@pytest.mark.parametrize("order", ["left-to-right", "right-to-left", "alternating", "pseudo-random", "uniform"])
def test_batches_hold_training_lines_in_the_order_of_generation(order: str) -> None:
    track: Any = get_track("sumeq")
    batches = cpu_batches(track, order=order, loss_on="all")
    batch = batches.draw(3, 50, torch.Generator().manual_seed(1), torch.empty(0, 5), 0.0)
    assert batch.tokens.shape == batch.targets.shape == (3, 50, 15)
    assert (batches.training_length, batches.query_start) == (16, 0)
    assert batches.is_uniform == (order == "left-to-right")
    assert (batch.positions is None) == (order == "left-to-right")
    if batch.positions is None:
        texts = batch.whole_texts()
    else:
        assert set(batches.fields) == {name for name, field in batch._asdict().items() if field is not None} - {
            "tokens"
        }
        whole = torch.cat([batch.positions, batch.next_positions[..., -1:]], -1)
        assert (batch.next_positions[..., :-1] == batch.positions[..., 1:]).all()
        texts = torch.empty_like(batch.whole_texts()).scatter(-1, whole, batch.whole_texts())
    lines = {tuple(row) for row in track.tokens(track.sets["train"]).tolist()}
    assert {tuple(row) for row in texts.flatten(0, 1).tolist()} <= lines


def test_the_loss_on_answers_is_that_of_the_right_side_and_one_pad() -> None:
    track: Any = get_track("sumeq")
    batches = cpu_batches(track)
    problems = torch.cat([track.sets["train"][:20], track.samples["first 7 characters"][:20]])
    batch = batches.batch(problems)
    assert batches.answer_start <= int(batch.loss_mask.long().argmax(-1).min())
    for i, answer in enumerate(track.answers(problems).tolist()):
        assert batch.targets[i][batch.loss_mask[i]].tolist() == [token for token in answer if token != PADDING]


# -----------------------------------------------------------------------------
# certificate


def small_model(track: Any, **settings: Any) -> Transformer:
    config = Settings(track="sumeq", loss_on="all", n_layer=2, n_embd=16, n_hidden=16, n_head=2, **settings)
    model = Transformer(config.model_config(len(track.vocabulary), track.block_size))
    generator = torch.Generator().manual_seed(1)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.7, generator=generator)
    return model.eval()


@pytest.mark.parametrize("order", ["left-to-right", "uniform"])
def test_prompts_are_completed_as_by_a_loop_over_characters(order: str) -> None:
    track: Any = get_track("sumeq")
    model = small_model(track, order=order)
    problems = torch.cat([track.sets["heldout"][:20], track.samples["first 7 characters"][:20]])
    found = complete_all(model.answerer(), track.prompts(problems), track.decoding, 7)
    for prompt, completion in zip(track.prompts(problems).tolist(), found.tolist(), strict=True):
        ids = [i for i in prompt if i != PADDING]
        start = len(ids)
        while len(ids) < start + 8 and PAD not in ids[start:]:
            positions = torch.arange(len(ids) + 1).clamp(max=15)[None]
            logits = model(torch.tensor([ids]), 0, None, positions[:, :-1], positions[:, 1:])
            ids.append(int(logits[0, -1].argmax()))
        assert [i for i in completion if i != PADDING] == ids[start:]


def test_the_certificate_has_the_bound_the_targets_and_the_source_s_prompts(monkeypatch) -> None:
    track: Any = get_track.__globals__["build_track"].__wrapped__("sumeq", ())
    track.sets["heldout"] = track.sets["heldout"][:200]
    answers = {tuple(row) for row in track.tokens(track.sets["heldout"]).tolist()}
    by_start = {row[:length]: row for row in answers for length in range(1, 16)}
    calls = []

    def next_logits(ids: Tensor) -> Tensor:
        """The next token of a test line with this start."""
        tokens = [by_start[tuple(row)][len(row)] if tuple(row) in by_start else 0 for row in ids.tolist()]
        return torch.nn.functional.one_hot(torch.tensor(tokens), len(track.vocabulary)).float()

    monkeypatch.setattr(certificate_module, "mean_loss", lambda model, device, batch: calls.append(batch) or 1.5)
    certificate, _ = certify(lambda dtype: Stepwise(next_logits), track, torch.device("cpu"), 1)
    assert (certificate.problems, certificate.errors, certificate.heldout_problems) == (200, 0, 200)
    assert certificate.samples["first 7 characters"].problems == 200
    assert certificate.measures[BOUND] == pytest.approx(1 - 0.05 ** (1 / 200))
    assert certificate.measures["test loss, left to right"] == 1.5
    assert not certificate.is_solved  # 200 prompts are too few for the bound
    assert certificate.targets == {"56.4% valid": True, "94.3% valid": True, "95.6% valid": True}
    assert torch.equal(calls[0].whole_texts(), track.tokens(track.sets["heldout"]))


# -----------------------------------------------------------------------------
# controls


def test_permuted_ids_write_the_same_lines_and_other_controls_do_not_apply() -> None:
    usual: Any = get_track("sumeq")
    track: Any = permute(usual, 7)
    problems = usual.sets["heldout"][:30]
    assert not torch.equal(track.tokens(problems), usual.tokens(problems))
    assert track.grade(problems, track.answers(problems)).all()
    texts = [track.decode_completion(row) for row in track.answers(problems).tolist()]
    assert [left + right for left, right in zip(left_sides(usual, problems), texts, strict=True)] == texts_of(
        usual, problems
    )
    assert torch.equal(track.encode_prompts(["93-32=="])[0], track.prompts(torch.tensor([93, -32, 0, 61, 7])))
    batch = cpu_batches(track, order="uniform", loss_on="all").draw(
        1, 9, torch.Generator().manual_seed(1), problems[:0], 0
    )
    pad = int(track.token_map.target_ids[PAD])
    assert (batch.tokens[..., 0] == pad).all()
    for control in ("shuffle", "poison"):
        with pytest.raises(ControlNotApplicable, match="exchanges right answers, and sumeq has many to each problem"):
            controlled(usual, control, 7)


def left_sides(track: Any, problems: Tensor) -> list[str]:
    return [text[: text.index("==") + 2] for text in texts_of(track, problems)]


# -----------------------------------------------------------------------------
# levels, the order number-last, and the loss of the number that is completed last


def parts_of_text(text: str) -> list[int]:
    """The part of each of 16 tokens, by Python's own search in the text."""
    found = re.fullmatch(r"([+-]?\d+)([+-]\d+)(==)([+-]?\d+)([+-]\d+)", text)
    assert found is not None
    labels = [part for part, piece in enumerate(found.groups(), start=1) for _ in piece]
    return [0, *labels, *[6] * (15 - len(labels))]


@pytest.mark.parametrize("padded", [False, True])
def test_the_parts_of_a_line_are_its_numbers_the_signs_of_equality_and_pads(padded: bool) -> None:
    track: Any = get_track("sumeq", padded=padded)
    problems = track.sets["train"][:300]
    assert track.parts(problems).tolist() == [parts_of_text(text) for text in texts_of(track, problems)]
    assert torch.equal(permute(track, 7).parts(problems), track.parts(problems))


def test_number_last_moves_one_number_behind_the_rest_of_the_text() -> None:
    track: Any = get_track("sumeq")
    batch = cpu_batches(track, order="number-last", loss_on="all").draw(
        2, 600, torch.Generator().manual_seed(1), torch.empty(0, 5), 0.0
    )
    order = torch.cat([batch.positions, batch.next_positions[..., -1:]], -1).flatten(0, 1)
    texts = torch.empty_like(batch.whole_texts()).flatten(0, 1).scatter(-1, order, batch.whole_texts().flatten(0, 1))
    counts = dict.fromkeys((1, 2, 4, 5), 0)
    for text, positions in zip(texts.tolist(), order.tolist(), strict=True):
        parts = parts_of_text(decode(track, [i for i in text if i != PAD]))
        last = parts[positions[-1]] if parts[positions[-1]] != 6 else 5
        moved = [place for place in range(16) if parts[place] == last or (last == 5 and parts[place] == 6)]
        assert positions == [place for place in range(16) if place not in moved] + moved
        counts[last] += 1
    assert all(abs(count - 300) < 75 for count in counts.values())


@pytest.mark.parametrize("order", ["number-last", "uniform"])
def test_the_number_that_is_completed_last_has_a_loss_and_earlier_ones_sometimes(order: str) -> None:
    track: Any = get_track("sumeq")
    batches = cpu_batches(track, order=order, loss_on="answer", earlier_loss=0.3)
    assert "loss_mask" in batches.fields
    batch = batches.draw(1, 2_000, torch.Generator().manual_seed(1), torch.empty(0, 5), 0.0)
    fields = (batch.whole_texts()[0], batch.positions[0], batch.next_positions[0], batch.loss_mask[0])
    seen: dict[int, list[bool]] = {0: [], 1: [], 2: []}
    for text, positions, following, mask in zip(*(field.tolist() for field in fields), strict=True):
        by_position = dict(zip([*positions, following[-1]], text, strict=True))
        line = decode(track, [i for _, i in sorted(by_position.items()) if i != PAD])
        parts = parts_of_text(line)
        targets = [parts[position] for position in following]
        completed = sorted((1, 2, 4, 5), key=lambda part: -max(i for i, other in enumerate(targets) if other == part))
        for rank, part in enumerate(completed):
            of_part = {has_loss for has_loss, other in zip(mask, targets, strict=True) if other == part}
            assert len(of_part) == 1
            seen[min(rank, 2)].append(of_part.pop())
        pads = [
            (has_loss, position) for has_loss, position in zip(mask, following, strict=True) if parts[position] == 6
        ]
        assert not any(has_loss for has_loss, position in pads if position > len(line) + 1)
    assert all(seen[0])
    assert sum(seen[1]) / len(seen[1]) == pytest.approx(0.3, abs=0.03)
    assert sum(seen[2]) / len(seen[2]) == pytest.approx(0.09, abs=0.02)


def test_levels_are_drawn_evenly_and_other_lines_uniformly() -> None:
    track: Any = get_track("sumeq")

    def level_shares(**options: Any) -> list[float]:
        rows = cpu_batches(track, **options).sampler.draw(10, 2_000, torch.Generator().manual_seed(1)).flatten(0, 1)
        levels = [min(2, sum(number % 10 == 0 for number in row[:4])) for row in rows.tolist()]
        return [levels.count(level) / len(levels) for level in range(3)]

    usual = level_shares()
    assert level_shares(sampling="epochs", level_share=0.9) == pytest.approx(usual, abs=0.02)
    assert level_shares(level_share=1.0) == pytest.approx([0, 1 / 2, 1 / 2], abs=0.02)
    mixed = [0.6 * even + 0.4 * share for even, share in zip([0, 1 / 2, 1 / 2], usual, strict=True)]
    assert level_shares(level_share=0.6) == pytest.approx(mixed, abs=0.02)
    assert usual[0] > 0.6
