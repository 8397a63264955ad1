"""Train a transformer to add three-digit numbers as fast as the hardware allows, and check all 1,000,000 problems.

`python speedrun.py` is one timed attempt: it trains from random weights, certifies the saved weights on every problem,
and files the run. results/LEADERBOARD.md ranks the results.
"""

import os
import signal
import sys

if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # without a traceback, also during the next imports
    if sys.flags.safe_path:  # Python does not look for modules beside this file
        sys.path.insert(0, __file__.rpartition("speedrun.py")[0] or ".")

    from bench.entry import prepare_process

    prepare_process()  # before anything that may be missing is imported

    import startup

    startup.before_imports(sys.argv[1:], __doc__)

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from bench import attempt, distributed
from bench.clock import Clock
from bench.judge.initial_weights import standard_normal
from curriculum import CheckResult, Curriculum
from data import Track, get_batches
from inputs import StepInputs
from model import Transformer
from optim import Muon, kernel_optimizers, learning_rate_schedule
from recipes.choice import optimizer_class, updater
from settings import Settings
from startup import keep_freed_memory


class Loss(torch.nn.Module):
    """The model's loss as a forward pass, as DistributedDataParallel requires."""

    def __init__(self, model: Transformer, loss: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, **inputs: Tensor | int) -> Tensor:
        return self.loss(**inputs)


