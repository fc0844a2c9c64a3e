"""The ACPI tables: how the guest finds its CPUs, its power switch, COM1 and the VMBus.

One form for BIOS and direct boot: the ordinary one with a PM1 block, SCI_EN already
set and no SMI. Hardware-reduced ACPI makes Linux leave the 8259 as the firmware had
it, and a PIT tick then arrives as a double fault. Source: ACPI specification 6.4;
what Linux wants of the VMBUS device: drivers/hv/vmbus_drv.c, vmbus_walk_resources.
"""

from __future__ import annotations

import struct

from ..errors import ConfigError
from ..memory import HIGH, GuestMemory
from . import aml

TABLES_GPA = 0xE0000  # RSDP first; on a paragraph between 0xe0000 and 0xfffff guests search
TABLES_END = 0xF0000  # the BIOS

SCI_GSI = 9  # level, active high
PM_BASE = 0x600  # devices/pm.py, 14 ports
PM1_EVENT, PM1_CONTROL, PM_TIMER, GPE0 = PM_BASE, PM_BASE + 4, PM_BASE + 8, PM_BASE + 12
GENERATION_GPA = TABLES_GPA + 40  # 16 bytes behind the RSDP, on 8 as Microsoft's paper wants
GENERATION_GPE = "_E00"  # devices/pm.py, GPE_GENERATION: an edge of bit 0
S5_TYPE = 0  # SLP_TYP that powers off
RESET_PORT, RESET_VALUE = 0xCF9, 0x06  # devices/cf9.py
COM_PORTS = ((0x3F8, 4), (0x2F8, 3))  # and their ISA interrupts
RTC_PORT, RTC_IRQ, CENTURY = 0x70, 8, 0x32
IOAPIC_GPA, LAPIC_GPA = 0xFEC00000, 0xFEE00000
MMIO_GPA, MMIO_SIZE = 0xF8000000, 64 << 20  # VMBus devices' window below 4 GiB
HIGH_MMIO_SIZE = 1 << 30  # and above RAM; a CPU may have as few as 36 address bits

# FADT flags
WBINVD, PROC_C1, SLP_BUTTON, FIX_RTC, TMR_VAL_EXT, RESET_REG_SUP = (
    1 << bit for bit in (0, 2, 5, 6, 8, 10)
)
LEGACY_DEVICES, VGA_NOT_PRESENT = 1, 4  # IA-PC boot architecture; bit 1 clear: no i8042
ACTIVE_HIGH_LEVEL = 0x0D  # MPS INTI flags
ENABLED = 1


def _checksum(data: bytes | bytearray) -> int:
    return -sum(data) & 0xFF


def _table(signature: bytes, revision: int, body: bytes) -> bytes:
    """Return *body* behind the header that all tables but RSDP and FACS have."""
    header = struct.pack(
        "<4sIBB6s8sI4sI", signature, 36 + len(body), revision, 0, b"PYHV  ", b"PYHV    ", 1,
        b"PYHV", 1,
    )  # fmt: skip
    data = bytearray(header + body)
    data[9] = _checksum(data)
    return bytes(data)


def _rsdp(xsdt_gpa: int) -> bytes:
    data = bytearray(struct.pack("<8sB6sBIIQI", b"RSD PTR ", 0, b"PYHV  ", 2, 0, 36, xsdt_gpa, 0))
    data[8] = _checksum(data[:20])
    data[32] = _checksum(data)
    return bytes(data)


def _facs() -> bytes:
    """Return the FACS: the global lock lives there; there is no firmware to share it with."""
    return struct.pack("<4sII3IQB31x", b"FACS", 64, 0, 0, 0, 0, 0, 2)


def _io_address(port: int, size: int) -> bytes:
    """Return a Generic Address Structure for *size* bytes of I/O space."""
    return struct.pack("<BBBBQ", 1, size * 8, 0, 0, port)  # access size 0: as the width says


