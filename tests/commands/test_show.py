"""`python -m bench show`."""

import json
import os
import subprocess
import sys
import tomllib

import pytest

from bench.commands import show
from bench.errors import UsageError
from bench.stats.learning_curves import reached_steps
from bench.storage import weights
from bench.storage.journal import Journal
from bench.storage.schema import Batch, Evaluated
from data import get_track
from tests.support.examples import ROOT, example_certificate, example_check, example_run, example_seconds
from tests.support.models import random_model

INSIDE = {"import": 2.0, "setup": 1.0, "warmup": 0.5, "train": 20.0, "certify": 3.0}


def shown(capsys, tmp_path, *runs, name=None, **arguments):
    """File some runs; the output for the last one, or for the run called `name`."""
    journal = Journal(tmp_path)
    for run in runs:
        journal.append(run)
    assert show.main(show.Arguments(runs=(name or runs[-1].run_id,), results=tmp_path, **arguments)) == 0
    return capsys.readouterr().out


def show_process(tmp_path, **options):
    """`python -m bench show latest` for a run with characters that few encodings have."""
    Journal(tmp_path).append(example_run(note="größe ━ \x1b[31m"))
    command = [sys.executable, "-m", "bench", "show", "latest", "--results", str(tmp_path)]
    return subprocess.run(command, cwd=ROOT, timeout=60, **options)


@pytest.mark.parametrize(("encoding", "note"), [("cp1252", "größe ?"), ("ascii", "gr??e ?"), ("utf-8", "größe ━")])
def test_a_terminal_of_any_encoding_shows_a_run(encoding, note, tmp_path):
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = show_process(tmp_path, env=environment, capture_output=True, encoding=encoding)
    assert (done.returncode, done.stderr) == (0, "")
    assert fact(done.stdout, "note") == f"{note} \\u001b[31m"


