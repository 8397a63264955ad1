"""The leaderboard's figures: their data against a naive count, and the texts in their pictures."""

import csv
import io
import math
import re
from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.report import plot_style, plots
from bench.report.plots import Category
from bench.stats.ranking import RunBatch, group_entries
from bench.storage.schema import Batch
from tests.support.examples import example_record, example_run, example_seconds

CATEGORY = Category("add3", "Example CPU (6/143/8), with AMX-BF16, 2 cores, 2 threads, torch 2.13", "train")


def batch_of(name, trains, solved=lambda i: True, **changes):
    """A batch with these seconds of `train`; None for an attempt that was killed."""
    return RunBatch(
        f"batch-{name}",
        len(trains),
        tuple(
            example_run(
                run_id=f"{name}-{i}",
                batch=Batch(id=f"batch-{name}", command="speedrun", planned=len(trains), index=i),
                seconds=example_seconds(train=train),
                outcome="solved" if solved(i) else "missed",
                config=name,
                seed=i,
                **{"settings": {"track": "add3", "variant": changes.get("config_hash", name)}} | changes,
            )
            for i, train in enumerate(trains)
        ),
    )


def records(*erts, **changes):
    """One record by `train` every other day."""
    day = datetime(2026, 1, 31, 12, tzinfo=UTC)
    made = []
    for i, ert in enumerate(erts):
        result = {"attempts": 10, "solved": 10, "clean": 10, "ert_train_seconds": ert, "ert_total_seconds": ert}
        values = {"name": f"record-{i}", "started_at": day + timedelta(days=2 * i), "result": result}
        made.append(example_record(**values | changes).record)
    return made


# -----------------------------------------------------------------------------
# the data


@settings(max_examples=20)
@given(
    st.lists(
        st.tuples(st.integers(0, 60_000).map(lambda milliseconds: milliseconds / 1000), st.booleans()),
        min_size=1,
        max_size=30,
    )
)
def test_the_curve_counts_the_solved_among_all_seeds_at_every_moment(attempts):
    batch = batch_of("a", [seconds for seconds, _ in attempts], lambda i: attempts[i][1])
    rows = plots.solved_rows(group_entries([batch]), "train")
    assert rows[0].seconds == 0.0
    assert rows[-1].seconds == max(seconds for seconds, _ in attempts)
    assert [row.seconds for row in rows] == sorted({row.seconds for row in rows})
    for row in rows:
        assert row.solved == sum(solved and seconds <= row.seconds for seconds, solved in attempts)
        assert row.seeds == len(attempts)
        assert row.fraction == row.solved / row.seeds
        assert 0 <= row.low <= row.fraction <= row.high <= 1
    moments = {seconds for seconds, solved in attempts if solved}
    assert moments <= {row.seconds for row in rows}


def test_a_seed_that_ran_several_times_counts_as_the_share_of_its_attempts():
    batches = [batch_of(name, [1.0, 2.0], lambda i: True, config_hash="one") for name in ("a", "b")]
    batches.append(batch_of("c", [3.0], lambda i: False, config_hash="one"))
    rows = plots.solved_rows(group_entries(batches), "train")
    assert [(row.seconds, row.solved, row.seeds) for row in rows] == [
        (0.0, 0, 2),
        (1.0, pytest.approx(2 / 3), 2),
        (2.0, pytest.approx(5 / 3), 2),
        (3.0, pytest.approx(5 / 3), 2),
    ]


def test_the_band_is_wilsons():
    rows = plots.solved_rows(group_entries([batch_of("a", [float(i + 1) for i in range(10)])]), "train")
    for row in rows:
        share, attempts, z = row.solved / 10, 10, 1.959963984540054
        middle = (share + z**2 / (2 * attempts)) / (1 + z**2 / attempts)
        half = z / (1 + z**2 / attempts) * math.sqrt(share * (1 - share) / attempts + z**2 / (4 * attempts**2))
        assert (row.low, row.high) == pytest.approx((middle - half, middle + half), abs=1e-12)


def test_a_missed_attempt_stays_unsolved_to_the_end():
    rows = plots.solved_rows(group_entries([batch_of("a", [1.0, 2.0, 9.0], lambda i: i != 2)]), "train")
    assert [(row.seconds, row.solved) for row in rows] == [(0.0, 0), (1.0, 1), (2.0, 2), (9.0, 2)]


