"""Files of weights without the model: safetensors with the settings in the metadata. Nothing is ever unpickled."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from bench.config import track_of
from tracks.base import Track
from tracks.controls import Permuted
from tracks.registry import get_track


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


def training_order(path: Path) -> str:
    """The setting `order` of a weights file; raises ValueError if it cannot be read."""
    settings = json.loads(read_file(path)[0].get("settings", "{}"))
    return str(settings.get("order", "left-to-right"))


def tensor_sizes(path: Path) -> dict[str, int]:
    """The number of elements of each tensor in a file."""
    return {name: tensor.numel() for name, tensor in read_file(path)[1].items()}


def vocabulary_text(vocabulary: Sequence[str]) -> str:
    """The tokens of a vocabulary: the characters, or a JSON list."""
    return vocabulary if isinstance(vocabulary, str) else json.dumps(vocabulary)


def stored_track(metadata: Mapping[str, str]) -> Track:
    """The track that the metadata of weights describe, with the ids of its tokens.

    Raises KeyError, TypeError or ValueError for metadata of other projects.
    """
    settings = json.loads(metadata["settings"])
    name, track_settings = track_of({"track": metadata["track"], **settings})
    stored = [metadata["stored"]] if "stored" in metadata else []
    track: Any = get_track(name, *stored, **track_settings)
    if track.name != metadata["track"]:
        raise ValueError(f"its settings are those of {track.name}, its track is {metadata['track']}")
    return with_vocabulary(track, metadata["vocabulary"])


def with_vocabulary(track: Track, text: str) -> Any:
    """The track with the ids of a vocabulary, as `vocabulary_text` writes it; ValueError if it has other tokens."""
    if text == vocabulary_text(track.vocabulary):
        return track
    return Permuted(track, text if isinstance(track.vocabulary, str) else tuple(json.loads(text)))
