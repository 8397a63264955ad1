"""The trainer's own promises, and whole attempts as a user starts them."""

import copy
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import speedrun
from bench import __main__ as commands
from bench.storage.journal import Journal
from bench.storage.results import paired_plans_file
from curriculum import Curriculum
from data import get_track
from tests.support.attempts import attempt_here
from tests.support.small_trainer import PEER, SMALL, STREAM, TRACK, Monitor, SeededTrainer, build, starts_of_rounds

ROOT = Path(speedrun.__file__).parent
TINY = "--n-embd 16 --n-head 2 --n-hidden 16 --threads 1 --batch-size 32 --max-rounds 1".split()
SMALL_OPTIONS = (*TINY, "--num-steps", "6", "--check-every", "3")
ENDLESS = (*TINY, "--num-steps", "1000000", "--check-every", "100")
SHORT = ("--max-seconds", "0.001", *ENDLESS)  # ends in a timeout, without the seconds that a certificate takes


# -----------------------------------------------------------------------------
# the trainer


def test_the_state_names_every_tensor_that_training_changes():
    trainer = build()
    trainer.train(Monitor())
    kept = {tensor.data_ptr() for tensor in trainer.state() if tensor.numel()}
    for owner in (trainer, trainer.muon, trainer.adam):
        for name, value in vars(owner).items():
            tensors = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else [value]
            for tensor in tensors:
                if isinstance(tensor, torch.Tensor) and tensor.numel():
                    derived = name in (
                        "learning_rate_schedule",
                        "learning_rate",
                        "adam_learning_rate",
                        "muon_learning_rate",
                        "part_weight",
                    )
                    assert derived or tensor.data_ptr() in kept, name


def test_training_after_a_warm_up_is_the_same_training():
    cold, warm = build(), build()
    warm.warm_up()
    cold.train(Monitor())
    warm.train(Monitor())
    assert all(torch.equal(a, b) for a, b in zip(cold.state(), warm.state(), strict=True))


def test_how_patient_the_watch_is_changes_nothing():
    hasty, patient = build(), build()
    monitors = [Monitor(patience=1), Monitor(patience=1000)]
    hasty.train(monitors[0])
    patient.train(monitors[1])
    assert monitors[0].checks == monitors[1].checks
    assert all(torch.equal(a, b) for a, b in zip(hasty.state(), patient.state(), strict=True))


def test_everything_random_comes_from_the_seed():
    first, again, other = build(seed=1), build(seed=1), build(seed=2)
    for trainer in (first, again, other):
        trainer.train(Monitor())
    assert torch.equal(first.model.blocks[0].mlp.up, again.model.blocks[0].mlp.up)
    assert torch.equal(first.inputs.tensors["tokens"], again.inputs.tensors["tokens"])
    assert not torch.equal(first.model.blocks[0].mlp.up, other.model.blocks[0].mlp.up)
    assert not torch.equal(first.inputs.tensors["tokens"], other.inputs.tensors["tokens"])


def test_after_many_mistakes_a_round_starts_over_from_fresh_weights():
    trainer = build(replace(SMALL, max_rounds=3, start_over_above=0))
    starts = starts_of_rounds(trainer)
    assert [first_step for first_step, _ in starts] == [0, 0, 0]
    assert trainer.steps == 3 * SMALL.num_steps
    names = [name for name, _ in trainer.model.named_parameters()]
    for name, first, second in zip(names, starts[0][1], starts[1][1], strict=False):
        assert torch.equal(first, second) == (not first.any()), name  # zeros start as zeros, all else is drawn anew
    moments = [tensor for _, state in starts for tensor in state[len(names) : -2]]
    assert not any(tensor.any() for tensor in moments)


