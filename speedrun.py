"""Teach a transformer three-digit addition as fast as the hardware allows, and prove it on all 1,000,000 problems.

`python speedrun.py` is one timed attempt: it trains from random weights, certifies what it saved, and files the run.
The board of what has been reached stands in results/LEADERBOARD.md.
"""

if __name__ == "__main__":  # before the slow imports: a Ctrl-C during them leaves without a traceback
    import gc
    import os
    import signal

    for _number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(_number, lambda *_: os._exit(130))
    gc.disable()  # what they make is no garbage, and would be looked through again and again

import ctypes
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from bench import attempt, team
from bench.clock import Clock
from data import Sampler, Track, Windows
from model import Transformer
from optim import AdamW, Muon, for_kernel
from settings import Settings, learning_rate_shape

# -----------------------------------------------------------------------------
# the machine


def keep_freed_memory() -> None:
    """Tell glibc's malloc to keep what is freed instead of giving it back to the kernel.

    A step frees and takes the same few large buffers again; by default each is mapped anew, and the kernel clears
    every page of it. Does nothing where the C library is another.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # their numbers in malloc.h
        mallopt(mmap_threshold, 2**30) or mallopt(mmap_threshold, 2**25)  # older ones refuse more
        mallopt(trim_threshold, 2**31 - 1)


# -----------------------------------------------------------------------------
# the trainer

CLIMBERS = 128  # problems whose surroundings a survey asks
EXAMINED_TOGETHER = 2048  # problems, by a CPU, whose caches the activations fit into
EXAMINED_ELSEWHERE = 32_768  # a GPU has less to wait for when more are


def is_99_percent(errors: int, asked: int) -> bool:
    """Whether at least 99% of what was asked was answered rightly."""
    return errors <= asked / 100


class Sources(NamedTuple):
    """Where training problems come from."""

    sampler: Sampler  # of the batches and the checks
    surveyor: Sampler  # of the surveys
    windows: Windows | None  # of a stream, whose batches hold no whole problems
    samples: dict[str, Tensor]  # the track's, asked at every check


class Loss(torch.nn.Module):
    """A model's loss as a forward pass, which is what DistributedDataParallel can wrap."""

    def __init__(self, model: Transformer, loss: Callable[[Tensor, int], Tensor]) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, texts: Tensor, first: int) -> Tensor:
        return self.loss(texts, first)


