"""`python -m bench ask`, with models of random weights."""

from pathlib import Path

import pytest
import torch

from bench import __main__ as commands
from bench.commands import ask
from bench.errors import UsageError
from bench.judge.decoding import complete
from bench.storage import weights
from bench.storage.journal import Journal
from data import decode, get_track
from tests.support.examples import example_run
from tests.support.models import random_model
from tests.support.tracks import addition_track, greedy

TRACK = addition_track("add3")


@pytest.fixture
def results(tmp_path):
    """Two runs with weights of different seeds, the second being the latest, and one without."""
    journal = Journal(tmp_path)
    for day, name in ((1, "first"), (2, "second")):
        weights.save(tmp_path / "weights" / f"{name}.safetensors", random_model(day), TRACK, {})
        journal.append(
            example_run(run_id=name, weights=f"weights/{name}.safetensors", started_at=f"2026-01-0{day}T00:00:00Z")
        )
    journal.append(example_run(run_id="third", weights=None, started_at="2026-01-03T00:00:00Z"))
    return tmp_path


def answers(capsys, **arguments):
    assert ask.main(ask.Arguments(**arguments)) == 0
    return capsys.readouterr().out.splitlines()


def naive_answer(seed, text):
    """One character at a time by the full forward pass."""
    ids = [TRACK.vocabulary.index(character) for character in text]
    for _ in range(TRACK.answer_length):
        ids.append(int(random_model(seed)(torch.tensor([ids]))[0, -1].argmax()))
    return decode(TRACK, ids[len(text) :])


def test_answers_are_printed_one_a_line(results, capsys):
    prompts = ("123+456=", "000+000=", "999+999=")
    assert answers(capsys, run="first", prompts=prompts, results=results) == [naive_answer(1, p) for p in prompts]


def test_latest_is_the_latest_run_that_kept_weights(results, capsys):
    assert answers(capsys, run="latest", prompts=("123+456=",), results=results) == [naive_answer(2, "123+456=")]


def test_weights_at_a_path_need_no_journal(results, capsys, tmp_path):
    path = str(results / "weights" / "first.safetensors")
    assert answers(capsys, run=path, prompts=("123+456=",), results=tmp_path) == [naive_answer(1, "123+456=")]


def test_a_file_is_answered_line_by_line(results, capsys, tmp_path):
    numbers = list(range(0, 1_000_000, 37))
    file = tmp_path / "problems.txt"
    file.write_text("".join(f"{n // 1000:03}+{n % 1000:03}=\n" for n in numbers))
    lines = answers(capsys, run="first", file=file, results=results)
    prompts = TRACK.tokens(TRACK.test_set(0)[numbers])[:, : TRACK.prompt_length].long()
    model = random_model(1)
    expected = complete(lambda idx: model(idx, idx.size(1) - 1)[:, 0], prompts, greedy(TRACK.answer_length))
    assert lines == [decode(TRACK, row) for row in expected.tolist()]


NO_PROBLEMS = [
    "",
    "1",
    "12+3456=",
    "123+456",
    "123-456=",
    "abc+def=",
    "=23+456=",
    "123+45\u0666=",
    "1234+456=",
    "123+456=0",
]


def test_texts_that_are_no_problems_get_an_empty_line_and_a_message_and_the_others_an_answer(results, capsys):
    prompts = ("123+456=", *NO_PROBLEMS, "000+000=")
    assert ask.main(ask.Arguments(run="first", prompts=prompts, results=results)) == 2
    output = capsys.readouterr()
    assert output.out.split("\n") == [naive_answer(1, "123+456="), *[""] * 10, naive_answer(1, "000+000="), ""]
    *messages, answering = output.err.splitlines()
    form = "write it like '381+350=': 3 digits each, zero-padded, with + between, then ="
    without_answer = "write it without the answer: '123+456='"
    reasons = {
        "123-456=": "'-' is not in its vocabulary; use only '0123456789+='; ",
        "abc+def=": "'a' is not in its vocabulary; use only '0123456789+='; ",
        "123+45\u0666=": "'\u0666' is not in its vocabulary; use only '0123456789+='; ",
        "1234+456=": "it has 9 tokens and a prompt has at most 8; ",
    }
    advices = [without_answer if text == "123+456=0" else f"{reasons.get(text, '')}{form}" for text in NO_PROBLEMS]
    expected = zip(NO_PROBLEMS, advices, strict=True)
    assert messages == [f"bench: {text!r} is not a problem of add3; {advice}" for text, advice in expected]
    assert answering == "answers by first (add3-cpu, solved)"


