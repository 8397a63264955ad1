"""The trainer's own promises, and whole attempts as a user starts them."""

import copy
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
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import speedrun
from bench.storage.journal import Journal
from data import TRACKS, Altered, Windows, decode

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

    def __init__(self, patience=2):
        self.checks, self.patience = [], patience

    def tick(self):
        pass

    def check(self, step, loss, errors, reached, steps_left, asked):
        self.checks.append((step, loss, errors, reached))


# -----------------------------------------------------------------------------
# the trainer


def test_warm_up_leaves_weights_optimizer_and_random_state_bit_for_bit():
    trainer = build()
    before = [tensor.clone() for tensor in trainer.state()]
    generator, global_generator = trainer.generator.get_state(), torch.get_rng_state()
    touched = []
    step, trainer.take_step = trainer.take_step, lambda: (step(), touched.extend(t.clone() for t in trainer.state()))
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
                        "part_weight",
                    )
                    assert derived or tensor.data_ptr() in kept, name


def test_training_after_a_warm_up_is_the_same_training():
    cold, warm = build(), build()
    warm.warm_up()
    cold.train(Witness())
    warm.train(Witness())
    assert all(torch.equal(a, b) for a, b in zip(cold.state(), warm.state(), strict=True))


def test_how_patient_the_watch_is_changes_nothing():
    hasty, patient = build(), build()
    witnesses = [Witness(patience=1), Witness(patience=1000)]
    hasty.train(witnesses[0])
    patient.train(witnesses[1])
    assert witnesses[0].checks == witnesses[1].checks
    assert all(torch.equal(a, b) for a, b in zip(hasty.state(), patient.state(), strict=True))


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
    seen, loss = [], trainer.model_loss
    trainer.model_loss = lambda texts, first: (seen.append(texts.clone()), loss(texts, first))[1]
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


def test_after_the_last_round_the_weights_are_the_trained_ones_however_many_mistakes_are_left():
    trainer = build(replace(SMALL, max_rounds=2, start_over_above=0))
    trained, train_round = [], trainer.train_round

    def watched(*arguments):
        found = train_round(*arguments)
        trained.append([weight.clone() for weight in trainer.model.parameters()])
        return found

    trainer.train_round = watched
    trainer.train(Witness())
    assert len(trained) == 2
    assert all(map(torch.equal, trainer.model.parameters(), trained[-1]))


def test_after_few_mistakes_the_next_round_resumes_and_drills_the_hardest_of_the_survey():
    settings = replace(SMALL, max_rounds=2, drill_share=0.5)
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


def test_a_round_that_ends_before_the_step_to_resume_at_is_taken_whole_again():
    trainer = build(replace(SMALL, max_rounds=2, resume_at=SMALL.num_steps))
    trainer.examine = lambda problems: (1, torch.linspace(1, 2, len(problems)))
    assert [first_step for first_step, _ in starts_of_rounds(trainer)] == [0, 0]
    assert trainer.steps == 2 * SMALL.num_steps


def test_however_much_is_drilled_a_fresh_problem_is_in_each_batch():
    trainer = build(replace(SMALL, batch_size=2, max_rounds=2, drill_share=0.9))
    trainer.examine = lambda problems: (1, torch.linspace(1, 2, len(problems)))
    assert all(len(batch) == 2 for batch in batches_of(trainer))
    assert trainer.steps == SMALL.num_steps + 2


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


def test_a_survey_that_climbs_finds_the_hardest_problem_without_drawing_it():
    """Losses that fall with the distance to one problem, in digits: the hardest is not drawn, and is found."""
    trainer = build(replace(SMALL, survey_climbs=6))
    top = torch.tensor(TRACK.sets["train"][1234].tolist())
    drawn = TRACK.sets["train"][(TRACK.sets["train"] != top).all(1)][:50]  # no digit right yet
    asked = []

    def examine(problems):
        asked.append(problems)
        right = (problems == top).sum(1)
        return int((right == TRACK.problem_width).sum()), right / 10

    trainer.examine = examine
    errors, losses, found = trainer.climb(drawn, examine(drawn)[1], TRACK.sampler(0.5, torch.device("cpu")))
    assert errors == 1
    assert found[losses.argmax()].tolist() == top.tolist()
    assert not any(TRACK.is_heldout(problems).any() for problems in asked)


