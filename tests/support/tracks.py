"""Tracks for tests: with the type of their class, and apart from those that other tests share."""

from typing import Any

import torch
from torch import Tensor

from data import BatchOptions, Decoding, decode, get_batches, get_track
from tracks.addition import Addition
from tracks.registry import build_track

CPU = torch.device("cpu")


def addition_track(name: str) -> Addition:
    """The track of this name, one of addition."""
    track = get_track(name)
    assert isinstance(track, Addition)
    return track


def fresh(name: str, **settings: Any) -> Any:
    """A track that no other test has."""
    return build_track.__wrapped__(name, tuple(sorted(settings.items())))


def cpu_batches(track: Any, **options: Any) -> Any:
    """What makes the batches of a track on the CPU."""
    return get_batches(track, BatchOptions(**options), CPU)


def texts_of(track: Any, problems: Tensor) -> list[str]:
    """The texts of problems (N, W), prompt and answer."""
    return [decode(track, ids) for ids in track.tokens(problems)]


def greedy(count: int) -> Decoding:
    """Greedy decoding of so many tokens."""
    return Decoding(max_new_tokens=count)
