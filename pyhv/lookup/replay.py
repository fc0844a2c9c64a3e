"""``pyhv replay``: the guest of a trace against the bus of today, without KVM."""

from __future__ import annotations

import json

from ..errors import ConfigError
from ..replay.player import play
from . import commands
from .arguments import help_text, parse
from .text import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from ..replay.player import Result

WHOLE = 1 << 23  # characters of a line: packets, and the memory that goes with them
SHOWN = 40
GZIP = b"\x1f\x8b"


def main(arguments: list[str]) -> tuple[str, int]:
    """Return what to print, and the status."""
    command = commands.REPLAY
    parsed = parse(command, arguments)
    if "h" in parsed:
        return help_text(command), 0
    name, *images = parsed.words or ["-"]
    shown = printable("standard input" if name == "-" else name)
    try:
        result = play(_lines(name), images)
    except OSError as error:
        raise ConfigError(f"{shown}: {error.strerror or error}") from error
    except ConfigError as error:
        raise ConfigError(f"{shown}: {error}") from error
    text = _json(result) if "json" in parsed else _text(result)
    return text, 1 if result.count else 0


def _lines(name: str) -> Iterator[str]:
    """Yield the lines of a file, which may be packed by gzip."""
    with open(0 if name == "-" else name, "rb") as raw:
        file: Any = raw
        if raw.peek(2)[:2] == GZIP:
            import gzip

            file = gzip.GzipFile(fileobj=raw)
        while line := file.readline(WHOLE):
            yield line.decode(errors="replace")


def _text(result: Result) -> str:
    lines = [printable(str(one)) for one in result.differences[:SHOWN]]
    if result.count > SHOWN:
        lines.append(f"and {result.count - SHOWN} more")
    for name, count in sorted(result.left_out.items()):
        lines.append(f"left out: {count} packets of {printable(name)}, which cannot be made again")
    if result.empty_disks:
        lines.append("disks are empty, and what READ brings is not compared: name their images")
    lines.append(
        f"{result.messages} messages and {result.packets} packets of the guest played, "
        f"{result.compared} answers compared, {result.count or 'no'} "
        f"difference{'s' if result.count != 1 else ''}"
    )
    return "\n".join(lines)


def _json(result: Result) -> str:
    found = result._asdict() | {"differences": [one._asdict() for one in result.differences]}
    return json.dumps(found, indent=2)
