"""Certification in a separate process, and the tests for look-ahead and for answers that do not need the weights."""

from pathlib import Path
from typing import Any

import pytest
import torch

from bench.attempt import recertify
from bench.attempt.certify import certify
from bench.storage import weights
from data import Permuted
from model import Transformer
from tests.support import tracks
from tests.support.examples import ROOT
from tests.support.models import random_model
from tracks import addition

CPU = torch.device("cpu")
ADD2 = tracks.addition_track("add2")


def small_model(seed: int = 0, **changes) -> Transformer:
    return random_model(seed, block_size=8, **changes).eval().requires_grad_(False)


def saved(folder: Path, model: Transformer, track=ADD2) -> Path:
    weights.save(folder / "w.safetensors", model, track, {})
    return folder / "w.safetensors"


# -----------------------------------------------------------------------------
# the process of its own


@pytest.mark.parametrize("how", ["plain", "fast"])
def test_weights_certified_again_have_the_certificate_of_their_model(
    how: Any, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of the separate process; a second thread would wait beside other tests
    model = small_model(n_embd=16, n_hidden=32, n_head=2)
    track: Any = Permuted(ADD2, "=+9876543210")
    path = saved(tmp_path, model, track)
    if how == "plain":
        found = recertify.recertify(ROOT, path, 7, how)
    else:  # in this process; starting a second one would test nothing more
        assert recertify.main(path, 7, how) == 0
        found = recertify.Recertification.model_validate_json(capsys.readouterr().out)
    expected, sentences = certify(lambda idx: model(idx)[:, -1], track, CPU, 7)
    assert found.certificate == expected
    assert found.sentences == sentences
    assert found.parameters == sum(weight.numel() for weight in model.parameters())
    assert found.other_tensors == []
    assert (found.right_when_scrambled is None) == (how == "fast")


def test_a_sampled_test_set_is_drawn_again_with_the_seed_of_the_run(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(addition, "TEST_PROBLEMS", 3000)
    monkeypatch.setattr(addition, "SAMPLE_PROBLEMS", 20)
    track, model = tracks.fresh("add4"), random_model(block_size=14).eval().requires_grad_(False)
    path = saved(tmp_path, model, track)
    monkeypatch.setattr(weights, "get_track", lambda name, **settings: track)
    for seed in (7, 8):
        assert recertify.main(path, seed, "fast") == 0
        found = recertify.Recertification.model_validate_json(capsys.readouterr().out)
        assert (found.certificate, found.sentences) == certify(model.answerer(), track, CPU, seed)
        assert (found.certificate.problems, found.certificate.exhaustive) == (3000, False)
        assert found.lookahead_change <= 1e-6


def test_a_file_without_weights_is_unusable(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"nothing")
    with pytest.raises(recertify.UnusableWeights, match=r"\A.*not a whole safetensors file[^\n]*\Z"):
        recertify.recertify(ROOT, tmp_path / "w.safetensors", 7, "fast")


def test_the_harness_and_the_tracks_are_current_and_the_rest_is_the_contestant_s(tmp_path: Path) -> None:
    theirs, folder = tmp_path / "theirs", tmp_path / "together"
    for name in ("bench/attempt", "tracks"):
        (theirs / name).mkdir(parents=True)
    for name in ("speedrun.py", "model.py", "helper.py", "data.py", "tracks/more.py", "bench/attempt/certify.py"):
        (theirs / name).write_text("# theirs\n")
    folder.mkdir()
    recertify.assemble(theirs, folder)
    for name in ("speedrun.py", "model.py", "helper.py"):
        assert (folder / name).read_text() == "# theirs\n"
    for name in (
        "data.py",
        "tracks/addition.py",
        "bench/attempt/certify.py",
        "bench/attempt/lifecycle.py",
        "bench/report/templates/leaderboard.md.jinja",
    ):
        assert (folder / name).read_bytes() == (ROOT / name).read_bytes()
    assert not (folder / "tracks/more.py").exists()


# -----------------------------------------------------------------------------
# later characters


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n_layer", [1, 2])
def test_our_model_does_not_look_ahead(n_layer: int, dtype: torch.dtype) -> None:
    model = small_model(n_layer=n_layer, dtype=dtype)
    assert recertify.change_by_later_characters(model, ADD2) <= torch.finfo(dtype).eps


class LooksAhead(Transformer):
    """Adds a fraction of the next character to the logits, where `leaks` allows it."""

    def forward(self, idx: torch.Tensor, first: int = 0, *others: Any) -> torch.Tensor:
        logits = super().forward(idx, first)
        following = torch.nn.functional.one_hot(idx[:, first + 1 :], logits.size(-1))
        logits[:, :-1] += 0.01 * following * self.leaks(idx)[:, None, None]
        return logits

    def leaks(self, idx: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(idx))


class LooksAheadInTexts(LooksAhead):
    """Looks ahead only in texts of the track."""

    def leaks(self, idx: torch.Tensor) -> torch.Tensor:
        return ADD2.problems(idx[:, : ADD2.prompt_length].to(torch.uint8))[1].float()


def test_a_stream_whose_texts_are_shorter_than_its_windows_is_tested_in_whole_windows() -> None:
    track = tracks.addition_track("add3-report")
    model, seen = random_model(vocab_size=13, block_size=16, n_layer=2), []
    model.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    assert recertify.change_by_later_characters(model, track) <= torch.finfo(torch.float32).eps * 4
    assert {idx.shape for idx in seen} == {(128, 16)}
    _, valid = track.problems(seen[0][64:, : track.prompt_length].to(torch.uint8))
    assert valid.all()


@pytest.mark.parametrize("kind", [LooksAhead, LooksAheadInTexts])
def test_a_model_that_looks_ahead_is_detected(kind: type[LooksAhead]) -> None:
    model = small_model()
    model.__class__ = kind
    assert recertify.change_by_later_characters(model, ADD2) > 1e-3


def test_looking_ahead_is_detected_in_the_fast_forward_pass_too() -> None:
    model: Any = small_model()
    plain = model.forward
    model.forward_fast = lambda idx, first=0, pairs=None: plain(idx.flip(1), first)
    assert recertify.change_by_later_characters(model, ADD2) > 1e-3


# -----------------------------------------------------------------------------
# scrambled weights


class Calculator(Transformer):
    """Computes the sums without using its weights."""

    def forward(self, idx: torch.Tensor, first: int = 0, *others: Any) -> torch.Tensor:
        problems, _ = ADD2.problems(idx[:, : ADD2.prompt_length].to(torch.uint8))
        following = ADD2.tokens(problems).long()[:, first + 1 : idx.size(1) + 1]
        return torch.nn.functional.one_hot(following, 12).float()


def test_a_model_that_computes_the_answers_is_right_with_scrambled_weights() -> None:
    model = small_model()
    model.__class__ = Calculator
    assert recertify.right_when_scrambled(model, ADD2) == 1.0


def test_scrambling_permutes_the_values_of_each_weight() -> None:
    model = small_model()
    before = [weight.clone() for weight in model.parameters()]
    assert recertify.right_when_scrambled(model, ADD2) < 0.1
    for old, new in zip(before, model.parameters(), strict=True):
        assert not torch.equal(old, new)
        assert torch.equal(old.flatten().sort().values, new.flatten().sort().values)
