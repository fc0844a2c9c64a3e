"""Turns what KVM can show of the host's CPU into the CPU that ``-cpu`` asks for.

Topology and the hypervisor leaves 0x400000xx are not done here (machine, hyperv/cpuid.py).
Sources: qemu target/i386/cpu.c (models, x86_cpu_filter_features), target/i386/kvm/kvm-cpu.c.
"""

from __future__ import annotations

from collections.abc import MutableMapping

from .cpu_features import EAX, EBX, ECX, EDX, WORDS, Place, places
from .cpu_options import CpuSpec
from .errors import ConfigError

Table = MutableMapping[tuple[int, int], list[int]]  # (leaf, index) -> [eax, ebx, ecx, edx]

#: KVM adds these for any guest with an in-kernel APIC, whatever the host's CPU has
EMULATED = frozenset({"hypervisor", "x2apic", "tsc-deadline", "arat"})

#: qemu64 under KVM: QEMU switches svm off, x2apic and the first KVM features on
QEMU64 = (
    "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 "
    "pni cx16 x2apic hypervisor syscall nx lm lahf-lm "
    "kvmclock kvm-nopiodelay kvm-asyncpf kvm-steal-time kvm-pv-eoi kvmclock-stable-bit"
)
QEMU64_SIGNATURE = (15, 107, 1)  # family, model, stepping
QEMU64_LEVELS = (0xD, 0x8000000A)
QEMU64_NAME = "QEMU Virtual CPU version 2.5+"
QEMU64_PHYS_BITS = 40
AMD_ALIASES = 0x0183F3FF  # bits of 1:EDX that an AMD CPU repeats in 80000001:EDX


def signature(family: int, model: int, stepping: int) -> int:
    """Return CPUID.1:EAX. Families 15 to 270 use the extended field; models to 255."""
    if not (family <= 0x10E and model <= 0xFF and stepping <= 0xF):
        raise ConfigError(
            f"family={family},model={model},stepping={stepping}: at most 270, 255 and 15"
        )
    base = min(family, 0xF)
    return (family - base) << 20 | (model >> 4) << 16 | base << 8 | (model & 0xF) << 4 | stepping


def _split(eax: int) -> tuple[int, int, int]:
    """Return family, model, stepping of a CPUID.1:EAX."""
    family = (eax >> 8 & 0xF) + (eax >> 20 & 0xFF if eax >> 8 & 0xF == 0xF else 0)
    return family, eax >> 12 & 0xF0 | eax >> 4 & 0xF, eax & 0xF


def _named(place: Place) -> str:
    """Return how QEMU names a place: ``CPUID[eax=07h,ecx=00h].EBX``."""
    index = f",ecx={place.subleaf:02X}h" if place.leaf in (7, 0xD) else ""
    register = ("EAX", "EBX", "ECX", "EDX")[place.register]
    return f"CPUID[eax={place.leaf:02X}h{index}].{register}"


def _put_text(table: Table, leaf: int, order: tuple[int, ...], text: str) -> None:
    registers = table.setdefault((leaf, 0), [0, 0, 0, 0])
    raw = text.encode("utf-8", "replace").ljust(4 * len(order), b"\0")
    for at, register in enumerate(order):
        registers[register] = int.from_bytes(raw[4 * at : 4 * at + 4], "little")


def _model_id(table: Table, text: str) -> None:
    text = text.encode("ascii", "replace")[:48].ljust(48, b"\0").decode()
    for number in range(3):
        part = text[16 * number : 16 * number + 16]
        _put_text(table, 0x80000002 + number, (EAX, EBX, ECX, EDX), part)


def _reduce_to_qemu64(table: Table) -> None:
    """Leave of the host's CPU what qemu64 has."""
    allowed: dict[tuple[int, int, int], int] = {}
    for name in QEMU64.split():
        for place in places(name):
            key = place[:3]
            allowed[key] = allowed.get(key, 0) | place.mask
    for leaf, index, register in WORDS:
        if (leaf, index) in table and leaf != 6:  # ARAT stays, as in QEMU
            table[leaf, index][register] &= allowed.get((leaf, index, register), 0)
    # what hangs on features that are gone: sub-leaves of 7 and XSAVE, monitor, thermal, debug
    for leaf, index in list(table):
        if leaf in (5, 7, 0xD, 0xA, 0x80000007) or (0xD < leaf < 0x40000000 and leaf != 0x1F):
            if leaf in (7, 0xD, 0x80000007) and index == 0:
                table[leaf, index] = [0, 0, 0, 0]
            elif leaf != 0xB:
                del table[leaf, index]
        elif leaf > QEMU64_LEVELS[1]:
            del table[leaf, index]
    table.setdefault((0, 0), [0, 0, 0, 0])[EAX] = QEMU64_LEVELS[0]
    extended = table.setdefault((0x80000000, 0), [0, 0, 0, 0])
    extended[EAX] = min(extended[EAX] or QEMU64_LEVELS[1], QEMU64_LEVELS[1])
    one = table.setdefault((1, 0), [0, 0, 0, 0])
    one[EAX] = signature(*QEMU64_SIGNATURE)
    if table[0, 0][EBX] == 0x68747541:  # Auth[enticAMD]
        more = table.setdefault((0x80000001, 0), [0, 0, 0, 0])
        more[EDX] |= one[EDX] & AMD_ALIASES
    _model_id(table, QEMU64_NAME)
    if (0x80000008, 0) in table:
        bits = min(QEMU64_PHYS_BITS, table[0x80000008, 0][EAX] & 0xFF)
        table[0x80000008, 0] = [48 << 8 | bits, 0, 0, 0]


