"""`python -m bench tracks`: what can be learned here."""

import dataclasses
import itertools
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.config import find_config
from bench.errors import UsageError
from bench.formatting import terminal_table
from bench.machine.devices import pick_device
from bench.provenance import ROOT
from tracks.descriptions import TRACKS, TrackDescription

NO_CONFIG = "-"


@dataclasses.dataclass(frozen=True)
class Arguments:
    """List the tracks; alike ones that have no config here share a row."""

    device: str = "auto"
    """auto, cpu, cuda or mps; a track's default config depends on it."""
    results: Path = ROOT / "results"
    """Not used: the tracks are in the source."""


def default_config(track: TrackDescription, device_type: str) -> str:
    """The name of a track's config on a device, or NO_CONFIG."""
    try:
        return find_config(track.name, device_type)[0]
    except UsageError:
        return NO_CONFIG


def families(device_type: str) -> list[list[TrackDescription]]:
    """The tracks in the order of TRACKS.

    Neighbours are one family when their names differ in their number alone, and neither has a config or is exhaustive.
    """

    def family(track: TrackDescription) -> str:
        alone = track.exhaustive or default_config(track, device_type) != NO_CONFIG
        return track.name if alone else re.sub(r"\d+", "#", track.name)

    return [list(tracks) for _, tracks in itertools.groupby(TRACKS.values(), family)]


def amount(number: int) -> str:
    return f"{number:,}" if number < 10**8 else f"{number:.0e}"


def first_to_last(texts: list[str]) -> str:
    return texts[0] if texts[0] == texts[-1] else f"{texts[0]} … {texts[-1]}"


def tracks_table(device_type: str) -> Table:
    headings = ("track", "example", "problems", "held out", "the certificate asks", f"config on {device_type}")
    text = [heading for heading in headings if heading not in ("problems", "held out")]
    table = terminal_table(headings, text, no_wrap=headings)
    for tracks in families(device_type):
        track = tracks[0]
        about = "" if track.exhaustive else "about "
        table.add_row(
            first_to_last([track.name for track in tracks]),
            track.example_text,
            first_to_last([amount(track.num_problems) for track in tracks]),
            about + first_to_last([amount(track.num_heldout) for track in tracks]),
            "every problem" if track.exhaustive else "drawn held-out ones",
            default_config(track, device_type),
        )
    return table


def main(arguments: Arguments) -> int:
    try:
        device = pick_device(arguments.device)
    except ValueError as problem:
        raise UsageError(str(problem)) from None
    Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(tracks_table(device.type))
    return 0
