"""``pyhv report``: a trace in JSON Lines as one HTML file (report.py at the top is the text)."""

from __future__ import annotations

import os

from ..errors import ConfigError, HostError
from ..page.document import document
from ..page.story import Story
from . import commands, tracefile
from .arguments import help_text, parse
from .text import printable


def read(name: str) -> Story:
    """Return what the trace in the file *name*, or on standard input for ``-``, tells.

    :raises ConfigError: it cannot be read, or has not one event.
    """
    story = Story().read(tracefile.lines(name))
    if not story.events:
        raise ConfigError(
            f"{tracefile.shown(name)}: no event in it; pyhv report takes what pyhv run --trace all "
            "--trace-format jsonl --trace-file FILE writes"
        )
    return story


def main(arguments: list[str]) -> tuple[str, int]:
    """Return what to print, and the status."""
    command = commands.REPORT
    parsed = parse(command, arguments)
    if "h" in parsed:
        return help_text(command), 0
    name = parsed.words[0] if parsed.words else "-"
    if "ladder" in parsed.values:
        return _written(_ladder(name, parsed.values["ladder"]), parsed.values.get("o"), "lines")
    story = read(name)
    title = parsed.values.get("title") or ("a trace" if name == "-" else os.path.basename(name))
    text = document(story, title)
    return _written(text, parsed.values.get("o"), "events", story.events)


def _written(text: str, out: str | None, what: str, count: int | None = None) -> tuple[str, int]:
    """Return what to print: *text*, or where it is now."""
    if out is None:
        return text, 0
    try:
        with open(out, "w", encoding="utf-8", errors="replace") as file:
            file.write(text)
    except OSError as error:
        raise HostError(f"-o {printable(out)}: {error.strerror}") from error
    count = text.count("\n") + 1 if count is None else count
    return f"{count} {what}, {len(text) >> 10} KiB in {printable(out)}", 0


def _ladder(name: str, form: str) -> str:
    """Return the ladder of the trace in the file *name*.

    :raises ConfigError: another form, no such file, nothing of VMBus in it.
    """
    from ..trace.ladder import FORMS, HEAD, of_lines

    if form not in FORMS:
        raise ConfigError(f"--ladder {printable(form)}: pyhv has {', '.join(FORMS)}")
    rungs = [FORMS[form](rung) for rung in of_lines(tracefile.lines(name))]
    if not rungs:
        raise ConfigError(
            f"{tracefile.shown(name)}: nothing of VMBus in it; --ladder takes what pyhv run "
            "--trace vmbus,ring --trace-format jsonl --trace-file FILE writes"
        )
    return "\n".join(([HEAD] if form == "text" else []) + rungs)
