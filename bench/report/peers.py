"""Published trainers of others, `PEERS.md`: the runs of their configs, beside runs of the reference config.

A config with a table `[peer]` reproduces such a trainer. It trains on problems that the rules of `add3` hold out, or
writes the answer in another order; it therefore has a track of its own and is never ranked with `add3`.
"""

import dataclasses
import functools
import re
import tomllib
from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta
from statistics import median
from typing import Any

from bench.config import (
    CONFIGS,
    PEER,
    current_names,
    find_config,
    merged_values,
    read_toml,
    settings_key,
    track_settings_of,
    with_current_names,
)
from bench.formatting import changed_settings, known, number
from bench.report.main_track import MAIN_TRACK
from bench.storage.journal import Journal
from bench.storage.schema import Run, Sampling

SESSION = timedelta(hours=3)  # at most between a peer's run and a reference run of the same session
TARGETS = {"99%": "99%", "sample80": "sample80", "solved": "0 errors"}  # key of a run's `reached` -> column


@dataclasses.dataclass(frozen=True)
class Peer:
    """A config that reproduces a published trainer; all but `config` is from its table `[peer]`."""

    config: str
    track: str  # the config's own unless the table names another one
    what: str  # the trainer in a few words
    published: str | None = None  # the result as its author stated it
    source: str | None = None  # the publication


def read_peers() -> list[Peer]:
    """The peers among the configs, by track.

    Raises:
        TypeError: a table `[peer]` lacks `what` or has an unknown key.
    """
    peers = []
    for path in CONFIGS.glob("*.toml"):
        table = tomllib.loads(read_toml(path)).get(PEER)
        if table is not None:
            peers.append(Peer(**{"config": path.stem, "track": merged_values(path)["track"]} | table))
    return sorted(peers, key=lambda peer: (peer.track, peer.config))


def time_between(run: Run, other: Run) -> timedelta:
    """From the end of the earlier of two runs to the start of the later one; zero where they overlap."""
    earlier, later = sorted((run, other), key=lambda run: run.started_at)
    end = earlier.started_at + timedelta(seconds=earlier.seconds.total or 0.0)
    return max(timedelta(), later.started_at - end)


@functools.cache
def reference_config(device: str) -> str:
    return find_config(MAIN_TRACK, device)[0]


def is_reference(run: Run) -> bool:
    """Whether a run is of the reference config, unchanged, and may be compared with others."""
    is_unchanged = (run.track, run.config) == (MAIN_TRACK, reference_config(run.device)) and not run.overrides
    return is_unchanged and run.is_contest


def are_of_a_session(run: Run, other: Run) -> bool:
    """Whether two runs were made on the same machine class at about the same time."""
    return run.machine.class_ == other.machine.class_ and time_between(run, other) <= SESSION


def reference_runs(run: Run, runs: Sequence[Run]) -> list[Run]:
    """The reference runs of the session of a peer's run.

    All of them have the settings and the source of the one that is nearest in time.
    """
    near = [other for other in runs if are_of_a_session(run, other) and is_reference(other)]
    if not near:
        return []
    nearest = min(near, key=lambda other: (time_between(run, other), other.started_at, other.run_id))
    identity = settings_key(nearest.settings), nearest.source_sha256
    return [other for other in near if (settings_key(other.settings), other.source_sha256) == identity]


def is_on_page(run: Run, journal: Journal) -> bool:
    """Whether the page may show a run: it is a peer's, or a reference run in the session of a peer's run."""
    peers = [path.stem for path in CONFIGS.glob("*.toml") if f"[{PEER}]" in path.read_text(encoding="utf-8")]
    if run.config in peers:
        return True
    if not is_reference(run):
        return False
    names = "|".join(map(re.escape, peers)).encode()
    peer_runs, _ = journal.read(re.compile(rb'"config":\s*"(?:%b)"' % names))
    return any(are_of_a_session(run, other) for other in peer_runs)


