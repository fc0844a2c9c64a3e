"""Shows each vCPU its APIC id and the sockets, cores and threads of ``-smp`` in CPUID.

The APIC id is the vCPU's number, so that ACPI, KVM and Hyper-V's VP index all agree.
Sources: Intel SDM, CPUID leaves 1, 4, 0BH; AMD APM 3, appendix E; qemu cpu_x86_cpuid.
"""

from __future__ import annotations

from .config import Smp
from .errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import MutableMapping

    Table = MutableMapping[tuple[int, int], list[int]]  # (leaf, index) -> [eax, ebx, ecx, edx]

HTT = 1 << 28  # 1:EDX, more than one logical processor in the package
CMP_LEGACY = 1 << 1  # 80000001:ECX, the same for AMD
TOPOEXT = 1 << 22  # 80000001:ECX
AMD = 0x68747541  # 0:EBX, Auth[enticAMD]


def _width(count: int) -> int:
    return (count - 1).bit_length()


def check(smp: Smp) -> None:
    """Refuse a topology in which APIC ids would have gaps, as pyhv numbers them in a row."""
    package = smp.cores * smp.threads
    if (smp.cores > 1 or smp.sockets > 1) and smp.threads & (smp.threads - 1):
        raise ConfigError(f"-smp threads={smp.threads}: a power of two is needed")
    if smp.sockets > 1 and package & (package - 1):
        raise ConfigError(
            f"-smp sockets={smp.sockets},cores={smp.cores},threads={smp.threads}: with more than "
            "one socket, cores * threads must be a power of two"
        )


def apply(table: Table, index: int, smp: Smp) -> list[tuple[int, int]]:
    """Write topology and APIC id *index* into *table*.

    :return: the keys whose sub-leaf index counts (KVM_CPUID_FLAG_SIGNIFCANT_INDEX).
    """
    package = smp.cores * smp.threads
    one = table.setdefault((1, 0), [0, 0, 0, 0])
    count = min(package, 0xFF) if package > 1 else 0  # as in QEMU: valid only with HTT
    one[1] = index << 24 | count << 16 | one[1] & 0xFFFF
    one[3] = one[3] | HTT if package > 1 else one[3] & ~HTT
    _caches(table, smp)
    widths = _width(smp.threads), _width(package)
    levels = [
        [widths[0], smp.threads, 0x100, index],  # SMT
        [widths[1], package, 0x201, index],  # core
        [0, 0, 2, index],
    ]
    for key in [key for key in table if key[0] in (0xB, 0x1F)]:
        del table[key]
    if table.get((0, 0), [0])[0] >= 0xB:
        for number, registers in enumerate(levels):
            table[0xB, number] = registers
    _amd(table, index, smp)
    return [key for key in table if key[0] == 0xB]


def _caches(table: Table, smp: Smp) -> None:
    """Leaf 4: who shares a cache, and how many cores the package has."""
    package = smp.cores * smp.threads
    for (leaf, _), registers in table.items():
        if leaf == 4 and registers[0] & 0x1F:  # a cache, not the end
            level = registers[0] >> 5 & 7
            sharing = (1 << _width(package if level >= 3 else smp.threads)) - 1
            cores = (1 << _width(smp.cores)) - 1
            registers[0] = registers[0] & 0x3FFF | sharing << 14 | min(cores, 0x3F) << 26


def _amd(table: Table, index: int, smp: Smp) -> None:
    """Leaves 80000001, 80000008, 8000001D and 8000001E."""
    package = smp.cores * smp.threads
    extended = table.get((0x80000001, 0))
    if extended is not None and table.get((0, 0), [0, 0])[1] == AMD:
        extended[2] = extended[2] | (CMP_LEGACY if package > 1 else 0)
    if (0x80000008, 0) in table:
        size = _width(package) << 12 | min(package - 1, 0xFF) if package > 1 else 0
        table[0x80000008, 0][2] = size
    highest = table.get((0x80000000, 0), [0])[0]
    if extended is not None and extended[2] & TOPOEXT and highest >= 0x8000001E:
        core = index // smp.threads % smp.cores
        table[0x8000001E, 0] = [index, (smp.threads - 1) << 8 | core, 0, 0]
        for (leaf, _), registers in table.items():
            if leaf == 0x8000001D and registers[0] & 0x1F:
                level = registers[0] >> 5 & 7
                width = _width(package if level >= 3 else smp.threads)
                registers[0] = registers[0] & ~(0xFFF << 14) | ((1 << width) - 1) << 14
    else:
        for key in [key for key in table if key[0] in (0x8000001D, 0x8000001E)]:
            del table[key]
