"""`python -m bench matrix`, with a fake trainer."""

import contextlib
import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from bench.commands import matrix
from bench.errors import UsageError
from bench.experiments import matrix_run
from bench.experiments.executors import Executor
from bench.experiments.launcher import Refusal

TWO_BY_TWO = """\
base = "fast"
seeds = [1, 2, 3]
[axes]
batch_size = [512, 1024]
rate = [0.1, 0.2]
"""


@pytest.fixture
def run_matrix(arena, monkeypatch):
    def run(text=TWO_BY_TWO, **changes):
        path = arena.root / "some.toml"
        path.write_text(text)
        return matrix.main(matrix.Arguments(file=str(path), results=arena.results, **changes))

    monkeypatch.setattr(matrix, "SCRIPT", arena.script)
    return run


def table(arena):
    with open(arena.results / "matrix" / "some.csv") as file:
        return list(csv.DictReader(file))


def test_every_cell_runs_with_every_seed_and_is_ranked(arena, run_matrix, capsys):
    arena.behave(fast={"train": 9.0, "when": {"--batch-size 1024": {"train": 3.0}, "--rate 0.2": {"solves": 0.0}}})
    assert run_matrix() == 0
    runs = arena.attempts()
    assert len(runs) == 12
    cells = {(run.settings["batch_size"], run.settings["rate"], run.seed) for run in runs}
    assert len(cells) == 12
    assert {run.command for run in runs} == {"matrix"}
    assert not any(run.is_contest for run in runs)
    output = capsys.readouterr()
    assert "4 cells, 3 seeds: 12 attempts, 0 done, 12 to run" in output.err
    rows = table(arena)
    assert [row["solved"] for row in rows] == ["3", "3", "0", "0"]
    assert (rows[0]["batch_size"], rows[0]["rate"]) == ("1024", "0.1")
    assert rows[0]["outcomes"] == ""
    assert (rows[2]["outcomes"], rows[2]["train_ert_seconds"]) == ("missed=3", "inf")
    settings = {"batch_size": 512, "rate": 0.1}
    seconds = [run.seconds.train for run in runs if settings.items() <= run.settings.items()]
    assert float(rows[1]["train_ert_seconds"]) == pytest.approx(sum(seconds) / 3)
    assert (arena.results / "matrix" / "some.svg").read_text().startswith("<?xml")
    assert "1024" in output.out.splitlines()[1]


def test_the_reasons_for_not_clean_are_told_once_and_a_cell_without_runs_has_no_rank(
    arena, run_matrix, capsys, monkeypatch
):
    template = json.loads((arena.root / "template.json").read_text())
    template["machine"] |= {"clean": False, "reasons": ["other processes took 9%"]}
    (arena.root / "template.json").write_text(json.dumps(template))
    monotonic = iter([0.0, 1.0, 2.0])
    monkeypatch.setattr(matrix_run, "time", SimpleNamespace(monotonic=lambda: next(monotonic, 100.0)))
    run_matrix('base = "fast"\nseeds = [1]\n[axes]\nbatch_size = [512, 1024, 2048]\n', max_minutes=1.0)
    shown = capsys.readouterr()
    assert "3 cells, 1 seed: 3 attempts" in shown.err
    assert shown.err.count("other processes took 9%") == 1
    assert shown.err.count("not clean") == 2
    assert "train, s: median (min … max)" in shown.out
    assert [row["rank"] for row in table(arena)] == ["1", "2", ""]
    assert [line.split()[0] for line in shown.out.splitlines()[1:4]] == ["1", "2", "—"]


def test_attempts_run_seed_by_seed_with_the_cells_shuffled(arena, run_matrix):
    run_matrix()
    seeds = [run.seed for run in arena.attempts()]
    assert seeds == sorted(seeds)
    orders = {
        tuple((run.settings["batch_size"], run.settings["rate"]) for run in arena.attempts() if run.seed == seed)
        for seed in (1, 2, 3)
    }
    assert len(orders) > 1


def test_finished_attempts_are_not_repeated(arena, run_matrix, capsys):
    run_matrix()
    assert run_matrix() == 0
    assert len(arena.calls()) == 12
    assert "12 done, nothing to run" in capsys.readouterr().err
    run_matrix(TWO_BY_TWO.replace("[1, 2, 3]", "[1, 2, 3, 4]"))
    assert len(arena.calls()) == 16


def test_attempts_whose_equal_settings_have_another_hash_are_not_repeated(arena, run_matrix):
    run_matrix()
    text = arena.journal.path.read_text().replace('"max_seconds":100.0', '"max_seconds":100')
    arena.journal.path.write_text(re.sub(r'"config_hash":"\w{8}', '"config_hash":"00000000', text))
    run_matrix()
    assert len(arena.calls()) == 12


