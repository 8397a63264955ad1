"""The other processes of a torchrun attempt. They train with the first one, which certifies and files the run."""

import itertools
import signal
import time
from typing import Any

from bench import distributed
from bench.attempt.interface import Build
from bench.attempt.plan import AttemptPlan
from bench.attempt.resources import device_turn, empty_compile_caches
from bench.interrupts import interrupts
from bench.machine.energy import EnergyMeter
from bench.machine.memory import peak_device_memory_bytes, peak_memory_bytes
from bench.machine.noise import NoiseMonitor
from bench.machine.peaks import matmul_peak
from bench.streams import print_error

STEPS_PER_TICK = 64
REFUSAL_SECONDS = 60.0  # for the first process to print its refusal, however slowly it starts


def restore_default_signals() -> None:
    """Let an interrupt end this process, which files nothing and may be waiting inside a collective operation."""
    for number in interrupts():
        signal.signal(number, signal.SIG_DFL)


def wait_for_first_process() -> None:
    """After a refusal, wait up to REFUSAL_SECONDS for torchrun to end this process, as the first one refuses, too.

    If this process ended first, torchrun would end the first one before it could print its message.
    """
    restore_default_signals()
    time.sleep(REFUSAL_SECONDS)


class SilentMonitor:
    """A TrainingMonitor that ignores all reports; the first process decides when training ends."""

    patience = STEPS_PER_TICK

    def initialized(self, model: Any) -> None:
        pass

    def tick(self) -> None:
        pass

    def check(self, *report: Any, **splits: Any) -> None:
        pass


def run_worker(plan: AttemptPlan, build: Build) -> int:
    """The work of a process other than the first; exit status 0, or 1 after a failure."""
    restore_default_signals()
    try:
        noise_monitor = NoiseMonitor(plan.device, distributed.join(plan.world, plan.device))
        with device_turn(plan), empty_compile_caches(plan):
            distributed.barrier()  # until all processes hold their device
            trainer = plan.trainer(build)
            trainer.warm_up()
            meter = EnergyMeter(plan.device)
            distributed.barrier()  # until the clock has entered `train`
            noise, energy = noise_monitor.reading(), meter.reading()
            trainer.train(SilentMonitor(), plan.start())
            joules, _ = meter.since(energy)
            reasons = noise_monitor.since(noise, "during train").reasons
            if plan.world.local_rank:  # another process reports the noise of this machine, except for this GPU's
                reasons = [reason for reason in reasons if "GPU" in reason]
            gather_resource_use(plan, joules, [f"process {plan.world.rank}: {reason}" for reason in reasons])
    except Exception as problem:
        line = (str(problem).splitlines() or [""])[0]
        print_error(f"process {plan.world.rank}: {type(problem).__name__}: {line}")
        return 1
    return 0


def gather_resource_use(
    plan: AttemptPlan, joules: float | None, noise_reasons: list[str]
) -> tuple[dict[str, float | int | None], list[str]]:
    """Collect the resource use of all processes, as totals by key of the run, and their noise; each one calls this.

    `joules` is the energy of this process's device during `train`.
    """
    device, total = plan.device, distributed.sum_or_none
    # Memory is read first, because measuring the peak of matrix products would raise it.
    memory, device_memory = peak_memory_bytes(), peak_device_memory_bytes(device)
    # The peak of a single process is known from earlier attempts; see `bench.storage.machines`.
    peak = matmul_peak(device, plan.dtype, plan.settings.threads) if plan.world.size > 1 else None
    gathered = distributed.gather_objects((memory, device_memory, peak, joules, noise_reasons))
    memories, device_memories, peaks, energies, all_reasons = zip(*gathered, strict=True)
    totals = {
        "peak_memory_bytes": total(memories),
        "peak_device_memory_bytes": total(device_memories),
        "matmul_flops_per_second": total(peaks),
        # The counter of a CPU includes all processes, the counter of a GPU only its own.
        "energy_joules": total(energies) if device.type == "cuda" else joules,
    }
    return totals, list(itertools.chain(*all_reasons))
