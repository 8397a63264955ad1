"""Altered attempts: the judge gives answers other ids than prompts, so that stored answers are wrong.

Each `record` holds some of the challenger, at places that are drawn while it runs; `audit` makes some, too.
"""

import dataclasses
import random
import statistics
from collections.abc import Sequence

from bench.experiments.launcher import Contestant, Task
from bench.experiments.paired_runs import runs_by_side
from bench.formatting import counted
from bench.storage.comparison_schema import PairedPlan
from bench.storage.schema import AUDIT, Batch, Run

NUM_ALTERED = 3
# Of `train`: the fastest altered attempt that solved the track, over the median of the ordinary ones. In 86 honest
# batches with 1,361 solved attempts, 3.4% took more than twice their batch's median, and 0.1% of the fastest of three.
MAX_SLOWDOWN = 2.0


@dataclasses.dataclass(frozen=True)
class Altered:
    """Altered attempts of a trainer, and ordinary ones to compare them with."""

    runs: Sequence[Run]
    ordinary: Sequence[Run]

    @property
    def fastest_seconds(self) -> float | None:
        """Seconds of `train` of the fastest attempt that solved the track; None if none did."""
        return min(solved_seconds([run for run in self.runs if run.altered]), default=None)

    @property
    def ordinary_seconds(self) -> float | None:
        """The median `train` of the ordinary attempts that solved the track; None if none did."""
        seconds = solved_seconds(self.ordinary)
        return statistics.median(seconds) if seconds else None

    @property
    def fault(self) -> str | None:
        """What is against the trainer; None: nothing."""
        fastest, ordinary = self.fastest_seconds, self.ordinary_seconds
        if fastest is None:
            return "it does not learn answers that are written in other ids"
        if ordinary is not None and fastest > MAX_SLOWDOWN * ordinary:
            return f"answers that are written in other ids take it {fastest / ordinary:.1f} times as long to learn"
        return None

    @property
    def text(self) -> str:
        """How many attempts solved the track, and their seconds beside those of ordinary attempts."""
        fastest, ordinary = self.fastest_seconds, self.ordinary_seconds
        num_solved = sum(run.outcome == "solved" for run in self.runs)
        text = f"{num_solved} of {counted(len(self.runs), 'attempt')} with other ids of answers solved the track"
        if fastest is None:
            return text
        usual = "" if ordinary is None else f"; ordinary attempts take {ordinary:.2f} s"
        return f"{text}, the fastest in {fastest:.2f} s of `train`{usual}"

    def num_left(self, plan: PairedPlan) -> int:
        """The number of altered attempts that a plan still needs, as far as it is known.

        If those that were planned have not solved the track, but ordinary ones have, more follow until one has solved
        it, or there are as many as pairs: so a config that often misses is not refused by chance.
        """
        planned, made = plan.altered or 0, len(self.runs)
        if made < planned or not planned:
            return planned - made
        is_unclear = self.ordinary_seconds is not None and self.fastest_seconds is None
        return max(plan.pairs - made, 0) if is_unclear else 0


def solved_seconds(runs: Sequence[Run]) -> list[float]:
    """The seconds of `train` of the runs that solved the track."""
    return [run.seconds.train for run in runs if run.outcome == "solved" and run.seconds.train is not None]


def altered_of(plan: PairedPlan, runs: Sequence[Run]) -> Altered:
    """The altered attempts of a plan among `runs`, beside its ordinary ones of the same side."""
    batches = ((run, run.batch_of(AUDIT)) for run in runs)
    altered = {batch.index: run for run, batch in batches if batch is not None and batch.id == plan.id}
    return Altered([altered[index] for index in sorted(altered)], runs_by_side(plan, runs)[0])


def altered_task(contestant: Contestant, batch_id: str, planned: int, index: int) -> Task:
    """An altered attempt, whose seed and ids are drawn now."""
    batch = Batch(id=batch_id, command=AUDIT, planned=planned, index=index)
    return Task(contestant, drawn_seed(), batch, relabelling=drawn_seed())


def drawn_seed() -> int:
    """A seed of 31 bits from the system's randomness."""
    return random.SystemRandom().randrange(2**31)


def is_altered_next(num_altered: int, num_others: int) -> bool:
    """Draw whether an altered attempt comes next, with so many of them and of other steps left.

    All orders are equally likely, and nobody can know what comes next.
    """
    return random.SystemRandom().randrange(num_altered + num_others) < num_altered