def test_after_the_last_round_the_weights_are_the_trained_ones_however_many_mistakes_are_left():
    trainer = build(replace(SMALL, max_rounds=2, start_over_above=0))
    trained, train_round = [], trainer.train_round

    def watched(*arguments):
        found = train_round(*arguments)
        trained.append([weight.clone() for weight in trainer.model.parameters()])
        return found

    trainer.train_round = watched
    trainer.train(Monitor())
    assert len(trained) == 2
    assert all(map(torch.equal, trainer.model.parameters(), trained[-1]))


class NoAnswerFromTheDevice(TorchDispatchMode):
    """Refuses what would make the host wait for a GPU, and what has no fixed shape: neither can be captured."""

    REFUSED = ("_local_scalar_dense", "nonzero", "masked_select", "_unique", "item", "equal", "is_nonzero")

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        name = function.overloadpacket.__name__
        if name in self.REFUSED:
            raise AssertionError(f"a step called {name}")
        return function(*arguments, **(keywords or {}))


def test_a_step_never_waits_for_the_device_and_never_moves_its_state():
    trainer = build()
    places = [tensor.data_ptr() for tensor in trainer.state()]
    with NoAnswerFromTheDevice():
        with pytest.raises(AssertionError, match="local_scalar"):
            float(trainer.loss)  # the guard itself works
        trainer.step()
        trainer.step()
    assert places == [tensor.data_ptr() for tensor in trainer.state()]
    assert int(trainer.step_index) == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"clip_norm": 1.0},
        {"n_layer": 2, "matrix_optimizer": "adamw"},
        {"grokfast_lambda": 2.0, "max_row_norm": 1.0, "matrix_optimizer": "lion"},
        {"position_encoding": "rotary", "activation": "swiglu", "bias": "mlp", "matrix_optimizer": "adam"},
    ],
)
def test_captured_steps_are_the_steps_that_were_captured(changes):
    settings = replace(SMALL, device="cuda", **changes)
    means = TRACK, torch.device("cuda"), torch.float32, 7
    eager, captured = (SeededTrainer(replace(settings, cuda_graph=graph), *means) for graph in (False, True))
    for trainer in (eager, captured):
        trainer.warm_up()
        trainer.inputs.fill(Curriculum(settings, TRACK, trainer.batches, trainer.model, trainer.generator).draw())
        trainer.take_steps(3)
    assert captured.take_step != captured.step, "it was not captured"
    for value, expected in zip(captured.state(), eager.state(), strict=True):
        assert_close(value, expected, rtol=1e-2, atol=1e-3)


def test_checks_come_every_so_many_steps_and_after_the_last():
    trainer, monitor = build(replace(SMALL, num_steps=7, check_every=3), track=get_track("add3")), Monitor()
    trainer.train(monitor)
    assert [check[0] for check in monitor.checks] == [3, 6, 7]
    assert trainer.steps == 7
    assert trainer.examples == 7 * SMALL.batch_size
    assert set(monitor.checks[0][3]) == {"99%", "sample80"}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"matrix_optimizer": "adamw", "n_embd": 32, "n_hidden": 8},
        {"n_layer": 2, "n_head": 4, "n_hidden": 48, "batch_size": 7},
        {"n_layer": 3, "n_embd": 48, "n_head": 3, "muon_iterations": 2},
    ],
)
def test_the_flops_of_a_step_are_those_that_torch_counts(changes):
    trainer = build(replace(SMALL, **changes), track=get_track("add3"))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        trainer.step()
    assert trainer.step_flops == counter.get_total_flops()
    assert isinstance(trainer.step_flops, int)


def gradients_at_step(settings):
    """The gradients that the optimizers see in the first step, and the trainer."""
    trainer = build(settings)
    with torch.no_grad():
        trainer.model.head.normal_(generator=torch.Generator().manual_seed(0))  # else most of them are zero
    seen, step = [], trainer.adam.step
    trainer.adam.step = lambda: (seen.extend(weight.grad.clone() for weight in trainer.model.parameters()), step())
    trainer.step()
    return seen, trainer


