"""The setting `init_from`: training that starts from the weights of an earlier run."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.errors import UsageError
from bench.storage import weights, weights_file
from bench.storage.journal import Journal
from bench.storage.results import checkpoint_reference, find_run, find_weights, is_weights_path, weights_sha256
from data import Track
from model import ModelConfig

SHA256 = re.compile(r"[0-9a-f]{64}")  # as settings in the journal name the weights
# Of a model's config: they are no part of what weights mean.
FREE_TO_DIFFER = {"embedding_std", "init", "dropout", "shared_dropout"}
SETTING_OF = {"any_order": "order"}  # key of a model's config: the setting that it follows from


@dataclasses.dataclass(frozen=True)
class InitialWeights:
    """The weights that a run starts from."""

    path: Path
    run: str | None  # run id, or RUN@STEP; None if no run of the results has these weights
    sha256: str  # of the file


def find_initial_weights(reference: str, results: Path) -> InitialWeights:
    """Find weights by a run id, RUN@STEP, a path, `latest`, or their sha256; UsageError if there are none."""
    try:
        if SHA256.fullmatch(reference) or is_weights_path(reference):
            digest = reference if SHA256.fullmatch(reference) else weights_sha256(Path(reference).expanduser())
            run = run_with_weights(digest, results)
            if run is None and not is_weights_path(reference):
                raise UsageError(f"no run in {results} has weights of this sha256; name a run, or the path of weights")
            path, _ = find_weights(reference if run is None or is_weights_path(reference) else run, results)
            return InitialWeights(path, run, digest)
        name, at, step = reference.partition("@")
        run = find_run(name, results, with_weights=not at).run_id + (f"@{int(step)}" if step.isdecimal() else at + step)
        path, _ = find_weights(run, results)
        return InitialWeights(path, run, weights_sha256(path))
    except UsageError as problem:
        raise UsageError(f"init_from: {problem}") from None


def run_with_weights(digest: str, results: Path) -> str | None:
    """The run that ended with weights of this sha256, or the RUN@STEP that has them; None if there is none."""
    for run in Journal(results).read()[0]:
        if run.weights_sha256 == digest:
            return run.run_id
    paths = sorted((results / "weights").glob("*-step-*.safetensors"))
    return next((checkpoint_reference(path) for path in paths if weights_sha256(path) == digest), None)


def with_ids(tensors: Mapping[str, Tensor], there: Sequence[str], here: Sequence[str]) -> dict[str, Tensor]:
    """Weights whose tokens have the ids of the vocabulary `there`, for those of the vocabulary `here`."""
    rows = torch.tensor([list(there).index(token) for token in here])
    moved = dict(tensors)
    for name in ("token", "head", "head_bias"):
        if name in moved:
            moved[name] = moved[name][rows]
    if (pair := "bigrams.pair") in moved:  # (V + 1, V, C); the last row is that of no token
        moved[pair] = moved[pair][torch.cat([rows, torch.tensor([len(rows)])])][:, rows]
    return moved


def check_fits(initial: InitialWeights, settings: Any, track: Track) -> None:
    """Raise UsageError unless the weights are of a model of the settings' shape, and of the track's vocabulary."""
    name = initial.run or initial.path.name
    try:
        metadata = weights_file.read_metadata(initial.path)
        there = dataclasses.asdict(ModelConfig(**weights.model_values(metadata)))
        vocabulary = metadata["vocabulary"]
    except (KeyError, TypeError, ValueError) as problem:
        raise UsageError(f"init_from: {name}: these are not weights of this project ({problem})") from None
    try:
        weights_file.with_vocabulary(track, vocabulary)
    except ValueError:
        raise UsageError(
            f"init_from: {name} was trained on {metadata.get('track')}, whose vocabulary is not that of {track.name}; "
            "continue it on its own track"
        ) from None
    here = dataclasses.asdict(settings.model_config(len(track.vocabulary), track.block_size))
    unlike = [key for key, value in there.items() if key not in FREE_TO_DIFFER and here.get(key, value) != value]
    if unlike:
        if "any_order" in unlike:
            there["order"] = weights_file.training_order(initial.path)
        values = ", ".join(f"{key} = {there[key]}" for key in (SETTING_OF.get(key, key) for key in unlike))
        raise UsageError(f"init_from: the model of {name} has {values}, unlike this config; give both the same shape")
