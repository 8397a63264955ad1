"""What the system's page cache holds when `total` is timed, and what an attempt takes without it."""

from collections.abc import Iterable

from bench.storage.schema import ColdStart

NOT_MEASURED = "No cold start has been measured yet."


def newest_cold_starts(cold_starts: Iterable[ColdStart]) -> list[ColdStart]:
    """The newest cold start of each machine class, in the order of the classes' first ones."""
    return list({start.machine_class: start for start in cold_starts}.values())


def cold_sentence(cold_starts: Iterable[ColdStart]) -> str:
    """What was warm, and the cold start that was measured last."""
    start = max(cold_starts, key=lambda start: start.measured_at, default=None)
    cold = NOT_MEASURED
    if start is not None:
        processor = start.machine_class.partition(",")[0]
        cold = (
            f"Cold, `{start.config}` takes {start.cold_total_seconds:.2f} s, not {start.warm_total_seconds:.2f} s "
            f"({processor})."
        )
    return f"`total` is warm: torch is in the page cache. {cold}"
