"""``pyhv explain``: what each Hyper-V flag of a -cpu means, needs and does; the corrected text."""

from __future__ import annotations

import json

from ..errors import Exit
from ..hyperv.choose import IN_USER, Chosen, FlagError, choose
from ..hyperv.cpuid import leaves
from ..hyperv.flags import FLAGS, ROWS, Bits, Flag, Value
from ..trace.names import msr_name
from . import commands
from .arguments import command_line_last, help_text, parse
from .knowledge import KNOWLEDGE, NEEDED_BY_ALL
from .names import bit_name, call_name
from .source import Source, read
from .text import BOLD, GREEN, RED, YELLOW, coloured, facts, wrapped

REGISTERS = ("eax", "ebx", "ecx", "edx")
#: KVM's features and hints in leaf 0x40000001: what a guest of Linux 6.12 sees, for the picture
KVM_WORDS = (0x01007EFB, 0)


def bits_of(bits: Bits) -> list[str]:
    """Return ``40000003.EAX[1] AccessPartitionReferenceCounter`` for each bit."""
    unless = f" unless {bits.unless}" if bits.unless else ""
    place = f"{bits.leaf:08X}.{bits.register.upper()}"
    return [
        f"{place}[{bit}] {bit_name(bits.leaf, bits.register, bit)}{unless}"
        for bit in range(32)
        if bits.mask >> bit & 1
    ]


