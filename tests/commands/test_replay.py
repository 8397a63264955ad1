"""Replays of a record that a pretending trainer made; the certificate is stood in for, as there is no model."""

import json

import pytest

from bench.attempt.recertify import Recertification, UnusableWeights
from bench.commands import record, replay
from bench.errors import UsageError
from bench.storage.records import read_records
from tests.support.examples import example_certificate


def certificate_of(errors):
    return Recertification(
        certificate=example_certificate(errors), sentences=[], parameters=1, other_tensors=[], latest_change=0.0
    )


@pytest.fixture
def first(arena, monkeypatch):
    """The record to be replayed; today's certificate finds nothing wrong."""
    monkeypatch.setattr(replay, "recertify", lambda contestant, path, seed, how: certificate_of(0))
    assert record.main(record.Arguments(config="fast", clock="train", results=arena.results)) == 0
    (filed,) = read_records(arena.results)[0]
    return filed


def again(arena, filed, **changes):
    return replay.main(replay.Arguments(record=filed.record.name, results=arena.results, **changes))


def test_a_replay_runs_the_snapshot_with_fresh_seeds_and_files_a_reproduction(arena, first, capsys):
    seeds = {run.seed for run in arena.attempts()}
    arena.script.write_text(arena.script.read_text() + "# today's trainer is another one\n")
    assert again(arena, first, attempts=4) == 0
    (reproduction,) = first.reproductions.read()[0]
    assert reproduction.reproduced
    assert (reproduction.result.attempts, reproduction.result.solved, reproduction.certified) == (4, 4, 4)
    assert reproduction.machine_class == first.record.machine_class
    assert reproduction.ert_ratio == pytest.approx(1.0, abs=0.1)
    assert reproduction.ert_ratio_95[0] < reproduction.ert_ratio < reproduction.ert_ratio_95[1]
    own = [run for run in arena.attempts() if run.batch.id == reproduction.batch]
    assert len(own) == 4
    assert {run.source_sha256 for run in own} == {first.record.source_sha256}
    assert not seeds & {run.seed for run in own}
    assert "reached on 1 machine class" in capsys.readouterr().out


def test_the_board_shows_on_how_many_machine_classes_a_record_was_reproduced(arena, first):
    arena.behave(fast={"train": 30.0, "class": "Another CPU"})
    assert again(arena, first, attempts=2) == 0
    text = (arena.results / "LEADERBOARD.md").read_text()
    (row,) = [line for line in text.splitlines() if line.startswith(f"| [{first.record.name}]")]
    (head,) = [line for line in text.splitlines() if line.startswith("| record |")]
    assert row.split(" | ")[head.split(" | ").index("machine classes")] == "2"


def test_a_replay_that_today_s_certificate_does_not_confirm_is_no_reproduction(arena, first, monkeypatch, capsys):
    monkeypatch.setattr(replay, "recertify", lambda contestant, path, seed, how: certificate_of(1))
    assert again(arena, first, attempts=2) == 1
    (reproduction,) = first.reproductions.read()[0]
    assert not reproduction.reproduced
    assert "1 error by today's certificate" in capsys.readouterr().out
    text = (arena.results / "LEADERBOARD.md").read_text()
    assert f"did not reproduce {first.record.name}: {reproduction.reason}; 2 of 2 solved, 0 certified again" in text
    (row,) = [line for line in text.splitlines() if line.startswith(f"| [{first.record.name}]")]
    (head,) = [line for line in text.splitlines() if line.startswith("| record |")]
    assert row.split(" | ")[head.split(" | ").index("reproduced")] == "0/1"


def test_weights_that_cannot_be_certified_are_no_reproduction(arena, first, monkeypatch):
    def refuse(contestant, path, seed, how):
        raise UnusableWeights("these are no weights")

    monkeypatch.setattr(replay, "recertify", refuse)
    assert again(arena, first, attempts=1) == 1
    assert "these are no weights" in first.reproductions.read()[0][0].reason


def test_a_replay_that_solves_less_often_is_no_reproduction(arena, first):
    arena.behave(fast={"solves": 0.1})
    assert again(arena, first, attempts=10) == 1
    assert "where the record has 10 of 10" in first.reproductions.read()[0][0].reason


def test_a_replay_that_was_broken_off_while_certifying_repeats_no_attempt(arena, first, monkeypatch):
    def interrupted(contestant, path, seed, how):
        raise KeyboardInterrupt

    certified = replay.recertify
    monkeypatch.setattr(replay, "recertify", interrupted)
    with pytest.raises(KeyboardInterrupt):
        again(arena, first, attempts=2)
    calls = arena.calls()
    monkeypatch.setattr(replay, "recertify", certified)
    assert again(arena, first, attempts=2) == 0
    assert arena.calls() == calls


def test_what_does_not_agree_with_record_json_is_refused(arena, first):
    first.weights.write_bytes(b"other weights")
    with pytest.raises(UsageError, match="holds other weights"):
        again(arena, first)


def test_settings_that_are_not_the_record_s_are_refused(arena, first):
    first.config.write_text(first.config.read_text().replace("100.0", "101.0"))
    path = first.folder / "record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"config_hash": "0" * 64}))
    with pytest.raises(UsageError, match=r"the settings in config\.toml differ"):
        again(arena, first)
    assert all(run.command != "replay" for run in arena.attempts())


def test_an_unknown_record_or_no_attempts_are_refused(arena, first):
    with pytest.raises(UsageError, match="there is no record 'nothing'"):
        replay.main(replay.Arguments(record="nothing", results=arena.results))
    with pytest.raises(UsageError, match="at least one attempt"):
        again(arena, first, attempts=0)
