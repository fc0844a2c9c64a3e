"""Which ways of stopping a guest this KVM really has: tried in a VM of a few bytes.

KVM says KVM_CAP_SET_GUEST_DEBUG everywhere, but on an emulated host INT3 and debug registers may
stop nobody (QEMU's TCG checks INT3 against the wrong SVM intercept, and ignores the VMCB's DR7).
"""

from __future__ import annotations

from ..errors import PyhvError
from ..kvm import requests, uapi
from ..kvm.ioctl import KVM_RUN, run_call
from ..kvm.vcpu import Vcpu
from ..kvm.vm import Vm
from ..memory import GuestMemory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..kvm.system import Kvm

CODE, HANDLER, STACK = 0x1000, 0x2000, 0x8000
OUT = bytes((0xE6, 0xF4))  # out 0xf4, al: the guest got past what should have stopped it
NOP, INT3 = b"\x90", b"\xcc"
RUNS = 8  # a run may come back for a signal

ENABLE = uapi.KVM_GUESTDBG_ENABLE
#: name -> code, control, DR0, DR7
WAYS = {
    "software": (INT3 + OUT, ENABLE | uapi.KVM_GUESTDBG_USE_SW_BP, 0, 0),
    "hardware": (NOP + NOP + OUT, ENABLE | uapi.KVM_GUESTDBG_USE_HW_BP, CODE + 1, 1 << 10 | 0b10),
    "step": (NOP + NOP + OUT, ENABLE | uapi.KVM_GUESTDBG_SINGLESTEP, 0, 0),
}


def probe(kvm: Kvm) -> frozenset[str]:
    """Return those of WAYS that stop a guest here; a few milliseconds."""
    memory = GuestMemory(1 << 20)
    vm = vcpu = None
    try:
        memory.write(3 * 4, HANDLER.to_bytes(4, "little"))
        memory.write(1 * 4, HANDLER.to_bytes(4, "little"))
        memory.write(HANDLER, OUT)
        vm = Vm(kvm, memory)
        vcpu = Vcpu(vm, 0)
        return frozenset(name for name, way in WAYS.items() if _stops(vcpu, memory, *way))
    except PyhvError:
        return frozenset()
    finally:
        for part in (vcpu, vm, memory):
            if part is not None:
                part.close()


def _stops(vcpu: Vcpu, memory: GuestMemory, code: bytes, control: int, dr0: int, dr7: int) -> bool:
    memory.write(CODE, code)
    requests.GET_SREGS(vcpu.fd, vcpu.sregs)
    vcpu.sregs.cs.base = vcpu.sregs.cs.selector = 0
    requests.GET_REGS(vcpu.fd, vcpu.regs)
    vcpu.regs.rip, vcpu.regs.rsp, vcpu.regs.rflags = CODE, STACK, 2
    vcpu.store(uapi.KVM_SYNC_X86_REGS | uapi.KVM_SYNC_X86_SREGS)
    request = uapi.GuestDebug(control)
    request.debugreg[0], request.debugreg[7] = dr0, dr7
    requests.SET_GUEST_DEBUG(vcpu.fd, request, "probe")
    run = run_call()
    for _ in range(RUNS):
        try:
            run(vcpu.fd, KVM_RUN)
        except InterruptedError:
            continue
        except OSError:
            return False
        return vcpu.m32[uapi.RUN_EXIT_REASON >> 2] == uapi.KVM_EXIT_DEBUG
    return False
