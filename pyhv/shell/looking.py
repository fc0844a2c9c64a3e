"""What the shell shows of a machine: registers, memory, tables, APIC, and the state of Hyper-V.

Each function gets the session and the words behind the command, and returns text.
"""

from __future__ import annotations

from ..errors import BadGpa, ConfigError
from ..hyperv import tlfs
from ..kvm import requests, uapi
from ..pagewalk import read_virtual, walk
from . import disassembler, tables
from .session import LONG_MODE, PROTECTED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .session import Session

SHOWN_BYTES, MOST_BYTES = 64, 1 << 16
SHOWN_INSTRUCTIONS, MOST_INSTRUCTIONS = 8, 1000
ROW = 16
APIC_BASE = 0x1B
MESSAGE_BYTES = 256


def number(words: list[str], at: int, default: int, most: int, what: str) -> int:
    """Return ``words[at]`` as a number from 1 to *most*; *default* if there is none."""
    if len(words) <= at:
        return default
    try:
        value = int(words[at], 0)
    except ValueError:
        value = 0
    if not 0 < value <= most:
        raise ConfigError(f"{words[at]}: {what}, 1 to {most}")
    return value


def where(session: Session, words: list[str]) -> str:
    """Return the current vCPU's place and next instruction."""
    ended = session.machine.ended
    if ended is not None:
        return f"the machine has stopped: {ended.text}"
    state = session.machine.vcpus[session.current].state
    line = instructions(session, session.linear(), 1)[0]
    return f"vcpu {session.current} ({state})  {line}"


# the current vCPU


def choose_vcpu(session: Session, words: list[str]) -> str:
    """List the vCPUs, or make one the current one."""
    vcpus = session.machine.vcpus
    if words:
        session.current = number([str(int(words[0], 0) + 1)], 0, 1, len(vcpus), "vCPUs") - 1
    if session.machine.ended is not None:
        return where(session, [])
    return "\n".join(
        f"{'*' if vcpu.index == session.current else ' '} vcpu {vcpu.index}: {vcpu.state}, "
        f"rip {vcpu.registers.rip:#x}"
        for vcpu in vcpus
    )


def show_registers(session: Session, words: list[str]) -> str:
    """Return all of the current vCPU's registers, or those named."""
    from ..report import register_lines

    values = session.registers()
    if not words:
        return "\n".join(line.removeprefix("  ") for line in register_lines(values))
    return "\n".join(f"{word} {session.address(word):#x}" for word in words)


def set_register(session: Session, words: list[str]) -> str:
    """Change one."""
    if len(words) != 2:
        raise ConfigError("set REGISTER VALUE")
    registers = session.registers()
    if words[0] not in registers:
        raise ConfigError(f"{words[0]}: no such register; there are {', '.join(registers)}")
    registers[words[0]] = session.address(words[1])
    return ""


def show_memory(session: Session, words: list[str]) -> str:
    """Return memory by the current vCPU's page tables, as far as it is mapped."""
    address = session.address(words[0]) if words else session.linear("rsp")
    length = number(words, 1, SHOWN_BYTES, MOST_BYTES, "bytes")
    data = read_virtual(session.machine.memory, session.registers(), address, length)
    lines = _dump(data, address)
    if len(data) < length:
        lines.append(f"{address + len(data):#x}: not mapped to RAM")
    return "\n".join(lines)


def show_physical(session: Session, words: list[str]) -> str:
    """Return guest-physical memory."""
    if not words:
        raise ConfigError("physical ADDRESS [BYTES]")
    address = session.address(words[0])
    length = number(words, 1, SHOWN_BYTES, MOST_BYTES, "bytes")
    try:
        return "\n".join(_dump(session.machine.memory.read(address, length), address))
    except BadGpa as error:
        raise ConfigError(str(error)) from None


def _dump(data: bytes, address: int) -> list[str]:
    lines = []
    for at in range(0, len(data), ROW):
        row = data[at : at + ROW]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        left, right = row[:8].hex(" "), row[8:].hex(" ")
        lines.append(f"{address + at:012x}  {left:23}  {right:23}  {text}")
    return lines


def show_walk(session: Session, words: list[str]) -> str:
    """Return the entries of a page walk, and what it found."""
    if len(words) != 1:
        raise ConfigError("walk ADDRESS")
    found = walk(session.machine.memory, session.registers(), session.address(words[0]))
    lines = [f"{entry.name:6} at {entry.gpa:#x}: {entry.value:#018x}" for entry in found.entries]
    if found.gpa is None:
        return "\n".join([*lines, found.why])
    if not found.entries:
        return f"gpa {found.gpa:#x}: paging is off"
    rights = ", ".join(
        yes if right else no
        for right, yes, no in (
            (found.writable, "writable", "read-only"),
            (found.user, "user", "supervisor"),
            (found.executable, "executable", "no execute"),
        )
    )
    return "\n".join([*lines, f"gpa {found.gpa:#x}, page of {found.size:#x} bytes: {rights}"])


def show_disassembly(session: Session, words: list[str]) -> str:
    """Return instructions, from RIP on if no address is named."""
    address = session.address(words[0]) if words else session.linear()
    count = number(words, 1, SHOWN_INSTRUCTIONS, MOST_INSTRUCTIONS, "instructions")
    return "\n".join(instructions(session, address, count))


