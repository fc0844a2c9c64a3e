"""``pyhv cpuid``: decodes CPUID dumps by name, finds the flags behind them, compares two."""

from __future__ import annotations

import json

from .. import cpu_features
from ..errors import ConfigError
from ..hyperv import features as f
from ..hyperv.flags import (
    FLAGS,
    LEAF_FEATURES,
    LEAF_HINTS,
    LEAF_NESTED,
    MICROSOFT_HV,
    ROWS,
    SPINLOCKS_NEVER,
    Bits,
)
from . import commands
from .arguments import help_text, parse, read_input
from .dumps import REGISTERS, Dump
from .dumps import parse as parse_dump
from .names import BITS, LEAVES
from .text import BOLD, GREEN, RED, coloured, printable, wrapped

KVM = "KVMKVMKVM"
#: what QEMU shows whenever Hyper-V is on
ALWAYS = {
    (LEAF_FEATURES, "eax"): f.ACCESS_HYPERCALL_MSRS,
    (LEAF_FEATURES, "edx"): f.CPU_DYNAMIC_PARTITIONING_AVAILABLE,
}
FIELDS = {  # flag -> leaf, register, shift, mask
    "hv-version-id-build": (0x40000002, "eax", 0, 0xFFFFFFFF),
    "hv-version-id-major": (0x40000002, "ebx", 16, 0xFFFF),
    "hv-version-id-minor": (0x40000002, "ebx", 0, 0xFFFF),
    "hv-version-id-spack": (0x40000002, "ecx", 0, 0xFFFFFFFF),
    "hv-version-id-sbranch": (0x40000002, "edx", 24, 0xFF),
    "hv-version-id-snumber": (0x40000002, "edx", 0, 0xFFFFFF),
    "x-hv-max-vps": (0x40000005, "eax", 0, 0xFFFFFFFF),
    "hv-spinlocks": (LEAF_HINTS, "ebx", 0, 0xFFFFFFFF),
}


def value_of(dump: Dump, leaf: int, register: str) -> int | None:
    """Return a register of a leaf's first subleaf; None if the dump does not have it."""
    return dump.get((leaf, 0), {}).get(register)


def signature(dump: Dump, leaf: int) -> str:
    """Return the 12 characters in EBX, ECX, EDX of *leaf*."""
    words = [value_of(dump, leaf, register) or 0 for register in REGISTERS[1:]]
    raw = b"".join(word.to_bytes(4, "little") for word in words)
    return printable(raw.rstrip(b"\0").decode("latin-1"))


def kvm_leaves(dump: Dump) -> set[int]:
    """Return the leaves that are KVM's features: behind its signature."""
    return {leaf + 1 for leaf, _ in dump if leaf >> 28 == 4 and signature(dump, leaf) == KVM}


def is_hyperv(dump: Dump) -> bool:
    """Tell whether the dump shows an interface Hv#1, or is of a form that has no leaf 1."""
    interface = value_of(dump, 0x40000001, "eax")
    return interface == 0x31237648 or (interface is None and (LEAF_FEATURES, 0) in dump)


def _has(dump: Dump, bits: Bits) -> bool:
    return not bits.mask & ~(value_of(dump, bits.leaf, bits.register) or 0)


def _unknown(dump: Dump, bits: Bits) -> bool:
    """Tell whether the dump is a part of one (a boot message, QMP) and leaves the register out."""
    return (0x40000000, 0) not in dump and value_of(dump, bits.leaf, bits.register) is None


def flags_of(dump: Dump) -> tuple[list[str], dict[tuple[int, str], int]]:
    """Return the items of -cpu that give these leaves, and the bits that no flag explains."""
    rest = {
        (leaf, register): value & ~ALWAYS.get((leaf, register), 0)
        for leaf in (LEAF_FEATURES, LEAF_HINTS, LEAF_NESTED)
        for register, value in dump.get((leaf, 0), {}).items()
        if (leaf, register) != (LEAF_HINTS, "ebx")
    }
    if not is_hyperv(dump):
        return [], {}
    items = ["kvm=off"] if (0x40000000, 0) in dump and not kvm_leaves(dump) else []
    avic = _has(dump, FLAGS["hv-avic"].bits[0])
    synic = value_of(dump, LEAF_FEATURES, "ebx")
    kvm_only = _has(dump, FLAGS["hv-synic"].bits[0]) and synic is not None and not synic & 0x30
    gone = {"hv-avic": avic, "x-hv-synic-kvm-only": kvm_only}
    for row in ROWS:
        wanted = [
            bits for bits in row.bits if not gone.get(bits.unless) and not _unknown(dump, bits)
        ]
        if wanted and all(_has(dump, bits) for bits in wanted):
            items.append(row.name)
            for bits in wanted:
                key = bits.leaf, bits.register
                rest[key] = rest.get(key, 0) & ~bits.mask
    if kvm_only:
        items.append("x-hv-synic-kvm-only")
    vendor = signature(dump, 0x40000000)
    if (0x40000000, 0) in dump and vendor != MICROSOFT_HV:
        items.append(f"hv-vendor-id={vendor}")
    for name, (leaf, register, shift, mask) in FIELDS.items():
        value = value_of(dump, leaf, register)
        if value is not None and value >> shift & mask != int(FLAGS[name].default) & mask:
            items.append(f"{name}={value >> shift & mask:#x}")
    return items, {key: value for key, value in rest.items() if value}


