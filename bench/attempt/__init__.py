"""One attempt, from the command line to its line in the journal; trainers call `main`."""

from bench.attempt.command import main
from bench.attempt.interface import Watch

__all__ = ["Watch", "main"]
