"""``pyhv caps``: each flag on this host: in the kernel, in user space, or not, and why.

Works without KVM: then it says what pyhv itself could give. Two hosts' JSON can be compared.
"""

from __future__ import annotations

import json
import os

from ..errors import ConfigError, HostError
from ..hyperv.choose import choose, host_has, in_user_table, refusals
from ..hyperv.flags import FLAGS, ROWS, Flag
from ..kvm import uapi
from ..kvm.system import Kvm
from ..record import Record
from . import commands
from .arguments import help_text, parse, read_input
from .names import bit_name
from .text import BOLD, GREEN, RED, YELLOW, coloured, facts, printable, table, wrapped

FORMAT = "pyhv-caps"
YES = "yes"
#: KVM's capabilities that decide what pyhv can do: name -> number
CAPABILITIES = {
    name: value
    for name, value in vars(uapi).items()
    if name.startswith(("KVM_CAP_HYPERV", "KVM_CAP_SYS_HYPERV", "KVM_CAP_X86_"))
}
SYSTEM_FILES = {
    "clocksource": "/sys/devices/system/clocksource/clocksource0/current_clocksource",
    "smt": "/sys/devices/system/cpu/smt/control",
    "kernel": "/proc/sys/kernel/osrelease",
    "nested_intel": "/sys/module/kvm_intel/parameters/nested",
    "nested_amd": "/sys/module/kvm_amd/parameters/nested",
    "apicv": "/sys/module/kvm_intel/parameters/enable_apicv",
    "avic": "/sys/module/kvm_amd/parameters/avic",
}


class HostCaps(Record):
    """What a host's KVM says; *problem* is why there is none, then all else is empty."""

    problem: str
    capabilities: dict[str, int]
    hyperv: list[list[int]]  # rows of KVM_GET_SUPPORTED_HV_CPUID; empty without it
    system: dict[str, str]
    cpuid: list[list[int]] = []  # rows of KVM_GET_SUPPORTED_CPUID


