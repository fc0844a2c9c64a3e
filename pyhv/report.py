"""What the user reads when a guest has stopped: one line always, the evidence when it went wrong.

Everything in ``Stop.details`` is optional here: a report must not fail over what is missing.
"""

from __future__ import annotations

from .crashes import crash_lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from .stop import Stop

    Details = dict[str, Any]

#: kinds that are the guest's or the user's wish: no registers, unless asked for
QUIET = ("poweroff", "reset", "exit", "quit")

#: linux include/uapi/linux/kvm.h, KVM_INTERNAL_ERROR_*
SUBERRORS = {
    1: ("EMULATION", "KVM could not emulate an instruction"),
    2: ("SIMUL_EX", "two exceptions at once"),
    3: ("DELIVERY_EV", "an exit while an event was being delivered"),
    4: ("UNEXPECTED_EXIT_REASON", "the CPU left the guest for a reason that KVM does not know"),
}
EMULATION_FLAG_INSTRUCTION_BYTES = 1

#: hardware_entry_failure_reason. Intel SDM: bit 31 set is a basic exit reason, else an error number
ENTRY_FAILURES = {
    0x80000021: "VMX: invalid guest state",
    0x80000022: "VMX: MSR loading",
    0x80000029: "VMX: machine check on entry",
    7: "VMX: invalid control fields",
    8: "VMX: invalid host state",
    0xFFFFFFFF: "SVM: VMEXIT_INVALID",
    0xFFFFFFFFFFFFFFFF: "SVM: VMEXIT_INVALID",
}

GENERAL = (
    ("rax", "rbx", "rcx", "rdx"),
    ("rsi", "rdi", "rbp", "rsp"),
    ("r8", "r9", "r10", "r11"),
    ("r12", "r13", "r14", "r15"),
)
CONTROL = ("cr0", "cr2", "cr3", "cr4", "efer")
SEGMENTS = ("cs", "ss", "ds", "es", "fs", "gs", "tr")


def report(stop: Stop, tail: Sequence[str] = (), full: bool = False) -> str:
    """Return the text for the user, lines without ``pyhv:`` before them.

    :param tail: the console's last lines, when the user has not seen them go by.
    :param full: the evidence also for a guest that stopped as it should.
    """
    details: Details = stop.details
    lines = [_headline(stop, details)]
    if stop.kind not in QUIET or full:
        lines += SECTIONS.get(stop.kind, _nothing)(details)
        lines += [f"  {sentence}" for sentence in details.get("cause", ())]
        lines += _registers(details)
        lines += _exits(details)
        lines += _console(tail)
    if "traceback" in details and full:
        lines += str(details["traceback"]).splitlines()
    return "\n".join(lines)


def _headline(stop: Stop, details: Details) -> str:
    if stop.kind == "hv-crash" and "parameters" in details:
        head = crash_lines(details["parameters"], details.get("control", 0))[0]
        return f"{stop.text}: {head} (status {stop.status})"
    if not stop.status or stop.kind == "exit":  # the text of exit names it
        return stop.text
    return f"{stop.text} (status {stop.status})"


def _nothing(details: Details) -> list[str]:
    return []


def _crash(details: Details) -> list[str]:
    if "parameters" not in details:
        return []
    return [
        f"  {line}" for line in crash_lines(details["parameters"], details.get("control", 0))[1:]
    ]


def _kvm_error(details: Details) -> list[str]:
    if "hardware_reason" in details:
        reason = details["hardware_reason"]
        meaning = ENTRY_FAILURES.get(reason, "see the CPU's manual")
        return [f"  hardware entry failure {reason:#x}: {meaning}"]
    if "suberror" not in details:
        return []
    number, data = details["suberror"], list(details.get("data", ()))
    name, meaning = SUBERRORS.get(number, (str(number), "a suberror that pyhv does not know"))
    lines = [f"  KVM_INTERNAL_ERROR_{name}: {meaning}"]
    code = _instruction(data) if number == 1 else b""
    if code:
        lines.append(f"  instruction bytes {code.hex(' ')}")
    elif data:
        lines.append("  data " + " ".join(f"{value:#x}" for value in data))
    return lines


def _instruction(data: list[int]) -> bytes:
    """Return the bytes that KVM fetched. kvm_run.emulation_failure: flags, then size and bytes."""
    if len(data) < 3 or not data[0] & EMULATION_FLAG_INSTRUCTION_BYTES:
        return b""
    raw = b"".join((value & (1 << 64) - 1).to_bytes(8, "little") for value in data[1:3])
    return raw[1 : 1 + min(raw[0], 15)]


SECTIONS: dict[str, Callable[[Details], list[str]]] = {
    "hv-crash": _crash,
    "kvm-error": _kvm_error,
}


def _registers(details: Details) -> list[str]:
    values = details.get("registers")
    if not values:
        return []
    return [f"registers of vcpu {details.get('vcpu', 0)}:", *register_lines(values)]


def register_lines(values: dict[str, int]) -> list[str]:
    """Return the registers that *values* has, indented lines."""
    lines = ["  " + _named(values, ("rip", "rflags"), 16)]
    rows = GENERAL if any(values.get(name) for row in GENERAL[2:] for name in row) else GENERAL[:2]
    lines += ["  " + _named(values, row, 16) for row in rows]
    lines.append("  " + _named(values, CONTROL, 0))
    segments = [
        f"{name} {values[name]:#x}@{values.get(name + '.base', 0):#x}"
        for name in SEGMENTS
        if name in values
    ]
    lines.append("  " + "  ".join(segments))
    lines.append("  " + _named(values, ("gdt.base", "idt.base"), 0))
    return [line for line in lines if line.strip()]


def _named(values: dict[str, int], names: Sequence[str], digits: int) -> str:
    return "  ".join(f"{name:3} {values[name]:0{digits}x}" for name in names if name in values)


def _exits(details: Details) -> list[str]:
    """Return the exits before the end; equal ones in a row are one line with a count."""
    exits = details.get("exits")
    if not exits:
        return []
    lines, before, count = ["last exits, oldest first:"], None, 0
    for text in [*exits, None]:
        if text == before:
            count += 1
            continue
        if before is not None:
            lines.append(f"  {before}" + (f"  ({count} times)" if count > 1 else ""))
        before, count = text, 1
    return lines


def _console(tail: Sequence[str]) -> list[str]:
    return (
        ["the console's last lines:", *(f"  | {printable(line)}" for line in tail)] if tail else []
    )


def printable(text: str) -> str:
    """Return guest text without what a terminal would obey."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)
