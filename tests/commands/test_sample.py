"""`python -m bench sample`, with models of random weights."""

import pytest
import torch

from bench.attempt.sampling import DECODINGS
from bench.commands import sample
from bench.errors import UsageError
from bench.storage import weights
from bench.storage.journal import Journal
from bench.storage.samplings import samplings_file
from tests.support.examples import example_run
from tests.support.models import random_model
from tests.support.tracks import addition_track

TRACK, SEED = addition_track("add1"), 8


def model():
    """Random weights that answer one problem rightly."""
    return random_model(SEED, block_size=TRACK.block_size)


@pytest.fixture
def results(tmp_path):
    digest = weights.save(tmp_path / "weights" / "first.safetensors", model(), TRACK, {})
    path = "weights/first.safetensors"
    Journal(tmp_path).append(example_run(run_id="first", track="add1", weights=path, weights_sha256=digest))
    return tmp_path


def test_one_command_files_the_scores_of_all_decodings(results, capsys):
    assert sample.main(sample.Arguments(run="first", results=results)) == 0
    lines = samplings_file(results).read()[0]
    assert [line.decoding for line in lines] == list(DECODINGS)
    assert {(line.run_id, line.problems) for line in lines} == {("first", 100)}  # add1 has no more
    test_set = TRACK.test_set(1)
    text = TRACK.prompts(test_set).long()
    for _ in range(TRACK.answer_length):
        text = torch.cat([text, model()(text)[:, -1].argmax(-1, keepdim=True)], 1)
    right = (text[:, TRACK.prompt_length :] == TRACK.answers(test_set)).all(1)
    assert lines[0].right == int(right.sum()) > 0
    low, high = lines[0].share_95
    assert 0 < low < lines[0].right / 100 < high < 1
    shown = capsys.readouterr()
    assert "temperature 0.8, top-k 200" in shown.out
    assert "add1 holds nothing out: these are problems of its training set" in shown.err


def test_scores_are_of_held_out_problems(results, capsys):
    track, path = addition_track("add2"), results / "weights" / "held.safetensors"
    weights.save(path, random_model(block_size=track.block_size), track, {})
    assert sample.main(sample.Arguments(run=str(path), results=results)) == 0
    shown = capsys.readouterr()
    assert "of 996:" in shown.out
    assert "holds nothing out" not in shown.err


def test_weights_of_no_journalled_run_are_scored_and_not_filed(results, capsys, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    path = str(results / "weights" / "first.safetensors")
    assert sample.main(sample.Arguments(run=path, problems=10, results=empty)) == 0
    shown = capsys.readouterr()
    assert "the scores are not filed" in shown.err
    assert "of 10:" in shown.out
    assert not list(empty.iterdir())
    assert sample.main(sample.Arguments(run=path, problems=10, results=results)) == 0
    assert {line.run_id for line in samplings_file(results).read()[0]} == {"first"}


def test_a_run_that_is_not_there_and_a_wrong_number_are_wrong_requests(results):
    with pytest.raises(UsageError, match="there is no run with weights 'none'"):
        sample.main(sample.Arguments(run="none", results=results))
    with pytest.raises(UsageError, match="problems"):
        sample.main(sample.Arguments(run="first", problems=0, results=results))
    for seed in (-1, 2**63):
        with pytest.raises(UsageError, match=rf"--seed {seed}: a seed is a whole number from 0 to 2\*\*63 - 1"):
            sample.main(sample.Arguments(run="first", seed=seed, results=results))
    (results / "weights" / "first.safetensors").write_bytes(torch.zeros(3).numpy().tobytes())
    with pytest.raises(UsageError, match="not a whole safetensors file"):
        sample.main(sample.Arguments(run="first", results=results))