def test_lost_attempts_are_repeated_on_request_and_misses_never(arena, run_matrix, capsys):
    lost = {"when": {"--batch-size 512": {"dies": "late"}, "--rate 0.2": {"solves": 0.0}}}
    arena.behave(fast=lost)
    run_matrix(TWO_BY_TWO.replace("[1, 2, 3]", "[1]"))
    assert sorted(run.outcome for run in arena.attempts()) == ["lost", "lost", "missed", "solved"]
    arena.behave(fast={"when": {"--rate 0.2": {"solves": 0.0}}})
    run_matrix(TWO_BY_TWO.replace("[1, 2, 3]", "[1]"))
    assert len(arena.attempts()) == 4
    run_matrix(TWO_BY_TWO.replace("[1, 2, 3]", "[1]"), retry_failed=True)
    outcomes = [run.outcome for run in arena.attempts()]
    assert len(outcomes) == 6
    assert outcomes.count("lost") == 2
    assert sum(int(row["repeated"]) for row in table(arena)) == 2
    run_matrix(TWO_BY_TWO.replace("[1, 2, 3]", "[1]"), retry_failed=True)
    assert len(arena.attempts()) == 6, "the misses were repeated"


def test_after_a_kill_the_same_command_resumes_and_at_most_one_attempt_is_lost(arena, run_matrix):
    arena.behave(fast={"sleep": 0.3})
    path = arena.root / "some.toml"
    path.write_text(TWO_BY_TWO)
    process = arena.start("matrix", str(path))
    deadline = time.monotonic() + 60
    while len(arena.calls()) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    arena.behave(fast={"sleep": 0.0})
    time.sleep(0.5)  # until the attempt of the killed command has ended
    assert run_matrix() == 0
    runs = arena.attempts()
    keys = [(run.config_hash, run.seed) for run in runs]
    assert len(keys) == len(set(keys)) == 12
    assert sum(run.outcome == "lost" for run in runs) <= 1


@pytest.mark.skipif(os.name != "posix", reason="limits of a process")
def test_a_full_disk_is_an_error_and_the_same_command_resumes(arena, run_matrix):
    """A limit on the size of files stands in for the full disk."""
    path = arena.root / "some.toml"
    path.write_text(TWO_BY_TWO)
    code = f"import resource, runpy, sys; sys.argv = ['bench', 'matrix', {str(path)!r}]; "
    code += (
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); runpy.run_module('bench', run_name='__main__')"
    )
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}  # a compiled module that is cut off stays broken
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=arena.root, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "bench: File too large" in done.stderr
    assert "Traceback" not in done.stderr
    filed = [run.run_id for run in arena.journal.read()[0]]
    assert 0 < len(filed) < 12
    assert run_matrix() == 0
    runs, faults = arena.journal.read()
    assert [run.run_id for run in runs][: len(filed)] == filed
    assert len({(run.config_hash, run.seed) for run in runs}) == len(runs) == 12
    assert len(faults) <= 1, "one line was cut off"


@pytest.mark.slow
def test_an_interrupted_matrix_prints_the_attempts_left_and_resumes(arena, run_matrix):
    arena.behave(fast={"sleep": 0.3})
    path = arena.root / "some.toml"
    path.write_text(TWO_BY_TWO)
    process = arena.start("matrix", str(path))
    deadline = time.monotonic() + 60
    while len(arena.calls()) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "attempts are left; run the same command again to resume; it repeats the interrupted attempt" in stderr
    assert run_matrix() == 0
    assert {row["attempts"] for row in table(arena)} == {"3"}


def test_attempts_on_another_machine_class_do_not_count(arena, run_matrix, capsys):
    run_matrix()
    arena.behave(fast={"class": "Other CPU"})
    run_matrix()
    assert len(arena.attempts()) == 24
    assert "12 attempts were run on another machine class" in capsys.readouterr().err


def test_no_attempt_starts_after_max_minutes(arena, run_matrix, capsys):
    assert run_matrix(max_minutes=1e-9) == 0
    assert len(arena.attempts()) == 0
    assert "minutes are over: 12 attempts are left" in capsys.readouterr().err
    assert {row["attempts"] for row in table(arena)} == {"0"}


def test_the_files_are_written_before_anything_is_printed(arena, run_matrix, monkeypatch):
    def broken(*_):
        raise UnicodeEncodeError("ascii", "—", 0, 1, "simulated")

    monkeypatch.setattr(matrix, "results_table", broken)
    with pytest.raises(UnicodeEncodeError):
        run_matrix(max_minutes=1e-9)
    assert (arena.results / "matrix" / "some.csv").exists()


