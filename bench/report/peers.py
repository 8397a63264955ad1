"""Other people's trainers: `PEERS.md`, their configs' runs in the journal beside our reference config's.

They are trained on problems that the rules of `add3` hold out, or write the answer in another order, so that they have
tracks of their own and are never ranked with it.
"""

import dataclasses
from collections.abc import Sequence
from datetime import timedelta
from statistics import median
from typing import Any

from bench.config import CONFIGS, current_names, find_config, merged_values, with_current_names
from bench.formatting import changed_settings, escape_markdown, number
from bench.report.render import template_environment
from bench.storage.schema import Run

REFERENCE = "add3"  # the track whose default config on a device the peers are held against
SITTING = timedelta(hours=3)  # at most between a peer's run and a reference run of the same sitting
TARGETS = {"99%": "99%", "sample80": "sample80", "solved": "0 errors"}  # in a run's `reached`: its column

THE_REPORT = "Arithmetic Training Speedrun: Final Report"


@dataclasses.dataclass(frozen=True)
class Peer:
    """A config that stands for somebody else's trainer."""

    config: str
    track: str
    what: str
    published: str | None = None  # its figure as its author gave it
    source: str | None = None  # where


PEERS = (
    Peer("report-1", "add3-report", "nanoGPT, 4 layers x 256", "about 180 s; 7.5% of 80, by sampling", THE_REPORT),
    Peer("report-2", "add3-report", "the same, 3e-3, 8000 steps", "about 240 s, 80 of 80", THE_REPORT),
    Peer("report-3", "add3-report", "the same, batches of 512", "120 s, 80 of 80", THE_REPORT),
    Peer(
        "report-4",
        "add3-report",
        "nanoGPT, 3 layers x 192",
        "110 s on a consumer GPU, wall time of its training process, 80 of 80",
        THE_REPORT,
    ),
    Peer(
        "report-4-bf16",
        "add3-report",
        "the same in bfloat16, as it was published; before commit af3fbd4 the residual stream was bfloat16 too, which "
        "nanoGPT keeps in float32; before commit ba2ba2c torch's own attention trained it, which a CPU goes back "
        "through more slowly",
    ),
    Peer("later", "add3-reversed", "its author's later trainer, 2 layers x 96, stops at 99%"),
    Peer(
        "later-4",
        "add4-reversed",
        "the same on four digits",
        "12.6 s, mean of five, four digits, stop at 99%",
        "the benchmark of its author's later trainer",
    ),
    Peer("mingpt", "add3-mingpt", "minGPT's adder, 3 layers x 48"),
)


# -----------------------------------------------------------------------------
# sittings


def gap(run: Run, other: Run) -> timedelta:
    """From the end of the earlier of two runs to the start of the later one; none where they overlap."""
    earlier, later = sorted((run, other), key=lambda each: each.started_at)
    ended = earlier.started_at + timedelta(seconds=earlier.seconds.total or 0.0)
    return max(timedelta(), later.started_at - ended)


def sitting(run: Run, runs: Sequence[Run]) -> list[Run]:
    """The reference runs of the same sitting: those within SITTING of it, on a machine of its class.

    They have the settings and the source of the one that is nearest in time.
    """
    config, _ = find_config(REFERENCE, run.device)
    near = [
        other
        for other in runs
        if (other.track, other.config, other.machine.class_) == (REFERENCE, config, run.machine.class_)
        and other.is_contest
        and gap(run, other) <= SITTING
    ]
    if not near:
        return []
    nearest = min(near, key=lambda other: (gap(run, other), other.started_at, other.run_id))
    same = nearest.config_hash, nearest.source_sha256
    return [other for other in near if (other.config_hash, other.source_sha256) == same]


# -----------------------------------------------------------------------------
# rows


def config_settings(name: str) -> dict[str, Any]:
    """What a config of ours sets, its bases' values under its own."""
    return merged_values(CONFIGS / f"{name}.toml", with_current_names)


def changes(run: Run) -> list[str]:
    """In what a run's settings differ from its config's; how long it might have taken is none of it."""
    wanted = config_settings(run.config)
    wanted.pop("max_seconds", None)
    settings = current_names(run.settings)
    return changed_settings(wanted, {key: settings.get(key) for key in wanted})


def with_ratio(seconds: float | None, reference: Sequence[float | None]) -> str:
    """`6,226.0 (× 288.9)`: the seconds, and how many times the reference's median they are."""
    if seconds is None:
        return number(None)
    known = [value for value in reference if value]
    return f"{seconds:,.1f}" + (f" (× {seconds / median(known):,.1f})" if known else "")


def errors_left(run: Run) -> str:
    """Of the problems that the certificate asked; without one, how the run ended."""
    if run.certificate is None:
        return run.outcome
    return f"{run.certificate.errors:,} of {run.certificate.problems:,}"


def run_row(run: Run, reference: Sequence[Run]) -> dict[str, str]:
    solved = [other for other in reference if other.outcome == "solved"]
    row = {
        "config": run.config,
        "errors": errors_left(run),
        "steps": number(run.steps),
        "parameters": number(run.parameters),
        "precision": run.precision,
        "run": run.run_id,
        "changes": ", ".join(changes(run)),
        "machine_class": escape_markdown(run.machine_class_name),
        "train": with_ratio(run.seconds.train, [other.seconds.train for other in solved]),
        "reference": "none in this sitting",
    }
    for target in TARGETS:
        met = with_ratio(run.reached.get(target), [other.reached.get(target) for other in solved])
        row[target] = "never" if run.reached.get(target, 0.0) is None else met  # what nobody asked for is a dash
    if reference:
        seconds = f"{median(other.seconds.train for other in solved):,.2f} s, " if solved else ""
        row["reference"] = f"{seconds}{len(solved)} of {len(reference)} solved"
    return row


def peer_rows(peer: Peer, runs: Sequence[Run]) -> list[dict[str, str]]:
    """One for each of its runs, the earliest first."""
    own = [run for run in runs if (run.config, run.track) == (peer.config, peer.track) and run.is_contest]
    return [run_row(run, sitting(run, runs)) for run in sorted(own, key=lambda run: (run.started_at, run.run_id))]


def render_peers(runs: Sequence[Run]) -> str:
    """The page as Markdown."""
    tracks = {
        track: [(peer, peer_rows(peer, runs)) for peer in PEERS if peer.track == track]
        for track in dict.fromkeys(peer.track for peer in PEERS)
    }
    return (
        template_environment()
        .get_template("peers.md.jinja")
        .render(
            tracks=tracks,
            targets=TARGETS,
            reference=REFERENCE,
            hours=SITTING // timedelta(hours=1),
            published=[peer for peer in PEERS if peer.published],
        )
    )
