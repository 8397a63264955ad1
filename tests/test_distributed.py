"""Data-parallel training: sharing and gathering in two processes, and attempts that torchrun starts."""

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import TCPStore

from bench import cli, distributed
from bench.attempt import command, worker
from bench.attempt.plan import make_plan
from bench.clock import Clock
from bench.distributed import World, read_world
from bench.errors import UnavailableHere, UsageError
from bench.storage.journal import Journal
from data import get_track
from settings import Settings
from speedrun import Trainer
from tests.support.attempts import attempt_here
from tests.support.examples import ROOT
from tests.support.small_trainer import SeededTrainer

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {
    "track": "add2",
    "n_head": 2,
    "n_embd": 16,
    "n_hidden": 32,
    "num_steps": 6,
    "batch_size": 24,
    "check_every": 5,
    "check_problems": 100,
    "evaluation_problems": 301,  # two processes cannot share them out evenly
    "max_rounds": 1,
    "warmup_steps": 1,
    "matrix_optimizer": "adamw",
    "adam_learning_rate": 1e-3,
}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


class Watch:
    patience = 1

    def __init__(self):
        self.checks = []

    def initialized(self, model):
        pass

    def tick(self):
        pass

    def check(self, step, loss, errors, reached, steps_left, asked, *others, **splits):
        self.checks.append((step, loss, errors))


def trained(**changes):
    """A trainer after training, and its checks."""
    settings = Settings(**(SMALL | changes))
    track = get_track(settings.track, **settings.track_settings)
    trainer = SeededTrainer(settings, track, CPU, torch.float32, 7)
    watch: Any = Watch()
    trainer.warm_up()
    trainer.train(watch)
    return trainer, watch.checks


def differences(trainer, others):
    """The largest difference of each weight, relative to its largest value."""
    for name, weight in trainer.model.state_dict().items():
        yield float((weight - others[name]).abs().max() / weight.abs().max())


# -----------------------------------------------------------------------------
# one process


def test_without_torchrun_there_is_a_world_of_one_process():
    assert read_world({}) == World(rank=0, size=1, local_rank=0, local_size=1)
    environment = {
        "TORCHELASTIC_RUN_ID": "none",
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "29500",
    }
    assert read_world(environment) == World(rank=3, size=4, local_rank=1, local_size=2)
    rows = torch.arange(5)
    assert distributed.share(rows) is rows
    assert distributed.gather(rows, 5) is rows
    assert (distributed.size(), distributed.rank(), distributed.gather_objects("a"), distributed.broadcast(b"b")) == (
        1,
        0,
        ["a"],
        b"b",
    )


@pytest.mark.parametrize("left", [{}, {"RANK": "1", "WORLD_SIZE": "2"}, {"RANK": ""}])
def test_with_half_the_variables_of_torchrun_a_process_is_alone(left):
    environment = {"TORCHELASTIC_RUN_ID": "left over", **left}
    assert read_world(environment) == World()
    assert {"LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT", "MASTER_ADDR"} <= set(
        distributed.missing_variables(environment)
    )
    assert distributed.missing_variables({}) == distributed.missing_variables({"RANK": "1"}) == []


def test_half_the_variables_of_torchrun_are_said(monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "left over")
    monkeypatch.setattr(cli, "handle_interrupts", lambda: None)
    assert command.main(Settings, Trainer, Clock(), ["--config", "nosuch"], "") == 2
    assert "TORCHELASTIC_RUN_ID is set without RANK" in capsys.readouterr().err


def test_the_sum_with_an_unknown_value_is_unknown():
    assert distributed.sum_or_none([1, 2]) == 3
    assert distributed.sum_or_none([1, None]) is None


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert World(rank=5, size=6, local_rank=1, local_size=2).device(torch.device("cuda")) == torch.device("cuda", 1)
    with pytest.raises(UnavailableHere, match="3 processes want a GPU each, and there are 2"):
        World(size=3, local_size=3).device(torch.device("cuda"))


def test_micro_batches_give_the_update_of_the_whole_batch():
    whole, checks = trained()
    parts, other_checks = trained(micro_batches=4)
    assert max(differences(whole, parts.model.state_dict())) < 1e-3
    assert [errors for _, _, errors in checks] == [errors for _, _, errors in other_checks]
    assert checks[0][1] == pytest.approx(other_checks[0][1], rel=1e-4)