def apply(spec: CpuSpec, table: Table) -> list[str]:
    """Change *table*, which KVM_GET_SUPPORTED_CPUID gave, to the CPU of *spec*.

    :return: warnings, one per feature that was asked for and that the host lacks.
    :raises ConfigError: the same under ``enforce``, or a value that cannot be.
    """
    supported = {key: list(registers) for key, registers in table.items()}
    on = {name for name in EMULATED if spec.model != "qemu64"}
    off = set()
    if spec.model == "qemu64":
        _reduce_to_qemu64(table)
        on = {"hypervisor", "x2apic"}
    if spec.properties.get("migratable", True):
        off.add("invtsc")  # a guest that relies on it cannot move to another host
    off.add("topoext")  # only when asked for: its leaves describe the host's own cores
    for name, value in spec.features.items():
        (on if value else off).add(name)
        (off if value else on).discard(name)
    lacks: list[str] = []
    for name in sorted(on):
        for place in places(name):
            have = supported.get(place[:2], [0, 0, 0, 0])[place.register] & place.mask
            if have or name in EMULATED:
                table.setdefault(place[:2], [0, 0, 0, 0])[place.register] |= place.mask
            elif name in spec.features:
                bit = place.mask.bit_length() - 1
                lacks.append(
                    f"host doesn't support requested feature: {_named(place)}.{name} [bit {bit}]"
                )
    if lacks and spec.properties.get("enforce"):
        raise ConfigError("; ".join(lacks) + "; leave out the features, or enforce")
    for name in off:
        for place in places(name):
            if place[:2] in table:
                table[place[:2]][place.register] &= ~place.mask
    _trim_xsave(table)
    _identity(spec, table)
    return lacks if spec.properties.get("check", True) else []


#: XSAVE components (bits of 0xD.0:EAX) that go with a feature
XSTATES = {"avx": 1 << 2, "mpx": 3 << 3, "avx512f": 7 << 5, "pku": 1 << 9, "amx-tile": 3 << 17}


def _trim_xsave(table: Table) -> None:
    """Take away the XSAVE components of features that are off; without XSAVE, leaf 0xD."""
    if not _has(table, "xsave"):
        for key in [key for key in table if key[0] == 0xD]:
            table[key] = [0, 0, 0, 0]
        return
    for name, mask in XSTATES.items():
        if (0xD, 0) in table and not _has(table, name):
            table[0xD, 0][EAX] &= ~mask
            for bit in range(2, 32):
                if mask >> bit & 1:
                    table.pop((0xD, bit), None)


def _has(table: Table, name: str) -> bool:
    place = places(name)[0]
    return bool(table.get(place[:2], [0, 0, 0, 0])[place.register] & place.mask)


def _identity(spec: CpuSpec, table: Table) -> None:
    """Apply vendor, model-id, family, model, stepping and phys-bits."""
    given = spec.properties
    if "vendor" in given:
        vendor = str(given["vendor"])
        for leaf in (0, 0x80000000):
            _put_text(table, leaf, (EBX, EDX, ECX), vendor)
    if "model-id" in given:
        _model_id(table, str(given["model-id"]))
    if given.keys() & {"family", "model", "stepping"}:
        one = table.setdefault((1, 0), [0, 0, 0, 0])
        family, model, stepping = _split(one[EAX])
        one[EAX] = signature(
            int(given.get("family", family)),
            int(given.get("model", model)),
            int(given.get("stepping", stepping)),
        )
    if "phys-bits" in given:
        bits = int(given["phys-bits"])
        if not 32 <= bits <= 52:
            raise ConfigError(f"phys-bits={bits}: 32 to 52")
        eight = table.setdefault((0x80000008, 0), [48 << 8, 0, 0, 0])
        eight[EAX] = eight[EAX] & ~0xFF | bits