class Trainer:
    """Model, optimizers and batches on the device; a step never waits for it, so it can be captured whole."""

    def __init__(self, settings: Settings, track: Track, device: torch.device, dtype: torch.dtype, seed: int) -> None:
        self.settings, self.track, self.device = settings, track, device
        self.steps = self.examples = 0
        if device.type == "cpu":
            keep_freed_memory()
        torch.backends.cuda.enable_cudnn_sdp(False)  # plans each shape anew, for longer than our attention takes

        # model: the text less its last character goes in, the answer's characters are asked for
        self.first = track.prompt_length - 1
        self.learned_from = 0 if settings.loss_on == "all" else self.first  # the first position with a loss
        self.model = Transformer(settings.model_config(len(track.vocabulary), track.block_size), dtype)
        self.weights_generator = torch.Generator().manual_seed(seed)
        self.model.initialize(self.weights_generator)
        self.model.to(device)

        # what a step reads and writes; all of it stays in place
        batch_seed = int(torch.randint(2**62, (), generator=self.weights_generator))
        self.generator = torch.Generator(device).manual_seed(batch_seed)
        self.draw_steps = min(settings.check_every, settings.num_steps)  # batches are drawn for so many steps at once
        shape = (self.draw_steps, settings.batch_size, track.block_size + 1)
        self.texts = torch.zeros(shape, dtype=torch.uint8, device=device)
        self.step_index = torch.zeros(1, dtype=torch.int64, device=device)
        self.loss = torch.zeros((), device=device)
        self.learning_rate_shape = learning_rate_shape(settings).to(device)
        self.adam_learning_rate = torch.zeros((), device=device)
        self.muon_learning_rate = torch.zeros((), device=device)

        # optimizers
        has_muon = settings.matrix_optimizer == "muon"
        matrices = [weight for weight in self.model.blocks.parameters() if has_muon and weight.dim() >= 2]
        places = {id(weight) for weight in matrices}
        others = [weight for weight in self.model.parameters() if id(weight) not in places]
        how = settings.muon_momentum, settings.muon_iterations, settings.muon_weight_decay
        self.muon = Muon(matrices, self.muon_learning_rate, *how, dtype)
        betas = settings.adam_beta1, settings.adam_beta2
        self.adam = AdamW(others, self.adam_learning_rate, betas, settings.adam_weight_decay)
        self.model_loss = self.model.loss
        self.part_weight = torch.full((), 1 / settings.micro_batches, device=device)
        self.take_step = self.step
        self.take_steps = self.take_each_step

    def state(self) -> list[Tensor]:
        """Every tensor that a step changes and the next one depends on."""
        optimizers = *self.muon.state(), *self.adam.state()
        return [*self.model.parameters(), *optimizers, self.step_index, self.loss, self.texts]

    # -------------------------------------------------------------------------
    # steps

    def take_each_step(self, count: int) -> None:
        for _ in range(count):
            self.take_step()

    def take_kernel_steps(self, count: int) -> None:
        """The same by kernel.c, which comes back when all are taken; `count` leads no further than the drawn texts."""
        for weight in self.model.parameters():
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        index = int(self.step_index)
        start, shape_start = index % self.draw_steps, index % self.settings.num_steps
        factors = self.learning_rate_shape[shape_start : shape_start + count]
        rates = self.settings.muon_learning_rate, self.settings.adam_learning_rate
        how = for_kernel(self.muon, rates[0], self.adam, rates[1])
        weights, texts = self.model.kernel_weights(), self.texts[start : start + count]
        self.loss.fill_(self.model.kernel.train(weights, texts, self.learned_from, factors, how))
        torch._foreach_add_(self.adam.steps, count)
        self.step_index += count

    def step(self) -> None:
        """Forward, backward and update on the batch that `step_index` points to."""
        texts = self.texts.index_select(0, self.step_index % self.draw_steps).squeeze(0)  # (B, T + 1)
        loss = self.backward(team.share(texts))
        if self.settings.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)  # waits for nothing

        factor = self.learning_rate_shape.index_select(0, self.step_index % self.settings.num_steps).squeeze(0)
        self.adam_learning_rate.copy_(factor * self.settings.adam_learning_rate)
        self.muon_learning_rate.copy_(factor * self.settings.muon_learning_rate)
        self.adam.step()
        self.muon.step()
        self.model.zero_grad()
        self.loss.copy_(loss)
        self.step_index += 1

    def backward(self, texts: Tensor) -> Tensor:
        """Leave the gradient of the mean loss in the weights, averaged over all processes; this one's loss, nats.

        `texts` (B, T + 1) are this process's share of the batch, and are computed in parts.
        """
        *parts, last = texts.chunk(self.settings.micro_batches)
        losses = []
        for part in (*parts, last):
            is_alone = team.size() == 1 or part is last  # before the last part there is nothing to average yet
            with nullcontext() if is_alone else self.model_loss.no_sync():
                loss = self.model_loss(part, self.learned_from)
                loss.backward(self.part_weight)
            losses.append(loss.detach())
        return torch.stack(losses).mean() if parts else losses[0]

    @property
    def step_flops(self) -> int:
        """FLOPs of the matrix products of one step: forward, backward and, in each process, Muon's iteration."""
        shape = self.settings.batch_size, self.track.block_size, self.learned_from
        return self.model.step_flops(*shape) + team.size() * self.muon.step_flops()

    # -------------------------------------------------------------------------
    # warm-up: compile and capture on random tokens, then put everything back

    def warm_up(self) -> None:
        before = [tensor.clone() for tensor in self.state()]
        tokens = torch.randint(len(self.track.vocabulary), self.texts.shape, generator=torch.Generator().manual_seed(0))
        self.texts.copy_(tokens)
        if self.settings.compile:
            self.model_loss = torch.compile(self.model.loss, dynamic=False)
        if team.size() > 1:
            self.model_loss = DistributedDataParallel(Loss(self.model, self.model_loss))
        if self.settings.kernel == "c":
            self.model.use_kernel(self.settings.threads)
            self.take_steps = self.take_kernel_steps
            torch.set_num_threads(1)  # torch's own would go on waiting at full speed in the way of the kernel's
        if self.settings.cuda_graph and self.device.type == "cuda":
            self.capture()
            self.model.examine(self.texts[0], self.first)  # its kernels are loaded when they are first called
        else:
            self.take_steps(1)
        with torch.no_grad():
            for tensor, value in zip(self.state(), before, strict=True):
                tensor.copy_(value)

    def capture(self) -> None:
        """Record the step as a CUDA graph; replaying it costs one launch.

        No step that was taken before keeps a graph of autograd alive, which could not be recorded over: losses are
        detached.
        """
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):  # libraries choose their kernels and workspaces outside the capture
                self.step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        self.take_step = graph.replay

    # -------------------------------------------------------------------------
    # training

    def train(self, watch: attempt.Watch) -> None:
        """Train in rounds until a survey of the training problems finds nothing wrong.

        A round ends with a survey: many problems are drawn and asked. While any of them is answered wrongly, or not
        with confidence, the next round goes on from `resume_at` and drills the hardest: they take a share of each
        batch (after Loshchilov and Hutter, Online batch selection, 2015). After very many mistakes training got stuck
        on something, and starts over from fresh random weights.
        """
        settings = self.settings
        if settings.dropout:  # draws from torch's own generator, which the warm-up has used
            torch.manual_seed(int(torch.randint(2**62, (), generator=self.weights_generator)) + team.rank())
        sources = self.sources()
        hardest = torch.empty(0, self.track.problem_width, dtype=torch.uint8, device=self.device)
        first_step = 0
        for rounds_left in reversed(range(settings.max_rounds)):
            self.step_index.fill_(first_step)
            errors, losses, asked = self.train_round(first_step, hardest, sources, watch)
            if self.may_stop(errors, losses) or not rounds_left:
                return
            hardest = asked[losses.topk(min(settings.drill_problems, len(asked))).indices]
            first_step = settings.resume_at if settings.resume_at < settings.num_steps else 0
            if errors > settings.start_over_above:
                self.start_over()
                first_step, hardest = 0, hardest[:0]

    def sources(self) -> Sources:
        settings = self.settings
        sampler = self.track.sampler(settings.level_share, self.device)
        surveyor = self.track.sampler(0.0, self.device) if settings.survey_as_exam else sampler
        windows = Windows(self.track, self.device) if self.track.is_stream else None
        samples: dict[str, Tensor] = {}
        if self.track.exhaustive:  # elsewhere they are parts of the exam, which training does not look at
            samples = {name: problems.to(self.device) for name, problems in self.track.samples.items()}
        return Sources(sampler, surveyor, windows, samples)

    def may_stop(self, errors: int, losses: Tensor) -> bool:
        """Whether this examination of training problems, by their mistakes and their losses (N,), ends training."""
        if self.settings.stop_at == "99%":
            return is_99_percent(errors, len(losses))
        return errors == 0 and float(losses.amax()) <= self.settings.survey_loss

    def start_over(self) -> None:
        """Fresh random weights, and optimizers at their beginning, all in place."""
        self.model.initialize(self.weights_generator)
        for tensor in (*self.muon.state(), *self.adam.state()):
            tensor.zero_()

    def train_round(
        self, first_step: int, drilled: Tensor, sources: Sources, watch: attempt.Watch
    ) -> tuple[int, Tensor, Tensor]:
        """Take the steps of a round from `first_step` on, then survey the training problems.

        Returns:
            The mistakes in the survey, the losses (N,) of its problems, and these (N, problem_width). What is drawn and
            then climbed to counts twice.
        """
        settings = self.settings
        step = first_step
        while step < settings.num_steps:
            watch.tick()
            if step == first_step or step % self.draw_steps == 0:
                self.texts.copy_(self.draw(drilled, sources))
            until_check = min(settings.check_every - step % settings.check_every, settings.num_steps - step)
            taken = min(watch.patience, until_check)
            self.take_steps(taken)
            step += taken
            self.steps += taken
            self.examples += taken * settings.batch_size

            # sparse evaluation
            if taken == until_check:
                is_last = step == settings.num_steps
                count = settings.survey_problems if is_last else settings.check_problems
                asked = (sources.surveyor if is_last else sources.sampler).draw_distinct(count, self.generator)
                errors, losses = self.examine(asked)
                reached = {name: self.examine(problems)[0] == 0 for name, problems in sources.samples.items()}
                reached["99%"] = is_99_percent(errors, len(asked))
                if is_last and settings.survey_climbs and settings.stop_at == "survey":
                    more_errors, more_losses, more = self.climb(asked, losses, sources.sampler)
                    errors, losses, asked = (
                        errors + more_errors,
                        torch.cat([losses, more_losses]),
                        torch.cat([asked, more]),
                    )
                loss, steps_left = float(team.mean(self.loss)), settings.num_steps - step
                watch.check(self.steps, loss, errors, reached, steps_left, len(asked))
                if settings.stop_at == "99%" and reached["99%"]:
                    break
        return errors, losses, asked

    def climb(self, asked: Tensor, losses: Tensor, sampler: Sampler) -> tuple[int, Tensor, Tensor]:
        """From the hardest of the problems (N, W), by their losses (N,), to harder ones next to them, step by step.

        What the model answers least surely, it answers hardly more surely with a digit changed, so that the climb comes
        upon mistakes that are too rare to be drawn.

        Returns:
            As `examine` those of the last step, and its problems.
        """
        errors = 0
        for _ in range(self.settings.survey_climbs):
            asked = sampler.nearby(asked[losses.topk(min(CLIMBERS, len(asked))).indices])
            errors, losses = self.examine(asked)
        return errors, losses, asked

    def draw(self, drilled: Tensor, sources: Sources) -> Tensor:
        """Texts (draw_steps, B, T + 1) uint8 for the next steps.

        They are problems from the sampler and from those drilled; of a stream, which knows no problems, its windows.
        """
        if sources.windows is not None:
            return sources.windows.draw(self.draw_steps, self.settings.batch_size, self.generator)
        batch_size = self.settings.batch_size
        num_drilled = min(round(batch_size * self.settings.drill_share), batch_size - 1) if len(drilled) else 0
        fresh = sources.sampler.draw(self.draw_steps, batch_size - num_drilled, self.generator)
        if not num_drilled:
            return self.track.tokens(fresh)
        shape = self.draw_steps, num_drilled
        picks = torch.randint(len(drilled), shape, generator=self.generator, device=self.device)
        return self.track.tokens(torch.cat([fresh, drilled[picks]], 1))

    @torch.no_grad()
    def examine(self, problems: Tensor) -> tuple[int, Tensor]:
        """How many of the problems (N, W) the model answers wrongly, and each one's loss (N,) at its worst character.

        With the right answer so far as its input, the model errs where decoding would: up to its first mistake, its
        own output is the right answer.
        """
        self.model.eval()
        pairs = self.model.pairs(self.track.prompt_length + self.track.answer_length - 1, self.first)
        together = EXAMINED_TOGETHER if self.device.type == "cpu" else EXAMINED_ELSEWHERE
        own = team.share(problems).split(together)
        parts = [self.model.examine(self.track.tokens(part), self.first, pairs) for part in own]
        self.model.train()
        losses, wrong = (team.gather(torch.cat(each), len(problems)) for each in zip(*parts, strict=True))
        return int(wrong.sum()), losses


if __name__ == "__main__":
    gc.freeze()
    gc.enable()
    sys.exit(attempt.main(Settings, Trainer, Clock(), sys.argv[1:], __doc__))