def test_what_the_climb_finds_counts_in_the_decision_and_is_drilled():
    trainer = build(replace(SMALL, max_rounds=2, survey_climbs=1))
    trainer.examine = lambda problems: (0, torch.zeros(len(problems)))
    trainer.climb = lambda asked, losses, sampler: (1, torch.full((30,), 9.0), TRACK.sets["train"][:30])
    seen = batches_of(trainer)
    assert len(seen) == SMALL.num_steps + 2
    hardest = set(TRACK.number(TRACK.sets["train"][:30]).tolist())
    num_drilled = round(SMALL.batch_size * SMALL.drill_share)
    assert set(problems_in([seen[-1][-num_drilled:]]).tolist()) <= hardest


def test_99_percent_is_of_what_was_drawn_and_nothing_is_climbed_to():
    trainer, witness = build(replace(SMALL, survey_climbs=1, stop_at="99%", max_rounds=2)), Witness()
    trainer.examine = lambda problems: (1, torch.zeros(len(problems)))  # too many for a check, not for a survey
    trainer.climb = lambda *_: pytest.fail("it climbs")
    trainer.train(witness)
    assert trainer.steps == SMALL.num_steps


@pytest.mark.parametrize(("as_exam", "nines"), [(False, 2.5), (True, 0.5)])
def test_a_survey_is_drawn_as_the_batches_or_as_the_exam(as_exam, nines):
    """Of the five places above the units', all levels alike have half sum to 9, a uniform problem a tenth."""
    track, asked = TRACKS["add6"], []
    trainer = build(replace(SMALL, level_share=1.0, survey_as_exam=as_exam, survey_problems=4000), track=track)
    examine = trainer.examine
    trainer.examine = lambda problems: (asked.append(problems), examine(problems))[1]
    trainer.train(Witness())
    means = [(problems[:, :5] + problems[:, 6:11] == 9).sum(1).float().mean() for problems in asked]
    assert [len(problems) > SMALL.check_problems for problems in asked] == [False, True]
    assert means[0] == pytest.approx(2.5, abs=0.8)
    assert means[1] == pytest.approx(nines, abs=0.1)


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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("changes", [{}, {"clip_norm": 1.0}, {"n_layer": 2, "matrix_optimizer": "adamw"}])
def test_captured_steps_are_the_steps_that_were_captured(changes):
    settings = replace(SMALL, device="cuda", **changes)
    means = TRACK, torch.device("cuda"), torch.float32, 7
    eager, captured = (speedrun.Trainer(replace(settings, cuda_graph=graph), *means) for graph in (False, True))
    for trainer in (eager, captured):
        trainer.warm_up()
        trainer.texts.copy_(trainer.draw(trainer.texts.new_empty(0, 4), trainer.sources()))
        trainer.take_steps(3)
    assert captured.take_step != captured.step, "it was not captured"
    for value, expected in zip(captured.state(), eager.state(), strict=True):
        assert_close(value, expected, rtol=1e-2, atol=1e-3)


def test_the_learning_rate_rises_and_falls_to_zero():
    shape = speedrun.learning_rate_shape(replace(SMALL, num_steps=100, warmup_steps=10, decay_power=2.0))
    assert shape[0] == pytest.approx(0.1)
    assert shape[50] == pytest.approx(0.25)
    assert shape[99] == pytest.approx(0.0001, rel=1e-4)
    assert shape.argmax() == 9
    assert (shape.diff()[:9] > 0).all()
    assert (shape.diff()[9:] < 0).all()


