"""`python -m bench hardware`."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.commands import hardware as command
from bench.errors import UsageError
from bench.machine import device_lock, hardware
from bench.machine.cpu import usable_cores
from bench.storage.machines import machine_peaks_file
from bench.storage.results import read_results
from bench.storage.schema import MachineUse
from tests.support.examples import example_cold_start

CPU = torch.device("cpu")


@pytest.fixture
def printed(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A function that runs the command with the trainer's answer, and returns what it prints."""

    def run(kernel: str = "c", **options: Any) -> dict[str, Any]:
        reason = "there is a C compiler" if kernel == "c" else "no C kernel: the C compiler 'cc' was not found"
        answer = MachineUse(
            precision="float32",
            precision_reason="the C kernel's",
            kernel=kernel,
            kernel_reason=reason,
            threads=1,
            compiler_seconds=0.5 if kernel == "c" else None,
        )
        monkeypatch.setattr(command, "probe_machine", lambda device_type: answer)
        assert command.main(command.Arguments(device="cpu", results=tmp_path, **options)) == 0
        return json.loads(capsys.readouterr().out)

    return run


def test_the_command_prints_the_class_and_the_record_as_json(printed: Any) -> None:
    record = printed()
    assert record["hardware"] == hardware.hardware_record(CPU).model_dump()
    assert record["software"] == hardware.software_record().model_dump()
    assert f"{len(usable_cores())} cores, 1 threads" in record["class"]
    assert record["precision"] == "float32 (the C kernel's), kernel c (there is a C compiler)"
    assert record["peak"] is None


def test_what_does_not_work_is_named_with_the_way_out(printed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(command, "quota", lambda: 0.5)
    monkeypatch.setattr(command, "is_checkout", lambda root: False)
    monkeypatch.setattr(os, "access", lambda folder, mode: False)
    monkeypatch.setattr(device_lock, "LOCKS", Path("/no such folder"))
    monkeypatch.setattr(command, "isolation_problem", lambda: "unshare: unshare failed: Operation not permitted")
    checks = printed("torch")["checks"]
    broken = {"kernel", "torch.compile", "threads", "device lock", "isolation", "results folder", "git"}
    assert {name for name, check in checks.items() if not check["works"]} - {"terminal"} == broken
    for name in broken:
        assert checks[name]["found"]
        assert checks[name]["what_to_do"]
    assert "no-such-compiler" in checks["torch.compile"]["found"]
    assert "/no such folder" in checks["device lock"]["found"]


def test_the_peak_is_measured_on_request_and_kept(printed: Any, tmp_path: Path) -> None:
    measured = printed(measure=True)["peak"]
    assert measured["matmul_flops_per_second"] > 1e8
    assert measured["precision"] == "float32"
    assert printed()["peak"] == measured
    assert len(machine_peaks_file(tmp_path).read()[0]) == 1


def test_a_cold_start_is_measured_on_request_and_kept(printed: Any, tmp_path: Path, monkeypatch: Any) -> None:
    record = printed()
    assert record["cold_start"] is None
    measured = [example_cold_start(machine_class=record["class"], cold_total_seconds=seconds) for seconds in (9.0, 4.0)]
    answers = iter([*measured, example_cold_start(machine_class="Another CPU")])
    monkeypatch.setattr(command, "measure_cold_start", lambda device: next(answers))
    for start in measured:
        assert printed(measure_cold=True)["cold_start"] == start.model_dump(mode="json")
    assert printed(measure_cold=True)["cold_start"] == measured[-1].model_dump(mode="json")
    assert [start.cold_total_seconds for start in read_results(tmp_path).cold_starts] == [9.0, 4.0, 4.0]


def test_the_command_refuses_a_missing_device(monkeypatch) -> None:
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    with pytest.raises(UsageError, match="there is no mps device"):
        command.main(command.Arguments(device="mps"))
