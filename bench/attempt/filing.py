"""What is printed about an attempt once its run is filed."""

from pathlib import Path

from bench.attempt.plan import AttemptPlan
from bench.entry import described, traceback_text
from bench.errors import describe_os_error
from bench.formatting import ask_command
from bench.provenance import ROOT
from bench.storage.schema import Run


def update_pages(results: Path, run: Run) -> str:
    """Render the pages that show a filed run; returns where it stands."""
    # imported here because that takes time, which no clock counts any more
    from bench.report.track_page import update_page

    standing = update_page(results, run)
    if standing is None:
        from bench.report import leaderboard

        standing = leaderboard.update(results, run)
    return standing


def describe_filing(plan: AttemptPlan, run: Run) -> str:
    """Render the pages that show a filed run; returns the lines that say where it stands and how to ask its model."""
    if not plan.request.journal:
        return "not journalled"
    try:
        standing = update_pages(plan.request.results, run)
    except OSError as problem:
        standing = f"filed; the pages were not written: {describe_os_error(problem)}"
    except Exception as problem:  # a fault of a page must not cost the verdict
        trace = traceback_text(problem, plan.request.results)
        standing = f"filed; the pages were not rendered, please report it: {described(problem)}; {trace}"
    results, options = plan.request.results, []
    if results.resolve() != ROOT / "results":
        standing, options = f"in {results}: {standing}", ["--results", str(results)]
    if run.weights is None:
        return f"{standing}\nrun {run.run_id}"
    prompt = plan.track.description.example_prompt
    return f"{standing}\nask this run: {ask_command(run.run_id, prompt, options)}"
