"""Published trainers of others, `PEERS.md`: the runs of their configs beside runs of ours and published figures.

A config with a table `[peer]` reproduces such a trainer; see `bench.report.peer_configs`.
"""

import functools
import itertools
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from statistics import median
from typing import Any

from bench.config import (
    CONFIGS,
    current_settings,
    find_config,
    merged_values,
    settings_key,
    track_settings_of,
)
from bench.formatting import UNKNOWN, changed_settings, known, markdown_table, number
from bench.report.main_track import MAIN_TRACK
from bench.report.peer_configs import Peer, config_settings, peer_paths, peer_tables, read_peers
from bench.report.published_figures import GREEDY, decoding_text, loss_table, samplings_table, steps_table
from bench.storage.journal import Journal, on_class, quoted
from bench.storage.schema import DecodingScore, Run, Sampling

SESSION = timedelta(hours=3)  # at most between a peer's run and a reference run of the same session
TARGETS = {"99%": "99%", "sample80": "sample80", "solved": "solved"}  # key of a run's `reached` -> column
PUBLISHED, REFERENCE, NO_REFERENCE = "published errors", "reference, `train`", "none in this session"
HEADINGS = (
    *("config", *(f"{name}, s" for name in TARGETS.values()), "`train`, s", "errors", "held out", PUBLISHED),
    *("steps", "parameters", "precision", REFERENCE),
)


def time_between(run: Run, other: Run) -> timedelta:
    """From the end of the earlier of two runs to the start of the later one; zero where they overlap."""
    gap = other.started_at - run.started_at
    earlier, gap = (run, gap) if gap >= timedelta() else (other, -gap)
    return max(timedelta(), gap - timedelta(seconds=earlier.seconds.total or 0.0))


@functools.cache
def reference_of(reference: str | None, device: str) -> tuple[str, str]:
    """The config of the reference runs of a peer, and its track; `reference` is that of the peer's table."""
    config, path = find_config(reference or MAIN_TRACK, device)
    return config, merged_values(path)["track"]


def is_reference(run: Run, reference: str | None) -> bool:
    """Whether a run is of the reference config, unchanged, and may be compared with others."""
    config, track = reference_of(reference, run.device)
    return run.config == config and is_on(run, track) and not run.overrides and run.is_contest


def are_of_a_session(run: Run, other: Run) -> bool:
    """Whether two runs were made on the same machine class at about the same time."""
    return run.machine.class_ == other.machine.class_ and time_between(run, other) <= SESSION


def reference_runs(run: Run, references: Sequence[Run]) -> list[Run]:
    """Those of some reference runs that were made in the session of a peer's run.

    All of them have the settings and the source of the one that is nearest in time.
    """
    near = [other for other in references if are_of_a_session(run, other)]
    if not near:
        return []
    nearest = min(near, key=lambda other: (time_between(run, other), other.started_at, other.run_id))
    key = settings_key(nearest.settings)
    of_source = (other for other in near if other.source_sha256 == nearest.source_sha256)
    return [other for other in of_source if settings_key(other.settings) == key]


def is_on_page(run: Run, journal: Journal) -> bool:
    """Whether the page may show a single run: it is a peer's, or a reference run in the session of a peer's run."""
    names = [path.stem for path in peer_paths(CONFIGS)]
    if run.config in names:
        return True
    of_peers = re.compile(rb'"config":\s*(?:%b)' % b"|".join(map(quoted, names)))
    peer_runs, _ = journal.read(*on_class(run.machine.class_), of_peers)
    near = {other.config for other in peer_runs if are_of_a_session(run, other)}
    tables = peer_tables(CONFIGS) if near else {}
    return any(is_reference(run, tables[name].get("reference")) for name in near & tables.keys())


def changes(run: Run, settings: Mapping[str, Any]) -> list[str]:
    """The differences between a run's settings and those of its config, the time limit aside."""
    run_settings = current_settings(run.settings)
    kept = {key: value for key, value in settings.items() if key != "max_seconds"}
    return changed_settings(kept, {key: run_settings.get(key) for key in kept})


def with_ratio(seconds: float | None, reference: Sequence[float | None]) -> str:
    """`6,226.0 (× 288.9)`: seconds, and their ratio to the median of the reference."""
    times = [value for value in reference if value]
    ratio = f" (× {seconds / median(times):,.1f})" if seconds is not None and times else ""
    return number(seconds, ",.1f") + ratio