def test_a_killed_attempt_is_charged_its_limit_as_in_the_ranking():
    batch = batch_of("a", [1.0, None], lambda i: i == 0, settings={"max_seconds": 60.0})
    assert plots.solved_rows(group_entries([batch]), "train")[-1].seconds == 60.0


def test_each_clock_has_its_own_seconds():
    batch = batch_of("a", [20.0])
    assert plots.solved_rows(group_entries([batch]), "train")[-1].seconds == 20.0
    assert plots.solved_rows(group_entries([batch]), "total")[-1].seconds == 26.5


def test_no_more_than_the_best_entries_are_shown():
    entries = group_entries([batch_of(f"config-{i}", [float(i + 1)] * 10) for i in range(10)])
    (figure,) = plots.category_figures(CATEGORY, entries, [])
    shown = dict.fromkeys(row["config"] for row in csv.DictReader(io.StringIO(figure.csv())))
    assert list(shown) == [f"config-{i}" for i in range(plots.MOST_CURVES)]


def test_records_stand_in_order_of_their_dates():
    rows = plots.record_rows(records(30.0, 20.0, 10.0)[::-1])
    assert [row.name for row in rows] == ["record-0", "record-1", "record-2"]


def test_csv_reads_back_and_leaves_the_unknown_empty():
    rows = plots.solved_rows(group_entries([batch_of('a "quoted", name', [1 / 3, 2.0])]), "train")
    read = list(csv.DictReader(io.StringIO(plot_style.csv_text(rows))))
    assert [row["config"] for row in read] == ['a "quoted", name'] * len(rows)
    assert [row["seconds"] for row in read] == ["0.000000", "0.333333", "2.000000"]
    assert [int(row["solved"]) for row in read] == [0, 1, 2]
    (row,) = csv.DictReader(io.StringIO(plot_style.csv_text(plots.record_rows(records(1.5)))))
    assert row["date"] == "2026-01-31T12:00:00+00:00"
    assert (row["ert_seconds"], row["low_seconds"], row["high_seconds"]) == ("1.500000", "", "")
    assert plot_style.csv_text([]) == ""


# -----------------------------------------------------------------------------
# names


NAMES = st.builds(Category, st.text(), st.text(), st.sampled_from(("train", "total")))


@given(NAMES)
def test_a_file_name_is_safe_everywhere(category):
    assert re.fullmatch(r"[a-z0-9-]{1,80}", plots.file_stem(category, "solved"))


@given(NAMES, NAMES)
def test_different_categories_have_different_files(category, other):
    names = {plots.file_stem(category, "solved"), plots.file_stem(other, "solved")}
    assert len(names) == (1 if category == other else 2)


def test_a_file_name_is_stable_and_can_be_read():
    assert plots.file_stem(CATEGORY, "solved") == "add3-example-cpu-6-143-8-with-amx-bf16-2-3279e8f4-train-solved"


def test_a_category_without_an_entry_or_record_has_no_figure():
    assert plots.category_figures(CATEGORY, [], []) == []
    entries = group_entries([batch_of("a", [1.0] * 10, lambda i: i > 0)])
    shown = plots.category_figures(CATEGORY, entries, records(2.0))
    assert [figure.name for figure in shown] == [plots.file_stem(CATEGORY, kind) for kind in ("solved", "records")]
    assert shown[0].alt == "Share of seeds that solved add3, against train seconds"
    assert shown[1].alt == "Records of add3 by train over time"
    header, first, *_ = shown[0].csv().splitlines()
    assert header == "batches,config,seconds,solved,seeds,fraction,low,high"
    assert first.startswith("batch-a,a,0.000000,0,10,")
    assert shown[1].csv().startswith("name,date,ert_seconds,low_seconds,high_seconds,solved,attempts\nrecord-0,")


# -----------------------------------------------------------------------------
# the pictures


def texts(canvas):
    """All that can be read in a picture."""
    from matplotlib.text import Text

    canvas.draw_without_rendering()  # sets the ticks
    return [text.get_text() for text in canvas.findobj(Text) if text.get_visible()]


def hidden(canvas):
    """The texts that stand partly outside the page."""
    from matplotlib.text import Text

    canvas.draw_without_rendering()
    page = canvas.bbox.padded(1)
    legend = [text for legend in canvas.legends for text in legend.get_texts()]
    shown = [*legend, *(text for axes in canvas.axes for text in axes.findobj(Text) if text in axes.texts)]
    boxes = [
        (text.get_text(), text.get_window_extent()) for text in [*shown, *(axes.xaxis.label for axes in canvas.axes)]
    ]
    return [text for text, box in boxes if text and not (page.contains(*box.min) and page.contains(*box.max))]


