"""The published trainers that configs reproduce, from their tables `[peer]`: in words, and with published figures."""

import functools
from pathlib import Path
from typing import Any

from pydantic import Field, FiniteFloat, ValidationError

from bench.config import CONFIGS, PEER, merged_values, read_toml, with_current_names
from bench.errors import UsageError
from bench.storage.jsonl import describe_invalid
from bench.storage.schema import DecodingScore, SchemaModel


class PublishedSteps(SchemaModel):
    """How long a trainer took until 95% of the validation problems were right, in steps or in epochs."""

    task: str  # a track of this project where there is one
    trainer: str
    steps: FiniteFloat | None = None
    epochs: FiniteFloat | None = None
    seconds: FiniteFloat | None = None  # on the author's machine
    batch_size: int | None = None
    runs: int | None = None  # of which `steps` is the median
    source: str


class Peer(SchemaModel):
    """A config that reproduces a published trainer; all but `config` is from its table `[peer]`."""

    config: str
    track: str  # the config's own unless the table names another one
    what: str  # the trainer in a few words
    source: str | None = None  # the publication
    reference: str | None = None  # our config for the same task; that of the main track unless named
    published: str | None = None  # figures without a counterpart here, in words
    published_score: DecodingScore | None = None
    published_validation_loss: dict[int, FiniteFloat] = Field(default_factory=dict)  # nats, by epoch
    published_steps: tuple[PublishedSteps, ...] = ()
    compared_configs: tuple[str, ...] = ()  # our configs that are shown beside `published_steps`


@functools.cache
def peer_paths(configs: Path) -> list[Path]:
    """The configs in a folder that name a table `[peer]`, maybe in a comment only.

    Most configs do not. Searching their texts is faster than parsing them, and every attempt does it.
    """
    return [path for path in configs.glob("*.toml") if f"[{PEER}]" in path.read_text(encoding="utf-8-sig")]


@functools.cache
def peer_tables(configs: Path) -> dict[str, dict[str, Any]]:
    """The tables `[peer]` of the configs in a folder, by config."""
    tables = {path.stem: read_toml(path)[0].get(PEER) for path in peer_paths(configs)}
    return {config: table for config, table in tables.items() if table is not None}  # None: named in a comment only


def config_settings(name: str) -> dict[str, Any]:
    """The settings in a config and its bases."""
    return dict(values_of(CONFIGS / f"{name}.toml"))


@functools.cache
def values_of(path: Path) -> dict[str, Any]:
    return merged_values(path, with_current_names)


def read_peers() -> list[Peer]:
    """The peers among the configs, by track.

    Raises UsageError if a table `[peer]` lacks `what`, has an unknown key, or a value of another type.
    """
    peers = [read_peer(config, table) for config, table in peer_tables(CONFIGS).items()]
    return sorted(peers, key=lambda peer: (peer.track, peer.config))


def read_peer(config: str, table: dict[str, Any]) -> Peer:
    path = CONFIGS / f"{config}.toml"
    try:
        return Peer.model_validate({"config": config, "track": config_settings(config).get("track")} | table)
    except ValidationError as problem:
        raise UsageError(f"{path}: {PEER}.{describe_invalid(problem)}") from None
