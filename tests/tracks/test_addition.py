"""Addition of any length against Python's own integers: `+` for the answers, SplitMix64 with a mask for the rule."""

import random
import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data import decode, encode
from tests.support.digits import (
    MASK,
    carries,
    is_held_out,
    longest_chain,
    pairs_of,
    rows_of,
    splitmix64_of_integers,
)
from tests.support.tracks import addition_track, fresh, texts_of
from tracks import addition, hashing
from tracks.description import TEST_PROBLEMS
from tracks.hashing import splitmix64

ADD2, ADD3, ADD4, ADD20 = (addition_track(f"add{digits}") for digits in (2, 3, 4, 20))
SHORT, LONG = [1, 2, 3], [4, 6, 20]


def signed(x: int) -> int:
    return x - 2**64 if x >> 63 else x


def random_pairs(digits: int, count: int, seed: int = 0) -> list[tuple[int, int]]:
    draw = random.Random(seed)
    return [(draw.randrange(10**digits), draw.randrange(10**digits)) for _ in range(count)]


def texts(track: Any, pairs: list[tuple[int, int]]) -> list[str]:
    return texts_of(track, rows_of(pairs, track.digits))


def any_pair(digits: int) -> st.SearchStrategy[tuple[int, int]]:
    """Of operands with that many digits at the most; nines and zeros as often as all else together."""
    operand = st.text(st.one_of(st.sampled_from("09"), st.sampled_from("123456789")), min_size=digits, max_size=digits)
    return st.tuples(operand.map(int), operand.map(int))


# -----------------------------------------------------------------------------
# the text of a problem


@pytest.mark.parametrize("digits", [*SHORT, *LONG])
@given(data=st.data())
def test_the_text_of_a_problem_is_the_sum_that_python_writes(digits: int, data: st.DataObject) -> None:
    a, b = data.draw(any_pair(digits))
    question, answer = f"{a:0{digits}}+{b:0{digits}}=", f"{a + b:0{digits + 1}}"
    assert texts(addition_track(f"add{digits}"), [(a, b)]) == [question + answer]
    assert texts(addition_track(f"add{digits}-reversed"), [(a, b)]) == [question + answer[::-1]]


def test_the_worked_example_of_the_design_is_written_so() -> None:
    assert texts(ADD3, [(381, 350)]) == ["381+350=0731"]
    assert texts(addition_track("add3-reversed"), [(381, 350)]) == ["381+350=1370"]
    assert ADD3.description.example_text == "381+350=0731"
    assert (ADD3.name, ADD3.prompt_length, ADD3.answer_length, ADD3.num_problems) == ("add3", 8, 4, 1_000_000)


def test_every_text_of_two_digits_is_right() -> None:
    expected = [f"{a:02}+{b:02}={a + b:03}" for a in range(100) for b in range(100)]
    assert [decode(ADD2, row) for row in ADD2.tokens(ADD2.test_set(0))] == expected


def test_the_sizes_of_a_track_follow_from_its_digits() -> None:
    for digits in (1, 3, 20):
        for track in (addition_track(f"add{digits}"), addition_track(f"add{digits}-reversed")):
            problem = track.sets["train"][7]
            assert problem.shape == (track.problem_width,) == (2 * digits,)
            assert track.prompts(problem).shape == (track.prompt_length,) == (2 * digits + 2,)
            assert track.answers(problem).shape == (track.answer_length,) == (digits + 1,)
            assert track.num_problems == 10 ** (2 * digits)
            assert track.exhaustive == (digits <= 3)


def test_tokens_keep_the_shape_of_the_problems() -> None:
    problems = rows_of(random_pairs(3, 24), 3)
    tokens = ADD3.tokens(problems.view(2, 3, 4, 6))
    assert tokens.shape == (2, 3, 4, 12)
    assert tokens.dtype == torch.uint8
    assert torch.equal(tokens.view(24, 12), ADD3.tokens(problems))
    assert ADD3.tokens(problems[:0]).shape == (0, 12)