def run_cells(run: Run, reference: Sequence[Run]) -> dict[str, str | None]:
    """The cells of a run by the headings of its table; None where the run or its track has no such figure."""
    solved = [other for other in reference if other.outcome == "solved"]
    trains = known(other.seconds.train for other in solved)
    cells: dict[str, str | None] = {}
    for target, name in TARGETS.items():
        seconds = run.reached.get(target)
        others = [other.reached.get(target) for other in solved]
        text = "not reached" if seconds is None else with_ratio(seconds, others)
        cells[f"{name}, s"] = text if target in run.reached else None
    certificate = run.certificate
    cells |= {"`train`, s": with_ratio(run.seconds.train, trains), "errors": run.outcome, "held out": None}
    if certificate is not None:
        cells["errors"] = errors_text(certificate.errors, certificate.problems)
        if 0 < certificate.heldout_problems < certificate.problems:
            cells["held out"] = errors_text(certificate.heldout_errors, certificate.heldout_problems)
    cells |= {"steps": number(run.steps), "parameters": number(run.parameters), "precision": run.precision}
    cells[REFERENCE] = NO_REFERENCE
    if reference:
        median_text = f"{median(trains):,.2f} s, " if trains else ""
        cells[REFERENCE] = f"{reference[0].config}: {median_text}{len(solved)} of {len(reference)} solved"
    return cells


def errors_text(errors: int, problems: int) -> str:
    return f"{errors:,} of {problems:,}"


def score_errors_text(score: DecodingScore) -> str:
    """`74 of 80 (temperature 0.8, top-k 200)`; greedy decoding is not named."""
    decoding = decoding_text(score.decoding)
    named = "" if decoding == decoding_text(GREEDY) else f" ({decoding})"
    return errors_text(score.problems - score.right, score.problems) + named


def is_on(run: Run, track: str) -> bool:
    """Whether a track is that of a run; `moddiv` is also that of a run on `moddiv-97`."""
    return run.track == track or (run.settings["track"] == track and bool(track_settings_of(run.settings)))


def runs_of(peer: Peer, runs: Sequence[Run]) -> list[Run]:
    """Those of some runs of its config that are a peer's, the earliest first."""
    peer_runs = [run for run in runs if is_on(run, peer.track) and run.is_contest]
    return sorted(peer_runs, key=lambda run: (run.started_at, run.run_id))


def track_section(
    peers: Sequence[Peer], runs: Sequence[Run], references: Mapping[str | None, Sequence[Run]]
) -> dict[str, Any]:
    """One track of the page: its table of runs, its peers with their runs, and the tables of published figures.

    `references` are the reference runs by the reference of a peer's table.
    """
    of_config: dict[str, list[Run]] = {peer.config: [] for peer in peers}
    for run in runs:
        if run.config in of_config:
            of_config[run.config].append(run)
    peer_runs = [(peer, runs_of(peer, of_config[peer.config])) for peer in peers]
    rows = []
    for peer, runs_of_peer in peer_runs:
        score = peer.published_score
        published = {PUBLISHED: None if score is None else score_errors_text(score)}
        cells = [run_cells(run, reference_runs(run, references[peer.reference])) for run in runs_of_peer]
        rows += [{"config": peer.config} | each | published for each in cells or [{"`train`, s": "not run yet"}]]
    changed = []
    for peer, runs_of_peer in peer_runs:
        settings = config_settings(peer.config) if runs_of_peer else {}
        changed.append((peer, [(run, ", ".join(changes(run, settings))) for run in runs_of_peer]))
    unchanged = [(peer, [run for run, text in runs_of_peer if not text]) for peer, runs_of_peer in changed]
    return {
        "table": table_of_known(rows),
        "peers": changed,
        "losses": loss_table([(peer, runs_of_peer[-1] if runs_of_peer else None) for peer, runs_of_peer in unchanged]),
        "steps": "\n\n".join(filter(None, (steps_table(peer, runs_of_peer, runs) for peer, runs_of_peer in unchanged))),
    }


def table_of_known(rows: Sequence[Mapping[str, str | None]]) -> str:
    """A table with those of HEADINGS for which any row has a figure."""
    shown = [each for each in HEADINGS if any(row.get(each) not in (None, NO_REFERENCE) for row in rows)]
    cells = [[UNKNOWN if (cell := row.get(heading, "")) is None else cell for heading in shown] for row in rows]
    return markdown_table(shown, cells, ("config", "precision", REFERENCE))


def render_peers(runs: Sequence[Run], samplings: Sequence[Sampling] = ()) -> str:
    """The page as Markdown."""
    peers = read_peers()
    tracks = [(track, list(group)) for track, group in itertools.groupby(peers, key=lambda peer: peer.track)]
    references = {
        reference: [run for run in runs if is_reference(run, reference)]
        for reference in {peer.reference for peer in peers}
    }
    from bench.report.render import render_template  # imported on use, because it takes time

    return render_template(
        "peers",
        tracks=[(track, track_section(group, runs, references)) for track, group in tracks],
        main_track=MAIN_TRACK,
        hours=SESSION // timedelta(hours=1),
        samplings=samplings_table(samplings, runs, peers),
        published=[peer for peer in peers if peer.published],
    )
