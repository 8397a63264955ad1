"""`python -m bench record`, with a fake trainer."""

import hashlib
import json
import tomllib
import zipfile
from types import SimpleNamespace
from typing import Any

import pytest

from bench import config
from bench.commands import board, record
from bench.errors import UsageError
from bench.machine.noise import Noise, NoiseMonitor
from bench.provenance import first_seed
from bench.storage.records import find_record, read_records
from bench.storage.results import paired_plans_file
from tests.support.arena import arena_in, entered, recertification
from tests.support.repositories import commit_all


def run_record(arena, config="fast", clock="train", **changes):
    return record.main(record.Arguments(config=config, clock=clock, results=arena.results, **changes))


def records(arena):
    found, faults = read_records(arena.results)
    assert faults == []
    return found


def test_the_first_record_needs_no_opponent(arena, capsys):
    assert run_record(arena) == 0
    (first,) = records(arena)
    assert first.record.predecessor is None
    assert (first.record.result.attempts, first.record.result.solved, first.record.result.clean) == (10, 10, 10)
    last_line = capsys.readouterr().out.splitlines()[-1]
    assert last_line.startswith(f"record {first.record.name}, first of its class, compared with nothing: batch ")


def test_the_seeds_were_drawn_into_the_plan_and_do_not_follow_from_config_and_source(recorded):
    runs = recorded.attempts()
    (plan,) = paired_plans_file(recorded.results).read()[0]
    assert [run.seed for run in runs] == plan.seeds
    derived = first_seed(runs[0].config_hash, runs[0].source_sha256)
    assert not {derived + index for index in range(10)} & {run.seed for run in runs}


def test_the_folder_holds_everything_needed_to_check_the_record(recorded):
    (first,) = records(recorded)
    assert {path.name for path in first.folder.iterdir()} == {
        "record.json", "config.toml", "source.zip", "weights.safetensors", "README.md",
    }  # fmt: skip
    assert tomllib.loads(first.config.read_text()) == first.record.settings
    assert hashlib.sha256(first.weights.read_bytes()).hexdigest() == first.record.weights_sha256
    with zipfile.ZipFile(first.folder / "source.zip") as packed:
        names = {*packed.namelist()}
        assert {
            "speedrun.py",
            "model.py",
            "data.py",
            "bench/attempt/lifecycle.py",
            "bench/report/templates/leaderboard.md.jinja",
        } <= names
        assert packed.read("speedrun.py") == recorded.script.read_bytes()


def test_the_weights_are_those_of_the_median_attempt(recorded):
    (first,) = records(recorded)
    runs = sorted(recorded.attempts(), key=lambda run: run.seconds.train)
    assert first.record.median_run == runs[4].run_id
    assert first.weights.read_text() == runs[4].run_id


def test_a_record_is_filed_only_when_its_weights_are_confirmed_in_another_process(arena, monkeypatch, capsys):
    """The attempts stand, and running the command again repeats none of them."""
    with monkeypatch.context() as patch:
        patch.setattr("bench.judge.recertify.recertify", lambda path, seed: recertification(path.exists()))
        assert run_record(arena) == 1
    calls, first = arena.calls(), arena.attempts()[0]
    last_line = capsys.readouterr().out.splitlines()[-1]
    assert last_line.startswith(f"no record: {first.run_id}: 1 error by today's certificate; ")
    assert records(arena) == []
    assert run_record(arena) == 0
    assert len(records(arena)) == 1
    assert arena.calls() == calls


@pytest.fixture(scope="module")
def beaten(tmp_path_factory):
    """An arena in which `fast` has beaten the record of `slow`."""
    with arena_in(tmp_path_factory.mktemp("beaten")) as arena:
        run_record(arena, "slow")
        assert run_record(arena, "fast") == 0
    return arena


def test_a_faster_config_beats_the_standing_record_in_pairs(beaten):
    arena = beaten
    old, new = records(arena)
    assert new.record.predecessor == old.record.name
    assert new.record.ert_ratio == pytest.approx(0.75, abs=0.03)
    assert new.record.ert_ratio_95[0] < new.record.ert_ratio < new.record.ert_ratio_95[1]
    assert new.record.p_value < new.record.level == 0.025
    assert new.record.number == 1
    assert new.record.predecessor_result.attempts == 10
    runs = [run for run in arena.attempts() if run.batch.id == new.record.batch]
    assert {(run.batch.side, run.config) for run in runs} == {("a", "fast"), ("b", "slow")}
    assert {run.commit for run in runs} == {"f" * 40}, "the snapshot's commit is known"
    readme = (new.folder / "README.md").read_text()
    assert "comparison number 1 against the settings and source of that record, so p had to be at most 0.025." in readme
    assert "- `behaviour: slow → fast`" in readme
    assert old.record.name in readme


