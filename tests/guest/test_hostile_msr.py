"""Guests that write nonsense into MSRs and hypercalls."""

from __future__ import annotations

import guestcode
import pytest
from guestcode import IDENTIFY, REPORT, RESULTS
from libguest import SCALE, run

pytestmark = [
    pytest.mark.kvm,
    pytest.mark.usefixtures("nothing_left", "neighbour", "driver"),
]

ALL = "host,hv_passthrough"
#: on an emulated host, not each of the 4,096 numbers above 0x400001ff that are nobody's
STEP = 1 if SCALE >= 0.2 else 37
UD, GP = 6, 13


# RESET and CRASH_CTL do what they are for; ICR sends NMI, SMI and INIT to whom it likes. They get
# what cannot hurt.
WALK = """
        mov ${seed:#x}, %r15
        mov $0x40000000, %ebp
1:      mov %ebp, %ecx
        rdmsr
        xor %eax, %eax
        xor %edx, %edx
        wrmsr
        cmp $0x40000003, %ecx
        je 2f
        cmp $0x40000071, %ecx
        je 2f
        cmp $0x40000105, %ecx
        je 2f
        mov $1, %eax
        wrmsr
        call random
        mov %rax, %rdx
        shr $32, %rdx
        wrmsr
        call random                             # a page in RAM, where nothing is
        and $0x7ff000, %eax
        add $0x800001, %eax
        xor %edx, %edx
        wrmsr
        rdmsr
        mov $-1, %eax
        mov $-1, %edx
        wrmsr
        xor %eax, %eax
        xor %edx, %edx
        wrmsr
2:      inc %ebp
        cmp $0x40000200, %ebp
        jb 1b
        add ${step} - 1, %ebp
        cmp $0x40001200, %ebp
        jb 1b
"""


@pytest.mark.parametrize(
    ("cpu", "seed"),
    [
        ("host,hv_vendor_id=pyhv", 0x123456789ABCDEF1),
        ("host,hv_time,hv_vpindex,hv_enforce_cpuid", 0x123456789ABCDEF1),
        (None, 0x123456789ABCDEF1),
        (ALL, 0x123456789ABCDEF1),
        (ALL, 0x0F0F1E1E2D2D3C3D),
    ],
)
def test_every_synthetic_msr(cpu: str | None, seed: int) -> None:
    """0x40000000-0x400011ff: 0, 1, all ones, random, a page; the guest gets #GP, or nothing."""
    stop, (faults, vector, *_), _ = run(
        guestcode.kernel(WALK.format(seed=seed, step=STEP) + REPORT), cpu=cpu
    )
    assert stop.status == 3, stop
    assert vector == GP
    assert faults > 0x1100 / STEP  # most of the numbers are nobody's


def test_synthetic_msrs_without_hyperv() -> None:
    """KVM alone, which knows none of them under these numbers."""
    path = guestcode.kernel(WALK.format(seed=99, step=STEP) + REPORT)
    stop, (_, vector, *_), _ = run(path, cpu="host,kvm=off")
    assert stop.status == 3, stop
    assert vector in (GP, 0)  # 0: kvm.ignore_msrs


STORM = """
        mov ${count}, %ebp
1:      mov $0x40001ff0, %ecx                   # ours to refuse, and to note
        rdmsr
        wrmsr
        mov $0x12345, %ecx                      # KVM's
        rdmsr
        dec %ebp
        jnz 1b
"""


def test_unknown_msrs_by_the_million() -> None:
    """Each is a #GP; nothing is logged, nothing grows."""
    count = max(int(330_000 * SCALE**2), 1000)  # three accesses each; a million at 1
    path = guestcode.kernel(STORM.format(count=count) + REPORT)
    stop, (faults, vector, *_), vm = run(path)
    assert stop.status == 3, stop
    assert (faults >= 2 * count, vector) == (True, GP)
    assert not vm.console.data()


