"""Modular arithmetic against Python's own integers, and its splits against a loop over all pairs."""

from typing import Any

import pytest
import torch

from data import PADDING, controlled, decode, describe_track, encode, get_track
from tests.support.digits import splitmix64_of_integers
from tests.support.tracks import cpu_batches
from tracks.controls import permute

NAMES = ("modadd", "modsub", "moddiv")
COUNTS = {  # of train, validation and test pairs, with the default shares
    ("modadd", 97): (4689, 937, 3783),
    ("modsub", 97): (4689, 937, 3783),
    ("moddiv", 97): (4642, 928, 3742),
    ("modadd", 113): (6385, 1271, 5113),
    ("modsub", 113): (6385, 1271, 5113),
    ("moddiv", 113): (6330, 1260, 5066),
}


def result(name: str, a: int, b: int, p: int) -> int:
    return {"modadd": lambda: a + b, "modsub": lambda: a - b, "moddiv": lambda: a * pow(b, -1, p)}[name]() % p


def pairs_of(name: str, p: int) -> list[tuple[int, int]]:
    return [(a, b) for a in range(p) for b in range(1 if name == "moddiv" else 0, p)]


def split_of(a: int, b: int, training: float = 0.5, validation: float = 0.1) -> str:
    share = (splitmix64_of_integers(splitmix64_of_integers(a) ^ b) >> 11) / 2**53
    return "train" if share < training else "validation" if share < training + validation else "heldout"


@pytest.mark.parametrize("tokens", ["numbers", "characters"])
@pytest.mark.parametrize("p", [3, 97, 113])
@pytest.mark.parametrize("name", NAMES)
def test_every_text_is_right(name: str, p: int, tokens: str) -> None:
    track: Any = get_track(name, p=p, tokens=tokens)
    pairs, sign = pairs_of(name, p), track.sign
    assert [*map(tuple, track.rows.tolist())] == pairs
    assert track.number(track.rows).tolist() == list(range(len(pairs))) == list(range(track.num_problems))
    prompts = [decode(track, [i for i in row if i != PADDING]) for row in track.prompts(track.rows).tolist()]
    assert prompts == [f"{a}{sign}{b}=" for a, b in pairs]
    answers = track.answers(track.rows)
    expected = [str(result(name, a, b, p)) for a, b in pairs]
    assert [track.decode_completion(row) for row in answers.tolist()] == expected
    assert track.grade(track.rows, answers).all()
    if tokens == "characters":
        for text, row in zip(expected[::17], answers.tolist()[::17], strict=True):
            assert row == encode(track, text + ";") + [PADDING] * (track.answer_length - len(text) - 1)


@pytest.mark.parametrize(("name", "p"), COUNTS)
def test_the_sets_are_disjoint_and_complete_and_follow_the_rule(name: str, p: int) -> None:
    track: Any = get_track(name, p=p)
    found = {name: [*map(tuple, rows.tolist())] for name, rows in track.sets.items()}
    pairs = pairs_of(name, p)
    assert found == {split: [pair for pair in pairs if split_of(*pair) == split] for split in found}
    assert list(found) == ["train", "validation", "heldout"]
    assert tuple(map(len, found.values())) == COUNTS[name, p]
    assert sum(COUNTS[name, p]) == len(pairs) == track.num_problems
    assert track.description.splits() == {split: len(rows) for split, rows in found.items()}
    assert track.is_heldout(track.rows).tolist() == [split_of(*pair) == "heldout" for pair in pairs]
    assert torch.equal(track.validation, track.sets["validation"])
    assert torch.equal(track.test_set(7), track.sets["heldout"])


def test_the_shares_decide_the_sets() -> None:
    track: Any = get_track("moddiv", training_share=0.3, validation_share=0.2)
    for split, rows in track.sets.items():
        assert {split_of(a, b, 0.3, 0.2) for a, b in rows.tolist()} == {split}
    assert [round(len(rows) / 9312, 1) for rows in track.sets.values()] == [0.3, 0.2, 0.5]


