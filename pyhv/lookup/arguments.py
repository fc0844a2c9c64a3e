"""The options of the look-up commands as a table, one parser and one help for all of them."""

from __future__ import annotations

import re
import sys

from ..errors import ConfigError
from ..record import Record
from .text import printable, wrapped

#: the first word of a VM's command line
PROGRAM = re.compile(r"(?:\S*/)?(?:qemu|kvm|pyhv|python)[^,\s]*")
#: more than any of these files has; what is longer is not one of them
INPUT_LIMIT = 32 << 20


class Switch(Record):
    """An option: *names* as typed, *value* as the help shows it ("" for none)."""

    names: tuple[str, ...]
    value: str
    help: str

    @property
    def key(self) -> str:
        """The first name without dashes."""
        return self.names[0].lstrip("-")


class Command(Record):
    """A command: *positional* as its usage shows it, statuses as (number, meaning)."""

    name: str
    summary: str
    positional: str
    text: tuple[str, ...]  # paragraphs of the help
    switches: tuple[Switch, ...]
    statuses: tuple[tuple[int, str], ...]
    examples: tuple[str, ...]
    most: int = 99  # positional arguments at most


JSON = Switch(("--json",), "", "JSON instead of text")
HELP = Switch(("-h", "--help"), "", "this text")


class Parsed(Record):
    """*words* are what is no option; *values* by key, "" for a switch."""

    words: list[str]
    values: dict[str, str]

    def __contains__(self, key: object) -> bool:
        return key in self.values


def parse(command: Command, arguments: list[str]) -> Parsed:
    """Sort *arguments*; ``-`` alone and what follows ``--`` are no options.

    :raises ConfigError: an option there is not, a missing value, too many words.
    """
    known = {name: switch for switch in (*command.switches, HELP) for name in switch.names}
    parsed, todo = Parsed([], {}), list(arguments)
    while todo:
        word = todo.pop(0)
        if word == "--":
            parsed.words.extend(todo)
            break
        if word == "-" or not word.startswith("-"):
            parsed.words.append(word)
            continue
        name, equals, value = word.partition("=")
        switch = known.get(name) or known.get("-" + name)  # one dash or two
        if switch is None:
            import difflib

            near = difflib.get_close_matches(name, known, 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else f"pyhv {command.name} --help lists them"
            raise ConfigError(f"{word[:80]}: no such option; {hint}")
        if equals and not switch.value:
            raise ConfigError(f"{word[:80]}: this option takes no value")
        if switch.value and not equals:
            if not todo:
                raise ConfigError(f"{name}: needs a value: {name} {switch.value}")
            value = todo.pop(0)
        parsed.values[switch.key] = value
    if len(parsed.words) > command.most and "h" not in parsed:
        raise ConfigError(
            f"{parsed.words[command.most][:80]}: one argument too many; "
            f"pyhv {command.name} {command.positional}"
        )
    return parsed


def command_line_last(command: Command, arguments: list[str]) -> list[str]:
    """Return *arguments* with a VM's command line in them behind ``--``: its options are its own.

    Of *command*'s options those stay in front that take no value, wherever they stood.
    """
    own = {name for switch in command.switches if not switch.value for name in switch.names}
    others = [word for word in arguments if word not in own]
    cpu = any(word.partition("=")[0] in ("-cpu", "--cpu") for word in others)
    program = len(others) > 1 and PROGRAM.fullmatch(others[0])
    if "--" in arguments or not (cpu or program):
        return arguments
    if {"-h", "-help", "--help"} & set(others):
        return ["-h"]
    return [*(word for word in arguments if word in own), "--", *others]


def help_text(command: Command) -> str:
    """Return what ``pyhv COMMAND --help`` prints."""
    lines = [f"usage: pyhv {command.name} [option ...] {command.positional}".rstrip(), ""]
    for paragraph in command.text:
        lines += [*wrapped(paragraph), ""]
    lines.append("Options:")
    for switch in (*command.switches, HELP):
        lines.append("  " + ", ".join(switch.names) + (f" {switch.value}" if switch.value else ""))
        lines += wrapped(switch.help, "      ")
    lines += ["", "Examples:", *(f"  {example}" for example in command.examples)]
    lines += ["", "Exit status:"]
    for status, meaning in command.statuses:
        lines += wrapped(meaning, "       ", f"  {status:3}  ")
    return "\n".join(lines)


def read_input(name: str) -> str:
    """Return the text of a file, or of standard input for ``-``.

    Bytes that are no UTF-8 become U+FFFD; a decoder then says what is wrong with the text.

    :raises ConfigError: it cannot be read, is larger than INPUT_LIMIT, or is binary.
    """
    shown = "standard input" if name == "-" else printable(name)
    try:
        if name == "-":
            data = sys.stdin.buffer.read(INPUT_LIMIT + 1)
        else:
            with open(name, "rb") as file:
                data = file.read(INPUT_LIMIT + 1)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{shown}: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > INPUT_LIMIT:
        raise ConfigError(f"{shown}: larger than {INPUT_LIMIT >> 20} MiB, not a file of this kind")
    if b"\0" in data[:65536]:
        raise ConfigError(f"{shown}: binary data; text was expected")
    text = data.decode("utf-8", "replace")
    if text.count("\ufffd") * 20 > len(text):
        raise ConfigError(f"{shown}: binary data; text was expected")
    return text
