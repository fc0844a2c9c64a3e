"""The ioctls that pyhv uses, each with the errnos that deserve a sentence."""

from __future__ import annotations

import errno

from . import uapi
from .ioctl import Ioctl

# on /dev/kvm
GET_API_VERSION = Ioctl("KVM_GET_API_VERSION", 0x00)
CREATE_VM = Ioctl("KVM_CREATE_VM", 0x01, hints={errno.ENOMEM: "the host is out of memory"})
GET_MSR_INDEX_LIST = Ioctl("KVM_GET_MSR_INDEX_LIST", 0x02, 4, "rw")
CHECK_EXTENSION = Ioctl("KVM_CHECK_EXTENSION", 0x03)
GET_VCPU_MMAP_SIZE = Ioctl("KVM_GET_VCPU_MMAP_SIZE", 0x04)
GET_SUPPORTED_CPUID = Ioctl("KVM_GET_SUPPORTED_CPUID", 0x05, 8, "rw")
GET_SUPPORTED_HV_CPUID = Ioctl("KVM_GET_SUPPORTED_HV_CPUID", 0xC1, 8, "rw")

# on a VM
CREATE_VCPU = Ioctl(
    "KVM_CREATE_VCPU",
    0x41,
    hints={
        errno.EEXIST: "the VM has this vCPU already",
        errno.EINVAL: "more vCPUs than this KVM allows",
    },
)
SET_USER_MEMORY_REGION = Ioctl(
    "KVM_SET_USER_MEMORY_REGION",
    0x46,
    uapi.UserspaceMemoryRegion,
    "w",
    {errno.EINVAL: "more memory than this KVM gives a guest"},
)
SET_TSS_ADDR = Ioctl("KVM_SET_TSS_ADDR", 0x47)
SET_IDENTITY_MAP_ADDR = Ioctl("KVM_SET_IDENTITY_MAP_ADDR", 0x48, 8, "w")
CREATE_IRQCHIP = Ioctl("KVM_CREATE_IRQCHIP", 0x60)
GET_IRQCHIP = Ioctl("KVM_GET_IRQCHIP", 0x62, uapi.IrqChip, "rw")
SET_IRQCHIP = Ioctl("KVM_SET_IRQCHIP", 0x63, uapi.IrqChip, "r")  # sic: the header says _IOR
IRQ_LINE = Ioctl("KVM_IRQ_LINE", 0x61, uapi.IrqLevel, "w")
REGISTER_COALESCED_MMIO = Ioctl("KVM_REGISTER_COALESCED_MMIO", 0x67, uapi.CoalescedMmioZone, "w")
UNREGISTER_COALESCED_MMIO = Ioctl(
    "KVM_UNREGISTER_COALESCED_MMIO", 0x68, uapi.CoalescedMmioZone, "w"
)
SET_GSI_ROUTING = Ioctl("KVM_SET_GSI_ROUTING", 0x6A, 8, "w")
IRQFD = Ioctl("KVM_IRQFD", 0x76, uapi.Irqfd, "w")
CREATE_PIT2 = Ioctl("KVM_CREATE_PIT2", 0x77, uapi.PitConfig, "w")
SET_CLOCK = Ioctl("KVM_SET_CLOCK", 0x7B, uapi.ClockData, "w")
GET_CLOCK = Ioctl("KVM_GET_CLOCK", 0x7C, uapi.ClockData, "r")
GET_PIT2 = Ioctl("KVM_GET_PIT2", 0x9F, uapi.PitState2, "r")
SET_PIT2 = Ioctl("KVM_SET_PIT2", 0xA0, uapi.PitState2, "w")
ENABLE_CAP = Ioctl("KVM_ENABLE_CAP", 0xA3, uapi.EnableCap, "w")
SIGNAL_MSI = Ioctl("KVM_SIGNAL_MSI", 0xA5, uapi.Msi, "w")
HYPERV_EVENTFD = Ioctl("KVM_HYPERV_EVENTFD", 0xBD, uapi.HypervEventfd, "w")
X86_SET_MSR_FILTER = Ioctl("KVM_X86_SET_MSR_FILTER", 0xC6, uapi.MsrFilter, "w")