def test_without_any_problem_each_text_gets_an_empty_line(results, capsys):
    assert ask.main(ask.Arguments(run="first", prompts=("1+1=",) * 30, results=results)) == 2
    output = capsys.readouterr()
    assert (output.out, len(output.err.splitlines())) == ("\n" * 30, 21)
    assert output.err.splitlines()[-1] == "bench: 10 more lines are no problems of add3"


def test_an_empty_file_has_no_answers(results, capsys, tmp_path):
    file = tmp_path / "problems.txt"
    file.write_text("")
    assert answers(capsys, run="first", file=file, results=results) == []
    for track in (get_track("moddiv"), get_track("add2-omnivault"), TRACK):
        assert track.encode_prompts([]).shape == (0, track.prompt_length)


def test_an_error_in_a_file_names_the_line(results, tmp_path, capsys):
    file = tmp_path / "problems.txt"
    file.write_text("123+456=\n123+4567=\n")
    assert ask.main(ask.Arguments(run="first", file=file, results=results)) == 2
    assert f"{file}:2: '123+4567='" in capsys.readouterr().err


def test_it_is_said_when_latest_is_not_the_latest_run(results, capsys):
    ask.main(ask.Arguments(run="latest", prompts=("123+456=",), results=results))
    assert "answers by second (add3-cpu, solved); the latest run, third, is solved and kept no weights" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "arguments",
    [
        {"run": "third", "prompts": ("123+456=",)},
        {"run": "no-such-run", "prompts": ("123+456=",)},
        {"run": "no-such-file.safetensors", "prompts": ("123+456=",)},
        {"run": "first"},
        {"run": "first", "file": Path("no-such-file.txt")},
        {"run": "first", "prompts": ("123+456=",), "seed": -1},
        {"run": "first", "prompts": ("123+456=",), "temperature": 1.0, "seed": 2**63},
    ],
)
def test_missing_runs_files_and_problems_are_errors_of_one_line(results, arguments):
    with pytest.raises(UsageError) as refused:
        ask.main(ask.Arguments(results=results, **arguments))
    assert "\n" not in str(refused.value)


def test_a_truncated_weights_file_is_an_error_of_one_line(results, capsys):
    path = results / "weights" / "first.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    assert commands.main(["ask", str(path), "123+456="]) == 2
    shown = capsys.readouterr()
    assert (shown.out, len(shown.err.splitlines())) == ("", 1), shown.err


def test_a_problem_may_begin_with_a_dash_behind_two_dashes(results, capsys):
    assert commands.main(["ask", "first", "--results", str(results), "--", "-1+1="]) == 2
    assert "'-1+1=' is not a problem of add3" in capsys.readouterr().err


# -----------------------------------------------------------------------------
# any text


def naive_continuation(seed, text, count):
    """Greedy tokens after any text, by the full forward pass on as many tokens as the context holds."""
    model, ids = random_model(seed), [TRACK.vocabulary.index(character) for character in text]
    for _ in range(count):
        window = ids[-model.config.block_size :]
        ids.append(int(model(torch.tensor([window]))[0, -1].argmax()))
    return decode(TRACK, ids[len(text) :])


def test_a_text_is_continued_beyond_the_context_by_a_sliding_window(results, capsys):
    for prompt in ("1", "12+", "123+456=" * 3):
        assert answers(capsys, run="first", prompts=(prompt,), continue_=20, results=results) == [
            naive_continuation(1, prompt, 20)
        ]


def test_sampled_continuations_depend_on_the_seed_alone(results, capsys):
    options = {"run": "first", "prompts": ("1", "1"), "continue_": 30, "temperature": 1.0, "results": results}
    one, again, other = (answers(capsys, **options, seed=seed) for seed in (1, 1, 2))
    assert one == again != other
    assert len({*one, *other}) == 4


def test_probabilities_are_those_of_the_softmax_with_the_likeliest_first(results, capsys):
    (line,) = answers(capsys, run="first", prompts=("12+",), probabilities=True, results=results)
    shares = random_model(1)(torch.tensor([[1, 2, 10]]))[0, -1].detach().double().exp()
    shares /= shares.sum()
    expected = sorted(((float(share), token) for share, token in zip(shares, TRACK.vocabulary, strict=True)))[:-6:-1]
    assert line == "  ".join(f"{token!r} {share:.2%}" for share, token in expected)


@pytest.mark.parametrize(
    ("options", "text", "message"),
    [
        (
            {"continue_": 3},
            "12a",
            "'12a' cannot be read by add3: 'a' is not in its vocabulary; use only '0123456789+='",
        ),
        ({"continue_": 3}, "", "'' is empty: write at least one character"),
        ({"probabilities": True}, "1" * 12, f"'{'1' * 12}' has 12 tokens, more than the context of 11: shorten it"),
        ({"probabilities": True}, "1" * 99, f"'{'1' * 60}…' has 99 tokens, more than the context of 11: shorten it"),
    ],
)
def test_a_text_that_the_model_cannot_read_gets_one_line(results, capsys, options, text, message):
    assert ask.main(ask.Arguments(run="first", prompts=(text,), results=results, **options)) == 2
    output = capsys.readouterr()
    assert (output.out, output.err) == ("\n", f"bench: {message}\n")


