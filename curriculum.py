"""What a trainer trains on and when it stops: batches, checks, end-of-round evaluations and hard examples.

Training proceeds in rounds. A round ends with an evaluation on many training problems. While the model errs on one of
them, or is right with too large a loss, another round follows in which a share of each batch replays the hardest of
them (after Loshchilov and Hutter, Online batch selection, 2015).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from bench import distributed
from data import Track, Windows
from model import Transformer
from settings import Settings

SEARCH_BEAM = 128  # problems from which each iteration of the hard-example search starts
CPU_EVALUATION_BATCH = 2048  # problems; the activations should fit into the CPU's caches
GPU_EVALUATION_BATCH = 32_768  # problems; a larger batch has less overhead


class Evaluation(NamedTuple):
    """The result of a model on N training problems."""

    problems: Tensor  # (N, W) uint8
    losses: Tensor  # (N,) float32, the largest loss of a character in each answer, nats
    num_errors: int  # problems that greedy decoding answers wrongly

    @property
    def is_99_percent(self) -> bool:
        """Whether at most 1% of the problems are errors."""
        return self.num_errors <= len(self.losses) / 100

    def joined(self, other: "Evaluation") -> "Evaluation":
        """Return both evaluations as one; a problem in both is counted twice."""
        problems, losses = torch.cat([self.problems, other.problems]), torch.cat([self.losses, other.losses])
        return Evaluation(problems, losses, self.num_errors + other.num_errors)

    def hardest(self, count: int) -> Tensor:
        """Return the `count` problems with the largest losses, or all if there are fewer, (M, W) uint8."""
        return self.problems[self.losses.topk(min(count, len(self.problems))).indices]


class Curriculum:
    """Chooses the training texts of one training run, evaluates the model between steps, and decides when to stop.

    It reads training problems only, never held-out ones. All random choices come from `generator`, which is on the
    model's device. Create it when training starts, because it reads the track's problems.
    """

    def __init__(self, settings: Settings, track: Track, model: Transformer, generator: torch.Generator) -> None:
        self.settings, self.track, self.model, self.generator = settings, track, model, generator
        self.device = device = generator.device
        self.batch_sampler = track.sampler(settings.level_share, device)
        self.evaluation_sampler = track.sampler(0.0, device) if settings.evaluation_uniform else self.batch_sampler
        self.windows = Windows(track, device) if track.is_stream else None
        self.samples: dict[str, Tensor] = {}
        if track.exhaustive:  # the samples of other tracks are held-out problems
            self.samples = {name: problems.to(device) for name, problems in track.samples.items()}
        self.hard_examples = torch.empty(0, track.problem_width, dtype=torch.uint8, device=device)

    def draw_tokens(self) -> Tensor:
        """Draw the texts of the next `draw_steps` steps, token ids (draw_steps, B, block_size + 1) uint8."""
        steps, batch_size = self.settings.draw_steps, self.settings.batch_size
        if self.windows is not None:
            return self.windows.draw(steps, batch_size, self.generator)
        num_replayed = 0
        if len(self.hard_examples):  # at least one problem of each batch is drawn
            num_replayed = min(round(batch_size * self.settings.replay_share), batch_size - 1)
        problems = self.batch_sampler.draw(steps, batch_size - num_replayed, self.generator)
        if num_replayed:
            shape = steps, num_replayed
            index = torch.randint(len(self.hard_examples), shape, generator=self.generator, device=self.device)
            problems = torch.cat([problems, self.hard_examples[index]], 1)
        return self.track.tokens(problems)

    @torch.no_grad()
    def evaluate(self, problems: Tensor) -> Evaluation:
        """Evaluate the model on problems (N, W) uint8, which are shared out to all processes.

        Each character is predicted from the right characters before it. This finds the same errors as greedy decoding:
        until its first error, the decoded answer is the right one.
        """
        query_start = self.track.prompt_length - 1
        self.model.eval()
        prepared = self.model.prepare(self.track.prompt_length + self.track.answer_length - 1, query_start)
        batch_size = CPU_EVALUATION_BATCH if self.device.type == "cpu" else GPU_EVALUATION_BATCH
        parts = distributed.share(problems).split(batch_size)
        results = [self.model.evaluate(self.track.tokens(part), query_start, prepared) for part in parts]
        self.model.train()
        losses, wrong = (distributed.gather(torch.cat(each), len(problems)) for each in zip(*results, strict=True))
        return Evaluation(problems, losses, int(wrong.sum()))

    def check(self, is_end: bool) -> tuple[Evaluation, dict[str, bool]]:
        """Evaluate the model on drawn problems; returns the evaluation and which of the named targets are reached.

        At the end of a round there are more problems, and those of the hard-example search are added.
        """
        settings = self.settings
        sampler = self.evaluation_sampler if is_end else self.batch_sampler
        count = settings.evaluation_problems if is_end else settings.check_problems
        evaluation = self.evaluate(sampler.draw_distinct(count, self.generator))
        reached = {name: self.evaluate(sample).num_errors == 0 for name, sample in self.samples.items()}
        reached["99%"] = evaluation.is_99_percent
        if is_end and settings.hard_search_steps and settings.stop_at == "evaluation":
            evaluation = evaluation.joined(self.search_hard_examples(evaluation))
        return evaluation, reached

    def search_hard_examples(self, evaluation: Evaluation) -> Evaluation:
        """Search for errors that are too rare to be drawn; returns the evaluation of the last problems searched.

        A beam search: each iteration evaluates the neighbours of the hardest problems so far, whose losses are similar.
        """
        for _ in range(self.settings.hard_search_steps):
            evaluation = self.evaluate(self.batch_sampler.nearby(evaluation.hardest(SEARCH_BEAM)))
        return evaluation

    def may_stop(self, evaluation: Evaluation) -> bool:
        """Return whether an evaluation meets the criterion of the setting `stop_at`."""
        if self.settings.stop_at == "99%":
            return evaluation.is_99_percent
        return evaluation.num_errors == 0 and float(evaluation.losses.amax()) <= self.settings.evaluation_max_loss

    def must_restart(self, evaluation: Evaluation) -> bool:
        """Return whether a round ended with so many errors that training is unlikely to recover."""
        return evaluation.num_errors > self.settings.start_over_above

    def start_next_round(self, evaluation: Evaluation) -> int:
        """Choose the hard examples of the next round; returns the step of the schedule at which it starts."""
        if self.must_restart(evaluation):
            self.hard_examples = self.hard_examples[:0]
            return 0
        self.hard_examples = evaluation.hardest(self.settings.replay_problems)
        return self.settings.resume_at if self.settings.resume_at < self.settings.num_steps else 0