def test_long_gradients_are_cut_all_together_and_short_ones_are_left_alone():
    usual, _ = gradients_at_step(SMALL)
    norm = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in usual))
    cut, _ = gradients_at_step(replace(SMALL, clip_norm=norm / 3))
    for gradient, before in zip(cut, usual, strict=True):
        assert torch.allclose(gradient, before / 3, rtol=1e-4, atol=1e-9)
    spared, _ = gradients_at_step(replace(SMALL, clip_norm=norm * 3))
    assert all(torch.equal(gradient, before) for gradient, before in zip(spared, usual, strict=True))


def test_the_loss_is_of_the_answer_or_of_all_characters_that_follow_another():
    texts = TRACK.tokens(TRACK.test_set(0)[::777]).long()
    cases: Any = ("answer", TRACK.prompt_length - 1), ("all", 0)
    for loss_on, first in cases:
        trainer = build(replace(SMALL, loss_on=loss_on))
        with torch.no_grad():
            trainer.model.head.normal_(generator=torch.Generator().manual_seed(0))
        shares = trainer.model(texts[:, :-1]).softmax(-1)[:, first:]  # (B, Q, V)
        right = shares.gather(-1, texts[:, first + 1 :, None])
        loss = trainer.model_loss(tokens=texts, query_start=trainer.query_start)
        assert loss.item() == pytest.approx(-right.log().mean().item(), rel=1e-4)


# -----------------------------------------------------------------------------
# streams, and what else other people's trainers have


def test_a_step_of_a_peer_never_waits_for_the_device_and_changes_nothing_else():
    trainer = build(PEER, track=STREAM)
    places = [tensor.data_ptr() for tensor in trainer.state()]
    with NoAnswerFromTheDevice():
        trainer.step()
        trainer.step()
    assert places == [tensor.data_ptr() for tensor in trainer.state()]
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        trainer.step()
    assert trainer.step_flops == counter.get_total_flops()


def test_a_step_of_a_peer_is_the_step_of_torch_on_the_same_gradients():
    """Clipping, both groups of weight decay and the learning rate together."""
    trainer = build(PEER, track=STREAM)
    shape = trainer.inputs.tensors["tokens"].shape
    tokens = torch.randint(len(STREAM.vocabulary), shape, generator=torch.Generator().manual_seed(0))
    trainer.inputs.tensors["tokens"].copy_(tokens)
    model = copy.deepcopy(trainer.model)
    optimizer = torch.optim.AdamW(
        [
            {"params": [weight for weight in model.parameters() if weight.dim() >= 2], "weight_decay": 0.1},
            {"params": [weight for weight in model.parameters() if weight.dim() < 2], "weight_decay": 0.0},
        ],
        betas=(PEER.adam_beta1, PEER.adam_beta2),
    )
    schedule = trainer.learning_rate_schedule
    for step in range(3):
        texts = tokens[step]
        logits = model(texts[:, :-1])
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits.mT, texts[:, 1:]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = float(schedule[step]) * PEER.adam_learning_rate
        optimizer.step()
        trainer.step()
    for (name, ours), theirs in zip(trainer.model.named_parameters(), model.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-5), name


def test_gains_are_nothing_for_muon():
    trainer = build(replace(PEER, matrix_optimizer="muon"), track=STREAM)
    assert all(weight.dim() >= 2 for weight in trainer.muon.weights)
    together = [*trainer.muon.weights, *trainer.adam.weights]
    assert sorted(map(id, together)) == sorted(map(id, trainer.model.parameters()))


@pytest.mark.parametrize("settings", [replace(SMALL, dropout=0.2), replace(SMALL, shared_dropout=0.2)])
def test_what_is_dropped_comes_from_the_seed_and_a_warm_up_changes_none_of_it(settings):
    settings = replace(settings, n_layer=2)
    first, warm, other, without = (
        build(settings),
        build(settings),
        build(settings, seed=8),
        build(replace(settings, dropout=0.0, shared_dropout=0.0)),
    )
    warm.warm_up()
    for trainer in (first, warm, other, without):
        trainer.train(Monitor())
        torch.rand(5)
    assert all(torch.equal(a, b) for a, b in zip(first.state(), warm.state(), strict=True))
    assert not torch.equal(first.model.token, other.model.token)
    assert not torch.equal(first.model.token, without.model.token)


