"""The entry to the tracks: building them by name, and the proof that training set and held-out set are disjoint."""

import hashlib
import re
import runpy
import struct
import sys

import pytest
import torch

import data
from bench import entry
from data import TRACKS, get_track, index_sets_sha256
from tests.support.digits import is_held_out, pairs_of
from tests.support.examples import ROOT
from tests.support.tracks import fresh

ADD2, ADD3 = get_track("add2"), get_track("add3")


def test_building_the_tracks_makes_no_tables() -> None:
    for name in TRACKS:
        assert not {"rows", "heldout", "samples", "sets", "numbers"} & set(vars(fresh(name)))


def test_a_track_is_built_once_and_an_unknown_one_is_an_error() -> None:
    assert get_track("add2") is ADD2
    with pytest.raises(KeyError, match="add0"):
        get_track("add0")


def test_the_version_of_the_interface_is_a_literal_that_audits_can_read() -> None:
    assert all(hasattr(data, name) for name in ("Batch", "Batches", "Track", "TRACKS", "get_batches"))
    assert TRACKS.get("add3").is_stream is False
    assert TRACKS.get("add0") is None
    assert re.search(r"^INTERFACE = 5$", (ROOT / "data.py").read_text(), re.MULTILINE)


# -----------------------------------------------------------------------------
# the proof


def test_the_index_sets_are_hashed_as_little_endian_integers() -> None:
    sets = {"train": [], "heldout": []}
    for problem in range(10_000):
        sets["heldout" if is_held_out(*divmod(problem, 100), 2) else "train"].append(problem)
    expected = {name: hashlib.sha256(struct.pack(f"<{len(s)}q", *s)).hexdigest() for name, s in sets.items()}
    assert index_sets_sha256(ADD2) == expected
    assert index_sets_sha256(get_track("add2-reversed")) == expected


def test_the_index_sets_of_the_first_tracks_are_what_they_have_always_been() -> None:
    """Runs and records of add3 are known by these."""
    assert index_sets_sha256(ADD3) == {
        "train": "4c25e734ee55c2b23ec8b4b8b37ec42fb84d4ee30bf03da7b03fe41e97658f66",
        "heldout": "84cf75bef544c8ac6e2cc7ca9c4002aea90392e66525510103256160cc08a91f",
    }
    assert index_sets_sha256(ADD2) == {
        "train": "39a7a17bc7c36ddb9e6938a173533d73a853fc52af7e5ea30bc190abc2d172a4",
        "heldout": "f18267cc885a78d8226db0955fb227f062727d44733eb8550a9ea620f0f3cb15",
    }


@pytest.mark.parametrize("digits", [4, 20])
def test_the_sets_of_a_long_track_are_drawn_lists_that_stay_the_same_and_follow_the_rule(digits: int) -> None:
    track = get_track(f"add{digits}")
    sets, again = track.sets, track.sets
    for name, heldout in (("train", False), ("heldout", True)):
        assert torch.equal(sets[name], again[name])
        assert sets[name].shape == (100_000, 2 * digits)
        pairs = pairs_of(sets[name][::997])
        assert {is_held_out(a, b, digits) for a, b in pairs} == {heldout}
    expected = {name: hashlib.sha256(bytes(rows.flatten().tolist())).hexdigest() for name, rows in sets.items()}
    assert index_sets_sha256(track) == expected


def test_no_two_tracks_of_different_length_have_the_same_hash() -> None:
    hashes = [index_sets_sha256(get_track(f"add{digits}"))["train"] for digits in (1, 2, 3, 4, 5, 6)]
    assert len(set(hashes)) == 6


def run_data(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str | int:
    monkeypatch.setattr(sys, "argv", ["data.py", *arguments])
    monkeypatch.setattr(entry, "prepare_process", lambda: None)  # it would change the streams of this process
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "data.py"), run_name="__main__")
    return end.value.code


def test_data_prints_the_proof_of_add3(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    assert run_data(monkeypatch) == 0
    printed = capsys.readouterr().out
    digests = index_sets_sha256(ADD3)
    assert re.search(rf"train +900,229 problems +sha256 {digests['train']}", printed)
    assert re.search(rf"heldout +99,771 problems +sha256 {digests['heldout']}", printed)
    assert re.search(r"in train and heldout +0 problems", printed)
    for name, expected in (("train", False), ("heldout", True)):
        examples = re.search(rf"^add3 {name} +(\d.*=\d{{4}})$", printed, re.MULTILINE)[1].split()
        assert len(examples) == 5
        for example in examples:
            a, b, answer = map(int, re.fullmatch(r"(\d{3})\+(\d{3})=(\d{4})", example).groups())
            assert (a + b, is_held_out(a, b, 3)) == (answer, expected)


@pytest.mark.slow
def test_the_proof_of_a_long_track_is_about_the_list_that_is_hashed(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    assert run_data(monkeypatch, "add6-reversed") == 0
    printed = capsys.readouterr().out
    digests = index_sets_sha256(get_track("add6-reversed"))
    for name in ("train", "heldout"):
        assert re.search(rf"{name} +100,000 problems +sha256 {digests[name]}", printed)
    assert re.search(r"in train and heldout +0 problems", printed)


def test_one_digit_has_nothing_held_out_to_show(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    assert run_data(monkeypatch, "add1") == 0
    printed = capsys.readouterr().out
    assert re.search(r"train +100 problems", printed)
    assert re.search(r"heldout +0 problems", printed)


def test_help_says_how_it_is_called(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    assert run_data(monkeypatch, "--help") == 0
    assert capsys.readouterr().out.startswith("usage: python data.py [TRACK]")
    assert run_data(monkeypatch, "add1", "add2") == 2


def test_an_unknown_track_is_a_wrong_request_that_names_the_nearest(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    assert run_data(monkeypatch, "add3-reverse") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "data.py: there is no track 'add3-reverse'; the nearest is 'add3-reversed'\n"
