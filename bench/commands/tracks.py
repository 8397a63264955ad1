"""`python -m bench tracks`: list the tracks."""

import dataclasses
import itertools
import re

from rich.table import Table

from bench.commands.options import DEFAULT_RESULTS, DeviceOption, UnusedResultsOption
from bench.config import find_config
from bench.console import output_console
from bench.errors import UsageError
from bench.formatting import terminal_table
from bench.machine.devices import pick_device_type
from tracks.descriptions import TRACKS, TrackDescription

NO_CONFIG = "-"


@dataclasses.dataclass(frozen=True)
class Arguments:
    """List the tracks and their default configs on a device; similar tracks without a config share a row."""

    device: DeviceOption = "auto"
    results: UnusedResultsOption = DEFAULT_RESULTS


def default_config(track: TrackDescription, device_type: str) -> str:
    """The name of a track's default config on a device, or NO_CONFIG."""
    try:
        return find_config(track.name, device_type)[0]
    except UsageError:
        return NO_CONFIG


def families(device_type: str) -> list[list[TrackDescription]]:
    """The tracks in the order of TRACKS, grouped into the rows of the table.

    Neighbours share a row when their names differ only in a number, they have no config, and their certificates are
    samples.
    """

    def row_key(track: TrackDescription) -> str:
        has_own_row = track.exhaustive or default_config(track, device_type) != NO_CONFIG
        return track.name if has_own_row else re.sub(r"\d+", "#", track.name)

    return [list(tracks) for _, tracks in itertools.groupby(TRACKS.values(), row_key)]


def count_text(number: int) -> str:
    return f"{number:,}" if number < 10**8 else f"{number:.0e}"


def first_to_last(texts: list[str]) -> str:
    return texts[0] if texts[0] == texts[-1] else f"{texts[0]} … {texts[-1]}"


def tracks_table(device_type: str) -> Table:
    headings = ("track", "example", "problems", "held out", "solved means", f"config on {device_type}")
    text = [heading for heading in headings if heading not in ("problems", "held out")]
    table = terminal_table(headings, text, no_wrap=headings)
    for tracks in families(device_type):
        track = tracks[0]
        about = "" if track.exhaustive else "about "
        table.add_row(
            first_to_last([track.name for track in tracks]),
            track.example_text,
            first_to_last([count_text(track.num_problems) for track in tracks]),
            about + first_to_last([count_text(track.num_heldout) for track in tracks]),
            track.solved,
            default_config(track, device_type),
        )
    return table


def main(arguments: Arguments) -> int:
    output_console(piped_width=160).print(tracks_table(pick_device_type(arguments.device)))
    return 0
