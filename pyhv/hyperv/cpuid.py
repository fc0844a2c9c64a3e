"""Leaves 0x40000000 and up for chosen flags, as QEMU 10 shows them, and the privileges in them.

Source: qemu target/i386/kvm/kvm.c, hyperv_fill_cpuids and kvm_x86_build_cpuid.
"""

from __future__ import annotations

from . import features as f
from .choose import REGISTERS, Chosen
from .flags import FLAGS, LEAF_FEATURES, LEAF_HINTS, LEAF_NESTED, SPINLOCKS_NEVER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .privileges import Features

Row = tuple[int, int, int, int, int, int]  # leaf, index, eax, ebx, ecx, edx

HYPERV_BASE = 0x40000000
KVM_BASE_BESIDE_HYPERV = 0x40000100  # with Hyper-V shown; alone KVM sits at 0x40000000
KVM_SIGNATURE = (0x4B4D564B, 0x564B4D56, 0x0000004D)  # KVMKVMKVM\0\0\0
INTERFACE = 0x31237648  # Hv#1
LOGICAL_PROCESSORS = 64  # 0x40000005.EBX, constant in QEMU
DEBUG_VENDOR = (0x7263694D, 0x666F736F, 0x53562074)  # Microsoft VS
DEBUG_INTERFACE = 0x31235356  # VS#1
APIC_BUS_KHZ = 1_000_000
HYPERVISOR_PRESENT = 1 << 31  # CPUID.1:ECX, set by QEMU unless -hypervisor


def _words(text: str) -> tuple[int, int, int]:
    """Return ebx, ecx, edx of a 12-byte name, zero-padded, cut behind."""
    raw = text.encode("utf-8", "replace")[:12].ljust(12, b"\0")
    ebx, ecx, edx = (int.from_bytes(raw[at : at + 4], "little") for at in (0, 4, 8))
    return ebx, ecx, edx


def _bits(chosen: Chosen) -> dict[tuple[int, str], int]:
    """Return the OR of all bits of the flags that are on, by (leaf, register)."""
    # QEMU always shows the hypercall MSRs, and CPU hot-add, which Windows needs for it
    found = {
        (LEAF_FEATURES, "eax"): f.ACCESS_HYPERCALL_MSRS,
        (LEAF_FEATURES, "edx"): f.CPU_DYNAMIC_PARTITIONING_AVAILABLE,
    }
    names = set(chosen.on)
    hint = FLAGS["hv-no-nonarch-coresharing"]
    value = chosen.values[hint.name]
    known = chosen.host.get(LEAF_HINTS, (0, 0, 0, 0))[0] & hint.bits[0].mask
    if value == "on" or (value == "auto" and known):
        names.add(hint.name)
    for name in names:
        for bits in FLAGS[name].bits:
            if not (bits.unless and chosen.values[bits.unless]):
                key = bits.leaf, bits.register
                found[key] = found.get(key, 0) | bits.mask
    return found