@pytest.mark.skipif(os.name != "posix", reason="file descriptors")
def test_a_closed_standard_output_is_no_error(tmp_path):
    done = show_process(tmp_path, preexec_fn=lambda: os.close(1), stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux")
def test_output_that_is_lost_on_a_full_disk_is_an_error(tmp_path):
    with open("/dev/full", "w") as full:
        done = show_process(tmp_path, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "bench: standard output is incomplete: No space left on device\n")


def fact(text, label):
    """The text behind a label."""
    (line,) = [line for line in text.splitlines() if line[:14].rstrip() == label]
    return line[14:]


def cells(text, heading, name):
    """The cells of one row of the table that begins with a heading."""
    table = text[text.index(f"\n{heading} ") + 1 :].split("\n\n")[0]
    (line,) = [line for line in table.splitlines() if line.split()[:1] == [name]]
    return line.split()[1:]


def test_the_summary_comes_first_and_includes_the_standing(capsys, tmp_path):
    text = shown(capsys, tmp_path, example_run())
    assert text.startswith("\nsolved  0 errors in 1,000,000  add3-cpu, seed 7")
    assert "one attempt is not ranked, use --attempts 10" in text


def test_the_facts_list_the_inputs_of_the_run(capsys, tmp_path):
    batch = Batch(id="the-batch", command="compare", planned=10, index=2, side="b")
    text = shown(capsys, tmp_path, example_run(batch=batch, dirty=True, note="[bold]a note[/bold]"))
    assert fact(text, "run") == "20260131-235959-add3-cpu-1a2b3c"
    assert fact(text, "batch") == "the-batch, 3 of 10 by compare, side b"
    assert fact(text, "config") == "add3-cpu"
    assert fact(text, "overrides") == "—"
    assert fact(text, "config hash") == "c" * 64
    assert fact(text, "seed") == "7"
    assert fact(text, "source") == "a" * 64
    assert fact(text, "harness") == "b" * 64
    assert fact(text, "commit") == "f" * 40 + " + changes of the source"
    assert fact(text, "trained") == "700 steps, 358,400 examples"
    assert fact(text, "note") == "[bold]a note[/bold]"


def test_a_machine_that_was_not_clean_is_shown_with_the_reasons(capsys, tmp_path):
    machine = {"class": "Example CPU", "clean": False, "reasons": ["shared", "busy"], "others_train": 0.25}
    text = shown(capsys, tmp_path, example_run(machine=machine))
    assert fact(text, "machine") == "Example CPU"
    assert fact(text, "clean") == "no; shared; busy"
    assert fact(text, "other load") == "— of the cores before, 25.0% during train"
    clean = example_run(run_id="clean", machine={"class": "Example CPU", "clean": True, "reasons": []})
    assert fact(shown(capsys, tmp_path, clean), "clean") == "yes"


def test_the_two_clocks_are_shown_side_by_side(capsys, tmp_path):
    outer = example_seconds(**INSIDE | {"import": 2.25, "certify": None, "total": None})
    text = shown(capsys, tmp_path, example_run(seconds=example_seconds(**INSIDE), outer_seconds=outer))
    assert cells(text, "phase", "import") == ["2.000", "2.250", "+0.250"]
    assert cells(text, "phase", "train") == ["20.000", "20.000", "+0.000"]
    assert cells(text, "phase", "certify") == ["3.000", "—", "—"]
    assert cells(text, "phase", "total") == ["26.500", "—", "—"]


@pytest.mark.parametrize(
    ("judge", "words"),
    [("harness", "another process"), ("self", "the attempt itself"), (None, "not judged: its source is older")],
)
def test_the_judge_is_named(capsys, tmp_path, judge, words):
    assert fact(shown(capsys, tmp_path, example_run(judge=judge)), "judge") == words


@pytest.mark.parametrize(
    ("isolated", "words"), [(True, "yes"), (False, "no: it had no namespaces of its own"), (None, "not known")]
)
def test_a_judged_run_says_whether_it_was_isolated(capsys, tmp_path, isolated, words):
    assert fact(shown(capsys, tmp_path, example_run(judge="harness", isolated=isolated)), "isolated") == words


def test_utilisation_is_of_the_measured_peak(capsys, tmp_path):
    run = example_run(train_flops=5e11, matmul_flops_per_second=1e11, energy_joules=1234.5, energy_method="RAPL")
    text = shown(capsys, tmp_path, run)
    assert fact(text, "utilisation") == "25.0% of the measured peak of 1e+11 FLOP/s"
    assert fact(text, "energy") == "1,234.5 J (RAPL)"


def test_the_lower_bounds_follow_from_flops_and_launches(capsys, tmp_path):
    run = example_run(train_flops=5e11, matmul_flops_per_second=1e11, steps=200, step_launches=50, launch_seconds=1e-5)
    assert fact(shown(capsys, tmp_path, run), "lower bounds") == "5 s of train by FLOPs, 0.1 s by launches (50 a step)"


def test_lower_bounds_without_measurements_are_unknown(capsys, tmp_path):
    run = example_run(train_flops=5e11, matmul_flops_per_second=None, step_launches=None, launch_seconds=1e-5)
    assert fact(shown(capsys, tmp_path, run), "lower bounds") == "— of train by FLOPs, — by launches (— a step)"


@pytest.mark.parametrize(
    "changes",
    [
        {"train_flops": None},
        {"matmul_flops_per_second": None},
        {"seconds": example_seconds(train=None)},
        {"seconds": example_seconds(train=0.0)},
    ],
)
def test_utilisation_is_unknown_when_one_of_its_factors_is(changes, capsys, tmp_path):
    run = example_run(**{"train_flops": 1e12, "matmul_flops_per_second": 1e11} | changes)
    assert fact(shown(capsys, tmp_path, run), "utilisation").startswith("— of the measured peak of ")


def test_unknown_values_are_dashes_and_not_zeros(capsys, tmp_path):
    nothing = dict.fromkeys(
        """threads steps examples parameters train_flops certificate peak_memory_bytes peak_device_memory_bytes
        energy_joules hardware software data_sha256 commit dirty weights weights_sha256""".split()
    )
    unreached = dict.fromkeys(("import", "setup", "warmup", "train", "certify", "total"))
    machine = {"class": None, "clean": None, "reasons": []}
    run = example_run(
        **nothing, outcome="lost", batch=None, seconds=unreached, checks=[], reached={}, machine=machine, seed=1
    )
    text = shown(capsys, tmp_path, run)
    facts = text[text.index("\nrun ") :].replace("batch         — (a", "").replace(run.run_id, "")
    facts = facts.replace(f"{run.started_at:%Y-%m-%d %H:%M:%S}", "").replace(run.config_hash, "")
    for word in ("None", " 0"):
        assert word not in facts
    assert fact(text, "machine") == fact(text, "commit") == fact(text, "energy") == fact(text, "software") == "—"
    assert cells(text, "phase", "train") == ["—", "—", "—"]
    assert "\ntarget" not in text
    assert "\nstep" not in text


def test_targets_that_were_not_reached_are_unknown(capsys, tmp_path):
    text = shown(capsys, tmp_path, example_run(reached={"99%": 12.0, "solved": None}))
    assert " ".join(cells(text, "target", "99%")) == "12.00 99% of the training problems of a check right"
    assert " ".join(cells(text, "target", "solved")) == "— what solved means on the track (certificate)"


def test_many_checks_are_thinned_and_the_last_is_kept(capsys, tmp_path):
    checks = [{"step": step, "train_seconds": step / 10, "loss": 0.5, "errors": 3} for step in range(1, 105)]
    checks[-1] |= {"loss": None, "errors": None}
    table = shown(capsys, tmp_path, example_run(checks=checks)).split("\nstep ")[1].split("\n\n")[0].splitlines()[1:]
    assert 15 <= len(table) <= show.MOST_CHECKS
    assert table[-1].split() == ["104", "10.40", "not", "finite", "—", "—", "—"]


def test_a_long_run_says_how_many_checks_it_has_and_where_the_loss_was_stuck_and_spiked(capsys, tmp_path):
    losses = [2.7] * 3000
    losses[2000] = 3.5
    checks = [
        {"step": 10 * i, "train_seconds": i, "loss": loss, "errors": 9, "asked": 10} for i, loss in enumerate(losses, 1)
    ]
    text = shown(capsys, tmp_path, example_run(checks=checks, steps=30_000, outcome="missed", certificate=None))
    assert fact(text, "checks") == "3,000 in the journal, of which 20 are below; --plot FILE draws all"
    assert fact(text, "stuck") == "at a loss of 2.7 from step 10 to 30,000, 100% of the steps"
    assert fact(text, "spike") == "loss 2.7 to 3.5 at step 20,010, over at step 20,020"
    assert fact(text, "peak memory") == "1,024 MiB, on the device —; estimated —"


def test_only_the_first_spikes_are_listed(capsys, tmp_path):
    checks = [example_check(i, errors=9, loss=2.0 if i % 10 == 0 else 1.0) for i in range(1, 101)]
    text = shown(capsys, tmp_path, example_run(checks=checks))
    spikes = [line[14:] for line in text.splitlines() if line.startswith("spike ")]
    assert spikes == [f"loss 1 to 2 at step {10 * i}, over at step {10 * i + 1}" for i in range(1, 6)] + ["and 5 more"]


def test_a_named_target_of_the_track_is_decided_by_the_certificate(capsys, tmp_path):
    run = example_run(reached={"0.943": 20.0}, certificate=example_certificate(targets={"0.943": True}))
    assert " ".join(cells(shown(capsys, tmp_path, run), "target", "0.943")).startswith(
        "20.00 the track's weaker target"
    )


def test_settings_are_printed_as_a_config(capsys, tmp_path):
    run = example_run()
    assert tomllib.loads(shown(capsys, tmp_path, run, settings=True)) == run.settings


def test_json_is_the_line_of_the_journal(capsys, tmp_path):
    run = example_run()
    text = shown(capsys, tmp_path, run, json=True)
    assert text == run.model_dump_json() + "\n"
    assert json.loads(text)["run_id"] == run.run_id


def test_a_weights_file_is_shown_as_its_run_or_by_its_metadata(capsys, tmp_path):
    path = tmp_path / "weights" / "a.safetensors"
    digest = weights.save(path, random_model(), get_track("add3"), {"batch_size": 512, "seed": None})
    text = shown(capsys, tmp_path, name=str(path))
    assert {"track add3", "model.n_embd 16", "settings.batch_size 512", "settings.seed —"} <= {
        " ".join(line.split()) for line in text.splitlines()
    }
    assert f"no run in {tmp_path} ended with the weights" in text
    with pytest.raises(UsageError, match="no run in"):
        show.main(show.Arguments(runs=(str(path),), json=True, results=tmp_path))
    text = shown(capsys, tmp_path, example_run(weights_sha256=digest), name=str(path))
    assert fact(text, "weights hash") == digest


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"\x02\0\0\0\0\0\0\0{}"])
def test_a_file_without_weights_is_an_error(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="not weights of this project"):
        show.main(show.Arguments(runs=(str(path),), results=tmp_path))


