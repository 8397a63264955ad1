"""The former name of `bench.distributed`, under which trainers of older records import it."""

from bench.distributed import *  # noqa: F403
