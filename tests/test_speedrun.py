"""The trainer's own promises, and whole attempts as a user starts them."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import speedrun
from bench.journal import Journal
from data import TRACKS

ROOT = Path(speedrun.__file__).parent
SMALL = speedrun.Settings(
    max_rounds=1,
    n_embd=16,
    n_head=2,
    n_hidden=16,
    batch_size=32,
    num_steps=6,
    check_every=3,
    check_problems=64,
    resume_at=4,
    start_over_above=10**6,
    survey_problems=500,
    drill_problems=20,
)
TINY = "--n-embd 16 --n-head 2 --n-hidden 16 --threads 1 --batch-size 32 --max-rounds 1".split()
SMALL_OPTIONS = (*TINY, "--num-steps", "6", "--check-every", "3")
ENDLESS = (*TINY, "--num-steps", "1000000", "--check-every", "100")
SHORT = ("--max-seconds", "0.001", *ENDLESS)  # ends in a timeout, without the seconds that a certificate takes


TRACK = TRACKS["add2"]  # with 9,004 training problems a round ends in no time
NUM_TRAINING = 10_000 - 996


def build(settings=SMALL, seed=7, track=TRACK):
    return speedrun.Trainer(settings, track, torch.device("cpu"), torch.float32, seed)


class Witness:
    """Stands in for the harness's watch."""

    def __init__(self):
        self.checks = []

    def tick(self):
        pass

    def check(self, step, loss, errors, reached, steps_left):
        self.checks.append((step, loss, errors, reached))


# -----------------------------------------------------------------------------
# the trainer


def test_warm_up_leaves_weights_optimizer_and_random_state_bit_for_bit():
    trainer = build()
    before = [tensor.clone() for tensor in trainer.state()]
    generator, global_generator = trainer.generator.get_state(), torch.get_rng_state()
    touched = []
    step, trainer.step = trainer.step, lambda: (step(), touched.extend(t.clone() for t in trainer.state()))
    trainer.warm_up()
    assert any(not torch.equal(old, new) for old, new in zip(before, touched, strict=True)), "it did not even step"
    assert all(torch.equal(old, new) for old, new in zip(before, trainer.state(), strict=True))
    assert torch.equal(generator, trainer.generator.get_state())
    assert torch.equal(global_generator, torch.get_rng_state())
    assert trainer.steps == trainer.examples == 0


def test_the_state_names_every_tensor_that_training_changes():
    trainer = build()
    trainer.train(Witness())
    kept = {tensor.data_ptr() for tensor in trainer.state() if tensor.numel()}
    for owner in (trainer, trainer.muon, trainer.adam):
        for name, value in vars(owner).items():
            tensors = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else [value]
            for tensor in tensors:
                if isinstance(tensor, torch.Tensor) and tensor.numel():
                    derived = name in (
                        "learning_rate_shape",
                        "learning_rate",
                        "adam_learning_rate",
                        "muon_learning_rate",
                    )
                    assert derived or tensor.data_ptr() in kept, name


def test_training_after_a_warm_up_is_the_same_training():
    cold, warm = build(), build()
    warm.warm_up()
    cold.train(Witness())
    warm.train(Witness())
    assert all(torch.equal(a, b) for a, b in zip(cold.state(), warm.state(), strict=True))


def test_everything_random_comes_from_the_seed():
    first, again, other = build(seed=1), build(seed=1), build(seed=2)
    for trainer in (first, again, other):
        trainer.train(Witness())
    assert torch.equal(first.model.blocks[0].mlp.up, again.model.blocks[0].mlp.up)
    assert torch.equal(first.texts, again.texts)
    assert not torch.equal(first.model.blocks[0].mlp.up, other.model.blocks[0].mlp.up)
    assert not torch.equal(first.texts, other.texts)


def batches_of(trainer):
    """Train, and return every batch (B, T + 1) that a step saw."""
    seen, loss = [], trainer.answer_loss
    trainer.answer_loss = lambda texts: (seen.append(texts.clone()), loss(texts))[1]
    trainer.train(Witness())
    return seen


def problems_in(batches):
    """Their numbers, (N,) int64."""
    problems, valid = TRACK.problems(torch.cat(batches)[:, : TRACK.prompt_length].to(torch.uint8))
    assert valid.all()
    return TRACK.number(problems)


def test_no_training_batch_holds_a_held_out_problem():
    settings = replace(SMALL, max_rounds=2)
    seen = batches_of(build(settings))
    problems = problems_in(seen)
    assert len(seen) == SMALL.num_steps + 2
    assert all(len(batch) == SMALL.batch_size for batch in seen)
    assert not TRACK.heldout[problems].any()


def starts_of_rounds(trainer):
    """Train, and return the state (cloned) and the first step of each round."""
    starts, train_round = [], trainer.train_round

    def watched(first_step, *arguments):
        starts.append((first_step, [tensor.clone() for tensor in trainer.state()]))
        return train_round(first_step, *arguments)

    trainer.train_round = watched
    trainer.train(Witness())
    return starts


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


