"""linux/kvm.h for x86-64: numbers and structs, in the header's words; no behaviour.

tests/baseline/kvm_abi.csv, made by tools/abi_baseline.py from the kernel's
header, is what every size and number here is compared with.
"""

from __future__ import annotations

import ctypes

from ..abi import abi, s32, u8, u16, u32, u64

KVM_API_VERSION = 12

# exit reasons
KVM_EXIT_UNKNOWN = 0
KVM_EXIT_IO = 2
KVM_EXIT_HYPERCALL = 3
KVM_EXIT_DEBUG = 4
KVM_EXIT_HLT = 5
KVM_EXIT_MMIO = 6
KVM_EXIT_IRQ_WINDOW_OPEN = 7
KVM_EXIT_SHUTDOWN = 8
KVM_EXIT_FAIL_ENTRY = 9
KVM_EXIT_INTR = 10
KVM_EXIT_INTERNAL_ERROR = 17
KVM_EXIT_SYSTEM_EVENT = 24
KVM_EXIT_HYPERV = 27
KVM_EXIT_X86_RDMSR = 29
KVM_EXIT_X86_WRMSR = 30
EXIT_NAMES = {
    value: name.removeprefix("KVM_EXIT_")
    for name, value in list(globals().items())
    if name.startswith("KVM_EXIT_")
}

KVM_EXIT_IO_OUT = 1
KVM_EXIT_HYPERV_SYNIC = 1
KVM_EXIT_HYPERV_HCALL = 2
KVM_EXIT_HYPERV_SYNDBG = 3
KVM_SYSTEM_EVENT_SHUTDOWN = 1
KVM_SYSTEM_EVENT_RESET = 2
KVM_SYSTEM_EVENT_CRASH = 3

# capabilities
KVM_CAP_IRQCHIP = 0
KVM_CAP_EXT_CPUID = 7
KVM_CAP_NR_VCPUS = 9
KVM_CAP_NR_MEMSLOTS = 10
KVM_CAP_COALESCED_MMIO = 15
KVM_CAP_IRQFD = 32
KVM_CAP_XSAVE2 = 208
KVM_CAP_SREGS2 = 200
KVM_CAP_NESTED_STATE = 157
KVM_CAP_IOEVENTFD = 36
KVM_CAP_ADJUST_CLOCK = 39
KVM_CAP_HYPERV = 44
KVM_CAP_SET_GUEST_DEBUG = 23
KVM_CAP_TSC_CONTROL = 60
KVM_CAP_MAX_VCPUS = 66
KVM_CAP_SYNC_REGS = 74
KVM_CAP_SIGNAL_MSI = 77
KVM_CAP_READONLY_MEM = 81
KVM_CAP_IRQFD_RESAMPLE = 82
KVM_CAP_HYPERV_SYNIC = 123
KVM_CAP_VCPU_ATTRIBUTES = 127
KVM_CAP_X2APIC_API = 129
KVM_CAP_IMMEDIATE_EXIT = 136
KVM_CAP_HYPERV_SYNIC2 = 148
KVM_CAP_HYPERV_VP_INDEX = 149
KVM_CAP_HYPERV_EVENTFD = 154
KVM_CAP_COALESCED_PIO = 162
KVM_CAP_HYPERV_ENLIGHTENED_VMCS = 163
KVM_CAP_HYPERV_CPUID = 167
KVM_CAP_X86_USER_SPACE_MSR = 188
KVM_CAP_X86_MSR_FILTER = 189
KVM_CAP_SYS_HYPERV_CPUID = 191
KVM_CAP_SET_GUEST_DEBUG2 = 195
KVM_CAP_HYPERV_ENFORCE_CPUID = 199