def runs(numbers: tuple[int, ...]) -> list[str]:
    """Return MSRs by name, runs of more than three as first to last."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][-1] + 1:
            found[-1].append(number)
        else:
            found.append([number])
    lines = []
    for run in found:
        if len(run) > 3:
            first, last = msr_name(run[0]), msr_name(run[-1])
            lines.append(f"{run[0]:08X}-{run[-1]:08X} {first} to {last}")
        else:
            lines += [f"{number:08X} {msr_name(number)}" for number in run]
    return lines


def flag_facts(row: Flag) -> dict[str, object]:
    """Return all that is known of a flag, as --json shows it and the documentation prints it."""
    known = KNOWLEDGE[row.name]
    enforced = set(row.requires)
    tlfs = [name for name in known.tlfs if name not in enforced]
    if row.bit >= 0 and row.name != NEEDED_BY_ALL and NEEDED_BY_ALL not in {*tlfs, *enforced}:
        tlfs.append(NEEDED_BY_ALL)
    return {
        "name": row.name,
        "meaning": row.meaning,
        "cpuid": [line for bits in row.bits for line in bits_of(bits)],
        "msrs": runs(row.msrs),
        "hypercalls": [f"{code:04X} {call_name(code)}" for code in row.hypercalls],
        "since": {"linux": known.linux, "qemu": known.qemu, "libvirt": known.libvirt},
        "libvirt_element": known.element,
        "requires": list(row.requires),
        "requires_tlfs": tlfs,
        "recommended": [name for name in row.recommended if name not in {*enforced, *tlfs}],
        "migration": known.migration,
        "apicv": known.apicv,
        "nesting": known.nesting,
        "linux_guest": known.linux_guest,
        "windows_guest": known.windows_guest,
        "refused_in_kernel": row.in_kernel,
        "refused_in_user": row.in_user,
        "notes": row.notes,
    }


def since(known: dict[str, object]) -> str:
    """Return ``Linux 4.5, QEMU 2.6, libvirt 1.3.3``."""
    names = {"linux": "Linux", "qemu": "QEMU", "libvirt": "libvirt"}
    versions: dict[str, str] = known["since"]  # type: ignore[assignment]
    return "; ".join(f"{names[key]} {text}" for key, text in versions.items() if text)


def flag_lines(known: dict[str, object], value: Value | None = None) -> list[str]:
    """Return the paragraph about one flag."""
    name = str(known["name"])
    shown = name if value is None or isinstance(value, bool) else f"{name}={value}"
    joined = {
        key: ", ".join(known[key])  # type: ignore[arg-type]
        for key in ("requires", "requires_tlfs", "recommended")
    }
    element = str(known["libvirt_element"])
    return [
        coloured(shown, BOLD),
        *wrapped(str(known["meaning"]), "  "),
        *facts((
            ("CPUID", known["cpuid"]),  # type: ignore[arg-type]
            ("MSRs", known["msrs"]),  # type: ignore[arg-type]
            ("hypercalls", known["hypercalls"]),  # type: ignore[arg-type]
            ("since", since(known)),
            ("libvirt", element),
            ("enforced", joined["requires"]),
            ("TLFS needs", joined["requires_tlfs"]),
            ("goes with", joined["recommended"]),
            ("migration", str(known["migration"])),
            ("APICv, AVIC", str(known["apicv"])),
            ("nesting", str(known["nesting"])),
            ("Linux", str(known["linux_guest"])),
            ("Windows", str(known["windows_guest"])),
            ("in_kernel", known["refused_in_kernel"] and f"refused: {known['refused_in_kernel']}"),
            ("in_user", known["refused_in_user"] and f"refused: {known['refused_in_user']}"),
            ("note", str(known["notes"])),
        ), 4),
    ]  # fmt: skip


def any_host(passthrough: bool) -> list[tuple[int, ...]]:
    """Return a KVM that has every flag; for hv-passthrough that of Linux 6.12 on AMD."""
    if passthrough:
        return list(IN_USER)
    wanted: dict[int, list[int]] = {row[0]: list(row) for row in IN_USER}
    for row in ROWS:
        for bits in row.bits:
            wanted[bits.leaf][3 + REGISTERS.index(bits.register)] |= bits.mask
    return [tuple(row) for row in wanted.values()]


def resolve(source: Source) -> tuple[Chosen, list[str], str]:
    """Return what the guest would get after correction, the problems, and the corrected -cpu."""
    host = any_host(bool(source.hv.get("hv-passthrough")))
    defaults = source.defaults
    try:
        chosen = choose(source.hv, host, user=False, cpu=source.cpu, defaults=defaults)
        return chosen, [], source.cpu
    except FlagError as error:
        from .source import of_cpu

        good = of_cpu(source.what, error.corrected, [])
        chosen = choose(good.hv, host, user=False, defaults=defaults)
        return chosen, list(error.problems), error.corrected


def warnings(source: Source, chosen: Chosen) -> list[str]:
    """Return what is legal and not wise, a sentence each."""
    on, found = chosen.on, list(source.notes)
    if not chosen.enabled:
        if source.hv:
            found.append("none of these flags switches the Hyper-V interface on")
        return found
    if chosen.values["hv-passthrough"]:
        found.append("hv-passthrough: no migration, and Linux uses no enlightenment")
    elif NEEDED_BY_ALL not in on:
        found.append(
            "without hv-vpindex Linux uses no enlightenment at all, and Windows not the TSC page"
        )
    if source.kvm:
        found.append("without kvm=off Linux prefers KVM's leaves and uses no enlightenment")
    if chosen.values["hv-vendor-id"] != FLAGS["hv-vendor-id"].default:
        found.append("hv-vendor-id: Linux uses enlightenments of 'Microsoft Hv' only")
    if "hv-synic" in on and "hv-avic" not in on:
        found.append("hv-synic without hv-avic: a guest's AutoEOI switches APICv and AVIC off")
    if "hv-reenlightenment" in on and not any("tsc-freq" in item for item in source.others):
        found.append("hv-reenlightenment: QEMU wants tsc-frequency= for migration")
    if {"hv-emsr-bitmap", "hv-tlbflush-direct"} & on and "hv-evmcs" not in on:
        found.append("nested flags without hv-evmcs do something on AMD only")
    if chosen.values["hv-no-nonarch-coresharing"] == "auto":
        found.append("hv-no-nonarch-coresharing=auto blocks migration")
    if "hv-enforce-cpuid" in source.hv and source.hv["hv-enforce-cpuid"] and "hv-vapic" not in on:
        found.append("hv-enforce-cpuid without hv-vapic: Linux's write to VP_ASSIST_PAGE faults")
    return found


def picture(source: Source, chosen: Chosen) -> list[str]:
    """Return the leaves that the guest reads, one line each."""
    return [
        f"{leaf:08x} {eax:08x} {ebx:08x} {ecx:08x} {edx:08x}"
        for leaf, _, eax, ebx, ecx, edx in leaves(chosen, KVM_WORDS if source.kvm else None)
        if leaf != 0x40000101
    ]


def main(arguments: list[str]) -> tuple[str, int]:
    """Return what to print, and the status."""
    command = commands.EXPLAIN
    parsed = parse(command, command_line_last(command, arguments))
    if "h" in parsed:
        return help_text(command), Exit.POWER_OFF
    source = read(parsed.words, parsed.values.get("hv"))
    chosen, problems, good = resolve(source)
    warned = warnings(source, chosen)
    status = Exit.USAGE if problems else Exit.ERROR if warned and "strict" in parsed else 0
    if "to-qemu" in parsed:
        return f"-cpu {good}", status
    if "to-libvirt" in parsed:
        from .libvirt import to_xml

        text, notes = to_xml(dict(chosen.given), kvm=source.kvm)
        comments = [f"<!-- {note.replace('--', '- -')} -->" for note in notes]
        return "\n".join([text, *comments]), status
    named = [row for row in ROWS if source.hv.get(row.name, False) not in (False, "off")]
    if source.hv.get("hv-passthrough"):
        named += [FLAGS[name] for name in sorted(chosen.on) if FLAGS[name] not in named]
    if "json" in parsed:
        return json.dumps({
            "cpu": source.cpu, "from": source.what, "problems": problems, "corrected": good,
            "warnings": warned, "flags": [flag_facts(row) for row in named],
            "values": {row.name: source.hv.get(row.name, True) for row in named},
            "enabled": chosen.enabled,
            "cpuid": [list(row) for row in leaves(chosen, KVM_WORDS if source.kvm else None)],
        }, indent=1), status  # fmt: skip
    return "\n".join(_text(source, chosen, problems, good, warned, named)), status


def _text(
    source: Source, chosen: Chosen, problems: list[str], good: str, warned: list[str],
    named: list[Flag],
) -> list[str]:  # fmt: skip
    lines = [] if source.what == "-cpu" else [f"from {source.what}:"]
    lines += [f"-cpu {source.cpu}", ""]
    if problems:
        lines.append(coloured("Wrong:", RED))
        for problem in problems:
            lines += wrapped(problem, "    ", "  - ")
        lines += [coloured("Right:", GREEN), f"  -cpu {good}", ""]
    if warned:
        lines.append(coloured("Mind:", YELLOW))
        for warning in warned:
            lines += wrapped(warning, "    ", "  - ")
        lines.append("")
    for row in named:
        lines += [*flag_lines(flag_facts(row), source.hv.get(row.name)), ""]
    if not named:
        lines += ["No Hyper-V flag is on: the guest sees KVM's own leaves.", ""]
    others = [item for item in source.others if item]
    lines += wrapped("not about Hyper-V, left as it is: " + ",".join(others), "  ", "")
    lines += ["", "What the guest reads with CPUID" + (", corrected:" if problems else ":")]
    lines += ["  leaf     eax      ebx      ecx      edx"]
    return lines + [f"  {line}" for line in picture(source, chosen)]
