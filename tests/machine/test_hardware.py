"""Machine classes from records made by hand, and an NVML that is not there."""

import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import filelock
import psutil
import pytest
import torch

from bench.commands import hardware as hardware_command
from bench.errors import UsageError
from bench.machine import devices, hardware
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
def test_cpus_that_differ_in_speed_are_of_two_classes(change: dict) -> None:
    assert machine_class(HARDWARE.model_copy(update=change), SOFTWARE, 2) != machine_class(HARDWARE, SOFTWARE, 2)


def test_threads_and_torch_make_classes_and_patches_of_torch_do_not() -> None:
    own = machine_class(HARDWARE, SOFTWARE, 2)
    assert machine_class(HARDWARE, SOFTWARE, 1) != own
    assert machine_class(HARDWARE, SOFTWARE.model_copy(update={"torch": "2.14.0+cpu"}), 2) != own
    assert machine_class(HARDWARE, SOFTWARE.model_copy(update={"torch": "2.13.1"}), 2) == own


def test_what_a_gpu_does_at_the_moment_makes_no_class() -> None:
    busy = with_gpu(sm_clock_mhz=600, temperature_celsius=88, energy_joules=None, driver="580.1")
    assert machine_class(busy, SOFTWARE, 2) == machine_class(with_gpu(), SOFTWARE, 2)


# -----------------------------------------------------------------------------
# the record