def test_the_error_for_an_unknown_run_names_the_nearest(tmp_path):
    Journal(tmp_path).append(example_run())
    with pytest.raises(UsageError, match="the nearest is '20260131-235959-add3-cpu-1a2b3c'"):
        show.main(show.Arguments(runs=("20260131-add3-cpu",), results=tmp_path))


def grokking_run(num_checks=3, **changes):
    """A run with a validation set, which is right at the last check alone."""
    steps = [10 * (i + 1) for i in range(num_checks)]
    checks = [
        example_check(
            step,
            errors=1 if step == 10 else 0,
            validation=Evaluated(problems=2000, errors=0 if step == steps[-1] else 1, loss=0.25),
            squared_norm=16.0,
        )
        for step in steps
    ]
    return example_run(**{"checks": checks, "reached_steps": reached_steps(checks)} | changes)


def test_a_track_with_validation_shows_both_splits_and_the_norm(capsys, tmp_path):
    text = shown(capsys, tmp_path, grokking_run())
    assert cells(text, "step", "10") == ["0.10", "0.5", "99.00%", "0.25", "99.95%", "4.0"]
    assert cells(text, "step", "30") == ["0.30", "0.5", "100%", "0.25", "100%", "4.0"]
    assert cells(text, "steps to", "train,") == [*"a sample of 100".split(), "10", "20"]
    assert cells(text, "steps to", "validation") == ["10", "30"]