def _fadt(facs_gpa: int, dsdt_gpa: int) -> bytes:
    none = bytes(12)
    flags = WBINVD | PROC_C1 | SLP_BUTTON | FIX_RTC | TMR_VAL_EXT | RESET_REG_SUP
    body = struct.pack("<IIBBHI4x", facs_gpa, dsdt_gpa, 0, 0, SCI_GSI, 0)  # SMI_CMD 0: no SMI
    # PM1a/b event, PM1a/b control, PM2, timer, GPE0/1; then their lengths
    body += struct.pack("<8I", PM1_EVENT, 0, PM1_CONTROL, 0, 0, PM_TIMER, GPE0, 0)
    body += struct.pack("<6BBB", 4, 2, 0, 4, 2, 0, 0, 0)
    # C2 and C3 latencies beyond use, flush sizes, duty cycle, RTC alarm bytes
    body += struct.pack("<4HBBBBB", 0xFFF, 0xFFF, 0, 0, 0, 0, 0, 0, CENTURY)
    body += struct.pack("<HBI", LEGACY_DEVICES | VGA_NOT_PRESENT, 0, flags)
    body += _io_address(RESET_PORT, 1) + struct.pack("<BHB", RESET_VALUE, 0, 4)  # 6.4
    body += struct.pack("<QQ", 0, dsdt_gpa)  # X_FIRMWARE_CTRL is 0 where the 32-bit one is used
    body += _io_address(PM1_EVENT, 4) + none + _io_address(PM1_CONTROL, 2) + none + none
    body += _io_address(PM_TIMER, 4) + _io_address(GPE0, 2)
    body += none * 3  # GPE1, sleep control and status
    body += b"PYHV".ljust(8, b"\0")  # hypervisor vendor identity
    return _table(b"FACP", 6, body)


def _madt(vp_count: int) -> bytes:
    """Return the MADT; APIC id = vCPU index. Flag PCAT_COMPAT: there are two 8259s."""
    body = bytearray(struct.pack("<II", LAPIC_GPA, 1))
    for index in range(vp_count):
        if index < 255:
            body += struct.pack("<BBBBI", 0, 8, index, index, ENABLED)
        else:  # the 8-bit form has no more ids
            body += struct.pack("<BBHIII", 9, 16, 0, index, ENABLED, index)
    body += struct.pack("<BBBBII", 1, 12, 0, 0, IOAPIC_GPA, 0)
    # KVM's PIT raises GSI 0; the GSI routing puts that on IOAPIC pin 2, as on a PC
    body += struct.pack("<BBBBIH", 2, 10, 0, 0, 2, 0)
    body += struct.pack("<BBBBIH", 2, 10, 0, SCI_GSI, SCI_GSI, ACTIVE_HIGH_LEVEL)
    body += struct.pack("<BBBHB", 4, 6, 0xFF, 0, 1)  # NMI on LINT1 of every CPU
    if vp_count > 255:
        body += struct.pack("<BBHIB3x", 10, 12, 0, 0xFFFFFFFF, 1)
    return _table(b"APIC", 4, bytes(body))


def mmio_windows(memory: GuestMemory) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return (gpa, size) of the two windows that VMBus devices' memory may lie in."""
    high_mmio = (max(memory.top, HIGH) + HIGH_MMIO_SIZE - 1) & -HIGH_MMIO_SIZE
    return (MMIO_GPA, MMIO_SIZE), (high_mmio, HIGH_MMIO_SIZE)


