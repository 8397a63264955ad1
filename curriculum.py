"""What a trainer trains on and when it stops: batches, checks, end-of-round evaluations and hard examples.

Training proceeds in rounds. A round ends with an evaluation on many training problems. While the model errs on one of
them, or is right by too small a margin, another round follows in which a share of each batch replays the hardest of
them (after Loshchilov and Hutter, Online batch selection, 2015).
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from bench import attempt, distributed
from bench.machine.memory import release_freed_memory
from data import Batch, Batches, Track, get_batches
from memory_estimate import CPU_EVALUATION_BATCH, DRAWN_TOKENS, GPU_EVALUATION_BATCH, evaluation_batch_size
from model import Transformer
from settings import Settings

SEARCH_BEAM = 128  # problems from which each iteration of the hard-example search starts
MOST_TRAINING_PROBLEMS = 100_000  # of a training set that the setting `curves` evaluates wholly


class Evaluation(NamedTuple):
    """The result of a model on N training problems."""

    problems: Tensor  # (N, W)
    losses: Tensor  # (N,) float32, the largest loss of a character in each answer, nats
    num_errors: int  # problems whose completion is wrong
    smallest_margin: float = math.inf  # of a right answer's logits over the largest other one; inf if many are right

    @property
    def is_99_percent(self) -> bool:
        """Whether at most 1% of the problems are errors."""
        return self.num_errors <= len(self.losses) / 100

    def joined(self, other: "Evaluation") -> "Evaluation":
        """Return both evaluations as one; a problem in both is counted twice."""
        problems, losses = torch.cat([self.problems, other.problems]), torch.cat([self.losses, other.losses])
        margin = min(self.smallest_margin, other.smallest_margin)
        return Evaluation(problems, losses, self.num_errors + other.num_errors, margin)

    def hardest(self, count: int) -> Tensor:
        """Return the `count` problems with the largest losses, or all if there are fewer, (M, W)."""
        return self.problems[self.losses.topk(min(count, len(self.problems))).indices]


class Split(NamedTuple):
    """An evaluation of all problems of a split."""

    problems: int
    errors: int
    loss: float  # mean over the tokens with a target, nats
    smallest_margin: float  # see `Evaluation`


class CheckResult(NamedTuple):
    """What a check has found."""

    evaluation: Evaluation  # of training problems
    reached: dict[str, bool]  # whether each named target is met
    validation: Split | None  # of the track's validation set, if it has one
    test: Split | None  # of held-out problems, with the setting `curves`
    training: Split | None  # of all training problems, with `curves` and if `evaluation` was of fewer


class Curriculum:
    """Chooses the training texts of one training run, evaluates the model between steps, and decides when to stop.

    It reads training problems and the track's validation problems, which decide when to stop but are not trained on.
    Only the setting `curves` reads held-out problems, which decide nothing. All random choices come from `generator`,
    which is on the model's device. Create it when training starts, because it reads the track's problems.
    """

    def __init__(
        self, settings: Settings, track: Track, batches: Batches, model: Transformer, generator: torch.Generator
    ) -> None:
        self.settings, self.track, self.batches = settings, track, batches
        self.model, self.generator = model, generator
        self.device = device = generator.device
        most = CPU_EVALUATION_BATCH if device.type == "cpu" else GPU_EVALUATION_BATCH
        shape = batches.text_length - 1, model.dtype.itemsize
        self.evaluation_batch_size = evaluation_batch_size(model.config, *shape, most, device.type)
        self.evaluation_batches = batches
        self.uniform_batches = batches
        if settings.evaluation_uniform or settings.level_until < 1:
            self.uniform_batches = get_batches(track, settings.batch_options._replace(level_share=0.0), device)
        if settings.evaluation_uniform:
            self.evaluation_batches = self.uniform_batches
        self.samples: dict[str, Tensor] = {}
        if track.exhaustive and track.validation is None:  # the samples of other tracks are held-out problems
            self.samples = {name: problems.to(device) for name, problems in track.samples.items()}
        self.validation = None if track.validation is None else track.validation.to(device)
        self.test_set: Tensor | None = None
        self.training_set: Tensor | None = None
        if settings.curves:
            self.test_set = track.heldout_test_set(0).to(device)
            if (track.description.num_training or MOST_TRAINING_PROBLEMS + 1) <= MOST_TRAINING_PROBLEMS:
                self.training_set = track.sets["train"].to(device)
        self.hard_examples = torch.empty(0, track.problem_width, device=device)
        self.best = None
        if settings.checkpoint == "best":
            from recipes.checkpoints import BestCheckpoint

            self.best = BestCheckpoint(model)

    def draw(self, step: int = 0) -> Iterator[Batch]:
        """Draw the texts of the `draw_steps` steps from `step` of a round on, in parts, (steps, B, T) each."""
        num_steps, batch_size = self.settings.draw_steps, self.settings.batch_size
        has_levels = step < self.settings.level_until * self.settings.num_steps
        batches = self.batches if has_levels else self.uniform_batches
        part = num_steps
        if batches.draws_parts:
            part = max(1, DRAWN_TOKENS // (batch_size * batches.training_length))
        for start in range(0, num_steps, part):
            replayed = self.hard_examples, self.settings.replay_share
            yield batches.draw(min(part, num_steps - start), batch_size, self.generator, *replayed)

    @torch.no_grad()
    def evaluate(self, problems: Tensor) -> Evaluation:
        """Evaluate the model on problems (N, W), which are shared out to all processes.

        Each token is predicted from the right tokens before it. On a track with one right answer to each problem, this
        finds the same errors as greedy decoding: until its first error, the decoded answer is the right one. On other
        tracks the completions are decoded and graded.
        """
        self.model.eval()
        is_one_length = self.track.description.is_one_length
        evaluate = self.evaluate_whole_texts(len(problems)) if is_one_length else self.evaluate_masked
        parts = distributed.share(problems).split(self.evaluation_batch_size)
        results = []
        for part in parts:
            results.append(evaluate(self.batches.batch(part)))
            if len(parts) > 1 and not is_one_length:  # batches of other lengths have buffers of other sizes
                release_freed_memory()
        losses, margins = (distributed.gather(torch.cat(each), len(problems)) for each in zip(*results, strict=True))
        if self.track.has_one_answer:
            num_errors, smallest_margin = int((margins <= 0).sum()), float(margins.amin())
        else:
            right = attempt.decode_and_grade(self.model, self.track, problems, self.generator)
            num_errors, smallest_margin = int((~right).sum()), math.inf
        self.model.train()
        return Evaluation(problems, losses, num_errors, smallest_margin)

    def evaluate_whole_texts(self, num_texts: int) -> Callable[[Batch], tuple[Tensor, Tensor]]:
        """Return a function that evaluates texts of one length; it shares what depends on the weights alone."""
        query_start = self.batches.answer_start
        prepared = self.model.prepare(self.batches.text_length - 1, query_start, num_texts)
        return lambda batch: self.model.evaluate(batch.whole_texts(), query_start, prepared)

    def evaluate_masked(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.model.masked_evaluate(**batch._asdict(), query_start=self.batches.answer_start)

    @torch.no_grad()
    def evaluate_split(self, problems: Tensor | None) -> Split | None:
        """Evaluate the model on all problems (N, W) of a split; None without one."""
        if problems is None:
            return None
        evaluation, batches, settings = self.evaluate(problems), self.batches, self.settings
        loss = float(evaluation.losses.mean())
        if batches.text_length - batches.query_start > 2:  # texts with several targets
            self.model.eval()
            total, count = 0.0, 0
            for part in problems.split(self.evaluation_batch_size):
                batch, query_start = batches.batch(part, settings.loss_on), batches.query_start
                loss_of_part = self.model.masked_loss(**batch._asdict(), query_start=query_start)
                is_target = torch.ones_like(batch.targets) if batch.loss_mask is None else batch.loss_mask
                num_targets = int(is_target[:, query_start:].sum())
                total += float(loss_of_part) * num_targets
                count += num_targets
            self.model.train()
            loss = total / count
        return Split(len(problems), evaluation.num_errors, loss, evaluation.smallest_margin)

    def check(self, is_end: bool) -> CheckResult:
        """Evaluate the model on drawn training problems, and on all validation problems.

        At the end of a round more problems are drawn, and those of the hard-example search are added.
        """
        settings = self.settings
        batches = self.evaluation_batches if is_end else self.batches
        count = settings.evaluation_problems if is_end else settings.check_problems
        drawn = batches.draw_distinct(count, self.generator)
        evaluation = self.evaluate(drawn)
        reached = {name: self.evaluate(sample).num_errors == 0 for name, sample in self.samples.items()}
        reached["99%"] = evaluation.is_99_percent
        if is_end and settings.hard_search_steps and settings.stop_at == "evaluation":
            evaluation = evaluation.joined(self.search_hard_examples(evaluation))
        validation, test = self.evaluate_split(self.validation), self.evaluate_split(self.test_set)
        if validation is not None:
            right = 1 - validation.errors / validation.problems
            reached |= {name: right >= share for name, share in self.track.validation_targets.items()}
            if self.best is not None:
                self.best.update(validation.loss)
        is_whole = self.training_set is None or len(drawn) == len(self.training_set)
        training = None if is_whole else self.evaluate_split(self.training_set)
        return CheckResult(evaluation, reached, validation, test, training)

    def search_hard_examples(self, evaluation: Evaluation) -> Evaluation:
        """Search for errors that are too rare to be drawn; returns the evaluation of the last problems searched.

        A beam search: each iteration evaluates the neighbours of the hardest problems so far, whose losses are similar.
        """
        for _ in range(self.settings.hard_search_steps):
            evaluation = self.evaluate(self.batches.nearby(evaluation.hardest(SEARCH_BEAM)))
        return evaluation

    def may_stop(self, check: CheckResult) -> bool:
        """Return whether a check meets the criterion of the setting `stop_at`."""
        evaluation, validation = check.evaluation, check.validation
        if self.settings.stop_at == "99%":
            return evaluation.is_99_percent
        rate = self.settings.evaluation_max_error_rate
        margin, is_right = evaluation.smallest_margin, evaluation.num_errors <= rate * len(evaluation.problems)
        if validation is not None:
            margin = min(margin, validation.smallest_margin)
            is_right = is_right and validation.errors <= rate * validation.problems
        return is_right and (rate > 0 or margin >= self.settings.evaluation_min_margin)

    def finish(self, last_check: CheckResult) -> None:
        """Select the weights that training ends with, by the setting `checkpoint`.

        Weights that meet the criterion of `stop_at` are kept: others with a lower loss may have errors.
        """
        if self.best is not None and not self.may_stop(last_check):
            self.best.restore()

    def must_restart(self, evaluation: Evaluation) -> bool:
        """Return whether a round ended with so many errors that training is unlikely to recover.

        A run that continues another one has no random weights to start over from.
        """
        return evaluation.num_errors > self.settings.start_over_above and not self.settings.init_from

    def start_next_round(self, evaluation: Evaluation) -> int:
        """Choose the hard examples of the next round; returns the step of the schedule at which it starts."""
        if self.must_restart(evaluation):
            self.hard_examples = self.hard_examples[:0]
            return 0
        self.hard_examples = evaluation.hardest(self.settings.replay_problems)
        return self.settings.resume_at if self.settings.resume_at < self.settings.num_steps else 0
