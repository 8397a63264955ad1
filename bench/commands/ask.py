"""`python -m bench ask`: answer problems, and continue texts, with the weights of a run."""

import contextlib
import dataclasses
import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from bench.arguments import OptionalPathArgument
from bench.cli import EXIT_WRONG_REQUEST, check_seed, print_progress
from bench.commands.options import DEFAULT_RESULTS, DeviceOption, ResultsOption
from bench.errors import UsageError, describe_os_error
from bench.machine.devices import pick_device
from bench.storage.jsonl import print_faults
from bench.storage.results import find_weights
from bench.streams import CONTROLS

if TYPE_CHECKING:
    from bench.attempt.answers import Replies

OrderName = Literal["left-to-right", "right-to-left", "alternating", "pseudo-random", "uniform", "number-last"]
MOST_TOKENS = 1_000_000  # of a continuation


@dataclasses.dataclass(frozen=True)
class Arguments:
    r"""Answer problems with the weights of a run, an answer a line.

    A text that is no problem of the run's track gets an empty line, a message, and exit status 2. Without a problem, in
    a terminal, problems are read from it until an empty line or Ctrl-D. On tracks whose texts have newlines, `\n` is a
    newline and `\\n` these two characters.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run id, a path to weights, or `latest`, the latest run that kept weights; RUN@STEP are the weights that a run
    saved after a step."""
    prompts: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PROBLEM")] = ()
    """Problems, such as 123+456=; with --continue or --probabilities any texts of the run's vocabulary."""
    file: OptionalPathArgument = None
    """A file of problems, one a line, in place of PROBLEM."""
    continue_: Annotated[int, tyro.conf.arg(name="continue", metavar="N")] = 0
    """Print the next N tokens of any text; nothing ends them. Beyond the context the model reads a sliding window. The
    track `text` does that by default, with 100 tokens."""
    probabilities: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the five likeliest next tokens of any text, with their probabilities, instead."""
    order: OrderName | None = None
    """The order in which blanks, ? for a character each, are filled in a text such as ??+32==41-16; by default that of
    training. For tracks that can be generated in any order."""
    temperature: float = 0.0
    """Sample tokens at this temperature; 0 answers greedily, as the certificate does."""
    top_k: int = 0
    """Sample from this many of the likeliest tokens; 0: from all."""
    top_p: float = 1.0
    """Sample from the likeliest tokens that together have this probability, above 0, at most 1."""
    seed: int = 1
    """Seed of the sampled tokens."""
    device: DeviceOption = "auto"
    results: ResultsOption = DEFAULT_RESULTS


def main(arguments: Arguments) -> int:
    is_prompt_loop = not arguments.prompts and arguments.file is None and is_terminal()
    if not is_prompt_loop and bool(arguments.prompts) == (arguments.file is not None):
        raise UsageError("ask needs either problems or --file")
    check_options(arguments)
    from bench.attempt.answers import Answers, Continuations, Likeliest, Replies  # imports torch, which takes a second
    from bench.attempt.blanks import BLANK, Blanks
    from bench.storage import weights, weights_file

    device = pick_device(arguments.device)
    try:
        path, answering = find_weights(arguments.run, arguments.results)
        texts = arguments.prompts if arguments.file is None else read_lines(arguments.file)
        model, track = weights.load(path, device)
        order = arguments.order or weights_file.training_order(path)
    except (OSError, ValueError) as problem:
        raise UsageError(describe_os_error(problem) if isinstance(problem, OSError) else str(problem)) from None

    seeds = itertools.count(arguments.seed)  # the prompt loop samples anew for each text

    def replies_to(texts: Sequence[str]) -> Replies:
        replies: Replies
        if arguments.probabilities:
            replies = Likeliest(model, track, texts, device)
        elif arguments.continue_:
            replies = Continuations(model, track, texts, device, arguments.continue_)
        elif arguments.order or (track.description.has_orders and any(BLANK in text for text in texts)):
            replies = Blanks(model, track, texts, device, order)
        elif track.default_continuation:
            replies = Continuations(model, track, texts, device, track.default_continuation)
        else:
            replies = Answers(model, track, texts, device)
        replies.sample(arguments.temperature, arguments.top_k, arguments.top_p, next(seeds))
        return replies

    if is_prompt_loop:
        print_progress(f"answers by {answering}; an empty line ends")
        return prompt_loop(replies_to)
    replies = replies_to(texts)
    print_faults(replies.faults(None if arguments.file is None else str(arguments.file)))
    if any(replies.is_accepted):
        print_progress(f"answers by {answering}")
    has_one_text = len(texts) == 1 and arguments.file is None
    for reply in replies:
        sys.stdout.write(f"{shown(reply) if has_one_text else in_one_line(reply)}\n")
    return 0 if all(replies.is_accepted) else EXIT_WRONG_REQUEST


def is_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def check_options(arguments: Arguments) -> None:
    """Raise UsageError for an option that is out of range or has no effect."""
    if not 0 <= arguments.temperature < float("inf"):
        raise UsageError(f"--temperature {arguments.temperature:g}: must be at least 0")
    if arguments.top_k < 0:
        raise UsageError(f"--top-k {arguments.top_k}: must be at least 0")
    check_seed(arguments.seed)
    if not 0 < arguments.top_p <= 1:
        raise UsageError(f"--top-p {arguments.top_p:g}: must be above 0 and at most 1")
    if not arguments.temperature and (arguments.top_k or arguments.top_p < 1):
        raise UsageError("--top-k and --top-p choose among sampled tokens: add --temperature 1")
    if not 0 <= arguments.continue_ <= MOST_TOKENS:
        raise UsageError(f"--continue {arguments.continue_}: must be from 1 to {MOST_TOKENS:,} tokens")
    if arguments.order and (arguments.probabilities or arguments.continue_):
        raise UsageError("--order is for blanks, which --probabilities and --continue do not fill: leave it out")
    if arguments.probabilities and (arguments.continue_ or arguments.temperature):
        other = "--continue" if arguments.continue_ else "--temperature"
        raise UsageError(f"--probabilities shows the model's own probabilities of the next token: leave {other} out")


def prompt_loop(replies_to: Callable[[Sequence[str]], "Replies"]) -> int:
    """Read a text a line from the terminal and print the reply, until an empty line or the end of the input."""
    with contextlib.suppress(ImportError):  # lines can be edited and called back
        import readline  # noqa: F401
    while True:
        try:
            text = input("> ")
        except EOFError:
            sys.stdout.write("\n")
            return 0
        except UnicodeDecodeError as problem:
            print_faults([f"bench: this is not {problem.encoding}; type it again"])
            continue
        if not text:
            return 0
        replies = replies_to([text])
        print_faults(replies.faults(None))
        for reply in replies if all(replies.is_accepted) else ():
            sys.stdout.write(f"{shown(reply)}\n")
        sys.stdout.flush()


def shown(reply: str) -> str:
    """A reply in which control characters are written as escapes, except tabs and newlines."""
    return CONTROLS.sub(lambda match: repr(match[0])[1:-1], reply)


def in_one_line(reply: str) -> str:
    """A reply with newlines written as `\\n`, so that each text has one line of output."""
    return shown(reply).replace("\n", "\\n")


def read_lines(path: Path) -> Sequence[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as problem:
        raise UsageError(f"{path}: {problem}; convert it to UTF-8") from None
    return text.removesuffix("\n").split("\n") if text else []
