"""Builds a track from its name and settings, and hashes its index sets."""

import functools
import hashlib
import pkgutil
from typing import Any

from torch import Tensor

from tracks.base import Track
from tracks.descriptions import describe_track


def get_track(name: str, stored: str = "", /, **settings: bool | int | float | str) -> Track:
    """Build a track; later calls with the same settings return the same object.

    `stored` is what weights keep of a track, `Track.stored`. Raises KeyError for a name that TRACKS lacks, ValueError
    for settings that the track cannot have.
    """
    return build_track(name, tuple(sorted(settings.items())), stored)


@functools.cache
def build_track(name: str, settings: tuple[tuple[str, bool | int | float | str], ...], stored: str = "") -> Track:
    description = describe_track(name, dict(settings))
    parameters = {**description.parameters, **({"stored": stored} if stored else {})}
    track: Track = pkgutil.resolve_name(description.implementation)(description, **parameters)
    return track


def index_sets_sha256(track: Any) -> dict[str, str]:
    """Return the sha256 of the training set and of the held-out set.

    For an exhaustive track, the hash of the problems' numbers in ascending order, as little-endian int64. For other
    tracks, the hash of the rows of a fixed sample of each set. What the numbers do not tell, such as the text to
    memorize, follows in the hashed bytes.
    """

    def content(problems: Tensor) -> bytes:
        rows = track.number(problems).numpy().astype("<i8") if track.exhaustive else problems.numpy()
        return bytes(rows.tobytes() + track.data)

    return {name: hashlib.sha256(content(problems)).hexdigest() for name, problems in track.sets.items()}
