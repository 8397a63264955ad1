"""Plans: how the command line, the config and the machine determine an attempt, and which requests are refused."""

import os
import tempfile
from dataclasses import fields, replace

import pytest

from bench.attempt.plan import make_plan
from bench.attempt.request import check_request
from bench.config import config_toml, current_names, normal_value
from bench.errors import UsageError
from bench.processes import BATCH_VARIABLE
from bench.provenance import config_hash, first_seed, source_sha256
from bench.storage.journal import Journal
from settings import Settings
from tests.support.examples import ROOT


def plan_of(*arguments):
    return make_plan(Settings, ["--device", "cpu", *arguments], "")


def test_the_default_is_the_config_of_add3_for_the_device():
    plan = plan_of()
    assert (plan.config, plan.track.name, plan.device.type) == ("add3-cpu", "add3", "cpu")
    assert plan.settings.device == "cpu"
    assert plan.settings.precision in ("float32", "bfloat16")
    assert plan.settings.threads >= 1


def test_the_command_line_overrides_the_file_and_the_file_its_base(tmp_path):
    (tmp_path / "parent.toml").write_text("batch_size = 8\nnum_steps = 9\n")
    (tmp_path / "child.toml").write_text('base = "parent"\nnum_steps = 10\nn_head = 2\n')
    plan = plan_of("--config", str(tmp_path / "child.toml"), "--n-head", "4")
    assert plan.config == "child"
    assert (plan.settings.batch_size, plan.settings.num_steps, plan.settings.n_head) == (8, 10, 4)


def test_every_shipped_config_makes_a_plan(tmp_path):
    book = tmp_path / "book.txt"
    book.write_text("".join(f"{n} {n * n} {n * n % 1009}\n" for n in range(5000)))
    for path in (ROOT / "bench" / "configs").glob("*.toml"):
        if not path.stem.endswith("-cuda"):
            file = [f"track_settings.file={book}"] if path.stem.startswith("text") else []
            assert plan_of("--config", path.stem, *file).config == path.stem


def test_a_text_is_planned_with_its_hash_and_that_of_its_merges_and_no_path(tmp_path, monkeypatch):
    book = tmp_path / "book.txt"
    book.write_text("".join(f"{n} {n * n} {n * n % 1009}\n" for n in range(500)))
    monkeypatch.chdir(tmp_path)  # a relative path is relative to the current folder
    options = "--config", "text", "track_settings.tokens=bpe", "track_settings.vocabulary=300"
    plan = plan_of(*options, "track_settings.file=book.txt")
    settings = plan.settings_dict
    assert settings["track_settings.file"].startswith("sha256:")
    assert settings["track_settings.merges"][:8] == plan.track.name.rpartition("-")[2]
    assert "book" not in repr((settings, plan.overrides, plan.track.name))
    assert set(plan.overrides) == {f"track_settings.{key}" for key in ("file", "vocabulary")}
    assert plan.track.tokenizer_seconds > 0
    config = tmp_path / "again.toml"
    config.write_text(config_toml(settings))
    again = plan_of("--config", str(config))  # as `show --settings` writes it: the text was read by this process
    assert (again.config_hash, again.seed, again.track.name) == (plan.config_hash, plan.seed, plan.track.name)
    in_bytes = plan_of("--config", "text", "track_settings.file=book.txt", "track_settings.tokens=bytes")
    assert len(in_bytes.track.vocabulary) == 256
    assert in_bytes.settings.track_settings["vocabulary"] == 0
    own = tmp_path / "own.toml"
    own.write_text('base = "text"\n[track_settings]\nfile = "book.txt"\ntokens = "bpe"\nvocabulary = 300\n')
    assert plan_of("--config", str(own)).overrides == {}
    assert plan_of("--config", str(own)).config_hash == plan.config_hash


def test_a_text_without_a_file_is_refused_with_what_to_write():
    with pytest.raises(UsageError, match=r"track_settings\.file is missing: name a file of text"):
        plan_of("--config", "text")


def test_the_default_seed_is_derived_from_config_and_source():
    plan = plan_of()
    assert plan.seed == first_seed(plan.config_hash, source_sha256())
    assert 0 <= plan.seed < 2**31
    assert plan_of("--num-steps", "9").seed != plan.seed
    assert plan_of("--seed", "5").seed == 5


def test_neither_seed_nor_paths_change_the_config_hash(tmp_path):
    same = plan_of("--seed", "5", "--results", str(tmp_path), "--note", "x", "--json", "--shared", "--no-journal")
    assert same.config_hash == plan_of().config_hash
    assert plan_of("--batch-size", "7").config_hash != same.config_hash


def test_an_attempt_reads_its_batch_from_the_environment(monkeypatch):
    assert plan_of().batch is None
    monkeypatch.setenv(BATCH_VARIABLE, '{"id": "b", "command": "speedrun", "planned": 3, "index": 1}')
    assert (plan_of().batch.id, plan_of().batch.index) == ("b", 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": -1},
        {"seed": 2**63},
        {"attempts": 0},
        {"attempts": 10**12},
        {"attempts": 3, "seed": 1},
        {"attempts": 3, "journal": False},
    ],
)
def test_invalid_requests_are_refused_in_one_line(changes):
    with pytest.raises(UsageError) as refused:
        check_request(replace(plan_of().request, **changes))
    assert "\n" not in str(refused.value)


