"""The setting `init_from`: training that starts from the weights of an earlier run."""

import dataclasses
import re
from pathlib import Path
from typing import Any

from bench.errors import UsageError
from bench.storage import weights
from bench.storage.journal import Journal
from bench.storage.results import find_run, find_weights, is_weights_path, weights_sha256
from data import Track
from model import ModelConfig

SHA256 = re.compile(r"[0-9a-f]{64}")  # as settings in the journal name the weights
FREE_TO_DIFFER = {"embedding_std", "init", "dropout"}  # of a model's config: they are no part of what weights mean


@dataclasses.dataclass(frozen=True)
class InitialWeights:
    """The weights that a run starts from."""

    path: Path
    run: str | None  # run id, or RUN@STEP; None if no run of the journal has these weights
    sha256: str  # of the file


def find_initial_weights(reference: str, results: Path) -> InitialWeights:
    """Find weights by a run id, RUN@STEP, a path, `latest`, or their sha256; UsageError if there are none."""
    try:
        if SHA256.fullmatch(reference) or is_weights_path(reference):
            digest = reference if SHA256.fullmatch(reference) else weights_sha256(Path(reference).expanduser())
            run = next((run.run_id for run in Journal(results).read()[0] if run.weights_sha256 == digest), None)
            if run is None and not is_weights_path(reference):
                raise UsageError(f"no run in {results} ended with weights of this sha256")
            path, _ = find_weights(reference if run is None or is_weights_path(reference) else run, results)
            return InitialWeights(path, run, digest)
        name, at, step = reference.partition("@")
        run = find_run(name, results, with_weights=not at).run_id + (f"@{int(step)}" if step.isdecimal() else at + step)
        path, _ = find_weights(run, results)
        return InitialWeights(path, run, weights_sha256(path))
    except UsageError as problem:
        raise UsageError(f"init_from: {problem}") from None


def check_fits(initial: InitialWeights, settings: Any, track: Track) -> None:
    """Raise UsageError unless the weights are of a model of the settings' shape, and of the track's vocabulary."""
    name = initial.run or initial.path.name
    try:
        metadata = weights.read_metadata(initial.path)
        there = dataclasses.asdict(ModelConfig(**weights.model_values(metadata)))
        vocabulary = metadata["vocabulary"]
    except (KeyError, TypeError, ValueError) as problem:
        raise UsageError(f"init_from: {name}: these are not weights of this project ({problem})") from None
    if vocabulary != weights.vocabulary_text(track.vocabulary):
        raise UsageError(
            f"init_from: {name} was trained on {metadata.get('track')}, whose vocabulary is not that of {track.name}; "
            "continue it on its own track"
        )
    here = dataclasses.asdict(settings.model_config(len(track.vocabulary), track.block_size))
    unlike = [key for key, value in there.items() if key not in FREE_TO_DIFFER and here.get(key, value) != value]
    if unlike:
        values = ", ".join(f"{key} = {there[key]}" for key in unlike)
        raise UsageError(f"init_from: the model of {name} has {values}, unlike this config; give both the same shape")
