"""`python -m bench note`."""

import csv
import io
import json

import pytest

from bench import __main__ as commands
from bench.commands import note
from bench.storage.journal import Journal
from bench.storage.results import notes_file, read_notes
from tests.support.examples import example_run

RUN = example_run().run_id


@pytest.fixture
def results(tmp_path):
    Journal(tmp_path).append(example_run())
    return tmp_path


def bench(results, *arguments):
    return commands.main([*arguments, "--results", str(results)])


def test_remarks_are_dated_lines_beside_a_journal_that_does_not_change(results, capsys):
    before = (results / "runs.jsonl").read_bytes()
    assert bench(results, "note", RUN, "stuck at 2.7, größer lernen") == 0
    assert bench(results, "note", "latest", "  -- then it spiked  ") == 0
    assert (results / "runs.jsonl").read_bytes() == before
    assert [note.text for note in read_notes(results)[RUN]] == ["stuck at 2.7, größer lernen", "-- then it spiked"]
    assert f"noted on {RUN}" in capsys.readouterr().err


def test_show_prints_the_remarks_with_their_dates(results, capsys):
    bench(results, "note", RUN, "the [bold]rate[/bold] was too high")
    (line,) = notes_file(results).read()[0]
    assert bench(results, "show", RUN) == 0
    dated = f"note          {line.written_at:%Y-%m-%d %H:%M} UTC: the [bold]rate[/bold] was too high"
    assert dated in capsys.readouterr().out.splitlines()


def test_a_table_has_a_column_of_remarks_and_the_list_of_lines_has_none(results, capsysbinary):
    Journal(results).append(example_run(run_id="other"))
    bench(results, "note", RUN, "first")
    bench(results, "note", RUN, "second")
    assert bench(results, "export") == 0
    rows = list(csv.DictReader(io.StringIO(capsysbinary.readouterr().out.decode(), newline="")))
    assert [line["text"] for line in json.loads(rows[0]["notes"])] == ["first", "second"]
    assert rows[1]["notes"] == ""
    assert bench(results, "export", "--format", "json") == 0
    assert json.loads(capsysbinary.readouterr().out)[0] == example_run().model_dump(mode="json")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nosuch", "text"], "there is no run 'nosuch'"),
        (["", "text"], "the name of the run is empty"),
        ([RUN, ""], "the remark is empty"),
        ([RUN, " \t"], "the remark is empty"),
        ([RUN, "a\x1b[31mb"], "control characters"),
        ([RUN, "two\nlines"], "line ends"),
        ([RUN, "two\u2028lines"], "line ends"),
        ([RUN, "over\u202eride"], "control characters"),
        ([RUN, "not UTF-8 \udcff"], "UTF-8"),
        ([RUN, "without", "quotes"], "'quotes': unexpected argument"),
        ([RUN, "--dashes"], "write -- before one that begins with a dash"),
        ([RUN], "TEXT"),
        ([], "RUN"),
    ],
)
def test_a_wrong_remark_is_one_line_and_exit_2(arguments, named, results, capsys):
    assert bench(results, "note", *arguments) == 2
    shown = capsys.readouterr().err
    assert len(shown.splitlines()) == 1
    assert named in shown
    assert not notes_file(results).path.exists()


def test_a_folder_that_cannot_be_written_to_is_one_line_and_exit_2(results, capsys):
    (results / "notes.jsonl").mkdir()
    assert bench(results, "note", RUN, "text") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot be written to" in line


def test_a_damaged_remark_is_reported_and_passed_over(results, capsys):
    bench(results, "note", RUN, "good")
    with open(results / "notes.jsonl", "a") as file:
        file.write('{"run_id": 1}\n')
    assert [line.text for line in read_notes(results)[RUN]] == ["good"]
    assert "notes.jsonl:2: skipped" in capsys.readouterr().err


def test_the_command_line_of_a_remark_takes_any_run():
    assert note.Arguments(run="latest", text="x").results.name == "results"
