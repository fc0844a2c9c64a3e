"""Guests that knock at the MSR door and at the hypercall door for a minute, on two vCPUs.

Numbers come from a seed, one that is told when it fails; the host ends the run by a word in the
guest's memory. With PYHV_FUZZ_S=60 (or PYHV_SCALE=1) a run takes 60 s.
"""

from __future__ import annotations

import threading
import time

import guestcode
import pytest
from fuzzing import FIRST_SEED
from guestcode import IDENTIFY, RESULTS, START_SECOND, second_cpu
from libguest import GROWTH_KIB, SCALE, SECONDS, rss_kib

from pyhv import Machine

pytestmark = [pytest.mark.kvm, pytest.mark.usefixtures("nothing_left", "neighbour", "driver")]

DURATION_S, LOOK_S = max(60 * SCALE, 1.5), 0.5
STOP = RESULTS + 64
CPU = "host,hv_passthrough"
CR4_SSE = 0x620  # PAE, OSFXSR, OSXMMEXCPT

#: Each CPU has its own random numbers, stack and counter: RESULTS + 8 * RBP.
BOTH = """
        lidt idtr
{start_second}        mov ${seed:#x}, %r15
        xor %ebp, %ebp
        jmp go
{second_cpu}ap64:   mov $0x18, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %ss
        mov $0x300000, %esp
        lidt idtr
        mov $0x900000, %ebx
        mov ${seed:#x} ^ 0x5555555555555555, %r15
        mov $1, %ebp
go:     incq {results}(,%rbp,8)
        call once
        cmpb $0, {stop}
        je go
        test %ebp, %ebp
        jz 1f
2:      hlt
        jmp 2b
1:      exit 1
"""

#: Any MSR of the range; RESET, CRASH_CTL and ICR do what they are for, so only what cannot hurt.
#: A value is a page in RAM, a flag word, or noise. Interrupts stay off, so any vector will do.
MSRS = """
once:   movq $2, skip                           # RDMSR and WRMSR are two bytes
again:  call random
        mov %eax, %ecx
        and $0x1ff, %ecx
        cmp $0x120, %ecx
        jae again
        add $0x40000000, %ecx
        cmp $0x40000003, %ecx
        je again
        cmp $0x40000071, %ecx
        je again
        cmp $0x40000105, %ecx
        je again
        call random
        mov %rax, %r14
        call random
        bt $1, %r14
        jc 3f
        and $0x7ff001, %eax                     # over what nobody needs
        add $0x800000, %eax
        cmp $0x40000001, %ecx                   # the code stays where it is
        jne 4f
        mov $0x900001, %eax
4:      xor %edx, %edx
        jmp 5f
3:      mov %rax, %rdx
        shr $32, %rdx
        bt $2, %r14
        jnc 5f
        cmp $0x40000090, %ecx
        jb 5f
        and $0xfffff, %eax                      # SINT, timer: vectors and flags
        xor %edx, %edx
5:      bt $3, %r14
        jc 6f
        wrmsr
        ret
6:      rdmsr
        ret
"""

#: All calls in all forms, with input of noise, of small numbers, at the ends of pages and of RAM.
HYPERCALLS = """
once:   call random
        mov %rax, %r14
        mov %r14d, %edi                         # some of the input changes each time
        and $0xfff8, %edi
        call random
        mov %rax, 0xa00000(%rdi)
        and $0xff, %eax
        mov %rax, 0xa00010(%rdi)
        call random
        mov %rax, %rdx
        call random
        mov %rax, %r8
        bt $20, %r14
        jc 1f
        and $0xffff, %edx
        and $0xffff, %r8d
        add $0xa00000, %edx
        add $0xa00000, %r8d
        bt $21, %r14
        jc 1f
        and $-8, %edx
1:      call random
        bt $22, %r14
        jc 2f
        movabs $0x0fff0fff03ff0000, %rcx        # no reserved bit
        and %rcx, %rax
        bt $23, %r14
        jc 2f
        movabs $0x0001000f00030000, %rcx        # short lists, mostly from the start
        and %rcx, %rax
2:      mov %rax, %rcx
        and $~0xffff, %rcx
        mov %r14d, %eax
        shr $24, %eax
        and $15, %eax
        movzwl codes(,%rax,2), %eax
        or %rax, %rcx
        jmp *%rbx
codes:  .word 2, 3, 8, 0xb, 0x13, 0x14, 0x15, 0x5c, 0x5d, 0x69, 0x6a, 0x6b, 0x8001, 0x46, 2, 3
"""


@pytest.mark.fuzz("MSRs", "hypercalls", share=2)
@pytest.mark.parametrize("seed", [0x9E3779B97F4A7C15 + FIRST_SEED])
@pytest.mark.parametrize("door", [MSRS, HYPERCALLS], ids=["MSRs", "hypercalls"])
def test_a_minute_at_the_door(door: str, seed: int, driver: str, fuzz) -> None:
    """Both CPUs come back to their loops all the time, nothing grows, the guest ends by itself."""
    both = BOTH.format(
        seed=seed, results=RESULTS, stop=STOP,
        start_second=START_SECOND, second_cpu=second_cpu(CR4_SSE),
    )  # fmt: skip
    path = guestcode.kernel(IDENTIFY + both + door)
    with Machine(kernel=path, cpu=CPU, memory="16M", smp=2, hyperv=driver) as vm:
        threads = threading.active_count() + 1 + 2 * 6  # the loop; vCPUs with their timers
        vm.start()
        start, before, seen = time.monotonic(), 0, [0, 0]
        for _ in fuzz.rounds(int(DURATION_S / LOOK_S)):
            time.sleep(LOOK_S)
            assert vm.board is not None, vm.wait(0)
            rounds = [vm.memory.read_u64(RESULTS + 8 * i) for i in range(2)]
            if not before and min(rounds) > 500:
                before = rss_kib()  # the guest's pages are touched, the tables made
            seen = rounds
        passed = time.monotonic() - start
        vm.memory.write(STOP, b"\1")
        stop = vm.wait(SECONDS)
        assert stop.status == 3, (hex(seed), stop, stop.details)
        assert min(seen) > 50 * passed
        assert threading.active_count() <= threads
        assert not before or rss_kib() - before < GROWTH_KIB + (16 << 10)
