"""One attempt, from its command line to its run in the journal. A trainer calls `main`."""

from bench.attempt.command import main
from bench.attempt.interface import TrainingMonitor

Watch = TrainingMonitor  # the former name, which trainers of older records use in annotations

__all__ = ["TrainingMonitor", "Watch", "main"]
