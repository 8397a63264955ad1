"""What is printed about an attempt once its run is filed."""

import shlex

from bench.attempt.plan import AttemptPlan
from bench.provenance import ROOT
from bench.storage.schema import Run
from tracks.descriptions import TRACKS


def describe_filing(plan: AttemptPlan, run: Run) -> str:
    """Render the pages that show a filed run; returns the lines that say where it stands and how to ask its model."""
    if not plan.request.journal:
        return "not journalled"
    # imported here because that takes time, which no clock counts any more
    from bench.report.track_page import update_page

    standing = update_page(plan.request.results, run)
    if standing is None:
        from bench.report import leaderboard

        standing = leaderboard.update(plan.request.results, run)
    results, option = plan.request.results, ""
    if results.resolve() != ROOT / "results":
        standing, option = f"in {results}: {standing}", f" --results {shlex.quote(str(results))}"
    if run.weights is None:
        return f"{standing}\nrun {run.run_id}"
    track = TRACKS[run.track]
    problem = track.example_text[: track.prompt_length]
    return f'{standing}\nask this run: python -m bench ask {run.run_id} "{problem}"{option}'
