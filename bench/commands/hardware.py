"""`python -m bench hardware`: the machine's inventory, its class, and the kernel it would use."""

import dataclasses
import json
from pathlib import Path

from bench.errors import UsageError
from bench.machine.devices import pick_device, pick_precision_and_kernel
from bench.machine.hardware import cores_usable, hardware_record, machine_class, software_record
from bench.provenance import ROOT

# -----------------------------------------------------------------------------
# `python -m bench hardware`


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Print what this machine is, the class that its attempts are ranked in and what computes a layer, as JSON."""

    device: str = "auto"
    """auto, cpu, cuda or mps."""
    results: Path = ROOT / "results"
    """Not used: the record is of the machine."""


def main(arguments: Arguments) -> int:
    try:
        device = pick_device(arguments.device)
    except ValueError as problem:
        raise UsageError(str(problem)) from None
    hardware, software = hardware_record(device), software_record()
    _, _, means = pick_precision_and_kernel("auto", "auto", device, None)
    record = {
        "class": machine_class(hardware, software, cores_usable()),
        "precision": means,
        "hardware": hardware.model_dump(),
        "software": software.model_dump(),
    }
    print(json.dumps(record, indent=2, ensure_ascii=False))
    return 0