def _file(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return printable(file.read(200).strip())
    except OSError:
        return ""


def ask(make: type[Kvm] = Kvm) -> HostCaps:
    """Return what this host says; never raises for want of KVM."""
    system = {name: _file(path) for name, path in SYSTEM_FILES.items()}
    system = {name: text for name, text in system.items() if text}
    system["machine"] = os.uname().machine
    try:
        kvm = make()
    except HostError as error:
        return HostCaps(str(error), {}, [], system)
    try:
        found = {name: kvm.check(number) for name, number in CAPABILITIES.items()}
        rows = [list(row) for row in kvm.supported_hv_cpuid()] if kvm.has_hyperv() else []
        cpuid = [list(row) for row in kvm.supported_cpuid()]
    finally:
        kvm.close()
    return HostCaps("", found, rows, system, cpuid)


def in_kernel(row: Flag, host: HostCaps) -> str:
    """Return YES, or why KVM and pyhv's in_kernel driver do not give the flag."""
    if host.problem:
        return "no KVM"
    if not host.hyperv:
        return "this KVM has no Hyper-V (CONFIG_KVM_HYPERV, since Linux 6.8)"
    if row.in_kernel:
        return f"pyhv: {row.in_kernel}"
    rows = {leaf: tuple(words[-4:]) for leaf, *words in host.hyperv}
    if not host_has(row, rows):  # type: ignore[arg-type]
        lacks = [
            f"{bits.leaf:08X}.{bits.register.upper()}[{bit}]"
            f" {bit_name(bits.leaf, bits.register, bit)}"
            for bits in row.bits
            for bit in range(32)
            if bits.mask >> bit & 1
            and not rows.get(bits.leaf, (0,) * 4)[("eax", "ebx", "ecx", "edx").index(bits.register)]
            >> bit
            & 1
        ]
        return "KVM lacks " + ", ".join(lacks)
    if row.name == "hv-vpindex" and not host.capabilities.get("KVM_CAP_HYPERV_VP_INDEX"):
        return "KVM lacks KVM_CAP_HYPERV_VP_INDEX"
    if row.name == "hv-synic" and not host.capabilities.get("KVM_CAP_HYPERV_SYNIC2"):
        return "KVM lacks KVM_CAP_HYPERV_SYNIC2"
    enforce = host.capabilities.get("KVM_CAP_HYPERV_ENFORCE_CPUID")
    if row.name == "hv-enforce-cpuid" and not enforce:
        return "KVM lacks KVM_CAP_HYPERV_ENFORCE_CPUID"
    return YES


def in_user(row: Flag, host: HostCaps) -> str:
    """Return YES, or why pyhv itself does not give the flag here."""
    if row.in_user:
        return row.in_user
    if host.problem:
        return YES  # what pyhv would do; the head of the report says that there is no KVM
    exits = ("KVM_CAP_X86_USER_SPACE_MSR", "KVM_CAP_X86_MSR_FILTER")
    lacks = [name for name in exits if not host.capabilities.get(name)]
    return f"KVM lacks {', '.join(lacks)} (Linux 5.10)" if lacks else YES


def report(host: HostCaps) -> dict[str, object]:
    """Return all of it, as --json shows it and --diff compares it."""
    return {
        "format": FORMAT,
        "version": 1,
        "kvm": host.problem or YES,
        "system": host.system,
        "capabilities": host.capabilities,
        "hyperv_cpuid": host.hyperv,
        "flags": {
            row.name: {"in_kernel": in_kernel(row, host), "in_user": in_user(row, host)}
            for row in ROWS
        },
    }


def load(name: str) -> dict[str, object]:
    """Return a report that ``pyhv caps --json`` wrote.

    :raises ConfigError: it is another file.
    """
    try:
        found = json.loads(read_input(name))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{name}: no JSON: {printable(str(error), 80)}") from error
    flags = found.get("flags") if isinstance(found, dict) else None
    good = (
        isinstance(found, dict)
        and found.get("format") == FORMAT
        and isinstance(flags, dict)
        and all(isinstance(found.get(key), dict) for key in ("system", "capabilities"))
        and all(
            isinstance(row, dict) and all(isinstance(text, str) for text in row.values())
            for row in flags.values()
        )
    )
    if not good:
        raise ConfigError(f"{name}: not written by pyhv caps --json")
    return found


def flatten(found: dict[str, object]) -> dict[str, str]:
    """Return the lines of a report by key."""
    lines = {"kvm": str(found.get("kvm", ""))}
    for part in ("system", "capabilities", "flags"):
        for key, value in found[part].items():  # type: ignore[attr-defined]
            if isinstance(value, dict):
                lines |= {f"{key} {driver}": str(text) for driver, text in value.items()}
            else:
                lines[str(key)] = str(value)
    return {printable(key): printable(text) for key, text in lines.items()}


def differences(old: dict[str, object], new: dict[str, object]) -> list[list[str]]:
    """Return rows (what, old, new) where two reports differ."""
    first, second = flatten(old), flatten(new)
    return [
        [key, first.get(key, "-"), second.get(key, "-")]
        for key in [*first, *(key for key in second if key not in first)]
        if first.get(key) != second.get(key)
    ]


def features_lacking(cpu: str, host: HostCaps) -> list[str]:
    """Return which CPU features of ``-cpu`` *cpu* KVM does not have here, or why it is no CPU."""
    from ..cpu_models import apply
    from ..cpu_options import parse_cpu
    from ..kvm.cpuid import Cpuid
    from .source import known

    cpu, problems = known(cpu)
    if not host.cpuid or cpu.startswith(",") or not cpu:
        return problems
    try:
        return problems + apply(parse_cpu(cpu), Cpuid([tuple(row) for row in host.cpuid]).table)
    except ConfigError as error:
        return [*problems, str(error)]


def lacking(cpu: str, host: HostCaps) -> list[str]:
    """Return why ``-cpu`` *cpu* does not work here, by the driver that pyhv would take."""
    from .source import read

    source = read([cpu])
    user = not host.hyperv
    rows = in_user_table() if user else [tuple(row) for row in host.hyperv]
    problems = [host.problem] if host.problem else []
    problems += features_lacking(source.cpu, host)
    try:
        chosen = choose(source.hv, rows, user=user, cpu=source.cpu)
    except ConfigError as error:
        return [*problems, str(error)]
    problems += refusals(chosen, user=user)
    answer = in_user if user else in_kernel
    return problems + [
        f"{name}: {why}"
        for name in source.hv
        if source.hv[name] not in (False, "off")
        and (why := answer(FLAGS[name], host)) not in (YES, "no KVM")
        and not any(text.startswith(name) for text in problems)
    ]


def tsc_line(host: HostCaps) -> str:
    """Return what a guest's reference TSC page will be on this host."""
    source = host.system.get("clocksource", "")
    if source == "tsc":
        return "tsc is this host's clocksource: the guest's reference TSC page is valid"
    if not source:
        return "this host's clocksource is not known"
    return (f"this host's clocksource is {source}, not tsc: KVM leaves the reference TSC page "
            "invalid (sequence 0), and each clock read of a guest exits")  # fmt: skip


def main(arguments: list[str]) -> tuple[str, int]:
    """Return what to print, and the status."""
    command = commands.CAPS
    parsed = parse(command, arguments)
    if "h" in parsed:
        return help_text(command), 0
    if "diff" in parsed:
        names = [parsed.values["diff"], *parsed.words]
        old = load(names[0])
        new = load(names[1]) if len(names) > 1 else report(ask())
        rows = differences(old, new)
        if "json" in parsed:
            return json.dumps(rows, indent=1), int(bool(rows))
        lines = [f"--- {names[0]}", f"+++ {names[1] if len(names) > 1 else 'this host'}"]
        for what, before, after in rows:
            lines += [coloured(what, BOLD), *wrapped(before, "    ", "  - ")]
            lines += wrapped(after, "    ", "  + ")
        return "\n".join(lines if rows else ["the same"]), int(bool(rows))
    if parsed.words:
        raise ConfigError(
            f"{printable(parsed.words[0], 60)}: write --against {parsed.words[0][:60]}"
        )
    host = ask()
    if "against" in parsed:
        problems = lacking(parsed.values["against"], host)
        if "json" in parsed:
            return json.dumps({"problems": problems}, indent=1), int(bool(problems))
        text = ["yes, this host can do that"] if not problems else []
        for problem in problems:
            text += wrapped(problem, "    ", "  - ")
        return "\n".join(text), int(bool(problems))
    can = not host.problem and (bool(host.hyperv) or in_user(FLAGS["hv-time"], host) == YES)
    if "json" in parsed:
        return json.dumps(report(host), indent=1), int(not can)
    return "\n".join(_text(host)), int(not can)


def _text(host: HostCaps) -> list[str]:
    head = host.problem or "KVM, " + ("with" if host.hyperv else "without") + " Hyper-V in it"
    lines = wrapped(head) + (["pyhv doctor says what to do"] if host.problem else [])
    lines += facts((name, text) for name, text in sorted(host.system.items()))
    lines += wrapped(tsc_line(host), "    ", "  ")
    rows, reasons = [], {}
    for row in ROWS:
        cells = []
        for why in (in_kernel(row, host), in_user(row, host)):
            if why == YES:
                cells.append(YES)
            else:
                cells.append(f"no ({reasons.setdefault(why, len(reasons) + 1)})")
        rows.append([row.name, *cells])
    lines += ["", *table(rows, ("flag", "in kernel", "in user space")), ""]
    for why, number in reasons.items():
        lines += wrapped(why, "     ", f"({number})".ljust(5))
    colour = RED if host.problem else GREEN if host.hyperv else YELLOW
    return [coloured(lines[0], colour), *lines[1:]]
