"""Attempts on a Ray cluster of two nodes: the same runs as here, each once, and what is filed when a node dies."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from bench.commands import matrix, record, tune
from bench.errors import UsageError
from bench.storage.journal import Journal
from tests.support.examples import ROOT

pytestmark = pytest.mark.extra

MATRIX = """\
base = "fast"
seeds = [1, 2, 3]
[axes]
rate = [0.1, 0.2]
"""


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory):
    """A cluster of two nodes with one logical CPU each, and a link that leads to the arena of the current test."""
    from ray.cluster_utils import Cluster

    link = tmp_path_factory.mktemp("nodes") / "arena"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("ARENA", str(link))  # the nodes keep this value for all tests
        created = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        yield created, link
        created.shutdown()


@pytest.fixture
def cluster():
    """The module under test, imported here so that this file can be collected without Ray."""
    from bench.experiments import ray_executor

    return ray_executor


@pytest.fixture
def nodes(two_nodes, arena):
    running, link = two_nodes
    link.unlink(missing_ok=True)
    link.symlink_to(arena.root)
    if not running.worker_nodes:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ARENA", str(link))
            running.add_node(num_cpus=1)
    running.wait_for_nodes()
    return running


@pytest.fixture
def on_nodes(arena, nodes):
    """Run a matrix with the fake trainer."""

    def run(**changes):
        path = arena.root / "some.toml"
        path.write_text(MATRIX)
        return matrix.main(matrix.Arguments(file=str(path), results=arena.results, **changes))

    return run


@pytest.fixture
def script(arena, monkeypatch):
    for module in (matrix, tune):
        monkeypatch.setattr(module, "SCRIPT", arena.script)


def started_matrix(arena, nodes, attempts):
    """A process that runs a matrix on the nodes, once so many attempts have begun."""
    path = arena.root / "some.toml"
    path.write_text(MATRIX)
    process = arena.start("matrix", str(path), "--engine", "ray", "--address", nodes.address)
    deadline = time.monotonic() + 90
    while len(list(arena.results.glob("started/*.json"))) < attempts and time.monotonic() < deadline:
        time.sleep(0.05)
    return process


# -----------------------------------------------------------------------------
# the real trainer


def test_an_attempt_on_a_node_gives_the_same_run_as_here(tmp_path, nodes):
    path = tmp_path / "same.toml"
    path.write_text(
        'base = "yardstick"\nseeds = [1]\n[axes]\nn_hidden = [32, 64]\nnum_steps = [120]\nmax_rounds = [1]\n'
    )
    common = [sys.executable, "-m", "bench", "matrix", str(path), "--results"]
    for folder, engine in (("here", []), ("there", ["--engine", "ray", "--address", nodes.address])):
        done = subprocess.run([*common, str(tmp_path / folder), *engine], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def runs_in(folder):
        runs, faults = Journal(tmp_path / folder).read()
        assert faults == []
        return {(run.config_hash, run.seed): run for run in runs}

    here, there = runs_in("here"), runs_in("there")
    assert len(here) == len(there) == 2
    for key, run in there.items():
        local = here[key]
        assert (run.engine, local.engine) == ("ray", None)
        for name in ("outcome", "steps", "examples", "certificate", "source_sha256", "harness_sha256", "data_sha256"):
            assert getattr(run, name) == getattr(local, name), name
        assert (run.machine.class_, run.commit, run.dirty) == (local.machine.class_, local.commit, local.dirty)
        assert [check.errors for check in run.checks] == [check.errors for check in local.checks]
        assert run.hardware is not None
        assert (run.judge, local.judge) == ("harness", "harness")
    assert any(run.certificate.errors for run in there.values()), "without errors the comparison would be weak"


# -----------------------------------------------------------------------------
# the fake trainer


def test_all_nodes_take_part_and_no_attempt_runs_twice(arena, script, nodes, on_nodes, capsys):
    arena.behave(fast={"sleep": 0.3})
    assert on_nodes(engine="ray", address=nodes.address) == 0
    runs = arena.attempts()
    assert len({(run.config_hash, run.seed) for run in runs}) == len(runs) == 6
    assert {run.engine for run in runs} == {"ray"}
    assert {run.outcome for run in runs} == {"solved"}
    output = capsys.readouterr().err
    assert len(set(re.findall("node [0-9a-f]+(?=[,:])", output))) == 2, "both nodes are named"
    assert on_nodes() == 0, "finished attempts are known to the local engine too"
    assert len(arena.attempts()) == 6


def test_a_node_that_dies_loses_only_its_current_attempt(arena, script, nodes, on_nodes):
    arena.behave(fast={"sleep": 5.0})
    process = started_matrix(arena, nodes, attempts=2)
    time.sleep(0.5)
    nodes.remove_node(next(iter(nodes.worker_nodes)), allow_graceful=False)
    arena.behave(fast={"sleep": 0.0})  # those that begin now
    _, output = process.communicate(timeout=180)
    assert process.returncode == 0, output
    runs = arena.attempts()
    assert Counter(run.outcome for run in runs) == {"solved": 5, "lost": 1}
    assert len({(run.config_hash, run.seed) for run in runs}) == 6
    assert "was lost, and its current attempt with it" in output
    (lost,) = (run for run in runs if run.outcome == "lost")
    assert "was lost" in lost.message
    assert not list(arena.results.glob("started/*.json"))
    assert on_nodes(retry_failed=True) == 0
    assert Counter(run.outcome for run in arena.attempts()) == {"solved": 6, "lost": 1}


def test_when_no_node_is_left_the_journal_is_complete_and_the_matrix_can_be_resumed(arena, script, nodes, on_nodes):
    arena.behave(fast={"sleep": 2.0})
    nodes.remove_node(next(iter(nodes.worker_nodes)))
    process = started_matrix(arena, nodes, attempts=1)
    for worker in workers():
        os.kill(worker, signal.SIGKILL)
    _, output = process.communicate(timeout=180)
    assert process.returncode == 1, output
    assert "attempts are left without an executor; run the same command again to resume" in output
    assert Counter(run.outcome for run in arena.attempts()) == {"lost": 1}
    arena.behave(fast={"sleep": 0.0})
    assert on_nodes() == 0
    assert Counter(run.outcome for run in arena.attempts()) == {"lost": 1, "solved": 5}


def workers():
    """The process ids of the workers on the nodes."""
    import psutil

    return [each.pid for each in psutil.process_iter(["cmdline"]) if "ray::RayWorker" in " ".join(each.info["cmdline"])]


def test_an_interrupted_matrix_files_the_current_attempts(arena, script, nodes, on_nodes):
    arena.behave(fast={"sleep": 1.0})
    process = started_matrix(arena, nodes, attempts=2)
    process.send_signal(signal.SIGTERM)
    _, output = process.communicate(timeout=180)
    assert process.returncode == 130, output
    assert "run the same command again to resume" in output
    assert len(arena.attempts()) == 2
    assert not list(arena.results.glob("started/*.json"))


def test_nodes_share_one_study(arena, script, nodes, capsys):
    arena.behave(
        fast={"noise": 0.0, "sleep": 0.1, "when": {"--rate 1.0": {"train": 9.0}, "--rate 2.0": {"train": 3.0}}}
    )
    path = arena.root / "some.toml"
    path.write_text('base = "fast"\nattempts = 2\n[space]\nrate = { choices = [1, 2, 3] }\n')
    arguments = tune.Arguments(
        space=str(path), trials=8, device="cpu", results=arena.results, engine="ray", address=nodes.address
    )
    assert tune.main(arguments) == 0
    runs = arena.attempts()
    assert {run.engine for run in runs} == {"ray"}
    assert "rate = 2" in (arena.results / "tune" / "some.toml").read_text()
    output = capsys.readouterr().err
    numbers = [line.split()[1] for line in output.splitlines() if "rate=" in line]
    assert len(numbers) == len(set(numbers)) >= 8


def test_the_attempts_of_a_record_return_with_their_weights(arena, nodes, cluster, monkeypatch):
    monkeypatch.setattr(cluster, "commit_and_dirty", lambda: ("c" * 40, False))
    arguments = record.Arguments(
        config="fast", clock="train", noisy=True, device="cpu", results=arena.results, engine="ray",
        address=nodes.address,
    )  # fmt: skip
    assert record.main(arguments) == 0
    runs = arena.attempts()
    assert len(runs) == 10
    assert all(run.engine == "ray" and run.commit == "c" * 40 for run in runs)
    (folder,) = (arena.results / "records").glob("*-add3-fast-train")
    filed_record = json.loads((folder / "record.json").read_text())
    assert filed_record["median_run"] in {run.run_id for run in runs}
    assert (folder / "weights.safetensors").read_text() == filed_record["median_run"]


def test_the_refusal_of_a_node_is_reported(arena, script, nodes, on_nodes):
    arena.behave(fast={"refused": "rate must be small"})
    with pytest.raises(UsageError, match=r"some\.toml: rate=0\.1: rate must be small"):
        on_nodes(engine="ray", address=nodes.address)


def test_a_cluster_that_does_not_answer_is_reported(cluster):
    with (
        pytest.raises(UsageError, match=r"--address 127\.0\.0\.1:1: no Ray cluster answers"),
        cluster.open_cluster("127.0.0.1:1", ROOT),
    ):
        pass