def _dsdt(memory: GuestMemory, serial_ports: int) -> bytes:
    low, high = mmio_windows(memory)
    status = aml.name("_STA", aml.integer(0x0F))  # present, enabled, shown, working
    coms = [
        aml.device(
            f"COM{number}",
            aml.name("_HID", aml.eisa_id("PNP0501")),
            aml.name("_UID", aml.integer(number)),
            status,
            aml.name("_CRS", aml.resources(aml.io(port, 8), aml.irq(irq))),
        )
        for number, (port, irq) in enumerate(COM_PORTS[:serial_ports], 1)
    ]
    rtc = aml.device(
        "RTC",
        aml.name("_HID", aml.eisa_id("PNP0B00")),
        aml.name("_CRS", aml.resources(aml.io(RTC_PORT, 2), aml.irq(RTC_IRQ))),
    )
    # The window must be an Address descriptor of VMBS or an ancestor; Memory32Fixed is not seen.
    vmbus = aml.device(
        "VMBS",
        aml.name("_HID", aml.string("VMBUS")),
        aml.name("_UID", aml.integer(0)),
        status,
        aml.name("_CRS", aml.resources()),
    )
    module = aml.device(
        "VMOD",
        aml.name("_HID", aml.string("ACPI0004")),
        aml.name("_UID", aml.integer(0)),
        status,
        aml.name(
            "_CRS",
            aml.resources(aml.memory32(*low), aml.memory64(*high)),
        ),
        vmbus,
    )
    # "Virtual Machine Generation ID" (Microsoft, 2012); linux: drivers/virt/vmgenid.c
    generation = aml.device(
        "VGEN",
        aml.name("_HID", aml.string("PYHV0001")),
        aml.name("_CID", aml.string("VM_Gen_Counter")),
        aml.name("_DDN", aml.string("VM_Gen_Counter")),
        aml.name("ADDR", aml.package(aml.integer(GENERATION_GPA), aml.integer(0))),
    )
    events = aml.scope("\\_GPE", aml.method(GENERATION_GPE, aml.notify("\\_SB.VGEN", 0x80)))
    s5 = aml.package(*[aml.integer(S5_TYPE)] * 2, aml.integer(0), aml.integer(0))
    return _table(b"DSDT", 2, aml.scope("\\_SB", *coms, rtc, module, generation) + events
                  + aml.name("\\_S5", s5))  # fmt: skip


def tables(
    memory: GuestMemory, vp_count: int, gpa: int = TABLES_GPA, serial_ports: int = 1
) -> dict[int, bytes]:
    """Return {guest address: table} with the RSDP at *gpa*; nothing is written.

    :param vp_count: vCPUs, APIC ids 0..vp_count-1.
    :param serial_ports: COM1, or COM1 and COM2.
    :raises ConfigError: too many vCPUs for TABLES_END.
    """
    placed: dict[int, bytes] = {}
    at = gpa + 64

    def place(data: bytes) -> int:
        nonlocal at
        address = at
        placed[address] = data
        at = at + len(data) + 63 & -64  # the FACS must be on 64, the others like it
        return address

    facs_gpa, dsdt_gpa = place(_facs()), place(_dsdt(memory, serial_ports))
    listed = [place(_fadt(facs_gpa, dsdt_gpa)), place(_madt(vp_count))]
    placed[gpa] = _rsdp(place(_table(b"XSDT", 1, struct.pack(f"<{len(listed)}Q", *listed))))
    if at > TABLES_END:
        raise ConfigError(f"-smp {vp_count}: the ACPI tables do not fit; ask for fewer vCPUs")
    return placed


def build(
    memory: GuestMemory, vp_count: int, gpa: int = TABLES_GPA, generation: bytes = bytes(16),
    serial_ports: int = 1,
) -> int:  # fmt: skip
    """Write the tables to guest memory and return the RSDP's address; see :func:`tables`.

    :param generation: 16 bytes, the same until the guest's memory is that of an earlier time.
    """
    for address, data in tables(memory, vp_count, gpa, serial_ports).items():
        memory.write(address, data)
    memory.write(GENERATION_GPA, generation)
    return gpa


def regenerate(memory: GuestMemory, generation: bytes) -> bool:
    """Give the guest another generation id; False: our tables are not there any more."""
    if memory.read(TABLES_GPA, 8) != b"RSD PTR ":
        return False
    memory.write(GENERATION_GPA, generation)
    return True
