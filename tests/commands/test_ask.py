"""`python -m bench ask`, with models of random weights."""

from pathlib import Path

import pytest
import torch

from bench import __main__ as commands
from bench.attempt.decoding import complete
from bench.commands import ask
from bench.errors import UsageError
from bench.storage import weights
from bench.storage.journal import Journal
from data import decode, get_track
from tests.support.examples import example_run
from tests.support.models import random_model
from tests.support.tracks import addition_track, greedy

TRACK = addition_track("add3")


@pytest.fixture
def results(tmp_path):
    """Two runs with weights of different seeds, the second being the latest, and one without."""
    journal = Journal(tmp_path)
    for day, name in ((1, "first"), (2, "second")):
        weights.save(tmp_path / "weights" / f"{name}.safetensors", random_model(day), TRACK, {})
        journal.append(
            example_run(run_id=name, weights=f"weights/{name}.safetensors", started_at=f"2026-01-0{day}T00:00:00Z")
        )
    journal.append(example_run(run_id="third", weights=None, started_at="2026-01-03T00:00:00Z"))
    return tmp_path


def answers(capsys, **arguments):
    assert ask.main(ask.Arguments(**arguments)) == 0
    return capsys.readouterr().out.splitlines()


def naive_answer(seed, text):
    """One character at a time by the full forward pass."""
    ids = [TRACK.vocabulary.index(character) for character in text]
    for _ in range(TRACK.answer_length):
        ids.append(int(random_model(seed)(torch.tensor([ids]))[0, -1].argmax()))
    return decode(TRACK, ids[len(text) :])


def test_answers_are_printed_one_a_line(results, capsys):
    prompts = ("123+456=", "000+000=", "999+999=")
    assert answers(capsys, run="first", prompts=prompts, results=results) == [naive_answer(1, p) for p in prompts]


def test_latest_is_the_latest_run_that_kept_weights(results, capsys):
    assert answers(capsys, run="latest", prompts=("123+456=",), results=results) == [naive_answer(2, "123+456=")]


def test_weights_at_a_path_need_no_journal(results, capsys, tmp_path):
    path = str(results / "weights" / "first.safetensors")
    assert answers(capsys, run=path, prompts=("123+456=",), results=tmp_path) == [naive_answer(1, "123+456=")]


def test_a_file_is_answered_line_by_line(results, capsys, tmp_path):
    numbers = list(range(0, 1_000_000, 37))
    file = tmp_path / "problems.txt"
    file.write_text("".join(f"{n // 1000:03}+{n % 1000:03}=\n" for n in numbers))
    lines = answers(capsys, run="first", file=file, results=results)
    prompts = TRACK.tokens(TRACK.test_set(0)[numbers])[:, : TRACK.prompt_length].long()
    model = random_model(1)
    expected = complete(lambda idx: model(idx, idx.size(1) - 1)[:, 0], prompts, greedy(TRACK.answer_length))
    assert lines == [decode(TRACK, row) for row in expected.tolist()]


NO_PROBLEMS = ["", "1", "12+3456=", "123+456", "123-456=", "abc+def=", "=23+456=", "123+45\u0666=", "123+456=0"]


def test_texts_that_are_no_problems_get_an_empty_line_and_a_message_and_the_others_an_answer(results, capsys):
    prompts = ("123+456=", *NO_PROBLEMS, "000+000=")
    assert ask.main(ask.Arguments(run="first", prompts=prompts, results=results)) == 2
    output = capsys.readouterr()
    assert output.out.split("\n") == [naive_answer(1, "123+456="), *[""] * 9, naive_answer(1, "000+000="), ""]
    *messages, answering = output.err.splitlines()
    form = "write it like '381+350=': 3 digits each, zero-padded, with + between, then ="
    without_answer = "write it without the answer: '123+456='"
    forms = [without_answer if text == "123+456=0" else form for text in NO_PROBLEMS]
    expected = zip(NO_PROBLEMS, forms, strict=True)
    assert messages == [f"bench: {text!r} is not a problem of add3; {advice}" for text, advice in expected]
    assert answering == "answers by first (add3-cpu, solved)"


def test_without_any_problem_nothing_is_printed_but_the_messages(results, capsys):
    assert ask.main(ask.Arguments(run="first", prompts=("1+1=",) * 30, results=results)) == 2
    output = capsys.readouterr()
    assert (output.out, len(output.err.splitlines())) == ("", 21)
    assert output.err.splitlines()[-1] == "bench: 10 more lines are no problems of add3"


def test_an_empty_file_has_no_answers(results, capsys, tmp_path):
    file = tmp_path / "problems.txt"
    file.write_text("")
    assert answers(capsys, run="first", file=file, results=results) == []
    for track in (get_track("moddiv"), get_track("add2-omnivault"), TRACK):
        assert track.encode_prompts([]).shape == (0, track.prompt_length)


def test_an_error_in_a_file_names_the_line(results, tmp_path, capsys):
    file = tmp_path / "problems.txt"
    file.write_text("123+456=\n123+4567=\n")
    assert ask.main(ask.Arguments(run="first", file=file, results=results)) == 2
    assert f"{file}:2: '123+4567='" in capsys.readouterr().err


def test_it_is_said_when_latest_is_not_the_latest_run(results, capsys):
    ask.main(ask.Arguments(run="latest", prompts=("123+456=",), results=results))
    assert "answers by second (add3-cpu, solved); the latest run, third, is solved and kept no weights" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "arguments",
    [
        {"run": "third", "prompts": ("123+456=",)},
        {"run": "no-such-run", "prompts": ("123+456=",)},
        {"run": "no-such-file.safetensors", "prompts": ("123+456=",)},
        {"run": "first"},
        {"run": "first", "file": Path("no-such-file.txt")},
        {"run": "first", "prompts": ("123+456=",), "seed": -1},
        {"run": "first", "prompts": ("123+456=",), "temperature": 1.0, "seed": 2**63},
    ],
)
def test_missing_runs_files_and_problems_are_errors_of_one_line(results, arguments):
    with pytest.raises(UsageError) as refused:
        ask.main(ask.Arguments(results=results, **arguments))
    assert "\n" not in str(refused.value)


def test_a_truncated_weights_file_is_an_error_of_one_line(results, capsys):
    path = results / "weights" / "first.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    assert commands.main(["ask", str(path), "123+456="]) == 2
    shown = capsys.readouterr()
    assert (shown.out, len(shown.err.splitlines())) == ("", 1), shown.err


def test_a_problem_may_begin_with_a_dash_behind_two_dashes(results, capsys):
    assert commands.main(["ask", "first", "--results", str(results), "--", "-1+1="]) == 2
    assert "'-1+1=' is not a problem of add3" in capsys.readouterr().err