def hv_leaves(chosen: Chosen) -> list[Row]:
    """Return leaves 0x40000000 and up, in QEMU's order; none if no flag switches Hyper-V on."""
    if not chosen.enabled:
        return []
    values, host = chosen.values, chosen.host
    bits = _bits(chosen)
    leaf = {
        number: tuple(bits.get((number, register), 0) for register in REGISTERS)
        for number in (LEAF_FEATURES, LEAF_HINTS, LEAF_NESTED)
    }
    spinlocks = int(values["hv-spinlocks"])
    vendor = _words(str(values["hv-vendor-id"]))
    interface: tuple[int, ...] = (INTERFACE, 0, 0, 0)
    version: tuple[int, ...] = (
        int(values["hv-version-id-build"]),
        int(values["hv-version-id-major"]) << 16 | int(values["hv-version-id-minor"]),
        int(values["hv-version-id-spack"]),
        int(values["hv-version-id-sbranch"]) << 24
        | int(values["hv-version-id-snumber"]) & 0xFFFFFF,
    )
    limits: tuple[int, ...] = (int(values["x-hv-max-vps"]) & 0xFFFFFFFF, LOGICAL_PROCESSORS, 0, 0)
    if values["hv-passthrough"]:
        vendor = host[HYPERV_BASE][1:]
        interface, version = host[HYPERV_BASE + 1], host[HYPERV_BASE + 2]
        limits, spinlocks = host[HYPERV_BASE + 5], host[LEAF_HINTS][1]
    nested = leaf[LEAF_NESTED][0]
    debug = "hv-syndbg" in chosen.on
    top = 0x40000082 if debug else LEAF_NESTED if nested else 0x40000005
    rows = [
        (HYPERV_BASE, (top, *vendor)),
        (HYPERV_BASE + 1, interface),
        (HYPERV_BASE + 2, version),
        (LEAF_FEATURES, leaf[LEAF_FEATURES]),
        (LEAF_HINTS, (leaf[LEAF_HINTS][0], spinlocks, 0, 0)),
        (HYPERV_BASE + 5, limits),
    ]
    if nested:
        rows += [(number, (0, 0, 0, 0)) for number in range(0x40000006, LEAF_NESTED)]
        rows.append((LEAF_NESTED, (nested, 0, 0, 0)))  # KVM's EBX[0] is not forwarded
    if debug:
        rows += [
            (0x40000080, (0, *DEBUG_VENDOR)),
            (0x40000081, (DEBUG_INTERFACE, 0, 0, 0)),
            (0x40000082, (2, 0, 0, 0)),  # kernel debugging allowed
        ]
    return [(number, 0, *registers) for number, registers in rows]  # type: ignore[misc]


def leaves(chosen: Chosen, kvm: tuple[int, int] | None, tsc_khz: int = 0) -> list[Row]:
    """Return all hypervisor leaves of a guest, rows (leaf, index, eax, ebx, ecx, edx).

    :param kvm: EAX (features) and EDX (hints) of KVM's own 0x40000001, None for ``kvm=off``. KVM's
        leaves sit at 0x40000000, or at 0x40000100 when Hyper-V is on, where Linux prefers them.
    :param tsc_khz: tsc-frequency=, for VMware's leaf 0x40000010; only beside KVM's at 0x40000000.

    CPUID.1:ECX[31] is not among them: it is a CPU feature, ``hypervisor``.
    """
    rows = hv_leaves(chosen)
    if kvm:
        base = KVM_BASE_BESIDE_HYPERV if rows else HYPERV_BASE
        timing = tsc_khz if base == HYPERV_BASE else 0
        rows.append((base, 0, base + (0x10 if timing else 1), *KVM_SIGNATURE))
        rows.append((base + 1, 0, kvm[0], 0, 0, kvm[1]))
        if timing:
            rows.append((base + 0x10, 0, timing, APIC_BUS_KHZ, 0, 0))
    return rows


def features(chosen: Chosen) -> Features:
    """Return what the leaves grant, as the gate of MSRs and hypercalls has it."""
    from .privileges import Features

    shown = {row[0]: row[2:] for row in hv_leaves(chosen)}
    three, four = shown.get(LEAF_FEATURES, (0,) * 4), shown.get(LEAF_HINTS, (0,) * 4)
    return Features(
        leaf3_eax=three[0],
        leaf3_ebx=three[1],
        leaf3_edx=three[3],
        leaf4_eax=four[0],
        leaf4_ebx=four[1] if shown else SPINLOCKS_NEVER,
        leafa_eax=shown.get(LEAF_NESTED, (0,) * 4)[0],
        syndbg="hv-syndbg" in chosen.on,
        synic="hv-synic" in chosen.on,
        kvm_synic=bool("hv-synic" in chosen.on and chosen.values["x-hv-synic-kvm-only"]),
        enforce=bool(chosen.values["hv-enforce-cpuid"]),
        enabled=chosen.enabled,
    )