def test_after_few_mistakes_the_next_round_resumes_and_drills_the_hardest_of_the_survey():
    settings = replace(SMALL, max_rounds=2)
    trainer, surveys = build(settings), []
    examine = trainer.examine
    trainer.examine = lambda problems: (surveys.append((problems, found := examine(problems))), found)[1]
    seen = batches_of(trainer)
    problems, (_, losses) = next((p, found) for p, found in surveys if len(p) > SMALL.check_problems)
    assert 400 < len(problems) <= 500
    assert len(seen) == SMALL.num_steps + 2
    hardest = set(TRACK.number(problems[losses.topk(20).indices]).tolist())
    drilled = [set(problems_in([batch[SMALL.batch_size // 2 :]]).tolist()) for batch in seen]
    assert all(batch <= hardest for batch in drilled[-2:])
    assert not any(batch <= hardest for batch in drilled[:-2])
    fresh = [set(problems_in([batch[: SMALL.batch_size // 2]]).tolist()) for batch in seen]
    assert not any(batch <= hardest for batch in fresh)
    assert [first_step for first_step, _ in starts_of_rounds(build(settings))] == [0, 4]


@pytest.mark.parametrize(("errors", "loss", "stops"), [(0, 0.1, True), (0, 0.2, False), (1, 0.1, False)])
def test_training_stops_after_a_survey_without_a_mistake_or_a_doubt(errors, loss, stops):
    trainer = build(replace(SMALL, max_rounds=2, survey_loss=0.12))
    trainer.examine = lambda problems: (errors, torch.linspace(0, loss, len(problems)))
    trainer.train(Witness())
    assert trainer.steps == SMALL.num_steps + (0 if stops else 2)


def test_the_decision_to_stop_looks_at_training_problems_alone():
    trainer, asked = build(replace(SMALL, max_rounds=2, survey_problems=20_000)), []
    examine = trainer.examine
    trainer.examine = lambda problems: (asked.append(problems), examine(problems))[1]
    trainer.train(Witness())
    assert max(map(len, asked)) > NUM_TRAINING // 2
    for problems in asked:
        assert not TRACK.is_heldout(problems).any()
        assert len(problems.unique(dim=0)) == len(problems)


def test_a_long_track_is_trained_on_what_its_sampler_draws_and_asked_what_is_not_held_out():
    track = TRACKS["add6-reversed"]
    trainer, witness, asked = build(track=track), Witness(), []
    examine = trainer.examine
    trainer.examine = lambda problems: (asked.append(problems[:1000]), examine(problems[:1000]))[1]
    seen = batches_of(trainer)
    trainer.train(witness)
    problems, valid = track.problems(torch.cat(seen)[:, : track.prompt_length].to(torch.uint8))
    assert valid.all()
    assert not track.is_heldout(problems).any()
    assert not track.is_heldout(torch.cat(asked)).any()
    assert [set(reached) for *_, reached in witness.checks] == [{"99%"}] * 2


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


def test_the_learning_rate_rises_and_falls_to_zero():
    shape = speedrun.learning_rate_shape(replace(SMALL, num_steps=100, warmup_steps=10, decay_power=2.0))
    assert shape[0] == pytest.approx(0.1)
    assert shape[50] == pytest.approx(0.25)
    assert shape[99] == pytest.approx(0.0001, rel=1e-4)
    assert shape.argmax() == 9
    assert (shape.diff()[:9] > 0).all()
    assert (shape.diff()[9:] < 0).all()


def test_checks_come_every_so_many_steps_and_after_the_last():
    trainer, witness = build(replace(SMALL, num_steps=7, check_every=3), track=TRACKS["add3"]), Witness()
    trainer.train(witness)
    assert [check[0] for check in witness.checks] == [3, 6, 7]
    assert trainer.steps == 7
    assert trainer.examples == 7 * SMALL.batch_size
    assert set(witness.checks[0][3]) == {"99%", "sample80"}


def test_examining_by_the_right_answer_finds_what_decoding_finds():
    trainer = build()
    with torch.no_grad():
        trainer.model.head.normal_(generator=torch.Generator().manual_seed(0))
    problems = TRACK.exam(0)[::7]
    texts = trainer.track.tokens(problems)
    wrong = 0
    for row in texts.long():
        text = row[: trainer.track.prompt_length]
        for _ in range(trainer.track.answer_length):
            text = torch.cat([text, trainer.model(text[None])[0, -1].argmax()[None]])
        wrong += not torch.equal(text, row)
    errors, losses = trainer.examine(problems)
    assert errors == wrong > 0
    ids = texts.long()
    every = torch.nn.functional.cross_entropy(
        trainer.model(ids[:, :-1], trainer.first).transpose(1, 2), ids[:, trainer.first + 1 :], reduction="none"
    )
    assert torch.allclose(losses, every.amax(1), atol=1e-5)


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
    trainer = build(replace(SMALL, **changes), track=TRACKS["add3"])
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        trainer.step()
    assert trainer.step_flops == counter.get_total_flops()
    assert isinstance(trainer.step_flops, int)


def test_training_learns():
    settings = replace(SMALL, n_embd=32, n_hidden=64, num_steps=60, batch_size=128, check_every=20)
    witness = Witness()
    build(settings).train(witness)
    assert witness.checks[-1][1] < 0.85 * math.log(12)  # what guessing costs


def test_adamw_can_have_the_matrices_too():
    settings = replace(SMALL, matrix_optimizer="adamw", n_embd=32, n_hidden=64, num_steps=60, batch_size=128)
    trainer, witness = build(settings), Witness()
    trainer.train(witness)
    assert len(trainer.adam.weights) == len(list(trainer.model.parameters()))
    assert witness.checks[-1][1] < 0.85 * math.log(12)


@pytest.mark.parametrize(
    "bad", [{"num_steps": 0}, {"level_share": 1.5}, {"n_embd": 10, "n_head": 4}, {"adam_beta1": 1.0}]
)
def test_settings_that_make_no_sense_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        replace(SMALL, **bad)


# -----------------------------------------------------------------------------
# whole attempts


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
    assert filed.run_id in (results / "LEADERBOARD.md").read_text(encoding="utf-8")
    assert not list((results / "started").iterdir())


def test_the_phases_add_up_to_the_total(small_attempt):
    filed = Journal(small_attempt[0]).read()[0][0]
    phases = filed.seconds.model_dump()
    total = phases.pop("total")
    assert all(value is not None and value > 0 for value in phases.values())
    assert sum(phases.values()) == pytest.approx(total, rel=0.02)


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


def test_without_a_journal_nothing_is_written(tmp_path):
    results = tmp_path / "results"
    status, _, errors = run("--results", str(results), "--no-journal", *SHORT)
    assert status == 1, errors
    assert not results.exists()


WRONG = {
    "--batchsize 3": "--batch-size",
    "--config nope.toml": "nope.toml",
    "--n-embd 130": "n_head",
    "--device cuda": "--device",
    "--compile": "compiler",
    "--track add4 --control poison": "add4 has too many",
}


def test_a_reader_that_has_gone_changes_neither_the_outcome_nor_the_journal(tmp_path):
    options = ["--results", str(tmp_path), "--json", *SHORT]
    with subprocess.Popen(["true"], stdin=subprocess.PIPE) as reader:
        reader.wait()
        command = [sys.executable, "speedrun.py", "--shared", *options]
        done = subprocess.run(command, cwd=ROOT, stdout=reader.stdin, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert len(Journal(tmp_path).read()[0]) == 1


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


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
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
    process = start("--results", str(tmp_path / "results"), *ENDLESS)
    time.sleep(0.4)  # Python is up, torch is not
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "")
    assert not (tmp_path / "results").exists()


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


def test_the_time_limit_ends_in_a_timeout(tmp_path):
    status, _, errors = run("--results", str(tmp_path), "--max-seconds", "0.5", *ENDLESS)
    (filed,), _ = Journal(tmp_path).read()
    assert (status, filed.outcome, filed.certificate) == (1, "timeout", None), errors
    assert 0.5 <= filed.seconds.train < 5


def test_a_loss_that_is_not_finite_ends_as_diverged(tmp_path):
    status, _, errors = run("--results", str(tmp_path), "--adam-learning-rate", "1e30", *SMALL_OPTIONS)
    (filed,), _ = Journal(tmp_path).read()
    assert (status, filed.outcome) == (1, "diverged"), errors
    assert filed.checks[-1].loss is None


def test_running_out_of_memory_ends_as_an_error(tmp_path):
    options = ["--batch-size", "2000000000", "--n-embd", "16", "--n-head", "2"]  # more than any machine has
    status, _, errors = run("--results", str(tmp_path), *options)
    (filed,), _ = Journal(tmp_path).read()
    assert (status, filed.outcome) == (1, "error"), errors
    assert "out of memory" in filed.message
    assert "Traceback" not in errors


def test_a_batch_runs_every_attempt_in_a_process_of_its_own_with_seeds_in_a_row(tmp_path):
    status, _, errors = run("--results", str(tmp_path), "--attempts", "2", *SHORT)
    (yardstick, *runs), _ = Journal(tmp_path).read()
    assert (status, len(runs)) == (1, 2), errors
    assert (yardstick.config, yardstick.batch.command) == ("yardstick", "yardstick")
    assert yardstick.batch.id == runs[0].batch.id
    assert [filed.batch.index for filed in runs] == [0, 1]
    assert {filed.batch.planned for filed in runs} == {2}
    assert len({filed.batch.id for filed in runs}) == 1
    assert runs[1].seed == runs[0].seed + 1
    assert runs[0].config_hash == runs[1].config_hash