@pytest.mark.parametrize(
    ("pair", "answer", "sentence"),
    [
        ((7, 85), "0091", "7 + 85: got 91, expected 92"),
        ((999, 1), "0000", "999 + 1: got 0, expected 1000"),
        ((0, 0), "0001", "0 + 0: got 1, expected 0"),
        ((123, 456), "05+9", "123 + 456: got '05+9', expected 579"),
    ],
)
def test_a_mistake_is_put_into_words(pair: tuple[int, int], answer: str, sentence: str) -> None:
    assert ADD3.sentence(rows_of([pair], 3)[0], answer) == sentence


def test_a_reversed_mistake_is_read_backwards_where_it_is_a_number() -> None:
    track, problem = addition_track("add3-reversed"), rows_of([(7, 85)], 3)[0]
    assert track.sentence(problem, "1900") == "7 + 85: got 91, expected 92"
    assert track.sentence(problem, "29+0") == "7 + 85: got '29+0', expected 92"


def test_a_mistake_of_twenty_digits_is_put_into_words() -> None:
    a, b = 10**20 - 1, 12345678901234567890
    assert ADD20.sentence(rows_of([(a, b)], 20)[0], "0" * 21) == f"{a} + {b}: got 0, expected {a + b}"


@given(any_pair(3))
def test_without_signs_the_digits_stand_one_after_another_as_mingpt_writes_them(pair: tuple[int, int]) -> None:
    a, b = pair
    track, rows = addition_track("add3-mingpt"), rows_of([pair], 3)
    assert texts(track, [pair]) == [f"{a:03}{b:03}" + f"{a + b:04}"[::-1]]
    assert (track.vocabulary, track.prompt_length, track.block_size) == ("0123456789", 6, 9)
    problems, valid = track.problems(track.tokens(rows)[:, :6])
    assert (valid.tolist(), problems.tolist()) == ([True], rows.tolist())
    assert not track.problems(torch.tensor([[1, 2, 3, 4, 5, 10]], dtype=torch.uint8))[1].any()
    assert track.is_heldout(rows).tolist() == ADD3.is_heldout(rows).tolist()


# -----------------------------------------------------------------------------
# and back


@pytest.mark.parametrize("digits", [*SHORT, *LONG])
@given(data=st.data())
def test_problems_undo_the_prompts_of_tokens(digits: int, data: st.DataObject) -> None:
    track = addition_track(f"add{digits}")
    rows = rows_of(data.draw(st.lists(any_pair(digits), min_size=1, max_size=5)), digits)
    problems, valid = track.problems(track.tokens(rows)[:, : track.prompt_length])
    assert valid.all()
    assert torch.equal(problems, rows)


@given(st.one_of(st.text(alphabet=ADD3.vocabulary, min_size=8, max_size=8), st.from_regex(r"\A[0-9]{3}\+[0-9]{3}=\Z")))
def test_only_what_is_written_like_a_prompt_is_a_problem(text: str) -> None:
    problems, valid = ADD3.problems(torch.tensor([encode(ADD3, text)], dtype=torch.uint8))
    written = re.fullmatch(r"(\d{3})\+(\d{3})=", text)
    assert valid.tolist() == [written is not None]
    assert pairs_of(problems) == [(int(written[1]), int(written[2])) if written else (0, 0)]


@pytest.mark.parametrize("text", ["12+3456=", "1234+56=", "123+456+", "123=456=", "123+45+=", "+23+456=", "12345678"])
def test_what_only_looks_like_a_prompt_is_none(text: str) -> None:
    assert ADD3.problems(torch.tensor([encode(ADD3, text)], dtype=torch.uint8))[1].tolist() == [False]


def test_ids_outside_the_vocabulary_make_no_prompt() -> None:
    right = torch.tensor([encode(ADD3, "123+456=")], dtype=torch.uint8)
    for place in range(8):
        for foreign in (12, 255):
            prompt = right.clone()
            prompt[0, place] = foreign
            assert not ADD3.problems(prompt)[1].any()
    assert pairs_of(ADD3.problems(right)[0]) == [(123, 456)]


