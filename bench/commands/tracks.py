"""`python -m bench tracks`: list the tracks."""

import contextlib
import dataclasses
import itertools
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from bench.commands.options import DEFAULT_RESULTS, DeviceOption, ResultsOption
from bench.config import find_config, setting_text
from bench.console import output_console
from bench.errors import UsageError
from bench.formatting import UNKNOWN, seconds_text, terminal_table
from bench.machine.devices import pick_device_type
from bench.stats.expected_time import expected_time_to_success
from bench.stats.ranking import RANKED_COMMANDS, Entry, leaders
from bench.storage.journal import Journal
from tracks.descriptions import TRACKS, TrackDescription, default_track_settings
from tracks.source_figures import SOURCE_FIGURES

NO_CONFIG = "-"


@dataclasses.dataclass(frozen=True)
class Arguments:
    """List the tracks: what is asked, how many problems there are, and what was reached.

    The best is the lowest expected time to success (ERT) by `train` of a ranked batch in the journal, on any machine
    class. Similar tracks without a config share a row.
    """

    device: DeviceOption = "auto"
    results: ResultsOption = DEFAULT_RESULTS


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

    Neighbours without a config share a row when their names differ only in a number.
    """

    def row_key(track: TrackDescription) -> str:
        has_own_row = default_config(track, device_type) != NO_CONFIG
        return track.name if has_own_row else re.sub(r"\d+", "#", track.name)

    return [list(tracks) for _, tracks in itertools.groupby(TRACKS.values(), row_key)]


def count_text(number: int) -> str:
    return f"{number:,}" if number < 10**8 else f"{number:.0e}"


def problems_text(track: TrackDescription) -> str:
    """The number of problems; an em dash for a track that has none without its settings, such as a file."""
    return count_text(track.num_problems) if track.num_problems else UNKNOWN


def heldout_text(track: TrackDescription) -> str:
    """The number of held-out problems; their share where that number is an expectation."""
    if not track.num_problems:
        return UNKNOWN
    if track.exhaustive or track.splits is not None or not track.num_heldout:
        return count_text(track.heldout_count)
    return f"{track.num_heldout / track.num_problems:.0%}"


def first_to_last(texts: Sequence[str]) -> str:
    """Two texts on two lines if the first and the last differ."""
    return texts[0] if texts[0] == texts[-1] else f"{texts[0]} …\n{texts[-1]}"


def best_entries(results: Path) -> dict[str, Entry]:
    """The ranked entry with the lowest ERT by `train` of each track, over all machine classes; by the track's name."""
    best: dict[str, Entry] = {}
    for entry in leaders(Journal(results).read_batches(RANKED_COMMANDS), "train"):
        best.setdefault(entry.runs[0].track, entry)  # the fastest comes first
    return best


def best_text(config: str, entry: Entry | None) -> str:
    """The config, and the ERT on a line of its own, with the config of the entry if that is another one."""
    if entry is None:
        return config
    label, seconds = entry.runs[0].label, seconds_text(expected_time_to_success(entry.runs, "train"))
    return f"{config}\n{seconds}" if label == config else f"{config}\n{seconds} {label}"


def tracks_table(device_type: str, results: Path) -> Table:
    headings = (
        *("track", "example", "problems", "held out", "solved means"),
        *(f"config on {device_type},\nbest ERT `train`", "the source's\nown figure"),
    )
    numbers = ("problems", "held out")
    table = terminal_table(headings, [heading for heading in headings if heading not in numbers])
    table.padding = (0, 1, 0, 0)
    for column, can_wrap in zip(table.columns, (False, True, False, False, True, False, True), strict=True):
        column.no_wrap, column.overflow = not can_wrap, "fold"
    names = {track.name: name for name, track in TRACKS.items()}  # moddiv-97 is the track moddiv with its defaults
    best = best_entries(results)
    for tracks in families(device_type):
        first, last = tracks[0], tracks[-1]
        table.add_row(
            first_to_last([names[track.name] for track in tracks]),
            first.example_text.replace("\n", "\\n\n"),
            first_to_last([problems_text(track) for track in tracks]),
            first_to_last([heldout_text(track) for track in tracks]),
            first.solved if first.exhaustive == last.exhaustive else f"{first.solved}; {last.solved}",
            best_text(default_config(first, device_type), best.get(first.name)),
            SOURCE_FIGURES.get(names[first.name], UNKNOWN),
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
    console.print(tracks_table(pick_device_type(arguments.device), arguments.results))
    console.print()
    console.print(settings_table())
    return 0
