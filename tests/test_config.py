"""Config files and command lines; every invalid one is refused in one line."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal

import pytest
import tyro
from hypothesis import given
from hypothesis import strategies as st

from bench import config
from bench.cli import parse_arguments, split_option, with_current_option_names
from bench.config import (
    ADDED_SETTINGS,
    RENAMED_SETTINGS,
    check_values,
    config_label,
    current_names,
    find_config,
    former_names,
    read_config,
    settings_key,
)
from bench.errors import UsageError, nearest_hint
from bench.provenance import config_hash
from data import TRACKS
from settings import Settings as TrainerSettings
from tests.support.examples import ROOT


@dataclasses.dataclass(frozen=True)
class Settings:
    """A small version of the trainer's settings."""

    track: str = "add3"
    activation: Literal["gelu", "silu"] = "gelu"
    batch_size: int = 512
    rate: float = 0.5
    compile: bool = False


def hash_of_all(settings: dict) -> str:
    """The hash over settings as they are."""
    canonical = json.dumps(former_names(settings), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Whole:
    request: tyro.conf.OmitArgPrefixes[Settings]
    note: Annotated[str | None, tyro.conf.Suppress] = None


@dataclasses.dataclass(frozen=True)
class Positional:
    file: Annotated[str, tyro.conf.Positional]


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in the place of bench/configs."""
    monkeypatch.setattr(config, "CONFIGS", tmp_path)
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def refused(function, *arguments) -> str:
    """The message of the UsageError, which is one line."""
    with pytest.raises(UsageError) as problem:
        function(*arguments)
    message = str(problem.value)
    assert message
    assert "\n" not in message
    return message


# -----------------------------------------------------------------------------
# files


def test_a_file_gives_only_the_values_that_it_sets(tmp_path: Path) -> None:
    path = write(tmp_path / "a.toml", '# why\nactivation = "silu"\nbatch_size = 64\nrate = 1.5\ncompile = true\n')
    assert read_config(path, Settings) == {"activation": "silu", "batch_size": 64, "rate": 1.5, "compile": True}
    assert read_config(write(tmp_path / "b.toml", ""), Settings) == {}


def test_the_values_of_a_file_override_those_of_its_bases(tmp_path: Path) -> None:
    write(tmp_path / "ground.toml", 'track = "add2"\nbatch_size = 1\nrate = 0.1\n')
    write(tmp_path / "middle.toml", 'base = "ground"\nbatch_size = 2\nactivation = "silu"\n')
    path = write(tmp_path / "top.toml", 'base = "middle"\nbatch_size = 3\n')
    assert read_config(path, Settings) == {"track": "add2", "rate": 0.1, "activation": "silu", "batch_size": 3}


def test_a_base_may_be_a_path_relative_to_the_file_that_names_it(tmp_path: Path) -> None:
    write(tmp_path / "ground.toml", "batch_size = 1\n")
    path = write(tmp_path / "folder" / "top.toml", 'base = "../ground.toml"\n')
    assert read_config(path, Settings) == {"batch_size": 1}


def test_a_base_may_be_the_name_of_a_config_of_the_project(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(config, "CONFIGS", tmp_path / "configs")
    write(tmp_path / "configs" / "ground.toml", "batch_size = 1\nrate = 0.1\n")
    path = write(tmp_path / "top.toml", 'base = "ground"\nrate = 0.2\n')
    assert read_config(path, Settings) == {"batch_size": 1, "rate": 0.2}
    write(tmp_path / "ground.toml", "batch_size = 2\n")  # a file in the same folder takes precedence
    assert read_config(path, Settings) == {"batch_size": 2, "rate": 0.2}


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_cycle_of_bases_is_refused(length: int, tmp_path: Path) -> None:
    for i in range(length):
        write(tmp_path / f"{i}.toml", f'base = "{(i + 1) % length}"\n')
    assert "in a circle" in refused(read_config, tmp_path / "0.toml", Settings)


def test_two_configs_may_share_a_base(tmp_path: Path) -> None:
    write(tmp_path / "ground.toml", "batch_size = 1\n")
    for name in ("left", "right"):
        path = write(tmp_path / f"{name}.toml", 'base = "ground"\n')
        assert read_config(path, Settings) == {"batch_size": 1}


def test_a_missing_base_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.toml", 'base = "nowhere"\n')
    assert refused(read_config, path, Settings).startswith(f"{path}: base: there is no config 'nowhere'")
    path = write(tmp_path / "b.toml", 'base = "nowhere.toml"\n')
    assert refused(read_config, path, Settings) == f"{path}: base: nowhere.toml: there is no such file"
    path = write(tmp_path / "c.toml", 'base = "add3-cup"\n')
    assert refused(read_config, path, Settings).endswith("there is no config 'add3-cup'; the nearest is 'add3-cpu'")


def test_a_short_name_of_a_base_means_the_config_of_the_device(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(config, "CONFIGS", tmp_path / "configs")
    write(tmp_path / "configs" / "add3-cpu.toml", "batch_size = 1\n")
    write(tmp_path / "configs" / "add3-cuda.toml", "batch_size = 2\n")
    write(tmp_path / "middle.toml", 'base = "add3"\n')
    path = write(tmp_path / "top.toml", 'base = "middle"\n')
    assert read_config(path, Settings, "cpu") == {"batch_size": 1}
    assert read_config(path, Settings, "cuda") == {"batch_size": 2}


@pytest.mark.parametrize(
    ("key", "meant"), [("batchsize", "batch_size"), ("Track", "track"), ("activaton", "activation"), ("bas", "base")]
)
def test_an_unknown_key_is_refused_with_the_nearest_one(key: str, meant: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.toml", f"{key} = 1\n")
    assert refused(read_config, path, Settings) == f"{path}: unknown key '{key}'; the nearest is '{meant}'"


def test_an_unknown_key_without_a_similar_one_is_refused_with_all_valid_keys(tmp_path: Path) -> None:
    path = write(tmp_path / "a.toml", "zzz = 1\n")
    assert "there are activation, base, batch_size, compile, rate, track" in refused(read_config, path, Settings)


def test_the_message_about_an_unknown_key_of_a_base_names_the_base(tmp_path: Path) -> None:
    base = write(tmp_path / "ground.toml", "zzz = 1\n")
    path = write(tmp_path / "a.toml", 'base = "ground"\n')
    assert refused(read_config, path, Settings).startswith(f"{base}: unknown key 'zzz'")


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('batch_size = "512"', "batch_size"),
        ("batch_size = 512.0", "batch_size"),
        ("batch_size = true", "batch_size"),
        ("compile = 1", "compile"),
        ('rate = "fast"', "rate"),
        ("track = 3", "track"),
        ('activation = "gulu"', "activation"),
        ("batch_size = [1, 2]", "batch_size"),
        ("[track]\nname = 1", "track"),
    ],
)
def test_the_message_about_a_value_of_the_wrong_type_names_its_key(line: str, key: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.toml", f"{line}\n")
    message = refused(read_config, path, Settings)
    assert message.startswith(f"{path}: {key}: input should be ")
    assert ", got " in message


def test_an_integer_is_accepted_as_a_float(tmp_path: Path) -> None:
    assert read_config(write(tmp_path / "a.toml", "rate = 2\n"), Settings) == {"rate": 2}


@pytest.mark.parametrize(
    "content", [b"batch_size =", b"= 1", b"[a\n\n[b", b"a = 1\na = 2", b"\xff\xfe\x00", b'a = """']
)
def test_the_message_about_invalid_toml_names_the_file(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(content)
    assert refused(read_config, path, Settings).startswith(f"{path}: ")


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert "a.toml" in refused(read_config, tmp_path / "a.toml", Settings)


@given(st.text(min_size=1), st.one_of(st.text(), st.integers(), st.lists(st.integers(), max_size=2)))
def test_any_invalid_value_is_refused_in_one_line(where: str, value: object) -> None:
    where = " ".join(where.split())
    message = refused(check_values, {"activation": value}, Settings, where)
    assert message.startswith(f"{where}: activation: ")


# -----------------------------------------------------------------------------
# names


def test_a_short_name_is_resolved_by_the_device(configs: Path) -> None:
    for name in ("add3-cpu", "add3-cuda", "tiny"):
        write(configs / f"{name}.toml", "")
    assert find_config("add3", "cpu") == ("add3-cpu", configs / "add3-cpu.toml")
    assert find_config("add3", "cuda") == ("add3-cuda", configs / "add3-cuda.toml")
    assert find_config("add3", "mps") == ("add3-cpu", configs / "add3-cpu.toml")
    assert find_config("add3-cpu", "cuda") == ("add3-cpu", configs / "add3-cpu.toml")
    assert find_config("tiny", "cuda") == ("tiny", configs / "tiny.toml")


def test_a_config_of_the_device_comes_before_one_for_all_devices_except_as_a_base(configs: Path) -> None:
    """A record by `total` on a CPU becomes the default on CPUs alone, and changes no config that has a base."""
    for name in ("moddiv-97", "moddiv-97-cpu"):
        write(configs / f"{name}.toml", f'track = "{name}"')
    path = write(configs / "modsub-97.toml", 'base = "moddiv-97"')
    assert find_config("moddiv-97", "cpu") == ("moddiv-97-cpu", configs / "moddiv-97-cpu.toml")
    assert find_config("moddiv-97", "cuda") == ("moddiv-97", configs / "moddiv-97.toml")
    assert config.merged_values(path)["track"] == "moddiv-97"


def test_a_path_to_a_config_needs_no_resolution(configs: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "elsewhere" / "mine.toml", "")
    assert find_config(str(path), "cpu") == ("mine", path)


def test_a_missing_file_is_refused(configs: Path) -> None:
    missing = configs / "mine.toml"
    assert refused(find_config, str(missing), "cpu") == f"{missing}: there is no such file"


def test_an_unknown_name_is_refused_with_the_nearest_one(configs: Path) -> None:
    write(configs / "add3-cpu.toml", "")
    assert refused(find_config, "ad3", "cpu") == "there is no config 'ad3'; the nearest is 'add3'"
    message = refused(find_config, "zzzzzz", "cpu")
    assert message == "there is no config 'zzzzzz'; there are add3, add3-cpu"


def test_an_empty_name_and_a_path_that_is_no_toml_file_are_refused(configs: Path) -> None:
    assert refused(find_config, "", "cpu") == "the name of the config is empty"
    assert "a config is a file that ends in .toml" in refused(find_config, "folder/mine", "cpu")


def test_a_file_may_end_in_capitals_and_begin_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = write(tmp_path / "MINE.TOML", "")
    assert find_config("~/MINE.TOML", "cpu") == ("MINE", path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('track = "add3\n', "a quote is not closed (at line 1"),
        ("rate = 1\nrate = 2\n", "(at line 2"),
        ("rate =\n", "(at line 1"),
    ],
)
def test_a_file_that_is_not_toml_names_the_line(tmp_path: Path, text: str, message: str) -> None:
    assert message in refused(read_config, write(tmp_path / "a.toml", text), Settings)


