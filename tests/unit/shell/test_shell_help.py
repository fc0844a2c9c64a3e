"""What the shell says of itself, and where that stands."""

from __future__ import annotations

import pathlib

from pyhv import cli
from pyhv.shell import prompt
from pyhv.shell.commands import COMMANDS, ROWS, show_help

ROOT = pathlib.Path(__file__).parents[3]


def test_docs_show_the_help() -> None:
    """docs/watching.md has what ``help`` prints."""
    text = (ROOT / "docs" / "watching.md").read_text()
    assert f"<!-- shell -->\n```\n{show_help(None, [])}\n```\n" in text


def test_help_option(capfd) -> None:
    assert cli.main(["shell", "--help"]) == 0
    assert capfd.readouterr().out == prompt.help_text() + "\n"


def test_rows() -> None:
    """No name means two things, and the help fits a terminal."""
    assert len(COMMANDS) == sum(len(row.names) for row in ROWS)
    assert max(map(len, prompt.help_text().splitlines())) <= 80
