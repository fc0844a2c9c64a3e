"""Turns what KVM can show of the host's CPU into the CPU that ``-cpu`` asks for.

Topology and the hypervisor leaves 0x400000xx are not done here (machine, hyperv/cpuid.py).
Sources: qemu target/i386/cpu.c (models, x86_cpu_filter_features), target/i386/kvm/kvm-cpu.c.
"""

from __future__ import annotations

from .cpu_features import EAX, EBX, ECX, EDX, Place, places
from .cpu_options import CpuSpec
from .errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from .cpu_named import Model

    Table = MutableMapping[tuple[int, int], list[int]]  # (leaf, index) -> [eax, ebx, ecx, edx]

#: what KVM or we give any guest, whatever the host's CPU has
EMULATED = frozenset({"hypervisor", "x2apic", "tsc-deadline", "arat"})
#: the same for a guest with AMD's vendor: the machine-check bits of QEMU's, and the topology leaf
EMULATED_AMD = frozenset({"overflow-recov", "succor", "topoext"})
HOST_MODELS = ("host", "max")

AMD_ALIASES = 0x0183F3FF  # bits of 1:EDX that an AMD CPU repeats in 80000001:EDX
AMD = 0x68747541  # 0:EBX, Auth[enticAMD]
MWAIT_EXTENSIONS = 3  # 5:ECX, which QEMU shows also without MONITOR
SVM_ASIDS = 16  # 8000000A:EBX, QEMU's constant
PHYS_BITS = 40  # of every model but the host's, as in QEMU
CPUINFO = "/proc/cpuinfo"


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
    """Return how QEMU names a place: ``CPUID.07H:EBX``."""
    register = ("EAX", "EBX", "ECX", "EDX")[place.register]
    return f"CPUID.{place.leaf:02X}H:{register}"


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


def host_model_id() -> str:
    """Return the brand string of this computer's CPU; KVM does not hand it over."""
    try:
        with open(CPUINFO, "rb") as file:
            text = file.read(2048).decode("ascii", "replace")
    except OSError:
        return ""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return ""


def _brand(table: Table) -> list[list[int]]:
    return [table.get((0x80000002 + number, 0), [0, 0, 0, 0]) for number in range(3)]


def _become(model: Model, table: Table, supported: Table) -> None:
    """Make of the host's CPU an empty *model*: identity and caches, no feature yet."""
    table.clear()
    vendor = supported.get((0, 0), [0, 0, 0, 0])
    eax = signature(model.family, model.model, model.stepping)
    table[0, 0] = [model.level, *vendor[1:]]
    table[1, 0] = [eax, supported.get((1, 0), [0, 0x800, 0, 0])[1] & 0xFFFF, 0, 0]
    for (leaf, index), registers in supported.items():
        if leaf in (0xB, 0xD) or (leaf, index) in ((0x40000000, 0),):
            table[leaf, index] = list(registers)
    if (0xD, 1) in table:
        table[0xD, 1][EAX] = 0
    if model.xlevel:
        table[0x80000000, 0] = [model.xlevel, *vendor[1:]]
        table[0x80000001, 0] = [eax, 0, 0, 0]
        _model_id(table, model.text)
    if "lm" in model.features:
        bits = min(PHYS_BITS, supported.get((0x80000008, 0), [PHYS_BITS])[0] & 0xFF)
        table[0x80000008, 0] = [48 << 8 | bits, 0, 0, 0]
    else:
        table[0x80000008, 0] = [36 if {"pse36", "pae"} & model.features else 32, 0, 0, 0]


def _is_amd(table: Table) -> bool:
    return table.get((0, 0), [0, 0])[1] == AMD


def _finish(spec: CpuSpec, table: Table, model: Model | None, vendor: int) -> None:
    """Put in what hangs on features and vendor, and cut off what is above the highest leaf."""
    one = table.setdefault((1, 0), [0, 0, 0, 0])
    more = table.get((0x80000001, 0))
    if more is not None and _is_amd(table):
        more[EDX] |= one[EDX] & AMD_ALIASES
    elif more is not None and vendor == AMD:  # an AMD host, shown as another's
        more[EDX] &= ~AMD_ALIASES
    if model is not None or vendor != table.get((0, 0), [0, 0])[1]:
        from .cpu_named import catalogue

        kind = "a" if _is_amd(table) else "i"
        caches = catalogue().caches[model.caches if model else "legacy", kind]
        extended = _has(table, "topoext")
        for (leaf, index), registers in caches.items():
            if leaf != 0x8000001D or (extended and model is not None):
                table[leaf, index] = list(registers)
    table[5, 0] = [0, 0, MWAIT_EXTENSIONS, 0]
    if _has(table, "svm"):
        table.setdefault((0x8000000A, 0), [1, 0, 0, 0])[EAX:ECX] = [1, SVM_ASIDS]
    else:
        table.pop((0x8000000A, 0), None)
    if model is not None and any(table.get((7, 1), ()) or table.get((7, 2), ())):
        table.setdefault((7, 0), [0, 0, 0, 0])[EAX] = 2 if any(table.get((7, 2), ())) else 1
    _levels(spec, table, model)