@pytest.mark.slow
def test_the_reason_is_in_the_readme_and_in_the_history(arena):
    run_record(arena, "slow")
    assert run_record(arena, "fast", why="a * b") == 0
    _, new = records(arena)
    assert r"a \* b" in (new.folder / "README.md").read_text()
    faster = (arena.results / "NEGATIVE.md").read_text().split("## Faster")[1]
    assert r"a \* b" in faster
    assert f"[{new.record.name}](records/{new.record.name}/README.md)" in faster
    assert f"against the standing record {new.record.predecessor}" in faster


def test_a_slower_batch_is_not_a_record(arena, capsys):
    run_record(arena, "fast")
    assert run_record(arena, "slow", why="too good to be true") == 1
    assert "too good to be true" in (arena.results / "NEGATIVE.md").read_text().split("## Faster")[0]
    assert len(records(arena)) == 1
    assert "no record: the verdict against the standing record is" in capsys.readouterr().out


def test_a_batch_that_solved_nothing_is_not_a_record(arena, capsys):
    arena.behave(hopeless={"solves": 0.0})
    assert run_record(arena, "hopeless") == 1
    assert records(arena) == []
    assert "no attempt solved the track" in capsys.readouterr().out


@pytest.mark.slow
def test_a_standing_record_that_no_longer_runs_is_not_beaten(arena, capsys):
    run_record(arena, "slow")
    arena.behave(slow={"dies": "late"})
    assert run_record(arena, "fast") == 1
    assert "the standing record solved nothing here" in capsys.readouterr().out


def test_each_clock_and_machine_class_has_its_own_record(arena):
    run_record(arena, "fast", "train")
    arena.behave(elsewhere={"train": 20.0, "class": "Another CPU"})
    run_record(arena, "elsewhere", "total")
    assert [each.record.predecessor for each in records(arena)] == [None, None]
    assert len({each.record.name for each in records(arena)}) == 2


# -----------------------------------------------------------------------------
# errors


def test_uncommitted_source_is_an_error(arena):
    template = json.loads((arena.root / "template.json").read_text())
    (arena.root / "template.json").write_text(json.dumps(template | {"dirty": True}))
    with pytest.raises(UsageError, match="has changes that are not committed"):
        run_record(arena)
    assert arena.calls() == []


def test_a_noisy_machine_needs_noisy_and_the_record_says_so(arena, monkeypatch):
    monkeypatch.setattr(NoiseMonitor, "observe", lambda self, seconds: Noise(0.3, 0.0, ["other processes took 30%"]))
    with pytest.raises(UsageError, match=r"not quiet: other processes took 30%.*--noisy"):
        run_record(arena)
    assert arena.calls() == []
    template = json.loads((arena.root / "template.json").read_text())
    machine = template["machine"] | {"clean": False, "reasons": ["other processes took 30% during train"]}
    (arena.root / "template.json").write_text(json.dumps(template | {"machine": machine}))
    assert run_record(arena, noisy=True) == 0
    (first,) = records(arena)
    assert first.record.noisy
    assert "The machine was not quiet: 10 of 10" in (first.folder / "README.md").read_text()
    assert "| 0/10 (noisy) |" in (arena.results / "LEADERBOARD.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("noisy", [False, True])
def test_attempts_on_a_machine_that_became_noisy_count_against_the_challenger_unless_noise_was_announced(
    arena, capsys, noisy
):
    run_record(arena, "slow")
    template = json.loads((arena.root / "template.json").read_text())
    machine = template["machine"] | {"clean": False, "reasons": ["other processes took 30% during train"]}
    (arena.root / "template.json").write_text(json.dumps(template | {"machine": machine}))
    assert run_record(arena, noisy=noisy) == (0 if noisy else 1)
    assert len(arena.attempts()) == 10 + (20 if noisy else 30)
    assert [each.record.noisy for each in records(arena)] == ([False, True] if noisy else [False])
    assert ("15 pairs do not count" in capsys.readouterr().out) == (not noisy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pairs": 9}, "at least 10"),
        ({"config": "faster"}, "'faster'"),
        ({"name": "a/b"}, "--name"),
        ({"why": " "}, "--why"),
    ],
)
def test_a_usage_error_leaves_no_files(arena, changes, message):
    with pytest.raises(UsageError, match=message):
        run_record(arena, **changes)
    assert not arena.results.exists()


def test_a_record_cannot_be_recorded_again(recorded_arena):
    arena = recorded_arena
    (first,) = records(arena)
    with pytest.raises(UsageError, match="is a record already"):
        run_record(arena, first.record.name)
    with pytest.raises(UsageError, match="are the standing record"):
        run_record(arena)


def test_a_record_in_the_project_s_own_results_needs_a_reason(arena):
    with pytest.raises(UsageError, match=r"add --why .*, or --results DIR"):
        record.main(record.Arguments(config="fast", clock="train"))
    assert arena.calls() == []


