"""One attempt, from its command line to its run in the journal. A trainer calls `main`.

The names are imported on first use, because `request` reads the command line before torch is imported.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.attempt.command import main
    from bench.attempt.interface import TrainingMonitor

    Watch = TrainingMonitor

__all__ = ["TrainingMonitor", "Watch", "main"]


def __getattr__(name: str) -> Any:
    if name == "main":
        from bench.attempt.command import main

        return main
    if name in ("TrainingMonitor", "Watch"):  # Watch: the former name, in annotations of older records' trainers
        from bench.attempt.interface import TrainingMonitor

        return TrainingMonitor
    raise AttributeError(name)
