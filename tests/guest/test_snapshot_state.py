"""What a snapshot has of a machine comes back: registers, clocks, timers, messages, each part."""

from __future__ import annotations

import contextlib
import pathlib
import struct
import time

import pytest
from guestcode import RESULTS
from libguest import SECONDS
from test_pause import CLOCKS, HZ, TICKS
from test_snapshot import running, until, word

from pyhv.boardstate import PARTS
from pyhv.snapshot import Snapshot

pytestmark = [pytest.mark.kvm, pytest.mark.usefixtures("nothing_left")]


#: One CPU's state that a compiler never sees: x87, SSE, debug registers, bases, MTRR, PAT, GS swap.
#: It is set, then the guest waits for RESULTS + 8 and compares. FPU and SSE go in and out by
#: FXRSTOR and FXSAVE: a KVM that emulates CPL 0 knows no more of them.
STATE = f"""
        mov %cr4, %rax
        or $0x600, %eax                         # OSFXSR, OSXMMEXCPT: else no SSE in FXSAVE
        mov %rax, %cr4
        fxrstor64 area
        mov $0x123450, %eax
        mov %rax, %db0
        mov %rax, %db3
        mov $0x00000400, %eax
        mov %rax, %db7
        wrmsr_of 0xc0000100, 0x55555000         # FS base
        wrmsr_of 0xc0000102, 0x66666000         # kernel GS base
        wrmsr_of 0x277, 0x00070406, 0x00070406  # PAT
        wrmsr_of 0x200, 0x80000006              # variable MTRR 0
        wrmsr_of 0x174, 0x1234                  # SYSENTER_CS
        movq $1, {RESULTS}
1:      cmpq $0, {RESULTS + 8}
        je 1b
        .macro same value
        inc %ebx
        cmp \\value, %rax
        jne wrong
        .endm
        .macro msr_is number, low, high=0
        mov $\\number, %ecx
        rdmsr
        shl $32, %rdx
        or %rdx, %rax
        mov $\\high << 32 | \\low, %rdx
        same %rdx
        .endm
        xor %ebx, %ebx
        fxsave64 {RESULTS + 0x200}
        mov %db0, %rax
        same $0x123450
        mov %db3, %rax
        same $0x123450
        msr_is 0xc0000100, 0x55555000
        msr_is 0xc0000102, 0x66666000
        msr_is 0x277, 0x00070406, 0x00070406
        msr_is 0x200, 0x80000006
        msr_is 0x174, 0x1234
        exit 9
wrong:  mov %rbx, {RESULTS + 24}                # the number of the comparison, from 1 on
        mov %rax, {RESULTS + 32}
        exit 8
        .balign 16
area:   .word 0x37f, 0x3800                     # control word; status word: the stack's top is 7
        .byte 0x80, 0
        .word 0
        .quad 0, 0
        .long 0x1f80, 0xffff                    # MXCSR
        .set n, 1
        .rept 8                                 # st0 to st7: 80 of 128 bits
        .quad 0x8000000000000000 + n
        .quad 0x3fff
        .set n, n + 1
        .endr
        .rept 32                                # xmm0 to xmm15
        .quad 0x1122334455667700 + n
        .set n, n + 1
        .endr
        .skip 96
"""
AREA = struct.pack("<16Q", *(word for n in range(1, 9) for word in (1 << 63 | n, 0x3FFF)))
AREA += struct.pack("<32Q", *(0x1122334455667700 + n for n in range(9, 41)))


def test_what_no_compiler_sees(driver: str, tmp_path: pathlib.Path) -> None:
    """FPU, SSE, debug registers and MSRs of a clone, from memory and from a file."""
    path = tmp_path / "guest.snap"
    with running(STATE, driver) as vm, vm.snapshot() as snap:
        snap.save(path)
        with Snapshot.load(path) as loaded:
            for one in (snap, loaded):
                with one.clone() as clone:
                    clone.start()
                    clone.memory.write_u64(RESULTS + 8, 1)
                    stop = clone.wait(SECONDS)
                    assert stop.status == 19, (word(clone, 3), hex(word(clone, 4)))
                    assert clone.memory[RESULTS + 0x220 : RESULTS + 0x3A0] == AREA
        vm.memory.write_u64(RESULTS + 8, 1)
        assert vm.wait(SECONDS).status == 19


