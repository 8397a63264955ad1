"""Alias of `bench.distributed`, the name under which the trainers of older records import it."""

from bench.distributed import *  # noqa: F403
