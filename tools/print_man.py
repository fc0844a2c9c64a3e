"""Prints docs/pyhv.1 from the tables of options: ``python tools/print_man.py > docs/pyhv.1``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from pyhv import options
from pyhv.lookup.arguments import HELP, Command
from pyhv.lookup.commands import COMMANDS
from pyhv.shell.commands import ROWS


def escaped(text: str) -> str:
    """Return text as troff shows it unchanged."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + text if text[:1] in (".", "'") else text


def item(head: str, text: str) -> list[str]:
    """Return a paragraph with a hanging head."""
    return [".TP", f".B {escaped(head)}", escaped(text)]


def section(command: Command) -> list[str]:
    """Return the section about a look-up command."""
    lines = [f".SH PYHV {command.name.upper()}"]
    lines += [".B " + escaped(f"pyhv {command.name} [option ...] {command.positional}".rstrip())]
    for paragraph in command.text:
        lines += [".PP", escaped(paragraph)]
    for switch in (*command.switches, HELP):
        lines += item(f"{', '.join(switch.names)} {switch.value}".rstrip(), switch.help)
    lines += [".PP", "Exit status:"]
    for status, text in command.statuses:
        lines += item(str(status), text)
    lines += [".PP", "Examples:", ".PP", ".nf"]
    return [*lines, *(escaped(example) for example in command.examples), ".fi"]


def shell() -> list[str]:
    """Return the section about pyhv shell."""
    lines = [".SH PYHV SHELL", ".B " + escaped("pyhv shell [option of pyhv run ...] [DISK.IMG]")]
    lines += [".PP", escaped("Stands before the machine's first instruction; at the prompt:")]
    for row in ROWS:
        lines += item(f"{', '.join(row.names)} {row.arguments}".rstrip(), row.help)
    return lines


def page() -> str:
    """Return the whole manual page."""
    lines = [
        ".TH PYHV 1", ".SH NAME",
        "pyhv \\- run virtual machines on KVM that show their guests the Hyper\\-V interface",
        ".SH SYNOPSIS", ".B " + escaped("pyhv run [option ...] [DISK.IMG]"), ".br",
        ".B " + escaped("pyhv shell [option ...] [DISK.IMG]"), ".br",
        *(line for command in COMMANDS.values() for line in
          (".B " + escaped(f"pyhv {command.name} [option ...] {command.positional}".rstrip()),
           ".br")),
        ".SH PYHV RUN",
    ]  # fmt: skip
    for group, rows in options.GROUPS.items():
        lines += [f".SS {escaped(group)}"]
        for option in rows:
            lines += item(options.spelling(option), option.help)
    lines += [".SS Exit status"]
    for status, text in options.STATUSES:
        lines += item(str(status), text)
    lines += shell()
    for command in COMMANDS.values():
        lines += section(command)
    lines += [".SH SEE ALSO", "docs/running.md, docs/lookup.md, docs/flags.md",
              ".BR qemu\\-system\\-x86_64 (1)"]  # fmt: skip
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
