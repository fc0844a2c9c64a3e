"""The shell's commands as one table: names, arguments, help, and what each prints."""

from __future__ import annotations

from ..errors import ConfigError
from ..record import Record
from . import looking
from .looking import where
from .session import terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .session import Session

SHOWN_STEPS, MOST_STEPS = 8, 100_000


class Quit(Exception):
    """The user wants to leave."""


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise ConfigError(f"{text}: seconds, more than 0")
    return value


# running


def _after(session: Session, why: str) -> str:
    session.end_line()
    ended = session.machine.ended
    if ended is not None:
        from ..report import report

        return report(ended)
    return "\n".join([why] * bool(why) + [where(session, [])])


def _continue(session: Session, words: list[str]) -> str:
    return _after(session, session.run(_seconds(words[0]) if words else None))


def _until(session: Session, words: list[str]) -> str:
    if not words:
        raise ConfigError("until TEXT [SECONDS]: which text?")
    limit = _seconds(words[-1]) if len(words) > 1 else None
    return _after(session, session.run(limit, words[0]))


def _step(session: Session, words: list[str]) -> str:
    lines = []
    count = looking.number(words, 0, 1, MOST_STEPS, "a number of instructions")
    for left in reversed(range(count)):
        why = session.step()
        if why or session.machine.ended is not None:
            return "\n".join([*lines, _after(session, why)])
        if left < SHOWN_STEPS:  # to disassemble takes longer than to step
            lines.append(where(session, []))
    session.end_line()
    return "\n".join(lines)


def _break(session: Session, words: list[str]) -> str:
    lines = []
    if words:
        lines = [f"note: {session.warning}"] * bool(session.warning and not session.breakpoints)
        session.set_breakpoint(session.address(words[0]))
    lines += [f"breakpoint at {one:#x}" for one in session.breakpoints]
    return "\n".join(lines) or "no breakpoints"


def _delete(session: Session, words: list[str]) -> str:
    for address in [session.address(words[0])] if words else list(session.breakpoints):
        session.delete_breakpoint(address)
    return _break(session, [])


def _python(session: Session, words: list[str]) -> str:
    """Run Python; what it prints goes to stdout by itself."""
    import code
    import sys

    vcpu, memory = session.machine.vcpus[session.current], session.machine.memory
    session.names |= {"vm": session.machine, "vcpu": vcpu, "memory": memory}
    source = words[0].strip()
    if not source and terminal():
        code.InteractiveConsole(session.names).interact("vm, vcpu, memory; Ctrl-D ends", "")
    elif code.InteractiveInterpreter(session.names).runsource(source):
        raise ConfigError(f"python {source}: which code, in one line?")
    sys.stdout.flush()
    return ""


def _reset(session: Session, words: list[str]) -> str:
    session.reset()
    return where(session, [])


def _send(session: Session, words: list[str]) -> str:
    text = words[0].encode() + b"\r"
    taken = session.machine.console.offer(text)
    return "" if taken == len(text) else f"the guest took {taken} of {len(text)} bytes"


def _quit(session: Session, words: list[str]) -> str:
    raise Quit


class Command(Record):
    """A row: *names*, the first is the one shown; *arguments* and *help* for the help."""

    names: tuple[str, ...]
    arguments: str
    help: str
    function: Callable[[Session, list[str]], str]
    raw: bool = False  # it gets what follows its name as one word, quotes and all


def show_help(session: Session | None, words: list[str]) -> str:
    """Return a line for each command."""
    lines = []
    for row in ROWS:
        name, *others = row.names
        usage = f"{name} {row.arguments}".rstrip() + (f"  ({', '.join(others)})" if others else "")
        lines.append(f"{usage:32}  {row.help}")
    return "\n".join([*lines, "ADDRESS: numbers and registers, such as rsp+0x10. An empty line",
                      "repeats step. Ctrl-C breaks in, Ctrl-D quits."])  # fmt: skip


ROWS = (
    Command(("continue", "c"), "[SECONDS]", "let it run, until Ctrl-C or for that long", _continue),
    Command(("until",), "TEXT [SECONDS]", "let it run until the console shows TEXT", _until),
    Command(("step", "s"), "[N]", "the current vCPU does one instruction, or N", _step),
    Command(("break", "b"), "[ADDRESS]", "stop before the code there; list breakpoints", _break),
    Command(("delete",), "[ADDRESS]", "take out that breakpoint, or all", _delete),
    Command(("vcpu",), "[N]", "list the vCPUs, or make N the current one", looking.choose_vcpu),
    Command(("where", "w"), "", "the current vCPU's next instruction", where),
    Command(("registers", "r"), "[NAME ...]", "its registers", looking.show_registers),
    Command(("set",), "REGISTER VALUE", "change a register", looking.set_register),
    Command(("disassemble", "u"), "[ADDRESS [N]]", "N instructions, 8 if not said",
            looking.show_disassembly),
    Command(("memory", "x"), "[ADDRESS [BYTES]]", "memory by its page tables; else its stack",
            looking.show_memory),
    Command(("physical", "xp"), "ADDRESS [BYTES]", "guest-physical memory", looking.show_physical),
    Command(("walk",), "ADDRESS", "the page tables' entries for an address", looking.show_walk),
    Command(("gdt",), "", "its segment descriptors", looking.show_gdt),
    Command(("idt",), "", "its interrupt gates", looking.show_idt),
    Command(("lapic",), "", "its local APIC", looking.show_lapic),
    Command(("exits",), "", "its last exits", looking.show_exits),
    Command(("hyperv",), "", "Hyper-V: SynIC, timers, pages, reference time", looking.show_hyperv),
    Command(("msrs",), "", "its synthetic MSRs", looking.show_msrs),
    Command(("sints",), "", "its SINTs, and what is in their message slots", looking.show_sints),
    Command(("timers",), "", "its synthetic timers", looking.show_timers),
    Command(("send",), "TEXT", "type a line on the guest's console", _send, raw=True),
    Command(("python", "py"), "[CODE]", "Python, with vm, vcpu and memory", _python, raw=True),
    Command(("reset",), "", "press the reset button", _reset),
    Command(("help", "?"), "", "this text", show_help),
    Command(("quit", "q"), "", "end the machine and leave", _quit),
)  # fmt: skip
COMMANDS = {name: row for row in ROWS for name in row.names}
