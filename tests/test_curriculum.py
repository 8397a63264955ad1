"""What a trainer trains on, what it is evaluated on, and when it stops."""

import math
from dataclasses import replace

import pytest
import torch

from curriculum import Curriculum, Evaluation, Split
from data import decode, get_track
from tests.support.small_trainer import (
    PEER,
    SMALL,
    STREAM,
    TRACK,
    Monitor,
    batches_of,
    build,
    fake_evaluations,
    problems_in,
    record_evaluations,
    starts_of_rounds,
)
from tests.support.tracks import addition_track, cpu_batches

NUM_TRAINING = 10_000 - 996


def curriculum_of(trainer):
    return Curriculum(trainer.settings, trainer.track, trainer.batches, trainer.model, trainer.generator)


# -----------------------------------------------------------------------------
# training texts


def test_no_training_batch_holds_a_held_out_problem():
    batches = batches_of(build(replace(SMALL, max_rounds=2)))
    assert len(batches) == SMALL.num_steps + 2
    assert all(len(batch) == SMALL.batch_size for batch in batches)
    assert not TRACK.heldout[problems_in(batches)].any()


def test_after_few_errors_the_next_round_resumes_and_replays_the_hardest_of_the_evaluation(monkeypatch):
    settings = replace(SMALL, max_rounds=2, replay_share=0.5)
    evaluations = record_evaluations(monkeypatch)
    batches = batches_of(build(settings))
    problems, losses, *_ = next(each for each in evaluations if len(each.problems) > SMALL.check_problems)
    assert 400 < len(problems) <= 500
    assert len(batches) == SMALL.num_steps + 2
    hardest = set(TRACK.number(problems[losses.topk(20).indices]).tolist())
    replayed = [set(problems_in([batch[SMALL.batch_size // 2 :]]).tolist()) for batch in batches]
    assert all(batch <= hardest for batch in replayed[-2:])
    assert not any(batch <= hardest for batch in replayed[:-2])
    drawn = [set(problems_in([batch[: SMALL.batch_size // 2]]).tolist()) for batch in batches]
    assert not any(batch <= hardest for batch in drawn)
    assert [first_step for first_step, _ in starts_of_rounds(build(settings))] == [0, 4]


def test_a_round_that_ends_before_the_step_to_resume_at_is_taken_whole_again(monkeypatch):
    fake_evaluations(monkeypatch, 1, 1.0, 2.0)
    trainer = build(replace(SMALL, max_rounds=2, resume_at=SMALL.num_steps))
    assert [first_step for first_step, _ in starts_of_rounds(trainer)] == [0, 0]
    assert trainer.steps == 2 * SMALL.num_steps


def test_however_much_is_replayed_a_drawn_problem_is_in_each_batch(monkeypatch):
    fake_evaluations(monkeypatch, 1, 1.0, 2.0)
    trainer = build(replace(SMALL, batch_size=2, max_rounds=2, replay_share=0.9))
    assert all(len(batch) == 2 for batch in batches_of(trainer))
    assert trainer.steps == SMALL.num_steps + 2
    curriculum = curriculum_of(trainer)
    curriculum.hard_examples = TRACK.sets["train"][:1]
    (batch,) = curriculum.draw()
    problems = TRACK.problems(batch.whole_texts().flatten(0, 1)[:, : TRACK.prompt_length])[0].view(3, 2, -1)
    assert (problems[:, 1] == curriculum.hard_examples).all()
    assert not (problems[:, 0] == curriculum.hard_examples).all()


def test_a_stream_is_trained_on_windows_and_evaluated_on_problems_of_its_lines(monkeypatch):
    evaluations, monitor = record_evaluations(monkeypatch), Monitor()
    batches = batches_of(build(PEER, track=STREAM))
    text = decode(STREAM, cpu_batches(STREAM).text.tolist())
    assert len(batches) == PEER.num_steps
    for row in torch.cat(batches):
        assert decode(STREAM, row) in text
    samples = STREAM.samples["sample80"]
    drawn = [each.problems for each in evaluations if len(each.problems) != len(samples)]
    assert drawn
    assert not any(STREAM.is_heldout(problems).any() for problems in drawn)
    build(PEER, track=STREAM).train(monitor)
    assert set(monitor.checks[0][3]) == {"99%", "sample80"}


def test_a_long_track_is_trained_and_evaluated_on_drawn_problems_that_are_not_held_out(monkeypatch):
    track = addition_track("add6-reversed")
    evaluations, monitor = record_evaluations(monkeypatch), Monitor()
    trainer = build(track=track)
    batches = batches_of(trainer)
    trainer.train(monitor)
    problems, valid = track.problems(torch.cat(batches)[:, : track.prompt_length].to(torch.uint8))
    assert valid.all()
    assert not track.is_heldout(problems).any()
    assert not track.is_heldout(torch.cat([each.problems for each in evaluations])).any()
    assert [set(reached) for *_, reached in monitor.checks] == [{"99%"}] * 2


# -----------------------------------------------------------------------------
# evaluation


def test_an_evaluation_by_the_right_answer_finds_the_errors_of_decoding():
    trainer = build()
    with torch.no_grad():
        trainer.model.head.normal_(generator=torch.Generator().manual_seed(0))
    problems, query_start = TRACK.test_set(0)[::7], TRACK.prompt_length - 1
    ids = TRACK.tokens(problems).long()
    decoded = ids[:, : TRACK.prompt_length]
    for _ in range(TRACK.answer_length):
        decoded = torch.cat([decoded, trainer.model(decoded)[:, -1].argmax(-1, keepdim=True)], 1)
    evaluation = curriculum_of(trainer).evaluate(problems)
    assert evaluation.num_errors == (decoded != ids).any(1).sum() > 0
    losses = torch.nn.functional.cross_entropy(
        trainer.model(ids[:, :-1], query_start).mT, ids[:, query_start + 1 :], reduction="none"
    )
    assert torch.allclose(evaluation.losses, losses.amax(1), atol=1e-5)
    assert torch.equal(evaluation.problems, problems)


def test_an_evaluation_uses_no_dropout():
    trainer = build(replace(SMALL, dropout=0.5, n_layer=2))
    with torch.no_grad():
        trainer.model.head.normal_(generator=torch.Generator().manual_seed(0))
    curriculum, problems = curriculum_of(trainer), TRACK.test_set(0)[::7]
    assert torch.equal(curriculum.evaluate(problems).losses, curriculum.evaluate(problems).losses)
    assert trainer.model.training


@pytest.mark.parametrize(("uniformly", "nines"), [(False, 2.5), (True, 0.5)])
def test_an_end_of_round_evaluation_is_drawn_as_the_batches_or_uniformly(uniformly, nines, monkeypatch):
    """Of the five places above the units', all levels alike have half sum to 9, a uniform problem a tenth."""
    evaluations = record_evaluations(monkeypatch)
    settings = replace(SMALL, level_share=1.0, evaluation_uniform=uniformly, evaluation_problems=4000)
    build(settings, track=addition_track("add6")).train(Monitor())
    drawn = [each.problems for each in evaluations]
    means = [(problems[:, :5] + problems[:, 6:11] == 9).sum(1).float().mean() for problems in drawn]
    assert [len(problems) > SMALL.check_problems for problems in drawn] == [False, True]
    assert means[0] == pytest.approx(2.5, abs=0.8)
    assert means[1] == pytest.approx(nines, abs=0.1)


@pytest.mark.parametrize(("check_problems", "training"), [(20, 50), (50, None)])
def test_curves_evaluate_all_training_and_all_held_out_problems_without_another_draw(check_problems, training):
    settings = {"track": "moddiv", "track_settings": {"p": 11}, "check_problems": check_problems}
    track, results = get_track("moddiv", p=11), []
    for curves in (False, True):
        trainer = build(replace(SMALL, curves=curves, **settings), track=track)
        results.append((curriculum_of(trainer).check(is_end=False), trainer.generator.get_state()))
    (plain, before), (check, after) = results
    assert plain.test is plain.training is None
    assert torch.equal(before, after)
    assert torch.equal(plain.evaluation.problems, check.evaluation.problems)
    assert check.test.problems == len(track.sets["heldout"])
    assert (check.training and check.training.problems) == training


def test_the_test_curve_is_of_held_out_problems_or_of_all_if_none_is_held_out():
    curriculum = curriculum_of(build(replace(SMALL, curves=True)))
    assert len(curriculum.test_set) == 996
    assert TRACK.is_heldout(curriculum.test_set).all()
    assert len(get_track("memorize").heldout_test_set(0)) == 1


def test_hard_example_search_finds_the_hardest_problem_without_drawing_it(monkeypatch):
    """Losses that fall with the distance to one problem, in digits: the hardest is not drawn, and is found."""
    hardest = torch.tensor(TRACK.sets["train"][1234].tolist())
    drawn = TRACK.sets["train"][(TRACK.sets["train"] != hardest).all(1)][:50]  # no digit right yet
    evaluated = []

    def evaluate(curriculum, problems):
        evaluated.append(problems)
        num_equal = (problems == hardest).sum(1)
        return Evaluation(problems, num_equal / 10, int((num_equal == TRACK.problem_width).sum()))

    monkeypatch.setattr(Curriculum, "evaluate", evaluate)
    curriculum = curriculum_of(build(replace(SMALL, hard_search_steps=6)))
    last = curriculum.search_hard_examples(curriculum.evaluate(drawn))
    assert last.num_errors == 1
    assert last.problems[last.losses.argmax()].tolist() == hardest.tolist()
    assert not any(TRACK.is_heldout(problems).any() for problems in evaluated)


# -----------------------------------------------------------------------------
# decisions


@pytest.mark.parametrize(("errors", "margin", "stops"), [(0, 1.6, True), (0, 1.4, False), (1, 1.6, False)])
def test_training_stops_after_an_evaluation_without_an_error_or_a_small_margin(errors, margin, stops, monkeypatch):
    fake_evaluations(monkeypatch, errors, 0.0, 0.1, margin)
    trainer = build(replace(SMALL, max_rounds=2, evaluation_min_margin=1.5))
    trainer.train(Monitor())
    assert trainer.steps == SMALL.num_steps + (0 if stops else 2)


def test_the_decision_to_stop_reads_training_problems_alone(monkeypatch):
    evaluations = record_evaluations(monkeypatch)
    build(replace(SMALL, max_rounds=2, evaluation_problems=20_000)).train(Monitor())
    assert max(len(each.problems) for each in evaluations) > NUM_TRAINING // 2
    for problems, *_ in evaluations:
        assert not TRACK.is_heldout(problems).any()
        assert len(problems.unique(dim=0)) == len(problems)


def test_the_problems_of_the_search_count_in_the_decision_and_are_replayed(monkeypatch):
    fake_evaluations(monkeypatch, 0, 0.0, 0.0)
    searched = Evaluation(TRACK.sets["train"][:30], torch.full((30,), 9.0), 1)
    monkeypatch.setattr(Curriculum, "search_hard_examples", lambda curriculum, evaluation: searched)
    batches = batches_of(build(replace(SMALL, max_rounds=2, hard_search_steps=1)))
    assert len(batches) == SMALL.num_steps + 2
    hardest = set(TRACK.number(TRACK.sets["train"][:30]).tolist())
    num_replayed = round(SMALL.batch_size * SMALL.replay_share)
    assert set(problems_in([batches[-1][-num_replayed:]]).tolist()) <= hardest


def test_99_percent_is_of_the_drawn_problems_and_starts_no_search(monkeypatch):
    fake_evaluations(monkeypatch, 1, 0.0, 0.0)  # too many errors for a check, not for an end-of-round evaluation
    monkeypatch.setattr(Curriculum, "search_hard_examples", lambda *_: pytest.fail("it searches"))
    trainer = build(replace(SMALL, hard_search_steps=1, stop_at="99%", max_rounds=2))
    trainer.train(Monitor())
    assert trainer.steps == SMALL.num_steps


@pytest.mark.parametrize(("errors", "steps"), [(0, 3), (5, 3), (6, 6)])
def test_training_can_stop_at_the_first_check_with_one_percent_of_errors(errors, steps, monkeypatch):
    remaining, monitor = [errors], Monitor()

    def evaluate(curriculum, problems):
        return Evaluation(problems, torch.ones(500), remaining.pop() if remaining else 0)

    monkeypatch.setattr(Curriculum, "evaluate", evaluate)
    trainer = build(replace(SMALL, max_rounds=2, num_steps=6, check_every=3, stop_at="99%"))
    trainer.train(monitor)
    assert trainer.steps == steps
    assert [reached["99%"] for *_, reached in monitor.checks] == [errors <= 5] + [True] * (errors > 5)


# -----------------------------------------------------------------------------
# epochs and large vocabularies


def test_steps_of_epochs_have_every_training_problem_once_an_epoch():
    settings = replace(SMALL, track="moddiv", track_settings={"p": 11}, sampling="epochs", batch_size=7, num_epochs=2)
    track = get_track("moddiv", p=11)
    num_training = len(track.sets["train"])
    assert settings.num_steps == math.ceil(2 * num_training / 7)
    texts = torch.cat(batches_of(build(settings, track=track)))
    assert len(texts) >= 2 * num_training
    for epoch in texts[: 2 * num_training].split(num_training):
        assert len(epoch.unique(dim=0)) == num_training


def test_a_vocabulary_above_256_tokens_is_trained_on():
    settings = replace(SMALL, track="modadd", track_settings={"p": 257}, num_steps=3, adam_learning_rate=0.02)
    track = get_track("modadd", p=257)
    batches = batches_of(trainer := build(settings, track=track))
    tokens = torch.cat(batches)
    assert len(track.vocabulary) == 259
    assert tokens.dtype == torch.int32
    assert tokens.max() == 258
    a, sign, b, equals, answer = tokens.long().unbind(-1)
    assert ((a + b) % 257 == answer).all()
    assert {*sign.tolist(), *equals.tolist()} == {257, 258}
    with torch.no_grad():
        before = float(trainer.model.loss(tokens, 3))
        trainer.restart()
        assert before < float(trainer.model.loss(tokens, 3))


def test_levels_are_drawn_until_a_share_of_the_round():
    settings = replace(SMALL, level_share=1.0, level_until=0.5, num_steps=100)
    curriculum = curriculum_of(build(settings))
    assert curriculum.uniform_batches.options.level_share == 0.0
    drawn = []
    for name in ("batches", "uniform_batches"):
        getattr(curriculum, name).draw = lambda *arguments, name=name: drawn.append(name)
    for step in (0, 40, 50, 90):
        list(curriculum.draw(step))
    assert drawn == ["batches", "batches", "uniform_batches", "uniform_batches"]
    curriculum = curriculum_of(build(replace(settings, level_until=1.0)))
    assert curriculum.uniform_batches is curriculum.batches


def test_texts_that_take_much_memory_are_drawn_in_parts_and_others_at_once(monkeypatch):
    monkeypatch.setattr("curriculum.DRAWN_TOKENS", 80)
    for name, batch_size, expected in (("addtext", 1, [2, 2, 1]), ("addtext", 8, [1] * 5), ("add2", 8, [5])):
        settings = replace(SMALL, track=name, batch_size=batch_size, check_every=5)
        curriculum = curriculum_of(build(settings, track=get_track(name)))
        assert [len(part.tokens) for part in curriculum.draw()] == expected


def test_a_check_names_the_targets_of_the_validation_set_that_are_met(monkeypatch):
    fake_evaluations(monkeypatch, 1, 1.0, 2.0)
    curriculum = curriculum_of(build(SMALL))
    monkeypatch.setattr(type(curriculum.track), "validation_targets", {"validation 90%": 0.9, "validation 98%": 0.98})
    assert curriculum.check(is_end=False).reached == {"99%": False}
    monkeypatch.setattr(curriculum, "evaluate_split", lambda problems: Split(100, 5, 1.0, 2.0))
    reached = curriculum.check(is_end=False).reached
    assert reached == {"99%": False, "validation 90%": True, "validation 98%": False}
