"""What a judge makes of an attempt in another process."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.experiments.judged import JudgedProcess, complete_judged, judged_outcome
from bench.judge.environment import adopt_orphans, clean_environment, end_remaining_processes, find_compiler
from bench.judge.session import Judged
from bench.judge.verdict import Verdict
from bench.machine.noise import Noise
from bench.storage.schema import Certificate, Run, Seconds
from tests.support.examples import example_certificate, example_run, example_seconds

QUIET, BUSY = Noise(0.01, 0.0, []), Noise(0.4, 0.0, ["other processes took 40% of the cores during train"])


def verdict(errors: int) -> Verdict:
    certificate = Certificate.model_validate(example_certificate(errors))
    return Verdict(certificate, [], "5" * 64)


def result(judged: Judged, train: float = 20.0, **changes: Any) -> JudgedProcess:
    seconds = Seconds.model_validate(example_seconds(train=train))
    return dataclasses.replace(JudgedProcess(judged, 99, seconds, 0, False, False, []), **changes)


def finished(errors: int = 0, during: Noise = QUIET) -> Judged:
    return Judged(verdict(errors), None, b"weights", QUIET, during)


# What the attempt says of itself is never better than what the judge found.
CLAIMS = example_run(judge="self", outcome="solved", seed=1)
CLAIMS = CLAIMS.model_copy(update={"settings": {**CLAIMS.settings, "max_seconds": 600.0}})


@pytest.mark.parametrize(
    ("judged", "run", "expected"),
    [
        (finished(), {"outcome": "missed"}, ("solved", None)),
        (finished(7), {"outcome": "solved"}, ("missed", None)),
        (Judged(problem="its initial weights differ"), {"outcome": "error"}, ("error", "its initial weights differ")),
        (Judged(), {"outcome": "solved"}, ("error", "the attempt ended without a verdict")),
        (Judged(), {"outcome": "timeout", "message": "late"}, ("timeout", "late")),
        (Judged(problem="gone"), {"outcome": "interrupted", "message": "SIGINT"}, ("interrupted", "SIGINT")),
        (Judged(problem="gone"), {"outcome": "diverged", "message": "nan"}, ("diverged", "nan")),
    ],
)
def test_the_outcome_is_the_judges(judged: Judged, run: dict, expected: tuple) -> None:
    assert judged_outcome(result(judged), example_run(**run)) == expected


def test_training_beyond_its_limit_is_a_timeout_whatever_the_attempt_says() -> None:
    limit = float(CLAIMS.settings["max_seconds"] or 0)
    outcome, message = judged_outcome(result(finished(), train=2 * limit), CLAIMS)
    assert outcome == "timeout"
    assert message is not None
    assert "its limit is" in message


def test_seconds_seed_certificate_weights_and_noise_are_the_judges(tmp_path: Path) -> None:
    run = complete_judged(result(finished(3), train=12.5), tmp_path, True, CLAIMS)
    assert (run.judge, run.seed, run.outcome) == ("harness", 99, "missed")
    assert run.seconds.train == 12.5
    assert run.certificate is not None
    assert run.certificate.errors == 3
    assert CLAIMS.reached["solved"] is not None
    assert run.reached["solved"] is None
    assert (tmp_path / str(run.weights)).read_bytes() == b"weights"
    assert run.weights_sha256 == "5" * 64
    assert run.machine.clean is True
    assert run.steps == CLAIMS.steps  # which the judge cannot know


def test_an_attempt_without_a_verdict_keeps_no_weights_and_no_certificate(tmp_path: Path) -> None:
    run = complete_judged(result(Judged(noise_before=QUIET)), tmp_path, True, CLAIMS)
    assert (run.outcome, run.certificate, run.weights, run.weights_sha256) == ("error", None, None, None)
    assert run.machine.clean is None
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("judged", "changes", "reason"),
    [
        (finished(during=BUSY), {}, "other processes took 40% of the cores during train"),
        (finished(), {"left_behind": ["server"]}, "left processes running: server"),
        (finished(), {"is_shared": True}, "ran without the device's lock (--shared)"),
    ],
)
def test_a_reason_against_a_clean_run_is_named(judged: Judged, changes: dict, reason: str, tmp_path: Path) -> None:
    run: Run = complete_judged(result(judged, **changes), tmp_path, False, CLAIMS)
    assert (run.machine.clean, run.machine.reasons) == (False, [reason])


# -----------------------------------------------------------------------------
# the environment


def test_a_contestant_gets_a_clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONSTARTUP", "CFLAGS", "EVIL"):
        monkeypatch.setenv(name, "evil")
    monkeypatch.setenv("PATH", f"/evil:{os.environ['PATH']}")
    monkeypatch.setenv("LANG", "C.UTF-8")
    with clean_environment() as environment:
        assert "evil" not in " ".join(environment.values())
        assert environment["LANG"] == "C.UTF-8"
        for name in ("HOME", "TMPDIR"):
            assert os.listdir(environment[name]) == []
        assert environment["HOME"] != os.environ.get("HOME")
    assert not os.path.exists(environment["HOME"])


def test_a_compiler_wrapper_in_the_users_path_is_not_the_compiler(tmp_path: Path, monkeypatch) -> None:
    find_compiler.cache_clear()
    honest = find_compiler()
    if honest is None:
        pytest.skip("needs a C compiler")
    wrapper = tmp_path / "cc"
    wrapper.write_text('#!/bin/sh\nexec /usr/bin/cc "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    find_compiler.cache_clear()
    assert find_compiler() == honest
    assert os.path.isabs(honest.path)
    assert len(honest.sha256) == 64
    find_compiler.cache_clear()


@pytest.mark.skipif(sys.platform != "linux", reason="needs a subreaper")
def test_a_process_that_is_left_behind_is_ended_and_named() -> None:
    adopt_orphans()
    starts = "import subprocess; subprocess.Popen(['sleep', '60'], start_new_session=True)"
    with clean_environment() as environment:
        subprocess.run([sys.executable, "-c", starts], env=environment, check=True)
        assert end_remaining_processes(environment["HOME"]) == ["sleep"]
        assert end_remaining_processes(environment["HOME"]) == []
