"""``monitor COMMAND`` in gdb: what a debugger has no packet for, most of all Hyper-V's state."""

from __future__ import annotations

from ..errors import PyhvError
from ..record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ..machine import Machine


def _hyperv(machine: Machine, vcpu: int, words: list[str]) -> str:
    return "\n".join(machine.hyperv.lines())


def _msrs(machine: Machine, vcpu: int, words: list[str]) -> str:
    from ..trace.names import msr_name

    values = machine.hyperv.msrs(vcpu)
    return "\n".join(f"{number:#x} {msr_name(number):34} {v:#x}" for number, v in values.items())


def _walk(machine: Machine, vcpu: int, words: list[str]) -> str:
    if len(words) != 1:
        return "walk ADDRESS"
    found = machine.vcpus[vcpu].walk(int(words[0], 0))
    lines = [f"{entry.name:6} at {entry.gpa:#x}: {entry.value:#018x}" for entry in found.entries]
    if found.gpa is None:
        return "\n".join([*lines, found.why])
    rights = "".join(
        letter if right else "-"
        for letter, right in zip("wux", (found.writable, found.user, found.executable), strict=True)
    )
    return "\n".join([*lines, f"gpa {found.gpa:#x}, page of {found.size:#x} bytes, {rights}"])


def _exits(machine: Machine, vcpu: int, words: list[str]) -> str:
    return "\n".join(machine.vcpus[vcpu].thread.last_exits()) or "none yet"


def _reset(machine: Machine, vcpu: int, words: list[str]) -> str:
    machine.reset()
    return "reset"


def _quit(machine: Machine, vcpu: int, words: list[str]) -> str:
    machine.kill("quit", "quit by gdb's monitor")
    return "the machine stops"


def _help(machine: Machine, vcpu: int, words: list[str]) -> str:
    return "\n".join(f"monitor {name:14} {row.help}" for name, row in COMMANDS.items())


class Command(Record):
    """A row: what the help says, and the function (machine, current vCPU, words) -> text."""

    help: str
    function: Callable[[Machine, int, list[str]], str]


COMMANDS = {
    "hyperv": Command("SynIC, SINTs, timers, pages, reference time", _hyperv),
    "msrs": Command("the current vCPU's synthetic MSRs", _msrs),
    "walk": Command("ADDRESS: the page tables' entries for a guest-virtual address", _walk),
    "exits": Command("the current vCPU's last exits", _exits),
    "system_reset": Command("press the reset button", _reset),
    "quit": Command("end the machine", _quit),
    "help": Command("this text", _help),
}


def monitor(machine: Machine, vcpu: int, text: str) -> str:
    """Return what the command *text* answers; never raises for what a user typed."""
    words = text.split()
    row = COMMANDS.get(words[0] if words else "help")
    if row is None:
        return f"{words[0]}: no such command; there is {', '.join(COMMANDS)}"
    try:
        return row.function(machine, vcpu, words[1:])
    except ValueError:
        return f"{text}: not a number"
    except PyhvError as error:
        return str(error)
