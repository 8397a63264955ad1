"""`python -m bench tracks`."""

import re

import pytest

from bench import __main__ as commands
from bench.commands import tracks
from data import TRACKS


def shown(capsys: pytest.CaptureFixture, *arguments: str) -> dict[str, list[str]]:
    """The cells of each row, by its first."""
    assert commands.main(["tracks", *arguments]) == 0
    rows = [re.split(r" {2,}", line.strip()) for line in capsys.readouterr().out.splitlines()]
    return {first: others for first, *others in rows}


def test_a_track_is_shown_with_an_example_its_size_and_its_config(capsys) -> None:
    rows = shown(capsys, "--device", "cpu")
    assert rows["add3"] == ["381+350=0731", "1,000,000", "99,771", "0 errors in all 1,000,000 problems", "add3-cpu"]
    assert rows["add1-reversed"] == ["3+3=60", "100", "0", "0 errors in all 100 problems", tracks.NO_CONFIG]


def test_a_track_with_settings_is_shown_with_their_defaults(capsys) -> None:
    rows = shown(capsys, "--device", "cpu")
    assert rows["moddiv"][:3] == ["93/5=38", "9,312", "3,742"]
    assert rows["moddiv"][-1] == "moddiv-97"
    defaults = ["p=97 tokens=numbers training_share=0.5 validation_share=0.1"]
    assert rows["modadd, modsub, moddiv"] == defaults
    assert rows["memorize"] == ["text='I love machine learning' masked=0"]


def test_every_track_is_in_one_row_and_long_ones_share_rows() -> None:
    families = tracks.families("cpu")
    assert [track for family in families for track in family] == list(TRACKS.values())
    assert len(families) <= 16
    for family in families:
        assert len(family) == 1 or not any(track.exhaustive for track in family)
        assert len({track.name.endswith("-reversed") for track in family}) == 1


def test_a_long_track_with_a_config_has_its_own_row(capsys, monkeypatch) -> None:
    usual = tracks.default_config
    monkeypatch.setattr(
        tracks, "default_config", lambda track, device: "add6-cpu" if track.name == "add6" else usual(track, device)
    )
    rows = shown(capsys)
    assert rows["add6"][-1] == "add6-cpu"
    assert {"add4 … add5", "add7 … add20", "add4-reversed … add20-reversed"} <= set(rows)


def test_large_counts_are_printed_in_scientific_notation(capsys) -> None:
    assert [tracks.count_text(number) for number in (0, 99_771, 10**8, 10**40)] == ["0", "99,771", "1e+08", "1e+40"]


def test_a_missing_device_is_an_error(capsys) -> None:
    assert commands.main(["tracks", "--device", "tpu"]) == 2
    assert "tpu" in capsys.readouterr().err