def test_training_learns():
    settings = replace(SMALL, n_embd=32, n_hidden=64, num_steps=60, batch_size=128, check_every=20)
    monitor = Monitor()
    build(settings).train(monitor)
    assert monitor.checks[-1][1] < 0.85 * math.log(12)  # what guessing costs


def test_adamw_can_have_the_matrices_too():
    settings = replace(SMALL, matrix_optimizer="adamw", n_embd=32, n_hidden=64, num_steps=60, batch_size=128)
    trainer, monitor = build(settings), Monitor()
    trainer.train(monitor)
    assert len(trainer.adam.weights) == len(list(trainer.model.parameters()))
    assert monitor.checks[-1][1] < 0.85 * math.log(12)


# -----------------------------------------------------------------------------
# whole attempts, in processes of their own where these matter


def start(*options, **keywords):
    command = [sys.executable, "speedrun.py", "--shared", *options]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", **keywords
    )


def run(*options, **keywords):
    process = start(*options, **keywords)
    output, errors = process.communicate(timeout=200)
    return process.returncode, output, errors


def wait_for_mark(results, seconds=60.0):
    """Until the attempt has left its start mark."""
    deadline = time.monotonic() + seconds
    while not list((results / "started").glob("*.json")):
        assert time.monotonic() < deadline, "the attempt never began"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def small_attempt(tmp_path_factory):
    results = tmp_path_factory.mktemp("small")
    return results, run("--results", str(results), "--seed", "3", "--note", "a note", "--json", *SMALL_OPTIONS)


def test_an_attempt_ends_in_the_journal_on_the_board_and_on_standard_output(small_attempt):
    results, (status, output, errors) = small_attempt
    runs, faults = Journal(results).read()
    assert (status, len(runs), faults) == (1, 1, []), errors
    line = (results / "runs.jsonl").read_text().strip()
    assert json.loads(output.splitlines()[-1]) == json.loads(line)
    filed = runs[0]
    assert (filed.outcome, filed.seed, filed.note, filed.config) == ("missed", 3, "a note", "add3-cpu")
    assert (filed.steps, filed.examples) == (6, 192)
    assert filed.certificate.problems == 1_000_000
    assert filed.certificate.errors > 900_000
    assert filed.machine.clean is False  # --shared
    assert (results / filed.weights).is_file()
    assert filed.run_id in (results / "tracks" / "add3.md").read_text(encoding="utf-8")
    assert not list((results / "started").iterdir())


