"""Archives of the weights of a batch."""

import hashlib
import zipfile

import pytest

from bench.storage import evidence
from tests.support.examples import batch_runs, example_certificate

LARGE = 60_000  # parameters, of which ten attempts do not fit


def batch(name="a", parameters=9_000, **changes):
    """Ten attempts with different weights; attempt 3 has the smallest margin, attempt 5 is the median."""
    trains = [5.0, 1.0, 7.0, 2.0, 8.0, 4.9, 9.0, 3.0, 10.0, 4.0]
    runs = batch_runs(name, trains, parameters=parameters, **changes)
    margins = [3.0] * 10
    margins[3] = 0.5
    return [
        run.model_copy(
            update={
                "weights": f"weights/{run.run_id}.safetensors",
                "weights_sha256": hashlib.sha256(run.run_id.encode()).hexdigest(),
                "certificate": run.certificate.model_copy(update={"smallest_margin": margin}),
            }
        )
        for run, margin in zip(runs, margins, strict=True)
    ]


def keep_weights(results, runs):
    (results / "weights").mkdir(exist_ok=True)
    for run in runs:
        (results / run.weights).write_bytes(run.run_id.encode())


def test_an_archive_of_small_models_has_all_solved_attempts(tmp_path):
    runs = batch()
    runs[7] = runs[7].model_copy(update={"outcome": "missed"})
    keep_weights(tmp_path, runs)
    evidence.write_evidence(tmp_path, runs)
    names = [run.run_id for run in runs if run.outcome == "solved"]
    assert evidence.read_evidence(tmp_path, "a") == {name: name.encode() for name in names}
    assert (tmp_path / "evidence" / "a.zip").exists()


def test_an_archive_of_larger_models_has_the_smallest_margin_and_the_median(tmp_path):
    runs = batch(parameters=LARGE)
    keep_weights(tmp_path, runs)
    evidence.write_evidence(tmp_path, runs)
    assert sorted(evidence.read_evidence(tmp_path, "a")) == ["a-3", "a-5"]


@pytest.mark.parametrize(("parameters", "num_kept"), [(9_312, 20), (13_000, 2), (100_000, 2), (130_000, 1), (10**7, 1)])
def test_twenty_attempts_of_the_main_track_fit_and_one_is_kept_whatever_its_size(parameters, num_kept):
    kept = evidence.kept_runs([*batch(parameters=parameters), *batch("b", parameters=parameters)])
    assert len(kept) == num_kept
    assert kept[0].run_id in ("a-0", "a-3")
    assert num_kept == 1 or sum(4 * run.parameters for run in kept) < evidence.MOST_BYTES


def test_without_margins_the_first_attempt_and_the_median_are_kept():
    runs = batch_runs("a", [3.0, 1.0, 2.0], parameters=10**5, certificate=example_certificate(smallest_margin=None))
    assert [run.run_id for run in evidence.kept_runs(runs)] == ["a-0", "a-2"]
    assert evidence.kept_runs(batch_runs("a", [1.0], outcome=lambda i: "missed")) == []


def test_equal_weights_give_an_equal_archive_and_a_second_call_changes_nothing(tmp_path):
    keep_weights(tmp_path, batch())
    evidence.write_evidence(tmp_path, batch())
    path = tmp_path / "evidence" / "a.zip"
    before, written = path.read_bytes(), path.stat().st_mtime_ns
    evidence.write_evidence(tmp_path, batch())
    assert path.stat().st_mtime_ns == written
    path.unlink()
    evidence.write_evidence(tmp_path, batch()[::-1])
    assert path.read_bytes() == before


def test_an_archive_is_completed_when_its_batch_goes_on(tmp_path):
    runs = batch()
    keep_weights(tmp_path, runs)
    evidence.write_evidence(tmp_path, runs[:4])
    (tmp_path / runs[0].weights).unlink()
    evidence.write_evidence(tmp_path, runs)
    assert sorted(evidence.read_evidence(tmp_path, "a")) == [run.run_id for run in runs]


def test_weights_that_are_not_the_journalled_ones_are_left_out(tmp_path):
    runs = batch()
    keep_weights(tmp_path, runs)
    (tmp_path / runs[2].weights).write_bytes(b"others")
    (tmp_path / runs[4].weights).unlink()
    evidence.write_evidence(tmp_path, runs)
    assert {run.run_id for run in runs} - set(evidence.read_evidence(tmp_path, "a")) == {"a-2", "a-4"}


@pytest.mark.parametrize("changes", [{"command": "compare"}, {"command": "matrix"}, {"settings": {"curves": True}}])
def test_batches_that_never_rank_have_no_archive(tmp_path, changes):
    keep_weights(tmp_path, batch(**changes))
    evidence.write_evidence(tmp_path, batch(**changes))
    assert not (tmp_path / "evidence").exists()


def test_old_runs_have_no_archive(tmp_path):
    runs = [run.with_status(is_old=True) for run in batch()]
    keep_weights(tmp_path, runs)
    evidence.write_evidence(tmp_path, runs)
    assert not (tmp_path / "evidence").exists()


def test_an_id_that_is_no_file_name_leads_nowhere(tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    runs = batch("../../outside")
    (results / "weights").mkdir()
    (results / "weights" / "x").write_bytes(b"x")
    digest = hashlib.sha256(b"x").hexdigest()
    runs = [run.model_copy(update={"weights": "weights/x", "weights_sha256": digest}) for run in runs]
    evidence.write_evidence(results, runs)
    assert not list(tmp_path.glob("**/*.zip"))
    assert evidence.read_evidence(results, "../../outside") is None


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 torn"])
def test_a_missing_or_damaged_archive_has_no_content(tmp_path, content):
    if content is not None:
        (tmp_path / "evidence").mkdir()
        (tmp_path / "evidence" / "a.zip").write_bytes(content)
    assert evidence.read_evidence(tmp_path, "a") is None


def test_an_archive_with_a_damaged_member_has_no_content(tmp_path):
    keep_weights(tmp_path, batch())
    evidence.write_evidence(tmp_path, batch())
    path = tmp_path / "evidence" / "a.zip"
    with zipfile.ZipFile(path) as archive:
        at = archive.infolist()[1].header_offset + 40
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(content)
    assert evidence.read_evidence(tmp_path, "a") is None
