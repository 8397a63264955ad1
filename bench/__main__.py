"""`python -m bench COMMAND`: run one of the harness's commands; only that command's module is imported."""

import importlib
import inspect
import os
import sys

from bench.cli import parse_arguments
from bench.errors import UsageError, describe_os_error, nearest_hint

MAIN_COMMANDS = {
    "ask": "answer problems with the weights of a run",
    "show": "print a run, or the result of a comparison",
    "board": "render the leaderboard and the other pages, or check that they agree with the journal",
    "compare": "decide which of two configs or records is faster, by a test over pairs of attempts",
    "matrix": "run every combination of some settings with every seed, and rank them",
}
MORE_COMMANDS = {
    "record": "run a batch against the standing record, and file it when it is faster",
    "replay": "run a record again from its snapshot, with the current clock and certificate",
    "audit": "check a run or a record for cheats",
    "tune": "search a space of settings for the fastest, with Optuna",
    "export": "write the journal's runs as a table: csv, json or parquet",
    "tracks": "list the tracks and their default configs",
    "hardware": "print this machine's inventory and the class its attempts are ranked in",
}
COMMANDS = MAIN_COMMANDS | MORE_COMMANDS


def print_usage() -> None:
    print("usage: python -m bench COMMAND [--help]\n")
    for heading, commands in (("commands", MAIN_COMMANDS), ("more", MORE_COMMANDS)):
        print(f"{heading}:")
        for name, purpose in commands.items():
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
        status = command.main(parse_arguments(command.Arguments, rest, description=description, program=program))
        sys.stdout.flush()
        return status
    except UsageError as problem:
        print(f"bench: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as problem:  # a full disk, say; what was filed before stays whole
        print(f"bench: {describe_os_error(problem)}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
