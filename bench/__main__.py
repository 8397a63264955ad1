"""`python -m bench COMMAND`: run one of the harness's commands; only that command's module is imported."""

import os
import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # without a traceback, also during the next imports

    from bench.entry import leave, prepare_process

    prepare_process()

import gc
import importlib
import inspect
import sys

if __name__ == "__main__":
    gc.disable()  # it would traverse the imported modules again and again

from bench.cli import EXIT_INTERRUPTED, handle_interrupts, ignore_interrupts, parse_arguments
from bench.errors import UsageError, describe_os_error, nearest_hint
from bench.streams import lost_output, print_error

MAIN_COMMANDS = {
    "matrix": "run every combination of some settings with every seed, and rank them",
}
MORE_COMMANDS = {
    "ask": "answer problems with the weights of a run",
    "show": "print a run, or the result of a comparison",
    "note": "add a remark to a run",
    "dispute": "take the rank of a run's batch, or end that",
    "board": "render the leaderboard and the other pages, or check that they agree with the journal",
    "compare": "decide which of two configs or records is faster, by a test over pairs of attempts",
    "record": "run a batch against the standing record, and file it when it is faster",
    "replay": "run a record again from its snapshot, with the current clock and certificate",
    "audit": "check a run or a record for cheats",
    "sample": "score sampled answers against greedy ones",
    "tune": "search a space of settings for the fastest, with Optuna",
    "export": "write the journal's runs as a table: csv, json or parquet",
    "tracks": "list the tracks: what is asked, what solved means, and what was reached",
    "hardware": "say what this machine is, what works on it, and what to do about the rest",
}
COMMANDS = MAIN_COMMANDS | MORE_COMMANDS
PRINTING_COMMANDS = {"ask", "show", "export", "tracks", "hardware"}  # their output is all that they produce


def print_usage() -> None:
    first = {
        "python speedrun.py": "one timed attempt; --attempts 10 runs a batch that can be ranked",
        **{f"python -m bench {name}": purpose for name, purpose in MAIN_COMMANDS.items()},
        "results/LEADERBOARD.md": "everything that ranks",
    }
    for name, purpose in first.items():
        print(f"{name:<24}{purpose}")
    print("\nmore: python -m bench COMMAND [--help]")
    for name, purpose in MORE_COMMANDS.items():
        print(f"  {name:<10}{purpose}")


def main(arguments: list[str]) -> int:
    """Exit status: 0 done, 1 the check failed, 2 wrong request, 130 interrupted."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print_usage()
        return 0 if arguments else 2
    name, *rest = arguments
    try:
        if name not in COMMANDS:
            raise UsageError(f"there is no command {name!r}{nearest_hint(name, COMMANDS)}")
        command = importlib.import_module(f"bench.commands.{name}")
        description = inspect.getdoc(command.Arguments) or ""
        program = f"python -m bench {name}"
        arguments_of_command = parse_arguments(command.Arguments, rest, description=description, program=program)
        handle_interrupts()
        if name not in PRINTING_COMMANDS:  # those end before garbage matters
            gc.enable()
        status: int = command.main(arguments_of_command)
    except UsageError as problem:
        print_error(f"bench: {problem}")
        return 2
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except OSError as problem:  # a full disk, say; what was filed before stays whole
        print_error(f"bench: {describe_os_error(problem)}")
        return 1
    if name in PRINTING_COMMANDS and (lost := lost_output()) is not None:
        print_error(f"bench: standard output is incomplete: {describe_os_error(lost)}")
        return 1
    return status


if __name__ == "__main__":
    exit_status = main(sys.argv[1:])
    ignore_interrupts()  # while the interpreter shuts down
    if sys.argv[1:2] and sys.argv[1] in PRINTING_COMMANDS:
        leave(exit_status)
    sys.exit(exit_status)