def owner(leaf: int, register: str, bit: int) -> str:
    """Return the flags that set the bit, ``hv-tlbflush, hv-ipi``."""
    return ", ".join(
        row.name
        for row in ROWS
        if any((b.leaf, b.register) == (leaf, register) and b.mask >> bit & 1 for b in row.bits)
    )


def bit_names(dump: Dump, leaf: int, sub: int, register: str) -> dict[int, str]:
    """Return bit -> name for a register, as far as they are known."""
    if leaf in kvm_leaves(dump):
        words = cpu_features.WORDS.get((0x40000001, 0, REGISTERS.index(register)), "")
        return {bit: name for bit, name in enumerate(words.split()) if name != "-"}
    if leaf >> 28 == 4:
        return BITS.get((leaf, register), {}) if is_hyperv(dump) and not sub else {}
    words = cpu_features.WORDS.get((leaf, sub, REGISTERS.index(register)), "")
    return {bit: name for bit, name in enumerate(words.split()) if name != "-"}


def fields(dump: Dump, leaf: int) -> list[str]:
    """Return what is no bit in a leaf of the hypervisor, in words."""
    eax, ebx, ecx, edx = (value_of(dump, leaf, register) for register in REGISTERS)
    if leaf in (0x40000000, 0x40000080, 0x40000100) and ebx is not None:
        return [f"vendor '{signature(dump, leaf)}', highest leaf {eax or 0:08x}"]
    if not is_hyperv(dump):
        return []
    if leaf in (0x40000001, 0x40000081) and eax is not None:
        return [f"interface '{printable(eax.to_bytes(4, 'little').decode('latin-1'))}'"]
    if leaf == 0x40000002 and None not in (eax, ebx, ecx, edx):
        return [f"version {ebx >> 16}.{ebx & 0xFFFF}.{eax}, service pack {ecx}, "
                f"branch {edx >> 24}, number {edx & 0xFFFFFF}"]  # fmt: skip
    if leaf == LEAF_HINTS and ebx is not None:
        tries = "never tells" if ebx == SPINLOCKS_NEVER else f"tells after {ebx} tries"
        lines = [f"spinlocks: the guest {tries}"]
        return lines + ([f"physical address bits: {ecx & 0x7F}"] if ecx else [])
    if leaf == 0x40000005 and eax is not None:
        most = "no limit" if eax == 0xFFFFFFFF else eax
        return [f"virtual processors: {most}; logical processors: {ebx or 0}"]
    if leaf == LEAF_NESTED and eax and eax & 0xFFFF:
        return [f"enlightened VMCS versions {eax & 0xFF} to {eax >> 8 & 0xFF}"]
    return []


def set_bits(dump: Dump, leaf: int, sub: int) -> list[tuple[str, int, str]]:
    """Return (register, bit, name) for the bits that are set in a leaf that has bits."""
    found = []
    for register in REGISTERS:
        value, names = dump[leaf, sub].get(register, 0), bit_names(dump, leaf, sub, register)
        if leaf == LEAF_NESTED and register == "eax":
            value &= ~0xFFFF
        found += [
            (register, bit, names.get(bit, f"bit {bit}"))
            for bit in range(32)
            if names and value >> bit & 1
        ]
    return found


def shown_leaves(dump: Dump, every: bool) -> list[tuple[int, int]]:
    """Return the leaves to show: the hypervisor's up to its highest and not zero, or all."""
    highest = value_of(dump, 0x40000000, "eax") or 0
    return [
        key
        for key in sorted(dump)
        if every or (key[0] >> 28 == 4 and (any(dump[key].values()) or key[0] <= highest))
    ]


