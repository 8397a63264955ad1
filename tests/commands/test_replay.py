"""`python -m bench replay`, with a fake trainer and a fake certificate."""

import json

import pytest

from bench.commands import replay
from bench.commands.paired_experiment import certificate_problem
from bench.errors import UsageError
from bench.judge.recertify import UnusableWeights
from bench.storage.records import read_records
from bench.storage.results import paired_plans_file
from tests.support.arena import recertification
from tests.support.examples import example_run


@pytest.fixture
def arena(recorded_arena):
    return recorded_arena


@pytest.fixture
def record_folder(arena):
    """The record to replay; the certificate confirms every attempt."""
    (record_folder,) = read_records(arena.results)[0]
    return record_folder


def run_replay(arena, record_folder, **changes):
    return replay.main(replay.Arguments(record=record_folder.record.name, results=arena.results, **changes))


def test_a_replay_runs_the_snapshot_with_fresh_seeds_and_files_a_reproduction(arena, record_folder, capsys):
    seeds = {run.seed for run in arena.attempts()}
    arena.script.write_text(arena.script.read_text() + "# the trainer has changed since\n")
    assert run_replay(arena, record_folder, attempts=4) == 0
    (reproduction,) = record_folder.reproductions.read()[0]
    assert reproduction.reproduced
    assert (reproduction.result.attempts, reproduction.result.solved, reproduction.certified) == (4, 4, 4)
    assert reproduction.machine_class == record_folder.record.machine_class
    assert reproduction.ert_ratio == pytest.approx(1.0, abs=0.1)
    assert reproduction.ert_ratio_95[0] < reproduction.ert_ratio < reproduction.ert_ratio_95[1]
    replay_runs = [run for run in arena.attempts() if run.batch.id == reproduction.batch]
    assert len(replay_runs) == 4
    assert {run.source_sha256 for run in replay_runs} == {record_folder.record.source_sha256}
    assert not seeds & {run.seed for run in replay_runs}
    assert [run.seed for run in replay_runs] == paired_plans_file(arena.results).read()[0][-1].seeds
    assert "reached on 1 machine class" in capsys.readouterr().out


def test_the_board_shows_on_how_many_machine_classes_a_record_was_reproduced(arena, record_folder):
    arena.behave(fast={"train": 30.0, "class": "Another CPU"})
    assert run_replay(arena, record_folder, attempts=2) == 0
    text = (arena.results / "LEADERBOARD.md").read_text()
    (row,) = [line for line in text.splitlines() if line.startswith(f"| [{record_folder.record.name}]")]
    (head,) = [line for line in text.splitlines() if line.startswith("| record |")]
    assert row.split(" | ")[head.split(" | ").index("machine classes")] == "2"


def test_a_measure_above_its_limit_is_a_problem_of_the_certificate(tmp_path, monkeypatch):
    """`memorize` asks for a small loss, too."""
    recertified = recertification(0)
    unmet = recertified.certificate.model_copy(update={"measures": {"loss": 0.002}, "limits": {"loss": 0.001}})
    for certificate, is_problem in ((recertified.certificate, False), (unmet, True)):
        answer = recertified.model_copy(update={"certificate": certificate})
        monkeypatch.setattr("bench.judge.recertify.recertify", lambda *_, answer=answer: answer)
        problem = certificate_problem(example_run(), tmp_path)
        assert (problem is not None and "loss 0.002, needed at most 0.001 by today's" in problem) == is_problem


def test_a_replay_with_errors_is_not_a_reproduction(arena, record_folder, monkeypatch, capsys):
    monkeypatch.setattr("bench.judge.recertify.recertify", lambda path, seed: recertification(1))
    assert run_replay(arena, record_folder, attempts=2) == 1
    (reproduction,) = record_folder.reproductions.read()[0]
    assert not reproduction.reproduced
    assert "1 error by today's certificate" in capsys.readouterr().out
    text = (arena.results / "LEADERBOARD.md").read_text()
    assert (
        f"did not reproduce {record_folder.record.name}: {reproduction.reason}; 2 of 2 solved, 0 certified again"
        in text
    )
    (row,) = [line for line in text.splitlines() if line.startswith(f"| [{record_folder.record.name}]")]
    (head,) = [line for line in text.splitlines() if line.startswith("| record |")]
    assert row.split(" | ")[head.split(" | ").index("reproduced")] == "0/1"
    page = (record_folder.folder / "README.md").read_text()
    assert "Replays that reproduced this record: 0 of 1." in page
    assert "**no**: " in page


def test_a_replay_with_unusable_weights_is_not_a_reproduction(arena, record_folder, monkeypatch):
    def refuse(path, seed):
        raise UnusableWeights("these are no weights")

    monkeypatch.setattr("bench.judge.recertify.recertify", refuse)
    assert run_replay(arena, record_folder, attempts=1) == 1
    assert "these are no weights" in record_folder.reproductions.read()[0][0].reason


def test_a_replay_that_solves_less_often_is_not_a_reproduction(arena, record_folder):
    arena.behave(fast={"solves": 0.1})
    assert run_replay(arena, record_folder, attempts=10) == 1
    assert "where the record has 10 of 10" in record_folder.reproductions.read()[0][0].reason


def test_a_replay_interrupted_while_certifying_repeats_no_attempt(arena, record_folder, monkeypatch):
    def interrupted(path, seed):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("bench.judge.recertify.recertify", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_replay(arena, record_folder, attempts=2)
    calls = arena.calls()
    assert run_replay(arena, record_folder, attempts=2) == 0
    assert arena.calls() == calls


def test_weights_that_disagree_with_the_record_are_an_error(arena, record_folder):
    record_folder.weights.write_bytes(b"other weights")
    with pytest.raises(UsageError, match="holds other weights"):
        run_replay(arena, record_folder)


def test_settings_that_disagree_with_the_record_are_an_error(arena, record_folder):
    path = record_folder.folder / "record.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"settings": record["settings"] | {"max_seconds": 101.0}}))
    with pytest.raises(UsageError, match=r"the settings in config\.toml differ"):
        run_replay(arena, record_folder)
    assert all(run.command != "replay" for run in arena.attempts())


def test_an_unknown_record_and_zero_attempts_are_errors(arena, record_folder):
    with pytest.raises(UsageError, match="there is no record 'nothing'"):
        replay.main(replay.Arguments(record="nothing", results=arena.results))
    with pytest.raises(UsageError, match="at least one attempt"):
        run_replay(arena, record_folder, attempts=0)


def test_a_record_of_the_project_is_found_by_name_and_its_replay_elsewhere_is_filed_there(
    arena, record_folder, monkeypatch, tmp_path
):
    monkeypatch.setattr("bench.storage.records.PROJECT_RESULTS", arena.results)
    play = tmp_path / "play"
    play.mkdir()
    attempts = len(arena.attempts())
    assert replay.main(replay.Arguments(record=record_folder.record.name, results=play, attempts=2)) == 0
    assert record_folder.reproductions.read()[0] == []
    assert len(arena.attempts()) == attempts
    (reproduction,) = replay.reproductions_file(record_folder, play).read()[0]
    assert reproduction.ert_ratio_95 is not None