def test_results_that_are_not_a_folder_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="not a folder"):
        plan_of("--results", str(tmp_path / "file"))


WRONG = {
    "--batch-size many": "--batch-size",
    "--config nope": "the folder bench/configs lists all",
    "--config ../configs/add3-cpu": "ends in .toml",
    "--config=": "empty",
    "--results -": "'-'",
    "--track qwerty": "`python -m bench tracks` lists all",
    "--seed -1": "--seed",
    "--attempts 0": "--attempts",
    "--attempts 2 --seed 1": "--seed",
    "--track add99": "add9",
    "--track add4 --control shuffle": "add4 has too many",
    "--threads 100000": "cores",
    "--num-steps 99999999999999999999": "num_steps",
    "--max-seconds nan": "max_seconds",
    "--results=": "--results",
    "stray": "stray",
}


@pytest.mark.parametrize("options", WRONG)
def test_a_wrong_command_line_is_refused_in_one_line_that_names_the_fault(options):
    with pytest.raises(UsageError) as refused:
        plan_of(*options.split())
    assert WRONG[options] in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_machine_without_a_folder_for_temporary_files_is_told_the_way_out(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nowhere"])
    with pytest.raises(UsageError, match="set TMPDIR"):
        make_plan(Settings, ["--device", "cpu"], "")


def test_equal_settings_are_one_configuration_however_they_are_written(tmp_path):
    hashes, seeds = set(), set()
    for limit, decay in (("600.0", "0.0"), ("600", "0"), ("6e2", "-0.0")):
        (tmp_path / "same.toml").write_text(f"max_seconds = {limit}\nadam_weight_decay = {decay}\n")
        plans = [
            plan_of("--config", str(tmp_path / "same.toml")),
            plan_of("--max-seconds", limit, f"--adam-weight-decay={decay}", "--config", str(tmp_path / "same.toml")),
        ]
        for plan in plans:
            assert str(plan.settings.max_seconds) == "600.0"
            assert str(plan.settings.adam_weight_decay) == "0.0"
            hashes.add(plan.config_hash)
            seeds.add(plan.seed)
    assert len(hashes) == len(seeds) == 1


def test_the_normal_form_leaves_the_hashes_of_all_filed_runs_as_they_are():
    runs, _ = Journal(ROOT / "results").read()
    settings = {run.config_hash: run.settings for run in runs}.values()
    floats = {field.name for field in fields(Settings) if field.type in (float, "float")}
    for values in settings:
        normal = {key: normal_value(value, key in floats) for key, value in current_names(values).items()}
        assert config_hash(normal) == config_hash(values)


@pytest.mark.parametrize("option", ["--attempts 1", "--shared", "--seed 1", "--help", "--note x", "--no-journal"])
def test_a_matrix_may_ask_for_settings_alone(option):
    with pytest.raises(UsageError, match="is not a setting but an option"):
        make_plan(Settings, option.split(), "", settings_only=True)
    with pytest.raises(UsageError, match="'bach_size' is not a setting; the nearest is 'batch_size'"):
        make_plan(Settings, ["--bach-size", "8"], "", settings_only=True)
    plan = make_plan(Settings, ["--config", "add3-cpu", "--no-compile", "--survey-climbs", "1"], "", settings_only=True)
    assert plan.settings_dict["hard_search_steps"] == 1


def test_a_plan_says_what_the_command_line_changed(tmp_path):
    (tmp_path / "mine.toml").write_text("batch_size = 64\nmax_seconds = 600\n")
    path = str(tmp_path / "mine.toml")
    assert plan_of("--config", path, "--batch-size", "64", "--max-seconds", "600", "--seed", "3").overrides == {}
    changed = plan_of("--config", path, "--batch-size", "32", "--survey-climbs", "2", "--compile")
    assert changed.overrides == {"batch_size": 32, "hard_search_steps": 2, "compile": True}


def test_float16_without_a_gradient_scaler_says_what_happens():
    def shown(*options):
        return plan_of("--precision", "float16", "--kernel", "torch", *options).remark

    assert "float16 (requested; without grad_scaler small gradients are 0)" in shown()
    assert "float16 (requested)" in shown("--grad-scaler")


def test_a_text_on_the_command_line_is_never_read_as_no_text():
    assert plan_of("--note", "None").request.note == "None"
    assert plan_of().request.note is None


def test_a_path_that_no_weights_can_be_saved_in_is_refused_at_the_start():
    with pytest.raises(UsageError, match="is not UTF-8"):
        plan_of("--results", os.fsdecode(b"/tmp/\xff"))


def test_a_tilde_in_a_path_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "MINE.TOML").write_text("batch_size = 8\n")
    plan = plan_of("--config=~/MINE.TOML", "--results=~/results")
    assert (plan.config, plan.settings.batch_size) == ("MINE", 8)
    assert plan.request.results == tmp_path / "results"