def test_a_file_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b'track = "\xff"\n')
    assert "this is not UTF-8" in refused(read_config, tmp_path / "a.toml", Settings)


@pytest.mark.parametrize("written", ["600", "600.0", "6e2"])
def test_a_float_has_one_form_however_it_is_written(tmp_path: Path, written: str) -> None:
    values = read_config(write(tmp_path / "a.toml", f"rate = {written}\nbatch_size = 600\n"), Settings)
    assert repr(values) == "{'rate': 600.0, 'batch_size': 600}"
    assert repr(read_config(write(tmp_path / "b.toml", "rate = -0.0\n"), Settings)) == "{'rate': 0.0}"


def test_equal_settings_have_one_key() -> None:
    assert settings_key({"a": 600, "survey_problems": -0.0}) == settings_key({"a": 600.0, "evaluation_problems": 0})
    assert settings_key({"a": 600}) != settings_key({"a": 601})


def test_a_long_list_of_words_is_not_printed() -> None:
    words = [f"track-{number}" for number in range(42)]
    assert nearest_hint("xyz", words, "`list`") == "; `list` lists all 42"
    assert nearest_hint("xyz", words) == ""
    assert nearest_hint("track-77", words).startswith("; the nearest is 'track-7")
    assert nearest_hint("xyz", ["a", "b"]) == "; there are a, b"