def test_the_learning_rate_rises_and_falls_as_nanogpts():
    warmup_iters, max_iters, learning_rate, min_lr = 50, 5000, 6e-3, 6e-4

    def get_lr(it):
        if it < warmup_iters:
            return learning_rate * (it + 1) / (warmup_iters + 1)
        gone = (it - warmup_iters) / (max_iters - warmup_iters)
        return min_lr + 0.5 * (1.0 + math.cos(math.pi * gone)) * (learning_rate - min_lr)

    shape = speedrun.learning_rate_shape(
        replace(SMALL, num_steps=max_iters, warmup_steps=51, decay="cosine", decay_to=0.1)
    )
    expected = torch.tensor([get_lr(it) for it in range(max_iters)])
    assert torch.allclose(shape * learning_rate, expected, rtol=1e-5, atol=1e-9)


def test_a_constant_learning_rate_is_constant_after_its_rise():
    shape = speedrun.learning_rate_shape(replace(SMALL, num_steps=20, warmup_steps=5, decay="constant"))
    assert shape[:5].tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert (shape[4:] == 1).all()
    at_once = speedrun.learning_rate_shape(replace(SMALL, num_steps=20, warmup_steps=0, decay="constant"))
    assert (at_once == 1).all()


def test_the_learning_rate_falls_to_the_share_that_is_asked_for():
    settings = replace(SMALL, num_steps=100, warmup_steps=0, decay_power=2.0)
    to_zero, to_a_fifth = (speedrun.learning_rate_shape(replace(settings, decay_to=share)) for share in (0.0, 0.2))
    assert torch.allclose(to_a_fifth, 0.2 + 0.8 * to_zero)


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
    ids = texts.long()
    found = ids[:, : trainer.track.prompt_length]
    for _ in range(trainer.track.answer_length):
        found = torch.cat([found, trainer.model(found)[:, -1].argmax(-1, keepdim=True)], 1)
    errors, losses = trainer.examine(problems)
    assert errors == (found != ids).any(1).sum() > 0
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
    texts = TRACK.tokens(TRACK.exam(0)[::777]).long()
    for loss_on, first in (("answer", TRACK.prompt_length - 1), ("all", 0)):
        trainer = build(replace(SMALL, loss_on=loss_on))
        with torch.no_grad():
            trainer.model.head.normal_(generator=torch.Generator().manual_seed(0))
        shares = trainer.model(texts[:, :-1]).softmax(-1)[:, first:]  # (B, Q, V)
        right = shares.gather(-1, texts[:, first + 1 :, None])
        loss = trainer.model_loss(texts, trainer.learned_from)
        assert loss.item() == pytest.approx(-right.log().mean().item(), rel=1e-4)


@pytest.mark.parametrize(("errors", "steps"), [(0, 3), (5, 3), (6, 6)])
def test_training_can_stop_at_the_first_check_with_one_percent_of_mistakes(errors, steps):
    trainer, witness = build(replace(SMALL, max_rounds=2, num_steps=6, check_every=3, stop_at="99%")), Witness()
    count = {"check": 0}

    def examine(problems):
        count["check"] += 1
        wrong = errors if count["check"] == 1 else 0
        return wrong, torch.ones(500)

    trainer.examine = examine
    trainer.track = SmallSample(TRACK)
    trainer.train(witness)
    assert trainer.steps == steps
    assert [reached["99%"] for *_, reached in witness.checks] == [errors <= 5] + [True] * (errors > 5)


class SmallSample(Altered):
    """A track whose checks always ask 500 problems."""

    def sampler(self, level_share, device):
        sampler = self.track.sampler(level_share, device)
        sampler.draw_distinct = lambda count, generator: self.track.exam(0)[:500]
        return sampler


# -----------------------------------------------------------------------------
# streams, and what else other people's trainers have

PEER = replace(
    SMALL,
    track="add3-report",
    n_layer=2,
    norm="layer_gain",
    init="gpt2",
    tied=True,
    embedding_std=0.02,
    loss_on="all",
    matrix_optimizer="adamw",
    adam_weight_decay=0.1,
    clip_norm=1.0,
    decay="cosine",
    decay_to=0.1,
)
STREAM = TRACKS["add3-report"]


