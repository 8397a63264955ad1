"""Matrix files: their cells, their defaults, and the errors about them."""

import pytest

from bench.errors import UsageError
from bench.experiments.matrix_file import MATRICES, options_of, read_matrix
from bench.experiments.toml_file import find_file

GOOD = """\
base = "add3"
seeds = [1, 2]

[axes]
batch_size = [512, 1024]
compile = [false, true]
size = [{ n_layer = 1, n_embd = 64 }, { n_layer = 2, n_embd = 32 }]

[[exclude]]
n_layer = 2
batch_size = 1024
"""


@pytest.fixture
def matrix_of(tmp_path):
    def read(text):
        path = tmp_path / "some.toml"
        path.write_text(text)
        return read_matrix(path)

    return read


def test_the_cells_are_all_combinations_that_are_not_excluded(matrix_of):
    matrix = matrix_of(GOOD)
    assert (matrix.name, matrix.base, matrix.seeds, matrix.clock) == ("some", "add3", (1, 2), "train")
    settings = [cell.settings for cell in matrix.cells()]
    assert len(settings) == 2 * 2 * 2 - 2
    assert {"batch_size": 512, "compile": True, "n_layer": 2, "n_embd": 32} in settings
    assert not any(each["n_layer"] == 2 and each["batch_size"] == 1024 for each in settings)
    assert all(each["n_embd"] == {1: 64, 2: 32}[each["n_layer"]] for each in settings)


def test_a_cell_is_written_as_options_and_as_labels(matrix_of):
    cell = next(cell for cell in matrix_of(GOOD).cells() if cell.settings["compile"])
    assert options_of(cell.settings) == ["--batch-size", "512", "--compile", "--n-layer", "1", "--n-embd", "64"]
    assert cell.labels() == {"batch_size": "512", "compile": "true", "size": "n_layer=1 n_embd=64"}
    assert str(cell) == "batch_size=512 compile=true n_layer=1 n_embd=64"
    assert "--no-compile" in options_of(next(matrix_of(GOOD).cells()).settings)


def test_the_first_two_axes_with_several_values_are_drawn_unless_others_are_named(matrix_of):
    assert matrix_of(GOOD).plot == ("batch_size", "compile")
    assert matrix_of('plot = ["size"]\n' + GOOD).plot == ("size",)
    one_of_two = 'base = "add3"\nseeds = [1]\n[axes]\nkernel = ["c"]\nbatch_size = [1, 2]\n'
    assert matrix_of(one_of_two).plot == ("batch_size",)
    assert next(matrix_of('base = "add3"\nseeds = [1]\n[axes]\n').cells()).settings == {}


def test_what_a_table_does_not_give_is_the_bases(matrix_of):
    text = 'base = "add3"\nseeds = [1]\n[axes]\nchange = [{}, { batch_size = 512 }, { n_layer = 2, n_embd = 32 }]\n'
    matrix = matrix_of(text)
    assert [options_of(cell.settings) for cell in matrix.cells()] == [
        [],
        ["--batch-size", "512"],
        ["--n-layer", "2", "--n-embd", "32"],
    ]
    assert [cell.labels()["change"] for cell in matrix.cells()] == ["the base", "batch_size=512", "n_layer=2 n_embd=32"]
    assert matrix.keys == {"batch_size", "n_layer", "n_embd"}
    assert len(list(matrix_of(text + "[[exclude]]\nn_layer = 2\n").cells())) == 2


def test_the_comment_at_the_beginning_describes_the_matrix(matrix_of):
    matrix = matrix_of('# What it\n# shows.\nsteps = ["validation 95%"]\n# not this\n' + GOOD)
    assert (matrix.description, matrix.steps) == ("What it shows.", ("validation 95%",))
    assert (matrix_of(GOOD).description, matrix_of(GOOD).steps) == ("", ())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds = [1, 2]", "seeds = 1 2", r"some\.toml: .*line 2"),  # tomllib's message
        ("seeds = [1, 2]", "seed = [1, 2]", r"line 2: seed: unknown key; the nearest is 'seeds'"),
        ("seeds = [1, 2]", "seeds = []", "line 2: seeds: must be a list of whole numbers"),
        ("seeds = [1, 2]", "seeds = [1, true]", "line 2: seeds: must be a list of whole numbers"),
        ("seeds = [1, 2]", "seeds = [1, 1]", "line 2: seeds: a seed is listed twice"),
        ("seeds = [1, 2]\n", "", "seeds: must be a list of whole numbers"),
        ('base = "add3"', "base = 3", "line 1: base: must be the name of a config"),
        ('base = "add3"\n', "", "base: must be the name of a config, but it is missing"),
        ("[axes]\n", "", "axes: must be a table|line 4: batch_size: unknown key"),
        ("[512, 1024]", "512", r"line 5: axes\.batch_size: must be a list of values, got 512"),
        ("[512, 1024]", "[]", r"line 5: axes\.batch_size: must be a list"),
        ("[512, 1024]", "[512, 512]", r"line 5: axes\.batch_size: 512 is listed twice"),
        ("[512, 1024]", "[512, [1]]", r"line 5: axes\.batch_size: \[1\] is not a value"),
        ("n_embd", "batch_size", r"line 7: axes\.size: batch_size is on the axis 'batch_size' already"),
        ("n_layer = 2\nb", "n_layers = 2\nb", r"line 10: exclude\.n_layers: .*the nearest is 'n_layer'"),
        ("batch_size = 1024", "batch_size = 1000", r"line 11: exclude\.batch_size: the axis has no 1000"),
        ("[[exclude]]", "[exclude]", "line 9: exclude: must be a list of tables"),
        ("[axes]", 'plot = ["batch"]\n[axes]', r"line 4: plot: there is no axis 'batch'; the nearest is 'batch_size'"),
        ("[axes]", 'clock = "wall"\n[axes]', "line 4: clock: must be 'train' or 'total'"),
        ("[axes]", 'steps = ["train"]\n[axes]', "line 4: steps: must be a list of one or two of train 95%, train 100%"),
        ("[axes]", 'steps = "train 95%"\n[axes]', "line 4: steps: must be a list"),
    ],
)
def test_an_error_names_the_line_and_the_key(matrix_of, old, new, message):
    assert old in GOOD
    with pytest.raises(UsageError, match=message):
        matrix_of(GOOD.replace(old, new))