def _levels(spec: CpuSpec, table: Table, model: Model | None) -> None:
    """Set the highest leaves, raised for what the user switched on, and drop what is above."""
    for base, name in ((0, "level"), (0x80000000, "xlevel")):
        first = table.get((base, 0))
        if first is None:
            continue
        for feature, on in spec.features.items():
            for place in places(feature) if on else ():
                if place.leaf & 0xC0000000 == base and any(table.get(place[:2], ())):
                    first[EAX] = max(first[EAX], place.leaf)
        first[EAX] = int(spec.properties.get(name, first[EAX]))
        for key in [key for key in table if base <= key[0] < base + 0x40000000]:
            if key[0] > first[EAX]:
                del table[key]
    if model is not None:
        # so that KVM shows zeros and no other leaf's words
        for leaf in (7, 0xD, 0x80000007):
            if leaf <= table.get((leaf & 0x80000000, 0), [0])[EAX]:
                table.setdefault((leaf, 0), [0, 0, 0, 0])
    if (0x80000000, 0) not in table:
        for key in [key for key in table if key[0] >= 0x80000000]:
            del table[key]


def apply(spec: CpuSpec, table: Table) -> list[str]:
    """Change *table*, which KVM_GET_SUPPORTED_CPUID gave, to the CPU of *spec*.

    :return: warnings, one per feature that was asked for and that the host lacks.
    :raises ConfigError: the same under ``enforce``, or a value that cannot be.
    """
    supported = {key: list(registers) for key, registers in table.items()}
    vendor = table.get((0, 0), [0, 0])[1]
    off: set[str] = set()
    model: Model | None = None
    if spec.model in HOST_MODELS:
        on = set(EMULATED)
        if not any(map(any, _brand(table))):
            _model_id(table, host_model_id())
        if spec.properties.get("migratable", True):
            off.add("invtsc")  # a guest that relies on it cannot move to another host
        off.add("topoext")  # only when asked for: its leaves describe the host's own cores
    else:
        from .cpu_named import catalogue

        model = catalogue().find(spec.model)
        assert model is not None  # parse_cpu knows them
        _become(model, table, supported)
        on = set(model.features)
    _identity(spec, table)
    emulated = EMULATED
    if _is_amd(table):
        emulated |= EMULATED_AMD
        if model is None:
            on |= EMULATED_AMD - {"topoext"}
    for name, value in spec.features.items():
        (on if value else off).add(name)
        (off if value else on).discard(name)
    lacks: list[str] = []
    for name in sorted(on):
        for place in places(name):
            have = supported.get(place[:2], [0, 0, 0, 0])[place.register] & place.mask
            if have or name in emulated:
                table.setdefault(place[:2], [0, 0, 0, 0])[place.register] |= place.mask
            elif name in spec.features or model is not None:
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
    _finish(spec, table, model, vendor)
    return lacks if spec.properties.get("check", True) else []


XSAVE_LEGACY = 576  # bytes: FXSAVE's area and the XSAVE header
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
    if (0xD, 0) in table:  # EBX follows XCR0; KVM keeps it while the guest runs
        parts = [
            row[EBX] + row[EAX]
            for (leaf, bit), row in table.items()
            if leaf == 0xD and bit > 1 and table[0xD, 0][EAX] >> bit & 1
        ]
        table[0xD, 0][ECX] = max([XSAVE_LEGACY, *parts])


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
    elif not given.get("host-phys-bits", True) and (0x80000008, 0) in table:
        table[0x80000008, 0][EAX] &= 0xFF00
        table[0x80000008, 0][EAX] |= PHYS_BITS
    if not given.get("pmu", True) and (0xA, 0) in table:
        table[0xA, 0] = [0, 0, 0, 0]