def test_the_test_split_is_shown_where_checks_evaluated_it(capsys, tmp_path):
    test = Evaluated(problems=3000, errors=30, loss=0.75)
    run = grokking_run(1)
    checks = [check.model_copy(update={"test": test}) for check in run.checks]
    text = shown(capsys, tmp_path, run.model_copy(update={"checks": checks, "settings": {"curves": True}}))
    assert cells(text, "step", "10")[-2:] == ["99.00%", "4.0"]
    assert "this run looked at the test problems during training and never ranks" in text


def test_of_a_long_run_at_most_twenty_checks_are_shown_with_the_first_and_the_last(capsys, tmp_path):
    text = shown(capsys, tmp_path, grokking_run(997))
    table = text.split("validation  validation")[1].split("\n\n")[0].splitlines()[2:]
    steps = [line.split()[0] for line in table]
    assert (len(steps), steps[0], steps[-1]) == (20, "10", "9,970")
    assert max(map(len, table)) <= 80


def test_learning_curves_are_drawn_into_a_file(capsys, tmp_path):
    runs = [grokking_run(run_id=f"run-{i}", seed=i) for i in range(2)]
    for run in runs:
        Journal(tmp_path).append(run)
    path = tmp_path / "curves.svg"
    assert show.main(show.Arguments(runs=("run-0", "run-1"), plot=path, results=tmp_path)) == 0
    assert capsys.readouterr().out == f"{path}\n"
    assert path.read_text().startswith("<?xml")


