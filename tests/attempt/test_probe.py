"""Probes of the honest trainer, and of trainers that cheat."""

import json
from typing import Any, cast

import pytest
import tomli_w
import torch

from bench.attempt.interface import Start
from bench.attempt.plan import make_plan
from bench.attempt.probe import (
    PROBES,
    Enough,
    StepLimit,
    probe_seeds,
    probe_warmup,
    track_access_recorded,
    with_rounding_errors,
)
from data import Permuted, get_track
from settings import Settings
from speedrun import Trainer
from tests.support.attempts import attempt_here
from tests.support.cheats import IDLE
from tests.support.models import random_model

ADD2: Any = get_track("add2")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The config sets one thread; on a busy machine several threads would be slow."""
    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(usual)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("probe") / "small.toml"
    path.write_text(tomli_w.dumps(IDLE | {"num_steps": 20, "check_every": 10, "precision": "float32"}))
    return path


@pytest.fixture(scope="module")
def plan(config):
    return make_plan(Settings, ["--device", "cpu", "--config", str(config), "--seed", "7"], "")


class SameBatches(Trainer):
    """Draws the same batches for every seed."""

    def begin(self, start):
        super().begin(start)
        self.generator.manual_seed(0)


class Learned(Trainer):
    """Trains in its warm-up, and goes on from there."""

    learned = None

    def warm_up(self):
        super().warm_up()
        with pytest.raises(Enough):
            self.train(cast(Any, StepLimit()), Start(self.track, 3))
        self.learned = {name: weight.clone() for name, weight in self.model.state_dict().items()}

    def begin(self, start):
        super().begin(start)
        if self.learned is not None:
            self.model.load_state_dict(self.learned)


class PeeksIntoTables(Trainer):
    """Reads the held-out problems of another track before `train`."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.heldout = ADD2.heldout


# -----------------------------------------------------------------------------
# seeds


def test_two_seeds_of_the_honest_trainer_differ_in_their_batches(plan):
    found = probe_seeds(plan, Trainer)
    assert found.batches > 0.3
    assert 0 < found.rounding < 1e-3


def test_the_same_batches_for_every_seed_are_detected(plan):
    assert probe_seeds(plan, SameBatches).batches == 0.0


# -----------------------------------------------------------------------------
# warm-up


def test_the_honest_trainer_trains_the_same_without_its_warm_up_which_uses_no_problems(plan):
    found = probe_warmup(plan, Trainer)
    assert found.skipped == 0.0
    assert found.rounding > 0.0
    assert found.touched == []


def test_a_warm_up_that_trains_is_detected_in_the_training_after_it(plan):
    found = probe_warmup(plan, Learned)
    assert found.skipped > 0.3
    assert {"is_heldout_by_rule", "prompts", "answers"} <= set(found.touched)


def test_a_table_computed_before_training_is_recorded(plan):
    assert ADD2.heldout.any()  # known from here on, so that nothing is asked for to make it
    assert probe_warmup(plan, PeeksIntoTables).touched == ["heldout"]


# -----------------------------------------------------------------------------
# what they are made of


def test_access_is_recorded_on_other_tracks_and_for_cached_values():
    assert ADD2.heldout.any()  # known from here on
    with track_access_recorded() as touched:
        assert (ADD2.name, ADD2.num_problems, ADD2.vocabulary[0]) == ("add2", 10_000, "0")
        assert touched == set()
        assert ADD2.heldout.any()
        assert touched == {"heldout"}
        track = Permuted(ADD2, "=+9876543210")
        assert track.tokens(torch.zeros((1, 4), dtype=torch.uint8)).tolist() == [[11, 11, 1, 11, 11, 0, 11, 11, 11]]
        assert touched == {"heldout", "tokens", "prompts", "answers"}


def test_tracks_are_restored_after_recording():
    before = dict(vars(type(ADD2)))
    with pytest.raises(ZeroDivisionError), track_access_recorded():
        raise ZeroDivisionError
    assert dict(vars(type(ADD2))) == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rounding_error_is_half_a_unit_in_the_last_place(dtype):
    weights = {name: weight.detach() for name, weight in random_model().state_dict().items()}
    weights["zero"] = torch.zeros(3)
    changed = with_rounding_errors(weights, dtype)
    for name, old in weights.items():
        change = (changed[name] - old).abs() / old.abs().clamp(min=1e-30)
        assert change.max() <= 0.51 * torch.finfo(dtype).eps + torch.finfo(torch.float32).eps
        assert changed[name].equal(old) == (not old.any())


# -----------------------------------------------------------------------------
# the command line


@pytest.mark.parametrize("name", PROBES)
def test_the_trainer_prints_the_result_of_a_probe_as_one_line_of_json_and_files_nothing(
    name, config, plan, tmp_path, capsys
):
    options = ["--config", str(config), "--device", "cpu", "--seed", "7", "--results", str(tmp_path / "results")]
    status, shown, errors = attempt_here(capsys, *options, "--probe", name)
    assert status == 0, errors
    (line,) = shown.splitlines()
    assert json.loads(line) == PROBES[name](plan, Trainer).model_dump()
    assert not (tmp_path / "results").exists()
