"""Guests that flood the SynIC: timers at random, resets while they fire, VMBus messages."""

from __future__ import annotations

import guestcode
import pytest
from guestcode import IDENTIFY, REPORT, RESULTS
from libguest import SCALE, SECONDS, run

from pyhv import Machine

pytestmark = [
    pytest.mark.kvm,
    pytest.mark.usefixtures("nothing_left", "neighbour", "driver"),
]

TIMERS = """
        mov $0xfee00000, %ebx
        movl $0x1ff, 0xf0(%rbx)
        mov ${seed:#x}, %r15
        wrmsr_of 0x40000080, 1                  # SCONTROL, SIEFP, SIMP
        wrmsr_of 0x40000082, 0xa00001
        wrmsr_of 0x40000083, 0xa01001
        mov $0x40000090, %ecx                   # 16 SINTs, vectors 0x40 and on
        mov $0x40, %eax
        xor %edx, %edx
1:      wrmsr
        xor $0x20000, %eax                      # every second one with AutoEOI
        inc %eax
        inc %ecx
        cmp $0x400000a0, %ecx
        jb 1b
        mov ${count}, %ebp
        sti
2:      call random
        mov %eax, %ecx
        shr $8, %eax
        and $7, %ecx
        add $0x400000b0, %ecx
        test $1, %ecx
        jnz 3f
        and $0xf100f, %eax                      # CONFIG: any mode, vector 0x80 or 0x90
        or $0x800, %eax
        mov $0, %edx
        jmp 4f
3:      mov %eax, %edx                          # COUNT: some 100 us, or a time gone or to come
        and $0xfff, %eax
        bt $20, %edx
        mov $0, %edx
        jnc 4f
        call random
        mov %eax, %edx
        and $0xff, %edx
4:      wrmsr
        wrmsr_of 0x40000084, 0                  # EOM
        dec %ebp
        jnz 2b
        mov interrupts, %rax
        mov %rax, {results} + 16
"""


@pytest.mark.parametrize("smp", [1, 2])
def test_timers_in_a_storm(smp: int) -> None:
    """Enabled, moved, stopped at random, periods of nothing; interrupts come meanwhile."""
    count = max(int(20_000 * SCALE), 1000)
    timers = TIMERS.format(seed=0x51EDBEEF, count=count, results=RESULTS)
    stop, found, _ = run(guestcode.kernel(timers + "cli\n" + REPORT), smp=smp)
    assert stop.status == 3, stop
    assert found[2] > 0


def test_resets_while_timers_fire(same_descriptors: None) -> None:
    """Each life ends in the middle of it; a timer of the last one never disturbs the next."""
    timers = TIMERS.format(seed=0xABCDEF1234567, count=100, results=RESULTS)
    body = "incl 0x600\n cmpl $15, 0x600\n jb 5f\n exit 1\n5:\n" + timers + "outb 0x64, 0xfe"
    stop, *_ = run(guestcode.kernel(body))
    assert stop.status == 3, stop


SPAM = """
        mov ${seed:#x}, %r15
        wrmsr_of 0x40000080, 1
        wrmsr_of 0x40000082, 0xa00001
        wrmsr_of 0x40000083, 0xa01001
        wrmsr_of 0x40000092, 0x10050            # SINT2, masked: nobody listens
        mov ${count}, %ebp
1:      mov $0xb00000, %edi
        mov $32, %ecx
2:      call random
        bt $3, %rax
        jc 3f
        and $15, %eax                           # small numbers are more often taken for good
3:      stosq
        loop 2b
        mov $0xb00000, %edi
        call random
        and $7, %eax
        movl $1, (%rdi)                         # the connection, 1 to 4
        test $1, %eax
        jz 4f
        movl $4, (%rdi)
4:      movl $0, 4(%rdi)
        movl $1, 8(%rdi)                        # HVMSG_VMBUS
        call random
        and $127, %eax
        add $8, %eax
        mov %eax, 12(%rdi)                      # its size
        call random
        and $31, %eax
        mov %rax, 16(%rdi)                      # the message's type
        cmp $14, %eax
        jne 5f
        movl $0x40000, 24(%rdi)                 # INITIATE_CONTACT: one that succeeds
        movl $0, 28(%rdi)
        movl $40, 12(%rdi)
5:      mov $0x5c, %ecx                         # HvCallPostMessage
        mov %rdi, %rdx
        xor %r8d, %r8d
        call *%rbx
        incq {results} + 16
        test %eax, %eax
        jz 6f
        incq {results} + 24
6:      dec %ebp
        jnz 1b
"""


def test_vmbus_messages_at_random(same_descriptors: None, driver: str) -> None:
    """A flood of messages that mean little or nothing: refused, or noted; the guest goes on."""
    count = max(int(20_000 * SCALE), 1000)
    spam = SPAM.format(seed=0x5EED5EED5EED, count=count, results=RESULTS)
    with Machine(
        kernel=guestcode.kernel(IDENTIFY + spam + REPORT), memory="16M", hyperv=driver
    ) as vm:
        server = vm.board.vmbus
        vm.start()
        stop = vm.wait(10 * SECONDS)
        assert stop.status == 3, stop
        assert vm.memory.read_u64(RESULTS + 16) == count
    assert server.violation_count > 0
    assert len(server.violations) <= 64