# -----------------------------------------------------------------------------
# the default config and the board


def test_a_record_by_total_becomes_the_default_config_and_one_by_train_does_not(arena, capsys):
    default = arena.root / "bench" / "configs" / "add3-cpu.toml"
    before = default.read_text()
    run_record(arena, "slow", "train")
    assert default.read_text() == before
    commit_all(arena.root)
    run_record(arena, "fast", "total")
    assert tomllib.loads(default.read_text()) == {"track": "add3", "behaviour": "fast"}
    out = capsys.readouterr().out
    assert "add3-cpu.toml is now fast" in out
    files = out.partition("please commit these files:\n")[2].splitlines()[:-1]
    assert {"  bench/configs/add3-cpu.toml", "  results/runs.jsonl", "  results/LEADERBOARD.md"} <= set(files)


def test_only_a_record_in_the_project_s_own_results_changes_a_default_config(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "CONFIGS", tmp_path / "bench" / "configs")
    assert record.is_own(tmp_path / "bench" / ".." / "results")
    assert not record.is_own(tmp_path / "play")


def test_a_new_default_config_leaves_the_kernel_to_the_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "CONFIGS", tmp_path)
    monkeypatch.setattr(record, "find_config", lambda name, device: (name, tmp_path / "mine.toml"))
    monkeypatch.setattr(
        record, "merged_values", lambda path, check, device: {"track": "add3", "kernel": "c", "threads": 2}
    )
    new: Any = SimpleNamespace(
        track="add3", device="cpu", config="mine", name="2026-11-24-add3-mine", settings={"track": "add3"}
    )
    record.make_default("mine", new)
    assert tomllib.loads((tmp_path / "add3-cpu.toml").read_text()) == {"track": "add3", "kernel": "auto"}


@pytest.mark.parametrize(
    ("config", "end"), [("moddiv-97", "train"), ("moddiv-97-big", "big-train"), ("my", "my-train")]
)
def test_the_name_of_a_record_names_its_track_once(config, end, tmp_path):
    plan: Any = SimpleNamespace(track="moddiv-97", clock="train", a=SimpleNamespace(config=config))
    arguments = record.Arguments(config, "train", results=tmp_path)
    assert record.new_record_name(arguments, plan).partition("moddiv-97-")[2] == end


def test_a_default_config_for_all_devices_is_replaced_on_the_device_of_the_record(tmp_path, monkeypatch):
    for module in (record, config):
        monkeypatch.setattr(module, "CONFIGS", tmp_path)
    settings = {"track": "moddiv", "track_settings.p": 97, "batch_size": 7}
    new: Any = SimpleNamespace(track="moddiv-97", device="cpu", config="moddiv-97", name="x", settings=settings)
    for name in ("moddiv-97", "mine"):
        (tmp_path / f"{name}.toml").write_text('track = "moddiv"\n')
    assert not record.make_default("moddiv-97", new)  # it is the default already
    new.config = "mine"
    assert record.make_default("mine", new)
    assert config.find_config("moddiv-97", "cpu")[1] == record.default_file(new)
    assert config.find_config("moddiv-97", "cuda")[0] == "moddiv-97"


def test_the_board_shows_records_with_predecessor_gain_and_interval(beaten):
    arena = beaten
    old, new = records(arena)
    text = (arena.results / "LEADERBOARD.md").read_text()
    (row,) = [line for line in text.splitlines() if line.startswith(f"| [{new.record.name}]")]
    low, high = new.record.ert_ratio_95
    assert old.record.name in row
    assert f"{new.record.ert_ratio:.3f} [{low:.3f}, {high:.3f}]" in row
    assert list((arena.results / "plots").glob("*.svg"))
    with pytest.MonkeyPatch.context() as patch, entered(arena, patch):
        assert board.main(board.Arguments(results=arena.results, check=True)) == 0


def test_the_batch_of_a_record_is_ranked(recorded):
    assert "| 1 | fast |" in (recorded.results / "LEADERBOARD.md").read_text()


def test_a_damaged_snapshot_is_an_error(arena):
    run_record(arena, "slow")
    (first,) = records(arena)
    with zipfile.ZipFile(first.folder / "source.zip", "a") as packed:
        packed.writestr("optim.py", "print('not ours')\n")
    with pytest.raises(UsageError, match="holds another source"):
        run_record(arena, "fast")
    (first.folder / "source.zip").write_bytes(b"not a zip")
    with pytest.raises(UsageError, match="cannot be unpacked"):
        run_record(arena, "fast")


def test_a_record_is_found_by_name_and_by_folder_and_an_error_names_the_nearest(recorded):
    (first,) = records(recorded)
    assert find_record(first.record.name, recorded.results) == find_record(str(first.folder), recorded.results) == first
    with pytest.raises(UsageError, match=f"nearest is '{first.record.name}'"):
        find_record(first.record.name[:-1], recorded.results)
