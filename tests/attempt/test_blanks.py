"""Blanks in texts, against a loop that passes the whole text for each token."""

from typing import Any

import pytest
import torch
from torch import Tensor

from bench.attempt.blanks import Blanks, fill_blanks
from bench.commands import ask
from bench.errors import UsageError
from bench.storage import weights, weights_file
from data import PADDING, get_track
from model import Transformer
from settings import Settings
from tests.support.tracks import greedy
from tracks.controls import permute
from tracks.sumeq import PAD

CPU = torch.device("cpu")


def small_model(track: Any, order: str) -> Transformer:
    config = Settings(track="sumeq", loss_on="all", n_layer=2, n_embd=16, n_hidden=16, n_head=2, order=order)  # type: ignore[arg-type]
    model = Transformer(config.model_config(len(track.vocabulary), track.block_size))
    generator = torch.Generator().manual_seed(1)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.7, generator=generator)
    return model.eval()


def filled_naively(model: Transformer, ids: list[int], order: list[int]) -> list[int]:
    """Fill one blank at a time, each by a forward pass over everything known so far; never with PAD."""
    text = dict(enumerate(ids))
    shown = [position for position in order if text[position] != PADDING]
    for blank in [position for position in order if text[position] == PADDING]:
        tokens = torch.tensor([[text[position] for position in shown]])
        positions, following = torch.tensor([shown]), torch.tensor([[*shown[1:], blank]])
        logits = model(tokens, 0, None, positions, following)[0, -1].tolist()
        text[blank] = max((i for i in range(14) if i != PAD), key=logits.__getitem__)
        shown.append(blank)
    return [text[position] for position in range(len(ids))]


@pytest.mark.parametrize("order", ["left-to-right", "right-to-left", "pseudo-random"])
@pytest.mark.parametrize("text", ["??+32==41-16", "93-32==?????", "?3-?2==41+2?", "?"])
def test_blanks_are_filled_as_by_a_loop(text: str, order: str) -> None:
    track: Any = get_track("sumeq")
    model = small_model(track, "uniform")
    ids = track.encode_blanks(text)
    positions = {
        "left-to-right": list(range(16)),
        "right-to-left": [0, *range(15, 0, -1)],
        "pseudo-random": [0, 9, 4, 2, 15, 7, 1, 3, 12, 11, 5, 6, 14, 8, 10, 13],
    }[order]
    found = fill_blanks(model.answerer(), torch.tensor(ids), torch.tensor(positions), track.decoding, torch.Generator())
    expected = filled_naively(model, ids, positions)
    assert found.tolist() == expected
    assert all(known in (PADDING, token) for known, token in zip(ids, expected, strict=True))
    if order != "pseudo-random":
        (reply,) = Blanks(model, track, [text], CPU, order)
        assert reply == track.decode_text(expected[1 : len(text) + 1])


def test_alternating_orders_fill_blanks_at_the_beginning_from_right_to_left() -> None:
    track: Any = get_track("sumeq")
    model = small_model(track, "alternating")
    texts = ["??+32==41-16", "93-32==?????"]
    for text, order in zip(texts, ("right-to-left", "left-to-right"), strict=True):
        assert list(Blanks(model, track, [text], CPU, "alternating")) == list(Blanks(model, track, [text], CPU, order))


def test_weights_of_left_to_right_fill_blanks_only_at_the_end() -> None:
    track: Any = get_track("sumeq")
    model = small_model(track, "left-to-right")
    blanks = Blanks(model, track, ["93-32==???", "??+32==41-16"], CPU, "left-to-right")
    assert blanks.is_accepted == [True, False]
    assert "fill blanks at the end" in blanks.fault("??+32==41-16")
    ids = [PAD, *track.ids_of("93-32==")]
    for _ in range(3):
        logits = model(torch.tensor([ids]))[0, -1].tolist()
        ids.append(max(range(1, 14), key=logits.__getitem__))
    assert next(iter(blanks)) == track.decode_text(ids[1:])
    with pytest.raises(UsageError, match="--order uniform: these weights were trained from left to right only"):
        Blanks(model, track, ["?"], CPU, "uniform")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("93-32==", "has no blank: write \\? for each character"),
        ("?" * 15, "it has 15 characters, more than 14"),
        ("?a", "'a' is not in its vocabulary"),
    ],
)
def test_other_texts_are_refused_with_the_reason(text: str, message: str) -> None:
    track: Any = get_track("sumeq")
    blanks = Blanks(small_model(track, "uniform"), track, [text], CPU, "uniform")
    assert blanks.is_accepted == [False]
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(blanks.fault(text))


def test_the_ids_may_be_permuted() -> None:
    usual: Any = get_track("sumeq")
    track: Any = permute(usual, 7)
    ids, usual_ids = track.encode_blanks("?+3"), usual.encode_blanks("?+3")
    assert ids.index(PADDING) == usual_ids.index(PADDING) == 1
    assert track.decode_text([i for i in ids if i != PADDING]).strip("<pad>") == "+3"


def test_sampled_blanks_come_from_the_generator() -> None:
    def next_logits(*inputs: Tensor) -> Tensor:
        return torch.zeros(1, 14)

    decoding = greedy(1)._replace(temperature=1.0, stop_token=PAD)
    ids, order = torch.tensor([0] + [PADDING] * 1000), torch.arange(1001)
    drawn = [fill_blanks(next_logits, ids, order, decoding, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert set(drawn[0][1:].tolist()) == set(range(1, 14))


def test_ask_fills_blanks_in_the_order_of_training_or_another_one(tmp_path: Any, capsys: Any) -> None:
    track: Any = get_track("sumeq")
    for order in ("right-to-left", "left-to-right"):
        model = small_model(track, order)
        path = tmp_path / f"{order}.safetensors"
        weights.save(path, model, track, {"order": order, "track": "sumeq"})
        assert weights_file.training_order(path) == order
        text = "93-32==??"
        assert ask.main(ask.Arguments(run=str(path), prompts=(text,), results=tmp_path)) == 0
        assert capsys.readouterr().out.splitlines() == list(Blanks(model, track, [text], CPU, order))
        assert ask.main(ask.Arguments(run=str(path), prompts=("?+1==1+1",), results=tmp_path)) == 2 * (order[0] == "l")
        assert ("fill blanks at the end" in capsys.readouterr().err) == (order[0] == "l")
    with pytest.raises(UsageError, match="--order is for blanks"):
        ask.main(ask.Arguments(run=str(path), prompts=("1",), order="uniform", continue_=3, results=tmp_path))