def test_every_config_of_the_project_is_valid() -> None:
    paths = sorted(config.CONFIGS.glob("*.toml"))
    assert paths
    for path in paths:
        settings = TrainerSettings(**read_config(path, TrainerSettings))
        assert settings.track in TRACKS


@pytest.mark.parametrize(
    ("word", "ending"), [("batchsize", "; the nearest is 'batch-size'"), ("x", "; there are batch-size, track")]
)
def test_the_hint_names_the_nearest_word_or_all(word: str, ending: str) -> None:
    assert nearest_hint(word, {"track", "batch-size"}) == ending


# -----------------------------------------------------------------------------
# renamed settings


@dataclasses.dataclass(frozen=True)
class FormerSettings:
    """The settings of a trainer from before the renaming."""

    survey_problems: int = 1
    stop_at: Literal["survey", "99%"] = "survey"


def test_every_renamed_setting_has_a_field_under_its_present_name_alone() -> None:
    fields = {field.name for field in dataclasses.fields(TrainerSettings)}
    assert fields.issuperset({*RENAMED_SETTINGS.values()} - config.REMOVED_SETTINGS)
    assert not fields & config.REMOVED_SETTINGS
    assert not fields & RENAMED_SETTINGS.keys()


def test_a_file_may_use_the_former_names_of_settings(tmp_path: Path) -> None:
    write(tmp_path / "base.toml", "evaluation_problems = 5\nreplay_share = 0.5\n")
    path = write(tmp_path / "mine.toml", 'base = "base"\nsurvey_problems = 7\nstop_at = "survey"\n')
    expected = {"evaluation_problems": 7, "replay_share": 0.5, "stop_at": "evaluation"}
    assert read_config(path, TrainerSettings) == expected


