"""`python -m bench COMMAND`: the harness's commands; a command's file is imported only when it is called."""

import importlib
import os
import sys

from bench.cli import parse_arguments
from bench.errors import UsageError, describe_os_error, nearest_hint

COMMANDS = {
    "ask": "answer problems with the weights of a run",
    "board": "render the leaderboard from the journal, or check that it says what the journal says",
    "export": "write the journal's runs as a table: csv, json or parquet",
    "compare": "say which of two contestants is faster, by one test over pairs of attempts",
    "matrix": "run every combination of some settings with every seed, and rank them",
    "tune": "search a space of settings for the fastest, by Optuna",
    "record": "run a batch against the standing record, and file it when it is faster",
    "replay": "run a record again from its snapshot, by today's clock and certificate",
    "audit": "look for cheats in a run or a record",
    "hardware": "print what this machine is and the class its attempts are ranked in",
    "show": "print what is known about one run",
    "tracks": "list what can be learned, and which tracks have a config here",
}


def main(arguments: list[str]) -> int:
    """Exit status: 0 done, 1 the answer is no, 2 wrong request, 130 interrupted."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: python -m bench COMMAND [--help]\n")
        for name, purpose in COMMANDS.items():
            print(f"  {name:<10}{purpose}")
        return 0 if arguments else 2
    name, *rest = arguments
    try:
        if name not in COMMANDS:
            raise UsageError(f"there is no command {name!r}{nearest_hint(name, COMMANDS)}")
        command = importlib.import_module(f"bench.commands.{name}")
        status = command.main(parse_arguments(command.Arguments, rest, program=f"python -m bench {name}"))
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
