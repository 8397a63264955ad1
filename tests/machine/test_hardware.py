"""Machine classes from hand-written records, and inventories from a fake /proc/cpuinfo and a fake NVML."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from bench.machine import hardware
from bench.machine.hardware import machine_class
from bench.storage.schema import Gpu, Hardware
from tests.support.examples import HARDWARE, SOFTWARE

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
H200 = Gpu(
    name="NVIDIA H200",
    memory_bytes=150_754_820_096,
    driver="570.86",
    power_limit_watts=700.0,
    sm_clock_mhz=1980,
    memory_clock_mhz=3201,
    temperature_celsius=31,
    throttle_reasons=[],
    energy_joules=1.5,
)


def with_gpu(**changes: Any) -> Hardware:
    return HARDWARE.model_copy(update={"gpu": H200.model_copy(update=changes)})


# -----------------------------------------------------------------------------
# the machine class


def test_the_class_of_a_cpu_names_model_flags_cores_threads_and_torch() -> None:
    expected = "Example CPU (6/143/8), with AMX-BF16, with AVX512-BF16, 2 cores, 2 threads, torch 2.13"
    assert machine_class(HARDWARE, SOFTWARE, 2) == expected


def test_the_class_of_a_cpu_says_which_instructions_it_lacks() -> None:
    older = HARDWARE.model_copy(update={"amx_bf16": False, "avx512_bf16": False})
    assert ", no AMX-BF16, no AVX512-BF16, " in machine_class(older, SOFTWARE, 2)


def test_the_class_of_an_unknown_cpu_says_what_is_unknown() -> None:
    unknown = Hardware(**dict.fromkeys(Hardware.model_fields))
    name = machine_class(unknown, SOFTWARE, None)
    assert name.startswith("unknown CPU (")
    assert "unknown AMX-BF16, unknown AVX512-BF16" in name
    assert "\n" not in name


def test_the_class_of_a_gpu_names_model_power_and_torch() -> None:
    assert machine_class(with_gpu(), SOFTWARE, 2) == "NVIDIA H200, 700 W, torch 2.13"


def test_the_class_of_a_gpu_does_not_guess_its_power_limit() -> None:
    assert machine_class(with_gpu(power_limit_watts=None), SOFTWARE, 2) == (
        "NVIDIA H200, power limit unknown, torch 2.13"
    )


@pytest.mark.parametrize(
    "change",
    [{"cpu": "Other CPU"}, {"cpu_stepping": 4}, {"amx_bf16": False}, {"avx512_bf16": None}, {"cores": 4}],
)
def test_cpus_that_differ_in_speed_have_different_classes(change: dict) -> None:
    assert machine_class(HARDWARE.model_copy(update=change), SOFTWARE, 2) != machine_class(HARDWARE, SOFTWARE, 2)


def test_the_class_depends_on_threads_and_torch_but_not_on_patch_releases() -> None:
    name = machine_class(HARDWARE, SOFTWARE, 2)
    assert machine_class(HARDWARE, SOFTWARE, 1) != name
    assert machine_class(HARDWARE, SOFTWARE.model_copy(update={"torch": "2.14.0+cpu"}), 2) != name
    assert machine_class(HARDWARE, SOFTWARE.model_copy(update={"torch": "2.13.1"}), 2) == name


def test_the_class_does_not_depend_on_the_momentary_state_of_the_gpu() -> None:
    busy = with_gpu(sm_clock_mhz=600, temperature_celsius=88, energy_joules=None, driver="580.1")
    assert machine_class(busy, SOFTWARE, 2) == machine_class(with_gpu(), SOFTWARE, 2)


# -----------------------------------------------------------------------------
# the record


def write_cpuinfo(monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    """Let /proc/cpuinfo contain this text, or be missing."""

    def read_text(path: Path) -> str:
        assert path == Path("/proc/cpuinfo")
        if text is None:
            raise FileNotFoundError(path)
        return text

    monkeypatch.setattr(Path, "read_text", read_text)


CPUINFO = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 207
model name\t: Intel(R) Xeon(R) Platinum 8581C CPU @ 2.10GHz
stepping\t: 2
flags\t\t: fpu avx512f {flags}

processor\t: 1
model\t\t: 1
"""


def test_the_record_of_a_cpu_is_the_first_entry_in_cpuinfo(monkeypatch: pytest.MonkeyPatch) -> None:
    write_cpuinfo(monkeypatch, CPUINFO.format(flags="amx_bf16 amx_tile"))
    record = hardware.hardware_record(CPU)
    assert record.cpu == "Intel(R) Xeon(R) Platinum 8581C CPU @ 2.10GHz"
    assert (record.cpu_family, record.cpu_model, record.cpu_stepping) == (6, 207, 2)
    assert (record.amx_bf16, record.avx512_bf16) == (True, False)
    assert record.gpu is None


def test_flags_are_compared_as_whole_words(monkeypatch: pytest.MonkeyPatch) -> None:
    write_cpuinfo(monkeypatch, CPUINFO.format(flags="amx_bf16x avx512_bf16"))
    record = hardware.hardware_record(CPU)
    assert (record.amx_bf16, record.avx512_bf16) == (False, True)


