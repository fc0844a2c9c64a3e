"""What KVM keeps of a VM and its vCPUs, as bytes: out by one ioctl, in again by its partner.

A row per pair, in the order in which they go in: the APIC needs its base (sregs), the MSRs of its
timer need the APIC, an I/O APIC that has something to deliver needs all APICs. Nobody looks into
the bytes, but for the list of MSRs.
"""

from __future__ import annotations

import ctypes

from ..errors import HostError, KvmError
from ..record import Record
from . import requests, uapi
from .ioctl import array

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .ioctl import Ioctl
    from .system import Kvm
    from .vcpu import Vcpu
    from .vm import Vm

MSR_IA32_TSC = 0x10
#: KVM_GET_MSR_INDEX_LIST leaves them out: MTRRdefType, variable and fixed MTRRs
MTRRS = (0x2FF, *range(0x200, 0x210), 0x250, 0x258, 0x259, *range(0x268, 0x270))
SYNTHETIC = range(0x40000000, 0x40002000)  # Hyper-V's; theirs who serves Hyper-V
LIST, BATCH = 1024, 128  # MSRs that a list has at most, that one ioctl takes
BUFFER = 1 << 16
IRQCHIPS = range(3)  # master PIC, slave PIC, I/O APIC


class Part(Record):
    """A pair of ioctls. ``size``: bytes, or 0: ask *capability*; ``other``: without it."""

    name: str
    get: Ioctl
    set: Ioctl
    size: int
    capability: int = 0
    other: tuple[Ioctl, Ioctl, int] | None = None


#: of a vCPU
VCPU = (
    Part("sregs", requests.GET_SREGS2, requests.SET_SREGS2, 320, uapi.KVM_CAP_SREGS2,
         (requests.GET_SREGS, requests.SET_SREGS, 312)),
    Part("regs", requests.GET_REGS, requests.SET_REGS, 144),
    Part("xsave", requests.GET_XSAVE2, requests.SET_XSAVE, 0, uapi.KVM_CAP_XSAVE2,
         (requests.GET_XSAVE, requests.SET_XSAVE, 4096)),
    Part("xcrs", requests.GET_XCRS, requests.SET_XCRS, 392),
    Part("debugregs", requests.GET_DEBUGREGS, requests.SET_DEBUGREGS, 128),
    Part("lapic", requests.GET_LAPIC, requests.SET_LAPIC, 1024),
    Part("events", requests.GET_VCPU_EVENTS, requests.SET_VCPU_EVENTS, 64),
    Part("mp_state", requests.GET_MP_STATE, requests.SET_MP_STATE, 4),
)  # fmt: skip
#: The first GET_MP_STATE lets a waiting INIT or SIPI happen, the first GET_VCPU_EVENTS puts a
#: pending exception's CR2 and DR6 in their place (linux: kvm_arch_vcpu_ioctl_get_mpstate,
#: kvm_vcpu_ioctl_x86_get_vcpu_events): before what they change is looked at.
ORDER_OUT = ("mp_state", "events", "sregs", "regs", "xsave", "xcrs", "debugregs", "lapic")


def _pair(kvm: Kvm, part: Part) -> tuple[Ioctl, Ioctl, int]:
    there = kvm.check(part.capability) if part.capability else part.size
    if not there and part.other is not None:
        return part.other
    return part.get, part.set, part.size or there


def save_vcpu(vcpu: Vcpu, synthetic: tuple[int, ...] | None) -> dict[str, object]:
    """Return the state of a vCPU outside the guest, but for its TSC.

    :param synthetic: Hyper-V MSRs to save as well, in the order in which they go in; None: KVM
        does not serve them.
    """
    kvm, parts = vcpu.vm.kvm, {part.name: part for part in VCPU}
    state: dict[str, object] = {}
    for name in ORDER_OUT:
        get, _, size = _pair(kvm, parts[name])
        buffer = array(ctypes.c_uint8, max(size, 4096))()
        get(vcpu.fd, buffer, f"vcpu {vcpu.index}")
        state[name] = bytes(buffer[:size])
    numbers = [n for n in (*kvm_msrs(kvm), *MTRRS) if n != MSR_IA32_TSC]
    hidden = SYNTHETIC if synthetic is None else synthetic
    numbers = [n for n in numbers if n not in hidden]
    state["msrs"] = _read_msrs(vcpu, [*numbers, *(synthetic or ())])
    state["nested"] = _nested(vcpu)
    return state


def load_vcpu(vcpu: Vcpu, state: dict[str, object]) -> None:
    """Give a new vCPU, which has its CPUID and TSC, what :func:`save_vcpu` returned.

    :raises KvmError: KVM refuses a part. HostError: it refuses an MSR that has another value.
    """
    kvm = vcpu.vm.kvm
    for part in VCPU:
        _, put, size = _pair(kvm, part)
        data = state[part.name]
        if len(data) != size:  # type: ignore[arg-type]
            raise HostError(f"{part.name} of {len(data)} bytes: this KVM has {size}")  # type: ignore[arg-type]
        put(vcpu.fd, _buffer(data, max(size, 4096)), f"vcpu {vcpu.index}")  # type: ignore[arg-type]
        if part.name == "sregs" and state["nested"]:
            put = requests.SET_NESTED_STATE
            put(vcpu.fd, _buffer(state["nested"], len(state["nested"])))  # type: ignore[arg-type]
        if part.name == "lapic":
            _write_msrs(vcpu, state["msrs"])  # type: ignore[arg-type]