LONG = "a-config-whose-name-says-everything-about-it-and-then-some-more-{}"
CURVES = {
    "one attempt": [batch_of("a", [5.0])],
    "none solved": [batch_of("a", [5.0] * 10, lambda i: False)],
    "equal seconds": [batch_of("a", [5.0] * 10)],
    "no seconds": [batch_of("a", [0.0] * 10)],
    "eight with long names": [batch_of(LONG.format(i), [5.0 + i + j for j in range(10)]) for i in range(8)],
    "very different": [batch_of("a", [0.01 + 0.001 * i for i in range(10)]), batch_of("b", [4000.0] * 10)],
}
HISTORIES = {
    "one": records(20.0),
    "of one moment": records(30.0, 20.0, started_at=datetime(2026, 1, 31, tzinfo=UTC)),
    "one that solved nothing": records(30.0, None),
    "many and very different": records(*(1000.0 * 0.7**i for i in range(30))),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", CURVES)
def test_solved_curves_can_be_drawn_whatever_they_are(name):
    rows = plots.solved_rows(group_entries(CURVES[name]), "train")
    with plot_style.style():
        canvas = plots.solved_canvas(rows, CATEGORY)
        read = texts(canvas)
        assert not hidden(canvas)
    assert any(text.startswith("seconds on the train clock (") for text in read)
    ElementTree.fromstring(plot_style.draw_svg(lambda: canvas))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", HISTORIES)
def test_histories_can_be_drawn_whatever_they_are(name):
    with plot_style.style():
        canvas = plots.records_canvas(plots.record_rows(HISTORIES[name]), CATEGORY)
        read = texts(canvas)
        assert not hidden(canvas)
    assert {"ERT, seconds on the train clock", "date (UTC)"} <= set(read)
    ElementTree.fromstring(plot_style.draw_svg(lambda: canvas))


def test_the_legend_says_how_many_solved_of_how_many():
    batches = [batch_of("a", [5.0] * 10, lambda i: i > 2), batch_of("b", [9.0] * 12)]
    rows = plots.solved_rows(group_entries(batches), "train")
    with plot_style.style():
        read = texts(plots.solved_canvas(rows, CATEGORY))
    assert "a: 7 of 10 seeds, batch batch-a" in read
    assert "b: 12 of 12 seeds, batch batch-b" in read


def test_a_long_history_names_its_latest_records():
    with plot_style.style():
        read = texts(plots.records_canvas(plots.record_rows(records(*range(40, 20, -1))), CATEGORY))
    named = [text for text in read if "ERT" in text and "solved" in text]
    assert len(named) == plots.MOST_NAMES
    assert named[-1] == "20. record-19: ERT 21.00 s, 10 of 10 solved"


def test_very_different_seconds_have_a_logarithmic_axis_with_plain_numbers():
    with plot_style.style():
        rows = plots.solved_rows(group_entries(CURVES["very different"]), "train")
        (axes,) = plots.solved_canvas(rows, CATEGORY).axes
        assert axes.get_xscale() == "log"
        assert "1,000" in [label.get_text() for label in axes.get_xticklabels()]
        (axes,) = plots.solved_canvas(plots.solved_rows(group_entries(CURVES["equal seconds"]), "train"), CATEGORY).axes
        assert axes.get_xscale() == "linear"


def test_a_curve_of_several_batches_says_so():
    batches = [batch_of(name, [5.0] * 10, config_hash="one") for name in ("a", "b", "c")]
    with plot_style.style():
        read = texts(plots.solved_canvas(plots.solved_rows(group_entries(batches), "train"), CATEGORY))
    assert "a: 10 of 10 seeds, batch batch-a and 2 more" in read


def test_eight_curves_differ_in_colour_and_in_dashes():
    assert len(set(plot_style.COLORS)) == len(set(plot_style.DASHES)) == plots.MOST_CURVES


def test_the_same_data_make_the_same_picture_whatever_the_users_settings(monkeypatch):
    import matplotlib

    entries = group_entries([batch_of("a", [float(i) for i in range(1, 11)])])
    (figure,) = plots.category_figures(CATEGORY, entries, [])
    picture = figure.svg()
    with matplotlib.rc_context({"figure.facecolor": "black", "font.size": 30.0, "svg.fonttype": "none"}):
        assert figure.svg() == picture
        assert matplotlib.rcParams["font.size"] == 30.0
    assert "<dc:date>" not in picture
