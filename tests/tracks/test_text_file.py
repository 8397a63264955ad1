"""The file of a text: found by path or by hash, and refused in one line."""

import hashlib
import os

import pytest

from bench.processes import TEXT_VARIABLE
from tracks import text_file
from tracks.describe_text import byte_alphabet, describe_text
from tracks.descriptions import describe_track, resolve_track_settings
from tracks.text_file import file_problem, find_file, load_text

CONTENT = ("The quick brown fox. Füchse sind schlau.\n" * 50).encode()
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    """No file has been read, and none is named in the environment."""
    monkeypatch.setattr(text_file, "FILES", {})
    monkeypatch.delenv(TEXT_VARIABLE, raising=False)


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_bytes(CONTENT)
    return path


def test_settings_hold_the_hash_of_the_file_and_no_path(book):
    settings = resolve_track_settings("text", {"file": str(book), "tokens": "bpe"})
    assert settings["file"] == DIGEST
    assert settings["vocabulary"] == 1024
    assert str(book.parent) not in repr(settings) + repr(describe_text(file=str(book)))
    assert resolve_track_settings("text", settings) == settings


def test_the_name_tells_texts_tokens_and_targets_apart(book):
    assert describe_text().name == "text"
    assert describe_text(file=str(book)).name == f"text-{DIGEST[7:19]}-bytes"
    assert describe_text(file=str(book), tokens="characters").name == f"text-{DIGEST[7:19]}-characters"
    named = describe_text(file=str(book), tokens="bpe", vocabulary=300, merges="ab" * 32, bits_per_byte=1.5)
    assert named.name == f"text-{DIGEST[7:19]}-bpe-300-abababab-1.5-bits"


def test_a_text_that_was_read_is_found_by_its_hash(book):
    assert file_problem(DIGEST)
    assert find_file(str(book)) == DIGEST == find_file(DIGEST)
    assert not file_problem(DIGEST)
    assert load_text(DIGEST) == CONTENT


def test_the_environment_names_the_file_of_a_hash(book, monkeypatch):
    monkeypatch.setenv(TEXT_VARIABLE, str(book))
    assert load_text(DIGEST) == CONTENT
    monkeypatch.setenv(TEXT_VARIABLE, str(book.parent))
    assert "is a folder" in file_problem("sha256:" + "0" * 64)


def test_a_missing_text_is_named_by_its_hash_with_what_to_do(book, monkeypatch):
    with pytest.raises(ValueError, match=f"the text with {DIGEST} is needed; name its file in the .*{TEXT_VARIABLE}="):
        load_text(DIGEST)
    book.write_bytes(b"another text\n")
    monkeypatch.setenv(TEXT_VARIABLE, str(book))
    with pytest.raises(ValueError, match=rf"{TEXT_VARIABLE} has sha256:\w+; the text with {DIGEST} is needed"):
        load_text(DIGEST)


def test_a_text_that_changed_is_never_taken_for_the_former_one(book):
    find_file(str(book))
    book.write_bytes(CONTENT + b"more\n")
    os.utime(book, (1, 1))
    with pytest.raises(ValueError, match=f"book.txt has changed; the text with {DIGEST} is needed"):
        load_text(DIGEST)
    assert find_file(str(book)) != DIGEST
    book.unlink()
    with pytest.raises(ValueError, match="cannot be read any more"):
        load_text(DIGEST)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        (b"", "is empty"),
        (b"abc\xff\xfe", "is not UTF-8 .* at byte 3.*convert it"),
        ("folder", "is a folder"),
    ],
)
def test_what_is_no_text_is_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "some"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as refused:
        describe_text(file=str(path))
    assert "\n" not in str(refused.value)


def test_a_pipe_is_refused_because_it_cannot_be_read_again(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="not a regular file"):
        describe_text(file=str(tmp_path / "pipe"))


@pytest.mark.parametrize(
    "settings",
    [
        {"tokens": "words"},
        {"tokens": "bpe", "vocabulary": 256},
        {"tokens": "bpe", "vocabulary": 10**6},
        {"tokens": "bytes", "vocabulary": 300},
        {"tokens": "bpe", "merges": "ab"},
        {"tokens": "bytes", "merges": "ab" * 32},
        {"context": 1},
        {"context": 10**6},
        {"bits_per_byte": -1.0},
        {"bits_per_byte": float("nan")},
        {"file": 3},
    ],
)
def test_settings_that_no_text_can_have_are_refused(settings):
    with pytest.raises(ValueError, match=r"track_settings\.") as refused:
        describe_track("text", settings)
    assert "\n" not in str(refused.value)


def test_each_byte_has_a_printable_character_of_its_own():
    from tokenizers import pre_tokenizers

    alphabet = byte_alphabet()
    assert len(set(alphabet)) == 256
    assert all(character.isprintable() and not character.isspace() for character in alphabet)
    assert set(alphabet) == set(pre_tokenizers.ByteLevel.alphabet())
    assert alphabet[ord("a")] == "a"
