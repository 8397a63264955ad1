"""The journal's line of a run: its keys, round trips, and values that are refused."""

import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bench.storage import schema
from bench.storage.comparison_schema import Record
from bench.storage.results import conclusions_file, paired_plans_file
from bench.storage.schema import Batch, Machine, Run, new_id
from tests.support.examples import (
    HARDWARE,
    example_agenda,
    example_certificate,
    example_record,
    example_run,
    example_seconds,
)

# The journal keys that scripts may rely on, copied by hand from the documented contract.
KEYS = [
    "schema",
    "run_id",
    "batch",
    "track",
    "config",
    "settings",
    "config_hash",
    "seed",
    "outcome",
    "message",
    "note",
    "device",
    "precision",
    "compiled",
    "threads",
    "seconds",
    "steps",
    "examples",
    "parameters",
    "train_flops",
    "checks",
    "reached",
    "certificate",
    "peak_memory_bytes",
    "peak_device_memory_bytes",
    "energy_joules",
    "machine",
    "hardware",
    "software",
    "source_sha256",
    "harness_sha256",
    "data_sha256",
    "commit",
    "dirty",
    "weights",
    "weights_sha256",
    "search",
    "started_at",
]
OUTCOMES = ["solved", "missed", "diverged", "timeout", "interrupted", "error", "lost", "pruned"]

finite = st.floats(allow_nan=False, allow_infinity=False)
amounts = st.floats(0, 1e12)
plain = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | finite | st.text()
values = st.recursive(plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))
counts = st.fixed_dictionaries({"problems": st.integers(0, 10**6), "errors": st.integers(0, 10**6)})
runs = st.builds(
    example_run,
    run_id=st.text(min_size=1),
    batch=st.none()
    | st.fixed_dictionaries(
        {"id": st.text(), "command": st.text(), "planned": st.integers(1, 100), "index": st.integers(0, 99)}
    ),
    settings=st.dictionaries(st.text(), plain, max_size=4),
    seed=st.integers(0, 2**63 - 1),
    outcome=st.sampled_from(OUTCOMES),
    message=st.none() | st.text(),
    note=st.none() | st.text(),
    seconds=st.builds(
        example_seconds, train=st.none() | amounts, certify=st.none() | amounts, total=st.none() | amounts
    ),
    energy_joules=st.none() | amounts,
    checks=st.lists(
        st.fixed_dictionaries(
            {
                "step": st.integers(1, 10**6),
                "train_seconds": amounts,
                "loss": st.none() | finite,
                "errors": st.none() | st.integers(0, 10**6),
            }
        ),
        max_size=3,
    ),
    reached=st.dictionaries(st.text(), st.none() | amounts, max_size=3),
    certificate=st.none()
    | st.builds(example_certificate, groups=st.dictionaries(st.text(), counts, max_size=3), exhaustive=st.booleans()),
    machine=st.fixed_dictionaries(
        {"class": st.none() | st.text(), "clean": st.none() | st.booleans(), "reasons": st.lists(st.text(), max_size=2)}
    ),
    hardware=st.none() | st.just(HARDWARE.model_dump()),
    dirty=st.none() | st.booleans(),
    search=st.none() | st.dictionaries(st.text(), values, max_size=2),
    started_at=st.datetimes(min_value=datetime(2020, 1, 1), timezones=st.just(UTC)),
)


@given(runs)
def test_a_run_survives_the_round_trip_through_its_line(run: Run) -> None:
    line = run.model_dump_json()
    assert "\n" not in line
    assert Run.model_validate_json(line) == run
    assert Run.model_validate_json(line).model_dump_json() == line


def test_a_line_has_every_key_of_the_contract() -> None:
    line = json.loads(example_run().model_dump_json())
    assert set(KEYS) <= set(line)
    assert line["schema"] == 1
    assert list(line["seconds"]) == ["import", "setup", "warmup", "train", "certify", "total", "wall"]
    assert {"class", "clean", "reasons"} <= set(line["machine"])
    check_keys = {"step", "train_seconds", "loss", "errors", "asked"}
    assert set(line["checks"][0]) == check_keys | {"squared_norm", "validation", "test", "training"}
    assert set(line["certificate"]) == {
        "problems", "errors", "heldout_problems", "heldout_errors", "groups", "samples", "exhaustive",
        "error_rate_upper_95", "measures", "limits", "may_have_errors", "has_target", "targets",
        "smallest_margin", "margins", "asked_again",
    }  # fmt: skip


def test_unknown_values_are_null() -> None:
    unknown = example_run(
        outcome="lost",
        seconds=dict.fromkeys(example_seconds()),
        steps=None,
        certificate=None,
        hardware=None,
        machine={"class": None, "clean": None, "reasons": []},
        energy_joules=None,
        commit=None,
        dirty=None,
    )
    line = json.loads(unknown.model_dump_json())
    assert set(KEYS) <= set(line)
    for key in ("batch", "steps", "certificate", "hardware", "energy_joules", "commit", "dirty"):
        assert line[key] is None
    assert set(line["seconds"].values()) == {None}
    assert line["machine"]["class"] is None


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_every_outcome_of_the_contract_is_valid(outcome: str) -> None:
    assert json.loads(example_run(outcome=outcome).model_dump_json())["outcome"] == outcome


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "change",
    [
        lambda number: {"energy_joules": number},
        lambda number: {"train_flops": number},
        lambda number: {"seconds": example_seconds(train=number, total=1.0)},
        lambda number: {"checks": [{"step": 1, "train_seconds": 0.5, "loss": number, "errors": None}]},
        lambda number: {"reached": {"99%": number}},
        lambda number: {"certificate": example_certificate(error_rate_upper_95=number)},
    ],
)
def test_a_number_that_is_not_finite_is_refused(change, number: float) -> None:
    with pytest.raises(ValidationError, match="finite"):
        example_run(**change(number))


