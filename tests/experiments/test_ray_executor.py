"""Attempts on a real Ray cluster of two nodes: the same as here, each once, and what is left when a node dies."""

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
    """A cluster of two nodes with a CPU each, by name only: this machine may have as many or not; and its arena."""
    from ray.cluster_utils import Cluster

    link = tmp_path_factory.mktemp("nodes") / "arena"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("ARENA", str(link))  # which the nodes keep, so that it has to lead to each test's own
        given = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        yield given, link
        given.shutdown()


@pytest.fixture
def cluster():
    """The module, which needs Ray: where that is not installed, this file is still collected."""
    from bench.experiments import ray_executor

    return ray_executor


@pytest.fixture
def nodes(two_nodes, arena):
    given, link = two_nodes
    link.unlink(missing_ok=True)
    link.symlink_to(arena.root)
    if not given.worker_nodes:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ARENA", str(link))
            given.add_node(num_cpus=1)
    given.wait_for_nodes()
    return given


@pytest.fixture
def on_nodes(arena, nodes):
    """Run a matrix with the pretending trainer."""

    def run(**changes):
        path = arena.root / "some.toml"
        path.write_text(MATRIX)
        return matrix.main(matrix.Arguments(file=str(path), results=arena.results, **changes))

    return run


@pytest.fixture
def script(arena, monkeypatch):
    for module in (matrix, tune):
        monkeypatch.setattr(module, "SCRIPT", arena.script)


def under_way(arena, nodes, attempts):
    """A matrix that another process carries out on the nodes, once so many attempts have begun."""
    path = arena.root / "some.toml"
    path.write_text(MATRIX)
    process = arena.start("matrix", str(path), "--engine", "ray", "--address", nodes.address)
    deadline = time.monotonic() + 90
    while len(list(arena.results.glob("started/*.json"))) < attempts and time.monotonic() < deadline:
        time.sleep(0.05)
    return process


# -----------------------------------------------------------------------------
# the real trainer


def test_an_attempt_comes_to_the_same_on_a_node_as_here(tmp_path, nodes):
    path = tmp_path / "same.toml"
    path.write_text(
        'base = "yardstick"\nseeds = [1]\n[axes]\nn_hidden = [32, 64]\nnum_steps = [120]\nmax_rounds = [1]\n'
    )
    common = [sys.executable, "-m", "bench", "matrix", str(path), "--results"]
    for folder, engine in (("here", []), ("there", ["--engine", "ray", "--address", nodes.address])):
        done = subprocess.run([*common, str(tmp_path / folder), *engine], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def found(folder):
        runs, faults = Journal(tmp_path / folder).read()
        assert faults == []
        return {(run.config_hash, run.seed): run for run in runs}

    here, there = found("here"), found("there")
    assert len(here) == len(there) == 2
    for key, run in there.items():
        own = here[key]
        assert (run.engine, own.engine) == ("ray", None)
        for name in ("outcome", "steps", "examples", "certificate", "source_sha256", "harness_sha256", "data_sha256"):
            assert getattr(run, name) == getattr(own, name), name
        assert (run.machine.class_, run.commit, run.dirty) == (own.machine.class_, own.commit, own.dirty)
        assert [check.errors for check in run.checks] == [check.errors for check in own.checks]
        assert run.hardware is not None
        assert run.outer_seconds is not None
    assert any(run.certificate.errors for run in there.values()), "0 errors would be a weak witness"


# -----------------------------------------------------------------------------
# the pretending one


def test_all_nodes_take_part_and_nothing_is_made_twice(arena, script, nodes, on_nodes, capsys):
    arena.behave(fast={"sleep": 0.3})
    assert on_nodes(engine="ray", address=nodes.address) == 0
    runs = arena.attempts()
    assert len({(run.config_hash, run.seed) for run in runs}) == len(runs) == 6
    assert {run.engine for run in runs} == {"ray"}
    assert {run.outcome for run in runs} == {"solved"}
    told = capsys.readouterr().err
    assert len(set(re.findall("node [0-9a-f]+(?=[,:])", told))) == 2, "both are named"
    assert on_nodes() == 0, "finished attempts are known to the local engine too"
    assert len(arena.attempts()) == 6


def test_a_node_that_dies_loses_the_attempt_that_it_was_at_and_nothing_else(arena, script, nodes, on_nodes):
    arena.behave(fast={"sleep": 5.0})
    process = under_way(arena, nodes, attempts=2)
    time.sleep(0.5)
    nodes.remove_node(next(iter(nodes.worker_nodes)), allow_graceful=False)
    arena.behave(fast={"sleep": 0.0})  # those that begin now
    _, told = process.communicate(timeout=180)
    assert process.returncode == 0, told
    runs = arena.attempts()
    assert Counter(run.outcome for run in runs) == {"solved": 5, "lost": 1}
    assert len({(run.config_hash, run.seed) for run in runs}) == 6
    assert "was lost, and with it the attempt that it was at" in told
    (lost,) = (run for run in runs if run.outcome == "lost")
    assert "was lost" in lost.message
    assert not list(arena.results.glob("started/*.json"))
    assert on_nodes(retry_failed=True) == 0
    assert Counter(run.outcome for run in arena.attempts()) == {"solved": 6, "lost": 1}


def test_when_no_node_is_left_the_journal_is_whole_and_the_same_command_goes_on(arena, script, nodes, on_nodes):
    arena.behave(fast={"sleep": 2.0})
    nodes.remove_node(next(iter(nodes.worker_nodes)))
    process = under_way(arena, nodes, attempts=1)
    for runner in runners():
        os.kill(runner, signal.SIGKILL)
    _, told = process.communicate(timeout=180)
    assert process.returncode == 1, told
    assert "attempts are left and nobody to make them; the same command goes on" in told
    assert Counter(run.outcome for run in arena.attempts()) == {"lost": 1}
    arena.behave(fast={"sleep": 0.0})
    assert on_nodes() == 0
    assert Counter(run.outcome for run in arena.attempts()) == {"lost": 1, "solved": 5}


def runners():
    """The processes that make attempts for a node."""
    import psutil

    return [each.pid for each in psutil.process_iter(["cmdline"]) if "ray::Runner" in " ".join(each.info["cmdline"])]


def test_an_interrupted_matrix_files_what_was_under_way(arena, script, nodes, on_nodes):
    arena.behave(fast={"sleep": 1.0})
    process = under_way(arena, nodes, attempts=2)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=180)
    assert process.returncode == 130, told
    assert "the same command goes on" in told
    assert len(arena.attempts()) == 2
    assert not list(arena.results.glob("started/*.json"))