def write_cpuinfo(monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    """Let /proc/cpuinfo hold this text, or not be there."""

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


def test_the_record_of_a_cpu_is_its_first_entry_in_cpuinfo(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_what_cpuinfo_does_not_say_is_null(text: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cpuinfo(monkeypatch, text)
    record = hardware.hardware_record(CPU)
    assert (record.cpu_family, record.cpu_model, record.cpu_stepping) == (None, None, None)
    assert (record.amx_bf16, record.avx512_bf16) == (None, None)
    assert record.memory_bytes == psutil.virtual_memory().total


def test_the_peak_of_this_process_is_at_least_what_it_holds_now() -> None:
    held = psutil.Process().memory_info().rss
    ballast = b"\1" * (32 * 2**20)
    peak = hardware.peak_memory_bytes()
    assert peak >= held
    assert peak >= len(ballast)
    assert peak <= psutil.virtual_memory().total


# -----------------------------------------------------------------------------
# NVML


class NVMLError(Exception):
    """pynvml makes a subclass a return code, by this kind of name."""


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
    """Puts a pynvml in place of the real one, in which the functions named do not answer; and a GPU beside it."""

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


def test_the_record_of_a_gpu_holds_what_nvml_says_in_our_units(nvml: Callable) -> None:
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
def test_a_counter_that_the_driver_lacks_is_null_and_the_others_stay(function: str, key: str, nvml: Callable) -> None:
    nvml()
    whole = hardware.gpu_record(CUDA).model_dump()
    nvml(function)
    record = hardware.gpu_record(CUDA).model_dump()
    assert record[key] is None
    assert whole[key] is not None
    lacking = {key for key in record if record[key] != whole[key]}
    assert lacking == ({"sm_clock_mhz", "memory_clock_mhz"} if function == "nvmlDeviceGetClockInfo" else {key})


@pytest.mark.parametrize("function", ["nvmlInit", "nvmlDeviceGetHandleByUUID"])
def test_without_nvml_only_what_torch_knows_is_recorded(function: str, nvml: Callable) -> None:
    nvml(function)
    known = {key: value for key, value in hardware.gpu_record(CUDA).model_dump().items() if value is not None}
    assert known == {"name": "NVIDIA H200", "memory_bytes": 150_754_820_096}


def test_without_pynvml_the_energy_and_the_counters_are_null(nvml: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml()
    monkeypatch.setitem(sys.modules, "pynvml", None)  # an import of it raises ImportError
    assert hardware.gpu_record(CUDA).driver is None
    assert hardware.gpu_record(CUDA).energy_joules is None


def test_a_mistake_of_ours_is_not_taken_for_a_missing_counter() -> None:
    with pytest.raises(ZeroDivisionError):
        hardware.ask_nvml(lambda: 1 // 0)


def test_the_gpu_is_found_by_its_uuid(nvml: Callable) -> None:
    asked = []
    nvml().nvmlDeviceGetHandleByUUID = asked.append
    hardware.nvml_handle(CUDA)
    assert asked == ["GPU-1234-abcd"]


@pytest.mark.parametrize(
    ("mask", "reasons"),
    [(0x0, []), (0x1, []), (0x4, ["SwPowerCap"]), (0x60, ["HwThermalSlowdown", "SwThermalSlowdown"])],
)
def test_throttle_reasons_are_the_bits_that_are_set(mask: int, reasons: list[str]) -> None:
    assert hardware.throttle_reasons(mask) == reasons  # by the constants of the real pynvml


# -----------------------------------------------------------------------------
# picking


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"), [(True, True, "cuda"), (False, True, "cpu"), (False, False, "cpu")]
)
def test_auto_takes_the_best_device_there_is(
    cuda: bool, mps: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert devices.pick_device("auto").type == expected
    assert devices.pick_device("cpu").type == "cpu"


@pytest.mark.parametrize("name", ["cuda", "mps", "tpu"])
def test_a_device_that_is_not_there_is_an_error_that_names_a_way_out(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=f"there is no {name} device .* use --device auto or --device cpu"):
        devices.pick_device(name)


@pytest.mark.parametrize(
    ("amx", "vendor", "flags", "expected"),
    [
        (True, "GenuineIntel", "", (torch.bfloat16, "AMX")),
        (True, "AuthenticAMD", "avx512_bf16", (torch.bfloat16, "AMX")),
        (False, "AuthenticAMD", "avx512f avx512_bf16", (torch.bfloat16, "AVX512-BF16")),
        (False, "AuthenticAMD", "avx512f", (torch.float32, "bfloat16 is no faster on this CPU")),
        (False, "GenuineIntel", "avx512f avx512_bf16", (torch.float32, "bfloat16 is no faster on this CPU")),
    ],
)
def test_auto_takes_bfloat16_on_a_cpu_that_is_faster_by_it(
    amx: bool, vendor: str, flags: str, expected: tuple[torch.dtype, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(devices, "cpuinfo", lambda: {"vendor_id": vendor, "flags": flags})
    assert devices.pick_precision("auto", CPU) == expected


@pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_takes_bfloat16_on_a_gpu_that_has_it(
    native: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native)
    assert devices.pick_precision("auto", CUDA)[0] == expected


def test_auto_stays_with_float32_on_mps() -> None:
    assert devices.pick_precision("auto", torch.device("mps"))[0] == torch.float32


def test_bfloat16_on_a_gpu_without_it_is_an_error_that_names_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: False)
    with pytest.raises(ValueError, match="no bfloat16; use --precision float32"):
        devices.pick_precision("bfloat16", CUDA)
    assert devices.pick_precision("float32", CUDA) == (torch.float32, "asked for")


def test_a_precision_that_is_asked_for_is_taken() -> None:
    assert devices.pick_precision("bfloat16", CPU) == (torch.bfloat16, "asked for")
    assert devices.pick_precision("float32", CPU) == (torch.float32, "asked for")


# -----------------------------------------------------------------------------
# the lock and the compiler


def test_two_attempts_never_hold_one_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "LOCKS", tmp_path)  # the real lock may be held by an attempt
    with devices.device_lock(CPU):
        with pytest.raises(filelock.Timeout):
            devices.device_lock(CPU).acquire(timeout=0)
        with devices.device_lock(CUDA).acquire(timeout=0):
            assert len(list(tmp_path.iterdir())) == 2
    with devices.device_lock(CPU).acquire(timeout=0) as lock:
        assert lock.is_locked


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
def test_another_user_may_wait_for_the_device_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "LOCKS", tmp_path)
    before = os.umask(0o022)
    try:
        with devices.device_lock(CPU):
            (file,) = tmp_path.iterdir()
            assert stat.S_IMODE(file.stat().st_mode) == 0o666
    finally:
        os.umask(before)


def test_a_compiler_that_is_not_there_is_a_problem_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nowhere/g++")
    problem = devices.compiler_problem(CPU)
    assert problem == "the C++ compiler '/nowhere/g++' was not found (install one, or set CXX)"


@pytest.mark.skipif(os.name != "posix", reason="a shell script as the compiler")
def test_a_compiler_that_fails_is_a_problem_in_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\necho 'fatal: no cmath' >&2\necho 'more' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", f"{compiler} -O2")
    assert devices.compiler_problem(CPU) == f"the C++ compiler '{compiler} -O2' does not work: fatal: no cmath"
    compiler.write_text("#!/bin/sh\nexit 1\n")
    assert devices.compiler_problem(CPU).endswith("does not work: no message")


@pytest.mark.skipif(os.name != "posix", reason="a shell script as the compiler")
def test_a_compiler_that_works_is_no_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/called\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert devices.compiler_problem(CPU) is None
    assert "-c" in (tmp_path / "called").read_text()


def test_cuda_compiles_with_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    assert devices.compiler_problem(CUDA) == "triton is not installed"
    monkeypatch.setitem(sys.modules, "triton", ModuleType("triton"))
    assert devices.compiler_problem(CUDA) is None


# -----------------------------------------------------------------------------
# the command


def test_the_command_prints_the_class_and_the_record_as_json(capsys: pytest.CaptureFixture) -> None:
    assert hardware_command.main(hardware_command.Arguments(device="cpu")) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["hardware"] == hardware.hardware_record(CPU).model_dump()
    assert printed["software"] == hardware.software_record().model_dump()
    assert f"{hardware.cores_usable()} cores" in printed["class"]
    assert printed["precision"] == devices.pick_precision_and_kernel("auto", "auto", CPU, None)[2]
    assert printed["precision"].startswith(("bfloat16 (", "float32 ("))
    assert ", kernel " in printed["precision"]


def test_the_command_refuses_a_device_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="there is no tpu device"):
        hardware_command.main(hardware_command.Arguments(device="tpu"))