@pytest.mark.parametrize("text", [None, "", "processor\t: 0\nBogoMIPS\t: 50.00\nstepping\t: unknown\n"])
def test_a_field_missing_in_cpuinfo_is_null(text: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cpuinfo(monkeypatch, text)
    record = hardware.hardware_record(CPU)
    assert (record.cpu_family, record.cpu_model, record.cpu_stepping) == (None, None, None)
    assert (record.amx_bf16, record.avx512_bf16) == (None, None)
    assert record.memory_bytes == psutil.virtual_memory().total


# -----------------------------------------------------------------------------
# NVML


class NVMLError(Exception):
    """pynvml has one subclass for each return code, with names like the one below."""


class NVMLError_NotSupported(NVMLError):  # noqa: N801, pynvml's own naming
    pass


def refuse(*_: object) -> None:
    raise NVMLError_NotSupported("Not Supported")


ANSWERS = {
    "nvmlInit": None,
    "nvmlDeviceGetHandleByUUID": "handle",
    "nvmlSystemGetDriverVersion": "570.86",
    "nvmlDeviceGetEnforcedPowerLimit": 700_000,
    "nvmlDeviceGetClockInfo": 1980,
    "nvmlDeviceGetTemperature": 31,
    "nvmlDeviceGetCurrentClocksEventReasons": 0x4,
    "nvmlDeviceGetTotalEnergyConsumption": 1500,
}
CONSTANTS = {"NVML_CLOCK_SM": 1, "NVML_CLOCK_MEM": 2, "NVML_TEMPERATURE_GPU": 0, "nvmlClocksEventReasonSwPowerCap": 0x4}


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModuleType]:
    """Installs a fake GPU and a fake pynvml, in which the named functions raise NVMLError."""

    def install(*refused: str) -> ModuleType:
        module = ModuleType("pynvml")
        for name, answer in ANSWERS.items():
            setattr(module, name, refuse if name in refused else lambda *_, answer=answer: answer)
        for name, value in CONSTANTS.items():
            setattr(module, name, value)
        monkeypatch.setitem(sys.modules, "pynvml", module)
        return module

    properties = SimpleNamespace(name="NVIDIA H200", total_memory=150_754_820_096, uuid="1234-abcd")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    return install


def test_the_record_of_a_gpu_holds_nvml_s_values_in_our_units(nvml: Callable) -> None:
    nvml()
    assert hardware.gpu_record(CUDA) == Gpu(
        name="NVIDIA H200",
        memory_bytes=150_754_820_096,
        driver="570.86",
        power_limit_watts=700.0,
        sm_clock_mhz=1980,
        memory_clock_mhz=1980,
        temperature_celsius=31,
        throttle_reasons=["SwPowerCap"],
        energy_joules=1.5,
    )


@pytest.mark.parametrize(
    ("function", "key"),
    [
        ("nvmlSystemGetDriverVersion", "driver"),
        ("nvmlDeviceGetEnforcedPowerLimit", "power_limit_watts"),
        ("nvmlDeviceGetClockInfo", "sm_clock_mhz"),
        ("nvmlDeviceGetClockInfo", "memory_clock_mhz"),
        ("nvmlDeviceGetTemperature", "temperature_celsius"),
        ("nvmlDeviceGetCurrentClocksEventReasons", "throttle_reasons"),
        ("nvmlDeviceGetTotalEnergyConsumption", "energy_joules"),
    ],
)
def test_a_counter_that_the_driver_lacks_is_null_and_the_others_are_unchanged(
    function: str, key: str, nvml: Callable
) -> None:
    nvml()
    whole = hardware.gpu_record(CUDA).model_dump()
    nvml(function)
    record = hardware.gpu_record(CUDA).model_dump()
    assert record[key] is None
    assert whole[key] is not None
    lacking = {key for key in record if record[key] != whole[key]}
    assert lacking == ({"sm_clock_mhz", "memory_clock_mhz"} if function == "nvmlDeviceGetClockInfo" else {key})


@pytest.mark.parametrize("function", ["nvmlInit", "nvmlDeviceGetHandleByUUID"])
def test_without_nvml_the_record_holds_only_torch_s_values(function: str, nvml: Callable) -> None:
    nvml(function)
    known = {key: value for key, value in hardware.gpu_record(CUDA).model_dump().items() if value is not None}
    assert known == {"name": "NVIDIA H200", "memory_bytes": 150_754_820_096}


def test_without_pynvml_the_energy_and_the_counters_are_null(nvml: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml()
    monkeypatch.setitem(sys.modules, "pynvml", None)  # an import of it raises ImportError
    assert hardware.gpu_record(CUDA).driver is None
    assert hardware.gpu_record(CUDA).energy_joules is None


def test_a_bug_in_a_query_is_not_mistaken_for_a_missing_counter() -> None:
    with pytest.raises(ZeroDivisionError):
        hardware.query_nvml(lambda: 1 // 0)


def test_the_gpu_is_found_by_its_uuid(nvml: Callable) -> None:
    uuids = []
    nvml().nvmlDeviceGetHandleByUUID = uuids.append
    hardware.nvml_handle(CUDA)
    assert uuids == ["GPU-1234-abcd"]


@pytest.mark.parametrize(
    ("mask", "reasons"),
    [(0x0, []), (0x1, []), (0x4, ["SwPowerCap"]), (0x60, ["HwThermalSlowdown", "SwThermalSlowdown"])],
)
def test_throttle_reasons_are_the_bits_that_are_set(mask: int, reasons: list[str]) -> None:
    assert hardware.throttle_reasons(mask) == reasons  # by the constants of the real pynvml
