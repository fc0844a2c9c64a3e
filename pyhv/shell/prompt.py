"""The prompt itself: reads lines from a terminal or a pipe, and calls what the table names.

From a pipe each line is shown as if typed, so the output reads like a session at a terminal.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys

from ..errors import ConfigError, Exit, PyhvError
from .commands import COMMANDS, Quit, show_help, where
from .session import Session, terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType


PROMPT = "(pyhv) "
REPEATED = "step"  # what an empty line does on a terminal
NOT_HERE = {
    "gdb": "the shell stops the machine itself; it has break and step",
    "s": "the shell stops the machine itself; it has break and step",
    "serial": "the shell shows the guest's console",
    "vsock": "at its prompt, vm.vsock.publish(PORT, PATH) does it",
    "top": "the shell has the terminal; --trace-file traces into a file",
}


def help_text() -> str:
    """Return what ``pyhv shell --help`` prints."""
    text = "usage: pyhv shell [option of pyhv run ...] [DISK.IMG]\n\n"
    text += "Builds the machine of these options and stands before its first instruction.\n"
    text += f"At the prompt {PROMPT.strip()} there is:\n\n"
    return text + show_help(None, [])


def main(arguments: list[str]) -> int:
    """Run one shell; return the guest's status, 0 if it had not ended."""
    from .. import cli, options
    from ..console import Console

    parsed = options.parse(arguments)
    if "h" in parsed:
        _show(help_text().encode() + b"\n")
        return Exit.POWER_OFF
    for name, why in NOT_HERE.items():
        if name in parsed:
            raise ConfigError(f"-{name}: not in pyhv shell: {why}")
    config = options.config_of(parsed, cli.demo_disk)
    machine, watch = cli.make_machine(config, Console()), None
    try:
        machine.notice = cli.say
        session = Session(machine, _show)
        machine.pause()
        from ..watching import Watch

        watch = Watch(machine, parsed, cli.say)
        machine.start()
        watch.begin()
        cli.say(cli.announcement(machine, config))
        _loop(session)
        return machine.ended.status if machine.ended is not None else Exit.POWER_OFF
    finally:
        machine.close()
        if watch is not None:
            watch.close()


def _show(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


def _print(text: str) -> None:
    if text:
        _show(text.encode(errors="backslashreplace") + b"\n")


def _loop(session: Session) -> None:
    def leave(number: int, frame: FrameType | None) -> None:
        raise Quit

    before = {one: signal.signal(one, leave) for one in (signal.SIGTERM, signal.SIGHUP)}
    try:
        if terminal():
            _complete()
        _print(where(session, []))
        while True:
            try:
                line = _line()
                if line is None:
                    return
                _print(command(session, line))
            except KeyboardInterrupt:
                _show(b"\n")
    except Quit:
        return
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def command(session: Session, line: str) -> str:
    """Return what the command *line* answers; one sentence for what cannot be.

    :raises Quit: the user wants to leave.
    """
    name, _, session.rest = line.strip().partition(" ")
    row = COMMANDS.get(name)
    if row is None:
        import difflib

        near = difflib.get_close_matches(name, COMMANDS, 1)
        return f"{name}: no such command; " + (f"did you mean {near[0]}?" if near else "try help")
    try:
        words = [session.rest] if row.raw else shlex.split(session.rest)
        return row.function(session, words)
    except PyhvError as error:
        return str(error)
    except ValueError as error:
        return f"{line.strip()}: {error}"


def _line() -> str | None:
    """Return the next command; None at the end of the input."""
    if terminal():
        try:
            return input(PROMPT).strip() or REPEATED
        except EOFError:
            _show(b"\n")
            return None
    while True:
        line = sys.stdin.readline() if sys.stdin is not None else ""
        if not line:
            return None
        if line.strip() and not line.startswith("#"):
            _show(f"{PROMPT}{line.strip()}\n".encode(errors="surrogateescape"))
            return line


def _complete() -> None:
    """Let Tab complete the commands, and the arrows bring back earlier lines, if readline is."""
    try:
        import readline
    except ImportError:
        return

    def found(text: str, number: int) -> str | None:
        if readline.get_begidx():
            return None
        names = [f"{name} " for name in COMMANDS if name.startswith(text)]
        return names[number] if number < len(names) else None

    readline.set_completer(found)
    readline.parse_and_bind("tab: complete")
