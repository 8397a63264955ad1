"""The scores of sampled and greedy answers of one model, lines of `samplings.jsonl` in a results folder."""

from pathlib import Path

from bench.storage.jsonl import JsonLines
from bench.storage.schema import Sampling


def samplings_file(results: Path) -> JsonLines[Sampling]:
    return JsonLines(results / "samplings.jsonl", Sampling)
