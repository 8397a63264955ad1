"""One attempt, from the command line to its line in the journal; trainers call `main`."""

from bench.attempt.command import main
from bench.attempt.interface import TrainingMonitor

Watch = TrainingMonitor  # the former name, under which trainers of older records annotate it

__all__ = ["TrainingMonitor", "Watch", "main"]
