"""What the rendered pages have in common."""

import pytest

from bench.formatting import changed_settings, commit_text, middle, number, spread_text, terminal_table
from bench.report.render import write_or_check


def test_what_is_not_known_is_a_dash_and_what_never_happens_says_so():
    assert [number(value) for value in (None, float("inf"), 1234.4)] == ["—", "never", "1,234"]
    assert (middle([], ".2f"), spread_text([], ".2f"), commit_text(None, True)) == ("—", "—", "—")


def test_figures_are_median_and_extremes():
    assert spread_text([3.0, 1.0, 2.0, 9.0], ".1f") == "2.5 (1.0 … 9.0)"
    assert middle([3.0, 1.0, 2.0, 9.0], ".1f") == "2.5"


def test_a_commit_is_short_and_tells_of_changes():
    assert [commit_text("0123456789abcdef", dirty) for dirty in (False, None, True)] == [
        *["0123456789"] * 2,
        "0123456789 + changes",
    ]


def test_settings_that_differ_are_told_as_old_and_new():
    old, new = {"a": 1, "b": True, "c": "x", "d": 0.5}, {"a": 1, "b": False, "c": "y", "e": 1e-5}
    assert changed_settings(old, new) == ["`b: true → false`", "`c: x → y`", "`d: 0.5 → —`", "`e: — → 1e-05`"]


@pytest.fixture
def files(tmp_path):
    return {tmp_path / "PAGE.md": "text\n"}, {tmp_path / "plots" / "picture.png": lambda: b"\x89\r\n"}


def test_texts_and_pictures_are_written_as_they_are(files, tmp_path):
    assert write_or_check(*files, check=False, command="board") == 0
    assert (tmp_path / "PAGE.md").read_bytes() == b"text\n"
    assert (tmp_path / "plots" / "picture.png").read_bytes() == b"\x89\r\n"
    assert len(list(tmp_path.rglob("*.*"))) == 2, "no draft is left behind"


def test_the_check_names_what_is_missing_or_stale_draws_nothing_and_writes_nothing(files, tmp_path, capsys):
    texts, pictures = files
    undrawable = dict.fromkeys(pictures, lambda: 1 / 0)
    assert write_or_check(texts, undrawable, check=True, command="board") == 1
    assert capsys.readouterr().err.splitlines() == [
        f"{name} does not say what the journal says; run `python -m bench board`" for name in ("PAGE.md", "picture.png")
    ]
    assert list(tmp_path.iterdir()) == []
    write_or_check(texts, pictures, check=False, command="board")
    assert write_or_check(texts, undrawable, check=True, command="board") == 0


def test_a_terminal_table_aligns_text_to_the_left_and_numbers_to_the_right():
    table = terminal_table(("name", "count"), text=("name",), no_wrap=("name",))
    assert [(column.justify, column.no_wrap) for column in table.columns] == [("left", True), ("right", False)]
