"""What five numbers in HV_X64_MSR_CRASH_P0-P4 mean: a Windows stop code, or a Linux panic.

Sources: Microsoft, Bug Check Code Reference; linux arch/x86/hyperv/hv_init.c,
hyperv_report_panic, and drivers/hv/hv_common.c (the guest id, the message form).
"""

from __future__ import annotations

#: the common ones; others are shown by number
BUGCHECKS = {
    0x0A: "IRQL_NOT_LESS_OR_EQUAL",
    0x19: "BAD_POOL_HEADER",
    0x1A: "MEMORY_MANAGEMENT",
    0x1E: "KMODE_EXCEPTION_NOT_HANDLED",
    0x24: "NTFS_FILE_SYSTEM",
    0x3B: "SYSTEM_SERVICE_EXCEPTION",
    0x3D: "INTERRUPT_EXCEPTION_NOT_HANDLED",
    0x50: "PAGE_FAULT_IN_NONPAGED_AREA",
    0x51: "REGISTRY_ERROR",
    0x5C: "HAL_INITIALIZATION_FAILED",
    0x5D: "UNSUPPORTED_PROCESSOR",
    0x67: "CONFIG_INITIALIZATION_FAILED",
    0x6B: "PROCESS1_INITIALIZATION_FAILED",
    0x74: "BAD_SYSTEM_CONFIG_INFO",
    0x77: "KERNEL_STACK_INPAGE_ERROR",
    0x79: "MISMATCHED_HAL",
    0x7A: "KERNEL_DATA_INPAGE_ERROR",
    0x7B: "INACCESSIBLE_BOOT_DEVICE",
    0x7E: "SYSTEM_THREAD_EXCEPTION_NOT_HANDLED",
    0x7F: "UNEXPECTED_KERNEL_MODE_TRAP",
    0x9C: "MACHINE_CHECK_EXCEPTION",
    0x9F: "DRIVER_POWER_STATE_FAILURE",
    0xA5: "ACPI_BIOS_ERROR",
    0xBE: "ATTEMPTED_WRITE_TO_READONLY_MEMORY",
    0xC2: "BAD_POOL_CALLER",
    0xC4: "DRIVER_VERIFIER_DETECTED_VIOLATION",
    0xC5: "DRIVER_CORRUPTED_EXPOOL",
    0xD1: "DRIVER_IRQL_NOT_LESS_OR_EQUAL",
    0xE2: "MANUALLY_INITIATED_CRASH",
    0xEF: "CRITICAL_PROCESS_DIED",
    0xF4: "CRITICAL_OBJECT_TERMINATION",
    0xF7: "DRIVER_OVERRAN_STACK_BUFFER",
    0xFC: "ATTEMPTED_EXECUTE_OF_NOEXECUTE_MEMORY",
    0x101: "CLOCK_WATCHDOG_TIMEOUT",
    0x109: "CRITICAL_STRUCTURE_CORRUPTION",
    0x10D: "WDF_VIOLATION",
    0x124: "WHEA_UNCORRECTABLE_ERROR",
    0x133: "DPC_WATCHDOG_VIOLATION",
    0x139: "KERNEL_SECURITY_CHECK_FAILURE",
    0x154: "UNEXPECTED_STORE_EXCEPTION",
    0x1CA: "SYNTHETIC_WATCHDOG_TIMEOUT",
    0x20001: "HYPERVISOR_ERROR",
}
LINUX_VENDOR = 0x8100  # bits 63:48 of Linux' HV_X64_MSR_GUEST_OS_ID
CRASH_NOTIFY_MSG = 1 << 62  # HV_X64_MSR_CRASH_CTL: P3 and P4 are a message's gpa and length


def crash_lines(parameters: tuple[int, ...], control: int) -> list[str]:
    """Return what the crash registers say, first the headline, then one line each.

    :param parameters: HV_X64_MSR_CRASH_P0 to P4, from the guest: any number.
    :param control: what it wrote to HV_X64_MSR_CRASH_CTL.
    """
    p0, p1, p2, p3, p4 = (*parameters, 0, 0, 0, 0, 0)[:5]
    if control & CRASH_NOTIFY_MSG and p4:
        return ["the guest left a message", f"{p4} bytes at gpa {p3:#x}"]
    if p1 >> 48 == LINUX_VENDOR:
        version = p1 >> 16
        release = f"{version >> 16 & 0xFF}.{version >> 8 & 0xFF}.{version & 0xFF}"
        lines = [f"Linux {release} panicked", f"error {_signed(p0)}", f"rsp {p4:#x}"]
        # Later kernels keep P2 for themselves and have the instruction pointer in P3.
        if p2 >> 47 == 0x1FFFF:
            return [*lines[:2], f"rip {p2:#x}", f"rax {p3:#x}", lines[2]]
        return [*lines[:2], f"rip {p3:#x}", lines[2]]
    if p0 in BUGCHECKS or 0 < p0 < 1 << 32:
        name = BUGCHECKS.get(p0, "a stop code that pyhv has no name for")
        return [
            f"Windows stop code {p0:#x} {name}"
            if p0 in BUGCHECKS
            else f"stop code {p0:#x}, {name}",
            *(f"parameter {i} {value:#x}" for i, value in enumerate((p1, p2, p3, p4), 1)),
        ]
    return [
        "in a form that pyhv does not know",
        *(f"P{i} {v:#x}" for i, v in enumerate((p0, p1, p2, p3, p4))),
    ]


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value
