"""What many tests need one of: a run of the journal, a batch, a record, a plan of a comparison."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.storage.comparison_schema import Conclusion, PairedPlan, Record, Reproduction, Side
from bench.storage.records import RecordFolder
from bench.storage.schema import Batch, Check, ColdStart, Hardware, Run, Software

ROOT = Path(__file__).resolve().parents[2]

HARDWARE = Hardware(
    cpu="Example CPU",
    cpu_family=6,
    cpu_model=143,
    cpu_stepping=8,
    amx_bf16=True,
    avx512_bf16=True,
    cores=2,
    cores_physical=1,
    memory_bytes=8 * 2**30,
    gpu=None,
)
SOFTWARE = Software(python="3.11.7", torch="2.13.0+cpu", cuda=None, platform="Linux x86_64")


def example_run(**changes: Any) -> Run:
    """A solved run of `add3-cpu`; `changes` replace whole values, under the names that stand in the journal's line."""
    values = {
        "run_id": "20260131-235959-add3-cpu-1a2b3c",
        "batch": None,
        "judge": "harness",
        "track": "add3",
        "config": "add3-cpu",
        "settings": {"track": "add3", "num_steps": 700, "level_share": 1.0, "compile": False},
        "config_hash": "c" * 64,
        "seed": 7,
        "outcome": "solved",
        "message": None,
        "note": None,
        "device": "cpu",
        "precision": "bfloat16",
        "compiled": False,
        "threads": 2,
        "seconds": example_seconds(),
        "clock_resolution_seconds": 0.01,
        "display_seconds": 0.001,
        "steps": 700,
        "examples": 358_400,
        "parameters": 200_832,
        "train_flops": None,
        "checks": [{"step": 700, "train_seconds": 20.0, "loss": 0.0001, "errors": 0}],
        "reached": {"99%": 12.0, "sample80": 15.0, "heldout": 20.0, "solved": 20.0},
        "certificate": example_certificate(),
        "peak_memory_bytes": 2**30,
        "peak_device_memory_bytes": None,
        "energy_joules": None,
        "machine": {"class": "Example CPU", "clean": None, "reasons": []},
        "hardware": HARDWARE.model_dump(),
        "software": SOFTWARE.model_dump(),
        "source_sha256": "a" * 64,
        "harness_sha256": "b" * 64,
        "data_sha256": {"train": "d" * 64, "heldout": "e" * 64},
        "commit": "f" * 40,
        "dirty": False,
        "weights": "weights/20260131-235959-add3-cpu-1a2b3c.safetensors",
        "weights_sha256": "9" * 64,
        "search": None,
        "started_at": datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC),
    }
    return Run.model_validate(values | changes)


def example_seconds(**changes: float | None) -> dict[str, float | None]:
    """The phases of a run, and their total unless it is among the changes."""
    seconds = {"import": 2.0, "setup": 1.0, "warmup": 0.5, "train": 20.0, "certify": 3.0} | changes
    return {"total": sum(value or 0.0 for value in seconds.values())} | seconds


def example_check(step: int, errors: int, **changes: Any) -> Check:
    """A check of 100 training problems, a second of `train` for each 100 steps."""
    return Check(**{"step": step, "train_seconds": step / 100, "loss": 0.5, "errors": errors, "asked": 100} | changes)


def batch_runs(
    name: str,
    trains: Sequence[float],
    outcome: Callable[[int], str] = lambda i: "solved",
    planned: int | None = None,
    command: str = "speedrun",
    **changes: Any,
) -> list[Run]:
    """A batch with these seconds of `train`, each with 5 s more in total; `outcome` is asked for each index.

    Every batch has the same seeds in a row. Batches of unlike names are those of unlike contestants, unless `changes`
    gives them one `config_hash`.
    """
    config_hash = changes.setdefault("config_hash", name)
    changes.setdefault("settings", {"track": "add3", "variant": config_hash})
    return [
        example_run(
            run_id=f"{name}-{i}",
            batch=Batch(id=name, command=command, planned=planned or len(trains), index=i),
            seconds=example_seconds(train=train, total=train + 5, **{"import": 0.5}),
            outcome=outcome(i),
            config=name,
            seed=7 + i,
            **changes,
        )
        for i, train in enumerate(trains)
    ]


