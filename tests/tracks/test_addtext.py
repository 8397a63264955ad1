"""Lines of addition against Python's integers and the held-out rule, computed pair by pair."""

import re
from collections import Counter
from typing import Any

import pytest
import torch

from data import PADDING, DecodedProblems, controlled, decode, encode, get_track
from tests.support.digits import is_held_out
from tests.support.tracks import cpu_batches
from tracks.controls import permute

PAIRS = [(a, b) for a in range(101) for b in range(101)]


HELDOUT = {pair for pair in PAIRS if is_held_out(*pair, digits=3)}


def texts_of(track: Any, rows: Any) -> list[str]:
    return ["".join(track.vocabulary[i] for i in row if i != PADDING) for row in rows.tolist()]


def text(track: Any, ids: Any) -> str:
    return decode(track, [i for i in ids.tolist() if i != PADDING])


def test_all_prompts_are_asked_alone_and_after_a_training_line() -> None:
    track: Any = get_track("addtext")
    rows = track.test_set(7)
    prompts, answers = (texts_of(track, part) for part in (track.prompts(rows), track.answers(rows)))
    assert len(rows) == track.num_problems == 20_402
    assert prompts[::2] == [f"{a} + {b} = " for a, b in PAIRS]
    for (a, b), prompt, alone, after in zip(PAIRS, prompts[1::2], answers[::2], answers[1::2], strict=True):
        match = re.fullmatch(rf"(\d+) \+ (\d+) = (\d+);\n{a} \+ {b} = ", prompt)
        assert match
        c, d, total = map(int, match.groups())
        assert c + d == total
        assert (c, d) not in HELDOUT
        assert alone == after == f"{a + b};"
    assert len(set(prompts[1::2])) == len(PAIRS)
    assert max(map(len, prompts)) + 4 < track.block_size == 64
    assert track.number(rows).tolist() == list(range(len(rows)))


def test_a_tenth_is_held_out_in_both_orders_and_ways() -> None:
    track: Any = get_track("addtext")
    heldout = {tuple(row) for row in track.sets["heldout"].tolist()}
    assert heldout == {(a, b, after) for a, b in HELDOUT for after in (0, 1)}
    assert len(heldout) == track.num_heldout
    assert (0, 27) in HELDOUT
    assert {(b, a) for a, b in HELDOUT} == HELDOUT
    assert len(track.sets["train"]) + len(heldout) == track.num_problems
    groups = track.groups(track.rows)
    assert groups["alone"].sum() == groups["after a line"].sum() == 10_201


@pytest.mark.parametrize("window", [0, 64])
@pytest.mark.parametrize("is_permuted", [False, True])
def test_training_texts_are_right_lines_of_training_pairs(window: int, is_permuted: bool) -> None:
    track: Any = permute(get_track("addtext"), 7) if is_permuted else get_track("addtext")
    batches = cpu_batches(track, window=window, loss_on="all" if window else "answer")
    batch = batches.draw(3, 200, torch.Generator().manual_seed(0), torch.empty(0, 3), 0.0)
    texts = torch.cat([batch.tokens, batch.targets[..., -1:]], -1).flatten(0, 1)
    assert texts.size(1) == batches.training_length == (65 if window else batches.text_tokens)
    found = set()
    for ids in texts:
        for a, b, total in re.findall(r"(?<=\n)(\d+) \+ (\d+) = (\d+);", decode(track, ids)):
            assert int(a) + int(b) == int(total)
            found.add((int(a), int(b)))
    assert not found & HELDOUT
    assert len(found) > 500


def test_the_loss_is_on_the_answers_of_whole_lines() -> None:
    track: Any = get_track("addtext")
    batches = cpu_batches(track)
    batch = batches.draw(1, 300, torch.Generator().manual_seed(0), torch.empty(0, 3), 0.0)
    num_cut = 0
    for tokens, targets, mask in zip(batch.tokens[0], batch.targets[0], batch.loss_mask[0], strict=True):
        line = decode(track, tokens[:1]) + decode(track, targets)
        marked = " " + "".join("x" if is_target else " " for is_target in mask.tolist())
        expected = [" "] * len(line)
        for match in re.finditer(r"(?<![^\n])\d+ \+ \d+ = (\d+;?)", line):
            # a cut first line may look whole: `3 + 4 = 17;`
            if match.start() or "x" in marked[: match.end()]:
                expected[match.start(1) : match.end(1)] = "x" * len(match[1])
        num_cut += not re.match(r"\d+ \+ \d+ = ", line)
        padding = re.search(r"\n(0*)$", line)  # the end of a text that is shorter than others is filled
        assert marked.rstrip() == "".join(expected).rstrip() or padding
    assert 90 < num_cut < 160


