"""`python -m bench tracks`."""

import re
import tomllib

import pytest

from bench import __main__ as commands
from bench.commands import tracks
from bench.storage.journal import Journal
from data import TRACKS
from tests.support.consoles import plain_console, written
from tests.support.examples import ROOT, batch_runs
from tracks.source_figures import SOURCE_FIGURES


def rows(results, device: str = "cpu") -> dict[str, list[str]]:
    """The cells of each row of the table, by its first."""
    cells = (column.cells for column in tracks.tracks_table(device, results).columns)
    return {first: others for first, *others in zip(*cells, strict=True)}


def test_a_track_is_shown_with_an_example_its_size_its_config_and_the_source_s_figure(tmp_path) -> None:
    shown = rows(tmp_path)
    solved, figure = "0 errors in all 1,000,000 problems", "80 of 80, 110 s on a GPU (report)"
    assert shown["add3"] == ["381+350=0731", "1,000,000", "99,771", solved, "add3-cpu", figure]
    assert shown["moddiv"][:3] == ["93/5=38", "9,312", "3,742"]
    assert shown["add4 …\nadd20"][2] == "10%"
    assert shown["text"][1:3] == ["—", "—"]
    assert shown["actions"][0] == "fedcba0;\\n\nabcdef1abc"


def test_the_best_is_the_ranked_batch_with_the_lowest_ert_on_any_machine(tmp_path) -> None:
    other = {"class": "Another CPU", "clean": None, "reasons": []}
    journal = Journal(tmp_path)
    for run in [
        *batch_runs("add3-cpu", [2.0] * 10),
        *batch_runs("slower", [3.0] * 10),
        *batch_runs("faster-but-small", [1.0] * 9),
        *batch_runs("half-missed", [1.5] * 10, outcome=lambda i: "missed" if i % 2 else "solved", machine=other),
        *batch_runs("explored", [0.5] * 10, command="matrix"),
    ]:
        journal.append(run)
    assert rows(tmp_path)["add3"][4] == "add3-cpu\n2.00 s"
    for run in batch_runs("add3-wide", [1.9] * 10, machine=other):
        journal.append(run)
    assert rows(tmp_path)["add3"][4] == "add3-cpu\n1.90 s add3-wide"


def test_settings_of_tracks_are_shown_with_their_defaults(capsys, tmp_path) -> None:
    assert commands.main(["tracks", "--device", "cpu", "--results", str(tmp_path)]) == 0
    lines = [re.split(r" {2,}", line.strip()) for line in capsys.readouterr().out.splitlines()]
    defaults = "p=97 tokens=numbers training_share=0.5 validation_share=0.1"
    assert ["modadd, modsub, moddiv", defaults] in lines
    assert ["memorize", "text='I love machine learning' masked=0"] in lines


def test_the_table_fits_100_columns_and_cuts_nothing_off(tmp_path) -> None:
    console = plain_console(100)
    console.print(tracks.tracks_table("cpu", tmp_path))
    lines = written(console)
    assert max(map(len, lines)) <= 100
    text = " ".join(" ".join(lines).split())
    for cell in ("3813+3503=07316", "add20-reversed", "add2-omnivault", "1,000,000", "(omnivault)", "learning"):
        assert cell in text


def test_every_track_is_in_one_row_and_similar_ones_share_rows() -> None:
    families = tracks.families("cpu")
    assert [track for family in families for track in family] == list(TRACKS.values())
    assert len(families) <= 20
    for family in families:
        assert len({track.name.endswith("-reversed") for track in family}) == 1


def test_a_long_track_with_a_config_has_its_own_row(tmp_path, monkeypatch) -> None:
    usual = tracks.default_config
    monkeypatch.setattr(
        tracks, "default_config", lambda track, device: "add6-cpu" if track.name == "add6" else usual(track, device)
    )
    shown = rows(tmp_path)
    assert shown["add6"][4] == "add6-cpu"
    assert {"add4 …\nadd5", "add7 …\nadd20", "add1-reversed …\nadd20-reversed"} <= set(shown)


def test_large_counts_are_printed_in_scientific_notation() -> None:
    assert [tracks.count_text(number) for number in (0, 99_771, 10**8, 10**40)] == ["0", "99,771", "1e+08", "1e+40"]


@pytest.mark.parametrize(
    ("track", "config", "key"),
    [("add2-omnivault", "add2-gpu-recipe", "published_score"), ("add3", "report-4", "published_score")],
)
def test_published_scores_are_those_of_the_config_that_follows_the_source(track, config, key) -> None:
    score = tomllib.loads((ROOT / "bench" / "configs" / f"{config}.toml").read_text())["peer"][key]
    assert SOURCE_FIGURES[track].startswith(f"{score['right']:,} of {score['problems']:,},")


def test_only_tracks_have_published_figures() -> None:
    assert set(SOURCE_FIGURES) <= set(TRACKS)


@pytest.mark.parametrize("track", ["modadd", "modsub", "moddiv"])
def test_published_steps_are_the_fewest_of_the_config_that_follows_the_paper(track) -> None:
    peer = tomllib.loads((ROOT / "bench" / "configs" / "moddiv-97-recipe.toml").read_text())["peer"]
    steps = [row["steps"] for row in peer["published_steps"] if row["task"] == f"{track}-97"]
    assert f", {min(steps)} steps" in SOURCE_FIGURES[track]


def test_a_missing_device_is_an_error(capsys) -> None:
    assert commands.main(["tracks", "--device", "tpu"]) == 2
    assert "tpu" in capsys.readouterr().err