def example_certificate(errors: int = 0, **changes: Any) -> dict[str, Any]:
    """A certificate of `add3` with all errors among the training problems that carry once."""
    groups = {"carry 0": 166_375, "carry 1": 358_875, "carry 2": 338_625, "carry 3": 136_125, "100..999": 810_000}
    values = {
        "problems": 1_000_000,
        "errors": errors,
        "heldout_problems": 99_771,
        "heldout_errors": 0,
        "groups": {
            name: {"problems": problems, "errors": errors if name == "carry 1" else 0}
            for name, problems in groups.items()
        },
        "samples": {"sample80": {"problems": 80, "errors": 0}},
        "exhaustive": True,
        "error_rate_upper_95": errors / 1_000_000,
        "smallest_margin": -1.0 if errors else 3.0,
    }
    return values | changes


def example_record(**changes: Any) -> RecordFolder:
    """A record of `add3` by `train`, whose folder nobody has made."""
    run = example_run()
    values = {
        "name": "2026-01-31-add3-cpu-train",
        "track": run.track,
        "clock": "train",
        "machine_class": run.machine.class_,
        "device": run.device,
        "config": run.config,
        "settings": run.settings,
        "config_hash": run.config_hash,
        "source_sha256": run.source_sha256,
        "harness_sha256": run.harness_sha256,
        "commit": run.commit,
        "batch": "batch",
        "result": {
            "attempts": 10,
            "solved": 10,
            "clean": 10,
            "ert_train_seconds": 20.0,
            "ert_total_seconds": 27.0,
        },
        "predecessor": None,
        "predecessor_result": None,
        "ert_ratio": None,
        "ert_ratio_95": None,
        "p_value": None,
        "noisy": False,
        "median_run": run.run_id,
        "weights_sha256": run.weights_sha256,
        "parameters": run.parameters,
        "started_at": run.started_at,
    }
    record = Record.model_validate(values | changes)
    return RecordFolder(record, Path("records") / record.name)


def example_reproduction(reason: str | None = None) -> Reproduction:
    """A replay that reproduced its record, or for this reason did not: then one of ten attempts was not certified."""
    values = {
        "batch": "replay",
        "machine_class": "Example CPU",
        "harness_sha256": "0" * 64,
        "result": example_record().record.result,
        "certified": 9 if reason else 10,
        "ert_ratio": 1.0,
        "ert_ratio_95": (0.9, 1.1),
        "reproduced": reason is None,
        "reason": reason,
        "started_at": "2027-01-31T00:00:00Z",
    }
    return Reproduction.model_validate(values)


def example_side(
    name: str = "now",
    record: str | None = None,
    source: str = "a" * 64,
    commit: str | None = "f" * 40,
    dirty: bool | None = False,
    **settings: Any,
) -> Side:
    """A contestant of an agenda, with a few settings."""
    shown: dict[str, Any] = {"track": "add3", "muon_iterations": 5, "compile": False}
    return Side(
        name=name,
        record=record,
        config=name,
        settings=shown | settings,
        config_hash="c" * 64,
        source_sha256=source,
        harness_sha256="b" * 64,
        commit=commit,
        dirty=dirty,
    )


def example_agenda(day: int = 1, **changes: Any) -> PairedPlan:
    """Ten pairs, undertaken on that day of January."""
    values: dict[str, Any] = {
        "id": f"comparison-{day}",
        "command": "compare",
        "number": 1,
        "track": "add3",
        "clock": "train",
        "device": "cpu",
        "machine_class": "Example CPU",
        "pairs": 10,
        "seeds": list(range(10)),
        "first": ["a"] * 10,
        "a": example_side("new", muon_iterations=3),
        "b": example_side(),
        "started_at": datetime(2026, 1, day, tzinfo=UTC),
    }
    return PairedPlan(**values | changes)


def example_conclusion(
    of: PairedPlan, verdict: str = "slower", solved: tuple[int, int] = (10, 10), **changes: Any
) -> Conclusion:
    """The result of a comparison of ten pairs, with the number of solved attempts of side a and side b."""
    sides = [
        {"attempts": 10, "solved": count, "clean": 10, "ert_train_seconds": 20.0, "ert_total_seconds": 27.0}
        for count in solved
    ]
    values: dict[str, Any] = {
        "id": of.id,
        "verdict": verdict,
        "p_value": 0.0123,
        "ert_ratio": 1.25,
        "ert_ratio_95": (1.1, 1.4),
        "drift": None,
        "pairs_needed": None,
        "a": sides[0],
        "b": sides[1],
    }
    return Conclusion(**values | changes)


def example_cold_start(**changes: Any) -> ColdStart:
    values: dict[str, Any] = {
        "machine_class": "Example CPU, 2 cores",
        "config": "add3-cpu",
        "source_sha256": "a" * 64,
        "attempts": 3,
        "cold_total_seconds": 4.0,
        "warm_total_seconds": 1.5,
        "measured_at": datetime(2026, 1, 31, tzinfo=UTC),
    }
    return ColdStart(**values | changes)
