"""`SCALING.md`, from journals made by hand, and the files that `bench board` writes."""

import csv
import io
import re
from pathlib import Path

import pytest

from bench import __main__ as commands
from bench.report import scaling, scaling_plot
from bench.report.plot_style import csv_text
from bench.report.scaling_families import families, plotted
from bench.storage.journal import Journal
from tests.support.sweep import attempt, sweep

ELSEWHERE = {"class": "Another CPU", "clean": True, "reasons": []}


def page(runs):
    return scaling.render_scaling(runs)


def tables(text):
    """The rows of each family's table of lengths, as lists of cells, by the heading above it."""
    found = {}
    for part in re.split(r"^#+ ", text, flags=re.MULTILINE):
        heading, _, below = part.partition("\n")
        _, bar, table = below.partition("\n| digits |")
        rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
        if bar:
            found[heading] = rows[1:]
    return found


def test_a_row_sums_up_the_attempts_at_one_length_whatever_their_outcome():
    runs = [
        *[attempt("add4", train, steps=steps) for train, steps in ((30.0, 300), (10.0, 100), (20.0, 900))],
        attempt("add4", 99.0, "missed", errors=40),
        attempt("add5", 99.0, "missed", errors=1000),
        attempt("add5", 99.0, "missed", errors=2000),
        attempt("add5", 99.0, "timeout"),
        attempt("add5", None, "lost"),
        attempt("add5", 99.0, "timeout"),
    ]
    bound = "4.1e-05 (4.1e-05 … 4.1e-05)"
    (rows,) = tables(page(runs)).values()
    assert rows == [
        ["4", "3/4", "20.00 (10.00 … 30.00)", "300", "1e+12", "358,400", "40 (40 … 40)", bound, "—"],
        ["5", "0/5", "—", "—", "—", "—", "1,500 (1,000 … 2,000)", "0.0015 (0.001 … 0.002)", "1 lost, 2 timeout"],
    ]


def test_each_order_has_its_own_table_and_exponents():
    runs = [*sweep(2.0), *sweep(1.0, suffix="-reversed"), attempt("add5", outcome="missed")]
    text = page(runs)
    assert "| most significant first | 2.00 [2.00, 2.00] | 0.00 [0.00, 0.00] | 0.00 [0.00, 0.00] | 4/5 |" in text
    assert "| reversed | 1.00 [1.00, 1.00] | 0.00 [0.00, 0.00] | 0.00 [0.00, 0.00] | 4/4 |" in text
    found = {heading.partition(":")[0]: [row[0] for row in rows] for heading, rows in tables(text).items()}
    assert found == {"most significant first": ["1", "2", "3", "4", "5"], "reversed": ["1", "2", "3", "4"]}


def test_two_lengths_are_too_few_for_an_exponent():
    text = page(sweep(lengths=(1, 2)))
    assert "| most significant first | too few | too few | too few | 2/2 |" in text


def test_machine_classes_are_apart_and_a_special_character_in_one_does_no_harm():
    odd = {"class": "Odd | CPU", "clean": False, "reasons": ["noise"]}
    text = page([*sweep(), *sweep(machine=ELSEWHERE), *sweep(machine=odd)])
    assert re.findall(r"^### (.*)$", text, re.MULTILINE) == ["On Another CPU", "On Example CPU", r"On Odd \| CPU"]
    assert "4 attempts, 4 on a quiet machine." in text
    assert "4 attempts, 0 on a quiet machine." in text


def test_attempts_with_other_settings_or_source_are_shown_apart_and_say_in_what_they_differ():
    other = attempt("add9", settings={"num_steps": 900}, source_sha256="e" * 64)
    text = page([other, *sweep()])
    assert "Not in the figure. Differences from the family shown there: `num_steps: 700 → 900`, the source." in text
    assert text.index("4 attempts") < text.index("1 attempt,")
    assert "| most significant first | 2.00 [2.00, 2.00] |" in text


def test_the_figures_data_are_the_attempts_of_the_first_family_of_each_machine():
    found = families(
        [*sweep(), attempt("add9", source_sha256="e" * 64), attempt("add2", None, "lost", machine=ELSEWHERE)]
    )
    shown = plotted(found)
    assert [family.machine_class for family in shown] == ["Another CPU", "Example CPU"]
    read = list(csv.DictReader(io.StringIO(csv_text(scaling.rows_of(shown)))))
    assert [(row["machine_class"], row["digits"], row["outcome"], row["train_seconds"]) for row in read] == [
        ("Another CPU", "2", "lost", ""),
        *[("Example CPU", str(n), "solved", f"{5 * n**2:.6f}") for n in (1, 2, 3, 4)],
    ]


# -----------------------------------------------------------------------------
# the command


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling_plot, "draw_scaling", lambda families: b"\x89PNG")  # test_scaling_plot.py draws
    for run in [*sweep(), attempt("add3", outcome="missed", errors=3)]:
        Journal(tmp_path).append(run)
    return tmp_path


def run_command(results, *arguments):
    return commands.main(["board", "--results", str(results), *arguments])


def test_the_board_writes_the_page_the_data_and_the_picture_and_tells_the_exponents(results):
    assert run_command(results) == 0
    text = (results / "SCALING.md").read_text("utf-8")
    assert "| most significant first | 2.00 [2.00, 2.00] | 0.00 [0.00, 0.00] | 0.00 [0.00, 0.00] |" in text
    assert "(plots/scaling.png)" in text
    assert (results / "plots" / "scaling.png").read_bytes() == b"\x89PNG"
    assert len((results / "plots" / "scaling.csv").read_text().splitlines()) == 6
    before = {path.name: path.read_bytes() for path in results.rglob("scaling.*")}
    assert run_command(results) == 0
    assert before == {path.name: path.read_bytes() for path in results.rglob("scaling.*")}


def test_the_check_fails_when_file_and_journal_disagree_and_writes_nothing(results, capsys):
    assert run_command(results, "--check") == 1
    assert not (results / "SCALING.md").exists()
    run_command(results)
    assert run_command(results, "--check") == 0
    (results / "plots" / "scaling.png").write_bytes(b"drawn by another version")
    assert run_command(results, "--check") == 0
    Journal(results).append(attempt("add9", run_id="add9"))
    capsys.readouterr()
    assert run_command(results, "--check") == 1
    told = capsys.readouterr().err.splitlines()
    names = {Path(line.split()[0]).name for line in told}
    assert names == {"LEADERBOARD.md", "SCALING.md", "scaling.csv", "add9.md"}
    assert all("run `python -m bench board --results " in line for line in told)


def test_without_an_attempt_of_the_configs_there_is_neither_page_nor_picture(tmp_path):
    assert run_command(tmp_path) == 0
    assert not [path for path in tmp_path.rglob("*") if "scaling" in path.name.lower()]
    assert run_command(tmp_path, "--check") == 0


def test_lines_that_could_not_be_read_are_shown(results, capsys):
    with open(results / "runs.jsonl", "a") as file:
        file.write("torn\n")
    assert run_command(results) == 0
    assert "runs.jsonl:6: skipped" in capsys.readouterr().err
    assert "runs.jsonl:6: skipped" in (results / "SCALING.md").read_text("utf-8")
