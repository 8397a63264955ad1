"""Which weights training ends with."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from curriculum import Curriculum, Split
from data import get_track
from recipes.checkpoints import BestCheckpoint
from settings import Settings
from tests.support.models import random_model
from tests.support.small_trainer import SMALL, Monitor, SeededTrainer

LOSSES = (0.9, 0.2, math.nan, 0.5)


def test_the_weights_of_the_lowest_loss_are_kept_and_restored_in_place() -> None:
    model = random_model()
    best, seen = BestCheckpoint(model), []
    for loss in LOSSES:
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(1)
        seen.append([weight.detach().clone() for weight in model.parameters()])
        best.update(loss)
    places = [weight.data_ptr() for weight in model.parameters()]
    best.restore()
    assert all(torch.equal(weight, kept) for weight, kept in zip(model.parameters(), seen[1], strict=True))
    assert places == [weight.data_ptr() for weight in model.parameters()]


def test_without_a_loss_nothing_is_restored() -> None:
    model = random_model()
    best = BestCheckpoint(model)
    best.update(math.nan)
    with torch.no_grad():
        model.token.fill_(3.0)
    best.restore()
    assert (model.token == 3.0).all()


@pytest.mark.parametrize(
    ("checkpoint", "may_stop", "expected"), [("last", False, 3), ("best", False, 1), ("best", True, 3)]
)
def test_training_ends_with_the_weights_that_the_setting_names(
    checkpoint: Any, may_stop: bool, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that are all right are kept, also where others had a lower loss."""
    losses: Iterator[float] = iter(LOSSES)
    settings = replace(
        SMALL, track="moddiv", track_settings={"p": 11}, checkpoint=checkpoint, num_steps=4, check_every=1
    )
    track = get_track("moddiv", p=11)
    trainer, seen = SeededTrainer(settings, track, torch.device("cpu"), torch.float32, 7), []

    def split(curriculum: Curriculum, problems: torch.Tensor | None) -> Split | None:
        if problems is None:
            return None
        seen.append([weight.detach().clone() for weight in trainer.model.parameters()])
        return Split(len(problems), 1, next(losses), 9.0)

    monkeypatch.setattr(Curriculum, "evaluate_split", split)
    monkeypatch.setattr(Curriculum, "may_stop", lambda curriculum, check: may_stop)
    monitor: Any = Monitor()
    trainer.train(monitor)
    assert len(seen) == len(LOSSES)
    same = [all(map(torch.equal, trainer.model.parameters(), weights)) for weights in seen]
    assert same.index(True) == expected


def test_a_track_without_a_validation_set_has_no_best_checkpoint() -> None:
    with pytest.raises(ValueError, match=r"checkpoint: add3 has no validation set .* set it to last"):
        Settings(track="add3", checkpoint="best")
