"""The size of the training set of a filed run."""

from bench.config import track_of
from bench.storage.schema import Run
from tracks.descriptions import describe_track


def num_training(run: Run) -> int | None:
    """The number of training problems of a run's track; None if they are not listed, or the track is no more."""
    try:
        name, settings = track_of(run.settings)
        return describe_track(name, settings).num_training
    except (KeyError, ValueError):
        return None
