"""The peers' page, from journals made by hand."""

from datetime import UTC, datetime, timedelta

import pytest

from bench.config import PEER_KEYS, read_config
from bench.errors import UsageError
from bench.report import peer_configs
from bench.report.peer_configs import Peer, config_settings, read_peers
from bench.report.peers import is_on_page, is_reference, reference_runs, render_peers
from bench.storage.journal import Journal
from data import get_track
from settings import Settings
from tests.support.examples import ROOT, example_certificate, example_run, example_seconds

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
PEERS = read_peers()


def reference(hours=0.0, train=20.0, name="reference", **changes):
    """A run of add3-cpu that began so many hours after noon; it reaches 99% after half of `train`."""
    reached = {"99%": train / 2, "sample80": train, "heldout": train, "solved": train}
    when = {"started_at": NOON + timedelta(hours=hours), "run_id": f"{name}-{hours}"}
    return example_run(**{"seconds": example_seconds(train=train), "reached": reached} | when | changes)


def peer(config="report-4", train=4000.0, errors=13_240, hours=0.0, **changes):
    """A run of a peer that began so many hours after noon."""
    return example_run(
        **{
            "run_id": f"{config}-run",
            "track": next(each.track for each in PEERS if each.config == config),
            "config": config,
            "settings": config_settings(config),
            "outcome": "missed",
            "precision": "float32",
            "seconds": example_seconds(train=train),
            "reached": {"99%": 3000.0, "sample80": None, "heldout": None, "solved": None},
            "certificate": example_certificate(errors, problems=810_000),
            "parameters": 1_334_016,
            "steps": 5000,
            "started_at": NOON + timedelta(hours=hours),
        }
        | changes
    )


def rows(*runs):
    """The cells of the tables of runs, by config and heading."""
    found = {}
    for line in render_peers(runs).splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] == "config":
            headings = cells
        elif (
            cells[0] in {each.config for each in PEERS} and line.startswith("| ") and headings[1] != "published figure"
        ):
            found[cells[0]] = dict(zip(headings, cells, strict=True))
    return found


def test_a_peer_stands_with_its_seconds_and_how_many_times_the_references_they_are():
    found = rows(peer(), reference(-0.1, train=10.0), reference(2.0, train=30.0), reference(1.5, train=20.0))
    assert found["report-4"] == {
        "config": "report-4",
        "99%, s": "3,000.0 (× 300.0)",  # the reference's median to 99% is 10 s
        "sample80, s": "not reached",
        "solved, s": "not reached",
        "`train`, s": "4,000.0 (× 200.0)",
        "errors": "13,240 of 810,000",
        "held out": "0 of 99,771",
        "published errors": "0 of 80",
        "steps": "5,000",
        "parameters": "1,334,016",
        "precision": "float32",
        "reference, `train`": "add3-cpu: 20.00 s, 3 of 3 solved",
    }


def test_a_peer_that_makes_no_mistake_has_its_seconds_to_that():
    reached = {"99%": 3000.0, "sample80": 3500.0, "heldout": 4000.0, "solved": 4000.0}
    cells = rows(peer(outcome="solved", errors=0, reached=reached), reference())["report-4"]
    seconds = [cells[heading] for heading in ("sample80, s", "solved, s", "`train`, s", "errors")]
    assert seconds == ["3,500.0 (× 175.0)", "4,000.0 (× 200.0)", "4,000.0 (× 200.0)", "0 of 810,000"]


def test_configs_without_runs_are_not_run_yet():
    found = rows(peer(), reference())
    assert set(found) == {each.config for each in PEERS}
    assert all(cells["`train`, s"] == "not run yet" for config, cells in found.items() if config != "report-4")
    assert found["report-1"]["published errors"] == "74 of 80 (temperature 0.8, top-k 200)"


def test_columns_in_which_no_run_of_a_track_has_a_figure_are_left_out():
    adder = peer("add2-recipe", reached={"99%": 30.0, "solved": None}, certificate=None, outcome="timeout")
    found = rows(adder)
    assert list(found["add2-recipe"]) == [
        *("config", "99%, s", "solved, s", "`train`, s", "errors"),
        *("published errors", "steps", "parameters", "precision"),
    ]
    assert found["add2-recipe"]["errors"] == "timeout"
    assert list(found["mingpt"]) == ["config", "`train`, s"]