# flags
KVM_MEM_READONLY = 1 << 1
KVM_PIT_SPEAKER_DUMMY = 1
KVM_IRQFD_FLAG_DEASSIGN = 1
KVM_IRQFD_FLAG_RESAMPLE = 2
KVM_HYPERV_EVENTFD_DEASSIGN = 1
KVM_IRQ_ROUTING_IRQCHIP = 1
KVM_IRQ_ROUTING_MSI = 2
KVM_IRQ_ROUTING_HV_SINT = 4
KVM_MSR_EXIT_REASON_INVAL = 1
KVM_MSR_EXIT_REASON_UNKNOWN = 2
KVM_MSR_EXIT_REASON_FILTER = 4
KVM_MSR_FILTER_READ = 1
KVM_MSR_FILTER_WRITE = 2
KVM_MSR_FILTER_DEFAULT_ALLOW = 0
KVM_SYNC_X86_REGS = 1
KVM_SYNC_X86_SREGS = 2
KVM_SYNC_X86_EVENTS = 4
KVM_CPUID_FLAG_SIGNIFCANT_INDEX = 1
KVM_CLOCK_TSC_STABLE = 2
KVM_CLOCK_REALTIME = 4
KVM_CLOCK_HOST_TSC = 8
KVM_VCPU_TSC_CTRL = 0
KVM_VCPU_TSC_OFFSET = 0
KVM_MP_STATE_RUNNABLE = 0
KVM_MP_STATE_HALTED = 3
KVM_GUESTDBG_ENABLE = 1 << 0
KVM_GUESTDBG_SINGLESTEP = 1 << 1
KVM_GUESTDBG_USE_SW_BP = 1 << 16
KVM_GUESTDBG_USE_HW_BP = 1 << 17
KVM_GUESTDBG_INJECT_DB = 1 << 18
KVM_GUESTDBG_INJECT_BP = 1 << 19
KVM_GUESTDBG_BLOCKIRQ = 1 << 20
KVM_COALESCED_MMIO_PAGE_OFFSET = 2
KVM_PIO_PAGE_OFFSET = 1

MSR_KVM_PV_EOI_EN = 0x4B564D04


def _struct(name: str, size: int, *fields: tuple) -> type[ctypes.Structure]:
    return abi(size)(type(name, (ctypes.Structure,), {"_fields_": list(fields), "__slots__": ()}))