def decode(name: str, dump: Dump, every: bool) -> list[str]:
    """Return the dump in words."""
    lines = [coloured(f"{name}:", BOLD)]
    kvm = kvm_leaves(dump)
    for leaf, sub in shown_leaves(dump, every):
        words = " ".join(
            f"{dump[leaf, sub][r]:08x}" if r in dump[leaf, sub] else "--------" for r in REGISTERS
        )
        title = "KVM features" if leaf in kvm else LEAVES.get(leaf, "") if leaf >> 28 == 4 else ""
        index = f".{sub:x}" if sub else ""
        lines.append(f"{leaf:08x}{index} {words}  {title}".rstrip())
        lines += [f"  {text}" for text in fields(dump, leaf)]
        for register, bit, text in set_bits(dump, leaf, sub):
            by = owner(leaf, register, bit) if leaf >> 28 == 4 and leaf not in kvm else ""
            lines.append(f"  {register.upper()}[{bit}] {text}" + (f"  ({by})" if by else ""))
    items, rest = flags_of(dump)
    if is_hyperv(dump):
        lines.append("as flags:" if items else "as flags: none, but the interface is on")
        lines += [f"  {','.join(items)}"] if items else []
        for (leaf, register), value in rest.items():
            names = BITS.get((leaf, register), {})
            bits = [names.get(b, f"bit {b}") for b in range(32) if value >> b & 1]
            lines += wrapped(f"no flag sets {leaf:08x}.{register.upper()} " + ", ".join(bits))
    elif not kvm:
        lines.append("no Hyper-V interface in it")
    return lines


def differences(old: Dump, new: Dump, every: bool) -> list[tuple[str, str]]:
    """Return ("+" or "-", text) for what *new* has and *old* has not, and the other way."""
    found: list[tuple[str, str]] = []
    keys = set(shown_leaves(old, every)) | set(shown_leaves(new, every))
    for leaf, sub in sorted(keys):
        empty: dict[str, int] = {}
        for sign, here, there in (("-", old, new), ("+", new, old)):
            other = there if (leaf, sub) in there else {**there, (leaf, sub): empty}
            mine = here if (leaf, sub) in here else {**here, (leaf, sub): empty}
            theirs = set(set_bits(other, leaf, sub))
            for register, bit, text in set_bits(mine, leaf, sub):
                if (register, bit, text) not in theirs:
                    by = owner(leaf, register, bit) if is_hyperv(here) else ""
                    place = f"{leaf:08x}.{register.upper()}[{bit}]"
                    found.append((sign, f"{place} {text}" + (f"  ({by})" if by else "")))
            gone = [text for text in fields(mine, leaf) if text not in fields(other, leaf)]
            found += [(sign, f"{leaf:08x} {text}") for text in gone]
    return found


def main(arguments: list[str]) -> tuple[str, int]:
    """Return what to print, and the status: 1 where two dumps differ."""
    command = commands.CPUID
    parsed = parse(command, arguments)
    if "h" in parsed:
        return help_text(command), 0
    leaf = _number(parsed.values["leaf"], "--leaf", 16) if "leaf" in parsed else None
    cpu = _number(parsed.values.get("on", "0"), "--on", 10)
    dumps: list[tuple[str, Dump]] = []
    for word in parsed.words or ["-"]:
        name = "standard input" if word == "-" else word
        dumps += parse_dump(read_input(word), name, cpu=cpu, leaf=leaf)
    if "cpu" in parsed:
        dumps.append(_of_flags(parsed.values["cpu"]))
    if len(dumps) > 2:
        raise ConfigError(f"{len(dumps)} dumps: one is decoded, two are compared")
    every = "all" in parsed
    if "json" in parsed:
        return json.dumps([_as_json(name, dump) for name, dump in dumps], indent=1), 0
    if len(dumps) == 1:
        return "\n".join(decode(*dumps[0], every)), 0
    changed = differences(dumps[0][1], dumps[1][1], every)
    lines = [f"--- {dumps[0][0]}", f"+++ {dumps[1][0]}"]
    lines += [coloured(f"{sign} {text}", GREEN if sign == "+" else RED) for sign, text in changed]
    return "\n".join(lines if changed else ["the same"]), int(bool(changed))


def _number(text: str, name: str, base: int) -> int:
    try:
        value = int(text, base)
    except ValueError:
        value = -1
    if not 0 <= value < 1 << 32:
        raise ConfigError(f"{name} {printable(text, 40)}: a number of 32 bits is needed")
    return value


def _of_flags(cpu: str) -> tuple[str, Dump]:
    from .explain import leaves as show
    from .explain import resolve
    from .source import of_cpu

    source = of_cpu("-cpu", cpu, [])
    chosen, problems, good = resolve(source)
    if problems:
        raise ConfigError("; ".join(problems) + f"; use -cpu {good}")
    rows = show(chosen, (0x01007EFB, 0) if source.kvm else None)
    return f"-cpu {cpu}", {(r[0], r[1]): dict(zip(REGISTERS, r[2:], strict=True)) for r in rows}


def _as_json(name: str, dump: Dump) -> dict[str, object]:
    items, rest = flags_of(dump)
    return {
        "name": name, "hyperv": is_hyperv(dump), "flags": items,
        "unexplained": {f"{leaf:08x}.{reg}": value for (leaf, reg), value in rest.items()},
        "leaves": {
            f"{leaf:08x}.{sub}": {
                **dump[leaf, sub],
                "bits": [f"{reg}[{bit}] {text}" for reg, bit, text in set_bits(dump, leaf, sub)],
                "fields": fields(dump, leaf),
            }
            for leaf, sub in sorted(dump)
        },
    }  # fmt: skip