# -----------------------------------------------------------------------------
# what is held out


def test_splitmix64_is_the_published_generator() -> None:
    assert int(splitmix64(torch.zeros(1, dtype=torch.int64))) & MASK == 16294208416658607535
    states = [0, 1, 9, 2**31, 2**63, MASK, *(random.Random(0).getrandbits(64) for _ in range(100))]
    before = torch.tensor([signed(x) for x in states])
    assert [x & MASK for x in splitmix64(before).tolist()] == [splitmix64_of_integers(x) for x in states]
    assert before.tolist() == [signed(x) for x in states]  # not in place


def test_multiples_of_ten_are_told_as_of_unsigned_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    tens = [0, 10, 2**63 - 8, 2**63 + 2, MASK - 5, 5 * 2**61]
    edges = sorted({(x + step) & MASK for x in tens for step in range(-11, 12)})
    hashes = [*edges, *(random.Random(1).getrandbits(64) for _ in range(1000))]
    monkeypatch.setattr(hashing, "splitmix64", lambda x: x)  # then one column is the hash
    found = addition.hash_is_multiple_of_ten([torch.tensor([signed(x) for x in hashes])])
    assert found.tolist() == [x % 10 == 0 for x in hashes]


@pytest.mark.parametrize(("digits", "expected"), [(1, 0), (2, 996), (3, 99_771)])
def test_as_many_problems_are_held_out_as_the_design_says(digits: int, expected: int) -> None:
    for track in (addition_track(f"add{digits}"), addition_track(f"add{digits}-reversed")):
        heldout = track.is_heldout(track.test_set(0))
        assert heldout.dtype == torch.bool
        assert heldout.shape == (100**digits,)
        assert heldout.sum() == expected == track.num_heldout


def test_the_first_held_out_problem_is_000_plus_027() -> None:
    first = ADD3.sets["heldout"][:1]
    assert [decode(ADD3, row) for row in ADD3.tokens(first)] == ["000+027=0027"]


def test_the_held_out_problems_of_two_digits_follow_the_rule() -> None:
    expected = [is_held_out(a, b, 2) for a in range(100) for b in range(100)]
    assert ADD2.is_heldout(ADD2.test_set(0)).tolist() == expected


@pytest.mark.parametrize("digits", [3, *LONG])
def test_the_held_out_problems_follow_the_rule_in_both_orders(digits: int) -> None:
    pairs = [*random_pairs(digits, 2000), *((a, a) for a, _ in random_pairs(digits, 50, seed=1))]
    track = addition_track(f"add{digits}")
    expected = [is_held_out(a, b, digits) for a, b in pairs]
    assert track.is_heldout(rows_of(pairs, digits)).tolist() == expected
    assert track.is_heldout(rows_of([(b, a) for a, b in pairs], digits)).tolist() == expected
    assert 0.05 < sum(expected) / len(pairs) < 0.15


@pytest.mark.parametrize("digits", LONG)
@given(data=st.data())
def test_operands_that_differ_late_or_not_at_all_are_ordered_all_the_same(digits: int, data: st.DataObject) -> None:
    a, b = data.draw(any_pair(digits))
    shared = data.draw(st.integers(0, digits))
    b = int(f"{a:0{digits}}"[:shared] + f"{b:0{digits}}"[shared:])
    expected = is_held_out(a, b, digits)
    assert addition_track(f"add{digits}").is_heldout(rows_of([(a, b), (b, a)], digits)).tolist() == [expected] * 2


def test_the_table_of_three_digits_says_what_the_rule_for_many_says() -> None:
    """Two ways to one rule: by a tree of prefixes, and row by row."""
    rows = ADD3.test_set(0)
    listed = ADD3.is_heldout(rows)
    track = fresh("add3")
    track.exhaustive = False
    assert torch.equal(track.is_heldout(rows), listed)


