"""Text for a terminal: paragraphs and tables within 80 columns, colour only where one looks on."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable, Sequence

WIDTH = 80
GREEN, YELLOW, RED, BOLD = "32", "33", "31", "1"


def colours() -> bool:
    """Tell whether stdout is a terminal whose user has not said NO_COLOR."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and os.isatty(1)


def coloured(text: str, colour: str) -> str:
    """Return *text* in a colour (or bold), or as it is where none is wanted."""
    return f"\033[{colour}m{text}\033[0m" if text and colours() else text


def printable(text: str, limit: int = 200) -> str:
    """Return text that came from a file as it may stand in one line of output."""
    cut = text if len(text) <= limit else text[: limit - 3] + "..."
    return cut if cut.isprintable() else "".join(c if c.isprintable() else "?" for c in cut)


def wrapped(text: str, indent: str = "", first: str | None = None) -> list[str]:
    """Return the lines of a paragraph; *first* begins the first one instead of *indent*."""
    return textwrap.wrap(
        text, WIDTH, initial_indent=indent if first is None else first,
        subsequent_indent=indent, break_long_words=False, break_on_hyphens=False,
    ) or [(first or indent).rstrip()]  # fmt: skip


def facts(pairs: Iterable[tuple[str, str | Sequence[str]]], indent: int = 2) -> list[str]:
    """Return ``name  text`` lines, texts wrapped under each other; empty texts are left out.

    A sequence of texts stands one per line.
    """
    kept = [(name, [text] if isinstance(text, str) else list(text)) for name, text in pairs]
    kept = [(name, texts) for name, texts in kept if any(texts)]
    column = max((len(name) for name, _ in kept), default=0) + 2 + indent
    lines: list[str] = []
    for name, texts in kept:
        head = " " * indent + name
        for text in texts:
            lines += wrapped(text, " " * column, head.ljust(column))
            head = ""
    return lines


def table(rows: Sequence[Sequence[str]], head: Sequence[str]) -> list[str]:
    """Return rows under a head; the last column wraps at 80, the others are as wide as they are."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head) - 1)]
    lines = []
    for number, row in enumerate((head, *rows)):
        front = "".join(cell.ljust(width + 2) for cell, width in zip(row, widths, strict=False))
        text = wrapped(row[-1], " " * len(front), front)
        lines += [coloured(line, BOLD) for line in text] if number == 0 else text
    return lines
