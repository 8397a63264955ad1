"""The tracks against Python's own integers: `+` for the answers, SplitMix64 with a mask for the held-out rule."""

import hashlib
import random
import re
import runpy
import struct
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from examples import ROOT
from hypothesis import given
from hypothesis import strategies as st

from data import TRACKS, Addition, decode, encode, index_sets_sha256, splitmix64

ADD2, ADD3 = Addition(2), TRACKS["add3"]
CPU = torch.device("cpu")
MASK = 2**64 - 1


def splitmix64_of_integers(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def is_held_out(a: int, b: int, digits: int) -> bool:
    """The design's rule, word for word."""
    h = 0
    for digit in f"{min(a, b):0{digits}}{max(a, b):0{digits}}":
        h = splitmix64_of_integers(h ^ int(digit))
    return h % 10 == 0


def schoolbook_carries(a: int, b: int) -> int:
    """How often a pupil who adds from the right writes a small one."""
    carry = count = 0
    for x, y in zip(reversed(f"{a:03}"), reversed(f"{b:03}"), strict=True):
        carry = 1 if int(x) + int(y) + carry >= 10 else 0
        count += carry
    return count


def chain_length(a: int, b: int) -> int:
    """Places above the units whose digits sum to 9."""
    return sum(int(x) + int(y) == 9 for x, y in zip(f"{a:03}"[:-1], f"{b:03}"[:-1], strict=True))


def texts(track: Addition, problems: list[int]) -> list[str]:
    return [decode(track, row) for row in track.tokens(torch.tensor(problems))]


# -----------------------------------------------------------------------------
# the text of a problem


@given(a=st.integers(0, 999), b=st.integers(0, 999))
def test_the_text_of_a_problem_is_the_sum_that_python_writes(a: int, b: int) -> None:
    assert texts(ADD3, [a * 1000 + b]) == [f"{a:03}+{b:03}={a + b:04}"]


def test_the_worked_example_of_the_design_is_written_so() -> None:
    assert texts(ADD3, [381_350]) == ["381+350=0731"]
    assert (ADD3.name, ADD3.prompt_length, ADD3.answer_length, ADD3.num_problems) == ("add3", 8, 4, 1_000_000)


def test_every_text_of_two_digits_is_right() -> None:
    assert texts(ADD2, range(10_000)) == [f"{a:02}+{b:02}={a + b:03}" for a in range(100) for b in range(100)]


def test_tokens_keep_the_shape_of_the_problems() -> None:
    problems = torch.arange(24).view(2, 3, 4)
    tokens = ADD3.tokens(problems)
    assert tokens.shape == (2, 3, 4, 12)
    assert tokens.dtype == torch.uint8
    assert torch.equal(tokens.view(24, 12), ADD3.tokens(problems.view(24)))


@given(st.text(alphabet=Addition.vocabulary))
def test_decoding_undoes_encoding(text: str) -> None:
    ids = encode(ADD3, text)
    assert all(0 <= i < len(ADD3.vocabulary) for i in ids)
    assert decode(ADD3, ids) == text
    assert decode(ADD3, torch.tensor(ids, dtype=torch.uint8)) == text


@given(st.lists(st.integers(0, 11)))
def test_encoding_undoes_decoding(ids: list[int]) -> None:
    assert encode(ADD3, decode(ADD3, ids)) == ids


def test_a_character_outside_the_vocabulary_is_named() -> None:
    with pytest.raises(ValueError, match=r"'12 \+34=' holds ' '; add3 is written with '0123456789\+='"):
        encode(ADD3, "12 +34=")


@given(st.text(alphabet=st.characters(exclude_characters=Addition.vocabulary), min_size=1))
def test_no_foreign_character_is_encoded(text: str) -> None:
    with pytest.raises(ValueError, match="add3 is written with"):
        encode(ADD3, text)


# -----------------------------------------------------------------------------
# and back


@given(st.lists(st.integers(0, 999_999), min_size=1, max_size=20))
def test_problems_undo_the_prompts_of_tokens(problems: list[int]) -> None:
    prompts = ADD3.tokens(torch.tensor(problems))[:, : ADD3.prompt_length]
    assert ADD3.problems(prompts).tolist() == problems


def test_problems_undo_every_prompt_of_two_digits() -> None:
    every = torch.arange(10_000)
    assert torch.equal(ADD2.problems(ADD2.tokens(every)[:, :6]), every)


@given(
    st.one_of(st.text(alphabet=Addition.vocabulary, min_size=8, max_size=8), st.from_regex(r"\A[0-9]{3}\+[0-9]{3}=\Z"))
)
def test_only_what_is_written_like_a_prompt_is_a_problem(text: str) -> None:
    prompt = torch.tensor([encode(ADD3, text)], dtype=torch.uint8)
    written = re.fullmatch(r"(\d{3})\+(\d{3})=", text)
    expected = int(written[1]) * 1000 + int(written[2]) if written else -1
    assert ADD3.problems(prompt).tolist() == [expected]


@pytest.mark.parametrize("text", ["12+3456=", "1234+56=", "123+456+", "123=456=", "123+45+=", "+23+456=", "12345678"])
def test_what_only_looks_like_a_prompt_is_none(text: str) -> None:
    assert ADD3.problems(torch.tensor([encode(ADD3, text)], dtype=torch.uint8)).tolist() == [-1]


def test_ids_outside_the_vocabulary_make_no_prompt() -> None:
    right = torch.tensor([encode(ADD3, "123+456=")], dtype=torch.uint8)
    for place in range(8):
        for foreign in (12, 255):
            prompt = right.clone()
            prompt[0, place] = foreign
            assert ADD3.problems(prompt).tolist() == [-1]
    assert ADD3.problems(right).tolist() == [123_456]


# -----------------------------------------------------------------------------
# what is held out


def test_splitmix64_is_the_published_generator() -> None:
    assert splitmix64(np.zeros(1, np.uint64)).tolist() == [16294208416658607535]
    states = [0, 1, 9, 2**31, 2**63, MASK, *(random.Random(0).getrandbits(64) for _ in range(100))]
    assert splitmix64(np.array(states, np.uint64)).tolist() == [splitmix64_of_integers(x) for x in states]


@pytest.mark.parametrize(("digits", "expected"), [(2, 996), (3, 99_771)])
def test_as_many_problems_are_held_out_as_the_design_says(digits: int, expected: int) -> None:
    heldout = Addition(digits).heldout
    assert heldout.dtype == bool
    assert heldout.shape == (100**digits,)
    assert heldout.sum() == expected


def test_the_first_held_out_problem_is_000_plus_027() -> None:
    assert np.flatnonzero(ADD3.heldout)[0] == 27
    assert texts(ADD3, [27]) == ["000+027=0027"]


def test_the_held_out_problems_of_two_digits_follow_the_rule() -> None:
    assert ADD2.heldout.tolist() == [is_held_out(a, b, 2) for a in range(100) for b in range(100)]


def test_the_held_out_problems_of_three_digits_follow_the_rule() -> None:
    draw = random.Random(0)
    pairs = [(draw.randrange(1000), draw.randrange(1000)) for _ in range(2000)]
    chosen = [bool(ADD3.heldout[a * 1000 + b]) for a, b in pairs]
    assert chosen == [is_held_out(a, b, 3) for a, b in pairs]
    assert any(chosen)


def test_held_out_problems_come_in_both_orders() -> None:
    for track in (ADD2, ADD3):
        square = track.heldout.reshape(track.num_operands, track.num_operands)
        assert (square == square.T).all()


# -----------------------------------------------------------------------------
# what is drawn


@pytest.mark.parametrize("level_share", [0.0, 0.3, 1.0])
def test_the_sampler_never_draws_a_held_out_problem(level_share: float) -> None:
    problems = ADD3.sampler(level_share, CPU).draw(50, 1000, torch.Generator().manual_seed(0))
    assert problems.shape == (50, 1000)
    assert problems.dtype == torch.int64
    assert not ADD3.heldout[problems.numpy()].any()


@pytest.mark.parametrize("level_share", [0.0, 1.0])
def test_the_sampler_reaches_every_training_problem(level_share: float) -> None:
    # 9,004 problems are drawn from, each 100 times on average and no level's less than 50: a miss has odds of e^-50.
    drawn = ADD2.sampler(level_share, CPU).draw(90, 10_000, torch.Generator().manual_seed(0))
    assert set(drawn.flatten().tolist()) == set(np.flatnonzero(~ADD2.heldout).tolist())


@pytest.mark.parametrize("level_share", [0.0, 0.5, 1.0])
def test_the_levels_are_the_lengths_of_carry_chains_and_get_even_shares(level_share: float) -> None:
    problems = ADD3.sampler(level_share, CPU).draw(30, 1000, torch.Generator().manual_seed(1)).flatten().tolist()
    drawn = Counter(chain_length(*divmod(problem, 1000)) for problem in problems)
    uniform = {0: 0.81, 1: 0.18, 2: 0.01}  # two places above the units, each summing to 9 one time in ten
    for length, share in uniform.items():
        expected = level_share / 3 + (1 - level_share) * share
        assert drawn[length] / len(problems) == pytest.approx(expected, abs=0.015)


def test_a_draw_depends_on_its_generator_alone() -> None:
    sampler = ADD3.sampler(0.5, CPU)
    draws = [sampler.draw(2, 64, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


# -----------------------------------------------------------------------------
# what is counted apart


def test_carries_are_those_of_the_schoolbook() -> None:
    draw = random.Random(1)
    pairs = [(draw.randrange(1000), draw.randrange(1000)) for _ in range(3000)]
    counts = [int(ADD3.carries[a * 1000 + b]) for a, b in pairs]
    assert counts == [schoolbook_carries(a, b) for a, b in pairs]
    assert set(counts) == {0, 1, 2, 3}
    assert ADD2.carries.tolist() == [schoolbook_carries(a, b) for a in range(100) for b in range(100)]


def test_the_groups_cover_what_they_say() -> None:
    sizes = {name: int(mask.sum()) for name, mask in ADD3.groups.items()}
    # Two digits carry in 45 of 100 cases, in 55 with a carry from below.
    by_hand = {"carry 0": 55**3, "carry 3": 45 * 55 * 55, "100..999": 810_000}
    assert sizes | by_hand == sizes
    assert list(sizes) == ["carry 0", "carry 1", "carry 2", "carry 3", "100..999"]
    assert sum(sizes[f"carry {count}"] for count in range(4)) == 1_000_000
    assert ADD3.groups["100..999"][[100_100, 999_999]].all()
    assert not ADD3.groups["100..999"][[99_100, 100_099, 99_999]].any()


def test_sample80_is_twenty_problems_a_carry_count_as_they_were_drawn() -> None:
    generator, wanted = random.Random(42), {0: [], 1: [], 2: [], 3: []}
    while min(len(pairs) for pairs in wanted.values()) < 20:
        a = generator.randint(100, 999)
        b = generator.randint(100, 999)
        if len(wanted[schoolbook_carries(a, b)]) < 20:
            wanted[schoolbook_carries(a, b)].append((a, b))
    sample = ADD3.samples["sample80"]
    assert sample.dtype == np.int64
    assert sample.tolist() == [a * 1000 + b for pairs in wanted.values() for a, b in pairs]
    assert Counter(ADD3.carries[sample].tolist()) == {0: 20, 1: 20, 2: 20, 3: 20}


@pytest.mark.parametrize(
    ("problem", "answer", "sentence"),
    [
        (7_085, "0091", "7 + 85: got 91, expected 92"),
        (999_001, "0000", "999 + 1: got 0, expected 1000"),
        (0, "0001", "0 + 0: got 1, expected 0"),
        (123_456, "05+9", "123 + 456: got '05+9', expected 579"),
    ],
)
def test_a_mistake_is_put_into_words(problem: int, answer: str, sentence: str) -> None:
    assert ADD3.sentence(problem, answer) == sentence


# -----------------------------------------------------------------------------
# the proof


def test_the_index_sets_are_hashed_as_little_endian_integers() -> None:
    sets = {"train": [], "heldout": []}
    for problem in range(10_000):
        sets["heldout" if is_held_out(*divmod(problem, 100), 2) else "train"].append(problem)
    expected = {name: hashlib.sha256(struct.pack(f"<{len(s)}q", *s)).hexdigest() for name, s in sets.items()}
    assert index_sets_sha256(ADD2) == expected


def run_data(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["data.py", *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "data.py"), run_name="__main__")
    return end.value.code


@pytest.mark.parametrize("arguments", [[], ["add3"]])
def test_data_prints_the_proof(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    assert run_data(monkeypatch, *arguments) == 0
    printed = capsys.readouterr().out
    digests = index_sets_sha256(ADD3)
    assert re.search(rf"train +900,229 problems +sha256 {digests['train']}", printed)
    assert re.search(rf"heldout +99,771 problems +sha256 {digests['heldout']}", printed)
    assert re.search(r"in both +0 problems", printed)
    for name, expected in (("train", False), ("heldout", True)):
        examples = re.search(rf"^add3 {name} +(\d.*=\d{{4}})$", printed, re.MULTILINE)[1].split()
        assert len(examples) == 5
        for example in examples:
            a, b, answer = map(int, re.fullmatch(r"(\d{3})\+(\d{3})=(\d{4})", example).groups())
            assert (a + b, is_held_out(a, b, 3)) == (answer, expected)


def test_an_unknown_track_is_a_wrong_request_that_names_the_known_ones(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    assert run_data(monkeypatch, "add9") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"data.py: there is no track 'add9'; there are {', '.join(TRACKS)}\n"
