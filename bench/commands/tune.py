"""`python -m bench tune SPACE`: search for the settings with the lowest ERT, and write them as a config."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from bench.cli import EXIT_INTERRUPTED, check_positive, handle_interrupts, print_progress, reject_unwritable
from bench.commands.options import (
    DEFAULT_RESULTS,
    AddressOption,
    DeviceOption,
    EngineOption,
    ResultsOption,
    open_executors,
)
from bench.config import (
    SEARCH,
    config_toml,
    current_names,
    find_config,
    merged_values,
    settings_text,
    values_like,
    with_current_names,
)
from bench.experiments.executors import EXIT_UNFINISHED, group_by_machine_class, prepare_each, run_jobs
from bench.experiments.launcher import SCRIPT
from bench.experiments.search import NEVER, Search
from bench.experiments.search_space import SPACES, read_search_space
from bench.experiments.toml_file import find_file
from bench.formatting import search_text
from bench.storage.journal import Journal
from bench.storage.jsonl import replace_file
from bench.storage.schema import TUNE
from bench.streams import print_line

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Search a space of settings for the lowest ERT, and write the best ones as a config with the search's total cost.

    The same command resumes the search. Several processes of it share one study; `CUDA_VISIBLE_DEVICES` gives each
    process its own GPU.
    """

    space: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SPACE")]
    """A TOML file, or the name of one in bench/spaces."""
    trials: int = 50
    """Total number of trials of the study; a trial is one choice of settings."""
    max_seconds: float | None = None
    """Limit on `train` of each attempt, seconds. Changing this limit starts a new study."""
    max_minutes: float | None = None
    """Start no trial after this many minutes; the same command resumes."""
    device: DeviceOption = "auto"
    engine: EngineOption = "local"
    address: AddressOption = None
    results: ResultsOption = DEFAULT_RESULTS


def main(arguments: Arguments) -> int:
    space = read_search_space(find_file(arguments.space, SPACES))
    check_positive(arguments, "trials", "max_seconds", "max_minutes")
    handle_interrupts()

    def run_search(_: object, search: Search) -> bool:
        search.run(arguments.max_minutes)
        return False

    with open_executors(arguments.engine, arguments.address, SCRIPT) as executors:
        with reject_unwritable(arguments.results):
            journal = Journal(arguments.results)
            journal.recover()
            journal.collect_orphans(TUNE)
            options = ["--config", space.base, "--device", arguments.device]
            options += [] if arguments.max_seconds is None else ["--max-seconds", str(arguments.max_seconds)]
            searches = prepare_each(
                executors, lambda executor: Search(space, journal, executor, SCRIPT, options, arguments.trials)
            )
        # The executors of one machine class share a study; the first search of each class stands for it.
        groups = group_by_machine_class({executor: search.machine_class for executor, search in searches.items()})
        studies = [searches[group[0]] for group in groups]
        try:
            jobs = {executor: iter([search]) for executor, search in searches.items()}
            interrupted = run_jobs(jobs, run_search, print_progress)
        finally:
            for index, search in enumerate(studies, start=1):
                report(search, space.name if len(studies) == 1 else f"{space.name}-{index}")
        if interrupted:
            print_progress("interrupted; run the same command again to resume")
            return EXIT_INTERRUPTED
        is_lost = any(executor.is_lost for executor in executors)
        return EXIT_UNFINISHED if is_lost and not all(search.is_over() for search in studies) else 0


def report(search: Search, stem: str) -> None:
    """Write the best trial of a study as a config of this name, and print it with the study's cost."""
    cost = search.cost()
    best = min(search.trials("COMPLETE"), key=lambda trial: trial.value, default=None)
    if best is None or best.value == NEVER:
        print(search_text(cost))
        print_line("no trial has solved the track yet")
        return
    path = search.folder / f"{stem}.toml"
    replace_file(path, config_text(search, best, cost))
    print(search_text(cost))
    print_line(f"best: trial {best.number}, ERT {search.space.clock} {best.value:.2f} s: {settings_text(best.params)}")
    print_line(str(path))


def config_text(search: Search, best: "FrozenTrial", cost: Mapping[str, Any]) -> str:
    """The base's settings with those of the best trial, and the search's cost, which every run of the config files."""
    space, planned = search.space, search.planned
    base = merged_values(find_config(space.base, planned.device)[1], with_current_names, planned.device)
    base.pop(SEARCH, None)
    base = values_like(base, planned.settings, space.base)
    header = (
        f"# Found by a search of {space.path.name} from {space.base}: trial {best.number} of "
        f"{cost['trials']}, ERT {space.clock} {best.value:.2f} s\n"
        f"# over {space.attempts} seeds on {planned.machine.class_}.\n"
    )
    return header + config_toml({**base, **current_names(best.params), SEARCH: dict(cost)})