@pytest.mark.parametrize("name", ["add1", "add2", "add3"])
def test_what_is_held_out_is_the_same_with_a_list_of_all_problems_and_without(name: str) -> None:
    track = addition_track(name)
    assert torch.equal(track.is_heldout_by_rule(track.rows), track.heldout)


def test_no_problem_is_not_held_out_either() -> None:
    for track in (ADD3, ADD20):
        assert track.is_heldout(torch.zeros((0, track.problem_width), dtype=torch.uint8)).shape == (0,)


# -----------------------------------------------------------------------------
# numbers of problems


def test_all_problems_come_in_ascending_order_and_know_their_number() -> None:
    for digits in SHORT:
        rows = addition_track(f"add{digits}").test_set(7)
        assert rows.dtype == torch.uint8
        assert addition_track(f"add{digits}").number(rows).tolist() == list(range(100**digits))
    assert pairs_of(ADD2.test_set(7)) == [(a, b) for a in range(100) for b in range(100)]
    assert ADD3.number(ADD3.test_set(0)[:24].view(2, 3, 4, 6)).tolist() == torch.arange(24).view(2, 3, 4).tolist()


# -----------------------------------------------------------------------------
# the exam


@pytest.mark.parametrize("digits", LONG)
def test_a_long_exam_is_drawn_by_its_seed_from_what_is_held_out(digits: int, monkeypatch) -> None:
    monkeypatch.setattr(addition, "TEST_PROBLEMS", 20_000)
    track = addition_track(f"add{digits}")
    exam, again, other, huge = (track.test_set(seed) for seed in (7, 7, 8, 2**63 - 1))
    assert exam.shape == other.shape == huge.shape == (20_000, 2 * digits)
    assert torch.equal(exam, again)
    assert not torch.equal(exam, other)
    assert torch.equal(exam, addition_track(f"add{digits}-reversed").test_set(7))
    assert all(is_held_out(a, b, digits) for a, b in pairs_of(exam[:500]))
    assert track.is_heldout(exam).all()
    frequencies = torch.stack([(exam == digit).float().mean(0) for digit in range(10)])
    assert torch.allclose(frequencies, torch.tensor(0.1), atol=0.015)


def test_a_whole_exam_has_a_million_problems() -> None:
    assert ADD4.test_set(0).shape == (TEST_PROBLEMS, 8) == (1_000_000, 8)


# -----------------------------------------------------------------------------
# what is counted apart


def test_carries_are_those_of_the_schoolbook() -> None:
    for track, pairs in ((ADD3, random_pairs(3, 3000, seed=1)), (ADD2, pairs_of(ADD2.test_set(0)))):
        groups = track.groups(rows_of(pairs, track.digits))
        for count in range(track.digits + 1):
            assert groups[f"carry {count}"].tolist() == [sum(carries(a, b)) == count for a, b in pairs]


def test_the_groups_of_three_digits_cover_what_they_say() -> None:
    groups = ADD3.groups(ADD3.test_set(0))
    sizes = {name: int(mask.sum()) for name, mask in groups.items()}
    # Two digits carry in 45 of 100 cases, in 55 with a carry from below.
    by_hand = {"carry 0": 55**3, "carry 3": 45 * 55 * 55, "100..999": 810_000}
    assert sizes | by_hand == sizes
    assert list(sizes) == ["carry 0", "carry 1", "carry 2", "carry 3", "100..999"]
    assert sum(sizes[f"carry {count}"] for count in range(4)) == 1_000_000
    assert groups["100..999"][[100_100, 999_999]].all()
    assert not groups["100..999"][[99_100, 100_099, 99_999]].any()


