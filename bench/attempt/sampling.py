"""Scores of sampled answers against greedy ones, by the same weights."""

from collections.abc import Iterator
from pathlib import Path

import torch

from bench.attempt.completions import all_completions, batch_size_for
from bench.cli import print_progress
from bench.storage import weights
from bench.storage.schema import DecodingKey

# Greedy decoding, and three usual ways to sample.
DECODINGS: tuple[DecodingKey, ...] = ((0.0, 0, 1.0), (1.0, 0, 1.0), (0.8, 200, 1.0), (1.0, 0, 0.9))


def sampled_scores(
    path: Path, problems: int, seed: int, device: torch.device
) -> Iterator[tuple[DecodingKey, int, int]]:
    """Score a weights file on held-out problems of its track, by each of DECODINGS; see `Track.heldout_test_set`.

    Yields the decoding, the number of problems and the number of right answers. All decodings answer the same problems.
    Raises OSError or ValueError if the file cannot be loaded.
    """
    model, track = weights.load(path, device)
    test_set = track.heldout_test_set(seed)
    generator = torch.Generator().manual_seed(seed)
    if not track.is_heldout(test_set[:1]).any():
        print_progress(f"{track.name} holds nothing out: these are problems of its training set")
    drawn = test_set[torch.randperm(len(test_set), generator=generator)[:problems]]
    for decoding in DECODINGS:
        temperature, top_k, top_p = decoding
        sampled = track.decoding._replace(temperature=temperature, top_k=top_k, top_p=top_p)
        tokens = torch.Generator(device).manual_seed(seed)
        inputs = model.answerer(), track, drawn, device, batch_size_for(track, device, model)
        _, right = all_completions(*inputs, lambda done: None, tokens, sampled)
        yield decoding, len(drawn), int(right.sum())