def test_a_missing_file_and_a_file_that_is_not_text_are_errors(tmp_path):
    with pytest.raises(UsageError, match=r"none\.toml: there is no such file"):
        read_matrix(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=r"bytes\.toml"):
        read_matrix(tmp_path / "bytes.toml")
    with pytest.raises(UsageError, match="the nearest is 'compile'"):
        find_file("compil", MATRICES)


@pytest.mark.parametrize("path", sorted(MATRICES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_matrices_of_the_project_can_be_read(path):
    assert find_file(path.stem, MATRICES) == path
    assert len(list(read_matrix(path).cells())) > 1


def test_a_base_beside_the_file_comes_before_a_config_of_that_name(matrix_of, tmp_path):
    (tmp_path / "add3.toml").write_text("")
    assert matrix_of(GOOD).base == str(tmp_path / "add3.toml")
    assert matrix_of(GOOD.replace('"add3"', '"add3.toml"')).base == str(tmp_path / "add3.toml")
    assert matrix_of(GOOD.replace('"add3"', '"add3-cpu"')).base == "add3-cpu"
    assert matrix_of(GOOD.replace('"add3"', '"some"')).base == "some", "the matrix itself is no config"


def test_values_are_written_in_normal_form(matrix_of):
    matrix = matrix_of('base = "add3"\nseeds = [1]\n[axes]\nrate = [1, -0.0]\n[[exclude]]\nrate = 1.0\n')
    (cell,) = matrix.like({"rate": 0.5}).cells()
    assert (cell.labels(), options_of(cell.settings)) == ({"rate": "0.0"}, ["--rate", "0.0"])


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        ("attempts = [1]", "'attempts' is not a setting"),
        ("rates = [0.5]", "'rates' is not a setting; the nearest is 'rate'"),
        ("rate = ['0.5']", "rate must be a number, got '0.5'"),
        ("size = [1.0]", "size must be a whole number, got 1.0"),
        ("fast = [1]", "fast must be true or false, got 1"),
    ],
)
def test_axes_name_only_settings_and_values_of_their_types(matrix_of, axis, message):
    matrix = matrix_of(f'base = "add3"\nseeds = [1]\n[axes]\n{axis}\n')
    with pytest.raises(UsageError, match=message):
        matrix.like({"rate": 0.5, "size": 1, "fast": True})


def test_an_unclosed_quote_is_named(matrix_of):
    with pytest.raises(UsageError, match=r"a quote is not closed \(at line 1"):
        matrix_of('base = "add3\nseeds = [1]\n')


TRACKS = """\
base = "moddiv-97"
seeds = [1]
plot = ["track_settings.p", "size"]

[axes]
track_settings.p = [97, 113]
size = [
    { track_settings.training_share = 0.4, batch_size = 256 },
    { track_settings = { training_share = 0.5 }, batch_size = 512 },
]

[[exclude]]
track_settings.p = 113
batch_size = 256
"""


def test_settings_of_the_track_are_on_axes_as_flat_keys(matrix_of):
    matrix = matrix_of(TRACKS)
    assert [str(cell) for cell in matrix.cells()] == [
        "track_settings.p=97 track_settings.training_share=0.4 batch_size=256",
        "track_settings.p=97 track_settings.training_share=0.5 batch_size=512",
        "track_settings.p=113 track_settings.training_share=0.5 batch_size=512",
    ]
    assert matrix.plot == ("track_settings.p", "size")
    options = options_of(next(matrix.cells()).settings)
    assert options == ["--track-settings.p=97", "--track-settings.training-share=0.4", "--batch-size", "256"]
    quoted = matrix_of(TRACKS.replace("track_settings.p = [", '"track_settings.p" = ['))
    assert list(quoted.cells()) == list(matrix.cells())


def test_values_of_a_setting_that_only_other_tracks_have_stay_as_they_are(matrix_of):
    resolved = {"track": "memorize", "track_settings.masked": 0, "batch_size": 512}
    matrix = matrix_of('base = "add3"\nseeds = [1]\n[axes]\ntrack_settings.p = [97]\ntrack_settings.masked = [3]\n')
    assert [cell.settings for cell in matrix.like(resolved).cells()] == [
        {"track_settings.p": 97, "track_settings.masked": 3}
    ]


@pytest.mark.parametrize("table", ["[axes]\ntrack_settings.p = [97, 97]", "[axes.track_settings]\np = [97, 97]"])
def test_an_error_names_the_line_of_a_setting_of_the_track(matrix_of, table):
    with pytest.raises(UsageError, match=r"line 4: axes\..*p: 97 is listed twice"):
        matrix_of(f'base = "moddiv-97"\nseeds = [1]\n{table}\n')
