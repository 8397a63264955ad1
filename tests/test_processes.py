"""Child processes, under a site that prints and in locales of other encodings."""

import os

import pytest

from bench.processes import BATCH_VARIABLE, TEXT_VARIABLE, child_environment, json_lines, run_python

SITE = """
import atexit, sys
print("welcome to this site", 1)
atexit.register(print, "goodbye")
sys.stderr.write("noise\\n")
"""


def test_an_answer_is_found_between_the_lines_of_a_site(tmp_path, monkeypatch):
    (tmp_path / "usercustomize.py").write_text(SITE)
    (tmp_path / "sitecustomize.py").write_text(SITE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process = run_python(["-c", "print('{}'); print('{\"a\": 1}')"])
    assert "welcome" in process.stdout
    assert json_lines(process.stdout) == ['{"a": 1}']
    assert json_lines(process.stdout, 2) == ["{}", '{"a": 1}']


def test_missing_answers_are_an_error():
    assert json_lines("no answer", 0) == []
    with pytest.raises(ValueError, match="expected 2 JSON objects in the output, got 1"):
        json_lines("{}\nTraceback", 2)


def test_a_string_may_hold_other_line_separators():
    assert json_lines('{"note": "a\u2028b\x85c"}\n') == ['{"note": "a\u2028b\x85c"}']


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252"])
def test_children_answer_in_utf_8_whatever_the_environment_says(encoding, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    code = "import sys; print(sys.argv[1], sys.stdin.read()); sys.exit('schnell-über')"
    process = run_python(["-c", code, "größe"], "━")
    assert (process.stdout, process.stderr) == ("größe ━\n", "schnell-über\n")


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes")
def test_bytes_that_are_not_utf_8_are_replaced():
    process = run_python(["-c", "import sys; sys.stderr.buffer.write(b'gr\\xf6\\xdfe')"])
    assert process.stderr == "gr��e"


def test_a_child_does_not_wait_for_the_terminal():
    assert run_python(["-c", "import sys; print(repr(sys.stdin.read()))"]).stdout == "''\n"


def test_a_child_in_another_folder_finds_the_text_that_the_environment_names(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(TEXT_VARIABLE, "book.txt")
    assert child_environment()[TEXT_VARIABLE] == str(tmp_path / "book.txt")
    monkeypatch.setenv(TEXT_VARIABLE, "")
    assert child_environment()[TEXT_VARIABLE] == ""


def test_a_child_process_does_not_inherit_the_variables_of_an_attempt(monkeypatch):
    monkeypatch.setenv(BATCH_VARIABLE, "mine")
    assert BATCH_VARIABLE not in child_environment()
    assert child_environment(**{BATCH_VARIABLE: "theirs"})[BATCH_VARIABLE] == "theirs"
    assert child_environment()["PATH"] == os.environ["PATH"]