def _buffer(data: bytes, size: int) -> ctypes.Array:
    return array(ctypes.c_uint8, size).from_buffer_copy(data.ljust(size, b"\0"))


def _nested(vcpu: Vcpu) -> bytes:
    """Return the VMX or SVM state; empty where this KVM has none."""
    size = vcpu.vm.kvm.check(uapi.KVM_CAP_NESTED_STATE)
    if not size:
        return b""
    buffer = array(ctypes.c_uint8, size)()
    head = uapi.NestedState.from_buffer(buffer)
    head.size = size
    requests.GET_NESTED_STATE(vcpu.fd, buffer)
    return bytes(buffer[: head.size])


def kvm_msrs(kvm: Kvm) -> list[int]:
    """Return the numbers of the MSRs that this KVM saves (KVM_GET_MSR_INDEX_LIST)."""
    words = array(ctypes.c_uint32, LIST + 1)(LIST)
    requests.GET_MSR_INDEX_LIST(kvm.fd, words)
    return list(words[1 : 1 + words[0]])


def _read_msrs(vcpu: Vcpu, numbers: list[int]) -> list[list[int]]:
    """Return [number, value] of those that can be read: KVM stops at one that cannot."""
    found: list[list[int]] = []
    while numbers:
        batch = numbers[:BATCH]
        words = array(ctypes.c_uint64, 1 + 2 * BATCH)(len(batch))
        for i, number in enumerate(batch):
            words[1 + 2 * i] = number
        done = requests.GET_MSRS(vcpu.fd, words)
        found += [[batch[i], words[2 + 2 * i]] for i in range(done)]
        numbers = numbers[done + (done < len(batch)) :]
    return found


def _write_msrs(vcpu: Vcpu, rows: list[list[int]]) -> None:
    while rows:
        batch = rows[:BATCH]
        words = array(ctypes.c_uint64, 1 + 2 * BATCH)(len(batch))
        for i, (number, value) in enumerate(batch):
            words[1 + 2 * i], words[2 + 2 * i] = number, value
        done = requests.SET_MSRS(vcpu.fd, words)
        if done < len(batch):  # some can be written once, or never: no matter if it is right
            number, value = batch[done]
            now = vcpu.get_msr(number)
            if now != value:
                raise HostError(
                    f"vcpu {vcpu.index}: KVM refuses MSR {number:#x} = {value:#x}, it has {now:#x}"
                )
        rows = rows[done + (done < len(batch)) :]


def save_vm(vm: Vm) -> dict[str, object]:
    """Return the interrupt chips and the PIT."""
    chips = []
    for number in IRQCHIPS:
        chip = uapi.IrqChip(number)
        requests.GET_IRQCHIP(vm.fd, chip)
        chips.append(bytes(chip))
    pit = uapi.PitState2()
    requests.GET_PIT2(vm.fd, pit)
    return {"irqchips": chips, "pit": bytes(pit)}


def load_vm(vm: Vm, state: dict[str, object]) -> None:
    """Undo :func:`save_vm`, after the vCPUs. The PIT begins its periods anew."""
    for data in state["irqchips"]:  # type: ignore[attr-defined]
        requests.SET_IRQCHIP(vm.fd, uapi.IrqChip.from_buffer_copy(data))
    requests.SET_PIT2(vm.fd, uapi.PitState2.from_buffer_copy(state["pit"]))  # type: ignore[arg-type]


def save_tsc(vcpus: list[Vcpu]) -> dict[str, object]:
    """Return the TSC of vCPU 0 now, kHz, and how far the others are from it."""
    offsets = [vcpu.tsc_offset() for vcpu in vcpus]
    tsc = vcpus[0].get_msr(MSR_IA32_TSC) or 0
    away = [offset - offsets[0] & (1 << 64) - 1 for offset in offsets]
    return {"tsc": tsc, "khz": vcpus[0].tsc_khz(), "away": away}


def load_tsc(vcpus: list[Vcpu], state: dict[str, object]) -> None:
    """Let the TSCs go on from where they were; before a vCPU runs.

    Where KVM cannot set it (some emulations) the TSC stays the host's: a jump, but forwards.

    :raises HostError: another frequency than this KVM can give, or it would go backwards.
    """
    tsc, khz = state["tsc"], state["khz"]
    for vcpu in vcpus:
        if vcpu.tsc_khz() != khz:
            vcpu.set_tsc_khz(khz)  # type: ignore[arg-type]
    first = vcpus[0].tsc_offset() + tsc - (vcpus[0].get_msr(MSR_IA32_TSC) or 0)  # type: ignore[operator]
    for vcpu, away in zip(vcpus, state["away"], strict=True):  # type: ignore[arg-type]
        try:
            vcpu.set_tsc_offset(first + away)
        except KvmError:
            vcpu.set_msr(MSR_IA32_TSC, tsc + away)
    now = vcpus[0].get_msr(MSR_IA32_TSC) or 0
    if now < tsc:  # type: ignore[operator]
        raise HostError(
            "this KVM cannot set the TSC, which would go backwards: the snapshot was taken before "
            "this host was started"
        )
