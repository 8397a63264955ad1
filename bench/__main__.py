"""`python -m bench COMMAND`: the harness's commands; a command's file is imported only when it is called."""

import importlib
import sys

from bench.config import WrongRequest, nearest, parse_arguments

COMMANDS = {
    "ask": "answer problems with the weights of a run",
    "board": "render the leaderboard from the journal, or check that it says what the journal says",
    "hardware": "print what this machine is and the class its attempts are ranked in",
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
            raise WrongRequest(f"there is no command {name!r}{nearest(name, COMMANDS)}")
        command = importlib.import_module(f"bench.{name}")
        return command.main(parse_arguments(command.Arguments, rest, program=f"python -m bench {name}"))
    except WrongRequest as problem:
        print(f"bench: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
