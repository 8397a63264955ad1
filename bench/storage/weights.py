"""Weights as safetensors files with the settings in the metadata; nothing is ever unpickled."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bench.config import track_of
from data import Permuted, Track, get_track
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


def training_order(path: Path) -> str:
    """The setting `order` of a weights file; raises ValueError if it cannot be read."""
    settings = json.loads(read_file(path)[0].get("settings", "{}"))
    return str(settings.get("order", "left-to-right"))


def read_file(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and the tensors of a safetensors file; raises ValueError if it cannot be read."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
    except FileNotFoundError:  # also where it may not be read
        problem = "Permission denied" if path.exists() else "there is no such weights file"
        raise ValueError(f"{path}: {problem}") from None
    except (SafetensorError, OSError) as problem:
        raise ValueError(f"{path}: not a whole safetensors file ({problem})") from None


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, without its tensors; raises ValueError if it cannot be read."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as problem:
        raise ValueError(f"not a whole safetensors file ({problem})") from None


def model_values(metadata: dict[str, str]) -> dict[str, Any]:
    """The keyword arguments of the model's config; raises KeyError or ValueError for metadata of other projects."""
    return dict(json.loads(metadata["model"]))


def load_into(model: Transformer, path: Path) -> None:
    """Copy the weights of a file into a model of the same shape, in place."""
    model.load_state_dict(read_file(path)[1])


def build_model(metadata: dict[str, str], state: dict[str, Tensor]) -> tuple[Transformer, Track]:
    """The model and the track that a file describes; raises various exceptions for metadata of other projects."""
    settings = json.loads(metadata["settings"])
    name, track_settings = track_of({"track": metadata["track"], **settings})
    stored = [metadata["stored"]] if "stored" in metadata else []
    track: Any = get_track(name, *stored, **track_settings)
    if track.name != metadata["track"]:
        raise ValueError(f"its settings are those of {track.name}, its track is {metadata['track']}")
    if metadata["vocabulary"] != vocabulary_text(track.vocabulary):
        is_text = isinstance(track.vocabulary, str)
        track = Permuted(track, metadata["vocabulary"] if is_text else tuple(json.loads(metadata["vocabulary"])))
    config = ModelConfig(**model_values(metadata))
    if (config.vocab_size, config.block_size) != (len(track.vocabulary), track.block_size):
        raise ValueError(f"a model of another shape than {track.name} needs")
    model = Transformer(config, getattr(torch, metadata["dtype"]))
    model.load_state_dict(state)
    return model, track


def vocabulary_text(vocabulary: Sequence[str]) -> str:
    """The tokens of a vocabulary: the characters, or a JSON list."""
    return vocabulary if isinstance(vocabulary, str) else json.dumps(vocabulary)


def tensor_sizes(path: Path) -> dict[str, int]:
    """The number of elements of each tensor in a file."""
    return {name: tensor.numel() for name, tensor in read_file(path)[1].items()}


def state_sha256(model: Transformer) -> str:
    """One sha256 over the names and values of all weights."""
    digest = hashlib.sha256()
    for name, weight in model.state_dict().items():
        digest.update(name.encode() + weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
