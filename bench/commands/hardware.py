"""`python -m bench hardware`: print the machine's inventory, its class, and the precision and kernel it would use."""

import dataclasses
import json

from bench.commands.options import DEFAULT_RESULTS, DeviceOption, UnusedResultsOption
from bench.machine.devices import pick_device, pick_precision_and_kernel
from bench.machine.hardware import hardware_record, machine_class, software_record, usable_cores
from bench.streams import print_data


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Print the hardware and software of this machine, its class, and the precision and kernel of a layer, as JSON."""

    device: DeviceOption = "auto"
    results: UnusedResultsOption = DEFAULT_RESULTS


def main(arguments: Arguments) -> int:
    device = pick_device(arguments.device)
    hardware, software = hardware_record(device), software_record()
    _, _, description = pick_precision_and_kernel("auto", "auto", device, None)
    record = {
        "class": machine_class(hardware, software, len(usable_cores())),
        "precision": description,
        "hardware": hardware.model_dump(),
        "software": software.model_dump(),
    }
    print_data(json.dumps(record, indent=2, ensure_ascii=False))
    return 0