def test_a_file_with_both_names_of_a_setting_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.toml", "survey_problems = 7\nevaluation_problems = 7\n")
    assert "survey_problems is the former name of evaluation_problems" in refused(read_config, path, TrainerSettings)


def test_a_trainer_from_before_the_renaming_reads_the_former_names(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.toml", 'survey_problems = 7\nstop_at = "survey"\n')
    assert read_config(path, FormerSettings) == {"survey_problems": 7, "stop_at": "survey"}


@pytest.mark.parametrize(
    ("arguments", "current"),
    [
        ("--survey-problems 7 --seed 1", "--evaluation-problems 7 --seed 1"),
        ("--drill_share=0.5", "--replay-share=0.5"),
        ("--no-survey-as-exam", "--no-evaluation-uniform"),
        ("--stop-at survey --note survey", "--stop-at evaluation --note survey"),
        ("--stop-at=survey", "--stop-at=evaluation"),
    ],
)
def test_the_command_line_may_use_the_former_names_of_settings(arguments: str, current: str) -> None:
    assert with_current_option_names(arguments.split()) == current.split()


def test_settings_have_one_hash_under_either_name() -> None:
    """Every run in the journal keeps its identity. For some hours, added settings were in the hash."""
    for line in (ROOT / "results" / "runs.jsonl").read_text(encoding="utf-8").splitlines():
        run = json.loads(line)
        digest = config_hash(run["settings"])
        assert digest == config_hash(current_names(run["settings"]))
        assert run["config_hash"] in (digest, hash_of_all(run["settings"]))


# -----------------------------------------------------------------------------
# the command line


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ([], None),
        (["--config", "a"], "a"),
        (["--seed", "1", "--config=a"], "a"),
        (["--config=a=b"], "a=b"),
        (["--config="], ""),
        (["--configs", "a"], None),
        (["--config"], None),
    ],
)
def test_an_option_is_read_before_the_command_line_is_parsed(arguments: list[str], value: str | None) -> None:
    assert split_option(arguments, "--config")[0] == value