def test_nodes_search_one_study(arena, script, nodes, capsys):
    arena.behave(fast={"noise": 0.0, "sleep": 0.1, "when": {"--rate 1": {"train": 9.0}, "--rate 2": {"train": 3.0}}})
    path = arena.root / "some.toml"
    path.write_text('base = "fast"\nattempts = 2\n[space]\nrate = { choices = [1, 2, 3] }\n')
    asked = tune.Arguments(
        space=str(path), trials=8, device="cpu", results=arena.results, engine="ray", address=nodes.address
    )
    assert tune.main(asked) == 0
    runs = arena.attempts()
    assert {run.engine for run in runs} == {"ray"}
    assert "rate = 2" in (arena.results / "tune" / "some.toml").read_text()
    told = capsys.readouterr().err
    numbers = [line.split()[1] for line in told.splitlines() if "rate=" in line]
    assert len(numbers) == len(set(numbers)) >= 8


def test_a_record_s_attempts_come_home_with_their_weights(arena, nodes, cluster, monkeypatch):
    monkeypatch.setattr(cluster, "commit_and_dirty", lambda: ("c" * 40, False))
    asked = record.Arguments(
        config="fast", clock="train", noisy=True, device="cpu", results=arena.results, engine="ray",
        address=nodes.address,
    )  # fmt: skip
    assert record.main(asked) == 0
    runs = arena.attempts()
    assert len(runs) == 10
    assert all(run.engine == "ray" and run.commit == "c" * 40 for run in runs)
    (folder,) = (arena.results / "records").glob("*-add3-fast-train")
    filed = json.loads((folder / "record.json").read_text())
    assert filed["median_run"] in {run.run_id for run in runs}
    assert (folder / "weights.safetensors").read_text() == filed["median_run"]


def test_what_a_node_refuses_is_said(arena, script, nodes, on_nodes):
    arena.behave(fast={"refused": "rate must be small"})
    with pytest.raises(UsageError, match=r"some\.toml: rate=0\.1: rate must be small"):
        on_nodes(engine="ray", address=nodes.address)


def test_a_cluster_that_is_not_there_is_said(cluster):
    with (
        pytest.raises(UsageError, match=r"--address 127\.0\.0\.1:1: no Ray cluster answers"),
        cluster.open_cluster("127.0.0.1:1", ROOT),
    ):
        pass
