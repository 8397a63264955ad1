"""The tables of published figures beside ours, from runs made by hand."""

from datetime import UTC, datetime

import pytest

from bench.report.peer_configs import Peer, PublishedSteps
from bench.report.published_figures import decoding_text, loss_table, samplings_table, steps_table
from bench.storage.schema import DecodingScore, Sampling
from tests.support.examples import batch_runs, example_check, example_run

PEER = Peer(config="theirs", track="add2-omnivault", what="a trainer")


def cells(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


# -----------------------------------------------------------------------------
# validation loss


def run_with_losses(losses, num_epochs, num_steps):
    """A run with a check for each step of `losses`."""
    checks = [
        example_check(step, 0, validation={"problems": 10, "errors": 0, "loss": loss}) for step, loss in losses.items()
    ]
    return example_run(settings={"num_epochs": num_epochs, "num_steps": num_steps}, checks=checks)


def test_an_epoch_has_the_loss_of_the_first_check_after_its_end():
    # an epoch of 7,000 texts is 27.35 steps of 256
    run = run_with_losses({28: 1.5, 56: 1.25, 84: 0.5, 547: 0.03125}, 20.0, 547)
    peer = PEER.model_copy(update={"published_validation_loss": {1: 1.723, 3: 1.001, 20: 0.0487, 21: 0.04}})
    assert cells(loss_table([(peer, run), (PEER, run)])) == [
        ["epoch", "theirs"],
        ["---:", "---:"],
        ["1", "1.500 (1.723)"],
        ["3", "0.500 (1.001)"],
        ["20", "0.0312 (0.0487)"],
        ["21", "— (0.0400)"],
    ]


def test_a_config_without_a_run_has_the_published_losses_alone():
    peer = PEER.model_copy(update={"published_validation_loss": {2: 0.5}})
    other = PEER.model_copy(update={"published_validation_loss": {1: 2.5}})
    assert cells(loss_table([(peer, None), (other, None)]))[2:] == [["1", "", "— (2.500)"], ["2", "— (0.500)", ""]]
    assert loss_table([(PEER, None)]) is None


# -----------------------------------------------------------------------------
# steps until 95% are right


def ranked(config, steps, day=1, **changes):
    """A ranked batch whose runs reached 95% of validation at these steps."""
    runs = batch_runs(config, [1.0] * len(steps), settings={"batch_size": 100}, track=config, **changes)
    reached = [{"validation 95%": step} for step in steps]
    return [
        run.model_copy(update={"reached_steps": each, "started_at": datetime(2026, 1, day, tzinfo=UTC)})
        for run, each in zip(runs, reached, strict=True)
    ]


def test_ours_stand_with_median_and_extremes_of_the_newest_ranked_batch_above_slower_published_ones():
    published = (
        PublishedSteps(task="ours", trainer="Lion", steps=570, batch_size=512, runs=100, source="a paper"),
        PublishedSteps(task="ours", trainer="Adam", steps=20, seconds=1.0, source="a paper"),
        PublishedSteps(task="all", trainer="Muon", epochs=102.89, source="a paper"),
    )
    peer = PEER.model_copy(update={"published_steps": published, "compared_configs": ("ours", "none", "few")})
    theirs = [example_run(reached_steps={"validation 95%": 300}, settings={"batch_size": 10}, track="ours")]
    runs = [
        *ranked("ours", [500] * 10, source_sha256="0" * 64),
        *ranked("ours", [*[60] * 4, *[80] * 4, 100, None], day=2),
        *ranked("few", [1] * 9, day=3),
    ]
    assert cells(steps_table(peer, theirs, runs))[2:] == [
        ["ours", "Adam", "20, in 1 s", "—", "—", "—", "a paper"],
        ["ours", "`ours`", "80 (60 … 100)", "100", "8,000", "9 of 10", "this project"],
        ["ours", "`theirs`", "300", "10", "3,000", "1 of 1", "this project"],
        ["ours", "Lion", "570", "512", "291,840", "100", "a paper"],
        ["all", "Muon", "102.9 epochs", "—", "—", "—", "a paper"],
    ]


def test_runs_that_did_not_get_there_say_so():
    line = PublishedSteps(task="ours", trainer="Lion", steps=570, source="a paper")
    peer = PEER.model_copy(update={"published_steps": (line,)})
    theirs = [example_run(reached_steps={"validation 95%": None}, settings={"batch_size": 10}, track="ours")]
    assert cells(steps_table(peer, theirs, []))[3] == [
        *("ours", "`theirs`", "not reached", "10", "—", "0 of 1", "this project")
    ]
    assert steps_table(PEER, theirs, []) is None


# -----------------------------------------------------------------------------
# sampled and greedy answers


def sampling(right, temperature=0.0, top_k=0, run_id="first"):
    return Sampling(
        run_id=run_id,
        weights_sha256="9" * 64,
        temperature=temperature,
        top_k=top_k,
        problems=100,
        right=right,
        seed=1,
        share_95=(0.5, 0.75),
        measured_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def test_a_model_has_its_newest_score_by_each_decoding_beside_published_scores():
    runs = [example_run(run_id="first", weights="weights/first.safetensors")]
    score = DecodingScore(temperature=0.8, top_k=200, right=6, problems=80)
    peer = PEER.model_copy(update={"published_score": score, "track": "add3-report"})
    lines = [sampling(50), sampling(90), sampling(60, 0.8, 200), sampling(70, 1.0), sampling(1, run_id="unknown")]
    assert cells(samplings_table(lines, runs, [peer, PEER])) == [
        ["track", "model", "greedy", "temperature 0.8, top-k 200", "temperature 1"],
        ["---", "---", "---:", "---:", "---:"],
        [
            "add3",
            "[first](weights/first.safetensors)",
            "90 of 100: 90.00% [50.00%, 75.00%]",
            "60 of 100: 60.00% [50.00%, 75.00%]",
            "70 of 100: 70.00% [50.00%, 75.00%]",
        ],
        ["add3-report", "theirs, published", "—", "6 of 80: 7.50%", "—"],
    ]


@pytest.mark.parametrize(
    ("decoding", "text"),
    [
        ((0.0, 0, 1.0), "greedy"),
        ((1.0, 0, 1.0), "temperature 1"),
        ((0.8, 200, 1.0), "temperature 0.8, top-k 200"),
        ((1.0, 0, 0.9), "temperature 1, top-p 0.9"),
    ],
)
def test_a_decoding_in_words(decoding, text):
    assert decoding_text(decoding) == text