def test_the_curves_of_a_batch_are_drawn_by_its_id(monkeypatch, tmp_path):
    for i in range(3):
        Journal(tmp_path).append(
            grokking_run(run_id=f"run-{i}", batch=Batch(id="b", command="matrix", planned=3, index=i))
        )
    drawn = []
    monkeypatch.setattr("bench.report.curves_plot.draw_curves", lambda runs, kind: drawn.extend(runs) or b"")
    assert show.main(show.Arguments(runs=("b", "run-1"), plot=tmp_path / "curves.png", results=tmp_path)) == 0
    assert [run.run_id for run in drawn] == ["run-0", "run-1", "run-2"]


def test_a_plot_needs_a_format_that_can_be_drawn_and_a_folder_that_exists(tmp_path):
    Journal(tmp_path).append(grokking_run())
    with pytest.raises(UsageError, match=r"must end in \.svg or \.png"):
        show.main(show.Arguments(runs=("latest",), plot=tmp_path / "curves.gif", results=tmp_path))
    with pytest.raises(UsageError, match="No such file or directory"):
        show.main(show.Arguments(runs=("latest",), plot=tmp_path / "missing" / "curves.svg", results=tmp_path))


def test_a_run_without_a_check_has_nothing_to_draw(tmp_path):
    batch = Batch(id="b", command="speedrun", planned=2, index=0)
    for run in (grokking_run(run_id="whole", batch=batch), example_run(run_id="bare", batch=batch, checks=[])):
        Journal(tmp_path).append(run)
    path = tmp_path / "curves.svg"
    with pytest.raises(UsageError, match="--plot: bare has no check during training"):
        show.main(show.Arguments(runs=("whole", "bare"), plot=path, results=tmp_path))
    assert not path.exists()
    assert show.main(show.Arguments(runs=("b",), plot=path, results=tmp_path)) == 0  # one of its runs has checks


@pytest.mark.parametrize("others", [{"json": True}, {"settings": True}, {"json": True, "settings": True}])
def test_only_one_form_of_output_is_possible(others, tmp_path):
    Journal(tmp_path).append(grokking_run())
    plot = None if len(others) == 2 else tmp_path / "curves.svg"
    with pytest.raises(UsageError, match="show takes one of --"):
        show.main(show.Arguments(runs=("latest",), plot=plot, results=tmp_path, **others))


def test_the_id_of_a_batch_is_no_run_and_names_one(tmp_path):
    for i in range(2):
        batch = Batch(id="the-batch", command="speedrun", planned=2, index=i)
        Journal(tmp_path).append(grokking_run(run_id=f"run-{i}", batch=batch, weights=None))
    message = "the-batch is a batch of 2 runs: name one of them, such as run-1, or draw .* show the-batch --plot FILE"
    with pytest.raises(UsageError, match=message):
        show.main(show.Arguments(runs=("the-batch",), results=tmp_path))


def test_several_runs_are_shown_one_after_another(capsys, tmp_path):
    for i in range(2):
        Journal(tmp_path).append(example_run(run_id=f"run-{i}", seed=i))
    assert show.main(show.Arguments(runs=("run-1", "run-0"), json=True, results=tmp_path)) == 0
    assert [json.loads(line)["run_id"] for line in capsys.readouterr().out.splitlines()] == ["run-1", "run-0"]
    with pytest.raises(UsageError, match="show needs a RUN"):
        show.main(show.Arguments(runs=(), results=tmp_path))
