"""Writing rendered files, and checking those on disk."""

import pytest

from bench.report import render
from bench.report.render import write_or_check


@pytest.fixture
def files(tmp_path):
    return {tmp_path / "PAGE.md": "text\n"}, {tmp_path / "plots" / "picture.png": lambda: b"\x89\r\n"}


def test_texts_and_pictures_are_written_as_they_are(files, tmp_path):
    texts, pictures = files
    assert write_or_check(texts, pictures, check=False, command="board") == 0
    assert (tmp_path / "PAGE.md").read_bytes() == b"text\n"
    assert (tmp_path / "plots" / "picture.png").read_bytes() == b"\x89\r\n"
    assert len(list(tmp_path.rglob("*.*"))) == 2, "no draft is left behind"


def test_the_check_names_every_differing_file_draws_nothing_and_writes_nothing(files, tmp_path, capsys):
    texts, pictures = files
    undrawable = dict.fromkeys(pictures, pytest.fail)
    assert write_or_check(texts, undrawable, check=True, command="board") == 1
    assert capsys.readouterr().err.splitlines() == [
        f"{path} is missing; run `python -m bench board`" for path in (*texts, *pictures)
    ]
    assert list(tmp_path.iterdir()) == []
    write_or_check(texts, pictures, check=False, command="board")
    assert write_or_check(texts, undrawable, check=True, command="board") == 0


def test_a_stale_file_fails_the_check_and_is_deleted_when_writing(files, tmp_path, capsys):
    texts, pictures = files
    write_or_check(texts, pictures, check=False, command="board")
    stale = tmp_path / "OLD.md"
    stale.write_text("old\n")
    assert write_or_check(texts, pictures, check=True, command="board", stale=[stale]) == 1
    assert f"{stale} does not agree with the journal; " in capsys.readouterr().err
    assert stale.exists()
    write_or_check(texts, pictures, check=False, command="board", stale=[stale])
    assert not stale.exists()


def test_templates_in_a_folder_that_cannot_be_encoded_are_rendered_without_a_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(render, "TEMPLATES", tmp_path / "gr\udcc3\udcb6sse")
    assert render.bytecode_cache() is None
