"""The console of all commands: text is shown as it is typed, and dumb terminals get plain lines."""

import io

from rich.table import Table

from bench.attempt.progress import Display
from bench.console import PlainTextConsole
from tests.support.consoles import text_of


def shown_on_a_terminal(*renderables) -> str:
    console = PlainTextConsole(file=io.StringIO(), force_terminal=True, width=80)
    for renderable in renderables:
        console.print(renderable)
    return text_of(console)


def test_escape_sequences_in_texts_do_not_reach_the_terminal():
    table = Table()
    table.add_column("[bold]\x1b]0;title\x07")
    table.add_row("\x1b[2J[red]x[/red]")
    shown = shown_on_a_terminal("note \x1b[31m", table)
    assert "\\u001b[31m" in shown
    assert "\\u001b[2J[red]x" in shown
    assert "\x1b]0" not in shown
    assert "\x1b[2J" not in shown


def test_markup_that_is_not_closed_is_text():
    assert "[/bold] :smile:" in shown_on_a_terminal("[/bold] :smile:")


def test_a_dumb_terminal_shows_every_line(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    console = PlainTextConsole(file=io.StringIO(), force_terminal=True, width=80)
    display = Display("label", console)
    display.phase("setup")
    display.phase("warmup")
    display.close()
    assert text_of(console).splitlines() == ["label  setup", "label  warmup"]


def test_an_unknown_width_does_not_hide_the_text(monkeypatch):
    monkeypatch.setenv("COLUMNS", "0")
    console = PlainTextConsole(file=io.StringIO(), force_terminal=True)
    console.print("shown")
    assert "shown" in text_of(console)