def test_a_run_without_a_certificate_says_how_it_ended():
    lost = peer(outcome="lost", certificate=None, reached={}, seconds=dict.fromkeys(example_seconds()), steps=None)
    cells = rows(lost, peer(config="report-3"))["report-4"]
    assert [cells[heading] for heading in ("99%, s", "`train`, s", "errors", "steps")] == ["—", "—", "lost", "—"]


def test_ratios_need_a_reference_in_the_same_session():
    cells = rows(peer(), reference(9.0))["report-4"]
    assert (cells["99%, s"], cells["`train`, s"]) == ("3,000.0", "4,000.0")
    assert "reference, `train`" not in cells
    cells = rows(peer(), peer("report-3", hours=9.0), reference(9.0))["report-4"]
    assert cells["reference, `train`"] == "none in this session"
    cells = rows(peer(), reference(outcome="missed"))["report-4"]
    assert (cells["99%, s"], cells["reference, `train`"]) == ("3,000.0", "add3-cpu: 0 of 1 solved")


def test_a_peer_may_name_its_reference(tmp_path):
    settings = config_settings("moddiv-97") | {"track_settings.p": 97}
    ours = {"track": "moddiv-97", "config": "moddiv-97", "settings": settings}
    theirs = peer("moddiv-97-recipe", certificate=None)
    cells = rows(theirs, reference(), reference(1.0, train=2.0, **ours))["moddiv-97-recipe"]
    assert cells["`train`, s"] == "4,000.0 (× 2,000.0)"
    assert cells["reference, `train`"] == "moddiv-97: 2.00 s, 1 of 1 solved"
    journal = Journal(tmp_path)
    journal.append(theirs)
    assert is_on_page(theirs, journal)
    assert is_on_page(reference(1.0, **ours), journal)
    assert not is_on_page(reference(9.0, **ours), journal)
    assert not is_on_page(reference(1.0), journal)
    assert not is_on_page(reference(1.0, config="mine"), journal)


@pytest.mark.parametrize(("hours", "is_near"), [(-3.02, False), (-2.99, True), (0.5, True), (4.1, True), (4.2, False)])
def test_a_session_reaches_three_hours_before_a_run_and_three_after_its_end(hours, is_near):
    run = peer(seconds=example_seconds(train=4000.0, total=4000.0))  # an hour and 400 s
    other = reference(hours, seconds=example_seconds(total=36.0))
    assert reference_runs(run, [other]) == ([other] if is_near else [])


def test_a_session_is_on_one_machine_class_and_device_and_of_the_nearest_source_and_settings():
    run, near, same = peer(), reference(0.1), reference(-2.0)
    others = [
        reference(0.05, machine={"class": "Another", "clean": None, "reasons": []}),
        reference(0.05, config="add3-cuda"),
        reference(0.05, track="add2"),
        reference(0.05, settings={"control": "permute"}),
        reference(0.01, overrides={"num_steps": 6}),
        reference(-1.5, name="older", source_sha256="e" * 64),
        reference(-1.5, name="other", settings={"level_share": 0.5}),
    ]
    references = [other for other in [run, *others, same, near] if is_reference(other, None)]
    assert references == [*others[0:1], *others[-2:], same, near]
    assert reference_runs(run, references) == [same, near]


def test_a_peers_run_on_another_track_or_for_a_test_is_none():
    found = rows(peer(track="add3"), peer(settings=config_settings("report-4") | {"control": "permute"}))
    assert found["report-4"]["`train`, s"] == "not run yet"


def test_what_differs_from_the_config_is_told():
    text = render_peers([peer(settings=config_settings("report-4") | {"num_steps": 5, "max_seconds": 1.0})])
    (line,) = [line for line in text.splitlines() if line.startswith("  - `report-4-run`")]
    assert line.endswith("; differs from the config: `num_steps: 5000 → 5`")
    assert "differs from the config" not in render_peers([peer()])


def test_published_figures_in_words_stand_apart_with_their_source():
    measured, published = render_peers([]).split("## Published, not measured here")
    for each in PEERS:
        assert (f"| {each.config} | {each.published} | {each.source} |" in published) == (each.published is not None)
        assert each.published is None or each.published not in measured
        assert each.source is None or f"`{each.config}`: {each.what} ({each.source})" in measured


def test_the_same_runs_make_the_same_page_in_any_order():
    runs = [peer(), reference(0.0), reference(0.0, name="again", train=30.0), peer("mingpt")]
    assert render_peers(runs) == render_peers(runs[::-1])


