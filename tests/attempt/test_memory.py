"""What an attempt is expected to need, and what happens where that is not free."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from bench.attempt import before_torch, plan
from bench.attempt.memory import (
    CPU_BATCH_BYTES,
    CPU_BATCH_TOKENS,
    check_memory,
    decoding_batch_size,
    estimate_memory_bytes,
)
from bench.attempt.plan import make_plan
from bench.config import find_config, read_config
from bench.errors import UnavailableHere
from settings import Settings
from tracks.descriptions import describe_track

MIB = 2**20

# Peaks measured on Linux with torch 2.13 for CPUs, 2 threads; `peak_memory_bytes` of runs with few steps, MiB.
MEASURED = {
    ("--config", "add3", "--kernel", "torch", "--precision", "bfloat16"): 379,
    ("--config", "moddiv-97-recipe"): 420,
    ("--config", "add2-recipe"): 413,
    ("--config", "memorize"): 295,
}
WIDE: tuple[str, ...] = ("--config", "report-4", "--track", "add20", "--n-layer", "8", "--n-head", "10")
WIDE = (*WIDE, "--n-embd", "640", "--n-hidden", "2560", "--batch-size", "64")
MEASURED |= {
    (*WIDE, "--precision", "bfloat16"): 2182,
    (*WIDE, "--dropout", "0.1"): 3438,
    (*WIDE, "--norm", "rms"): 2731,
    (*WIDE, *"--norm-position post --bias all --position-encoding rotary --activation swiglu".split()): 4267,
    ("--config", "report-4", "--num-steps", "3"): 1208,
    WIDE: 2750,
    (*WIDE, "--loss-on", "answer", "--matrix-optimizer", "muon"): 3006,
}


# The same of configs of tracks of texts, in bfloat16 where the precision is auto; words on kernel.c.
MEASURED_TEXTS = {
    "actions": 490,
    "actions-recipe": 454,
    "actions-2000k-recipe": 668,
    "addtext": 427,
    "addtext-recipe": 387,
    "addtext-1900k-dropout-recipe": 627,
    "sumeq": 499,
    "sumeq-padded": 471,
    "sumeq-left-to-right": 447,
    "words": 378,
    "words-recipe": 420,
}


def plan_of(*arguments: str, free: int, monkeypatch: pytest.MonkeyPatch) -> plan.AttemptPlan:
    monkeypatch.setattr(plan, "free_device_memory_bytes", lambda device: free)
    return make_plan(Settings, ["--device", "cpu", *arguments], "")


@pytest.mark.parametrize(("arguments", "measured"), MEASURED.items())
def test_the_estimate_is_within_a_quarter_of_measured_peaks(
    arguments: Sequence[str], measured: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimated = plan_of(*arguments, free=2**50, monkeypatch=monkeypatch).estimated_memory_bytes
    assert estimated is not None
    assert abs(estimated / MIB / measured - 1) <= 0.25


@pytest.mark.parametrize(("name", "measured"), MEASURED_TEXTS.items())
def test_the_estimate_of_tracks_of_texts_is_within_a_quarter_of_measured_peaks(name: str, measured: int) -> None:
    settings = Settings(**read_config(find_config(name, "cpu")[1], Settings, "cpu"))
    precision = "bfloat16" if settings.precision == "auto" else settings.precision
    resolved = replace(
        settings, device="cpu", precision=precision, kernel="c" if settings.kernel == "auto" else "torch"
    )
    estimated = estimate_memory_bytes(resolved)
    assert estimated is not None
    assert abs(estimated / MIB / measured - 1) <= 0.25


def test_texts_that_are_drawn_in_parts_take_little_more_memory_than_they_are_stored_in() -> None:
    settings = Settings(track="sumeq", order="alternating", loss_on="all", kernel="torch", check_every=5_000)
    few, many = (replace(settings, device="cpu", precision="float32", num_steps=steps) for steps in (1_000, 5_000))
    tokens = 4_000 * settings.batch_size * 16
    more = (estimate_memory_bytes(many) or 0) - (estimate_memory_bytes(few) or 0)
    assert more == pytest.approx(2 * 7 * tokens, rel=0.2)  # with the copies of the warm-up


def test_settings_of_older_trainers_have_no_estimate() -> None:
    assert estimate_memory_bytes(object()) is None
    assert check_memory(None, 0) is None


def test_ample_memory_is_not_mentioned_close_memory_is_warned_about_and_too_little_is_refused() -> None:
    assert check_memory(1000 * MIB, 1250 * MIB) is None
    for free in (1249, 1000, 750):
        warning = check_memory(1000 * MIB, free * MIB)
        assert warning is not None
        assert "1,000 MiB of memory, estimated" in warning
        assert "\n" not in warning
    with pytest.raises(
        UnavailableHere, match=r"1,000 MiB .* 749 MiB are free here; lower batch_size, n_layer or n_embd"
    ):
        check_memory(1000 * MIB, 749 * MIB)
    with pytest.raises(UnavailableHere, match=r"takes about 20.0 GiB of memory"):
        check_memory(20 * 2**30, 10 * 2**30)


def test_a_plan_that_does_not_fit_is_refused_and_a_close_one_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    ample = plan_of(free=2**50, monkeypatch=monkeypatch)
    assert ample.memory_warning is None
    assert ample.estimated_memory_bytes is not None
    close = plan_of(free=ample.estimated_memory_bytes, monkeypatch=monkeypatch)
    assert "may run out of memory" in str(close.memory_warning)
    with pytest.raises(UnavailableHere, match="free here"):
        plan_of(free=ample.estimated_memory_bytes // 2, monkeypatch=monkeypatch)


@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_what_certainly_does_not_fit_is_refused_before_torch_is_imported(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(n_layer=8, n_embd=512, n_hidden=2048, batch_size=4096, precision=precision)  # type: ignore[arg-type]
    monkeypatch.setattr(before_torch, "free_memory_bytes", lambda: 2**50)
    before_torch.check_memory_early(settings)
    monkeypatch.setattr(before_torch, "free_memory_bytes", lambda: 2**30)
    with pytest.raises(UnavailableHere, match="lower batch_size"):
        before_torch.check_memory_early(settings)
    before_torch.check_memory_early(replace(settings, n_layer=1, n_embd=32, n_head=8, batch_size=64))


def test_a_small_model_decodes_as_many_texts_as_ever_and_a_wide_one_as_many_as_fit() -> None:
    description = describe_track("add3")
    small = Settings(n_embd=16, n_hidden=32, n_head=4).model_config(12, 11)
    length = description.prompt_length + description.answer_length
    assert decoding_batch_size(description, "cpu", small) == CPU_BATCH_TOKENS // length
    assert decoding_batch_size(description, "cpu", None) == CPU_BATCH_TOKENS // length
    assert decoding_batch_size(description, "cpu", object()) == CPU_BATCH_TOKENS // length  # type: ignore[arg-type]
    wide = Settings(n_layer=8, n_embd=512, n_hidden=2048).model_config(12, 11)
    batch_size = decoding_batch_size(description, "cpu", wide)
    assert 1 < batch_size < CPU_BATCH_TOKENS // length
    assert batch_size * wide.forward_bytes(length - 1, 4, is_cached=True) <= CPU_BATCH_BYTES
    huge = Settings(n_layer=200, n_embd=8192, n_hidden=32768).model_config(12, 11)
    assert decoding_batch_size(description, "cpu", huge) == 1
