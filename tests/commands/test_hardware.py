"""`python -m bench hardware`."""

import json

import pytest
import torch

from bench.commands import hardware as command
from bench.errors import UsageError
from bench.machine import devices, hardware

CPU = torch.device("cpu")


def test_the_command_prints_the_class_and_the_record_as_json(capsys: pytest.CaptureFixture) -> None:
    assert command.main(command.Arguments(device="cpu")) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["hardware"] == hardware.hardware_record(CPU).model_dump()
    assert printed["software"] == hardware.software_record().model_dump()
    assert f"{len(hardware.usable_cores())} cores" in printed["class"]
    assert printed["precision"] == devices.pick_precision_and_kernel("auto", "auto", CPU, None)[2]
    assert printed["precision"].startswith(("bfloat16 (", "float32 ("))
    assert ", kernel " in printed["precision"]


def test_the_command_refuses_a_missing_device() -> None:
    with pytest.raises(UsageError, match="there is no tpu device"):
        command.main(command.Arguments(device="tpu"))