def test_negative_seconds_are_refused() -> None:
    with pytest.raises(ValidationError):
        example_run(seconds=example_seconds(train=-1.0))


@pytest.mark.parametrize(
    "change",
    [
        {"colour": "red"},
        {"seconds": example_seconds() | {"lunch": 1.0}},
        {"machine": {"class": None, "clean": None, "reasons": [], "host": "x"}},
        {"hardware": HARDWARE.model_dump() | {"host": "x"}},
        {"certificate": example_certificate(verdict="fine")},
        {"batch": {"id": "b", "command": "c", "planned": 2, "index": 0, "of": 2}},
    ],
)
def test_an_unknown_key_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        example_run(**change)


@pytest.mark.parametrize("change", [{"outcome": "won"}, {"schema": 2}, {"seed": "seven"}, {"settings": None}])
def test_an_invalid_value_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        example_run(**change)


def test_ids_are_unique_and_sort_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = {new_id("add3-cpu") for _ in range(200)}
    assert len(ids) == 200

    class Times(datetime):
        hour = 0

        @classmethod
        def now(cls, tz: Any = None) -> Any:
            Times.hour += 7
            return datetime(2026, 1, 31, 16, tzinfo=tz) + timedelta(hours=Times.hour)

    monkeypatch.setattr(schema, "datetime", Times)
    later = [new_id("add3-cpu") for _ in range(20)]
    assert later == sorted(later)
    assert later[0].startswith("20260131-230000-add3-cpu-")


# -----------------------------------------------------------------------------
# properties


def test_the_command_of_a_run_is_that_of_its_batch() -> None:
    batch = Batch(id="b", command="matrix", planned=2, index=0)
    run = example_run(batch=batch)
    assert (run.command, run.batch_of("matrix"), run.batch_of("tune", "matrix")) == ("matrix", batch, batch)
    assert run.batch_of("tune") is None
    single = example_run(batch=None)
    assert (single.command, single.batch_of("matrix"), single.batch_of()) == (None, None, None)


def test_an_unknown_machine_class_has_a_name() -> None:
    unknown = example_run(machine={"class": None, "clean": None, "reasons": []})
    assert (example_run().machine_class_name, unknown.machine_class_name) == ("Example CPU", "unknown machine")


def test_additional_reasons_make_a_machine_not_clean() -> None:
    machine = Machine(class_="x", clean=True, reasons=[])
    assert machine.with_reasons([]) is machine
    noisy = machine.with_reasons(["a"]).with_reasons(["b"])
    assert (noisy.clean, noisy.reasons) == (False, ["a", "b"])


def test_the_expected_time_of_a_record_is_that_of_its_clock_and_infinite_if_nothing_solved() -> None:
    record = example_record().record
    assert record.ert_seconds == 20.0
    assert record.model_copy(update={"clock": "total"}).ert_seconds == 27.0
    unsolved = record.result.model_copy(update={"ert_train_seconds": None})
    assert record.model_copy(update={"result": unsolved}).ert_seconds == math.inf
    assert Record.model_validate_json(record.model_dump_json()) == record


def test_a_paired_plan_names_the_attempts_and_the_seed_of_each_pair() -> None:
    plan = example_agenda(pairs=2, seeds=[7, 8], spare_seeds=[9])
    assert plan.batch(1, "b") == Batch(id=plan.id, command="compare", planned=2, index=1, side="b")
    assert [plan.seed(index) for index in range(3)] == [7, 8, 9]
    batch = plan.model_copy(update={"command": "speedrun"})
    assert batch.batch(0, "a").side is None


def test_plans_and_conclusions_from_before_there_were_levels_still_read() -> None:
    results = Path(__file__).parents[2] / "results"
    for reader in (paired_plans_file(results), conclusions_file(results)):
        lines, faults = reader.read()
        assert faults == []
        assert [line for line in lines if line.level is None]


@pytest.mark.parametrize(
    ("errors", "loss", "may_have_errors", "is_solved"),
    [
        (0, 0.0009, False, True),
        (0, 0.001, False, True),
        (0, 0.0011, False, False),
        (0, None, False, False),
        (1, 0.0001, False, False),
        (1, 0.0001, True, True),
        (1, 0.0011, True, False),
    ],
)
def test_solved_means_measures_within_their_limits_and_no_errors_unless_the_track_allows_them(
    errors: int, loss: float | None, may_have_errors: bool, is_solved: bool
) -> None:
    values = example_certificate(errors, measures={"loss": loss}, limits={"loss": 0.001})
    certificate = schema.Certificate.model_validate(values | {"may_have_errors": may_have_errors})
    assert certificate.is_solved is is_solved
