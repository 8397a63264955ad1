"""The inputs of training steps, against the texts that were drawn."""

import pytest
import torch

from data import get_track
from settings import Settings
from tests.support.small_trainer import build


@pytest.mark.parametrize(
    "options",
    [
        {"track": "sumeq", "order": "alternating", "loss_on": "answer"},
        {"track": "sumeq", "loss_on": "all"},
        {"track": "moddiv", "track_settings": {"tokens": "characters"}},
        {"track": "addtext"},
    ],
)
def test_each_drawn_part_is_the_inputs_of_the_next_steps(options: dict) -> None:
    settings = Settings(**options, kernel="torch", num_steps=5, batch_size=3)
    trainer = build(settings, track=get_track(settings.track, **settings.track_settings))
    batches, inputs = trainer.batches, trainer.inputs
    parts = [batches.draw(count, 3, trainer.generator, torch.empty(0), 0.0) for count in (3, 2)]
    inputs.fill(parts)
    for step in range(5):
        part, index = (parts[0], step) if step < 3 else (parts[1], step - 3)
        drawn = {name: field[index] for name, field in part._asdict().items() if field is not None}
        if inputs.is_fast:
            drawn = {"tokens": torch.cat([drawn["tokens"], drawn["targets"][:, -1:]], -1)}
        given = inputs.of_step(torch.tensor([step]))
        assert {name: field.tolist() for name, field in given.items()} == {
            name: field.tolist() for name, field in drawn.items()
        }
        assert all(given[name].dtype == torch.int64 for name in given if "positions" in name)