def test_max_seconds_is_a_setting_of_each_attempt(arena, run_matrix):
    run_matrix(max_seconds=5.0)
    assert {run.settings["max_seconds"] for run in arena.attempts()} == {5.0}


def test_cells_that_this_machine_cannot_run_are_left_out_and_wrong_cells_are_errors(arena, run_matrix, capsys):
    arena.behave(fast={"when": {"--rate 0.2": {"refused": "there is no GPU on this machine"}}})
    run_matrix()
    assert len(arena.attempts()) == 6
    assert "2 cells cannot run here and are left out: there is no GPU on this machine" in capsys.readouterr().err
    arena.behave(fast={"when": {"--rate 0.2": {"refused": "rate must be small"}}})
    with pytest.raises(UsageError, match=r"some\.toml: batch_size=512 rate=0\.2: rate must be small"):
        run_matrix()
    arena.behave(fast={"refused": "there is no GPU on this machine"})
    with pytest.raises(UsageError, match="no cell can run here: there is no GPU"):
        run_matrix()


def test_cells_that_two_machine_matrices_share_run_once(arena, run_matrix, monkeypatch):
    class WithoutGpu(Executor):
        def resolve_all(self, script, command_lines):
            answers = super().resolve_all(script, command_lines)
            return [
                Refusal("no GPU", not_here=True) if "0.2" in arguments else answer
                for arguments, answer in zip(command_lines, answers, strict=True)
            ]

    monkeypatch.setattr(matrix, "open_executors", lambda *_: contextlib.nullcontext([Executor(), WithoutGpu()]))
    arena.behave(fast={"sleep": 0.05})
    assert run_matrix() == 0
    runs = arena.attempts()
    assert len({(run.config_hash, run.seed) for run in runs}) == len(runs) == 12
    assert {row["repeated"] for row in table(arena)} == {"0"}
    assert len(table(arena)) == 6
    assert (arena.results / "matrix" / "some-2.svg").exists()


def test_a_huge_matrix_needs_yes_and_is_refused_without_counting_its_cells(run_matrix):
    digits = ", ".join(map(str, range(60)))
    huge = 'base = "fast"\nseeds = [1]\n[axes]\n' + "".join(f"a{i} = [{digits}]\n" for i in range(9))
    begun = time.process_time()
    with pytest.raises(UsageError, match="are more than 500; --yes runs them nevertheless"):
        run_matrix(huge)
    assert time.process_time() - begun < 2.0


@pytest.mark.parametrize("changes", [{"max_minutes": 0.0}, {"max_seconds": -1.0}])
def test_limits_must_be_positive(run_matrix, changes):
    with pytest.raises(UsageError, match="must be above 0"):
        run_matrix(**changes)


def test_cells_with_the_same_settings_are_an_error(arena, run_matrix):
    arena.behave(fast={})
    same = TWO_BY_TWO.replace("rate = [0.1, 0.2]", "max_seconds = [10, 20]")
    with pytest.raises(UsageError, match="have the same settings"):
        run_matrix(same, max_seconds=5.0)


def test_matrices_whose_names_differ_after_a_dot_write_different_files(arena, monkeypatch):
    monkeypatch.setattr(matrix, "SCRIPT", arena.script)
    for rate in ("0.05", "0.08"):
        path = arena.root / f"rate-{rate}.toml"
        path.write_text(f'base = "fast"\nseeds = [1]\n[axes]\nrate = [{rate}]\n')
        assert matrix.main(matrix.Arguments(file=str(path), results=arena.results)) == 0
    names = {path.name for path in (arena.results / "matrix").iterdir()}
    assert names == {f"rate-{rate}.{suffix}" for rate in ("0.05", "0.08") for suffix in ("csv", "md")}


def test_a_matrix_without_cells_is_an_error(run_matrix):
    with pytest.raises(UsageError, match="no cell is left"):
        run_matrix(TWO_BY_TWO.replace("[0.1, 0.2]", "[0.1]") + "[[exclude]]\nrate = 0.1\n")


def test_two_processes_cannot_run_the_same_matrix(arena, run_matrix):
    arena.behave(fast={"sleep": 0.5})
    (arena.root / "some.toml").write_text(TWO_BY_TWO)
    process = arena.start("matrix", str(arena.root / "some.toml"))
    deadline = time.monotonic() + 60
    while not arena.calls() and time.monotonic() < deadline:
        time.sleep(0.02)
    with pytest.raises(UsageError, match="another process"):
        run_matrix()
    process.terminate()
    process.communicate(timeout=60)
