"""The track of a text against naive references."""

import functools
import math
from typing import Any

import pytest
import torch

from bench.attempt.worker import SilentMonitor
from bench.config import find_config, read_config
from bench.judge.certificate import certify, mean_loss
from bench.storage import weights
from data import Permuted, get_track, index_sets_sha256
from model import Transformer
from settings import Settings
from tests.support.judged import judged_models
from tests.support.models import random_model
from tests.support.small_trainer import SeededTrainer
from tests.support.tracks import CPU, cpu_batches, fresh
from tracks import text_file
from tracks.controls import permute
from tracks.descriptions import resolve_track_settings

CONTENT = "".join(f"line {n}: {n * n % 97} größer\n" for n in range(120))
KINDS = [{}, {"tokens": "characters"}, {"tokens": "bpe", "vocabulary": 300}]


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text(CONTENT, encoding="utf-8")
    return str(path)


def text_track(book, **settings):
    track = fresh("text", **resolve_track_settings("text", {"file": book, "context": 16, **settings}))
    track.prepare()
    return track


def text_model(track, seed=0):
    sizes = {"vocab_size": len(track.vocabulary), "block_size": track.block_size}
    return random_model(seed, **sizes).eval()


def split(content=CONTENT):
    """The bytes of both parts: the cut is at the first character of the last tenth."""
    data = content.encode()
    cut = len(data) * 9 // 10
    while True:
        try:
            return data[:cut], data[cut:], data[cut:].decode()
        except UnicodeDecodeError:
            cut += 1


# -----------------------------------------------------------------------------
# parts


@pytest.mark.parametrize("settings", KINDS)
def test_the_last_tenth_of_the_bytes_is_held_out_and_nothing_is_lost(book, settings):
    track = text_track(book, **settings)
    training, heldout, _ = split()
    assert track.tokenizer.decode(track.training_tokens.tolist()) == training
    assert track.tokenizer.decode(track.heldout_tokens[16:].tolist()) == heldout
    assert training.endswith(track.tokenizer.decode(track.heldout_tokens[:16].tolist()))


@pytest.mark.parametrize("settings", KINDS)
@pytest.mark.parametrize("is_permuted", [False, True])
def test_no_training_text_holds_a_held_out_token_and_every_place_is_drawn(book, settings, is_permuted):
    track: Any = permute(text_track(book, **settings), 1) if is_permuted else text_track(book, **settings)
    batches = cpu_batches(track, loss_on="all")
    training, generator = split()[0].decode(), torch.Generator().manual_seed(0)
    assert track.decode_text(batches.text.tolist()) == training
    batch = batches.draw(20, 100, generator, torch.empty(0, 2), 0.0)
    assert batch.tokens.shape == (20, 100, 16)
    texts = batch.whole_texts().flatten(0, 1)
    ids, first_tokens = batches.text.tolist(), set()
    for row in texts[:50].tolist():
        assert any(ids[start : start + 17] == row for start in range(len(ids) - 16))
    for row in texts.tolist():
        first_tokens.add(tuple(row))
    assert len(first_tokens) > 0.5 * min(2000, len(ids) - 16)
    assert not track.is_heldout(batches.draw_distinct(500, generator)).any()


def test_windows_may_be_shorter_than_the_context(book):
    batches = cpu_batches(text_track(book), loss_on="all", window=5)
    batch = batches.draw(1, 3, torch.Generator().manual_seed(0), torch.empty(0, 2), 0.0)
    assert batch.tokens.shape == (1, 3, 5)


def test_problems_ask_for_the_token_after_the_context(book):
    track = text_track(book)
    problems = torch.tensor([[0, 0], [0, 7], [1, 0], [1, 9]])
    texts = split()
    stream = texts[0][-16:] + texts[1]
    expected = [texts[0][:17], texts[0][7:24], stream[:17], stream[9:26]]
    assert [bytes(row) for row in torch.cat([track.prompts(problems), track.answers(problems)], 1).tolist()] == expected
    assert track.is_heldout(problems).tolist() == [False, False, True, True]


def test_the_test_set_is_drawn_from_the_held_out_part_by_the_seed(book):
    track = text_track(book)
    one, other = track.test_set(1), track.test_set(2)
    assert torch.equal(one, track.test_set(1))
    assert track.is_heldout(one).all()
    assert len(one.unique(dim=0)) == len(one) == min(1000, len(split()[1])) == len(other)


# -----------------------------------------------------------------------------
# bits per byte


