"""The processes beside the first one of a team: they do the same work, and that one says and files what came of it."""

import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import distributed
from bench.attempt.certify import certify
from bench.attempt.interface import Build
from bench.attempt.plan import AttemptPlan
from bench.attempt.resources import device_turn, empty_compile_caches
from bench.machine.energy import EnergyMeter
from bench.machine.memory import peak_device_memory_bytes, peak_memory_bytes
from bench.machine.noise import NoiseMonitor
from bench.machine.peaks import matmul_peak
from bench.storage import weights

STEPS_AT_ONCE = 64
UNHEARD_SECONDS = 60.0  # until then the first process has said what it has to say, however slow its start


def restore_default_signals() -> None:
    """From here on SIGINT and SIGTERM end this process: it has nothing to file, and waiting hears no signal."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def wait_for_first_process() -> None:
    """Stay, with a request that is refused, until the first process has refused it too and torchrun ends this one.

    If this one left before, torchrun would end the first one unheard. Returns where that one has nothing to refuse.
    """
    restore_default_signals()
    time.sleep(UNHEARD_SECONDS)


class SilentMonitor:
    """What a trainer reports to where nobody listens; that training has to end is the first process's to say."""

    patience = STEPS_AT_ONCE

    def tick(self) -> None:
        pass

    def check(self, *report: Any) -> None:
        pass


def run_worker(plan: AttemptPlan, build: Build) -> int:
    """The part of one process in an attempt that another one leads; exit status 0, or 1 when that one gave up."""
    restore_default_signals()
    try:
        lookout = NoiseMonitor(plan.device, distributed.join(plan.world, plan.device))
        with device_turn(plan), empty_compile_caches(plan):
            distributed.barrier()  # all have their devices
            trainer = build(plan.settings, plan.track, plan.device, plan.dtype, plan.seed)
            trainer.warm_up()
            meter = EnergyMeter(plan.device)
            distributed.barrier()  # not before the clock's `train` has begun
            noise, energy = lookout.reading(), meter.reading()
            trainer.train(SilentMonitor())
            joules, _ = meter.since(energy)
            heard = lookout.since(noise, "during train").reasons
            if plan.world.local_rank:  # of this machine another one tells, but this one has a GPU of its own
                heard = [reason for reason in heard if "GPU" in reason]
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "weights.safetensors"
                path.write_bytes(distributed.broadcast(None))
                model, track = weights.load(path, plan.device)
            certify(model.answerer(), track, plan.device, plan.seed)
            gather_resource_use(plan, joules, [f"process {plan.world.rank}: {reason}" for reason in heard])
    except Exception as problem:
        line = (str(problem).splitlines() or [""])[0]
        print(f"process {plan.world.rank}: {type(problem).__name__}: {line}", file=sys.stderr)
        return 1
    return 0


def gather_resource_use(
    plan: AttemptPlan, joules: float | None, heard: list[str]
) -> tuple[dict[str, float | int | None], list[str]]:
    """What all processes together took, and could do at once, as it stands in the run; and what all have heard."""
    device, add = plan.device, distributed.sum_or_none
    # Before the peak of matrix products is measured, which would raise them.
    memory = peak_memory_bytes(), peak_device_memory_bytes(device)
    peak = matmul_peak(device, plan.dtype, plan.settings.threads)
    told = zip(*distributed.gather_objects((*memory, peak, joules, heard)), strict=True)
    bytes_, device_bytes, peaks, energies, reasons = map(list, told)
    spent = {
        "peak_memory_bytes": add(bytes_),
        "peak_device_memory_bytes": add(device_bytes),
        "matmul_flops_per_second": add(peaks),
        # A processor's counter is of the whole of it, and one of a GPU of that one.
        "energy_joules": add(energies) if device.type == "cuda" else joules,
    }
    return spent, [reason for each in reasons for reason in each]
