"""Weights as safetensors files with the settings in the metadata; nothing is ever unpickled."""

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from bench.storage.weights_file import read_file, stored_track, vocabulary_text
from data import Track
from model import ModelConfig, Transformer


def save(path: Path, model: Transformer, track: Track, settings: dict[str, Any]) -> str:
    """Write the weights with the metadata that `load` needs; returns the file's sha256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {
        "format": "addition-speedrun-1",
        "track": track.name,
        "vocabulary": vocabulary_text(track.vocabulary),
        "model": json.dumps(dataclasses.asdict(model.config)),
        "dtype": str(model.dtype).removeprefix("torch."),
        "settings": json.dumps(settings),
        **({"stored": track.stored} if track.stored else {}),
    }
    save_file({name: weight.detach().contiguous() for name, weight in model.state_dict().items()}, path, metadata)
    os.umask(mask := os.umask(0))
    path.chmod(0o666 & ~mask)  # safetensors lets nobody else read the file
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load(path: Path, device: torch.device) -> tuple[Transformer, Track]:
    """The model, in evaluation mode on `device`, and its track; raises ValueError if they cannot be read."""
    metadata, state = read_file(path)
    try:
        model, track = build_model(metadata, state)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as problem:
        reason = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise ValueError(f"{path}: these are not weights of this project ({reason})") from None
    return model.to(device).eval().requires_grad_(False), track


def model_values(metadata: dict[str, str]) -> dict[str, Any]:
    """The keyword arguments of the model's config; raises KeyError or ValueError for metadata of other projects."""
    return dict(json.loads(metadata["model"]))


def build_model(metadata: dict[str, str], state: dict[str, Tensor]) -> tuple[Transformer, Track]:
    """The model and the track that a file describes; raises various exceptions for metadata of other projects."""
    track = stored_track(metadata)
    config = ModelConfig(**model_values(metadata))
    if (config.vocab_size, config.block_size) != (len(track.vocabulary), track.block_size):
        raise ValueError(f"a model of another shape than {track.name} needs")
    model = Transformer(config, getattr(torch, metadata["dtype"]))
    model.load_state_dict(state)
    return model, track