def test_weights_saved_during_training_answer_problems(tmp_path, capsys):
    options = (*SMALL_OPTIONS, "--track", "add2", "--checkpoint-every", "3", "--kernel", "torch")
    status, _, errors = attempt_here(capsys, "--results", str(tmp_path), "--seed", "3", *options)
    assert status == 1, errors
    (run_id,) = (line.run_id for line in Journal(tmp_path).read()[0])
    names = sorted(path.name for path in (tmp_path / "weights").glob("*-step-*"))
    assert names == [f"{run_id}-step-{step:06}.safetensors" for step in (3, 6)]
    assert commands.main(["ask", str(tmp_path / "weights" / names[0]), "12+34=", "99+99="]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_the_phases_add_up_to_the_total(small_attempt):
    filed = Journal(small_attempt[0]).read()[0][0]
    phases = filed.seconds.model_dump()
    total, wall = phases.pop("total"), phases.pop("wall")
    assert all(value is not None and value > 0 for value in phases.values())
    assert sum(phases.values()) == pytest.approx(total, rel=0.02)
    assert wall > total


def contention() -> float:
    """How many times longer than on an idle machine a process takes: wall time over CPU time of some work."""
    begun, begun_cpu = time.perf_counter(), time.process_time()
    while time.process_time() - begun_cpu < 0.1:
        pass
    return (time.perf_counter() - begun) / (time.process_time() - begun_cpu)


@pytest.mark.timing
def test_the_prompt_is_back_within_a_tenth_of_a_second_of_the_filed_line(tmp_path):
    """With the project's own journal; one of ten attempts, as other work on the machine delays some."""
    shutil.copytree(ROOT / "results", tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors"))
    options = ["--shared", "--results", str(tmp_path), "--device", "cpu", *SMALL_OPTIONS]  # waits for no other attempt
    command = [sys.executable, str(ROOT / "speedrun.py"), *options]
    delays = []
    while len(delays) < 10 and min(delays, default=1.0) >= 0.1:
        begun = time.perf_counter()
        subprocess.run(command, capture_output=True)
        outside = time.perf_counter() - begun
        delays.append((outside - Journal(tmp_path).read()[0][-1].seconds.wall) / contention())
    assert min(delays) < 0.1, delays


def test_the_journal_names_no_host_no_user_and_no_path_of_this_machine(small_attempt):
    line = (small_attempt[0] / "runs.jsonl").read_text()
    assert str(ROOT) not in line
    assert str(small_attempt[0]) not in line
    assert not (os.uname().nodename and f'"{os.uname().nodename}"' in line)


def test_progress_goes_to_standard_error_in_plain_lines(small_attempt):
    _, (_, output, errors) = small_attempt
    assert len(output.splitlines()) == 1
    assert "step 6 of 6" in errors
    assert "missed" in errors
    assert "\x1b" not in errors
    assert "got" in errors
    assert "expected" in errors


def test_without_a_journal_nothing_is_written(tmp_path, capsys):
    results = tmp_path / "results"
    status, _, errors = attempt_here(capsys, "--results", str(results), "--no-journal", *SHORT)
    assert status == 1, errors
    assert not results.exists()


WRONG = {
    "--batchsize 3": "--batch-size",
    "--config nope.toml": "nope.toml",
    "--n-embd 130": "n_head",
    "--device cuda": "--device",
}
WRONG_FOR_TORCH = {  # as `--device cuda`, found after the slow import of torch
    "--compile": "compiler",
    "--track add4 --control poison": "add4 has too many",
}


def test_help_whose_reader_has_seen_enough_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "speedrun.py", "--help"], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_reader_that_has_gone_changes_neither_the_outcome_nor_the_journal(tmp_path):
    options = ["--results", str(tmp_path), "--json", *SHORT]
    with subprocess.Popen(["true"], stdin=subprocess.PIPE) as reader:
        reader.wait()
        command = [sys.executable, "speedrun.py", "--shared", *options]
        status = subprocess.call(command, cwd=ROOT, stdout=reader.stdin, stderr=reader.stdin)
    assert status == 1
    ((filed,), faults) = Journal(tmp_path).read()
    assert (filed.outcome, faults) == ("timeout", [])


@pytest.mark.parametrize("options", WRONG)
def test_a_wrong_request_is_one_line_and_exit_2_and_nothing_is_written(options, tmp_path):
    if options == "--device cuda" and torch.cuda.is_available():
        pytest.skip("this machine has what is asked for")
    results = tmp_path / "results"
    environment = os.environ | {"CXX": "no-such-compiler", "CUDA_VISIBLE_DEVICES": ""}
    status, output, errors = run("--results", str(results), *options.split(), env=environment)
    assert (status, output, len(errors.splitlines())) == (2, "", 1), errors
    assert WRONG[options] in errors
    assert not results.exists()


@pytest.mark.parametrize("options", WRONG_FOR_TORCH)
def test_what_torch_or_the_track_cannot_do_is_one_line_and_exit_2_too(options, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler")
    results = tmp_path / "results"
    status, output, errors = attempt_here(capsys, "--results", str(results), *options.split())
    assert (status, output, len(errors.splitlines())) == (2, "", 1), errors
    assert WRONG_FOR_TORCH[options] in errors
    assert not results.exists()


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupted_attempt_is_journalled_and_exits_130(number, tmp_path):
    process = start("--results", str(tmp_path), *ENDLESS)
    wait_for_mark(tmp_path)
    time.sleep(0.3)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    (filed,), _ = Journal(tmp_path).read()
    assert (filed.outcome, filed.message, filed.certificate) == ("interrupted", number.name, None)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_an_interrupt_during_import_exits_130_without_a_traceback(tmp_path):
    (tmp_path / "torch.py").write_text("import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(60)")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    status, _, errors = run("--results", str(tmp_path / "results"), *ENDLESS, env=environment)
    message = "speedrun.py: interrupted before the attempt began; nothing was filed\n"
    assert (status, errors) == (130, message)
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_killed_attempt_is_filed_as_lost_by_the_next_start(tmp_path):
    process = start("--results", str(tmp_path), *ENDLESS)
    wait_for_mark(tmp_path)
    process.kill()
    process.communicate()
    status, _, errors = run("--results", str(tmp_path), *SHORT)
    assert status == 1, errors
    runs, faults = Journal(tmp_path).read()
    assert [filed.outcome for filed in runs] == ["lost", "timeout"]
    assert faults == []


def test_the_time_limit_ends_in_a_timeout(tmp_path, capsys):
    status, _, errors = attempt_here(capsys, "--results", str(tmp_path), "--max-seconds", "0.5", *ENDLESS)
    (filed,), _ = Journal(tmp_path).read()
    assert (status, filed.outcome, filed.certificate) == (1, "timeout", None), errors
    assert 0.5 <= filed.seconds.train < 5


def test_a_loss_that_is_not_finite_ends_as_diverged(tmp_path, capsys):
    status, _, errors = attempt_here(capsys, "--results", str(tmp_path), "--adam-learning-rate", "1e30", *SMALL_OPTIONS)
    (filed,), _ = Journal(tmp_path).read()
    assert (status, filed.outcome) == (1, "diverged"), errors
    assert filed.checks[-1].loss is None


def test_running_out_of_memory_ends_as_an_error(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("bench.attempt.plan.check_memory", lambda estimate, free: None)  # which refuses it before
    options = ["--batch-size", "2000000000", "--n-embd", "16", "--n-head", "2"]  # more than any machine has
    status, _, errors = attempt_here(capsys, "--results", str(tmp_path), *options)
    (filed,), _ = Journal(tmp_path).read()
    assert (status, filed.outcome) == (1, "error"), errors
    assert "out of memory" in filed.message
    assert "Traceback" not in errors


@pytest.mark.slow
def test_a_batch_runs_every_attempt_in_a_process_of_its_own_with_the_seeds_of_its_plan(tmp_path):
    status, _, errors = run("--results", str(tmp_path), "--attempts", "2", *SHORT)
    (yardstick, *runs), _ = Journal(tmp_path).read()
    assert (status, len(runs)) == (1, 2), errors
    assert (yardstick.config, yardstick.command) == ("yardstick", "yardstick")
    assert yardstick.batch.id == runs[0].batch.id
    assert [filed.batch.index for filed in runs] == [0, 1]
    assert {filed.batch.planned for filed in runs} == {2}
    assert len({filed.batch.id for filed in runs}) == 1
    (plan,), faults = paired_plans_file(tmp_path).read()
    assert faults == []
    assert [filed.seed for filed in runs] == plan.seeds
    assert (plan.id, plan.command, plan.pairs, plan.b) == (runs[0].batch.id, "speedrun", 2, None)
    assert runs[0].config_hash == runs[1].config_hash