@pytest.mark.parametrize("into", ["the same", "a clone", "a file"])
def test_clocks_do_not_go_back(driver: str, into: str, tmp_path: pathlib.Path) -> None:
    """Counter and TSC page go on without a jump; the page's sequence is another."""
    with contextlib.ExitStack() as stack:
        vm = stack.enter_context(running(CLOCKS, driver))
        until(vm, lambda vm: word(vm, 3), "no valid TSC page")
        vm.pause()
        snap = stack.enter_context(vm.snapshot())
        clocks, sequence = [word(vm, 2), word(vm, 3)], word(vm, 6)
        vm.resume()
        time.sleep(0.5)
        if into == "the same":
            vm.restore(snap)
        else:
            if into == "a file":
                snap.save(tmp_path / "x")
                snap = stack.enter_context(Snapshot.load(tmp_path / "x"))
            vm = stack.enter_context(snap.clone())
            vm.start()
        begin = time.monotonic()
        until(vm, lambda vm: word(vm, 6) > sequence, "the TSC page stays invalid")
        until(vm, lambda vm: word(vm, 3) > clocks[1] + HZ // 10, "the page's clock stands")
        vm.pause()
        ran = time.monotonic() - begin
        assert word(vm, 4) == 0, "a clock went back"
        assert min(word(vm, 2) - clocks[0], word(vm, 3) - clocks[1]) > 0
        assert max(word(vm, 2), word(vm, 3)) < max(clocks) + (ran + 2) * HZ, "a jump"


def test_timers_tick_on(driver: str) -> None:
    """A periodic timer goes on from where it was; no tick is lost or made up."""
    with running(TICKS, driver) as vm:
        until(vm, lambda vm: word(vm) >= 5, "no tick")
        with vm.snapshot() as snap:
            for _ in range(3):
                vm.pause()
                vm.restore(snap)
                ticks, reference = word(vm), vm.hyperv.reference_ticks
                begin = time.monotonic()
                vm.resume()
                until(vm, lambda vm: word(vm) >= ticks + 20, "no tick any more")  # noqa: B023
                vm.pause()
                ran = vm.hyperv.reference_ticks - reference
                assert ran < (time.monotonic() - begin + 1) * HZ
                assert word(vm) - ticks <= ran * 100 / HZ + 2, "ticks that were never due"


#: Two one-shot timers to one SIM slot: the second message waits until the guest emptied the slot,
#: which it does when RESULTS + 8 says so. Then the timer's index is at RESULTS + 16.
SLOT = f"""
        wrmsr_of 0x40000000, 1
        wrmsr_of 0x40000083, 0xa00001           # SIMP
        wrmsr_of 0x40000092, 0x50               # SINT2
        wrmsr_of 0x40000080, 1
        mov $0xfee000f0, %eax
        movl $0x1ff, (%rax)
        wrmsr_of 0x400000b1, 1
        wrmsr_of 0x400000b0, 0x20001            # timer 0: SINT2, one-shot, in the past
        wrmsr_of 0x400000b3, 1
        wrmsr_of 0x400000b2, 0x20001            # timer 1
1:      testb $1, 0xa00205                      # the message pending flag of slot 2
        jz 1b
        movq $1, {RESULTS}
2:      cmpq $0, {RESULTS + 8}
        je 2b
        sti
        movq $0, interrupts
        movl $0, 0xa00200
        mfence
        wrmsr_of 0x40000084, 0                  # EOM
3:      cmpl $0, 0xa00200
        je 3b
        mov 0xa00210, %eax                      # the timer's index
        mov %rax, {RESULTS + 16}
4:      cmpq $0, interrupts
        je 4b
        exit 9
"""


def test_a_message_that_waits_is_delivered(driver: str) -> None:
    with running(SLOT, driver) as vm, vm.snapshot() as snap:
        vm.kill()
        for _ in range(2):
            with snap.clone() as clone:
                clone.start()
                time.sleep(0.1)
                assert word(clone, 2) == 0
                clone.memory.write_u64(RESULTS + 8, 1)
                assert clone.wait(SECONDS).status == 19
                assert word(clone, 2) == 1


KVMS = (0x4B564D, 0x400000)  # MSRs that a clock is in


@pytest.mark.parametrize("part", [part.name for part in PARTS])
def test_each_part_comes_back(part: str, driver: str) -> None:
    """What a clone says of itself before it runs is what the snapshot has."""
    with running(SLOT, driver, smp=2) as vm, vm.snapshot() as snap, snap.clone() as clone:
        with clone.snapshot() as again:
            was, found = snap.state["board"][part], again.state["board"][part]
        if part == "vcpus":
            for one in (*was, *found):
                one.pop("lapic")  # the APIC timer's count and KVM's own MSRs run
                one["msrs"] = [row for row in one["msrs"] if row[0] >> 8 not in KVMS]
        if part == "chips":
            for one in (was, found):
                one["pit"] = [one["pit"][at : at + 16] for at in (0, 24, 48)]
        if part == "pm":
            assert 0 <= found.pop("ns") - was.pop("ns") < 10**9
            assert (was.pop("gpe_status"), found.pop("gpe_status")) == (0, 1)
        if part == "driver":
            for one in (was, found):
                one.pop("runtimes", None)
        assert found == was
