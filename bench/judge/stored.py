"""Reads a file of weights for the certificate: the track that it was trained on, and the model in any precision."""

import json
from pathlib import Path

import torch

from bench.judge.certificate import Models
from bench.judge.forward import Model
from bench.storage.weights_file import read_file, stored_track
from tracks.base import Track


def read_weights(path: Path, device: torch.device) -> tuple[Models, Track]:
    """Return the models of a weights file by precision, on a device, and its track; ValueError if it cannot be read."""
    metadata, tensors = read_file(path)
    try:
        track, config = stored_track(metadata), json.loads(metadata["model"])
        if (config["vocab_size"], config["block_size"]) != (len(track.vocabulary), track.block_size):
            raise ValueError(f"a model of another shape than {track.name} needs")
        Model(config, tensors, torch.float32)  # refuses what it does not know
    except (KeyError, TypeError, ValueError) as problem:
        reason = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise ValueError(f"{path}: these are not weights of this project ({reason})") from None
    placed = {name: tensor.to(device) for name, tensor in tensors.items()}
    return lambda dtype: Model(config, placed, dtype), track
