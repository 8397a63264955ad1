"""`python -m bench tracks`: list the tracks."""

import contextlib
import dataclasses
import itertools
import re
import shlex

from rich.table import Table

from bench.commands.options import DEFAULT_RESULTS, DeviceOption, UnusedResultsOption
from bench.config import find_config, setting_text
from bench.console import output_console
from bench.errors import UsageError
from bench.formatting import terminal_table
from bench.machine.devices import pick_device_type
from tracks.descriptions import TRACKS, TrackDescription, default_track_settings

NO_CONFIG = "-"


@dataclasses.dataclass(frozen=True)
class Arguments:
    """List the tracks, their default configs on a device, and their settings.

    Similar tracks without a config share a row.
    """

    device: DeviceOption = "auto"
    results: UnusedResultsOption = DEFAULT_RESULTS


def default_config(track: TrackDescription, device_type: str) -> str:
    """The name of a track's default config on a device, or NO_CONFIG.

    A config with the track's name comes first: a record by `total` makes one.
    """
    for name in filter(None, (track.name, track.config)):
        with contextlib.suppress(UsageError):
            return find_config(name, device_type)[0]
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
    names = {track.name: name for name, track in TRACKS.items()}  # moddiv-97 is the track moddiv with its defaults
    for tracks in families(device_type):
        track = tracks[0]
        about = "" if track.exhaustive else "about "
        table.add_row(
            first_to_last([names[track.name] for track in tracks]),
            track.example_text,
            first_to_last([count_text(track.num_problems) for track in tracks]),
            about + first_to_last([count_text(track.heldout_count) for track in tracks]),
            track.solved,
            default_config(track, device_type),
        )
    return table


def settings_table() -> Table:
    """The settings of tracks that have some, with their defaults, as they are written on a command line."""
    tracks_by_settings: dict[str, list[str]] = {}
    for name in TRACKS:
        defaults = default_track_settings(name)
        texts = [f"{key}={shlex.quote(setting_text(value))}" for key, value in defaults.items()]
        if defaults:
            tracks_by_settings.setdefault(" ".join(texts), []).append(name)
    headings = "tracks with settings", "track_settings with their defaults, such as track_settings.p=97"
    table = terminal_table(headings, text=headings)
    for settings, names in tracks_by_settings.items():
        table.add_row(", ".join(names), settings)
    return table


def main(arguments: Arguments) -> int:
    console = output_console(piped_width=200)
    console.print(tracks_table(pick_device_type(arguments.device)))
    console.print()
    console.print(settings_table())
    return 0
