"""One attempt, from its command line to its run in the journal. A trainer calls `main`.

The names are imported on first use, because `request` reads the command line before torch is imported.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.attempt.command import main
    from bench.attempt.completions import decode_and_grade
    from bench.attempt.interface import Start, TrainingMonitor

    Watch = TrainingMonitor

__all__ = ["Start", "TrainingMonitor", "Watch", "decode_and_grade", "main"]


def __getattr__(name: str) -> Any:
    if name == "main":
        from bench.attempt.command import main

        return main
    if name in ("TrainingMonitor", "Watch"):  # Watch: the former name, in annotations of older records' trainers
        from bench.attempt.interface import TrainingMonitor

        return TrainingMonitor
    if name == "Start":
        from bench.attempt.interface import Start

        return Start
    if name == "decode_and_grade":
        from bench.attempt.completions import decode_and_grade

        return decode_and_grade
    raise AttributeError(name)