def test_of_an_option_given_twice_the_early_reading_and_the_parser_take_the_same_value() -> None:
    arguments = ["--track", "a", "--track=b"]
    assert split_option(arguments, "--track")[0] == parse_arguments(Settings, arguments, Settings()).track


def test_the_command_line_overrides_the_config() -> None:
    default = Settings(batch_size=64, rate=0.25)
    parsed = parse_arguments(Settings, ["--batch-size", "8", "--compile", "--track=a=b"], default)
    assert parsed == Settings(batch_size=8, rate=0.25, compile=True, track="a=b")
    assert parse_arguments(Settings, ["--no-compile"], Settings(compile=True)).compile is False
    assert parse_arguments(Settings, ["--batch_size", "8"], default).batch_size == 8


def test_an_unknown_option_is_refused_with_the_nearest_one() -> None:
    message = refused(parse_arguments, Settings, ["--batchsize", "8"], Settings())
    assert message == "--batchsize: unknown option; the nearest is '--batch-size'"


def test_a_positional_argument_is_never_suggested_as_an_option() -> None:
    message = refused(parse_arguments, Positional, ["x", "--fil", "8"])
    assert message == "--fil: unknown option"


def test_options_of_a_nested_dataclass_are_suggested() -> None:
    message = refused(parse_arguments, Whole, ["--batchsize", "8"], Whole(Settings()))
    assert message == "--batchsize: unknown option; the nearest is '--batch-size'"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "many"], "--batch-size: 'many' is not a whole number"),
        (["--batch-size", "1.5"], "--batch-size: '1.5' is not a whole number"),
        (["--batch-size"], "--batch-size: a value is missing"),
        (["--rate", "fast"], "--rate: 'fast' is not a number"),
        (["--activation", "gulu"], "--activation: 'gulu' is not allowed; choose gelu or silu"),
        (["stray"], "'stray': unexpected argument"),
        (["--compile", "yes"], "--compile: takes no value, got 'yes'"),
        (["--compile=yes"], "--compile: takes no value, got 'yes'"),
    ],
)
def test_an_invalid_command_line_is_refused_in_one_line(arguments: list[str], message: str) -> None:
    assert refused(parse_arguments, Settings, arguments, Settings()) == message


def test_names_with_a_line_break_are_refused_in_one_line(configs: Path) -> None:
    refused(parse_arguments, Settings, ["--x\ny"], Settings())
    refused(find_config, "add3\nadd4", "cpu")
    refused(find_config, "add3\n.toml", "cpu")


