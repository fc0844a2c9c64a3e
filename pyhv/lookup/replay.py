"""``pyhv replay``: the guest of a trace against the bus of today, without KVM."""

from __future__ import annotations

import json

from ..errors import ConfigError
from ..replay.player import play
from . import commands, tracefile
from .arguments import help_text, parse
from .text import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..replay.player import Result

SHOWN = 40


def main(arguments: list[str]) -> tuple[str, int]:
    """Return what to print, and the status."""
    command = commands.REPLAY
    parsed = parse(command, arguments)
    if "h" in parsed:
        return help_text(command), 0
    name, *images = parsed.words or ["-"]
    try:
        result = play(tracefile.lines(name), images)
    except tracefile.Unreadable:
        raise
    except OSError as error:
        raise ConfigError(f"{tracefile.shown(name)}: {error.strerror or error}") from error
    except ConfigError as error:
        raise ConfigError(f"{tracefile.shown(name)}: {error}") from error
    text = _json(result) if "json" in parsed else _text(result)
    return text, 1 if result.count else 0


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