def config_settings(name: str) -> dict[str, Any]:
    """The settings in a config and its bases."""
    return merged_values(CONFIGS / f"{name}.toml", with_current_names)


def changes(run: Run) -> list[str]:
    """The differences between a run's settings and its config, the time limit aside."""
    settings, run_settings = config_settings(run.config), current_names(run.settings)
    settings.pop("max_seconds", None)
    return changed_settings(settings, {key: run_settings.get(key) for key in settings})


def with_ratio(seconds: float | None, reference: Sequence[float | None]) -> str:
    """`6,226.0 (× 288.9)`: seconds, and their ratio to the median of the reference."""
    times = [value for value in reference if value]
    ratio = f" (× {seconds / median(times):,.1f})" if seconds is not None and times else ""
    return number(seconds, ",.1f") + ratio


def run_row(run: Run, reference: Sequence[Run]) -> dict[str, Any]:
    """The cells of a run that its reference runs or its config take part in; the template fills in the others."""
    solved = [other for other in reference if other.outcome == "solved"]
    trains = known(other.seconds.train for other in solved)
    row = {
        "run": run,
        "changes": ", ".join(changes(run)),
        "train": with_ratio(run.seconds.train, trains),
        "reference": "none in this session",
    }
    for target in TARGETS:
        seconds = run.reached.get(target, 0.0)  # absent where the track lacks the target, None where it was not reached
        others = [other.reached.get(target) for other in solved]
        row[target] = "not reached" if seconds is None else with_ratio(run.reached.get(target), others)
    if reference:
        row["reference"] = f"{f'{median(trains):,.2f} s, ' if trains else ''}{len(solved)} of {len(reference)} solved"
    return row


def is_on(run: Run, track: str) -> bool:
    """Whether a track is that of a run; `moddiv` is also that of a run on `moddiv-97`."""
    return run.track == track or (run.settings["track"] == track and bool(track_settings_of(run.settings)))


def peer_rows(peer: Peer, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row for each run of a peer, the earliest first."""
    peer_runs = [run for run in runs if run.config == peer.config and is_on(run, peer.track) and run.is_contest]
    peer_runs.sort(key=lambda run: (run.started_at, run.run_id))
    return [run_row(run, reference_runs(run, runs)) for run in peer_runs]


def decoding_text(line: Sampling) -> str:
    """`temperature 0.8, top-k 200`; `greedy` at temperature 0."""
    if not line.temperature:
        return "greedy"
    top_k, top_p = f", top-k {line.top_k}" * (line.top_k > 0), f", top-p {line.top_p:g}" * (line.top_p < 1)
    return f"temperature {line.temperature:g}{top_k}{top_p}"


def share_text(line: Sampling) -> str:
    """`97.3% [96.9%, 97.6%]`: the share of right answers and its 95% interval."""
    from bench.stats.descriptive import wilson_interval  # imports scipy

    low, high = wilson_interval(line.right, line.problems)
    return f"{line.right / line.problems:.2%} [{low:.2%}, {high:.2%}]"


def newest_samplings(samplings: Sequence[Sampling]) -> list[Sampling]:
    """The newest score of each model and decoding, in the order of the lines."""
    newest = {(line.weights_sha256, line.temperature, line.top_k, line.top_p): line for line in samplings}
    return list(newest.values())


def render_peers(runs: Sequence[Run], samplings: Sequence[Sampling] = ()) -> str:
    """The page as Markdown."""
    peers = read_peers()
    tracks: dict[str, list[tuple[Peer, list[dict[str, Any]]]]] = defaultdict(list)
    for peer in peers:
        tracks[peer.track].append((peer, peer_rows(peer, runs)))
    from bench.report.render import render_template  # imported on use, because it takes time

    return render_template(
        "peers",
        tracks=tracks,
        targets=TARGETS,
        reference=MAIN_TRACK,
        hours=SESSION // timedelta(hours=1),
        samplings=newest_samplings(samplings),
        decoding_text=decoding_text,
        share_text=share_text,
        published=[peer for peer in peers if peer.published],
    )