def test_help_is_printed_and_ends_the_command(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end:
        parse_arguments(Settings, ["--help"], Settings(), "What it is.", "prog")
    assert end.value.code == 0
    assert "--batch-size" in capsys.readouterr().out


# -----------------------------------------------------------------------------
# settings of the track

MODULAR = {"track": "moddiv", "track_settings.p": 97, "track_settings.tokens": "numbers"}


@pytest.mark.parametrize(
    "text",
    ["track_settings.p = 97", "[track_settings]\np = 97", "track_settings = { p = 97 }", '"track_settings.p" = 97'],
)
def test_a_config_may_spell_a_setting_of_the_track_as_toml_allows(text: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.toml", f'track = "moddiv"\n{text}\n')
    assert read_config(path, TrainerSettings) == {"track": "moddiv", "track_settings": {"p": 97}}
    assert config.merged_values(path) == {"track": "moddiv", "track_settings.p": 97}


def test_a_config_keeps_the_track_settings_of_its_base_only_for_the_same_track(tmp_path: Path) -> None:
    write(tmp_path / "base.toml", 'track = "moddiv"\ntrack_settings = { p = 113, tokens = "characters" }\n')
    same = write(tmp_path / "same.toml", 'base = "base"\ntrack_settings.p = 97\n')
    other = write(tmp_path / "other.toml", 'base = "base"\ntrack = "memorize"\n')
    assert read_config(same, TrainerSettings)["track_settings"] == {"p": 97, "tokens": "characters"}
    assert read_config(other, TrainerSettings) == {"track": "memorize"}


def test_track_settings_are_unknown_to_trainers_of_older_records(tmp_path: Path) -> None:
    path = write(tmp_path / "a.toml", "track_settings.p = 97\n")
    assert "unknown key 'track_settings.p'" in refused(read_config, path, Settings)
    path = write(tmp_path / "b.toml", "track_settings = 97\n")
    assert "track_settings: input should be a valid dictionary" in refused(read_config, path, TrainerSettings)


def test_flat_settings_have_a_key_for_each_setting_of_the_track_and_can_be_nested_again() -> None:
    settings = TrainerSettings(track="moddiv", track_settings={"p": 113})
    flat = config.flat_settings(settings)
    assert flat["track_settings.p"] == 113
    assert all(isinstance(value, bool | int | float | str) for value in flat.values())
    assert config.track_of(flat) == ("moddiv", settings.track_settings)
    assert TrainerSettings(**config.nested_values(flat)) == settings


def test_settings_of_a_track_without_settings_have_no_further_key() -> None:
    flat = config.flat_settings(TrainerSettings())
    assert [key for key in flat if "track_settings" in key] == []
    assert config.nested_values(flat) == flat


def test_a_config_written_from_flat_settings_is_read_as_the_same_ones(tmp_path: Path) -> None:
    path = write(tmp_path / "a.toml", config.config_toml(MODULAR | {"unknown": None, "search": {"trials": 3}}))
    assert "[track_settings]" in path.read_text(encoding="utf-8")
    assert config.merged_values(path) == MODULAR | {"search": {"trials": 3}}


def journalled(name: str) -> dict:
    """The latest run of a config before 2026-11-29, 08:00 UTC, when settings were added."""
    lines = (ROOT / "results" / "runs.jsonl").read_text(encoding="utf-8").splitlines()
    runs = (json.loads(line) for line in reversed(lines))
    return next(run for run in runs if run["config"] == name and run["started_at"] < "2026-11-29T08")


@pytest.mark.parametrize("name", ["add3-cpu", "yardstick"])
def test_settings_that_a_trainer_has_got_since_change_neither_the_hash_nor_the_key_of_a_run(name: str) -> None:
    """A new setting of the trainer that is not in ADDED_SETTINGS fails here."""
    run = journalled(name)
    settings = config.current_settings(run["settings"])
    flat = config.flat_settings(TrainerSettings(**config.nested_values(settings)))
    assert flat.items() >= settings.items()
    assert flat.keys() - settings.keys() == ADDED_SETTINGS.keys()
    assert config_hash(run["settings"]) == run["config_hash"]
    assert settings_key(flat) == settings_key(run["settings"])
    for key in ADDED_SETTINGS:
        changed = flat | {key: "another value"}
        assert config_hash(changed) == hash_of_all(settings | {key: "another value"})
        assert settings_key(changed) != settings_key(flat)


def test_a_long_text_is_short_in_a_label_and_still_told_from_others() -> None:
    labels = {config_label("memorize", {"track_settings.text": "word " * 500 + end}) for end in "ab"}
    assert len(labels) == 2
    assert max(map(len, labels)) < 80