@pytest.mark.parametrize(
    "options",
    [
        {"continue_": -1},
        {"continue_": 10_000_000},
        {"probabilities": True, "continue_": 1},
        {"probabilities": True, "temperature": 1.0},
        {"top_k": 3},
    ],
)
def test_options_that_contradict_each_other_are_refused(results, options):
    with pytest.raises(UsageError):
        ask.main(ask.Arguments(run="first", prompts=("1",), results=results, **options))


# -----------------------------------------------------------------------------
# newlines


@pytest.fixture
def stream(tmp_path):
    """Weights of a track whose texts are lines, and its model."""
    track = get_track("add3-report")
    model = random_model(vocab_size=len(track.vocabulary), block_size=track.block_size)
    weights.save(tmp_path / "stream.safetensors", model, track, {})
    return str(tmp_path / "stream.safetensors"), model, track


def test_a_literal_newline_is_a_newline_where_texts_have_some(stream, capsys, tmp_path):
    path, *_ = stream
    (tmp_path / "lines.txt").write_text("1\\n2\n12\n")
    arguments = {"run": path, "continue_": 12, "temperature": 1.0, "results": tmp_path}
    from_file = answers(capsys, file=tmp_path / "lines.txt", **arguments)
    assert answers(capsys, prompts=("1\\n2", "12"), **arguments) == from_file  # one line each, newlines as \n
    (_, escaped), real = from_file, "\n".join(answers(capsys, prompts=("1\n2",), **arguments))
    assert from_file[0] == real.replace("\n", "\\n")
    assert len(escaped.replace("\\n", "\n")) == 12


def test_a_backslash_before_it_keeps_the_two_characters(stream):
    from bench.attempt.answers import with_newlines

    track = stream[2]
    assert with_newlines(r"a\nb\\nc", track) == "a\nb\\nc"
    assert with_newlines(r"a\nb", TRACK) == r"a\nb"


def test_white_space_among_the_likeliest_tokens_can_be_read(stream, capsys, tmp_path):
    path, model, track = stream
    with torch.no_grad():
        model.head.zero_()
        model.head[track.vocabulary.index("\n")] = 0.5  # the likeliest or the least likely
    weights.save(tmp_path / "stream.safetensors", model, track, {})
    lines = answers(capsys, run=path, prompts=tuple("0123456789"), probabilities=True, results=tmp_path)
    assert any(line.startswith(r"'\n' ") for line in lines)
    assert all(len(line.split("%")) == 6 for line in lines)


def test_a_text_begins_with_bos_where_all_do_and_may_hold_special_tokens():
    track = get_track("add2-omnivault")
    ids = [track.vocabulary.index(token) for token in ("<BOS>", "1", "3", "+", "<EOS>")]
    assert track.encode_text("13+<EOS>") == track.encode_text("<BOS>13+<EOS>") == ids
    assert track.decode_text(ids) == "<BOS>13+<EOS>"
    assert get_track("moddiv").encode_text("12/5=3") == [*get_track("moddiv").encode_prompt("12/5="), 3]


def test_unprintable_tokens_are_written_as_escapes():
    assert ask.shown("a\x1b[2J\tb\n") == r"a\x1b[2J" + "\tb\n"


# -----------------------------------------------------------------------------
# the prompt loop


def typed(monkeypatch, *lines):
    """A terminal in which these lines are typed, then Ctrl-D."""
    remaining = iter(lines)

    def read(prompt):
        try:
            return next(remaining)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)
    monkeypatch.setattr(ask, "is_terminal", lambda: True)


@pytest.mark.parametrize("end", [(), ("", "never read")])
def test_the_prompt_loop_answers_until_an_empty_line_or_the_end(results, capsys, monkeypatch, end):
    typed(monkeypatch, "123+456=", "1+1=", "000+000=", *end)
    assert ask.main(ask.Arguments(run="first", results=results)) == 0
    output = capsys.readouterr()
    assert output.out.split() == [naive_answer(1, "123+456="), naive_answer(1, "000+000=")]
    assert "'1+1=' is not a problem of add3" in output.err


def test_the_prompt_loop_samples_anew_for_each_text(results, capsys, monkeypatch):
    typed(monkeypatch, *["123+456="] * 8)
    assert ask.main(ask.Arguments(run="first", temperature=1.0, results=results)) == 0
    assert len(set(capsys.readouterr().out.split())) > 4