def test_a_stream_is_trained_on_windows_and_asked_problems_from_its_lines():
    trainer, asked, witness = build(PEER, track=STREAM), [], Witness()
    examine = trainer.examine
    trainer.examine = lambda problems: (asked.append(problems), examine(problems))[1]
    seen = batches_of(trainer)
    text = decode(STREAM, Windows(STREAM, torch.device("cpu")).text.tolist())
    assert len(seen) == PEER.num_steps
    for row in torch.cat(seen):
        assert decode(STREAM, row) in text
    samples = STREAM.samples["sample80"]
    assert not any(STREAM.is_heldout(problems).any() for problems in asked if len(problems) != len(samples))
    build(PEER, track=STREAM).train(witness)
    assert set(witness.checks[0][3]) == {"99%", "sample80"}


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
    tokens = torch.randint(len(STREAM.vocabulary), trainer.texts.shape, generator=torch.Generator().manual_seed(0))
    trainer.texts.copy_(tokens)
    model = copy.deepcopy(trainer.model)
    optimizer = torch.optim.AdamW(
        [
            {"params": [weight for weight in model.parameters() if weight.dim() >= 2], "weight_decay": 0.1},
            {"params": [weight for weight in model.parameters() if weight.dim() < 2], "weight_decay": 0.0},
        ],
        betas=(PEER.adam_beta1, PEER.adam_beta2),
    )
    shape = speedrun.learning_rate_shape(PEER)
    for step in range(3):
        texts = tokens[step]
        logits = model(texts[:, :-1])
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits.mT, texts[:, 1:]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = float(shape[step]) * PEER.adam_learning_rate
        optimizer.step()
        trainer.step()
    for (name, ours), theirs in zip(trainer.model.named_parameters(), model.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-5), name


def test_gains_are_nothing_for_muon():
    trainer = build(replace(PEER, matrix_optimizer="muon"), track=STREAM)
    assert all(weight.dim() >= 2 for weight in trainer.muon.weights)
    together = [*trainer.muon.weights, *trainer.adam.weights]
    assert sorted(map(id, together)) == sorted(map(id, trainer.model.parameters()))


def test_a_stream_has_no_answers_to_learn_alone():
    assert replace(PEER, track=STREAM.name).loss_on == "all"
    with pytest.raises(ValueError, match="loss_on: a window of add3-report begins anywhere"):
        replace(PEER, track=STREAM.name, loss_on="answer")


def test_what_is_dropped_comes_from_the_seed_and_a_warm_up_changes_none_of_it():
    settings = replace(SMALL, dropout=0.2, n_layer=2)
    first, warm, other, without = (
        build(settings),
        build(settings),
        build(settings, seed=8),
        build(replace(settings, dropout=0.0)),
    )
    warm.warm_up()
    for trainer in (first, warm, other, without):
        trainer.train(Witness())
        torch.rand(5)
    assert all(torch.equal(a, b) for a, b in zip(first.state(), warm.state(), strict=True))
    assert not torch.equal(first.model.token, other.model.token)
    assert not torch.equal(first.model.token, without.model.token)


def test_nothing_is_dropped_in_an_examination():
    trainer = build(replace(SMALL, dropout=0.5, n_layer=2))
    with torch.no_grad():
        trainer.model.head.normal_(generator=torch.Generator().manual_seed(0))
    problems = TRACK.exam(0)[::7]
    first, again = trainer.examine(problems), trainer.examine(problems)
    assert torch.equal(first[1], again[1])
    assert trainer.model.training


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


@pytest.mark.slow
def test_a_batch_runs_every_attempt_in_a_process_of_its_own_with_seeds_in_a_row(tmp_path):
    status, _, errors = run("--results", str(tmp_path), "--attempts", "2", *SHORT)
    (yardstick, *runs), _ = Journal(tmp_path).read()
    assert (status, len(runs)) == (1, 2), errors
    assert (yardstick.config, yardstick.command) == ("yardstick", "yardstick")
    assert yardstick.batch.id == runs[0].batch.id
    assert [filed.batch.index for filed in runs] == [0, 1]
    assert {filed.batch.planned for filed in runs} == {2}
    assert len({filed.batch.id for filed in runs}) == 1
    assert runs[1].seed == runs[0].seed + 1
    assert runs[0].config_hash == runs[1].config_hash