UserspaceMemoryRegion = _struct(
    "kvm_userspace_memory_region", 32,
    ("slot", u32), ("flags", u32), ("guest_phys_addr", u64), ("memory_size", u64),
    ("userspace_addr", u64),
)  # fmt: skip
Regs = _struct(
    "kvm_regs", 144,
    *((name, u64) for name in (
        "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp",
        "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip", "rflags",
    )),
)  # fmt: skip
Segment = _struct(
    "kvm_segment", 24,
    ("base", u64), ("limit", u32), ("selector", u16), ("type", u8), ("present", u8), ("dpl", u8),
    ("db", u8), ("s", u8), ("l", u8), ("g", u8), ("avl", u8), ("unusable", u8), ("padding", u8),
)  # fmt: skip
Dtable = _struct("kvm_dtable", 16, ("base", u64), ("limit", u16), ("padding", u16 * 3))
Sregs = _struct(
    "kvm_sregs", 312,
    *((name, Segment) for name in ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")),
    ("gdt", Dtable), ("idt", Dtable),
    *((name, u64) for name in ("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base")),
    ("interrupt_bitmap", u64 * 4),
)  # fmt: skip
VcpuEvents = _struct(
    "kvm_vcpu_events", 64,
    ("exception_injected", u8), ("exception_nr", u8), ("exception_has_error_code", u8),
    ("exception_pending", u8), ("exception_error_code", u32),
    ("interrupt_injected", u8), ("interrupt_nr", u8), ("interrupt_soft", u8),
    ("interrupt_shadow", u8),
    ("nmi_injected", u8), ("nmi_pending", u8), ("nmi_masked", u8), ("nmi_pad", u8),
    ("sipi_vector", u32), ("flags", u32), ("smi", u8 * 4), ("triple_fault_pending", u8),
    ("reserved", u8 * 26), ("exception_has_payload", u8), ("exception_payload", u64),
)  # fmt: skip
Fpu = _struct(
    "kvm_fpu", 416,
    ("fpr", u8 * 128), ("fcw", u16), ("fsw", u16), ("ftwx", u8), ("pad1", u8), ("last_opcode", u16),
    ("last_ip", u64), ("last_dp", u64), ("xmm", u8 * 256), ("mxcsr", u32), ("pad2", u32),
)  # fmt: skip
LapicState = _struct("kvm_lapic_state", 1024, ("regs", u8 * 1024))
#: the next seven go out of KVM and in again as they are; nobody looks into them
Sregs2 = _struct(
    "kvm_sregs2", 320, *Sregs._fields_[:-1], ("flags", u64), ("pdptrs", u64 * 4)
)  # fmt: skip
Xsave = _struct("kvm_xsave", 4096, ("region", u32 * 1024))
Xcrs = _struct(
    "kvm_xcrs", 392, ("nr_xcrs", u32), ("flags", u32), ("xcrs", u8 * 256), ("padding", u64 * 16)
)
DebugRegs = _struct("kvm_debugregs", 128, ("db", u64 * 4), ("dr6", u64), ("dr7", u64),
                    ("flags", u64), ("reserved", u64 * 9))  # fmt: skip
IrqChip = _struct("kvm_irqchip", 520, ("chip_id", u32), ("pad", u32), ("chip", u8 * 512))
PitState2 = _struct(
    "kvm_pit_state2", 112, ("channels", u8 * 72), ("flags", u32), ("reserved", u32 * 9)
)
NestedState = _struct("kvm_nested_state", 128, ("flags", u16), ("format", u16), ("size", u32),
                      ("hdr", u8 * 120))  # fmt: skip
PitConfig = _struct("kvm_pit_config", 64, ("flags", u32), ("pad", u32 * 15))
IrqLevel = _struct("kvm_irq_level", 8, ("irq", u32), ("level", u32))
Msi = _struct(
    "kvm_msi", 32,
    ("address_lo", u32), ("address_hi", u32), ("data", u32), ("flags", u32), ("devid", u32),
    ("pad", u8 * 12),
)  # fmt: skip
Irqfd = _struct(
    "kvm_irqfd", 32,
    ("fd", u32), ("gsi", u32), ("flags", u32), ("resamplefd", u32), ("pad", u8 * 16),
)  # fmt: skip
IrqRoutingEntry = _struct(
    "kvm_irq_routing_entry", 48,
    ("gsi", u32), ("type", u32), ("flags", u32), ("pad", u32), ("u", u32 * 8),
)  # fmt: skip
EnableCap = _struct(
    "kvm_enable_cap", 104, ("cap", u32), ("flags", u32), ("args", u64 * 4), ("pad", u8 * 64)
)
MsrFilterRange = _struct(
    "kvm_msr_filter_range", 24,
    ("flags", u32), ("nmsrs", u32), ("base", u32), ("bitmap", ctypes.c_void_p),
)  # fmt: skip
MsrFilter = _struct("kvm_msr_filter", 392, ("flags", u32), ("ranges", MsrFilterRange * 16))
ClockData = _struct(
    "kvm_clock_data", 48,
    ("clock", u64), ("flags", u32), ("pad0", u32), ("realtime", u64), ("host_tsc", u64),
    ("pad", u32 * 4),
)  # fmt: skip
HypervEventfd = _struct(
    "kvm_hyperv_eventfd", 24, ("conn_id", u32), ("fd", s32), ("flags", u32), ("padding", u32 * 3)
)
CoalescedMmioZone = _struct(
    "kvm_coalesced_mmio_zone", 16, ("addr", u64), ("size", u32), ("pio", u32)
)
DeviceAttr = _struct(
    "kvm_device_attr", 24, ("flags", u32), ("group", u32), ("attr", u64), ("addr", u64)
)
CpuidEntry2 = _struct(
    "kvm_cpuid_entry2", 40,
    ("function", u32), ("index", u32), ("flags", u32), ("eax", u32), ("ebx", u32), ("ecx", u32),
    ("edx", u32), ("padding", u32 * 3),
)  # fmt: skip
MsrEntry = _struct("kvm_msr_entry", 16, ("index", u32), ("reserved", u32), ("data", u64))
GuestDebug = _struct(
    "kvm_guest_debug", 72, ("control", u32), ("pad", u32), ("debugreg", u64 * 8)
)
MpState = _struct("kvm_mp_state", 4, ("mp_state", u32))

#: Offsets into kvm_run, in bytes; the run loop reads them through memoryview casts.
RUN_REQUEST_INTERRUPT_WINDOW = 0
RUN_IMMEDIATE_EXIT = 1
RUN_EXIT_REASON = 8
RUN_APIC_BASE = 24
RUN_UNION = 32  # io, mmio, msr, hyperv, internal, system_event all start here
RUN_KVM_VALID_REGS = 288
RUN_KVM_DIRTY_REGS = 296
RUN_SYNC_REGS = 304
RUN_SYNC_SREGS = RUN_SYNC_REGS + 144
