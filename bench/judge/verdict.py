"""What the judge hands over when training begins, and its verdict on the weights that it gets back.

The same functions judge an attempt from another process and within its own.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch

from bench.judge.certificate import Report, certify
from bench.judge.initial_weights import initial_weights, state_sha256
from bench.judge.stored import read_weights
from bench.storage.schema import Certificate, Outcome
from bench.storage.weights_file import read_metadata, vocabulary_text, with_vocabulary
from tracks.base import Track
from tracks.controls import Relabelled, permute, relabelled


class Refused(ValueError):
    """The weights cannot be certified; the message is one line that says why."""


class Verdict(NamedTuple):
    """The judge's verdict on weights."""

    certificate: Certificate
    mistakes: list[str]  # sentences about the first ones
    weights_sha256: str

    @property
    def outcome(self) -> Outcome:
        return "solved" if self.certificate.is_solved else "missed"


def start_values(track: Track, seed: int, relabelling: int | None = None) -> dict[str, Any]:
    """The values of the message `start`: the seed, and the vocabularies whose order gives each token its id.

    `relabelling` is the seed by which answers get other ids than prompts; without it they have the same.
    """
    vocabulary = answers = permute(track, seed).vocabulary
    if relabelling is not None:
        answers = relabelled(track, vocabulary, np.random.default_rng(relabelling))
    return {
        "seed": seed,
        "vocabulary": vocabulary_text(vocabulary),
        "answer_vocabulary": vocabulary_text(answers),
    }


def started_track(track: Track, values: Mapping[str, Any]) -> Track:
    """The track with the ids of a `start` message; ValueError if it has other tokens."""
    vocabulary, answers = values["vocabulary"], values["answer_vocabulary"]
    started: Any = with_vocabulary(track, vocabulary)
    if answers != vocabulary:
        others: Any = with_vocabulary(track, answers)
        started = Relabelled(track, started.vocabulary, others.vocabulary)
    return cast(Track, started)


def judge_weights(
    path: Path,
    initial_sha256: str | None,
    track: Track,
    start: Mapping[str, Any],
    device: torch.device,
    report: Report = lambda done: None,
) -> Verdict:
    """Certify a file of weights.

    Args:
        path: a safetensors file with the metadata that `bench.storage.weights` writes.
        initial_sha256: hash of the weights that training started from, as the trainer says; None: do not check it.
        track: as it was before `start`.
        start: values of the message that training began with.
        report: called with the share of the problems that are done, 0..1.

    Raises Refused.
    """
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    try:
        models, stored = read_weights(path, device)
    except ValueError as problem:
        raise Refused(str(problem).removeprefix(f"{path}: ")) from None
    task = started_track(track, start)
    if (stored.name, stored.vocabulary) != (task.name, task.vocabulary):
        raise Refused("the weights are of another track, or of other ids, than training began with")
    if initial_sha256 is not None and initial_sha256 != lawful_sha256(path, start["seed"]):
        raise Refused("its initial weights are not those of its seed; docs/RULES.md has their law")
    certificate, mistakes = certify(models, task, device, start["seed"], report=report)
    return Verdict(certificate, mistakes, digest)


def lawful_sha256(path: Path, seed: int) -> str:
    """Return the hash of the initial weights that a model of this file must have started from, by the law."""
    config = json.loads(read_metadata(path)["model"])
    init, embedding_std = config.get("init", "identity"), config["embedding_std"]
    return state_sha256(dict(initial_weights(config, init, embedding_std, seed)))
