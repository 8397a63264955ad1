"""One text to learn by heart."""

import math
from typing import Any

import pytest
import torch

from data import PADDING, DecodedProblems, controlled, describe_track, get_track, index_sets_sha256
from settings import Settings
from tests.support.tracks import cpu_batches
from tracks.controls import permute

TEXT = "I love machine learning"


def recited(track: Any) -> DecodedProblems:
    """Results in which the text is recited rightly."""
    return DecodedProblems(track.rows, track.answers(track.rows), torch.ones(1, dtype=torch.bool))


@pytest.mark.parametrize("masked", [0, 3])
def test_the_text_follows_its_prompt(masked: int) -> None:
    track: Any = get_track("memorize", masked=masked)
    tokens = ["<BOS>", *TEXT, "<EOS>"]
    written = [*track.prompts(track.rows)[0].tolist(), *track.answers(track.rows)[0].tolist()]
    assert [track.vocabulary[i] for i in written] == tokens
    assert track.prompt_length == 1 + masked
    assert track.decode_completion(track.answers(track.rows)[0].tolist()) == TEXT[masked:]
    assert track.vocabulary[track.decoding.stop_token] == "<EOS>"
    prompts = track.encode_prompts([TEXT[:masked], TEXT[: masked + 1], "x"])
    assert prompts[0].tolist() == written[: 1 + masked]
    assert (prompts[1:] == PADDING).all()


@pytest.mark.parametrize("masked", [0, 3])
def test_a_batch_is_the_text_with_a_loss_after_the_prompt(masked: int) -> None:
    track: Any = get_track("memorize", masked=masked)
    batches = cpu_batches(track, sampling="epochs")
    batch = batches.draw(2, 3, torch.Generator().manual_seed(0), track.rows[:0], 0.0)
    assert [[track.vocabulary[i] for i in row] for row in batch.whole_texts().flatten(0, 1).tolist()] == [
        ["<BOS>", *TEXT, "<EOS>"]
    ] * 6
    assert batches.query_start == masked


@pytest.mark.parametrize("masked", [0, 3])
def test_solved_means_recited_with_a_small_loss_of_what_follows_the_prompt(masked: int) -> None:
    track: Any = get_track("memorize", masked=masked)
    batches = []
    assert track.measures(recited(track), lambda batch: batches.append(batch) or 0.5) == {"loss": 0.5}
    (batch,) = batches
    assert batch.loss_mask.tolist() == [[False] * masked + [True] * (len(TEXT) + 1 - masked)]
    assert track.limits == {"loss": 0.001}


def test_a_wrong_recital_is_put_into_words() -> None:
    track: Any = get_track("memorize", masked=3)
    assert track.sentence(track.rows[0], "ve") == f"'I l': got 've', expected {TEXT[3:]!r}"


def test_permuted_ids_recite_the_same_and_other_controls_are_refused() -> None:
    track: Any = permute(get_track("memorize"), 7)
    answers = track.answers(track.rows)
    assert track.grade(track.rows, answers).all()
    assert track.decode_completion(answers[0].tolist()) == TEXT
    loss_of: list[Any] = []
    track.measures(recited(track), lambda batch: loss_of.append(batch) or math.nan)
    assert loss_of[0].targets[0].tolist() == answers[0].tolist()
    for control in ("shuffle", "poison"):
        with pytest.raises(ValueError, match=f"control: {control} exchanges answers, and memorize has none"):
            controlled(get_track("memorize"), control, 7)


def test_a_text_may_have_more_characters_than_a_byte_counts() -> None:
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 300)))
    track: Any = get_track("memorize", text=text)
    answers = track.answers(track.rows)
    assert track.decode_completion(answers[0].tolist()) == text
    assert track.grade(track.rows, answers).all()


def test_texts_are_told_apart_by_name_and_by_the_hash_of_the_data() -> None:
    """The CRC-32 of these two is the same."""
    names, digests = set(), set()
    for text in ("plumless", "buckeroo", TEXT):
        track = get_track("memorize", text=text)
        names.add(track.name)
        digests.add(index_sets_sha256(track)["train"])
    assert names == {"memorize", "memorize-4a3619c581d4", "memorize-90177f10d7f3"}
    assert len(digests) == 3


def test_masked_characters_never_have_a_loss() -> None:
    settings: dict[str, Any] = {"text": TEXT, "masked": 3}
    assert Settings(track="memorize", track_settings=settings).loss_on == "answer"
    assert Settings(track="memorize", loss_on="all").loss_on == "all"
    with pytest.raises(ValueError, match="loss_on: memorize-masked-3 has no loss on its prompt; set it to answer"):
        Settings(track="memorize", track_settings=settings, loss_on="all")


@pytest.mark.parametrize(
    "settings", [{"masked": 23}, {"masked": -1}, {"text": ""}, {"text": "a" * 4097}, {"text": "a\udcff"}]
)
def test_wrong_settings_are_named(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="track_settings"):
        describe_track("memorize", settings)
