"""The published report's track against a script that writes its text line by line."""

import random
from typing import Any

import pytest
import torch

from data import controlled, decode, encode, get_track
from tests.support.digits import carries, pairs_of, rows_of
from tests.support.tracks import cpu_batches, fresh
from tracks.batches.addition_stream import StreamBatches
from tracks.controls import permute

TRACK: Any = get_track("add3-report")
NOTHING = torch.empty(0, 6, dtype=torch.uint8)  # to replay


@pytest.fixture(scope="module")
def lines() -> list[str]:
    """All lines of the text in their order, made as strings."""
    draw, found, counts = random.Random(42), [], [0] * 4
    while min(counts) < 60_000:
        a, b = draw.randint(100, 999), draw.randint(100, 999)
        count = sum(carries(a, b))
        if counts[count] < 60_000:
            counts[count] += 1
            found.append(f"{a}+{b}={a + b:04}\n")
    draw.shuffle(found)
    return found


@pytest.fixture(scope="module")
def windows() -> StreamBatches:
    return cpu_batches(TRACK)


def texts(pairs: list[tuple[int, int]]) -> list[str]:
    return [decode(TRACK, row) for row in TRACK.tokens(rows_of(pairs, 3))]


# -----------------------------------------------------------------------------
# characters


def test_the_characters_are_numbered_as_nanogpt_numbers_them() -> None:
    assert TRACK.vocabulary == "".join(sorted("0123456789+=\n"))
    assert texts([(381, 350), (999, 999), (100, 100)]) == ["381+350=0731", "999+999=1998", "100+100=0200"]
    assert TRACK.description.example_text == "381+350=0731"


def test_problems_undo_the_prompts_of_tokens() -> None:
    rows = TRACK.test_set(0)[::97]
    problems, valid = TRACK.problems(TRACK.tokens(rows)[:, : TRACK.prompt_length])
    assert valid.all()
    assert torch.equal(problems, rows)


@pytest.mark.parametrize("text", ["099+100=", "100+099=", "100+100+", "\n100+10=", "100\n100="])
def test_operands_of_other_sizes_and_other_texts_are_no_prompts(text: str) -> None:
    problems, valid = TRACK.problems(torch.tensor([encode(TRACK, text)], dtype=torch.uint8))
    assert (valid.tolist(), problems.any().item()) == ([False], False)


def test_a_mistake_is_put_into_words() -> None:
    assert TRACK.sentence(rows_of([(125, 859)], 3)[0], "0982") == "125 + 859: got 982, expected 984"


# -----------------------------------------------------------------------------
# the text and its split


def test_the_training_text_is_the_first_nine_tenths_of_the_lines(lines: list[str], windows: StreamBatches) -> None:
    assert len(lines) == 240_000
    assert len(windows.text) == 2_808_000  # as the report says
    assert decode(TRACK, windows.text[:130_000].tolist()) == "".join(lines[:10_000])
    assert decode(TRACK, windows.text[-130_000:].tolist()) == "".join(lines[206_000:216_000])
    pairs: Any = [tuple(map(int, line.partition("=")[0].split("+"))) for line in lines[:216_000]]
    assert torch.equal(TRACK.lines, rows_of(pairs, 3))


def test_windows_are_cuts_of_the_text_that_begin_anywhere(lines: list[str], windows: StreamBatches) -> None:
    drawn = windows.draw(3, 400, torch.Generator().manual_seed(0), NOTHING, 0.25).whole_texts()
    assert (drawn.shape, drawn.dtype) == ((3, 400, 17), torch.uint8)
    text, starts = "".join(lines[:216_000]), set()
    for row in drawn.flatten(0, 1)[::12]:
        start = text.find(decode(TRACK, row))
        assert start >= 0
        starts.add(start % 13)
    assert len(starts) == 13
    again = windows.draw(3, 400, torch.Generator().manual_seed(0), TRACK.rows, 0.25).whole_texts()  # replays nothing
    assert torch.equal(drawn, again)


def test_the_first_and_the_last_window_are_drawn_too() -> None:
    windows = cpu_batches(TRACK)
    windows.text = windows.text[-18:]
    batch = windows.draw(1, 64, torch.Generator().manual_seed(0), NOTHING, 0.0)
    drawn = {decode(TRACK, row) for row in batch.whole_texts()[0]}
    last = decode(TRACK, windows.text)
    assert drawn == {last[:-1], last[1:]}


def test_held_out_is_what_no_training_line_has(lines: list[str]) -> None:
    trained = {line[:7] for line in lines[:216_000]}
    every = TRACK.test_set(0)
    expected = [f"{a}+{b}" not in trained for a in range(100, 1000) for b in range(100, 1000)]
    assert TRACK.is_heldout(every).tolist() == expected
    assert TRACK.num_heldout == sum(expected)
    sets = TRACK.sets
    assert len(sets["train"]) == len(trained)
    assert len(sets["train"]) + len(sets["heldout"]) == 810_000
    last_tenth = {line[:7] for line in lines[216_000:]} - trained
    assert TRACK.groups(every)["last tenth"].sum() == len(last_tenth)


def test_examined_are_the_problems_of_training_lines() -> None:
    batches = cpu_batches(TRACK, level_share=0.5)
    asked = batches.draw_distinct(5000, torch.Generator().manual_seed(0))
    assert not TRACK.is_heldout(asked).any()
    assert len(asked.unique(dim=0)) == len(asked) > 4800
    assert len(batches.sampler.rows) == 810_000 - TRACK.num_heldout
    near = batches.nearby(asked[:100])
    assert len(near.unique(dim=0)) == len(near) > 100
    assert {*map(tuple, near.tolist())} <= {*map(tuple, TRACK.sets["train"].tolist())}


# -----------------------------------------------------------------------------
# the exam


def test_the_exam_is_every_problem_and_each_knows_its_number() -> None:
    every = TRACK.test_set(7)
    assert len(every) == TRACK.num_problems == 810_000
    assert TRACK.number(every).tolist() == list(range(810_000))
    assert pairs_of(every[[0, 1, 900, -1]]) == [(100, 100), (100, 101), (101, 100), (999, 999)]


def test_problems_are_counted_by_their_carries() -> None:
    rows = TRACK.test_set(0)[::321]
    groups = TRACK.groups(rows)
    for count in range(4):
        assert groups[f"carry {count}"].tolist() == [sum(carries(a, b)) == count for a, b in pairs_of(rows)]
    assert torch.equal(TRACK.samples["sample80"], get_track("add3").samples["sample80"])


# -----------------------------------------------------------------------------
# controls


def test_with_permuted_ids_the_windows_say_the_same(windows: StreamBatches) -> None:
    track = permute(TRACK, 7)
    permuted = cpu_batches(track)
    assert not torch.equal(permuted.text, windows.text)
    assert decode(track, permuted.text[:1000]) == decode(TRACK, windows.text[:1000])


def test_wrong_answers_of_held_out_problems_leave_the_training_text_as_it_was(windows: StreamBatches) -> None:
    assert torch.equal(cpu_batches(controlled(TRACK, "poison", 7)).text, windows.text)
    assert not torch.equal(cpu_batches(controlled(TRACK, "shuffle", 7)).text, windows.text)


def test_making_the_track_makes_no_tables() -> None:
    assert not {"rows", "text", "heldout", "samples"} & set(vars(fresh("add3-report")))