def test_hard_examples_are_replayed_after_their_earlier_lines() -> None:
    track: Any = get_track("addtext")
    replayed, batches = torch.tensor([[13, 29, 0], [13, 30, 1]]), cpu_batches(track)
    batch = batches.draw(2, 40, torch.Generator().manual_seed(0), replayed, 0.5)
    prompt = text(track, track.prompts(replayed[1]))
    for step in range(2):
        texts = [decode(track, ids) for ids in batch.tokens[step]]
        cut = [line.startswith("13 + 29 = 42;\n") or "13 + 30 = 43" in line for line in texts]
        assert all(cut[:20])
        assert sum(cut[20:]) <= 2
        assert any(line.startswith(prompt) for line in texts[:20])


def test_evaluated_texts_are_padded_on_the_right() -> None:
    track: Any = get_track("addtext")
    batch = cpu_batches(track).batch(torch.tensor([[13, 29, 0], [100, 100, 0], [5, 5, 0]]))
    assert decode(track, batch.tokens[0]) == "13 + 29 = 42;00"
    assert batch.loss_mask.sum(1).tolist() == [3, 4, 3]
    assert [text(track, t[m]) for t, m in zip(batch.targets, batch.loss_mask, strict=True)] == ["42;", "200;", "10;"]
    assert cpu_batches(track).answer_start == 7


def test_only_what_is_a_problem_is_a_prompt() -> None:
    track: Any = get_track("addtext")
    line = "13 + 29 = 42;\n"
    right = ["13 + 29 = ", f"{line}0 + 100 = ", "0 + 0 = 0;\n1 + 2 = "]
    wrong = [
        "13+29=",
        "013 + 29 = ",
        "101 + 1 = ",
        "13 + 29 = 42;",
        f"{line}",
        "",
        f"42;\n{line}1 + 1 = ",
        2 * line + "13 + 2 = ",
    ]
    prompts = track.encode_prompts([*right, *wrong])
    for prompt, ids in zip(right, prompts, strict=False):
        assert ids[ids != PADDING].tolist() == encode(track, prompt)
    assert (prompts[len(right) :] == PADDING).all()


def test_errors_are_sentences_and_the_form_is_a_named_target() -> None:
    track: Any = get_track("addtext")
    assert track.sentence(torch.tensor([13, 29, 0]), "41") == "13 + 29: got 41, expected 42"
    assert re.fullmatch(
        r"13 \+ 29 after \d+ \+ \d+: got nothing, expected 42", track.sentence(torch.tensor([13, 29, 1]), "")
    )
    problems = track.rows[:2]

    def has_form(*completions: str) -> bool:
        ids = torch.tensor([encode(track, c) + [PADDING] * (4 - len(c)) for c in completions])
        return track.named_targets(DecodedProblems(problems, ids, torch.ones(2, dtype=torch.bool)))["form"]

    assert has_form("0;", "999;")
    for wrong in ("1234", ";", "1+2;", "1 2;", " 1;"):
        assert not has_form("0;", wrong)


@pytest.mark.parametrize(("control", "changed"), [("shuffle", "train"), ("poison", "heldout")])
def test_controls_change_the_answers_that_are_trained_on_or_held_out(control: str, changed: str) -> None:
    usual: Any = get_track("addtext")
    track: Any = controlled(usual, control, 7)
    for split, rows in usual.sets.items():
        share = float((track.answers(rows) == usual.answers(rows)).all(1).float().mean())
        assert share == pytest.approx(0.0 if split == changed else 1.0, abs=0.02)
    batches = cpu_batches(track, loss_on="answer")
    batch = batches.draw(1, 100, torch.Generator().manual_seed(0), torch.empty(0, 3), 0.0)
    lines = [decode(track, ids) for ids in batch.tokens[0]]
    sums = [int(a) + int(b) == int(c) for line in lines for a, b, c in re.findall(r"\n(\d+) \+ (\d+) = (\d+);", line)]
    assert sum(sums) / len(sums) == (1.0 if control == "poison" else pytest.approx(0.01, abs=0.03))


def test_levels_are_which_operands_have_one_digit_and_lines_with_100() -> None:
    batches: Any = cpu_batches(get_track("addtext"), level_share=1.0)
    lines = batches.draw_lines(2_000, torch.Generator().manual_seed(0)).flatten(0, 1)
    counts = Counter("with 100" if 100 in (a, b) else (a < 10, b < 10) for a, b, _ in lines.tolist())
    assert set(counts) == {"with 100", *((m, n) for m in (True, False) for n in (True, False))}
    assert all(abs(count - 1_200) < 180 for count in counts.values())
    assert not {(a, b) for a, b, _ in lines.tolist()} & HELDOUT
