"""Runs that start from the weights of an earlier run."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

import speedrun
from bench.attempt.lifecycle import lost_run
from bench.attempt.plan import AttemptPlan, make_plan
from bench.errors import UsageError
from bench.experiments.launcher import check_may_rank
from bench.storage import weights
from bench.storage.journal import Journal
from bench.storage.results import checkpoint_path, weights_sha256
from bench.storage.schema import Run
from curriculum import Curriculum, Evaluation
from data import get_track
from settings import Settings
from tests.support.examples import example_run
from tests.support.small_trainer import SeededTrainer

SHAPE = ("--device", "cpu", "--config", "add3-cpu", "--track", "add2", "--kernel", "torch", "--precision", "float32")


def plan_of(results: Path, *arguments: str, **options: Any) -> AttemptPlan:
    return make_plan(Settings, [*SHAPE, "--results", str(results), *arguments], "", **options)


@pytest.fixture
def first(tmp_path: Path) -> Run:
    """A run in `tmp_path` with weights that its seed does not give."""
    plan = plan_of(tmp_path, "--seed", "1")
    trainer: Any = plan.trainer(speedrun.Trainer)
    trainer.begin(plan.start())
    model = trainer.model
    with torch.no_grad():
        model.token.add_(1.0)
        model.head.normal_()
    path = tmp_path / "weights" / "first.safetensors"
    digest = weights.save(path, model, trainer.track, plan.settings_dict)
    weights.save(checkpoint_path("first", 50, tmp_path), model, trainer.track, plan.settings_dict)
    run = example_run(run_id="first", track="add2", weights=f"weights/{path.name}", weights_sha256=digest)
    Journal(tmp_path).append(run)
    return run


@pytest.mark.parametrize("reference", ["first", "latest", "PATH", "SHA256"])
def test_a_run_starts_from_the_weights_that_it_names(reference: str, first: Run, tmp_path: Path) -> None:
    names = {"PATH": str(tmp_path / str(first.weights)), "SHA256": str(first.weights_sha256)}
    plan = plan_of(tmp_path, "--init-from", names.get(reference, reference))
    trainer: Any = plan.trainer(speedrun.Trainer)
    trainer.begin(plan.start())
    earlier: Any
    track: Any
    earlier, track = weights.load(tmp_path / str(first.weights), torch.device("cpu"))
    assert trainer.track.vocabulary != track.vocabulary  # each run has ids of its own
    problems = track.rows[::17]
    logits = [
        model(each.tokens(problems)[:, :-1].long())
        for model, each in ((trainer.model, trainer.track), (earlier, track))
    ]
    order = [track.vocabulary.index(token) for token in trainer.track.vocabulary]
    torch.testing.assert_close(logits[0].detach(), logits[1][..., order])
    run = lost_run(plan)
    assert (run.init_from, run.settings["init_from"]) == ("first", first.weights_sha256)
    assert run.label.endswith("init_from=first")
    assert str(tmp_path) not in run.model_dump_json()


def test_the_weights_of_a_step_can_be_continued(first: Run, tmp_path: Path) -> None:
    run = lost_run(plan_of(tmp_path, "--init-from", "first@50"))
    assert run.init_from == "first@50"
    assert run.settings["init_from"] == weights_sha256(checkpoint_path("first", 50, tmp_path))
    for reference in (str(checkpoint_path("first", 50, tmp_path)), run.settings["init_from"]):
        assert lost_run(plan_of(tmp_path, "--init-from", reference)).init_from == "first@50"
    with pytest.raises(UsageError, match="init_from: there are no weights of step 51"):
        plan_of(tmp_path, "--init-from", "first@51")


def test_the_hash_of_the_settings_depends_on_the_weights_and_not_on_their_name(first: Run, tmp_path: Path) -> None:
    copied = tmp_path / "elsewhere.safetensors"
    copied.write_bytes((tmp_path / str(first.weights)).read_bytes())
    by_name, by_path = (plan_of(tmp_path, "--init-from", name) for name in ("first", str(copied)))
    assert by_name.config_hash == by_path.config_hash != plan_of(tmp_path).config_hash


def test_weights_of_no_run_are_named_by_their_hash(first: Run, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.safetensors"
    foreign.write_bytes((tmp_path / str(first.weights)).read_bytes())
    run = lost_run(plan_of(tmp_path / "empty", "--init-from", str(foreign)))
    assert run.init_from is None
    assert "init_from=" + str(first.weights_sha256)[:24] in run.label


def test_a_config_that_names_a_run_shows_it_in_the_label(first: Run, tmp_path: Path) -> None:
    (tmp_path / "on.toml").write_text('base = "add3-cpu"\ntrack = "add2"\nkernel = "torch"\ninit_from = "first"\n')
    arguments = ["--device", "cpu", "--config", str(tmp_path / "on.toml"), "--results", str(tmp_path)]
    run = lost_run(make_plan(Settings, arguments, ""))
    assert run.overrides == {}
    assert run.label == "on + init_from=first"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--init-from", "frist"), "init_from: there is no run with weights 'frist' in .*; the nearest is 'first'"),
        (("--init-from", "missing.safetensors"), "init_from: missing.safetensors: there is no such file"),
        (("--init-from", "0" * 64), "init_from: no run in .* has weights of this sha256"),
        (("--init-from", "first", "--n-embd", "64"), "the model of first has n_embd = 32, unlike this config; give"),
        (("--init-from", "first", "--n-layer", "2"), "the model of first has n_layer = 1, unlike"),
        (("--init-from", "first", "--norm", "layer"), "the model of first has norm = rms, unlike"),
        (("--init-from", "first", "--track", "add3"), "block_size = 8"),
        (
            ("--init-from", "first", "--track", "moddiv"),
            "on add2, whose vocabulary is not that of mod",
        ),
        (("--init-from", "latest", "--attempts", "3"), "name the run in place of latest"),
        (("--init-from", "first", "--initial-states", "2"), "init_from draws no initial weights"),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_one_line(
    arguments: tuple[str, ...], reason: str, first: Run, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=reason):
        plan_of(tmp_path, *arguments)


def test_weights_of_an_order_do_not_fit_a_model_from_left_to_right(tmp_path: Path) -> None:
    shape = ("--track", "sumeq", "--kernel", "torch")
    plan, path = plan_of(tmp_path, *shape, "--order", "uniform"), tmp_path / "uniform.safetensors"
    weights.save(path, plan.trainer(speedrun.Trainer).model, plan.track, plan.settings_dict)
    with pytest.raises(UsageError, match="has order = uniform, unlike this config"):
        plan_of(tmp_path, *shape, "--init-from", str(path))
    plan_of(tmp_path, *shape, "--order", "alternating", "--init-from", str(path))


def test_a_file_that_holds_no_weights_is_refused(first: Run, tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(UsageError, match=r"init_from: text.safetensors: these are not weights of this project"):
        plan_of(tmp_path, "--init-from", str(tmp_path / "text.safetensors"))


def test_a_matrix_or_a_search_never_continues_a_run(first: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="init_from: only a single attempt or a batch can continue a run"):
        make_plan(Settings, [*SHAPE, "--init-from", "first"], "", settings_only=True)


def test_such_a_run_never_ranks_and_no_comparison_or_record_takes_it(first: Run, tmp_path: Path) -> None:
    run = lost_run(plan_of(tmp_path, "--init-from", "first"))
    assert run.unranked_because == "started from the weights of another run (init_from)"
    assert not run.is_contest
    with pytest.raises(UsageError, match=r'a: a run that started from the weights .* never ranks; set init_from to ""'):
        check_may_rank(run, "a")


def test_training_never_replaces_the_weights_that_it_continues_by_random_ones() -> None:
    settings = dataclasses.replace(Settings(), start_over_above=0, init_from="0" * 64)
    evaluation = Evaluation(torch.zeros(3, 6), torch.zeros(3), 3)
    track, generator = get_track("add3"), torch.Generator()
    for each, expected in ((settings, False), (dataclasses.replace(settings, init_from=""), True)):
        trainer = SeededTrainer(each, track, torch.device("cpu"), torch.float32, 0)
        curriculum = Curriculum(each, track, trainer.batches, trainer.model, generator)
        assert curriculum.must_restart(evaluation) is expected