# on a vCPU
GET_REGS = Ioctl("KVM_GET_REGS", 0x81, uapi.Regs, "r")
SET_REGS = Ioctl("KVM_SET_REGS", 0x82, uapi.Regs, "w")
GET_SREGS = Ioctl("KVM_GET_SREGS", 0x83, uapi.Sregs, "r")
SET_SREGS = Ioctl(
    "KVM_SET_SREGS",
    0x84,
    uapi.Sregs,
    "w",
    {errno.EINVAL: "segment or control registers that no CPU has"},
)
GET_MSRS = Ioctl("KVM_GET_MSRS", 0x88, 8, "rw")
SET_MSRS = Ioctl("KVM_SET_MSRS", 0x89, 8, "w")
GET_FPU = Ioctl("KVM_GET_FPU", 0x8C, uapi.Fpu, "r")
GET_LAPIC = Ioctl("KVM_GET_LAPIC", 0x8E, uapi.LapicState, "r")
SET_LAPIC = Ioctl("KVM_SET_LAPIC", 0x8F, uapi.LapicState, "w")
SET_CPUID2 = Ioctl("KVM_SET_CPUID2", 0x90, 8, "w")
GET_MP_STATE = Ioctl("KVM_GET_MP_STATE", 0x98, uapi.MpState, "r")
SET_MP_STATE = Ioctl("KVM_SET_MP_STATE", 0x99, uapi.MpState, "w")
SET_GUEST_DEBUG = Ioctl("KVM_SET_GUEST_DEBUG", 0x9B, uapi.GuestDebug, "w")
GET_VCPU_EVENTS = Ioctl("KVM_GET_VCPU_EVENTS", 0x9F, uapi.VcpuEvents, "r")
SET_VCPU_EVENTS = Ioctl("KVM_SET_VCPU_EVENTS", 0xA0, uapi.VcpuEvents, "w")
GET_DEBUGREGS = Ioctl("KVM_GET_DEBUGREGS", 0xA1, uapi.DebugRegs, "r")
SET_DEBUGREGS = Ioctl("KVM_SET_DEBUGREGS", 0xA2, uapi.DebugRegs, "w")
GET_XSAVE = Ioctl("KVM_GET_XSAVE", 0xA4, uapi.Xsave, "r")
SET_XSAVE = Ioctl("KVM_SET_XSAVE", 0xA5, uapi.Xsave, "w")
GET_XSAVE2 = Ioctl("KVM_GET_XSAVE2", 0xCF, uapi.Xsave, "r")  # KVM_CAP_XSAVE2 tells its length
GET_XCRS = Ioctl("KVM_GET_XCRS", 0xA6, uapi.Xcrs, "r")
SET_XCRS = Ioctl("KVM_SET_XCRS", 0xA7, uapi.Xcrs, "w")
GET_SREGS2 = Ioctl("KVM_GET_SREGS2", 0xCC, uapi.Sregs2, "r")
SET_SREGS2 = Ioctl("KVM_SET_SREGS2", 0xCD, uapi.Sregs2, "w")
GET_NESTED_STATE = Ioctl("KVM_GET_NESTED_STATE", 0xBE, uapi.NestedState, "rw")
SET_NESTED_STATE = Ioctl("KVM_SET_NESTED_STATE", 0xBF, uapi.NestedState, "w")
SET_TSC_KHZ = Ioctl("KVM_SET_TSC_KHZ", 0xA2)
GET_TSC_KHZ = Ioctl("KVM_GET_TSC_KHZ", 0xA3)
KVMCLOCK_CTRL = Ioctl("KVM_KVMCLOCK_CTRL", 0xAD)
SET_DEVICE_ATTR = Ioctl("KVM_SET_DEVICE_ATTR", 0xE1, uapi.DeviceAttr, "w")
GET_DEVICE_ATTR = Ioctl("KVM_GET_DEVICE_ATTR", 0xE2, uapi.DeviceAttr, "w")