def test_a_padded_batch_in_parts_has_the_loss_and_the_gradients_of_the_whole_batch():
    """A part with more targets counts for more; with loss_on = all, texts of 4 to 8 characters differ most."""
    track = get_track("moddiv", tokens="characters")
    results = []
    for micro_batches in (1, 2, 6):
        padded = {"track": "moddiv", "track_settings": {"tokens": "characters"}, "loss_on": "all", "batch_size": 6}
        changes: Any = padded | {"micro_batches": micro_batches}
        trainer = SeededTrainer(Settings(**(SMALL | changes)), track, CPU, torch.float32, 7)
        problems = torch.tensor([[93, 5], [1, 1], [0, 96], [7, 50], [96, 96], [1, 2]])
        batch = trainer.batches.batch(problems, "all")
        names = trainer.inputs.of_step(trainer.step_index).keys()
        mean = trainer.backward({name: getattr(batch, name) for name in names})
        results.append((float(mean), [weight.grad for weight in trainer.model.parameters()]))
    (loss, gradients), *others = results
    for other_loss, other_gradients in others:
        assert other_loss == pytest.approx(loss, rel=1e-5)
        torch.testing.assert_close(other_gradients, gradients, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("changes", [{"batch_size": 30, "micro_batches": 4}, {"micro_batches": 0}])
def test_a_batch_that_cannot_be_divided_evenly_is_refused(changes):
    with pytest.raises(ValueError, match=r"batch_size must be a multiple|micro_batches must be above 0"):
        Settings(**changes)


def test_options_that_several_processes_do_not_support_are_refused_or_turned_off(monkeypatch):
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("RANK", "0"), ("WORLD_SIZE", "3"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    for name, value in (("LOCAL_WORLD_SIZE", "3"), ("MASTER_ADDR", "localhost"), ("MASTER_PORT", "29500")):
        monkeypatch.setenv(name, value)

    def plan(*arguments):
        return make_plan(Settings, ["--config", "yardstick", "--device", "cpu", *arguments], "")

    made = plan("--batch-size", "300", "--kernel", "auto", "--cuda-graph")
    assert (made.settings.kernel, made.settings.cuda_graph, made.world.size) == ("torch", False, 3)
    assert "3 processes, 1 threads" in made.remark or os.cpu_count() > 5
    for arguments, reason in (
        (["--batch-size", "512"], "batch_size must be a multiple of 3 processes"),
        (["--batch-size", "300", "--kernel", "c"], "kernel c supports a single process"),
        (["--attempts", "2"], "--attempts: not available with torchrun"),
        (["--control", "shuffle"], "--control: "),
        (["--probe", "seeds"], "--probe: "),
    ):
        with pytest.raises(UsageError, match=reason):
            plan(*arguments)


# -----------------------------------------------------------------------------
# two processes


PADDED = {"track": "moddiv", "track_settings": {"p": 11, "tokens": "characters"}, "loss_on": "all"}
CHANGES = [
    {"num_steps": 5},
    {"num_steps": 5, "micro_batches": 3},
    {"num_steps": 5, "matrix_optimizer": "muon"},
    {"num_steps": 5, "micro_batches": 3, "check_every": 1} | PADDED,
]


@pytest.fixture(scope="module")
def in_two():
    """What rank 0 of two processes answers: `share_and_gather`, and `weights_and_checks` for each of CHANGES."""
    context = torch.multiprocessing.get_context("spawn")
    answers = context.Queue()
    port = context.Value("i", 0)
    store = TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False)
    port.value = store.port
    processes = [context.Process(target=run_one, args=(rank, store.port, answers)) for rank in range(2)]
    for process in processes:
        process.start()
    answer = answers.get(timeout=120)
    for process in processes:
        process.join(timeout=60)
    return answer


def run_one(rank, port, answers):
    torch.set_num_threads(1)
    store = TCPStore("127.0.0.1", port, 2, is_master=False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    answer = share_and_gather(), [weights_and_checks(changes) for changes in CHANGES]
    if rank == 0:
        answers.put(answer)
    dist.barrier()
    dist.destroy_process_group()


def share_and_gather():
    rows = torch.arange(14).view(7, 2)
    own = distributed.share(rows)
    few = distributed.gather(distributed.share(rows[:1]) * 2, 1)
    wrong = distributed.gather(own[:, 0] > 5, 7)
    found = distributed.gather(own * 2, 7).tolist(), len(own), few.tolist(), wrong.tolist()
    return (
        *found,
        float(distributed.mean(torch.tensor(float(distributed.rank())))),
        distributed.gather_objects(distributed.rank()),
    )


def weights_and_checks(changes):
    trainer, checks = trained(**changes)
    state = {name: weight.tolist() for name, weight in trainer.model.state_dict().items()}
    everywhere = distributed.gather_objects((state, checks))
    return state, checks, everywhere[0] == everywhere[1], trainer.step_flops


def test_rows_are_shared_and_gathered_in_order(in_two):
    assert in_two[0] == (
        (torch.arange(14).view(7, 2) * 2).tolist(),
        4,
        [[0, 2]],
        [False, False, False, True, True, True, True],
        0.5,
        [0, 1],
    )


@pytest.mark.parametrize("case", range(len(CHANGES)))
def test_two_processes_take_the_steps_of_one(case, in_two):
    alone, checks = trained(**CHANGES[case])
    state, together, is_same_everywhere, flops = in_two[1][case]
    assert is_same_everywhere, "the weights of the processes differ"
    assert max(differences(alone, {name: torch.tensor(values) for name, values in state.items()})) < 1e-3
    assert [(step, errors) for step, _, errors in together] == [(step, errors) for step, _, errors in checks]
    assert [loss for _, loss, _ in together] == pytest.approx([loss for _, loss, _ in checks], rel=1e-4)
    assert [loss for _, loss, _ in together] == pytest.approx([loss for _, loss, _ in checks], rel=1e-4)
    assert flops == alone.step_flops + alone.muon.step_flops()


# -----------------------------------------------------------------------------
# torchrun


def options(**changes):
    return [text for key, value in (SMALL | changes).items() for text in (f"--{key.replace('_', '-')}", str(value))]


def torchrun(results, *arguments):
    command = [*TORCHRUN, "speedrun.py", "--shared", "--device", "cpu", "--results", str(results), *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_torchrun_makes_one_attempt_and_one_line(tmp_path, capsys):
    # Each process has enough texts for a pair table, as one process alone has: both round alike.
    arguments = ["--seed", "3", *options(num_steps=5, batch_size=48)]
    process = torchrun(tmp_path / "two", "--json", *arguments)
    out, errors = process.communicate(timeout=300)
    (run,), faults = Journal(tmp_path / "two").read()
    assert faults == []
    assert json.loads(out.splitlines()[-1])["run_id"] == run.run_id, errors
    assert (run.outcome, run.processes, run.examples) == ("missed", 2, 5 * 48)
    assert run.machine.class_.endswith(", 2 processes")
    assert errors.count("  setup, cpu, 2 processes") == 1, "only one process prints"
    assert (tmp_path / "two" / run.weights).is_file()
    assert not list((tmp_path / "two" / "started").glob("*.json"))

    others = ["--device", "cpu", "--kernel", "torch", "--threads", "1", "--results", str(tmp_path / "one")]
    attempt_here(capsys, *others, *arguments)
    (alone,), _ = Journal(tmp_path / "one").read()
    assert run.certificate.problems == alone.certificate.problems == 10_000
    assert abs(run.certificate.errors - alone.certificate.errors) <= 10  # rounding may turn a close call
    assert run.checks[-1].loss == pytest.approx(alone.checks[-1].loss, rel=1e-4)


@pytest.mark.slow
def test_a_time_limit_ends_all_processes_and_is_filed(tmp_path):
    process = torchrun(tmp_path, *options(num_steps=100_000), "--max-seconds", "1")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    (run,), _ = Journal(tmp_path).read()
    assert run.outcome == "timeout", errors


LATE = """
import os, runpy, sys, time
if os.environ["RANK"] == sys.argv.pop(1):
    time.sleep(4.0)
sys.path.insert(0, os.getcwd())
runpy.run_path("speedrun.py", run_name="__main__")
"""


@pytest.mark.parametrize("late", [pytest.param("0", marks=pytest.mark.slow), "1"])
def test_an_invalid_request_is_reported_once_even_if_one_process_starts_late(tmp_path, late):
    script = tmp_path / "late.py"
    script.write_text(LATE)
    arguments = ["--device", "cpu", "--results", str(tmp_path), *options(batch_size=25)]
    command = [*TORCHRUN, str(script), late, *arguments]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert process.returncode == 1
    assert process.stderr.count("batch-size must be a multiple of 2 processes") == 1
    assert not (tmp_path / "runs.jsonl").exists()


def test_a_request_that_is_invalid_in_one_process_only_is_reported_by_it(monkeypatch, capsys):
    monkeypatch.setattr(worker, "REFUSAL_SECONDS", 0.0)
    environment = {
        "TORCHELASTIC_RUN_ID": "none",
        "RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "29500",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    status, _, errors = attempt_here(capsys, "--device", "cpu", *options(batch_size=25))
    assert status == 2
    assert "batch-size must be a multiple of 2 processes" in errors


@pytest.mark.slow
def test_an_attempt_with_a_killed_process_is_filed(tmp_path):
    process = torchrun(tmp_path, *options(num_steps=100_000))
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("started/*.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(4.0)  # most likely in training by now; the outcome is the same in an earlier phase
    worker_id = next(child for child in children(process.pid) if read_environment(child).get("RANK") == "1")
    os.kill(worker_id, signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    (run,), _ = Journal(tmp_path).read()
    assert run.outcome in ("error", "interrupted"), errors


def children(process_id):
    import psutil

    return [child.pid for child in psutil.Process(process_id).children(recursive=True)]


def read_environment(process_id):
    import psutil

    try:
        return psutil.Process(process_id).environ()
    except psutil.Error:
        return {}
