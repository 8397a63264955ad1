"""The command `audit`: its table, its exit status, and the requests that it refuses."""

from pathlib import Path
from typing import Any

import pytest

from bench.__main__ import main
from bench.audit.checks import CHECKS, CheckResult
from bench.commands import audit
from bench.provenance import source_sha256
from bench.storage import weights
from bench.storage.journal import Journal
from bench.storage.schema import Run
from data import get_track
from tests.support.examples import example_run
from tests.support.models import random_model


@pytest.fixture
def filed(tmp_path) -> Run:
    """A missed run of this checkout's source in a journal, with the weights of an untrained model."""
    model = random_model(block_size=8)
    digest = weights.save(tmp_path / "weights" / "w.safetensors", model, get_track("add2"), {})
    return file_run(tmp_path, weights="weights/w.safetensors", weights_sha256=digest, source_sha256=source_sha256())


def file_run(results: Path, **changes) -> Run:
    run = example_run(**changes)
    Journal(results).append(run)
    return run


def run_command(results: Path, *arguments: str) -> int:
    return main(["audit", *arguments, "--results", str(results)])


@pytest.mark.parametrize(
    ("verdict", "status"), [("passed", 0), ("does not apply", 0), ("CAUGHT", 1), ("not carried out", 1)]
)
def test_the_command_prints_a_table_and_exits_0_when_all_passed_that_apply(
    verdict: Any, status: int, filed, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.setitem(CHECKS, "labels", lambda audit: CheckResult("passed", "7 of 9 wrong"))
    monkeypatch.setitem(CHECKS, "weights", lambda audit: CheckResult(verdict, "[as] it is"))
    monkeypatch.setattr(audit, "handle_interrupts", lambda: None)
    assert run_command(tmp_path, "latest", "--checks", "labels,weights") == status
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == ["audit", "check", "weights", "labels"]
    assert verdict in lines[2][1]
    assert lines[2][1].strip().endswith("[as] it is")


def test_an_interrupted_audit_exits_130(filed, tmp_path, monkeypatch) -> None:
    def interrupted(audit):
        raise KeyboardInterrupt

    monkeypatch.setitem(CHECKS, "labels", interrupted)
    monkeypatch.setattr(audit, "handle_interrupts", lambda: None)
    assert run_command(tmp_path, filed.run_id, "--checks", "labels") == 130


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["latest", "--checks", "weihgts"], "there is no check 'weihgts'; the nearest is 'weights'"),
        (["20260131-235959-add3-cpu-1a2b3d"], "the nearest is '20260131-235959-add3-cpu-1a2b3c'"),
    ],
)
def test_a_wrong_request_names_the_nearest_check_or_run(
    arguments: list[str], sentence: str, filed, tmp_path, capsys
) -> None:
    assert run_command(tmp_path, *arguments) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"weights": None, "weights_sha256": None, "outcome": "timeout"}, "kept no weights (timeout)"),
        ({"weights": "weights/gone.safetensors"}, "its weights are missing"),
        ({"settings": {"control": "shuffle"}}, "was made to test a trainer"),
        ({"source_sha256": "a" * 64, "commit": None}, "the journal names no commit"),
        ({"source_sha256": "a" * 64, "commit": "0" * 40}, "git does not give its commit"),
    ],
)
def test_a_run_that_cannot_be_audited_is_a_wrong_request(changes: dict, sentence: str, filed, tmp_path, capsys) -> None:
    file_run(tmp_path, **(dict(filed) | {"run_id": "another"} | changes))
    assert run_command(tmp_path, "another") == 2
    assert sentence in capsys.readouterr().err
