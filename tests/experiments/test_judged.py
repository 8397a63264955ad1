"""What a judge makes of an attempt in another process."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.experiments import judged as judged_module
from bench.experiments.judged import (
    REPORTED,
    JudgedProcess,
    begun_run,
    finished_run,
    judged_outcome,
    reported_run,
    run_judged,
)
from bench.judge import environment as environment_module
from bench.judge.environment import adopt_orphans, clean_environment, end_remaining_processes, find_compiler
from bench.judge.isolation import isolation_problem
from bench.judge.protocol import ProtocolError
from bench.judge.session import Judged
from bench.judge.verdict import Verdict
from bench.machine.noise import Noise
from bench.storage.journal import Journal
from bench.storage.machines import machine_peaks_file
from bench.storage.schema import Batch, Certificate, MachinePeak, Run, Seconds
from tests.support.examples import ROOT, example_certificate, example_run, example_seconds
from tests.support.signals import signal_handlers_kept

QUIET, BUSY = Noise(0.01, 0.0, []), Noise(0.4, 0.0, ["other processes took 40% of the cores during train"])


def verdict(errors: int) -> Verdict:
    certificate = Certificate.model_validate(example_certificate(errors))
    return Verdict(certificate, [], "5" * 64)


def result(judged: Judged, train: float = 20.0, **changes: Any) -> JudgedProcess:
    seconds = Seconds.model_validate(example_seconds(train=train))
    return dataclasses.replace(JudgedProcess(judged, seconds, 0), **changes)


def finished(errors: int = 0, during: Noise = QUIET, **changes: Any) -> Judged:
    return dataclasses.replace(Judged(verdict(errors), None, b"weights", CLAIMS, QUIET, during), **changes)


# What a contestant may plan and report: all that it can say in its own favour.
PLANNED = example_run(judge="self", isolated=True, seed=99, device="cpu", threads=1, matmul_flops_per_second=1e30)
PLANNED = PLANNED.model_copy(update={"settings": {**PLANNED.settings, "max_seconds": 600.0}})
BEGUN = begun_run(PLANNED, Path("nowhere"), is_altered=False, is_shared=False)
CLAIMS = {
    **example_run(
        run_id="forged",
        batch={"id": "forged", "command": "record", "planned": 1, "index": 0},
        judge="harness",
        isolated=True,
        seed=1,
        commit="1" * 40,
        source_sha256="1" * 64,
        settings={"forged": True},
        matmul_flops_per_second=1e30,
        engine="ray",
        steps=123,
    ).model_dump(mode="json"),
    "unheard_of": 1,
}


@pytest.fixture(autouse=True)
def peak(monkeypatch: pytest.MonkeyPatch) -> MachinePeak:
    """The limits of the machine, which take half a second to measure."""
    known = MachinePeak(
        machine_class="Example CPU",
        precision="bfloat16",
        matmul_flops_per_second=5e10,
        launch_seconds=1e-6,
        measured_at=example_run().started_at,
    )
    monkeypatch.setattr("bench.machine.peaks.measure_peak", lambda *_: known)
    return known


@pytest.mark.parametrize(
    ("judged", "claimed", "changes", "expected"),
    [
        (Judged(verdict(0)), {"outcome": "missed"}, {}, ("solved", None)),
        (Judged(verdict(7)), {"outcome": "solved"}, {}, ("missed", None)),
        (Judged(verdict(0)), None, {"status": -9}, ("solved", None)),
        (Judged(verdict(0), problem="report: ill-formed"), None, {}, ("error", "report: ill-formed")),
        (Judged(problem="its weights differ"), {"outcome": "timeout"}, {}, ("error", "its weights differ")),
        (Judged(), {"outcome": "solved"}, {}, ("error", "the attempt ended without a verdict")),
        (Judged(), {"outcome": "lost"}, {}, ("error", "the attempt ended without a verdict")),
        (Judged(), {"outcome": "timeout", "message": "late"}, {}, ("timeout", "late")),
        (Judged(), {"outcome": "diverged", "message": "nan\nmore"}, {}, ("diverged", "nan")),
        (Judged(), {"outcome": "error", "message": None}, {}, ("error", None)),
        (Judged(problem="gone"), None, {"interrupt": "SIGTERM"}, ("interrupted", "SIGTERM")),
        (Judged(verdict(0)), None, {"interrupt": "SIGINT"}, ("solved", None)),
        (Judged(), None, {"status": 130}, ("interrupted", "SIGINT")),
        (Judged(), None, {"status": -15}, ("interrupted", "SIGTERM")),
        (Judged(), None, {"status": -9}, ("lost", "the process ended without a report")),
        (Judged(), None, {"status": 3}, ("error", "the process ended with status 3 and without a report")),
    ],
)
def test_the_outcome_is_the_judges(judged: Judged, claimed: dict | None, changes: dict, expected: tuple) -> None:
    claim = None if claimed is None else example_run(**claimed)
    assert judged_outcome(result(judged, **changes), BEGUN, claim) == expected


def test_training_beyond_its_limit_is_a_timeout_whatever_the_attempt_says() -> None:
    outcome, message = judged_outcome(result(finished(), train=1200.0), BEGUN, example_run())
    assert outcome == "timeout"
    assert message == "train took 1200.00 s; its limit is 600 s"


def test_a_report_changes_only_what_the_judge_cannot_know(tmp_path: Path, peak: MachinePeak) -> None:
    with_report = finished_run(result(finished(3), train=12.5), BEGUN, tmp_path)
    without = finished_run(result(finished(3, report=None), train=12.5), BEGUN, tmp_path)
    differing = {key for key, value in with_report.model_dump().items() if value != without.model_dump()[key]}
    assert differing <= set(REPORTED) - {"outcome", "message"}
    assert {"steps"} <= differing
    assert with_report.steps == 123
    for run in (with_report, without):
        assert (run.judge, run.isolated, run.seed) == ("harness", False, 99)
        assert (run.outcome, run.batch) == ("missed", None)
        assert (run.run_id, run.settings, run.commit) == (BEGUN.run_id, BEGUN.settings, BEGUN.commit)
        assert run.seconds.train == 12.5
        assert run.certificate is not None
        assert run.certificate.errors == 3
        assert run.reached["solved"] is None
        assert (tmp_path / str(run.weights)).read_bytes() == b"weights"
        assert run.weights_sha256 == "5" * 64
        assert run.machine.clean is True
        assert (run.matmul_flops_per_second, run.launch_seconds) == (peak.matmul_flops_per_second, peak.launch_seconds)


def test_what_a_contestant_plans_beyond_its_settings_is_not_filed() -> None:
    assert PLANNED.outcome == "solved"
    assert (BEGUN.outcome, BEGUN.judge, BEGUN.seconds.total) == ("lost", "harness", None)
    assert BEGUN.isolated is BEGUN.certificate is BEGUN.weights is BEGUN.matmul_flops_per_second is None
    assert BEGUN.run_id != PLANNED.run_id


def test_source_that_has_changed_since_it_was_planned_is_filed_as_it_is_now() -> None:
    begun = begun_run(PLANNED, ROOT, is_altered=False, is_shared=False)
    assert begun.source_sha256 != PLANNED.source_sha256
    assert begun.commit != PLANNED.commit
    same = begun.model_copy(update={"commit": "2" * 40, "dirty": False})
    again = begun_run(same, ROOT, is_altered=False, is_shared=False)
    assert (again.source_sha256, again.commit, again.dirty) == (begun.source_sha256, "2" * 40, False)


@pytest.mark.parametrize(
    ("report", "problem"),
    [
        ({"steps": "many"}, "report: steps: Input should be a valid integer"),
        ({"outcome": "won"}, "report: outcome: Input should be 'solved'"),
        ({"checks": [{"step": 1}]}, "report: checks.0.train_seconds: Field required"),
    ],
)
def test_an_ill_formed_report_is_an_error_of_one_line(report: dict, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match=problem):
        reported_run(BEGUN, report)
    run = finished_run(result(finished(report=report)), BEGUN, tmp_path)
    assert (run.outcome, run.certificate) == ("error", None)
    assert run.message is not None
    assert run.message.startswith(problem)
    assert "\n" not in run.message


def test_the_limits_of_a_machine_are_measured_once_by_the_judge(tmp_path: Path, monkeypatch) -> None:
    first = finished_run(result(finished()), BEGUN, tmp_path)
    assert len(machine_peaks_file(tmp_path).read()[0]) == 1
    monkeypatch.setattr("bench.machine.peaks.measure_peak", None)
    assert finished_run(result(finished()), BEGUN, tmp_path).launch_seconds == first.launch_seconds


def test_limits_that_cannot_be_measured_do_not_change_the_outcome(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("bench.machine.peaks.measure_peak", None)
    run = finished_run(result(finished()), BEGUN, tmp_path)
    assert (run.outcome, run.launch_seconds) == ("solved", None)
    assert "the limits of the machine were not measured: TypeError" in capsys.readouterr().err


def test_the_traceback_of_a_contestant_is_saved_by_the_judge(tmp_path: Path, capsys) -> None:
    report = {"outcome": "error", "message": "ValueError: no", "traceback": "Traceback: no"}
    run = finished_run(result(Judged(report=report), status=1), BEGUN, tmp_path)
    assert (run.outcome, run.message) == ("error", "ValueError: no")
    (saved,) = (tmp_path / "errors").iterdir()
    assert saved.read_text() == "Traceback: no"
    assert f"the traceback is in {saved}" in capsys.readouterr().err


def test_an_attempt_without_a_verdict_keeps_no_weights_and_no_certificate(tmp_path: Path) -> None:
    run = finished_run(result(Judged(noise_before=QUIET, report=CLAIMS)), BEGUN, tmp_path)
    assert (run.outcome, run.certificate, run.weights, run.weights_sha256) == ("error", None, None, None)
    assert run.machine.clean is None
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("judged", "changes", "reason"),
    [
        (finished(during=BUSY), {}, "other processes took 40% of the cores during train"),
        (finished(), {"left_behind": ["server"]}, "left processes running: server"),
    ],
)
def test_a_reason_against_a_clean_run_is_named(judged: Judged, changes: dict, reason: str, tmp_path: Path) -> None:
    shared = begun_run(PLANNED, Path("nowhere"), is_altered=False, is_shared=True)
    for begun, reasons in ((BEGUN, [reason]), (shared, ["ran without the device's lock (--shared)", reason])):
        run = finished_run(result(judged, **changes), begun, tmp_path)
        assert (run.machine.clean, run.machine.reasons) == (False, reasons)


# -----------------------------------------------------------------------------
# contestants as processes

CONTESTANT = ROOT / "tests" / "support" / "numpy_contestant.py"
READY = '    send("ready")\n'


@dataclasses.dataclass(frozen=True)
class Folder:
    """A results folder beside a contestant that other tests' folders know nothing of."""

    root: Path

    @property
    def results(self) -> Path:
        return self.root / "results"

    def judge(self, replaced: str = "", by: str = "", command: str = "speedrun", **changes: Any) -> Run:
        """The filed run of the NumPy contestant with one change of its source."""
        source = CONTESTANT.read_text()
        assert replaced in source
        script = self.root / "contestant.py"
        script.write_text(source.replace(replaced, by, 1) if replaced else source)
        settings = {"track": "memorize", "max_seconds": 60.0, **changes.pop("settings", {})}
        planned = example_run(
            judge="self", track="memorize", config="memorize", settings=settings, device="cpu", threads=1, seed=7
        )
        planned = planned.model_copy(update={"batch": Batch(id="batch", command=command, planned=1, index=0)})
        journal = Journal(self.results)
        run, _ = run_judged([str(script), "--shared"], planned, journal, quietly=True, **changes)
        filed, faults = journal.read()
        assert ([each.model_dump() for each in filed], faults) == ([run.model_dump()], [])
        assert not list(journal.marks.glob("*.json"))
        return run


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture(params=[True, False], ids=["isolated", "not isolated"])
def is_isolated(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether contestants get namespaces of their own in a test, which runs in both ways."""
    if not request.param:
        monkeypatch.setattr("bench.judge.isolation.isolation_problem", lambda: "switched off by a test")
    elif isolation_problem() is not None:
        pytest.skip(f"no namespaces: {isolation_problem()}")
    return request.param


def test_a_contestant_without_a_report_is_judged_and_filed(folder: Folder, is_isolated: bool) -> None:
    run = folder.judge()
    assert (run.outcome, run.message, run.judge, run.seed) == ("solved", None, "harness", 7)
    assert run.isolated is is_isolated
    assert (folder.results / str(run.weights)).exists()


def test_a_contestant_sees_neither_the_results_nor_its_batch(folder: Folder, monkeypatch) -> None:
    """It is not isolated, so that it can write down what it sees."""
    monkeypatch.setattr("bench.judge.isolation.isolation_problem", lambda: "switched off by a test")
    seen = folder.root / "seen.txt"
    notes = f"    open({str(seen)!r}, 'w').write(repr((__import__('sys').argv, dict(os.environ))))\n"
    assert folder.judge(READY, notes + READY).outcome == "solved"
    assert "contestant.py" in seen.read_text()
    for secret in (str(folder.results), "batch", "speedrun-batch", "BATCH"):
        assert secret not in seen.read_text()


def test_a_contestant_that_writes_into_the_results_folder_changes_nothing(folder: Folder, is_isolated: bool) -> None:
    """It is told the folder by this test: it replaces its start mark by a finished run."""
    forged = example_run(run_id="forged", seed=1).model_dump_json()
    writes = f"""    import pathlib
    for mark in pathlib.Path({str(folder.results)!r}).glob("started/*.json"):
        mark.write_text({forged!r})
"""
    run = folder.judge(READY, writes + READY.replace("ready", "steady"))
    assert (run.outcome, run.message, run.seed) == ("error", "the protocol has no message 'steady'", 7)


def test_a_report_that_claims_another_run_changes_nothing(folder: Folder) -> None:
    end = '    print(json.loads(lines.readline())["certified"]["outcome"])\n'
    run = folder.judge(end, f"{end}    send('report', **json.loads({json.dumps(CLAIMS)!r}))\n", relabelling=None)
    assert (run.outcome, run.judge, run.seed, run.steps) == ("solved", "harness", 7, 123)
    assert run.run_id != "forged"
    assert run.batch is not None
    assert run.batch.id == "batch"
    assert run.seconds.model_dump() != example_seconds()
    assert run.certificate is not None
    assert run.certificate.problems != example_certificate()["problems"]


START = '    start = json.loads(lines.readline())["start"]\n'
CHECK = '    send("check", step=5, train_seconds=0.5, loss=1.0, errors=3)\n'


@pytest.mark.parametrize(
    ("by", "outcome", "message"),
    [
        ("os.kill(os.getpid(), 9)", "lost", "the process ended without a report"),
        ("os._exit(3)", "error", "the process ended with status 3 and without a report"),
        ("send('report', outcome='diverged', message='nan'); os._exit(1)", "diverged", "nan"),
        ("send('report', outcome='timeout', message='late'); os._exit(1)", "timeout", "late"),
        ("send('report', outcome='solved'); os._exit(0)", "error", "the attempt ended without a verdict"),
    ],
)
def test_a_contestant_that_ends_in_training_is_filed(by: str, outcome: str, message: str, folder, is_isolated) -> None:
    run = folder.judge(START, f"{START}    {by}\n")
    assert (run.outcome, run.message, run.certificate, run.weights) == (outcome, message, None, None)
    assert run.seconds.train is not None
    assert run.isolated is is_isolated


@pytest.mark.skipif(sys.platform != "linux", reason="needs a subreaper")
def test_a_process_that_a_contestant_leaves_behind_makes_its_run_not_clean(folder: Folder, is_isolated: bool) -> None:
    daemon = "    import subprocess; subprocess.Popen(['sleep', '65432'], start_new_session=True)\n"
    run = folder.judge(READY, daemon + READY)
    assert (run.outcome, run.machine.clean) == ("solved", False)
    assert "left processes running: sleep" in run.machine.reasons


def test_a_hopeless_attempt_is_pruned(folder: Folder, is_isolated: bool) -> None:
    waits = f"""{START}    import signal, time
    report = lambda *_: (send("report", outcome="pruned", message="hopeless"), os._exit(1))
    signal.signal(signal.SIGUSR1, report)
{CHECK}    time.sleep(60)
"""
    seen: list[int] = []
    run = folder.judge(START, waits, command="tune", is_hopeless=lambda check: not seen.append(check.step))
    assert (run.outcome, run.message, seen) == ("pruned", "hopeless", [5])


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupted_command_files_its_attempt_with_its_report(name: str, folder: Folder, is_isolated: bool) -> None:
    waits = f"""{START}    import signal, time
    report = lambda *_: (send("report", outcome="interrupted", message="mine", steps=5, note="x" * 10**6), os._exit(1))
    signal.signal(signal.{name}, report)
{CHECK}    time.sleep(60)
"""

    def interrupt(check: object) -> bool:
        raise KeyboardInterrupt(name)

    with signal_handlers_kept():
        run = folder.judge(START, waits, is_hopeless=interrupt)
    assert (run.outcome, run.message, run.steps) == ("interrupted", name, 5)


def test_an_attempt_that_is_interrupted_while_it_waits_for_the_device_has_not_begun(tmp_path, monkeypatch) -> None:
    def interrupted(devices: object) -> None:
        raise KeyboardInterrupt("SIGINT")

    monkeypatch.setattr(judged_module, "hold_devices", interrupted)
    planned = PLANNED.model_copy(update={"settings": {"track": "memorize"}, "track": "memorize"})
    with pytest.raises(KeyboardInterrupt):
        run_judged(["contestant.py"], planned, Journal(tmp_path), quietly=True)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("command", "saved"), [("speedrun", b"abc"), ("audit", None), ("tune", None)])
def test_checkpoints_are_saved_by_the_judge_unless_it_explores(command: str, saved, folder: Folder) -> None:
    """The contestant cannot tell the difference."""
    run = folder.judge(START, f'{START}    send("checkpoint", b"abc", bytes=3, step=12)\n', command=command)
    assert run.outcome == "solved"
    path = folder.results / "weights" / f"{run.run_id}-step-000012.safetensors"
    assert (path.read_bytes() if path.exists() else None) == saved
    assert (run.weights is None) == (command == "tune")


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


@pytest.fixture
def new_search_for_the_compiler() -> Iterator[None]:
    find_compiler.cache_clear()
    yield
    find_compiler.cache_clear()


@pytest.mark.parametrize("cc", [None, "cc", "evil-cc", "{folder}/cc", "{folder}/cc -O1"])
def test_a_compiler_of_the_users_is_not_the_judges(cc: str | None, tmp_path: Path, monkeypatch, request) -> None:
    """Before there was a judge, such a program could hand out a stored library in place of the compiled kernel."""
    monkeypatch.delenv("CC", raising=False)
    request.getfixturevalue("new_search_for_the_compiler")
    if (honest := find_compiler()) is None:
        pytest.skip("needs a C compiler")
    for name in ("cc", "evil-cc"):
        (tmp_path / name).write_text('#!/bin/sh\nexec /usr/bin/cc "$@"\n')
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    if cc is not None:
        monkeypatch.setenv("CC", cc.format(folder=tmp_path))
    find_compiler.cache_clear()
    assert find_compiler() == honest
    assert os.path.isabs(honest.path)
    assert len(honest.sha256) == 64


def test_a_machine_without_a_compiler_of_its_own_uses_the_users(
    tmp_path, monkeypatch, new_search_for_the_compiler
) -> None:
    (tmp_path / "cc").write_text("#!/bin/sh\necho a compiler\n")
    (tmp_path / "cc").chmod(0o755)
    monkeypatch.setattr(environment_module, "system_path", lambda: str(tmp_path / "nothing"))
    monkeypatch.setenv("CC", str(tmp_path / "cc"))
    compiler = find_compiler()
    assert compiler is not None
    assert (compiler.path, compiler.version) == (str((tmp_path / "cc").resolve()), "a compiler")


@pytest.mark.skipif(sys.platform != "linux", reason="needs a subreaper")
def test_a_process_that_is_left_behind_is_ended_and_named() -> None:
    adopt_orphans()
    starts = "import subprocess; subprocess.Popen(['sleep', '60'], start_new_session=True)"
    with clean_environment() as environment:
        subprocess.run([sys.executable, "-c", starts], env=environment, check=True)
        assert end_remaining_processes(environment["HOME"]) == ["sleep"]
        assert end_remaining_processes(environment["HOME"]) == []