CALLS = """
        mov ${seed:#x}, %r15
        mov $0xa00000, %edi                     # 64 KiB of nonsense to point at
        mov $8192, %ecx
1:      call random
        stosq
        loop 1b
        mov ${count}, %ebp
2:      call random
        mov %rax, %r12
        call random
        mov %rax, %rdx
        call random
        mov %rax, %r8
        bt $60, %r12
        jc 3f
        and $0xfff8, %edx                       # an input in RAM, often aligned
        add $0xa00000, %edx
        and $0xffff, %r8d
        add $0xa00000, %r8d
3:      call random
        mov %rax, %rcx
        bt $61, %r12
        jc 4f
        movabs $0x0fff0fff03ff0000, %rax        # no reserved bit
        and %rax, %rcx
4:      mov %r12d, %eax
        and $31, %eax
        movzwl codes(,%rax,2), %eax
        or %rax, %rcx
        call *%rbx
        dec %ebp
        jnz 2b
        mov $0x1ff, %ecx                        # a code nobody has; the interface still answers
        call *%rbx
        mov %rax, {results} + 16
"""
CODES = """
codes:  .word 0, 1, 2, 3, 8, 0xb, 0x13, 0x14, 0x15, 0x16, 0x5c, 0x5d, 0x69, 0x6a, 0x6b, 0x7e
        .word 2, 3, 8, 0xb, 0x13, 0x14, 0x15, 0x5c, 0x5d, 0xaf, 0xb0, 0x8001, 0xffff, 0x1ff, 8, 0x5c
"""


@pytest.mark.parametrize("smp", [1, 2])
@pytest.mark.parametrize("seed", [0x123456789ABCDEF1, 0x0F0F1E1E2D2D3C3D])
def test_hypercalls_with_nonsense(seed: int, smp: int) -> None:
    """All forms of all calls; each gets a status or #UD, and the last one answers."""
    count = max(int(20_000 * SCALE), 500)
    calls = CALLS.format(seed=seed, count=count, results=RESULTS)
    stop, found, _ = run(guestcode.kernel(IDENTIFY + calls + REPORT + CODES), cpu=ALL, smp=smp)
    assert stop.status == 3, stop
    assert found[2] == 2  # HV_STATUS_INVALID_HYPERCALL_CODE
    assert found[1] in (0, UD)  # #UD: XMM registers without the SSE state to read them from


def test_hypercall_from_cpl_3() -> None:
    """#UD, whatever is asked; or #GP, on a KVM where not even IOPL 3 allows the OUT."""
    body = (
        IDENTIFY
        + """
        mov $0x9000, %edi                       # all the loader's tables: let CPL 3 in
        mov $6 * 512, %ecx
2:      testb $1, (%rdi)
        jz 3f
        orb $4, (%rdi)
3:      add $8, %edi
        loop 2b
        mov %cr3, %rax
        mov %rax, %cr3
        mov $0x30, %eax
        ltr %ax
        push $0x2b
        push $0xb00000
        push $0x3002                            # IOPL 3: OUT is allowed
        push $0x23
        push $user
        iretq
user:   mov $0x1ff, %ecx
        mov $0x7777, %eax
        call *%rbx
        mov %rax, 0x80010
        movq $1f, back
        ud2
1:
"""
        + REPORT
    )
    stop, (faults, vector, rax, *_), _ = run(guestcode.kernel(body))
    assert stop.status == 3, stop
    assert (faults, rax) == (1, 0x7777)
    assert vector in (UD, GP)


def test_undefined_opcode_is_at_the_call() -> None:
    """XMM input that CPUID does not show: #UD once, with RIP at the call's own instruction."""
    body = """
        mov $0x30013, %ecx                      # HvCallFlushVirtualAddressSpaceEx, fast
        xor %edx, %edx
        xor %r8d, %r8d
        mov $0x7777, %eax
        call *%rbx
        mov %rax, 0x80010
"""
    cpu = "host,hv_vpindex,hv_tlbflush,hv_enforce_cpuid"
    stop, (faults, vector, rax, *_), _ = run(guestcode.kernel(IDENTIFY + body + REPORT), cpu=cpu)
    assert stop.status == 3, stop
    assert (faults, vector, rax) == (1, UD, 0x7777)


def test_hypercall_in_32_bits() -> None:
    """EDX:EAX is the input value, and gets the status."""
    body = f"""
        wrmsr_of 0x40000000, 1
        wrmsr_of 0x40000001, 0x900001
        mov $0x900000, %esi
        xor %edx, %edx
        mov $0x1ff, %eax
        call *%esi
        mov %eax, {RESULTS}
        mov %edx, {RESULTS + 4}
        exit 1
"""
    stop, found, _ = run(guestcode.flat(body))
    assert stop.status == 3, stop
    assert found[0] == 2


def test_hypercall_in_real_mode() -> None:
    """#UD where our page's OUT is the hypercall; VMCALL the same."""
    body = """
        movw $handler, 6 * 4
        movw $0, 6 * 4 + 2
        mov $0x40000000, %ecx
        mov $1, %eax
        xor %edx, %edx
        wrmsr
        mov $1, %ecx
1:      out %eax, $0xe8
        exit 2
handler: exit 1
"""
    stop, _, vm = run(guestcode.sector(body))
    assert stop.status == (3 if vm.driver_name == "in_user" else 5), stop