@pytest.mark.parametrize("digits", LONG)
@given(data=st.data())
def test_the_groups_of_a_long_track_are_the_lengths_of_its_longest_chain(digits: int, data: st.DataObject) -> None:
    pairs = data.draw(st.lists(any_pair(digits), min_size=1, max_size=4))
    nines = [(a, 10**digits - 1 - a + data.draw(st.integers(0, 1))) for a, _ in pairs if a]
    pairs = [(a, b) for a, b in pairs + nines if b < 10**digits]
    groups = addition_track(f"add{digits}").groups(rows_of(pairs, digits))
    assert list(groups) == [f"chain {length}" for length in range(digits + 1)]
    for length in range(digits + 1):
        assert groups[f"chain {length}"].tolist() == [longest_chain(a, b) == length for a, b in pairs]


def test_a_chain_is_as_long_as_one_carry_travels() -> None:
    pairs = {(9999, 1): 4, (5, 5): 1, (55, 55): 1, (95, 5): 2, (4545, 5454): 0, (1995, 8): 3, (9999, 9999): 1}
    groups = ADD4.groups(rows_of(pairs, 4))
    for index, length in enumerate(pairs.values()):
        assert [name for name, mask in groups.items() if mask[index]] == [f"chain {length}"]


# -----------------------------------------------------------------------------
# samples


@pytest.mark.parametrize("name", ["add3", "add3-reversed"])
def test_sample80_is_twenty_problems_a_carry_count_as_they_were_drawn(name: str) -> None:
    generator, wanted = random.Random(42), {0: [], 1: [], 2: [], 3: []}
    while min(len(pairs) for pairs in wanted.values()) < 20:
        a = generator.randint(100, 999)
        b = generator.randint(100, 999)
        if len(wanted[sum(carries(a, b))]) < 20:
            wanted[sum(carries(a, b))].append((a, b))
    (sample,) = addition_track(name).samples.values()
    assert list(addition_track(name).samples) == ["sample80"]
    assert sample.dtype == torch.uint8
    assert pairs_of(sample) == [pair for pairs in wanted.values() for pair in pairs]


def test_one_and_two_digits_have_no_samples() -> None:
    assert addition_track("add1").samples == ADD2.samples == {}


@pytest.mark.parametrize("digits", LONG)
def test_chains_of_every_length_are_built_from_held_out_problems(digits: int) -> None:
    track = addition_track(f"add{digits}")
    names = [f"built chain {length}" for length in range(digits + 1)]
    assert list(track.samples) == [*names, "nines"]
    for length, name in enumerate(names):
        pairs = pairs_of(track.samples[name])
        assert len(pairs) == len(set(pairs)) == 1000
        assert {longest_chain(a, b) for a, b in pairs} == {length}
        assert all(is_held_out(a, b, digits) for a, b in pairs)
        assert max(len(carries(a, b)) for a, b in pairs) == digits  # the places above are not left empty
    again = addition_track(f"add{digits}-reversed").samples
    assert all(torch.equal(problems, again[name]) for name, problems in track.samples.items())


@pytest.mark.parametrize("digits", LONG)
def test_nines_are_edges_in_both_orders(digits: int) -> None:
    pairs = pairs_of(addition_track(f"add{digits}").samples["nines"])
    full = 10**digits - 1
    assert len(pairs) == len(set(pairs))
    assert all(full in pair for pair in pairs)
    assert {(b, a) for a, b in pairs} == set(pairs)
    for other in (0, 1, 9, 10, full // 10, full - 1, full, 10 ** (digits - 1)):
        assert (full, other) in pairs, other


# -----------------------------------------------------------------------------
# on a GPU


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["add1", "add3", "add3-reversed", "add4", "add20"])
def test_a_gpu_says_what_the_cpu_says(name: str) -> None:
    track, device = addition_track(name), torch.device("cuda")
    rows = torch.cat(list(track.sets.values()))
    assert torch.equal(track.is_heldout(rows.to(device)).cpu(), track.is_heldout(rows))
    assert torch.equal(track.tokens(rows.to(device)).cpu(), track.tokens(rows))
    problems, valid = track.problems(track.prompts(rows.to(device)))
    assert valid.all()
    assert torch.equal(problems.cpu(), rows)
