"""A trainer that is small enough for tests, and a stand-in for the harness's monitor."""

import math
from dataclasses import replace

import torch

import speedrun
from bench.attempt.interface import Start
from curriculum import Curriculum, Evaluation
from settings import Settings
from tests.support.tracks import addition_track

SMALL = Settings(
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
    evaluation_problems=500,
    replay_problems=20,
)
# What other published trainers have: several layers, gains, tied weights, a stream, clipping.
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
STREAM = addition_track("add3-report")

TRACK = addition_track("add2")  # with 9,004 training problems a round ends in no time


class SeededTrainer(speedrun.Trainer):
    """A trainer that has begun with a seed and the usual ids of the track, and begins again with each `train`."""

    def __init__(self, settings, track, device, dtype, seed):
        super().__init__(settings, track, device, dtype)
        self.start = Start(track, seed)
        self.begin(self.start)

    def warm_up(self):
        super().warm_up()
        self.begin(self.start)
        self.step_index.zero_()

    def train(self, watch, start=None):
        super().train(watch, start or self.start)

    def state(self):
        """Every tensor that a step changes and that later steps depend on."""
        optimizers = *self.muon.state(), *self.adam.state(), *self.update.state()
        return [*self.model.parameters(), *optimizers, self.step_index, self.loss, *self.inputs.tensors.values()]


def build(settings=SMALL, seed=7, track=TRACK):
    return SeededTrainer(settings, track, torch.device("cpu"), torch.float32, seed)


class Monitor:
    """Stands in for the harness's."""

    def __init__(self, patience=2):
        self.checks, self.patience = [], patience

    def initialized(self, model):
        pass

    def tick(self):
        pass

    def check(self, step, loss, errors, reached, steps_left, asked, squared_norm, **splits):
        self.checks.append((step, loss, errors, reached))


def batches_of(trainer):
    """Train, and return every batch (B, T + 1) that a step was given."""
    batches, loss = [], trainer.model_loss

    def recorded(tokens, query_start):
        batches.append(tokens.clone())
        return loss(tokens=tokens, query_start=query_start)

    trainer.model_loss = recorded
    trainer.train(Monitor())
    return batches


def problems_in(batches):
    """Return the numbers of the problems in batches of TRACK, (N,) int64."""
    problems, valid = TRACK.problems(torch.cat(batches)[:, : TRACK.prompt_length].to(torch.uint8))
    assert valid.all()
    return TRACK.number(problems)


def starts_of_rounds(trainer):
    """Train, and return the first step and the state (cloned) at the start of each round."""
    starts, train_round = [], trainer.train_round

    def recorded(first_step, *arguments):
        starts.append((first_step, [tensor.clone() for tensor in trainer.state()]))
        return train_round(first_step, *arguments)

    trainer.train_round = recorded
    trainer.train(Monitor())
    return starts


def record_evaluations(monkeypatch):
    """Return a list that receives every evaluation of every curriculum."""
    evaluations, evaluate = [], Curriculum.evaluate

    def recorded(curriculum, problems):
        evaluations.append(evaluate(curriculum, problems))
        return evaluations[-1]

    monkeypatch.setattr(Curriculum, "evaluate", recorded)
    return evaluations


def fake_evaluations(monkeypatch, errors, smallest_loss, largest_loss, margin=math.inf):
    """Make every evaluation report these errors, losses that rise from one value to the other, and this margin."""

    def evaluate(curriculum, problems):
        return Evaluation(problems, torch.linspace(smallest_loss, largest_loss, len(problems)), errors, margin)

    monkeypatch.setattr(Curriculum, "evaluate", evaluate)