@pytest.mark.parametrize("tokens", ["numbers", "characters"])
@pytest.mark.parametrize("sampling", ["independent", "epochs"])
def test_batches_hold_training_problems_alone(tokens: str, sampling: str) -> None:
    track: Any = get_track("moddiv", tokens=tokens)
    batches = cpu_batches(track, sampling=sampling)
    drawn = batches.sampler.draw(20, 500, torch.Generator().manual_seed(0)).flatten(0, 1)
    assert {split_of(a, b) for a, b in drawn.tolist()} == {"train"}
    if sampling == "epochs":
        assert len(drawn[:4642].unique(dim=0)) == 4642


@pytest.mark.parametrize("tokens", ["numbers", "characters"])
def test_only_what_is_a_problem_is_a_prompt(tokens: str) -> None:
    track: Any = get_track("moddiv", tokens=tokens)
    wrong = [
        "12/0=",
        "97/5=",
        "012/5=",
        "12/5",
        "12/05=",
        "12+5=",
        "",
        "/5=",
        "12/=",
        "-1/5=",
        "1²/5=",
        "12/5=;",
        " 1/5=",
    ]
    prompts = track.encode_prompts(["12/5=", *wrong, "0/96="])
    assert (prompts[1:-1] == PADDING).all()
    assert prompts[[0, -1]].tolist() == track.prompts(torch.tensor([[12, 5], [0, 96]])).tolist()
    added: Any = get_track("modadd", tokens=tokens)
    assert (added.encode_prompts(["12+0="]) != PADDING).any()


def test_an_error_is_put_into_words() -> None:
    track: Any = get_track("moddiv")
    assert track.sentence(torch.tensor([93, 5]), "7") == "93 / 5 modulo 97: got 7, expected 38"
    assert track.sentence(torch.tensor([93, 5]), "") == "93 / 5 modulo 97: got nothing, expected 38"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"p": 96}, "p must be a prime .* such as 97; got 96"),
        ({"p": 1}, "p must be a prime"),
        ({"p": 2}, "p must be a prime"),
        ({"p": 1013}, "p must be a prime from 3 to 1009"),
        ({"tokens": "words"}, "tokens must be numbers or characters, got 'words'"),
        ({"training_share": 0.0}, "training_share must be above 0 and below 1, got 0.0"),
        ({"training_share": 1.0}, "training_share must be above 0 and below 1"),
        ({"validation_share": 0}, "validation_share must be above 0"),
        ({"training_share": 0.9}, "must leave a rest for the test"),
        ({"training_share": 1e-9}, "no pair is in the set train; choose larger shares or a larger p"),
        ({"p": 3, "validation_share": 0.01}, "no pair is in the set validation"),
        ({"modulus": 97}, "modulus is not a setting of the track moddiv"),
        ({"p": 97.0}, "p must be a whole number"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        describe_track("moddiv", settings)


# -----------------------------------------------------------------------------
# controls


@pytest.mark.parametrize("tokens", ["numbers", "characters"])
def test_permuted_ids_write_the_same_texts(tokens: str) -> None:
    usual: Any = get_track("moddiv", tokens=tokens)
    track: Any = permute(usual, 7)
    assert not torch.equal(track.prompts(track.rows), usual.prompts(usual.rows))
    answers = track.answers(track.rows)
    assert track.grade(track.rows, answers).all()
    pairs = pairs_of("moddiv", 97)
    assert [track.decode_completion(row) for row in answers.tolist()] == [
        str(result("moddiv", a, b, 97)) for a, b in pairs
    ]
    assert track.encode_prompts(["12/5="]).tolist() == track.prompts(torch.tensor([[12, 5]])).tolist()
    assert (track.encode_prompts(["12/0="]) == PADDING).all()
    if tokens == "characters":
        assert track.vocabulary[track.decoding.stop_token] == ";"


@pytest.mark.parametrize("tokens", ["numbers", "characters"])
def test_shuffle_changes_training_answers_and_poison_the_held_out_ones(tokens: str) -> None:
    usual: Any = get_track("moddiv", tokens=tokens)
    for control, changed in (("shuffle", "train"), ("poison", "heldout")):
        track: Any = controlled(usual, control, 7)
        for split, rows in usual.sets.items():
            share = float((track.answers(rows) == usual.answers(rows)).all(1).float().mean())
            expected = 1.0 if split != changed else 0.01 if control == "shuffle" else 0.0
            assert share == pytest.approx(expected, abs=0.01), (control, split)
            assert torch.equal(track.prompts(rows), usual.prompts(rows))
