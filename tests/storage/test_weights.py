"""Round trips of weights, and invalid files."""

import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from bench.storage import weights
from data import get_track
from model import Transformer
from tests.support.models import random_model

CPU = torch.device("cpu")
TRACK = get_track("add3")
SETTINGS = {"track": "add3", "num_steps": 3, "level_share": 0.5}


def saved(path: Path, **changes) -> Transformer:
    model = random_model(**changes)
    weights.save(path, model, TRACK, SETTINGS)
    return model


def rewrite(path: Path, **metadata: str | None) -> None:
    """Change the metadata of a weights file; None takes a key away."""
    with safe_open(path, framework="pt") as file:
        known = file.metadata() | metadata
    save_file(load_file(path), path, {key: value for key, value in known.items() if value is not None})


# -----------------------------------------------------------------------------
# round trips


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loaded_weights_equal_the_saved_ones_bit_for_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    model = saved(tmp_path / "w.safetensors", n_layer=2, n_head=4, activation="silu", dtype=dtype)
    loaded, track = weights.load(tmp_path / "w.safetensors", CPU)
    assert track is TRACK
    assert loaded.config == model.config
    assert loaded.dtype == dtype
    assert list(loaded.state_dict()) == list(model.state_dict())
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name].view(torch.int32), weight.view(torch.int32))
    idx = torch.randint(12, (8, 11), generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded(idx), model(idx))


def test_a_loaded_model_is_in_evaluation_mode_without_gradients(tmp_path: Path) -> None:
    saved(tmp_path / "w.safetensors")
    loaded, _ = weights.load(tmp_path / "w.safetensors", CPU)
    assert not loaded.training
    assert not any(weight.requires_grad for weight in loaded.parameters())


def test_save_creates_the_folder_and_returns_the_hash_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "results" / "weights" / "w.safetensors"
    digest = weights.save(path, random_model(), TRACK, SETTINGS)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_metadata_describe_track_settings_and_model(tmp_path: Path) -> None:
    model = saved(tmp_path / "w.safetensors")
    with safe_open(tmp_path / "w.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert metadata["track"] == "add3"
    assert json.loads(metadata["settings"]) == SETTINGS
    assert json.loads(metadata["model"])["n_embd"] == model.config.n_embd


# -----------------------------------------------------------------------------
# invalid files


def refused(path: Path) -> str:
    """The message with which `load` refuses a file, one line."""
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as problem:
        weights.load(path, CPU)
    assert str(problem.value).startswith(f"{path}: ")
    return str(problem.value).removeprefix(f"{path}: ")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path / "w.safetensors") == "there is no such weights file"


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(kept: float, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    saved(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    assert refused(path).startswith("not a whole safetensors file")


class Trap:
    """Unpickling this creates a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    path, trap = tmp_path / "w.safetensors", Trap(tmp_path / "sprung")
    path.write_bytes(pickle.dumps(trap))
    assert refused(path).startswith("not a whole safetensors file")
    assert not trap.path.exists()
    pickle.loads(path.read_bytes())
    assert trap.path.exists()  # the trap works


def test_a_checkpoint_of_torch_is_refused(tmp_path: Path) -> None:
    torch.save(random_model().state_dict(), tmp_path / "w.safetensors")
    assert refused(tmp_path / "w.safetensors").startswith("not a whole safetensors file")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"track": "add3"}])
def test_safetensors_of_other_projects_are_refused(metadata: dict | None, tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2, 2)}, tmp_path / "w.safetensors", metadata)
    assert refused(tmp_path / "w.safetensors").startswith("these are not weights of this project")


def test_weights_of_an_unknown_track_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    saved(path)
    rewrite(path, track="add99")
    assert "add99" in refused(path)


@pytest.mark.parametrize(
    "metadata",
    [
        {"model": None},
        {"model": "not JSON"},
        {"model": "[1, 2]"},
        {"model": json.dumps({"n_embd": 16})},
        {"model": json.dumps({"n_embd": "wide"})},
        {"dtype": None},
        {"dtype": "float99"},
    ],
)
def test_invalid_metadata_are_refused(metadata: dict, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    saved(path)
    rewrite(path, **metadata)
    assert refused(path)


def test_weights_that_do_not_fit_their_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    saved(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    del tensors["head"]
    save_file(tensors, path, metadata)
    assert refused(path)
    save_file(load_file(path) | {"head": torch.zeros(3, 3)}, path, metadata)
    assert refused(path)


@pytest.mark.parametrize("sizes", [{"vocab_size": 5}, {"block_size": 4}])
def test_a_model_with_the_wrong_vocabulary_or_length_is_refused(sizes: dict, tmp_path: Path) -> None:
    saved(tmp_path / "w.safetensors", **sizes)
    assert refused(tmp_path / "w.safetensors")