class Trainer:
    """Model, optimizers and batches on the device.

    A step neither synchronises with the device nor moves its tensors, so that it can be captured as a CUDA graph.
    """

    def __init__(self, settings: Settings, track: Track, device: torch.device, dtype: torch.dtype) -> None:
        """`track` tells the shapes; `train` gets the one to learn, with other ids."""
        self.settings, self.track, self.device = settings, track, device
        self.steps = self.examples = 0
        if device.type == "cpu":
            keep_freed_memory()
        torch.backends.cuda.enable_cudnn_sdp(False)  # it plans each new shape for longer than our attention takes

        self.batches = get_batches(track, settings.batch_options, device)
        self.query_start = self.batches.query_start  # first position with a loss
        self.model = Transformer(settings.model_config(len(track.vocabulary), track.block_size), dtype)
        self.model.to(device)

        # inputs and outputs of a step, all at fixed addresses
        self.generator = torch.Generator(device)
        self.inputs = StepInputs(settings, self.batches)
        self.step_index = torch.zeros(1, dtype=torch.int64, device=device)
        self.loss = torch.zeros((), device=device)
        decay = settings.decay, settings.decay_power, settings.decay_to, settings.decay_steps
        schedule = learning_rate_schedule(settings.num_steps, settings.warmup_steps, *decay, settings.schedule_interval)
        self.learning_rate_schedule = schedule.to(device)
        self.adam_learning_rate = torch.zeros((), device=device)
        self.muon_learning_rate = torch.zeros((), device=device)

        # optimizers
        has_muon = settings.matrix_optimizer == "muon"
        matrices = [weight for weight in self.model.blocks.parameters() if has_muon and weight.dim() >= 2]
        matrix_ids = {id(weight) for weight in matrices}
        others = [weight for weight in self.model.parameters() if id(weight) not in matrix_ids]
        muon_dtype = torch.float32 if dtype == torch.float16 else dtype  # small gradients are 0 in float16
        muon_options = settings.muon_momentum, settings.muon_iterations, settings.muon_weight_decay
        self.muon = Muon(matrices, self.muon_learning_rate, *muon_options, muon_dtype)
        adam_options = (settings.adam_beta1, settings.adam_beta2), settings.adam_weight_decay
        kind, more = optimizer_class(settings), (settings.adam_epsilon, settings.decay_on)
        self.adam = kind(others, self.adam_learning_rate, *adam_options, *more)
        self.update = updater(settings, self.model.parameters(), self.update_weights)
        self.model_loss: Callable[..., Tensor] = self.model.loss if self.inputs.is_fast else self.model.masked_loss
        self.no_sync: Callable[[], AbstractContextManager[None]] = nullcontext  # without averaging of gradients
        self.part_weight = torch.full((), 1 / settings.micro_batches, device=device)
        self.take_step = self.step
        self.take_steps = self.take_each_step

    # -------------------------------------------------------------------------
    # steps

    def take_each_step(self, count: int) -> None:
        """Take `count` steps, one after the other."""
        for _ in range(count):
            self.take_step()

    def take_kernel_steps(self, count: int) -> None:
        """Take `count` steps in one call of kernel.c; they must not go beyond the drawn texts."""
        assert self.model.kernel is not None
        index = int(self.step_index)
        batch_start, schedule_start = index % self.settings.draw_steps, index % self.settings.num_steps
        factors = self.learning_rate_schedule[schedule_start : schedule_start + count]
        muon_rate, adam_rate = self.settings.muon_learning_rate, self.settings.adam_learning_rate
        optimizers = kernel_optimizers(self.muon, muon_rate, self.adam, adam_rate)
        weights, tokens = self.model.kernel_weights(), self.inputs.tensors["tokens"][batch_start : batch_start + count]
        self.loss.fill_(self.model.kernel.train(weights, tokens, self.query_start, factors, optimizers))
        torch._foreach_add_(self.adam.steps, count)
        self.step_index += count

    def step(self) -> None:
        """Forward, backward and update on the batch selected by `step_index`."""
        loss = self.backward(self.inputs.of_step(self.step_index))
        factor = self.learning_rate_schedule.index_select(0, self.step_index % self.settings.num_steps).squeeze(0)
        self.adam_learning_rate.copy_(factor * self.settings.adam_learning_rate)
        self.muon_learning_rate.copy_(factor * self.settings.muon_learning_rate)
        self.update()
        self.model.zero_grad()
        self.loss.copy_(loss)
        self.step_index += 1

    def update_weights(self) -> None:
        """Clip the gradients' norm, and take the optimizers' steps."""
        if self.settings.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
        self.adam.step()
        self.muon.step()

    def backward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Accumulate the gradient of the mean loss over all processes; returns the loss of this process, nats.

        The inputs (B, ...) are a whole batch. Each process takes its share, in `micro_batches` parts. The mean over
        processes of what they return is the mean over all targets of the batch.
        """
        num_parts, losses, part_weights = self.settings.micro_batches, [], []
        shares = {name: distributed.share(texts).chunk(num_parts) for name, texts in inputs.items()}
        for i in range(num_parts):
            part = {name: texts[i] for name, texts in shares.items()}
            weight = self.part_weight
            if "loss_mask" in part:  # parts with more targets count for more
                weight = part["loss_mask"].sum() / inputs["loss_mask"].sum() * distributed.size()
            with nullcontext() if i == num_parts - 1 else self.no_sync():  # gradients are averaged once
                loss = self.model_loss(**part, query_start=self.query_start)
                self.update.scale(loss).backward(weight)
            losses.append(loss.detach())
            part_weights.append(weight)
        if num_parts == 1 and "loss_mask" not in inputs:
            return losses[0]
        return (torch.stack(losses) * torch.stack(part_weights)).sum()

    @property
    def step_flops(self) -> int:
        """FLOPs of the matrix products of one step: forward, backward and, in each process, Muon's iterations."""
        shape = self.settings.batch_size, self.batches.training_length - 1, self.query_start
        return self.model.step_flops(*shape) + distributed.size() * self.muon.step_flops()

    # -------------------------------------------------------------------------
    # warm-up

    def warm_up(self) -> None:
        """Compile, capture and take steps on random tokens; `begin` leaves nothing of them."""
        self.model.initialize(lambda name, shape: torch.ones(shape))
        self.inputs.randomize(torch.manual_seed(0))
        if self.settings.compile:
            self.model_loss = torch.compile(self.model_loss, dynamic=False)
        if distributed.size() > 1:
            self.model_loss = parallel = DistributedDataParallel(Loss(self.model, self.model_loss))
            self.no_sync = parallel.no_sync
        if self.settings.kernel == "c":
            self.model.use_kernel(self.settings.threads)
            self.take_steps = self.take_kernel_steps
            torch.set_num_threads(1)  # torch's idle threads would compete with the kernel's for the cores
        if self.settings.cuda_graph and self.device.type == "cuda" and not self.settings.grad_scaler:
            self.capture()
        else:
            self.take_steps(1)
        if self.inputs.is_fast:  # the first evaluation takes longer: it loads kernels, and touches its memory
            self.model.evaluate(self.inputs.tensors["tokens"][0], self.batches.answer_start)

    def capture(self) -> None:
        """Capture the step as a CUDA graph, whose replay costs one launch.

        Capturing fails while an autograd graph of an earlier step is alive; therefore `backward` detaches its losses.
        """
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):  # libraries select kernels and workspaces before the capture
                self.step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        self.take_step = graph.replay

    # -------------------------------------------------------------------------
    # training

    def begin(self, start: attempt.Start) -> None:
        """Set everything that depends on the seed and on the ids of the track."""
        self.track, self.seed, self.num_draws = start.track, start.seed, 0
        self.batches = get_batches(self.track, self.settings.batch_options, self.device)
        self.generator.manual_seed(self.seed)
        torch.manual_seed(self.seed + distributed.rank())  # for dropout
        self.restart()
        if start.weights is not None:
            self.model.load_state_dict(start.weights)

    def draw_weights(self) -> None:
        """Replace the weights by new random ones, by the law of initial weights."""
        self.model.initialize(functools.partial(standard_normal, self.seed, self.num_draws))
        self.num_draws += 1

    def restart(self) -> None:
        """Draw new random weights and reset the optimizers, all in place."""
        self.draw_weights()
        for tensor in (*self.muon.state(), *self.adam.state()):
            tensor.zero_()
        self.update.reset()

    def train(self, watch: attempt.TrainingMonitor, start: attempt.Start) -> None:
        """Train in rounds until an end-of-round evaluation passes, or `max_rounds` is reached."""
        self.begin(start)
        watch.initialized(self.model)
        curriculum = Curriculum(self.settings, self.track, self.batches, self.model, self.generator)
        self.choose_initial_state(curriculum, watch)
        first_step = 0
        for rounds_left in reversed(range(self.settings.max_rounds)):
            self.step_index.fill_(first_step)
            check = self.train_round(first_step, curriculum, watch)
            if curriculum.may_stop(check) or not rounds_left:
                return curriculum.finish(check)
            first_step = curriculum.start_next_round(check.evaluation)
            if curriculum.must_restart(check.evaluation):
                self.restart()
                self.choose_initial_state(curriculum, watch)

    def choose_initial_state(self, curriculum: Curriculum, watch: attempt.TrainingMonitor) -> None:
        """Replace the initial weights by the best of `initial_states` sets, by their losses on a drawn batch."""
        if self.settings.initial_states == 1:
            return
        from recipes.initial_states import keep_best_state

        self.inputs.fill(curriculum.draw())
        batch = self.inputs.of_step(torch.zeros_like(self.step_index))
        loss = self.model.loss if self.inputs.is_fast else self.model.masked_loss

        def batch_loss() -> float:
            watch.tick()
            return float(distributed.mean(loss(**batch, query_start=self.query_start)))

        keep_best_state(self.model, self.draw_weights, self.settings.initial_states, batch_loss)

    def train_round(self, first_step: int, curriculum: Curriculum, watch: attempt.TrainingMonitor) -> CheckResult:
        """Take the steps of a round from `first_step` on; returns its last check."""
        settings, step = self.settings, first_step
        while True:
            watch.tick()
            if step == first_step or step % settings.draw_steps == 0:
                self.inputs.fill(curriculum.draw(step))
            until_check = min(settings.check_every - step % settings.check_every, settings.num_steps - step)
            count = min(watch.patience, until_check)
            self.take_steps(count)
            step += count
            self.steps += count
            self.examples += count * settings.batch_size
            if count < until_check:
                continue

            is_end = step == settings.num_steps
            check = curriculum.check(is_end)
            if settings.stop_at == "check" and not is_end and curriculum.may_stop(check):
                check = curriculum.check(is_end=True)  # on more problems
            loss, norm = float(distributed.mean(self.loss)), float(self.model.squared_norm())
            asked, errors = len(check.evaluation.problems), check.evaluation.num_errors
            splits = {"training": check.training, "validation": check.validation, "test": check.test}
            watch.check(self.steps, loss, errors, check.reached, settings.num_steps - step, asked, norm, **splits)
            if is_end or (settings.stop_at != "evaluation" and curriculum.may_stop(check)):
                return check


if __name__ == "__main__":
    startup.after_imports()
    startup.leave(attempt.main(Settings, Trainer, Clock(), sys.argv[1:], __doc__))