def naive_bits_per_byte(model, track):
    """Predict each held-out token by itself, in the window that the definition gives it."""
    context = track.block_size
    stride, stream = context // 2, track.heldout_tokens.long()
    nats = 0.0
    for target in range(context, len(stream)):
        end = min(context + ((target - context) // stride + 1) * stride, len(stream))  # behind the window's last target
        window = stream[end - context - 1 : target]
        logits = model(window[None])[0, -1].detach().double()
        nats -= float(logits.log_softmax(-1)[stream[target]])
        assert len(window) >= min(context // 2, target)
    return nats / math.log(2) / len(split()[1])


@pytest.mark.parametrize("settings", KINDS)
def test_bits_per_byte_are_exact(book, settings):
    track = text_track(book, **settings)
    model = text_model(track)
    certificate, sentences = certify(judged_models(model), track, CPU, 1)
    expected = naive_bits_per_byte(model, track)
    assert certificate.measures["bits_per_byte"] == pytest.approx(expected, rel=1e-5)
    tokens = len(track.heldout_tokens) - track.block_size
    assert certificate.measures["loss"] == pytest.approx(expected * math.log(2) * len(split()[1]) / tokens, rel=1e-5)
    assert certificate.heldout_problems == certificate.problems
    assert sentences[0].startswith("after '")


def test_each_held_out_token_is_a_target_once_for_every_context_and_length(tmp_path):
    for context in (2, 3, 16, 17):
        for length in (190, 200, 203, 229):
            path = tmp_path / "text.txt"
            path.write_text("".join(chr(97 + n % 26) for n in range(length)))
            track = text_track(str(path), context=context)
            batch = track.heldout_windows()
            positions = torch.arange(len(track.heldout_tokens))
            track.__dict__["heldout_tokens"] = positions
            targets = track.heldout_windows().targets[batch.loss_mask]
            assert targets.tolist() == list(range(context, len(positions)))
            windows = track.heldout_windows()
            assert torch.equal(windows.tokens + 1, windows.targets)
            assert int(windows.tokens.min()) >= 0


def test_a_uniform_model_needs_eight_bits_a_byte(book):
    track = text_track(book)
    model = text_model(track)
    with torch.no_grad():
        model.head.zero_()
    measures = certify(judged_models(model), track, CPU, 1)[0].measures
    assert measures["bits_per_byte"] == pytest.approx(8.0, rel=1e-5)


def test_permuted_ids_change_no_measure(book):
    track = text_track(book)
    model = text_model(track)
    permuted = permute(track, 3)
    with torch.no_grad():
        original = certify(judged_models(model), track, CPU, 1)[0]
        ids = permuted.token_map.target_ids[:-1]
        for weight in (model.token, model.head):
            weight[ids] = weight.clone()
        altered = certify(judged_models(model), permuted, CPU, 1)[0]
    assert altered.errors == original.errors
    assert altered.measures == pytest.approx(original.measures, rel=1e-5)


def test_without_a_target_nothing_is_solved_and_with_one_the_measure_decides(book):
    def certificate(**settings):
        track = text_track(book, **settings)
        model = text_model(track)
        return certify(judged_models(model), track, CPU, 1)[0]

    assert not certificate().is_solved
    assert not certificate().has_target
    assert certificate(bits_per_byte=100.0).is_solved
    assert not certificate(bits_per_byte=0.5).is_solved
    assert certificate(bits_per_byte=0.5).unmet_limits == ["bits_per_byte"]


# -----------------------------------------------------------------------------
# weights without the file


@pytest.mark.parametrize("settings", KINDS)
@pytest.mark.parametrize("is_permuted", [False, True])
def test_weights_read_and_write_texts_without_the_file(book, tmp_path, monkeypatch, settings, is_permuted):
    resolved = resolve_track_settings("text", {"file": book, "context": 16, **settings})
    base = fresh("text", **resolved)
    found = base.prepare()
    track: Any = permute(base, 1) if is_permuted else base
    values = {f"track_settings.{key}": value for key, value in (resolved | found).items()}
    path = tmp_path / "weights.safetensors"
    weights.save(path, text_model(track), track, {"track": "text", **values})
    monkeypatch.setattr(text_file, "FILES", {})
    loaded = weights.load(path, CPU)[1]
    assert loaded.name == track.name
    assert isinstance(loaded, Permuted) == is_permuted
    assert tuple(loaded.vocabulary) == tuple(track.vocabulary)
    assert loaded.encode_text("größer 12\n") == track.encode_text("größer 12\n")
    assert loaded.decode_text(loaded.encode_text("größer\n")) == "größer\n"
    with pytest.raises(ValueError, match=r"is needed; name its file"):
        loaded.test_set(1)


def test_the_hash_of_the_merges_is_found_in_setup_filed_and_checked_again(book):
    resolved = resolve_track_settings("text", {"file": book, "tokens": "bpe", "vocabulary": 300})
    track = fresh("text", **resolved)
    found = track.prepare()
    assert track.tokenizer_seconds > 0
    assert track.name == f"{fresh('text', **resolved).name}-{found['merges'][:8]}"
    assert track.name == fresh("text", **(resolved | found)).name
    again = fresh("text", **(resolved | found))
    assert again.prepare() == found
    with pytest.raises(ValueError, match="finds other merges"):
        fresh("text", **(resolved | {"merges": "ab" * 32})).prepare()


def test_a_partial_character_is_shown_as_bytes_and_white_space_as_escapes(book):
    track = text_track(book)
    assert [track.token_repr(token) for token in (10, 32, 97, 0xC3)] == [r"'\n'", "' '", "'a'", r"b'\xc3'"]
    assert track.decode_text([0xC3]) == "�"
    with pytest.raises(ValueError, match="not UTF-8"):
        track.encode_text("\udcff")


def test_other_tracks_have_no_tokenizer():
    track = get_track("add3")
    assert track.prepare() == {}
    assert (track.tokenizer_seconds, track.stored) == (None, "")


# -----------------------------------------------------------------------------
# training


@pytest.mark.parametrize("settings", [{}, {"tokens": "bpe", "vocabulary": 270}])
def test_a_model_learns_a_text_from_its_windows(book, settings):

    config: Any = {"track": "text", "track_settings": {"file": book, "context": 16, **settings}, "loss_on": "all"}
    sizes: Any = {"n_embd": 32, "n_hidden": 32, "n_head": 2, "num_steps": 40, "batch_size": 16, "max_rounds": 1}
    checks: Any = {"check_every": 40, "check_problems": 8, "evaluation_problems": 8, "muon_learning_rate": 0.05}
    track = text_track(book, **settings)
    trainer = SeededTrainer(Settings(**config, **sizes, **checks, dropout=0.1, n_layer=2), track, CPU, torch.float32, 1)

    def bits():
        model = trainer.model.eval().requires_grad_(False)
        return track.measures(None, functools.partial(mean_loss, judged_models(model)(torch.float32), CPU))[
            "bits_per_byte"
        ]

    trainer.warm_up()
    before = bits()
    trainer.model.train().requires_grad_(True)
    monitor: Any = SilentMonitor()
    trainer.train(monitor)
    assert trainer.steps == 40
    assert bits() < 0.6 * before


@pytest.mark.parametrize(
    ("config", "published"),
    [
        ("text-recipe", 232_000),
        ("text-331k-recipe", 331_000),
        ("text-480k-bpe-recipe", 480_000),
        ("text-1200k-recipe", 1_200_000),
        ("text-2600k-bpe-recipe", 2_600_000),
        ("text-3900k-bpe-recipe", 3_900_000),
    ],
)
def test_the_recipes_have_the_sizes_of_the_log_s_models(config, published):
    settings = Settings(**read_config(find_config(config, "cpu")[1], Settings))
    shape = settings.model_config(len(settings.track_description.vocabulary), settings.track_description.prompt_length)
    with torch.device("meta"):
        model = Transformer(shape)
    assert sum(weight.numel() for weight in model.parameters()) == pytest.approx(published, rel=0.06)
    assert (settings.adam_learning_rate, settings.decay_to, settings.decay_steps) == (1e-3, 0.01, 50_000)
    assert settings.warmup_steps == 100


# -----------------------------------------------------------------------------
# refusals


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        ("x\n", {}, "its first nine tenths have 1 tokens and its last tenth 1 bytes; take a longer text"),
        ("one line\n" * 2, {"context": 64}, "set track_settings.context to at most 15"),
        ("a" * 1000, {"tokens": "bpe", "vocabulary": 300}, "this text allows"),
    ],
)
def test_a_text_that_is_too_short_is_refused_with_the_fix(tmp_path, content, settings, message):
    path = tmp_path / "short.txt"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as refused:
        text_track(str(path), **settings)
    assert "\n" not in str(refused.value)


def test_without_a_file_the_track_cannot_be_prepared():
    with pytest.raises(ValueError, match=r"track_settings\.file is missing: name a file of text"):
        fresh("text").prepare()


def test_windows_and_losses_are_those_of_a_text(book):
    settings: Any = {"track": "text", "track_settings": {"file": book, "context": 16}}
    with pytest.raises(ValueError, match="loss_on"):
        Settings(**settings)
    with pytest.raises(ValueError, match="window must be from 2 to 16"):
        Settings(**settings, loss_on="all", window=17)
    assert str(Settings(**settings, loss_on="all", window=16).track_settings["file"]).startswith("sha256:")


def test_the_journal_gets_the_hash_of_a_fixed_sample_of_both_parts(book):
    one = index_sets_sha256(text_track(book))
    assert set(one) == {"train", "heldout"}
    assert one == index_sets_sha256(text_track(book))
    assert one != index_sets_sha256(text_track(book, context=8))
