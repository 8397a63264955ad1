"""The main job, whole and real: the default config, as a user starts it, and what can be done with its weights."""

import subprocess
import sys

import pytest
import torch

from bench.attempt.completions import all_completions
from bench.commands import ask, board
from bench.storage import weights
from bench.storage.journal import Journal
from data import decode, get_track, index_sets_sha256
from startup import keep_freed_memory
from tests.support.examples import ROOT

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def attempt(tmp_path_factory):
    """Results folder, exit status and standard error of one attempt of the default config on the CPU."""
    results = tmp_path_factory.mktemp("attempt")
    command = [sys.executable, "speedrun.py", "--device", "cpu", "--results", str(results), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    return results, done.returncode, done.stderr


@pytest.fixture(scope="module")
def filed(attempt):
    (run,), faults = Journal(attempt[0]).read()
    assert faults == []
    return run


@pytest.fixture(scope="module")
def given(attempt, filed):
    """The model, and its answers to all problems as the certificate finds them."""
    model, track = weights.load(attempt[0] / filed.weights, CPU)
    return (
        model,
        track,
        all_completions(model.answerer(), track, track.test_set(filed.seed), CPU, 8192, lambda share: None)[0],
    )


def test_the_default_config_solves_the_track(attempt, filed):
    assert attempt[1] == 0, attempt[2]
    assert filed.outcome == "solved"
    assert filed.certificate.errors == 0
    assert filed.certificate.problems == 1_000_000
    assert filed.certificate.heldout_problems == 99_771
    assert filed.certificate.samples["sample80"].problems == 80
    assert filed.reached["solved"] == filed.reached["heldout"] == filed.seconds.train
    assert filed.reached["99%"] < filed.seconds.train


@pytest.mark.slow
def test_the_answers_are_those_of_plain_decoding_by_the_full_forward_pass(given):
    """No tables, no cache: every character of every answer by `forward`, whose last layer asks at one position."""
    model, track, answers = given
    keep_freed_memory()  # a third faster
    wrong = []
    with torch.inference_mode():
        for problems, found in zip(track.test_set(0).split(1024), answers.split(1024), strict=True):
            text = track.tokens(problems)[:, : track.prompt_length].long()
            for _ in range(track.answer_length):
                text = torch.cat([text, model(text, text.size(1) - 1)[:, -1].argmax(-1, keepdim=True)], 1)
            wrong.append((text[:, track.prompt_length :] != found).any(1))
    assert not torch.cat(wrong).any()


def test_the_answers_are_python_s_sums(given, filed):
    _, track, answers = given
    right = "".join(f"{a + b:04}" for a in range(1000) for b in range(1000))
    characters = track.vocabulary.encode()
    given_text = bytes(characters[token] for token in answers.flatten().tolist())
    mistakes = sum(given_text[i : i + 4] != right[i : i + 4].encode() for i in range(0, len(right), 4))
    assert mistakes == filed.certificate.errors


@pytest.mark.slow
def test_a_file_of_a_million_problems_is_answered(attempt, given, tmp_path, capsys):
    _, track, answers = given
    file = tmp_path / "problems.txt"
    file.write_text("".join(f"{a:03}+{b:03}=\n" for a in range(1000) for b in range(1000)))
    assert ask.main(ask.Arguments(run="latest", file=file, results=attempt[0], device="cpu")) == 0
    written = capsys.readouterr().out
    assert written == "".join(f"{decode(track, row)}\n" for row in answers.tolist())


def test_the_display_took_less_than_a_hundredth_of_training(filed):
    assert filed.checks
    assert 0 < filed.display_seconds < 0.01 * filed.seconds.train


def test_the_phases_add_up_to_the_total(filed):
    phases = filed.seconds.model_dump()
    total, wall = phases.pop("total"), phases.pop("wall")
    assert sum(phases.values()) == pytest.approx(total, rel=0.02)
    assert wall > total


def test_the_board_says_what_the_journal_says(attempt):
    assert board.main(board.Arguments(results=attempt[0], check=True)) == 0


def test_the_data_of_the_attempt_is_the_track_s(filed):
    assert filed.data_sha256 == index_sets_sha256(get_track("add3"))