def instructions(session: Session, address: int, count: int) -> list[str]:
    """Return *count* lines of code at *address*: in words, or bytes without a disassembler."""
    length = count * disassembler.LONGEST
    code = read_virtual(session.machine.memory, session.registers(), address, length)
    code = bytes(session.target.hide(address, code))
    if not code:
        return [f"{address:#x}: not mapped to RAM"]
    found = disassembler.disassemble(code, address, session.code_bits(), count)
    if found is None:
        hint = "  (objdump or the capstone module would say more)"
        return [f"{address:#x}:  {code[:ROW].hex(' ')}{hint}"]
    return [f"{one.address:#x}:  {one.code.hex(' '):24} {one.text}".rstrip() for one in found]


def show_gdt(session: Session, words: list[str]) -> str:
    """Return the descriptors of the GDT."""
    registers = session.registers()
    data, lines = _table(session, "gdt")
    return "\n".join([*lines, *tables.gdt(data, bool(registers["efer"] & LONG_MODE))])


def show_idt(session: Session, words: list[str]) -> str:
    """Return the gates of the IDT, or the real-mode vectors."""
    registers = session.registers()
    long, protected = registers["efer"] & LONG_MODE, registers["cr0"] & PROTECTED
    size = 16 if long else 8 if protected else 4
    data, lines = _table(session, "idt")
    return "\n".join([*lines, *tables.idt(data, size)])


def _table(session: Session, name: str) -> tuple[bytes, list[str]]:
    registers = session.registers()
    base, limit = registers[f"{name}.base"], registers.get(f"{name}.limit", 0xFFFF)
    data = read_virtual(session.machine.memory, registers, base, limit + 1)
    lines = [f"base {base:#x}, limit {limit:#x}"]
    if len(data) <= limit:
        lines.append(f"{base + len(data):#x}: not mapped to RAM")
    return data, lines


def show_lapic(session: Session, words: list[str]) -> str:
    """Return the local APIC of the current vCPU."""
    vcpu = session.machine.vcpus[session.current]
    state = vcpu.ask(lambda one: one.get_struct(requests.GET_LAPIC, uapi.LapicState))
    return "\n".join(tables.lapic(bytes(state.regs), vcpu.msr(APIC_BASE) or 0))


def show_exits(session: Session, words: list[str]) -> str:
    """Return the current vCPU's last exits."""
    ended = session.machine.ended
    lines = ended.details.get("exits", ()) if ended is not None else (
        session.machine.vcpus[session.current].thread.last_exits()
    )  # fmt: skip
    return "\n".join(lines) or "none yet"


# Hyper-V


def show_hyperv(session: Session, words: list[str]) -> str:
    """Return all of Hyper-V's state."""
    return "\n".join(session.machine.hyperv.lines())


def show_msrs(session: Session, words: list[str]) -> str:
    """Return the current vCPU's synthetic MSRs."""
    from ..trace.names import msr_name

    values = session.machine.hyperv.msrs(session.current)
    lines = [f"{number:#x} {msr_name(number):34} {value:#x}" for number, value in values.items()]
    return "\n".join(lines) or "the guest sees no Hyper-V"


def show_sints(session: Session, words: list[str]) -> str:
    """Return its SINTs with what lies in their message slots."""
    values = session.machine.hyperv.msrs(session.current)
    if tlfs.HV_X64_MSR_SCONTROL not in values:
        return "no SynIC: -cpu has no hv_synic"
    on = values[tlfs.HV_X64_MSR_SCONTROL] & 1
    lines = [f"vcpu {session.current}: SynIC {'on' if on else 'off'}"]
    page = values.get(tlfs.HV_X64_MSR_SIMP, 0)
    for n in range(tlfs.HV_SYNIC_SINT_COUNT):
        value = values[tlfs.HV_X64_MSR_SINT0 + n]
        if value & tlfs.HV_SYNIC_SINT_MASKED and not value & 0xFF:
            continue
        text = f"SINT{n:<2} vector {value & 0xFF:#04x}"
        text += ", masked" * bool(value & tlfs.HV_SYNIC_SINT_MASKED)
        text += ", AutoEOI" * bool(value & tlfs.HV_SYNIC_SINT_AUTO_EOI)
        lines.append(text + _slot(session, page, n))
    return "\n".join(lines) if len(lines) > 1 else f"{lines[0]}; every SINT is masked"


def _slot(session: Session, page: int, sint: int) -> str:
    """Return what lies in the slot of a SINT's message."""
    if not page & tlfs.HV_PAGE_ENABLE:
        return ", no message page"
    try:
        at = (page & tlfs.HV_PAGE_MASK) + sint * MESSAGE_BYTES
        head = session.machine.memory.read(at, ROW)
    except BadGpa:
        return ", its message page is not RAM"
    kind = int.from_bytes(head[:4], "little")
    if not kind:
        return ", slot empty"
    return f", message of type {kind:#x}, {head[4]} bytes" + ", more wait" * (head[5] & 1)


def show_timers(session: Session, words: list[str]) -> str:
    """Return its synthetic timers."""
    from ..trace.names import msr_fields

    values = session.machine.hyperv.msrs(session.current)
    now = session.machine.hyperv.reference_ticks
    lines = [f"vcpu {session.current}: reference time {now} x 100 ns"]
    for n in range(tlfs.HV_SYNIC_STIMER_COUNT):
        number = tlfs.HV_X64_MSR_STIMER0_CONFIG + 2 * n
        if number not in values:
            return "no synthetic timers: -cpu has no hv_stimer"
        config, count = values[number], values.get(number + 1, 0)
        if config or count:
            fields = " ".join(f"{k}={v}" for k, v in msr_fields(number, config).items())
            lines.append(f"STIMER{n} {fields} count={count}")
    return "\n".join(lines) if len(lines) > 1 else f"{lines[0]}; no timer is set"