# -----------------------------------------------------------------------------
# the configs


@pytest.mark.parametrize("each", PEERS, ids=lambda each: each.config)
def test_a_peer_has_a_track_of_its_own_and_runs_its_schedule_once(each):
    path = ROOT / "bench" / "configs" / f"{each.config}.toml"
    values = read_config(path, Settings)
    settings = Settings(**values)
    assert values == config_settings(each.config)
    assert each.what
    assert each.published is None or each.source
    assert each.track == get_track(settings.track, **settings.track_settings).name != "add3"
    assert settings.loss_on == "all" or not get_track(settings.track).is_stream
    optimizer = "adam" if each.config.startswith("add2") else "adamw"
    assert (settings.max_rounds, settings.matrix_optimizer) == (1, optimizer)
    assert settings.level_share == 0.0 or settings.sampling == "epochs"
    assert path.read_text().startswith("#")


def test_the_peers_are_the_configs_with_a_table_of_their_own():
    report = {"report-1", "report-2", "report-3", "report-4", "report-4-bf16"}
    adders = {f"add2{name}-recipe" for name in ("", "-debug", "-bf16", "-scaler", "-accumulation", "-gpu")}
    words = {f"words{name}-recipe" for name in ("", "-67k", "-331k", "-506k")}
    sums = {f"addtext{name}-recipe" for name in ("", "-331k", "-351k", "-1900k", "-1900k-dropout")}
    actions = {f"actions{name}-recipe" for name in ("", "-232k", "-718k", "-942k", "-1500k", "-2000k")}
    assert {each.config for each in PEERS} == report | adders | words | sums | actions | {
        *("later", "later-4", "mingpt", "moddiv-97-recipe"),
    }


def test_a_config_that_extends_a_peer_is_none(tmp_path, monkeypatch):
    base = (ROOT / "bench" / "configs" / "report-4.toml").read_text()
    (tmp_path / "report-4.toml").write_text(base)
    (tmp_path / "mine.toml").write_text('base = "report-4"\nnum_steps = 5\n')
    monkeypatch.setattr(peer_configs, "CONFIGS", tmp_path)
    assert [each.config for each in read_peers()] == ["report-4"]
    assert "peer" not in read_config(tmp_path / "mine.toml", Settings)


def test_a_table_may_name_another_track(tmp_path, monkeypatch):
    (tmp_path / "some.toml").write_text('track = "add3"\n[peer]\nwhat = "a trainer"\ntrack = "add3-report"\n')
    (tmp_path / "none.toml").write_text('# a config without a table [peer]\ntrack = "add3"\n')
    monkeypatch.setattr(peer_configs, "CONFIGS", tmp_path)
    assert read_peers() == [Peer(config="some", track="add3-report", what="a trainer")]


def test_an_unknown_key_of_the_table_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "some.toml").write_text('track = "add3"\n[peer]\nwhat = "a trainer"\nsorce = "a paper"\n')
    monkeypatch.setattr(peer_configs, "CONFIGS", tmp_path)
    with pytest.raises(UsageError, match=r"some\.toml: peer\.sorce: Extra inputs"):
        read_peers()
    with pytest.raises(UsageError, match=r"some.toml: peer: unknown key 'sorce'; the nearest is 'source'"):
        read_config(tmp_path / "some.toml", Settings)
    assert Peer.model_fields.keys() - {"config"} == PEER_KEYS


def test_the_stages_of_the_report_are_those_that_it_tells_of():
    shapes = {}
    for config in ("report-1", "report-2", "report-3", "report-4", "report-4-bf16"):
        s = Settings(**config_settings(config))
        shapes[config] = (s.n_layer, s.n_embd, s.batch_size, s.adam_learning_rate, s.num_steps, s.adam_beta2)
        assert (s.n_hidden, s.n_head, s.decay_to, s.clip_norm, s.adam_weight_decay) == (4 * s.n_embd, 4, 0.1, 1.0, 0.1)
    assert shapes == {
        "report-1": (4, 256, 256, 4e-3, 6000, 0.95),
        "report-2": (4, 256, 256, 3e-3, 8000, 0.95),
        "report-3": (4, 256, 512, 4e-3, 7000, 0.95),
        "report-4": (3, 192, 1024, 6e-3, 5000, 0.99),
        "report-4-bf16": (3, 192, 1024, 6e-3, 5000, 0.99),
    }
