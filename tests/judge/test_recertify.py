"""Certification in a separate process, and the copy of the source in which an audit makes attempts."""

from pathlib import Path
from typing import Any

import pytest
import torch

from bench.judge import recertify
from bench.judge.certificate import certify
from bench.storage import weights
from data import Permuted
from model import Transformer
from tests.support import tracks
from tests.support.judged import judged_models
from tests.support.models import random_model
from tracks import addition

CPU = torch.device("cpu")
ADD2 = tracks.addition_track("add2")


def saved(folder: Path, model: Transformer, track: Any = ADD2) -> Path:
    weights.save(folder / "w.safetensors", model, track, {})
    return folder / "w.safetensors"


def test_weights_certified_again_have_the_certificate_of_their_model(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of the separate process; a second thread would wait beside other tests
    model = random_model(block_size=8, n_embd=16, n_hidden=32, n_head=2).eval()
    track: Any = Permuted(ADD2, "=+9876543210")
    found = recertify.recertify(saved(tmp_path, model, track), 7)
    expected, sentences = certify(judged_models(model), track, CPU, 7)
    assert found.certificate.errors == expected.errors
    assert found.certificate.smallest_margin == pytest.approx(expected.smallest_margin, rel=1e-4)
    assert found.sentences == sentences
    assert found.parameters == sum(weight.numel() for weight in model.parameters())


def test_a_sampled_test_set_is_drawn_again_with_the_seed_of_the_run(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(addition, "TEST_PROBLEMS", 3000)
    monkeypatch.setattr(addition, "SAMPLE_PROBLEMS", 20)
    track, model = tracks.fresh("add4"), random_model(block_size=14).eval()
    path = saved(tmp_path, model, track)
    sentences = []
    for seed in (7, 8):
        assert recertify.main(path, seed) == 0
        found = recertify.Recertification.model_validate_json(capsys.readouterr().out)
        assert found.sentences == certify(judged_models(model), track, CPU, seed)[1]
        sentences.append(found.sentences)
    assert sentences[0] != sentences[1]


def test_a_file_that_is_cut_off_cannot_be_certified(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    path = saved(tmp_path, random_model(block_size=8))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(recertify.UnusableWeights, match=r"\A.*not a whole safetensors file[^\n]*\Z"):
        recertify.recertify(path, 7)
